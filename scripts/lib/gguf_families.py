"""Tensor names and config.json of the model families that a GGUF file may hold.

llama.cpp keeps some things in its own way: query and key rows of the llama architecture are permuted, Gemma's norms
hold 1 + weight, Llama 3.1's rotary scaling is a tensor of factors. Metadata of the architecture that nothing here asks
for is refused by name: it may change the mathematics.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Callable, Optional

from errors import Error

_GLOBAL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LLAMA = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_PHI3 = {key: name for key, name in _LLAMA.items() if key not in ("attn_q", "attn_k", "attn_v", "ffn_gate")} | {
    "attn_qkv": "self_attn.qkv_proj",
    "ffn_up": "mlp.gate_up_proj",
}
_GEMMA = _LLAMA | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# Metadata that changes nothing of what a model computes.
_HARMLESS = {
    "expert_used_count",  # of expert_count, which is asked for
    "mm.tokens_per_image",  # of a vision part that lies in another file
    "rope.scaling.finetuned",  # how the scaled positions came about
    "rope.scaling.original_context_length",  # asked for where the scaling depends on it
    "tensor_data_layout",  # where the converter had the tensors from
    "vocab_size",  # the embedding has it
}
# Rotary factors, which go into config.json.
ROTARY_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


class Fields:
    """The metadata of a file under its architecture's prefix, and its tensors' names."""

    def __init__(self, path: Any, fields: dict[str, Any], tensors: dict[str, Any]) -> None:
        self.path = path
        self.architecture = fields["general.architecture"]
        self.all = fields
        self.tensors = tensors  # name -> values as numpy, of rotary factors; None of others
        self._asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self._asked.add(key)
        value = self.all.get(f"{self.architecture}.{key}", default)
        return _shortest(value) if isinstance(value, float) else value

    def integer(self, key: str, default: Optional[int] = None) -> int:
        value = self.get(key, default)
        if isinstance(value, list) and len(set(value)) == 1:  # a value a layer, all equal
            value = value[0]
        if not isinstance(value, int) or value <= 0:
            problem = "missing" if value is None else f"{value!r}, not a positive number"
            raise Error(f"{self.path}: {self.architecture}.{key} is {problem}")
        return value

    def number(self, key: str, default: Any = None) -> Any:
        """A number that is not negative, or the default."""
        value = self.get(key, default)
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value < math.inf):
            raise Error(f"{self.path}: {self.architecture}.{key} is {value!r}, not a number from 0 on")
        return value

    def only(self, key: str, expected: Any) -> None:
        """Refuse another value of a key that the file may have."""
        value = self.get(key, expected)
        if value != expected:
            raise Error(f"{self.path}: {self.architecture}.{key} is {value!r}, which is not supported, only {expected!r}")

    def refuse_rest(self) -> None:
        """Refuse what nothing asked for."""
        prefix = f"{self.architecture}."
        for name, value in self.all.items():
            key = name.removeprefix(prefix)
            if name.startswith(prefix) and key not in self._asked | _HARMLESS:
                raise Error(f"{self.path}: {name} is {str(value)[:60]}, a key that is not supported: it may change what"
                            " the model computes")

    @property
    def heads(self) -> int:
        return self.integer("attention.head_count")

    @property
    def head_dim(self) -> int:
        implied = self.integer("embedding_length") // self.heads
        return self.integer("attention.key_length", self.get("rope.dimension_count", implied)
                            if self.architecture != "phi3" else implied)


@dataclass(frozen=True)
class Family:
    """What differs between architectures."""

    model_type: str
    class_name: str
    names: dict[str, str]
    config: Callable[[Fields], dict[str, Any]]  # keys of its own
    permuted: bool = False  # query and key rows
    norm_offset: int = 0  # what the file's norms hold more than Hugging Face's


def hf_name(family: Family, name: str) -> str:
    """The Hugging Face name of a tensor."""
    if name in _GLOBAL:
        return _GLOBAL[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if match and match[2] in family.names:
        return f"model.layers.{match[1]}.{family.names[match[2]]}.{match[3]}"
    raise Error(f"tensor {name}: not part of a dense {family.model_type} model, so it would be lost")


def family_of(path: Any, architecture: Any) -> Family:
    """The family of a file's general.architecture."""
    if architecture not in FAMILIES:
        raise Error(f"{path}: architecture {architecture!r} is not supported, only {', '.join(FAMILIES)}")
    return FAMILIES[architecture]


