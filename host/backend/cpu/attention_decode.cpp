#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/simd.h"
#include "host/backend/cpu/soft_cap.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace pvtune::cpu {

void attention_decode(Tensor out, Tensor q, Tensor keys, Tensor values, const AttentionShape& shape) {
    const std::int64_t row = shape.kv_heads * shape.head_dim;
    const std::int64_t first = shape.window > 0 ? std::max<std::int64_t>(0, shape.length - shape.window) : 0;
    const float scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
    with_element(q.dtype, [&]<class T>(T) {
#pragma omp parallel for schedule(static)
        for (std::int64_t head = 0; head < shape.heads; ++head) {
            const std::int64_t column = head / (shape.heads / shape.kv_heads) * shape.head_dim;
            const T* query = q.as<T>() + head * shape.head_dim;
            std::vector<float> weights(static_cast<std::size_t>(shape.length));
            std::vector<float> sum(static_cast<std::size_t>(shape.head_dim));
            float* sums = sum.data();
            float largest = -INFINITY;
            for (std::int64_t t = first; t < shape.length; ++t) {
                const T* key = keys.as<T>() + t * row + column;
                float score = 0;
#pragma omp simd reduction(+ : score)
                for (std::int64_t e = 0; e < shape.head_dim; ++e) score += to_float(query[e]) * to_float(key[e]);
                score *= scale;
                if (shape.cap > 0) score = soft_capped(score, shape.cap);
                weights[static_cast<std::size_t>(t)] = score;
                largest = std::max(largest, score);
            }
            float total = 0;
            for (std::int64_t t = first; t < shape.length; ++t) {
                const float weight = exponential(weights[static_cast<std::size_t>(t)] - largest);
                const T* value = values.as<T>() + t * row + column;
                total += weight;
#pragma omp simd
                for (std::int64_t e = 0; e < shape.head_dim; ++e) sums[e] += weight * to_float(value[e]);
            }
            for (std::int64_t e = 0; e < shape.head_dim; ++e) {
                out.as<T>()[head * shape.head_dim + e] = from_float<T>(sums[e] / total);
            }
        }
    });
}

}  // namespace pvtune::cpu
