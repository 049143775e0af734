// Versions on the CPU: the routes of the matrix product (host/backend/cpu/gemm.h).
#include "host/backend/cpu/bf16_blocks.h"
#include "host/backend/cpu/gemm.h"
#include "host/bench/linear_operands.h"

#include <algorithm>

namespace pvtune {

namespace {

void one_token_by_onednn(const LinearOperands& a) {
    cpu::Gemm problem;
    problem.m = a.in.dim(0);
    problem.n = a.weight.dim(0);
    problem.k = a.weight.dim(1);
    problem.dtype = a.in.dtype;
    problem.left = a.in.data;
    problem.left_stride = problem.k;
    problem.right = a.weight.data;
    problem.right_stride = problem.k;
    problem.right_transposed = true;
    problem.result_dtype = a.out.dtype;
    problem.result = a.out.data;
    problem.result_stride = problem.n;
    cpu::gemm_onednn(problem);
}

/// The bf16 routes of other CPUs.
void add_limited(Registry& registry, cpu::BlockUnit most, const std::string& version, const char* reason,
                 std::initializer_list<const char*> ops) {
    for (const char* op : ops) {
        const auto standard =
            std::find_if(registry.begin(), registry.end(), [&](const BenchEntry& entry) { return entry.op == op; });
        add_version(registry, {op, version, reason, [make = standard->make, most](Operands& operands) {
                                   BenchCall call = make(operands);
                                   call.run = [run = call.run, most] {
                                       const cpu::LimitBlockUnit limited(most);
                                       run();
                                   };
                                   return call;
                               }});
    }
}

}  // namespace

void add_cpu_versions(Registry& registry, const BenchSetting& setting) {
    using cpu::BlockUnit;
    const std::initializer_list<const char*> linear = {"linear_forward", "linear_forward_logits",
                                                       "linear_backward_input", "linear_backward_weight"};
    const std::initializer_list<const char*> attention = {"attention_forward", "attention_backward"};
    if (setting.precision == DType::bf16 && cpu::block_unit() == BlockUnit::tiles) {
        add_limited(registry, BlockUnit::dots, "dots", "AVX-512's dot products, for CPUs without AMX", linear);
        add_limited(registry, BlockUnit::dots, "dots", "AVX-512's dot products, for CPUs without AMX", attention);
    }
    if (setting.precision == DType::bf16 && cpu::block_unit() != BlockUnit::none) {
        add_limited(registry, BlockUnit::none, "onednn", "the library's product, for CPUs without a unit for blocks",
                    linear);
        add_limited(registry, BlockUnit::none, "f32", "products in f32, for CPUs without a unit for blocks", attention);
    }
    add_version(registry, {"linear_forward_one_token", "onednn",
                           "takes over from the dot products at more than a few rows", [=](Operands& operands) {
                               const LinearOperands a = linear_operands(operands, setting, 1);
                               return linear_call(setting, a, [=] { one_token_by_onednn(a); });
                           }});
}

}  // namespace pvtune
