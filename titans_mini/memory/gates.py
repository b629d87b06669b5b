"""Gates and what they multiply up to inside a chunk.

Three gates per token steer the memory: α forgets, η carries past surprise on, θ is the step size.
Over a chunk of C tokens their products form two small lower-triangular matrices, G (for the memory M) and n (for
the momentum S). They are built row from row, so that no logarithm and no division can spoil gates of exactly 0 or 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Coefficients(NamedTuple):
    """What a chunk of C tokens does to its start (M₀, S₀) and to the gradients u_j inside it.

    M_t = b_t M₀ + f_t S₀ − Σ_{j≤t} G_tj θ_j u_j and S_t = m_t S₀ − Σ_{j≤t} n_tj θ_j u_j.

    Attributes:
        b: (..., C), Π_{j≤t} (1−α_j): how much of M₀ is left after token t.
        m: (..., C), Π_{j≤t} η_j: how much of S₀ is left after token t.
        f: (..., C), how much S₀ has flowed into M_t.
        G: (..., C, C), lower triangular: how much of token j's gradient is in M_t.
        n: (..., C, C), lower triangular: how much of token j's gradient is in S_t.

    Built in: notebooks/08 · Paper: eq. 16–18
    """

    b: Tensor
    m: Tensor
    f: Tensor
    G: Tensor
    n: Tensor


TINY = 1e-30  # smaller coefficients are 0 in float32: they change nothing, and denormal numbers halve Intel's speed


def round_coefficients(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round coefficients to a dtype, and to 0 where they are too small to matter in float32; float64 stays exact."""
    return x.to(dtype) if dtype == torch.float64 else torch.where(x < TINY, 0, x).to(dtype)


def to_float64(gates: Tensor) -> Tensor:
    """Widen gates to float64 before they are multiplied up.

    A half-life of a million tokens is α = 7e-7. In float32 1 − α is 3 % off in what it forgets, in the same direction
    for every token: after 4,096 of them the memory would be off by 9e-5. These are few numbers, so exactness is cheap.

    Args:
        gates: any shape, floating point.

    Returns:
        The same numbers in float64; in float32 on Apple's GPUs, which have nothing wider.
    """
    return gates.float() if gates.device.type == "mps" else gates.double()


def coefficients(alpha: Tensor, eta: Tensor) -> Coefficients:
    """Multiply the gates of a chunk up to its coefficients, one row from the row before.

    Args:
        alpha: (..., C) forget gates in [0, 1].
        eta: (..., C) momentum gates in [0, 1], same shape.

    Returns:
        Coefficients of the chunk in the gates' type, exact for gates equal to 0 or 1.

    Built in: notebooks/08 · Paper: eq. 16–18
    """
    keep, carry = 1 - to_float64(alpha), to_float64(eta)
    unit = torch.eye(keep.shape[-1], dtype=keep.dtype, device=keep.device)
    n_t = G_t = torch.zeros_like(keep)  # (..., C): row t of n and of G
    m_t = b_t = torch.ones_like(keep[..., :1])
    f_t = torch.zeros_like(m_t)
    rows = []
    for t, (keep_t, eta_t) in enumerate(zip(keep.split(1, -1), carry.split(1, -1), strict=True)):
        n_t = eta_t * n_t + unit[t]  # S_t = η_t S_{t−1} − θ_t u_t
        G_t = keep_t * G_t + n_t  # M_t = (1−α_t) M_{t−1} + S_t
        m_t = eta_t * m_t
        b_t = keep_t * b_t
        f_t = keep_t * f_t + m_t
        rows.append((b_t, m_t, f_t, G_t, n_t))
    *vectors, G, n = zip(*rows, strict=True)
    b, m, f = (torch.cat(x, -1) for x in vectors)
    exact = b, m, f, torch.stack(G, -2), torch.stack(n, -2)
    return Coefficients(*(round_coefficients(x, alpha.dtype) for x in exact))


