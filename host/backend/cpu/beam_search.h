#pragma once

#include <cstdint>
#include <vector>

/// Nearest encodings of groups of weights under additive codebooks: the search behind assign_additive and behind
/// data-free quantisation.
namespace pvtune::cpu {

/// What a search reads of the codebooks, padded to whole vectors: `stride` is the codebook size rounded up to a
/// multiple of 16, and padding has an infinite norm, so that it is never nearest.
struct CodebookTables {
    std::int64_t books = 0;
    std::int64_t size = 0;
    std::int64_t stride = 0;
    std::int64_t group = 0;
    std::vector<float> codewords;   ///< [books, size, group], as given
    std::vector<float> transposed;  ///< [books, group, stride]
    std::vector<float> norms;       ///< [books, stride] |c|^2
    std::vector<float> cross;       ///< [books, books, size, stride] 2 <c, c'>; empty: not worth its time or memory
};

struct BeamSettings {
    int beam = 1;
    int sweeps = 1;  ///< times that every codebook is gone through
};

/// groups: how many will be searched, which decides whether the cross products pay.
CodebookTables make_codebook_tables(const float* codebooks, std::int64_t books, std::int64_t size, std::int64_t group,
                                    std::int64_t groups, const BeamSettings& settings);

/// The same into tables that were used before, whose memory serves again.
void set_codebook_tables(CodebookTables& tables, const float* codebooks, std::int64_t books, std::int64_t size,
                         std::int64_t group, std::int64_t groups, const BeamSettings& settings);

/// codes [count, books]: the codes found for targets [count, group], never farther than the codes given.
/// Starts from the given codes and replaces the code of one codebook at a time, keeping the `beam` nearest distinct
/// combinations (the search of AQLM, Egiazarian et al. 2024). One codebook: the exact nearest codeword. Ties go to the
/// lower code. A group with a target that is not finite keeps its codes.
void search_codes(const CodebookTables& tables, const float* targets, std::uint16_t* codes, std::int64_t count,
                  const BeamSettings& settings);

/// |target - sum of the codewords|^2.
float code_distance(const CodebookTables& tables, const float* target, const std::uint16_t* codes);

}  // namespace pvtune::cpu