def config_json(family: Family, fields: Fields, vocabulary: int) -> dict[str, Any]:
    """The content of config.json."""
    if fields.get("expert_count"):
        raise Error(f"{fields.path}: a mixture of {fields.get('expert_count')} experts is not supported")
    if fields.get("attention.value_length", fields.head_dim) != fields.head_dim:
        raise Error(f"{fields.path}: values of {fields.get('attention.value_length')} beside keys of {fields.head_dim} are"
                    " not supported")
    width = fields.integer("embedding_length")
    config: dict[str, Any] = {
        "architectures": [family.class_name],
        "model_type": family.model_type,
        "hidden_size": width,
        "intermediate_size": fields.integer("feed_forward_length"),
        "num_hidden_layers": fields.integer("block_count"),
        "num_attention_heads": fields.heads,
        "num_key_value_heads": fields.integer("attention.head_count_kv", fields.heads),
        "max_position_embeddings": fields.integer("context_length"),
        "rms_norm_eps": fields.get("attention.layer_norm_rms_epsilon", 1e-5),
        "rope_theta": fields.get("rope.freq_base", 10000.0),
        "vocab_size": vocabulary,
        "tie_word_embeddings": "output.weight" not in fields.tensors,
        "bos_token_id": fields.all.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.all.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": fields.all.get("tokenizer.ggml.padding_token_id"),
        "torch_dtype": "float32",
    }
    if fields.head_dim * fields.heads != width or family.model_type in ("qwen3", "gemma2", "gemma3_text"):
        config["head_dim"] = fields.head_dim
    config |= family.config(fields)
    fields.refuse_rest()
    return {key: value for key, value in config.items() if value is not None}


def _shortest(value: float) -> float:
    """The shortest decimal of an f32 value: GGUF keeps 1e-05 as 9.999999747378752e-06."""
    import numpy

    return float(str(numpy.float32(value)))


def _rotary_scaling(fields: Fields) -> Optional[dict[str, Any]]:
    """rope_scaling of the metadata; all of a head's elements must turn."""
    if fields.integer("rope.dimension_count", fields.head_dim) != fields.head_dim:
        raise Error(f"{fields.path}: heads of {fields.head_dim} with {fields.integer('rope.dimension_count')} rotary"
                    " dimensions are not supported")
    factor, kind = _factor_and_kind(fields)
    if "rope_freqs.weight" in fields.tensors:
        if kind != "none":
            raise Error(f"{fields.path}: has both rotary scaling {kind!r} and rope_freqs.weight")
        fields.only("rope.scaling.attn_factor", 1.0)
        return _llama3_scaling(fields)
    if kind == "yarn":
        return _yarn(fields, factor)
    fields.only("rope.scaling.attn_factor", 1.0)
    if kind == "none":
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    raise Error(f"{fields.path}: rotary scaling {kind!r} is not supported")


def _factor_and_kind(fields: Fields) -> tuple[Optional[float], str]:
    """Factor and kind of the scaling; as llama.cpp has it, a factor of no kind is linear, and its old name counts too."""
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear")) or None
    kind = fields.get("rope.scaling.type", "linear" if factor not in (None, 1) else "none")
    return factor, "none" if kind == "linear" and factor is None else kind


def _yarn(fields: Fields, factor: Optional[float]) -> dict[str, Any]:
    if factor is None:
        raise Error(f"{fields.path}: {fields.architecture}.rope.scaling.factor is missing")
    fields.only("rope.scaling.yarn_log_multiplier", 0.0)
    fields.only("rope.scaling.yarn_ext_factor", 1.0)
    scaling = {"rope_type": "yarn", "factor": factor,
               "original_max_position_embeddings": fields.integer("rope.scaling.original_context_length")}
    # The converter writes Hugging Face's attention_factor, the whole of the amplitude, as yarn_attn_factor.
    for key, name in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow"),
                      ("yarn_attn_factor", "attention_factor")):
        if fields.number(f"rope.scaling.{key}") is not None:
            scaling[name] = fields.number(f"rope.scaling.{key}")
    multiplier = fields.number("rope.scaling.attn_factor", 1.0)  # llama.cpp's, onto YaRN's own amplitude
    if multiplier != 1 and "attention_factor" in scaling:
        raise Error(f"{fields.path}: has both rope.scaling.attn_factor and rope.scaling.yarn_attn_factor")
    if multiplier != 1:
        scaling["attention_factor"] = multiplier * (1 + 0.1 * math.log(max(factor, 1)))
    return scaling


