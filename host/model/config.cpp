#include "host/model/config.h"

#include "host/model/families/families.h"
#include "io/error.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

/// What any family's file may carry: names, tokens, training, how it was saved or is to be run elsewhere.
void ignore_common(ConfigKeys& keys) {
    keys.ignore({"_attn_implementation_autoset",
                 "_name_or_path",
                 "architectures",
                 "attention_dropout",
                 "auto_map",
                 "bos_token_id",
                 "cache_implementation",
                 "dtype",
                 "eos_token_id",
                 "hidden_dropout",
                 "id2label",
                 "initializer_range",
                 "label2id",
                 "model_type",
                 "output_attentions",
                 "output_hidden_states",
                 "pad_token_id",
                 "pretraining_tp",
                 "return_dict",
                 "task_specific_params",
                 "tokenizer_class",
                 "torch_dtype",
                 "transformers.js_config",
                 "transformers_version",
                 "unk_token_id",
                 "unsloth_fixed",
                 "unsloth_version",
                 "use_cache"});
    // Multipliers of other families, written out by some tools.
    for (const char* key : {"logits_scaling", "residual_multiplier", "embedding_multiplier", "attention_multiplier"}) {
        keys.only(key, 1.0);
    }
}

}  // namespace

ModelConfig parse_config(const std::string& text, const std::string& source) {
    nlohmann::json json;
    try {
        json = nlohmann::json::parse(text, [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
            constexpr int deepest = 32;
            if (depth > deepest) throw Error(source + ": is nested too deeply: no config.json of a language model");
            return true;
        });
    } catch (const nlohmann::json::exception& error) {
        throw Error(source + ": is not JSON: " + error.what());
    }
    if (!json.is_object()) throw Error(source + ": is not a JSON object");
    ConfigKeys keys(json, source);
    ModelConfig config;
    config.family = keys.word("model_type", "");
    if (config.family.empty()) keys.fail("has no \"model_type\"");
    const auto all = families();
    const auto family =
        std::find_if(all.begin(), all.end(), [&](const Family& other) { return other.model_type == config.family; });
    if (family == all.end()) {
        std::string names;
        for (const Family& known : all) names += (names.empty() ? "" : ", ") + std::string(known.model_type);
        keys.fail("model_type \"" + config.family + "\" is not supported; supported: " + names);
    }
    family->parse(keys, config);
    ignore_common(keys);
    keys.refuse_rest();
    config.json = json.dump();
    return config;
}

}  // namespace pvtune
