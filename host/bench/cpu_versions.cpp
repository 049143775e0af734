// Versions on the CPU: the routes of the matrix product (host/backend/cpu/gemm.h).
#include "host/backend/cpu/amx.h"
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

/// The bf16 routes of CPUs that have no AMX.
void add_without_amx(Registry& registry, const std::string& version, const char* reason,
                     std::initializer_list<const char*> ops) {
    for (const char* op : ops) {
        const auto standard =
            std::find_if(registry.begin(), registry.end(), [&](const BenchEntry& entry) { return entry.op == op; });
        add_version(registry, {op, version, reason, [make = standard->make](Operands& operands) {
                                   BenchCall call = make(operands);
                                   call.run = [run = call.run] {
                                       const cpu::WithoutAmx without;
                                       run();
                                   };
                                   return call;
                               }});
    }
}

}  // namespace

void add_cpu_versions(Registry& registry, const BenchSetting& setting) {
    if (setting.precision == DType::bf16 && cpu::amx_available()) {
        add_without_amx(registry, "onednn", "the library's product, for CPUs without AMX",
                        {"linear_forward", "linear_forward_logits", "linear_backward_input", "linear_backward_weight"});
        add_without_amx(registry, "f32", "products in f32, for CPUs without AMX",
                        {"attention_forward", "attention_backward"});
    }
    add_version(registry, {"linear_forward_one_token", "onednn",
                           "takes over from the dot products at more than a few rows", [=](Operands& operands) {
                               const LinearOperands a = linear_operands(operands, setting, 1);
                               return linear_call(setting, a, [=] { one_token_by_onednn(a); });
                           }});
}

}  // namespace pvtune
