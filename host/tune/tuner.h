#pragma once

#include "host/model/head.h"
#include "host/tune/hidden_states.h"
#include "host/tune/settings.h"
#include "host/tune/v_step.h"

#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace pvtune {

/// Keep the activations of all blocks for the backward pass, or rebuild a block's when its turn comes (one more forward
/// pass, memory of one block). The results have the same bits.
enum class Activations { automatic, keep, recompute };

/// Where a tuning run keeps what it needs; the results have the same bits.
struct TunerMemory {
    Activations activations = Activations::automatic;
    bool offload_inputs = false;  ///< the inputs of the blocks wait for the backward pass in host memory
};

/// A continuous parameter under Adam.
struct TrainedParameter {
    std::string name;
    Tensor value;     ///< f32
    Tensor gradient;  ///< f32; parameters whose turns differ share it
    Tensor first_moment, second_moment;
    Tensor gradient_squares;  ///< f64 [1] of the step record
};

struct StepReport {
    std::int64_t step = 0;  ///< 1 after the first
    double loss = 0;        ///< mean KL to the teacher a token, nats, before the update
    double rate = 0;        ///< of the P step
    bool v_step = false;    ///< whether this step had V steps; what follows is theirs
    std::int64_t groups = 0, searched = 0, selected = 0, changed = 0;
    std::vector<std::int64_t> groups_by_block, changed_by_block;  ///< sums over the matrices of a block
    double predicted_change = 0;            ///< of the loss: sum of <gradient, change> over the groups that changed
    std::optional<double> measured_change;  ///< of this batch's loss by the new codes alone (--measure-v)
    std::optional<std::int64_t> returned;   ///< groups back to the codes before their last change (--measure-v)
    double seconds = 0, teacher_seconds = 0, forward_seconds = 0, loss_seconds = 0, backward_seconds = 0, p_seconds = 0,
           v_seconds = 0, measure_seconds = 0;
};

/// PV-Tuning of a quantised model against a teacher, block-major: a step's micro-batches go forward block by block,
/// then backward block by block, and a block's P and V steps follow at once, while its gradient is at hand, so that the
/// gradient of one block exists at a time.
class Tuner {
public:
    /// The models live in the backend's arena. With a planning backend only the allocations are made.
    Tuner(Backend& backend, const TuneSettings& settings, Model student, Model teacher, const TunerMemory& memory);

    /// Reads f32 copies of the dense parameters (the models hold them in the compute precision) and starts the buffers.
    void start(const StoreReader& student_store);

    /// One step on settings.batch sequences of settings.length tokens. A loss or gradient that is not finite is an
    /// Error that names the tensor and the step.
    StepReport step(std::span<const std::vector<std::uint32_t>> sequences);

    std::int64_t steps_done() const { return steps_done_; }
    /// Of the last step, also after a resume.
    double loss() const { return loss_; }
    bool keeps_activations() const { return keep_; }

    /// Everything that a resumed run needs; source: what identifies the inputs (content hashes of the files).
    void save_checkpoint(const std::string& path, const std::string& command, const std::string& source) const;
    /// The matrices must have been loaded from the same checkpoint (load_model). Returns the rates that are not those
    /// it was written with, as flags; "" where all are.
    std::string load_checkpoint(const StoreReader& checkpoint, const std::string& source);

    /// The tuned model as a weights store; dense tensors that were not trained are copied from the student's file.
    /// Returns the content hash.
    std::string save_model(const std::string& path, const std::string& command, const StoreReader& student_store) const;

private:
    void allocate();
    void upload_micro_batch(std::span<const std::vector<std::uint32_t>> sequences, std::int64_t micro);
    /// Block by block over all micro-batches, so that streamed weights come once a step.
    void teacher_forward();
    /// Of the student, over all micro-batches; leaves the last block dequantised.
    void student_forward();
    void distillation(std::int64_t micro);
    void update_block(std::int64_t i, double factor);
    /// Waits for the step; losses, counts and checks of everything it did. Throws the Error for what is not finite.
    void read_record(StepReport& report);
    void read_ledger(StepReport& report);
    /// Mean over this step's batch with the student as it stands; waits for it.
    double loss_now();
    /// What the codes of this V step change of the loss, at the continuous parameters of now: with and without them.
    double measure_v_steps();
    bool v_step_now() const { return settings_.moves_codes() && (steps_done_ + 1) % settings_.v_every == 0; }
    /// Throws the Error for a loss that is not finite, with the tensor where that began.
    [[noreturn]] void refuse_loss();
    void update(TrainedParameter& parameter, double factor);
    void update_dense(double factor);
    /// Calls body(matrix, its state) for every quantised matrix whose codes move, in the model's order.
    template <class Body>
    void for_moving(const Body& body) {
        for (std::size_t i = 0; i < blocks_.size(); ++i) {
            for (std::size_t j = 0; j < matrices_per_block; ++j) {
                MatrixState& state = blocks_[i].matrices[j];
                if (!state.v.second_moment.empty()) body(student_.blocks[i].matrices[j], state);
            }
        }
    }
    TrainedParameter trained(const std::string& name, Tensor value, Tensor gradient);
    std::vector<const TrainedParameter*> all_parameters() const;
    void allocate_record();
    const BlockActivations& activations(std::int64_t micro, std::int64_t block) const;

    Backend& backend_;
    TuneSettings settings_;
    Model student_;
    Model teacher_;
    Batch micro_;
    std::int64_t micro_batches_ = 1;
    bool keep_ = true;
    bool offload_ = false;
    std::int64_t steps_done_ = 0;
    double loss_ = 0;

    std::vector<Tensor> tokens_;  ///< u32, one a micro-batch
    HiddenStates hidden_;
    std::vector<Tensor> teacher_hidden_;         ///< last hidden states
    Tensor losses_;                              ///< f32 [micro-batches, tokens]
    std::vector<Tensor> d_hidden_;               ///< gradient of the residual stream
    std::vector<BlockActivations> activations_;  ///< all, or one set
    BlockActivations teacher_activations_;
    BackwardBuffers backward_;
    HeadBuffers head_;
    BlockGradients gradients_;

    struct MatrixState {
        std::vector<TrainedParameter> continuous;
        VState v;
        std::int64_t budget = 0;  ///< groups that the next V step may change
    };
    struct BlockState {
        std::array<MatrixState, matrices_per_block> matrices;
        std::vector<TrainedParameter> dense;  ///< norms and biases
    };
    std::vector<BlockState> blocks_;
    std::vector<TrainedParameter> dense_;         ///< embedding, head, final norm
    std::map<std::string, Tensor> compute_copy_;  ///< what the model reads, where it is not the value itself
    VScratch v_scratch_;

    // What a step leaves on the device, read once at its end: nothing waits for the device before that.
    Tensor squares_;             ///< f64: of every gradient and of the scores of every matrix
    Tensor predicted_;           ///< f64, one a quantised matrix, as all that follow
    Tensor changed_, returned_;  ///< u32
    Tensor histograms_;          ///< u32 [matrices, score_bins], of layer budgets
};

/// What a tuned model takes over of the quantised one: how it was quantised, and from what. Throws Error where it is
/// damaged.
std::vector<std::pair<std::string, std::string>> origin_of(const StoreReader& student);

}  // namespace pvtune
