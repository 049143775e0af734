// search_codes: first codes for all groups. assign_additive: new codes for chosen ones, the encodings nearest to target
// / scale (|target - scale * sum|^2 is scale^2 times that distance, so that the sign of the scale and its size do not
// matter to the choice).
#include "host/backend/cpu/beam_search.h"
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"

#include <cmath>
#include <limits>

namespace pvtune::cpu {
namespace {

/// Sweeps over several codebooks: the second one lets a code that was chosen beside an old code be chosen again beside
/// the new one.
constexpr int sweeps = 2;

}  // namespace

void search_codes(Tensor codes, Tensor points, Tensor codebooks, int beam, int sweeps) {
    assert(codes.dim(0) == points.dim(0) && codes.dim(1) == codebooks.dim(0) && points.dim(1) == codebooks.dim(2));
    const BeamSettings settings{beam, sweeps};
    const CodebookTables tables = make_codebook_tables(codebooks.as<float>(), codebooks.dim(0), codebooks.dim(1),
                                                       codebooks.dim(2), points.dim(0), settings);
    search_codes(tables, points.as<float>(), codes.as<std::uint16_t>(), points.dim(0), settings);
}

void assign_additive(const AdditiveCodes& additive, Tensor changed, Tensor target, Tensor groups, int beam) {
    const std::int64_t count = groups.elements();
    const std::int64_t row_groups = additive.codes.dim(1);
    const std::int64_t books = additive.codes.dim(2);
    const std::int64_t group = additive.codebooks.dim(2);
    const float* weights = target.as<float>();
    const float* scales = additive.scales.as<float>();
    const std::uint32_t* chosen = groups.as<std::uint32_t>();
    std::uint8_t* changes = changed.as<std::uint8_t>();
    assert(target.elements() == additive.codes.dim(0) * row_groups * group && changed.elements() == count);

    const BeamSettings settings{beam, books == 1 ? 1 : sweeps};
    const CodebookTables tables =
        make_codebook_tables(additive.codebooks.as<float>(), books, additive.codebooks.dim(1), group, count, settings);
    with_code_type(additive.codes.dtype, [&]<class Code>() {
        Code* codes = additive.codes.as<Code>();
        std::vector<float> targets(static_cast<std::size_t>(count * group));
        std::vector<std::uint16_t> found(static_cast<std::size_t>(count * books));
        for_chunks(count, 1024, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
                const std::int64_t at = chosen[i];
                const float scale = scales[at / row_groups];
                const float inverse = 1 / scale;
                // A row without scale is zero whatever its codes: they stay, as for every target that is not finite.
                const bool usable = scale != 0 && std::isfinite(inverse);
                for (std::int64_t j = 0; j < group; ++j) {
                    targets[static_cast<std::size_t>(i * group + j)] =
                        usable ? weights[at * group + j] * inverse : std::numeric_limits<float>::quiet_NaN();
                }
                std::copy_n(codes + at * books, books, found.begin() + i * books);
            }
        });
        search_codes(tables, targets.data(), found.data(), count, settings);
        for_chunks(count, 1024, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
                Code* own = codes + static_cast<std::int64_t>(chosen[i]) * books;
                const std::uint16_t* other = found.data() + i * books;
                changes[i] = !std::equal(own, own + books, other);
                std::copy_n(other, books, own);
            }
        });
    });
}

}  // namespace pvtune::cpu
