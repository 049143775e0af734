"""Sizes of models of the Llama family: their config.json, and the tensors that one stands for."""

import json
from pathlib import Path
from typing import Any

from errors import Error, one_line

_LLAMA = {"model_type": "llama", "hidden_act": "silu", "vocab_size": 32000, "max_position_embeddings": 4096,
          "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False}
# Sizes as their authors published them.
CONFIGS = {
    "llama-2-7b": {**_LLAMA, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                   "num_attention_heads": 32, "num_key_value_heads": 32},
    "llama-2-70b": {**_LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
                    "num_attention_heads": 64, "num_key_value_heads": 8},
    "llama-3.2-1b": {**_LLAMA, "vocab_size": 128256, "max_position_embeddings": 131072, "rope_theta": 500000.0,
                     "tie_word_embeddings": True, "hidden_size": 2048, "intermediate_size": 8192,
                     "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64},
}


def read_config(name: str) -> dict[str, Any]:
    """A known model's, or the file's."""
    if name in CONFIGS:
        return CONFIGS[name]
    try:
        config = json.loads(Path(name).read_text(encoding="utf-8"))
        _ = [int(config[key]) for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                          "vocab_size")]
    except FileNotFoundError:
        raise Error(f"--config {name}: no such file, and none of {', '.join(CONFIGS)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise Error(f"{name}: not a config.json of a Llama-family model ({one_line(error)})") from error
    if config.get("model_type") not in ("llama", "mistral"):
        raise Error(f"{name}: is of the family {config.get('model_type')!r}: only the tensors of llama and mistral are known"
                    " here; plan with the files of the model itself")
    return config


def tensors(config: dict[str, Any]) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes of the blocks' matrices, and of all other tensors."""
    width, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or width // heads
    queries, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
    matrices: dict[str, tuple[int, ...]] = {}
    others: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], width),
                                          "model.norm.weight": (width,)}
    if not config.get("tie_word_embeddings"):
        others["lm_head.weight"] = (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            others[f"{block}{name}.weight"] = (width,)
        attention = {"q_proj": (queries, width), "k_proj": (keys, width), "v_proj": (keys, width), "o_proj": (width, queries)}
        if config.get("attention_bias"):
            others.update({f"{block}self_attn.{name}.bias": (shape[0],) for name, shape in attention.items()})
        for part, named in (("self_attn", attention),
                            ("mlp", {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)})):
            matrices.update({f"{block}{part}.{name}.weight": shape for name, shape in named.items()})
    return matrices, others
