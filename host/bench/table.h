#pragma once

#include "host/bench/result.h"

namespace pvtune {

/// The run for a terminal, a table for each shape; with an earlier run also each entry's ratio to it.
std::string table_text(const BenchRun& run, const EarlierRun* earlier);

}  // namespace pvtune
