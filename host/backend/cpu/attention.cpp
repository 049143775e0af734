// Causal attention without a length x length tensor, after FlashAttention (Dao et al., 2022): a block of queries meets
// its keys a panel at a time; the backward pass rebuilds the probabilities from the log-sum-exps. Unlike on a GPU the
// scores of 32 queries against all their keys fit in the L2 cache, so the forward softmax needs no running rescale, and
// the weighted sum of values is one product whose accumulators stay in registers.
//
// Forward, work is cut by (sequence, query head), and a thread packs keys and values anew only where they are not those
// of its head before. Backward, by (sequence, key/value head): one task sums d_k, d_v over the query heads that share
// them in a fixed order. So the bits do not depend on the number of threads.

#include "host/backend/cpu/attention_products.h"
#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/scratch.h"
#include "host/backend/cpu/simd.h"
#include "host/backend/cpu/soft_cap.h"

#include <cmath>
#include <cstring>

namespace pvtune::cpu {

namespace {

struct Layout {
    AttentionShape shape;
    float scale;
    std::int64_t depth;  ///< head_dim, padded
    std::int64_t keys;   ///< length, padded
    std::int64_t key_panels() const { return keys / attention_block; }
    std::int64_t depth_panels() const { return depth / attention_block; }

    std::int64_t first_key(std::int64_t query) const {
        return shape.window > 0 ? std::max<std::int64_t>(0, query - shape.window + 1) : 0;
    }
};

Layout layout_of(const AttentionShape& shape) {
    return {shape, 1.0F / std::sqrt(static_cast<float>(shape.head_dim)), padded(shape.head_dim), padded(shape.length)};
}

/// Where one head's rows stand in a [tokens, heads, head_dim] tensor.
template <class T>
struct HeadRows {
    T* data;
    std::int64_t stride;
    T* row(std::int64_t i) const { return data + i * stride; }
};

template <class T>
HeadRows<T> head_rows(Tensor tensor, const AttentionShape& shape, std::int64_t sequence, std::int64_t head) {
    const std::int64_t stride = tensor.dim(1) * shape.head_dim;
    return {tensor.as<T>() + sequence * shape.length * stride + head * shape.head_dim, stride};
}

/// Panels for products whose result has one column a key (scores): depth is head_dim.
template <class P>
void pack_by_key(typename P::Element* panels, HeadRows<typename P::Source> rows, const Layout& layout) {
    for (std::int64_t panel = 0; panel < layout.key_panels(); ++panel) {
        const std::int64_t key = panel * attention_block;
        P::pack_rows(panels + panel * layout.depth_panels() * step_elements, rows.row(key), rows.stride,
                     layout.shape.length - key, layout.shape.head_dim);
    }
}

/// Panels for products whose result has one column an element of the head (weighted sums over rows [first,
/// first+count)).
template <class P>
void pack_by_element(typename P::Element* panels, HeadRows<typename P::Source> rows, std::int64_t first,
                     std::int64_t count, std::int64_t padded_count, const Layout& layout) {
    for (std::int64_t panel = 0; panel < layout.depth_panels(); ++panel) {
        const std::int64_t element = panel * attention_block;
        P::pack_columns(panels + panel * (padded_count / attention_block) * step_elements, rows.row(first) + element,
                        rows.stride, layout.shape.head_dim - element, count);
    }
}

/// Rows [first, first + count) as a left operand [padded count][depth].
template <class P>
void copy_left(typename P::Element* left, HeadRows<typename P::Source> rows, std::int64_t first, std::int64_t count,
               std::int64_t padded_count, const Layout& layout) {
    using Element = typename P::Element;
    std::fill_n(left, padded_count * layout.depth, Element{});
    for (std::int64_t i = 0; i < count; ++i) {
        const auto* from = rows.row(first + i);
        for (std::int64_t e = 0; e < layout.shape.head_dim; ++e) {
            left[i * layout.depth + e] = from_float<Element>(to_float(from[e]));
        }
    }
}

/// Caps scores to which their scale is yet to be applied.
void cap_scores(float* scores, std::int64_t count, const Layout& layout) {
    const float cap = layout.shape.cap / layout.scale;
#pragma omp simd
    for (std::int64_t j = 0; j < count; ++j) scores[j] = soft_capped(scores[j], cap);
}

/// packed: the (sequence, key/value head) whose panels this thread holds.
template <class P>
void forward_task(Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v, const Layout& layout,
                  std::int64_t sequence, std::int64_t head, std::int64_t& packed) {
    using T = typename P::Source;
    using Element = typename P::Element;
    thread_local Scratch key_memory;
    thread_local Scratch value_memory;
    thread_local Scratch query_memory;
    thread_local Scratch score_memory;
    thread_local Scratch weight_memory;
    thread_local Scratch result_memory;
    const AttentionShape& shape = layout.shape;
    auto* key_panels = key_memory.get<Element>(layout.keys * layout.depth);
    auto* value_panels = value_memory.get<Element>(layout.keys * layout.depth);
    auto* queries = query_memory.get<Element>(attention_block * layout.depth);
    auto* scores = score_memory.get<float>(attention_block * layout.keys);
    auto* weights = weight_memory.get<Element>(attention_block * layout.keys);
    auto* result = result_memory.get<float>(attention_block * layout.depth);
    const std::int64_t kv_head = head / (shape.heads / shape.kv_heads);
    if (const std::int64_t wanted = sequence * shape.kv_heads + kv_head; packed != wanted) {
        pack_by_key<P>(key_panels, head_rows<T>(k, shape, sequence, kv_head), layout);
        pack_by_element<P>(value_panels, head_rows<T>(v, shape, sequence, kv_head), 0, shape.length, layout.keys,
                           layout);
        packed = wanted;
    }
    const auto query_rows = head_rows<T>(q, shape, sequence, head);
    const auto out_rows = head_rows<T>(out, shape, sequence, head);
    float* sums = log_sum_exp.as<float>() + (head * shape.sequences + sequence) * shape.length;
    for (std::int64_t first = 0; first < shape.length; first += attention_block) {
        const std::int64_t count = std::min(attention_block, shape.length - first);
        const std::int64_t first_panel = layout.first_key(first) / attention_block;
        const std::int64_t last_panel = first / attention_block + 1;
        copy_left<P>(queries, query_rows, first, count, attention_block, layout);
        for (std::int64_t panel = first_panel; panel < last_panel; ++panel) {
            P::multiply(scores + panel * attention_block, layout.keys, queries, layout.depth,
                        key_panels + panel * layout.depth_panels() * step_elements, layout.depth_panels());
        }
        const std::int64_t first_key = first_panel * attention_block;
        const std::int64_t padded_keys = last_panel * attention_block - first_key;
        float inverse[attention_block] = {};
        for (std::int64_t i = 0; i < attention_block; ++i) {
            Element* weight = weights + i * layout.keys + first_key;
            if (i >= count) {
                std::fill_n(weight, padded_keys, Element{});
                continue;
            }
            float* score = scores + i * layout.keys + first_key;
            const std::int64_t from = layout.first_key(first + i) - first_key;
            const std::int64_t to = first + i + 1 - first_key;
            if (shape.cap > 0) cap_scores(score + from, to - from, layout);
            const RowStatistics row = P::softmax(weight, score, padded_keys, from, to, layout.scale);
            inverse[i] = 1.0F / row.sum;
            sums[first + i] = row.largest * layout.scale + std::log(row.sum);
        }
        for (std::int64_t panel = 0; panel < layout.depth_panels(); ++panel) {
            P::multiply(result + panel * attention_block, layout.depth, weights + first_key, layout.keys,
                        value_panels + (panel * layout.key_panels() + first_panel) * step_elements,
                        last_panel - first_panel);
        }
        for (std::int64_t i = 0; i < count; ++i) {
            T* to = out_rows.row(first + i);
            for (std::int64_t e = 0; e < shape.head_dim; ++e) {
                to[e] = from_float<T>(result[i * layout.depth + e] * inverse[i]);
            }
        }
    }
}

/// Queries of one backward block: long enough that d_k and d_v are not added to too often.
constexpr std::int64_t query_block = 128;

/// to += from, 32 x 32.
void add_block(float* to, std::int64_t stride, const float* from) {
    for (std::int64_t i = 0; i < attention_block; ++i) {
#pragma omp simd
        for (std::int64_t j = 0; j < attention_block; ++j) to[i * stride + j] += from[i * attention_block + j];
    }
}

template <class P>
struct BackwardBuffers {
    using Element = typename P::Element;
    Scratch memory[13];
    Element *keys_by_key, *keys_by_element, *values_by_key;  ///< right operands, whole sequence
    Element *queries, *d_outs;                               ///< left operands [query_block][depth]
    Element *queries_by_element, *d_outs_by_element;         ///< right operands of the block
    Element *weights, *d_scores;                             ///< [query_block][keys]
    Element* transposed;                                     ///< 32 columns of weights or d_scores
    float *d_keys, *d_values;                                ///< sums [keys][depth]
    float* d_queries;                                        ///< [32][depth]

