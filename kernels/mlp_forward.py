"""Forward pass of a two-layer memory: a sequential pass over the chunks for the states, a parallel one for the reads.

Only the writes depend on the chunk before, so only `mlp_states` is sequential, with one program per sequence and head.
It stores the state at every chunk's start and the factors of every token's write. `mlp_reads` then computes all
outputs, with one program per chunk. Both loop over tiles of hidden units.

Memory layout, for N sequences and heads, nc chunks, and X = N or, with one set of gates per layer, 2N:
  q, k, v, y  strides (batch, head, token), the last one 1; `start` is the span's first token
  theta       (X, tokens) with a row stride; G, b, f, n, m as in `coefficients`, of the span
  states      (nc + 1, N, 4DE) float32: W1 (D, E), W2 (E, D), then the momenta P1 and P2 alike; slot j starts chunk j
  record      (N, nc·C, 2E + 2D) float32, all at the keys: z1 and δ2 W2ᵀ (E each), z2 and δ2 (D each)
"""

from __future__ import annotations

import triton
import triton.language as tl

from titans_mini.kernels.mlp_tiles import (
    activate,
    add_product,
    finish,
    load_end,
    load_read,
    load_slow,
    load_tile,
    load_tokens,
    narrow,
    output_delta,
    product,
    sharp_product,
    slope,
    store_tile,
)

RUNTIME = ["N", "H", "T", "nc", "start", "stride_theta"]  # a new value does not recompile


