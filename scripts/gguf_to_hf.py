#!/usr/bin/env python3
"""Turn a GGUF model into a Hugging Face folder: config.json, model.safetensors in f32, tokenizer.json.

Every tensor is de-quantised with the gguf package's own code. For the llama architecture llama.cpp stores the rows of
the query and key matrices in the order its rotary embedding wants (pairs side by side); Hugging Face's wants the two
halves of a head one after the other, so those rows are put back.
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: F401,E402

import argparse  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import struct  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Iterator  # noqa: E402

from errors import Error, one_line, run  # noqa: E402
from files import replaced, write_text  # noqa: E402
from gguf_families import ROTARY_TENSORS, Fields, config_json, family_of, hf_name  # noqa: E402
from gguf_tokenizer import tokenizer_json  # noqa: E402

SHARD_BYTES = 4 * 1000**3


def unpermute(rows: Any, heads: int) -> Any:
    """Undo llama.cpp's order of query and key rows: [heads, head_dim/2, 2] -> [heads, 2, head_dim/2]."""
    if rows.shape[0] % (2 * heads):
        raise Error(f"{rows.shape[0]} query or key rows do not divide into {heads} heads of even size")
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


class Model:
    """A GGUF file of a supported architecture, read and checked."""

    def __init__(self, path: Path) -> None:
        import gguf

        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise Error(f"{path}: not a GGUF file (it does not begin with GGUF)")
        try:
            reader = gguf.GGUFReader(path)
            self.fields = {name: field.contents() for name, field in reader.fields.items()}
        except OSError:
            raise
        except Exception as error:  # the reader raises whatever a damaged length or type leads it to
            raise Error(f"{path}: damaged or truncated GGUF file ({one_line(error)})") from error
        if self.fields.get("split.count", 1) not in (0, 1):
            raise Error(f"{path}: one of {self.fields['split.count']} files of a model: make them one with `llama-gguf-split"
                        " --merge FIRST WHOLE`")
        self.path = path
        self.family = family_of(path, self.fields.get("general.architecture"))
        self.tensors = [tensor for tensor in reader.tensors if tensor.name not in ROTARY_TENSORS]
        factors = {tensor.name: tensor.data for tensor in reader.tensors if tensor.name in ROTARY_TENSORS}
        names = {tensor.name: None for tensor in self.tensors}
        self.metadata = Fields(path, self.fields, names | factors)

    def check(self) -> None:
        """Refuse tensors that would be lost, and blocks that lack what another has."""
        for tensor in self.tensors:
            hf_name(self.family, tensor.name)
        names = {tensor.name for tensor in self.tensors}
        parts = sorted({name.split(".", 2)[2] for name in names if name.startswith("blk.")})
        for layer in range(self.metadata.integer("block_count")):
            for part in parts:
                if f"blk.{layer}.{part}" not in names:
                    raise Error(f"{self.path}: tensor blk.{layer}.{part} is missing: get the whole file")

    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return config_json(self.family, self.metadata, self._shape("token_embd.weight")[0])

    def tokenizer(self) -> dict[str, Any]:
        """The content of tokenizer.json."""
        prefix = "tokenizer.ggml."
        fields = {name.removeprefix(prefix): value for name, value in self.fields.items() if name.startswith(prefix)}
        try:
            return tokenizer_json(fields)
        except Error as error:
            raise Error(f"{self.path}: {error}") from error

    def tokenizer_config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json: the special tokens by role and the chat template."""
        tokens = self.fields.get("tokenizer.ggml.tokens", [])
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
            index = self.fields.get(f"tokenizer.ggml.{key}_token_id")
            if isinstance(index, int) and 0 <= index < len(tokens):
                config[f"{role}_token"] = tokens[index]
        if "tokenizer.chat_template" in self.fields:
            config["chat_template"] = self.fields["tokenizer.chat_template"]
        return config

    def weights(self) -> Iterator[tuple[str, Any]]:
        """Every tensor by its Hugging Face name, in f32."""
        import gguf
        import numpy

        for tensor in self.tensors:
            name = hf_name(self.family, tensor.name)
            try:
                values = gguf.dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError as error:
                raise Error(f"{self.path}: tensor {tensor.name}: type {tensor.tensor_type.name} is not supported") from error
            if values.shape != self._shape(tensor.name):
                raise Error(f"{self.path}: tensor {tensor.name}: shape {values.shape}, expected {self._shape(tensor.name)}")
            if self.family.permuted and re.search(r"\.attn_[qk]\.", tensor.name):
                heads = self.metadata.heads
                kv_heads = self.metadata.integer("attention.head_count_kv", heads)
                values = unpermute(values, heads if ".attn_q." in tensor.name else kv_heads)
            if tensor.name.endswith("norm.weight"):
                values = values - numpy.float32(self.family.norm_offset)
            yield name, numpy.ascontiguousarray(values, dtype=numpy.float32)

    def _shape(self, name: str) -> tuple[int, ...]:
        for tensor in self.tensors:
            if tensor.name == name:
                return tuple(int(extent) for extent in reversed(tensor.shape))
        raise Error(f"{self.path}: tensor {name} is missing")

    def bytes(self) -> int:
        """Size of all tensors in f32."""
        return 4 * sum(int(tensor.n_elements) for tensor in self.tensors)


def write_weights(model: Model, folder: Path) -> None:
    """Write model.safetensors, or numbered shards and their index where it would exceed SHARD_BYTES."""
    shards: list[list[Any]] = [[]]
    size = 0
    for tensor in model.tensors:  # cut into shards by size alone, before any work
        tensor_bytes = 4 * int(tensor.n_elements)
        if shards[-1] and size + tensor_bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor_bytes
    count = len(shards)
    names = ["model.safetensors"] if count == 1 else [
        f"model-{index + 1:05d}-of-{count:05d}.safetensors" for index in range(count)
    ]
    weight_map: dict[str, str] = {}
    weights = model.weights()
    done = 0
    for name, shard in zip(names, shards):
        tensors = {}
        for _ in shard:
            hf, values = next(weights)
            tensors[hf] = values
            weight_map[hf] = name
            done += 1
            _progress(done, len(model.tensors))
        save_file(tensors, folder / name)
    if count > 1:
        index = {"metadata": {"total_size": model.bytes()}, "weight_map": weight_map}
        write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def save_file(tensors: dict[str, Any], path: Path) -> None:
    """As safetensors' save_file does it for tensors in f32; that one puts another file where the partial one was."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, values in sorted(tensors.items()):
        start, end = end, end + values.nbytes
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replaced(path) as partial, open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in sorted(tensors.items()):
            file.write(values.data)


