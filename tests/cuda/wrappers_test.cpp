// The wrappers and warp operations that kernels are built of, against plain loops written from the tables of the PTX
// ISA and the CUDA programming guide. On a device this is the first test to run: it says whether the emulated device,
// on which the other tests were made, is the same machine.
#include "tests/cuda/device_tensors.h"
#include "tests/cuda/wrapper_kernels.h"

#include <array>
#include <bit>
#include <limits>

namespace pvtune::cuda {
namespace {

constexpr int lanes = 32;

template <class T>
class DeviceArray {
public:
    explicit DeviceArray(std::size_t count) : memory_(count * sizeof(T)), host_(count) {}
    explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) { memory_.upload(host.data()); }
    T* data() const { return reinterpret_cast<T*>(memory_.data()); }
    std::vector<T> download() const {
        std::vector<T> copy(host_);
        memory_.download(copy.data());
        return copy;
    }

private:
    GuardedMemory memory_;
    std::vector<T> host_;
};

std::vector<std::uint32_t> random_words(std::size_t count, std::uint32_t seed) {
    std::mt19937 engine(seed);
    std::vector<std::uint32_t> words(count);
    for (auto& word : words) word = static_cast<std::uint32_t>(engine());
    return words;
}

std::uint32_t pair_of(float low, float high) {
    return to_bf16(low).bits | static_cast<std::uint32_t>(to_bf16(high).bits) << 16;
}

// Small whole numbers: products and sums are exact, in any order and precision of accumulation.
TEST(CudaWrappers, MmaFragmentsAreThoseOfThePtxIsa) {
    std::mt19937 engine(1);
    const auto small = [&] { return static_cast<float>(static_cast<int>(engine() % 17) - 8); };
    std::array<std::array<float, 16>, 16> a{};
    std::array<std::array<float, 8>, 16> b{};
    std::array<std::array<float, 8>, 16> c{};
    for (auto& row : a) std::generate(row.begin(), row.end(), small);
    for (auto& row : b) std::generate(row.begin(), row.end(), small);
    for (auto& row : c) std::generate(row.begin(), row.end(), small);

    std::vector<std::uint32_t> left;
    std::vector<std::uint32_t> right;
    std::vector<float> sums;
    std::vector<float> expected;
    for (std::size_t lane = 0; lane < lanes; ++lane) {
        const std::size_t group = lane >> 2;
        const std::size_t in_group = lane % 4;
        // Elements a0..a7, b0..b3, c0..c3 of a lane, as the tables number them.
        const auto element_a = [&](std::size_t i) {
            const std::size_t row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
            return a[row][in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0)];
        };
        const auto element_b = [&](std::size_t i) { return b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group]; };
        for (std::size_t i = 0; i < 8; i += 2) left.push_back(pair_of(element_a(i), element_a(i + 1)));
        for (std::size_t i = 0; i < 4; i += 2) right.push_back(pair_of(element_b(i), element_b(i + 1)));
        for (std::size_t i = 0; i < 4; ++i) {
            const std::size_t row = i < 2 ? group : group + 8;
            const std::size_t column = in_group * 2 + (i & 1);
            sums.push_back(c[row][column]);
            float sum = c[row][column];
            for (std::size_t k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
            expected.push_back(sum);
        }
    }
    for_each_schedule([&] {
        const DeviceArray<float> d(sums);
        wrappers::multiply_fragments(d.data(), DeviceArray(left).data(), DeviceArray(right).data(), nullptr);
        EXPECT_EQ(d.download(), expected);
    });
}

TEST(CudaWrappers, LoadedMatricesAreThoseOfThePtxIsa) {
    std::vector<std::uint16_t> matrices(4 * 8 * 8);
    for (std::size_t i = 0; i < matrices.size(); ++i) matrices[i] = static_cast<std::uint16_t>(i * 251 + 3);
    for (const bool transposed : {false, true}) {
        std::vector<std::uint32_t> expected;
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            for (std::size_t matrix = 0; matrix < 4; ++matrix) {
                const auto element = [&](std::size_t row, std::size_t column) -> std::uint32_t {
                    return matrices[matrix * 64 + (transposed ? column * 8 + row : row * 8 + column)];
                };
                expected.push_back(element(lane / 4, lane % 4 * 2) | element(lane / 4, lane % 4 * 2 + 1) << 16);
            }
        }
        for_each_schedule([&] {
            const DeviceArray<std::uint32_t> fragments(lanes * 4);
            wrappers::load_fragments(fragments.data(), DeviceArray(matrices).data(), transposed, nullptr);
            EXPECT_EQ(fragments.download(), expected) << transposed;
        });
    }
}

