"""`pvtune export` and the import of AQLM checkpoints as a user runs them, on tiny random models. What was written is read
by independent means, safetensors and NumPy after the layouts' definitions; GPTQ and GGUF: export_layouts_test.py."""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
import unittest
from pathlib import Path
from typing import Any, Optional

import h5py
import numpy as np
from cli_test import CONFIG, PVTUNE, ROOT, CommandLine, run, write_folder
from safetensors.numpy import load_file
import support

BYTE_TOKENS = len(support.vocabulary())
SIZES = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": BYTE_TOKENS + 3, "tie_word_embeddings": False,
         "_name_or_path": "org/tiny"}
MATRICES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj")


def weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Random weights of a llama config."""
    chance = np.random.default_rng(5)
    width, middle, words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width), "model.norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (words, width)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}input_layernorm.weight": (width,), f"{at}post_attention_layernorm.weight": (width,)}
        sizes = ((width, width), (keys, width), (keys, width), (width, width), (middle, width), (middle, width),
                 (width, middle))
        shapes |= {f"{at}{name}.weight": shape for name, shape in zip(MATRICES, sizes)}
    return {name: chance.normal(1 if len(shape) == 1 else 0, 0.2, shape).astype(np.float32)
            for name, shape in shapes.items()}


def bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to bf16, ties to even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def raw_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """A safetensors file by hand: NumPy has no bf16."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__")
    return {name: (entry["dtype"], tuple(entry["shape"]),
                   data[8 + length:][slice(*entry["data_offsets"])]) for name, entry in header.items()}


def content(path: Path) -> dict[str, str]:
    """The files that were written, by their hashes: a difference is short."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name if path.is_dir() else "": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class ExportTest(CommandLine):
    """Quantised files of a model, made once a class."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.config = CONFIG | SIZES
        cls.dense = weights(cls.config)
        folder = write_folder(cls.folder / "tiny", cls.dense, cls.config)
        support.write_tokenizer(folder / "tokenizer.json")
        (folder / "tokenizer_config.json").write_text(json.dumps(
            {"bos_token": "<|start|>", "eos_token": "<|end|>", "chat_template": "{{ messages }}"}))
        cls.tiny = folder
        cls.tiny_model = cls.folder / "tiny.h5"
        done = run("import", "--from", folder, "--out", cls.tiny_model)
        assert done.returncode == 0, done.stderr
        cls.made: dict[str, Path] = {}

    def quantize(self, representation: str, **flags: Any) -> Path:
        """A quantised file of the model."""
        name = "-".join([representation, *map(str, flags.values())])
        if name not in self.made:
            path = self.folder / f"{name}.h5"
            words = [word for flag, value in flags.items() for word in ("--" + flag.replace("_", "-"), value)]
            done = run("quantize", "--model", self.tiny_model, "--representation", representation, *words, "--out", path)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.made[name] = path
        return self.made[name]

    def export(self, model: Path, form: str, *flags: Any, out: Optional[Path] = None) -> Path:
        """An export that succeeds; leaves its result in self.said."""
        out = out or self.here / f"{form}-{len(list(self.here.iterdir()))}"
        self.said = self.result(run("export", "--model", model, "--format", form, "--out", out, "--json", "--quiet",
                                    *flags))
        self.assertEqual(list(self.here.rglob("*.partial")), [])
        return out

    def dequantized(self, path: Path) -> dict[str, np.ndarray]:
        """The weights of an additive or scalar file, after docs/formats.md."""
        found = {}
        with h5py.File(path) as store:
            for name, item in store["tensors"].items():
                if isinstance(item, h5py.Dataset):
                    found[name] = item[...].astype(np.float32)
                    continue
                codes, scales = item["codes"][...], item["scales"][...].astype(np.float32)
                if item.attrs["representation"] == b"scalar":
                    group = item.attrs["group"] or codes.shape[1]
                    index = np.arange(codes.shape[1]) // group
                    found[name] = scales[:, index] * (codes - item["zeros"][...].astype(np.float32)[:, index])
                    continue
                books = item["codebooks"][...].astype(np.float32)
                parts = sum(books[m][codes[:, :, m]] for m in range(len(books)))
                found[name] = parts.reshape(len(codes), -1) * scales[:, None]
        return found

    def eval(self, model: Path, tokens: Path) -> float:
        return self.result(run("eval", "--model", model, "--tokens", tokens, "--ctx", 32, "--json"))["nll"]


