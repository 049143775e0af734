#pragma once

#include "host/quant/initialize.h"

namespace pvtune {

/// Scalar codes on the host, values as they will be stored (16 bits).
struct EncodedScalar {
    std::vector<std::uint8_t> codes;  ///< [rows, columns]
    std::vector<float> scales;        ///< [rows, grids a row]
    std::vector<float> zeros;         ///< likewise
};

/// Encodes weight [rows, columns] on grids of its groups. Without a hessian every weight takes its nearest value. With
/// one (f32 [columns, columns], symmetric, not damped) GPTQ (Frantar et al. 2022) makes tr((W - What) H (W - What)^T)
/// small: columns are rounded by falling diagonal of H, each after what the errors of those before it ask for; grids
/// are fitted beforehand to the columns that they have in the matrix. A Hessian that cannot be used (damping.h) leaves
/// its diagonal to the grids. The backend does the work that grows with columns squared. Throws Error that names `name`
/// for weights that are not finite or too large for 16-bit scales. Same bits for any number of threads.
EncodedScalar encode_scalar(Backend& backend, const std::string& name, std::span<const float> weight, std::int64_t rows,
                            std::int64_t columns, const QuantizationSpec& spec, std::span<const float> hessian,
                            QuantizationReport* report = nullptr);

/// encode_scalar, then the result in the arena of the backend.
std::unique_ptr<Representation> quantize_scalar(Backend& backend, const std::string& name,
                                                std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                                                const QuantizationSpec& spec, std::span<const float> hessian,
                                                QuantizationReport* report = nullptr);

}  // namespace pvtune
