"""The P and V steps of PV-Tuning in plain PyTorch, from the method's description: what `make bench-cpu` compares with.

AQLM matrices: 2 codebooks of 256 for groups of 8 weights and a scale a row; f32 student weights and straight-through
buffers; published settings (Adam 3e-4 .90/.95 on continuous parameters, 1e-2 0/.95 on the buffers, LAMB scaling, the top
1 % of groups by distance, beam 5). Where PyTorch has several ways, this is the fastest found on a 2-core machine:
- the codebook gradient is sixteen 1-D index_add a matrix on transposed gradients (index_add of rows: 2.5 times slower,
  embedding backward: 6, index_put: 9, one-hot product: 100);
- index_add runs on one thread, so matrices are handed to one thread a core, each with a single-threaded PyTorch;
- weights are restored with embedding_bag.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

CODEBOOKS, ENTRIES, GROUP = 2, 256, 8
LEARNING_RATE, BETA1, BETA2 = 3e-4, 0.90, 0.95
CODE_LEARNING_RATE, CODE_BETA2 = 1e-2, 0.95
EPSILON = 1e-8
MOVED_SHARE = 0.01
BEAM = 5


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

    def __init__(self, matrices: list[Matrix], others: list[Continuous], threads: int, compiled: bool) -> None:
        def maybe(function: Callable) -> Callable:
            return torch.compile(function, dynamic=False, options={"cpp.threads": 1}) if compiled else function

        self.matrices = matrices
        self.others = others
        self.steps = 0
        self.changed = 0
        self.adam_direction = maybe(adam_direction)
        self.move_buffer = maybe(move_buffer)
        self.scaled_transpose = maybe(scaled_transpose)
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    @torch.no_grad()  # of the thread it runs in, as gradient mode is a thread's own
    def adam(self, parameter: Continuous, gradient: torch.Tensor) -> None:
        """Adam whose step is a given share of the tensor's norm (LAMB)."""
        corrections = (1 - BETA1**self.steps, 1 - BETA2**self.steps)
        direction = self.adam_direction(gradient, parameter.first, parameter.second, *map(torch.tensor, corrections))
        ratio = parameter.value.norm() / direction.norm().clamp_min(EPSILON)
        parameter.value.sub_(direction.mul_(ratio), alpha=LEARNING_RATE)

    @torch.no_grad()
    def step_matrix(self, matrix: Matrix) -> int:
        """P step, then V step of one matrix; the number of groups whose codes changed."""
        gradient, weight, scales = matrix.weight.grad, matrix.weight, matrix.scales.value
        columns = self.scaled_transpose(gradient, scales)
        codebook_gradient = torch.zeros(GROUP, CODEBOOKS * ENTRIES)
        codes = matrix.codes.t().contiguous()
        for position in range(GROUP):
            for codebook in range(CODEBOOKS):
                codebook_gradient[position].index_add_(0, codes[codebook], columns[position])
        scale_gradient = torch.linalg.vecdot(gradient, weight)[:, None] / scales

        correction = torch.tensor(1 - CODE_BETA2**self.steps)
        distance = self.move_buffer(gradient, matrix.moment, matrix.buffer, weight.detach(), correction)
        self.adam(matrix.codebooks, codebook_gradient.t())
        self.adam(matrix.scales, scale_gradient)

        chosen = distance.topk(math.ceil(distance.numel() * MOVED_SHARE)).indices
        rows = chosen // (weight.shape[1] // GROUP)
        targets = matrix.buffer.view(-1, GROUP)[chosen] / matrix.scales.value[rows]
        old = matrix.codes[chosen]
        new = beam_search(targets, old, matrix.codebooks.value).to(old.dtype)
        matrix.codes[chosen] = new
        torch.mul(
            restore(matrix.codes, matrix.codebooks.value).view_as(weight), matrix.scales.value, out=weight.detach()
        )
        return int((old != new).any(1).sum())

    def step(self, gradients: list[torch.Tensor]) -> None:
        """One step; `gradients` are those of the other parameters, in their order."""
        self.steps += 1
        updates = [self.pool.submit(self.adam, *pair) for pair in zip(self.others, gradients)]
        counts = [self.pool.submit(self.step_matrix, matrix) for matrix in self.matrices]
        for update in updates:
            update.result()
        self.changed = sum(count.result() for count in counts)


def nearest(targets: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    return torch.addmm(codebook.square().sum(1), targets, codebook.T, alpha=-2).argmin(1)


def quantise(weight: torch.Tensor, seed: int) -> Matrix:
    """A Matrix near weight: codebooks drawn from its own groups, codes chosen one after the other. Enough for a timing."""
    generator = torch.Generator().manual_seed(seed)
    scales = weight.square().mean(1, keepdim=True).sqrt()
    groups = (weight / scales).view(-1, GROUP)
    drawn = groups[torch.randint(len(groups), (CODEBOOKS * ENTRIES,), generator=generator)]
    first, second = drawn.split(ENTRIES)
    second = second * 0.4
    codes = torch.empty(len(groups), CODEBOOKS, dtype=torch.int32)
    for part, part_codes in zip(groups.split(1 << 12), codes.split(1 << 12)):  # in cache
        part_codes[:, 0] = chosen = nearest(part, first)
        part_codes[:, 1] = nearest(part - first[chosen], second) + ENTRIES
    codebooks = torch.cat((first, second))
    leaf = (restore(codes, codebooks).view_as(weight) * scales).requires_grad_()
    buffer = leaf.detach().clone()
    return Matrix(leaf, codes, Continuous(codebooks), Continuous(scales), buffer, torch.zeros_like(buffer))
