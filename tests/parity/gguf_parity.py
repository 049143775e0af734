"""GGUF files in the programs that they are for: llama.cpp (the xllamacpp package) and transformers' reader of GGUF. Next-token
log-probabilities after every prefix are compared with pvtune's own."""

import unittest
from pathlib import Path
from typing import Any

import h5py
import torch
from exported import BOUND, DEMO, SIZES, ExportTest, needs_demo
from llama_cpp import LlamaCpp, compute_as_llama_cpp
from make_goldens import build_model, config_of
from support import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

# Where llama.cpp rounds the inputs of its products, a value at the middle of two codes may go the other way there than in
# the reference that rounds too: rare, so that the median shows what all other prefixes give, and as large as one step.
ONE_STEP = 2e-2
TEXT = "the thick, 123 the\n\nend"


def log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.flatten(0, -2).log_softmax(-1)


class GgufParity(ExportTest):
    def offsets(self, tuned: Path) -> dict[str, torch.Tensor]:
        """The offset of every block of 32 columns in f16, by matrix; grids are that wide here."""
        with h5py.File(tuned) as store:
            return {name: torch.from_numpy(-item["scales"][...].astype("float32") * item["zeros"][...]).half().float()
                    for name, item in store["tensors"].items() if isinstance(item, h5py.Group)}

    def check(self, bits: int, flags: list[str], kind: str, head: str, before: float, rounding: float) -> None:
        """One export. `before`: how far logits may be from those before the export. `rounding`: how far llama.cpp's may be
        from logits of the same weights with inputs of products in f32."""
        tuned = self.tuned("scalar", code_bits=bits, group=32)
        file = self.export(tuned, "gguf", *flags)
        self.assertEqual(self.said["bytes"], file.stat().st_size)
        model = AutoModelForCausalLM.from_pretrained(self.folder, gguf_file=file.name, dtype=torch.float32)
        self.run_program(ROOT / "scripts" / "gguf_to_hf.py", "--from", file, "--out", self.folder / "again")
        ours = self.imported(self.folder / "again")
        self.same_logits(model, ours, BOUND, f"gguf {kind}")
        self.same_logits(model, tuned, before, f"gguf {kind}, before export")
        expected = log_softmax(self.outputs_of(ours, self.tokens)["logits"])
        compute_as_llama_cpp(model, kind, head, self.offsets(tuned))
        with torch.no_grad():
            exact = log_softmax(model(self.tokens).logits)
        found = LlamaCpp(file).log_probabilities(self.tokens, SIZES["vocab_size"], plain=59)
        apart = self.relative_error(found, expected)
        errors = (found - exact).abs().amax(-1) / exact.abs().max()
        print(f"gguf {kind} in llama.cpp: {apart:.1e} from inputs in f32; rounded alike, median {errors.median():.1e}, "
              f"largest {errors.max():.1e}")
        self.assertLess(apart, rounding)
        self.assertLess(errors.median(), BOUND)
        self.assertLess(errors.max(), ONE_STEP)

    # The offset of a block is rounded to 11 bits, bf16 has 8; inputs have 8 bits beside blocks, 11 with f16, 8 with bf16.

    def test_blocks_of_4_bits(self) -> None:
        self.check(4, [], "Q4_1", "F16", before=1e-2, rounding=0.1)

    def test_blocks_of_5_bits(self) -> None:
        self.check(5, ["--dtype", "f32"], "Q5_1", "F32", before=1e-2, rounding=0.1)

    def test_dense_bf16(self) -> None:
        self.check(4, ["--dense", "--dtype", "bf16"], "BF16", "BF16", before=3e-2, rounding=3e-2)

    def test_dense_f16(self) -> None:
        self.check(4, ["--dense"], "F16", "F16", before=1e-2, rounding=4e-3)

    def test_dense_f32(self) -> None:
        self.check(4, ["--dense", "--dtype", "f32"], "F32", "F32", before=BOUND, rounding=BOUND)

    def test_families(self) -> None:
        """Names, biases, norms of heads, order of rows and rotary scalings of every family that is written, in f32."""
        llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 32}
        cases: tuple[dict[str, Any], ...] = (
            {"model_type": "llama", "tie_word_embeddings": False, "head_dim": 24},
            {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
            {"model_type": "llama", "rope_scaling": llama3},
            {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 3.0}},
            {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 32},
            {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
            {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 24},
        )
        for case in cases:
            with self.subTest(case=case):
                for item in self.folder.glob("model.*"):
                    item.unlink()
                model = self.import_model(build_model(config_of(SIZES | case), seed=8).float())
                file = self.export(model, "gguf", "--dtype", "f32")
                found = LlamaCpp(file).log_probabilities(self.tokens, SIZES["vocab_size"], plain=59)
                error = self.relative_error(found, log_softmax(self.outputs_of(model, self.tokens)["logits"]))
                print(f"{case['model_type']} in llama.cpp: {error:.1e}")
                self.assertLess(error, BOUND)

    def test_tokenizer(self) -> None:
        file = self.export(self.model, "gguf")
        expected = AutoTokenizer.from_pretrained(self.folder / "hf")(TEXT)["input_ids"]
        self.assertEqual(AutoTokenizer.from_pretrained(self.folder, gguf_file=file.name)(TEXT)["input_ids"], expected)
        self.assertEqual(LlamaCpp(file).tokenize(TEXT), expected)

    @needs_demo
    def test_demo(self) -> None:
        """SmolLM2 at 2 bits as F32 with its tokenizer: the tokens of a text and what follows some of them."""
        file = self.folder / "model.gguf"
        self.pvtune("export", "--model", DEMO / "tuned.h5", "--format", "gguf", "--dtype", "f32", "--out", file,
                    "--tokenizer-from", DEMO / "hf", "--quiet")
        llama = LlamaCpp(file)
        text = (DEMO / "eval.txt").read_text()[:20000]
        tokens = AutoTokenizer.from_pretrained(DEMO / "hf")(text)["input_ids"]
        self.assertEqual(llama.tokenize(text), tokens)
        batch = torch.tensor([tokens[:6], tokens[100:106]])
        expected = log_softmax(self.outputs_of(DEMO / "tuned.h5", batch)["logits"])
        plain = llama.tokenize("a")[0]
        error = self.relative_error(llama.log_probabilities(batch, expected.shape[-1], plain), expected)
        print(f"SmolLM2 in llama.cpp: {len(tokens)} tokens of a text alike, log-probabilities {error:.1e}")
        self.assertLess(error, BOUND)


if __name__ == "__main__":
    unittest.main()
