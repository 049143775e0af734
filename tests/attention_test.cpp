#include "host/backend/cpu/bf16_blocks.h"
#include "host/backend/cpu/cpu_ops.h"
#include "tests/tensors.h"

#include <limits>
#include <optional>

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

/// Plain-loop attention in double, forward and backward. The backward pass is held against finite differences below.
class Oracle {
public:
    explicit Oracle(const AttentionShape& shape) : s_(shape) {}

    Values forward(const Values& q, const Values& k, const Values& v, Values* log_sum_exp = nullptr) const {
        Values out(q.size());
        if (log_sum_exp != nullptr)
            log_sum_exp->assign(static_cast<std::size_t>(s_.heads * s_.sequences * s_.length), 0);
        for_rows([&](std::int64_t sequence, std::int64_t head, std::int64_t i) {
            const double sum = weights(q, k, sequence, head, i);
            if (log_sum_exp != nullptr) {
                (*log_sum_exp)[static_cast<std::size_t>((head * s_.sequences + sequence) * s_.length + i)] = sum;
            }
            double* to = &out[query_at(sequence, head, i)];
            for (std::int64_t j = first(i); j <= i; ++j) {
                const double* value = &v[key_at(sequence, head, j)];
                for (std::int64_t e = 0; e < s_.head_dim; ++e) to[e] += weight(j) * value[e];
            }
        });
        return out;
    }

    void backward(Values& d_q, Values& d_k, Values& d_v, const Values& d_out, const Values& q, const Values& k,
                  const Values& v) const {
        d_q.assign(q.size(), 0);
        d_k.assign(k.size(), 0);
        d_v.assign(v.size(), 0);
        for_rows([&](std::int64_t sequence, std::int64_t head, std::int64_t i) {
            weights(q, k, sequence, head, i);
            const std::size_t at = query_at(sequence, head, i);
            double mean = 0;
            Values d_weights(static_cast<std::size_t>(s_.length));
            for (std::int64_t j = first(i); j <= i; ++j) {
                double sum = 0;
                const std::size_t from = key_at(sequence, head, j);
                for (std::size_t e = 0; e < depth(); ++e) {
                    sum += d_out[at + e] * v[from + e];
                    d_v[from + e] += weight(j) * d_out[at + e];
                }
                d_weights[static_cast<std::size_t>(j)] = sum;
                mean += weight(j) * sum;
            }
            for (std::int64_t j = first(i); j <= i; ++j) {
                const auto at_key = static_cast<std::size_t>(j);
                const double d_score = weight(j) * (d_weights[at_key] - mean) * scale() * slopes_[at_key];
                const std::size_t from = key_at(sequence, head, j);
                for (std::size_t e = 0; e < depth(); ++e) {
                    d_q[at + e] += d_score * k[from + e];
                    d_k[from + e] += d_score * q[at + e];
                }
            }
        });
    }

private:
    std::size_t depth() const { return static_cast<std::size_t>(s_.head_dim); }
    double scale() const { return 1 / std::sqrt(static_cast<double>(s_.head_dim)); }
    double weight(std::int64_t j) const { return weights_[static_cast<std::size_t>(j)]; }
    std::int64_t first(std::int64_t i) const {
        return s_.window > 0 ? std::max<std::int64_t>(0, i - s_.window + 1) : 0;
    }
    std::size_t query_at(std::int64_t sequence, std::int64_t head, std::int64_t i) const {
        return static_cast<std::size_t>(((sequence * s_.length + i) * s_.heads + head) * s_.head_dim);
    }
    std::size_t key_at(std::int64_t sequence, std::int64_t head, std::int64_t j) const {
        const std::int64_t kv_head = head / (s_.heads / s_.kv_heads);
        return static_cast<std::size_t>(((sequence * s_.length + j) * s_.kv_heads + kv_head) * s_.head_dim);
    }
    template <class Body>
    void for_rows(const Body& body) const {
        for (std::int64_t sequence = 0; sequence < s_.sequences; ++sequence) {
            for (std::int64_t head = 0; head < s_.heads; ++head) {
                for (std::int64_t i = 0; i < s_.length; ++i) body(sequence, head, i);
            }
        }
    }
    /// Softmax weights of query i into weights_; returns the log-sum-exp.
    double weights(const Values& q, const Values& k, std::int64_t sequence, std::int64_t head, std::int64_t i) const {
        weights_.assign(static_cast<std::size_t>(s_.length), 0);
        slopes_.assign(weights_.size(), 1);
        const double* query = &q[query_at(sequence, head, i)];
        double largest = -INFINITY;
        for (std::int64_t j = first(i); j <= i; ++j) {
            const double* key = &k[key_at(sequence, head, j)];
            double sum = 0;
            for (std::int64_t e = 0; e < s_.head_dim; ++e) sum += query[e] * key[e];
            double score = sum * scale();
            if (s_.cap > 0) {
                const double cap = s_.cap;
                score = cap * std::tanh(score / cap);
                slopes_[static_cast<std::size_t>(j)] = 1 - score / cap * (score / cap);
            }
            weights_[static_cast<std::size_t>(j)] = score;
            largest = std::max(largest, score);
        }
        double total = 0;
        for (std::int64_t j = first(i); j <= i; ++j) {
            double& here = weights_[static_cast<std::size_t>(j)];
            here = std::exp(here - largest);
            total += here;
        }
        for (double& here : weights_) here /= total;
        return largest + std::log(total);
    }

