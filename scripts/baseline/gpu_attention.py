#!/usr/bin/env python3
"""What PyTorch gets out of the device, to hold `pvtune bench --device cuda` against in the same run.

Flash attention forward and backward (causal, bf16), a copy of device memory, bf16 matrix products; the median of
several runs by the device's own events. Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# One sequence through one layer of a 7B model.
BATCH, HEADS, TOKENS, HEAD_DIM = 1, 32, 4096, 128
COPY_BYTES = 1 << 30  # far more than a cache holds
PRODUCTS = ((8192, 8192, 8192), (4096, 4096, 4096), (4096, 11008, 4096))
WARM_UP, REPEATS = 5, 25


def median_seconds(body: Callable[[], object]) -> float:
    """Of one call, on the device."""
    for _ in range(WARM_UP):
        body()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(REPEATS)]
    for start, end in events:
        start.record()
        body()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) * 1e-3


def attention(backend: SDPBackend) -> dict[str, object]:
    shape = (BATCH, HEADS, TOKENS, HEAD_DIM)
    query, key, value, gradient = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    flops = 4 * BATCH * HEADS * TOKENS * TOKENS * HEAD_DIM / 2  # half of the scores are masked
    with sdpa_kernel(backend):
        with torch.no_grad():
            forward = median_seconds(lambda: F.scaled_dot_product_attention(*inputs, is_causal=True))
        out = F.scaled_dot_product_attention(*inputs, is_causal=True)
        backward = median_seconds(lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True))
    # Backward: five products of this size where forward has two.
    return {"batch": BATCH, "heads": HEADS, "tokens": TOKENS, "head_dim": HEAD_DIM,
            "forward_seconds": forward, "forward_flops_per_second": flops / forward,
            "backward_seconds": backward, "backward_flops_per_second": 2.5 * flops / backward}


def attempt(body: Callable[[], dict[str, object]]) -> dict[str, object]:
    """An attention that this PyTorch or this device lacks is left out of the comparison, with the reason."""
    try:
        return body()
    except RuntimeError as error:
        return {"error": str(error).splitlines()[0]}


def copy() -> dict[str, object]:
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source))
    return {"bytes": 2 * COPY_BYTES, "seconds": seconds, "bytes_per_second": 2 * COPY_BYTES / seconds}


def product(m: int, n: int, k: int) -> dict[str, object]:
    left = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    right = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
    seconds = median_seconds(lambda: F.linear(left, right))
    return {"m": m, "n": n, "k": k, "seconds": seconds, "flops_per_second": 2 * m * n * k / seconds}


def main() -> None:
    torch.manual_seed(0)
    print(json.dumps({
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(),
        "flash_attention": attempt(lambda: attention(SDPBackend.FLASH_ATTENTION)),
        "cudnn_attention": attempt(lambda: attention(SDPBackend.CUDNN_ATTENTION)),
        "copy": copy(),
        "products": [product(*shape) for shape in PRODUCTS],
    }))


if __name__ == "__main__":
    main()
