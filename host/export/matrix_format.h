#pragma once

#include "host/model/model.h"
#include "io/safetensors_writer.h"

#include <cstddef>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace pvtune {

using Bytes = std::vector<std::byte>;

/// What a conversion that is not exact did to the weights: |W' - W|^2 and |W|^2 over all matrices.
struct RoundingError {
    double squared_error = 0;
    double squared_norm = 0;

    double relative_mse() const { return squared_norm > 0 ? squared_error / squared_norm : 0; }
};

/// How a quantised matrix is written in a format that keeps it quantised. One object sees all matrices of a model.
class MatrixFormat {
public:
    virtual ~MatrixFormat() = default;

    /// The tensors that the matrix becomes, from the model's headers alone. Throws Error with the remedy where the
    /// format does not hold the matrix, or not beside those before it.
    virtual std::vector<SafetensorsEntry> parts(const StoreReader& model, const TensorSpec& spec) = 0;
    /// Their data, in that order. matrix lies in memory of the CPU.
    virtual std::vector<Bytes> convert(const std::vector<SafetensorsEntry>& parts, const Representation& matrix,
                                       RoundingError& error) const = 0;
    /// "quantization_config" of config.json; dense: names of block matrices that are not quantised.
    virtual nlohmann::ordered_json config(const std::vector<std::string>& dense) const = 0;
};

/// The layout of the aqlm package: codes, codebooks and scales as they are.
std::unique_ptr<MatrixFormat> make_aqlm_format();
/// GPTQ checkpoints: codes and integer zeros packed into words of 32 bits. round_zeros: zeros that are no integers are
/// rounded, else an Error.
std::unique_ptr<MatrixFormat> make_gptq_format(bool round_zeros);
/// Blocks of 32 weights of GGUF with a scale and an offset: Q4_1, Q5_1.
std::unique_ptr<MatrixFormat> make_gguf_format();

/// "model.layers.0.mlp.up_proj.weight" -> "model.layers.0.mlp.up_proj"
std::string module_of(const std::string& tensor);

template <class T>
Bytes to_bytes(const std::vector<T>& values) {
    const auto* data = reinterpret_cast<const std::byte*>(values.data());
    return Bytes(data, data + values.size() * sizeof(T));
}

}  // namespace pvtune
