#include "host/backend/cpu/beam_search.h"
#include "tests/cuda/device_tensors.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

void expect_nearest(std::int64_t count, std::int64_t centres, std::int64_t dim) {
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
    const DeviceTensor device_codes(DType::u16, {count});
    kmeans_assign(device_codes.as<std::uint16_t>(), device_points.as<float>(), device_centres.as<float>(), count,
                  centres, dim, nullptr);
    const OwnedTensor got = device_codes.download();
    for (std::int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(got->as<std::uint16_t>()[i], codes[static_cast<std::size_t>(i)]) << "point " << i;
    }
}

TEST(CudaKmeansAssign, MatchesTheCpuWithTies) {
    for_each_schedule([] {
        for (const std::int64_t dim : {4, 8, 16}) {
            for (const std::int64_t centres : {1, 7, 300}) {
                for (const std::int64_t count : {1, 129, 1000}) expect_nearest(count, centres, dim);
            }
        }
    });
}

TEST(CudaKmeansAssign, SeveralPointsAThread) {
    // Enough points for 264 blocks with several each.
    expect_nearest(264 * 128 * 4 + 77, 8, 8);
    expect_nearest(264 * 128 * 2 + 1, 4, 16);
    expect_nearest(264 * 128 * 4 + 1, 5, 4);
}

TEST(CudaKmeansAssign, APointThatIsNotFiniteKeepsItsCode) {
    OwnedTensor points = random_tensor(DType::f32, {3, 8}, 1);
    points.set(8, NAN);
    const DeviceTensor device_points(points);
    const DeviceTensor centres(random_tensor(DType::f32, {5, 8}, 2));
    OwnedTensor before(DType::u16, {3});
    std::fill_n(before->as<std::uint16_t>(), 3, std::uint16_t{77});
    const DeviceTensor codes(before);
    kmeans_assign(codes.as<std::uint16_t>(), device_points.as<float>(), centres.as<float>(), 3, 5, 8, nullptr);
    const OwnedTensor after = codes.download();
    EXPECT_LT(after->as<std::uint16_t>()[0], 5U);
    EXPECT_EQ(after->as<std::uint16_t>()[1], 77U);
    EXPECT_LT(after->as<std::uint16_t>()[2], 5U);
}

TEST(CudaKmeansAssign, RefusesWhatItDoesNotCover) {
    EXPECT_THROW(kmeans_assign(nullptr, nullptr, nullptr, 1, 4, 5, nullptr), std::invalid_argument);
    EXPECT_THROW(kmeans_assign(nullptr, nullptr, nullptr, 1, 0, 8, nullptr), std::invalid_argument);
    EXPECT_THROW(kmeans_assign(nullptr, nullptr, nullptr, 1, 65537, 8, nullptr), std::invalid_argument);
    EXPECT_NO_THROW(kmeans_assign(nullptr, nullptr, nullptr, 0, 4, 8, nullptr));
}

}  // namespace
}  // namespace pvtune::cuda
