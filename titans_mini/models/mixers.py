"""Sequence mixers: the memory alone, as a gate and as a layer; and attention alone, for comparison."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from titans_mini.memory.layer import NeuralMemory
from titans_mini.memory.state import NeuralMemoryState, State
from titans_mini.models.attention import Attention, AttentionState
from titans_mini.models.baselines import DeltaMemory, ReadOnlyMemory
from titans_mini.models.config import TitansConfig


@dataclass(frozen=True, eq=False)
class BlockState(State):
    """State that a block carries from call to call; a part that its mixer lacks is None.

    Attributes:
        memory: state of the neural memory.
        attention: cache of keys and values.
        prefix: mal: (B, P, dim), the attention's prefix, made from the memory's answers to the persistent tokens.
        context: mac: L tensors (B, H, in, out), the memory at the start of the segment; h is read from it.
        context_conv: mac: (B, H·D, conv_size − 1), last inputs of the convolution of h's queries.
        h_keys: mac: (B, H, E, D), rotated keys of this segment's h so far; with sees="own" of the latest alone.
        h_values: mac: (B, H, E, D), their values.

    Built in: notebooks/10 · Paper: section 4
    """

    memory: NeuralMemoryState | None = None
    attention: AttentionState | None = None
    prefix: Tensor | None = None
    context: tuple[Tensor, ...] | None = None
    context_conv: Tensor | None = None
    h_keys: Tensor | None = None
    h_values: Tensor | None = None

    @classmethod
    def from_dict(cls, flat: dict[str, Tensor]) -> BlockState:
        """Rebuild a state from `to_dict`.

        Args:
            flat: dotted name → tensor.

        Raises:
            ValueError: if names are unknown.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for key, x in flat.items():
            name, _, rest = key.partition(".")
            parts.setdefault(name, {})[rest] = x
        unknown = set(parts) - {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"BlockState: got names {sorted(unknown)}, expected parts of a block's state")
        for name, x in parts.items():
            whole = {str(i) for i in range(len(x))} if name == "context" else {""}
            if name not in ("memory", "attention") and set(x) != whole:
                got = sorted(f"{name}.{rest}" for rest in x)
                raise ValueError(
                    f"BlockState: got names {got}, expected those of its to_dict(): one left out or renamed?"
                )
        built: dict[str, object] = {}
        for name, x in parts.items():
            if name == "memory":
                built[name] = NeuralMemoryState.from_dict(x)
            elif name == "attention":
                built[name] = AttentionState.from_dict(x)
            elif name == "context":
                built[name] = tuple(x[str(i)] for i in range(len(x)))
            else:
                built[name] = x[""]
        return cls(**built)


class Gate(nn.Module):
    """⊗ of eq. 25 and 28: the memory's answer gates the attention's output.

    Args:
        dim: width of both.
        kind: "sigmoid" norm(y) σ(norm(m)), "both" σ(norm(y)) σ(norm(m)), "literal" y·m, "add" norm(y) + norm(m). ⚠ The
            paper names learnable vectors and a nonlinearity, and no formula.
        eps: of the two norms.

    Built in: notebooks/11 · Paper: eq. 25, 28
    """

    def __init__(self, dim: int, kind: str = "sigmoid", eps: float = 1e-6) -> None:
        """Build the two norms, which "literal" does not have."""
        super().__init__()
        self.kind = kind
        if kind != "literal":
            self.y_norm, self.m_norm = nn.RMSNorm(dim, eps), nn.RMSNorm(dim, eps)

    def forward(self, y: Tensor, m: Tensor) -> Tensor:
        """Gate the attention's output y by the memory's answer m: (B, T, dim) each, and the result."""
        if self.kind == "literal":
            return y * m
        y, m = self.y_norm(y), self.m_norm(m)
        if self.kind == "add":
            return y + m
        return (torch.sigmoid(y) if self.kind == "both" else y) * torch.sigmoid(m)