@triton.jit(do_not_specialize=RUNTIME)
def mlp_states(
    k_start, v_start, theta, G, b, f, n, m, gain, bias, states, record,
    N, H, T, nc, start, stride_b, stride_h, stride_t, stride_theta, eps,
    C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, LAYERS: tl.constexpr, N_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr, NORM: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Carry the state of one sequence and head through all chunks of a span, from slot 0 to slot nc."""
    x = tl.program_id(0).to(tl.int64)
    rows, cols = tl.arange(0, BC), tl.arange(0, BD)
    layer = (LAYERS - 1) * N  # from the first layer's gates to the second's
    WIDTH: tl.constexpr = 2 * E + 2 * D
    step = N.to(tl.int64) * (4 * D * E)  # from one slot to the next
    gain_row, bias_row = load_slow(gain, bias, cols, D, NORM)
    for j in range(nc):
        left = tl.minimum(C, T - start - j * C)
        first = (x // H) * stride_b + (x % H) * stride_h + (start + j * C).to(tl.int64) * stride_t
        theta_start = theta + x * stride_theta + start + j * C
        rec = record + (x * nc + j) * (C * WIDTH)
        here = states + x * (4 * D * E) + j * step
        k = load_tile(k_start + first, rows, cols, stride_t, left, D)
        v = load_tile(v_start + first, rows, cols, stride_t, left, D)
        # outputs at the keys; in bfloat16 the errors of a nearly learned value would be half rounding
        z2 = tl.zeros((BC, BD), tl.float32)
        for e in range(0, E, BE):
            units = e + tl.arange(0, BE)
            W1, W2 = load_tile(here, cols, units, E, D, E), load_tile(here + D * E, units, cols, D, E, D)
            z1 = sharp_product(k, W1, PRECISION)
            store_tile(rec, z1, rows, units, WIDTH, left, E)
            z2 += sharp_product(activate(z1, ACTIVATION), W2, PRECISION)
        store_tile(rec + 2 * E, z2, rows, cols, WIDTH, left, D)
        # the writes of all tokens, and the state at the chunk's end
        delta = output_delta(z2, k.to(tl.float32), v.to(tl.float32), gain_row, bias_row, cols, eps, D, NORM, RESIDUAL)
        store_tile(rec + 2 * E + D, delta, rows, cols, WIDTH, left, D)
        theta1 = load_tokens(theta_start, rows, left)
        s2 = load_tokens(theta_start + layer * stride_theta, rows, left)[:, None] * delta
        b1, f1, m1, G1, n1 = load_end(G, b, f, n, m, x * nc + j, rows, C, N_ROWS)
        b2, f2, m2, G2, n2 = load_end(G, b, f, n, m, (x + layer) * nc + j, rows, C, N_ROWS)
        there = here + step
        tl.debug_barrier()  # z1 is read again, by other threads
        for e in range(0, E, BE):
            units = e + tl.arange(0, BE)
            # all loads first, so that none waits for the computation on an earlier one
            z1, W2 = load_tile(rec, rows, units, WIDTH, left, E), load_tile(here + D * E, units, cols, D, E, D)
            W1, P1 = load_tile(here, cols, units, E, D, E), load_tile(here + 2 * D * E, cols, units, E, D, E)
            P2 = load_tile(here + 3 * D * E, units, cols, D, E, D)
            pulled = product(delta, tl.trans(W2), k, PRECISION)
            store_tile(rec + E, pulled, rows, units, WIDTH, left, E)
            s1, a2 = theta1[:, None] * pulled * slope(z1, ACTIVATION), activate(z1, ACTIVATION)
            W1 = add_product(b1 * W1 + f1 * P1, tl.trans(k), -G1[:, None] * s1, k, PRECISION)
            P1 = add_product(m1 * P1, tl.trans(k), -n1[:, None] * s1, k, PRECISION)
            store_tile(there, W1, cols, units, E, D, E)
            store_tile(there + 2 * D * E, P1, cols, units, E, D, E)
            W2 = add_product(b2 * W2 + f2 * P2, tl.trans(a2), -G2[:, None] * s2, k, PRECISION)
            P2 = add_product(m2 * P2, tl.trans(a2), -n2[:, None] * s2, k, PRECISION)
            store_tile(there + D * E, W2, units, cols, D, E, D)
            store_tile(there + 3 * D * E, P2, units, cols, D, E, D)
        tl.debug_barrier()  # the next chunk starts from the state just stored


@triton.jit
def read_hidden(
    q, k, scores, theta, b, f, here, rec, rows, cols, units, left,
    D: tl.constexpr, E: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute a tile of hidden units at the queries, before σ, and at the keys, after it. `scores` are negated."""
    WIDTH: tl.constexpr = 2 * E + 2 * D
    z1 = load_tile(rec, rows, units, WIDTH, left, E)
    s1 = theta[:, None] * load_tile(rec + E, rows, units, WIDTH, left, E) * slope(z1, ACTIVATION)
    x1 = b[:, None] * product(q, load_tile(here, cols, units, E, D, E), k, PRECISION)
    x1 += f[:, None] * product(q, load_tile(here + 2 * D * E, cols, units, E, D, E), k, PRECISION)
    return add_product(x1, scores, s1, k, PRECISION), activate(z1, ACTIVATION)


@triton.jit(do_not_specialize=RUNTIME)
def mlp_reads(
    q_start, k_start, y_start, theta, G, b, f, gain, bias, states, record,
    N, H, T, nc, start, stride_b, stride_h, stride_t, stride_theta, eps,
    C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, LAYERS: tl.constexpr, SHIFT: tl.constexpr,
    ACTIVATION: tl.constexpr, NORM: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Compute the outputs of one chunk."""
    j, x = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows, cols = tl.arange(0, BC), tl.arange(0, BD)
    layer = (LAYERS - 1) * N
    WIDTH: tl.constexpr = 2 * E + 2 * D
    left = tl.minimum(C, T - start - j * C)
    first = (x // H) * stride_b + (x % H) * stride_h + (start + j * C).to(tl.int64) * stride_t
    theta_start = theta + x * stride_theta + start + j * C
    rec = record + (x * nc + j) * (C * WIDTH)
    here = states + (j * N.to(tl.int64) + x) * (4 * D * E)
    q = load_tile(q_start + first, rows, cols, stride_t, left, D)
    k = load_tile(k_start + first, rows, cols, stride_t, left, D)
    theta1 = load_tokens(theta_start, rows, left)
    b1, f1, G1 = load_read(G, b, f, x * nc + j, rows, C, SHIFT)
    scores1 = narrow(product(q, tl.trans(k), k, PRECISION) * -G1, k)
    b2, f2, G2 = load_read(G, b, f, (x + layer) * nc + j, rows, C, SHIFT)
    x2, scores2 = tl.zeros((BC, BD), tl.float32), tl.zeros((BC, BC), tl.float32)
    for e in range(0, E, BE):
        units = e + tl.arange(0, BE)
        x1, a2 = read_hidden(
            q, k, scores1, theta1, b1, f1, here, rec, rows, cols, units, left, D, E, ACTIVATION, PRECISION
        )
        h = activate(x1, ACTIVATION)
        x2 = add_product(x2, b2[:, None] * h, load_tile(here + D * E, units, cols, D, E, D), k, PRECISION)
        x2 = add_product(x2, f2[:, None] * h, load_tile(here + 3 * D * E, units, cols, D, E, D), k, PRECISION)
        scores2 = add_product(scores2, h, tl.trans(a2), k, PRECISION)
    s2 = load_tile(rec + 2 * E + D, rows, cols, WIDTH, left, D)
    s2 *= load_tokens(theta_start + layer * stride_theta, rows, left)[:, None]
    x2 = add_product(x2, scores2 * -G2, s2, k, PRECISION)
    gain_row, bias_row = load_slow(gain, bias, cols, D, NORM)
    y = finish(x2, q.to(tl.float32), gain_row, bias_row, cols, eps, D, NORM, RESIDUAL)
    store_tile(y_start + first, y, rows, cols, stride_t, left, D)
