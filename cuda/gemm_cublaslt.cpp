#include "cuda/gemm.h"
#include "cuda/runtime.h"

#include <cublasLt.h>
#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <tuple>

namespace pvtune::cuda {

namespace {

/// What NVIDIA recommends for Hopper; less would shut out the fastest algorithms.
constexpr std::size_t workspace_bytes = 32 << 20;

void check(cublasStatus_t status, const char* asked,
           const std::source_location& where = std::source_location::current()) {
    if (status != CUBLAS_STATUS_SUCCESS) throw CudaError(asked, cublasLtGetStatusString(status), where);
}

cudaDataType_t data_type(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

/// Of an address, for the choice of an algorithm, which else counts on 256 bytes. All from 16 on are the same, what one
/// load of a thread takes: so the algorithm, and with it the bits, does not depend on where a tensor lies.
std::uint32_t alignment_of(const void* address) {
    const auto bits = reinterpret_cast<std::uintptr_t>(address);
    return static_cast<std::uint32_t>(std::min<std::uintptr_t>(16, bits & -bits));
}

/// What an algorithm is chosen for.
using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, DType, DType, bool, bool, bool,
                       std::array<std::uint32_t, 3>, std::array<std::int64_t, 3>>;

/// Of a product that the library has no algorithm for.
std::string description_of(const Product& p) {
    const auto side = [](const char* name, const void* address, std::int64_t stride, bool transposed) {
        return std::string("; ") + name + (transposed ? " transposed, " : " ") + std::to_string(alignment_of(address)) +
               "-byte aligned, stride " + std::to_string(stride);
    };
    return "the algorithm of the product " + std::to_string(p.m) + " x " + std::to_string(p.n) + " x " +
           std::to_string(p.k) + " of " + std::string(name_of(p.dtype)) + " to " +
           std::string(name_of(p.result_dtype)) + (p.accumulate ? ", added to what is there" : "") +
           side("left", p.left, p.left_stride, p.left_transposed) +
           side("right", p.right, p.right_stride, p.right_transposed) +
           side("result", p.result, p.result_stride, false);
}

/// A descriptor of the library, freed with its owner.
template <class Handle, cublasStatus_t (*destroy)(Handle)>
struct Owned {
    Handle handle = nullptr;
    Owned() = default;
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    ~Owned() {
        if (handle != nullptr) destroy(handle);
    }
};
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;

/// A chosen algorithm with the descriptors it was chosen for. The library's matrices are column-major: it is asked for
/// result^T = right^T left^T.
struct Plan {
    Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> operation;
    Layout left, right, result;
    cublasLtMatmulAlgo_t algorithm{};
};

/// stride: of the library's columns, which are our rows; 0: side by side.
void make_layout(Layout& layout, DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
    check(cublasLtMatrixLayoutCreate(&layout.handle, data_type(dtype), static_cast<std::uint64_t>(rows),
                                     static_cast<std::uint64_t>(columns), stride > 0 ? stride : rows),
          "the layout of a matrix");
}

template <class Value>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)), "an attribute of a product");
}

template <class Value>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const Value& value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
          "a wish for the algorithm of a product");
}

}  // namespace

struct Gemm::State {
    cublasLtHandle_t library = nullptr;
    void* workspace = nullptr;
    std::map<Key, Plan> plans;

    State() {
        check(cublasLtCreate(&library), "cuBLASLt");
        cuda::check(cudaMalloc(&workspace, workspace_bytes), "the workspace of matrix products");
    }
    ~State() {
        plans.clear();
        cudaFree(workspace);
        cublasLtDestroy(library);
    }

    Plan& plan_of(const Product& product);
};

Plan& Gemm::State::plan_of(const Product& p) {
    const std::array alignments = {alignment_of(p.left), alignment_of(p.right), alignment_of(p.result)};
    const auto [left_alignment, right_alignment, result_alignment] = alignments;
    const std::array strides = {p.left_stride, p.right_stride, p.result_stride};
    const Key key{p.m,          p.n,        p.k,    p.dtype, p.result_dtype, p.left_transposed, p.right_transposed,
                  p.accumulate, alignments, strides};
    const auto [at, fresh] = plans.try_emplace(key);
    Plan& plan = at->second;
    if (!fresh) return plan;
    try {
        check(cublasLtMatmulDescCreate(&plan.operation.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product");
        const auto form = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
        set(plan.operation.handle, CUBLASLT_MATMUL_DESC_TRANSA, form(p.right_transposed));
        set(plan.operation.handle, CUBLASLT_MATMUL_DESC_TRANSB, form(p.left_transposed));
        make_layout(plan.right, p.dtype, p.right_transposed ? p.k : p.n, p.right_transposed ? p.n : p.k,
                    p.right_stride);
        make_layout(plan.left, p.dtype, p.left_transposed ? p.m : p.k, p.left_transposed ? p.k : p.m, p.left_stride);
        make_layout(plan.result, p.result_dtype, p.n, p.m, p.result_stride);

        Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference;
        check(cublasLtMatmulPreferenceCreate(&preference.handle), "wishes for a product");
        set(preference.handle, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
        // Not in place: that order of summing depends on which block comes first.
        set(preference.handle, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
        set(preference.handle, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, right_alignment);
        set(preference.handle, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, left_alignment);
        set(preference.handle, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, result_alignment);
        set(preference.handle, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, result_alignment);
        cublasLtMatmulHeuristicResult_t found{};
        int count = 0;
        cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(library, plan.operation.handle, plan.right.handle,
                                                               plan.left.handle, plan.result.handle, plan.result.handle,
                                                               preference.handle, 1, &found, &count);
        if (status == CUBLAS_STATUS_SUCCESS) status = count == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : found.state;
        check(status, description_of(p).c_str());
        plan.algorithm = found.algo;
    } catch (...) {
        plans.erase(at);
        throw;
    }
    return plan;
}

Gemm::Gemm() : state_(std::make_unique<State>()) {}
Gemm::~Gemm() = default;

void Gemm::run(const Product& product, Stream stream) {
    if (product.m == 0 || product.n == 0) return;
    const Plan& plan = state_->plan_of(product);
    const float one = 1;
    const float beta = product.accumulate ? 1 : 0;
    check(cublasLtMatmul(state_->library, plan.operation.handle, &one, product.right, plan.right.handle, product.left,
                         plan.left.handle, &beta, product.result, plan.result.handle, product.result,
                         plan.result.handle, &plan.algorithm, state_->workspace, workspace_bytes, stream),
          "a matrix product");
}

}  // namespace pvtune::cuda