    AttentionShape s_;
    mutable Values weights_, slopes_;
};

struct Operands {
    AttentionShape shape;
    OwnedTensor q, k, v, d_out, out, log_sum_exp, d_q, d_k, d_v;
    Operands(DType dtype, const AttentionShape& s) : shape(s) {
        const std::int64_t tokens = s.sequences * s.length;
        // Scores of a few units, so that the softmax is far from even.
        q = random_tensor(dtype, {tokens, s.heads, s.head_dim}, 1, 3);
        k = random_tensor(dtype, {tokens, s.kv_heads, s.head_dim}, 2);
        v = random_tensor(dtype, {tokens, s.kv_heads, s.head_dim}, 3);
        d_out = random_tensor(dtype, {tokens, s.heads, s.head_dim}, 4);
        // Results hold garbage before: forward and backward set, they do not add.
        out = random_tensor(dtype, {tokens, s.heads, s.head_dim}, 5);
        log_sum_exp = random_tensor(DType::f32, {s.heads, tokens}, 6);
        d_q = random_tensor(dtype, {tokens, s.heads, s.head_dim}, 7);
        d_k = random_tensor(dtype, {tokens, s.kv_heads, s.head_dim}, 8);
        d_v = random_tensor(dtype, {tokens, s.kv_heads, s.head_dim}, 9);
    }
    void run() {
        attention_forward(out, log_sum_exp, q, k, v, shape);
        attention_backward(d_q, d_k, d_v, d_out, out, log_sum_exp, q, k, v, shape);
    }
};

std::string text_of(const AttentionShape& s) {
    return std::to_string(s.sequences) + " x " + std::to_string(s.length) + ", heads " + std::to_string(s.heads) + "/" +
           std::to_string(s.kv_heads) + " of " + std::to_string(s.head_dim) + ", window " + std::to_string(s.window) +
           ", cap " + std::to_string(s.cap);
}

/// Every length with every window; head counts, head widths, sequences and caps in turn.
std::vector<AttentionShape> shapes() {
    const std::vector<std::array<std::int64_t, 2>> heads = {{3, 1}, {6, 2}, {4, 4}};
    const std::vector<std::int64_t> head_dims = {10, 16, 64, 80};
    std::vector<AttentionShape> all;
    for (const std::int64_t length : {1, 19, 33, 130, 160}) {
        for (const std::int64_t window : {0, 1, 8, 40}) {
            const std::size_t turn = all.size();
            const auto& [count, kv_count] = heads[turn % 3];
            const std::int64_t sequences = turn % 2 == 0 && length < 40 ? 3 : 1;
            all.push_back({sequences, length, count, kv_count, head_dims[(turn + turn / 4) % 4], window,
                           turn % 5 == 3 ? 1.5F : 0});
        }
    }
    all.push_back({1, 70, 4, 2, 80, 0, 50});  // scores far below their cap
    return all;
}

