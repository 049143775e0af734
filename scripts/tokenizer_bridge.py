#!/usr/bin/env python3
"""Encode and decode for `pvtune generate`: one JSON object a line in, one out.

    {"encode": "text"}  -> {"tokens": [1, 2, 3]}
    {"decode": [1, 2]}  -> {"text": "..."}
    anything else       -> {"error": "what is wrong"}
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: F401,E402

import argparse  # noqa: E402
import json  # noqa: E402
import signal  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from errors import Error, one_line, run  # noqa: E402
from hf_tokenizer import load_tokenizer  # noqa: E402


def answer(tokenizer: Any, line: bytes) -> dict[str, Any]:
    """The reply to one request."""
    try:
        request = json.loads(line)
    except ValueError as error:
        return {"error": f"not a JSON object: {one_line(error)}"}
    if not isinstance(request, dict) or len(request) != 1 or not {"encode", "decode"} & request.keys():
        return {"error": 'expected {"encode": "text"} or {"decode": [tokens]}'}
    try:
        if "encode" in request:
            if not isinstance(request["encode"], str):
                return {"error": "encode: expected a text"}
            return {"tokens": tokenizer.encode(request["encode"], add_special_tokens=False).ids}
        return decode(tokenizer, request["decode"])
    except Exception as error:  # one bad request must not end the session
        return {"error": one_line(error)}


def decode(tokenizer: Any, tokens: Any) -> dict[str, Any]:
    """The text of tokens; special ones are shown, those that it does not know (models pad their vocabulary) are not."""
    if not isinstance(tokens, list) or not all(type(token) is int and 0 <= token < 1 << 32 for token in tokens):
        return {"error": "decode: expected a list of whole numbers of 32 bits"}
    return {"text": tokenizer.decode(tokens, skip_special_tokens=False)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode and decode, one JSON object a line, for `pvtune generate`.",
                                     epilog='example: echo \'{"encode": "Hello"}\' |'
                                     " scripts/tokenizer_bridge.py --tokenizer smollm2/tokenizer.json")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="the model's own tokenizer.json")
    arguments = parser.parse_args()
    if arguments.tokenizer.is_dir():
        raise Error(f"{arguments.tokenizer}: is a folder: name the tokenizer.json in it")
    if not arguments.tokenizer.is_file():
        raise Error(f"{arguments.tokenizer}: no such file")
    tokenizer, _ = load_tokenizer(arguments.tokenizer)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pvtune, which closes our input when it is done
    for line in sys.stdin.buffer:
        if line.strip():
            print(json.dumps(answer(tokenizer, line)), flush=True)


if __name__ == "__main__":
    run(main)
