#!/usr/bin/env python3
"""The reproducibility run: all tests, every kernel compiled, fuzzers, what each operation computes, and a matrix of small
real runs, held against tests/nightly/expected.json. Leaves out/nightly/report.md; exit status 1 if anything failed.

Stages that passed are not run again on the same sources and platform, so that a run that was stopped goes on.
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: E402

import argparse  # noqa: E402
import datetime  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Callable, Optional  # noqa: E402

import child  # noqa: E402
from errors import Error, one_line, run  # noqa: E402
from files import write_text  # noqa: E402
from nightly_report import is_hashed, verdict, write_report  # noqa: E402
from nightly_rows import make_inputs, row_names, run_row  # noqa: E402

Record = dict[str, Any]
ROOT = Path(environment.ROOT)
PVTUNE = ROOT / "build" / "pvtune"
EMULATED = ROOT / "build" / "release" / "emulated" / "pvtune"
FINGERPRINT_SHAPES = {"cpu": "tokens=256",
                      "emulated": "sequences=1,length=24,width=32,intermediate=48,heads=4,kv_heads=2,head_dim=8,vocabulary=96"}
EXACT = ("imported", "quantized", "tuned", "exported")
# Where the platform is another than those on record: relative tolerances.
# A processor with AMX and one without were 0.4, 22 and 8 % apart in the last three: two blocks are no language model, and
# which code is nearest is rounding's to decide.
TOLERANCES = {"bits_per_weight": 1e-9, "relative_output_error": 0.02, "loss": 0.35, "nll": 0.12}


@dataclass
class Stage:
    """A part of the run; `run` gives its record or raises Error."""

    name: str
    run: Callable[[], Record]


class Failed(Error):
    """A stage that ran and found something; `record` is what it measured."""

    def __init__(self, text: str, record: Record) -> None:
        super().__init__(text)
        self.record = record


def output(*command: str) -> str:
    """Standard output of a command, empty where it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def sources() -> Record:
    """The commit, and a hash of what is changed since; without git that of every file."""
    commit, changes = git("rev-parse", "--short", "HEAD"), git("diff", "HEAD")
    added = git("ls-files", "-z", "--others", "--exclude-standard")
    if commit is None or changes is None or added is None:
        return {"commit": "unknown", "changes": digest_of_files(files_without_git(), b"")}
    names = [os.fsdecode(name) for name in added.split(b"\0") if name]
    return {"commit": commit.decode().strip(), "changes": digest_of_files(names, changes) if names or changes else ""}


