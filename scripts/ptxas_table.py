#!/usr/bin/env python3
"""Gather what the CUDA assembler said of every kernel into a table; end with status 1 if one spills registers."""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: E402

import argparse  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

from errors import Error, run  # noqa: E402
from files import write_text  # noqa: E402

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
# nvcc's name for the anonymous namespace of a file.
_ANONYMOUS = re.compile(r"_GLOBAL__N__\w+::|\(anonymous namespace\)::|pvtune::cuda::")


@dataclass
class Kernel:
    """One instance of a kernel as the assembler saw it."""

    source: str
    symbol: str
    architecture: str
    stack_bytes: int = 0
    spill_bytes: int = 0
    registers: int = 0
    shared_bytes: int = 0
    name: str = ""

    @property
    def template(self) -> str:
        """The kernel without its template arguments."""
        return self.name.split("<")[0].split("(")[0]


def read_log(path: Path, folder: Path) -> list[Kernel]:
    """The kernels of one `nvcc -Xptxas -v`; the log lies where the source does, under `folder`."""
    kernels: list[Kernel] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := _ENTRY.search(line):
            kernels.append(Kernel(str(path.relative_to(folder).with_suffix(".cu")), found[1], found[2]))
        elif kernels and (found := _SPILLS.search(line)):
            kernels[-1].stack_bytes = int(found[1])
            kernels[-1].spill_bytes = int(found[2]) + int(found[3])
        elif kernels and (found := _USED.search(line)):
            kernels[-1].registers = int(found[1])
            shared = _SHARED.search(line)
            kernels[-1].shared_bytes = int(shared[1]) if shared else 0
    return [kernel for kernel in kernels if "3cub" not in kernel.symbol]  # CUB's own are not ours to tune


def name_all(kernels: list[Kernel]) -> None:
    """Turn symbols into names."""
    symbols = "\n".join(kernel.symbol for kernel in kernels)
    names = subprocess.run(["c++filt"], input=symbols, capture_output=True, text=True, check=True).stdout.splitlines()
    for kernel, name in zip(kernels, names, strict=True):
        name = re.sub(r"^void ", "", _ANONYMOUS.sub("", name))
        kernel.name = re.sub(r"\([^()]*\)$", "", re.sub(r"\((?:int|bool|unsigned int)\)", "", name))


def table(kernels: list[Kernel], compiler: str) -> str:
    """A line for every kernel and architecture, its instances together."""
    lines = [
        "# Registers of the kernels",
        "",
        f"Written by `make compile-check` from what `ptxas -v` says ({compiler}). A kernel with several instances has",
        "the range over them; shared memory is the static part, in bytes; the stack holds arrays that are indexed at",
        "run time, in bytes. No kernel may spill registers.",
        "",
        "| file | kernel | architecture | instances | registers | shared | stack | spills |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups: dict[tuple[str, str, str], list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault((kernel.source, kernel.template, kernel.architecture), []).append(kernel)

    def spread(values: list[int]) -> str:
        return str(min(values)) if min(values) == max(values) else f"{min(values)}-{max(values)}"

    for (source, template, architecture), instances in sorted(groups.items()):
        lines.append(
            f"| {source} | {template} | sm_{architecture} | {len(instances)} "
            f"| {spread([kernel.registers for kernel in instances])} "
            f"| {spread([kernel.shared_bytes for kernel in instances])} "
            f"| {spread([kernel.stack_bytes for kernel in instances])} "
            f"| {max(kernel.spill_bytes for kernel in instances)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="FOLDER/<path of the source>.ptxas")
    parser.add_argument("--folder", required=True, type=Path, help="the folder that the logs lie under")
    parser.add_argument("--compiler", default="nvcc", help="what wrote the logs, for the heading")
    parser.add_argument("--out", type=Path, help="write the table there (Markdown); default: standard output")
    arguments = parser.parse_args()
    kernels = [kernel for log in arguments.logs for kernel in read_log(log, arguments.folder)]
    if not kernels:
        raise Error("no kernel in these logs: give what `nvcc -Xptxas -v` wrote to standard error")
    name_all(kernels)
    text = table(kernels, arguments.compiler)
    if arguments.out:
        write_text(arguments.out, text)
    else:
        print(text, end="")
    spilling = [kernel for kernel in kernels if kernel.spill_bytes > 0]
    for kernel in spilling:
        print(f"ptxas_table.py: {kernel.source}: {kernel.name} spills {kernel.spill_bytes} bytes on "
              f"sm_{kernel.architecture}", file=sys.stderr)
    sys.exit(1 if spilling else 0)


if __name__ == "__main__":
    run(main)