TEST(CudaWrappers, PackRoundsLikeToBf16) {
    const std::vector<std::uint32_t> bits = random_words(2 * lanes, 2);
    std::vector<float> low;
    std::vector<float> high;
    std::vector<std::uint32_t> expected;
    for (std::size_t i = 0; i < lanes; ++i) {
        // Infinities and NaNs apart: the payload of a NaN is the device's own.
        const auto finite = [](std::uint32_t word) { return std::bit_cast<float>(word & 0xbfffffffU); };
        low.push_back(finite(bits[2 * i]));
        high.push_back(finite(bits[2 * i + 1]));
        expected.push_back(pair_of(low.back(), high.back()));
    }
    const DeviceArray<std::uint32_t> packed(lanes);
    wrappers::pack(packed.data(), DeviceArray(low).data(), DeviceArray(high).data(), nullptr);
    EXPECT_EQ(packed.download(), expected);
}

TEST(CudaWrappers, AsyncCopyFillsUpWithZeros) {
    const std::vector<std::uint32_t> in = random_words(lanes * 4, 3);
    std::vector<std::int32_t> valid;
    std::vector<std::uint32_t> expected;
    for (std::size_t lane = 0; lane < lanes; ++lane) {
        valid.push_back(static_cast<std::int32_t>(lane % 17));
        for (std::size_t i = 0; i < 16; i += 4) {
            const std::size_t bytes = lane % 17 > i ? std::min<std::size_t>(4, lane % 17 - i) : 0;
            const auto mask = static_cast<std::uint32_t>((std::uint64_t{1} << (8 * bytes)) - 1);
            expected.push_back(in[4 * lane + i / 4] & mask);
        }
    }
    const DeviceArray<std::uint32_t> out(lanes * 4);
    wrappers::copy_asynchronously(out.data(), DeviceArray(in).data(), DeviceArray(valid).data(), nullptr);
    EXPECT_EQ(out.download(), expected);
}

TEST(CudaWrappers, DynamicSharedMemoryBeyondTheUsualLimit) {
    // 99 KiB: what every device of sm_80 and newer gives a block.
    for (const std::size_t bytes : {std::size_t{64}, std::size_t{48} << 10, std::size_t{99} << 10}) {
        const DeviceArray<std::uint32_t> last(1);
        wrappers::use_dynamic_shared(last.data(), bytes, nullptr);
        EXPECT_EQ(last.download()[0], bytes / 4 - 1);
    }
}

TEST(CudaWrappers, ShufflesReadTheLanesOfTheirSegment) {
    const std::vector<std::uint32_t> in = random_words(lanes, 4);
    for (const int width : {32, 16, 8, 4, 2, 1}) {
        for (const int offset : {0, 1, 3, 4, 15, 16, 31}) {
            std::vector<std::uint32_t> expected(wrappers::shuffle_cases * lanes);
            for (int lane = 0; lane < lanes; ++lane) {
                const int first = lane / width * width;
                const int last = first + width - 1;
                const auto expect = [&](int which, int source, bool inside) {
                    expected[static_cast<std::size_t>(which * lanes + lane)] =
                        in[static_cast<std::size_t>(inside ? source : lane)];
                };
                expect(wrappers::by_index, first + offset % width, true);
                expect(wrappers::up, lane - offset, lane - offset >= first);
                expect(wrappers::down, lane + offset, lane + offset <= last);
                expect(wrappers::exclusive_or, lane ^ offset, (lane ^ offset) <= last);
            }
            for_each_schedule([&] {
                const DeviceArray<std::uint32_t> out(expected.size());
                wrappers::shuffle(out.data(), DeviceArray(in).data(), offset, width, nullptr);
                EXPECT_EQ(out.download(), expected) << "offset " << offset << ", width " << width;
            });
        }
    }
}

