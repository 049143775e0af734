"""Mutated safetensors, HDF5 and config files through the real program: no crash, no hang, no output under a final name.

    mutated_files.py [--count 10000] [--seed 0] [--jobs 2] [--keep DIR]

Every mutation is one run of pvtune. It may succeed (a changed weight is still a weight) or refuse the file: status 2, one
line on standard error, nothing left behind. Anything else is a fault; its files and command are kept under DIR.
"""

import argparse
import concurrent.futures
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, NamedTuple

import h5py
import numpy

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))
from safetensors.numpy import save_file  # noqa: E402
from tiny_model import weights, write_folder  # noqa: E402

PVTUNE = os.environ.get("PVTUNE", str(ROOT / "build" / "pvtune"))
TIMEOUT = 60  # seconds; a run takes a few hundredths
MEMORY = 8 << 30  # of address space: a size from a hostile file must not be asked for

_EDGES = [0, 1, 2, 7, 8, 255, 256, 65535, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1,
          1 << 63, (1 << 64) - 1]
_JSON_VALUES = [None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**30, 0.5, 1e308, -0.0, "", "x", "llama", "qwen3", "phi3",
                "gemma3_text", "é" * 50, [], {}, [[]], {"a": 1}, [1, 2]]


class Seed(NamedTuple):
    """A good file, the file that takes its place in a run's folder, the command, how it may be changed."""

    name: str
    file: str
    command: list[str]
    mutations: list[Callable[[random.Random, Path], None]]


def bytes_changed(draw: random.Random, path: Path, first: int = 0, last: int = 1 << 62) -> None:
    """One to four changes of bytes between two places: flipped, overwritten, cut out, put in, cut off, copied."""
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 2, 4))):
        end = min(last, len(data))
        if end <= first:
            break
        at = draw.randrange(first, end)
        length = min(draw.choice((1, 2, 4, 8, 64, 1000)), end - at)
        kind = draw.randrange(7)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at : at + length] = draw.randbytes(length)
        elif kind == 2:
            size = draw.choice((1, 2, 4, 8))
            data[at : at + size] = (draw.choice(_EDGES) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = draw.randbytes(length)
        elif kind == 5:
            del data[at:]
        else:
            source = draw.randrange(first, end)
            data[at : at + length] = data[source : source + length]
    path.write_bytes(data)


def json_changed(draw: random.Random, value: Any) -> Any:
    """One change somewhere in a JSON value."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        changed = dict(value)
        kind = draw.randrange(5)
        if kind == 0:
            del changed[key]
        elif kind == 1:
            changed[key + "x"] = changed.pop(key)
        else:
            changed[key] = json_changed(draw, value[key])
        return changed
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        return [*value[:at], json_changed(draw, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and draw.random() < 0.6:
        return draw.choice((value + 1, value - 1, -value, value * 2, value // 2, value << 32, draw.choice(_EDGES), float(value)))
    return draw.choice(_JSON_VALUES)


def config_changed(draw: random.Random, path: Path) -> None:
    """A JSON file with one or two other values."""
    value = json_changed(draw, json.loads(path.read_text()))
    path.write_text(json.dumps(json_changed(draw, value) if draw.random() < 0.3 else value))


def header_changed(draw: random.Random, path: Path) -> None:
    """A safetensors file whose header says something else, of the right length."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json_changed(draw, json.loads(data[8 : 8 + size]))).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])


def header_bytes_changed(draw: random.Random, path: Path) -> None:
    """Bytes of a safetensors file's length and header."""
    bytes_changed(draw, path, 0, 8 + int.from_bytes(path.read_bytes()[:8], "little"))


def store_changed(draw: random.Random, path: Path) -> None:
    """A well-formed HDF5 file with an attribute, a type, a shape, a value or a place that is another."""
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        names: list[str] = [""]
        file.visit(names.append)
        target = file[draw.choice(names) or "/"]
        kind = draw.randrange(6)
        if kind <= 1 and len(target.attrs):
            name = draw.choice(sorted(target.attrs))
            _change_attribute(draw, target, name)
        elif kind == 2 and target.name != "/":
            parent, name = target.parent, target.name
            if draw.random() < 0.5:
                del parent[name]
            else:
                parent.move(name, name + "x")
        elif isinstance(target, h5py.Dataset):
            _change_dataset(draw, target)
        else:
            target.attrs["extra"] = draw.choice((1, "x", 0.5))


def _change_attribute(draw: random.Random, target: Any, name: str) -> None:
    value = target.attrs[name]
    if isinstance(value, bytes):
        try:
            text = json.dumps(json_changed(draw, json.loads(value)))
        except ValueError:
            text = draw.choice(("", "x", "scalar", "quip", "aqlm", "vq", value.decode("utf-8", "replace") * 2))
        target.attrs[name] = draw.choice((numpy.bytes_(text.encode()), 3))
    else:
        changed = draw.choice((*[edge for edge in _EDGES if edge < 1 << 63], int(value) + 1, int(value) - 1, -1, "x", 1.5))
        target.attrs[name] = changed


def _change_dataset(draw: random.Random, dataset: Any) -> None:
    parent, name, data = dataset.parent, dataset.name, dataset[...]
    kind = draw.randrange(4)
    if kind == 0 and data.size:
        flat = data.reshape(-1)
        some = [draw.randrange(flat.size) for _ in range(3)]
        edge = numpy.nan if data.dtype.kind == "f" or data.dtype.name == "bfloat16" else numpy.iinfo(data.dtype).max
        flat[some] = draw.choice((edge, 0)) if data.dtype.kind != "V" else flat[0]
        dataset[...] = flat.reshape(data.shape)
        return
    del parent[name]
    if kind == 1:
        data = data[: draw.randrange(data.shape[0] + 1)] if data.ndim else data
    elif kind == 2:
        data = data.reshape(-1) if data.ndim > 1 else data.reshape(1, -1)
    else:
        data = data.astype(draw.choice(("<f4", "<f8", "<i4", "<u2", "<u1", "<u4")))
    chunks = tuple(max(1, extent) for extent in data.shape) if data.size else None
    made = parent.create_dataset(name, data=data, chunks=chunks, fletcher32=chunks is not None)
    if chunks is None:
        made.attrs["empty"] = 1


def write_sharded(folder: Path) -> None:
    """The tiny model in two files with an index."""
    write_folder(folder)
    (folder / "model.safetensors").unlink()
    tensors = weights()
    places = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))


