#pragma once

/// Small models of every family that differs from Llama, for tests of what is done with models.
namespace pvtune::testing {

struct FamilyConfig {
    const char* name;
    const char* json;
};

inline constexpr FamilyConfig family_configs[] = {
    {"llama3", R"({"model_type": "llama", "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
        "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
        "original_max_position_embeddings": 32}})"},
    {"qwen2", R"({"model_type": "qwen2", "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
        "tie_word_embeddings": true, "use_sliding_window": true, "sliding_window": 5, "max_window_layers": 1})"},
    {"qwen3", R"({"model_type": "qwen3", "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10,
        "max_position_embeddings": 64})"},
    {"phi3", R"({"model_type": "phi3", "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "original_max_position_embeddings": 10, "partial_rotary_factor": 0.5, "sliding_window": 9,
        "rope_scaling": {"type": "longrope", "short_factor": [1, 1.5], "long_factor": [2, 5]}})"},
    {"gemma2", R"({"model_type": "gemma2", "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12,
        "max_position_embeddings": 64, "sliding_window": 7, "attn_logit_softcapping": 2})"},
    {"gemma3", R"({"model_type": "gemma3_text", "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12,
        "max_position_embeddings": 64, "sliding_window": 5, "sliding_window_pattern": 2, "query_pre_attn_scalar": 7,
        "rope_local_base_freq": 100})"},
};

}  // namespace pvtune::testing
