#include "host/backend/cpu/quant_ops.h"
#include "tests/cuda/device_tensors.h"

#include <cmath>
#include <limits>
#include <stdexcept>

namespace pvtune::cuda {
namespace {

void expect_selection(const OwnedTensor& scores, std::int64_t wanted) {
    OwnedTensor expected(DType::u32, {wanted});
    cpu::select_largest(expected, scores);
    const DeviceTensor device_scores(scores);
    const DeviceTensor indices(DType::u32, {wanted});
    const DeviceWorkspace workspace(select_largest_workspace(wanted, scores->elements()));
    select_largest(indices.as<std::uint32_t>(), device_scores.as<float>(), wanted, scores->elements(), workspace.data(),
                   nullptr);
    EXPECT_TRUE(same_bits(indices.download(), expected)) << wanted << " of " << scores->elements();
}

TEST(CudaSelectLargest, MatchesTheCpuWithTiesOfEveryKind) {
    for_each_schedule([] {
        std::mt19937 engine(10);
        for (const std::int64_t count : {1, 100, 2099}) {
            for (const int kinds : {1, 50, 1 << 20}) {  // few kinds of scores: many ties
                OwnedTensor scores(DType::f32, {count});
                scores.fill([&] {
                    return static_cast<double>(engine() % static_cast<unsigned>(kinds)) * 1e-3 -
                           (kinds == 50 ? 0.02 : 0);
                });
                for (const std::int64_t wanted : {std::int64_t{0}, std::int64_t{1}, count / 3, count}) {
                    expect_selection(scores, wanted);
                }
            }
        }
    });
}

TEST(CudaSelectLargest, SeveralTilesABlock) {
    std::mt19937 engine(11);
    OwnedTensor scores(DType::f32, {528 * 512 + 1000});
    scores.fill([&] { return static_cast<double>(engine() % 4096) * 1e-3; });
    expect_selection(scores, 2713);
}

TEST(CudaSelectLargest, StrangeScores) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const float values[] = {NAN, -infinity, -0.0F, 0.0F, -1.0F, infinity, -NAN, 1e-45F};
    OwnedTensor scores(DType::f32, {8});
    for (int i = 0; i < 8; ++i) scores->as<float>()[i] = values[i];
    for (std::int64_t wanted = 1; wanted <= 8; ++wanted) expect_selection(scores, wanted);
}

TEST(CudaSelectLargest, RefusesMoreThanThereAre) {
    EXPECT_THROW(select_largest(nullptr, nullptr, 3, 2, nullptr, nullptr), std::invalid_argument);
}

}  // namespace
}  // namespace pvtune::cuda
