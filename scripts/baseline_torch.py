#!/usr/bin/env python3
"""Times PyTorch on what pvtune does: evaluation, teacher + forward + backward, and a whole PV step.

    scripts/baseline_torch.py --model DIR --tokens tokens.h5 [--measure eval gradients step] [--precision f32 bf16]
    scripts/baseline_torch.py --config config.json --device cuda --ctx 4096 --batch 4 --measure step --precision bf16

Every measurement runs in a process of its own, so that its peak memory is its own, and starts with warm-up rounds. What
is measured:
- eval: forward only over windows of --ctx tokens and their negative log-likelihood, one window at a time;
- gradients: teacher forward, student forward and backward of the KL divergence over --batch x --ctx tokens;
- step: the same and the P and V step on all matrices of all blocks (baseline/pv.py), Adam on the rest.
bf16 computes in bf16 with weights and gradients in f32 (what autocast does, less its overhead); eval holds bf16 weights.
The model is plain PyTorch (baseline/llama.py). --compile auto uses torch.compile where a C++ compiler and Python's
headers let it (on a GPU: a C compiler, the headers and Triton). On a GPU a round ends when the device is done, and peak
memory is what PyTorch had allocated there. The last line of standard output is one JSON object.
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
from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

MEASUREMENTS = ("eval", "gradients", "step")
PRECISIONS = ("f32", "bf16")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", type=Path, help="Hugging Face folder; without it random weights of SmolLM2-135M's shape")
    model.add_argument("--config", type=Path, help="config.json of a model: random weights of its shape")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
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


def can_compile(device: str) -> bool:
    """Whether torch.compile has what it needs for code of the device."""
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if device == "cpu":
        return shutil.which(os.environ.get("CXX", "g++")) is not None and headers.exists()
    compilers = filter(None, (os.environ.get("CC"), "gcc", "clang"))
    return any(map(shutil.which, compilers)) and headers.exists() and find_spec("triton") is not None


def peak_bytes(device: str) -> int:
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Stopwatch:
    """Seconds between two points of the work, on a GPU by its own clock: looking at the host's would hold it up."""

    def __init__(self, device: str) -> None:
        import torch

        self.cuda = torch.cuda if device == "cuda" else None
        self.points: list[Any] = []

    def point(self) -> None:
        if self.cuda is None:
            self.points.append(time.perf_counter())
            return
        self.points.append(self.cuda.Event(enable_timing=True))
        self.points[-1].record()

    def seconds(self) -> float:
        """Once the device is done."""
        start, end = self.points
        self.points = []
        return end - start if self.cuda is None else start.elapsed_time(end) * 1e-3


def timed(options: argparse.Namespace, run: Callable[[int], float]) -> dict[str, Any]:
    """Runs the warm-up and the timed rounds; `run` takes the round's number and returns a loss."""
    import torch

    seconds, losses = [], []
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    for number in range(options.warmup + options.repeats):
        start = time.perf_counter()
        losses.append(run(number))
        if options.device == "cuda":
            torch.cuda.synchronize()
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

    (what,), (precision,), device = options.measure, options.precision, options.device
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, in the beam search
    compiled = options.compile == "on" or (options.compile == "auto" and can_compile(device))
    compute = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    if options.model is None:
        shape = llama.Shape() if options.config is None else llama.read_shape(options.config)
        weights = llama.random_weights(shape, options.seed, device)
    else:
        shape, weights = llama.load(options.model)
        weights = {name: weight.to(device) for name, weight in weights.items()}
    model = llama.Llama(shape, compiled, device)
    rounds = options.warmup + options.repeats
    result: dict[str, Any] = {"measure": what, "precision": precision, "compiled": compiled, "threads": options.threads}
    if device == "cuda":
        result |= {"device": torch.cuda.get_device_name(), "shared_keys": model.shared_keys}

    if what == "eval":
        tokens = read_tokens(options, options.windows * options.ctx, shape.vocabulary).to(device).view(-1, 1, options.ctx)
        weights = {name: weight.to(compute) for name, weight in weights.items()}
        predictions = options.windows * (options.ctx - 1)

        @torch.inference_mode()
        def evaluate(_: int) -> float:
            return sum(model.nll(weights, window, compute) for window in tokens) / predictions

        result |= timed(options, evaluate)
        result["tokens_per_second_best"] = predictions / result["seconds_best"]
        result["tokens_per_second_mean"] = predictions / result["seconds_mean"]
        result["peak_bytes"] = peak_bytes(device)
        return result

    tokens = read_tokens(options, rounds * options.batch * options.ctx, shape.vocabulary)
    tokens = tokens.to(device).view(rounds, options.batch, options.ctx)
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
        tuner = pv.Tuner(list(matrices.values()), moved, options.threads, compiled, device)
    else:  # the buffers and moments belong to the PV step
        matrices.clear()
    parts: list[float] = []
    watch = Stopwatch(device)

    def step(number: int) -> float:
        for leaf in student.values():
            leaf.grad = None
        loss = model.divergence(student, teacher, tokens[number], compute)
        loss.backward()
        if tuner is not None:
            watch.point()
            tuner.step([leaf.grad for leaf in others.values()])
            watch.point()
        value = loss.item()  # waits for the device's work up to the gradients
        if tuner is not None:
            changed = int(tuner.changed)  # and for the rest
            parts.append(watch.seconds())
            print(f"  P and V step {parts[-1]:.2f} s, {changed} groups changed", file=sys.stderr)
        return value

    result |= timed(options, step)
    result["tokens"] = options.batch * options.ctx
    if tuner is not None:
        result["p_and_v_seconds_best"] = min(parts[options.warmup :])
        if device == "cuda":
            result["codebook_sum"] = tuner.codebook_sum.__name__
    result["peak_bytes"] = peak_bytes(device)
    return result


def in_own_process(options: argparse.Namespace, what: str, precision: str) -> dict[str, Any]:
    """Runs this script for one measurement and returns its JSON object."""
    command = [sys.executable, __file__, "--child", "--measure", what, "--precision", precision]
    for name in ("model", "config", "device", "tokens", "ctx", "batch", "windows", "repeats", "warmup", "threads", "seed"):
        value = getattr(options, name)
        if value is not None:
            command += [f"--{name}", str(value)]
    print(f"PyTorch: {what} {precision}", file=sys.stderr)
    # What torch.compile lacks on a machine with a GPU shows when it is used.
    ways = ("auto", "off") if options.compile == "auto" and options.device == "cuda" else (options.compile,)
    for way in ways:
        done = subprocess.run([*command, "--compile", way], stdout=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
    raise RuntimeError(f"measurement {what} {precision} failed with status {done.returncode}")


def main() -> int:
    options = arguments()
    try:
        if options.child:
            print(json.dumps(measure(options)))
            return 0
        if options.device == "cuda":
            import torch

            if not torch.cuda.is_available():
                raise RuntimeError("--device cuda: PyTorch sees no GPU here")
        results = [in_own_process(options, what, kind) for what in options.measure for kind in options.precision]
        print(json.dumps({"torch": version("torch"), "measurements": results}))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"baseline_torch: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
