"""The gates of many chunks multiplied up at once, with their derivative by hand.

The numbers of `gates.coefficients`, laid out for speed. The memory M₀ and the momentum S₀ at a chunk's start are two
more writers, so they get two more columns, and one recurrence fills everything:
    n_t = η_t n_{t−1} + e_t,   G_t = (1−α_t) G_{t−1} + n_t,   from n = (1, 0 … 0, 0) and G = (0, 0 … 0, 1).
Column 0 of n is m and of G is f; the last column of G is b. Row 0 is the start, for the rows one token earlier.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.gates import exact


def fill_rows(alpha: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """Fill n and G row from row.

    Args:
        alpha: (…, c) forget gates.
        eta: (…, c) momentum gates.

    Returns:
        n and G, (…, c+1, c+2) each, without a graph: `fill_rows_backward` is the derivative.

    Built in: notebooks/06 · Paper: eq. 16–18
    """
    c, dtype = alpha.shape[-1], alpha.dtype
    alpha, eta = exact(alpha), exact(eta)
    n, G = (alpha.new_zeros(*alpha.shape[:-1], c + 1, c + 2) for _ in range(2))
    n[..., 0, 0] = 1
    G[..., 0, -1] = 1
    n_rows, G_rows = n.unbind(-2), G.unbind(-2)
    for t, (keep_t, eta_t) in enumerate(zip((1 - alpha).split(1, -1), eta.split(1, -1), strict=True)):
        torch.mul(n_rows[t], eta_t, out=n_rows[t + 1])
        n_rows[t + 1].narrow(-1, t + 1, 1).fill_(1)  # this token's own column was 0 so far
        torch.addcmul(n_rows[t + 1], keep_t, G_rows[t], out=G_rows[t + 1])
    n, G = n.to(dtype), G.to(dtype)
    return n, G


def fill_rows_backward(
    alpha: Tensor, eta: Tensor, n: Tensor, G: Tensor, dn: Tensor, dG: Tensor
) -> tuple[Tensor, Tensor]:
    """Differentiate `fill_rows`.

    Args:
        alpha: (…, c) forget gates.
        eta: (…, c) momentum gates.
        n: (…, c+1, c+2), from `fill_rows`.
        G: (…, c+1, c+2), from `fill_rows`.
        dn: gradient at n; overwritten.
        dG: gradient at G; overwritten.

    Returns:
        The gradients at alpha and eta, (…, c).

    Built in: notebooks/06 · Paper: eq. 16–18
    """
    dn_rows, dG_rows, keep = dn.unbind(-2), dG.unbind(-2), 1 - alpha
    for t in range(alpha.shape[-1], 0, -1):
        dn_rows[t].add_(dG_rows[t])
        dG_rows[t - 1].addcmul_(dG_rows[t], keep[..., t - 1 : t])
        dn_rows[t - 1].addcmul_(dn_rows[t], eta[..., t - 1 : t])
    d_alpha = (dG[..., 1:, :] * G[..., :-1, :]).sum(-1).neg_()
    return d_alpha, (dn[..., 1:, :] * n[..., :-1, :]).sum(-1)


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
        count, layers = self.theta.shape[2], range(len(self.theta))
        fields = [[None] * count if x is None else x.unbind(2) for x in self]
        split = [[None] * count if x[0] is None else [y.unbind(0) for y in x] for x in fields]
        return [
            [Gates(*(None if x[i] is None else x[i][layer] for x in split)) for layer in layers] for i in range(count)
        ]


def slice_gates(theta: Tensor, n: Tensor, G: Tensor, read: str, online: bool) -> Gates:
    """Name the parts of n and G. All are views: what grows in the gates of gradients grows in dn and dG.

    Args:
        theta: (L or 1, N, chunks, c) step sizes.
        n: (L or 1, N, chunks, c+1, c+2), from `fill_rows`.
        G: (L or 1, N, chunks, c+1, c+2), from `fill_rows`.
        read: "after" or "before" the write.
        online: whether the rows one token earlier are wanted as well.

    Returns:
        The gates as the products of a chunk need them.

    Built in: notebooks/06 · Paper: eq. 16–18
    """
    after, before = ((x[..., -1:], x[..., :1], x[..., 1:-1]) for x in (G[..., 1:, :], G[..., :-1, :]))
    b_end, f_end, G_end = (x[..., -1:, :].mT for x in after)
    m_end, n_end = n[..., -1:, :1], n[..., -1:, 1:-1].mT
    rows = after if read == "after" else before
    return Gates(theta[..., None], *rows, b_end, f_end, m_end, G_end, n_end, *(before if online else ()))


def multiply_gates(
    alpha: Tensor, eta: Tensor, theta: Tensor, read: str, online: bool
) -> tuple[Gates, Tensor, Tensor]:
    """Multiply the gates of a run of chunks up, all chunks at once.

    Args:
        alpha: (L or 1, N, chunks, c) forget gates.
        eta: momentum gates, same shape.
        theta: step sizes, same shape.
        read: "after" or "before" the write.
        online: whether the rows one token earlier are wanted as well.

    Returns:
        The gates, equal to 1e-15 to `gates.coefficients`, and the n and G that they are views of.

    Built in: notebooks/06 · Paper: eq. 16–18
    """
    n, G = fill_rows(alpha, eta)
    return slice_gates(theta, n, G, read, online), n, G
