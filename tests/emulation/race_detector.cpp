// Finds accesses of two threads to the same byte, one of them a write, that nothing orders: in shared and device
// memory, within a block and between the blocks of a launch. Order comes from
//   - __syncthreads, for all of a block before and after it;
//   - __syncwarp, for the lanes that meet (shuffles and votes order nothing);
//   - __threadfence and an atomic operation, then an atomic operation of another block on the same word: what the first
//     block did before is seen by the second (the "last block done" counter);
//   - the end of a launch.
// Kernels must be compiled with -fsanitize=thread and linked with race_hooks.cpp in place of the sanitizer's library.
#include "tests/emulation/device_memory.h"
#include "tests/emulation/observer.h"
#include "tests/emulation/race_shadow.h"
#include "tests/emulation/race_symbols.h"
#include "tests/emulation/scheduler.h"
#include "tests/emulation/shared_memory.h"

#include <algorithm>
#include <set>
#include <utility>

namespace pvtune::cuda::emulation {
namespace {

constexpr std::size_t most_reports = 8;

/// What a block did up to an epoch is seen by who takes this over.
using Released = std::unordered_map<int, std::uint32_t>;

class RaceDetector final : public Observer {
public:
    RaceDetector() { observer = this; }

    void grid_starts() override {
        grid_epoch_ = ++epoch_;
        block_epochs_.clear();
        releases_.clear();
        reports_.clear();
        reported_.clear();
        extent_ = {};
    }

    void block_starts(int threads) override {
        block_epoch_ = barrier_epoch_ = ++epoch_;
        block_epochs_.push_back(epoch_);
        fenced_ = false;
        acquired_.clear();
        clocks_.assign(static_cast<std::size_t>(threads), {});
        for (std::size_t i = 0; i < clocks_.size(); ++i) clocks_[i][i % warp_lanes] = 1;
    }

    void grid_ends() override {
        if (reports_.empty()) return;
        std::string text = "races:";
        for (const std::string& report : reports_) text += "\n  " + report;
        throw KernelFault(text);
    }

    void barrier() override { barrier_epoch_ = ++epoch_; }

    void warp_barrier(int warp, unsigned mask) override {
        Clocks joined{};
        for_each_lane(warp, mask, [&](Clocks& clocks, int) {
            for (std::size_t i = 0; i < joined.size(); ++i) joined[i] = std::max(joined[i], clocks[i]);
        });
        for_each_lane(warp, mask, [&](Clocks& clocks, int lane) {
            clocks = joined;
            ++clocks[static_cast<std::size_t>(lane)];
        });
    }

    void fence() override { fenced_ = true; }

    void access(const void* address, std::size_t bytes, Access kind, const void* code) override {
        if (block.current == nullptr) return;
        const bool shared = in_shared_memory(address, 1);
        if (!shared && !in_device(address)) return;  // a thread's own
        oldest_ = shared ? block_epoch_ : grid_epoch_;
        const auto first = reinterpret_cast<std::uintptr_t>(address);
        const Thread& thread = self();
        Record now;
        now.epoch = barrier_epoch_;
        now.thread = static_cast<std::uint32_t>(thread.index) & 0x3ffU;
        now.atomic = kind == Access::atomic ? 1 : 0;
        now.clock = own_clock(thread) & 0x1fffffU;
        now.code = code_offset(code);
        if (kind == Access::atomic) take_over(first);
        for (std::size_t i = 0; i < bytes; ++i) {
            Cell& cell = shadow_.cell(first + i);
            if (!ordered(cell.write, now)) report(address, bytes, cell.write, true, now, kind);
            if (kind == Access::read) {
                remember_read(cell, now);
                continue;
            }
            for (const Record& read : cell.reads) {
                if (!ordered(read, now)) report(address, bytes, read, false, now, kind);
            }
            cell.write = now;
            cell.reads = {};
        }
        if (kind == Access::atomic) hand_over(first);
    }

private:
    using Clocks = std::array<std::uint32_t, warp_lanes>;  ///< of a lane: what it knows of the others' clocks

    template <class Body>
    void for_each_lane(int warp, unsigned mask, Body body) {
        for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
            const int lane = __builtin_ctz(rest);
            body(clocks_[static_cast<std::size_t>(warp * warp_lanes + lane)], lane);
        }
    }

    std::uint32_t own_clock(const Thread& thread) const {
        return clocks_[static_cast<std::size_t>(thread.index)][static_cast<std::size_t>(thread.lane())];
    }

