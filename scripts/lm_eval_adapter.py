#!/usr/bin/env python3
"""Drive a pvtune model from EleutherAI's lm-eval, or score a small multiple-choice task without it.

A task is a file of JSON lines {"question": "text", "choices": ["text", ...], "answer": index}.
"""

import os
import sys

_LIB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
if __name__ == "__main__":
    sys.path[0] = _LIB
    import environment  # noqa: F401
else:  # a library here: the program that imports it keeps its Python
    sys.path.insert(0, _LIB)

import argparse  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Optional, Sequence  # noqa: E402

from errors import Error, one_line, run  # noqa: E402
from hf_tokenizer import encodable, load_tokenizer  # noqa: E402

if __name__ != "__main__":
    sys.path.remove(_LIB)

_PVTUNE = Path(__file__).resolve().parents[1] / "build" / "pvtune"
_MOST_NEW_TOKENS = 256  # lm-eval's own default


class PvtuneModel:
    """A model behind `pvtune score` and `pvtune generate`; texts in, numbers and texts out."""

    def __init__(self, model: str, tokenizer: str, pvtune: str = "", device: str = "cpu", precision: str = "f32",
                 ctx: int = 0, threads: int = 0) -> None:
        import h5py

        self.model, self.tokenizer_path = str(model), str(tokenizer)
        self.pvtune = str(pvtune or os.environ.get("PVTUNE") or _PVTUNE)
        self.flags = ["--device", device, "--precision", precision, "--quiet", "--json"]
        self.flags += ["--threads", str(threads)] if threads else []
        self.tokenizer, _ = load_tokenizer(Path(tokenizer))
        try:
            with h5py.File(self.model) as store:
                config = json.loads(bytes(store.attrs["config"]).decode("utf-8"))
        except (OSError, KeyError, ValueError) as error:
            raise Error(f"{self.model}: not a weights file of pvtune ({one_line(error)})") from error
        self.ctx = int(ctx) or int(config["max_position_embeddings"])
        begins = [config.get(key) for key in ("bos_token_id", "eos_token_id")]
        begins = [token[0] if isinstance(token, list) else token for token in begins if token not in (None, [])]
        self.prefix = begins[0] if begins else 0  # what an empty context stands for
        # As `pvtune generate --bos auto`, and as the harness does for these models.
        self.begin = [self.prefix] if str(config.get("model_type", "")).startswith("gemma") else []

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of the whole text, split after the context's; spaces go with the word that they precede."""
        stripped = context.rstrip()
        if not stripped:
            return [self.prefix], self.encode(context + continuation)
        first, whole = self.encode(stripped), self.encode(context + continuation)
        if len(whole) <= len(first):
            return self.begin + first, self.encode(context[len(stripped):] + continuation)
        return self.begin + whole[: len(first)], whole[len(first) :]

    def score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation and whether it is what greedy decoding gives."""
        if not pairs:
            return []
        with tempfile.TemporaryDirectory(prefix="pvtune-score-") as folder:
            requests, answers = Path(folder) / "requests.jsonl", Path(folder) / "answers.jsonl"
            requests.write_text("".join(json.dumps({"context": context, "continuation": continuation}) + "\n"
                                        for context, continuation in pairs), encoding="utf-8")
            self._run("score", "--model", self.model, "--requests", str(requests), "--out", str(answers), "--ctx",
                      str(self.ctx))
            found = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
        return [(answer["loglikelihood"], answer["is_greedy"]) for answer in found]

    def log_likelihoods(self, texts: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        return self.score([self.encode_pair(context, continuation) for context, continuation in texts])

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """Log-likelihood of whole texts: every token predicted once, in windows of the context's length."""
        pairs: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for index, text in enumerate(texts):
            tokens = [self.prefix, *self.encode(text)]
            for start in range(1, len(tokens), self.ctx):
                end = min(start + self.ctx, len(tokens))
                pairs.append((tokens[max(0, end - 1 - self.ctx) : start], tokens[start:end]))
                owners.append(index)
        sums = [0.0] * len(texts)
        for owner, (value, _) in zip(owners, self.score(pairs)):
            sums[owner] += value
        return sums

    def generate(self, prompt: str, until: Sequence[str], most: int = _MOST_NEW_TOKENS, temperature: float = 0) -> str:
        """What follows the prompt, up to the first of the stops."""
        most = max(1, min(most, self.ctx - 1))
        tokens = (self.encode(prompt) or [self.prefix])[-(self.ctx - most) :]
        prompt = self.tokenizer.decode(tokens, skip_special_tokens=False)
        result = self._run("generate", "--model", self.model, "--tokenizer", self.tokenizer_path, "--prompt-file", "-",
                           "--max-tokens", str(most), "--temperature", str(temperature), stdin=prompt)
        text = result["text"].removeprefix(prompt)
        for stop in until:
            text = text.split(stop)[0] if stop else text
        return text

    def _run(self, *words: str, stdin: str = "") -> dict[str, Any]:
        """A command of pvtune; its result."""
        try:
            done = subprocess.run([self.pvtune, *words, *self.flags], input=stdin, capture_output=True, encoding="utf-8",
                                  check=False)
        except OSError as error:
            raise Error(f"{self.pvtune}: cannot be started ({error.strerror}): run `make build`") from error
        if done.returncode != 0:
            raise Error(one_line(done.stderr) or f"{self.pvtune} {words[0]}: ended with status {done.returncode}")
        return json.loads(done.stdout.rstrip("\n").rsplit("\n", 1)[-1])


