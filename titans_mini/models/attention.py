"""Softmax attention with the masks of the architectures: causal, sliding window with a prefix, and segments.

All of them are `scaled_dot_product_attention` with a mask, or FlexAttention with a mask function (`flex`). The cache of
keys and values is bounded by the window or the segment; only full causal attention caches every token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_mini.memory.layer import short_convolution
from titans_mini.memory.network import is_count
from titans_mini.memory.state import State, read_position
from titans_mini.models.flex import Layout, flex

IMPLEMENTATIONS = ("sdpa", "flex")


# -- rotary positions: products of queries and keys depend on their distance alone -------------------------------------


def rotate(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotate pairs of components by angles proportional to the position (RoPE): products then depend on distances.

    Args:
        x: (..., T, D) queries or keys, D even.
        positions: (T,) integers.
        base: base of the geometric series of frequencies.

    Returns:
        (..., T, D).

    Built in: notebooks/10 · Paper: section 3.3
    """
    return apply_rotary(x, rotary_cos_sin(x, positions, base))


def rotary_cos_sin(x: Tensor, positions: Tensor, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Compute the factors of `apply_rotary` at the given positions; arguments as in `rotate`.

    Returns:
        Two tensors (T, D): [cos, cos] and [−sin, sin] of the angles.

    Built in: notebooks/10 · Paper: section 3.3
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64, device=_float64_device(x)) / half)
    angle = positions.to(frequency.device, torch.float64)[:, None] * frequency  # token 10⁶ needs more than float32
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def apply_rotary(x: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate [a, b] to [a cos − b sin, b cos + a sin].

    Args:
        x: (..., T, D); a and b are its halves.
        by: the two factors of `rotary_cos_sin`.

    Returns:
        (..., T, D).

    Built in: notebooks/10 · Paper: section 3.3
    """
    cos, sin = by
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)  # [b, a] is [a, b], rolled


def _float64_device(x: Tensor) -> torch.device:
    """Return a device that has float64: the CPU for Apple's GPUs, which have none."""
    return torch.device("cpu") if x.device.type == "mps" else x.device


# -- masks: the keys that a query may see ------------------------------------------------------------------------------


def window_mask(new: int, old: int, window: int | None, device: torch.device | None = None) -> Tensor:
    """Build a causal sliding-window mask: each new token sees itself and the window − 1 tokens before it.

    Args:
        new: T, number of new tokens.
        old: N, number of cached tokens.
        window: tokens a query sees, itself included; None for all.
        device: of the mask.

    Returns:
        (T, N + T) booleans, True where visible.

    Built in: notebooks/10 · Paper: section 4.2
    """
    mask = torch.ones(new, old + new, dtype=torch.bool, device=device).tril(old)
    return mask.triu(old - window + 1) if window else mask


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a boolean mask to an additive one: 0 where it is True, −∞ elsewhere.

    `scaled_dot_product_attention` takes either, but converts a boolean mask again in every call.

    Args:
        mask: booleans of any shape.
        dtype: of the scores.

    Returns:
        The same shape.

    Built in: notebooks/10 · Paper: eq. 2
    """
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), -torch.inf)


class MemoryKeys(NamedTuple):
    """Keys and values of MAC's retrieved tokens h, one per `stride` tokens of the segment.

    Attributes:
        k: (B, H, E, D), rotated.
        v: (B, H, E, D).
        stride: tokens per h; the first of them is the first that sees it.
        begun: tokens of the segment before this call.
        everything: whether every token sees every h, as in MAC's printed form.
        own: whether a token sees only its own h, the latest.
        first: number of the segment's h before the first of these, no longer kept.

    Built in: notebooks/10 · Paper: eq. 22
    """

    k: Tensor
    v: Tensor
    stride: int = 1
    begun: int = 0
    everything: bool = False
    own: bool = False
    first: int = 0

    def visible(self, new: int) -> Tensor:
        """Build the mask of the h that each new token sees: (T, E) booleans."""
        at = torch.arange(self.first, self.first + self.k.shape[2], device=self.k.device) * self.stride
        token = torch.arange(self.begun, self.begun + new, device=at.device)[:, None]
        seen = at <= token
        if self.own:
            seen = seen & (token < at + self.stride)  # until the next h comes
        return torch.ones_like(seen) if self.everything else seen


def segment_lengths(tokens: int, position: int, segment: int) -> list[int]:
    """Split a call at the ends of segments.

    Args:
        tokens: T of the call.
        position: tokens seen before.
        segment: tokens per segment.

    Returns:
        Lengths of the parts, each within one segment.

    Built in: notebooks/10 · Paper: section 4.1
    """
    first = min(tokens, segment - position % segment)
    rest = tokens - first
    return [first] + [segment] * (rest // segment) + ([rest % segment] if rest % segment else [])


# -- attention ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AttentionState(State):
    """Cache of the keys and values that later tokens may still see.

    Attributes:
        k: (B, H, N, D) keys, rotated.
        v: (B, H, N, D) values.
        position: tokens seen so far.
        conv: (B, 3·dim, conv_size − 1), the last inputs of the convolution; None without one.

    Built in: notebooks/10 · Paper: section 4.1
    """

    k: Tensor
    v: Tensor
    position: int = 0
    conv: Tensor | None = None

    @classmethod
    def from_dict(cls, flat: dict[str, Tensor]) -> AttentionState:
        """Rebuild a state from `to_dict`.

        Args:
            flat: `k`, `v` and `position`, and `conv` if there is a convolution.

        Raises:
            ValueError: if names are missing or unknown.
        """
        if set(flat) - {"conv"} != {"k", "v", "position"}:
            got = sorted(flat)
            raise ValueError(f"AttentionState: got names {got}, expected ['k', 'position', 'v'] and perhaps 'conv'")
        return cls(flat["k"], flat["v"], read_position(flat["position"]), flat.get("conv"))


class Attention(nn.Module):
    """Softmax attention over the last `window` tokens, or the token's segment, and a prefix that is always visible.

    x → q, k, v: linear; with `conv_size` also a causal depthwise convolution and SiLU, as in `NeuralMemory`, so that
    neither is better equipped to bind a token to the one before it. Then rotary positions. The convolution is a token's
    own past: windows and segments limit what attention sees, and the convolution reads on across their borders, as the
    memory's does. The prefix and `extra` keys get the SiLU alone: they have no neighbours in the text.

    Args:
        dim: size of inputs and outputs.
        heads: H.
        window: tokens a query sees, itself included.
        segment: tokens per segment; attention restarts at each. With neither, causal attention over all tokens.
        offset: position of the first token; the prefix has position 0, and `extra` keys may lie between.
        rope_base: base of the rotary frequencies.
        conv_size: width of the convolution in tokens; 1 is none, and no SiLU.
        implementation: "sdpa", or "flex": FlexAttention on a CUDA device, the same result, compiled.

    Raises:
        ValueError: if sizes do not fit.

    Built in: notebooks/10 · Paper: eq. 1–2, 23, 27, section 4.4
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int | None = None,
        segment: int | None = None,
        offset: int = 1,
        rope_base: float = 10_000.0,
        conv_size: int = 1,
        implementation: str = "sdpa",
    ) -> None:
        """Build the projections; see the class for the arguments."""
        super().__init__()
        if dim < 1 or heads < 1 or dim % heads or dim // heads % 2:
            raise ValueError(f"Attention: got dim={dim}, heads={heads}, expected dim = heads × an even head size")
        if (window is not None and window < 1) or (segment is not None and segment < 1) or (window and segment):
            raise ValueError(
                f"Attention: got window={window}, segment={segment}, expected one of them, or none, at least 1"
            )
        if not is_count(conv_size):
            raise ValueError(f"Attention: got conv_size={conv_size!r}, expected an integer ≥ 1 (1 = no convolution)")
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"Attention: got implementation={implementation!r}, expected one of {IMPLEMENTATIONS}")
        self.implementation = implementation
        self.dim, self.heads, self.window, self.segment = dim, heads, window, segment
        self.offset, self.rope_base = offset, rope_base
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_output = nn.Linear(dim, dim, bias=False)
        self.conv = None
        if conv_size > 1:
            self.conv = nn.Conv1d(3 * dim, 3 * dim, conv_size, groups=3 * dim, bias=False)

    def init_state(self, batch: int) -> AttentionState:
        """Return an empty cache, and zeros before the first token of the convolution.

        Args:
            batch: number of sequences B.
        """
        weight = self.to_qkv.weight
        empty = weight.new_zeros(batch, self.heads, 0, self.dim // self.heads)
        conv = None if self.conv is None else weight.new_zeros(batch, len(weight), self.conv.kernel_size[0] - 1)
        return AttentionState(empty, empty, conv=conv)

    def forward(
        self, x: Tensor, state: AttentionState | None = None, prefix: Tensor | None = None
    ) -> tuple[Tensor, AttentionState]:
        """Compute attention and its output projection.

        Args:
            x: (B, T, dim).
            state: cache of the tokens before; default empty.
            prefix: (B or 1, P, dim) persistent tokens: every query sees them, at position 0.

        Returns:
            (B, T, dim) and the state after the last token.

        Built in: notebooks/10 · Paper: eq. 23, 27, 31
        """
        state = state or self.init_state(x.shape[0])
        q, k, v, state = self.project(x, state)
        fixed = None if prefix is None else self.keys_and_values(prefix)
        if not self.segment or state.position % self.segment + x.shape[1] <= self.segment:
            y, state = self.attend(q, k, v, state, fixed)
            return self.to_output(y), state
        out, lengths = [], segment_lengths(x.shape[1], state.position, self.segment)
        for part in zip(*(z.split(lengths, 2) for z in (q, k, v)), strict=True):
            y, state = self.attend(*part, state, fixed)
            out.append(y)
        return self.to_output(torch.cat(out, 1)), state

    def project(self, x: Tensor, state: AttentionState) -> tuple[Tensor, Tensor, Tensor, AttentionState]:
        """Project tokens to queries, keys and values, and rotate queries and keys by their positions.

        Args:
            x: (B, T, dim), of any number of segments.
            state: after the tokens before.

        Returns:
            q, k, v (B, H, T, D), and the state with the convolution moved on; `attend` adds the rest.

        Built in: notebooks/10 · Paper: eq. 1, section 4.4
        """
        positions = torch.arange(state.position, state.position + x.shape[1], device=x.device)
        if self.segment:
            positions = positions % self.segment
        wide = self.to_qkv(x)  # (B, T, 3·dim)
        if self.conv is not None and x.shape[1]:  # the convolution refuses an empty sequence
            wide, past = short_convolution(wide, state.conv, self.conv.weight)
            wide, state = F.silu(wide), replace(state, conv=past)
        qk, v = self.split_heads(wide, 3).split((2, 1))
        return *rotate(qk, positions + self.offset, self.rope_base), v[0], state

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: AttentionState,
        fixed: tuple[Tensor, ...] | None = None,
        extra: MemoryKeys | None = None,
        masks: dict[tuple[int, ...], Tensor] | None = None,
    ) -> tuple[Tensor, AttentionState]:
        """Compute attention without the output projection.

        Args:
            q: (B, H, T, D) queries, see `project`; of one segment only, if there are segments.
            k: (B, H, T, D) keys.
            v: (B, H, T, D) values.
            state: cache of the tokens before.
            fixed: keys and values (B or 1, H, P, D) of a prefix that every query sees.
            extra: keys and values between the prefix and the tokens.
            masks: cache of additive masks by size, shared between calls and extended in place.

        Returns:
            (B, T, dim) and the state after the last token.

        Built in: notebooks/10 · Paper: eq. 2
        """
        front = [] if fixed is None else [tuple(z.expand(len(q), -1, -1, -1) for z in fixed)]
        if self.implementation == "flex" and q.shape[2] > 1:
            y = self._attend_flex(q, k, v, state, front, extra)
        elif self.window and q.shape[2] > self.window:
            y = self._attend_blockwise(q, k, v, state, front)
        else:
            y = self._attend_dense(q, k, v, state, front, extra, {} if masks is None else masks)
        return y.transpose(1, 2).flatten(2), self._next_state(state, k, v)

    def split_heads(self, x: Tensor, parts: int) -> Tensor:
        """Split (B, T, parts·dim) into (parts, B, H, T, D)."""
        return x.unflatten(-1, (parts, self.heads, self.dim // self.heads)).permute(2, 0, 3, 1, 4)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, ...]:
        """Project tokens without neighbours to keys and values: (B, E, dim) to (B, H, E, D) each, not rotated."""
        wide = F.linear(x, self.to_qkv.weight[self.dim :])  # (B, E, 2·dim)
        return self.split_heads(wide if self.conv is None else F.silu(wide), 2).unbind(0)

    def _attend_dense(self, q, k, v, state, front, extra, masks) -> Tensor:
        """Attend to all cached and new keys with one mask: (B, H, T, D)."""
        if not (self.window or state.k.shape[2] or front or extra):  # skips the hidden half
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        keys, values = self._concatenate_keys(k, v, state, front, extra)
        sizes = q.shape[2], state.k.shape[2], keys.shape[2], extra.begun if extra else 0
        if sizes not in masks:
            masks[sizes] = self._mask(q, state, front, extra)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=masks[sizes])

    def _concatenate_keys(self, k, v, state, front, extra) -> tuple[Tensor, Tensor]:
        """Concatenate keys and values as [prefix ‖ h ‖ cached ‖ new], each (B, H, P + E + N + T, D)."""
        parts = [*front, *([extra[:2]] if extra else []), (state.k.to(k), state.v.to(v)), (k, v)]
        keys, values = (torch.cat(z, 2) for z in zip(*parts, strict=True))
        return keys, values

    def _mask(self, q, state, front, extra) -> Tensor:
        """Build the additive mask of `_attend_dense`: (T, P + E + N + T)."""
        mask = window_mask(q.shape[2], state.k.shape[2], self.window, q.device)
        mask = mask if extra is None else torch.cat([extra.visible(q.shape[2]), mask], 1)
        for a, _ in front:
            mask = F.pad(mask, (a.shape[2], 0), value=True)
        return additive_mask(mask, q.dtype)

    def _attend_flex(self, q, k, v, state, front, extra) -> Tensor:
        """Attend to all cached and new keys with a compiled mask function: (B, H, T, D)."""
        sizes = {"prefix": sum(a.shape[2] for a, _ in front), "old": state.k.shape[2], "window": self.window}
        if extra:
            sizes |= {"extra": extra.k.shape[2], "stride": extra.stride, "begun": extra.begun}
            sizes |= {"all_extra": extra.everything, "own_extra": extra.own, "first": extra.first}
        keys, values = self._concatenate_keys(k, v, state, front, extra)
        return flex(q, keys, values, Layout(**sizes))

    def _attend_blockwise(self, q, k, v, state, front) -> Tensor:
        """Attend in blocks of one window, each to itself and the block before: (B, H, T, D) at a cost linear in T."""
        B, T, w = len(q), q.shape[2], self.window
        count, old = -(-T // w), state.k.shape[2]

        def cut(z: Tensor, past: Tensor | None = None) -> Tensor:
            """Pad (B, H, …, D) at both ends and split it into blocks: (B, blocks, H, w, D)."""
            z = F.pad(z, (0, 0, 0, count * w - T)) if count * w > T else z
            z = z if past is None else torch.cat([F.pad(past.to(z), (0, 0, w - old, 0)), z], 2)
            return z.unflatten(2, (-1, w)).transpose(1, 2)

        keys, values = ([z[:, :-1], z[:, 1:]] for z in (cut(k, state.k), cut(v, state.v)))
        mask = window_mask(w, w, w, q.device).repeat(count, 1, 1)  # (blocks, w, 2w)
        mask[0, :, : w - old] = False  # padding before the first cached key
        for a, b in front:
            a, b = (z.unsqueeze(1).expand(-1, count, -1, -1, -1) for z in (a, b))
            keys, values, mask = [a, *keys], [b, *values], F.pad(mask, (a.shape[3], 0), value=True)
        k, v = (torch.cat(z, 3).flatten(0, 1) for z in (keys, values))  # (B·blocks, H, …, D)
        mask = additive_mask(mask, q.dtype).repeat(B, 1, 1).unsqueeze(1)
        y = F.scaled_dot_product_attention(cut(q).flatten(0, 1), k, v, attn_mask=mask)
        return y.unflatten(0, (B, count)).transpose(1, 2).flatten(2, 3)[:, :, :T]

    def _next_state(self, state: AttentionState, k: Tensor, v: Tensor) -> AttentionState:
        """Keep the keys and values that a later token can see."""
        new, position, keep = k.shape[2], state.position + k.shape[2], None
        if self.window:
            keep = self.window - 1
        elif self.segment:
            keep = position % self.segment
        if keep is not None and keep <= new:  # only new keys are kept; a view would keep the others alive
            k, v = (z[:, :, new - keep :].clone() for z in (k, v))
            return replace(state, k=k, v=v, position=position)
        k, v = (torch.cat([old.to(z), z], 2) for old, z in ((state.k, k), (state.v, v)))
        if keep is not None:
            k, v = (z[:, :, max(0, z.shape[2] - keep) :] for z in (k, v))
        return replace(state, k=k, v=v, position=position)
