"""`pvtune quantize --calibrate` as a user runs it, on a tiny random model: what it prints and logs, hidden states that
are larger than their memory, interrupts and kills with --resume, and what it must refuse."""

import json
import random
import shutil
import signal
import subprocess
import time
import unittest
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from cli_test import PVTUNE, VOCABULARY, CommandLine, run, tensors, tokenize, write_folder

FLAGS = {"--code-bits": 4, "--group": 8, "--sequences": 20, "--ctx": 32, "--block-epochs": 2, "--threads": 1}


class CalibrateTest(CommandLine):
    def arguments(self, out: Path, **changes: Any) -> list[Any]:
        """Of a run; a change to None leaves a flag out."""
        flags = {"--model": self.model, "--calibrate": self.tokens, "--out": out, **FLAGS,
                 **{"--" + name.replace("_", "-"): value for name, value in changes.items()}}
        return ["quantize", *(item for name, value in flags.items() if value is not None for item in (name, value))]

    def calibrate(self, out: Path, *switches: str, **changes: Any) -> subprocess.CompletedProcess:
        return run(*self.arguments(out, **changes), *switches)

    def begin(self, out: Path, *switches: str, **changes: Any) -> subprocess.Popen:
        """Start a run that goes on; its process is ended with the test."""
        process = subprocess.Popen([PVTUNE, *map(str, self.arguments(out, **changes)), *switches], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def interrupted(self, out: Path, log: Path, **changes: Any) -> str:
        """What a run says that Ctrl-C stops behind its first block."""
        process = self.begin(out, log=log, **changes)
        while not log.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        if process.returncode == 0:
            self.skipTest("a fast machine")
        self.assertEqual(process.returncode, 130, errors)
        return errors


class Calibrating(CalibrateTest):
    def test_result_log_and_file(self) -> None:
        out, log = self.here / "q.h5", self.here / "log.jsonl"
        result = self.result(self.calibrate(out, "--json", log=log))
        plain = self.result(self.quantised)
        self.assertAlmostEqual(result["bits_per_weight"], plain["bits_per_weight"])
        self.assertTrue(0 < result["relative_output_error"] < plain["relative_mse"])
        self.assertGreater(result["peak_bytes"], 0)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        matrices = [line for line in lines if "matrix" in line]
        blocks = [line for line in lines if "block" in line]
        self.assertEqual((len(matrices), [line["block"] for line in blocks]), (14, [0, 1]))
        for line in matrices:
            self.assertTrue(0 < line["relative_output_error"] < 1, line)
        for line in blocks:
            self.assertTrue(0 < line["tuned_error"] <= line["tuned_error_before"], line)
        self.assertEqual(sorted(path.name for path in self.here.iterdir()), ["log.jsonl", "q.h5"])
        self.assertEqual(json.loads(h5py.File(out).attrs["quantization"])["representation"], "aqlm")
        self.result(run("eval", "--model", out, "--tokens", self.tokens, "--ctx", 64, "--json"))
        self.assertTrue(self.result(run("inspect", out, "--json"))["bits_per_weight"] > 0)

    def test_inputs_that_are_not_finite(self) -> None:
        weights = tensors()
        weights["model.layers.1.input_layernorm.weight"] = np.full(32, 2e38, np.float32)
        model = self.here / "large.h5"
        self.result(run("import", "--from", write_folder(self.here / "hf", weights), "--out", model, "--json"))
        for representation in ("aqlm", "vq", "scalar", "quip"):
            with self.subTest(representation):
                bits = 4 if representation in ("aqlm", "vq") else None
                group = 8 if representation in ("aqlm", "vq") else None
                out = self.here / "q.h5"
                done = self.calibrate(out, "--quiet", model=model, representation=representation, code_bits=bits, group=group)
                self.refused(done, str(model), "model.layers.1.self_attn.q_proj.weight", "not finite")
                self.assertFalse(out.exists())
                shutil.rmtree(f"{out}.calibration")  # of the blocks before it

    def test_flags_of_a_calibration_without_one(self) -> None:
        out = self.here / "q.h5"
        for flag, value in (("--sequences", 4), ("--rounds", 2), ("--block-lr", 0.1), ("--bos", "on")):
            self.refused(run("quantize", "--model", self.model, "--out", out, flag, value), flag, "--calibrate",
                         nothing_at=out)
        self.refused(self.calibrate(out, block_lr="nan"), "--block-lr", "not a number", nothing_at=out)

    def test_states_in_files_give_the_same_bits(self) -> None:
        for precision in ("f32", "bf16"):
            held = self.result(self.calibrate(self.here / "a.h5", "--json", precision=precision))
            streamed = self.result(self.calibrate(self.here / "b.h5", "--json", precision=precision,
                                                  activation_memory=0))
            self.assertEqual(held["content_hash"], streamed["content_hash"])

    def test_states_in_files_stay_within_their_memory(self) -> None:
        chance = random.Random(5)
        tokens = tokenize(self.here, self.tokenizer, [chance.randrange(VOCABULARY) for _ in range(2400 * 128)],
                          self.here / "long.h5")
        mebibytes = 2 * 2400 * 128 * 32 * 4 / 2**20  # of hidden states of both models
        self.assertEqual(mebibytes, 75)

        def peak(**changes: Any) -> float:
            flags = {"calibrate": tokens, "ctx": 128, "representation": "scalar", "code_bits": 2, "group": 0,
                     "block_epochs": 0, **changes}
            return self.result(self.calibrate(self.here / "q.h5", "--json", **flags))["peak_bytes"] / 2**20

        few, streamed, held = peak(), peak(sequences=2400, activation_memory=16), peak(sequences=2400)
        self.assertLess(streamed, few + 16)
        self.assertGreater(held, streamed + 0.8 * (mebibytes - 16))

    def test_plan(self) -> None:
        out = self.here / "q.h5"
        plan = self.result(self.calibrate(out, "--dry-run", "--json"))
        self.assertEqual(list(self.here.iterdir()), [])
        names = json.dumps(plan)
        self.assertIn("Hessians", names)
        self.assertIn("hidden states between blocks", names)
        self.assertNotIn("between blocks", json.dumps(self.result(
            self.calibrate(out, "--dry-run", "--json", activation_memory=0))))


    def test_plan_of_the_disk(self) -> None:
        """What the file holds, and with a calibration its blocks once more."""
        for flags in (("--code-bits", 4), ("--code-bits", 12), ("--representation", "scalar", "--code-bits", 3, "--group", 32)):
            out = self.here / "q.h5"
            command = ("quantize", "--model", self.model, "--out", out, *flags, "--json")
            plan = self.result(run(*command, "--dry-run"))["bytes_written"]
            self.result(run(*command))
            held = {"all": 0, "blocks": 0}

            def count(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset):
                    held["all"] += item.size * item.dtype.itemsize
                    held["blocks"] += item.size * item.dtype.itemsize if "model.layers" in name else 0

            with h5py.File(out) as file:
                file.visititems(count)
            self.assertEqual(plan, held["all"], flags)
            calibrated = self.result(run(*command, "--dry-run", "--calibrate", self.tokens, "--sequences", 8, "--ctx", 32))
            self.assertEqual(calibrated["bytes_written"], held["all"] + held["blocks"], flags)


class Stopping(CalibrateTest):
    def test_kill_twenty_times_and_resume(self) -> None:
        whole = self.here / "whole.h5"
        start = time.monotonic()
        expected = self.result(self.calibrate(whole, "--json"))["content_hash"]
        seconds = time.monotonic() - start
        chance = random.Random(4)
        out = self.here / "out.h5"
        for kill in range(20):
            process = self.begin(out, "--quiet", "--resume", activation_memory=kill % 2)
            time.sleep(chance.uniform(0, seconds))
            process.kill()
            process.communicate()
            if out.exists():  # it was faster than the kill
                self.assertFalse(Path(f"{out}.calibration").exists() and list(
                    Path(f"{out}.calibration").glob("*.partial")))
                out.unlink()
                shutil.rmtree(f"{out}.calibration", ignore_errors=True)
        self.assertEqual(self.result(self.calibrate(out, "--resume", "--json"))["content_hash"], expected)
        self.assertEqual(sorted(path.name for path in self.here.iterdir()), ["out.h5", "whole.h5"])

    def test_interrupt_and_resume(self) -> None:
        expected = self.result(self.calibrate(self.here / "whole.h5", "--json"))["content_hash"]
        out, log = self.here / "out.h5", self.here / "log.jsonl"
        errors = self.interrupted(out, log, block_epochs=1000, block_lr=1e-7)  # so that blocks last
        self.assertIn("--resume", errors.splitlines()[-1])
        self.refused(self.calibrate(out, "--resume", "--quiet"), "other inputs or flags")
        self.assertEqual(self.result(self.calibrate(out, "--json"))["content_hash"], expected)

    def test_the_same_command_goes_on_behind_an_interrupt(self) -> None:
        changes = {"block_epochs": 40, "block_lr": 1e-7}  # so that blocks last
        expected = self.result(self.calibrate(self.here / "whole.h5", "--json", **changes))["content_hash"]
        out, begun, log = (self.here / name for name in ("out.h5", "begun.jsonl", "log.jsonl"))
        self.interrupted(out, begun, **changes)
        resumed = self.result(self.calibrate(out, "--resume", "--json", log=log, **changes))
        self.assertEqual(resumed["content_hash"], expected)
        self.assertNotIn(0, [json.loads(line).get("block") for line in log.read_text().splitlines()])

    def test_a_new_run_leaves_no_blocks_of_an_old_one(self) -> None:
        out, warnings = self.here / "out.h5", []
        blocks = Path(str(out) + ".calibration")
        for seed in (0, 1):
            errors = self.interrupted(out, self.here / f"{seed}.jsonl", seed=seed, block_epochs=40, block_lr=1e-7)
            warnings.append("is of a run that did not end" in errors)
            if seed == 0:
                shutil.copy(blocks / "block_0000.h5", blocks / "block_0001.h5")
        self.assertEqual(warnings, [False, True])
        self.assertEqual([path.name for path in blocks.iterdir()], ["block_0000.h5"])

    def test_what_is_finished_is_not_made_again(self) -> None:
        out = self.here / "out.h5"
        self.result(self.calibrate(out, "--resume", "--json"))
        content = out.read_bytes()
        self.refused(self.calibrate(out, "--resume", "--quiet"), str(out), "is finished")
        self.assertEqual(out.read_bytes(), content)
        self.result(self.calibrate(out, "--json"))

    def test_the_output_is_no_input(self) -> None:
        for flag, path in (("--model", self.model), ("--calibrate", self.tokens)):
            content = path.read_bytes()
            link = self.here / flag
            link.symlink_to(path)
            self.refused(self.calibrate(link, "--quiet"), flag, "name another")
            self.assertEqual(path.read_bytes(), content)

    def test_layout_of_a_finished_block(self) -> None:
        """As docs/formats.md has it."""
        out, log = self.here / "out.h5", self.here / "log.jsonl"
        block = Path(f"{out}.calibration") / "block_0000.h5"
        process = self.begin(out, log=log, block_epochs=200, block_lr=1e-7)  # so that blocks last
        while not (log.exists() and '"tuned_error"' in log.read_text()) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        try:
            if not block.exists():
                self.skipTest("a fast machine")
            with h5py.File(block) as file:
                self.assertEqual(file.attrs["kind"].decode(), "calibrated block")
                self.assertIn("block_epochs", json.loads(file.attrs["source"].decode()))
                layer = "model.layers.0."
                matrix = file["tensors"][layer + "mlp.up_proj.weight"]
                self.assertEqual(matrix["codes"].shape[0], matrix.attrs["rows"])
                for name in ("squared_error", "squared_norm", "output_error", "output_norm"):
                    self.assertGreater(matrix.attrs[name], 0)
                self.assertEqual(file["tensors"][layer + "input_layernorm.weight"].dtype, "f4")
                self.assertTrue(all(name.startswith(layer) for name in file["tensors"]))
        finally:
            process.kill()
            process.communicate()


class Refusing(CalibrateTest):
    def test_impossible_runs(self) -> None:
        out = self.here / "q.h5"
        for changes, words in (({"sequences": 100}, "fewer than --sequences 100"), ({"calibrate": self.here / "none.h5"}, "none.h5"),
                               ({"ctx": 1}, "--ctx"),
                               ({"ctx": 256, "sequences": 2}, "128 positions"), ({"block_held_out": 1}, "--block-held-out"),
                               ({"block_targets": "x"}, "--block-targets"), ({"model": self.quantized}, "quantised")):
            with self.subTest(changes):
                done = self.calibrate(out, "--quiet", **changes)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(words, done.stderr)
                self.assertEqual(list(self.here.iterdir()), [])
        done = self.calibrate(out, "--dry-run", representation="quip", rounds=2, block_epochs=0, block_lr=0.1)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([line for line in done.stderr.splitlines() if "no effect" in line],
                         ["pvtune: warning: --rounds has no effect with --representation quip: aqlm and vq use it",
                          "pvtune: warning: --block-lr has no effect with --block-epochs 0: the tuning of blocks uses it"])
        done = self.calibrate(out, "--quiet", "--resume", calibrate=None)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("--calibrate", done.stderr)


if __name__ == "__main__":
    unittest.main()
