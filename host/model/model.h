#pragma once

#include "host/backend/backend.h"
#include "host/model/config.h"
#include "host/quant/representation.h"
#include "io/store.h"

#include <array>
#include <memory>
#include <string>
#include <vector>

namespace pvtune {

/// The seven weight matrices of a block, in the order of Block::matrices.
enum MatrixIndex { query, key, value, output, gate, up, down, matrices_per_block };

/// The norms of a block; those behind the second only in families that have them.
enum NormIndex {
    attention_norm,
    mlp_norm,
    query_norm,  ///< of heads, [head_dim]
    key_norm,
    attention_out_norm,  ///< of what the attention adds
    mlp_out_norm,
    norms_per_block
};

/// A weight matrix [rows, columns] of a block.
struct Matrix {
    std::string name;  ///< Hugging Face name, "model.layers.0.self_attn.q_proj.weight"
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    Tensor weight;       ///< what products read, in the compute precision; for a quantised matrix written by
                         ///< prepare_block(), or empty (Residency::codes)
    Tensor host_weight;  ///< where `weight` is filled from by fetch_block() (Residency::streamed), or empty
    Tensor bias;         ///< f32 [rows], or empty
    std::unique_ptr<Representation> quantized;  ///< null: dense
};

struct Block {
    std::int64_t layer = 0;                     ///< its number in the model
    std::array<Tensor, norms_per_block> norms;  ///< f32 [width] or [head_dim], or empty
    std::array<Matrix, matrices_per_block> matrices;
};

/// f32 [positions, rotated dimensions / 2]
struct RotaryTables {
    Tensor cosines, sines;
};

/// Where the dequantised weights of a quantised model live.
enum class Residency {
    all,        ///< every block has its own
    one_block,  ///< all blocks share one set, which prepare_block() fills: codes are all that stays
    streamed,   ///< dense weights in host memory, those of two blocks at a time on the device: see fetch_block()
    codes       ///< nowhere, nothing is dequantised: products of single tokens read the codes
};

/// A model in the arena of a backend. Embedding and head are in the compute precision, norms in f32.
struct Model {
    ModelConfig config;
    DType precision = DType::f32;
    Residency residency = Residency::all;
    Tensor embedding;   ///< [vocabulary, width]
    Tensor head;        ///< [vocabulary, width]; the embedding itself where the config ties them
    Tensor final_norm;  ///< f32 [width]
    RotaryTables rotary;
    RotaryTables long_rotary;   ///< of sequences beyond rotary.original_positions, where those differ (long rope)
    RotaryTables local_rotary;  ///< of blocks with a window, where those differ
    std::vector<Block> blocks;
    std::array<Copy, 2> fetches;  ///< of the even and the odd block on the device (Residency::streamed)

    bool quantized() const;
};

/// Name and shape of a tensor, and what it is in its block.
struct TensorSpec {
    std::string name;
    std::vector<std::int64_t> shape;
    bool block_matrix = false;
    int matrix = -1;  ///< which matrix of the block it is, or whose bias
    int norm = -1;    ///< which norm of the block it is
};
/// Every tensor that a model of this config has, in file order.
std::vector<TensorSpec> tensor_specs(const ModelConfig& config);
/// Those of block i.
std::vector<TensorSpec> block_specs(const ModelConfig& config, std::int64_t i);

/// The parameters of a block that stay dense, under their names in block i: norms and biases, f32.
std::vector<std::pair<std::string, Tensor>> dense_parameters(const Block& block, const ModelConfig& config,
                                                             std::int64_t i);

/// Reads the config that every weights store carries.
ModelConfig read_config(const StoreReader& store);

/// A dense tensor of a weights store as f32; checks shape and finiteness. Throws Error naming file and tensor.
std::vector<float> read_dense(const StoreReader& store, const std::string& name,
                              const std::vector<std::int64_t>& shape);

/// Trained values as a dataset of the type and shape that `info` (the source file's) says, norms and biases in f32:
/// their steps are smaller than what bf16 tells apart.
void write_trained(StoreWriter& store, const std::string& path, const TensorInfo& info,
                   const std::vector<float>& values);

/// Loads a dense or quantised model. length: positions that the rotary tables cover. Throws Error for missing tensors,
/// wrong shapes and non-finite values. With a planning backend nothing is read but the allocations are recorded.
/// matrices: a store (a checkpoint) to take the quantised matrices from instead.
Model load_model(Backend& backend, const StoreReader& store, DType precision, std::int64_t length, Residency residency,
                 const StoreReader* matrices = nullptr);

/// The tables of `length` positions.
void make_rotary_tables(Backend& backend, Model& model, std::int64_t length);
/// The rows of positions [first, first + count) for a block in a sequence of `length`.
RotaryTables rotary_rows(const Model& model, const Block& block, std::int64_t length, std::int64_t first,
                         std::int64_t count);

/// Uploads f32 values to a tensor of f32 or bf16.
void upload_as(Backend& backend, Tensor to, const std::vector<float>& values);

/// Starts copying the weights of block i to the device, where they take the place of block i - 2's; nothing to do where
/// weights are not streamed.
void fetch_block(Backend& backend, Model& model, std::int64_t i);
/// Operations launched from here on wait for that copy.
void await_block(Backend& backend, const Model& model, std::int64_t i);

/// Dequantises what is quantised in block i into its weight buffers; nothing to do for dense or resident weights.
void prepare_block(Ops& ops, Model& model, std::int64_t i);

}  // namespace pvtune
