"""What the runs of a matrix memory and of a deep one share: how a run is done, and its gates, span by span."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.memory.decay import Gates, fill_table_backward, multiply_gates, slice_gates
from titans_mini.memory.network import MemoryNet

SPAN = 4096  # tokens whose gates are multiplied up at once: enough to be fast, few enough to stay small
LANES = 32  # a table of so few chunks is kept and not filled again: that takes calls, not work, and keeping it little


@dataclass(frozen=True)
class Run:
    """How a run of equal chunks is done."""

    net: MemoryNet
    online: bool  # the exact online rule instead of anchored gradients
    read: str  # "after" or "before"
    size: int  # c, tokens of a chunk
    group: int  # chunks between two states that are kept for the backward pass
    begun: bool  # the run is the rest of a begun chunk: its anchor is not its start


class Span(NamedTuple):
    """Some thousand tokens of a run, their gates multiplied up together."""

    here: slice  # its chunks
    raw: list[Tensor]  # alpha, eta, theta: (1 or L, chunks, N, c), so that joined chunks are views
    gates: Gates  # (1 or L, chunks, N, …)
    table: Tensor  # and the rows of n, where the backward pass asked for them: see `decay`
    n: Tensor | None

    def new_gradients(self, run: Run) -> tuple[Tensor, Tensor, Gates]:
        """Make room for the gradients at 2θ and at the table, and name its parts like those of the gates.

        Chunks and heads lie one behind the other in both: joined chunks are views, and what grows in them grows here.
        """
        d_step, d_table = self.raw[2].new_zeros(self.raw[2].shape), torch.zeros_like(self.table)
        return d_step, d_table, slice_gates(d_step, d_table, run.read, run.online, gradients=True)

    def backward(self, d_step: Tensor, d_table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the gradients at alpha, eta and theta, (1 or L, N, chunks, c)."""
        found = *fill_table_backward(*self.raw[:2], self.table, self.n, d_table), d_step.mul_(2)
        return tuple(x.transpose(1, 2) for x in found)


def spans(
    run: Run, tensors: list[Tensor], batch: int, kept: list[Tensor] | None = None, backwards: bool = False
) -> Iterator[Span]:
    """Go through a run span by span.

    Args:
        run: how.
        tensors: q, k, v (N, chunks, c, D) and alpha, eta, theta (1 or L, N, chunks, c).
        batch: chunks that stay together.
        kept: what the forward pass keeps: of a short run its table first, which going backwards takes away.
        backwards: from the last span to the first, with what `Span.backward` needs.

    Returns:
        The spans.
    """
    count, size = tensors[0].shape[1:3]
    span = max(1, SPAN // size // batch) * batch
    starts = range(0, count, span)
    short = kept is not None and len(starts) == 1 and tensors[3].shape[:3].numel() <= LANES
    for start in reversed(starts) if backwards else starts:
        here = slice(start, min(start + span, count))
        raw = [x[:, :, here].transpose(1, 2) for x in tensors[3:]]
        if short and backwards:
            table, n = kept.pop(0), kept.pop(0)
            gates = slice_gates(2 * raw[2], table, run.read, run.online)
        else:
            gates, table, n = multiply_gates(*raw, run.read, run.online, keep_n=backwards or short)
        if short and not backwards:
            kept += [table, n]
        yield Span(here, raw, gates, table, n)


def join_chunks(x: Tensor, m: int) -> tuple[Tensor, ...]:
    """Cut (N, chunks, …) into batches of m chunks, (m·N, …), chunk before head. Batches of one chunk are views."""
    return x.unbind(1) if m == 1 else x.transpose(0, 1).flatten(0, 1).split(m * x.shape[0])


def places(x: Tensor, m: int) -> tuple[Tensor, ...]:
    """View (N, chunks, …) as the places where `put` writes what was joined by `join_chunks`."""
    return x.unbind(1) if m == 1 else x.split(m, 1)


def put(place: Tensor, x: Tensor) -> None:
    """Write joined chunks (m·N, …) to their place."""
    if place.dim() > x.dim():
        x = x.unflatten(0, (place.shape[1], place.shape[0])).transpose(0, 1)
    place.copy_(x)
