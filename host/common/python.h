#pragma once

#include <string>
#include <vector>

namespace pvtune {

/// The Python of this program's own environment (PVTUNE_PYTHON names another). Throws Error where there is none.
std::string python_program();

/// A program of scripts/ in the folder that this program was built in (PVTUNE_SCRIPTS names another). Throws Error
/// where it is not there.
std::string python_script(const std::string& name);

/// Runs a program of scripts/ with `input` as its standard input and returns its standard output. Throws Error with its
/// last line of standard error when it fails.
std::string run_python_script(const std::string& name, const std::vector<std::string>& arguments,
                              const std::string& input = {});

}  // namespace pvtune
