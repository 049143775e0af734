#include "host/common/interrupt.h"

#include <unistd.h>
#include <csignal>
#include <ctime>

namespace pvtune {

namespace {

volatile std::sig_atomic_t flag = 0;

constexpr int interrupted_status = 130;  // what shells report for SIGINT

constexpr char stopping[] = "\npvtune: stopping as soon as nothing is lost; Ctrl-C once more: at once\n";

double now() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double first = 0;  // when the first came; for the handler alone

void handle(int signal) {
    // The same event can come twice: a terminal that closes sends SIGHUP by itself and by its shell, Ctrl-C reaches a
    // program and the script that passes it on.
    constexpr double same_event = 0.5;  // seconds
    if (flag != 0) {
        if (signal == SIGINT && now() - first > same_event) _exit(interrupted_status);
        return;
    }
    first = now();
    flag = 1;
    // Nobody is there to tell when this fails.
    if (write(STDERR_FILENO, stopping, sizeof stopping - 1) < 0) return;
}

}  // namespace

void watch_interrupts() {
    struct sigaction action {};
    action.sa_handler = handle;
    sigemptyset(&action.sa_mask);
    for (const int other : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&action.sa_mask, other);
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    struct sigaction hangup {};
    sigaction(SIGHUP, nullptr, &hangup);
    if (hangup.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);  // nohup's runs outlive their terminal
}

bool interrupted() { return flag != 0; }

void stop_if_interrupted() {
    if (interrupted()) throw Interrupted();
}

}  // namespace pvtune
