"""The gates of many chunks multiplied up at once, with their derivative by hand.

The numbers of `gates.coefficients`, laid out for speed. The memory M₀ and the momentum S₀ at a chunk's start are two
more writers, so they get two more columns, and one recurrence fills everything:
    n_t = η_t n_{t−1} + e_t,   G_t = (1−α_t) G_{t−1} + n_t,   from G = (1, 0, 0 …) and n = (0, 1, 0 …).
The first two columns of G are b and f; the second of n is m. Row 0 is the start, for the rows one token earlier.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.gates import exact


def fill_rows(alpha: Tensor, eta: Tensor, keep_n: bool = False) -> tuple[Tensor, Tensor]:
    """Fill n and G row from row, in float64; each row is rounded when it is done.

    Args:
        alpha: (…, c) forget gates.
        eta: (…, c) momentum gates.
        keep_n: whether all rows of n are wanted, as by `fill_rows_backward`; otherwise the last one.

    Returns:
        n (…, c+1 or 1, c+2) and G (…, c+1, c+2), without a graph.

    Built in: notebooks/06 · Paper: eq. 16–18
    """
    c, lead = alpha.shape[-1], alpha.shape[:-1]
    keep, carry = (x.flatten(0, -2).mT.unsqueeze(-1).contiguous() for x in (1 - exact(alpha), exact(eta)))  # (c, X, 1)
    n, G = (keep.new_zeros(keep.shape[1], c + 2) for _ in range(2))  # (X, c+2): the present rows
    G[:, 0], n[:, 1] = 1, 1
    all_G, all_n = (alpha.new_empty(len(n), rows, c + 2) for rows in (c + 1, c + 1 if keep_n else 1))
    rows = list(zip(all_G.unbind(1), all_n.unbind(1) if keep_n else [None] * (c + 1), strict=True))
    for t in range(c + 1):
        if t:
            n.mul_(carry[t - 1]).select(-1, t + 1).fill_(1)  # this token's own column was 0 so far
            torch.addcmul(n, keep[t - 1], G, out=G)
        rows[t][0].copy_(G)
        if keep_n:
            rows[t][1].copy_(n)
    if not keep_n:
        all_n.copy_(n.unsqueeze(1))
    return all_n.unflatten(0, lead), all_G.unflatten(0, lead)


def fill_rows_backward(
    alpha: Tensor, eta: Tensor, n: Tensor, G: Tensor, dn: Tensor, dG: Tensor
) -> tuple[Tensor, Tensor]:
    """Differentiate `fill_rows`.

    Args:
        alpha: (…, c) forget gates.
        eta: (…, c) momentum gates.
        n: (…, c+1, c+2), from `fill_rows` with `keep_n`.
        G: (…, c+1, c+2), from `fill_rows`.
        dn: (…, 1, c+2) gradient at the last row of n; overwritten.
        dG: (…, c+1, c+2) gradient at G; overwritten.

    Returns:
        The gradients at alpha and eta, (…, c).

    Built in: notebooks/06 · Paper: eq. 16–18
    """
    dn, dG_rows, n_rows = dn.squeeze(-2), dG.unbind(-2), n.unbind(-2)
    keep, carry = ((1 - alpha).unsqueeze(-1).unbind(-2), eta.unsqueeze(-1).unbind(-2))
    d_eta = []
    for t in range(alpha.shape[-1], 0, -1):
        dn.add_(dG_rows[t])
        d_eta.append((dn * n_rows[t - 1]).sum(-1))
        dn.mul_(carry[t - 1])
        dG_rows[t - 1].addcmul_(dG_rows[t], keep[t - 1])
    d_alpha = (dG[..., 1:, :] * G[..., :-1, :]).sum(-1).neg_()
    return d_alpha, torch.stack(d_eta[::-1], -1)


class Gates(NamedTuple):
    """The coefficients of a run of chunks as the products need them: (L or 1, N, chunks, …); of one chunk: (N, …)."""

    theta: Tensor  # (…, c, 1)
    b: Tensor  # (…, c, 1), f and G likewise: rows of the reads
    f: Tensor
    G: Tensor  # (…, c, c)
    b_end: Tensor  # (…, 1, 1), f_end and m_end likewise: what the end of the chunk keeps of its start
    f_end: Tensor
    m_end: Tensor
    G_end: Tensor  # (…, c, 1), n_end likewise: what it keeps of each write
    n_end: Tensor
    b_before: Tensor | None = None  # rows one token earlier, for the online rule: it asks M_{t−1}
    f_before: Tensor | None = None
    G_before: Tensor | None = None

    def chunks(self) -> list[list[Gates]]:
        """Hand the chunks out: for each of them one entry for each layer that has its own gates."""
        count = self.theta.shape[2]
        layers = [
            [[None] * count if x is None else x[layer].unbind(1) for x in self] for layer in range(len(self.theta))
        ]
        return [[Gates(*(x[i] for x in fields)) for fields in layers] for i in range(count)]


def slice_gates(theta: Tensor, n: Tensor, G: Tensor, read: str, online: bool) -> Gates:
    """Name the parts of n and G. All are views: what grows in the gates of gradients grows in dn and dG.

    Args:
        theta: (L or 1, N, chunks, c) step sizes.
        n: (L or 1, N, chunks, …, c+2), from `fill_rows`; only its last row is looked at.
        G: (L or 1, N, chunks, c+1, c+2), from `fill_rows`.
        read: "after" or "before" the write.
        online: whether the rows one token earlier are wanted as well.

    Returns:
        The gates as the products of a chunk need them.

    Built in: notebooks/06 · Paper: eq. 16–18
    """
    after, before = ((x[..., :1], x[..., 1:2], x[..., 2:]) for x in (G[..., 1:, :], G[..., :-1, :]))
    b_end, f_end, G_end = (x[..., -1:, :].mT for x in after)
    m_end, n_end = n[..., -1:, 1:2], n[..., -1:, 2:].mT
    rows = after if read == "after" else before
    return Gates(theta[..., None], *rows, b_end, f_end, m_end, G_end, n_end, *(before if online else ()))


def multiply_gates(
    alpha: Tensor, eta: Tensor, theta: Tensor, read: str, online: bool, keep_n: bool = False
) -> tuple[Gates, Tensor, Tensor]:
    """Multiply the gates of a run of chunks up, all chunks at once.

    Args:
        alpha: (L or 1, N, chunks, c) forget gates.
        eta: momentum gates, same shape.
        theta: step sizes, same shape.
        read: "after" or "before" the write.
        online: whether the rows one token earlier are wanted as well.
        keep_n: see `fill_rows`.

    Returns:
        The gates, equal to 1e-15 to `gates.coefficients`, and the n and G that they are views of.

    Built in: notebooks/06 · Paper: eq. 16–18
    """
    n, G = fill_rows(alpha, eta, keep_n)
    return slice_gates(theta, n, G, read, online), n, G
