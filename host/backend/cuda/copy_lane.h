#pragma once

#include "cuda/runtime.h"

#include <array>
#include <cstdint>

namespace pvtune::cuda {

/// A stream with one owner; it does not wait for the default stream.
struct StreamOwner {
    cudaStream_t stream = nullptr;
    StreamOwner() { check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream"); }
    ~StreamOwner() { cudaStreamDestroy(stream); }
    StreamOwner(const StreamOwner&) = delete;
    StreamOwner& operator=(const StreamOwner&) = delete;
};

/// An event without time, with one owner.
struct EventOwner {
    cudaEvent_t event = nullptr;
    EventOwner() { check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event"); }
    ~EventOwner() { cudaEventDestroy(event); }
    EventOwner(const EventOwner&) = delete;
    EventOwner& operator=(const EventOwner&) = delete;
};

/// Copies of one direction, one after another, on a stream of their own beside the one that computes.
class CopyLane {
public:
    /// Starts when all that `compute` was given so far is done. Returns the number of the copy.
    std::int64_t start(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t compute) {
        check(cudaEventRecord(ready_.event, compute), "the start of a copy");
        check(cudaStreamWaitEvent(stream_.stream, ready_.event, 0), "the start of a copy");
        check(cudaMemcpyAsync(to, from, bytes, kind, stream_.stream), "a copy beside the work");
        check(cudaEventRecord(done(count_), stream_.stream), "the end of a copy");
        return count_++;
    }

    /// What `compute` is given from here on waits for the copy. When its event serves a later copy by now, it waits for
    /// that one: copies end in order.
    void wait(std::int64_t number, cudaStream_t compute) {
        check(cudaStreamWaitEvent(compute, done(number), 0), "the end of a copy");
    }

    void synchronize() { check(cudaStreamSynchronize(stream_.stream), "copies between host and device"); }

private:
    cudaEvent_t done(std::int64_t number) const { return done_[static_cast<std::size_t>(number) % done_.size()].event; }

    StreamOwner stream_;
    EventOwner ready_;
    std::array<EventOwner, 64> done_;
    std::int64_t count_ = 0;
};

}  // namespace pvtune::cuda
