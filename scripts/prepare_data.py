#!/usr/bin/env python3
"""Make a token store, or a folder of shards, from text, JSON-lines or parquet files or from a data set of the papers.

The text is read as a stream and tokenised into OUT.preparing, from where the sequences are then chosen; a run that was
killed goes on there with --resume and gives the same store. docs/data.md has the ways of sampling and the papers' recipes.
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: E402

import argparse  # noqa: E402
import contextlib  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import shutil  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Callable, Iterable, Iterator, Optional  # noqa: E402

import hub  # noqa: E402
import sampling  # noqa: E402
import text_sources  # noqa: E402
from errors import Error, run  # noqa: E402
from hf_tokenizer import encodable, load_tokenizer  # noqa: E402
from overlap import Excluded  # noqa: E402
from store import check_replaces, command_line, write_store  # noqa: E402
from text_sources import Source  # noqa: E402
from token_work import TokenWork, batches  # noqa: E402

_BATCH = 1 << 20  # characters tokenised together
_SECONDS_A_MESSAGE = 5
_OF_A_DATASET = {"split": "train", "files": 1, "cache": Path(environment.ROOT) / "build" / "cache" / "datasets"}


def documents(arguments: argparse.Namespace, sources: list[Source]) -> Iterator[Iterable[str]]:
    """What is to be tokenised: documents, each a stream of text."""
    found = text_sources.documents(sources, arguments.field, arguments.newlines)
    if arguments.documents:
        found = itertools.islice(found, arguments.documents)
    join = hub.DATASETS[arguments.dataset].join if arguments.dataset else arguments.join
    return found if join is None else iter([text_sources.joined(found, join)])


def tokenise(work: TokenWork, tokenizer: Any, source: Iterator[Iterable[str]], end: Optional[int],
             enough: Callable[[], bool]) -> None:
    """Append the tokens of all pieces that are not there yet, until there are enough."""
    if work.state["complete"] or enough():
        return
    pieces = text_sources.pieces(source, lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
    for _ in range(work.state["pieces"]):
        next(pieces, None)
    started = told = time.monotonic()
    before = work.state["tokens"]
    for batch in batches(pieces, _BATCH):
        encoded = tokenizer.encode_batch_fast([piece.text for piece in batch], add_special_tokens=False)
        work.append([(found.ids + ([end] if piece.ends and end is not None else []), piece.ends)
                     for found, piece in zip(encoded, batch)])
        now = time.monotonic()
        if now - told > _SECONDS_A_MESSAGE:
            told = now
            print(f"{work.state['documents']:,} documents, {work.state['tokens']:,} tokens,"
                  f" {(work.state['tokens'] - before) / (now - started):,.0f} a second", file=sys.stderr, flush=True)
        if enough():
            return
    work.state["complete"] = True
    work.save()


def choose(work: TokenWork, arguments: argparse.Namespace, excluded: Excluded, tokenise_all: Callable[..., None]) -> Any:
    """Tokenise as much as is needed and choose the sequences."""
    chosen = sampling.Chosen(arguments.ctx, arguments.sequences)
    if arguments.sampling != "concat":
        tokenise_all(lambda: False)
        sampling.take_at_random(chosen, work.tokens(), work.ends(), excluded, arguments.sampling, arguments.seed)
        return chosen
    reached = 0

    def enough() -> bool:
        nonlocal reached
        reached = sampling.take_in_order(chosen, work.tokens(), excluded, reached)
        return chosen.full()

    tokenise_all(enough)
    enough()
    if arguments.sequences and not chosen.full():
        raise Error(f"--sequences {arguments.sequences}: the text gives {len(chosen.starts)} of {arguments.ctx} tokens"
                    f" ({chosen.dropped} share text with --exclude): give more text, or ask for fewer")
    if not chosen.starts:
        raise Error(f"--ctx {arguments.ctx}: the text has {work.state['tokens']} tokens and gives no sequence"
                    f" ({chosen.dropped} share text with --exclude): give more text or a smaller --ctx")
    return chosen


def write(arguments: argparse.Namespace, parts: Iterator[Any], attributes: dict[str, Any]) -> list[str]:
    """The parts as one store, or as the shards of a folder; their content hashes."""
    if not arguments.shard_tokens:
        return [write_store(arguments.out, "tokens", command_line(), {"/tokens": (next(parts), attributes)})]
    folder = arguments.out.with_name(arguments.out.name + ".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        hashes = [write_store(folder / f"{index:05d}.h5", "tokens", command_line(), {"/tokens": (part, attributes)})
                  for index, part in enumerate(parts)]
        os.rename(folder, arguments.out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return hashes


def gathered(tokens: Any, chosen: Optional[sampling.Chosen], most: int) -> Iterator[Any]:
    """The tokens of the store, at most so many a part (0: all in one)."""
    import numpy

    if chosen is None:
        for first in range(0, len(tokens), most or len(tokens)):
            yield numpy.asarray(tokens[first : first + (most or len(tokens))])
        return
    together = most // chosen.length or len(chosen.starts)
    for first in range(0, len(chosen.starts), together):
        some = chosen.starts[first : first + together]
        yield numpy.concatenate([tokens[start : start + chosen.length] for start in some])


def check(arguments: argparse.Namespace) -> None:
    """What argparse cannot."""
    for name, usual in _OF_A_DATASET.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, usual)
        elif not arguments.dataset:
            raise Error(f"--{name}: is of --dataset; leave it out with --from")
    if arguments.sampling != "concat" and not (arguments.ctx and arguments.sequences):
        raise Error(f"--sampling {arguments.sampling}: needs --sequences and --ctx")
    if arguments.dataset and arguments.join is not None:
        raise Error("--join: a data set is joined as the papers do; leave the flag out")
    if arguments.join is not None and encodable(arguments.join) != arguments.join:
        raise Error(f"--join {encodable(arguments.join)!r}: not UTF-8: give another text")
    if (arguments.sequences or arguments.exclude) and not arguments.ctx:
        raise Error("--sequences and --exclude need --ctx, the tokens of a sequence")
    if arguments.exclude and arguments.overlap_tokens > arguments.ctx:
        raise Error(f"--overlap-tokens {arguments.overlap_tokens}: more than --ctx {arguments.ctx}: use fewer")
    if arguments.ctx and 0 < arguments.shard_tokens < arguments.ctx:
        raise Error(f"--shard-tokens {arguments.shard_tokens}: less than one sequence of --ctx {arguments.ctx}: use more")
    for name in ("sequences", "ctx", "shard_tokens", "documents", "files"):
        if getattr(arguments, name) < 0:
            raise Error(f"--{name.replace('_', '-')} {getattr(arguments, name)}: must not be negative")
    if arguments.overlap_tokens < 1:
        raise Error(f"--overlap-tokens {arguments.overlap_tokens}: must be at least 1")
    for path in arguments.source or []:
        if not path.is_file():
            raise Error(f"{path}: no such file")
    if not arguments.out.parent.is_dir():
        raise Error(f"{arguments.out.parent}: no such folder; make it first or choose another --out")
    if arguments.out.is_dir():
        raise Error(f"{arguments.out}: is a folder already; remove it or choose another --out")
    if arguments.shard_tokens and arguments.out.exists():
        raise Error(f"{arguments.out}: exists, and --shard-tokens makes a folder: choose another --out")
    check_replaces(arguments.out, "tokens")


def prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything; what --json prints."""
    tokenizer, digest = load_tokenizer(arguments.tokenizer)
    end = tokenizer.token_to_id(arguments.document_end) if arguments.document_end else None
    if arguments.document_end and end is None:
        raise Error(f"--document-end {arguments.document_end}: {arguments.tokenizer} has no such token")
    excluded = Excluded(arguments.exclude, arguments.overlap_tokens, digest)
    if arguments.dataset:
        sources = hub.files_of(arguments.dataset, arguments.split, arguments.files, arguments.cache)
        files = [str(source.path.relative_to(arguments.cache)) for source in sources]  # the same from any mirror
    else:
        sources = [Source(path) for path in arguments.source]
        files = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in arguments.source]
    settings = {"files": files, "tokenizer": digest, "field": arguments.field, "newlines": arguments.newlines,
                "join": arguments.join, "document_end": arguments.document_end, "documents": arguments.documents}
    with contextlib.closing(TokenWork(arguments.out, settings, arguments.resume)) as work:
        return make_store(arguments, work, excluded, sources, (tokenizer, digest, end))


