// config.json of every family: what is understood, and that nothing else is.
#include "host/model/source.h"
#include "tests/family_configs.h"
#include "tests/files.h"

#include <nlohmann/json.hpp>

namespace pvtune {
namespace {

using namespace pvtune::testing;
using Json = nlohmann::json;

Json config_of(const std::string& name) {
    for (const FamilyConfig& family : family_configs) {
        if (family.name == name) return Json::parse(family.json);
    }
    throw std::logic_error(name);
}

ModelConfig parse(const Json& json) { return parse_config(json.dump(), "config.json"); }

/// The family's config with these keys: refused, by a text with all the words.
void refused(const std::string& family, const Json& change, const std::vector<std::string>& words) {
    Json json = config_of(family);
    json.update(change);
    const std::string text = error_of([&] { parse(json); });
    for (const std::string& word : words) EXPECT_NE(text.find(word), std::string::npos) << text;
}

TEST(Config, DeepNestingIsRefused) {
    for (const int depth : {40, 1'000'000}) {
        const auto repeated = [&](char bracket) { return std::string(static_cast<std::size_t>(depth), bracket); };
        const std::string text = "{\"model_type\": \"llama\", \"x\": " + repeated('[') + repeated(']') + "}";
        EXPECT_ERROR(parse_config(text, "config.json"), "config.json", "nested too deeply");
    }
}

TEST(Config, FamiliesSayWhatTheirModelsAre) {
    const ModelConfig llama = parse(config_of("llama3"));
    EXPECT_EQ(llama.rotary.scaling, RotaryScaling::llama3);
    EXPECT_EQ(llama.rotary.original_positions, 32);
    EXPECT_FALSE(llama.qkv_bias);

    const ModelConfig qwen2 = parse(config_of("qwen2"));
    EXPECT_TRUE(qwen2.qkv_bias);
    EXPECT_FALSE(qwen2.output_bias);
    EXPECT_EQ(qwen2.window_of(0), 0);
    EXPECT_EQ(qwen2.window_of(1), 5);

    const ModelConfig qwen3 = parse(config_of("qwen3"));
    EXPECT_TRUE(qwen3.head_norms);
    EXPECT_EQ(qwen3.head_dim, 10);
    EXPECT_EQ(qwen3.window_of(1), 0);

    const ModelConfig phi3 = parse(config_of("phi3"));
    EXPECT_EQ(phi3.rotary.dimensions, 4);
    EXPECT_EQ(phi3.window_of(0), 9);
    EXPECT_NEAR(phi3.rotary.amplitude, std::sqrt(1 + std::log(6.4) / std::log(10)), 1e-12);

    const ModelConfig gemma2 = parse(config_of("gemma2"));
    EXPECT_EQ(gemma2.attention_cap, 2);
    EXPECT_EQ(gemma2.logit_cap, 30);
    EXPECT_EQ(gemma2.window_of(0), 7);
    EXPECT_EQ(gemma2.window_of(1), 0);
    EXPECT_FALSE(gemma2.local(0));
    EXPECT_EQ(gemma2.embedding_scale, 4);
    EXPECT_NEAR(gemma2.rotary.amplitude, std::pow(12.0 / 256, 0.25), 1e-12);

    const ModelConfig gemma = parse(config_of("gemma3"));
    EXPECT_EQ(gemma.norm_offset, 1);
    EXPECT_EQ(gemma.embedding_scale, 4);
    EXPECT_TRUE(gemma.tied);
    EXPECT_TRUE(gemma.local(0));
    EXPECT_FALSE(gemma.local(1));
    EXPECT_EQ(gemma.local_rotary.theta, 100);
    EXPECT_EQ(gemma.rotary.theta, 1e6);
    EXPECT_NEAR(gemma.rotary.amplitude, std::pow(12.0 / 7, 0.25), 1e-12);
}

TEST(Config, RopeParametersOfNewerFilesAreTheSame) {
    Json json = config_of("phi3");
    Json rotary = json["rope_scaling"];
    json.erase("rope_scaling");
    json.erase("partial_rotary_factor");
    json.erase("original_max_position_embeddings");
    rotary.erase("type");
    rotary.update({{"rope_type", "longrope"},
                   {"rope_theta", 10000.0},
                   {"partial_rotary_factor", 0.5},
                   {"original_max_position_embeddings", 10}});
    json["rope_parameters"] = rotary;
    json["original_max_position_embeddings"] = 10;
    EXPECT_EQ(parse(json).rotary, parse(config_of("phi3")).rotary);

    json = config_of("gemma3");
    json.erase("rope_local_base_freq");
    json["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 1e6}}},
                               {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 100}}}};
    EXPECT_EQ(parse(json).rotary, parse(config_of("gemma3")).rotary);
    EXPECT_EQ(parse(json).local_rotary, parse(config_of("gemma3")).local_rotary);
}