/// In one thread: that more give the same bits is a test of its own.
void check_all(DType dtype) {
    for (const AttentionShape& shape : shapes()) {
        Operands o(dtype, shape);
        with_threads(1, [&] { o.run(); });
        const Oracle oracle(shape);
        const Values q = values_of(o.q);
        const Values k = values_of(o.k);
        const Values v = values_of(o.v);
        Values log_sum_exp;
        const Values out = oracle.forward(q, k, v, &log_sum_exp);
        Values d_q;
        Values d_k;
        Values d_v;
        oracle.backward(d_q, d_k, d_v, values_of(o.d_out), q, k, v);
        EXPECT_LT(relative_error(o.out, out), tolerance_of(dtype)) << text_of(shape);
        // Sums of exact products: f32 whatever the operands are.
        EXPECT_LT(relative_error(o.log_sum_exp, log_sum_exp), f32_tolerance) << text_of(shape);
        // With one key a row softmax is constant: d_q and d_k are zero, what is left of them is the rounding of
        // d_out.out.
        const bool constant = shape.length == 1 || shape.window == 1;
        const auto error = [&](Tensor got, const Values& expected) {
            if (!constant) return relative_error(got, expected);
            double largest = 0;
            for (const double value : values_of(got)) largest = std::max(largest, std::abs(value));
            return largest / 10;  // d_out.out and q reach about 10 and 3
        };
        EXPECT_LT(error(o.d_q, d_q), tolerance_of(dtype)) << text_of(shape);
        EXPECT_LT(error(o.d_k, d_k), tolerance_of(dtype)) << text_of(shape);
        EXPECT_LT(relative_error(o.d_v, d_v), tolerance_of(dtype)) << text_of(shape);
    }
}

TEST(Attention, OracleBackwardAgreesWithFiniteDifferences) {
    for (const AttentionShape& shape : std::vector<AttentionShape>{
             {2, 7, 3, 1, 10, 0}, {1, 9, 4, 2, 2, 3}, {1, 9, 2, 1, 6, 0, 1.5F}, {2, 7, 4, 2, 2, 3, 0.5F}}) {
        const Operands o(DType::f32, shape);
        const Oracle oracle(shape);
        const Values q = values_of(o.q);
        const Values k = values_of(o.k);
        const Values v = values_of(o.v);
        const Values d_out = values_of(o.d_out);
        Values d_q;
        Values d_k;
        Values d_v;
        oracle.backward(d_q, d_k, d_v, d_out, q, k, v);
        const auto numeric = [&](const Values& at, const auto& forward) {
            return numeric_gradient(at, [&](const Values& x) { return dot(forward(x), d_out); });
        };
        EXPECT_LT(relative_error(d_q, numeric(q, [&](const Values& x) { return oracle.forward(x, k, v); })), 1e-7);
        EXPECT_LT(relative_error(d_k, numeric(k, [&](const Values& x) { return oracle.forward(q, x, v); })), 1e-7);
        EXPECT_LT(relative_error(d_v, numeric(v, [&](const Values& x) { return oracle.forward(q, k, x); })), 1e-7);
    }
}

/// Calls body with each unit for bf16 that this machine has, and without.
template <class Body>
void for_block_units(const Body& body) {
    for (const BlockUnit most : {BlockUnit::none, BlockUnit::dots, BlockUnit::tiles}) {
        const LimitBlockUnit limited(most);
        if (block_unit() == most) body();
    }
}

TEST(Attention, F32) { check_all(DType::f32); }

