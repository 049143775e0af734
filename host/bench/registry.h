#pragma once

#include "host/bench/operands.h"
#include "host/bench/shape.h"

#include <functional>
#include <string>
#include <vector>

namespace pvtune {

/// What entries are made for.
struct BenchSetting {
    Backend* backend = nullptr;
    bool on_cpu = true;
    DType precision = DType::f32;
    BenchShape shape;

    /// Only in calls: a backend that plans has none.
    Ops& ops() const { return backend->ops(); }
};

/// One call of an operation, ready to run, and what it must do at least.
struct BenchCall {
    std::function<void()> run;
    double bytes = 0;                ///< every operand read once and every result written once
    double flops = 0;                ///< of products, two a multiply-add
    DType products = DType::f32;     ///< the type whose rate flops are held against
    std::function<void()> before{};  ///< runs before every call, outside its time
};

/// A line of the registry. An operation may have several versions: the one that Ops calls has no name and must be the
/// fastest; others say why they are there.
struct BenchEntry {
    std::string op;
    std::string version;
    std::string reason;
    std::function<BenchCall(Operands&)> make;

    std::string name() const { return version.empty() ? op : op + "@" + version; }
};

using Registry = std::vector<BenchEntry>;

// One kind of operation a file.
void add_model_entries(Registry& registry, const BenchSetting& setting);
void add_linear_entries(Registry& registry, const BenchSetting& setting);
void add_attention_entries(Registry& registry, const BenchSetting& setting);
void add_loss_entries(Registry& registry, const BenchSetting& setting);
void add_additive_entries(Registry& registry, const BenchSetting& setting);
void add_lattice_entries(Registry& registry, const BenchSetting& setting);
void add_scalar_entries(Registry& registry, const BenchSetting& setting);
void add_subspace_entries(Registry& registry, const BenchSetting& setting);
void add_calibration_entries(Registry& registry, const BenchSetting& setting);
void add_optimizer_entries(Registry& registry, const BenchSetting& setting);
/// Other versions of what is in the registry, and kernels outside Ops, of one backend.
void add_cpu_versions(Registry& registry, const BenchSetting& setting);
void add_cuda_versions(Registry& registry, const BenchSetting& setting);

/// All of them.
Registry bench_registry(const BenchSetting& setting);

/// Puts the entry behind those of the same operation.
void add_version(Registry& registry, BenchEntry entry);

/// Sum of the tensors' bytes; one that is read and written counts twice.
double bytes_of(std::initializer_list<Tensor> tensors);

}  // namespace pvtune
