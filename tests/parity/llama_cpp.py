"""llama.cpp for the parity tests: a GGUF file loaded by the xllamacpp package and asked over its HTTP server."""

import ctypes
import json
import urllib.request
from pathlib import Path
from typing import Any

import torch
import xllamacpp
from torch import nn

CONTEXT = 64
Q8_BLOCK = 32


class LlamaCpp:
    """A model on one thread of the CPU; keys and values stay f32, where llama.cpp would round them to f16."""

    def __init__(self, file: Path) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx = CONTEXT
        params.n_parallel = 1
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.fit_params = params.warmup = False
        params.verbosity = -1
        self.server = xllamacpp.Server(params)
        # Never closed: now and then xllamacpp 2026.10.11549 waits for ever when a server ends.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.server))

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.server.listening_address}/{path}", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def tokenize(self, text: str) -> list[int]:
        return self.post("tokenize", content=text)["tokens"]

    def log_probabilities(self, tokens: torch.Tensor, vocabulary: int, plain: int) -> torch.Tensor:
        """Of every next token after every prefix of every sequence, [sequences * length, vocabulary]. The token `plain`
        is what is sampled each time: for half a character there is no answer. Its bias comes after the probabilities."""
        rows = []
        for sequence in tokens.tolist():
            for end in range(1, len(sequence) + 1):
                said = self.post("completion", prompt=sequence[:end], n_predict=1, n_probs=vocabulary,
                                 logit_bias=[[plain, 1000]], cache_prompt=False)
                row = torch.full((vocabulary,), torch.nan)
                for entry in said["completion_probabilities"][0]["top_logprobs"]:
                    row[entry["id"]] = entry["logprob"]
                rows.append(row)
        return torch.stack(rows)


def product_with_q8(inputs: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """inputs * weight^T as llama.cpp has it for blocks d * q + m of 32 columns (offsets: the m). Inputs become Q8_1: codes of
    8 bits, of every 32 a scale in f16 for the products with d * q, and the sum of its values, in f16, for those with m."""
    blocks = inputs.unflatten(-1, (-1, Q8_BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    codes = (blocks / scale.clamp(min=torch.finfo(torch.float32).tiny)).round()
    values = codes * scale.half().float()
    sums = (scale * codes.sum(-1, keepdim=True)).half().float()
    return values.flatten(-2) @ weight.T + (sums - values.sum(-1, keepdim=True)).squeeze(-1) @ offsets.T


def compute_as_llama_cpp(model: nn.Module, matrices: str, head: str, offsets: dict[str, torch.Tensor]) -> None:
    """Give the products of a transformers model llama.cpp's rounding. matrices, head: the types they have in the GGUF file;
    F16 and BF16 want inputs of their own type. offsets: of matrices in blocks, by name."""
    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        kind = head if name == "lm_head" else matrices
        if kind in types:
            module.register_forward_pre_hook(lambda _, inputs, to=types[kind]: (inputs[0].to(to).float(),))
        else:
            module.register_forward_hook(lambda linear, inputs, _, offsets=offsets[f"{name}.weight"]:
                                         product_with_q8(inputs[0], linear.weight, offsets))
