#include "tests/emulation/warp.h"
#include "tests/emulation/observer.h"

#include <algorithm>
#include <cstring>

namespace pvtune::cuda::emulation {
namespace {

std::string hexadecimal(unsigned mask) {
    char text[16];
    std::snprintf(text, sizeof(text), "%08x", mask);
    return text;
}

Thread& thread_of(int warp, int lane) { return block.threads[static_cast<std::size_t>(warp * warp_lanes + lane)]; }

/// The meeting with this mask, begun if this lane is the first.
Rendezvous& join(Warp& warp, const Thread& thread, const char* operation, unsigned mask, const Where& where) {
    for (Rendezvous& pending : warp.pending) {
        if (pending.mask != mask) continue;
        if (pending.operation != operation && std::strcmp(pending.operation, operation) != 0) {
            const Thread& other = thread_of(thread.warp(), __builtin_ctz(pending.arrived));
            fault("comes to " + std::string(operation) + " while " + describe(other) + " waits for it", where);
        }
        return pending;
    }
    return warp.pending.emplace_back(Rendezvous{operation, mask, 0, {}});
}

}  // namespace

void meet(const char* operation, unsigned mask, void* operands, Combine combine, const Where& where) {
    Thread& thread = self();
    const int number = thread.warp();
    Warp& warp = block.warps[static_cast<std::size_t>(number)];
    const unsigned own = 1U << thread.lane();
    if ((mask & own) == 0) {
        fault(std::string(operation) + " with mask " + hexadecimal(mask) + ", which lacks its own lane " +
                  std::to_string(thread.lane()),
              where);
    }
    if ((mask & ~warp.live) != 0) {
        fault(std::string(operation) + " waits for lanes " + hexadecimal(mask & ~warp.live) +
                  ", which have returned or do not exist",
              where);
    }
    Rendezvous& meeting = join(warp, thread, operation, mask, where);
    meeting.operands[static_cast<std::size_t>(thread.lane())] = operands;
    meeting.arrived |= own;
    thread.operation = operation;
    thread.mask = mask;
    thread.where = where;
    thread.state = Thread::State::in_warp;
    if (meeting.arrived != mask) {
        wait();
        return;
    }
    if (combine != nullptr) combine(meeting.operands.data(), mask);
    warp.pending.erase(warp.pending.begin() + (&meeting - warp.pending.data()));
    thread.state = Thread::State::ready;
    make_ready_in_order(
        number * warp_lanes, std::min(number * warp_lanes + warp_lanes, static_cast<int>(block.threads.size())),
        [](const Thread& other) { return other.state == Thread::State::in_warp && other.mask == self().mask; });
}

void warp_barrier(unsigned mask, const Where& where) {
    const Combine tell = [](void* const*, unsigned lanes) {
        if (observer != nullptr) observer->warp_barrier(self().warp(), lanes);
    };
    meet("__syncwarp", mask, nullptr, tell, where);
}

std::uint64_t exchange(const char* operation, unsigned mask, std::uint64_t in, int source, const Where& where) {
    struct Operands {
        std::uint64_t in, out;
        int source;
    } operands{in, 0, source};
    const Combine combine = [](void* const* lanes, unsigned present) {
        for (unsigned rest = present; rest != 0; rest &= rest - 1) {
            auto& lane = *static_cast<Operands*>(lanes[__builtin_ctz(rest)]);
            const bool given = (present >> lane.source & 1U) != 0;
            lane.out = given ? static_cast<const Operands*>(lanes[lane.source])->in : ~std::uint64_t{0};
        }
    };
    meet(operation, mask, &operands, combine, where);
    return operands.out;
}

int shuffle_source(Shuffle kind, int offset, int width, const Where& where) {
    if (width < 1 || width > warp_lanes || (width & (width - 1)) != 0) {
        fault("a shuffle of width " + std::to_string(width), where);
    }
    const int lane = self().lane();
    const int first = lane & ~(width - 1);
    const int last = first + width - 1;
    int source = lane;
    switch (kind) {
        case Shuffle::index:
            return first + (offset & (width - 1));
        case Shuffle::up:
            source = lane - offset;
            return source < first ? lane : source;
        case Shuffle::down:
            source = lane + offset;
            return source > last ? lane : source;
        case Shuffle::exclusive_or:
            source = lane ^ (offset & (warp_lanes - 1));
            return source > last ? lane : source;
    }
    return lane;
}

unsigned ballot(const char* operation, unsigned mask, bool predicate, const Where& where) {
    struct Operands {
        unsigned votes;
        bool predicate;
    } operands{0, predicate};
    const Combine combine = [](void* const* lanes, unsigned present) {
        unsigned votes = 0;
        for (int i = 0; i < warp_lanes; ++i) {
            if ((present >> i & 1U) != 0 && static_cast<const Operands*>(lanes[i])->predicate) votes |= 1U << i;
        }
        for (int i = 0; i < warp_lanes; ++i) {
            if ((present >> i & 1U) != 0) static_cast<Operands*>(lanes[i])->votes = votes;
        }
    };
    meet(operation, mask, &operands, combine, where);
    return operands.votes;
}

unsigned match(const char* operation, unsigned mask, std::uint64_t value, const Where& where) {
    struct Operands {
        std::uint64_t value;
        unsigned same;
    } operands{value, 0};
    const Combine combine = [](void* const* lanes, unsigned present) {
        for (int i = 0; i < warp_lanes; ++i) {
            if ((present >> i & 1U) == 0) continue;
            auto& lane = *static_cast<Operands*>(lanes[i]);
            for (int j = 0; j < warp_lanes; ++j) {
                if ((present >> j & 1U) == 0) continue;
                if (static_cast<const Operands*>(lanes[j])->value == lane.value) lane.same |= 1U << j;
            }
        }
    };
    meet(operation, mask, &operands, combine, where);
    return operands.same;
}

std::uint32_t reduce(const char* operation, unsigned mask, Reduction kind, std::uint32_t value, const Where& where) {
    struct Operands {
        std::uint32_t value;
        Reduction kind;
        std::uint32_t result;
    } operands{value, kind, 0};
    const Combine combine = [](void* const* lanes, unsigned present) {
        const auto& first = *static_cast<const Operands*>(lanes[__builtin_ctz(present)]);
        std::uint32_t result = first.value;
        for (unsigned rest = present & (present - 1); rest != 0; rest &= rest - 1) {
            const std::uint32_t other = static_cast<const Operands*>(lanes[__builtin_ctz(rest)])->value;
            const auto left = static_cast<std::int32_t>(result);
            const auto right = static_cast<std::int32_t>(other);
            switch (first.kind) {
                case Reduction::add:
                    result += other;
                    break;
                case Reduction::smallest:
                    result = std::min(result, other);
                    break;
                case Reduction::largest:
                    result = std::max(result, other);
                    break;
                case Reduction::smallest_signed:
                    result = static_cast<std::uint32_t>(std::min(left, right));
                    break;
                case Reduction::largest_signed:
                    result = static_cast<std::uint32_t>(std::max(left, right));
                    break;
                case Reduction::bits_and:
                    result &= other;
                    break;
                case Reduction::bits_or:
                    result |= other;
                    break;
                case Reduction::bits_xor:
                    result ^= other;
                    break;
            }
        }
        for (unsigned rest = present; rest != 0; rest &= rest - 1) {
            static_cast<Operands*>(lanes[__builtin_ctz(rest)])->result = result;
        }
    };
    meet(operation, mask, &operands, combine, where);
    return operands.result;
}

}  // namespace pvtune::cuda::emulation
