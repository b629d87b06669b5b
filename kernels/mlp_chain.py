"""The sequential part of the two-layer backward pass: the gradients of the states, from the last chunk to the first.

It runs between the kernels of `mlp_backward`, where the memory layout is described.
"""

from __future__ import annotations

import triton
import triton.language as tl

from titans_mini.kernels.mlp_forward import RUNTIME
from titans_mini.kernels.mlp_tiles import (
    activate,
    add_product,
    layer_norm_vjp_backward,
    load_end,
    load_read,
    load_slow,
    load_tile,
    load_tokens,
    narrow,
    product,
    second_derivative,
    slope,
    store_tile,
)


@triton.jit
def store_end(dG_end, dn_end, d_theta, dG, dn, dt, place, token, rows, left, C: tl.constexpr):
    """Store the gradients of the last rows of G and n, and of the step sizes."""
    tl.store(dG_end + place * C + rows, dG, mask=rows < C)
    tl.store(dn_end + place * C + rows, dn, mask=rows < C)
    tl.store(d_theta + token + rows, dt, mask=rows < left)


@triton.jit(do_not_specialize=RUNTIME)
def mlp_chain_backward(
    q_start, k_start, v_start, theta, G, b, f, n, m, gain, bias, states, record,
    dv_start, d_theta, dG_end, dn_end, d_states, scratch, slow,
    N, H, T, nc, start, stride_b, stride_h, stride_t, stride_theta, eps,
    C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, LAYERS: tl.constexpr, SHIFT: tl.constexpr, N_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr, NORM: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Backpropagate through the chunks of one sequence and head, from the gradients in slot nc to slot 0."""
    x = tl.program_id(0).to(tl.int64)
    rows, cols = tl.arange(0, BC), tl.arange(0, BD)
    layer = (LAYERS - 1) * N
    WIDTH: tl.constexpr = 2 * E + 2 * D
    SCRATCH: tl.constexpr = 4 * E + 3 * D
    step = N.to(tl.int64) * (4 * D * E)
    gain_row, bias_row = load_slow(gain, bias, cols, D, NORM)
    for back in range(nc):
        j = nc - 1 - back
        left = tl.minimum(C, T - start - j * C)
        first = (x // H) * stride_b + (x % H) * stride_h + (start + j * C).to(tl.int64) * stride_t
        theta_place = x * stride_theta + start + j * C
        rec, work = record + (x * nc + j) * (C * WIDTH), scratch + (x * nc + j) * (C * SCRATCH)
        slot = x * (4 * D * E) + j * step
        here, d_here, d_there = states + slot, d_states + slot, d_states + slot + step
        k = load_tile(k_start + first, rows, cols, stride_t, left, D)
        theta1 = load_tokens(theta + theta_place, rows, left)
        theta2 = load_tokens(theta + theta_place + layer * stride_theta, rows, left)
        b1, f1, m1, G1, n1 = load_end(G, b, f, n, m, x * nc + j, rows, C, N_ROWS)
        b2, f2, m2, G2, n2 = load_end(G, b, f, n, m, (x + layer) * nc + j, rows, C, N_ROWS)
        # through the end of the chunk to the writes, and through the first layer's writes to the last layer's δ
        u2, from_W = tl.zeros((BC, BD), tl.float32), tl.zeros((BC, BD), tl.float32)
        from_P, d_theta1 = tl.zeros((BC, BD), tl.float32), tl.zeros((BC,), tl.float32)
        dG1, dn1 = tl.zeros((BC,), tl.float32), tl.zeros((BC,), tl.float32)
        for e in range(0, E, BE):
            units = e + tl.arange(0, BE)
            # loads before stores that might alias them, or they would wait
            z1, delta1 = load_tile(rec, rows, units, WIDTH, left, E), load_tile(rec + E, rows, units, WIDTH, left, E)
            dW1 = load_tile(d_there, cols, units, E, D, E)
            dP1 = load_tile(d_there + 2 * D * E, cols, units, E, D, E)
            ds1 = load_tile(work + 2 * E, rows, units, SCRATCH, left, E)
            W2 = load_tile(here + D * E, units, cols, D, E, D)
            dW2 = load_tile(d_there + D * E, units, cols, D, E, D)
            dP2 = load_tile(d_there + 3 * D * E, units, cols, D, E, D)
            dsigma, a2 = slope(z1, ACTIVATION), activate(z1, ACTIVATION)
            from_W = add_product(from_W, a2, dW2, k, PRECISION)
            from_P = add_product(from_P, a2, dP2, k, PRECISION)
            delta1 *= dsigma
            from_W1, from_P1 = product(k, dW1, k, PRECISION), product(k, dP1, k, PRECISION)
            dG1 -= theta1 * tl.sum(delta1 * from_W1, 1)
            dn1 -= theta1 * tl.sum(delta1 * from_P1, 1)
            ds1 -= G1[:, None] * from_W1 + n1[:, None] * from_P1
            d_theta1 += tl.sum(ds1 * delta1, 1)
            u1 = theta1[:, None] * ds1
            u2 = add_product(u2, u1 * dsigma, W2, k, PRECISION)
            store_tile(work + 2 * E, u1, rows, units, SCRATCH, left, E)
        delta = load_tile(rec + 2 * E + D, rows, cols, WIDTH, left, D)
        s2 = theta2[:, None] * delta
        ds2 = load_tile(work + 4 * E, rows, cols, SCRATCH, left, D)
        ds2 -= G2[:, None] * from_W + n2[:, None] * from_P
        dG2, dn2, d_theta2 = -tl.sum(s2 * from_W, 1), -tl.sum(s2 * from_P, 1), tl.sum(ds2 * delta, 1)
        if LAYERS == 1:
            dG1, dn1, d_theta1 = dG1 + dG2, dn1 + dn2, d_theta1 + d_theta2
        else:
            token2 = theta_place + layer * stride_theta
            store_end(dG_end, dn_end, d_theta, dG2, dn2, d_theta2, (x + layer) * nc + j, token2, rows, left, C)
        store_end(dG_end, dn_end, d_theta, dG1, dn1, d_theta1, x * nc + j, theta_place, rows, left, C)
        # through the gradient of the loss at the last layer, to the error
        u2 += theta2[:, None] * ds2
        dz2, d_error = 2 * u2, 2 * u2
        if NORM:
            z2 = load_tile(rec + 2 * E, rows, cols, WIDTH, left, D)
            v = load_tile(v_start + first, rows, cols, stride_t, left, D).to(tl.float32)
            dz2, d_error, d_gain, d_bias = layer_norm_vjp_backward(
                u2, delta, z2, k.to(tl.float32), v, gain_row, bias_row, cols, eps, D, RESIDUAL
            )
            added = slow + (j * N.to(tl.int64) + x) * (4 * D) + 2 * D + cols
            tl.store(added, d_gain, mask=cols < D)
            tl.store(added + D, d_bias, mask=cols < D)
        store_tile(dv_start + first, -d_error, rows, cols, stride_t, left, D)
        if RESIDUAL:
            dk = load_tile(work + 4 * E + 2 * D, rows, cols, SCRATCH, left, D)
            store_tile(work + 4 * E + 2 * D, dk + d_error, rows, cols, SCRATCH, left, D)
        # through the hidden units, to the state at the start of the chunk
        q = load_tile(q_start + first, rows, cols, stride_t, left, D)
        dx2 = load_tile(work + 4 * E + D, rows, cols, SCRATCH, left, D)
        read_b1, read_f1, _ = load_read(G, b, f, x * nc + j, rows, C, SHIFT)
        read_b2, read_f2, _ = load_read(G, b, f, (x + layer) * nc + j, rows, C, SHIFT)
        tl.debug_barrier()  # u1 is read again, by other threads; the rest is reloaded to save registers
        k = load_tile(k_start + first, rows, cols, stride_t, left, D)
        delta = load_tile(rec + 2 * E + D, rows, cols, WIDTH, left, D)
        s2 = narrow(load_tokens(theta + theta_place + layer * stride_theta, rows, left)[:, None] * delta, k)
        delta, dz2 = narrow(delta, k), narrow(dz2, k)
        for e in range(0, E, BE):
            units = e + tl.arange(0, BE)
            z1, u1 = load_tile(rec, rows, units, WIDTH, left, E), load_tile(work + 2 * E, rows, units, SCRATCH, left, E)
            da2 = load_tile(work + 3 * E, rows, units, SCRATCH, left, E)
            delta1 = load_tile(rec + E, rows, units, WIDTH, left, E)
            W2 = load_tile(here + D * E, units, cols, D, E, D)
            dW = load_tile(d_there + D * E, units, cols, D, E, D)
            dP = load_tile(d_there + 3 * D * E, units, cols, D, E, D)
            h, dx1 = load_tile(work, rows, units, SCRATCH, left, E), load_tile(work + E, rows, units, SCRATCH, left, E)
            dsigma, a2 = slope(z1, ACTIVATION), activate(z1, ACTIVATION)
            da2 = add_product(da2, dz2, tl.trans(W2), k, PRECISION)
            da2 -= G2[:, None] * product(s2, tl.trans(dW), k, PRECISION)
            da2 -= n2[:, None] * product(s2, tl.trans(dP), k, PRECISION)
            dz1 = second_derivative(z1, ACTIVATION) * delta1 * u1 + da2 * dsigma
            dP = add_product(m2 * dP + f2 * dW, tl.trans(h), read_f2[:, None] * dx2, k, PRECISION)
            dW = add_product(b2 * dW, tl.trans(h), read_b2[:, None] * dx2, k, PRECISION)
            dW = add_product(dW, tl.trans(u1 * dsigma), delta, k, PRECISION)
            dW = add_product(dW, tl.trans(a2), dz2, k, PRECISION)
            dW1 = load_tile(d_there, cols, units, E, D, E)
            dP1 = load_tile(d_there + 2 * D * E, cols, units, E, D, E)
            store_tile(d_here + D * E, dW, units, cols, D, E, D)
            store_tile(d_here + 3 * D * E, dP, units, cols, D, E, D)
            store_tile(work + 3 * E, dz1, rows, units, SCRATCH, left, E)
            dP1 = add_product(m1 * dP1 + f1 * dW1, tl.trans(q), read_f1[:, None] * dx1, k, PRECISION)
            dW1 = add_product(b1 * dW1, tl.trans(q), read_b1[:, None] * dx1, k, PRECISION)
            dW1 = add_product(dW1, tl.trans(k), dz1, k, PRECISION)
            store_tile(d_here, dW1, cols, units, E, D, E)
            store_tile(d_here + 2 * D * E, dP1, cols, units, E, D, E)
        tl.debug_barrier()  # the chunk before starts from the gradients just stored