TEST(Attention, Bf16) {
    for_block_units([] { check_all(DType::bf16); });
}

TEST(Attention, LargeScoresStayFinite) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const float cap : {0.0F, 1.5F}) {
            Operands o(dtype, {1, 45, 3, 1, 16, 0, cap});
            o.q.fill(Uniform(1, 1e3));
            o.k.fill(Uniform(2, 1e2));
            o.run();
            for (const OwnedTensor* result : {&o.out, &o.log_sum_exp, &o.d_q, &o.d_k, &o.d_v}) {
                for (const double value : values_of(*result)) ASSERT_TRUE(std::isfinite(value));
            }
        }
    }
}

// A model that has diverged must be seen to.
TEST(Attention, NaNIsPassedOnToThoseThatSeeIt) {
    constexpr std::int64_t length = 45;
    constexpr std::int64_t bad = 5;
    const auto check = [](DType dtype, float cap) {
        Operands o(dtype, {1, length, 1, 1, 16, 0, cap});
        o.k.set(bad * 16 + 3, std::numeric_limits<double>::quiet_NaN());
        attention_forward(o.out, o.log_sum_exp, o.q, o.k, o.v, o.shape);
        const auto out = values_of(o.out);
        for (std::int64_t token = 0; token < length; ++token) {
            EXPECT_EQ(std::isnan(out[static_cast<std::size_t>(token * 16)]), token >= bad)
                << name_of(dtype) << ", cap " << cap << ", token " << token;
        }
    };
    for (const float cap : {0.0F, 1.5F}) {
        check(DType::f32, cap);
        for_block_units([&] { check(DType::bf16, cap); });
    }
}

TEST(Attention, SameBitsForAnyNumberOfThreads) {
    const auto check = [](DType dtype) {
        for (const std::int64_t window : {0, 40}) {
            expect_same_bits_for_any_threads([&] {
                Operands o(dtype, {3, 133, 6, 2, 10, window, window > 0 ? 1.5F : 0});
                o.run();
                return std::vector<OwnedTensor>{o.out, o.log_sum_exp, o.d_q, o.d_k, o.d_v};
            });
        }
    };
    check(DType::f32);
    for_block_units([&] { check(DType::bf16); });
}

TEST(Attention, DecodeAgreesWithTheLastRow) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (AttentionShape shape : shapes()) {
            if (shape.length > 130) continue;
            shape.sequences = 1;
            Operands o(dtype, shape);
            with_threads(1, [&] { attention_forward(o.out, o.log_sum_exp, o.q, o.k, o.v, shape); });
            const std::int64_t capacity = shape.length + 5;
            OwnedTensor keys = random_tensor(dtype, {capacity, shape.kv_heads, shape.head_dim}, 10);
            OwnedTensor values = random_tensor(dtype, {capacity, shape.kv_heads, shape.head_dim}, 11);
            std::memcpy(keys->data, o.k->data, static_cast<std::size_t>(o.k->bytes()));
            std::memcpy(values->data, o.v->data, static_cast<std::size_t>(o.v->bytes()));
            const auto last = [&](Tensor rows) {
                return rows.rows(shape.length - 1, 1).reshaped({shape.heads, shape.head_dim});
            };
            OwnedTensor out(dtype, {shape.heads, shape.head_dim});
            with_threads(1, [&] { attention_decode(out, last(o.q), keys, values, shape); });
            EXPECT_LT(relative_error(out, values_of(last(o.out))), tolerance_of(dtype)) << text_of(shape);
        }
        expect_same_bits_for_any_threads([&] {
            const Operands o(dtype, {1, 45, 6, 2, 10, 0, 1.5F});
            OwnedTensor out(dtype, {6, 10});
            attention_decode(out, o.q->rows(44, 1).reshaped({6, 10}), o.k, o.v, o.shape);
            return std::vector<OwnedTensor>{out};
        });
    }
}

}  // namespace
}  // namespace pvtune::cpu