class Aqlm(ExportTest):
    def check(self, **flags: Any) -> None:
        model = self.quantize("aqlm" if flags.get("codebooks", 2) > 1 else "vq", **flags)
        out = self.export(model, "hf-aqlm", "--tokenizer-from", self.tiny)
        config = json.loads((out / "config.json").read_text())
        layout = config["quantization_config"]
        bits = flags["code_bits"]
        self.assertEqual((layout["quant_method"], layout["in_group_size"], layout["out_group_size"],
                          layout["num_codebooks"], layout["nbits_per_codebook"]),
                         ("aqlm", flags["group"], 1, flags.get("codebooks", 2), bits))
        self.assertEqual(config["hidden_size"], 64)
        tensors = load_file(out / "model.safetensors")
        expected = self.dequantized(model)
        kept = [name for name in expected if name.startswith("model.layers.") and "norm" not in name]
        self.assertEqual(len(kept), 14)
        for name in kept:
            codes, books, scales = (tensors.pop(name.replace("weight", part)) for part in ("codes", "codebooks", "scales"))
            self.assertEqual((codes.dtype, books.dtype, scales.dtype),
                             (np.int8 if bits <= 8 else np.int16, np.float16, np.float16))
            self.assertEqual(books.shape[2], 1)
            self.assertTrue((codes >= -(2**(bits - 1))).all() and (codes < 2**(bits - 1)).all())
            plain = codes.astype(np.int64) % 2**bits
            parts = sum(books[m, plain[:, :, m], 0].astype(np.float32) for m in range(len(books)))
            weight = (parts * scales[:, 0].astype(np.float32)).reshape(expected[name].shape)
            np.testing.assert_array_equal(weight, expected[name], err_msg=name)
        for name in tensors:
            np.testing.assert_array_equal(tensors[name], expected[name].astype(np.float16), err_msg=name)
        self.assertEqual(len(tensors) + len(kept), len(expected))
        size = (out / "model.safetensors").stat().st_size
        self.assertEqual(self.said["bytes"], size)
        if bits in (8, 16):  # the header of a real model is far below 2 % of it
            self.assertLess(size - 8 - int.from_bytes((out / "model.safetensors").read_bytes()[:8], "little"),
                            1.0001 * self.said["accounted_bytes"])
        self.come_back(model, out)

    def come_back(self, model: Path, out: Path) -> None:
        """Import of the export has the same codes, codebooks and scales; exported again it is the same file."""
        back = self.here / "back.h5"
        self.result(run("import", "--from", out, "--out", back, "--json"))
        with h5py.File(model) as first, h5py.File(back) as second:
            for name, item in first["tensors"].items():
                if isinstance(item, h5py.Dataset):
                    continue
                self.assertEqual(dict(item.attrs), dict(second["tensors"][name].attrs))
                for part in ("codes", "codebooks", "scales"):
                    one, two = item[part], second["tensors"][name][part]
                    self.assertEqual(one.dtype, two.dtype)
                    self.assertEqual(one[...].tobytes(), two[...].tobytes(), name)
        again = self.export(back, "hf-aqlm")
        self.assertEqual((again / "model.safetensors").read_bytes(), (out / "model.safetensors").read_bytes())
        self.assertEqual(json.loads((again / "config.json").read_text()), json.loads((out / "config.json").read_text()))
        back.unlink()

    def test_bytes(self) -> None:
        self.check(codebooks=2, code_bits=8, group=8)

    def test_odd_bits(self) -> None:
        self.check(codebooks=3, code_bits=5, group=4)

    def test_words(self) -> None:
        self.check(codebooks=1, code_bits=11, group=16)

    def test_tune_goes_on_from_an_imported_checkpoint(self) -> None:
        out = self.export(self.quantize("aqlm", codebooks=2, code_bits=4, group=8), "hf-aqlm")
        imported, tuned = self.here / "imported.h5", self.here / "tuned.h5"
        self.result(run("import", "--from", out, "--out", imported, "--json"))
        tokens = self.tokens
        self.result(run("tune", "--model", imported, "--teacher", self.tiny_model, "--tokens", tokens, "--steps", 2,
                        "--batch", 2, "--ctx", 32, "--code-lr", 0.5, "--out", tuned, "--json"))
        self.export(tuned, "hf-aqlm", "--tokenizer-from", self.tiny)

    def test_values_that_are_no_f16(self) -> None:
        out = self.export(self.quantize("aqlm", codebooks=2, code_bits=4, group=8), "hf-aqlm")
        tensors = load_file(out / "model.safetensors")
        from safetensors.numpy import save_file
        name = "model.layers.0.mlp.up_proj.codebooks"
        tensors[name] = tensors[name].astype(np.float32) * np.float32(1.0001)
        save_file(tensors, out / "model.safetensors")
        back = self.here / "back.h5"
        self.result(run("import", "--from", out, "--out", back, "--json"))
        again = load_file(self.export(back, "hf-aqlm") / "model.safetensors")
        np.testing.assert_array_equal(again[name], tensors[name])

    def test_fused_matrices_are_cut(self) -> None:
        """Phi-3's: every part has its rows of the codes and scales, and all of the codebooks."""
        golden = ROOT / "tests/golden/phi3-long-rope"
        config, tensors = json.loads((golden / "config.json").read_text()), load_file(golden / "model.safetensors")
        config["intermediate_size"] += 1  # 32, which has whole groups
        draw, whole = np.random.default_rng(2), {}
        for name in [name for name in tensors if "_proj.weight" in name]:
            rows, columns = tensors.pop(name).shape
            rows, columns = rows + 2 * ("gate_up" in name), columns + ("down" in name)
            codes = draw.integers(-8, 8, (rows, columns // 4, 2), dtype=np.int8)
            books = draw.standard_normal((2, 16, 1, 4)).astype(np.float16)
            scales = draw.standard_normal((rows, 1, 1, 1)).astype(np.float16)
            module = name.removesuffix("weight")
            tensors |= {module + "codes": codes, module + "codebooks": books, module + "scales": scales}
            plain = codes.astype(np.int64) % 16
            parts = sum(books[m, plain[:, :, m], 0].astype(np.float32) for m in range(2))
            whole[name] = parts.reshape(rows, columns) * scales[:, 0, 0].astype(np.float32)
        folder = write_folder(self.here / "fused", tensors, config | {"quantization_config": {
            "quant_method": "aqlm", "in_group_size": 4, "out_group_size": 1, "num_codebooks": 2, "nbits_per_codebook": 4}})
        model = self.here / "fused.h5"
        said = self.result(run("import", "--from", folder, "--out", model, "--json"))
        found = self.dequantized(model)
        self.assertEqual(said["tensors"], len(found))
        for name, weight in whole.items():
            parts = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
            module = name.split(".")[-2]
            names = [name.replace(module, part) for part in parts.get(module, (module,))]
            np.testing.assert_array_equal(np.concatenate([found[part] for part in names]), weight, err_msg=name)

    def test_import_refusals(self) -> None:
        out = self.export(self.quantize("aqlm", codebooks=2, code_bits=4, group=8), "hf-aqlm")
        config, tensors = json.loads((out / "config.json").read_text()), load_file(out / "model.safetensors")
        up = "model.layers.0.mlp.up_proj."
        wild = tensors[up + "codes"].copy()
        wild[3, 1, 0] = 8
        nan = tensors[up + "scales"].copy()
        nan[2] = np.nan
        cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
            ({"out_group_size": 2}, {}, "out_group_size"), ({"in_group_size": 5}, {}, "in_group_size"),
            ({"num_codebooks": 9}, {}, "num_codebooks"), ({"nbits_per_codebook": "x"}, {}, "nbits_per_codebook"),
            ({"quant_method": "awq"}, {}, "awq"), ({"nbits_per_codebook": 5}, {}, "codebooks"),
            ({}, {up + "codes": wild}, "code 8"), ({}, {up + "scales": nan}, "NaN"),
            ({}, {up + "codes": tensors[up + "codes"].astype(np.int32)}, "I8"), ({}, {up + "scales": None}, "scales"),
            ({}, {"lm_head.weight": None, "lm_head.codes": wild}, "lm_head.codes is there and no lm_head.weight"),
            ({}, {"model.embed_tokens.weight": None, "model.embed_tokens.codes": wild}, "only the blocks")]
        for index, (changed, replaced, words) in enumerate(cases):
            with self.subTest(words):
                new = {name: value for name, value in (tensors | replaced).items() if value is not None}
                folder = write_folder(self.here / str(index), new,
                                      config | {"quantization_config": config["quantization_config"] | changed})
                self.refused(run("import", "--from", folder, "--out", self.here / "x.h5", "--quiet"), words,
                             nothing_at=self.here / "x.h5")


class Dense(ExportTest):
    def test_bf16_is_the_default(self) -> None:
        model = self.quantize("aqlm", codebooks=2, code_bits=4, group=8)
        out = self.export(model, "hf-dense")
        tensors = raw_tensors(out / "model.safetensors")
        expected = self.dequantized(model)
        self.assertEqual(tensors.keys(), expected.keys())
        header, size = 4096, (out / "model.safetensors").stat().st_size
        self.assertAlmostEqual(size, 2 * sum(values.size for values in expected.values()), delta=header)
        self.assertEqual(self.said["bytes"], size)
        for name, values in expected.items():
            kind, shape, data = tensors[name]
            self.assertEqual((kind, shape), ("BF16", values.shape))
            self.assertEqual(data, (bf16(values).view(np.uint32) >> 16).astype(np.uint16).tobytes(), name)
        config = json.loads((out / "config.json").read_text())
        self.assertEqual(config["torch_dtype"], "bfloat16")
        self.assertNotIn("quantization_config", config)

    def test_every_representation_evaluates_the_same(self) -> None:
        for model in (self.tiny_model, self.quantize("quip", code_bits=3), self.quantize("scalar", code_bits=6, group=32),
                      self.quantize("vq", code_bits=6, group=4)):
            out = self.export(model, "hf-dense", "--dtype", "f32")
            back = self.here / "back.h5"
            self.result(run("import", "--from", out, "--out", back, "--json"))
            self.assertAlmostEqual(self.eval(back, self.tokens), self.eval(model, self.tokens), delta=1e-5)
            back.unlink()

    def test_every_family_comes_back(self) -> None:
        """Fused matrices and norms that are stored plus one: the tensors of the folder, and its config but for the type."""
        for folder in sorted(path.parent for path in (ROOT / "tests/golden").glob("*/model.safetensors")):
            with self.subTest(folder.name):
                model = self.here / f"{folder.name}.h5"
                self.result(run("import", "--from", folder, "--out", model, "--json"))
                out = self.export(model, "hf-dense", "--dtype", "f32")
                tensors, expected = load_file(out / "model.safetensors"), load_file(folder / "model.safetensors")
                self.assertEqual(tensors.keys(), expected.keys())
                for name, values in expected.items():
                    np.testing.assert_allclose(tensors[name], values, rtol=0, atol=2**-23, err_msg=name)
                config = json.loads((folder / "config.json").read_text())
                self.assertEqual(json.loads((out / "config.json").read_text()), config | {"torch_dtype": "float32"})

    def test_tokenizer_files(self) -> None:
        (self.tiny / "special_tokens_map.json").write_text("{}")
        out = self.export(self.tiny_model, "hf-dense", "--tokenizer-from", self.tiny)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            self.assertEqual((out / name).read_bytes(), (self.tiny / name).read_bytes())
        self.assertNotEqual((out / "config.json").read_text(), (self.tiny / "config.json").read_text())
        bare = self.here / "bare"
        bare.mkdir()
        (bare / "generation_config.json").write_text("{}")
        self.refused(run("export", "--model", self.tiny_model, "--format", "hf-dense", "--tokenizer-from", bare, "--out",
                         self.here / "none"), str(bare), "tokenizer.json", nothing_at=self.here / "none")


class Refusing(ExportTest):
    def test_what_does_not_fit(self) -> None:
        aqlm, scalar = self.quantize("aqlm", codebooks=2, code_bits=4, group=8), self.quantize("scalar", code_bits=6, group=32)
        quip, there = self.quantize("quip", code_bits=3), self.here / "there"
        there.mkdir()
        (there / "a").write_text("mine")
        out = self.here / "out"
        for model, form, flags, words in (
                (scalar, "hf-aqlm", [], "hf-gptq"), (quip, "hf-aqlm", [], "hf-dense"), (aqlm, "hf-gptq", [], "hf-aqlm"),
                (scalar, "hf-gptq", [], "6 bits"), (self.tiny_model, "hf-aqlm", [], "not quantised"),
                (self.quantized, "hf-gptq", [], "hf-aqlm"), (self.tiny_model, "gguf", [], "--tokenizer-from"),
                (aqlm, "hf-aqlm", ["--round-zeros"], "--round-zeros"), (aqlm, "hf-aqlm", ["--dense"], "--dense"),
                (aqlm, "hf-x", [], "--format"), (aqlm, "hf-aqlm", ["--tokenizer-from", self.here / "none"], "none"),
                (aqlm, "hf-aqlm", ["--tokenizer-from", there], "tokenizer.json"), (self.tokens, "hf-dense", [], "tokens"),
                (self.here / "none.h5", "hf-dense", [], "none.h5")):
            with self.subTest(words):
                self.refused(run("export", "--model", model, "--format", form, "--out", out, "--quiet", *flags), words,
                             nothing_at=out)
        self.refused(run("export", "--model", aqlm, "--format", "hf-aqlm", "--out", there, "--quiet"), "there already")
        self.refused(run("export", "--model", aqlm, "--format", "hf-aqlm", "--out", self.here / "no" / "x", "--quiet"), "no")
        self.assertEqual((there / "a").read_text(), "mine")

    def test_sizes_that_gptq_does_not_pack(self) -> None:
        model, out = self.here / "s.h5", self.here / "out"
        self.result(run("quantize", "--model", self.model, "--representation", "scalar", "--out", model, "--json"))
        self.refused(run("export", "--model", model, "--format", "hf-gptq", "--round-zeros", "--out", out, "--quiet"),
                     "16 x 32", nothing_at=out)

    def test_an_empty_folder_will_do_and_a_dry_run_writes_nothing(self) -> None:
        out = self.here / "out"
        out.mkdir()
        plan = self.result(run("export", "--model", self.tiny_model, "--format", "hf-dense", "--out", out, "--json",
                               "--dry-run"))
        self.assertIn("written", json.dumps(plan))
        self.assertEqual(list(out.iterdir()), [])
        self.export(self.tiny_model, "hf-dense", out=out)
        self.assertEqual(sorted(path.name for path in out.iterdir()), ["config.json", "model.safetensors"])

    def test_a_full_disk(self) -> None:
        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

        for form, out in (("hf-dense", self.here / "out"), ("gguf", self.here / "x.gguf")):
            self.refused(run("export", "--model", self.tiny_model, "--format", form, "--tokenizer-from", self.tiny,
                             "--out", out, "--quiet", preexec=limit), "limit", nothing_at=out)


    def test_a_folder_that_nothing_can_take_the_place_of(self) -> None:
        out = self.here / "out"
        out.mkdir(mode=0o750)
        done = run("export", "--model", self.tiny_model, "--format", "hf-dense", "--out", f"{out}/.", "--quiet")
        self.refused(done, "cannot be replaced", "name one inside it")
        self.assertEqual((list(out.iterdir()), out.stat().st_mode & 0o777), ([], 0o750))
        self.assertEqual([path.name for path in self.here.iterdir()], ["out"])

    def test_closed_streams_are_no_outputs(self) -> None:
        for form, name in (("hf-dense", "out"), ("gguf", "x.gguf")):
            whole = self.export(self.tiny_model, form, "--tokenizer-from", self.tiny, out=self.here / f"whole-{name}")
            out = self.here / name
            closing = 'exec "$@" <&- >&- 2>&-'
            subprocess.run(["bash", "-c", closing, "bash", PVTUNE, "export", "--model", self.tiny_model, "--format", form,
                            "--tokenizer-from", self.tiny, "--out", out], check=True)
            self.assertEqual(content(out), content(whole))


class Stopping(ExportTest):
    def begin(self, form: str, out: Path, **environment: Any) -> subprocess.Popen:
        process = subprocess.Popen([PVTUNE, "export", "--model", self.quantize("quip", code_bits=3), "--format", form,
                                    "--out", out, "--tokenizer-from", self.tiny, "--quiet"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=os.environ | {name: str(value) for name, value in environment.items()})
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_kill_leaves_nothing_under_the_name(self) -> None:
        chance = random.Random(2)
        for form, name in (("hf-dense", "out"), ("gguf", "x.gguf")):
            out = self.here / name
            start = time.monotonic()
            self.assertEqual(self.begin(form, self.here / f"whole-{name}").wait(), 0)
            seconds = time.monotonic() - start
            for _ in range(10):
                process = self.begin(form, out)
                time.sleep(chance.uniform(0, seconds))
                process.kill()
                process.wait()
                if out.exists():  # it was faster than the kill: all of it must be there
                    self.assertEqual(content(out), content(self.here / f"whole-{name}"))
                    shutil.rmtree(out) if out.is_dir() else out.unlink()
            # A script that was being started when the last one was killed has its lock for a moment.
            end = time.monotonic() + 60
            while self.begin(form, out).wait() == 2 and time.monotonic() < end:
                time.sleep(0.1)
            self.assertEqual(content(out), content(self.here / f"whole-{name}"))
            self.assertEqual(list(self.here.rglob("*.partial")), [])

    def test_what_a_killed_run_started_harms_no_other(self) -> None:
        scripts, started, go, ended = (self.here / name for name in ("scripts", "started", "go", "ended"))
        scripts.mkdir()
        shutil.copytree(ROOT / "scripts" / "lib", scripts / "lib")
        shutil.copy(ROOT / "scripts" / "gguf_header.py", scripts / "real.py")
        (scripts / "gguf_header.py").write_text(f"""
import gguf, pathlib, runpy, time
def late(*arguments, make=gguf.GGUFWriter):
    pathlib.Path({str(started)!r}).touch()
    end = time.monotonic() + 60
    while not pathlib.Path({str(go)!r}).exists() and time.monotonic() < end: time.sleep(0.01)
    return make(*arguments)
gguf.GGUFWriter = late
try: runpy.run_path({str(scripts / "real.py")!r}, run_name="__main__")
finally: pathlib.Path({str(ended)!r}).touch()
""")
        out, whole = self.here / "x.gguf", self.here / "whole.gguf"
        self.assertEqual(self.begin("gguf", whole).wait(), 0)
        killed = self.begin("gguf", out, PVTUNE_SCRIPTS=scripts)
        self.wait_for(started)
        self.refused(run("export", "--model", self.tiny_model, "--format", "gguf", "--tokenizer-from", self.tiny,
                         "--out", out, "--quiet"), "another run is writing it")
        killed.kill()
        killed.wait()
        self.assertEqual(self.begin("gguf", out).wait(), 0)
        go.touch()
        self.wait_for(ended)
        self.assertEqual(content(out), content(whole))
        self.assertEqual(list(self.here.rglob("*.partial")), [])

    def wait_for(self, path: Path) -> None:
        end = time.monotonic() + 60
        while not path.exists():
            self.assertLess(time.monotonic(), end, path)
            time.sleep(0.01)

    def test_a_strange_partial_folder_is_left_alone(self) -> None:
        out = self.here / "out"
        (self.here / "out.partial" / "mine").mkdir(parents=True)
        done = run("export", "--model", self.tiny_model, "--format", "hf-dense", "--out", out, "--quiet")
        self.refused(done, "out.partial")
        self.assertTrue((self.here / "out.partial" / "mine").is_dir())


if __name__ == "__main__":
    unittest.main()