def git(*arguments: str) -> Optional[bytes]:
    """What git says; None where it is not there or does not know this folder."""
    try:
        done = subprocess.run(["git", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, cwd=ROOT)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def files_without_git() -> list[str]:
    """Every file here but what is made."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        made = {".git", "__pycache__"} | ({"build", "out"} if Path(folder) == ROOT else set())
        folders[:] = [name for name in folders if name not in made]
        found += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names]
    return found


def digest_of_files(names: list[str], more: bytes) -> str:
    """Of the files' names and contents, and of more."""
    digest = hashlib.sha256(more)
    for name in sorted(names):
        data = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""  # a link to nothing, a repository in this one
        digest.update(os.fsencode(name) + b"\0" + hashlib.sha256(data).digest())
    return digest.hexdigest()[:12]


def platform() -> str:
    """What decides the bits: the processor's instructions (-march=native), the compiler, the library of products."""
    march = re.search(r"-march=\s+(\S+)", output("g++", "-march=native", "-Q", "--help=target"))
    # Compilers call processors that they do not know yet by the name of an older one.
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    unit = " with AMX" if "amx_bf16" in flags else " with AVX512_BF16" if "avx512_bf16" in flags else ""
    return ", ".join([(march.group(1) if march else os.uname().machine) + unit, f"g++ {output('g++', '-dumpfullversion')}",
                      f"oneDNN {output('dpkg-query', '-W', '-f=${Version}', 'libdnnl-dev') or 'unknown'}"])


def shell_stage(*command: str) -> Callable[[], Record]:
    """A stage that is one command; its last line of output is kept."""

    def run_command() -> Record:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        last = ""
        try:
            for line in process.stdout:
                sys.stderr.write(line)
                last = line.strip() or last
        except KeyboardInterrupt:  # the command got it too, and ends when it has put everything in order
            process.communicate()
            raise
        if process.wait() != 0:
            raise Failed(f"exit status {process.returncode}: {last}", {"output": last})
        return {"output": last}

    return run_command


def fingerprints(device: str) -> Callable[[], Record]:
    """A stage that hashes what every operation computes."""

    def run_fingerprints() -> Record:
        program, flag = (PVTUNE, device) if device != "emulated" else (EMULATED, "cuda")
        found = {}
        for precision in ("f32", "bf16"):
            done = output(str(program), "bench", "--fingerprint", "--shape",
                          FINGERPRINT_SHAPES.get(device, FINGERPRINT_SHAPES["cpu"]), "--device", flag, "--precision",
                          precision, "--threads", "2", "--json")
            if not done:
                raise Error(f"`{program} bench --fingerprint --device {flag}` failed")
            found[precision] = {name.split()[0]: value
                                for name, value in json.loads(done.splitlines()[-1])["fingerprints"].items()}
        return {"fingerprints": found}

    return run_fingerprints


def row_stage(name: str, out: Path) -> Callable[[], Record]:
    """A stage that is a row of the matrix."""

    def scripts(program: str, *arguments: object) -> None:
        done = child.run([sys.executable, str(ROOT / "scripts" / program), *map(str, arguments)])
        if done.returncode != 0:
            raise Error(f"scripts/{program}: exit status {done.returncode}")

    def run_it() -> Record:
        gguf = ROOT / "build" / "cache" / "SmolLM2-135M-Instruct.gguf"
        if not gguf.exists():
            gguf.parent.mkdir(parents=True, exist_ok=True)
            scripts("demo_model.py", "--out", gguf)
        # A text that stays as it is: the results must not change with it.
        make_inputs(out / "inputs", gguf, ROOT / "LICENSE", json.dumps(sources()), scripts)
        return run_row(name, PVTUNE, out / "inputs", out / "row")

    return run_it


def all_stages(out: Path) -> list[Stage]:
    """The whole run, what is cheap and telling first."""
    devices = ["cpu"] + (["cuda"] if output("nvidia-smi", "-L") else [])
    build = shell_stage("make", "--no-print-directory", "build", "build/release/emulated/pvtune")
    return [Stage("build", build),
            *(Stage(f"operations {device}", fingerprints(device)) for device in [*devices, "emulated"]),
            *(Stage(name, row_stage(name, out)) for name in row_names(devices)),
            Stage("tests", shell_stage("make", "--no-print-directory", "test")),
            Stage("kernels", shell_stage("make", "--no-print-directory", "compile-check", "ARCHITECTURES=80 89 90 100")),
            Stage("fuzz", shell_stage("scripts/fuzz.sh")),
            Stage("pages in a browser", shell_stage("tests/browser.sh"))]


def compare(name: str, record: Record, expected: Record, here: str) -> list[str]:
    """What a record has other than expected, in words."""
    exact = expected.get("platforms", {}).get(here, {}).get(name)
    found = []
    if "fingerprints" in record:
        for precision, hashes in record["fingerprints"].items():
            wanted = (exact or {}).get(precision)
            if wanted is None:
                continue
            # Recorded since on another platform: this one has nothing to hold it against, as with a whole stage.
            waiting = recorded_anywhere(name, precision, expected) - wanted.keys()
            changed = sorted(op for op in (hashes.keys() - waiting) | wanted.keys() if hashes.get(op) != wanted.get(op))
            found += [f"{op} ({precision}): computes {hashes.get(op, 'nothing: it is gone')}, expected "
                      f"{wanted.get(op, 'no such operation')}" for op in changed]
    elif exact:
        found += [f"{key}: content hash {record[key]}, expected {exact[key]}"
                  for key in EXACT if key in record and record[key] != exact.get(key)]
    for key, wanted in expected.get("rows", {}).get(name, {}).items():
        if not abs(record[key] - wanted) <= TOLERANCES[key] * abs(wanted):  # NaN too
            found.append(f"{key}: {record[key]:.6g}, expected {wanted:.6g} within {TOLERANCES[key]:g} of it")
    return found


def recorded_anywhere(name: str, precision: str, expected: Record) -> set[str]:
    """The operations that a stage has fingerprints of on some platform."""
    return {op for stages in expected.get("platforms", {}).values() for op in stages.get(name, {}).get(precision, {})}


def unrecorded(stages: dict[str, Record], expected: Record, here: str) -> list[str]:
    """Stages that have bits which there is nothing to hold against."""
    recorded = expected.get("platforms", {}).get(here, {})

    def is_recorded(name: str, record: Record) -> bool:
        return name in recorded and all(hashes.keys() <= recorded[name].get(precision, {}).keys()
                                        for precision, hashes in record.get("fingerprints", {}).items())

    return [name for name, stage in stages.items()
            if is_hashed(stage["record"]) and not is_recorded(name, stage["record"])]


def updated(expected: Record, stages: dict[str, Record], here: str, reason: str, commit: str) -> Record:
    """Expectations that hold what was measured; the reason is kept with them."""
    exact, rows = {}, dict(expected.get("rows", {}))
    for name, stage in stages.items():
        record = stage["record"]
        if "fingerprints" in record:
            exact[name] = record["fingerprints"]
        elif "tuned" in record:
            exact[name] = {key: record[key] for key in EXACT}
            rows[name] = {key: record[key] for key in TOLERANCES}
    entry = {"date": datetime.date.today().isoformat(), "after": commit, "platform": here, "reason": reason}
    platforms = expected.get("platforms", {})
    seconds = {**expected.get("seconds", {}), **{name: round(stage["seconds"]) for name, stage in stages.items()}}
    return {"updates": [*expected.get("updates", []), entry], "rows": rows, "seconds": seconds,
            "platforms": {**platforms, here: {**platforms.get(here, {}), **exact}}}


def read_json(path: Path) -> Record:
    """A JSON object of ours, {} where there is none yet."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Error(f"{path}: not JSON ({error}); remove it or restore it from git") from error


def read_history(path: Path) -> list[Record]:
    """Earlier runs, oldest first."""
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise Error(f"{path}: not JSON lines ({error}); remove it: trends begin anew") from error


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def time_left(names: list[str], past: dict[str, float]) -> str:
    """How long these stages take, after what they took before."""
    seconds = sum(past.get(name, 0) for name in names)
    if not seconds:
        return ""
    return f"{'' if all(name in past for name in names) else 'at least '}{minutes(seconds)} left"


def run_stages(stages: list[Stage], state: Record, save: Callable[[], None], expected: Record, here: str,
               usual: dict[str, float]) -> bool:
    """Runs what has not passed yet and says whether there was any; every stage's outcome and duration is saved at once.
    Nothing runs behind a build that failed: it would be an older program. `usual` is how long stages take where the state
    does not know."""
    done = state["stages"]
    waiting = [stage for stage in stages if done.get(stage.name, {}).get("outcome") != "passed"]
    for index, stage in enumerate(waiting):
        left = time_left([other.name for other in waiting[index:]], {**usual, **state["seconds"]})
        print(f"[{len(stages) - len(waiting) + index + 1}/{len(stages)}{', ' if left else ''}{left}] {stage.name}",
              file=sys.stderr, flush=True)
        start = time.monotonic()
        entry: Record = {"outcome": "passed", "problems": []}
        try:
            entry["record"] = stage.run()
            entry["problems"] = compare(stage.name, entry["record"], expected, here)
        except Error as error:
            entry["record"] = getattr(error, "record", {})
            entry["problems"] = [one_line(error)]
        except Exception as error:  # a stage that breaks must not take the report with it
            traceback.print_exc()
            entry["record"] = {}
            entry["problems"] = [f"{type(error).__name__}: {one_line(error)}"]
        entry["seconds"] = round(time.monotonic() - start, 1)
        if entry["problems"]:
            entry["outcome"] = "failed"
            for problem in entry["problems"]:
                print(f"  FAILED {stage.name}: {problem}", file=sys.stderr, flush=True)
        else:  # what fails may end early
            state["seconds"][stage.name] = entry["seconds"]
        done[stage.name] = entry
        build_failed = stage.name == "build" and entry["outcome"] == "failed"
        if build_failed:
            done.update({other.name: {"outcome": "not run", "problems": [], "record": {}, "seconds": 0}
                         for other in waiting[index + 1:]})
        save()
        if build_failed:
            break
    return bool(waiting)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="The reproducibility run (`make nightly`): pass or fail, and a report with trends.",
        epilog="example: scripts/nightly.py --only 'operations|aqlm' ; scripts/nightly.py --update --reason 'new GEMM'",
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="the stages whose names match")
    parser.add_argument("--again", action="store_true", help="run stages that passed on these sources once more")
    parser.add_argument("--update", action="store_true", help="make what is measured the expectation; needs --reason")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why the expectations change; kept with them")
    parser.add_argument("--expected", type=Path, default=ROOT / "tests" / "nightly" / "expected.json", metavar="FILE")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "nightly", metavar="DIR", help="report and state")
    parser.add_argument("--list", action="store_true", help="print the stages' names and start nothing")
    arguments = parser.parse_args()
    if arguments.update != bool(arguments.reason.strip()):
        raise Error("--update and --reason TEXT belong together: say why the expectations change")
    try:
        only = re.compile(arguments.only)
    except re.error as error:
        raise Error(f"--only {arguments.only!r}: not a regular expression ({error})") from error
    out: Path = arguments.out
    stages = [stage for stage in all_stages(out) if only.search(stage.name)]
    if not stages:
        raise Error(f"--only {arguments.only!r}: no stage has such a name; see --list")
    if arguments.list:
        print("\n".join(stage.name for stage in stages))
        return
    out.mkdir(parents=True, exist_ok=True)

    here, expected = platform(), read_json(arguments.expected)
    state = read_json(out / "state.json")
    now = {**sources(), "platform": here, "expected": hashlib.sha256(json.dumps(expected).encode()).hexdigest()[:12]}
    if state.get("sources") != now:
        state = {"sources": now, "stages": {}, "seconds": state.get("seconds", {})}
    if arguments.again:
        for stage in stages:
            state["stages"].pop(stage.name, None)
    history = read_history(out / "history.jsonl")

    def save() -> None:
        write_text(out / "state.json", json.dumps(state, indent=1) + "\n")

    ran = run_stages(stages, state, save, {} if arguments.update else expected, here, expected.get("seconds", {}))
    done = {stage.name: state["stages"][stage.name] for stage in stages}
    failed = [name for name, entry in done.items() if entry["outcome"] == "failed"]
    left = sum(entry["outcome"] == "not run" for entry in done.values())
    if arguments.update and not failed:
        expected = updated(expected, done, here, arguments.reason, now["commit"])
        write_text(arguments.expected, json.dumps(expected, indent=1, sort_keys=True) + "\n")
    # Where nothing ran, the last point is of these stages; or a run was stopped behind its last stage.
    if ran or not history or history[-1] != {**history[-1], **now}:
        history.append({"date": datetime.datetime.now().isoformat(timespec="seconds"), **now,
                        "seconds": {name: entry["seconds"] for name, entry in done.items()},
                        "rows": {name: entry["record"] for name, entry in done.items() if "tuned" in entry["record"]}})
        write_text(out / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
    missing = unrecorded(done, expected, here)
    write_report(out, done, history, here, missing)
    print(f"{verdict(done, missing)}{': ' + ', '.join(failed) if failed else ''}{f' ({left} not run)' if left else ''}: {out / 'report.md'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run(main)
