#include "host/bench/fingerprint.h"

#include "host/common/text.h"

#include <xxhash.h>
#include <vector>

namespace pvtune {

std::string fingerprint(Backend& backend, const BenchEntry& entry, Operands& operands) {
    operands.clear();
    const BenchCall call = entry.make(operands);
    if (call.before) call.before();
    call.run();
    const Tensor used = operands.used();
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(used.bytes()));
    backend.download(bytes.data(), used);
    const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
    return format("%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                  static_cast<unsigned long long>(hash.low64));
}

}  // namespace pvtune
