// The emulated runtime apart from memory: the device, errors, streams, events.
#include "cuda/device_limits.h"
#include "tests/emulation/circumstances.h"
#include "tests/emulation/cuda_runtime_api.h"
#include "tests/emulation/device_limits.h"
#include "tests/emulation/last_error.h"

#include <chrono>
#include <cstdio>
#include <utility>

using namespace pvtune::cuda::emulation;

struct CUstream_st {};
struct CUevent_st {
    std::chrono::steady_clock::time_point time;
    bool recorded = false;
};

const char* cudaGetErrorString(cudaError_t status) {
    switch (status) {
        case cudaSuccess:
            return "no error";
        case cudaErrorInvalidValue:
            return "invalid value";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorInvalidConfiguration:
            return "invalid launch configuration";
        case cudaErrorInvalidDevice:
            return "no such device";
        case cudaErrorNoDevice:
            return "no CUDA-capable device is detected";
        case cudaErrorLaunchFailure:
            return "unspecified launch failure";
        case cudaErrorInvalidResourceHandle:
            return "invalid handle";
        case cudaErrorNotReady:
            return "not ready";
    }
    return "unknown error";
}
const char* cudaGetErrorName(cudaError_t status) { return cudaGetErrorString(status); }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDeviceCount(int* count) {
    *count = circumstances().devices;
    return kept(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) { return kept(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (device != 0) return kept(cudaErrorInvalidDevice);
    *properties = {};
    std::snprintf(properties->name, sizeof(properties->name), "emulated device");
    std::size_t free_bytes = 0;
    cudaMemGetInfo(&free_bytes, &properties->totalGlobalMem);
    properties->sharedMemPerBlock = pvtune::cuda::shared_bytes_without_asking;
    properties->sharedMemPerBlockOptin = most_shared_bytes;
    properties->warpSize = warp_lanes;
    properties->maxThreadsPerBlock = most_threads;
    properties->multiProcessorCount = multiprocessors;
    properties->major = circumstances().compute_capability / 10;
    properties->minor = circumstances().compute_capability % 10;
    properties->l2CacheSize = l2_bytes;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    if (device != 0) return kept(cudaErrorInvalidDevice);
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock:
            *value = most_threads;
            return cudaSuccess;
        case cudaDevAttrMultiProcessorCount:
            *value = multiprocessors;
            return cudaSuccess;
        case cudaDevAttrL2CacheSize:
            *value = l2_bytes;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMajor:
            *value = circumstances().compute_capability / 10;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMinor:
            *value = circumstances().compute_capability % 10;
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = most_shared_bytes;
            return cudaSuccess;
    }
    return kept(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) {
    *version = 0;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = 0;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    *stream = new CUstream_st;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    *event = new CUevent_st;
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    event->time = std::chrono::steady_clock::now();
    event->recorded = true;
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
    if (!start->recorded || !stop->recorded) return kept(cudaErrorInvalidResourceHandle);
    *milliseconds = std::chrono::duration<float, std::milli>(stop->time - start->time).count();
    return cudaSuccess;
}