def shift_by_one(c: Coefficients) -> Coefficients:
    """Shift the coefficients by one token: row t then describes M_{t−1} and S_{t−1}.

    Args:
        c: the coefficients of a chunk.

    Returns:
        Coefficients of the same shapes; row 0 is the start of the chunk (b = m = 1, f = G = n = 0).

    Built in: notebooks/08 · Paper: eq. 15
    """

    def shift(x: Tensor, first: float, dim: int) -> Tensor:
        start = torch.full_like(x.narrow(dim, 0, 1), first)
        return torch.cat([start, x.narrow(dim, 0, x.shape[dim] - 1)], dim)

    return Coefficients(shift(c.b, 1, -1), shift(c.m, 1, -1), shift(c.f, 0, -1), shift(c.G, 0, -2), shift(c.n, 0, -2))


# -- the same for many chunks at once, with their backward pass --------------------------------------------------------


class Rows(NamedTuple):
    """The coefficients of each token of a chunk: its share of the start and of each write."""

    b: Tensor  # (…, c, 1), of the memory at the chunk's start
    f: Tensor  # (…, c, 1), of the momentum there
    G: Tensor  # (…, c, c), of each write


class End(NamedTuple):
    """The coefficients after a chunk's last token."""

    b: Tensor  # (…, 1, 1), how much of the memory at the start is in the memory
    f: Tensor  # (…, 1, 1), how much of the momentum at the start is in the memory
    m: Tensor  # (…, 1, 1), how much of it is in the momentum
    G: Tensor  # (…, c, 1), how much of each write is in the memory
    n: Tensor  # (…, c, 1), how much of it is in the momentum


def coefficient_table(alpha: Tensor, eta: Tensor, keep_n: bool = False) -> tuple[Tensor, Tensor | None]:
    """Compute the coefficients of many chunks at once, in float64, each row rounded when it is done.

    The memory and the momentum at a chunk's start are treated as two more writers, with two columns before those of the
    tokens. One recurrence then fills everything, from G = (1, 0, 0 …) and n = (0, 1, 0 …):
        n_t = η_t n_{t−1} + e_t,   G_t = (1−α_t) G_{t−1} + n_t
    The first two columns of G are b and f, the second of n is m.

    Args:
        alpha: (…, c) forget gates.
        eta: (…, c) momentum gates.
        keep_n: whether all rows of n are wanted too, for `coefficient_table_backward`.

    Returns:
        The table (…, c+2, c+2): G from the chunk's start to its end, then the last row of n. And n (…, c+1, c+2), or
        None. `rows_of` and `end_of` name the parts. Nothing here is seen by autograd.

    Built in: notebooks/08 · Paper: eq. 16–18
    """
    c, lead = alpha.shape[-1], alpha.shape[:-1]
    gates = 1 - to_float64(alpha), to_float64(eta)
    keep, carry = (x.flatten(0, -2).mT.unsqueeze(-1).contiguous() for x in gates)  # (c, X, 1), X chunks in all
    n, G = (keep.new_zeros(keep.shape[1], c + 2) for _ in range(2))  # (X, c+2), the rows of the present token
    G[:, 0], n[:, 1] = 1, 1
    table = alpha.new_empty(c + 2, *G.shape)  # token before chunk: each row is written in one piece
    all_n = alpha.new_empty(c + 1, *G.shape) if keep_n else None
    own = torch.eye(c + 2).to(keep)[2:]  # e_t, in the token's own column
    for t in range(c + 1):
        if t:
            torch.addcmul(own[t - 1], n, carry[t - 1], out=n)
            torch.addcmul(n, keep[t - 1], G, out=G)
        table[t] = G
        if keep_n:
            all_n[t] = n
    table[-1] = n
    tables = [None if x is None else round_coefficients(x, alpha.dtype) for x in (table, all_n)]
    return tuple(None if x is None else x.unflatten(1, lead).movedim(0, -2) for x in tables)


def coefficient_table_backward(
    alpha: Tensor, eta: Tensor, table: Tensor, n: Tensor, d_table: Tensor
) -> tuple[Tensor, Tensor]:
    """Backpropagate through `coefficient_table`.

    Args:
        alpha: (…, c) forget gates.
        eta: (…, c) momentum gates.
        table: from `coefficient_table`.
        n: from `coefficient_table` with `keep_n`.
        d_table: (…, c+2, c+2), gradient at the table; overwritten.

    Returns:
        The gradients at alpha and eta, (…, c).
    """
    *d_G, d_end = d_table.unbind(-2)
    d_n = torch.empty_like(n)
    dn, keep, carry = d_n.unbind(-2), (1 - alpha).unsqueeze(-1).unbind(-2), eta.unsqueeze(-1).unbind(-2)
    torch.add(d_end, d_G[-1], out=dn[-1])
    for t in range(len(keep), 0, -1):
        d_G[t - 1].addcmul_(d_G[t], keep[t - 1])
        torch.addcmul(d_G[t - 1], dn[t], carry[t - 1], out=dn[t - 1])
    d_alpha = d_table[..., 1:-1, :].mul_(table[..., :-2, :]).sum(-1).neg_()
    return d_alpha, d_n[..., 1:, :].mul_(n[..., :-1, :]).sum(-1)


