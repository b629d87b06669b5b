"""The block of a Llama-like model around each mixer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from titans_mini.config import TitansConfig
from titans_mini.context import MemoryAsContext
from titans_mini.mixers import AttentionAlone, BlockState, MemoryAlone, MemoryAsGate, MemoryAsLayer, Mixer

MIXERS: dict[str, type[Mixer]] = {
    "mac": MemoryAsContext,
    "mag": MemoryAsGate,
    "mal": MemoryAsLayer,
    "lmm": MemoryAlone,
    "delta": MemoryAlone,
    "gated-delta": MemoryAlone,
    "transformer": AttentionAlone,
    "swa": AttentionAlone,
}


class SwiGLU(nn.Module):
    """The feed-forward part of a Llama block: (silu(x W₁) ∘ x W₃) W₂.

    Built in: notebooks/07 · Paper: section 3.3
    """

    def __init__(self, dim: int, ratio: float) -> None:
        """Build three matrices; the hidden width is rounded to a multiple of 8."""
        super().__init__()
        hidden = max(8, round(dim * ratio / 8) * 8)
        self.gate_and_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.to_output = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) → (B, T, dim)."""
        gate, up = self.gate_and_up(x).chunk(2, -1)
        return self.to_output(F.silu(gate) * up)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + SwiGLU(norm(x)).

    Built in: notebooks/07 · Paper: section 3.3
    """

    def __init__(self, c: TitansConfig) -> None:
        """Build the mixer that the variant names."""
        super().__init__()
        self.norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.mixer = MIXERS[c.variant](c)
        self.mlp_norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.mlp = SwiGLU(c.dim, c.mlp_ratio)

    def forward(self, x: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState]:
        """(B, T, dim) → (B, T, dim) and the state after the last token; without a state a text begins.

        The mixer makes the first state itself: only now has FSDP put the weights together that it is made from.
        """
        y, state = self.mixer(self.norm(x), state)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state
