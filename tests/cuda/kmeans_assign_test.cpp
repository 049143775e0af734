#include "host/backend/cpu/beam_search.h"
#include "tests/cuda/device_tensors.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

void expect_nearest(std::int64_t count, std::int64_t centres, std::int64_t dim, bool with_distances) {
    const OwnedTensor points = random_tensor(DType::f32, {count, dim}, 1);
    OwnedTensor table = random_tensor(DType::f32, {centres, dim}, 2);
    // Centres that occur again, so that the lower index has to win; the last one among them.
    for (std::int64_t k = 3; k < centres; k += 4) {
        std::copy_n(table->as<float>() + (k - 3) * dim, dim, table->as<float>() + k * dim);
    }
    const cpu::BeamSettings nearest{1, 1};
    const auto tables = cpu::make_codebook_tables(table->as<float>(), 1, centres, dim, count, nearest);
    std::vector<std::uint16_t> codes(static_cast<std::size_t>(count), static_cast<std::uint16_t>(centres - 1));
    cpu::search_codes(tables, points->as<float>(), codes.data(), count, nearest);

    const DeviceTensor device_points(points);
    const DeviceTensor device_centres(table);
    const DeviceTensor device_codes(DType::u32, {count});
    const DeviceTensor distances(DType::f32, {count});
    kmeans_assign(device_codes.as<std::uint32_t>(), with_distances ? distances.as<float>() : nullptr,
                  device_points.as<float>(), device_centres.as<float>(), count, centres, dim, nullptr);
    const OwnedTensor got = device_codes.download();
    const OwnedTensor far = distances.download();
    for (std::int64_t i = 0; i < count; ++i) {
        const auto code = static_cast<std::uint16_t>(got->as<std::uint32_t>()[i]);
        ASSERT_EQ(code, codes[static_cast<std::size_t>(i)]) << "point " << i;
        if (!with_distances) continue;
        const float expected = cpu::code_distance(tables, points->as<float>() + i * dim, &code);
        ASSERT_NEAR(far->as<float>()[i], expected, 1e-6F * expected);
    }
}

TEST(CudaKmeansAssign, MatchesTheCpuWithTies) {
    for_each_schedule([] {
        for (const std::int64_t dim : {4, 8, 16}) {
            for (const std::int64_t centres : {1, 7, 300}) {
                for (const std::int64_t count : {1, 129, 1000}) expect_nearest(count, centres, dim, count != 129);
            }
        }
    });
}

TEST(CudaKmeansAssign, SeveralPointsAThread) {
    // Enough points for 264 blocks with several each.
    expect_nearest(264 * 128 * 4 + 77, 8, 8, true);
    expect_nearest(264 * 128 * 2 + 1, 4, 16, false);
    expect_nearest(264 * 128 * 4 + 1, 5, 4, true);
}

TEST(CudaKmeansAssign, APointThatIsNotFiniteGoesToTheFirst) {
    OwnedTensor points = random_tensor(DType::f32, {3, 8}, 1);
    points.set(8, NAN);
    const DeviceTensor device_points(points);
    const DeviceTensor centres(random_tensor(DType::f32, {5, 8}, 2));
    const DeviceTensor codes(DType::u32, {3});
    kmeans_assign(codes.as<std::uint32_t>(), nullptr, device_points.as<float>(), centres.as<float>(), 3, 5, 8, nullptr);
    EXPECT_EQ(codes.download()->as<std::uint32_t>()[1], 0U);
}

TEST(CudaKmeansAssign, RefusesWhatItDoesNotCover) {
    EXPECT_THROW(kmeans_assign(nullptr, nullptr, nullptr, nullptr, 1, 4, 5, nullptr), std::invalid_argument);
    EXPECT_THROW(kmeans_assign(nullptr, nullptr, nullptr, nullptr, 1, 0, 8, nullptr), std::invalid_argument);
    EXPECT_NO_THROW(kmeans_assign(nullptr, nullptr, nullptr, nullptr, 0, 4, 8, nullptr));
}

}  // namespace
}  // namespace pvtune::cuda
