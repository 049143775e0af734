#pragma once

#include <cstdint>
#include <string>

namespace pvtune {

enum class Strategy {
    calibration_only,     ///< nothing moves: the loss alone
    continuous,           ///< the P step alone: codes stay
    naive_linearized,     ///< linearised V step of every group, from the quantised weights each step
    stochastic_rounding,  ///< as naive, the second-nearest code by chance
    ste,                  ///< every group from a straight-through buffer that moves every step
    pv,                   ///< linearised V step in a subspace, from the quantised weights each step
    pv_ste                ///< linearised V step in a subspace, from the straight-through buffer
};

/// How `pv` and `pv_ste` choose the groups of a V step.
enum class Subspace {
    topk,          ///< the largest scores of each matrix
    sample,        ///< by chance, more likely with a larger score
    random,        ///< by chance, all alike
    block,         ///< blocks of groups in turn
    layer_budget,  ///< the largest scores of each matrix, as many as it had among the model's in the last V step
    eager          ///< by the single change of code that pays first (pv alone)
};

/// What a second moment of the V step stands for.
enum class CodeMoment { weight, group };

enum class Schedule { constant, linear, cosine };

/// Everything that a tuning run can be told; the defaults are the published ones (PV-Tuning, Malinovskii et al. 2024).
struct TuneSettings {
    Strategy strategy = Strategy::pv_ste;
    std::int64_t steps = 100;
    std::int64_t batch = 128;      ///< sequences a step
    std::int64_t micro_batch = 0;  ///< sequences that go through the model together; 0: as many as about 4096 tokens
    std::int64_t length = 1024;    ///< tokens a sequence
    std::uint64_t seed = 0;
    bool shuffle = true;  ///< a new order of the windows every epoch; else as they stand in the file

    float rate = 3e-4F;  ///< P step
    float beta1 = 0.90F;
    float beta2 = 0.95F;
    bool train_dense = true;  ///< norms, biases, embedding and head as well

    float code_rate = 1e-2F;     ///< V step: of the straight-through buffer
    float subspace_rate = 0.3F;  ///< V step of `pv`: of the groups in the chosen subspace
    Subspace subspace = Subspace::topk;
    float subspace_temperature = 1;  ///< of `sample`: probability by score^(1/T)
    float rounding_temperature = 1;  ///< of stochastic rounding; 1: unbiased between two scalars
    std::int64_t candidates = 1;     ///< groups searched for each that may change: those that gain most stay
    bool force_codes = false;        ///< of `pv`: the chosen groups take their best different code
    std::int64_t v_every = 1;        ///< steps a V step, on the mean of their gradients
    bool measure_v = false;          ///< the loss that V steps really save, and codes that return
    float code_beta2 = 0.95F;
    CodeMoment code_moment = CodeMoment::weight;
    bool narrow_buffer = false;  ///< straight-through buffers in bf16, rounded by chance, instead of f32
    double tau = 1e-2;           ///< share of a matrix's groups that one V step may re-assign
    double trust_ratio = 0;      ///< bound on |What_new - What_old| / |What_old| a V step and matrix; 0: none
    int beam = 0;                ///< 0: 5 with several codebooks, 1 with one
    bool lamb = true;            ///< updates scaled by |p| / |update|

    Schedule schedule = Schedule::constant;
    std::int64_t warmup = 0;  ///< steps
    double final_rate = 0;    ///< what is left of the rates at the last step of a linear or cosine schedule

    std::int64_t sequences_together() const;
    bool moves_codes() const { return strategy > Strategy::continuous; }
    bool straight_through() const { return strategy == Strategy::ste || strategy == Strategy::pv_ste; }
    bool has_subspace() const { return strategy == Strategy::pv || strategy == Strategy::pv_ste; }
};

/// Throws Error, naming the flag, for settings that do not go together.
void check_settings(const TuneSettings& settings);

/// Factor on all rates at a step (0-based).
double rate_factor(const TuneSettings& settings, std::int64_t step);

Strategy parse_strategy(const std::string& name);
std::string name_of(Strategy strategy);
Subspace parse_subspace(const std::string& name);
std::string name_of(Subspace subspace);
CodeMoment parse_code_moment(const std::string& name);
Schedule parse_schedule(const std::string& name);

/// What a checkpoint keeps of the settings, as JSON text: everything but, at constant rates, the number of steps.
std::string settings_json(const TuneSettings& settings);

/// How a checkpoint's settings differ from a run's, in the words of the command line; "" where they do not.
struct SettingsChange {
    std::string rates;   ///< of --lr, --code-lr and --subspace-lr: what they are now
    std::string others;  ///< of all else, which a resumed run must agree in: what they were
};
/// written: of settings_json(). Throws std::invalid_argument where it is not.
SettingsChange settings_change(const std::string& written, const TuneSettings& now);

/// The flags of the rates that a strategy goes by, for messages: "--lr or --code-lr".
std::string rate_flags(const TuneSettings& settings);

}  // namespace pvtune
