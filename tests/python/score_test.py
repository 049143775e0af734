"""`pvtune score` and scripts/lm_eval_adapter.py on a tiny model: answers, refusals, what lm-eval would call."""

import json
import math
import os
import shutil
import subprocess
import sys
import types
import unittest
from unittest import mock
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np

from cli_test import CONFIG, PVTUNE, ROOT, VOCABULARY, CommandLine, run, tensors, write_folder

sys.path.insert(0, str(ROOT / "scripts"))


def fake_lm_eval() -> None:
    """The one class of lm-eval that the adapter derives from, where lm-eval is not installed."""
    try:
        import lm_eval.api.model  # noqa: F401
    except ImportError:
        modules = {name: types.ModuleType(name) for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model")}
        modules["lm_eval.api.model"].LM = type("LM", (), {})
        sys.modules.update(modules)


fake_lm_eval()
import lm_eval_adapter  # noqa: E402


class Scores(CommandLine):
    """The command."""

    def score(self, requests: list[Any], *flags: Any, model: Any = None) -> list[dict[str, Any]]:
        source, out = self.here / "in.jsonl", self.here / "out.jsonl"
        source.write_text("".join(json.dumps(request) + "\n" for request in requests))
        done = run("score", "--model", model or self.model, "--requests", source, "--out", out, "--json", *flags)
        self.summary = self.result(done)
        self.assertFalse((self.here / "out.jsonl.partial").exists())
        return [json.loads(line) for line in out.read_text().splitlines()]

    def random_requests(self, count: int) -> list[dict[str, list[int]]]:
        random = np.random.default_rng(4)
        return [{"context": random.integers(0, VOCABULARY, random.integers(1, 60)).tolist(),
                 "continuation": random.integers(0, VOCABULARY, random.integers(1, 9)).tolist()}
                for _ in range(count)]

    def test_together_as_one_by_one(self) -> None:
        requests = self.random_requests(6)
        for model in (self.model, self.quantized):
            together = self.score(requests, model=model)
            self.assertEqual([answer["id"] for answer in together], list(range(6)))
            self.assertEqual(self.summary["requests"], 6)
            self.assertEqual(self.summary["tokens"], sum(len(request["continuation"]) for request in requests))
            for request, answer in zip(requests, together):
                alone = self.score([request], model=model)[0]
                self.assertAlmostEqual(answer["loglikelihood"] / alone["loglikelihood"], 1, delta=1e-5)
                self.assertEqual(answer["is_greedy"], alone["is_greedy"])
                self.assertEqual(answer["tokens"], len(request["continuation"]))

    def test_agrees_with_eval(self) -> None:
        import h5py

        with h5py.File(self.tokens) as store:
            tokens = store["tokens"][:192].tolist()
        nll = self.result(run("eval", "--model", self.model, "--tokens", self.tokens, "--ctx", 64, "--windows", 3,
                              "--json"))["nll"]
        answers = self.score([{"context": tokens[i:i + 1], "continuation": tokens[i + 1:i + 64]}
                              for i in (0, 64, 128)])
        self.assertAlmostEqual(-sum(answer["loglikelihood"] for answer in answers) / (3 * 63) / nll, 1, delta=1e-5)

    def test_greedy_and_sums(self) -> None:
        # The greedy continuation is the one token that is_greedy; probabilities of all tokens make 1.
        answers = self.score([{"id": str(token), "context": [5, 6, 7], "continuation": [token]}
                              for token in range(VOCABULARY)])
        self.assertAlmostEqual(sum(math.exp(answer["loglikelihood"]) for answer in answers), 1, delta=1e-4)
        best = max(answers, key=lambda answer: answer["loglikelihood"])
        self.assertEqual([answer["id"] for answer in answers if answer["is_greedy"]], [best["id"]])
        text = self.result(run("generate", "--model", self.model, "--tokenizer", self.tokenizer, "--prompt",
                               "w5 w6 w7", "--max-tokens", 3, "--json", PVTUNE_PYTHON=sys.executable))["text"]
        follows = [int(word[1:]) for word in text.split()[3:]]
        if follows:  # the model may end the text at once
            other = [*follows[:-1], (follows[-1] + 1) % VOCABULARY]
            answers = self.score([{"context": [5, 6, 7], "continuation": each} for each in (follows, other)])
            self.assertEqual([answer["is_greedy"] for answer in answers], [True, False])

    def test_texts_are_tokens(self) -> None:
        texts = self.score([{"context": "w5 w6 ", "continuation": "w7 w8"}], "--tokenizer", self.tokenizer)
        tokens = self.score([{"context": [5, 6], "continuation": [7, 8]}])
        self.assertEqual(texts, tokens)

    def test_context_is_cut_on_the_left(self) -> None:
        context = [3 + i % 50 for i in range(100)]
        cut = self.score([{"context": context, "continuation": [9, 10]}], "--ctx", 16)
        self.assertEqual(self.summary["contexts_cut"], 1)
        whole = self.score([{"context": context[-15:], "continuation": [9, 10]}])
        self.assertAlmostEqual(cut[0]["loglikelihood"], whole[0]["loglikelihood"], delta=1e-4)

    def test_texts_begin_with_the_models_token(self) -> None:
        folder = write_folder(self.here / "hf", tensors(), {**CONFIG, "bos_token_id": 1})
        model = self.here / "model.h5"
        self.result(run("import", "--from", folder, "--out", model, "--json"))
        flags = ("--tokenizer", self.tokenizer, "--bos", "on")
        long = [3 + i % 50 for i in range(20)]
        text = " ".join(f"w{i}" for i in long)
        for context, tokens in (("w5 w6", [1, 5, 6]), ("w1 w6", [1, 6]), ("", [1]), (text, [1, *long[-14:]])):
            self.assertEqual(self.score([{"context": context, "continuation": " w7 w8"}], *flags, "--ctx", 16, model=model),
                             self.score([{"context": tokens, "continuation": [7, 8]}], *flags, model=model))
        self.assertNotEqual(self.score([{"context": "w5", "continuation": "w7"}], *flags, model=model),
                            self.score([{"context": "w5", "continuation": "w7"}], *flags[:2], model=model))

    def test_what_is_read_is_not_written(self) -> None:
        requests = self.here / "in.jsonl"
        requests.write_text('{"context": [1], "continuation": [2]}\n')
        command = ("score", "--model", self.model, "--requests", requests, "--tokenizer", self.tokenizer)
        for path, flags in ((self.model, ("--out", self.model)), (self.tokenizer, ("--out", self.tokenizer)),
                            (requests, ("--out", self.here / "o", "--log", requests))):
            content = path.read_bytes()
            self.refused(run(*command, *flags, "--quiet"), str(path))
            self.assertEqual(path.read_bytes(), content)

    def test_bad_lines(self) -> None:
        good = '{"context": [1], "continuation": [2]}\n'
        out = self.here / "out.jsonl"
        for line, word in (("{", "JSON"), ("[1]", "JSON"), ('{"context": [1]}', "continuation"),
                           ('{"context": [], "continuation": [1]}', "context"),
                           ('{"context": [1], "continuation": []}', "continuation"),
                           ('{"context": [64], "continuation": [1]}', "token 64"),
                           ('{"context": [-1], "continuation": [1]}', "-1"),
                           ('{"context": [1.5], "continuation": [1]}', "1.5"),
                           ('{"context": "w1", "continuation": "w2"}', "--tokenizer"),
                           ('{"context": [1], "continuation": [1], "until": 3}', "until"),
                           ('{"context": [1], "continuation": [1], "id": {}}', "id"),
                           (json.dumps({"context": [1], "continuation": [1] * 200}), "--ctx")):
            source = self.here / "in.jsonl"
            source.write_text(good + line + "\n" + good)
            self.refused(run("score", "--model", self.model, "--requests", source, "--out", out), "in.jsonl, line 2",
                         word, nothing_at=out)
        source.write_text("\n")
        self.refused(run("score", "--model", self.model, "--requests", source, "--out", out), "no request")
        source.write_text(good)
        self.refused(run("score", "--model", self.model, "--requests", source, "--out", source), "--out")
        self.refused(run("score", "--model", self.model, "--requests", source, "--out", self.here / "no" / "x"), "no")
        self.assertEqual(source.read_text(), good)

    def test_dry_run(self) -> None:
        source = self.here / "in.jsonl"
        source.write_text('{"context": [1], "continuation": [2]}\n')
        plan = self.result(run("score", "--model", self.model, "--requests", source, "--out", self.here / "o",
                               "--dry-run", "--json"))
        self.assertGreater(plan["memory_bytes"], 0)
        self.assertFalse((self.here / "o").exists())


class Adapter(CommandLine):
    """Tasks, and the calls of lm-eval."""

    def lm(self, **settings: Any) -> Any:
        return lm_eval_adapter.PvtuneLM(model=self.model, tokenizer=self.tokenizer, pvtune=PVTUNE, threads=1,
                                        **settings)

    def test_loglikelihood(self) -> None:
        lm = self.lm()
        found = lm.loglikelihood([SimpleNamespace(args=("w5 w6", " w7")), SimpleNamespace(args=("", "w7"))])
        self.assertEqual(found, lm.pvtune_model.score([([5, 6], [7]), ([2], [7])]))  # 2: eos stands for no context
        self.assertEqual(len(found[0]), 2)

    def test_a_gemma_reads_no_context_without_its_first_token(self) -> None:
        with h5py.File(shutil.copy(self.model, self.here / "gemma.h5"), "r+") as store:
            config = json.loads(bytes(store.attrs["config"]))
            del store.attrs["config"]
            store.attrs["config"] = np.bytes_(json.dumps({**config, "model_type": "gemma2", "bos_token_id": 1}))
        lm = lm_eval_adapter.PvtuneModel(model=self.here / "gemma.h5", tokenizer=self.tokenizer)
        self.assertEqual(lm.encode_pair("w5 w6", " w7"), ([1, 5, 6], [7]))
        self.assertEqual(lm.encode_pair("", "w7"), ([1], [7]))

    def test_lines_that_only_unicode_ends(self) -> None:
        lm = self.lm(ctx=64).pvtune_model
        with mock.patch.object(lm_eval_adapter.subprocess, "run") as run_it:
            run_it.return_value = SimpleNamespace(returncode=0, stdout='w5\u2028w6\n{"text": "w5\u2028w6 w7"}\n', stderr="")
            self.assertEqual(lm._run("generate")["text"], "w5\u2028w6 w7")

    def test_rolling_predicts_every_token_once(self) -> None:
        tokens = [3 + i * 7 % 50 for i in range(21)]
        text = " ".join(f"w{token}" for token in tokens)
        lm = self.lm(ctx=8)
        all_tokens = [2, *tokens]
        windows = [(all_tokens[:1], all_tokens[1:9]), (all_tokens[8:9], all_tokens[9:17]),
                   (all_tokens[13:17], all_tokens[17:22])]
        expected = sum(value for value, _ in lm.pvtune_model.score(windows))
        self.assertAlmostEqual(lm.loglikelihood_rolling([SimpleNamespace(args=(text,))])[0], expected, places=6)

    def test_generate_until(self) -> None:
        os.environ["PVTUNE_PYTHON"] = sys.executable
        self.addCleanup(os.environ.pop, "PVTUNE_PYTHON", None)
        lm = self.lm()
        settings = {"until": [], "max_gen_toks": 6}
        whole = lm.generate_until([SimpleNamespace(args=("w5 w6", settings))])[0]
        self.assertNotIn("w5 w6", whole[:5])
        if len(whole.split()) > 1:
            stop = whole.split()[1]
            cut = lm.generate_until([SimpleNamespace(args=("w5 w6", {**settings, "until": [stop]}))])[0]
            self.assertEqual(cut, whole.split(stop)[0])

    def test_prompts_that_no_command_takes(self) -> None:
        """As words of it: more than 128 KiB, a NUL, what looks like a flag."""
        lm = self.lm()
        for prompt in ("w5" + " " * 200_000, "w5 \0 w6", "--json"):
            lm.pvtune_model.tokenizer = mock.Mock(**{"decode.return_value": prompt, "encode.return_value.ids": [5]})
            found = lm.generate_until([SimpleNamespace(args=(prompt, {"until": [], "max_gen_toks": 4}))])
            self.assertEqual(len(found), 1)

    def task(self, path: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / "scripts" / "lm_eval_adapter.py", "--model", self.model, "--tokenizer",
                   self.tokenizer, "--task", path]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False,
                              env={**os.environ, "PVTUNE": PVTUNE, "OMP_NUM_THREADS": "1"})

    def test_task(self) -> None:
        lm = self.lm()
        choices = ["w9", "w10 w11", "w12"]
        values = [value for value, _ in lm.pvtune_model.log_likelihoods([("w5 w6", " " + each) for each in choices])]
        best = values.index(max(values))
        norms = [value / len(each) for value, each in zip(values, choices)]
        path = self.here / "task.jsonl"
        path.write_text("".join(json.dumps({"question": "w5 w6", "choices": choices, "answer": answer}) + "\n"
                                for answer in (best, best, (best + 1) % 3, norms.index(max(norms)))))
        done = self.task(path)
        self.assertEqual(done.returncode, 0, done.stderr)
        answers = [best, best, (best + 1) % 3, norms.index(max(norms))]
        self.assertEqual(json.loads(done.stdout),
                         {"questions": 4, "acc": answers.count(best) / 4,
                          "acc_norm": answers.count(norms.index(max(norms))) / 4})

    def test_texts_of_any_characters(self) -> None:
        path = self.here / "task.jsonl"
        path.write_text('{"question": "w5 \\ud83d\u2028w6", "choices": ["w9", "w10 \\udc00"], "answer": 0}\n')
        done = self.task(path)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["questions"], 1)

    def test_bad_tasks(self) -> None:
        path = self.here / "task.jsonl"
        for text in ("", "{", '{"question": "w1", "choices": ["w2"], "answer": 0}',
                     '{"question": "w1", "choices": ["w2", "w3"], "answer": 2}', '{"question": "\udcff"}'):
            path.write_text(text, errors="surrogateescape")
            done = self.task(path)
            self.assertEqual(done.returncode, 2)
            self.assertIn("task.jsonl", done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1)


if __name__ == "__main__":
    unittest.main()
