// search_codes: first codes of points by the device against the CPU's, which it copies sweep by sweep and tie by tie.
#include "host/backend/cpu/beam_search.h"
#include "tests/cuda/device_tensors.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

struct Problem {
    OwnedTensor points, codebooks, codes;
    CodeSearch wanted;

    explicit Problem(const CodeSearch& search)
        : points(random_tensor(DType::f32, {search.count, search.group}, 1)),
          codebooks(random_tensor(DType::f32, {search.books, search.codebook_size, search.group}, 2)),
          codes(DType::u16, {search.count, search.books}),
          wanted(search) {
        Uniform next(3);
        for (std::int64_t i = 0; i < codes->elements(); ++i) {
            const double code = std::abs(next()) * static_cast<double>(search.codebook_size);
            codes->as<std::uint16_t>()[i] =
                static_cast<std::uint16_t>(std::min(static_cast<std::int64_t>(code), search.codebook_size - 1));
        }
    }

    cpu::CodebookTables tables() const {
        return cpu::make_codebook_tables(codebooks->as<float>(), wanted.books, wanted.codebook_size, wanted.group,
                                         wanted.count, {wanted.beam, wanted.sweeps});
    }
    std::vector<std::uint16_t> on_cpu() const {
        std::vector<std::uint16_t> found(codes->as<std::uint16_t>(), codes->as<std::uint16_t>() + codes->elements());
        cpu::search_codes(tables(), points->as<float>(), found.data(), wanted.count, {wanted.beam, wanted.sweeps});
        return found;
    }
    std::vector<std::uint16_t> on_device() const {
        const DeviceTensor device_points(points);
        const DeviceTensor device_codebooks(codebooks);
        const DeviceTensor device_codes(codes);
        const DeviceTensor workspace(DType::u8, {static_cast<std::int64_t>(search_codes_workspace(wanted))});
        search_codes(device_codes.as<std::uint16_t>(), device_points.as<float>(), device_codebooks.as<float>(), wanted,
                     workspace.as<std::uint8_t>(), nullptr);
        const OwnedTensor found = device_codes.download();
        return {found->as<std::uint16_t>(), found->as<std::uint16_t>() + found->elements()};
    }
};

/// The same codes but where the two round a tie differently: there as near.
void expect_same_codes(const CodeSearch& wanted) {
    const Problem problem(wanted);
    const std::vector<std::uint16_t> expected = problem.on_cpu();
    const std::vector<std::uint16_t> found = problem.on_device();
    const cpu::CodebookTables tables = problem.tables();
    std::int64_t different = 0;
    for (std::int64_t g = 0; g < wanted.count; ++g) {
        const auto* other = expected.data() + g * wanted.books;
        const auto* own = found.data() + g * wanted.books;
        if (std::equal(own, own + wanted.books, other)) continue;
        ++different;
        const float* point = problem.points->as<float>() + g * wanted.group;
        const float distance = cpu::code_distance(tables, point, other);
        EXPECT_NEAR(cpu::code_distance(tables, point, own), distance, 1e-5F * distance) << "group " << g;
    }
    EXPECT_LE(different, wanted.count / 50);
}

TEST(CudaSearchCodes, MatchesTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t group : {4, 8, 16}) {
            expect_same_codes({1, 2, 5, group, 2, 2});
            expect_same_codes({203, 2, 32, group, 4, 1});
            expect_same_codes({90, 3, 17, group, 8, 2});
            expect_same_codes({203, 1, 40, group, 1, 1});
        }
    });
}

TEST(CudaSearchCodes, CodebooksWithoutCrossProducts) { expect_same_codes({70, 2, 600, 8, 2, 1}); }

TEST(CudaSearchCodes, ASecondSweepIsNoFartherOff) {
    CodeSearch wanted{300, 3, 24, 8, 1, 1};
    const auto error = [&](int sweeps) {
        wanted.sweeps = sweeps;
        const Problem problem(wanted);
        const std::vector<std::uint16_t> found = problem.on_device();
        double sum = 0;
        for (std::int64_t g = 0; g < wanted.count; ++g) {
            sum += static_cast<double>(cpu::code_distance(
                problem.tables(), problem.points->as<float>() + g * wanted.group, found.data() + g * wanted.books));
        }
        return sum;
    };
    EXPECT_LT(error(2), error(1));
}

TEST(CudaSearchCodes, APointThatIsNotFiniteKeepsItsCodes) {
    for (const std::int64_t books : {1, 2}) {
        Problem problem({5, books, 16, 8, 2, 1});
        problem.points.set(8 * 3 + 2, NAN);
        const std::vector<std::uint16_t> found = problem.on_device();
        for (std::int64_t m = 0; m < books; ++m) {
            const auto at = static_cast<std::size_t>(3 * books + m);
            EXPECT_EQ(found[at], problem.codes->as<std::uint16_t>()[at]);
        }
    }
}

TEST(CudaSearchCodes, RefusesWhatItDoesNotCover) {
    EXPECT_THROW(search_codes(nullptr, nullptr, nullptr, {1, 2, 4, 8, 9, 1}, nullptr, nullptr), std::invalid_argument);
    EXPECT_THROW(search_codes(nullptr, nullptr, nullptr, {1, 2, 4, 5, 1, 1}, nullptr, nullptr), std::invalid_argument);
    EXPECT_THROW(search_codes(nullptr, nullptr, nullptr, {1, 9, 4, 8, 1, 1}, nullptr, nullptr), std::invalid_argument);
    EXPECT_NO_THROW(search_codes(nullptr, nullptr, nullptr, {0, 2, 4, 8, 1, 1}, nullptr, nullptr));
}

}  // namespace
}  // namespace pvtune::cuda
