#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace pvtune {

/// An error that a user can cause and mend: a missing file, a damaged store, a flag that does not fit the model.
/// The text is one line that names the file or flag, the value and the remedy. The driver prints it and exits with 2.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// A name from a file made fit for such a line.
std::string printable(std::string_view name);

}  // namespace pvtune
