#!/usr/bin/env python3
"""Write everything of a GGUF file that comes before the tensors' data: `pvtune export --format gguf` calls it.

The request on standard input is JSON: the model's config.json, its sizes, and the tensors in the order of their data, by
their Hugging Face names. The part of the file goes to standard output. Names, metadata and tokenizer are the gguf
package's business; the data is appended by pvtune.
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: F401,E402

import argparse  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from errors import Error, run  # noqa: E402
from gguf_vocabulary import add_vocabulary  # noqa: E402

# model_type of config.json -> GGUF's architecture.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def add_metadata(writer: Any, request: dict[str, Any]) -> None:
    """Sizes and constants of the model."""
    import gguf

    config, sizes = request["config"], request["sizes"]
    if sizes["rope_scaling"] not in ("none", "linear"):
        raise Error(f"config.json: rotary scaling {sizes['rope_scaling']!r} is not written as GGUF: use --format hf-dense"
                    " and llama.cpp's convert_hf_to_gguf.py")
    name = config.get("_name_or_path")
    if name:
        writer.add_name(os.path.basename(os.path.normpath(name)))
    writer.add_block_count(sizes["layers"])
    # These architectures have no sliding window there: up to its length there is no difference.
    writer.add_context_length(min(sizes["max_positions"], sizes["window"] or sizes["max_positions"]))
    writer.add_embedding_length(sizes["width"])
    writer.add_feed_forward_length(sizes["intermediate"])
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["kv_heads"])
    if sizes["head_dim"] * sizes["heads"] != sizes["width"] or config["model_type"] == "qwen3":
        writer.add_key_length(sizes["head_dim"])
        writer.add_value_length(sizes["head_dim"])
    writer.add_rope_dimension_count(sizes["rope_dimensions"])
    writer.add_rope_freq_base(sizes["rope_theta"])
    if sizes["rope_scaling"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(sizes["rope_factor"])
    writer.add_layer_norm_rms_eps(sizes["rms_epsilon"])
    writer.add_vocab_size(sizes["vocabulary"])
    types = {tensor["type"] for tensor in request["tensors"] if len(tensor["shape"]) == 2}
    main = next((name for name in ("Q5_1", "Q4_1", "F32", "BF16", "F16") if name in types), "F16")
    kind = {"F32": "ALL_F32", "BF16": "MOSTLY_BF16", "F16": "MOSTLY_F16"}.get(main, f"MOSTLY_{main}")
    writer.add_file_type(gguf.LlamaFileType[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def add_tensors(writer: Any, request: dict[str, Any], architecture: str) -> None:
    """Names, types and places of the tensors."""
    import gguf
    import numpy

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, request["sizes"]["layers"])
    for tensor in request["tensors"]:
        name = names.get_name(tensor["name"], try_suffixes=(".weight", ".bias"))
        if name is None:
            raise Error(f"tensor {tensor['name']} is not part of GGUF's {architecture} architecture:"
                        " use --format hf-dense")
        writer.add_tensor_info(name, tensor["shape"], numpy.dtype(numpy.float32), tensor["bytes"],
                               raw_dtype=gguf.GGMLQuantizationType[tensor["type"]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write the part of a GGUF file before the tensors' data, for `pvtune export --format gguf`: JSON with"
                    " config, sizes and tensors comes on standard input, the part goes to standard output.",
        epilog="example: build/pvtune export --model tuned.h5 --format gguf --out tuned.gguf --tokenizer-from smollm2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tokenizer-from", type=Path, required=True, metavar="DIR",
                        help="Hugging Face folder with tokenizer.json")
    arguments = parser.parse_args()

    import gguf

    # Kept for the file alone: what a library prints goes to the errors.
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = json.load(sys.stdin)
    family = request["config"].get("model_type")
    if family not in ARCHITECTURES:
        raise Error(f"config.json: model_type {family!r} is not written as GGUF (only {', '.join(ARCHITECTURES)} are):"
                    " use --format hf-dense and llama.cpp's convert_hf_to_gguf.py")
    writer = gguf.GGUFWriter(f"/dev/fd/{out}", ARCHITECTURES[family])
    add_metadata(writer, request)
    add_vocabulary(writer, arguments.tokenizer_from, request["sizes"]["vocabulary"])
    add_tensors(writer, request, ARCHITECTURES[family])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


if __name__ == "__main__":
    run(main)
