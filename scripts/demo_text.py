#!/usr/bin/env python3
"""Make a tuning text and an evaluation text that share no document.

From a folder of HTML pages (a book that a Debian package carries): every fifth page, in order of name, goes to the
evaluation. From one text file: the last fifth, cut where a paragraph ends.
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: F401,E402

import argparse  # noqa: E402
import re  # noqa: E402
from html.parser import HTMLParser  # noqa: E402
from pathlib import Path  # noqa: E402

from errors import Error, run  # noqa: E402
from files import write_text  # noqa: E402

_EVERY = 5  # one document, or one part, in five is for evaluation
_SKIPPED = {"head", "script", "style", "nav", "pre", "table"}  # not prose
_BLOCKS = {"p", "div", "li", "dd", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "section", "article", "br"}
_SHORTEST = 40  # shorter blocks are navigation and labels


class _Prose(HTMLParser):
    """Gathers the text of a page block by block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = [""]
        self.skipped: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in _SKIPPED or "docnav" in (dict(attrs).get("class") or ""):  # docnav: links to the next page
            self.skipped.append(tag)
        if tag in _BLOCKS:
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        if self.skipped and tag == self.skipped[-1]:
            self.skipped.pop()
        if tag in _BLOCKS:
            self.blocks.append("")

    def handle_data(self, data: str) -> None:
        if not self.skipped:
            self.blocks[-1] += data


def prose(html: str) -> str:
    """The paragraphs of an HTML page, one a line, an empty line between them."""
    parser = _Prose()
    parser.feed(html)
    parser.close()
    blocks = (re.sub(r"\s+", " ", block).strip() for block in parser.blocks)
    return "".join(block + "\n\n" for block in blocks if len(block) >= _SHORTEST)


def from_folder(folder: Path) -> tuple[str, str]:
    """Tuning and evaluation text of a folder of HTML pages."""
    pages = sorted(path for path in folder.glob("*.html") if path.is_file() and path.name != "index.html")
    texts = [text for text in (prose(page.read_text(encoding="utf-8", errors="replace")) for page in pages) if text]
    if len(texts) < _EVERY:
        raise Error(f"{folder}: {len(texts)} HTML pages with text, at least {_EVERY} are needed: use --file")
    chosen = range(_EVERY - 1, len(texts), _EVERY)
    return "".join(t for i, t in enumerate(texts) if i not in chosen), "".join(texts[i] for i in chosen)


def from_file(path: Path) -> tuple[str, str]:
    """Tuning and evaluation text of one file, cut at the paragraph (else line, else word) that ends nearest to 4/5."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise Error(f"{path}: not UTF-8 at byte {error.start}: convert it, e.g. with iconv") from error
    wanted, last = len(text) - len(text) // _EVERY, len(text.rstrip())
    for pattern in (r"\n[ \t]*\n", r"\n", r"\s"):
        ends = [match.end() for match in re.finditer(pattern, text) if match.end() < last]
        near = min(ends, key=lambda end: abs(end - wanted), default=0)
        if len(text) * 0.6 <= near <= len(text) * 0.95:
            return text[:near], text[near:]
    raise Error(f"{path}: too short to split into a tuning and an evaluation part: use a longer text")


def check(arguments: argparse.Namespace) -> None:
    """Refuse to write over what is read, or one text over the other."""
    inputs = [arguments.file] if arguments.file else list(arguments.folder.glob("*.html"))
    for name, path in (("--tune", arguments.tune), ("--eval", arguments.eval)):
        if any(is_same(path, source) for source in inputs):
            raise Error(f"{name} {path}: is read too: choose another file")
    if is_same(arguments.tune, arguments.eval):
        raise Error(f"--eval {arguments.eval}: is --tune too: choose another file")


def is_same(path: Path, other: Path) -> bool:
    """Whether both are, or would be, one file."""
    there = path.exists() and other.exists()
    return os.path.samefile(path, other) if there else path.resolve() == other.resolve()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Split a text, or a folder of HTML pages, into a tuning and an evaluation text.",
        epilog="example: scripts/demo_text.py --file book.txt --tune tune.txt --eval eval.txt",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=Path, metavar="DIR", help="HTML pages, split by page")
    source.add_argument("--file", type=Path, metavar="FILE", help="one UTF-8 text, split at a paragraph")
    parser.add_argument("--tune", type=Path, required=True, metavar="FILE", help="text to tune on")
    parser.add_argument("--eval", type=Path, required=True, metavar="FILE", help="text to evaluate on")
    arguments = parser.parse_args()
    check(arguments)
    tune, evaluation = from_folder(arguments.folder) if arguments.folder else from_file(arguments.file)
    write_text(arguments.tune, tune)
    write_text(arguments.eval, evaluation)
    print(f"{arguments.tune}: {len(tune):,} characters; {arguments.eval}: {len(evaluation):,} characters")


if __name__ == "__main__":
    run(main)
