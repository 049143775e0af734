#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>

namespace pvtune::cuda::emulation {

/// Who touched a byte, when. Epochs count blocks and barriers of all launches; a clock counts the __syncwarp of a lane.
struct Record {
    std::uint32_t epoch = 0;  ///< 0: nobody
    std::uint32_t thread : 10 = 0;
    std::uint32_t atomic : 1 = 0;
    std::uint32_t clock : 21 = 0;
    std::uint32_t code = 0;  ///< offset in the program

    int warp() const { return static_cast<int>(thread) / 32; }
    int lane() const { return static_cast<int>(thread) % 32; }
};

/// What is known of a byte: its last write and two of the reads since then, of different threads and if possible of
/// different warps.
struct Cell {
    Record write;
    std::array<Record, 2> reads;
};

/// Cells by address, made when first asked for.
class Shadow {
public:
    Cell& cell(std::uintptr_t address) {
        const std::uintptr_t page = address / page_bytes;
        if (page != last_page_) {
            auto& cells = pages_[page];
            if (!cells) cells = std::make_unique<Page>();
            last_cells_ = cells.get();
            last_page_ = page;
        }
        return (*last_cells_)[address % page_bytes];
    }

private:
    static constexpr std::uintptr_t page_bytes = 1024;
    using Page = std::array<Cell, page_bytes>;
    std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages_;
    std::uintptr_t last_page_ = ~std::uintptr_t{0};
    Page* last_cells_ = nullptr;
};

}  // namespace pvtune::cuda::emulation
