// An AQLM sweep under a Hessian, kernels and products together, against the CPU's.
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cuda/code_sweeps.h"
#include "tests/cuda/device_tensors.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

struct Shape {
    std::int64_t rows, columns, group, books, size;
    int beam;
    std::int64_t block;
};

std::ostream& operator<<(std::ostream& out, const Shape& s) {
    return out << s.rows << " x " << s.columns << ", " << s.books << " codebooks of " << s.size << " x " << s.group
               << ", beam " << s.beam << ", blocks of " << s.block;
}

/// Rows that fill no block of a kernel, short last blocks, every group.
const Shape shapes[] = {{37, 72, 8, 2, 16, 2, 40}, {5, 28, 4, 3, 8, 3, 12}, {19, 80, 16, 1, 32, 1, 32},
                        {1, 8, 8, 1, 5, 1, 128},   {70, 16, 4, 2, 9, 1, 8}, {3, 32, 16, 2, 8, 2, 128}};

/// unit * whole number: so few binary digits that no sum is rounded.
OwnedTensor coarse(std::initializer_list<std::int64_t> shape, std::uint32_t seed, double reach, double unit) {
    OwnedTensor tensor(DType::f32, shape);
    tensor.fill([next = Uniform(seed, reach), unit]() mutable { return unit * std::round(next() / unit); });
    return tensor;
}

/// Operands that need not belong together: a sweep takes them as they are.
struct SweepCase {
    Shape shape;
    OwnedTensor codes, codebooks, scales, quantized, gradient, hessian, factors;

    explicit SweepCase(const Shape& s, std::uint32_t seed)
        : shape(s),
          codes(DType::u16, {s.rows, s.columns / s.group, s.books}),
          codebooks(coarse({s.books, s.size, s.group}, seed, 1, 0.5)),
          scales(DType::f32, {s.rows}),
          quantized(coarse({s.rows, s.columns}, seed + 1, 1, 0.5)),
          gradient(coarse({s.rows, s.columns}, seed + 2, 2, 0.5)),
          hessian(coarse({s.columns, s.columns}, seed + 3, 0.5, 0.5)),
          factors(DType::f64, {s.columns / s.group, 2, s.group, s.group}) {
        std::mt19937 engine(seed + 4);
        for (std::int64_t i = 0; i < codes->elements(); ++i) {
            codes->as<std::uint16_t>()[i] = static_cast<std::uint16_t>(engine() % static_cast<unsigned>(s.size));
        }
        for (std::int64_t i = 0; i < s.rows; ++i) scales.set(i, i % 3 == 1 ? 2 : 1);
        if (s.rows > 2) scales.set(2, 0);  // keeps its codes
        for (std::int64_t i = 0; i < factors->elements(); ++i) {
            const std::int64_t row = i / s.group % s.group;
            const std::int64_t column = i % s.group;
            const double value = row == column ? 1 : 0.5 * (static_cast<int>(engine() % 3) - 1);
            factors->as<double>()[i] = column <= row ? value : 0;
        }
    }
    AdditiveCodes additive() const { return {codes, codebooks, scales}; }
};

TEST(CudaAdditiveSweep, HasTheBitsOfTheCpuTiesIncluded) {
    for (const Shape& s : shapes) {
        SCOPED_TRACE(s);
        const SweepCase before(s, 1);
        const SweepCase expected = before;
        cpu::additive_sweep(expected.additive(), expected.quantized, expected.gradient, before.hessian, before.factors,
                            s.beam, s.block);
        EXPECT_FALSE(same_bits(expected.codes, before.codes));
        for_each_schedule([&] {
            const DeviceTensor codes(before.codes), codebooks(before.codebooks), scales(before.scales);
            const DeviceTensor quantized(before.quantized), gradient(before.gradient);
            const DeviceTensor hessian(before.hessian), factors(before.factors);
            const SweptCodes view{codes.as<std::uint16_t>(),
                                  codebooks.as<float>(),
                                  scales.as<float>(),
                                  s.rows,
                                  s.columns / s.group,
                                  s.books,
                                  s.size,
                                  s.group};
            const DeviceWorkspace workspace(additive_sweep_workspace(view, s.beam, s.block));
            Gemm gemm;
            additive_sweep(view, quantized.as<float>(), gradient.as<float>(), hessian.as<float>(), factors.as<double>(),
                           s.beam, s.block, gemm, workspace.data(), nullptr);
            EXPECT_TRUE(same_bits(codes.download(), expected.codes));
            EXPECT_TRUE(same_bits(quantized.download(), expected.quantized));
            EXPECT_TRUE(same_bits(gradient.download(), expected.gradient));
        });
    }
}

TEST(CudaAdditiveSweep, RefusesGroupsOutsideTheirBlock) {
    const SweptCodes view{nullptr, nullptr, nullptr, 1, 4, 1, 16, 8};
    const auto run = [&](std::int64_t first, std::int64_t width, std::int64_t column, int beam) {
        additive_group(view, nullptr, nullptr, nullptr, nullptr, nullptr, first, width, column, beam, nullptr, nullptr);
    };
    EXPECT_THROW(run(8, 16, 0, 1), std::invalid_argument);
    EXPECT_THROW(run(8, 16, 24, 1), std::invalid_argument);
    EXPECT_THROW(run(8, 32, 8, 1), std::invalid_argument);
    EXPECT_THROW(run(0, 32, 4, 1), std::invalid_argument);
    EXPECT_THROW(run(0, 32, 0, 9), std::invalid_argument);
}

}  // namespace
}  // namespace pvtune::cuda
