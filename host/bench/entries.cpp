// The registry of `pvtune bench`: one line an operation, at the shapes of a block of SmolLM2-135M with 2048 tokens.

#include "host/bench/bench.h"

namespace pvtune {

namespace {

constexpr std::int64_t sequences = 2, length = 1024, tokens = sequences * length;
constexpr std::int64_t width = 576, intermediate = 1536, heads = 9, kv_heads = 3, head_dim = 64;
constexpr std::int64_t vocabulary = 49152, chunk = 256;
constexpr std::int64_t group = 8, codebooks = 2, codebook_size = 256;
constexpr double tau = 0.01;

/// Small values that repeat: zeros would flatter some operations.
Tensor filled(Backend& backend, DType dtype, std::initializer_list<std::int64_t> shape) {
    const Tensor tensor = backend.arena().allocate("bench", dtype, shape);
    const auto count = static_cast<std::size_t>(tensor.elements());
    const auto value = [](std::size_t i) { return 0.02F * static_cast<float>(static_cast<int>(i * 7919 % 101) - 50); };
    const auto upload = [&]<class T>(T) {
        std::vector<T> host(count);
        for (std::size_t i = 0; i < count; ++i) host[i] = from_float<T>(value(i));
        backend.upload(tensor, host.data());
    };
    if (dtype == DType::bf16) {
        upload(bf16{});
    } else if (dtype == DType::f32) {
        upload(float{});
    } else {  // tokens and codes: valid below 256
        std::vector<std::byte> host(static_cast<std::size_t>(tensor.bytes()));
        for (std::size_t i = 0; i < count; ++i)
            host[i * static_cast<std::size_t>(size_of(dtype))] = static_cast<std::byte>(i * 37);
        backend.upload(tensor, host.data());
    }
    return tensor;
}

double moved(std::initializer_list<Tensor> tensors) {
    double bytes = 0;
    for (const Tensor& tensor : tensors) bytes += static_cast<double>(tensor.bytes());
    return bytes;
}

}  // namespace

std::vector<BenchEntry> bench_entries(Backend& backend, DType precision, const std::string& filter) {
    std::vector<BenchEntry> entries;
    Ops& ops = backend.ops();
    const auto add = [&](const std::string& name, double bytes, double flops, std::function<void()> run) {
        if (name.find(filter) != name.npos) entries.push_back({name, bytes, flops, std::move(run)});
    };
    const auto rows = [&](std::int64_t columns) { return filled(backend, precision, {tokens, columns}); };
    const auto f32 = [&](std::initializer_list<std::int64_t> shape) { return filled(backend, DType::f32, shape); };

    const Tensor hidden = rows(width), other = rows(width), third = rows(width);
    const Tensor wide = rows(intermediate), wide2 = rows(intermediate), wide3 = rows(intermediate);
    const Tensor norm = f32({width}), inverse = f32({tokens}), d_norm = f32({width});
    const Tensor weight = filled(backend, precision, {intermediate, width});
    const Tensor d_weight = f32({intermediate, width}), current = f32({intermediate, width}),
                 target = f32({intermediate, width});
    const double product = 2.0 * tokens * width * intermediate;
    const auto weights = static_cast<double>(weight.elements());

    add("rmsnorm_forward", moved({hidden, other}), 0,
        [=, &ops] { ops.rmsnorm_forward(other, inverse, hidden, norm, 1e-5F); });
    add("rmsnorm_backward", moved({hidden, other, third, third}), 0,
        [=, &ops] { ops.rmsnorm_backward(third, d_norm, other, hidden, norm, inverse); });
    add("add", moved({hidden, other, third}), 0, [=, &ops] { ops.add(third, hidden, other); });
    add("swiglu_forward", moved({wide, wide2, wide3}), 0, [=, &ops] { ops.swiglu_forward(wide3, wide, wide2); });
    const Tensor d_wide = rows(intermediate), d_wide2 = rows(intermediate);
    add("swiglu_backward", moved({wide, wide2, wide3, wide3, d_wide, d_wide2}), 0,
        [=, &ops] { ops.swiglu_backward(d_wide, d_wide2, wide3, wide3, wide, wide2); });
    add("linear_forward", moved({hidden, wide, weight}), product,
        [=, &ops] { ops.linear_forward(wide, hidden, weight, {}); });
    add("linear_backward_input", moved({hidden, wide, weight}), product,
        [=, &ops] { ops.linear_backward_input(hidden, wide, weight, false); });
    add("linear_backward_weight", moved({hidden, wide, d_weight}), product,
        [=, &ops] { ops.linear_backward_weight(d_weight, wide, hidden, false); });
    const Tensor one = hidden.rows(0, 1), wide_one = wide.rows(0, 1);
    add("linear_forward_one_token", moved({weight}), 2 * weights,
        [=, &ops] { ops.linear_forward(wide_one, one, weight, {}); });

    const AttentionShape shape{sequences, length, heads, kv_heads, head_dim, 0};
    const auto split = [&](std::int64_t count) { return filled(backend, precision, {tokens, count, head_dim}); };
    const Tensor q = split(heads), k = split(kv_heads), v = split(kv_heads), out = split(heads);
    const Tensor d_q = split(heads), d_k = split(kv_heads), d_v = split(kv_heads), d_out = split(heads);
    const Tensor log_sum = f32({heads, tokens}), cosines = f32({length, head_dim / 2}),
                 sines = f32({length, head_dim / 2});
    const double scores = 2.0 * tokens * length * heads * head_dim;  // half of 2 products of length x length
    add("rope_forward", moved({q, q}), 0, [=, &ops] { ops.rope_forward(q, cosines, sines); });
    add("attention_forward", moved({q, k, v, out}), scores,
        [=, &ops] { ops.attention_forward(out, log_sum, q, k, v, shape); });
    add("attention_backward", moved({q, k, v, out, d_q, d_k, d_v, d_out}), 2.5 * scores, [=, &ops] {
        ops.attention_forward(out, log_sum, q, k, v, shape);  // consistent statistics; its time is in the figure
        ops.attention_backward(d_q, d_k, d_v, d_out, out, log_sum, q, k, v, shape);
    });

    const Tensor logits = f32({chunk, vocabulary}), teacher = f32({chunk, vocabulary}), loss = f32({chunk});
    const Tensor d_logits = filled(backend, precision, {chunk, vocabulary});
    const Tensor targets = filled(backend, DType::u32, {chunk});
    add("cross_entropy_loss", moved({logits}), 0, [=, &ops] { ops.cross_entropy_loss(loss, {}, logits, targets, 1); });
    add("kl_loss", moved({logits, teacher, d_logits}), 0,
        [=, &ops] { ops.kl_loss(loss, d_logits, logits, teacher, 1); });

    const AdditiveCodes additive{filled(backend, DType::u8, {intermediate, width / group, codebooks}),
                                 f32({codebooks, codebook_size, group}), f32({intermediate})};
    const Tensor d_codebooks = f32({codebooks, codebook_size, group}), d_scales = f32({intermediate});
    add("dequantize_additive", moved({additive.codes, weight}), 0,
        [=, &ops] { ops.dequantize_additive(weight, additive); });
    add("additive_gradient", moved({additive.codes, d_weight}), 0,
        [=, &ops] { ops.additive_gradient(d_codebooks, d_scales, d_weight, additive); });
    const std::int64_t groups = intermediate * width / group;
    const auto chosen = static_cast<std::int64_t>(tau * static_cast<double>(groups));
    const Tensor group_scores = f32({groups}), indices = filled(backend, DType::u32, {chosen});
    const Tensor changed = filled(backend, DType::u8, {chosen}), moment = f32({intermediate, width});
    add("moment_and_score", moved({d_weight, moment, moment, current, current, target, d_weight, moment}), 0,
        [=, &ops] { ops.moment_and_score(target, group_scores, moment, d_weight, current, current, group, {}); });
    add("select_largest", moved({group_scores}), 0, [=, &ops] { ops.select_largest(indices, group_scores); });
    add("assign_additive", 0, 2.0 * static_cast<double>(chosen * codebooks * codebook_size * group),
        [=, &ops] { ops.assign_additive(additive, changed, target, indices, 5); });
    const Tensor first = f32({intermediate, width}), second = f32({intermediate, width});
    add("adam", moved({current, current, first, first, second, second, d_weight}), 0,
        [=, &ops] { ops.adam(current, first, second, d_weight, {}, {}, {}); });
    return entries;
}

}  // namespace pvtune
