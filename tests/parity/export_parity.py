"""Exports in the programs that they are for: transformers with the aqlm package, transformers' reader of GGUF, GPTQModel
where it is installed. From import to export each model goes through the command line; logits, perplexities and sizes are
compared with pvtune's own."""

import os

# The package's kernel for the CPU adds to one output from all threads at once, without care: right only on one thread.
os.environ["NUMBA_NUM_THREADS"] = "1"

import importlib.util  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import unittest  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import aqlm  # noqa: E402
import h5py  # noqa: E402
import numpy  # noqa: E402
import torch  # noqa: E402
from support import ROOT, ParityTest  # noqa: E402
from make_goldens import COMMON, build_model  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTQConfig, PreTrainedModel  # noqa: E402

sys.path.insert(0, str(ROOT / "scripts" / "lib"))
from gguf_tokenizer import tokenizer_json  # noqa: E402
from store import write_store  # noqa: E402

# Both sides compute in f32 with the same weights, in different orders.
BOUND = 1e-4
# What f16 leaves of the embedding, the head and the norms (2^-12 of each), seen in the logits.
ROUNDED = 3e-3
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 265, "tie_word_embeddings": True}
SEQUENCES, LENGTH = 2, 19
DEMO = Path(os.environ.get("PVTUNE_DEMO", ROOT / "out" / "demo"))


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer with a few merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    merges = ["t h", "th e", "\u0120 the", "\u010a \u010a"]
    tokens = ["<|end|>", "<|start|>", *map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable))),
              *(merge.replace(" ", "") for merge in merges)]
    fields = {"model": "gpt2", "pre": "smollm", "tokens": tokens, "merges": merges,
              "token_type": [3, 3] + [1] * (len(tokens) - 2)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(fields)))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|start|>", "eos_token": "<|end|>"}))


def write_tokens(path: Path) -> None:
    """A thousand random tokens."""
    tokens = numpy.random.default_rng(6).integers(SIZES["vocab_size"], size=1000).astype(numpy.uint32)
    write_store(path, "tokens", "a test", {"/tokens": (tokens, {
        "tokenizer": "none", "tokenizer_hash": "none", "vocabulary": SIZES["vocab_size"], "newlines": "lf"})})


