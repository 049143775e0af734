"""Drives build/pvtune as a user would, on a tiny random model: every command, and every input that must be refused.

Run by build/venv/bin/python, which has h5py, numpy, safetensors and tokenizers. PVTUNE names another binary.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Callable, Optional

import h5py
import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[2]
PVTUNE = os.environ.get("PVTUNE", str(ROOT / "build" / "pvtune"))
VOCABULARY = 64
CONFIG = {
    "model_type": "llama", "hidden_act": "silu", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "eos_token_id": 2,
}


def tensors(width: int = 32, intermediate: int = 48) -> dict[str, np.ndarray]:
    """Random weights of CONFIG, but for these sizes."""
    random = np.random.default_rng(0)
    found = {"model.embed_tokens.weight": (VOCABULARY, width), "model.norm.weight": (width,)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}{name}.weight"] = (width,)
        key, up = (width // 2, width), (intermediate, width)
        for name, shape in {"self_attn.q_proj": (width, width), "self_attn.k_proj": key, "self_attn.v_proj": key,
                            "self_attn.o_proj": (width, width), "mlp.gate_proj": up, "mlp.up_proj": up,
                            "mlp.down_proj": (width, intermediate)}.items():
            found[f"{prefix}{name}.weight"] = shape
    return {name: (random.normal(0, 0.3, shape) if len(shape) == 2 else np.ones(shape)).astype(np.float32)
            for name, shape in found.items()}


def write_folder(path: Path, weights: dict[str, np.ndarray], config: Optional[dict[str, Any]] = None) -> Path:
    """A Hugging Face folder."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config or CONFIG))
    save_file(weights, path / "model.safetensors")
    return path


def write_tokenizer(path: Path, words: int) -> Path:
    """A tokenizer that splits at spaces: w0 is 0, w1 is 1, ..."""
    path.write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(words)}, "unk_token": "w0"}}))
    return path


