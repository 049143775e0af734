// Every fault that the emulated device is meant to catch, planted and caught; the races are in race_test.cpp.
#include "host/backend/cuda/memory.h"
#include "tests/emulation/outcome.h"
#include "tests/emulation/sanitizer.h"

namespace pvtune::cuda {
namespace {

/// At least one order of threads gives a wrong result.
template <class Run>
void expect_wrong(Run run, const Values& right) {
    bool wrong = false;
    for (const Schedule schedule : {Schedule{}, Schedule{Schedule::Order::reverse}}) {
        const Outcome outcome = outcome_of(run, schedule);
        EXPECT_EQ(outcome.fault, "");
        wrong |= outcome.out != right;
    }
    EXPECT_TRUE(wrong);
}

TEST(EmulatorSchedules, ShowAMissingBarrier) {
    expect_wrong(broken::rotate_without_barrier, rotated(threads));
    expect_wrong(broken::rotate_with_warp_barrier, rotated(threads));
    expect_wrong(broken::reuse_without_barrier, rotated(threads, 3));
}

TEST(EmulatorSchedules, LeaveACorrectKernelAlone) {
    for (const Schedule schedule :
         {Schedule{}, Schedule{Schedule::Order::reverse}, Schedule{Schedule::Order::shuffled, 7}}) {
        const Outcome outcome = outcome_of(broken::rotate_in_warps, schedule);
        EXPECT_EQ(outcome.fault, "");
        EXPECT_EQ(outcome.out, rotated(32, 2));
    }
}

TEST(EmulatorAsyncCopy, LandsAtTheWait) {
    const Outcome outcome = outcome_of(broken::copy_with_wait);
    EXPECT_EQ(outcome.fault, "");
    EXPECT_EQ(outcome.out, values_of(counted()));
}

TEST(EmulatorAsyncCopy, MissingWaitIsNan) {
    for (const double value : outcome_of(broken::copy_without_wait).out) EXPECT_TRUE(std::isnan(value));
}

TEST(EmulatorAsyncCopy, WaitIsNoBarrier) {
    EXPECT_NE(outcome_of(broken::copy_without_barrier, {Schedule::Order::reverse}).out, values_of(counted()));
}

void expect_fault(void (*run)(Stream), std::initializer_list<const char*> parts) {
    for (const Schedule schedule : {Schedule{}, Schedule{Schedule::Order::reverse}}) {
        emulation::set_schedule(schedule);
        const std::string fault = fault_of([&] { run(nullptr); });
        for (const char* part : parts) EXPECT_TRUE(has(fault, part)) << "no '" << part << "' in: " << fault;
    }
    emulation::set_schedule({});
    // The next launch is none the worse for it.
    const Outcome outcome = outcome_of(broken::copy_with_wait);
    EXPECT_EQ(outcome.fault, "");
    EXPECT_EQ(outcome.out, values_of(counted()));
}

TEST(EmulatorBarrier, Divergence) {
    expect_fault(broken::diverge_at_barrier, {"thread (", "another barrier holds", "broken_kernels.cu:"});
}

TEST(EmulatorBarrier, StuckThreadsAreListed) {
    expect_fault(broken::barrier_against_shuffle,
                 {"cannot go on", "in __syncthreads at ", "in __shfl_xor_sync mask ffffffff at "});
}

TEST(EmulatorWarp, LaneGone) {
    expect_fault(broken::shuffle_with_gone_lane, {"waits for lanes 00000080", "broken_kernels.cu:"});
    expect_fault(broken::leave_a_shuffle,
                 {"returned, but thread (", "in __shfl_xor_sync mask ffffffff at ", "waits for it"});
}

TEST(EmulatorWarp, PartOfAWarpHasNoFullMask) {
    expect_fault(broken::shuffle_in_part_of_a_warp, {"lanes ffffff00, which have returned or do not exist"});
}

TEST(EmulatorWarp, MasksDiffer) { expect_fault(broken::mismatch_masks, {"__shfl_xor_sync", "broken_kernels.cu:"}); }

TEST(EmulatorWarp, OperationsDiffer) {
    expect_fault(broken::mismatch_operations, {"__shfl_xor_sync", "__ballot_sync", "waits for it"});
}

TEST(EmulatorWarp, OwnLaneNotInMask) {
    expect_fault(broken::mask_without_own_lane, {"mask fffffffe, which lacks its own lane 0"});
}

TEST(EmulatorMemory, FreshMemoryIsNan) {
    const DeviceTensor fresh(DType::f32, {3});
    for (const double value : values_of(fresh.download())) EXPECT_TRUE(std::isnan(value));
    for (const auto run : {broken::read_fresh_static, broken::read_fresh_dynamic}) {
        if (emulation::address_sanitizer && run == broken::read_fresh_static) continue;  // a plain static there
        const DeviceTensor out(DType::f32, {threads});
        const std::string fault = fault_of([&] { run(out.as<float>(), nullptr); });
        EXPECT_EQ(fault, "");
        const Values values = values_of(out.download());
        EXPECT_EQ(values.front(), 1);
        EXPECT_TRUE(std::isnan(values.back()));
    }
}

template <class Run>
void expect_overflow(Run run, const char* part) {
    if (emulation::address_sanitizer) {
        EXPECT_DEATH(run(), "AddressSanitizer");
        return;
    }
    const std::string fault = fault_of(run);
    EXPECT_TRUE(has(fault, part)) << fault;
}

TEST(EmulatorMemory, WritesBeyondDynamicSharedMemory) {
    expect_overflow([] { broken::write_beyond_dynamic(threads, nullptr); }, "dynamic shared memory");
}

TEST(EmulatorMemory, WritesBeyondDeviceMemory) {
    DeviceTensor out(DType::f32, {threads - 1});
    expect_overflow([&] { broken::write_at(out.as<float>(), threads - 1, nullptr); }, "beyond the end");
}

TEST(EmulatorMemory, WritesBeforeDeviceMemory) {
    DeviceTensor out(DType::f32, {threads - 1});
    expect_overflow([&] { broken::write_at(out.as<float>(), -1, nullptr); }, "before the start");
}

#ifdef __SANITIZE_ADDRESS__

TEST(EmulatorMemory, WritesBeyondStaticSharedMemory) {
    const DeviceTensor out(DType::f32, {1});
    EXPECT_DEATH(broken::write_beyond_static(out.as<float>(), threads, nullptr), "AddressSanitizer");
}

TEST(EmulatorMemory, MisalignedVectors) {
    const DeviceTensor in(counted());
    const DeviceTensor out(counted());
    EXPECT_DEATH(broken::load_misaligned(out.as<float>(), in.as<float>() + 1, nullptr), "misaligned");
}

TEST(EmulatorMemory, HostMayNotTouchDeviceMemory) {
    const DeviceTensor tensor(counted());
    EXPECT_DEATH(EXPECT_EQ(tensor.as<float>()[3], 3), "AddressSanitizer");
}

#endif

#ifndef __SANITIZE_ADDRESS__

TEST(EmulatorMemory, StaticSharedMemoryBesideDynamicIsLimited) {
    expect_fault(broken::keep_much_beside_dynamic, {"20000 bytes of static shared memory"});
}

#endif

TEST(EmulatorMemory, CopiesMustFit) {
    const DeviceTensor tensor(counted());
    OwnedTensor host = counted();
    EXPECT_EQ(cudaMemcpy(host->data, tensor.as<float>() + 1, threads * sizeof(float), cudaMemcpyDeviceToHost),
              cudaErrorInvalidValue);
    EXPECT_EQ(cudaMemcpy(host->data, tensor.as<float>(), threads * sizeof(float), cudaMemcpyHostToDevice),
              cudaErrorInvalidValue);
    EXPECT_EQ(cudaFree(host->data), cudaErrorInvalidValue);
    EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
}

TEST(EmulatorLaunch, RefusesWhatADeviceRefuses) {
    EXPECT_NO_THROW(broken::launch_shape(2, 1024, 227 * 1024, nullptr));
    EXPECT_THROW(broken::launch_shape(0, 32, 0, nullptr), CudaError);
    EXPECT_THROW(broken::launch_shape(1, 0, 0, nullptr), CudaError);
    EXPECT_THROW(broken::launch_shape(1, 1025, 0, nullptr), CudaError);
    EXPECT_THROW(broken::launch_shape(1, 32, 227 * 1024 + 1, nullptr), CudaError);
}

TEST(EmulatorLaunch, ReportsAFailureThatNobodyAskedFor) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, std::size_t{1} << 50), cudaErrorMemoryAllocation);
    EXPECT_EQ(cudaPeekAtLastError(), cudaErrorMemoryAllocation);
    EXPECT_THROW(broken::launch_shape(1, 32, 0, nullptr), CudaError);
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
    EXPECT_NO_THROW(broken::launch_shape(1, 32, 0, nullptr));
}

TEST(EmulatorLaunch, AFailureThatWasToldIsNotTheNextLaunchs) {
    const std::size_t too_much = std::size_t{1} << 50;
    EXPECT_THROW(DeviceMemory{too_much}, CudaError);
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
    EXPECT_THROW(broken::launch_shape(1, 1025, 0, nullptr), CudaError);
    EXPECT_NO_THROW(broken::launch_shape(1, 32, 0, nullptr));
}

}  // namespace
}  // namespace pvtune::cuda