def rows_of(table: Tensor, read: str) -> Rows:
    """View the coefficients of each token, (…, c+2, c+2), "after" its write or "before" it, one token earlier."""
    rows = table[..., 1:-1, :] if read == "after" else table[..., :-2, :]
    return Rows(rows[..., :1], rows[..., 1:2], rows[..., 2:])


def end_of(table: Tensor) -> End:
    """View the coefficients at the end of a chunk, (…, c+2, c+2)."""
    G, n = table[..., -2, :, None], table[..., -1, :, None]
    return End(G[..., :1, :], G[..., 1:2, :], n[..., 1:2, :], G[..., 2:, :], n[..., 2:, :])


# -- half-lives --------------------------------------------------------------------------------------------------------


def half_life_to_alpha(half_life: Tensor | float) -> Tensor:
    """Turn a half-life in tokens into the constant forget gate α that has it: (1−α)^h = ½.

    Args:
        half_life: tokens after which half of a memory is left; any shape, > 0.

    Returns:
        α = 1 − 2^(−1/h), same shape, float64 for a Python number.

    Raises:
        ValueError: if a half-life is not positive.

    Built in: notebooks/03 · Paper: eq. 13
    """
    h = half_life if torch.is_tensor(half_life) else torch.tensor(half_life, dtype=torch.float64, device="cpu")
    if not bool((h > 0).all()):
        raise ValueError(f"half_life: got {half_life}, expected a number of tokens > 0 (α = 1 forgets at once)")
    return -torch.expm1(-math.log(2) / h)


def half_life_bias(half_life: Tensor | float, shortest: float = 0.0) -> Tensor:
    """Compute the bias with which a sigmoid forget gate starts at a half-life: logit(1 − 2^(−1/h)).

    Args:
        half_life: tokens after which half of a memory is left; any shape, > 0.
        shortest: floor s under the half-lives, of a gate that is the sigmoid times the cap 1 − 2^(−1/s); 0 is none.

    Returns:
        The bias, same shape: logit of α divided by the cap. Without a floor it is log(2^(1/h) − 1), and that has no
        cancellation for long half-lives; a floor subtracts log(1 − 2^(1/h − 1/s)).

    Built in: notebooks/03 · Paper: section 4.4
    """
    half_life_to_alpha(half_life)  # its error is the clear one
    h = half_life if torch.is_tensor(half_life) else torch.tensor(half_life, dtype=torch.float64, device="cpu")
    bias = torch.log(torch.expm1(math.log(2) / h))
    return bias - torch.log(-torch.expm1(math.log(2) * (1 / h - 1 / shortest))) if shortest else bias


def log_spaced_half_lives(heads: int, shortest: float = 32.0, longest: float = 4096.0) -> Tensor:
    """Spread half-lives over the heads so that each remembers on its own scale.

    Args:
        heads: number of heads H.
        shortest: half-life of the first head, in tokens.
        longest: half-life of the last head, in tokens. One head alone gets the geometric mean.

    Returns:
        (H,) float64 half-lives, equal ratios from head to head.

    Built in: notebooks/03 · Paper: section 4.4
    """
    if heads < 1 or not 0 < shortest <= longest < math.inf:
        raise ValueError(
            f"half-lives: got heads={heads}, shortest={shortest}, longest={longest}, "
            "expected heads ≥ 1 and 0 < shortest ≤ longest < inf: (shortest, longest) in tokens"
        )
    if heads == 1:
        return torch.tensor([math.sqrt(shortest * longest)], dtype=torch.float64, device="cpu")
    # on the CPU also where a model is built on another device, such as "meta", which holds no numbers
    return torch.logspace(math.log2(shortest), math.log2(longest), heads, base=2.0, dtype=torch.float64, device="cpu")
