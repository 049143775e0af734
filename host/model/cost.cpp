#include "host/model/cost.h"

#include <algorithm>

namespace pvtune {

double forward_flops(const ModelConfig& config, std::int64_t tokens, std::int64_t length) {
    const auto width = static_cast<double>(config.width);
    const auto queries = static_cast<double>(config.heads * config.head_dim);
    const auto keys = static_cast<double>(config.kv_heads * config.head_dim);
    const double block = 2 * width * queries + 2 * width * keys + 3 * width * static_cast<double>(config.intermediate);
    const double weights = static_cast<double>(config.layers) * block + width * static_cast<double>(config.vocabulary);
    const std::int64_t reach = config.window > 0 ? std::min(config.window, length) : length;
    // Tokens before position `reach` see half of it on average, those after see all.
    const double seen =
        static_cast<double>(reach) * (1 - 0.5 * static_cast<double>(reach) / static_cast<double>(length));
    return static_cast<double>(tokens) * (2 * weights + 4 * static_cast<double>(config.layers) * seen * queries);
}

}  // namespace pvtune
