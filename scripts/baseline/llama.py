"""A Llama in plain PyTorch, as fast as PyTorch lets it be: what `make bench-cpu` and gpu-check compare pvtune with.

The weights are a flat dictionary of Hugging Face names. One block is one function of its input and its weights, so that
torch.compile compiles it once for all layers; attention is PyTorch's flash kernel. The loss never holds more than a
chunk of logits: its forward computes the gradients of the hidden states and of the head at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Weights = dict[str, torch.Tensor]
EMBEDDING = "model.embed_tokens.weight"
BLOCK_WEIGHTS = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
)
LOSS_ROWS = {"cpu": 512, "cuda": 4096}  # of the logits in memory at once; 512 x 49,152 in f32 is 96 MiB


@dataclass(frozen=True)
class Shape:
    """What of config.json this model needs; the defaults are SmolLM2-135M's."""

    vocabulary: int = 49152
    width: int = 576
    intermediate: int = 1536
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    rope_theta: float = 100000.0
    epsilon: float = 1e-5


def read_shape(path: Path) -> Shape:
    """Of a config.json."""
    config = json.loads(path.read_text())
    if not config.get("tie_word_embeddings", False) or config.get("attention_bias") or config.get("mlp_bias"):
        raise ValueError(f"{path}: only models with a tied head and no biases are timed here")
    return Shape(
        config["vocab_size"],
        config["hidden_size"],
        config["intermediate_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        config.get("rope_theta") or config["rope_parameters"]["rope_theta"],
        config["rms_norm_eps"],
    )


def load(folder: Path) -> tuple[Shape, Weights]:
    """Reads a Hugging Face folder with one safetensors file; weights are returned in f32."""
    from safetensors.torch import load_file  # of random weights nothing is read

    shape = read_shape(folder / "config.json")
    stored = load_file(folder / "model.safetensors")
    return shape, {name: stored[name].float() for name in names(shape)}


def random_weights(shape: Shape, seed: int, device: str = "cpu") -> Weights:
    """Weights of a model that was never trained: as good as any for a timing."""
    generator = torch.Generator(device).manual_seed(seed)
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    wide = {"q_proj": (query, shape.width), "k_proj": (key, shape.width), "v_proj": (key, shape.width)}
    wide |= {"o_proj": (shape.width, query), "down_proj": (shape.width, shape.intermediate)}
    wide |= {"gate_proj": (shape.intermediate, shape.width), "up_proj": (shape.intermediate, shape.width)}
    wide |= {"embed_tokens": (shape.vocabulary, shape.width)}
    weights = {}
    for name in names(shape):
        size = wide.get(name.split(".")[-2])
        weights[name] = (torch.randn(size, generator=generator, device=device) * 0.04 if size
                         else torch.ones(shape.width, device=device))
    return weights


def names(shape: Shape) -> list[str]:
    """Every parameter, in the order of the forward pass."""
    blocks = [f"model.layers.{layer}.{part}" for layer in range(shape.layers) for part in BLOCK_WEIGHTS]
    return [EMBEDDING, *blocks, "model.norm.weight"]


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide = hidden.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight.float()).to(hidden.dtype)


def rotate(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


def shares_keys(shape: Shape, device: str) -> bool:
    """Whether flash attention takes fewer heads of keys than of queries; if not, PyTorch would take the slow way."""
    if device == "cpu" or shape.heads == shape.kv_heads:
        return True
    query, key = (torch.zeros(1, heads, 16, shape.head_dim, device=device, dtype=torch.bfloat16)
                  for heads in (shape.heads, shape.kv_heads))
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
            F.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
    except RuntimeError:
        return False
    return True


def block(
    hidden: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, shape: Shape, weights: list[torch.Tensor],
    shared_keys: bool = True,
) -> torch.Tensor:
    """One transformer block on [sequences, length, width]; weights in the order of BLOCK_WEIGHTS."""
    input_norm, query, key, value, output, post_norm, gate, up, down = weights
    sequences, length, _ = hidden.shape

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.view(sequences, length, -1, shape.head_dim).transpose(1, 2)

    normed = rms_norm(hidden, input_norm, shape.epsilon)
    queries = rotate(heads(F.linear(normed, query)), cosine, sine)
    keys = rotate(heads(F.linear(normed, key)), cosine, sine)
    values = heads(F.linear(normed, value))
    if not shared_keys:
        keys, values = (states.repeat_interleave(shape.heads // shape.kv_heads, 1) for states in (keys, values))
    attended = F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, enable_gqa=shared_keys and shape.heads != shape.kv_heads
    )
    hidden = hidden + F.linear(attended.transpose(1, 2).reshape(sequences, length, -1), output)
    normed = rms_norm(hidden, post_norm, shape.epsilon)
    return hidden + F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, up), down)


