#!/usr/bin/env python3
"""Makes the golden references: tiny random models of every family with the logits, loss and gradients Hugging Face gives.

    scripts/parity.sh --environment
    build/parity-venv/bin/python tests/golden/make_goldens.py [--out tests/golden] [case ...]

Every case is a folder with config.json, model.safetensors and reference.safetensors (README.md says what they hold).
Sizes are odd on purpose: head counts, head widths, vocabulary, intermediate size and lengths are where an engine that
works in vectors and tiles goes wrong. Weights are drawn so that logits are of the order of one and attention is far from
uniform; norm weights and biases are random too, since a forgotten one would not show if it were 1 or 0. The same seed
gives the same files on the same torch version.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SIZE_LIMIT_BYTES = 150_000  # of a case: the folder lives in git
F32_AGREEMENT = 1e-4  # how far the f32 run of the same model may be from the f64 one, relative to the largest value
SEQUENCES = 2

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One tiny model; `config` holds what differs from COMMON and is stored in config.json as it stands."""

    config: dict[str, Any]
    length: int
    seed: int
    distil: bool = False  # store a second model as the teacher and the gradients of the divergence from it


COMMON: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 61,
}

CASES: dict[str, Case] = {
    # Odd head count, one key-value head for three, head width not a power of two and implied by hidden_size / heads.
    "gqa3-tied": Case(
        {
            "hidden_size": 30,
            "intermediate_size": 37,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_theta": 100000.0,
        },
        length=19,
        seed=1,
    ),
    # head_dim given and unlike hidden_size / heads (18 / 6 = 3), untied head, a larger epsilon.
    "head-dim-untied": Case(
        {
            "hidden_size": 18,
            "intermediate_size": 37,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rms_norm_eps": 1e-3,
        },
        length=19,
        seed=2,
    ),
    # Every bias there is, as many key-value heads as heads, tied.
    "biases-tied": Case(
        {
            "hidden_size": 24,
            "intermediate_size": 37,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_theta": 500.0,
            "vocab_size": 67,
        },
        length=33,
        seed=3,
    ),
    # A window of 7 positions over 33: a token sees itself and the six before it.
    "sliding-window": Case(
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "hidden_size": 24,
            "intermediate_size": 41,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "sliding_window": 7,
            "rope_theta": 1000000.0,
        },
        length=33,
        seed=4,
    ),
    # Llama 3.1's rotary scaling: wavelengths that stay, that are blended and that are stretched.
    "llama3-rope": Case(
        {
            "hidden_size": 24,
            "intermediate_size": 31,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        length=33,
        seed=6,
    ),
    # Biases on q, k and v alone; the second of two layers has a window of 5.
    "qwen2-upper-window": Case(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": 18,
            "intermediate_size": 29,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
        length=19,
        seed=37,
    ),
    # Norms of heads, whose width is given; 9 query heads for 3 key heads.
    "qwen3-head-norms": Case(
        {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": 18,
            "intermediate_size": 23,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 6,
            "attention_bias": True,
        },
        length=19,
        seed=8,
    ),
    # Fused matrices, six of eight elements of a head rotated, positions beyond the original 16: the long factors.
    "phi3-long-rope": Case(
        {
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "hidden_size": 24,
            "intermediate_size": 31,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "original_max_position_embeddings": 16,
            "partial_rotary_factor": 0.75,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.3, 1.7], "long_factor": [1.5, 4.0, 9.0]},
            "pad_token_id": 0,
        },
        length=33,
        seed=9,
    ),
    # Capped attention scores and logits, so low that they bend; a window of 6 in the first layer.
    "gemma2": Case(
        {
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "hidden_size": 21,
            "intermediate_size": 29,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 6,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 5,
            "sliding_window": 6,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 7.0,
            "tie_word_embeddings": True,
        },
        length=19,
        seed=11,
    ),
    # Scaled embedding, norms before and behind attention and MLP, of heads too, gelu, a window of 6 with rotary
    # frequencies of its own in the first layer; attention scaled by other than the head's width.
    "gemma3": Case(
        {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "hidden_size": 21,
            "intermediate_size": 27,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 10,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 17,
            "sliding_window": 6,
            "sliding_window_pattern": 2,
            "rope_theta": 100000.0,
            "rope_local_base_freq": 700.0,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        },
        length=19,
        seed=10,
    ),
    # The nine heads and three key-value heads of SmolLM2, with a teacher; 33 is one past a power of two.
    "distil-9-heads": Case(
        {
            "hidden_size": 18,
            "intermediate_size": 19,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 4,
            "tie_word_embeddings": True,
            "rope_theta": 100000.0,
        },
        length=33,
        seed=5,
        distil=True,
    ),
}


