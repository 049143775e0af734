#include "host/backend/backend.h"
#include "host/backend/cpu/bf16_blocks.h"
#include "host/backend/cpu/caches.h"
#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/quant_ops.h"
#include "host/common/memory.h"

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace pvtune {

namespace {

class CpuOps final : public Ops {
public:
    void embedding_forward(Tensor hidden, Tensor table, Tensor tokens) override {
        cpu::embedding_forward(hidden, table, tokens);
    }
    void embedding_backward(Tensor d_table, Tensor d_hidden, Tensor tokens) override {
        cpu::embedding_backward(d_table, d_hidden, tokens);
    }
    void rmsnorm_forward(Tensor out, Tensor inverse_rms, Tensor in, Tensor weight, float epsilon) override {
        cpu::rmsnorm_forward(out, inverse_rms, in, weight, epsilon);
    }
    void rmsnorm_backward(Tensor d_in, Tensor d_weight, Tensor d_out, Tensor in, Tensor weight,
                          Tensor inverse_rms) override {
        cpu::rmsnorm_backward(d_in, d_weight, d_out, in, weight, inverse_rms);
    }
    void linear_forward(Tensor out, Tensor in, Tensor weight, Tensor bias) override {
        cpu::linear_forward(out, in, weight, bias);
    }
    void linear_backward_input(Tensor d_in, Tensor d_out, Tensor weight, bool accumulate) override {
        cpu::linear_backward_input(d_in, d_out, weight, accumulate);
    }
    void linear_backward_weight(Tensor d_weight, Tensor d_out, Tensor in, bool accumulate) override {
        cpu::linear_backward_weight(d_weight, d_out, in, accumulate);
    }
    void column_sum(Tensor d_bias, Tensor d_out) override { cpu::column_sum(d_bias, d_out); }
    void scale(Tensor hidden, float factor) override { cpu::scale(hidden, factor); }
    void soft_cap_forward(Tensor values, float cap) override { cpu::soft_cap_forward(values, cap); }
    void soft_cap_backward(Tensor d_values, Tensor values, float cap) override {
        cpu::soft_cap_backward(d_values, values, cap);
    }
    void rope_forward(Tensor heads, Tensor cosines, Tensor sines) override { cpu::rope_forward(heads, cosines, sines); }
    void rope_backward(Tensor d_heads, Tensor cosines, Tensor sines) override {
        cpu::rope_backward(d_heads, cosines, sines);
    }
    void attention_forward(Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v,
                           const AttentionShape& shape) override {
        cpu::attention_forward(out, log_sum_exp, q, k, v, shape);
    }
    void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor out, Tensor log_sum_exp, Tensor q,
                            Tensor k, Tensor v, const AttentionShape& shape) override {
        cpu::attention_backward(d_q, d_k, d_v, d_out, out, log_sum_exp, q, k, v, shape);
    }
    void attention_decode(Tensor out, Tensor q, Tensor keys, Tensor values, const AttentionShape& shape) override {
        cpu::attention_decode(out, q, keys, values, shape);
    }
    void swiglu_forward(Tensor out, Tensor gate, Tensor up) override { cpu::swiglu_forward(out, gate, up); }
    void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up) override {
        cpu::swiglu_backward(d_gate, d_up, out, d_out, gate, up);
    }
    void geglu_forward(Tensor out, Tensor gate, Tensor up) override { cpu::geglu_forward(out, gate, up); }
    void geglu_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up) override {
        cpu::geglu_backward(d_gate, d_up, out, d_out, gate, up);
    }
    void add(Tensor out, Tensor a, Tensor b) override { cpu::add(out, a, b); }
    void kl_loss(Tensor loss, Tensor d_logits, Tensor logits, Tensor teacher, float scale) override {
        cpu::kl_loss(loss, d_logits, logits, teacher, scale);
    }
    void cross_entropy_loss(Tensor loss, Tensor d_logits, Tensor logits, Tensor targets, float scale) override {
        cpu::cross_entropy_loss(loss, d_logits, logits, targets, scale);
    }
    void mse_loss(Tensor losses, Tensor d_out, Tensor out, Tensor target, float scale) override {
        cpu::mse_loss(losses, d_out, out, target, scale);
    }
    void hessian_accumulate(Tensor hessian, Tensor in) override { cpu::hessian_accumulate(hessian, in); }
    void row_products(Tensor products, Tensor a, Tensor b) override { cpu::row_products(products, a, b); }
    void hessian_products(Tensor products, Tensor a, Tensor b, Tensor hessian) override {
        cpu::hessian_products(products, a, b, hessian);
    }
    void gptq(const ScalarCodes& scalar, Tensor weight, Tensor shares, Tensor order) override {
        cpu::gptq(scalar, weight, shares, order);
    }
    void ldlq(Tensor codes, Tensor target, Tensor shares) override { cpu::ldlq(codes, target, shares); }
    void additive_sweep(const AdditiveCodes& additive, Tensor quantized, Tensor gradient, Tensor hessian,
                        Tensor factors, int beam, std::int64_t block) override {
        cpu::additive_sweep(additive, quantized, gradient, hessian, factors, beam, block);
    }
    void search_codes(Tensor codes, Tensor points, Tensor codebooks, int beam, int sweeps) override {
        cpu::search_codes(codes, points, codebooks, beam, sweeps);
    }
    void dequantize_additive(Tensor weight, const AdditiveCodes& additive) override {
        cpu::dequantize_additive(weight, additive);
    }
    void linear_from_codes(Tensor out, Tensor in, const AdditiveCodes& additive, Tensor bias) override {
        cpu::dequantize_gemv(out, in, additive, bias);
    }
    void additive_gradient(Tensor d_codebooks, Tensor d_scales, Tensor d_weight,
                           const AdditiveCodes& additive) override {
        cpu::additive_gradient(d_codebooks, d_scales, d_weight, additive);
    }
    void assign_additive(const AdditiveCodes& additive, Tensor changed, Tensor target, Tensor groups,
                         int beam) override {
        cpu::assign_additive(additive, changed, target, groups, beam);
    }
    void dequantize_scalar(Tensor weight, const ScalarCodes& scalar) override {
        cpu::dequantize_scalar(weight, scalar);
    }
    void linear_from_scalar(Tensor out, Tensor in, const ScalarCodes& scalar, Tensor bias) override {
        cpu::scalar_gemv(out, in, scalar, bias);
    }
    void scalar_gradient(Tensor d_scales, Tensor d_zeros, Tensor d_weight, const ScalarCodes& scalar) override {
        cpu::scalar_gradient(d_scales, d_zeros, d_weight, scalar);
    }
    void assign_scalar(const ScalarCodes& scalar, Tensor changed, Tensor target, Tensor weights) override {
        cpu::assign_scalar(scalar, changed, target, weights);
    }
    void scalar_change(Tensor change, const ScalarCodes& scalar, Tensor saved, Tensor weights) override {
        cpu::scalar_change(change, scalar, saved, weights);
    }
    void scalar_product(Tensor product, const ScalarCodes& scalar, Tensor matrix, Tensor saved,
                        Tensor weights) override {
        cpu::scalar_product(product, scalar, matrix, saved, weights);
    }
    void scalar_distance(Tensor distance, const ScalarCodes& scalar, Tensor target, Tensor weights) override {
        cpu::scalar_distance(distance, scalar, target, weights);
    }
    void scalar_different(const ScalarCodes& scalar, Tensor changed, Tensor target, Tensor weights) override {
        cpu::scalar_different(scalar, changed, target, weights);
    }
    void scalar_eager_score(Tensor scores, Tensor changes, const ScalarCodes& scalar, Tensor gradient,
                            Tensor second_moment, float correction, float epsilon) override {
        cpu::scalar_eager_score(scores, changes, scalar, gradient, second_moment, correction, epsilon);
    }
    void gather_codes(Tensor saved, Tensor codes, Tensor groups) override { cpu::gather_codes(saved, codes, groups); }
    void code_change(Tensor change, const AdditiveCodes& additive, Tensor saved, Tensor groups) override {
        cpu::code_change(change, additive, saved, groups);
    }
    void restore_codes(Tensor codes, Tensor saved, Tensor groups, Tensor keep) override {
        cpu::restore_codes(codes, saved, groups, keep);
    }
    void code_product(Tensor product, const AdditiveCodes& additive, Tensor matrix, Tensor saved,
                      Tensor groups) override {
        cpu::code_product(product, additive, matrix, saved, groups);
    }
    void code_distance(Tensor distance, const AdditiveCodes& additive, Tensor target, Tensor groups) override {
        cpu::code_distance(distance, additive, target, groups);
    }
    void assign_different(const AdditiveCodes& additive, Tensor changed, Tensor target, Tensor groups) override {
        cpu::assign_different(additive, changed, target, groups);
    }
    void eager_score(Tensor scores, Tensor changes, const AdditiveCodes& additive, Tensor gradient,
                     Tensor second_moment, float correction, float epsilon) override {
        cpu::eager_score(scores, changes, additive, gradient, second_moment, correction, epsilon);
    }
    void apply_changes(Tensor codes, Tensor changed, Tensor changes, Tensor scores, Tensor groups,
                       std::int64_t codebook_size) override {
        cpu::apply_changes(codes, changed, changes, scores, groups, codebook_size);
    }
    void bound_changes(Tensor keep, Tensor change, Tensor scores, Tensor groups, Tensor weight_squares,
                       double trust_ratio, std::int64_t most) override {
        cpu::bound_changes(keep, change, scores, groups, weight_squares, trust_ratio, most);
    }
    void sampling_keys(Tensor keys, Tensor scores, float inverse_temperature, std::uint64_t seed) override {
        cpu::sampling_keys(keys, scores, inverse_temperature, seed);
    }
    void round_robin(Tensor indices, std::int64_t first, std::int64_t groups) override {
        cpu::round_robin(indices, first, groups);
    }
    void score_histogram(Tensor histogram, Tensor scores) override { cpu::score_histogram(histogram, scores); }
    void scatter_difference(Tensor scores, Tensor before, Tensor after, Tensor groups) override {
        cpu::scatter_difference(scores, before, after, groups);
    }
    void keep_by_chance(Tensor keep, Tensor nearest, Tensor second, Tensor groups, float temperature,
                        std::uint64_t seed) override {
        cpu::keep_by_chance(keep, nearest, second, groups, temperature, seed);
    }
    void rows_differ(Tensor differ, Tensor a, Tensor b) override { cpu::rows_differ(differ, a, b); }
    void note_returns(Tensor returned, Tensor history, Tensor now, Tensor before, Tensor groups) override {
        cpu::note_returns(returned, history, now, before, groups);
    }
    void hadamard_transform(Tensor values) override { cpu::hadamard_transform(values); }
    void dequantize_lattice(Tensor weight, const LatticeCodes& lattice) override {
        cpu::dequantize_lattice(weight, lattice);
    }
    void linear_from_lattice(Tensor out, Tensor in, const LatticeCodes& lattice, Tensor bias) override {
        cpu::lattice_gemv(out, in, lattice, bias);
    }
    void lattice_gradient(Tensor d_scale, Tensor d_left, Tensor d_right, Tensor d_weight,
                          const LatticeCodes& lattice) override {
        cpu::lattice_gradient(d_scale, d_left, d_right, d_weight, lattice);
    }
    void lattice_code_gradient(Tensor d_weight, const LatticeCodes& lattice) override {
        cpu::lattice_code_gradient(d_weight, lattice);
    }
    void lattice_target(Tensor target, Tensor scores, Tensor wanted, Tensor weight,
                        const LatticeCodes& lattice) override {
        cpu::lattice_target(target, scores, wanted, weight, lattice);
    }
    void assign_lattice(const LatticeCodes& lattice, Tensor changed, Tensor target, Tensor groups) override {
        cpu::assign_lattice(lattice, changed, target, groups);
    }
    void lattice_change(Tensor change, const LatticeCodes& lattice, Tensor saved, Tensor groups) override {
        cpu::lattice_change(change, lattice, saved, groups);
    }
    void lattice_product(Tensor product, const LatticeCodes& lattice, Tensor matrix, Tensor saved,
                         Tensor groups) override {
        cpu::lattice_product(product, lattice, matrix, saved, groups);
    }
    void lattice_distance(Tensor distance, const LatticeCodes& lattice, Tensor target, Tensor groups) override {
        cpu::lattice_distance(distance, lattice, target, groups);
    }
    void lattice_different(const LatticeCodes& lattice, Tensor changed, Tensor target, Tensor groups) override {
        cpu::lattice_different(lattice, changed, target, groups);
    }
    void adam(Tensor value, Tensor first_moment, Tensor second_moment, Tensor gradient, Tensor copy, Tensor gate,
              const AdamSettings& settings) override {
        if (!gate.empty() && !std::isfinite(*gate.as<double>())) return;
        cpu::adam(value, first_moment, second_moment, gradient, settings);
        if (!copy.empty()) cpu::convert(copy, value);
    }
    void moment_and_score(Tensor target, Tensor scores, Tensor second_moment, Tensor d_weight, Tensor base,
                          Tensor current, std::int64_t group, const VStepSettings& settings) override {
        cpu::moment_and_score(target, scores, second_moment, d_weight, base, current, group, settings);
    }
    void select_largest(Tensor indices, Tensor scores) override { cpu::select_largest(indices, scores); }
    void sum_of_squares(Tensor sum, Tensor values) override { *sum.as<double>() = cpu::sum_of_squares(values); }
    void sum(Tensor total, Tensor values) override { *total.as<double>() = cpu::sum(values); }
    void count_flags(Tensor total, Tensor flags) override { *total.as<std::uint32_t>() = cpu::count_flags(flags); }
    void scale_rows(Tensor values, Tensor factors) override { cpu::scale_rows(values, factors); }
    void add_scaled(Tensor out, Tensor in, float scale) override { cpu::add_scaled(out, in, scale); }
    void convert(Tensor out, Tensor in) override { cpu::convert(out, in); }
    void convert_by_chance(Tensor out, Tensor in, std::uint64_t seed) override {
        cpu::convert_by_chance(out, in, seed);
    }
    void fill_zero(Tensor out) override { cpu::fill_zero(out); }
};

