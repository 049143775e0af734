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
    Tensor attention_norm;  ///< f32 [width]
    Tensor mlp_norm;        ///< f32 [width]
    std::array<Matrix, matrices_per_block> matrices;
};

/// Where the dequantised weights of a quantised model live.
enum class Residency {
    all,        ///< every block has its own
    one_block,  ///< all blocks share one set, which prepare_block() fills: codes are all that stays
    streamed,   ///< dense weights in host memory, those of two blocks at a time on the device: see fetch_block()
    codes       ///< nowhere, nothing is dequantised: products of single tokens read the codes
};

/// A Llama-family model in the arena of a backend. Embedding and head are in the compute precision, norms in f32.
struct Model {
    ModelConfig config;
    DType precision = DType::f32;
    Residency residency = Residency::all;
    Tensor embedding;   ///< [vocabulary, width]
    Tensor head;        ///< [vocabulary, width]; the embedding itself where the config ties them
    Tensor final_norm;  ///< f32 [width]
    Tensor cosines;     ///< f32 [positions, head_dim / 2]
    Tensor sines;
    std::vector<Block> blocks;
    std::array<Copy, 2> fetches;  ///< of the even and the odd block on the device (Residency::streamed)

    bool quantized() const;
};

/// Name, shape of every tensor that a model of this config has, in file order. Matrices of blocks are marked.
struct TensorSpec {
    std::string name;
    std::vector<std::int64_t> shape;
    bool block_matrix = false;
};
std::vector<TensorSpec> tensor_specs(const ModelConfig& config);

/// Reads the config that every weights store carries.
ModelConfig read_config(const StoreReader& store);

/// A dense tensor of a weights store as f32; checks shape and finiteness. Throws Error naming file and tensor.
std::vector<float> read_dense(const StoreReader& store, const std::string& name,
                              const std::vector<std::int64_t>& shape);

/// f32 values as a dataset of the type and shape that `info` (the source file's) says.
void write_as(StoreWriter& store, const std::string& path, const TensorInfo& info, const std::vector<float>& values);

/// Loads a dense or quantised model. length: positions that the rotary tables cover. Throws Error for missing tensors,
/// wrong shapes and non-finite values. With a planning backend nothing is read but the allocations are recorded.
/// matrices: a store (a checkpoint) to take the quantised matrices from instead.
Model load_model(Backend& backend, const StoreReader& store, DType precision, std::int64_t length, Residency residency,
                 const StoreReader* matrices = nullptr);

/// cosines and sines of `length` positions.
void make_rotary_tables(Backend& backend, Model& model, std::int64_t length);

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
