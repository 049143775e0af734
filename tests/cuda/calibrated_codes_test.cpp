// Matrices quantised by the CUDA backend against the CPU backend, every representation: without a Hessian, and under
// one with several blocks of columns. (Hessians of inputs that hang together: without feedback the errors would be far
// larger.)
#include "host/backend/backend.h"
#include "host/quant/quantize_matrix.h"
#include "tests/tensors.h"

namespace pvtune::cuda {
namespace {

using namespace pvtune::testing;

constexpr std::int64_t rows = 40, columns = 288;

std::vector<float> hessian_of_correlated_inputs() {
    constexpr std::size_t inputs = 400;
    Uniform next(1);
    std::vector<float> hessian(columns * columns);
    for (std::size_t t = 0; t < inputs; ++t) {
        float x[columns];
        float before = 0;
        for (std::int64_t i = 0; i < columns; ++i) {
            before = 0.8F * before + static_cast<float>(next());
            x[i] = before * (i % 7 == 3 ? 4.0F : 1.0F);
        }
        for (std::size_t i = 0; i < columns; ++i) {
            for (std::size_t j = 0; j < columns; ++j) hessian[i * columns + j] += x[i] * x[j];
        }
    }
    return hessian;
}

QuantizationReport report_of(Backend& backend, const QuantizationSpec& spec, const std::vector<float>& weight,
                             const std::vector<float>& hessian) {
    QuantizationReport report;
    const auto matrix = quantize_matrix(backend, "w", weight, rows, columns, spec, 7, hessian, &report);
    // What the report says is what the codes on the device are.
    const Tensor values = backend.arena().allocate("weights", DType::f32, {rows, columns});
    matrix->dequantize(backend.ops(), values);
    std::vector<float> found(weight.size());
    backend.download(found.data(), values);
    double error = 0;
    for (std::size_t i = 0; i < weight.size(); ++i) {
        const auto difference = static_cast<double>(weight[i] - found[i]);
        error += difference * difference;
    }
    EXPECT_NEAR(error / report.squared_error, 1, 1e-3) << spec.representation;
    return report;
}

const QuantizationSpec specs[] = {
    {"scalar", 1, 3, 32}, {"quip", 1, 2, 8}, {"quip", 1, 3, 8}, {"vq", 1, 5, 8}, {"aqlm", 2, 4, 8}};

std::vector<float> triangular_weights() {
    std::vector<float> weight(rows * columns);
    Uniform next(2);
    for (float& value : weight) value = static_cast<float>(next() + next());
    return weight;
}

TEST(CudaDataFreeCodes, AreAsGoodAsTheCpus) {
    const std::vector<float> weight = triangular_weights();
    for (const QuantizationSpec& spec : specs) {
        SCOPED_TRACE(spec.representation);
        const QuantizationReport expected = report_of(*make_cpu_backend({}), spec, weight, {});
        const QuantizationReport got = report_of(*make_cuda_backend({}), spec, weight, {});
        EXPECT_NEAR(got.squared_error / expected.squared_error, 1, 0.02);
    }
}

TEST(CudaCalibratedCodes, AreAsGoodAsTheCpusAtScale) {
    const std::vector<float> hessian = hessian_of_correlated_inputs();
    const std::vector<float> weight = triangular_weights();
    for (const QuantizationSpec& spec : specs) {
        SCOPED_TRACE(spec.representation);
        const auto cpu = make_cpu_backend({});
        const auto cuda = make_cuda_backend({});
        const QuantizationReport expected = report_of(*cpu, spec, weight, hessian);
        const QuantizationReport got = report_of(*cuda, spec, weight, hessian);
        // Sums in another order turn a few codes, and what follows them.
        EXPECT_NEAR(got.output_error / expected.output_error, 1, 0.02);
        EXPECT_NEAR(got.output_norm / expected.output_norm, 1, 1e-4);
        EXPECT_NEAR(got.squared_error / expected.squared_error, 1, 0.02);
    }
}

}  // namespace
}  // namespace pvtune::cuda
