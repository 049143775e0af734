"""Text that two token stores share, found by hashes of all windows of a few tokens."""

from pathlib import Path
from typing import Any

from errors import Error, one_line

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd: 2^64 over the golden ratio


def read_tokens(path: Path) -> tuple[Any, str]:
    """The tokens of a store and the hash of its tokenizer."""
    import h5py

    try:
        with h5py.File(path) as file:
            data = file["/tokens"]
            return data[:], data.attrs["tokenizer_hash"].decode()
    except FileNotFoundError:
        raise Error(f"{path}: no such file") from None
    except (OSError, KeyError, AttributeError) as error:
        raise Error(f"{path}: not a token store ({one_line(error)}): make it with scripts/tokenize.py") from error


def stores(path: Path) -> list[Path]:
    """The store, or those of a folder."""
    found = sorted(path.glob("*.h5")) if path.is_dir() else [path]
    if not found:
        raise Error(f"{path}: a folder without a tokens file (*.h5)")
    return found


def window_hashes(tokens: Any, window: int) -> Any:
    """A 64-bit hash of every window of so many tokens in the last dimension: polynomial, over mixed tokens."""
    import numpy

    mixed = tokens.astype(numpy.uint64) + numpy.uint64(_MULTIPLIER)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # the finaliser of splitmix64
        mixed = (mixed ^ (mixed >> numpy.uint64(shift))) * numpy.uint64(factor)
    count = tokens.shape[-1] - window + 1
    hashes = numpy.zeros((*tokens.shape[:-1], max(count, 0)), dtype=numpy.uint64)
    for i in range(window if count > 0 else 0):
        hashes *= numpy.uint64(_MULTIPLIER)
        hashes += mixed[..., i : i + count]
    return hashes


class Excluded:
    """The windows that must not be met again, of stores and of folders of them; a folder is one text."""

    def __init__(self, paths: list[Path], window: int, tokenizer_hash: str) -> None:
        import numpy

        self.window = window
        hashes = []
        for path in paths:
            parts = []
            for store in stores(path):
                part, made_with = read_tokens(store)
                if made_with != tokenizer_hash:
                    raise Error(f"{store}: was made with another tokenizer.json: make it again with this one")
                parts.append(part)
            tokens = numpy.concatenate(parts)
            if tokens.size < window:
                raise Error(f"{path}: holds {tokens.size} tokens, fewer than a window of {window}: use a smaller"
                            " --overlap-tokens")
            hashes.append(window_hashes(tokens, window))
        self.hashes = numpy.unique(numpy.concatenate(hashes)) if hashes else numpy.zeros(0, numpy.uint64)

    def shared(self, sequences: Any) -> Any:
        """Windows of each sequence (a row) that an excluded store holds too."""
        import numpy

        if not self.hashes.size:
            return numpy.zeros(sequences.shape[0], dtype=numpy.int64)
        found = window_hashes(sequences, self.window)
        places = numpy.minimum(numpy.searchsorted(self.hashes, found), self.hashes.size - 1)
        return (self.hashes[places] == found).sum(axis=-1)
