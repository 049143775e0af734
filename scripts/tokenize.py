#!/usr/bin/env python3
"""Turn text files into a token store that `pvtune tune` and `pvtune eval` read.

Each file is one text, encoded without special tokens; the tokens of all files follow one another. Line ends are made
\\n first, as every text-mode reader does and as the published perplexities of WikiText assume (its files have \\r\\n).
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")  # this file's name is a module's of Python
import environment  # noqa: F401,E402

import argparse  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from errors import Error, run  # noqa: E402
from hf_tokenizer import load_tokenizer  # noqa: E402
from store import check_replaces, command_line, write_store  # noqa: E402


def read_text(path: Path, newlines: str) -> str:
    """The whole file as one text, with \\r\\n and \\r made \\n unless newlines is `keep`."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Error(f"{path}: not UTF-8 at byte {error.start} (0x{data[error.start]:02x}): convert it, e.g. with iconv") \
            from error
    return text if newlines == "keep" else text.replace("\r\n", "\n").replace("\r", "\n")


def encode(tokenizer: Any, paths: list[Path], newlines: str) -> Any:
    """The tokens of all files, one after the other, as a uint32 array."""
    import numpy

    parts = []
    for index, path in enumerate(paths):
        ids = tokenizer.encode(read_text(path, newlines), add_special_tokens=False).ids
        print(f"{index + 1}/{len(paths)} {path}: {len(ids):,} tokens", file=sys.stderr, flush=True)
        parts.append(numpy.array(ids, dtype=numpy.uint32))
    return numpy.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Encode text files with a Hugging Face tokenizer.json into a token store (HDF5).",
        epilog="example: scripts/tokenize.py --tokenizer smollm2/tokenizer.json --text book.txt --out book.h5\n"
        "then:    build/pvtune eval --model smollm2.h5 --tokens book.h5 --ctx 1024",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="the model's own tokenizer.json")
    parser.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE",
                        help="UTF-8 text files; each is encoded as one text, in the order given")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the token store to write")
    parser.add_argument("--newlines", choices=("lf", "keep"), default="lf",
                        help="lf (default): read \\r\\n and \\r as \\n; keep: encode the file byte for byte")
    parser.add_argument("--json", action="store_true", help="end with the result as one JSON object")
    arguments = parser.parse_args()

    check_replaces(arguments.out, "tokens")
    tokenizer, digest = load_tokenizer(arguments.tokenizer)
    for path in arguments.text:
        if not path.is_file():
            raise Error(f"{path}: no such file")
    tokens = encode(tokenizer, arguments.text, arguments.newlines)
    if tokens.size == 0:
        raise Error(f"{arguments.text[0]}: holds no text" if len(arguments.text) == 1 else "the files hold no text")
    vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
    attributes = {
        "tokenizer": arguments.tokenizer.name,
        "tokenizer_hash": digest,
        "vocabulary": vocabulary,
        "newlines": arguments.newlines,
    }
    digest = write_store(arguments.out, "tokens", command_line(), {"/tokens": (tokens, attributes)})
    print(f"{arguments.out}: {tokens.size:,} tokens, vocabulary {vocabulary:,}")
    if arguments.json:
        print(json.dumps({"tokens": int(tokens.size), "vocabulary": vocabulary, "content_hash": digest}))


if __name__ == "__main__":
    run(main)
