// Any bytes as a config.json: an Error or a configuration whose sizes are positive.
#include "host/model/config.h"
#include "io/error.h"

#include <cstddef>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const auto config = pvtune::parse_config(std::string(reinterpret_cast<const char*>(data), size), "config.json");
        if (config.vocabulary <= 0 || config.width <= 0 || config.intermediate <= 0 || config.layers <= 0) std::abort();
        if (config.heads <= 0 || config.kv_heads <= 0 || config.head_dim <= 0) std::abort();
    } catch (const pvtune::Error&) {
    }
    return 0;
}