def divergence_chunk(
    teacher_logits: torch.Tensor, logits: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of KL(teacher || student) over the rows, and its gradient for the student's logits times scale."""
    teacher, student = teacher_logits.float().log_softmax(-1), logits.float().log_softmax(-1)
    probability = teacher.exp()
    loss = (probability * (teacher - student)).sum()
    return loss, ((student.exp() - probability) * scale).to(logits.dtype)


def nll_chunk(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum over the rows of the negative log-likelihood of the target."""
    wide = logits.float()
    return (wide.logsumexp(-1) - wide.gather(-1, targets[:, None])[:, 0]).sum()


class LinearDivergence(torch.autograd.Function):
    """Mean KL divergence of teacher and student from hidden states and heads, a chunk of rows at a time."""

    @staticmethod
    def forward(ctx, hidden, head, teacher_hidden, teacher_head, chunk_function):  # noqa: ANN001, ANN205
        rows, chunk_rows = hidden.shape[0], LOSS_ROWS[hidden.device.type]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient, head_gradient = torch.empty_like(hidden), torch.zeros_like(head, dtype=torch.float32)
        for start in range(0, rows, chunk_rows):
            part = slice(start, start + chunk_rows)
            logits = hidden[part] @ head.T
            loss, gradient = chunk_function(teacher_hidden[part] @ teacher_head.T, logits, 1 / rows)
            total += loss
            torch.mm(gradient, head, out=hidden_gradient[part])
            head_gradient += gradient.T @ hidden[part]
        ctx.save_for_backward(hidden_gradient, head_gradient.to(head.dtype))
        return total / rows

    @staticmethod
    def backward(ctx, upstream):  # noqa: ANN001, ANN205
        hidden_gradient, head_gradient = ctx.saved_tensors
        return hidden_gradient * upstream, head_gradient.mul_(upstream), None, None, None


class Llama:
    """The functions above for one shape, compiled or not."""

    def __init__(self, shape: Shape, compiled: bool, device: str = "cpu") -> None:
        def maybe(function: Callable) -> Callable:
            return torch.compile(function, dynamic=False) if compiled else function

        self.shape = shape
        self.shared_keys = shares_keys(shape, device)
        self.block = maybe(block)
        self.norm = maybe(rms_norm)
        self.divergence_chunk = maybe(divergence_chunk)
        self.nll_chunk = maybe(nll_chunk)

    def hidden(self, weights: Weights, tokens: torch.Tensor, compute: torch.dtype) -> torch.Tensor:
        """The normed last hidden states [sequences * length, width] in the compute type; weights are cast to it."""
        shape, length, device = self.shape, tokens.shape[1], tokens.device
        frequencies = shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2, device=device) / shape.head_dim)
        angles = torch.arange(length, device=device)[:, None] * frequencies
        cosine, sine = angles.cos().to(compute), angles.sin().to(compute)
        hidden = F.embedding(tokens, weights[EMBEDDING]).to(compute)
        for layer in range(shape.layers):
            own = [weights[f"model.layers.{layer}.{part}"].to(compute) for part in BLOCK_WEIGHTS]
            hidden = self.block(hidden, cosine, sine, shape, own, self.shared_keys)
        return self.norm(hidden, weights["model.norm.weight"].to(compute), shape.epsilon).flatten(0, 1)

    def nll(self, weights: Weights, tokens: torch.Tensor, compute: torch.dtype) -> float:
        """Sum of the negative log-likelihood of each token but the first of every sequence."""
        hidden = self.hidden(weights, tokens[:, :-1], compute)
        targets, head = tokens[:, 1:].flatten(), weights[EMBEDDING].to(compute)
        rows = LOSS_ROWS[tokens.device.type]
        chunks = zip(hidden.split(rows), targets.split(rows))
        return sum(self.nll_chunk(part @ head.T, part_targets).item() for part, part_targets in chunks)

    def divergence(self, weights: Weights, teacher: Weights, tokens: torch.Tensor, compute: torch.dtype) -> torch.Tensor:
        """Mean KL(teacher || student) over all positions, differentiable in the student's weights."""
        with torch.no_grad():
            teacher_hidden = self.hidden(teacher, tokens, compute)
        hidden = self.hidden(weights, tokens, compute)
        head, teacher_head = weights[EMBEDDING].to(compute), teacher[EMBEDDING].to(compute)
        return LinearDivergence.apply(hidden, head, teacher_hidden, teacher_head, self.divergence_chunk)
