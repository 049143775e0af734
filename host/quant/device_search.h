#pragma once

#include "host/quant/codebook_fit.h"
#include "host/quant/device_scratch.h"

namespace pvtune {

/// Ops::search_codes on the backend's device for codes [count, books] that are on the host.
inline void search_codes(Backend& backend, const WeightedPoints& points, const Codebooks& codebooks,
                         std::span<std::uint16_t> codes, int beam, int sweeps) {
    DeviceScratch scratch(backend);
    const std::int64_t count = points.count();
    const Tensor found = scratch.upload<std::uint16_t>(codes, {count, codebooks.books});
    backend.ops().search_codes(found, scratch.upload(points.points, {count, points.group}),
                               scratch.upload<float>(codebooks.values, {codebooks.books, codebooks.size, points.group}),
                               beam, sweeps);
    backend.download(codes.data(), found);
}

}  // namespace pvtune
