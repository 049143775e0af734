#!/usr/bin/env python3
"""Check pvtune on a CUDA device: kernels against the CPU, sanitizers, a demo, and how fast it all is.

Run it in the folder that `make gpu-bundle` builds (there it is called gpu-check); it needs a driver and Python 3.9.
Everything is written to gpu-<device>.json after every program, so that a run that was stopped leaves what it had.
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")

import argparse  # noqa: E402
import concurrent.futures  # noqa: E402
import contextlib  # noqa: E402
import datetime  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import signal  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Optional  # noqa: E402

import gpu_device  # noqa: E402
from errors import Error, run  # noqa: E402
from files import write_text  # noqa: E402
from gpu_process import Processes  # noqa: E402
from gpu_steps import Bundle, Record, Step, Unit, all_steps, not_run  # noqa: E402
from gpu_training import Training, training_step  # noqa: E402

HERE = Path(__file__).resolve().parent
STEPS = ("conformance", "kernels", "parity", "sanitizer", "demo", "bench", "pytorch", "training")


class Check:
    """Runs steps and keeps the record of them on disk."""

    def __init__(self, out: Path, record: Record, processes: Processes, steps: list[Step], deadline: float) -> None:
        self._out = out
        self._record = record
        self._processes = processes
        self._steps = steps
        self._deadline = deadline
        self._start = time.monotonic()
        self._expected_done = 0.0
        self._done = 0

    def save(self) -> None:
        write_text(self._out, json.dumps(self._record, indent=2, ensure_ascii=False) + "\n")

    def run(self) -> None:
        for step in self._steps:
            units: dict[str, Record] = {}
            entry: Record = {"outcome": "not run", "units": units}
            self._record["steps"][step.name] = entry
            print(f"\n{step.name}: {step.words}", flush=True)
            if not step.units:
                entry["reason"] = step.missing
                print(f"  not run: {step.missing}", flush=True)
            start = time.monotonic()
            with contextlib.ExitStack() as stack:
                clock = stack.enter_context(gpu_device.clocks()) if step.clocked and step.units else {}
                pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(step.jobs))
                running = {pool.submit(self._run_unit, unit): unit for unit in step.units}
                try:
                    for future in concurrent.futures.as_completed(running):
                        unit = running[future]
                        units[unit.name] = future.result()
                        self._finished(step, unit, units[unit.name])
                        entry["outcome"] = outcome_of(units)
                        self.save()
                except BaseException:
                    for future in running:
                        future.cancel()
                    self._processes.stop()
                    raise
            entry["seconds"] = round(time.monotonic() - start, 1)
            if clock:
                entry["clock_sm_mhz"] = clock
            self.save()

    def _run_unit(self, unit: Unit) -> Record:
        start = time.monotonic()
        left = self._deadline - start
        try:
            record = (unit.run(min(unit.limit_seconds, left)) if left > 0
                      else not_run("the time of --minutes is over"))
        except OSError as error:
            record = {"outcome": "failed", "reason": f"{error.filename}: {error.strerror}"}
        return {**record, "seconds": round(time.monotonic() - start, 2)}

    def _finished(self, step: Step, unit: Unit, record: Record) -> None:
        self._done += 1
        self._expected_done += unit.expected_seconds / step.jobs
        elapsed = time.monotonic() - self._start
        expected = sum(unit.expected_seconds / step.jobs for step in self._steps for unit in step.units)
        left = elapsed * (expected / self._expected_done - 1)
        total = sum(len(step.units) for step in self._steps)
        words = record["outcome"]
        if "passed" in record:
            words = f"{record['passed']} passed, {record['failed']} failed"
        elif record["outcome"] != "passed" and "reason" in record:
            words = f"{record['outcome']}: {record['reason']}"
        print(f"  [{self._done}/{total}, {clock_text(elapsed)}, {clock_text(left)} to go] {unit.name}: {words} "
              f"({record['seconds']:.1f} s)", flush=True)
        for name in record.get("failures", []):
            print(f"      FAILED {name}", flush=True)


def outcome_of(units: dict[str, Record]) -> str:
    outcomes = {record["outcome"] for record in units.values()}
    return "failed" if "failed" in outcomes else "not run" if outcomes == {"not run"} else "passed"


def clock_text(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def problems(record: Record, steps: list[Step]) -> list[str]:
    """Why the check did not pass."""
    found = []
    for step in steps:
        entry = record["steps"].get(step.name, not_run("not reached"))
        failed = [name for name, unit in entry.get("units", {}).items() if unit["outcome"] == "failed"]
        left_out = [name for name, unit in entry.get("units", {}).items() if unit["outcome"] == "not run"]
        if step.must_pass and failed:
            found.append(f"{step.name}: {', '.join(failed)} failed")
        if step.must_run and (left_out or entry["outcome"] == "not run"):
            found.append(f"{step.name}: {', '.join(left_out) or 'nothing'} not run")
    return found


def cases(entry: Record, which: str) -> str:
    counts = [unit[which] for unit in entry.get("units", {}).values() if which in unit]
    return str(sum(counts)) if counts else "-"


def print_table(record: Record, steps: list[Step]) -> None:
    print(f"\n{record['device']['name']}, driver {record['device']['driver']}, commit {record['commit']}")
    print(f"  {'step':12} {'outcome':8} {'programs':>8} {'cases':>6} {'failed':>6} {'seconds':>8}")
    for step in steps:
        entry = record["steps"].get(step.name, not_run("not reached"))
        print(f"  {step.name:12} {entry['outcome']:8} {len(entry.get('units', {})):8} {cases(entry, 'passed'):>6} "
              f"{cases(entry, 'failed'):>6} {entry.get('seconds', 0):8.1f}")


def new_record(device: Record, manifest: Record) -> Record:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"device": device, "date": now.strftime("%Y-%m-%dT%H:%M:%SZ"), **manifest, "steps": {}}


def earlier_steps(out: Path, record: Record) -> dict[str, Any]:
    """Of the same build on the same device, so that a check may be made in parts."""
    try:
        earlier = json.loads(out.read_text(encoding="utf-8"))
        same = all(earlier[key] == record[key] for key in ("commit", "built"))
        return earlier["steps"] if same and earlier["device"]["name"] == record["device"]["name"] else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def file_name(device: str) -> str:
    """gpu-h100-80gb-hbm3.json"""
    words = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"gpu-{words.removeprefix('nvidia-')}.json"


def read_manifest(bundle: Path) -> Record:
    path = bundle / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Error(f"{bundle}: there is no manifest.json: run `make gpu-bundle`, or name its folder "
                    "with --bundle") from None
    except ValueError as error:
        raise Error(f"{path}: {error}: run `make gpu-bundle` again") from None


def stop_on_signal(number: int, _frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     epilog="Exit status: 0 all tests passed, 1 not, 2 no device or another trouble.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the record (default: gpu-<device>.json)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, metavar="STEP",
                        help=f"only these of: {', '.join(STEPS)}; the record keeps the others of an earlier run")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after this long and leave the rest out")
    parser.add_argument("--data", type=Path, metavar="FOLDER",
                        help="model.h5, quantized.h5, tune.h5 and eval.h5 of the demo (default: data/ of the bundle)")
    parser.add_argument("--tune-steps", type=int, default=40, metavar="N", help="of the demo (default: 40)")
    parser.add_argument("--training-model", default="llama-3.2-1b", metavar="NAME",
                        help="whose shape the training step has: llama-3.2-1b (default), llama-2-7b, or a config.json")
    parser.add_argument("--training-steps", type=int, default=12, metavar="N", help="(default: 12)")
    parser.add_argument("--training-batch", type=int, default=4, metavar="N", help="sequences a step (default: 4)")
    parser.add_argument("--training-ctx", type=int, default=4096, metavar="N", help="tokens a sequence (default: 4096)")
    parser.add_argument("--work", type=Path, metavar="FOLDER",
                        help="keep the training step's model there (3.3 GB for 1B), for other checks to use again")
    parser.add_argument("--bundle", type=Path, default=HERE, metavar="FOLDER", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    folder = options.bundle.resolve()
    manifest = read_manifest(folder)
    device = gpu_device.facts()
    library: Optional[Path] = None
    if not (folder / "lib" / manifest["cublas"]).exists():
        library = gpu_device.find_library(manifest["cublas"])
        if library is None:
            print(f"{manifest['cublas']} was not found: products cannot run (bundle it with `make gpu-bundle "
                  "CARRY_CUBLAS=1`)", file=sys.stderr)
    record = new_record(device, manifest)
    out = (options.out or Path(file_name(device["name"]))).resolve()
    record["steps"] = earlier_steps(out, record)
    deadline = time.monotonic() + options.minutes * 60 if options.minutes is not None else float("inf")
    print(f"{device['name']}, {device['memory_mib']} MiB, driver {device['driver']}; pvtune {manifest['commit'][:12]}, "
          f"built {manifest['built']}")
    signal.signal(signal.SIGTERM, stop_on_signal)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        processes = Processes(gpu_device.environment(library), Path(scratch))
        bundle = Bundle(folder, (options.data or folder / "data").resolve(), Path(scratch), processes,
                        options.tune_steps)
        training = Training(options.training_model, options.training_steps, options.training_batch, options.training_ctx,
                            (options.work or Path(scratch) / "training").resolve())
        steps = [step for step in [*all_steps(bundle), training_step(bundle, training)] if step.name in options.steps]
        check = Check(out, record, processes, steps, deadline)
        check.save()
        check.run()
    print_table(record, steps)
    found = problems(record, steps)
    for problem in found:
        print(f"FAILED {problem}")
    print(f"{'not all tests passed' if found else 'all tests passed'}; the record is {out}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    run(main)
