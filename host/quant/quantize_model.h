#pragma once

#include "host/model/model.h"
#include "host/quant/initialize.h"

#include <functional>

namespace pvtune {

/// What a quantisation will take and give, from the headers of a model's file alone.
struct QuantizePlan {
    std::int64_t matrices = 0;
    std::int64_t weights = 0;        ///< of the matrices
    std::int64_t bits = 0;           ///< of the matrices, quantised
    std::int64_t largest = 0;        ///< weights of the largest matrix
    std::int64_t largest_dense = 0;  ///< elements of the largest tensor that stays as it is
    std::int64_t bytes_read = 0;
    std::int64_t bytes_written = 0;
    std::int64_t bytes_of_blocks = 0;  ///< of those written
};

/// Throws Error where the spec does not fit the model (columns that the group does not divide) or a matrix is quantised
/// already.
QuantizePlan plan_quantize(const Backend& backend, const StoreReader& model, const QuantizationSpec& spec);

struct QuantizeResult {
    QuantizationReport total;  ///< of all matrices
    std::int64_t bits = 0;
    std::string content_hash;
};

struct QuantizedMatrix {
    std::string name;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::int64_t bits = 0;
    QuantizationReport report;
};

/// Copies a dense tensor as it is; checks shape and values.
void copy_tensor(const StoreReader& model, StoreWriter& store, const TensorSpec& spec);
/// What a quantised file says of its making. calibration: of what text and how, empty without.
std::string quantization_json(const QuantizationSpec& spec, std::uint64_t seed, const std::string& calibration);

/// Quantises every matrix of every block without calibration, each in a backend of its own from make_backend(), so that
/// memory stays that of one matrix; all other tensors are copied as they are. progress after each matrix; it may throw
/// to stop.
QuantizeResult quantize_model(const StoreReader& model, const QuantizationSpec& spec, const std::string& out,
                              const std::string& command, std::uint64_t seed,
                              const std::function<std::unique_ptr<Backend>()>& make_backend,
                              const std::function<void(const QuantizedMatrix&)>& progress);

}  // namespace pvtune
