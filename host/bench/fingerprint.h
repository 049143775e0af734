#pragma once

#include "host/bench/registry.h"

#include <string>

namespace pvtune {

/// Runs the entry once on its operands, the same in every run, in memory that is zero otherwise, and hashes all that
/// lies there afterwards: 32 hexadecimal digits (XXH3) that stay while the operation computes the same bits. operands
/// must be reset and have room for the entry.
std::string fingerprint(Backend& backend, const BenchEntry& entry, Operands& operands);

}  // namespace pvtune
