#pragma once

// Running a planted fault and seeing what comes of it.

#include "tests/cuda/device_tensors.h"
#include "tests/emulation/broken_kernels.h"
#include "tests/emulation/fault.h"

namespace pvtune::cuda {

using emulation::KernelFault;
using emulation::Schedule;

constexpr int threads = broken::threads;

inline OwnedTensor counted() {
    OwnedTensor tensor(DType::f32, {threads});
    return tensor.fill([i = 0]() mutable { return i++; });
}

/// What `run` leaves in out for in = 0, 1, ...; the text of the fault instead, if there was one.
struct Outcome {
    Values out;
    std::string fault;
};
template <class Run>
Outcome outcome_of(Run run, Schedule schedule = {}) {
    const DeviceTensor in(counted());
    const DeviceTensor out(DType::f32, {threads});
    Outcome outcome;
    emulation::set_schedule(schedule);
    try {
        run(out.as<float>(), in.as<float>(), nullptr);
    } catch (const KernelFault& fault) {
        outcome.fault = fault.what();
    }
    emulation::set_schedule({});
    outcome.out = values_of(out.download());
    return outcome;
}

/// in = 0, 1, ..., each group of threads turned round.
inline Values rotated(int group, int by = 1) {
    Values expected(threads);
    for (int i = 0; i < threads; ++i) expected[static_cast<std::size_t>(i)] = i / group * group + (i + by) % group;
    return expected;
}

inline bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

template <class Run>
std::string fault_of(Run run) {
    try {
        run();
    } catch (const KernelFault& fault) {
        return fault.what();
    }
    return "";
}

}  // namespace pvtune::cuda
