"""`pvtune tune` as a user runs it, on a tiny random model: what it prints and logs, interrupts and kills with --resume."""

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
from typing import Any

import h5py
import numpy as np
from cli_test import CONFIG, PVTUNE, CommandLine, run, tensors, tokenize, write_folder

FLAGS = ("--ctx", 16, "--batch", 4, "--lr", 0.003, "--code-lr", 0.1, "--tau", 0.05, "--threads", 1)


class TuneTest(CommandLine):
    """A quantised model, its teacher, 700 tokens: 43 windows of 16, so that 11 steps of 4 are an epoch."""

    def arguments(self, out: Path, **changes: Any) -> list[Any]:
        """Of a run; a change to None leaves a flag out."""
        flags = {"--model": self.quantized, "--teacher": self.model, "--tokens": self.tokens, "--out": out,
                 **dict(zip(FLAGS[::2], FLAGS[1::2])),
                 **{"--" + name.replace("_", "-"): value for name, value in changes.items()}}
        return ["tune", *(item for name, value in flags.items() if value is not None for item in (name, value))]

    def tune(self, out: Path, *switches: str, preexec: Any = None, **changes: Any) -> subprocess.CompletedProcess:
        return run(*self.arguments(out, **changes), *switches, preexec=preexec)

    def begin(self, out: Path, *switches: str, **changes: Any) -> subprocess.Popen:
        """Start a run that goes on; its process is ended with the test."""
        process = subprocess.Popen([PVTUNE, *map(str, self.arguments(out, **changes)), *switches], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   # nohup has it ignored, which pvtune respects
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, path: Path, lines: int, process: subprocess.Popen) -> None:
        """Wait until the log has so many lines."""
        end = time.monotonic() + 120
        while not path.exists() or path.read_text().count("\n") < lines:
            self.assertIsNone(process.poll(), "the run ended by itself")
            self.assertLess(time.monotonic(), end)
            time.sleep(0.002)

    def files_of(self, out: Path) -> list[str]:
        return sorted(path.name for path in out.parent.glob(out.name + "*"))