TEST(Config, LayerTypesDecideOverThePattern) {
    Json json = config_of("qwen2");
    json["layer_types"] = {"sliding_attention", "full_attention"};
    EXPECT_EQ(parse(json).window_of(0), 5);
    EXPECT_EQ(parse(json).window_of(1), 0);
    refused("qwen2", {{"layer_types", {"full_attention"}}}, {"layer_types", "1 entries for 2 layers"});
    refused("qwen2", {{"layer_types", {"chunked_attention", "full_attention"}}}, {"layer_types", "chunked_attention"});
    refused("qwen3", {{"layer_types", {"sliding_attention", "full_attention"}}}, {"layer_types", "there is none"});
}

TEST(Config, WindowsThatAreAbsentAreTheFamilysAndNullIsNone) {
    Json mistral = config_of("llama3");
    mistral.erase("rope_scaling");
    mistral["model_type"] = "mistral";
    EXPECT_EQ(parse(mistral).window_of(0), 4096);
    mistral["sliding_window"] = nullptr;
    EXPECT_EQ(parse(mistral).window_of(0), 0);
    mistral["sliding_window"] = 7;
    EXPECT_EQ(parse(mistral).window_of(0), 7);
    for (const std::string family : {"qwen2", "qwen3"}) {
        Json qwen = config_of(family);
        qwen.update({{"use_sliding_window", true}, {"max_window_layers", 1}, {"sliding_window", nullptr}});
        EXPECT_EQ(parse(qwen).window_of(1), 0) << family;
        qwen.erase("sliding_window");
        EXPECT_EQ(parse(qwen).window_of(0), 0) << family;
        EXPECT_EQ(parse(qwen).window_of(1), 4096) << family;
    }
}

/// config.json of microsoft/Phi-4-mini-instruct, but for the values of the long factors.
Json phi4_mini() {
    Json json = Json::parse(R"({
        "_name_or_path": "Phi-4-mini-instruct", "architectures": ["Phi3ForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM", "AutoTokenizer": "Xenova/gpt-4o"},
        "bos_token_id": 199999, "embd_pdrop": 0.0, "eos_token_id": 199999, "full_attn_mod": 1, "hidden_act": "silu",
        "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 8192, "interpolate_factor": 1,
        "lm_head_bias": false, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "phi3",
        "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "original_max_position_embeddings": 4096, "pad_token_id": 199999, "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": {"type": "longrope"}, "rope_theta": 10000.0,
        "sliding_window": 262144, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0", "use_cache": true, "vocab_size": 200064})");
    json["rope_scaling"]["short_factor"] = std::vector<double>(48, 1.0);
    json["rope_scaling"]["long_factor"] = std::vector<double>(48, 1.118320672);
    return json;
}

TEST(Config, Phi4MiniIsRead) {
    const ModelConfig config = parse(phi4_mini());
    EXPECT_EQ(config.head_dim, 128);
    EXPECT_EQ(config.rotary.dimensions, 96);
    EXPECT_EQ(config.rotary.original_positions, 4096);
    EXPECT_TRUE(config.tied);
    EXPECT_NEAR(config.rotary.amplitude, std::sqrt(1 + std::log(32) / std::log(4096)), 1e-12);
    refused("phi3", {{"full_attn_mod", 2}}, {"full_attn_mod", "supported: 1"});
    refused("phi3", {{"interpolate_factor", 2}}, {"interpolate_factor", "supported: 1"});
    refused("phi3", {{"lm_head_bias", true}}, {"lm_head_bias", "supported: false"});
}