def make_seeds(folder: Path) -> list[Seed]:
    """Good files in folder, made by the program itself."""
    def pvtune(*arguments: object) -> None:
        subprocess.run([PVTUNE, *map(str, arguments)], cwd=folder, check=True, capture_output=True, timeout=300)

    write_folder(folder / "hf")
    write_sharded(folder / "sharded")
    (folder / "text.txt").write_text("".join(f"Line {i} for {i * 7919 % 1000} readers.\n" for i in range(60)))
    subprocess.run([sys.executable, str(ROOT / "scripts" / "tokenize.py"), "--tokenizer", "hf/tokenizer.json", "--text",
                    "text.txt", "--out", "tokens.h5"], cwd=folder, check=True, capture_output=True, timeout=300)
    pvtune("import", "--from", "hf", "--out", "model.h5")
    for name, *flags in (("aqlm", "--code-bits", 5), ("scalar", "--group", 32), ("quip",)):
        pvtune("quantize", "--model", "model.h5", "--representation", name, *flags, "--out", f"{name}.h5")
    tune = ["tune", "--model", "aqlm.h5", "--teacher", "model.h5", "--tokens", "tokens.h5", "--batch", "1", "--ctx", "16",
            "--out", "out.h5", "--steps"]
    pvtune(*tune, 1, "--keep-checkpoint")
    os.unlink(folder / "out.h5")
    evaluate = ["eval", "--ctx", "16", "--windows", "2"]
    seeds = [Seed("safetensors", "hf/model.safetensors", ["import", "--from", "hf", "--out", "out.h5"],
                  [bytes_changed, header_bytes_changed, header_changed, header_changed]),
             Seed("config", "hf/config.json", ["import", "--from", "hf", "--out", "out.h5"],
                  [bytes_changed, config_changed, config_changed, config_changed]),
             Seed("index", "sharded/model.safetensors.index.json", ["import", "--from", "sharded", "--out", "out.h5"],
                  [bytes_changed, config_changed])]
    for name, command in (("model", ["quantize", "--model", "model.h5", "--code-bits", "3", "--out", "out.h5"]),
                          ("aqlm", [*evaluate, "--model", "aqlm.h5", "--tokens", "tokens.h5"]),
                          ("aqlm", [*tune, "1"]), ("scalar", [*evaluate, "--model", "scalar.h5", "--tokens", "tokens.h5"]),
                          ("quip", [*evaluate, "--model", "quip.h5", "--tokens", "tokens.h5"]),
                          ("quip", ["inspect", "quip.h5", "--verify"]),
                          ("tokens", [*evaluate, "--model", "model.h5", "--tokens", "tokens.h5"]),
                          ("out.h5.checkpoint", [*tune, "2", "--resume"])):
        file = name if name.endswith("checkpoint") else f"{name}.h5"
        seeds.append(Seed(name, file, command, [bytes_changed, store_changed, store_changed]))
    return seeds


