"""Memory as context (MAC): segments that attend to what the memory recalls for them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from titans_mini.attention import Attention, rotate, split_segments
from titans_mini.config import TitansConfig
from titans_mini.mixers import BlockState, Gate, Mixer, build_memory


class MemoryAsContext(Mixer):
    """MAC: each segment attends to the persistent tokens, to what the memory recalls for it, and to itself.

    h is read from the memory as it stood at the end of the segment before; the attention's output is then written.
    ⚠ The paper's text leaks the future twice. Here token i sees h_j for j ≤ i only, and the last read of a position
    uses the memory of that position. `literal=True` keeps the printed form, for the lesson, and needs whole segments.

    Built in: notebooks/07 · Paper: eq. 21–25
    """

    def __init__(self, c: TitansConfig) -> None:
        """Build memory, attention within a segment, and the gate."""
        super().__init__(c)
        self.memory = build_memory(c)
        self.count = c.long_term or c.segment  # tokens h of a segment
        self.stride = c.segment // self.count
        first = 1 + (self.count if c.order == "phs" else 0)
        self.h_offset = 1 if c.order == "phs" else 1 + c.segment
        self.attention = Attention(c.dim, c.heads, segment=c.segment, offset=first, rope_base=c.rope_base)
        self.gate = Gate(c.dim, c.gate, c.norm_eps)

    def init_state(self, batch: int) -> BlockState:
        """Start with the learned memory and no segment begun."""
        memory, attention = self.memory.init_state(batch), self.attention.init_state(batch)
        queries = memory.conv[:, : memory.conv.shape[1] // 3]
        return BlockState(
            memory, attention, None, memory.memory.weights, queries, attention.k[:, :, :0], attention.v[:, :, :0]
        )

    def forward(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """Go through the segments one after the other: each needs the memory of the one before."""
        out = []
        for part in split_segments(x, state.attention.position, self.c.segment):
            y, state = self._segment(part, state)
            out.append(y)
        return torch.cat(out, 1), state

    def _segment(self, x: Tensor, s: BlockState) -> tuple[Tensor, BlockState]:
        """Tokens within one segment."""
        begun, T = s.attention.position % self.c.segment, x.shape[1]
        if self.c.literal and (begun or T != self.c.segment):
            raise ValueError(
                f"literal=True: got {T} tokens after {begun} of a segment, expected whole segments of "
                f"{self.c.segment}: as printed, every token sees its whole segment"
            )
        if begun == 0:
            s = dataclasses.replace(
                s, context=s.memory.memory.weights, h_keys=s.h_keys[:, :, :0], h_values=s.h_values[:, :, :0]
            )
        h, conv = self.memory.recall(x, s.context, s.context_conv)
        s = self._remember(h, s, begun)
        h_at = torch.arange(s.h_keys.shape[2], device=x.device) * self.stride
        visible = h_at <= torch.arange(begun, begun + T, device=x.device)[:, None]
        extra = (s.h_keys, s.h_values, torch.ones_like(visible) if self.c.literal else visible)
        y, attention = self.attention(x, s.attention, self.persistent, extra)
        m, memory = self.memory(y, s.memory)
        if self.c.literal:  # M*_t(y_t) of the segment's end, for every position
            m, _ = self.memory.recall(y, memory.memory.weights, s.memory.conv[:, : conv.shape[1]])
        return self.gate(y, m), dataclasses.replace(s, memory=memory, attention=attention, context_conv=conv)

    def _remember(self, h: Tensor, s: BlockState, begun: int) -> BlockState:
        """Add the keys and values of the new h to those of this segment."""
        first = -begun % self.stride
        k, v = self.attention.keys_and_values(h[:, first :: self.stride])
        places = torch.arange(s.h_keys.shape[2], s.h_keys.shape[2] + k.shape[2], device=h.device)
        k = rotate(k, places * self.stride + self.h_offset if self.c.order == "psh" else places + 1, self.c.rope_base)
        keys, values = (torch.cat([old.to(new), new], 2) for old, new in ((s.h_keys, k), (s.h_values, v)))
        return dataclasses.replace(s, h_keys=keys, h_values=values)
