"""Inputs and flags that `pvtune tune` refuses or warns of, full disks, and plans."""

import resource
import shutil
import signal
import unittest
from pathlib import Path
from typing import Any, Optional

import h5py
import numpy as np
from cli_test import CONFIG, VOCABULARY, run, tensors, tokenize, write_folder
from tune_cli_test import TuneTest


class Refusing(TuneTest):
    def refuse(self, *words: str, steps: int = 2, preexec: Any = None, **changes: Any) -> None:
        out = self.here / "out.h5"
        done = self.tune(out, "--quiet", steps=steps, preexec=preexec, **changes)
        self.refused(done, *words, nothing_at=out)

    def other_teacher(self, vocabulary: int, width: Optional[int] = None) -> Path:
        """A dense model of another shape."""
        rename = {16: 16, 48: 48, 32: width or 32, VOCABULARY: vocabulary}
        if width:
            rename[16] = width // 2
        generator = np.random.default_rng(3)
        weights = {name: generator.normal(0, 0.3, [rename[size] for size in weight.shape]).astype(np.float32)
                   for name, weight in tensors().items()}
        config = {**CONFIG, "vocab_size": vocabulary, "hidden_size": width or 32}
        path = self.here / "teacher.h5"
        self.result(run("import", "--from", write_folder(self.here / "hf", weights, config), "--out", path, "--json"))
        return path

    def test_dense_model(self) -> None:
        self.refuse(str(self.model), "not quantised", model=self.model)

    def test_nothing_to_offload_on_the_cpu(self) -> None:
        self.refuse("--offload all", "--device cuda", offload="all")

    def test_teacher_of_another_vocabulary(self) -> None:
        self.refuse("teacher.h5", "vocabulary of 72", teacher=self.other_teacher(72))

    def test_teacher_of_another_width(self) -> None:
        self.refuse("teacher.h5", "width of 64", teacher=self.other_teacher(VOCABULARY, 64))

    def test_tokens_of_another_vocabulary(self) -> None:
        tokens = self.here / "t.h5"
        shutil.copy(self.tokens, tokens)
        # One token beyond the vocabulary, with its checksum made good.
        with h5py.File(tokens, "r+", libver="latest") as file:
            file["tokens"][17] = VOCABULARY + 3
        self.refuse("t.h5", "67", "position 17", tokens=tokens)

    def test_too_few_tokens(self) -> None:
        tokens = tokenize(self.here, self.tokenizer, [3] * 10, self.here / "t.h5")
        self.refuse("t.h5", "10 tokens", "--ctx", tokens=tokens)

    def test_micro_batches_that_do_not_divide(self) -> None:
        done = self.tune(self.here / "out.h5", "--dry-run", batch=6, micro_batch=4)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("--micro-batch 4 does not divide --batch 6: 3 go", done.stderr)
        self.refuse("--batch", batch=1 << 40)

    def test_flags_that_the_strategy_does_not_read_are_named(self) -> None:
        out = self.here / "out.h5"
        for changes, expected in (
                ({"strategy": "pv-ste"}, []),
                ({"strategy": "pv", "code_lr": None, "subspace_lr": 0.1}, []),
                ({"strategy": "calibration-only", "tau": None, "code_lr": None, "lamb": "off", "train_dense": "off"},
                 [f"pvtune: warning: --{flag} has no effect with --strategy calibration-only: all others use it"
                  for flag in ("lr", "lamb", "train-dense")]),
                ({"strategy": "pv"}, ["pvtune: warning: --code-lr has no effect with --strategy pv: naive-linearized, "
                                      "stochastic-rounding, ste and pv-ste use it"]),
                ({"strategy": "ste"}, ["pvtune: warning: --tau has no effect with --strategy ste: pv and pv-ste use it"]),
                ({"strategy": "pv-ste", "tau": None, "subspace_temperature": 0.5},
                 ["pvtune: warning: --subspace-temperature has no effect with --subspace topk: sample uses it"]),
                ({"strategy": "pv", "code_lr": None, "subspace": "eager", "subspace_lr": 0.1, "final_rate": 0.1},
                 ["pvtune: warning: --subspace-lr has no effect with --subspace eager: pv with other subspaces uses it",
                  "pvtune: warning: --final-rate has no effect with --schedule constant: falling schedules use it"])):
            with self.subTest(**changes):
                result = self.tune(out, "--dry-run", steps=2, **changes)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual([line for line in result.stderr.splitlines() if "no effect" in line], expected)

    def test_a_batch_larger_than_the_text_is_named(self) -> None:
        done = self.tune(self.here / "out.h5", "--dry-run", batch=64)
        self.assertIn("warning: --batch 64: ", done.stderr)
        self.assertIn("has 43 sequences of --ctx 16", done.stderr)

    def test_the_remedy_for_too_little_memory(self) -> None:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

        for changes, remedy in (({"batch": 1 << 20, "micro_batch": 1, "activations": "recompute"}, "a smaller --batch"),
                                ({"batch": 1 << 18, "micro_batch": 1 << 18}, "a smaller --micro-batch")):
            with self.subTest(remedy):
                self.refused(self.tune(self.here / "out.h5", "--quiet", preexec=limit, ctx=128, **changes), "needs", remedy)

    def test_context_beyond_the_positions(self) -> None:
        self.refuse("--ctx 129", "128", ctx=129)

    def test_flags_that_do_not_go_together(self) -> None:
        self.refuse("--subspace block", "naive-linearized", strategy="naive-linearized", subspace="block")
        self.refuse("--subspace eager", "use pv", subspace="eager")
        self.refuse("--candidates 4", "ste", strategy="ste", candidates=4)

    def test_flags(self) -> None:
        for flag, value in (("strategy", "newton"), ("subspace", "best"), ("v_every", 0), ("candidates", 0), ("schedule", "square"), ("steps", 0), ("batch", -1), ("tau", 2),
                            ("lr", "fast"), ("device", "abacus")):
            with self.subTest(flag):
                self.refuse("--" + flag.replace("_", "-"), **{"steps": 2, flag: value})

    def test_damage_that_only_the_tuned_model_would_meet(self) -> None:
        damaged = self.here / "damaged.h5"
        shutil.copy(self.quantized, damaged)
        with h5py.File(damaged, "r+") as file:
            file.attrs["quantization"] = 3
        self.refuse(str(damaged), "'quantization' of '/' is not a text", model=damaged)

    def test_missing_files(self) -> None:
        for flag in ("model", "teacher", "tokens"):
            self.refuse("none.h5", **{flag: self.here / "none.h5"})
        self.refused(self.tune(self.here / "none" / "out.h5", "--quiet", steps=1), "none")

    def test_rates_that_blow_up(self) -> None:
        self.refuse("step 2", "not finite", steps=5, lr=1e6, lamb="off", code_lr=1)

    def test_nan_rate(self) -> None:
        for flag in ("lr", "tau", "final_rate"):
            self.refuse("--" + flag.replace("_", "-"), "not a number", steps=1, **{flag: "nan"})

    def test_full_disk(self) -> None:
        def limit(size: int) -> Any:
            def set_limit() -> None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            return set_limit

        whole = self.here / "whole.h5"
        self.result(self.tune(whole, "--json", steps=1))
        size = whole.stat().st_size
        for allowed in (4_000, size // 2, size - 100):
            with self.subTest(allowed):
                self.refuse("out.h5", preexec=limit(allowed))
        # Room for what the plan counts and not for all of a checkpoint: a run that cannot save goes on, and says so.
        out = self.here / "out.h5"
        plan = self.result(self.tune(out, "--dry-run", "--json"))
        done = self.tune(out, "--json", steps=6, checkpoint_every=2, preexec=limit(plan["bytes_written"] // 2 + 64))
        self.result(done)
        for step in (2, 4):
            self.assertIn(f"warning: no checkpoint after step {step}: {out}.checkpoint", done.stderr)
        self.assertEqual(self.files_of(out), [out.name])

    def test_plan_has_room_for_two_checkpoints(self) -> None:
        for precision in ("f32", "bf16"):
            out = self.here / f"{precision}.h5"
            plan = self.result(self.tune(out, "--dry-run", "--json", precision=precision))
            self.result(self.tune(out, "--json", "--keep-checkpoint", steps=1, precision=precision))
            with h5py.File(str(out) + ".checkpoint") as checkpoint:
                sizes: list[int] = []
                checkpoint.visititems(lambda _, item: sizes.append(item.size * item.id.get_type().get_size()
                                                                   if isinstance(item, h5py.Dataset) else 0))
            self.assertGreaterEqual(plan["bytes_written"], 2 * sum(sizes), precision)
            self.assertLess(plan["bytes_written"], 2.5 * sum(sizes), precision)

    def test_plan_of_the_disk_counts_what_is_written(self) -> None:
        out = self.here / "out.h5"

        def planned(*switches: str, **flags: Any) -> int:
            return self.result(self.tune(out, "--dry-run", "--json", *switches, **flags))["bytes_written"]

        def codes() -> int:
            with h5py.File(str(out) + ".checkpoint") as checkpoint:
                return sum(group["history"].nbytes for group in checkpoint["v"].values() if "history" in group)

        without = planned(checkpoint_every=0)
        self.result(self.tune(out, "--json", "--keep-checkpoint", "--measure-v", steps=1))
        self.assertGreater(codes(), 0)
        # One copy of the codes a checkpoint, of the three that --measure-v has in memory.
        self.assertEqual(planned("--measure-v") - planned(), 2 * codes())
        # The one that is there goes only when another is whole.
        self.assertEqual(planned(checkpoint_every=0), planned())
        self.assertGreater(planned(), without)

    def test_a_file_in_the_checkpoints_place(self) -> None:
        checkpoint = self.here / "out.h5.checkpoint"
        for content, words in ((b"a letter", "did not write"), (self.model.read_bytes(), "store of 'weights'")):
            checkpoint.write_bytes(content)
            self.refused(self.tune(self.here / "out.h5", "--quiet", steps=2), str(checkpoint), words)
            self.assertEqual(checkpoint.read_bytes(), content)

    def test_a_log_that_cannot_be_written_keeps_the_state(self) -> None:
        out = self.here / "out.h5"
        self.refused(self.tune(out, steps=4, log="/dev/full"), "/dev/full", f"{out}.checkpoint", "--resume")
        self.assertEqual(self.files_of(out), [out.name + ".checkpoint"])
        resumed = self.result(self.tune(out, "--json", "--resume", steps=4))["content_hash"]
        straight = self.result(self.tune(self.here / "straight.h5", "--json", steps=4))["content_hash"]
        self.assertEqual(resumed, straight)

    def test_a_model_that_cannot_be_written_keeps_the_state(self) -> None:
        out, log = self.here / "out.h5", self.here / "log.jsonl"
        process = self.begin(out, "--quiet", steps=100, log=log)
        self.wait_for(log, 1, process)
        out.mkdir()  # where the model shall be
        _, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 2, errors)
        for words in ("is a folder", f"{out}.checkpoint", "--resume"):
            self.assertIn(words, errors)
        out.rmdir()
        resumed = self.result(self.tune(out, "--json", "--resume", steps=100))["content_hash"]
        self.assertEqual(resumed, self.result(self.tune(self.here / "straight.h5", "--json", steps=100))["content_hash"])

    def test_norms_are_kept_in_32_bits(self) -> None:
        """A step moves them by less than 16 bits tell apart."""
        halves = {name: weight.astype(np.float16) for name, weight in tensors().items()}
        model, quantized, out = (self.here / name for name in ("half.h5", "q.h5", "out.h5"))
        self.result(run("import", "--from", write_folder(self.here / "hf", halves), "--out", model, "--json"))
        self.result(run("quantize", "--model", model, "--code-bits", 4, "--calibrate", self.tokens, "--sequences", 8,
                        "--ctx", 32, "--out", quantized, "--json"))
        self.result(self.tune(out, "--json", steps=2, model=quantized, teacher=model, lr=1e-5))
        norm = "model.layers.1.input_layernorm.weight"
        with h5py.File(model) as start, h5py.File(quantized) as calibrated, h5py.File(out) as tuned:
            values = [file["tensors"][norm][...] for file in (start, calibrated, tuned)]
            self.assertEqual([value.dtype for value in values], ["f2", "f4", "f4"])
            self.assertLess(0, np.abs(values[2] - values[1]).max())
            self.assertEqual(tuned["tensors"]["model.embed_tokens.weight"].dtype, "f2")
        self.result(run("eval", "--model", out, "--tokens", self.tokens, "--ctx", 64, "--json"))

    def test_the_output_is_no_input(self) -> None:
        for flag, path in (("--model", self.quantized), ("--teacher", self.model), ("--tokens", self.tokens)):
            content = path.read_bytes()
            link = self.here / flag
            link.symlink_to(path)
            self.refused(self.tune(link, steps=1), flag, "name another")
            self.assertEqual(path.read_bytes(), content)

    def test_an_unfinished_run_is_named_before_it_is_replaced(self) -> None:
        out = self.here / "out.h5"
        self.refused(self.tune(out, steps=4, log="/dev/full"), "/dev/full")
        done = self.tune(out, "--json", steps=1)
        self.result(done)
        self.assertIn(f"warning: {out}.checkpoint is of a run that did not end", done.stderr)


if __name__ == "__main__":
    unittest.main()
