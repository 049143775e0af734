"""The data sets that quantisation papers use, plain files of the Hugging Face hub."""

import os
from pathlib import Path
from typing import NamedTuple, Optional

from errors import Error
from text_sources import Source


class Dataset(NamedTuple):
    """Where a data set lies on the hub."""

    repository: str
    splits: dict[str, list[str]]  # files of each, in order
    join: Optional[str] = None  # between rows that are one text


_PAJAMA = ("arxiv", "book", "c4", "cc_2019-30", "cc_2020-05", "cc_2021-04", "cc_2022-05", "cc_2023-06", "github",
           "stackexchange", "wikipedia")

DATASETS = {
    # One row a line of text; GPTQ, AQLM and QuIP# join them like this, for tuning and for perplexity.
    "wikitext2": Dataset("Salesforce/wikitext",
                         {split: [f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet"]
                          for split in ("train", "validation", "test")}, "\n\n"),
    "c4": Dataset("allenai/c4", {"train": [f"en/c4-train.{i:05d}-of-01024.json.gz" for i in range(1024)],
                                 "validation": [f"en/c4-validation.{i:05d}-of-00008.json.gz" for i in range(8)]}),
    "redpajama": Dataset("togethercomputer/RedPajama-Data-1T-Sample",
                         {"train": [f"{name}_sample.jsonl" for name in _PAJAMA]}),
}


def files_of(name: str, split: str, count: int, cache: Path) -> list[Source]:
    """The first count files (0: all) of a split, to be kept under cache; each is downloaded when it is read."""
    dataset = DATASETS[name]
    if split not in dataset.splits:
        raise Error(f"--split {split}: {name} has {', '.join(dataset.splits)}")
    wanted = dataset.splits[split]
    if count > len(wanted):
        raise Error(f"--files {count}: the split {split} of {name} has {len(wanted)}")
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return [Source(cache / dataset.repository / file, f"{hub}/datasets/{dataset.repository}/resolve/main/{file}")
            for file in wanted[: count or len(wanted)]]