class Running(TuneTest):
    def test_result_and_log(self) -> None:
        for strategy in ("continuous", "naive-linearized", "stochastic-rounding", "ste", "pv", "pv-ste"):
            with self.subTest(strategy):
                out, log = self.here / f"{strategy}.h5", self.here / f"{strategy}.jsonl"
                result = self.result(self.tune(out, "--json", steps=14, strategy=strategy, log=log,
                                               code_lr=0.3 if strategy == "naive-linearized" else 0.1))
                lines = [json.loads(line) for line in log.read_text().splitlines()]
                self.assertEqual([line["step"] for line in lines], list(range(1, 15)))
                self.assertEqual(result["steps"], 14)
                self.assertEqual(result["loss"], lines[-1]["loss"])
                self.assertGreater(result["seconds_per_step"], 0)
                self.assertGreater(result["peak_bytes"], 1 << 20)
                if strategy != "stochastic-rounding":
                    self.assertLess(lines[-1]["loss"], lines[0]["loss"])
                changed = sum(line["codes_changed"] for line in lines)
                self.assertEqual(changed > 0, strategy != "continuous")
                self.assertEqual(result["codes_changed"], changed)
                for line in lines:
                    self.assertLessEqual(line["codes_changed"], line["codes_selected"])
                    self.assertEqual(line["v_step"], strategy != "continuous")
                    self.assertEqual(line["predicted_change"] != 0, line["codes_changed"] > 0)
                    if line["v_step"]:
                        self.assertEqual(len(line["groups_by_block"]), 2)
                        self.assertEqual(sum(line["groups_by_block"]), line["groups"])
                        self.assertEqual(sum(line["codes_changed_by_block"]), line["codes_changed"])
                    self.assertEqual("codes_changed_by_block" in line, line["v_step"])
                    self.assertEqual(line["tokens"], line["step"] * 64)
                    parts = sum(line[part + "_seconds"]
                                for part in ("teacher", "forward", "loss", "backward", "p", "v"))
                    self.assertAlmostEqual(parts, line["seconds"], delta=1e-6)
                self.assertEqual(self.files_of(out), [out.name])
                inspected = self.result(run("inspect", out, "--json"))
                self.assertEqual(inspected["content_hash"], result["content_hash"])
                self.result(run("eval", "--model", out, "--tokens", self.tokens, "--ctx", 64, "--json"))

    def test_calibration_only_leaves_the_model_as_it_is(self) -> None:
        out, log = self.here / "out.h5", self.here / "log.jsonl"
        result = self.result(self.tune(out, "--json", steps=2, strategy="calibration-only", log=log))
        self.assertEqual(result["codes_changed"], 0)
        with h5py.File(self.quantized) as before, h5py.File(out) as after:
            def compare(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset):
                    np.testing.assert_array_equal(item[...], after[name][...], name)
            before.visititems(compare)

    def test_subspaces_and_the_ledger(self) -> None:
        for subspace in ("topk", "sample", "random", "block", "layer-budget", "eager"):
            with self.subTest(subspace):
                log = self.here / f"{subspace}.jsonl"
                self.result(self.tune(self.here / "out.h5", "--json", "--measure-v", steps=6, strategy="pv", v_every=2,
                                      subspace=subspace, candidates=1 if subspace == "eager" else 3, log=log,
                                      subspace_lr=1))
                lines = [json.loads(line) for line in log.read_text().splitlines()]
                self.assertEqual([line["v_step"] for line in lines], [False, True] * 3)
                for line in lines:
                    self.assertEqual("measured_change" in line, line["v_step"])
                    self.assertEqual("codes_returned" in line, line["v_step"])
                    parts = ("teacher", "forward", "loss", "backward", "p", "v", "measure")
                    self.assertAlmostEqual(line["seconds"], sum(line.get(f"{part}_seconds", 0) for part in parts), 6)
                    self.assertLessEqual(line["codes_selected"], line["codes_searched"])
                    if line["v_step"]:
                        self.assertLessEqual(line["codes_returned"], line["codes_changed"])
                self.assertGreater(sum(line["codes_changed"] for line in lines), 0)
                self.assertEqual(len({line["codes_selected"] for line in lines if line["v_step"]}), 1)

    def test_quip_has_no_eager_subspace(self) -> None:
        quantized, out = self.here / "quip.h5", self.here / "out.h5"
        self.result(run("quantize", "--model", self.model, "--representation", "quip", "--out", quantized, "--json"))
        for switches in ((), ("--dry-run",)):
            self.refused(self.tune(out, *switches, model=quantized, strategy="pv", subspace="eager"),
                         "--subspace eager", "quip", "topk", nothing_at=out)

    def test_quip_from_quantising_to_evaluation(self) -> None:
        for bits in (2, 3, 4):
            with self.subTest(bits):
                quantized, out = self.here / f"quip{bits}.h5", self.here / f"quip{bits}-tuned.h5"
                found = self.result(run("quantize", "--model", self.model, "--representation", "quip", "--code-bits",
                                        bits, "--out", quantized, "--json"))
                self.assertLess(found["relative_mse"], (0.11, 0.035, 0.011)[bits - 2])
                inspected = self.result(run("inspect", quantized, "--against", self.model, "--json"))
                self.assertAlmostEqual(inspected["relative_mse"], found["relative_mse"], places=4)
                self.assertAlmostEqual(inspected["bits_per_weight"], found["bits_per_weight"], places=6)
                before = self.result(run("eval", "--model", quantized, "--tokens", self.tokens, "--ctx", 16, "--json"))
                log = self.here / f"quip{bits}.jsonl"
                rate = 0.1 if bits == 2 else 0.01  # the more bits, the nearer the next code
                tuned = run(*self.arguments(out, model=quantized, code_lr=rate, steps=20), "--log", log, "--json")
                self.assertEqual(self.result(tuned)["steps"], 20)
                steps = [json.loads(line) for line in log.read_text().splitlines()]
                self.assertGreater(sum(step.get("codes_changed", 0) for step in steps), 0)
                losses = [step["loss"] for step in steps if "loss" in step]
                self.assertLess(losses[-1], losses[0])
                after = self.result(run("eval", "--model", out, "--tokens", self.tokens, "--ctx", 16, "--json"))
                self.assertNotEqual(before["nll"], after["nll"])
                # Numbers in place of signs: 16 bits a row and column.
                relaxed = self.result(run("inspect", out, "--json"))
                self.assertGreater(relaxed["bits_per_weight"], inspected["bits_per_weight"])

    def test_windows_that_begin_with_the_models_token(self) -> None:
        folder = write_folder(self.here / "hf", tensors(), {**CONFIG, "bos_token_id": 1})
        model, quantized = self.here / "model.h5", self.here / "q.h5"
        self.result(run("import", "--from", folder, "--out", model, "--json"))
        self.result(run("quantize", "--model", model, "--code-bits", 4, "--out", quantized, "--json"))
        with h5py.File(self.tokens) as store:
            ids = store["tokens"][...]
        ids[::16] = 1
        begun = tokenize(self.here, self.tokenizer, ids.tolist(), self.here / "begun.h5")

        def losses(**changes: Any) -> list[float]:
            log = self.here / "log.jsonl"
            self.result(self.tune(self.here / "out.h5", "--json", model=quantized, teacher=model, steps=3, log=log,
                                  **changes))
            return [json.loads(line)["loss"] for line in log.read_text().splitlines()]

        self.assertEqual(losses(bos="on"), losses(tokens=begun))
        self.assertNotEqual(losses(bos="on"), losses())
        self.assertEqual(losses(bos="off"), losses(), "a Llama has none by itself")

        def perplexity(tokens: Path, *flags: str) -> float:
            return self.result(run("eval", "--model", quantized, "--tokens", tokens, "--ctx", 16, "--json",
                                   *flags))["perplexity"]

        self.assertEqual(perplexity(self.tokens, "--bos", "on"), perplexity(begun))
        self.assertNotEqual(perplexity(self.tokens), perplexity(begun))
        self.refused(self.tune(self.here / "none.h5", bos="on"), "--bos on", "bos_token_id")

    def test_runs_repeat_and_seeds_differ(self) -> None:
        hashes = [self.result(self.tune(self.here / f"{i}.h5", "--json", steps=2, seed=seed))["content_hash"]
                  for i, seed in enumerate((5, 5, 6))]
        self.assertEqual(hashes[0], hashes[1])
        self.assertNotEqual(hashes[0], hashes[2])

    def test_dry_run_starts_nothing(self) -> None:
        out, log = self.here / "out.h5", self.here / "log.jsonl"
        done = self.tune(out, "--dry-run", steps=1000, log=log)
        self.assertEqual(done.returncode, 0, done.stderr)
        for words in ("codes", "Adam moments", "straight-through buffers"):
            self.assertIn(words, done.stdout)
        self.assertEqual(list(self.here.iterdir()), [])
        self.assertIsInstance(self.result(self.tune(out, "--dry-run", "--json")), dict)