    bool in_device(const void* address) {
        if (!extent_.holds(address)) extent_ = allocation_of(address);
        return extent_.holds(address);
    }

    bool in_this_block(const Record& before) const { return before.epoch >= block_epoch_; }

    int block_of(const Record& before) const {
        const auto after = std::upper_bound(block_epochs_.begin(), block_epochs_.end(), before.epoch);
        return static_cast<int>(after - block_epochs_.begin()) - 1;
    }

    bool ordered(const Record& before, const Record& now) const {
        if (before.epoch < oldest_) return true;
        if (before.atomic != 0 && now.atomic != 0) return true;
        if (!in_this_block(before)) {
            const auto seen = acquired_.find(block_of(before));
            return seen != acquired_.end() && before.epoch <= seen->second;
        }
        if (before.epoch < barrier_epoch_ || before.thread == now.thread) return true;
        if (before.warp() != now.warp()) return false;
        return before.clock <= clocks_[now.thread][static_cast<std::size_t>(before.lane())];
    }

    void remember_read(Cell& cell, const Record& now) const {
        auto& [first, second] = cell.reads;
        const auto replaceable = [&](const Record& read) {
            return read.epoch < oldest_ ||
                   (in_this_block(read) && (read.thread == now.thread || read.epoch < barrier_epoch_));
        };
        if (replaceable(first)) {
            first = now;
        } else if (replaceable(second) || first.warp() != now.warp()) {
            second = now;
        } else {
            first = now;
        }
    }

    // ---- order between blocks
    void take_over(std::uintptr_t word) {
        const auto found = releases_.find(word);
        if (found == releases_.end()) return;
        for (const auto& [number, epoch] : found->second) {
            auto& seen = acquired_[number];
            seen = std::max(seen, epoch);
        }
    }
    void hand_over(std::uintptr_t word) {
        if (!fenced_) return;
        Released& released = releases_[word];
        for (const auto& [number, epoch] : acquired_) released[number] = std::max(released[number], epoch);
        released[static_cast<int>(block_epochs_.size()) - 1] = epoch_;
    }

    // ---- reports
    void report(const void* address, std::size_t bytes, const Record& before, bool write_before, const Record& now,
                Access kind) {
        if (reports_.size() >= most_reports || !reported_.insert({before.code, now.code}).second) return;
        const auto name = [](bool atomic, bool write) { return atomic ? "atomic" : write ? "write" : "read"; };
        std::string text = name_of_memory(address) + ", " + std::to_string(bytes) + " bytes: ";
        text += name(now.atomic != 0, kind != Access::read) + std::string(" by thread ") + std::to_string(now.thread) +
                " at " + source_line(now.code);
        text += ", " + std::string(name(before.atomic != 0, write_before)) + " before by thread " +
                std::to_string(before.thread);
        if (!in_this_block(before)) text += " of block " + std::to_string(block_of(before));
        text += " at " + source_line(before.code);
        text += " (block " + std::to_string(block_epochs_.size() - 1) + ")";
        reports_.push_back(std::move(text));
    }

    static std::string name_of_memory(const void* address) {
        const auto* byte = static_cast<const std::byte*>(address);
        if (const SharedVariable* variable = shared_variable_at(address)) {
            return "shared " + variable->name + " + " + std::to_string(byte - variable->data);
        }
        const Extent extent = allocation_of(address);
        if (extent.first != nullptr) return "device memory + " + std::to_string(byte - extent.first);
        return "dynamic shared memory + " + std::to_string(byte - static_cast<const std::byte*>(block.dynamic_memory));
    }

    std::uint32_t epoch_ = 0, grid_epoch_ = 0, block_epoch_ = 0, barrier_epoch_ = 0;
    std::uint32_t oldest_ = 0;                 ///< epoch that counts for the memory that is touched
    std::vector<std::uint32_t> block_epochs_;  ///< of this launch, first to last
    std::vector<Clocks> clocks_;               ///< by thread
    Shadow shadow_;
    Extent extent_;  ///< the device allocation that was touched last
    bool fenced_ = false;
    Released acquired_;
    std::unordered_map<std::uintptr_t, Released> releases_;
    std::vector<std::string> reports_;
    std::set<std::pair<std::uint32_t, std::uint32_t>> reported_;
};

RaceDetector detector;

}  // namespace
}  // namespace pvtune::cuda::emulation
