#!/usr/bin/env python3
"""Files of a model without its weights, for `--dry-run`: what a run would take, before anything is downloaded.

From a config.json alone: model.h5 as `pvtune import` would write it and quantized.h5 as `pvtune quantize` would, with
every size, type and name of the real files but no value (they are sparse: a few hundred kilobytes on disk, whatever their
size says; anything but a plan refuses them as incomplete), and tokens.h5, a text of zeros.
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: F401,E402

import argparse  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from errors import Error, run  # noqa: E402
from files import replaced  # noqa: E402
from llama_shapes import CONFIGS, read_config, tensors  # noqa: E402
from store import FORMAT_VERSION, Value, command_line, set_attributes, write_store  # noqa: E402

_CHUNK_ELEMENTS = 1 << 19
Datasets = dict[str, tuple[str, tuple[int, ...]]]  # path -> type, shape


def quantised(path: str, shape: tuple[int, ...], flags: argparse.Namespace) -> tuple[Datasets, dict[str, Value]]:
    """Datasets and attributes of a quantised matrix (docs/formats.md)."""
    rows, columns = shape
    bits, group, kind = flags.code_bits, flags.group, flags.representation
    code = "u8" if bits <= 8 else "u16"
    sizes: dict[str, Value] = {"representation": kind, "rows": rows, "columns": columns, "group": group, "code_bits": bits}
    if group and columns % group and kind != "scalar":
        raise Error(f"--group {group}: does not divide the {columns} columns of {path}")
    if kind == "scalar":
        grids = (rows, -(-columns // (group or columns)))
        return {f"{path}/codes": ("u8", shape), f"{path}/scales": ("f16", grids), f"{path}/zeros": ("f16", grids)}, sizes
    if kind == "quip":
        return {f"{path}/codes": ("u8", (rows, columns // 8, bits)), f"{path}/scale": ("f32", (1,)),
                f"{path}/left_signs": ("u8", (-(-rows // 8),)), f"{path}/right_signs": ("u8", (-(-columns // 8),))}, sizes
    return {f"{path}/codes": (code, (rows, columns // group, flags.codebooks)),
            f"{path}/codebooks": ("f16", (flags.codebooks, 1 << bits, group)),
            f"{path}/scales": ("f16", (rows,))}, {**sizes, "codebooks": flags.codebooks}


def _type(name: str) -> Any:
    import h5py

    if name == "bf16":  # 16 bits with an exponent of 8
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_fields(15, 7, 8, 0, 7)
        kind.set_size(2)
        kind.set_ebias(127)
        return kind
    return {"f16": h5py.h5t.IEEE_F16LE, "f32": h5py.h5t.IEEE_F32LE, "u8": h5py.h5t.STD_U8LE, "u16": h5py.h5t.STD_U16LE,
            "u32": h5py.h5t.STD_U32LE}[name]


def write(path: Path, root: dict[str, Value], datasets: Datasets, attributes: dict[str, dict[str, Value]]) -> int:
    """A weights store without a value in it; the bytes that it says it has."""
    import h5py

    claimed = 0
    with replaced(path) as partial:
        with h5py.File(partial, "w", libver=("v110", "v110"), locking=False) as file:  # the lock is ours already
            set_attributes(file, {"format_version": FORMAT_VERSION, "kind": "weights", "command": command_line(),
                                  "content_hash": "0" * 32, **root})
            for name, (dtype, shape) in datasets.items():
                links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
                links.set_create_intermediate_group(True)
                layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                rows = max(1, min(shape[0], _CHUNK_ELEMENTS * shape[0] // _product(shape)))
                layout.set_chunk((rows, *shape[1:]))
                layout.set_fletcher32()
                element = _type(dtype)
                space = h5py.h5s.create_simple(shape)
                h5py.h5d.create(file.id, name.encode(), element, space, dcpl=layout, lcpl=links)
                claimed += _product(shape) * element.get_size()
            for name, values in attributes.items():
                set_attributes(file[name], values)
        os.truncate(partial, partial.stat().st_size + claimed)
    return claimed


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for extent in shape:
        result *= extent
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write files of a model without its weights, for pvtune's --dry-run.",
        epilog="example: scripts/plan_model.py --config llama-2-7b --out plan\n"
        "         build/pvtune tune --model plan/quantized.h5 --teacher plan/model.h5 --tokens plan/tokens.h5 \\\n"
        "             --ctx 4096 --precision bf16 --device cuda --dry-run --out tuned.h5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE",
                        help=f"config.json of a Llama-family model, or one of {', '.join(CONFIGS)}")
    parser.add_argument("--representation", choices=("aqlm", "vq", "scalar", "quip"), default="aqlm",
                        help="of quantized.h5 (default aqlm)")
    parser.add_argument("--codebooks", type=int, default=2, metavar="N", help="(default 2; vq has 1)")
    parser.add_argument("--code-bits", type=int, default=8, metavar="N", help="(default 8)")
    parser.add_argument("--group", type=int, default=8, metavar="N", help="(default 8)")
    parser.add_argument("--tokens", type=int, default=1 << 22, metavar="N", help="of tokens.h5 (default 4194304)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files; made if missing")
    arguments = parser.parse_args()
    for name, least, most in (("codebooks", 1, 8), ("code_bits", 1, 16), ("group", 0, 1024), ("tokens", 2, 1 << 40)):
        if not least <= getattr(arguments, name) <= most:
            raise Error(f"--{name.replace('_', '-')} {getattr(arguments, name)}: is outside {least}..{most}")
    if arguments.representation == "vq":
        arguments.codebooks = 1
    if arguments.representation == "quip":
        arguments.group = 8
    if arguments.group == 0 and arguments.representation != "scalar":
        raise Error(f"--group 0: is one grid a row of --representation scalar; {arguments.representation} needs at least 1")
    import numpy

    config = read_config(arguments.config)
    matrices, others = tensors(config)
    arguments.out.mkdir(parents=True, exist_ok=True)
    root: dict[str, Value] = {"config": json.dumps(config)}
    dense: Datasets = {f"/tensors/{name}": ("bf16", shape) for name, shape in others.items()}
    small, attributes = dict(dense), {}
    for name, shape in matrices.items():
        dense[f"/tensors/{name}"] = ("bf16", shape)
        parts, attributes[f"/tensors/{name}"] = quantised(f"/tensors/{name}", shape, arguments)
        small.update(parts)
    text: dict[str, Value] = {"tokenizer": "none", "tokenizer_hash": "none", "vocabulary": config["vocab_size"],
                              "newlines": "lf"}
    for name, datasets, values in (("model.h5", dense, {}), ("quantized.h5", small, attributes)):
        claimed = write(arguments.out / name, root, datasets, values)
        print(f"{arguments.out / name}: stands for {claimed / 1e9:,.2f} GB, holds no values")
    write_store(arguments.out / "tokens.h5", "tokens", command_line(),
                {"/tokens": (numpy.zeros(arguments.tokens, numpy.uint32), text)})


if __name__ == "__main__":
    run(main)