/// Seconds a phase, by the host's clock: operations are done when they return.
class PhaseClock {
public:
    void enter(int phase) {
        stop();
        phase_ = phase;
    }
    std::vector<double> end(int count) {
        stop();
        phase_ = -1;
        seconds_.resize(static_cast<std::size_t>(count));
        return std::exchange(seconds_, {});
    }

private:
    using Clock = std::chrono::steady_clock;
    void stop() {
        const auto now = Clock::now();
        if (phase_ >= 0) {
            const auto index = static_cast<std::size_t>(phase_);
            if (seconds_.size() <= index) seconds_.resize(index + 1);
            seconds_[index] += std::chrono::duration<double>(now - since_).count();
        }
        since_ = now;
    }

    int phase_ = -1;
    Clock::time_point since_;
    std::vector<double> seconds_;
};

/// Zeroed, or null where there is no memory for it. Linux hands out pages as they are first written, which takes
/// longer than the writing: here in large pages where it has them, and by all threads.
void* zeroed_memory(std::int64_t bytes) {
    constexpr std::int64_t large_page = std::int64_t{2} << 20;
    const std::int64_t alignment = bytes >= large_page ? large_page : 64;
    const std::int64_t size = (bytes / alignment + 1) * alignment;
    auto* memory = static_cast<std::byte*>(
        std::aligned_alloc(static_cast<std::size_t>(alignment), static_cast<std::size_t>(size)));
    if (memory == nullptr) return nullptr;
    if (alignment == large_page) {
        madvise(memory, static_cast<std::size_t>(bytes / large_page * large_page), MADV_HUGEPAGE);
    }
#pragma omp parallel for schedule(static) if (bytes > large_page)
    for (std::int64_t first = 0; first < bytes; first += large_page) {
        std::memset(memory + first, 0, static_cast<std::size_t>(std::min(large_page, bytes - first)));
    }
    return memory;
}

