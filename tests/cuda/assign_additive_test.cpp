#include "tests/cuda/additive_matrix.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

// One codebook (in one range and in several), two and more, with cross products (small codebooks, many groups) and
// without, codebooks smaller than a warp and than the beam.
const AdditiveShape shapes[] = {
    {9, 7, 8, 2, 64, DType::u8},   {3, 5, 4, 1, 256, DType::u8},  {11, 3, 16, 3, 20, DType::u8},
    {7, 9, 8, 2, 300, DType::u16}, {2, 1, 4, 4, 2, DType::u8},    {40, 15, 8, 1, 1000, DType::u16},
    {12, 4, 16, 1, 16, DType::u8}, {1, 30, 8, 3, 33, DType::u16}, {5, 6, 4, 5, 16, DType::u8},
};

double squared_distance(const AdditiveMatrix& matrix, const OwnedTensor& target, std::int64_t g) {
    const AdditiveShape& shape = matrix.shape;
    const auto code = [&](std::int64_t i) -> std::int64_t {
        return shape.codes == DType::u8 ? matrix.codes->as<std::uint8_t>()[i] : matrix.codes->as<std::uint16_t>()[i];
    };
    double sum = 0;
    for (std::int64_t i = 0; i < shape.group; ++i) {
        double value = 0;
        for (std::int64_t m = 0; m < shape.books; ++m) {
            const std::int64_t at = (m * shape.size + code(g * shape.books + m)) * shape.group + i;
            value += static_cast<double>(matrix.codebooks->as<float>()[at]);
        }
        value *= static_cast<double>(matrix.scales->as<float>()[g / shape.groups]);
        value -= static_cast<double>(target->as<float>()[g * shape.group + i]);
        sum += value * value;
    }
    return sum;
}

/// The order of the list is the caller's: from the end, every `step`-th group.
OwnedTensor some_groups(std::int64_t groups, std::int64_t step) {
    OwnedTensor chosen(DType::u32, {(groups + step - 1) / step});
    for (std::int64_t i = 0; i < chosen->elements(); ++i) chosen.set(i, static_cast<double>(groups - 1 - step * i));
    return chosen;
}

struct Assigned {
    OwnedTensor codes, changed;
};

Assigned on_device(const AdditiveMatrix& matrix, const OwnedTensor& target, const OwnedTensor& chosen, int beam) {
    const std::int64_t count = chosen->elements();
    const DeviceMatrix device(matrix);
    const DeviceTensor device_target(target);
    const DeviceTensor device_chosen(chosen);
    const DeviceTensor changed(DType::u8, {count});
    device.with_view([&](const auto& view) {
        const DeviceWorkspace workspace(assign_additive_workspace(view, count, beam));
        assign_additive(view, changed.as<std::uint8_t>(), device_target.as<float>(), device_chosen.as<std::uint32_t>(),
                        count, beam, workspace.data(), nullptr);
        finish();
    });
    return {device.codes.download(), changed.download()};
}

struct Agreement {
    std::int64_t groups = 0;
    std::int64_t other = 0;  ///< whose codes are not the CPU's
};

/// Compares a search on the device with the CPU's from the same codes.
Agreement compare(const AdditiveMatrix& matrix, const OwnedTensor& target, const OwnedTensor& chosen, int beam) {
    const std::int64_t count = chosen->elements();
    AdditiveMatrix expected = matrix;
    OwnedTensor changed(DType::u8, {count});
    cpu::assign_additive(expected.additive(), changed, target, chosen, beam);
    AdditiveMatrix got = matrix;
    const Assigned assigned = on_device(matrix, target, chosen, beam);
    got.codes = assigned.codes;
    Agreement agreement{count};
    const std::int64_t bytes = matrix.shape.books * size_of(matrix.shape.codes);
    const auto same_codes = [&](const AdditiveMatrix& a, const AdditiveMatrix& b, std::int64_t g) {
        return std::memcmp(a.codes->data + g * bytes, b.codes->data + g * bytes, static_cast<std::size_t>(bytes)) == 0;
    };
    std::vector<bool> is_chosen(static_cast<std::size_t>(matrix.group_count()));
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t g = chosen->as<std::uint32_t>()[i];
        is_chosen[static_cast<std::size_t>(g)] = true;
        EXPECT_EQ(assigned.changed->as<std::uint8_t>()[i], same_codes(got, matrix, g) ? 0 : 1) << "group " << g;
        if (same_codes(got, expected, g)) continue;
        ++agreement.other;
        const double here = squared_distance(got, target, g);
        const double there = squared_distance(expected, target, g);
        // Two encodings as near as their f32 distances tell.
        EXPECT_LE(std::abs(here - there), 1e-5 * there + 1e-10) << "group " << g;
    }
    for (std::int64_t g = 0; g < matrix.group_count(); ++g) {
        if (!is_chosen[static_cast<std::size_t>(g)]) {
            EXPECT_TRUE(same_codes(got, matrix, g)) << "group " << g << " was not chosen";
        }
    }
    return agreement;
}

TEST(CudaAssignAdditive, FindsTheCodesThatTheCpuFinds) {
    Agreement all;
    for (const AdditiveShape& shape : shapes) {
        SCOPED_TRACE(shape);
        const AdditiveMatrix matrix(shape, 13);
        const OwnedTensor target = random_tensor(DType::f32, {shape.rows, matrix.columns()}, 14);
        for (const int beam : {1, 2, 5, 8}) {
            if (shape.books == 1 && beam > 1) continue;
            for (const std::int64_t step : {1, 2}) {
                const auto some = compare(matrix, target, some_groups(matrix.group_count(), step), beam);
                all.groups += some.groups;
                all.other += some.other;
            }
        }
    }
    // The sums have the CPU's order; only its shortcut past scores that cannot enter the beam rounds differently.
    EXPECT_LE(all.other, all.groups / 500) << all.groups;
}

