#pragma once

#include "host/export/matrix_format.h"
#include "host/model/source.h"

#include <functional>
#include <optional>

namespace pvtune {

struct ExportJob {
    const StoreReader* model = nullptr;
    std::string format;          ///< "hf-aqlm", "hf-gptq", "hf-dense", "gguf"
    std::string out;             ///< a folder; gguf: a file
    std::string tokenizer_from;  ///< a Hugging Face folder; may be empty but for gguf
    DType dense = DType::bf16;   ///< of what is not quantised in the export
    bool dequantize = false;     ///< gguf: scalar matrices too
    bool round_zeros = false;    ///< hf-gptq
};

/// What an export will write, from the model's headers alone.
struct ExportPlan {
    struct Tensor {
        SourceTensor source;
        bool quantized = false;               ///< in the model
        std::vector<SafetensorsEntry> parts;  ///< what it becomes
        bool kept = false;                    ///< quantised in the export too
    };
    std::vector<Tensor> tensors;
    std::unique_ptr<MatrixFormat> matrices;  ///< null where the format is dense
    std::int64_t weights = 0;                ///< of all tensors
    std::int64_t bytes_read = 0;
    std::int64_t bytes_written = 0;
    /// Bits of what is written as quantisation counts them: Representation::bits() where a matrix stays quantised.
    std::int64_t accounted_bits = 0;
    std::int64_t largest = 0;  ///< elements of the largest tensor

    /// Block matrices that are not quantised in the export.
    std::vector<std::string> dense_matrices() const;
};

/// Throws Error, with the remedy, where the format does not hold the model or something is at `out` already.
ExportPlan plan_export(const ExportJob& job);

struct ExportResult {
    std::int64_t bytes = 0;  ///< of the files with weights
    RoundingError rounding;  ///< of matrices that stay quantised
};

/// Writes everything under a temporary name and renames it. Each quantised matrix gets a backend of its own (of the
/// CPU) from make_backend(), so that memory stays that of one. progress(name) after each tensor; it may throw to stop.
ExportResult export_model(const ExportJob& job, const ExportPlan& plan,
                          const std::function<std::unique_ptr<Backend>()>& make_backend,
                          const std::function<void(const std::string&)>& progress);

/// Data of the parts of a tensor, in order.
std::vector<Bytes> convert_tensor(const ExportJob& job, const ExportPlan& plan, const ExportPlan::Tensor& tensor,
                                  const std::function<std::unique_ptr<Backend>()>& make_backend, RoundingError& error);

// The two kinds of container.
ExportResult write_hf_folder(const ExportJob& job, const ExportPlan& plan,
                             const std::function<std::unique_ptr<Backend>()>& make_backend,
                             const std::function<void(const std::string&)>& progress);
ExportResult write_gguf(const ExportJob& job, const ExportPlan& plan,
                        const std::function<std::unique_ptr<Backend>()>& make_backend,
                        const std::function<void(const std::string&)>& progress);

/// Files of a tokenizer in a Hugging Face folder. Throws Error where there is no tokenizer in it.
std::vector<std::string> tokenizer_files(const std::string& folder);

}  // namespace pvtune
