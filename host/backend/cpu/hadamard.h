#pragma once

#include <cstdint>

namespace pvtune::cpu {

/// The transform of host/backend/hadamard.h of every row of values [rows, columns], in place.
void transform_rows(float* values, std::int64_t rows, std::int64_t columns);
/// Likewise of every column.
void transform_columns(float* values, std::int64_t rows, std::int64_t columns);

}  // namespace pvtune::cpu
