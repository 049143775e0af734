// Any bytes as a store: an Error, or a store that can be read through.
//
// Metadata lies under checksums that mutation alone does not meet. With PVTUNE_FUZZ_FORGE=1 every other mutation
// changes a metadata block and puts its checksum right again: that tests HDF5's own decoders, which are known to crash
// on forged metadata (HDF5 1.10.8: a compact group whose link message cannot be decoded), so it is not part of the
// nightly run.
#include "io/error.h"
#include "io/store.h"
#include "tests/fuzz/input_file.h"
#include "tests/store_sample.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

namespace {

std::uint32_t rotate(std::uint32_t x, int k) { return x << k | x >> (32 - k); }

/// HDF5's metadata checksum: Bob Jenkins' lookup3 ("hashlittle", public domain algorithm) with the initial value 0.
std::uint32_t lookup3(const std::uint8_t* key, std::size_t length) {
    std::uint32_t a = 0xdeadbeef + static_cast<std::uint32_t>(length);
    std::uint32_t b = a;
    std::uint32_t c = a;
    const auto word = [&](std::size_t at, std::size_t available) {
        std::uint32_t value = 0;
        if (at < available) std::memcpy(&value, key + at, std::min<std::size_t>(4, available - at));
        return value;
    };
    while (length > 12) {
        a += word(0, length);
        b += word(4, length);
        c += word(8, length);
        a = (a - c) ^ rotate(c, 4), c += b;
        b = (b - a) ^ rotate(a, 6), a += c;
        c = (c - b) ^ rotate(b, 8), b += a;
        a = (a - c) ^ rotate(c, 16), c += b;
        b = (b - a) ^ rotate(a, 19), a += c;
        c = (c - b) ^ rotate(b, 4), b += a;
        length -= 12;
        key += 12;
    }
    if (length == 0) return c;
    a += word(0, length);
    b += word(4, length);
    c += word(8, length);
    c = (c ^ b) - rotate(b, 14);
    a = (a ^ c) - rotate(c, 11);
    b = (b ^ a) - rotate(a, 25);
    c = (c ^ b) - rotate(b, 16);
    a = (a ^ c) - rotate(c, 4);
    b = (b ^ a) - rotate(a, 14);
    return (c ^ b) - rotate(b, 24);
}

/// A checksummed block: what it starts with, and where its end is known from.
struct Block {
    std::size_t begin;
    std::size_t end;  ///< of what is summed; the sum follows
};

/// The blocks whose stored sums are right in this (not yet mutated) input.
std::size_t find_blocks(const std::uint8_t* data, std::size_t size, std::array<Block, 64>& blocks) {
    constexpr std::array<std::string_view, 14> signatures = {"\x89HDF", "OHDR", "OCHK", "FRHP", "FHDB", "FHIB", "FAHD",
                                                             "FADB",    "BTHD", "BTLF", "BTIN", "EAHD", "EAIB", "FSHD"};
    constexpr std::size_t longest_block = 2048;
    std::size_t count = 0;
    for (std::size_t at = 0; at + 8 <= size && count < blocks.size(); ++at) {
        const std::string_view start(reinterpret_cast<const char*>(data) + at, 4);
        if (std::find(signatures.begin(), signatures.end(), start) == signatures.end()) continue;
        for (std::size_t length = 8; length <= longest_block && at + length + 4 <= size; ++length) {
            std::uint32_t sum = 0;
            std::memcpy(&sum, data + at + length, sizeof sum);
            if (sum != lookup3(data + at, length)) continue;
            blocks[count++] = {at, at + length};
            break;
        }
    }
    return count;
}

}  // namespace

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
    static const bool forge = std::getenv("PVTUNE_FUZZ_FORGE") != nullptr;
    if (!forge || seed % 2 == 0) return LLVMFuzzerMutate(data, size, most);
    std::array<Block, 64> blocks{};
    const std::size_t count = find_blocks(data, size, blocks);
    if (count == 0) return LLVMFuzzerMutate(data, size, most);
    const Block block = blocks[(seed / 2) % count];
    // In place and of the same length, so that the sum stays where HDF5 looks for it.
    std::array<std::uint8_t, 64> piece{};
    const std::size_t body = block.end - block.begin - 4;
    const std::size_t length = std::min<std::size_t>(1 + seed / 64 % 8, body);
    const std::size_t at = block.begin + 4 + seed / 1024 % (body - length + 1);
    std::memcpy(piece.data(), data + at, length);
    LLVMFuzzerMutate(piece.data(), length, length);
    std::memcpy(data + at, piece.data(), length);
    const std::uint32_t sum = lookup3(data + block.begin, block.end - block.begin);
    std::memcpy(data + block.end, &sum, sizeof sum);
    return size;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const InputFile input(data, size);
    try {
        const pvtune::StoreReader reader(input.path(), "");
        pvtune::testing::content_of(reader);
        reader.verify();
    } catch (const pvtune::Error&) {
    }
    return 0;
}
