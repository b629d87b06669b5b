"""Products of the gates of every chunk, computed by a small kernel, and their derivative.

The same numbers as `gates.coefficients`, by the same row-by-row recurrence, in float64 and rounded when a row is
stored: exact for gates of 0 and 1, without logarithm or division. The kernels that use them do not compute them,
because 1 − α in float32 is 3 % off at a half-life of a million tokens, and a matrix product needs all rows at once.
They take 4C bytes per token, and only within a span.

Rows beyond the sequence's end repeat the last real one, so the last row is always the end of the chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from titans_mini.kernels import launch

BLOCK = 256  # row entries per program, over all its chunks


class Coefficients(NamedTuple):
    """Coefficients of all chunks of X sequences (times layers); nc chunks of C tokens, one row after each token."""

    G: Tensor  # (X, nc, C, C)
    b: Tensor  # (X, nc, C), f likewise
    f: Tensor
    n: Tensor  # (X, nc, C, C), or its last row alone (X, nc, 1, C)
    m: Tensor  # (X, nc, C), or its last entry alone (X, nc, 1)


class CoefficientGrads(NamedTuple):
    """Gradients of the coefficients: of the rows in reads, of the rows in the online rule, and of the chunk's end.

    Rows used "before" the write belong to the token before: row t of the gradients is row t − 1 of the coefficients.
    """

    G: Tensor  # (X, nc, C, C), rows used by the reads, after the write or before
    b: Tensor  # (X, nc, C), f likewise
    f: Tensor
    G_before: Tensor  # rows used by the online rule, before the write; otherwise unused
    b_before: Tensor
    f_before: Tensor
    G_end: Tensor  # (X, nc, C), n_end likewise
    n_end: Tensor
    bfm_end: Tensor  # (X, nc, 3): of b, f and m


def empty_grads(c: Coefficients, online: bool) -> CoefficientGrads:
    """Allocate the gradients of coefficients.

    Args:
        c: the coefficients.
        online: whether the online rule uses rows too.

    Returns:
        Uninitialised tensors.
    """
    G, b, f = (torch.empty_like(x) for x in c[:3])
    before = [torch.empty_like(x) for x in (G, b, f)] if online else (G, b, f)
    ends = torch.empty_like(b), torch.empty_like(b), torch.empty(*b.shape[:2], 3, dtype=b.dtype, device=b.device)
    return CoefficientGrads(G, b, f, *before, *ends)


@triton.jit
def _load_gate(gates, x, chunk, t, T, stride, live, C: tl.constexpr):
    """Load a gate of token t of some chunks in float64, and the mask of the tokens that exist."""
    token = chunk * C + t
    valid = live & (token < T)
    return tl.load(gates + x * stride + token, mask=valid, other=0.0).to(tl.float64), valid


@triton.jit
def round_coefficients(x):
    """Round to float32, and to 0 where a coefficient is too small to matter: as `gates.round_coefficients`."""
    return tl.where(x < 1e-30, 0.0, x).to(tl.float32)


@triton.jit
def fill_rows(
    alpha, eta, G, b, f, n, m, X, T, nc, alpha_stride, eta_stride, out_stride,
    C: tl.constexpr, BC: tl.constexpr, BLOCK: tl.constexpr, KEEP_N: tl.constexpr,
):  # fmt: skip
    """Compute n_t = η_t n_{t−1} + e_t,  G_t = (1−α_t) G_{t−1} + n_t, and b, f, m, for a block of chunks."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,) chunks of all sequences
    x, chunk, live = place // nc, place % nc, place < X * nc
    j = tl.arange(0, BC)
    G_row = tl.zeros([BLOCK, BC], tl.float64)
    n_row = tl.zeros([BLOCK, BC], tl.float64)
    b_t = tl.full([BLOCK], 1.0, tl.float64)
    m_t = tl.full([BLOCK], 1.0, tl.float64)
    f_t = tl.zeros([BLOCK], tl.float64)
    inside = live[:, None] & (j < C)[None, :]
    for t in range(C):
        a, valid = _load_gate(alpha, x, chunk, t, T, alpha_stride, live, C)
        e, valid = _load_gate(eta, x, chunk, t, T, eta_stride, live, C)
        keep = 1.0 - a  # 1 beyond the end, where α = 0 was loaded
        carry = tl.where(valid, e, 1.0)
        n_row = carry[:, None] * n_row + tl.where(valid[:, None] & (j == t)[None, :], 1.0, 0.0)
        G_row = keep[:, None] * G_row + tl.where(valid[:, None], n_row, 0.0)
        m_t = carry * m_t
        b_t = keep * b_t
        f_t = keep * f_t + tl.where(valid, m_t, 0.0)
        row = place * C + t
        tl.store(G + row[:, None] * C + j[None, :], round_coefficients(G_row), mask=inside)
        tl.store(b + row, round_coefficients(b_t), mask=live)
        tl.store(f + row, round_coefficients(f_t), mask=live)
        if KEEP_N:
            tl.store(n + row[:, None] * C + j[None, :], round_coefficients(n_row), mask=inside)
            tl.store(m + row, round_coefficients(m_t), mask=live)
    if not KEEP_N:
        tl.store(n + place[:, None] * C + j[None, :], round_coefficients(n_row), mask=inside)
        tl.store(m + place, round_coefficients(m_t), mask=live)


