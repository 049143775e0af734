"""`pvtune export --format hf-gptq` and `--format gguf`, read back by NumPy after GPTQ's definition, the gguf package, and
scripts/gguf_to_hf.py."""

import json
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import gguf
import h5py
import numpy as np
import support
from cli_test import ROOT, run
from export_cli_test import BYTE_TOKENS, ExportTest, bf16
from safetensors.numpy import load_file


def unpack(words: np.ndarray, bits: int) -> np.ndarray:
    """Values packed down the columns, 32 to `bits` words, by arithmetic on whole numbers."""
    values = []
    for first in range(0, len(words), bits):
        total = sum(word.astype(np.uint32).astype(object) << (32 * k) for k, word in enumerate(words[first:first + bits]))
        values += [(total >> (bits * i)) & (2**bits - 1) for i in range(32)]
    return np.array(values, dtype=np.int64)


class Gptq(ExportTest):
    def unpacked(self, folder: Path) -> dict[str, np.ndarray]:
        """The weights, after the layout's definition: scales[g] * (q - (packed zero + 1))."""
        tensors = load_file(folder / "model.safetensors")
        layout = json.loads((folder / "config.json").read_text())["quantization_config"]
        self.assertEqual((layout["quant_method"], layout["checkpoint_format"]), ("gptq", "gptq"))
        bits, found = layout["bits"], {}
        for name in [name for name in tensors if name.endswith(".qweight")]:
            at = name.removesuffix("qweight")
            self.assertEqual((tensors[name].dtype, tensors[at + "g_idx"].dtype), (np.int32, np.int32))
            codes, index = unpack(tensors[name].view(np.uint32), bits), tensors[at + "g_idx"]
            zeros = unpack(np.ascontiguousarray(tensors[at + "qzeros"].view(np.uint32).T), bits).T + 1
            scales = tensors[at + "scales"].astype(np.float32)
            found[at + "weight"] = (scales[index] * (codes - zeros[index])).T.astype(np.float32)
        return found

    def test_integer_zeros_are_exact(self) -> None:
        for bits, group in ((2, 32), (3, 64), (4, 32), (8, 0)):
            with self.subTest(bits=bits, group=group):
                model = self.here / f"integer-{bits}.h5"
                shutil.copy(self.quantize("scalar", code_bits=bits, group=group), model)
                with h5py.File(model, "r+") as store:
                    for item in store["tensors"].values():
                        if isinstance(item, h5py.Group):
                            zeros = np.clip(np.round(item["zeros"][...]), 1, 2**bits - 1)
                            zeros[0, 0] = 0  # not in the layout's range, but where all codes can go up by one
                            codes = item["codes"][...]
                            codes[0] = np.minimum(codes[0], 2**bits - 2)
                            item["codes"][...], item["zeros"][...] = codes, zeros
                found = self.unpacked(self.export(model, "hf-gptq"))
                self.assertEqual(self.said["rounding_relative_mse"], 0)
                expected = self.dequantized(model)
                self.assertEqual(len(found), 14)
                for name, weight in found.items():
                    np.testing.assert_array_equal(weight, expected[name], err_msg=name)

    def test_zeros_outside_the_codes_are_refused_or_cut(self) -> None:
        model = self.here / "zeros.h5"
        shutil.copy(self.quantize("scalar", code_bits=2, group=32), model)
        with h5py.File(model, "r+") as store:
            for item in store["tensors"].values():
                if isinstance(item, h5py.Group):
                    zeros = np.clip(np.round(item["zeros"][...]), 1, 3)
                    zeros[1, 0] = -5
                    item["zeros"][...] = zeros
        out = self.here / "out"
        self.refused(run("export", "--model", model, "--format", "hf-gptq", "--out", out, "--quiet"), "outside 1 .. 3",
                     "--round-zeros", nothing_at=out)
        self.export(model, "hf-gptq", "--round-zeros")
        self.assertGreater(self.said["rounding_relative_mse"], 0)

    def test_real_zeros_are_refused_or_rounded(self) -> None:
        model = self.quantize("scalar", code_bits=4, group=32)
        out = self.here / "out"
        self.refused(run("export", "--model", model, "--format", "hf-gptq", "--out", out, "--quiet"), "--round-zeros",
                     nothing_at=out)
        found = self.unpacked(self.export(model, "hf-gptq", "--round-zeros"))
        expected = self.dequantized(model)
        error = sum(((found[name] - expected[name])**2).sum(dtype=np.float64) for name in found)
        norm = sum((expected[name]**2).sum(dtype=np.float64) for name in found)
        self.assertAlmostEqual(self.said["rounding_relative_mse"], error / norm, delta=1e-3 * error / norm)
        with h5py.File(model) as store:
            for name, weight in found.items():
                scales = store["tensors"][name]["scales"][...].astype(np.float32)
                step = np.abs(scales)[:, np.arange(weight.shape[1]) // 32]
                self.assertLess((np.abs(weight - expected[name]) / step).max(), 0.51, name)


class Gguf(ExportTest):
    def read(self, path: Path) -> dict[str, tuple[str, np.ndarray]]:
        reader = gguf.GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        return {item.name: (item.tensor_type.name, gguf.dequantize(item.data, item.tensor_type)) for item in reader.tensors}

    def back(self, path: Path) -> dict[str, np.ndarray]:
        """Through scripts/gguf_to_hf.py, which is written and tested apart."""
        out = self.here / f"{path.stem}-hf"
        subprocess.run([sys.executable, ROOT / "scripts" / "gguf_to_hf.py", "--from", path, "--out", out], check=True,
                       capture_output=True)
        return load_file(out / "model.safetensors")

    def test_dense(self) -> None:
        model = self.quantize("aqlm", codebooks=2, code_bits=4, group=8)
        for dtype, name in ((None, "F16"), ("bf16", "BF16"), ("f32", "F32")):
            out = self.export(model, "gguf", "--tokenizer-from", self.tiny, *(["--dtype", dtype] if dtype else []),
                              out=self.here / f"{dtype}.gguf")
            self.assertEqual(self.said["bytes"], out.stat().st_size)
            for tensor, (kind, values) in self.read(out).items():
                self.assertEqual(kind, "F32" if values.ndim == 1 else name, tensor)
            round_to = {"F16": lambda v: v.astype(np.float16).astype(np.float32), "BF16": bf16, "F32": lambda v: v}[name]
            expected, found = self.dequantized(model), self.back(out)
            self.assertEqual(found.keys(), expected.keys())
            for tensor, values in expected.items():
                np.testing.assert_array_equal(found[tensor], values if values.ndim == 1 else round_to(values), tensor)

    def test_scalar_in_blocks(self) -> None:
        for bits, group, kind in ((4, 32, "Q4_1"), (3, 64, "Q4_1"), (2, 0, "Q4_1"), (5, 32, "Q5_1"), (6, 32, "F16")):
            with self.subTest(bits=bits, group=group):
                model = self.quantize("scalar", code_bits=bits, group=group)
                out = self.export(model, "gguf", "--tokenizer-from", self.tiny, out=self.here / f"{bits}.gguf")
                self.assertEqual(self.read(out)["blk.1.ffn_down.weight"][0], kind)
                expected, found = self.dequantized(model), self.back(out)
                with h5py.File(model) as store:
                    for name, values in expected.items():
                        if "_proj" not in name or kind == "F16":
                            continue
                        item = store["tensors"][name]
                        offset = np.abs(item["scales"][...].astype(np.float32) * item["zeros"][...].astype(np.float32))
                        index = np.arange(values.shape[1]) // (group or values.shape[1])
                        # Only the offset of a block is rounded, to 11 bits.
                        bound = offset[:, index] * 2.0**-11 + 2.0**-24
                        self.assertTrue((np.abs(found[name] - values) <= bound).all(), name)
                if kind != "F16":
                    self.assertLess(self.said["rounding_relative_mse"], 1e-6)
                dense = self.export(model, "gguf", "--tokenizer-from", self.tiny, "--dense",
                                    out=self.here / f"{bits}-dense.gguf")
                self.assertEqual(self.read(dense)["blk.0.ffn_up.weight"][0], "F16")

    def test_metadata_and_tokenizer(self) -> None:
        out = self.export(self.tiny_model, "gguf", "--tokenizer-from", self.tiny, out=self.here / "x.gguf")
        self.read(out)
        fields = self.fields
        self.assertEqual([fields["llama." + key] for key in (
            "block_count", "embedding_length", "attention.head_count", "attention.head_count_kv", "context_length")],
            [2, 64, 4, 2, 128])
        self.assertEqual((fields["general.architecture"], fields["general.name"]), ("llama", "tiny"))
        tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
        self.assertEqual(tokens[:BYTE_TOKENS], support.vocabulary())
        self.assertEqual((len(tokens), kinds[:3], kinds[-3:]), (BYTE_TOKENS + 3, [3, 3, 1], [5, 5, 5]))
        self.assertEqual(fields["tokenizer.ggml.merges"], support.MERGES)
        self.assertEqual((fields["tokenizer.ggml.pre"], fields["tokenizer.ggml.bos_token_id"],
                          fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.chat_template"]),
                         ("smollm", 1, 0, "{{ messages }}"))

    def test_sentencepiece_like(self) -> None:
        folder = self.here / "sp"
        folder.mkdir()
        words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab", "abb"]
        self.assertLessEqual(len(words), self.config["vocab_size"])
        tokenizer = {
            "added_tokens": [{"id": i, "content": words[i], "special": True} for i in range(3)],
            "model": {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": ["a b", ["ab", "b"]],
                      "vocab": {word: i for i, word in enumerate(words)}}}
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
        for index, (rules, prefix) in enumerate((
            ({}, False),
            ({"normalizer": replace}, False),
            ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]}}, True),
            ({"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}}, True),
            ({"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never"}}, False),
        )):
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer | rules))
            self.read(self.export(self.tiny_model, "gguf", "--tokenizer-from", folder, out=self.here / f"{index}.gguf"))
            self.assertEqual(self.fields["tokenizer.ggml.add_space_prefix"], prefix, rules)
        kinds, scores = self.fields["tokenizer.ggml.token_type"], self.fields["tokenizer.ggml.scores"]
        self.assertEqual(self.fields["tokenizer.ggml.model"], "llama")
        self.assertEqual(kinds[:4] + kinds[258:263], [2, 3, 3, 6, 6, 1, 1, 1, 1])
        self.assertGreater(scores[words.index("ab")], scores[words.index("abb")])

    def test_families_that_are_not_written(self) -> None:
        out = self.here / "x.gguf"
        for family in ("gemma2", "gemma3", "phi3-long-rope"):
            model = self.here / f"{family}.h5"
            self.result(run("import", "--from", support.ROOT / "tests/golden" / family, "--out", model, "--json"))
            self.refused(run("export", "--model", model, "--format", "gguf", "--dtype", "f32", "--tokenizer-from", self.tiny,
                             "--out", out, "--quiet"), "is not written as GGUF", nothing_at=out)

    def test_refusals(self) -> None:
        out = self.here / "x.gguf"
        odd = self.here / "odd"
        odd.mkdir()
        tokenizer = json.loads((self.tiny / "tokenizer.json").read_text())
        for change, words in (({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer"),
                              ({"model": tokenizer["model"] | {"type": "Unigram"}}, "Unigram"), ({"model": 3}, "tokenizer.json"),
                              ({"added_tokens": [{"id": 10**6, "content": "x"}]}, "1000000")):
            (odd / "tokenizer.json").write_text(json.dumps(tokenizer | change))
            self.refused(run("export", "--model", self.tiny_model, "--format", "gguf", "--tokenizer-from", odd, "--out",
                             out, "--quiet"), words, nothing_at=out)


if __name__ == "__main__":
    unittest.main()