def make_store(arguments: argparse.Namespace, work: TokenWork, excluded: Excluded, sources: list[Source],
               known: tuple[Any, str, Optional[int]]) -> dict[str, Any]:
    """Tokenise, choose, write; known: the tokenizer, its hash, the token behind documents."""
    tokenizer, digest, end = known

    def tokenise_all(enough: Callable[[], bool]) -> None:
        tokenise(work, tokenizer, documents(arguments, sources), end, enough)

    if arguments.ctx:
        chosen = choose(work, arguments, excluded, tokenise_all)
        count = len(chosen.starts) * chosen.length
        if arguments.overlap == "refuse" and chosen.dropped:
            raise Error(f"{chosen.dropped} sequences share {arguments.overlap_tokens} tokens in a row with"
                        f" {', '.join(map(str, arguments.exclude))}: use other text, or --overlap drop")
    else:
        tokenise_all(lambda: False)
        chosen, count = None, work.state["tokens"]
    if count == 0:
        raise Error(f"{sources[0].path}: holds no text" if len(sources) == 1 else "the files hold no text")
    attributes = {"tokenizer": arguments.tokenizer.name, "tokenizer_hash": digest,
                  "vocabulary": tokenizer.get_vocab_size(with_added_tokens=True), "newlines": arguments.newlines,
                  "sampling": arguments.sampling, "sequence_tokens": arguments.ctx, "seed": arguments.seed}
    hashes = write(arguments, gathered(work.tokens(), chosen, arguments.shard_tokens), attributes)
    result = {"tokens": count, "sequences": len(chosen.starts) if chosen else 0, "shards": len(hashes),
              "documents_read": work.state["documents"], "tokens_read": work.state["tokens"],
              "dropped": chosen.dropped if chosen else 0, "content_hash": hashes[0], "content_hashes": hashes}
    work.remove()
    return result


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Prepare token stores from text, JSON-lines or parquet files, or a data set of the papers.",
        epilog="example: scripts/prepare_data.py --dataset c4 --tokenizer llama/tokenizer.json \\\n"
        "             --sequences 1024 --ctx 4096 --sampling biased --exclude test.h5 --out calibration.h5\n"
        "         scripts/prepare_data.py --from a.jsonl.gz b.parquet --tokenizer llama/tokenizer.json \\\n"
        "             --ctx 4096 --shard-tokens 33554432 --out corpus\n"
        "then:    build/pvtune tune --tokens corpus ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="source", type=Path, nargs="+", metavar="FILE",
                        help=".jsonl, .json and .ndjson: JSON lines; .parquet; anything else is plain text; also with .gz or"
                        " .zst behind it")
    source.add_argument("--dataset", choices=list(hub.DATASETS), help="fetched from the Hugging Face hub (HF_ENDPOINT)")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="the model's own tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH",
                        help="the token store to write; with --shard-tokens a folder of them")
    parser.add_argument("--sampling", choices=sampling.NAMES, default="concat",
                        help="concat (default): all text in order; unbiased: windows at random places of all text; biased:"
                        " of random documents that are long enough; biased-start: the starts of such documents")
    parser.add_argument("--sequences", type=int, default=0, metavar="N", help="how many (default: all that concat gives)")
    parser.add_argument("--ctx", type=int, default=0, metavar="L", help="tokens a sequence (default: the text is not cut)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random choices (default 0)")
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], metavar="STORE",
                        help="evaluation text, stores or folders of them: no sequence may share --overlap-tokens in a row"
                        " with it")
    parser.add_argument("--overlap-tokens", type=int, default=32, metavar="N", help="(default 32)")
    parser.add_argument("--overlap", choices=("drop", "refuse"), default="drop",
                        help="what is done with sequences that do: drop them (default) or refuse to go on")
    parser.add_argument("--shard-tokens", type=int, default=0, metavar="N", help="tokens a file, at most")
    parser.add_argument("--resume", action="store_true", help="go on in OUT.preparing where an earlier run was stopped")
    parser.add_argument("--field", default="text", metavar="NAME", help="of the JSON objects or the column (default text)")
    parser.add_argument("--join", metavar="TEXT", help="make all documents one text, with this between them")
    parser.add_argument("--document-end", metavar="TOKEN", help="a token put behind every document, e.g. '</s>'")
    parser.add_argument("--documents", type=int, default=0, metavar="N", help="read only the first N (default: all)")
    parser.add_argument("--newlines", choices=("lf", "keep"), default="lf",
                        help="of plain text. lf (default): \\r\\n and \\r as \\n; keep: as they are")
    parser.add_argument("--split", metavar="NAME", help="of --dataset (default train)")
    parser.add_argument("--files", type=int, metavar="N",
                        help="files of --dataset, from the first (default 1, as the papers; 0: all)")
    parser.add_argument("--cache", type=Path, metavar="DIR",
                        help="where downloads of --dataset are kept, also parts of them (default build/cache/datasets)")
    parser.add_argument("--json", action="store_true", help="end with the result as one JSON object")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    check(arguments)
    result = prepare(arguments)
    sequences = f" in {result['sequences']:,} sequences ({arguments.sampling})" if arguments.ctx else ""
    print(f"{arguments.out}: {result['tokens']:,} tokens{sequences} from {result['documents_read']:,} documents"
          + (f", {result['shards']} files" if arguments.shard_tokens else ""))
    if arguments.exclude:
        print(f"overlap: {result['dropped']:,} sequences shared {arguments.overlap_tokens} tokens in a row with --exclude"
              " and were left out")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    run(main)
