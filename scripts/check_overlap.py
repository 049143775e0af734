#!/usr/bin/env python3
"""Say how much of one token store is in another, by hashes of windows of tokens: text to tune on against text to measure.

Exit status 1 where they share any window.
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: F401,E402

import argparse  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402

from errors import Error, run  # noqa: E402
from overlap import Excluded, read_tokens, stores  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Count the windows of tokens that one store shares with others; status 1 if there are any.",
        epilog="example: scripts/check_overlap.py tune.h5 --against test.h5",
    )
    parser.add_argument("store", type=Path, help="a token store or a folder of them: the text to tune on")
    parser.add_argument("--against", type=Path, nargs="+", required=True, metavar="STORE",
                        help="the text to measure with, stores or folders of them")
    parser.add_argument("--overlap-tokens", type=int, default=32, metavar="N", help="tokens a window (default 32)")
    parser.add_argument("--json", action="store_true", help="end with the result as one JSON object")
    arguments = parser.parse_args()
    if arguments.overlap_tokens < 1:
        raise Error(f"--overlap-tokens {arguments.overlap_tokens}: must be at least 1")
    window = arguments.overlap_tokens
    excluded, windows, shared = None, 0, 0
    for path in stores(arguments.store):
        tokens, tokenizer_hash = read_tokens(path)
        excluded = excluded or Excluded(arguments.against, window, tokenizer_hash)
        windows += max(0, tokens.size - window + 1)
        for first in range(0, tokens.size, 1 << 20):  # a mebitoken at a time, and the windows that reach over its end
            shared += int(excluded.shared(tokens[None, first : first + (1 << 20) + window - 1])[0])
    print(f"{arguments.store}: {shared:,} of {windows:,} windows of {window} tokens are in"
          f" {', '.join(map(str, arguments.against))} too")
    if arguments.json:
        print(json.dumps({"windows": windows, "shared": shared}))
    sys.stdout.flush()
    sys.exit(1 if shared else 0)


if __name__ == "__main__":
    run(main)
