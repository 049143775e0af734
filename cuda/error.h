#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

namespace pvtune::cuda {

/// A refusal of the CUDA runtime or of a library on it: what was asked, the library's own words, file and line.
class CudaError : public std::runtime_error {
public:
    CudaError(const std::string& asked, const std::string& answer, const std::source_location& where)
        : std::runtime_error(asked + ": " + answer + " (" + where.file_name() + ":" + std::to_string(where.line()) +
                             ")") {}
};

}  // namespace pvtune::cuda