TEST(CudaWrappers, VotesSeeEveryLane) {
    std::vector<std::uint32_t> in = random_words(lanes, 5);
    for (std::size_t i = 0; i < lanes; i += 3) in[i] = in[0];
    std::uint32_t odd = 0;
    std::uint32_t sum = 0;
    std::uint32_t with_and = ~0U;
    std::uint32_t with_or = 0;
    std::uint32_t with_xor = 0;
    auto least = std::numeric_limits<std::int32_t>::max();
    for (std::size_t i = 0; i < lanes; ++i) {
        odd |= in[i] % 2 << i;
        sum += in[i];
        with_and &= in[i];
        with_or |= in[i];
        with_xor ^= in[i];
        least = std::min(least, static_cast<std::int32_t>(in[i]));
    }
    std::vector<std::uint32_t> expected;
    const auto everywhere = [&](std::uint32_t value) { expected.insert(expected.end(), lanes, value); };
    everywhere(odd);
    everywhere(odd != 0);
    everywhere(odd == ~0U);
    for (const std::uint32_t mine : in) {
        std::uint32_t same = 0;
        for (std::size_t i = 0; i < lanes; ++i) same |= static_cast<std::uint32_t>(in[i] == mine) << i;
        expected.push_back(same);
    }
    everywhere(sum);
    everywhere(*std::min_element(in.begin(), in.end()));
    everywhere(*std::max_element(in.begin(), in.end()));
    everywhere(with_and);
    everywhere(with_or);
    everywhere(with_xor);
    everywhere(static_cast<std::uint32_t>(least));
    for_each_schedule([&] {
        const DeviceArray<std::uint32_t> out(expected.size());
        wrappers::vote(out.data(), DeviceArray(in).data(), nullptr);
        EXPECT_EQ(out.download(), expected);
    });
}

TEST(CudaWrappers, ConversionsRoundAndSaturate) {
    const std::vector<float> in = {0,     0.5F, 1.5F, 2.5F,  -0.5F, -1.5F, 2.7F,
                                   -2.7F, 1e9F, 3e9F, -3e9F, 5e9F,  1e30F, -1e30F};
    const std::size_t count = in.size();
    constexpr auto top = std::numeric_limits<std::int32_t>::max();
    constexpr auto bottom = std::numeric_limits<std::int32_t>::min();
    constexpr auto top_unsigned = static_cast<std::int32_t>(~0U);
    constexpr auto three = static_cast<std::int32_t>(3000000000U);
    const std::vector<std::int32_t> expected = {
        0, 0, 2, 2, 0,  -2, 3, -3, 1000000000, top,   bottom, top,          top,          bottom,  // nearest
        0, 0, 1, 2, -1, -2, 2, -3, 1000000000, top,   bottom, top,          top,          bottom,  // down
        0, 1, 2, 3, 0,  -1, 3, -2, 1000000000, top,   bottom, top,          top,          bottom,  // up
        0, 0, 1, 2, 0,  -1, 2, -2, 1000000000, top,   bottom, top,          top,          bottom,  // to zero
        0, 0, 2, 2, 0,  0,  3, 0,  1000000000, three, 0,      top_unsigned, top_unsigned, 0};      // unsigned
    constexpr auto wide_top = std::numeric_limits<std::int64_t>::max();
    constexpr auto wide_bottom = std::numeric_limits<std::int64_t>::min();
    std::vector<std::int64_t> wide;
    for (const double factor : {1.0, 1e3}) {
        for (const float value : in) {
            const double scaled = std::nearbyint(static_cast<double>(value) * factor);
            wide.push_back(scaled > 9e18 ? wide_top : scaled < -9e18 ? wide_bottom : static_cast<std::int64_t>(scaled));
        }
    }
    const DeviceArray<std::int32_t> out(wrappers::conversions * count);
    const DeviceArray<std::int64_t> out_wide(2 * count);
    wrappers::convert_to_integers(out.data(), out_wide.data(), DeviceArray(in).data(), static_cast<std::int64_t>(count),
                                  nullptr);
    EXPECT_EQ(out.download(), expected);
    EXPECT_EQ(out_wide.download(), wide);
}

TEST(CudaWrappers, BitsAreCounted) {
    const std::vector<std::uint32_t> in = {0, 1, 0x80000000U, 0x00f0a000U, ~0U};
    const std::vector<std::uint32_t> expected = {
        0, 1, 1, 6, 32,                       // ones
        32, 31, 0, 8, 0,                      // leading zeros
        0, 1, 32, 14, 1,                      // first set
        0, 0x80000000U, 1, 0x00050f00U, ~0U,  // reversed
        // Bytes 2, 1, 4 and 7 of (value, 0x76543210), the lowest first.
        0x76100000U, 0x76100000U, 0x76100000U, 0x7610a0f0U, 0x7610ffffU,   // permuted
        0x43210000U, 0x43210000U, 0x43210800U, 0x4321000fU, 0x43210fffU,   // shifted left
        0x21000000U, 0x21000000U, 0x21080000U, 0x21000f0aU, 0x210fffffU};  // shifted right
    const DeviceArray<std::uint32_t> out(expected.size());
    wrappers::count_bits(out.data(), DeviceArray(in).data(), static_cast<std::int64_t>(in.size()), nullptr);
    EXPECT_EQ(out.download(), expected);
}

}  // namespace
}  // namespace pvtune::cuda