class ScalarGrids(TuneTest):
    def test_from_quantize_to_inspect(self) -> None:
        quantized = self.here / "scalar.h5"
        made = self.result(run("quantize", "--model", self.model, "--representation", "scalar", "--code-bits", 3,
                               "--group", 32, "--out", quantized, "--json"))
        # Rows of 32 columns have one grid, of 48 two.
        self.assertTrue(4 <= made["bits_per_weight"] <= 3 + 64 / 48)
        self.assertTrue(0 < made["relative_mse"] < 0.1)
        changes = {"model": quantized, "tau": 0.01, "code_lr": 0.1, "trust_ratio": 0.5}
        straight = self.result(self.tune(self.here / "straight.h5", "--json", steps=4, **changes))
        self.assertGreater(straight["codes_changed"], 0)
        out = self.here / "out.h5"
        self.result(self.tune(out, "--json", "--keep-checkpoint", steps=2, **changes))
        resumed = self.result(self.tune(out, "--json", "--resume", steps=4, **changes))
        self.assertEqual(resumed["content_hash"], straight["content_hash"])
        self.result(run("eval", "--model", out, "--tokens", self.tokens, "--ctx", 64, "--json"))
        self.result(run("generate", "--model", out, "--tokenizer", self.tokenizer, "--prompt", "w5", "--max-tokens", 4,
                        "--json"))
        found = self.result(run("inspect", out, "--json"))
        self.assertAlmostEqual(found["bits_per_weight"], made["bits_per_weight"])
        self.assertIn("scalar 3 g32", {tensor["type"] for tensor in found["tensors"]})


