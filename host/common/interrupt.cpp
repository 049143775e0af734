#include "host/common/interrupt.h"

#include <unistd.h>
#include <csignal>

namespace pvtune {

namespace {

volatile std::sig_atomic_t flag = 0;

constexpr int interrupted_status = 130;  // what shells report for SIGINT

constexpr char stopping[] = "\npvtune: stopping as soon as nothing is lost; once more: at once\n";

void handle(int) {
    if (flag != 0) _exit(interrupted_status);
    flag = 1;
    // Nobody is there to tell when this fails.
    if (write(STDERR_FILENO, stopping, sizeof stopping - 1) < 0) return;
}

}  // namespace

void watch_interrupts() {
    struct sigaction action {};
    action.sa_handler = handle;
    sigemptyset(&action.sa_mask);
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
