"""The gates of many chunks multiplied up at once, with their derivative by hand.

The numbers of `gates.coefficients`, laid out for speed. The memory M₀ and the momentum S₀ at a chunk's start are two
more writers, so they get two more columns, and one recurrence fills everything:
    n_t = η_t n_{t−1} + e_t,   G_t = (1−α_t) G_{t−1} + n_t,   from G = (1, 0, 0 …) and n = (0, 1, 0 …).
The first two columns of G are b and f; the second of n is m. A table holds the rows of G, from the start of the chunk
to its end, and below them the last row of n: whatever the products of a chunk need is a view of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.memory.gates import exact


def fill_table(alpha: Tensor, eta: Tensor, keep_n: bool = False) -> tuple[Tensor, Tensor | None]:
    """Fill n and G row from row, in float64; each row is rounded when it is done.

    Args:
        alpha: (…, c) forget gates.
        eta: (…, c) momentum gates.
        keep_n: whether all rows of n are wanted too, as by `fill_table_backward`.

    Returns:
        The table (…, c+2, c+2): c+1 rows of G, then the last row of n. And n (…, c+1, c+2), or None. Without a graph.

    Built in: notebooks/08 · Paper: eq. 16–18
    """
    c, lead = alpha.shape[-1], alpha.shape[:-1]
    keep, carry = (x.flatten(0, -2).mT.unsqueeze(-1).contiguous() for x in (1 - exact(alpha), exact(eta)))  # (c, X, 1)
    n, G = (keep.new_zeros(keep.shape[1], c + 2) for _ in range(2))  # (X, c+2): the present rows
    G[:, 0], n[:, 1] = 1, 1
    table = alpha.new_empty(c + 2, *G.shape)  # row before chunk: each row is written in one piece
    all_n = alpha.new_empty(c + 1, *G.shape) if keep_n else None
    rows, n_rows = table.unbind(0), all_n.unbind(0) if keep_n else None
    own = torch.eye(c + 2).to(keep)[2:]  # row by row: 1 in the column of the token itself
    own, keep, carry = (x.unbind(0) for x in (own, keep, carry))
    for t in range(c + 1):
        if t:
            torch.addcmul(own[t - 1], n, carry[t - 1], out=n)
            torch.addcmul(n, keep[t - 1], G, out=G)
        rows[t].copy_(G)
        if keep_n:
            n_rows[t].copy_(n)
    rows[-1].copy_(n)
    return tuple(None if x is None else x.unflatten(1, lead).movedim(0, -2) for x in (table, all_n))


def fill_table_backward(alpha: Tensor, eta: Tensor, table: Tensor, n: Tensor, d_table: Tensor) -> tuple[Tensor, Tensor]:
    """Differentiate `fill_table`.

    Args:
        alpha: (…, c) forget gates.
        eta: (…, c) momentum gates.
        table: (…, c+2, c+2), from `fill_table` with `keep_n`.
        n: (…, c+1, c+2), likewise.
        d_table: (…, c+2, c+2) gradient at the table; overwritten.

    Returns:
        The gradients at alpha and eta, (…, c).

    Built in: notebooks/08 · Paper: eq. 16–18
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


class Gates(NamedTuple):
    """The coefficients of a run of chunks as the products need them: (L or 1, chunks, N, …); of one chunk: (N, …).

    What is wanted of M and of S side by side is kept side by side: one product then serves both.
    """

    step: Tensor  # (…, c, 1), 2θ: the 2 is that of the square
    reads: Tensor  # (…, c, 2, 1), b beside f: what a query finds of the chunk's start
    G: Tensor  # (…, c, c), what it finds of each write
    ends: Tensor  # (…, c, 2, 1), G_C beside n_C: how much of each write is in M and in S at the chunk's end
    keep: Tensor | None = None  # (…, 2, 1, 1), b_C and m_C: what is left of M and of S then
    f_end: Tensor | None = None  # (…, 1, 1), f_C: how much of S has flowed into M
    corner: Tensor | None = None  # (…, 2, 2), for gradients at these two, as they lie: (b_C, f_C) above (0, m_C)
    before: Tensor | None = None  # `reads` and `G` one token earlier, for the online rule: it asks M_{t−1}
    G_before: Tensor | None = None

    def split(self, N: int) -> list[Gates]:
        """Take the gates of joined chunks apart, N sequences in each; what reads want is wanted joined only."""
        steps = self.step.split(N)
        parts = (self.ends, self.keep, self.f_end, self.corner)
        parts = [(None,) * len(steps) if x is None else x.split(N) for x in parts]
        return [Gates(step, None, None, *x) for step, *x in zip(steps, *parts, strict=True)]

    def chunks(self, m: int = 1) -> list[list[Gates]]:
        """Hand the chunks out, m joined: for each batch one entry for each layer that has its own gates."""
        count, N = self.step.shape[1:3]
        count = -(-count // m)

        def apart(x: Tensor | None) -> tuple[Tensor | None, ...]:
            return (None,) * count if x is None else x.unbind(0) if m == 1 else x.flatten(0, 1).split(m * N)

        layers = [[apart(None if x is None else x[layer]) for x in self] for layer in range(len(self.step))]
        return [[Gates(*(x[i] for x in fields)) for fields in layers] for i in range(count)]


def slice_gates(step: Tensor, table: Tensor, read: str, online: bool, gradients: bool = False) -> Gates:
    """Name the parts of a table. All are views: what grows in the gates of gradients grows in the table's gradient.

    Args:
        step: (L or 1, chunks, N, c), 2θ.
        table: (L or 1, chunks, N, c+2, c+2), from `fill_table`.
        read: "after" or "before" the write.
        online: whether the rows one token earlier are wanted as well.
        gradients: whether it is a table of gradients, whose `corner` is wanted in one piece.

    Returns:
        The gates as the products of a chunk need them.

    Built in: notebooks/08 · Paper: eq. 16–18
    """
    after, before = ((x[..., :2].unsqueeze(-1), x[..., 2:]) for x in (table[..., 1:-1, :], table[..., :-2, :]))
    end = table[..., -2:, :]  # the last rows of G and of n
    corner = end[..., :2]
    keep, f_end = corner.diagonal(dim1=-2, dim2=-1)[..., None, None], corner[..., :1, 1:]
    left = (None, None, corner) if gradients else (keep, f_end, None)
    rows = after if read == "after" else before
    return Gates(step[..., None], *rows, end[..., 2:].mT.unsqueeze(-1), *left, *(before if online else ()))


def multiply_gates(
    alpha: Tensor, eta: Tensor, theta: Tensor, read: str, online: bool, keep_n: bool = False
) -> tuple[Gates, Tensor, Tensor | None]:
    """Multiply the gates of a run of chunks up, all chunks at once.

    Args:
        alpha: (L or 1, chunks, N, c) forget gates.
        eta: momentum gates, same shape.
        theta: step sizes, same shape.
        read: "after" or "before" the write.
        online: whether the rows one token earlier are wanted as well.
        keep_n: see `fill_table`.

    Returns:
        The gates, equal to 1e-15 to `gates.coefficients`, the table that they are views of, and n or None.

    Built in: notebooks/08 · Paper: eq. 16–18
    """
    table, n = fill_table(alpha, eta, keep_n)
    return slice_gates(2 * theta, table, read, online), table, n
