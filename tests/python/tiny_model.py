"""A Hugging Face folder of a tiny random model with a byte-level tokenizer: tiny_model.py FOLDER."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file
from support import vocabulary, write_tokenizer

WIDTH, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 64, 96, 2, 4, 2


def config() -> dict[str, Any]:
    """A config.json of the Llama family."""
    return {"model_type": "llama", "hidden_act": "silu", "vocab_size": len(vocabulary()), "hidden_size": WIDTH,
            "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": True, "eos_token_id": 0}


def weights() -> dict[str, numpy.ndarray]:
    """Random weights of that model; the same every time."""
    random = numpy.random.default_rng(0)
    kv_width = WIDTH * KV_HEADS // HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(vocabulary()), WIDTH),
                                          "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, shape in {"input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
                            "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (kv_width, WIDTH),
                            "self_attn.v_proj": (kv_width, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
                            "mlp.gate_proj": (INTERMEDIATE, WIDTH), "mlp.up_proj": (INTERMEDIATE, WIDTH),
                            "mlp.down_proj": (WIDTH, INTERMEDIATE)}.items():
            shapes[f"{prefix}{name}.weight"] = shape
    return {name: (random.normal(0, 0.2, shape) if len(shape) == 2 else numpy.ones(shape)).astype(numpy.float32)
            for name, shape in shapes.items()}


def write_folder(folder: Path) -> Path:
    """config.json, model.safetensors and tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config()))
    save_file(weights(), folder / "model.safetensors")
    write_tokenizer(folder / "tokenizer.json")
    return folder


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]))
