#pragma once

#include "host/tune/settings.h"

#include <cstdint>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace pvtune {

/// What `pvtune tune` is told.
struct TuneOptions {
    std::string model, teacher, tokens, out;
    std::string strategy = "pv-ste", subspace = "topk", schedule = "constant", activations = "auto", offload = "none",
                order = "shuffled", bos = "auto", lamb = "on", train_dense = "on", code_moment = "weight",
                code_buffer = "f32";
    bool resume = false, keep_checkpoint = false;
    std::int64_t checkpoint_every = 100;
    TuneSettings settings;

    std::string checkpoint() const { return out + ".checkpoint"; }
    bool offloads(const char* what) const { return offload == what || offload == "all"; }
};

/// The flags of `pvtune tune`, with their help.
void add_tune_flags(CLI::App& command, TuneOptions& options);

/// A line for each flag that was given and that the strategy does not read.
std::vector<std::string> flags_without_effect(const CLI::App& command, const TuneSettings& settings);

}  // namespace pvtune