class Stopping(TuneTest):
    def uninterrupted(self, **changes: Any) -> str:
        return self.result(self.tune(self.here / "straight.h5", "--json", **changes))["content_hash"]

    def resumed(self, out: Path, **changes: Any) -> dict[str, Any]:
        return self.result(self.tune(out, "--json", "--resume", **changes))

    def test_interrupt_and_resume(self) -> None:
        for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(sent):
                out, log = self.here / f"{sent}.h5", self.here / f"{sent}.jsonl"
                process = self.begin(out, steps=100_000, log=log)
                self.wait_for(log, 5, process)
                process.send_signal(sent)
                _, errors = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 130, errors)
                self.assertIn("--resume", errors.splitlines()[-1])
                self.assertEqual(self.files_of(out), [out.name + ".checkpoint"])
                done = len(log.read_text().splitlines())
                copy = self.here / "copy.h5"
                shutil.copy(str(out) + ".checkpoint", str(copy) + ".checkpoint")
                result = self.resumed(copy, steps=done)  # nothing is left to do
                self.assertEqual(result["loss"], json.loads(log.read_text().splitlines()[-1])["loss"])
                result = self.resumed(out, steps=done + 9, log=log)
                self.assertEqual(result["steps"], done + 9)
                self.assertEqual(result["content_hash"], self.uninterrupted(steps=done + 9))
                self.assertEqual(self.files_of(out), [out.name])
                steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
                self.assertEqual(steps, list(range(1, done + 10)))

    def test_a_reader_that_is_gone_costs_no_state(self) -> None:
        """`pvtune tune 2>&1 | tee run.txt`, where Ctrl-C ends tee as well."""
        out, log = self.here / "out.h5", self.here / "log.jsonl"
        process = self.begin(out, steps=100_000, log=log)
        self.wait_for(log, 5, process)
        process.stdout.close()
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=120), 130)
        self.assertEqual(self.files_of(out), [out.name + ".checkpoint"])

    def test_a_terminal_that_says_twice_that_it_closes(self) -> None:
        out, log = self.here / "out.h5", self.here / "log.jsonl"
        process = self.begin(out, steps=100_000, log=log)
        self.wait_for(log, 5, process)
        for sent in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            process.send_signal(sent)
        _, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, errors)
        self.assertEqual(self.files_of(out), [out.name + ".checkpoint"])

    def test_a_log_beyond_the_limit_of_files_costs_no_state(self) -> None:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

        out, log = self.here / "out.h5", self.here / "log.jsonl"
        log.write_text("{}" + " " * ((1 << 20) - 1000) + "\n")
        done = self.tune(out, "--quiet", "--resume", steps=100, log=log, preexec=limit)
        self.refused(done, str(log), "File too large", "--resume")
        self.assertEqual(self.files_of(out), [out.name + ".checkpoint"])

    def test_two_runs_with_one_output(self) -> None:
        out, log = self.here / "out.h5", self.here / "log.jsonl"
        process = self.begin(out, steps=100_000, log=log, checkpoint_every=2)
        self.wait_for(log, 5, process)
        self.refused(self.tune(out, "--quiet", steps=1), str(out), "another run is writing it")
        self.refused(self.tune(self.here / "other.h5", "--quiet", steps=1, log=log), str(log), "another run is writing it",
                     nothing_at=self.here / "other.h5")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, errors)
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        self.assertEqual(steps, list(range(1, len(steps) + 1)))
        self.assertEqual(self.files_of(out), [out.name + ".checkpoint"])

    def test_kill_and_resume(self) -> None:
        expected = self.uninterrupted(steps=40, precision="bf16")
        chance = random.Random(os.getpid())
        for attempt in range(3):
            delay = chance.uniform(0, 0.05)
            with self.subTest(attempt=attempt, delay=delay):
                out, log = self.here / f"{attempt}.h5", self.here / f"{attempt}.jsonl"
                process = self.begin(out, steps=100_000, log=log, precision="bf16", checkpoint_every=2)
                self.wait_for(log, 3, process)
                time.sleep(delay)
                process.kill()
                process.communicate()
                self.assertFalse(out.exists())
                with h5py.File(str(out) + ".checkpoint") as checkpoint:
                    at = int(checkpoint.attrs["step"])
                if at > 36:  # no more checkpoint to come, which would take the place of one begun
                    self.skipTest("a fast machine")
                result = self.resumed(out, steps=40, precision="bf16", checkpoint_every=2)
                self.assertEqual(result["content_hash"], expected)
                self.assertEqual(self.files_of(out), [out.name])

    def test_kept_checkpoint_goes_on(self) -> None:
        out = self.here / "out.h5"
        self.result(self.tune(out, "--json", "--keep-checkpoint", steps=3))
        self.assertEqual(self.files_of(out), [out.name, out.name + ".checkpoint"])
        self.assertEqual(self.resumed(out, steps=6)["content_hash"], self.uninterrupted(steps=6))
        self.assertEqual(self.files_of(out), [out.name])

    def test_resume_without_a_checkpoint_starts(self) -> None:
        self.assertEqual(self.resumed(self.here / "out.h5", steps=2)["content_hash"], self.uninterrupted(steps=2))

    def test_a_finished_run_is_not_repeated(self) -> None:
        out = self.here / "out.h5"
        self.result(self.tune(out, "--json", steps=2))
        content = out.read_bytes()
        for steps in (2, 4):
            self.refused(self.tune(out, "--resume", steps=steps), str(out), "finished, at step 2", "--keep-checkpoint")
        self.assertEqual(out.read_bytes(), content)
        self.result(self.tune(out, "--json", steps=2))

    def test_a_loss_that_is_not_finite_is_left_by_a_smaller_rate(self) -> None:
        out = self.here / "out.h5"
        self.result(self.tune(out, "--keep-checkpoint", "--json", steps=2, lamb="off"))
        again = {"steps": 6, "lamb": "off", "checkpoint_every": 0}
        self.refused(self.tune(out, "--quiet", "--resume", **again, lr=1e6), "not finite",
                     "resume from the last checkpoint, if there is one, with a smaller --lr or --code-lr")
        done = self.tune(out, "--resume", "--json", **again, lr=0.001)
        self.assertEqual(self.result(done)["steps"], 6)
        self.assertIn("resumed after step 2; other rates from here on: --lr 0.001\n", done.stderr)

    def test_what_a_resumed_run_must_agree_in(self) -> None:
        out, log = self.here / "out.h5", self.here / "log.jsonl"
        process = self.begin(out, steps=100_000, log=log, checkpoint_every=1)
        self.wait_for(log, 3, process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        checkpoint = Path(str(out) + ".checkpoint")
        content = checkpoint.read_bytes()
        tokens = tokenize(self.here, self.tokenizer, [7, 8, 9] * 300, self.here / "t.h5")
        quantized = self.here / "q.h5"
        self.result(run("quantize", "--model", self.model, "--code-bits", 3, "--out", quantized, "--json"))
        for changes, words in (({"strategy": "pv"}, "was written with --strategy pv-ste: give the same flags"),
                               ({"seed": 9, "ctx": 8, "beta1": 0.5}, "with --ctx 16, --seed 0, --beta1 0.9: "),
                               ({"schedule": "cosine", "lamb": "off"}, "--lamb on, --schedule constant, no --steps"),
                               ({"tokens": tokens}, "--tokens"), ({"precision": "bf16"}, "--precision"),
                               ({"model": quantized}, ""), ({"steps": 1}, "--steps")):
            with self.subTest(changes):
                done = self.tune(out, "--quiet", "--resume", **{"steps": 100_000, **changes})
                self.refused(done, str(checkpoint), words)
                self.assertEqual(checkpoint.read_bytes(), content)
        damaged = bytearray(content)
        with h5py.File(checkpoint) as file:
            name = "model.norm.weight"
            value = file["parameters"][name]["value"][...].tobytes()
        damaged[content.index(value)] ^= 1
        for bad in (bytes(damaged), content[:-9], b"", self.quantized.read_bytes()):
            checkpoint.write_bytes(bad)
            self.refused(self.tune(out, "--quiet", "--resume", steps=100_000), str(checkpoint))
            self.assertFalse(out.exists())
        checkpoint.write_bytes(content)
        with h5py.File(checkpoint, "r+") as file:  # within the matrix, beyond what a V step has memory for
            group = next(name for name in file["v"] if "budget" in file["v"][name].attrs)
            file["v"][group].attrs["budget"] = file["v"][group].attrs["budget"] + 1
        self.refused(self.tune(out, "--quiet", "--resume", steps=100_000), str(checkpoint), "budget")


if __name__ == "__main__":
    unittest.main()