class ExportParity(ParityTest):
    def setUp(self) -> None:
        super().setUp()
        self.model = self.import_model(build_model(COMMON | SIZES, seed=3).float())
        generator = torch.Generator().manual_seed(4)
        self.tokens = torch.randint(SIZES["vocab_size"], (SEQUENCES, LENGTH), generator=generator)
        write_tokenizer(self.folder / "hf")

    def tuned(self, representation: str, **flags: Any) -> Path:
        """Quantised and tuned for two steps on random tokens."""
        quantized, tuned, tokens = (self.folder / name for name in ("q.h5", "tuned.h5", "t.h5"))
        words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
        self.pvtune("quantize", "--model", self.model, "--representation", representation, *words, "--out", quantized,
                    "--quiet")
        write_tokens(tokens)
        self.pvtune("tune", "--model", quantized, "--teacher", self.model, "--tokens", tokens, "--steps", 2, "--batch", 2,
                    "--ctx", 32, "--code-lr", 0.3, "--out", tuned, "--quiet")
        return tuned

    def export(self, model: Path, form: str, *flags: Any) -> Path:
        """The exported folder or file; leaves the command's result in self.said."""
        out = self.folder / ("model.gguf" if form == "gguf" else form)
        said = self.pvtune("export", "--model", model, "--format", form, "--out", out, "--tokenizer-from",
                           self.folder / "hf", "--json", "--quiet", *flags)
        self.said = json.loads(said.splitlines()[-1])
        return out

    def same_logits(self, theirs: PreTrainedModel, ours: Path, bound: float, what: str) -> None:
        with torch.no_grad():
            expected = theirs(self.tokens).logits
        error = self.relative_error(self.outputs_of(ours, self.tokens)["logits"].reshape(expected.shape), expected)
        print(f"{what}: logits {error:.1e}")
        self.assertLess(error, bound)

    def imported(self, folder: Path) -> Path:
        """The weights file of an exported folder."""
        out = self.folder / "again.h5"
        out.unlink(missing_ok=True)
        self.pvtune("import", "--from", folder, "--out", out, "--quiet")
        return out

    def check_aqlm(self, representation: str, **flags: Any) -> None:
        tuned = self.tuned(representation, **flags)
        folder = self.export(tuned, "hf-aqlm")
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        replaced = [module for module in theirs.modules() if isinstance(module, aqlm.QuantizedLinear)]
        self.assertEqual(len(replaced), 14)
        name = f"hf-aqlm {flags['codebooks']}x{flags['code_bits']} g{flags['group']}"
        self.same_logits(theirs, self.imported(folder), BOUND, name)
        self.same_logits(theirs, tuned, ROUNDED, f"{name}, before export")
        self.assertEqual(self.said["bytes"], (folder / "model.safetensors").stat().st_size)
        text = "the cat the dog"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.assertEqual(tokenizer.decode(tokenizer(text)["input_ids"]), text)

    def test_aqlm_bytes(self) -> None:
        self.check_aqlm("aqlm", codebooks=2, code_bits=8, group=8)

    def test_aqlm_other_bits(self) -> None:
        self.check_aqlm("aqlm", codebooks=3, code_bits=5, group=4)

    def test_aqlm_words(self) -> None:
        self.check_aqlm("vq", codebooks=1, code_bits=10, group=16)

    def test_dense(self) -> None:
        tuned = self.tuned("quip", code_bits=2)
        for dtype, bound in (("bf16", 3e-2), ("f32", BOUND)):
            folder = self.export(tuned, "hf-dense", "--dtype", dtype)
            theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            self.same_logits(theirs, self.imported(folder), BOUND, f"hf-dense {dtype}")
            self.same_logits(theirs, tuned, bound, f"hf-dense {dtype}, before export")
            folder.rename(self.folder / f"dense-{dtype}")

    def test_gguf(self) -> None:
        tuned = self.tuned("scalar", code_bits=4, group=32)
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "hf")
        # The offset of a block is rounded to 11 bits, bf16 has 8.
        for flags, what, bound in (([], "Q4_1", 1e-2), (["--dense", "--dtype", "bf16"], "BF16", 3e-2)):
            file = self.export(tuned, "gguf", *flags)
            theirs = AutoModelForCausalLM.from_pretrained(self.folder, gguf_file=file.name, dtype=torch.float32)
            self.run_program(ROOT / "scripts" / "gguf_to_hf.py", "--from", file, "--out", self.folder / what)
            self.same_logits(theirs, self.imported(self.folder / what), BOUND, f"gguf {what}")
            self.same_logits(theirs, tuned, bound, f"gguf {what}, before export")
            again = AutoTokenizer.from_pretrained(self.folder, gguf_file=file.name)
            text = "the thick, 123 the\n\nend"
            self.assertEqual(again(text)["input_ids"], tokenizer(text)["input_ids"])
            file.unlink()

    @unittest.skipUnless(importlib.util.find_spec("gptqmodel"), "GPTQModel is not installed (it is built from source)")
    def test_gptq(self) -> None:
        for bits in (4, 8):
            tuned = self.tuned("scalar", code_bits=bits, group=32)
            folder = self.export(tuned, "hf-gptq", "--round-zeros")
            theirs = AutoModelForCausalLM.from_pretrained(  # its other kernels for the CPU are compiled at first use
                folder, dtype=torch.float32, device_map="cpu", quantization_config=GPTQConfig(bits=bits, backend="torch"))
            self.assertIn("gptq", type(theirs.model.layers[0].mlp.up_proj).__module__)
            self.same_logits(theirs, tuned, 0.2, f"hf-gptq {bits} bits")
            folder.rename(self.folder / f"gptq-{bits}")

    @unittest.skipUnless((DEMO / "tuned.h5").is_file(), "out/demo is not there: run `make demo`")
    def test_perplexity_of_the_demo(self) -> None:
        """SmolLM2 at 2 bits: the size within 2 % of the accounted bits, the perplexity within 0.5 %."""
        windows, length = 2, 128
        out = self.folder / "smollm2"
        said = json.loads(self.pvtune("export", "--model", DEMO / "tuned.h5", "--format", "hf-aqlm", "--out", out, "--json",
                                      "--quiet").splitlines()[-1])
        self.assertLess(abs(said["bytes"] / said["accounted_bytes"] - 1), 0.02)
        ours = json.loads(self.pvtune("eval", "--model", DEMO / "tuned.h5", "--tokens", DEMO / "eval.h5", "--ctx", length,
                                      "--windows", windows, "--json", "--quiet").splitlines()[-1])["perplexity"]
        with h5py.File(DEMO / "eval.h5") as store:
            tokens = torch.from_numpy(store["tokens"][:windows * length].astype("int64")).reshape(windows, length)
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        with torch.no_grad():
            logits = torch.cat([model(window[None]).logits for window in tokens])
        nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        theirs = nll.exp().item()
        print(f"SmolLM2 2x8: {said['bytes']} bytes of {said['accounted_bytes']} accounted; perplexity {ours:.4f} here, "
              f"{theirs:.4f} in transformers with aqlm")
        self.assertLess(abs(theirs / ours - 1), 0.005)


if __name__ == "__main__":
    unittest.main()
