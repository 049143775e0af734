#include "host/commands/inspect_weights.h"

#include "host/common/interrupt.h"
#include "host/common/progress.h"
#include "host/common/text.h"
#include "host/model/model.h"
#include "io/error.h"

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

namespace pvtune {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t bits_a_byte = 8;

struct Row {
    std::string name;
    std::string kind;  ///< type, or representation with its sizes
    std::string shape;
    std::int64_t count = 1;
    std::int64_t weights = 0;
    std::int64_t bits = 0;
    std::int64_t bytes = 0;  ///< in the file, without HDF5's own
    bool block_matrix = false;

    double bits_per_weight() const { return static_cast<double>(bits) / static_cast<double>(weights); }
};

/// "model.layers.12.mlp.up_proj.weight" -> "model.layers.*.mlp.up_proj.weight"
std::string without_layer(std::string name) {
    const std::string prefix = "model.layers.";
    if (!name.starts_with(prefix)) return name;
    const auto end = name.find('.', prefix.size());
    return end == name.npos ? name : name.replace(prefix.size(), end - prefix.size(), "*");
}

Row inspect_tensor(const StoreReader& store, Backend& planning, const TensorSpec& spec) {
    const std::string path = "/tensors/" + spec.name;
    if (!store.has(path))
        throw Error(store.path() + ": has no tensor " + spec.name + ": the file is incomplete, make it again");
    Row row{spec.name, "", shape_text(spec.shape), 1, 1, 0, 0, spec.block_matrix};
    for (const auto extent : spec.shape) row.weights *= extent;
    if (!store.is_group(path)) {
        const TensorInfo info = store.info(path);
        store.expect(path, info.dtype, spec.shape);
        row.kind = name_of(info.dtype);
        row.bytes = info.bytes();
        row.bits = row.bytes * bits_a_byte;
        return row;
    }
    const auto matrix = load_representation(planning, store, path);
    if (std::vector{matrix->rows(), matrix->columns()} != spec.shape) {
        throw Error(store.path() + ": " + spec.name + " is " + shape_text({matrix->rows(), matrix->columns()}) +
                    ", the config wants " + row.shape);
    }
    row.kind = matrix->name();
    for (const char* name : {"codebooks", "code_bits"}) {
        if (store.has_attribute(path, name))
            row.kind += (row.kind == matrix->name() ? " " : "x") + std::to_string(store.integer(path, name));
    }
    const std::int64_t group = store.integer(path, "group");
    row.kind += group > 0 ? " g" + std::to_string(group) : " row";
    row.bits = matrix->bits();
    for (const std::string& part : store.children(path)) row.bytes += store.info(path + "/" + part).bytes();
    return row;
}

std::vector<Row> sums_by_kind(const std::vector<Row>& rows) {
    std::vector<Row> sums;
    for (const Row& row : rows) {
        const std::string name = without_layer(row.name);
        const auto same = std::find_if(sums.begin(), sums.end(), [&](const Row& sum) {
            return sum.name == name && sum.kind == row.kind && sum.shape == row.shape;
        });
        if (same == sums.end()) {
            sums.push_back(row);
            sums.back().name = name;
            continue;
        }
        ++same->count;
        same->weights += row.weights;
        same->bits += row.bits;
        same->bytes += row.bytes;
    }
    return sums;
}

void print_table(const std::vector<Row>& rows) {
    std::size_t width = 6;
    for (const Row& row : rows) width = std::max(width, row.name.size());
    const int columns = static_cast<int>(width);
    std::cout << format("\n  %-*s  %5s  %-14s  %-12s  %9s  %10s\n", columns, "tensor", "count", "shape", "type",
                        "bits/wt", "bytes");
    for (const Row& row : rows) {
        std::cout << format("  %-*s  %5lld  %-14s  %-12s  %9.4f  %10s\n", columns, row.name.c_str(),
                            static_cast<long long>(row.count), row.shape.c_str(), row.kind.c_str(),
                            row.bits_per_weight(), bytes_text(row.bytes).c_str());
    }
}

/// |W - What|^2 / |W|^2 over the block matrices.
double relative_mse(const CommonOptions& common, const StoreReader& store, const std::string& against,
                    const std::vector<TensorSpec>& specs) {
    const StoreReader dense(against, "weights");
    watch_interrupts();
    const auto matrices = std::count_if(specs.begin(), specs.end(), [](const auto& spec) { return spec.block_matrix; });
    Progress progress({"inspect", matrices, "matrices", "", 1, common.quiet});
    double error = 0;
    double norm = 0;
    std::int64_t done = 0;
    for (const TensorSpec& spec : specs) {
        if (!spec.block_matrix) continue;
        stop_if_interrupted();
        const std::vector<float> wanted = read_dense(dense, spec.name, spec.shape);
        std::vector<float> found(wanted.size());
        const std::string path = "/tensors/" + spec.name;
        if (store.is_group(path)) {
            const auto backend = make_backend(common);
            const auto matrix = load_representation(*backend, store, path);
            const Tensor weight = backend->arena().allocate("weight", DType::f32, {matrix->rows(), matrix->columns()});
            matrix->dequantize(backend->ops(), weight);
            backend->download(found.data(), weight);
        } else {
            found = read_dense(store, spec.name, spec.shape);
        }
        for (std::size_t i = 0; i < wanted.size(); ++i) {
            const double difference = static_cast<double>(found[i]) - static_cast<double>(wanted[i]);
            error += difference * difference;
            norm += static_cast<double>(wanted[i]) * static_cast<double>(wanted[i]);
        }
        progress.update(++done);
    }
    return norm > 0 ? error / norm : 0;
}

void describe_config(const ModelConfig& config, Json& result) {
    std::cout << "model          " << config.family << ", " << config.layers << " layers, width " << config.width
              << ", MLP " << config.intermediate << ", heads " << config.heads << " (" << config.kv_heads
              << " key-value) of " << config.head_dim << ", vocabulary " << config.vocabulary
              << (config.tied ? " (tied head)" : "") << ", positions " << config.max_positions
              << (config.window > 0 ? ", window " + std::to_string(config.window) : "") << "\n";
    result["config"] = Json::parse(config.json);
}

Json to_json(const Row& row) {
    return {{"name", row.name},   {"type", row.kind},       {"shape", row.shape},
            {"count", row.count}, {"weights", row.weights}, {"bits_per_weight", row.bits_per_weight()},
            {"bytes", row.bytes}};
}

}  // namespace