def build_memory(c: TitansConfig) -> NeuralMemory:
    """Build the memory of a configuration.

    Args:
        c: the configuration.

    Returns:
        A `NeuralMemory`, a `DeltaMemory` for the delta rules, or a `ReadOnlyMemory`.
    """
    if c.variant in ("delta", "gated-delta"):
        sizes = {"chunk_size": c.chunk_size, "conv_size": c.conv_size, "group_size": c.group_size}
        sizes |= {"half_life": c.half_life, "min_half_life": c.min_half_life, "learn_gates": c.learn_gates}
        return DeltaMemory(c.dim, c.heads, gated=c.variant == "gated-delta", **sizes)
    return (ReadOnlyMemory if c.read_only else NeuralMemory)(
        c.dim,
        c.heads,
        depth=c.memory_depth,
        expansion=c.memory_expansion,
        residual=c.residual,
        norm=c.norm,
        chunk_size=c.chunk_size,
        group_size=c.group_size,
        read=c.read,
        conv_size=c.conv_size,
        layer_gates=c.layer_gates,
        half_life=c.half_life,
        min_half_life=c.min_half_life,
        max_theta=c.max_theta,
        momentum=c.momentum,
        forgetting=c.forgetting,
        learn_gates=c.learn_gates,
        forget=c.forget,
    )


def build_attention(c: TitansConfig, **shape: int | None) -> Attention:
    """Build the attention of a configuration.

    Args:
        c: the configuration.
        shape: window, segment and offset of `Attention`.
    """
    options = {"rope_base": c.rope_base, "conv_size": c.attention_conv, "implementation": c.attention}
    return Attention(c.dim, c.attention_heads or c.heads, **options, **shape)


class Mixer(nn.Module):
    """Base class of the sequence mixers: (B, T, dim) → (B, T, dim), with a state."""

    def __init__(self, c: TitansConfig) -> None:
        """Create the persistent tokens."""
        super().__init__()
        self.c = c
        self.persistent = nn.Parameter(torch.randn(1, c.persistent, c.dim)) if c.persistent else None

    def read_prefix(self, batch: int) -> tuple[NeuralMemoryState, Tensor | None]:
        """Run a fresh memory over the persistent tokens, the prefix of [p₁ … p_N ‖ x].

        Args:
            batch: number of sequences B.

        Returns:
            The memory's state, and its answers (B, P, dim); None without persistent tokens.

        Built in: notebooks/11 · Paper: eq. 28–30
        """
        if self.persistent is None:
            return self.memory.init_state(batch), None
        y, state = self.memory(self.persistent, self.memory.init_state(1))  # the same for every sequence
        return state.map(lambda x: x.expand(batch, *x.shape[1:]).clone()), y.expand(batch, -1, -1).clone()

    def remember(self, x: Tensor, state: NeuralMemoryState | None) -> tuple[Tensor | None, Tensor, NeuralMemoryState]:
        """Run the memory over x; at the start of a text over [p₁ … p_N ‖ x] in one call, as two would split a chunk.

        Args:
            x: (B, T, dim).
            state: state to continue from; default the start of a text.

        Returns:
            Answers to the persistent tokens (B, P, dim), None if they were not read; answers to x (B, T, dim); the
            next state.

        Built in: notebooks/11 · Paper: eq. 28–30
        """
        if state is not None or self.persistent is None:
            return None, *self.memory(x, state)
        front = self.persistent.expand(len(x), -1, -1)
        y, state = self.memory(torch.cat([front, x], 1))
        return *y.split((front.shape[1], x.shape[1]), 1), state

    def restart(self, state: BlockState, fresh: Tensor) -> BlockState:
        """Start attention anew, and the memory too in rows where a new text begins; the other memories go on.

        For training on streams: the memory of a row is carried from piece to piece, its window of attention is not.

        Args:
            state: after the piece before.
            fresh: (B,), True where a new text begins.
        """
        start = self.init_state(len(fresh))
        if state.memory is None:
            return start
        flat, old = start.to_dict(), state.to_dict()
        if int(flat["memory.memory.position"]) != int(old["memory.memory.position"]):
            raise ValueError(
                f"fresh: got a state after a piece that ends within a chunk of {self.c.chunk_size} tokens, expected "
                "pieces of whole chunks: there the memory of every row can be exchanged"
            )
        for name, x in flat.items():
            if x.dim() and name.startswith(("memory", "context")):  # shapes (B, …); mac reads h from `context`
                flat[name] = torch.where(fresh.view(-1, *(1,) * (x.dim() - 1)), x, old[name].to(x))
        return BlockState.from_dict(flat)