def multiply_up(alpha: Tensor, eta: Tensor, C: int, keep_n: bool = False) -> Coefficients:
    """Compute the coefficients of all chunks from their gates.

    Args:
        alpha: (X, T) forget gates, float32; the last stride is 1.
        eta: (X, T) momentum gates, likewise.
        C: chunk size.
        keep_n: whether to keep all rows of n and m, as the derivative needs; otherwise only the last.

    Returns:
        Coefficients of chunks(T, C) chunks, float32.
    """
    X, T = alpha.shape
    nc = launch.chunks(T, C)
    rows = C if keep_n else 1
    sizes = ((X, nc, C, C), (X, nc, C), (X, nc, C), (X, nc, rows, C), (X, nc, rows))
    out = Coefficients(*(torch.empty(size, dtype=torch.float32, device=alpha.device) for size in sizes))
    _launch(fill_rows, C, (alpha, eta, *out), X, T, KEEP_N=keep_n)
    return out


def _launch(kernel: triton.JITFunction, C: int, tensors: tuple[Tensor, ...], X: int, T: int, **constants: int) -> None:
    """Launch one of the two kernels over all chunks of X sequences."""
    nc, BC = launch.chunks(T, C), launch.tile(C)
    block = max(1, BLOCK // BC)
    numbers = X, T, nc, *(x.stride(0) for x in (*tensors[:2], tensors[-1]))
    sizes = {"C": C, "BC": BC, "BLOCK": block, **constants}
    launch.launch(kernel, (triton.cdiv(X * nc, block),), *tensors, *numbers, num_warps=2, **sizes)


@triton.jit
def fill_rows_backward(
    alpha, eta, G, b, f, n, m, dG, db, df, dG_before, db_before, df_before, dG_end, dn_end, dbfm_end,
    d_alpha, d_eta, X, T, nc, alpha_stride, eta_stride, out_stride,
    C: tl.constexpr, BC: tl.constexpr, BLOCK: tl.constexpr, SHIFT: tl.constexpr, ONLINE: tl.constexpr,
):  # fmt: skip
    """Reverse the recurrence: R and N accumulate the gradients of G_t and n_t; the gates carry them to row t − 1."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x, chunk, live = place // nc, place % nc, place < X * nc
    j = tl.arange(0, BC)
    inside = live[:, None] & (j < C)[None, :]
    R = tl.load(dG_end + place[:, None] * C + j[None, :], mask=inside, other=0.0)
    N = tl.load(dn_end + place[:, None] * C + j[None, :], mask=inside, other=0.0)
    R_b = tl.load(dbfm_end + place * 3, mask=live, other=0.0)
    R_f = tl.load(dbfm_end + place * 3 + 1, mask=live, other=0.0)
    N_m = tl.load(dbfm_end + place * 3 + 2, mask=live, other=0.0)
    for back in range(C):
        t = C - 1 - back
        row = place * C + t
        read = t + SHIFT < C
        R += tl.load(dG + (row + SHIFT)[:, None] * C + j[None, :], mask=inside & read, other=0.0)
        R_b += tl.load(db + row + SHIFT, mask=live & read, other=0.0)
        R_f += tl.load(df + row + SHIFT, mask=live & read, other=0.0)
        if ONLINE:
            below = t + 1 < C
            R += tl.load(dG_before + (row + 1)[:, None] * C + j[None, :], mask=inside & below, other=0.0)
            R_b += tl.load(db_before + row + 1, mask=live & below, other=0.0)
            R_f += tl.load(df_before + row + 1, mask=live & below, other=0.0)
        a, valid = _load_gate(alpha, x, chunk, t, T, alpha_stride, live, C)
        e, valid = _load_gate(eta, x, chunk, t, T, eta_stride, live, C)
        N += tl.where(valid[:, None], R, 0.0)
        N_m += tl.where(valid, R_f, 0.0)
        earlier, first = live & (t > 0), tl.where(live & (t == 0), 1.0, 0.0)  # before the first row: b = m = 1
        G_before = tl.load(G + (row - 1)[:, None] * C + j[None, :], mask=inside & (t > 0), other=0.0)
        n_before = tl.load(n + (row - 1)[:, None] * C + j[None, :], mask=inside & (t > 0), other=0.0)
        b_before = tl.load(b + row - 1, mask=earlier, other=0.0) + first
        f_before = tl.load(f + row - 1, mask=earlier, other=0.0)
        m_before = tl.load(m + row - 1, mask=earlier, other=0.0) + first
        d_keep = tl.sum(R * G_before, 1) + R_b * b_before + R_f * f_before
        d_carry = tl.sum(N * n_before, 1) + N_m * m_before
        token = chunk * C + t
        tl.store(d_alpha + x * out_stride + token, -d_keep, mask=valid)
        tl.store(d_eta + x * out_stride + token, d_carry, mask=valid)
        keep, carry = (1.0 - a).to(tl.float32), tl.where(valid, e, 1.0).to(tl.float32)
        R *= keep[:, None]
        R_b *= keep
        R_f *= keep
        N *= carry[:, None]
        N_m *= carry


def multiply_up_backward(
    alpha: Tensor,
    eta: Tensor,
    c: Coefficients,
    grads: CoefficientGrads,
    out: tuple[Tensor, Tensor],
    shift: int,
    online: bool = False,
) -> None:
    """Backpropagate through `multiply_up`, into `out`.

    Args:
        alpha: (X, T) forget gates.
        eta: (X, T) momentum gates.
        c: their coefficients, all rows of n kept.
        grads: the gradients of the coefficients.
        out: buffers for the gradients of alpha and eta, (X, T) float32 each, the last stride 1.
        shift: 0 if the reads come after the write, 1 if before.
        online: whether the online rule used rows too.
    """
    _launch(fill_rows_backward, c.b.shape[2], (alpha, eta, *c, *grads, *out), *alpha.shape, SHIFT=shift, ONLINE=online)
