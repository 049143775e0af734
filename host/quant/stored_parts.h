#pragma once

#include "host/backend/backend.h"
#include "io/store.h"

#include <string>
#include <vector>

/// How the parts of a quantised matrix are read and written, whatever its representation. What is wrong with a file is
/// an Error that names file and part.
namespace pvtune {

/// Throws Error: the file is damaged.
[[noreturn]] void refuse_part(const StoreReader& store, const std::string& path, const std::string& fault);

/// An integer attribute within [least, most].
std::int64_t read_attribute(const StoreReader& store, const std::string& path, const std::string& name,
                            std::int64_t least, std::int64_t most);

void check_shape(const StoreReader& store, const std::string& path, const TensorInfo& info,
                 const std::vector<std::int64_t>& shape);

/// Finite values, stored as f16 or f32.
std::vector<float> read_floats(const StoreReader& store, const std::string& path,
                               const std::vector<std::int64_t>& shape);
std::vector<std::uint8_t> read_bytes(const StoreReader& store, const std::string& path,
                                     const std::vector<std::int64_t>& shape);

/// f32 values become those that save_floats() writes in f16.
void round_to_halves(Backend& backend, Tensor values);

/// Written in f32 (exact) or f16; a value beyond 16 bits is an Error.
void save_floats(Backend& backend, StoreWriter& store, const std::string& path, Tensor values, bool exact);

}  // namespace pvtune
