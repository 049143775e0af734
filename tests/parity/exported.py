"""What the tests of exports share: a tiny model quantised, tuned and exported as a user does it."""

import json
import os
import sys
import unittest
from pathlib import Path
from typing import Any

import numpy
import torch
from support import ROOT, ParityTest
from make_goldens import COMMON, build_model
from transformers import PreTrainedModel

sys.path.insert(0, str(ROOT / "scripts" / "lib"))
from gguf_tokenizer import tokenizer_json  # noqa: E402
from store import write_store  # noqa: E402

# Both sides compute in f32 with the same weights, in different orders.
BOUND = 1e-4
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 265, "tie_word_embeddings": True}
SEQUENCES, LENGTH = 2, 19
DEMO = Path(os.environ.get("PVTUNE_DEMO", ROOT / "out" / "demo"))
needs_demo = unittest.skipUnless((DEMO / "tuned.h5").is_file(), "out/demo is not there: run `make demo`")


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


class ExportTest(ParityTest):
    """A tiny model that goes through the command line up to its export."""

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
