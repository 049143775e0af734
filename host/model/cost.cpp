#include "host/model/cost.h"

#include <algorithm>

namespace pvtune {

double forward_flops(const ModelConfig& config, std::int64_t tokens, std::int64_t length) {
    const auto width = static_cast<double>(config.width);
    const auto queries = static_cast<double>(config.heads * config.head_dim);
    const auto keys = static_cast<double>(config.kv_heads * config.head_dim);
    const double block = 2 * width * queries + 2 * width * keys + 3 * width * static_cast<double>(config.intermediate);
    const double weights = static_cast<double>(config.layers) * block + width * static_cast<double>(config.vocabulary);
    double seen = 0;  // keys a token, summed over the layers
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
        const std::int64_t window = config.window_of(layer);
        const auto reach = static_cast<double>(window > 0 ? std::min(window, length) : length);
        // Tokens before position `reach` see half of it on average, those after see all.
        seen += reach * (1 - 0.5 * reach / static_cast<double>(length));
    }
    return static_cast<double>(tokens) * (2 * weights + 4 * seen * queries);
}

}  // namespace pvtune
