#!/usr/bin/env python3
"""A Hugging Face folder of a model with random weights, for timings: config.json and model.safetensors (bf16).

It needs nothing but Python, so that gpu-check can make one on the machine it runs on. All matrices are drawn from one
pool of numbers, each row from a place of its own: drawing a billion would take minutes. --tokens, which writes a text
of random tokens instead, needs the project's own Python environment.
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")

import argparse  # noqa: E402
import array  # noqa: E402
import json  # noqa: E402
import random  # noqa: E402
import struct  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, BinaryIO  # noqa: E402

from errors import run  # noqa: E402
from files import replaced, write_text  # noqa: E402
from llama_shapes import CONFIGS, read_config, tensors  # noqa: E402

_DEVIATION = 0.02
_POOL = (1 << 20) + 7  # numbers; no multiple of a row
_ONE = struct.pack("<f", 1.0)[2:]  # as bf16: the upper half


def normal_numbers(count: int, draw: random.Random) -> bytes:
    """bf16."""
    wide = array.array("f", (draw.gauss(0, _DEVIATION) for _ in range(count)))
    if sys.byteorder == "big":
        wide.byteswap()
    halves = array.array("H", wide.tobytes())
    return halves[1::2].tobytes()


def write_matrix(file: BinaryIO, rows: int, columns: int, pool: bytes, draw: random.Random) -> None:
    row = 2 * columns
    for _ in range(rows):
        start = 2 * draw.randrange(len(pool) // 2 - columns)
        file.write(pool[start:start + row])


def write_folder(folder: Path, config: dict[str, Any], seed: int) -> int:
    """The number of parameters."""
    matrices, others = tensors(config)
    shapes = {**others, **matrices}
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.json", json.dumps(config) + "\n")
    draw = random.Random(seed)
    width = max(shape[1] for shape in shapes.values() if len(shape) == 2)
    pool = normal_numbers(_POOL + width, draw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replaced(folder / "model.safetensors") as partial, open(partial, "wb", buffering=1 << 22) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            if len(shape) == 1:
                file.write(_ONE * shape[0])
            else:
                write_matrix(file, shape[0], shape[1], pool, draw)
    return end // 2


def write_tokens(path: Path, count: int, vocabulary: int, seed: int) -> None:
    import numpy

    from store import Value, command_line, write_store

    tokens = numpy.random.default_rng(seed).integers(0, vocabulary, count, dtype=numpy.uint32)
    words: dict[str, Value] = {"tokenizer": "none", "tokenizer_hash": "none", "vocabulary": vocabulary, "newlines": "lf"}
    write_store(path, "tokens", command_line(), {"/tokens": (tokens, words)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, metavar="FILE",
                        help=f"config.json of a Llama-family model, or one of {', '.join(CONFIGS)}")
    parser.add_argument("--tokens", type=int, metavar="N", help="write a text of N tokens of the vocabulary to --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder, made if missing")
    options = parser.parse_args()
    config = read_config(options.config)
    if options.tokens is not None:
        write_tokens(options.out, options.tokens, config["vocab_size"], options.seed)
        return
    print(json.dumps({"parameters": write_folder(options.out, config, options.seed)}))


if __name__ == "__main__":
    run(main)