class MemoryAlone(Mixer):
    """LMM, and the delta rules: the memory without attention.

    Built in: notebooks/11 · Paper: section 4.3
    """

    def __init__(self, c: TitansConfig) -> None:
        """Build the memory."""
        super().__init__(c if c.variant == "lmm" else dataclasses.replace(c, persistent=0))
        self.memory = build_memory(c)

    def init_state(self, batch: int) -> BlockState:
        """Return the memory's state after the persistent tokens."""
        return BlockState(memory=self.read_prefix(batch)[0])

    def forward(self, x: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        """Run the memory: (B, T, dim) → (B, T, dim) and the next state."""
        _, y, memory = self.remember(x, state and state.memory)
        return y, BlockState(memory=memory)


class AttentionAlone(Mixer):
    """The baselines: full causal attention, or a sliding window with persistent tokens.

    Built in: notebooks/11 · Paper: eq. 1–2, 27
    """

    def __init__(self, c: TitansConfig) -> None:
        """Build the attention."""
        super().__init__(c if c.variant == "swa" else dataclasses.replace(c, persistent=0))
        window = c.window if c.variant == "swa" else None
        self.attention = build_attention(c, window=window)

    def init_state(self, batch: int) -> BlockState:
        """Return an empty cache."""
        return BlockState(attention=self.attention.init_state(batch))

    def forward(self, x: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        """Run the attention: (B, T, dim) → (B, T, dim) and the next state."""
        y, attention = self.attention(x, state and state.attention, self.persistent)
        return y, BlockState(attention=attention)


class MemoryAsGate(Mixer):
    """MAG: sliding-window attention beside a memory of all tokens, which gates its output.

    Built in: notebooks/11 · Paper: eq. 26–28
    """

    def __init__(self, c: TitansConfig) -> None:
        """Build both branches and the gate."""
        super().__init__(c)
        self.memory = build_memory(c)
        self.attention = build_attention(c, window=c.window)
        self.gate = Gate(c.dim, c.gate, c.norm_eps)

    def init_state(self, batch: int) -> BlockState:
        """Return the memory's state after the persistent tokens, and an empty cache."""
        return BlockState(memory=self.read_prefix(batch)[0], attention=self.attention.init_state(batch))

    def forward(self, x: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        """Run both branches on the same input: (B, T, dim) → (B, T, dim) and the next state."""
        y, attention = self.attention(x, state and state.attention, self.persistent)
        _, m, memory = self.remember(x, state and state.memory)
        return self.gate(y, m), BlockState(memory=memory, attention=attention)


class MemoryAsLayer(Mixer):
    """MAL: the memory first, then sliding-window attention over its answers.

    Built in: notebooks/11 · Paper: eq. 29–31
    """

    def __init__(self, c: TitansConfig) -> None:
        """Build the two layers."""
        super().__init__(c)
        self.memory = build_memory(c)
        self.between = nn.RMSNorm(c.dim, c.norm_eps)
        self.attention = build_attention(c, window=c.window)

    def init_state(self, batch: int) -> BlockState:
        """Return the memory's state after the persistent tokens; its answers to them make the attention's prefix."""
        memory, y = self.read_prefix(batch)
        return BlockState(memory=memory, attention=self.attention.init_state(batch), prefix=self._prefix_of(y))

    def _prefix_of(self, y: Tensor | None) -> Tensor | None:
        """Compute the attention's prefix (B, P, dim) from the memory's answers y to the persistent tokens."""
        return None if y is None else self.between(self.persistent + y if self.c.mal_residual else y)

    def forward(self, x: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        """Run the memory, then the attention: (B, T, dim) → (B, T, dim) and the next state."""
        prefix, y, memory = self.remember(x, state and state.memory)
        prefix = state.prefix if state else self._prefix_of(prefix)
        y = x + y if self.c.mal_residual else y
        o, attention = self.attention(self.between(y), state and state.attention, prefix)
        state = BlockState(memory=memory, attention=attention, prefix=prefix)
        return (y - x) + o if self.c.mal_residual else o, state