TEST(CudaAssignAdditive, SameCodesInAnyOrder) {
    for (const AdditiveShape& shape : {AdditiveShape{9, 7, 8, 2, 64, DType::u8}, {40, 15, 8, 1, 1000, DType::u16}}) {
        const AdditiveMatrix matrix(shape, 21);
        const OwnedTensor target = random_tensor(DType::f32, {shape.rows, matrix.columns()}, 22);
        const OwnedTensor chosen = some_groups(matrix.group_count(), 2);
        Assigned first;
        for_each_schedule([&] {
            const Assigned got = on_device(matrix, target, chosen, 5);
            if (first.codes->empty()) first = got;
            EXPECT_TRUE(same_bits(got.codes, first.codes));
            EXPECT_TRUE(same_bits(got.changed, first.changed));
        });
    }
}

TEST(CudaAssignAdditive, TiesGoToTheLowerCode) {
    for (const std::int64_t books : {1, 2}) {
        for (const std::int64_t size : {20, 600}) {
            AdditiveMatrix matrix({1, 2, 4, books, size, DType::u16}, 17);
            float* book = matrix.codebooks->as<float>();
            for (const std::int64_t copy : {std::int64_t{9}, size - 1}) std::copy_n(book + 3 * 4, 4, book + copy * 4);
            // The second codebook: zero, and the same zero again.
            if (books == 2) std::fill_n(book + size * 4, size * 4, 0.0F);
            matrix.scales.set(0, 1);
            OwnedTensor target(DType::f32, {1, 8});
            for (std::int64_t i = 0; i < 8; ++i) target.set(i, static_cast<double>(book[3 * 4 + i % 4]));
            for (const std::int64_t g : {0, 1}) {
                matrix.set_code(g * books, g == 0 ? 9 : static_cast<std::uint32_t>(size - 1));
                if (books == 2) matrix.set_code(g * books + 1, 7);
            }
            const Assigned got = on_device(matrix, target, some_groups(2, 1), books == 1 ? 1 : 5);
            for (std::int64_t i = 0; i < 2 * books; ++i) {
                EXPECT_EQ(got.codes->as<std::uint16_t>()[i], i % books == 0 ? 3 : 0) << books << ' ' << size;
            }
        }
    }
}

TEST(CudaAssignAdditive, CodebooksOfEqualWordsAgreeWithTheCpu) {
    // Every codeword several times, in both codebooks: only the rule for ties decides.
    for (const int beam : {1, 5}) {
        AdditiveMatrix matrix({6, 5, 8, 2, 32, DType::u8}, 23);
        float* book = matrix.codebooks->as<float>();
        for (std::int64_t k = 0; k < 64; ++k) {
            if (k % 4 != 0) std::copy_n(book + k / 4 * 4 * 8, 8, book + k * 8);
        }
        const OwnedTensor target = random_tensor(DType::f32, {6, 40}, 24);
        EXPECT_EQ(compare(matrix, target, some_groups(30, 1), beam).other, 0);
    }
}

TEST(CudaAssignAdditive, ScalesOfEverySign) {
    // Rows of scale 0, of a scale whose reciprocal overflows, and with a NaN in the target keep their codes; a negative
    // scale is like any other.
    for (const std::int64_t books : {1, 2}) {
        AdditiveMatrix matrix({4, 3, 8, books, 30, DType::u8}, 18);
        const double row_scales[] = {0, 1e-42, -0.7, 1.0};
        for (std::int64_t row = 0; row < 4; ++row) matrix.scales.set(row, row_scales[row]);
        OwnedTensor target = random_tensor(DType::f32, {4, 24}, 19);
        for (std::int64_t g = 9; g < 12; ++g) target.set(g * 8 + 3, NAN);
        const OwnedTensor chosen = some_groups(12, 1);
        const Assigned got = on_device(matrix, target, chosen, 8);
        for (std::int64_t i = 0; i < 12; ++i) {
            const std::int64_t g = chosen->as<std::uint32_t>()[i];
            if (g / 3 != 2) {
                EXPECT_EQ(got.changed->as<std::uint8_t>()[i], 0) << g;
            }
        }
        AdditiveMatrix expected = matrix;
        OwnedTensor changed(DType::u8, {12});
        cpu::assign_additive(expected.additive(), changed, target, chosen, 8);
        EXPECT_TRUE(same_bits(got.codes, expected.codes));
    }
}

TEST(CudaAssignAdditive, RefusesWhatItDoesNotCover) {
    const DeviceMatrix device(AdditiveMatrix({2, 2, 8, 2, 16, DType::u8}, 1));
    for (const int beam : {0, 9}) {
        EXPECT_THROW(assign_additive(device.view<std::uint8_t>(), nullptr, nullptr, nullptr, 1, beam, nullptr, nullptr),
                     std::invalid_argument);
    }
    EXPECT_NO_THROW(assign_additive(device.view<std::uint8_t>(), nullptr, nullptr, nullptr, 0, 5, nullptr, nullptr));
}

}  // namespace
}  // namespace pvtune::cuda