TEST(Config, CapsThatAreAbsentAreTheFamilysAndNullIsNone) {
    Json json = config_of("gemma2");
    json.erase("attn_logit_softcapping");
    EXPECT_EQ(parse(json).attention_cap, 50);
    json["attn_logit_softcapping"] = nullptr;
    json["final_logit_softcapping"] = nullptr;
    EXPECT_EQ(parse(json).attention_cap, 0);
    EXPECT_EQ(parse(json).logit_cap, 0);
    EXPECT_EQ(parse(config_of("gemma3")).attention_cap, 0);
    EXPECT_EQ(parse(config_of("gemma3")).logit_cap, 0);
    refused("gemma2", {{"attn_logit_softcapping", -50.0}}, {"attn_logit_softcapping"});
    refused("gemma2", {{"final_logit_softcapping", 1e-50}}, {"final_logit_softcapping", "from 0.001"});
    json["sliding_window_size"] = 7;  // some of Gemma 2's files have both
    parse(json);
    refused("gemma2", {{"sliding_window_size", 8}}, {"sliding_window_size", "7"});
    refused("gemma2", {{"hidden_activation", "gelu"}}, {"hidden_activation"});
    refused("gemma2", {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}}, {"rope_scaling", "dynamic"});
}

TEST(Config, WhatIsNotSupportedIsRefusedByName) {
    refused("llama3", {{"model_type", "mamba"}}, {"mamba", "llama, mistral, qwen2, qwen3, phi3, gemma2, gemma3_text"});
    refused("llama3", {{"hidden_act", "gelu"}}, {"hidden_act", "gelu"});
    refused("llama3", {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}}, {"rope_scaling", "dynamic"});
    refused("llama3", {{"rope_scaling", {{"type", "linear"}}}}, {"rope_scaling", "factor"});
    refused("llama3", {{"rope_scaling", {{"type", "linear"}, {"factor", 2}, {"mrope_section", {1, 2}}}}},
            {"rope_scaling", "mrope_section"});
    refused("llama3", {{"rope_scaling", {{"type", "default"}, {"factor", 2}}}}, {"rope_scaling", "factor"});
    refused("llama3", {{"partial_rotary_factor", 0.5}}, {"partial_rotary_factor"});
    refused("llama3", {{"rope_scaling", {{"type", "linear"}, {"factor", 2}, {"partial_rotary_factor", 0.5}}}},
            {"partial_rotary_factor"});
    refused("llama3", {{"rope_interleaved", true}}, {"rope_interleaved"});
    refused("llama3", {{"residual_multiplier", 0.5}}, {"residual_multiplier"});
    refused("qwen3", {{"num_experts", 8}}, {"num_experts"});
    refused("qwen3", {{"quantization_config", {{"bits", 4}}}}, {"quantization_config"});
    refused("qwen2", {{"use_mrope", true}}, {"use_mrope"});
    refused("phi3", {{"partial_rotary_factor", 0.4}}, {"partial_rotary_factor"});
    refused("phi3", {{"rope_scaling", {{"type", "longrope"}, {"short_factor", {1}}, {"long_factor", {1}}}}},
            {"short_factor", "list of 2"});
    refused("phi3",
            {{"rope_scaling",
              {{"type", "longrope"}, {"short_factor", {1, 1}}, {"long_factor", {1, 1}}, {"short_mscale", 1.2}}}},
            {"short_mscale"});
    refused("gemma3", {{"attn_logit_softcapping", 30.0}}, {"attn_logit_softcapping"});
    refused("gemma3", {{"use_bidirectional_attention", true}}, {"use_bidirectional_attention"});
    refused("gemma3", {{"hidden_activation", "relu"}}, {"hidden_activation"});
    refused("llama3", {{"a_new_idea", 1}}, {"a_new_idea", "remove it"});
    Json json = config_of("llama3");
    json["a_new_idea"] = nullptr;
    json["transformers_version"] = "9";
    json["_attn_implementation_autoset"] = true;
    parse(json);
}

TEST(Config, SourceTensorsOfFusedMatricesHoldTheirParts) {
    std::int64_t fused = 0;
    for (const SourceTensor& source : source_tensors(parse(config_of("phi3")))) {
        std::int64_t rows = 0;
        for (const TensorSpec& part : source.parts) rows += part.shape[0];
        EXPECT_EQ(rows, source.shape[0]) << source.name;
        if (source.parts.size() > 1) ++fused;
        EXPECT_EQ(source.name.find("q_proj"), std::string::npos);
    }
    EXPECT_EQ(fused, 4);
    for (const SourceTensor& source : source_tensors(parse(config_of("gemma3")))) {
        EXPECT_EQ(source.offset, source.name.ends_with("norm.weight") ? 1 : 0) << source.name;
    }
}

}  // namespace
}  // namespace pvtune