try:
    from lm_eval.api.model import LM as _LM
except ImportError:
    _LM = None

if _LM is not None:

    class PvtuneLM(_LM):
        """What lm-eval calls; the arguments are those of PvtuneModel."""

        def __init__(self, **arguments: Any) -> None:
            super().__init__()
            self.pvtune_model = PvtuneModel(**arguments)

        def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            return self.pvtune_model.log_likelihoods([request.args for request in requests])

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            return self.pvtune_model.rolling([request.args[0] for request in requests])

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            texts = []
            for request in requests:
                prompt, settings = request.args
                until = settings.get("until") or []
                temperature = settings.get("temperature") or 0 if settings.get("do_sample") else 0
                texts.append(self.pvtune_model.generate(prompt, [until] if isinstance(until, str) else until,
                                                        int(settings.get("max_gen_toks") or _MOST_NEW_TOKENS),
                                                        temperature))
            return texts


def read_task(path: Path) -> list[dict[str, Any]]:
    """The questions of a task."""
    questions = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise Error(f"{path}, line {number}: not a JSON object ({one_line(error)})") from error
        good = (isinstance(item, dict) and isinstance(item.get("question"), str)
                and isinstance(item.get("choices"), list) and len(item["choices"]) > 1
                and all(isinstance(choice, str) and choice.strip() for choice in item["choices"])
                and type(item.get("answer")) is int and 0 <= item["answer"] < len(item["choices"]))
        if not good:
            raise Error(f"{path}, line {number}: expected a question, two or more choices and the answer's index")
        questions.append({**item, "question": encodable(item["question"]), "choices": list(map(encodable, item["choices"]))})
    if not questions:
        raise Error(f"{path}: holds no question")
    return questions


def run_task(model: PvtuneModel, questions: list[dict[str, Any]]) -> dict[str, Any]:
    """acc: the choice of the largest log-likelihood is the answer; acc_norm: divided by the choice's characters."""
    pairs, lengths = [], []
    for item in questions:
        for choice in item["choices"]:
            pairs.append((item["question"], choice if choice[0].isspace() else " " + choice))
            lengths.append(len(choice))
    scores = iter(zip(model.log_likelihoods(pairs), lengths))
    right = right_norm = 0
    for item in questions:
        values = [(value, value / length) for (value, _), length in (next(scores) for _ in item["choices"])]
        best, best_norm = (max(range(len(values)), key=lambda index: values[index][kind]) for kind in (0, 1))
        right += best == item["answer"]
        right_norm += best_norm == item["answer"]
    count = len(questions)
    return {"questions": count, "acc": right / count, "acc_norm": right_norm / count}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Accuracy of a pvtune model on a multiple-choice task, without lm-eval.",
        epilog="example: scripts/lm_eval_adapter.py --model q.h5 --tokenizer tokenizer.json --task task.jsonl; "
        "with lm-eval: docs/evaluation.md",
    )
    parser.add_argument("--model", required=True, metavar="FILE", help="weights file, dense or quantised")
    parser.add_argument("--tokenizer", required=True, metavar="FILE", help="the model's own tokenizer.json")
    parser.add_argument("--task", type=Path, required=True, metavar="FILE",
                        help='JSON lines {"question", "choices", "answer"}')
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="f32", choices=("f32", "bf16"))
    parser.add_argument("--ctx", type=int, default=0, metavar="N", help="tokens at most (0: the model's)")
    arguments = parser.parse_args()
    questions = read_task(arguments.task)
    model = PvtuneModel(arguments.model, arguments.tokenizer, device=arguments.device, precision=arguments.precision,
                        ctx=arguments.ctx)
    print(json.dumps(run_task(model, questions)))


if __name__ == "__main__":
    run(main)