std::unique_ptr<Arena> make_arena() { return std::make_unique<Arena>(zeroed_memory, std::free); }

class CpuBackend final : public Backend {
public:
    explicit CpuBackend(const CpuOptions& options) : planning_(options.planning) {
        if (options.threads > 0) omp_set_num_threads(options.threads);
        arena_ = options.planning ? std::make_unique<Arena>() : make_arena();
        host_arena_ = options.planning ? std::make_unique<Arena>() : make_arena();
    }

    Ops& ops() override { return ops_; }
    Arena& arena() override { return *arena_; }
    std::unique_ptr<Arena> new_arena() override { return planning_ ? std::make_unique<Arena>() : make_arena(); }
    void upload(Tensor to, const void* from) override {
        if (to.elements() > 0) std::memcpy(to.data, from, static_cast<std::size_t>(to.bytes()));
    }
    void download(void* to, Tensor from) override {
        if (from.elements() > 0) std::memcpy(to, from.data, static_cast<std::size_t>(from.bytes()));
    }
    Arena& host_arena() override { return *host_arena_; }
    Copy start_upload(Tensor device, Tensor host) override {
        upload(device, host.data);
        return {};
    }
    Copy start_download(Tensor host, Tensor device) override {
        download(host.data, device);
        return {};
    }
    void wait_for(Copy) override {}
    void synchronize() override {}
    void enter_phase(int phase, const char*) override { phases_.enter(phase); }
    std::vector<double> end_phases(int count) override { return phases_.end(count); }
    std::string description() const override {
        const char* const units[] = {"by oneDNN", "by AVX-512", "on AMX"};
        return "cpu, " + std::to_string(omp_get_max_threads()) + " threads, bf16 products " +
               units[static_cast<int>(cpu::block_unit())] + ", f32 products by oneDNN";
    }
    std::int64_t memory_limit() const override { return available_memory(); }
    std::int64_t cache_bytes() const override {
        constexpr std::int64_t assumed = 32 << 20;  // where the system does not say
        const std::int64_t found = cpu::cache_bytes("/sys/devices/system/cpu");
        return found > 0 ? found : assumed;
    }

private:
    CpuOps ops_;
    bool planning_;
    std::unique_ptr<Arena> arena_, host_arena_;
    PhaseClock phases_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) { return std::make_unique<CpuBackend>(options); }

}  // namespace pvtune