def config_of(own: dict[str, Any]) -> dict[str, Any]:
    """COMMON and what a case has of its own, without the keys that its family does not have."""
    config = COMMON | own
    if config["model_type"] not in ("llama", "qwen3"):
        config.pop("attention_bias")
    if config["model_type"] != "llama":
        config.pop("mlp_bias")
    if "hidden_activation" in config:
        config.pop("hidden_act")
    return config


def build_model(config: dict[str, Any], seed: int) -> PreTrainedModel:
    """A model of this config in f64 whose weights are exactly representable in f32."""
    kind = config["model_type"]
    values = {key: copy.deepcopy(value) for key, value in config.items() if key != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values), attn_implementation="eager").eval()
    # Gemma multiplies by 1 + weight.
    norms = (-0.5, 0.5) if kind.startswith("gemma") else (0.5, 1.5)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3, generator=generator)
            elif parameter.dim() == 1:  # a norm
                parameter.uniform_(*norms, generator=generator)
            elif name.endswith("embed_tokens.weight"):
                parameter.normal_(0, 0.5, generator=generator)
            else:
                parameter.normal_(0, 1.5 / parameter.shape[1] ** 0.5, generator=generator)
    return model.double()


def weights(model: PreTrainedModel) -> Tensors:
    """The parameters as a checkpoint stores them: f32, a tied head left out (named_parameters lists it once)."""
    return {name: parameter.detach().float().contiguous() for name, parameter in model.named_parameters()}


def gradients(model: PreTrainedModel, loss: torch.Tensor, prefix: str) -> Tensors:
    """The gradient of `loss` for every parameter, as f32, named `prefix` + parameter."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()))
    return {prefix + name: gradient.float().contiguous() for name, gradient in zip(named, found)}


def cross_entropy(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the next token over sequences * (length - 1) predictions."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def divergence(teacher_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student), summed over the vocabulary, mean over all sequences * length positions."""
    teacher, student = teacher_logits.log_softmax(-1), logits.log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum(-1).mean()


def reference(model: PreTrainedModel, teacher: PreTrainedModel | None, tokens: torch.Tensor) -> Tensors:
    """Everything reference.safetensors holds, in the precision of the models."""
    logits = model(tokens).logits
    loss = cross_entropy(logits, tokens)
    result = {"tokens": tokens, "logits": logits.detach().float().contiguous(), "loss": loss.detach().double()}
    result |= gradients(model, loss, "grad.")
    if teacher is not None:
        with torch.no_grad():
            teacher_logits = teacher(tokens).logits
        kl_loss = divergence(teacher_logits, model(tokens).logits)
        result |= {"teacher_logits": teacher_logits.float().contiguous(), "kl_loss": kl_loss.detach().double()}
        result |= gradients(model, kl_loss, "kl_grad.")
    return result


def check(name: str, exact: Tensors, rounded: Tensors) -> float:
    """The largest relative difference between the f64 and the f32 run; an exact zero or a large one is a bad case."""
    worst = 0.0
    for key, expected in exact.items():
        scale = expected.abs().max().item()
        if scale == 0 or not torch.isfinite(expected).all():
            raise SystemExit(f"make_goldens: {name}: {key} is zero or not finite")
        worst = max(worst, (expected.double() - rounded[key].double()).abs().max().item() / scale)
    if worst > F32_AGREEMENT:
        raise SystemExit(f"make_goldens: {name}: f32 and f64 differ by {worst:.1e}, too ill-conditioned for a reference")
    return worst


def write_case(name: str, case: Case, folder: Path) -> None:
    """Makes the models of a case, computes and checks the reference and writes the folder."""
    config = config_of(case.config)
    model = build_model(config, case.seed)
    teacher = build_model(config, case.seed + 1000) if case.distil else None
    generator = torch.Generator().manual_seed(case.seed + 2000)
    tokens = torch.randint(config["vocab_size"], (SEQUENCES, case.length), generator=generator)

    exact = reference(model, teacher, tokens)
    stored = weights(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}, indent=2, sort_keys=True) + "\n")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    if teacher is not None:
        save_file(weights(teacher), folder / "teacher.safetensors", metadata={"format": "pt"})
    save_file(exact, folder / "reference.safetensors")

    worst = check(name, exact, reference(model.float(), teacher.float() if teacher else None, tokens))
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > SIZE_LIMIT_BYTES:
        raise SystemExit(f"make_goldens: {name}: {size} bytes, more than {SIZE_LIMIT_BYTES}")
    divergence_text = f", KL {exact['kl_loss'].item():.4f}" if teacher else ""
    print(
        f"{name}: {sum(t.numel() for t in stored.values())} parameters, {size} bytes, "
        f"loss {exact['loss'].item():.4f}{divergence_text}, f32 within {worst:.1e}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder of the cases")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        print(f"make_goldens: no case {unknown[0]}; there are {', '.join(CASES)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    for name in arguments.cases or CASES:
        write_case(name, CASES[name], arguments.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
