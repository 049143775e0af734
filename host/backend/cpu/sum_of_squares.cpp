#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"

namespace pvtune::cpu {

double sum_of_squares(Tensor values) {
    constexpr std::int64_t chunk = 16384;
    const std::int64_t count = values.elements();
    std::vector<double> partials(static_cast<std::size_t>(chunk_count(count, chunk)));
    with_float_type(values.dtype, [&]<class T>() {
        const T* in = values.as<T>();
        for_chunks(count, chunk, [&](std::int64_t index, std::int64_t begin, std::int64_t end) {
            double sum = 0;
#pragma omp simd reduction(+ : sum)
            for (std::int64_t i = begin; i < end; ++i) {
                const double value = static_cast<double>(to_float(in[i]));
                sum += value * value;
            }
            partials[static_cast<std::size_t>(index)] = sum;
        });
    });
    return ordered_sum(partials);
}

double sum(Tensor values) {
    constexpr std::int64_t chunk = 16384;
    const std::int64_t count = values.elements();
    std::vector<double> partials(static_cast<std::size_t>(chunk_count(count, chunk)));
    for_chunks(count, chunk, [&](std::int64_t index, std::int64_t begin, std::int64_t end) {
        double total = 0;
        for (std::int64_t i = begin; i < end; ++i) total += static_cast<double>(values.as<float>()[i]);
        partials[static_cast<std::size_t>(index)] = total;
    });
    return ordered_sum(partials);
}

std::uint32_t count_flags(Tensor flags) {
    const std::uint8_t* begin = flags.as<std::uint8_t>();
    return static_cast<std::uint32_t>(
        std::count_if(begin, begin + flags.elements(), [](std::uint8_t flag) { return flag != 0; }));
}

}  // namespace pvtune::cpu
