#!/usr/bin/env python3
"""Times PyTorch on what pvtune does: evaluation, teacher + forward + backward, and a whole PV step.

    scripts/baseline_torch.py --model DIR --tokens tokens.h5 [--measure eval gradients step] [--precision f32 bf16]

Every measurement runs in a process of its own, so that its peak memory is its own, and starts with warm-up rounds. What
is measured:
- eval: forward only over windows of --ctx tokens and their negative log-likelihood, one window at a time;
- gradients: teacher forward, student forward and backward of the KL divergence over --batch x --ctx tokens;
- step: the same and the P and V step on all matrices of all blocks (baseline/pv.py), Adam on the rest.
bf16 computes in bf16 with weights and gradients in f32 (what autocast does, less its overhead); eval holds bf16 weights.
The model is plain PyTorch (baseline/llama.py). --compile auto uses torch.compile where a C++ compiler and Python's
headers let it. The last line of standard output is one JSON object.
"""

from __future__ import annotations

import os
import sys

# Not this folder: its tokenize.py has the name of a module of Python.
sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "baseline")

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sysconfig  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from importlib.metadata import version  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

MEASUREMENTS = ("eval", "gradients", "step")
PRECISIONS = ("f32", "bf16")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="Hugging Face folder; without it random weights of SmolLM2-135M's shape")
    parser.add_argument("--tokens", type=Path, help="HDF5 file with /tokens; without it random tokens")
    parser.add_argument("--measure", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--ctx", type=int, default=1024, help="tokens a window (default %(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="windows a step (default %(default)s)")
    parser.add_argument("--windows", type=int, default=4, help="windows an evaluation round (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds (default %(default)s)")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before (default %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all, %(default)s")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def can_compile() -> bool:
    """Whether torch.compile has what it needs for CPU code."""
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return shutil.which(os.environ.get("CXX", "g++")) is not None and headers.exists()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(options: argparse.Namespace, run: Callable[[int], float]) -> dict[str, Any]:
    """Runs the warm-up and the timed rounds; `run` takes the round's number and returns a loss."""
    seconds, losses = [], []
    for number in range(options.warmup + options.repeats):
        start = time.perf_counter()
        losses.append(run(number))
        seconds.append(time.perf_counter() - start)
        kind = "warm-up" if number < options.warmup else "round"
        print(f"{kind} {number + 1}: {seconds[-1]:.2f} s, loss {losses[-1]:.4f}", file=sys.stderr)
    seconds = seconds[options.warmup :]
    return {
        "seconds_best": min(seconds),
        "seconds_mean": sum(seconds) / len(seconds),
        "seconds": seconds,
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }


def read_tokens(options: argparse.Namespace, count: int, vocabulary: int) -> Any:
    """The first `count` tokens as int64, from the file or at random."""
    import torch

    if options.tokens is None:
        return torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(options.seed))
    import h5py

    with h5py.File(options.tokens) as file:
        if "tokens" not in file or len(file["tokens"]) < count:
            raise ValueError(f"{options.tokens}: needs a dataset /tokens of at least {count} tokens")
        tokens = torch.from_numpy(file["tokens"][:count].astype("int64"))
    if tokens.max() >= vocabulary:
        raise ValueError(f"{options.tokens}: token {tokens.max()} is beyond the model's vocabulary of {vocabulary}")
    return tokens


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One measurement in one precision, in this process."""
    import torch

    import llama
    import pv

    (what,), (precision,) = options.measure, options.precision
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    compiled = options.compile == "on" or (options.compile == "auto" and can_compile())
    compute = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    if options.model is None:
        shape = llama.Shape()
        weights = llama.random_weights(shape, options.seed)
    else:
        shape, weights = llama.load(options.model)
    model = llama.Llama(shape, compiled)
    rounds = options.warmup + options.repeats
    result: dict[str, Any] = {"measure": what, "precision": precision, "compiled": compiled, "threads": options.threads}

    if what == "eval":
        tokens = read_tokens(options, options.windows * options.ctx, shape.vocabulary).view(-1, 1, options.ctx)
        weights = {name: weight.to(compute) for name, weight in weights.items()}
        predictions = options.windows * (options.ctx - 1)

        @torch.inference_mode()
        def evaluate(_: int) -> float:
            return sum(model.nll(weights, window, compute) for window in tokens) / predictions

        result |= timed(options, evaluate)
        result["tokens_per_second_best"] = predictions / result["seconds_best"]
        result["tokens_per_second_mean"] = predictions / result["seconds_mean"]
        result["peak_bytes"] = peak_bytes()
        return result

    tokens = read_tokens(options, rounds * options.batch * options.ctx, shape.vocabulary)
    tokens = tokens.view(rounds, options.batch, options.ctx)
    teacher = {name: weight.to(compute) for name, weight in weights.items()}
    matrices, others = {}, {}
    for name, weight in weights.items():
        if weight.dim() == 2 and name != llama.EMBEDDING:
            matrices[name] = pv.quantise(weight, options.seed)
        else:
            others[name] = weight.clone().requires_grad_()
    del weights
    student = {name: matrix.weight for name, matrix in matrices.items()} | others
    tuner = None
    if what == "step":
        moved = [pv.Continuous(leaf.detach()) for leaf in others.values()]
        tuner = pv.Tuner(list(matrices.values()), moved, options.threads, compiled)
    else:  # the buffers and moments belong to the PV step
        matrices.clear()
    parts: list[float] = []

    def step(number: int) -> float:
        for leaf in student.values():
            leaf.grad = None
        loss = model.divergence(student, teacher, tokens[number], compute)
        loss.backward()
        if tuner is not None:
            start = time.perf_counter()
            tuner.step([leaf.grad for leaf in others.values()])
            parts.append(time.perf_counter() - start)
            print(f"  P and V step {parts[-1]:.2f} s, {tuner.changed} groups changed", file=sys.stderr)
        return loss.item()

    result |= timed(options, step)
    result["tokens"] = options.batch * options.ctx
    if tuner is not None:
        result["p_and_v_seconds_best"] = min(parts[options.warmup :])
    result["peak_bytes"] = peak_bytes()
    return result


def in_own_process(options: argparse.Namespace, what: str, precision: str) -> dict[str, Any]:
    """Runs this script for one measurement and returns its JSON object."""
    command = [sys.executable, __file__, "--child", "--measure", what, "--precision", precision]
    for name in ("model", "tokens", "ctx", "batch", "windows", "repeats", "warmup", "threads", "compile", "seed"):
        value = getattr(options, name)
        if value is not None:
            command += [f"--{name}", str(value)]
    print(f"PyTorch: {what} {precision}", file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"measurement {what} {precision} failed with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    options = arguments()
    try:
        if options.child:
            print(json.dumps(measure(options)))
            return 0
        results = [in_own_process(options, what, kind) for what in options.measure for kind in options.precision]
        print(json.dumps({"torch": version("torch"), "measurements": results}))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"baseline_torch: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
