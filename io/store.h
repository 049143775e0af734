#pragma once

#include "io/dtype.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace pvtune {

/// Format version of every store this program writes; a newer file is refused.
inline constexpr int store_format_version = 1;

struct TensorInfo {
    DType dtype = DType::f32;
    std::vector<std::int64_t> shape;

    std::int64_t elements() const {
        std::int64_t count = 1;
        for (const auto extent : shape) count *= extent;
        return count;
    }
    std::int64_t bytes() const { return elements() * size_of(dtype); }
};

/// Writes a typed HDF5 file whole or not at all: everything goes to `path + ".partial"`, which commit() closes, fsyncs
/// and renames to `path`. Without commit() the destructor removes the partial file and `path` stays as it was.
/// Datasets are chunked with Fletcher-32 sums. Errors (no space, no such folder) are thrown as Error with the path.
class StoreWriter {
public:
    /// kind: "weights", "tokens", "checkpoint" or "calibrated block"; stored as the file's attribute `kind`.
    StoreWriter(std::string path, const std::string& kind, const std::string& command);
    ~StoreWriter();
    StoreWriter(const StoreWriter&) = delete;
    StoreWriter& operator=(const StoreWriter&) = delete;

    /// object: "/" or the path of a group or dataset that exists already (groups are made by create_group or write).
    void set_text(const std::string& object, const std::string& name, const std::string& value);
    void set_integer(const std::string& object, const std::string& name, std::int64_t value);
    void set_real(const std::string& object, const std::string& name, double value);

    void create_group(const std::string& path);
    /// Writes a whole dataset (row-major); missing parent groups are created.
    void write(const std::string& dataset, DType dtype, const std::vector<std::int64_t>& shape, const void* data);

    /// Stores the content hash, closes, fsyncs, renames. Returns the content hash (32 hex digits).
    std::string commit();

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// Reads a store. Every failure (missing, foreign, truncated, damaged, newer, wrong kind, wrong dtype or shape) is an
/// Error of one line with the path and the remedy.
class StoreReader {
public:
    /// kind: what the file must be; "" takes any.
    StoreReader(std::string path, const std::string& kind);
    ~StoreReader();
    StoreReader(StoreReader&&) noexcept;

    const std::string& path() const;
    std::string command() const;
    std::string content_hash() const;

    bool has(const std::string& object) const;
    bool is_group(const std::string& object) const;
    /// Names (not paths) of the children of a group, sorted.
    std::vector<std::string> children(const std::string& group) const;

    bool has_attribute(const std::string& object, const std::string& name) const;
    std::string text(const std::string& object, const std::string& name) const;
    std::int64_t integer(const std::string& object, const std::string& name) const;
    double real(const std::string& object, const std::string& name) const;

    TensorInfo info(const std::string& dataset) const;
    /// Throws an Error that names both sides unless the dataset has this dtype and shape.
    void expect(const std::string& dataset, DType dtype, const std::vector<std::int64_t>& shape) const;
    /// Reads a whole dataset in its own dtype; `bytes` must be info(dataset).bytes().
    void read(const std::string& dataset, void* data, std::int64_t bytes) const;
    /// Reads elements [first, first + count) of the leading dimension; data holds count rows.
    void read_rows(const std::string& dataset, std::int64_t first, std::int64_t count, void* data) const;

    /// Recomputes the content hash from the datasets; throws when it differs from the stored one.
    void verify() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// The kind attribute of any store of ours ("weights", "tokens", ...), for `pvtune inspect`.
std::string store_kind(const std::string& path);

}  // namespace pvtune
