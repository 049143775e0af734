#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/gemm.h"

namespace pvtune::cpu {

void linear_forward(Tensor out, Tensor in, Tensor weight, Tensor bias) {
    Gemm problem;
    problem.m = in.dim(0);
    problem.n = weight.dim(0);
    problem.k = weight.dim(1);
    problem.dtype = in.dtype;
    problem.left = in.data;
    problem.left_stride = problem.k;
    problem.right = weight.data;
    problem.right_stride = problem.k;
    problem.right_transposed = true;
    problem.result_dtype = out.dtype;
    problem.result = out.data;
    problem.result_stride = problem.n;
    problem.bias = bias.empty() ? nullptr : bias.as<float>();
    gemm(problem);
}

void linear_backward_input(Tensor d_in, Tensor d_out, Tensor weight, bool accumulate) {
    Gemm problem;
    problem.m = d_out.dim(0);
    problem.n = weight.dim(1);
    problem.k = weight.dim(0);
    problem.dtype = d_out.dtype;
    problem.left = d_out.data;
    problem.left_stride = problem.k;
    problem.right = weight.data;
    problem.right_stride = problem.n;
    problem.result_dtype = d_in.dtype;
    problem.result = d_in.data;
    problem.result_stride = problem.n;
    problem.accumulate = accumulate;
    gemm(problem);
}

namespace {

Gemm weight_gradient(Tensor d_weight, Tensor d_out, Tensor in, bool accumulate) {
    Gemm problem;
    problem.m = d_out.dim(1);
    problem.n = in.dim(1);
    problem.k = in.dim(0);
    problem.dtype = in.dtype;
    problem.left = d_out.data;
    problem.left_stride = problem.m;
    problem.left_transposed = true;
    problem.right = in.data;
    problem.right_stride = problem.n;
    problem.result_dtype = DType::f32;
    problem.result = d_weight.data;
    problem.result_stride = problem.n;
    problem.accumulate = accumulate;
    return problem;
}

}  // namespace

void linear_backward_weight(Tensor d_weight, Tensor d_out, Tensor in, bool accumulate) {
    gemm(weight_gradient(d_weight, d_out, in, accumulate));
}

void hessian_accumulate(Tensor hessian, Tensor in) {
    Gemm problem = weight_gradient(hessian, in, in, true);
    problem.symmetric = true;
    gemm(problem);
}

}  // namespace pvtune::cpu
