#pragma once

#include "host/model/source.h"
#include "host/quant/representation.h"
#include "io/safetensors.h"

#include <array>
#include <optional>
#include <string>

namespace pvtune {

/// Takes "quantization_config" out of a config.json where it describes an AQLM checkpoint in the layout of the aqlm
/// package, so that the rest is a config like any other. Throws Error, naming the key, for a layout that additive
/// codebooks here do not have.
std::optional<QuantizationSpec> take_aqlm_layout(std::string& config_json, const std::string& source);

/// Names of the tensors that stand for a matrix: codes, codebooks, scales.
std::array<std::string, 3> aqlm_parts(const std::string& matrix);

/// Checks their shapes and types; gives the bytes that they take in a weights store.
std::int64_t check_aqlm_matrix(const SafetensorsFolder& folder, const SourceTensor& source,
                               const QuantizationSpec& layout);

/// Writes the matrix with the values that it has: codebooks and scales in f16, or in f32 where they are no f16.
/// Matrices that are one in the folder get their rows of codes and scales, and each all of the codebooks.
void import_aqlm_matrix(const SafetensorsFolder& folder, const SourceTensor& source, const QuantizationSpec& layout,
                        StoreWriter& store);

}  // namespace pvtune
