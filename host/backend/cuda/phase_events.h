#pragma once

#include "cuda/runtime.h"

#include <vector>

namespace pvtune::cuda {

/// Seconds that a stream spends in each phase, by events on it: nothing waits before end(). Events are made in the
/// first step and used again in the next.
class PhaseEvents {
public:
    PhaseEvents() = default;
    PhaseEvents(const PhaseEvents&) = delete;
    PhaseEvents& operator=(const PhaseEvents&) = delete;
    ~PhaseEvents() {
        for (const cudaEvent_t event : events_) cudaEventDestroy(event);
    }

    void enter(int phase, cudaStream_t stream) {
        if (phases_.size() == events_.size()) {
            cudaEvent_t event = nullptr;
            check(cudaEventCreate(&event), "an event");
            events_.push_back(event);
        }
        check(cudaEventRecord(events_[phases_.size()], stream), "the time of a phase");
        phases_.push_back(phase);
    }

    /// Waits for the stream.
    std::vector<double> end(int count, cudaStream_t stream) {
        enter(count, stream);
        check(cudaEventSynchronize(events_[phases_.size() - 1]), "the end of a step");
        std::vector<double> seconds(static_cast<std::size_t>(count));
        for (std::size_t i = 0; i + 1 < phases_.size(); ++i) {
            float milliseconds = 0;
            check(cudaEventElapsedTime(&milliseconds, events_[i], events_[i + 1]), "the time of a phase");
            seconds[static_cast<std::size_t>(phases_[i])] += static_cast<double>(milliseconds) * 1e-3;
        }
        phases_.clear();
        return seconds;
    }

private:
    std::vector<cudaEvent_t> events_;
    std::vector<int> phases_;  ///< that each event began
};

}  // namespace pvtune::cuda