def run(*arguments: Any, preexec: Optional[Callable[[], None]] = None,
        **environment: str) -> subprocess.CompletedProcess:
    """pvtune with these arguments, on one thread."""
    command = [PVTUNE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, preexec_fn=preexec, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


def tokenize(folder: Path, tokenizer: Path, ids: list[int], out: Path) -> Path:
    """A token store made by scripts/tokenize.py."""
    text = folder / "text.txt"
    text.write_text(" ".join(f"w{i}" for i in ids))
    subprocess.run([sys.executable, ROOT / "scripts" / "tokenize.py", "--tokenizer", tokenizer, "--text", text, "--out",
                    out], check=True, capture_output=True)
    return out


class CommandLine(unittest.TestCase):
    """Shared inputs, made once."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.temporary = tempfile.TemporaryDirectory(prefix="pvtune-cli-")
        cls.folder = Path(cls.temporary.name)
        cls.hf = write_folder(cls.folder / "hf", tensors())
        cls.tokenizer = write_tokenizer(cls.folder / "tokenizer.json", VOCABULARY)
        random = np.random.default_rng(1)
        cls.tokens = tokenize(cls.folder, cls.tokenizer, random.integers(3, VOCABULARY, 700).tolist(),
                              cls.folder / "t.h5")
        cls.model = cls.folder / "model.h5"
        cls.quantized = cls.folder / "q.h5"
        cls.imported = run("import", "--from", cls.hf, "--out", cls.model, "--json")
        cls.quantised = run("quantize", "--model", cls.model, "--code-bits", 4, "--out", cls.quantized, "--json",
                            "--log", cls.folder / "q.jsonl")

    @classmethod
    def tearDownClass(cls) -> None:
        cls.temporary.cleanup()

    def setUp(self) -> None:
        self.here = Path(tempfile.mkdtemp(dir=self.folder))

    def result(self, done: subprocess.CompletedProcess) -> dict[str, Any]:
        """The JSON object on the last line of a command that succeeded."""
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    def refused(self, done: subprocess.CompletedProcess, *words: str, nothing_at: Optional[Path] = None) -> None:
        """One line on standard error, exit status 2, no output file, whole or partial."""
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertRegex(done.stderr, r"\Apvtune: [^\n]+\n\Z")
        for word in words:
            self.assertIn(word, done.stderr)
        if nothing_at is not None:
            self.assertEqual([str(path) for path in nothing_at.parent.glob(nothing_at.name + "*")], [])


class Commands(CommandLine):
    """What each command gives."""

    def test_import(self) -> None:
        result = self.result(self.imported)
        self.assertEqual(result["parameters"], sum(weight.size for weight in tensors().values()))
        self.assertEqual(len(result["content_hash"]), 32)
        with h5py.File(self.model) as store:
            for name, weight in tensors().items():
                np.testing.assert_array_equal(store["tensors"][name][...], weight)
            self.assertEqual(json.loads(store.attrs["config"])["vocab_size"], VOCABULARY)
            self.assertNotIn("lm_head.weight", store["tensors"])

    def test_import_takes_what_is_harmless(self) -> None:
        weights = tensors()
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
        folder = write_folder(self.here / "hf", weights)
        self.result(run("import", "--from", folder, "--out", self.here / "m.h5", "--json"))

    def test_quantize(self) -> None:
        result = self.result(self.quantised)
        self.assertGreater(result["bits_per_weight"], 1)
        self.assertTrue(0 < result["relative_mse"] < 1)
        self.assertEqual(result["matrices"], 14)
        self.assertLessEqual({"seconds", "peak_bytes"}, result.keys())
        lines = [json.loads(line) for line in (self.folder / "q.jsonl").read_text().splitlines()]
        self.assertEqual(len(lines), 14)
        self.assertIn("relative_mse", lines[0])

    def test_quantize_repeats(self) -> None:
        again = self.result(run("quantize", "--model", self.model, "--code-bits", 4, "--out", self.here / "q.h5",
                                "--json"))
        self.assertEqual(again["content_hash"], self.result(self.quantised)["content_hash"])

    def test_quantize_vq(self) -> None:
        result = self.result(run("quantize", "--model", self.model, "--representation", "vq", "--code-bits", 4,
                                 "--group",
                                 4, "--out", self.here / "q.h5", "--json"))
        self.assertEqual(result["codebooks"], 1)

    def test_calibration_of_every_representation(self) -> None:
        for representation, *flags in (("vq", "--group", 4, "--code-bits", 4), ("scalar", "--code-bits", 3),
                                       ("quip",), ("quip", "--code-bits", 3)):
            with self.subTest(representation, flags=flags):
                out, again = self.here / "calibrated.h5", self.here / "again.h5"
                command = ("quantize", "--model", self.model, "--representation", representation, *flags)
                calibration = ("--calibrate", self.tokens, "--sequences", 8, "--ctx", 16, "--block-epochs", 2)
                plain = self.result(run(*command, "--out", again, "--json"))
                result = self.result(run(*command, *calibration, "--out", out, "--json"))
                self.assertGreaterEqual(result["bits_per_weight"], plain["bits_per_weight"])
                self.assertLess(result["relative_output_error"], 1)
                inspected = self.result(run("inspect", out, "--against", self.model, "--json"))
                self.assertAlmostEqual(inspected["bits_per_weight"], result["bits_per_weight"], places=6)
                self.assertEqual(self.result(run(*command, *calibration, "--out", again, "--json"))["content_hash"],
                                 result["content_hash"])
                self.result(run("eval", "--model", out, "--tokens", self.tokens, "--ctx", 16, "--json"))

    def test_eval(self) -> None:
        for model in (self.model, self.quantized):
            result = self.result(run("eval", "--model", model, "--tokens", self.tokens, "--ctx", 64, "--windows", 3,
                                     "--json",
                                     "--threads", 1))
            self.assertAlmostEqual(result["perplexity"], np.exp(result["nll"]), places=6)
            self.assertEqual((result["tokens"], result["windows"], result["ctx"]), (3 * 63, 3, 64))
            self.assertLessEqual({"seconds", "tokens_per_second", "precision", "device", "peak_bytes"}, result.keys())
            self.assertGreater(result["perplexity"], 1)

    def test_a_folder_of_tokens_is_one_text(self) -> None:
        shards = self.here / "shards"
        shards.mkdir()
        random = np.random.default_rng(1).integers(3, VOCABULARY, 700).tolist()  # as self.tokens
        for name, part in (("00001.h5", random[300:]), ("00000.h5", random[:300])):
            tokenize(self.here, self.tokenizer, part, shards / name)
        command = ("eval", "--model", self.model, "--ctx", 64, "--json", "--tokens")
        whole, parts = (self.result(run(*command, tokens)) for tokens in (self.tokens, shards))
        self.assertEqual((parts["nll"], parts["windows"]), (whole["nll"], whole["windows"]))
        first = self.result(run(*command, shards, "--windows", 3))
        self.assertEqual((first["windows"], first["tokens_hash"]), (3, parts["tokens_hash"]))
        tokenize(self.here, write_tokenizer(self.here / "other.json", 60), [5] * 100, shards / "00002.h5")
        self.refused(run(*command, shards), "00002.h5", "another tokenizer")
        (self.here / "empty").mkdir()
        self.refused(run(*command, self.here / "empty"), "a folder without a tokens file")

    def test_inspect(self) -> None:
        dense = self.result(run("inspect", self.model, "--json", "--verify"))
        self.assertEqual((dense["kind"], dense["bits_per_weight"], dense["relative_mse"]), ("weights", 32, 0))
        quantised = self.result(run("inspect", self.quantized, "--json", "--against", self.model, "--quiet"))
        made = self.result(self.quantised)
        self.assertAlmostEqual(quantised["bits_per_weight"], made["bits_per_weight"])
        # The error that quantize reports is that of the values as they are stored.
        self.assertAlmostEqual(quantised["relative_mse"], made["relative_mse"], delta=1e-3 * made["relative_mse"])
        tokens = self.result(run("inspect", self.tokens, "--json"))
        self.assertEqual((tokens["tokens"], tokens["vocabulary"]), (700, VOCABULARY))
        self.assertEqual(len(tokens["first"]), 16)

    def test_generate(self) -> None:
        command = ("generate", "--model", self.model, "--tokenizer", self.tokenizer, "--prompt", "w5 w6",
                   "--max-tokens", 8)
        result = self.result(run(*command, "--json", PVTUNE_PYTHON=sys.executable))
        self.assertTrue(result["text"].startswith("w5 w6"))
        self.assertEqual(len(result["text"].split()), 2 + result["tokens"])
        drawn = [self.result(run(*command, "--temperature", 1, "--seed", 3, "--json"))["text"] for _ in range(2)]
        self.assertEqual(drawn[0], drawn[1])

    def test_a_prompt_from_a_file(self) -> None:
        command = ("generate", "--model", self.model, "--tokenizer", self.tokenizer, "--max-tokens", 2)
        prompt, empty = self.here / "prompt.txt", self.here / "empty.txt"
        text = "w5\n w6 " * 3
        prompt.write_text(text)
        empty.touch()
        given = self.result(run(*command, "--prompt", text, "--json"))["text"]
        self.assertEqual(self.result(run(*command, "--prompt-file", prompt, "--json"))["text"], given)
        with open(prompt, encoding="utf-8") as file:
            done = subprocess.run([PVTUNE, *map(str, command), "--prompt-file", "-", "--json"], stdin=file,
                                  capture_output=True, text=True, check=False)
        self.assertEqual(self.result(done)["text"], given)
        self.refused(run(*command), "--prompt or --prompt-file")
        self.refused(run(*command, "--prompt", "w1", "--prompt-file", prompt), "excludes")
        self.refused(run(*command, "--prompt-file", empty), "--prompt-file", "no token")
        self.refused(run(*command, "--prompt-file", self.here), "name a text file")
        self.refused(run(*command, "--prompt-file", self.here / "none"), "name a text file")

    def test_dry_runs_start_nothing(self) -> None:
        out = self.here / "out.h5"
        for command in (("import", "--from", self.hf, "--out", out), ("quantize", "--model", self.model, "--out", out),
                        ("eval", "--model", self.quantized, "--tokens", self.tokens, "--ctx", 64)):
            result = self.result(run(*command, "--dry-run", "--json"))
            self.assertGreater(result["memory_bytes"], 0)
            self.assertEqual(list(self.here.iterdir()), [])

    def test_help_and_version(self) -> None:
        self.assertRegex(run("--version").stdout, r"\d+\.\d+")
        for command in ("import", "quantize", "tune", "eval", "score", "generate", "inspect", "bench",
                        "demo-convergence"):
            done = run(command, "--help")
            self.assertEqual(done.returncode, 0)
            self.assertIn("--dry-run", done.stdout)
            self.assertIn("Example: pvtune " + command, done.stdout)

    def test_quiet_and_streams(self) -> None:
        done = run("eval", "--model", self.model, "--tokens", self.tokens, "--ctx", 64)
        self.assertIn("perplexity", done.stdout)
        self.assertIn("windows", done.stderr)
        self.assertEqual(run("eval", "--model", self.model, "--tokens", self.tokens, "--ctx", 64, "--quiet").stderr, "")


class Flags(CommandLine):
    """Flags that must be refused."""

    def test_unknown(self) -> None:
        self.refused(run("eval", "--frobnicate"), "--frobnicate", "pvtune eval --help")
        self.refused(run("inspect", self.model, "--frobnicate", 3), "--frobnicate")
        self.refused(run("--frobnicate"), "--frobnicate")
        self.refused(run("frobnicate"), "frobnicate", "--help")
        self.refused(run(), "--help")
        self.refused(run("eval", "--model", self.model), "--tokens")
        self.refused(run("eval", "--model", self.model, "--tokens", self.tokens, "--precision", "f64"), "--precision")
        self.refused(run("inspect", self.model, "--threads", 0), "--threads")

    def test_no_cuda(self) -> None:
        plan = run("eval", "--model", self.model, "--tokens", self.tokens, "--ctx", 64, "--device", "cuda", "--dry-run")
        if plan.returncode == 0:
            self.skipTest("this build has CUDA")
        for command in (("eval", "--model", self.model, "--tokens", self.tokens), ("inspect", self.model), ("bench",),
                        ("import", "--from", self.hf, "--out", self.here / "m.h5")):
            self.refused(run(*command, "--device", "cuda"), "this build has no CUDA")
        self.refused(plan, "make VARIANT=device CUDA=1 build/device/pvtune")

    def test_impossible_quantisation(self) -> None:
        out = self.here / "q.h5"
        for flags in (("--group", 5), ("--code-bits", 17), ("--codebooks", 0), ("--representation", "vq",
                                                                                "--codebooks", 2)):
            self.refused(run("quantize", "--model", self.model, "--out", out, *flags),
                         flags[0] if len(flags) == 2 else "vq",
                         nothing_at=out)
        for flags in (("--group", 8), ("--code-bits", 9), ("--codebooks", 1)):
            self.refused(run("quantize", "--model", self.model, "--representation", "scalar", "--out", out, *flags),
                         *map(str, flags), "scalar", nothing_at=out)

    def test_seeds(self) -> None:
        evaluate = ("eval", "--model", self.model, "--tokens", self.tokens, "--ctx", 64, "--dry-run", "--seed")
        for seed in ("-1", "1.5", "99999999999999999999", "one"):
            self.refused(run(*evaluate, seed), "--seed", seed)
        self.assertEqual(run(*evaluate, 2**64 - 1).returncode, 0)

    def test_context(self) -> None:
        self.refused(run("eval", "--model", self.model, "--tokens", self.tokens, "--ctx", 1024), "--ctx")
        self.refused(run("eval", "--model", self.model, "--tokens", self.tokens, "--ctx", 1), "--ctx")


class BadFiles(CommandLine):
    """Files that must be refused."""

    def test_missing(self) -> None:
        out = self.here / "out.h5"
        self.refused(run("inspect", self.here / "none.h5"), "no such file")
        self.refused(run("import", "--from", self.here / "none", "--out", out), "no such file", nothing_at=out)
        self.refused(run("eval", "--model", self.model, "--tokens", self.here / "none.h5", "--ctx", 64), "no such file")
        self.refused(run("quantize", "--model", self.model, "--out", self.here / "none" / "q.h5"), "no folder")
        self.refused(run("quantize", "--model", self.model, "--out", self.here), "is a folder")

    def test_truncated_damaged_foreign_newer(self) -> None:
        data = self.model.read_bytes()
        bad = self.here / "bad.h5"
        out = self.here / "out.h5"
        flipped = bytearray(data)
        for place in range(len(data) // 4, len(data), 4096):
            flipped[place] ^= 0xFF
        for content in (data[: len(data) // 2], data[:100], b"", bytes(flipped), b"hello" * 100):
            bad.write_bytes(content)
            self.refused(run("quantize", "--model", bad, "--out", out, "--quiet"), str(bad), nothing_at=out)
            self.refused(run("eval", "--model", bad, "--tokens", self.tokens, "--ctx", 64), str(bad))
            self.assertEqual(bad.read_bytes(), content)
        with h5py.File(bad, "w") as store:
            store["x"] = [1, 2]
        self.refused(run("inspect", bad), str(bad), "not a store of pvtune")
        shutil.copy(self.model, bad)
        with h5py.File(bad, "r+", libver="latest") as store:
            store.attrs.modify("format_version", 99)
        self.refused(run("inspect", bad), "newer pvtune")
        self.refused(run("eval", "--model", self.tokens, "--tokens", self.tokens), "expected weights")

    def test_wrong_shape_missing_and_unknown_tensors(self) -> None:
        name = "model.layers.1.mlp.up_proj.weight"
        cases = {"shape": {**tensors(), name: np.zeros((48, 31), np.float32)},
                 "missing": {key: weight for key, weight in tensors().items() if key != name},
                 "unknown": {**tensors(), "model.layers.1.mlp.router.weight": np.zeros((2, 2), np.float32)},
                 "type": {**tensors(), name: tensors()[name].astype(np.float64)},
                 "nan": {**tensors(), name: np.full((48, 32), np.nan, np.float32)},
                 "infinity": {**tensors(), name: np.full((48, 32), np.inf, np.float32)},
                 "head": {**tensors(), "lm_head.weight": tensors()["model.embed_tokens.weight"] + 1}}
        for case, weights in cases.items():
            folder = write_folder(self.here / case, weights)
            out = self.here / (case + ".h5")
            word = {"unknown": "router", "head": "lm_head.weight"}.get(case, name)
            self.refused(run("import", "--from", folder, "--out", out, "--quiet"), word, nothing_at=out)

    def test_damaged_folders(self) -> None:
        out = self.here / "out.h5"
        folder = write_folder(self.here / "hf", tensors())
        content = (folder / "model.safetensors").read_bytes()
        for damaged in (content[:-100], content[:20], b""):
            (folder / "model.safetensors").write_bytes(damaged)
            self.refused(run("import", "--from", folder, "--out", out), "model.safetensors", nothing_at=out)
        (folder / "model.safetensors").write_bytes(content)
        for config in ("{", json.dumps({**CONFIG, "model_type": "gpt2"}), json.dumps({**CONFIG, "hidden_size": -1})):
            (folder / "config.json").write_text(config)
            self.refused(run("import", "--from", folder, "--out", out), "config.json", nothing_at=out)

    def test_nan_in_a_store(self) -> None:
        bad = self.here / "bad.h5"
        shutil.copy(self.model, bad)
        with h5py.File(bad, "r+", libver="latest") as store:
            store["tensors/model.norm.weight"][3] = np.nan
        self.refused(run("eval", "--model", bad, "--tokens", self.tokens, "--ctx", 64), "model.norm.weight", "NaN")

    def test_another_tokenizer(self) -> None:
        other = write_tokenizer(self.here / "other.json", 5 * VOCABULARY)
        tokens = tokenize(self.here, other, [1, 2, 3] * 40 + [200] + [4] * 80, self.here / "t.h5")
        self.refused(run("eval", "--model", self.model, "--tokens", tokens, "--ctx", 64, "--quiet"),
                     "token 200 at position 120",
                     "outside the model's vocabulary of 64")
        self.refused(run("generate", "--model", self.model, "--tokenizer", other, "--prompt", "w300"), "other.json",
                     "300")

    def test_too_few_tokens(self) -> None:
        tokens = tokenize(self.here, self.tokenizer, [3] * 20, self.here / "t.h5")
        self.refused(run("eval", "--model", self.model, "--tokens", tokens, "--ctx", 64), "20 tokens", "--ctx")

    def test_tokenizer_that_is_not_there(self) -> None:
        command = ("generate", "--model", self.model, "--prompt", "w1", "--tokenizer")
        self.refused(run(*command, self.here / "none.json"), "none.json")
        self.refused(run(*command, self.model), "model.h5")
        self.refused(run(*command, self.hf), "is a folder")
        self.refused(run(*command, self.tokenizer, PVTUNE_PYTHON="/none/python"), "make setup")
        self.refused(run(*command, self.tokenizer, PVTUNE_SCRIPTS="/none"), "PVTUNE_SCRIPTS")


class Limits(CommandLine):
    """A disk that is full, memory that does not suffice, and interrupts."""

    def test_limited_file_size(self) -> None:
        out = self.here / "out.h5"

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

        self.refused(run("import", "--from", self.hf, "--out", out, "--quiet", preexec=limit), str(out), nothing_at=out)
        self.refused(run("quantize", "--model", self.model, "--out", out, "--quiet", preexec=limit), str(out),
                     nothing_at=out)

    def test_disk_that_fills_up_while_writing(self) -> None:
        # Enough for what the plan counts, not for all of the file.
        out = self.here / "out.h5"
        needed = sum(weight.nbytes for weight in tensors().values()) + 100

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (needed, needed))

        self.refused(run("import", "--from", self.hf, "--out", out, "--quiet", preexec=limit), str(out), nothing_at=out)

    def test_old_file_survives_a_failure(self) -> None:
        out = self.here / "out.h5"
        precious = self.model.read_bytes()
        out.write_bytes(precious)

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

        self.refused(run("import", "--from", self.hf, "--out", out, "--quiet", preexec=limit))
        self.assertEqual(out.read_bytes(), precious)

    def test_what_an_earlier_run_left_beside_the_input_is_replaced(self) -> None:
        folder = shutil.copytree(self.hf, self.here / "hf")
        for _ in range(2):
            done = run("import", "--from", folder, "--out", folder / "model.h5", "--log", folder / "log.json", "--json")
            self.result(done)

    def test_pages_that_are_gone_give_a_line(self) -> None:
        """SIGBUS, as the system sends it where a mapped file was cut short."""
        with subprocess.Popen([PVTUNE, "quantize", "--model", str(self.model), "--code-bits", "12", "--out",
                               str(self.here / "out.h5")], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            process.stderr.readline()  # the first matrix is done
            process.send_signal(signal.SIGBUS)
            said = process.stderr.read().decode()
        if process.returncode == 0:
            self.skipTest("a fast machine")
        self.assertEqual(process.returncode, 2, said)
        self.assertRegex(said, r"\npvtune: an input file was cut short[^\n]+: run it again\n\Z")

    def test_files_of_others_are_not_replaced(self) -> None:
        weights, text, model = self.hf / "model.safetensors", self.here / "notes.txt", self.here / "model.h5"
        foreign = self.here / "foreign.h5"
        text.write_text("notes")
        model.write_bytes(self.model.read_bytes())
        with h5py.File(foreign, "w") as file:
            file["weights"] = [1.0]
        evaluate = ("eval", "--model", model, "--tokens", self.tokens, "--ctx", 64)
        quantize = ("quantize", "--model", model, "--out")
        content = weights.read_bytes()
        self.refused(run("import", "--from", self.hf, "--out", weights, "--quiet"), str(weights), "is the file of --from")
        self.assertEqual(weights.read_bytes(), content)
        config = self.hf / "config.json"
        content = config.read_bytes()
        done = run("import", "--from", self.hf, "--out", self.here / "x.h5", "--log", config, "--quiet")
        self.refused(done, str(config), "is the file of --from")
        self.assertEqual(config.read_bytes(), content)
        content = weights.read_bytes()
        copied = self.here / "copied.safetensors"
        copied.write_bytes(content)
        for path, *command in ((copied, "import", "--from", self.hf, "--out", copied), (text, *quantize, text),
                               (foreign, *quantize, foreign), (model, *evaluate, "--log", model), (text, *evaluate, "--log", text)):
            content = path.read_bytes()
            self.refused(run(*command, "--quiet"), str(path), "did not write")
            self.assertEqual(path.read_bytes(), content)
        content = self.tokens.read_bytes()
        self.refused(run(*quantize, self.tokens, "--quiet"), str(self.tokens), "no model but a store of 'tokens'")
        self.assertEqual(self.tokens.read_bytes(), content)
        content = self.tokenizer.read_bytes()
        self.refused(run("generate", "--model", model, "--tokenizer", self.tokenizer, "--prompt", "w1", "--log",
                         self.tokenizer, "--quiet"), str(self.tokenizer), "is the file of --tokenizer")
        self.assertEqual(self.tokenizer.read_bytes(), content)
        for log in (self.here, self.here / "none" / "log.jsonl"):
            self.refused(run(*evaluate, "--log", log, "--quiet"), str(log))
        self.result(run(*evaluate, "--log", "/dev/null", "--json"))

    def test_no_memory_for_the_plan(self) -> None:
        # The address space that the program itself needs, and 100 MB; the model's head wants 700 MB of logits.
        config = {**CONFIG, "vocab_size": 700_000}
        weights = {**tensors(), "model.embed_tokens.weight": np.zeros((700_000, 32), np.float32)}
        folder = write_folder(self.here / "hf", weights, config)
        model = self.here / "model.h5"
        self.result(run("import", "--from", folder, "--out", model, "--json"))
        allowed = 700 << 20

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))

        done = run("eval", "--model", model, "--tokens", self.tokens, "--ctx", 128, "--threads", 1, "--quiet",
                   preexec=limit)
        self.refused(done, "memory")

    def test_interrupt_leaves_nothing(self) -> None:
        out = self.here / "out.h5"
        with subprocess.Popen([PVTUNE, "quantize", "--model", str(self.model), "--code-bits", "12", "--out", str(out)],
                              stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            process.stderr.readline()  # the first matrix is done
            process.send_signal(signal.SIGINT)
            process.stderr.read()
        if process.returncode == 0:
            self.skipTest("a fast machine")
        self.assertEqual(process.returncode, 130)
        self.assertEqual(list(self.here.glob("out.h5*")), [])


if __name__ == "__main__":
    unittest.main()