def fault_of(done: subprocess.CompletedProcess, folder: Path, before: set[str], writes: bool) -> str:
    """What is wrong with how a run ended, or nothing."""
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")} - before
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    if done.returncode == 0:
        expected = {"out.h5"} if writes else set()
        return f"left {sorted(left)}" if left != expected else ""
    if done.returncode != 2:
        return f"status {done.returncode}: {lines[-1] if lines else 'nothing said'}"
    told = [line for line in lines if not line.startswith("pvtune: warning: ")]
    if not told or not told[-1].startswith("pvtune: ") or len(told[-1]) > 2000:
        return f"status 2 and no good line: {told[-1:]}"
    return f"refused, but left {sorted(left)}" if left else ""


def limit() -> None:
    """For the child: no core files, no more memory than a hostile size could be told from."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def run_one(good: Path, seeds: list[Seed], seed: int, index: int, keep: Path, mutate: bool = True) -> tuple[str, int, str]:
    """The name of the file, the exit status, and the fault, if any, of mutation number index."""
    draw = random.Random(f"{seed}:{index}")
    chosen = seeds[index % len(seeds)]
    with tempfile.TemporaryDirectory(prefix="pvtune-mutated-") as scratch:
        folder = Path(scratch) / "run"
        shutil.copytree(good, folder, copy_function=os.link)  # only the file that changes is a copy
        target = folder / chosen.file
        target.unlink()
        shutil.copy(good / chosen.file, target)
        if mutate:
            draw.choice(chosen.mutations)(draw, target)
        before = {str(path.relative_to(folder)) for path in folder.rglob("*")}
        if "--resume" not in chosen.command:
            (folder / "out.h5.checkpoint").unlink()
            before.discard("out.h5.checkpoint")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
        try:
            done = subprocess.run([PVTUNE, *chosen.command, "--quiet"], cwd=folder, capture_output=True, timeout=TIMEOUT,
                                  env=environment, preexec_fn=limit, check=False)
            if "--resume" in chosen.command and done.returncode == 0:
                before.discard("out.h5.checkpoint")
            status = done.returncode
            fault = fault_of(done, folder, before, "--out" in chosen.command)
        except subprocess.TimeoutExpired:
            status, fault = -1, f"hangs: no end within {TIMEOUT} s"
        if fault:
            kept = keep / f"mutated-{seed}-{index}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept)
            (kept / "command.txt").write_text(" ".join(["pvtune", *chosen.command]) + f"\n{fault}\n")
            fault = f"{chosen.name}, mutation {index} of seed {seed}: {fault} (kept in {kept})"
        return chosen.name, status, fault


def run_all(count: int, seed: int, jobs: int, keep: Path) -> tuple[dict[str, list[int]], list[str]]:
    """Runs and refusals of each kind of file, and the faults."""
    counts: dict[str, list[int]] = {}
    faults = []
    with tempfile.TemporaryDirectory(prefix="pvtune-good-") as good:
        seeds = make_seeds(Path(good))
        for index in range(len(seeds)):
            name, status, fault = run_one(Path(good), seeds, seed, index, keep, mutate=False)
            if status != 0 or fault:
                raise RuntimeError(f"{name}, not mutated: status {status} {fault}")
        with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
            jobs_left = [pool.submit(run_one, Path(good), seeds, seed, index, keep) for index in range(count)]
            for done, job in enumerate(concurrent.futures.as_completed(jobs_left), 1):
                name, status, fault = job.result()
                entry = counts.setdefault(name, [0, 0])
                entry[0] += 1
                entry[1] += status == 2
                if fault:
                    faults.append(fault)
                    print(f"mutated files: {fault}", file=sys.stderr, flush=True)
                if done % 1000 == 0:
                    print(f"mutated files: {done} of {count}", file=sys.stderr, flush=True)
    return counts, faults


def main() -> None:
    parser = argparse.ArgumentParser(description="Run pvtune on mutated files.",
                                     epilog="example: build/venv/bin/python tests/fuzz/mutated_files.py --count 1000")
    parser.add_argument("--count", type=int, default=10_000, help="mutations (default 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (default: one a core)")
    parser.add_argument("--keep", type=Path, default=ROOT / "build" / "fuzz", help="folder for what fails")
    arguments = parser.parse_args()
    arguments.keep.mkdir(parents=True, exist_ok=True)
    counts, faults = run_all(arguments.count, arguments.seed, arguments.jobs, arguments.keep)
    for name, (runs, refused) in sorted(counts.items()):
        print(f"mutated files: {name}: {runs} runs, {refused} refused")
    print(f"mutated files: {arguments.count} mutations, {len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
