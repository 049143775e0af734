"""The P and V steps of PV-Tuning in plain PyTorch, from the method's description: what pvtune is compared with.

AQLM matrices: 2 codebooks of 256 for groups of 8 weights and a scale a row; f32 student weights and straight-through
buffers; published settings (Adam 3e-4 .90/.95 on continuous parameters, 1e-2 0/.95 on the buffers, LAMB scaling, the top
1 % of groups by distance, beam 5). Where PyTorch has several ways, this is the fastest found on a 2-core machine:
- the codebook gradient is sixteen 1-D index_add a matrix on transposed gradients (index_add of rows: 2.5 times slower,
  embedding backward: 6, index_put: 9, one-hot product: 100);
- index_add runs on one thread, so matrices are handed to one thread a core, each with a single-threaded PyTorch;
- weights are restored with embedding_bag.
On a GPU matrices follow one another on one stream without a word to the host in between; of several ways to sum the
codebook gradient the fastest on that device is found before the first step, and restoring and the beam search's
selection are compiled like the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Optional

import torch
import torch.nn.functional as F

CODEBOOKS, ENTRIES, GROUP = 2, 256, 8
LEARNING_RATE, BETA1, BETA2 = 3e-4, 0.90, 0.95
CODE_LEARNING_RATE, CODE_BETA2 = 1e-2, 0.95
EPSILON = 1e-8
MOVED_SHARE = 0.01
BEAM = 5
QUANTISED_AT_ONCE = {"cpu": 1 << 12, "cuda": 1 << 18}  # groups; on a CPU what its cache holds


@dataclass
class Continuous:
    """A tensor that Adam with LAMB scaling moves, and its two moments."""

    value: torch.Tensor
    first: torch.Tensor = field(init=False)
    second: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.first, self.second = torch.zeros_like(self.value), torch.zeros_like(self.value)


@dataclass
class Matrix:
    """A quantised matrix: `weight` is the leaf that the student computes with, kept equal to the restored codes."""

    weight: torch.Tensor  # [out, in] f32
    codes: torch.Tensor  # [groups, CODEBOOKS] int32, the second column offset by ENTRIES as embedding_bag wants it
    codebooks: Continuous  # [CODEBOOKS * ENTRIES, GROUP]
    scales: Continuous  # [out, 1]
    buffer: torch.Tensor  # [out, in], straight-through
    moment: torch.Tensor  # [out, in]


def adam_direction(
    gradient: torch.Tensor, first: torch.Tensor, second: torch.Tensor, correction1: float, correction2: float
) -> torch.Tensor:
    """Moves both moments and returns the unscaled update."""
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    return first / correction1 / ((second / correction2).sqrt() + EPSILON)


def move_buffer(
    gradient: torch.Tensor, moment: torch.Tensor, buffer: torch.Tensor, weight: torch.Tensor, correction: float
) -> torch.Tensor:
    """One Adam step (b1 = 0) with LAMB scaling on the straight-through buffer; each group's squared distance from weight."""
    moment.mul_(CODE_BETA2).addcmul_(gradient, gradient, value=1 - CODE_BETA2)
    update = gradient / ((moment / correction).sqrt() + EPSILON)
    buffer.sub_(update * (CODE_LEARNING_RATE * buffer.norm() / update.norm().clamp_min(EPSILON)))
    return (buffer - weight).view(-1, GROUP).square().sum(1)