def _llama3_scaling(fields: Fields) -> dict[str, Any]:
    """Llama 3.1's scaling from the factors that rope_freqs.weight holds: the file does not name the bounds, so those that
    Meta published must give these factors."""
    import numpy

    factors = fields.tensors["rope_freqs.weight"].astype(numpy.float64)
    factor, low, high, positions = round(float(factors.max()), 3), 1.0, 4.0, 8192
    exponents = numpy.arange(0, fields.head_dim, 2) / fields.head_dim
    turns = positions * fields.get("rope.freq_base", 10000.0) ** -exponents / (2 * math.pi)
    smooth = numpy.clip((turns - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if factors.shape != expected.shape or numpy.abs(factors / expected - 1).max() > 1e-4:
        raise Error(f"{fields.path}: tensor rope_freqs.weight: not the rotary scaling of Llama 3.1, others are not"
                    " supported")
    return {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": positions}


def _llama(fields: Fields) -> dict[str, Any]:
    return {"hidden_act": "silu", "attention_bias": "blk.0.attn_q.bias" in fields.tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in fields.tensors, "rope_scaling": _rotary_scaling(fields)}


def _qwen(fields: Fields) -> dict[str, Any]:
    return {"hidden_act": "silu", "use_sliding_window": False, "rope_scaling": _rotary_scaling(fields)}


def _phi3(fields: Fields) -> dict[str, Any]:
    config: dict[str, Any] = {"hidden_act": "silu", "sliding_window": fields.get("attention.sliding_window") or None}
    rotary = fields.integer("rope.dimension_count", fields.head_dim)
    if rotary != fields.head_dim:
        config["partial_rotary_factor"] = rotary / fields.head_dim
    original = fields.integer("rope.scaling.original_context_length", fields.integer("context_length"))
    config["original_max_position_embeddings"] = original
    config["rope_scaling"] = _phi3_scaling(fields)
    return config


def _phi3_scaling(fields: Fields) -> Optional[dict[str, Any]]:
    """Long rope, whose factors are tensors; else linear or none."""
    factor, kind = _factor_and_kind(fields)
    if "rope_factors_long.weight" in fields.tensors:
        if kind not in ("none", "longrope") or factor not in (None, 1):
            raise Error(f"{fields.path}: has both rotary scaling {kind!r} by {factor} and rope_factors_long.weight")
        scaling: dict[str, Any] = {"type": "longrope"} | {
            f"{length}_factor": [_shortest(value) for value in fields.tensors[f"rope_factors_{length}.weight"]]
            for length in ("short", "long")}
        amplitude = fields.get("rope.scaling.attn_factor")
        return scaling if amplitude is None else scaling | {"attention_factor": amplitude}
    if kind not in ("none", "linear"):
        raise Error(f"{fields.path}: rotary scaling {kind!r} without rope_factors_long.weight is not supported")
    fields.only("rope.scaling.attn_factor", 1.0)
    return None if kind == "none" else {"type": "linear", "factor": factor}


def _gemma(fields: Fields) -> dict[str, Any]:
    return {"hidden_activation": "gelu_pytorch_tanh", "layer_types": _layer_types(fields),
            "sliding_window": fields.integer("attention.sliding_window", 4096),
            "query_pre_attn_scalar": fields.head_dim, "rope_scaling": _rotary_scaling(fields)}


def _layer_types(fields: Fields) -> Optional[list[str]]:
    """Which layers have the window, where the file says so: a flag a layer, or the n of every n-th layer without (0: none)."""
    windowed = fields.get("attention.sliding_window_pattern")
    if windowed is None:
        return None
    if not isinstance(windowed, list):
        period = fields.number("attention.sliding_window_pattern")
        windowed = [period == 0 or (layer + 1) % period != 0 for layer in range(fields.integer("block_count"))]
    return ["sliding_attention" if flag else "full_attention" for flag in windowed]


def _gemma2(fields: Fields) -> dict[str, Any]:
    config = _gemma(fields) | {"attn_logit_softcapping": fields.get("attn_logit_softcapping", 50.0),
                               "final_logit_softcapping": fields.get("final_logit_softcapping", 30.0)}
    if fields.integer("block_count") == 46:  # the 27B model alone scales by this, and the file does not say so
        config["query_pre_attn_scalar"] = fields.integer("embedding_length") // fields.heads
    return config


def _gemma3(fields: Fields) -> dict[str, Any]:
    config = _gemma(fields) | {"sliding_window_pattern": 6,
                               "final_logit_softcapping": fields.get("final_logit_softcapping") or None,
                               "rope_theta": fields.get("rope.freq_base", fields.get("rope.global.freq_base", 1000000.0)),
                               "rope_local_base_freq": fields.get("rope.freq_base_swa",
                                                                  fields.get("rope.local.freq_base", 10000.0))}
    if fields.integer("block_count") == 62:  # 27B, likewise
        config["query_pre_attn_scalar"] = fields.integer("embedding_length") // fields.heads
    return config


FAMILIES = {
    "llama": Family("llama", "LlamaForCausalLM", _LLAMA, _llama, permuted=True),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM", _LLAMA, _qwen),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", _LLAMA | _HEAD_NORMS, _qwen),
    "phi3": Family("phi3", "Phi3ForCausalLM", _PHI3, _phi3),
    "gemma2": Family("gemma2", "Gemma2ForCausalLM", _GEMMA, _gemma2, norm_offset=1),
    "gemma3": Family("gemma3_text", "Gemma3ForCausalLM", _GEMMA | _HEAD_NORMS, _gemma3, norm_offset=1),
}
