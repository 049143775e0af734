"""scripts/gguf_to_hf.py on tiny files written with gguf's own writer."""

import contextlib
import io
import json
import sys
import unittest
from typing import Any, Optional
from unittest import mock

import gguf
import numpy
import tokenizers
from safetensors.numpy import load_file, save_file
from support import MERGES, ROOT, ProgramTest, vocabulary

import files  # noqa: E402  (scripts/lib, on the path through support)

sys.path.insert(0, str(ROOT / "scripts"))
import gguf_to_hf  # noqa: E402

WIDTH, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 96, 64, 3, 1, 32, 2


def permute(rows: numpy.ndarray, heads: int) -> numpy.ndarray:
    """What llama.cpp does to query and key rows, row by row: half-split positions become pairs."""
    result = numpy.empty_like(rows)
    size = rows.shape[0] // heads
    for head in range(heads):
        for i in range(size // 2):
            for half in range(2):
                result[head * size + 2 * i + half] = rows[head * size + half * size // 2 + i]
    return result


class GgufTest(ProgramTest):
    def setUp(self) -> None:
        super().setUp()
        random = numpy.random.default_rng(1)
        self.weights: dict[str, numpy.ndarray] = {}

        def tensor(name: str, *shape: int) -> None:
            self.weights[name] = random.standard_normal(shape).astype(numpy.float32)

        tensor("model.embed_tokens.weight", len(vocabulary()), WIDTH)
        tensor("model.norm.weight", WIDTH)
        for layer in range(LAYERS):
            at = f"model.layers.{layer}."
            tensor(at + "input_layernorm.weight", WIDTH)
            tensor(at + "post_attention_layernorm.weight", WIDTH)
            tensor(at + "self_attn.q_proj.weight", HEADS * HEAD_DIM, WIDTH)
            tensor(at + "self_attn.k_proj.weight", KV_HEADS * HEAD_DIM, WIDTH)
            tensor(at + "self_attn.v_proj.weight", KV_HEADS * HEAD_DIM, WIDTH)
            tensor(at + "self_attn.o_proj.weight", WIDTH, HEADS * HEAD_DIM)
            tensor(at + "mlp.gate_proj.weight", INTERMEDIATE, WIDTH)
            tensor(at + "mlp.up_proj.weight", INTERMEDIATE, WIDTH)
            tensor(at + "mlp.down_proj.weight", WIDTH, INTERMEDIATE)
        self.file = self.folder / "model.gguf"
        self.out = self.folder / "hf"

    NAMES = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }

    def write(self, architecture: str = "llama", quantised: Optional[gguf.GGMLQuantizationType] = None,
              **changes: Any) -> None:
        """A GGUF file of the weights; changes replace or (None) leave out metadata, `_` standing for `.`."""
        fields: dict[str, Any] = {"tokenizer_model": "gpt2", "pre": "smollm", "heads": HEADS, **changes}
        writer = gguf.GGUFWriter(self.file, architecture)
        writer.add_block_count(LAYERS)
        writer.add_context_length(256)
        if "split" in fields:
            writer.add_uint16("split.count", fields["split"])
        writer.add_embedding_length(WIDTH)
        writer.add_feed_forward_length(INTERMEDIATE)
        if fields["heads"]:
            writer.add_head_count(fields["heads"])
        writer.add_head_count_kv(KV_HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(100000.0)
        writer.add_rope_dimension_count(HEAD_DIM)
        tokens = vocabulary()
        writer.add_tokenizer_model(fields["tokenizer_model"])
        writer.add_tokenizer_pre(fields["pre"])
        writer.add_token_list(tokens)
        writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
        writer.add_token_merges(MERGES)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(0)
        for name, values in self.weights.items():
            stem, last = name.rsplit(".", 1)
            if stem.startswith("model.layers."):
                layer, part = stem.removeprefix("model.layers.").split(".", 1)
                gguf_name = f"blk.{layer}.{self.NAMES.get(part, part)}.{last}"
            else:
                gguf_name = f"{self.NAMES.get(stem, stem)}.{last}"
            if "q_proj" in name:
                values = permute(values, HEADS)
            if "k_proj" in name:
                values = permute(values, KV_HEADS)
            if quantised is not None and values.ndim == 2:
                writer.add_tensor(gguf_name, gguf.quantize(values, quantised), raw_dtype=quantised)
            else:
                writer.add_tensor(gguf_name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def convert(self) -> dict[str, numpy.ndarray]:
        self.succeed("gguf_to_hf.py", "--from", self.file, "--out", self.out)
        return load_file(self.out / "model.safetensors")

    def test_weights_come_back_in_the_order_of_hugging_face(self) -> None:
        self.write()
        found = self.convert()
        self.assertEqual(found.keys(), self.weights.keys())
        for name, values in self.weights.items():
            numpy.testing.assert_array_equal(found[name], values, err_msg=name)

    def test_the_file_is_the_one_of_the_library(self) -> None:
        gguf_to_hf.save_file(self.weights, self.folder / "ours")
        save_file(self.weights, self.folder / "theirs", metadata={"format": "pt"})
        self.assertEqual((self.folder / "ours").read_bytes(), (self.folder / "theirs").read_bytes())

    def test_a_second_conversion_does_not_write_into_the_firsts_file(self) -> None:
        self.write()
        self.out.mkdir()
        with files.replaced(self.out / "model.safetensors"):
            done = self.start("gguf_to_hf.py", "--from", self.file, "--out", self.out)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("model.safetensors: another run is writing it", done.stderr)

    def test_quantised_weights_are_close(self) -> None:
        self.write(quantised=gguf.GGMLQuantizationType.Q8_0)
        for name, values in self.convert().items():
            # Q8_0: 127 steps to the largest of 32 weights, so half a step of it; its scale is rounded to f16.
            error = numpy.abs(values - self.weights[name]).max()
            self.assertLessEqual(error, numpy.abs(self.weights[name]).max() * (1 / 254 + 2**-11), name)

    def test_config(self) -> None:
        self.write()
        self.convert()
        config = json.loads((self.out / "config.json").read_text())
        expected = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
            "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
            "vocab_size": len(vocabulary()), "max_position_embeddings": 256, "tie_word_embeddings": True,
            "bos_token_id": 1, "eos_token_id": 0, "torch_dtype": "float32",
        }
        self.assertEqual({key: config.get(key) for key in expected}, expected)

    def test_a_head_of_its_own_is_not_tied(self) -> None:
        self.weights["lm_head.weight"] = self.weights["model.embed_tokens.weight"] + 1
        self.write()
        found = self.convert()
        numpy.testing.assert_array_equal(found["lm_head.weight"], self.weights["lm_head.weight"])
        self.assertFalse(json.loads((self.out / "config.json").read_text())["tie_word_embeddings"])

    def test_tokenizer(self) -> None:
        self.write()
        self.convert()
        tokenizer = tokenizers.Tokenizer.from_file(str(self.out / "tokenizer.json"))
        self.assertEqual(tokenizer.get_vocab_size(), len(vocabulary()))
        self.assertEqual(tokenizer.encode("12 the<|end|>", add_special_tokens=False).tokens, ["1", "2", "Ġthe", "<|end|>"])

    def convert_here(self, shard_bytes: int) -> None:
        """As convert(), in this process and into shards of such a size."""
        arguments = ["gguf_to_hf.py", "--from", str(self.file), "--out", str(self.out)]
        with mock.patch.object(sys, "argv", arguments), mock.patch.object(gguf_to_hf, "SHARD_BYTES", shard_bytes), \
                contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            gguf_to_hf.main()

    def test_takes_the_place_of_an_earlier_model(self) -> None:
        self.write()
        self.convert()
        (self.out / "notes.txt").write_text("not ours")
        self.convert_here(1 << 16)
        shards = sorted(path.name for path in self.out.glob("*.safetensors"))
        self.assertGreater(len(shards), 1)
        self.assertNotIn("model.safetensors", shards)
        self.assertEqual(self.convert().keys(), self.weights.keys())
        self.assertEqual(sorted(path.name for path in self.out.iterdir()),
                         ["config.json", "model.safetensors", "notes.txt", "tokenizer.json", "tokenizer_config.json"])

    def test_no_model_where_weights_are_half_written(self) -> None:
        self.write()
        self.convert()
        with mock.patch.object(gguf_to_hf, "_progress", side_effect=KeyboardInterrupt), self.assertRaises(KeyboardInterrupt):
            self.convert_here(1 << 16)
        self.assertFalse((self.out / "config.json").exists())

    def test_refusals(self) -> None:
        def refuse(says: str) -> None:
            self.refuse("gguf_to_hf.py", "--from", self.file, "--out", self.out, says=says)
            self.assertFalse((self.out / "config.json").exists())

        refuse("no such file")
        self.file.write_bytes(b"not a model")
        refuse("not a GGUF file")
        self.write(architecture="mamba")
        refuse("architecture 'mamba' is not supported")
        self.write(tokenizer_model="llama")
        refuse("tokenizer model 'llama'")
        self.write(pre="strange")
        refuse("pre-tokenizer 'strange' is unknown")
        self.write(heads=None)
        refuse("llama.attention.head_count is missing")
        self.write()
        whole = self.file.read_bytes()
        for size in (10, 200, 3000, len(whole) - 100):
            self.file.write_bytes(whole[:size])
            refuse("damaged or truncated")
        self.write(split=3)
        refuse("one of 3 files of a model")
        norm = self.weights.pop("model.layers.1.input_layernorm.weight")
        self.write()
        refuse("blk.1.attn_norm.weight is missing")
        self.weights["model.layers.1.input_layernorm.weight"] = norm
        self.weights["model.layers.0.strange.weight"] = numpy.zeros(4, numpy.float32)
        self.write()
        refuse("blk.0.strange.weight")


if __name__ == "__main__":
    unittest.main()
