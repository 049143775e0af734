#pragma once

#include "host/model/model.h"

#include <string>

namespace pvtune {

/// Whether every element of an f32 or bf16 tensor is finite (the squares of all finite values add up to one in f64).
bool all_finite(Backend& backend, Tensor tensor);

/// The Hugging Face name of a parameter of the model that holds a NaN or an infinity; "" where there is none. Of a
/// quantised matrix the codebooks and scales are looked at, with their names behind the matrix's. Fetches streamed
/// blocks one after another.
std::string find_not_finite(Backend& backend, Model& model);

}  // namespace pvtune
