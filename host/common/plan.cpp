#include "host/common/plan.h"

#include "host/common/memory.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "io/error.h"

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

std::int64_t bytes_of(const std::vector<Allocation>& allocations) {
    std::int64_t bytes = 0;
    for (const Allocation& allocation : allocations) bytes += allocation.bytes;
    return bytes;
}

}  // namespace

std::int64_t Plan::memory_bytes() const { return bytes_of(memory); }
std::int64_t Plan::host_memory_bytes() const { return bytes_of(host_memory); }

Plan plan_of(Backend& planning) {
    Plan plan;
    plan.memory = planning.arena().table();
    plan.host_memory = planning.host_arena().table();
    return plan;
}

std::int64_t weight_bytes(const Plan& plan) {
    std::int64_t bytes = 0;
    for (const std::vector<Allocation>* allocations : {&plan.memory, &plan.host_memory}) {
        for (const Allocation& allocation : *allocations) {
            for (const char* filled : {"block weights", "embedding", "head", "codes", "codebooks", "scales", "zeros"}) {
                if (allocation.name == filled) bytes += allocation.bytes;
            }
        }
    }
    return bytes;
}

void check_fits(const Backend& backend, const Plan& plan, const std::string& remedy) {
    if (const std::int64_t host = plan.host_memory_bytes(); host > available_memory()) {
        throw Error(
            "needs " + bytes_text(host) + " of host memory beside the device's but " + bytes_text(available_memory()) +
            " are available: use less --offload, a smaller --batch, --ctx or --sequences, or a machine with more");
    }
    const std::int64_t needed = plan.memory_bytes();
    const std::int64_t limit = backend.memory_limit();
    if (needed <= limit) return;
    const auto largest = std::max_element(plan.memory.begin(), plan.memory.end(),
                                          [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
    throw Error("needs " + bytes_text(needed) + " of memory but " + bytes_text(limit) +
                " are available (most of it: " + largest->name + ", " + bytes_text(largest->bytes) + "): " + remedy);
}

void print_plan(const Backend& backend, const Plan& plan, bool json) {
    if (json) {
        nlohmann::ordered_json memory = nlohmann::ordered_json::object();
        for (const Allocation& allocation : plan.memory) memory[allocation.name] = allocation.bytes;
        std::cout << json_line({{"dry_run", true},
                                {"memory", memory},
                                {"memory_bytes", plan.memory_bytes()},
                                {"memory_available", backend.memory_limit()},
                                {"host_memory_bytes", plan.host_memory_bytes()},
                                {"flops", plan.flops},
                                {"bytes_read", plan.bytes_read},
                                {"bytes_written", plan.bytes_written},
                                {"device", backend.description()}})
                  << "\n";
        return;
    }
    std::size_t width = 9;
    for (const Allocation& allocation : plan.memory) width = std::max(width, allocation.name.size());
    const auto row = [&](const std::string& name, const std::string& value) {
        std::cout << format("  %-*s  %12s\n", static_cast<int>(width), name.c_str(), value.c_str());
    };
    for (const Allocation& allocation : plan.host_memory) width = std::max(width, allocation.name.size() + 15);
    std::cout << "plan (nothing was started)\n";
    for (const Allocation& allocation : plan.memory) row(allocation.name, bytes_text(allocation.bytes));
    row("memory", bytes_text(plan.memory_bytes()));
    row("available", bytes_text(backend.memory_limit()));
    for (const Allocation& allocation : plan.host_memory) {
        row(allocation.name + " in host memory", bytes_text(allocation.bytes));
    }
    row("work", count_text(plan.flops) + "FLOP");
    row("read", bytes_text(plan.bytes_read));
    row("written", bytes_text(plan.bytes_written));
    std::cout << "  on " << backend.description() << "\n";
}

}  // namespace pvtune
