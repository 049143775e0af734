// Matrix products by oneDNN: f32 everywhere, bf16 on CPUs without a unit for blocks of it. Where oneDNN has no bf16
// product for the CPU (before AVX-512), the operands are widened to f32.

#include "host/backend/cpu/gemm.h"
#include "host/backend/cpu/scratch.h"

#include <array>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <vector>

namespace pvtune::cpu {

namespace {

using Key = std::array<std::int64_t, 11>;

struct Primitive {
    dnnl::matmul matmul;
    dnnl::memory left;
    dnnl::memory right;
    dnnl::memory result;
    dnnl::memory bias;
};

dnnl::engine& engine() {
    static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
    return cpu;
}

dnnl::memory::data_type type_of(DType dtype) {
    return dtype == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

dnnl::memory::desc describe(std::int64_t rows, std::int64_t columns, DType dtype, std::int64_t stride,
                            bool transposed) {
    return {
        {rows, columns}, type_of(dtype), transposed ? dnnl::memory::dims{1, stride} : dnnl::memory::dims{stride, 1}};
}

/// Empty when oneDNN has no such product for this CPU.
std::optional<Primitive> make_primitive(const Gemm& problem) {
    const auto left = describe(problem.m, problem.k, problem.dtype, problem.left_stride, problem.left_transposed);
    const auto right = describe(problem.k, problem.n, problem.dtype, problem.right_stride, problem.right_transposed);
    const auto result = describe(problem.m, problem.n, problem.result_dtype, problem.result_stride, false);
    const dnnl::memory::desc bias({1, problem.n}, dnnl::memory::data_type::f32, dnnl::memory::dims{problem.n, 1});
    dnnl::primitive_attr attributes;
    if (problem.accumulate) {
        dnnl::post_ops sum;
        sum.append_sum(1.0F);
        attributes.set_post_ops(sum);
    }
    try {
        const auto description = problem.bias != nullptr ? dnnl::matmul::desc(left, right, bias, result)
                                                         : dnnl::matmul::desc(left, right, result);
        const dnnl::matmul::primitive_desc primitive(description, attributes, engine());
        return Primitive{dnnl::matmul(primitive), dnnl::memory(left, engine(), nullptr),
                         dnnl::memory(right, engine(), nullptr), dnnl::memory(result, engine(), nullptr),
                         dnnl::memory(bias, engine(), nullptr)};
    } catch (const dnnl::error& error) {
        if (error.status == dnnl_unimplemented) return std::nullopt;
        throw;
    }
}

std::optional<Primitive>& primitive_for(const Gemm& problem) {
    static std::map<Key, std::optional<Primitive>> cache;
    const Key key{problem.m,
                  problem.n,
                  problem.k,
                  static_cast<std::int64_t>(problem.dtype),
                  problem.left_stride,
                  problem.left_transposed,
                  problem.right_stride,
                  problem.right_transposed,
                  static_cast<std::int64_t>(problem.result_dtype),
                  problem.result_stride,
                  (problem.accumulate ? 1 : 0) + (problem.bias != nullptr ? 2 : 0)};
    const auto found = cache.find(key);
    return found != cache.end() ? found->second : cache.emplace(key, make_primitive(problem)).first->second;
}

const float* widen(Scratch& scratch, const void* data, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
    float* wide = scratch.get<float>(rows * columns);
    const auto* narrow = static_cast<const bf16*>(data);
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < rows; ++i) {
        for (std::int64_t j = 0; j < columns; ++j) wide[i * columns + j] = to_float(narrow[i * stride + j]);
    }
    return wide;
}

void gemm_widened(const Gemm& problem) {
    static Scratch left_memory;
    static Scratch right_memory;
    static Scratch result_memory;
    Gemm wide = problem;
    const bool tl = problem.left_transposed;
    const bool tr = problem.right_transposed;
    wide.dtype = DType::f32;
    wide.left =
        widen(left_memory, problem.left, tl ? problem.k : problem.m, tl ? problem.m : problem.k, problem.left_stride);
    wide.left_stride = tl ? problem.m : problem.k;
    wide.right = widen(right_memory, problem.right, tr ? problem.n : problem.k, tr ? problem.k : problem.n,
                       problem.right_stride);
    wide.right_stride = tr ? problem.k : problem.n;
    if (problem.result_dtype == DType::f32) return gemm_onednn(wide);
    float* sums = result_memory.get<float>(problem.m * problem.n);
    wide.result_dtype = DType::f32;
    wide.result = sums;
    wide.result_stride = problem.n;
    wide.accumulate = false;
    gemm_onednn(wide);
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < problem.m; ++i) {
        bf16* to = static_cast<bf16*>(problem.result) + i * problem.result_stride;
        for (std::int64_t j = 0; j < problem.n; ++j) {
            to[j] = to_bf16(sums[i * problem.n + j] + (problem.accumulate ? to_float(to[j]) : 0.0F));
        }
    }
}

}  // namespace

void gemm_onednn(const Gemm& problem) {
    auto& primitive = primitive_for(problem);
    if (!primitive) return gemm_widened(problem);
    primitive->left.set_data_handle(const_cast<void*>(problem.left));
    primitive->right.set_data_handle(const_cast<void*>(problem.right));
    primitive->result.set_data_handle(problem.result);
    std::unordered_map<int, dnnl::memory> arguments{
        {DNNL_ARG_SRC, primitive->left}, {DNNL_ARG_WEIGHTS, primitive->right}, {DNNL_ARG_DST, primitive->result}};
    if (problem.bias != nullptr) {
        primitive->bias.set_data_handle(const_cast<float*>(problem.bias));
        arguments.emplace(DNNL_ARG_BIAS, primitive->bias);
    }
    static dnnl::stream stream(engine());
    primitive->matmul.execute(stream, arguments);
    stream.wait();
}

}  // namespace pvtune::cpu
