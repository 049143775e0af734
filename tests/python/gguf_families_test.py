"""scripts/gguf_to_hf.py for every architecture it knows: names, config.json, and that pvtune imports the folder."""

import json
import math
import subprocess
import unittest
from typing import Any, Optional

import gguf
import numpy
from safetensors.numpy import load_file
from support import MERGES, ROOT, ProgramTest, vocabulary

WIDTH, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 32, 24, 2, 1, 16, 2

# GGUF name -> Hugging Face name and shape, of a block.
ATTENTION = {
    "attn_q": ("self_attn.q_proj", (HEADS * HEAD_DIM, WIDTH)), "attn_k": ("self_attn.k_proj", (KV_HEADS * HEAD_DIM, WIDTH)),
    "attn_v": ("self_attn.v_proj", (KV_HEADS * HEAD_DIM, WIDTH)), "attn_output": ("self_attn.o_proj", (WIDTH, HEADS * HEAD_DIM)),
}
MLP = {"ffn_gate": ("mlp.gate_proj", (INTERMEDIATE, WIDTH)), "ffn_up": ("mlp.up_proj", (INTERMEDIATE, WIDTH)),
       "ffn_down": ("mlp.down_proj", (WIDTH, INTERMEDIATE))}
NORMS = {"attn_norm": ("input_layernorm", (WIDTH,)), "ffn_norm": ("post_attention_layernorm", (WIDTH,))}
HEAD_NORMS = {"attn_q_norm": ("self_attn.q_norm", (HEAD_DIM,)), "attn_k_norm": ("self_attn.k_norm", (HEAD_DIM,))}
GEMMA_NORMS = {"attn_norm": ("input_layernorm", (WIDTH,)), "post_attention_norm": ("post_attention_layernorm", (WIDTH,)),
               "ffn_norm": ("pre_feedforward_layernorm", (WIDTH,)), "post_ffw_norm": ("post_feedforward_layernorm", (WIDTH,))}
FUSED = {"attn_qkv": ("self_attn.qkv_proj", ((HEADS + 2 * KV_HEADS) * HEAD_DIM, WIDTH)),
         "attn_output": ATTENTION["attn_output"], "ffn_up": ("mlp.gate_up_proj", (2 * INTERMEDIATE, WIDTH)),
         "ffn_down": MLP["ffn_down"]}
BIASES = ("attn_q", "attn_k", "attn_v")


