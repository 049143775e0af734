#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/quant_ops.h"
#include "tests/cuda/device_tensors.h"

#include <limits>

namespace pvtune::cuda {
namespace {

/// Every third of `groups`, from the end.
OwnedTensor some_groups(std::int64_t groups) {
    OwnedTensor chosen(DType::u32, {(groups + 2) / 3});
    for (std::int64_t i = 0; i < chosen->elements(); ++i) chosen.set(i, static_cast<double>(groups - 1 - 3 * i));
    return chosen;
}

OwnedTensor scores_of(std::int64_t count) {
    OwnedTensor scores = random_tensor(DType::f32, {count}, 1);
    for (std::int64_t i = 0; i < count; ++i) scores.set(i, std::abs(static_cast<double>(scores->as<float>()[i])));
    return scores;
}

TEST(CudaSamplingKeys, MatchTheCpu) {
    for (const std::int64_t count : {1, 255, 1000}) {
        OwnedTensor scores = scores_of(count);
        if (count > 1) scores.set(7, 0);
        for (const float inverse_temperature : {0.0F, 1.0F, 0.3F}) {
            OwnedTensor expected(DType::f32, {count});
            cpu::sampling_keys(expected, scores, inverse_temperature, 77);
            const DeviceTensor device_scores(scores);
            for_each_schedule([&] {
                const DeviceTensor keys(DType::f32, {count});
                sampling_keys(keys.as<float>(), device_scores.as<float>(), count, inverse_temperature, 77, nullptr);
                const OwnedTensor got = keys.download();
                for (std::int64_t j = 0; j < count; ++j) {
                    const float key = expected->as<float>()[j];
                    // Two logarithms of a few units in the last place.
                    if (std::isfinite(key)) {
                        EXPECT_NEAR(got->as<float>()[j], key, 1e-5F * (1 + std::abs(key)));
                    } else {
                        EXPECT_EQ(got->as<float>()[j], key);
                    }
                }
            });
        }
    }
}

TEST(CudaRoundRobin, MatchesTheCpu) {
    for (const std::int64_t count : {1, 300}) {
        OwnedTensor expected(DType::u32, {count});
        cpu::round_robin(expected, 290, 301);
        const DeviceTensor indices(DType::u32, {count});
        round_robin(indices.as<std::uint32_t>(), count, 290, 301, nullptr);
        EXPECT_TRUE(same_bits(indices.download(), expected));
    }
}

TEST(CudaScoreHistogram, MatchesTheCpu) {
    for (const std::int64_t count : {1, 1000, 264 * 256 + 77}) {
        OwnedTensor scores = scores_of(count);
        const float strange[] = {NAN, -1, -0.0F, std::numeric_limits<float>::infinity(), 1e-45F};
        for (std::int64_t i = 0; i < 5 && count > 5; ++i) scores->as<float>()[i] = strange[i];
        OwnedTensor expected(DType::u32, {1024});
        cpu::score_histogram(expected, scores);
        const DeviceTensor device_scores(scores);
        const DeviceTensor histogram(DType::u32, {1024});
        score_histogram(histogram.as<std::uint32_t>(), device_scores.as<float>(), count, nullptr);
        EXPECT_TRUE(same_bits(histogram.download(), expected)) << count;
    }
}

TEST(CudaScatterDifference, MatchesTheCpu) {
    const OwnedTensor chosen = some_groups(1000);
    const std::int64_t count = chosen->elements();
    const OwnedTensor before = random_tensor(DType::f32, {count}, 2);
    const OwnedTensor after = random_tensor(DType::f32, {count}, 3);
    OwnedTensor expected = scores_of(1000);
    const DeviceTensor scores(expected);
    cpu::scatter_difference(expected, before, after, chosen);
    const DeviceTensor device_before(before);
    const DeviceTensor device_after(after);
    const DeviceTensor device_chosen(chosen);
    scatter_difference(scores.as<float>(), device_before.as<float>(), device_after.as<float>(),
                       device_chosen.as<std::uint32_t>(), count, nullptr);
    EXPECT_TRUE(same_bits(scores.download(), expected));
}

TEST(CudaKeepByChance, MatchesTheCpu) {
    const OwnedTensor chosen = some_groups(2000);
    const std::int64_t count = chosen->elements();
    OwnedTensor nearest = random_tensor(DType::f32, {count}, 4);
    OwnedTensor second = random_tensor(DType::f32, {count}, 5);
    for (std::int64_t i = 0; i < count; ++i) {
        float& least = nearest->as<float>()[i];
        least = i % 50 == 0 ? 0 : std::abs(least);
        second->as<float>()[i] = least + std::abs(second->as<float>()[i]);
    }
    for (const float temperature : {0.5F, 1.0F, 7.0F}) {
        OwnedTensor expected(DType::u8, {count});
        cpu::keep_by_chance(expected, nearest, second, chosen, temperature, 9);
        const DeviceTensor device_nearest(nearest);
        const DeviceTensor device_second(second);
        const DeviceTensor device_chosen(chosen);
        const DeviceTensor keep(DType::u8, {count});
        keep_by_chance(keep.as<std::uint8_t>(), device_nearest.as<float>(), device_second.as<float>(),
                       device_chosen.as<std::uint32_t>(), count, temperature, 9, nullptr);
        // A number by chance within a rounding of the probability may fall on its other side: none of these does.
        EXPECT_TRUE(same_bits(keep.download(), expected)) << temperature;
    }
}

TEST(CudaNoteReturns, MatchesTheCpu) {
    for (const DType type : {DType::u8, DType::u16}) {
        for (const std::int64_t width : {1, 3}) {
            const OwnedTensor chosen = some_groups(500);
            const std::int64_t count = chosen->elements();
            std::mt19937 engine(6);
            const auto codes = [&](std::int64_t rows) {
                OwnedTensor tensor(type, {rows, width});
                for (std::int64_t i = 0; i < tensor->bytes(); ++i) {
                    tensor->data[i] = static_cast<std::byte>(engine() % 2);
                }
                return tensor;
            };
            const OwnedTensor before = codes(count);
            const OwnedTensor now = codes(count);
            OwnedTensor history = codes(500);
            const DeviceTensor device_history(history);
            OwnedTensor returned(DType::u8, {count});
            OwnedTensor differ(DType::u8, {count});
            cpu::note_returns(returned, history, now, before, chosen);
            cpu::rows_differ(differ, now, before);
            const DeviceTensor device_before(before);
            const DeviceTensor device_now(now);
            const DeviceTensor device_chosen(chosen);
            const DeviceTensor device_returned(DType::u8, {count});
            const DeviceTensor device_differ(DType::u8, {count});
            const std::int64_t bytes = before->bytes() / count;
            note_returns(device_returned.as<std::uint8_t>(), device_history.tensor().data, device_now.tensor().data,
                         device_before.tensor().data, device_chosen.as<std::uint32_t>(), count, bytes, nullptr);
            rows_differ(device_differ.as<std::uint8_t>(), device_now.tensor().data, device_before.tensor().data, count,
                        bytes, nullptr);
            EXPECT_TRUE(same_bits(device_returned.download(), returned));
            EXPECT_TRUE(same_bits(device_history.download(), history));
            EXPECT_TRUE(same_bits(device_differ.download(), differ));
        }
    }
}

TEST(CudaSum, AndScaledSumMatchTheCpu) {
    for (const std::int64_t count : {0, 1, 5000, 100003}) {
        const OwnedTensor values = random_tensor(DType::f32, {count}, 7);
        OwnedTensor sums = random_tensor(DType::f32, {count}, 8);
        const DeviceTensor device_values(values);
        const DeviceTensor device_sums(sums);
        const DeviceTensor total(DType::f64, {1});
        const DeviceWorkspace workspace(sum_of_squares_workspace(count));
        sum(total.as<double>(), device_values.as<float>(), count, workspace.data(), nullptr);
        // f64 sums of f32 numbers of about 1, in two orders.
        EXPECT_NEAR(total.download()->as<double>()[0], cpu::sum(values), 1e-12 * static_cast<double>(count + 1));
        cpu::add_scaled(sums, values, 0.3F);
        add_scaled(device_sums.as<float>(), device_values.as<float>(), 0.3F, count, nullptr);
        EXPECT_TRUE(same_bits(device_sums.download(), sums));
    }
}

}  // namespace
}  // namespace pvtune::cuda
