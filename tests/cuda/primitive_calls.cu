#include "cuda/primitives.cuh"
#include "tests/cuda/primitive_calls.h"

namespace pvtune::cuda::primitives {

using Word = std::uint32_t;

std::size_t sort_workspace(std::int64_t count) { return sort_pairs_descending_workspace<Word, Word>(count); }

void sort(const Word* keys_in, Word* keys_out, const Word* values_in, Word* values_out, std::int64_t count,
          void* workspace, std::size_t workspace_bytes, Stream stream) {
    sort_pairs_descending(keys_in, keys_out, values_in, values_out, count, workspace, workspace_bytes, stream);
}

}  // namespace pvtune::cuda::primitives
