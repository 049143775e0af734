#pragma once

#include <stdexcept>
#include <string>

namespace pvtune {

/// From here on SIGINT, SIGTERM and SIGHUP (unless it is ignored) say so on standard error and set a flag; a SIGINT
/// after that ends the process at once.
void watch_interrupts();

/// Whether one came.
bool interrupted();

/// Unwinds a command that was interrupted, so that its partial files go; main() ends with status 130.
class Interrupted : public std::runtime_error {
public:
    explicit Interrupted(const std::string& text = "interrupted; nothing was written") : std::runtime_error(text) {}
};

/// Throws Interrupted if one came.
void stop_if_interrupted();

}  // namespace pvtune
