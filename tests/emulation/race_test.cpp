// The race detector: planted races are found and named, what is ordered is left alone.
#include "tests/emulation/outcome.h"

namespace pvtune::cuda {
namespace {

template <class Run>
void expect_race(Run run) {
    for (const Schedule schedule : {Schedule{}, Schedule{Schedule::Order::shuffled, 7}}) {
        const std::string fault = outcome_of(run, schedule).fault;
        EXPECT_TRUE(has(fault, "shared values + ")) << fault;
        EXPECT_TRUE(has(fault, "broken_kernels.cu:")) << fault;
    }
}

TEST(RaceDetector, IsThere) { EXPECT_TRUE(emulation::watches_races()); }

TEST(RaceDetector, MissingBarrier) {
    expect_race(broken::rotate_without_barrier);
    expect_race(broken::rotate_with_warp_barrier);
    expect_race(broken::reuse_without_barrier);
}

TEST(RaceDetector, WaitForACopyIsNoBarrier) { expect_race(broken::copy_without_barrier); }

TEST(RaceDetector, WarpBarrierOrdersLanes) {
    const Outcome outcome = outcome_of(broken::rotate_in_warps);
    EXPECT_EQ(outcome.fault, "");
    EXPECT_EQ(outcome.out, rotated(32, 2));
}

TEST(RaceDetector, ShuffleOrdersNoMemory) { expect_race(broken::rotate_after_shuffle); }

TEST(RaceDetector, BarrierOrdersCopies) { EXPECT_EQ(outcome_of(broken::copy_with_wait).fault, ""); }

TEST(RaceDetector, BlocksMeetInAtomicOperationsOnly) {
    const DeviceTensor sum(OwnedTensor(DType::u32, {1}));
    EXPECT_EQ(fault_of([&] { broken::count_blocks(sum.as<std::uint32_t>(), true, nullptr); }), "");
    const std::string fault = fault_of([&] { broken::count_blocks(sum.as<std::uint32_t>(), false, nullptr); });
    EXPECT_TRUE(has(fault, "device memory + 0")) << fault;
    EXPECT_TRUE(has(fault, "of block 0")) << fault;
}

TEST(RaceDetector, LastBlockNeedsAFence) {
    const auto run = [](bool fence) {
        const DeviceTensor sum(DType::f32, {1});
        const DeviceTensor partials(DType::f32, {3});
        const DeviceTensor counter(OwnedTensor(DType::u32, {1}));
        return fault_of([&] {
            broken::sum_in_last_block(sum.as<float>(), partials.as<float>(), counter.as<std::uint32_t>(), fence,
                                      nullptr);
        });
    };
    EXPECT_EQ(run(true), "");
    EXPECT_TRUE(has(run(false), "device memory"));
}

}  // namespace
}  // namespace pvtune::cuda