def scaled_transpose(gradient: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Row scales times gradient, one row for each of the GROUP positions: [GROUP, groups]."""
    return (gradient * scales).view(-1, GROUP).t().contiguous()


def restore(codes: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
    """The sum of the codewords of each group, [groups, GROUP]."""
    return F.embedding_bag(codes, codebooks, mode="sum")


def restore_scaled(codes: torch.Tensor, codebooks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The weights [out, in]; to be compiled into one kernel."""
    return codebooks[codes].sum(1).view(len(scales), -1) * scales


def sum_by_column(
    gradient: torch.Tensor, scales: torch.Tensor, codes: torch.Tensor, transpose: Callable = scaled_transpose
) -> torch.Tensor:
    """The codebook gradient [CODEBOOKS * ENTRIES, GROUP], a position of the group after the other."""
    columns = transpose(gradient, scales)
    result = gradient.new_zeros(GROUP, CODEBOOKS * ENTRIES)
    codes = codes.t().contiguous()
    for position in range(GROUP):
        for codebook in range(CODEBOOKS):
            result[position].index_add_(0, codes[codebook], columns[position])
    return result.t()


def sum_by_row(gradient: torch.Tensor, scales: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    rows, result = (gradient * scales).view(-1, GROUP), gradient.new_zeros(CODEBOOKS * ENTRIES, GROUP)
    for codebook in range(CODEBOOKS):
        result.index_add_(0, codes[:, codebook], rows)
    return result


def sum_sorted(gradient: torch.Tensor, scales: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """As the backward pass of an embedding does it."""
    rows = (gradient * scales).view(-1, GROUP)
    return sum(torch.ops.aten.embedding_dense_backward(rows, codes[:, codebook].long(), CODEBOOKS * ENTRIES, -1, False)
               for codebook in range(CODEBOOKS))


def sum_products(gradient: torch.Tensor, scales: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """As products with one-hot matrices, which tensor cores do, in bf16."""
    rows, result = (gradient * scales).view(-1, GROUP).bfloat16(), gradient.new_zeros(CODEBOOKS * ENTRIES, GROUP)
    entries = torch.arange(CODEBOOKS * ENTRIES, device=gradient.device, dtype=codes.dtype)[:, None]
    for part, part_codes in zip(rows.split(1 << 18), codes.split(1 << 18)):
        hot = (entries == part_codes[:, 0]) | (entries == part_codes[:, 1])
        result += hot.bfloat16() @ part
    return result


SUMS = (sum_by_column, sum_by_row, sum_sorted, sum_products)


def fastest(ways: tuple[Callable, ...], arguments: tuple[torch.Tensor, ...]) -> Callable:
    """Of ways to do the same on a GPU; one that fails there is left out."""
    seconds = {}
    for way in ways:
        try:
            for _ in range(2):
                way(*arguments)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(3):
                way(*arguments)
            end.record()
            torch.cuda.synchronize()
            seconds[way] = start.elapsed_time(end)
        except RuntimeError:
            continue
    return min(seconds, key=seconds.__getitem__)


def beam_search(targets: torch.Tensor, codes: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
    """Better codes for targets [chosen, GROUP], one codebook after the other, keeping BEAM candidates in between."""
    first, second = codebooks[:ENTRIES], codebooks[ENTRIES:]
    first_norm, second_norm = first.square().sum(1), second.square().sum(1)
    # The first codebook given the present second code, then the second given each of the best first codes.
    residual = targets - codebooks[codes[:, 1]]
    candidates = torch.addmm(first_norm, residual, first.T, alpha=-2).topk(BEAM, largest=False).indices
    residual = targets[:, None] - first[candidates]
    scores, best = torch.addmm(second_norm, residual.flatten(0, 1), second.T, alpha=-2).min(1)
    scores = scores.view(-1, BEAM) + residual.square().sum(2)
    winner = scores.argmin(1, keepdim=True)
    return torch.cat((candidates.gather(1, winner), best.view(-1, BEAM).gather(1, winner) + ENTRIES), 1)


class Tuner:
    """One P step and one V step on all matrices and the other continuous parameters, given gradients."""

    def __init__(
        self, matrices: list[Matrix], others: list[Continuous], threads: int, compiled: bool, device: str = "cpu"
    ) -> None:
        options = {"cpp.threads": 1} if device == "cpu" else None

        def maybe(function: Callable) -> Callable:
            return torch.compile(function, dynamic=False, options=options) if compiled else function

        self.device = device
        self.matrices = matrices
        self.others = others
        self.steps = 0
        self.changed = torch.zeros(())  # to read it is to wait for the device
        self.adam_direction = maybe(adam_direction)
        self.move_buffer = maybe(move_buffer)
        self.scaled_transpose = maybe(scaled_transpose)
        self.restore_scaled = maybe(restore_scaled)
        self.beam_search = maybe(beam_search) if device != "cpu" else beam_search
        self.corrections: dict[float, torch.Tensor] = {}
        self.codebook_sum: Callable = partial(sum_by_column, transpose=self.scaled_transpose)
        self.pool: Optional[ThreadPoolExecutor] = None
        if device == "cpu":
            self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        else:
            largest = max(matrices, key=lambda matrix: matrix.weight.numel())
            self.codebook_sum = fastest(SUMS, (largest.buffer, largest.scales.value, largest.codes))

    @torch.no_grad()  # of the thread it runs in, as gradient mode is a thread's own
    def adam(self, parameter: Continuous, gradient: torch.Tensor) -> None:
        """Adam whose step is a given share of the tensor's norm (LAMB)."""
        corrections = (self.corrections[BETA1], self.corrections[BETA2])
        direction = self.adam_direction(gradient, parameter.first, parameter.second, *corrections)
        ratio = parameter.value.norm() / direction.norm().clamp_min(EPSILON)
        parameter.value.sub_(direction.mul_(ratio), alpha=LEARNING_RATE)

    @torch.no_grad()
    def step_matrix(self, matrix: Matrix) -> torch.Tensor:
        """P step, then V step of one matrix; the number of groups whose codes changed."""
        gradient, weight, scales = matrix.weight.grad, matrix.weight, matrix.scales.value
        codebook_gradient = self.codebook_sum(gradient, scales, matrix.codes)
        scale_gradient = torch.linalg.vecdot(gradient, weight)[:, None] / scales

        correction = self.corrections[CODE_BETA2]
        distance = self.move_buffer(gradient, matrix.moment, matrix.buffer, weight.detach(), correction)
        self.adam(matrix.codebooks, codebook_gradient)
        self.adam(matrix.scales, scale_gradient)

        chosen = distance.topk(math.ceil(distance.numel() * MOVED_SHARE)).indices
        rows = chosen // (weight.shape[1] // GROUP)
        targets = matrix.buffer.view(-1, GROUP)[chosen] / matrix.scales.value[rows]
        old = matrix.codes[chosen]
        new = self.beam_search(targets, old, matrix.codebooks.value).to(old.dtype)
        matrix.codes[chosen] = new
        if self.device == "cpu":
            torch.mul(
                restore(matrix.codes, matrix.codebooks.value).view_as(weight), matrix.scales.value, out=weight.detach()
            )
        else:
            weight.detach().copy_(self.restore_scaled(matrix.codes, matrix.codebooks.value, matrix.scales.value))
        return (old != new).any(1).sum()

    def step(self, gradients: list[torch.Tensor]) -> None:
        """One step; `gradients` are those of the other parameters, in their order."""
        self.steps += 1
        for beta in (BETA1, BETA2, CODE_BETA2):  # filled on the device: a copy to it would wait for all that is queued
            self.corrections[beta] = torch.full((), 1 - beta**self.steps, device=self.device)
        if self.pool is None:
            for pair in zip(self.others, gradients):
                self.adam(*pair)
            self.changed = sum(self.step_matrix(matrix) for matrix in self.matrices)
            return
        updates = [self.pool.submit(self.adam, *pair) for pair in zip(self.others, gradients)]
        counts = [self.pool.submit(self.step_matrix, matrix) for matrix in self.matrices]
        for update in updates:
            update.result()
        self.changed = sum(count.result() for count in counts)


def nearest(targets: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    return torch.addmm(codebook.square().sum(1), targets, codebook.T, alpha=-2).argmin(1)


def quantise(weight: torch.Tensor, seed: int) -> Matrix:
    """A Matrix near weight: codebooks drawn from its own groups, codes chosen one after the other. Enough for a timing."""
    device = weight.device
    generator = torch.Generator(device).manual_seed(seed)
    scales = weight.square().mean(1, keepdim=True).sqrt()
    groups = (weight / scales).view(-1, GROUP)
    drawn = groups[torch.randint(len(groups), (CODEBOOKS * ENTRIES,), generator=generator, device=device)]
    first, second = drawn.split(ENTRIES)
    second = second * 0.4
    codes = torch.empty(len(groups), CODEBOOKS, dtype=torch.int32, device=device)
    at_once = QUANTISED_AT_ONCE[device.type]
    for part, part_codes in zip(groups.split(at_once), codes.split(at_once)):
        part_codes[:, 0] = chosen = nearest(part, first)
        part_codes[:, 1] = nearest(part - first[chosen], second) + ENTRIES
    codebooks = torch.cat((first, second))
    leaf = (restore(codes, codebooks).view_as(weight) * scales).requires_grad_()
    buffer = leaf.detach().clone()
    return Matrix(leaf, codes, Continuous(codebooks), Continuous(scales), buffer, torch.zeros_like(buffer))
