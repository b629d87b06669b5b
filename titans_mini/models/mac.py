"""Memory as context (MAC): each segment attends to tokens retrieved from the memory."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from titans_mini.models.attention import MemoryKeys, apply_rotary, rotary_cos_sin, segment_lengths
from titans_mini.models.config import TitansConfig
from titans_mini.models.mixers import BlockState, Gate, Mixer, build_attention, build_memory


class MemoryAsContext(Mixer):
    """MAC: each segment attends to the persistent tokens, to tokens h retrieved from the memory, and to itself.

    h is read from the memory at the end of the segment before; the attention's output y is then written, and asked for
    what the memory has learned. ⚠ y has no residual. What a token is reaches the memory only as far as attention passes
    it on, and the memory's convolution can bind a token to the one before it only if both are still there: `writes`
    puts x or x + y in y's place in eq. 24 and in M* of eq. 25, so that keys and queries remain of one kind.
    ⚠ h_j answers token j. A later token that sees it has the values of other questions beside its own, and nothing that
    tells them apart: with sees="own" token i sees its own h alone, the latest at i, and one h is all that is cached.
    ⚠ The paper's text leaks the future twice. Here token i sees h_j for j ≤ i only, and the last read of a position
    uses the memory of that position. `literal=True` keeps the printed form, for the lesson, and needs whole segments.

    Built in: notebooks/10 · Paper: eq. 21–25
    """

    def __init__(self, c: TitansConfig) -> None:
        """Build memory, attention within a segment, and the gate."""
        super().__init__(c)
        self.memory = build_memory(c)
        self.count = c.long_term or c.segment  # tokens h per segment
        self.stride = c.segment // self.count
        first = 1 + (self.count if c.order == "phs" else 0)
        self.h_offset = 1 if c.order == "phs" else 1 + c.segment
        self.attention = build_attention(c, segment=c.segment, offset=first)
        self.gate = Gate(c.dim, c.gate, c.norm_eps)

    def init_state(self, batch: int) -> BlockState:
        """Return the learned initial memory and empty caches, at the start of a segment."""
        memory, attention = self.memory.init_state(batch), self.attention.init_state(batch)
        queries = memory.conv[:, : memory.conv.shape[1] // 3]
        return BlockState(
            memory, attention, None, memory.memory.weights, queries, attention.k[:, :, :0], attention.v[:, :, :0]
        )

    def forward(self, x: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        """Process the segments in order, because each needs the memory of the one before: (B, T, dim) → (B, T, dim).

        Only retrieval, attention and write are sequential. Projections of x are computed for all segments before the
        loop, and the output projection and the gate for all segments after it.
        """
        state = state or self.init_state(x.shape[0])
        position, T = state.attention.position, x.shape[1]
        lengths = segment_lengths(T, position, self.c.segment)
        self._check_literal(lengths, position)
        fixed = None if self.persistent is None else self.attention.keys_and_values(self.persistent)
        *qkv, attention = self.attention.project(x, state.attention)
        tokens = zip(*(z.split(lengths, 2) for z in qkv), x.split(lengths, 1), strict=True)
        queries, conv = self._project_queries(x, state.context_conv, lengths, position)
        masks, rotary = {}, {}  # shared by whole segments
        ys, ms, state = [], [], dataclasses.replace(state, context_conv=conv, attention=attention)
        for (*qkv, part), (q, gate) in zip(tokens, queries, strict=True):
            state = self._retrieve(q, gate, rotary, state)
            y, m, state = self._segment(part, qkv, fixed, masks, state)
            ys.append(y)
            ms.append(m)
        y, m = torch.cat(ys, 1), torch.cat(ms, 2)
        return self.gate(y, self.memory.project_output(m, self.memory.output_gate(self._written(x, y)))), state

    def _written(self, x: Tensor, y: Tensor) -> Tensor:
        """Choose what the memory writes and is asked, from the block's normed input and attention's answer to it."""
        return y if self.c.writes == "y" else x if self.c.writes == "x" else x + y

    def _check_literal(self, lengths: list[int], position: int) -> None:
        """Raise if the printed form gets an incomplete segment."""
        size = self.c.segment
        if self.c.literal and (position % size or lengths[-1] != size):
            raise ValueError(
                f"literal=True: got {sum(lengths)} tokens after {position % size} of a segment, expected whole "
                f"segments of {size}: as printed, every token sees its whole segment"
            )

    def _project_queries(
        self, x: Tensor, conv: Tensor, lengths: list[int], position: int
    ) -> tuple[Iterator[tuple[Tensor, Tensor]], Tensor]:
        """Compute each segment's n queries (B, H, n, D) and output gates (B, n, H·D) for h, and the conv state."""
        q, conv = self.memory.project_queries(x, conv)
        ends = itertools.accumulate(lengths, initial=position)
        due = [-(-b // self.stride) - -(-a // self.stride) for a, b in itertools.pairwise(ends)]
        first = -position % self.stride
        gate = self.memory.output_gate(x[:, first :: self.stride])
        return zip(q[:, :, first :: self.stride].split(due, 2), gate.split(due, 1), strict=True), conv

    def _retrieve(self, q: Tensor, gate: Tensor, rotary: dict, s: BlockState) -> BlockState:
        """Retrieve h from the memory of the segment before, eq. 21, and cache its keys and values."""
        begun = s.attention.position % self.c.segment
        if begun == 0:
            s = dataclasses.replace(
                s, context=s.memory.memory.weights, h_keys=s.h_keys[:, :, :0], h_values=s.h_values[:, :, :0]
            )
        if not q.shape[2]:
            return s
        h = self.memory.project_output(self.memory.read(q, s.context), gate)
        k, v = self.attention.keys_and_values(h)
        first = -(-begun // self.stride)  # the segment's h before these, kept or not
        span = first, first + k.shape[2]
        if span not in rotary:
            positions = torch.arange(*span, device=k.device)
            positions = positions * self.stride + self.h_offset if self.c.order == "psh" else positions + 1
            rotary[span] = rotary_cos_sin(k, positions, self.c.rope_base)
        k = apply_rotary(k, rotary[span])
        keys, values = (torch.cat([old.to(new), new], 2) for old, new in ((s.h_keys, k), (s.h_values, v)))
        return dataclasses.replace(s, h_keys=keys, h_values=values)

    def _segment(
        self, x: Tensor, qkv: list[Tensor], fixed: tuple[Tensor, ...] | None, masks: dict, s: BlockState
    ) -> tuple[Tensor, Tensor, BlockState]:
        """Attend and write, eq. 22–24: y (B, T, dim), the memory's answers (B, H, T, D), and the next state."""
        begun, own = s.attention.position % self.c.segment, self.c.sees == "own"
        first = -(-(begun + x.shape[1]) // self.stride) - s.h_keys.shape[2]
        extra = MemoryKeys(s.h_keys, s.h_values, self.stride, begun, self.c.literal, own, first)
        y, attention = self.attention.attend(*qkv, s.attention, fixed, extra, masks)
        if own and s.h_keys.shape[2] > 1:  # later tokens see the latest alone; a view would keep the others alive
            s = dataclasses.replace(s, h_keys=s.h_keys[:, :, -1:].clone(), h_values=s.h_values[:, :, -1:].clone())
        y = self.attention.to_output(y)
        m, memory = self.memory.write(self._written(x, y), s.memory)
        if self.c.literal:  # M*_t(y_t) with the memory at the segment's end, for every position
            q, _ = self.memory.project_queries(y, s.memory.conv[:, : s.context_conv.shape[1]])
            m = self.memory.read(q, memory.memory.weights)
        return y, m, dataclasses.replace(s, memory=memory, attention=attention)
