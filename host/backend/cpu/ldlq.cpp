#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/e8p_search.h"
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cpu/scratch.h"

namespace pvtune::cpu {
namespace {

constexpr std::int64_t group = 8;
constexpr std::int64_t lanes = 32;  // rows that go through the columns together

}  // namespace

void ldlq(Tensor codes, Tensor target, Tensor shares) {
    const std::int64_t rows = codes.dim(0);
    const std::int64_t blocks = codes.dim(1);
    const std::int64_t bytes = codes.dim(2);
    const std::int64_t columns = blocks * group;
    for_chunks(rows, lanes, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        static thread_local Scratch memory;
        auto* errors = memory.get<float>(columns * lanes);  // [columns, lanes]: the target less what stands for it
        for (std::int64_t block = 0; block < blocks; ++block) {
            const std::int64_t first = block * group;
            float sums[group][lanes] = {};
            const float* from = shares.as<float>() + first * columns;
            for (std::int64_t j = 0; j < first; ++j) {
                const float* error = errors + j * lanes;
                for (std::int64_t c = 0; c < group; ++c) {
                    const float factor = from[c * columns + j];
#pragma omp simd
                    for (std::int64_t i = 0; i < lanes; ++i) sums[c][i] += factor * error[i];
                }
            }
            std::fill_n(errors + first * lanes, group * lanes, 0.0F);
            for (std::int64_t row = begin; row < end; ++row) {
                const std::int64_t lane = row - begin;
                const float* wanted = target.as<float>() + row * columns + first;
                float x[group];
                for (std::int64_t c = 0; c < group; ++c) x[c] = wanted[c] + sums[c][lane];
                std::uint8_t* code = codes.as<std::uint8_t>() + (row * blocks + block) * bytes;
                encode_group(code, x, bytes);
                decode_group(x, code, bytes);
                for (std::int64_t c = 0; c < group; ++c) errors[(first + c) * lanes + lane] = wanted[c] - x[c];
            }
        }
    });
}

}  // namespace pvtune::cpu
