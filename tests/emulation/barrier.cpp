#include "tests/emulation/barrier.h"
#include "tests/emulation/observer.h"

#include <cstring>

namespace pvtune::cuda::emulation {
namespace {

bool same_place(const Thread& a, const Thread& b) {
    return a.where.line() == b.where.line() && a.where.column() == b.where.column() &&
           (a.where.file_name() == b.where.file_name() || std::strcmp(a.where.file_name(), b.where.file_name()) == 0);
}

const Thread* first_waiting = nullptr;

}  // namespace

void open_barrier_if_complete() {
    if (block.waiting == 0 || block.waiting < block.live) return;
    if (observer != nullptr) observer->barrier();
    block.barrier_result = block.predicates_true;
    block.waiting = block.predicates_true = 0;
    make_ready_in_order(0, static_cast<int>(block.threads.size()),
                        [](const Thread& thread) { return thread.state == Thread::State::at_barrier; });
}

int barrier(const char* operation, int predicate, const Where& where) {
    Thread& thread = self();
    thread.state = Thread::State::at_barrier;
    thread.operation = operation;
    thread.where = where;
    if (block.waiting++ == 0) first_waiting = &thread;
    if (!same_place(thread, *first_waiting)) {
        fault("comes to " + std::string(operation) + " while another barrier holds " + describe(*first_waiting), where);
    }
    block.predicates_true += predicate != 0 ? 1 : 0;
    open_barrier_if_complete();
    wait();
    return block.barrier_result;
}

}  // namespace pvtune::cuda::emulation