void inspect_weights(const CommonOptions& common, const StoreReader& store, const std::string& against,
                     bool every_tensor, Json& result) {
    const ModelConfig config = read_config(store);
    const std::vector<TensorSpec> specs = tensor_specs(config);
    const auto planning = make_backend(common, true);
    std::vector<Row> rows;
    Row all, matrices;
    bool quantized = false;
    for (const TensorSpec& spec : specs) {
        rows.push_back(inspect_tensor(store, *planning, spec));
        const Row& row = rows.back();
        for (Row* sum : {&all, &matrices}) {
            if (sum == &matrices && !row.block_matrix) continue;
            sum->weights += row.weights;
            sum->bits += row.bits;
            sum->bytes += row.bytes;
        }
        quantized |= store.is_group("/tensors/" + spec.name);
    }
    describe_config(config, result);
    for (const char* name : {"quantization", "source_hash", "settings"}) {
        if (!store.has_attribute("/", name)) continue;
        std::cout << format("%-14s ", name) << one_line(store.text("/", name)) << "\n";
        result[name] = store.text("/", name);
    }
    std::optional<double> mse;
    if (!against.empty() && !common.dry_run) {
        mse = relative_mse(common, store, against, specs);
    } else if (store.has_attribute("/", "relative_mse")) {
        mse = store.real("/", "relative_mse");
    } else if (!quantized) {
        mse = 0;
    }
    const std::vector<Row> table = every_tensor ? rows : sums_by_kind(rows);
    print_table(table);
    std::cout << format("\nblock matrices %s weights, %.4f bits a weight, %s\n",
                        count_text(static_cast<double>(matrices.weights)).c_str(), matrices.bits_per_weight(),
                        bytes_text(matrices.bytes).c_str())
              << format("whole model    %s weights, %.4f bits a weight, %s\n",
                        count_text(static_cast<double>(all.weights)).c_str(), all.bits_per_weight(),
                        bytes_text(all.bytes).c_str());
    if (mse && quantized) std::cout << format("relative MSE   %.6f of the block matrices\n", *mse);
    result["parameters"] = all.weights;
    result["bits_per_weight"] = matrices.bits_per_weight();
    result["bits_per_weight_overall"] = all.bits_per_weight();
    result["relative_mse"] = mse ? Json(*mse) : Json(nullptr);
    result["bytes"] = all.bytes;
    Json list = Json::array();
    for (const Row& row : table) list.push_back(to_json(row));
    result["tensors"] = list;
}

}  // namespace pvtune
