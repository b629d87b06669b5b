"""The chain of a two-layer memory whose state stays in the registers of one multiprocessor, from chunk to chunk.

For half precision and E × D up to 128 × 64. It does what `mlp_forward.mlp_states` does, without reading a state back:
of W1 the transpose, of W2, P1ᵀ and P2 the rows of some hidden units belong to each warp, and in that shape all four
updates and the way back to the first layer multiply what a warp has in its registers anyway.
"""

from __future__ import annotations

import triton
import triton.language as tl

from titans_mini.kernels.mlp_forward import RUNTIME
from titans_mini.kernels.mlp_tiles import (
    activate,
    add_product,
    last_delta,
    load_end,
    load_slow,
    load_tile,
    load_tokens,
    narrow,
    product,
    slope,
    store_tile,
)


@triton.jit
def halves(x, like):
    """Split float32 into two of half precision, whose sum has twice the bits."""
    high = narrow(x, like)
    return high, narrow(x - high.to(tl.float32), like)


@triton.jit
def store_turned(start, x, rows, cols, stride, row_end, col_end):
    """Write a tile that holds columns of the place it goes to as its rows."""
    inside = (cols[:, None] < col_end) & (rows[None, :] < row_end)
    tl.store(start + rows[None, :] * stride + cols[:, None], x.to(start.dtype.element_ty), mask=inside)


@triton.jit
def load_turned(start, rows, cols, stride, row_end, col_end):
    """Load the transpose of a tile."""
    inside = (cols[:, None] < col_end) & (rows[None, :] < row_end)
    return tl.load(start + rows[None, :] * stride + cols[:, None], mask=inside, other=0.0)


@triton.jit(do_not_specialize=RUNTIME)
def mlp_states_resident(
    k_start, v_start, theta, G, b, f, n, m, gain, bias, states, record,
    N, H, T, nc, start, stride_b, stride_h, stride_t, stride_theta, eps,
    C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, LAYERS: tl.constexpr, N_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr, NORM: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Move the state of one sequence and head through all chunks of a span, from slot 0 to slot nc."""
    x = tl.program_id(0).to(tl.int64)
    rows, cols, units = tl.arange(0, BC), tl.arange(0, BD), tl.arange(0, BE)
    layer = (LAYERS - 1) * N  # from the first layer's gates to the second's
    WIDTH: tl.constexpr = 2 * E + 2 * D
    step = N.to(tl.int64) * (4 * D * E)  # from one slot to the next
    gain_row, bias_row = load_slow(gain, bias, cols, D, NORM)
    here = states + x * (4 * D * E)
    W1, W2 = load_turned(here, cols, units, E, D, E), load_tile(here + D * E, units, cols, D, E, D)
    for j in range(nc):
        left = tl.minimum(C, T - start - j * C)
        first = (x // H) * stride_b + (x % H) * stride_h + (start + j * C).to(tl.int64) * stride_t
        theta_start = theta + x * stride_theta + start + j * C
        note = record + (x * nc + j) * (C * WIDTH)
        k = load_tile(k_start + first, rows, cols, stride_t, left, D)
        # what the memory says to the keys, in float32 or nearly: half of the bits would lose the errors of what is
        # nearly learned; keys are of half precision as they are
        W_high, W_low = halves(W1, k)
        k_T = tl.trans(k)
        z1 = add_product(product(W_high, k_T, k, PRECISION), W_low, k_T, k, PRECISION)
        store_turned(note, z1, rows, units, WIDTH, left, E)
        a_high, a_low = halves(activate(z1, ACTIVATION), k)
        W_high, W_low = halves(W2, k)
        z2 = product(tl.trans(a_high), W_high, k, PRECISION)
        z2 = add_product(z2, tl.trans(a_low), W_high, k, PRECISION)
        z2 = add_product(z2, tl.trans(a_high), W_low, k, PRECISION)
        store_tile(note + 2 * E, z2, rows, cols, WIDTH, left, D)
        # what every token writes, and the end of the chunk
        v = load_tile(v_start + first, rows, cols, stride_t, left, D)
        delta = last_delta(z2, k.to(tl.float32), v.to(tl.float32), gain_row, bias_row, cols, eps, D, NORM, RESIDUAL)
        store_tile(note + 2 * E + D, delta, rows, cols, WIDTH, left, D)
        theta1 = load_tokens(theta_start, rows, left)
        s2 = load_tokens(theta_start + layer * stride_theta, rows, left)[:, None] * delta
        b1, f1, m1, G1, n1 = load_end(G, b, f, n, m, x * nc + j, rows, C, N_ROWS)
        b2, f2, m2, G2, n2 = load_end(G, b, f, n, m, (x + layer) * nc + j, rows, C, N_ROWS)
        pulled = product(W_high, tl.trans(narrow(delta, k)), k, PRECISION)
        store_turned(note + E, pulled, rows, units, WIDTH, left, E)
        s1 = theta1[None, :] * pulled * slope(z1, ACTIVATION)
        P1 = load_turned(here + 2 * D * E, cols, units, E, D, E)
        W1 = add_product(b1 * W1 + f1 * P1, -G1[None, :] * s1, k, k, PRECISION)
        P1 = add_product(m1 * P1, -n1[None, :] * s1, k, k, PRECISION)
        store_turned(here + step, W1, cols, units, E, D, E)
        store_turned(here + step + 2 * D * E, P1, cols, units, E, D, E)
        P2 = load_tile(here + 3 * D * E, units, cols, D, E, D)
        W2 = add_product(b2 * W2 + f2 * P2, a_high, -G2[:, None] * s2, k, PRECISION)
        P2 = add_product(m2 * P2, a_high, -n2[:, None] * s2, k, PRECISION)
        here += step
        store_tile(here + D * E, W2, units, cols, D, E, D)
        store_tile(here + 3 * D * E, P2, units, cols, D, E, D)
        tl.debug_barrier()  # the next chunk reads the momenta that were just written
