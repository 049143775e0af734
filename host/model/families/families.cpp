#include "host/model/families/families.h"

namespace pvtune {

std::span<const Family> families() {
    static constexpr Family all[] = {
        {"llama", parse_llama}, {"mistral", parse_mistral}, {"qwen2", parse_qwen2},        {"qwen3", parse_qwen3},
        {"phi3", parse_phi3},   {"gemma2", parse_gemma2},   {"gemma3_text", parse_gemma3},
    };
    return all;
}

}  // namespace pvtune
