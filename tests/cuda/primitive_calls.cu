#include "cuda/primitives.cuh"
#include "tests/cuda/primitive_calls.h"

namespace pvtune::cuda::primitives {

using Word = std::uint32_t;

std::size_t sort_workspace(std::int64_t count, bool descending) {
    return descending ? sort_pairs_descending_workspace<Word, Word>(count) : sort_pairs_workspace<Word, Word>(count);
}

void sort(const Word* keys_in, Word* keys_out, const Word* values_in, Word* values_out, std::int64_t count,
          bool descending, void* workspace, std::size_t workspace_bytes, Stream stream) {
    if (descending) {
        sort_pairs_descending(keys_in, keys_out, values_in, values_out, count, workspace, workspace_bytes, stream);
    } else {
        sort_pairs(keys_in, keys_out, values_in, values_out, count, workspace, workspace_bytes, stream);
    }
}

std::size_t sum_workspace(std::int64_t count) { return exclusive_sum_workspace<Word>(count); }

void sum(const Word* in, Word* out, std::int64_t count, void* workspace, std::size_t workspace_bytes, Stream stream) {
    exclusive_sum(in, out, count, workspace, workspace_bytes, stream);
}

}  // namespace pvtune::cuda::primitives
