#pragma once

#include "host/calibrate/tune_block.h"
#include "host/quant/calibrated_additive.h"
#include "host/quant/quantize_model.h"

#include <functional>
#include <span>

namespace pvtune {

/// Layer-by-layer quantisation (docs/calibration.md).
struct CalibrateSettings {
    std::int64_t sequences = 64;
    std::int64_t length = 1024;  ///< tokens a sequence
    DType precision = DType::f32;
    bool dense_targets = true;  ///< tune blocks towards the outputs of the unquantised model, not of the unquantised
                                ///< block on the quantised model's inputs
    CalibratedSettings additive;
    BlockTuneSettings block;
    std::int64_t activation_memory = std::int64_t{4} << 30;  ///< bytes; above it hidden states live in a file

    std::int64_t sequences_together() const;
};

/// What was done to a block.
struct CalibratedBlock {
    std::int64_t index = 0;
    std::vector<QuantizedMatrix> matrices;
    BlockTuneReport tuning;
    double hessian_seconds = 0, quantize_seconds = 0, tune_seconds = 0, forward_seconds = 0;
    bool resumed = false;  ///< finished by an earlier run
};

/// Where the finished blocks of a calibration lie until all are.
inline std::string calibration_folder(const std::string& out) { return out + ".calibration"; }

/// Everything a calibration reads, and where it writes.
struct CalibrateJob {
    const StoreReader* model = nullptr;
    QuantizationSpec spec;
    CalibrateSettings settings;
    std::span<const std::uint32_t> tokens;  ///< at least sequences * length
    std::string source;                     ///< what a resumed run must agree in
    std::string out;
    std::string command;
    std::uint64_t seed = 0;
    bool resume = false;

    std::string folder() const { return calibration_folder(out); }
};

/// Whether an earlier run left blocks there.
bool has_finished_blocks(const CalibrateJob& job);

/// Block after block: Hessians of the inputs that the blocks before leave, every matrix quantised under its own, the
/// block's continuous parameters tuned, the result written to a file in job.folder(). A run that was killed goes on
/// behind the last finished block and gives the same bits. progress after each block; it may throw to stop.
QuantizeResult calibrate_model(Backend& backend, const CalibrateJob& job,
                               const std::function<void(const CalibratedBlock&)>& progress);

/// Allocates what calibrate_model() will, for a plan.
void plan_calibration(Backend& planning, const ModelConfig& config, const QuantizationSpec& spec,
                      const CalibrateSettings& settings);

}  // namespace pvtune