class GgufFamilies(ProgramTest):
    def convert(self, architecture: str, block: dict[str, tuple[str, tuple[int, ...]]], fields: dict[str, Any],
                biases: tuple[str, ...] = (), extra: Optional[dict[str, numpy.ndarray]] = None,
                offset: float = 0) -> dict[str, Any]:
        """Write such a file, convert it, compare every tensor (norms hold `offset` more in the file), let pvtune plan the
        import; the config.json."""
        random = numpy.random.default_rng(3)
        file = self.folder / "model.gguf"
        writer = gguf.GGUFWriter(file, architecture)
        expected: dict[str, numpy.ndarray] = {}

        def tensor(name: str, hf_name: str, shape: tuple[int, ...]) -> None:
            values = random.standard_normal(shape).astype(numpy.float32)
            writer.add_tensor(name, values)
            expected[hf_name] = values - numpy.float32(offset if name.endswith("norm.weight") else 0)

        tensor("token_embd.weight", "model.embed_tokens.weight", (len(vocabulary()), WIDTH))
        tensor("output_norm.weight", "model.norm.weight", (WIDTH,))
        for layer in range(LAYERS):
            for name, (hf_name, shape) in block.items():
                tensor(f"blk.{layer}.{name}.weight", f"model.layers.{layer}.{hf_name}.weight", shape)
                if name in biases:
                    tensor(f"blk.{layer}.{name}.bias", f"model.layers.{layer}.{hf_name}.bias", shape[:1])
        for name, values in (extra or {}).items():
            writer.add_tensor(name, values)
        writer.add_block_count(LAYERS)
        writer.add_context_length(256)
        writer.add_embedding_length(WIDTH)
        writer.add_feed_forward_length(INTERMEDIATE)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        for key, value in fields.items():
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool,
                   list: writer.add_array}[type(value)]
            add(f"{architecture}.{key}", value)
        tokens = vocabulary()
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(tokens)
        writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
        writer.add_token_merges(MERGES)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

        out = self.folder / "hf"
        self.succeed("gguf_to_hf.py", "--from", file, "--out", out)
        found = load_file(out / "model.safetensors")
        self.assertEqual(sorted(found), sorted(expected))
        if architecture != "llama":  # whose query and key rows are permuted
            for name, values in expected.items():
                numpy.testing.assert_array_equal(found[name], values, err_msg=name)
        done = subprocess.run([ROOT / "build/pvtune", "import", "--from", out, "--out", self.folder / "model.h5", "--quiet"],
                              capture_output=True, text=True, timeout=300, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads((out / "config.json").read_text())

    def refused(self, architecture: str, says: str, block: Optional[dict[str, Any]] = None, **arguments: Any) -> None:
        with self.assertRaises(AssertionError):
            self.convert(architecture, block or NORMS | ATTENTION | MLP, **arguments)
        self.refuse("gguf_to_hf.py", "--from", self.folder / "model.gguf", "--out", self.folder / "hf", says=says)

    def test_qwen2(self) -> None:
        config = self.convert("qwen2", NORMS | ATTENTION | MLP, {"rope.freq_base": 1e6}, BIASES)
        self.assertEqual((config["model_type"], config["rope_theta"], config["use_sliding_window"]), ("qwen2", 1e6, False))

    def test_qwen2_yarn(self) -> None:
        config = self.convert("qwen2", NORMS | ATTENTION | MLP, {
            "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}, BIASES)
        self.assertEqual(config["rope_scaling"],
                         {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64})

    def test_yarns_amplitude(self) -> None:
        """attn_factor multiplies YaRN's own, yarn_attn_factor is the whole."""
        yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}
        expected = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
        for fields, found in (({"attn_factor": 1.0, "yarn_ext_factor": 1.0}, {}),
                              ({"attn_factor": 1.5}, {"attention_factor": 1.5 * (1 + 0.1 * math.log(4))}),
                              ({"yarn_attn_factor": 1.25, "yarn_beta_fast": 16.0, "yarn_beta_slow": 2.0},
                               {"attention_factor": 1.25, "beta_fast": 16.0, "beta_slow": 2.0})):
            config = self.convert("qwen2", NORMS | ATTENTION | MLP,
                                  yarn | {f"rope.scaling.{key}": value for key, value in fields.items()}, BIASES)
            self.assertEqual(config["rope_scaling"], expected | found)
        for key in ("yarn_ext_factor", "yarn_log_multiplier"):
            self.refused("qwen2", f"qwen2.rope.scaling.{key} is 0.5", fields=yarn | {f"rope.scaling.{key}": 0.5})
        self.refused("qwen2", "has both rope.scaling.attn_factor", fields=yarn | {
            "rope.scaling.attn_factor": 1.5, "rope.scaling.yarn_attn_factor": 1.25})

    def test_a_factor_without_a_type_is_linear(self) -> None:
        for key in ("rope.scaling.factor", "rope.scale_linear"):
            config = self.convert("llama", NORMS | ATTENTION | MLP, {key: 4.0})
            self.assertEqual(config["rope_scaling"], {"rope_type": "linear", "factor": 4.0})
        for fields in ({"rope.scaling.factor": 1.0}, {"rope.scaling.type": "none", "rope.scaling.factor": 4.0},
                       {"rope.scaling.type": "linear"}):
            self.assertNotIn("rope_scaling", self.convert("llama", NORMS | ATTENTION | MLP, fields))
        self.refused("llama", "llama.rope.scaling.attn_factor is 1.5", fields={"rope.scaling.attn_factor": 1.5})
        self.refused("llama", "llama.rope.scaling.factor is 'x', not a number", fields={"rope.scaling.factor": "x"})

    def test_qwen3(self) -> None:
        config = self.convert("qwen3", NORMS | ATTENTION | HEAD_NORMS | MLP,
                              {"attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM})
        self.assertEqual((config["model_type"], config["head_dim"]), ("qwen3", HEAD_DIM))

    def test_phi3_with_long_rope(self) -> None:
        factors = {f"rope_factors_{kind}.weight": (numpy.arange(6) * scale + 1).astype(numpy.float32)
                   for kind, scale in (("long", 2), ("short", 0.1))}
        config = self.convert("phi3", NORMS | FUSED, {
            "rope.dimension_count": 12, "rope.scaling.original_context_length": 64, "attention.sliding_window": 33,
            "rope.scaling.attn_factor": 1.25}, extra=factors)
        self.assertEqual(config["partial_rotary_factor"], 0.75)
        self.assertEqual(config["original_max_position_embeddings"], 64)
        self.assertEqual(config["sliding_window"], 33)
        self.assertEqual(config["rope_scaling"], {
            "type": "longrope", "attention_factor": 1.25, "long_factor": [1, 3, 5, 7, 9, 11],
            "short_factor": [1, 1.1, 1.2, 1.3, 1.4, 1.5]})

    def test_phi3_without_long_rope(self) -> None:
        config = self.convert("phi3", NORMS | FUSED, {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0})
        self.assertEqual(config["rope_scaling"], {"type": "linear", "factor": 2.0})
        factors = {f"rope_factors_{kind}.weight": numpy.ones(8, numpy.float32) for kind in ("long", "short")}
        self.refused("phi3", "has both rotary scaling 'linear' by 2.0", block=NORMS | FUSED, extra=factors,
                     fields={"rope.scaling.factor": 2.0})
        for kind in ("yarn", "longrope"):
            self.refused("phi3", f"rotary scaling '{kind}' without", block=NORMS | FUSED,
                         fields={"rope.scaling.type": kind, "rope.scaling.factor": 2.0})

    def test_gemma2(self) -> None:
        config = self.convert("gemma2", GEMMA_NORMS | ATTENTION | MLP, {
            "attention.sliding_window": 12, "attention.key_length": HEAD_DIM, "attn_logit_softcapping": 40.0,
            "final_logit_softcapping": 20.0}, offset=1)
        expected = {"model_type": "gemma2", "sliding_window": 12, "query_pre_attn_scalar": HEAD_DIM, "head_dim": HEAD_DIM,
                    "attn_logit_softcapping": 40.0, "final_logit_softcapping": 20.0, "tie_word_embeddings": True}
        self.assertEqual({key: config[key] for key in expected}, expected)

    def test_gemma3(self) -> None:
        config = self.convert("gemma3", GEMMA_NORMS | ATTENTION | HEAD_NORMS | MLP, {
            "attention.sliding_window": 12, "attention.key_length": HEAD_DIM, "rope.freq_base": 1e6,
            "rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "final_logit_softcapping": 30.0,
            "attention.sliding_window_pattern": 2}, offset=1)
        expected = {"model_type": "gemma3_text", "sliding_window": 12, "query_pre_attn_scalar": HEAD_DIM, "rope_theta": 1e6,
                    "rope_local_base_freq": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                    "final_logit_softcapping": 30.0, "layer_types": ["sliding_attention", "full_attention"],
                    "tie_word_embeddings": True}
        self.assertEqual({key: config[key] for key in expected}, expected)

    def llama3_factors(self, positions: int) -> numpy.ndarray:
        """As llama.cpp's converter writes them."""
        factors = []
        for i in range(HEAD_DIM // 2):
            wavelength = 2 * math.pi * 500000.0 ** (2 * i / HEAD_DIM)
            smooth = min(1.0, max(0.0, (positions / wavelength - 1) / 3))
            factors.append(1 / ((1 - smooth) / 8 + smooth))
        return numpy.array(factors, numpy.float32)

    def test_llama3_scaling(self) -> None:
        fields = {"rope.freq_base": 500000.0}
        config = self.convert("llama", NORMS | ATTENTION | MLP, fields,
                              extra={"rope_freqs.weight": self.llama3_factors(8192)})
        self.assertEqual(config["rope_scaling"], {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192})
        self.refused("llama", "rope_freqs.weight", fields=fields, extra={"rope_freqs.weight": self.llama3_factors(4096)})

    def test_refusals(self) -> None:
        self.refused("llama", "rotary scaling 'longrope'", fields={"rope.scaling.type": "longrope"})
        self.refused("qwen2", "heads of 16 with 8 rotary dimensions", fields={"rope.dimension_count": 8,
                                                                             "attention.key_length": HEAD_DIM})
        self.refused("qwen3", "values of 8 beside keys of 16", fields={"attention.key_length": HEAD_DIM,
                                                                     "attention.value_length": 8})
        self.refused("qwen2", "a mixture of 8 experts", fields={"expert_count": 8})

    def test_metadata_that_nothing_asks_for_is_refused_by_name(self) -> None:
        self.refused("llama", "llama.attention.scale is 0.5, a key that is not supported", fields={"attention.scale": 0.5})
        self.refused("gemma3", "gemma3.attn_logit_softcapping is 50.0", block=GEMMA_NORMS | ATTENTION | HEAD_NORMS | MLP,
                     fields={"attn_logit_softcapping": 50.0, "attention.key_length": HEAD_DIM})
        self.convert("llama", NORMS | ATTENTION | MLP, {
            "vocab_size": len(vocabulary()), "rope.dimension_count": HEAD_DIM, "attention.value_length": HEAD_DIM,
            "rope.scaling.finetuned": True, "rope.scaling.original_context_length": 128, "expert_count": 0,
            "expert_used_count": 0, "tensor_data_layout": "Meta AI original pth"})


if __name__ == "__main__":
    unittest.main()