def remove_older(folder: Path) -> None:
    """What an earlier conversion left: readers prefer its one file to new shards, and its config.json would make a whole
    model of weights that are half written."""
    for pattern in ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"):
        for path in folder.glob(pattern):
            path.unlink()


def _progress(done: int, total: int) -> None:
    """A line that counts up on a terminal; elsewhere one line a quarter."""
    if sys.stderr.isatty():
        print(f"\rtensors {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % max(1, total // 4) == 0:
        print(f"tensors {done}/{total}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="De-quantise a GGUF model (llama, qwen2, qwen3, phi3, gemma2, gemma3) into a Hugging Face folder in f32.",
        epilog="example: scripts/gguf_to_hf.py --from SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2\n"
        "then:    build/pvtune import --from smollm2 --out smollm2.h5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help="the .gguf file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, in place of a model that is there; made if it is missing")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE",
                        help="tokenizer.json to copy instead of rebuilding it from the GGUF file")
    arguments = parser.parse_args()

    model = Model(arguments.source)
    config = model.config()
    tokenizer = None if arguments.tokenizer else json.dumps(model.tokenizer(), ensure_ascii=False, indent=1) + "\n"
    model.check()
    arguments.out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(arguments.out).free
    if free < model.bytes() * 1.05:
        raise Error(f"{arguments.out}: {model.bytes() / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free:"
                    " choose another --out")
    if tokenizer is None:
        tokenizer = arguments.tokenizer.read_text(encoding="utf-8")
    remove_older(arguments.out)
    write_text(arguments.out / "tokenizer.json", tokenizer)
    write_text(arguments.out / "tokenizer_config.json",
               json.dumps(model.tokenizer_config(), ensure_ascii=False, indent=2) + "\n")
    write_weights(model, arguments.out)
    write_text(arguments.out / "config.json", json.dumps(config, indent=2) + "\n")
    print(f"{arguments.out}: {len(model.tensors)} tensors, {model.bytes() / 4 / 1e6:.1f} M weights in f32,"
          f" vocabulary {config['vocab_size']}")


if __name__ == "__main__":
    run(main)
