"""A Hugging Face tokenizer.json, loaded with errors that name the file."""

import hashlib
from pathlib import Path
from typing import Any

from errors import Error, one_line


def load_tokenizer(path: Path) -> tuple[Any, str]:
    """The tokenizer (never truncating or padding) and the hex SHA-256 of its file."""
    data = path.read_bytes()
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises bare exceptions
        raise Error(f"{path}: not a tokenizer.json of Hugging Face ({one_line(error)})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, hashlib.sha256(data).hexdigest()
