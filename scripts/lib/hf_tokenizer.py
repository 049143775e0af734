"""A Hugging Face tokenizer.json, loaded with errors that name the file."""

import hashlib
import re
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


def encodable(text: str) -> str:
    """The text with U+FFFD for half a surrogate pair, which JSON can hold and no tokenizer takes."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
