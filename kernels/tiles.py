"""Masked loads, stores and products of tiles for the matrix memory; entries out of range are zero."""

import triton
import triton.language as tl


@triton.jit
def load_rows(x, rows, valid, cols, stride, D: tl.constexpr):
    """Load rows of a sequence, (rows, cols); invalid rows and columns beyond D are zero."""
    return tl.load(x + rows[:, None] * stride + cols[None, :], mask=valid[:, None] & (cols < D)[None, :], other=0.0)


@triton.jit
def store_rows(x, value, rows, valid, cols, stride, D: tl.constexpr):
    """Store rows of a sequence, in the dtype of the destination."""
    place = x + rows[:, None] * stride + cols[None, :]
    tl.store(place, value.to(x.dtype.element_ty), mask=valid[:, None] & (cols < D)[None, :])


@triton.jit
def load_state(x, rows, cols, D: tl.constexpr):
    """Load a tile of a D × D matrix."""
    inside = (rows < D)[:, None] & (cols < D)[None, :]
    return tl.load(x + rows[:, None] * D + cols[None, :], mask=inside, other=0.0)


@triton.jit
def store_state(x, value, rows, cols, valid, D: tl.constexpr):
    """Store a tile of a D × D matrix, in the dtype of the destination."""
    inside = (rows < D)[:, None] & (cols < D)[None, :] & valid
    tl.store(x + rows[:, None] * D + cols[None, :], value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def load_mask(G, r, j, C: tl.constexpr, SHIFT: tl.constexpr):
    """Load G of a chunk, each row SHIFT tokens earlier; zero before the first token."""
    row = r - SHIFT
    inside = ((row >= 0) & (r < C))[:, None] & (j < C)[None, :]
    return tl.load(G + row[:, None] * C + j[None, :], mask=inside, other=0.0)


@triton.jit
def load_share(x, r, first, C: tl.constexpr, SHIFT: tl.constexpr):
    """Load b or f of a chunk, each SHIFT tokens earlier; `first` is the value before the first token."""
    row = r - SHIFT
    value = tl.load(x + row, mask=(row >= 0) & (r < C), other=0.0)
    return tl.where(row < 0, first, value)


@triton.jit
def load_turned(x, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Load a tile (rows, cols) of a matrix stored transposed, as (COLS, ROWS), such as the states of `advance`."""
    inside = (cols < COLS)[:, None] & (rows < ROWS)[None, :]
    return tl.trans(tl.load(x + cols[:, None] * ROWS + rows[None, :], mask=inside, other=0.0))


@triton.jit
def load_end(theta, G, b, f, n, m, i, c, nc, T, r, theta_stride, n_rows, C: tl.constexpr):
    """Load a chunk's steps 2θ and last rows of G, n, b, f and m; zeros before the first chunk and after the last.

    They depend on no state, so sequential kernels load them one chunk ahead.
    """
    at, real = i * nc + c, (c >= 0) & (c < nc)
    token, inside = (at - i * nc) * C + r, (r < C) & real
    return (
        2.0 * tl.load(theta + i * theta_stride + token, mask=inside & (token < T), other=0.0)[None, :],
        tl.load(G + (at * C + C - 1) * C + r, mask=inside, other=0.0)[None, :],
        tl.load(n + (at * n_rows + n_rows - 1) * C + r, mask=inside, other=0.0)[None, :],
        tl.load(b + at * C + C - 1, mask=real, other=0.0),
        tl.load(f + at * C + C - 1, mask=real, other=0.0),
        tl.load(m + (at + 1) * n_rows - 1, mask=real, other=0.0),
    )


@triton.jit
def mul(a, b, PRECISION: tl.constexpr):
    """Multiply two tiles, the second cast to the dtype of the first, accumulating in float32."""
    return tl.dot(a, b.to(a.dtype), input_precision=PRECISION)


@triton.jit
def add_mul(total, a, b, PRECISION: tl.constexpr):
    """Add the product of two tiles of one dtype to a float32 sum."""
    return tl.dot(a, b, total, input_precision=PRECISION)