    void fit(const Layout& layout) {
        const std::int64_t whole = layout.keys * layout.depth;
        const std::int64_t block = query_block * layout.depth;
        keys_by_key = memory[0].get<Element>(whole);
        keys_by_element = memory[1].get<Element>(whole);
        values_by_key = memory[2].get<Element>(whole);
        queries = memory[3].get<Element>(block);
        d_outs = memory[4].get<Element>(block);
        queries_by_element = memory[5].get<Element>(block);
        d_outs_by_element = memory[6].get<Element>(block);
        weights = memory[7].get<Element>(query_block * layout.keys);
        d_scores = memory[8].get<Element>(query_block * layout.keys);
        transposed = memory[9].get<Element>(query_block * attention_block);
        d_keys = memory[10].get<float>(whole);
        d_values = memory[11].get<float>(whole);
        d_queries = memory[12].get<float>(attention_block * layout.depth);
    }
};

/// weights and d_scores of 32 queries against 32 keys:
/// p = exp(scale q.k - lse), dp = d_out.v, ds = scale p (dp - delta), delta = d_out.out; where scores are capped, times
/// the slope of the cap.
template <class P, bool capped>
void probabilities_block(BackwardBuffers<P>& buffers, const Layout& layout, std::int64_t first_query, std::int64_t row,
                         std::int64_t panel, const float* sums, const float* delta) {
    alignas(64) float scores[step_elements];
    alignas(64) float d_weights[step_elements];
    const std::int64_t steps = layout.depth_panels();
    P::multiply(scores, attention_block, buffers.queries + row * layout.depth, layout.depth,
                buffers.keys_by_key + panel * steps * step_elements, steps);
    P::multiply(d_weights, attention_block, buffers.d_outs + row * layout.depth, layout.depth,
                buffers.values_by_key + panel * steps * step_elements, steps);
    if constexpr (capped) cap_scores(scores, step_elements, layout);
    const std::int64_t first_key = panel * attention_block;
    for (std::int64_t i = 0; i < attention_block; ++i) {
        const std::int64_t query = first_query + row + i;
        const bool exists = query < layout.shape.length;
        const std::int64_t from = std::clamp<std::int64_t>(layout.first_key(query) - first_key, 0, attention_block);
        const std::int64_t to = exists ? std::clamp<std::int64_t>(query + 1 - first_key, 0, attention_block) : 0;
        const std::int64_t at = (row + i) * layout.keys + first_key;
        P::template softmax_backward<capped>(buffers.weights + at, buffers.d_scores + at, scores + i * attention_block,
                                             d_weights + i * attention_block, attention_block, from, to, layout.scale,
                                             layout.shape.cap, exists ? sums[query] : 0.0F,
                                             exists ? delta[query] : 0.0F);
    }
}

template <class P>
void backward_queries(BackwardBuffers<P>& buffers, const Layout& layout, HeadRows<typename P::Source> d_query_rows,
                      std::int64_t first, std::int64_t rows, const float* sums, const float* delta) {
    using T = typename P::Source;
    const std::int64_t block_panel = layout.first_key(first) / attention_block;
    const std::int64_t last_panel = std::min(layout.key_panels(), (first + rows) / attention_block);
    for (std::int64_t row = 0; row < rows; row += attention_block) {
        const std::int64_t row_panels = std::min(layout.key_panels(), (first + row) / attention_block + 1);
        for (std::int64_t panel = block_panel; panel < row_panels; ++panel) {
            if (layout.shape.cap > 0) {
                probabilities_block<P, true>(buffers, layout, first, row, panel, sums, delta);
            } else {
                probabilities_block<P, false>(buffers, layout, first, row, panel, sums, delta);
            }
        }
        for (std::int64_t i = 0; i < attention_block; ++i) {
            const std::int64_t from = (row + i) * layout.keys + row_panels * attention_block;
            const std::int64_t to = (row + i) * layout.keys + last_panel * attention_block;
            std::fill(buffers.weights + from, buffers.weights + to, typename P::Element{});
            std::fill(buffers.d_scores + from, buffers.d_scores + to, typename P::Element{});
        }
        for (std::int64_t panel = 0; panel < layout.depth_panels(); ++panel) {
            P::multiply(buffers.d_queries + panel * attention_block, layout.depth,
                        buffers.d_scores + row * layout.keys + block_panel * attention_block, layout.keys,
                        buffers.keys_by_element + (panel * layout.key_panels() + block_panel) * step_elements,
                        row_panels - block_panel);
        }
        for (std::int64_t i = 0; i < std::min(attention_block, layout.shape.length - first - row); ++i) {
            T* to = d_query_rows.row(first + row + i);
            for (std::int64_t e = 0; e < layout.shape.head_dim; ++e) {
                to[e] = from_float<T>(buffers.d_queries[i * layout.depth + e]);
            }
        }
    }
    alignas(64) float sum[step_elements];
    const std::int64_t steps = rows / attention_block;
    const auto add_transposed = [&](const typename P::Element* left, const typename P::Element* right, float* to,
                                    std::int64_t key_panel) {
        P::pack_transposed(buffers.transposed, left + key_panel * attention_block, layout.keys, steps);
        for (std::int64_t panel = 0; panel < layout.depth_panels(); ++panel) {
            P::multiply_packed(sum, attention_block, buffers.transposed, right + panel * steps * step_elements, steps);
            add_block(to + key_panel * attention_block * layout.depth + panel * attention_block, layout.depth, sum);
        }
    };
    for (std::int64_t key_panel = block_panel; key_panel < last_panel; ++key_panel) {
        add_transposed(buffers.d_scores, buffers.queries_by_element, buffers.d_keys, key_panel);
        add_transposed(buffers.weights, buffers.d_outs_by_element, buffers.d_values, key_panel);
    }
}

template <class P>
void backward_task(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, Tensor k, Tensor v, Tensor log_sum_exp,
                   const float* delta, const Layout& layout, std::int64_t sequence, std::int64_t kv_head) {
    using T = typename P::Source;
    const AttentionShape& shape = layout.shape;
    thread_local BackwardBuffers<P> buffers;
    buffers.fit(layout);
    const auto key_rows = head_rows<T>(k, shape, sequence, kv_head);
    pack_by_key<P>(buffers.keys_by_key, key_rows, layout);
    pack_by_element<P>(buffers.keys_by_element, key_rows, 0, shape.length, layout.keys, layout);
    pack_by_key<P>(buffers.values_by_key, head_rows<T>(v, shape, sequence, kv_head), layout);
    std::fill_n(buffers.d_keys, layout.keys * layout.depth, 0.0F);
    std::fill_n(buffers.d_values, layout.keys * layout.depth, 0.0F);

    const std::int64_t share = shape.heads / shape.kv_heads;
    for (std::int64_t head = kv_head * share; head < (kv_head + 1) * share; ++head) {
        const auto query_rows = head_rows<T>(q, shape, sequence, head);
        const auto d_out_rows = head_rows<T>(d_out, shape, sequence, head);
        const std::int64_t statistics = (head * shape.sequences + sequence) * shape.length;
        for (std::int64_t first = 0; first < shape.length; first += query_block) {
            const std::int64_t count = std::min(query_block, shape.length - first);
            const std::int64_t rows = padded(count);
            copy_left<P>(buffers.queries, query_rows, first, count, rows, layout);
            copy_left<P>(buffers.d_outs, d_out_rows, first, count, rows, layout);
            pack_by_element<P>(buffers.queries_by_element, query_rows, first, count, rows, layout);
            pack_by_element<P>(buffers.d_outs_by_element, d_out_rows, first, count, rows, layout);
            backward_queries<P>(buffers, layout, head_rows<T>(d_q, shape, sequence, head), first, rows,
                                log_sum_exp.as<float>() + statistics, delta + statistics);
        }
    }
    const auto write = [&](Tensor to, const float* sums) {
        const auto rows = head_rows<T>(to, shape, sequence, kv_head);
        for (std::int64_t i = 0; i < shape.length; ++i) {
            for (std::int64_t e = 0; e < shape.head_dim; ++e)
                rows.row(i)[e] = from_float<T>(sums[i * layout.depth + e]);
        }
    };
    write(d_k, buffers.d_keys);
    write(d_v, buffers.d_values);
}

template <class P>
void forward_all(Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v, const Layout& layout) {
#pragma omp parallel
    {
        P::enter();
        std::int64_t packed = -1;
#pragma omp for schedule(dynamic, 1)
        for (std::int64_t task = 0; task < layout.shape.sequences * layout.shape.heads; ++task) {
            forward_task<P>(out, log_sum_exp, q, k, v, layout, task / layout.shape.heads, task % layout.shape.heads,
                            packed);
        }
    }
}

template <class P>
void backward_all(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor out, Tensor log_sum_exp, Tensor q, Tensor k,
                  Tensor v, const Layout& layout) {
    static Scratch delta_memory;
    const AttentionShape& shape = layout.shape;
    using T = typename P::Source;
    float* delta = delta_memory.get<float>(shape.heads * shape.sequences * shape.length);
#pragma omp parallel
    {
        P::enter();
#pragma omp for schedule(static)
        for (std::int64_t row = 0; row < shape.heads * shape.sequences; ++row) {
            const auto a = head_rows<T>(d_out, shape, row % shape.sequences, row / shape.sequences);
            const auto b = head_rows<T>(out, shape, row % shape.sequences, row / shape.sequences);
            for (std::int64_t i = 0; i < shape.length; ++i) {
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (std::int64_t e = 0; e < shape.head_dim; ++e) sum += to_float(a.row(i)[e]) * to_float(b.row(i)[e]);
                delta[row * shape.length + i] = sum;
            }
        }
#pragma omp for schedule(dynamic, 1)
        for (std::int64_t task = 0; task < shape.sequences * shape.kv_heads; ++task) {
            backward_task<P>(d_q, d_k, d_v, d_out, q, k, v, log_sum_exp, delta, layout, task / shape.kv_heads,
                             task % shape.kv_heads);
        }
    }
}

/// Calls body with the products to use for this element type on this machine.
template <class Body>
void with_products(DType dtype, Body&& body) {
#ifdef __AVX512BF16__
    if (dtype == DType::bf16 && block_unit() != BlockUnit::none) return body(BlockProducts{});
#endif
    with_element(dtype, [&]<class T>(T) { body(PlainProducts<T>{}); });
}

}  // namespace

void attention_forward(Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v, const AttentionShape& shape) {
    with_products(q.dtype, [&]<class P>(P) { forward_all<P>(out, log_sum_exp, q, k, v, layout_of(shape)); });
}

void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor out, Tensor log_sum_exp, Tensor q,
                        Tensor k, Tensor v, const AttentionShape& shape) {
    with_products(q.dtype, [&]<class P>(P) {
        backward_all<P>(d_q, d_k, d_v, d_out, out, log_sum_exp, q, k, v, layout_of(shape));
    });
}

}  // namespace pvtune::cpu
