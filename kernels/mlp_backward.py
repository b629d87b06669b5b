"""Backward pass of a two-layer memory: first the reads of all chunks, last their keys; in between runs `mlp_chain`.

As in the forward pass, only one kernel is sequential: the gradient of a state needs the gradient of the next one.
`mlp_answers_backward` and `mlp_hidden_backward` backpropagate through the reads, to the queries and to the writes; they
are two kernels, because one would need too many registers. `mlp_chain_backward` carries the gradients of memory and
momentum from the last chunk to the first, through the second derivative of the loss. `mlp_keys_backward` needs the
gradients at both ends of a chunk and is parallel again. `titans_mini.memory.chunk` does the same on whole matrices,
with the derivative of every function next to it.

Memory layout, besides that of `mlp_forward`; gradients are float32 in the layout of their variables:
  d_states    like states; slot nc holds the gradients at the span's end when `mlp_chain_backward` starts
  dG, db, df  gradients of the rows used by reads; dG_end, dn_end (X, nc, C) and dbfm_end (X, nc, 3) of the last rows
  scratch     (N, nc·C, 4E + 3D) per token: h, its hidden units at the query, and dx1, their gradient before σ; ds1,
              after the chain the gradient of δ1; da2, after the chain dz1 (E each); ds2, dx2 and dk (D each)
  slow        (nc, N, 4, D): one chunk's gradients of gain and bias, through its reads and then through its writes
"""

from __future__ import annotations

import triton
import triton.language as tl

from titans_mini.kernels.mlp_forward import RUNTIME, read_hidden
from titans_mini.kernels.mlp_tiles import (
    activate,
    add_product,
    layer_norm_vjp,
    load_end,
    load_read,
    load_slow,
    load_tile,
    load_tokens,
    narrow,
    product,
    slope,
    store_tile,
)


@triton.jit(do_not_specialize=RUNTIME)
def mlp_answers_backward(
    q_start, k_start, dy_start, theta, G, b, f, gain, states, record, dG_start, scratch, slow,
    N, H, T, nc, start, stride_b, stride_h, stride_t, stride_theta, eps,
    C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, LAYERS: tl.constexpr, SHIFT: tl.constexpr,
    ACTIVATION: tl.constexpr, NORM: tl.constexpr, PRECISION: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Recompute the reads up to the last layer's output; backpropagate through the norm and that layer's writes."""
    j, x = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows, cols = tl.arange(0, BC), tl.arange(0, BD)
    layer = (LAYERS - 1) * N
    WIDTH: tl.constexpr = 2 * E + 2 * D
    SCRATCH: tl.constexpr = 4 * E + 3 * D
    left = tl.minimum(C, T - start - j * C)
    first = (x // H) * stride_b + (x % H) * stride_h + (start + j * C).to(tl.int64) * stride_t
    theta_start = theta + x * stride_theta + start + j * C
    rec, work = record + (x * nc + j) * (C * WIDTH), scratch + (x * nc + j) * (C * SCRATCH)
    here = states + (j * N.to(tl.int64) + x) * (4 * D * E)
    q = load_tile(q_start + first, rows, cols, stride_t, left, D)
    k = load_tile(k_start + first, rows, cols, stride_t, left, D)
    theta1 = load_tokens(theta_start, rows, left)
    b1, f1, G1 = load_read(G, b, f, x * nc + j, rows, C, SHIFT)
    scores1 = narrow(product(q, tl.trans(k), k, PRECISION) * -G1, k)
    b2, f2, G2 = load_read(G, b, f, (x + layer) * nc + j, rows, C, SHIFT)
    x2, raw2 = tl.zeros((BC, BD), tl.float32), tl.zeros((BC, BC), tl.float32)
    for e in range(0, E, BE):
        units = e + tl.arange(0, BE)
        x1, a2 = read_hidden(
            q, k, scores1, theta1, b1, f1, here, rec, rows, cols, units, left, D, E, ACTIVATION, PRECISION
        )
        store_tile(work, x1, rows, units, SCRATCH, left, E)
        h = activate(x1, ACTIVATION)
        raw2 = add_product(raw2, h, tl.trans(a2), k, PRECISION)
        if NORM:
            x2 = add_product(x2, b2[:, None] * h, load_tile(here + D * E, units, cols, D, E, D), k, PRECISION)
            x2 = add_product(x2, f2[:, None] * h, load_tile(here + 3 * D * E, units, cols, D, E, D), k, PRECISION)
    scores2 = narrow(raw2 * -G2, k)
    s2 = load_tile(rec + 2 * E + D, rows, cols, WIDTH, left, D)
    s2 *= load_tokens(theta_start + layer * stride_theta, rows, left)[:, None]
    dx2 = load_tile(dy_start + first, rows, cols, stride_t, left, D).to(tl.float32)
    if NORM:
        x2 = add_product(x2, scores2, s2, k, PRECISION)
        gain_row, _ = load_slow(gain, gain, cols, D, NORM)
        dx2, d_gain, d_bias = layer_norm_vjp(dx2, x2, gain_row, cols, eps, D)
        added = slow + (j * N.to(tl.int64) + x) * (4 * D) + cols
        tl.store(added, d_gain, mask=cols < D)
        tl.store(added + D, d_bias, mask=cols < D)
    store_tile(work + 4 * E + D, dx2, rows, cols, SCRATCH, left, D)
    ds2 = product(tl.trans(scores2), dx2, k, PRECISION)
    store_tile(work + 4 * E, ds2, rows, cols, SCRATCH, left, D)
    dG2 = -raw2 * product(dx2, tl.trans(s2), k, PRECISION)
    store_tile(dG_start + ((x + layer) * nc + j) * C * C, dG2, rows, rows, C, C, C)


@triton.jit(do_not_specialize=RUNTIME)
def mlp_hidden_backward(
    q_start, k_start, dy_start, theta, G, b, f, states, record, dq_start, dG_start, db_start, df_start, scratch,
    N, H, T, nc, start, stride_b, stride_h, stride_t, stride_theta,
    C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, LAYERS: tl.constexpr, SHIFT: tl.constexpr,
    ACTIVATION: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Backpropagate through the hidden units to one chunk's queries and to the writes of the first layer."""
    j, x = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows, cols = tl.arange(0, BC), tl.arange(0, BD)
    layer = (LAYERS - 1) * N
    WIDTH: tl.constexpr = 2 * E + 2 * D
    SCRATCH: tl.constexpr = 4 * E + 3 * D
    left = tl.minimum(C, T - start - j * C)
    first = (x // H) * stride_b + (x % H) * stride_h + (start + j * C).to(tl.int64) * stride_t
    theta_start = theta + x * stride_theta + start + j * C
    rec, work = record + (x * nc + j) * (C * WIDTH), scratch + (x * nc + j) * (C * SCRATCH)
    here = states + (j * N.to(tl.int64) + x) * (4 * D * E)
    q = load_tile(q_start + first, rows, cols, stride_t, left, D)
    k = load_tile(k_start + first, rows, cols, stride_t, left, D)
    _, _, G1 = load_read(G, b, f, x * nc + j, rows, C, SHIFT)
    scores1 = narrow(product(q, tl.trans(k), k, PRECISION) * -G1, k)
    b2, f2, G2 = load_read(G, b, f, (x + layer) * nc + j, rows, C, SHIFT)
    dx2 = narrow(load_tile(work + 4 * E + D, rows, cols, SCRATCH, left, D), k)
    s2 = load_tile(rec + 2 * E + D, rows, cols, WIDTH, left, D)
    s2 *= load_tokens(theta_start + layer * stride_theta, rows, left)[:, None]
    d_scores2 = narrow(product(dx2, tl.trans(s2), k, PRECISION) * -G2, k)
    theta1 = load_tokens(theta_start, rows, left)
    db2, df2, from_s1 = tl.zeros((BC,), tl.float32), tl.zeros((BC,), tl.float32), tl.zeros((BC, BC), tl.float32)
    from_W1, from_P1 = tl.zeros((BC, BD), tl.float32), tl.zeros((BC, BD), tl.float32)
    for e in range(0, E, BE):
        units = e + tl.arange(0, BE)
        x1, z1 = load_tile(work, rows, units, SCRATCH, left, E), load_tile(rec, rows, units, WIDTH, left, E)
        h, a2 = activate(x1, ACTIVATION), activate(z1, ACTIVATION)
        from_W2 = product(dx2, tl.trans(load_tile(here + D * E, units, cols, D, E, D)), k, PRECISION)
        from_P2 = product(dx2, tl.trans(load_tile(here + 3 * D * E, units, cols, D, E, D)), k, PRECISION)
        db2 += tl.sum(from_W2 * h, 1)
        df2 += tl.sum(from_P2 * h, 1)
        dh = add_product(b2[:, None] * from_W2 + f2[:, None] * from_P2, d_scores2, a2, k, PRECISION)
        dx1 = dh * slope(x1, ACTIVATION)
        da2, ds1 = product(tl.trans(d_scores2), h, k, PRECISION), product(tl.trans(scores1), dx1, k, PRECISION)
        store_tile(work, h, rows, units, SCRATCH, left, E)
        store_tile(work + E, dx1, rows, units, SCRATCH, left, E)
        store_tile(work + 2 * E, ds1, rows, units, SCRATCH, left, E)
        store_tile(work + 3 * E, da2, rows, units, SCRATCH, left, E)
        s1 = theta1[:, None] * load_tile(rec + E, rows, units, WIDTH, left, E) * slope(z1, ACTIVATION)
        W1, P1 = load_tile(here, cols, units, E, D, E), load_tile(here + 2 * D * E, cols, units, E, D, E)
        from_s1 = add_product(from_s1, dx1, tl.trans(s1), k, PRECISION)
        from_W1 = add_product(from_W1, dx1, tl.trans(W1), k, PRECISION)
        from_P1 = add_product(from_P1, dx1, tl.trans(P1), k, PRECISION)
    # to the queries, the keys and the gates; reloaded to save registers
    q = load_tile(q_start + first, rows, cols, stride_t, left, D)
    k = load_tile(k_start + first, rows, cols, stride_t, left, D)
    b1, f1, G1 = load_read(G, b, f, x * nc + j, rows, C, SHIFT)
    dG1 = -from_s1 * product(q, tl.trans(k), k, PRECISION)
    d_scores1 = narrow(from_s1 * -G1, k)
    dq = add_product(b1[:, None] * from_W1 + f1[:, None] * from_P1, d_scores1, k, k, PRECISION)
    if RESIDUAL:
        dq += load_tile(dy_start + first, rows, cols, stride_t, left, D)
    store_tile(dq_start + first, dq, rows, cols, stride_t, left, D)
    dk = product(tl.trans(d_scores1), q, k, PRECISION)
    store_tile(work + 4 * E + 2 * D, dk, rows, cols, SCRATCH, left, D)
    place, place2 = (x * nc + j) * C, ((x + layer) * nc + j) * C
    db1, df1 = tl.sum(from_W1 * q.to(tl.float32), 1), tl.sum(from_P1 * q.to(tl.float32), 1)
    if LAYERS == 1:  # one set of gates for both layers; the second layer's dG is stored already
        db1, df1, dG1 = db1 + db2, df1 + df2, dG1 + load_tile(dG_start + place * C, rows, rows, C, C, C)
    else:
        tl.store(db_start + place2 + rows, db2, mask=rows < C)
        tl.store(df_start + place2 + rows, df2, mask=rows < C)
    tl.store(db_start + place + rows, db1, mask=rows < C)
    tl.store(df_start + place + rows, df1, mask=rows < C)
    store_tile(dG_start + place * C, dG1, rows, rows, C, C, C)


@triton.jit
def inner_products(W, P, dW, dP):
    """Compute ⟨dW, W⟩, ⟨dW, P⟩ and ⟨dP, P⟩: the gradients of the last b, f and m."""
    return tl.sum(dW * W), tl.sum(dW * P), tl.sum(dP * P)


@triton.jit(do_not_specialize=RUNTIME)
def mlp_keys_backward(
    k_start, theta, G, b, f, n, m, states, record, dk_start, dbfm_end, d_states, scratch,
    N, H, T, nc, start, stride_b, stride_h, stride_t, stride_theta,
    C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, LAYERS: tl.constexpr, N_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Finish the gradients of one chunk's keys and of its last b, f and m."""
    j, x = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows, cols = tl.arange(0, BC), tl.arange(0, BD)
    WIDTH: tl.constexpr = 2 * E + 2 * D
    SCRATCH: tl.constexpr = 4 * E + 3 * D
    left = tl.minimum(C, T - start - j * C)
    first = (x // H) * stride_b + (x % H) * stride_h + (start + j * C).to(tl.int64) * stride_t
    rec, work = record + (x * nc + j) * (C * WIDTH), scratch + (x * nc + j) * (C * SCRATCH)
    slot, step = (j * N.to(tl.int64) + x) * (4 * D * E), N.to(tl.int64) * (4 * D * E)
    here, d_there = states + slot, d_states + slot + step
    like = tl.load(k_start + first)  # for its dtype
    theta1 = load_tokens(theta + x * stride_theta + start + j * C, rows, left)
    _, _, _, G1, n1 = load_end(G, b, f, n, m, x * nc + j, rows, C, N_ROWS)
    dk = load_tile(work + 4 * E + 2 * D, rows, cols, SCRATCH, left, D)
    first_layer, second_layer = dbfm_end + (x * nc + j) * 3, dbfm_end + ((x + (LAYERS - 1) * N) * nc + j) * 3
    db1, df1, dm1, db2, df2, dm2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for e in range(0, E, BE):
        units = e + tl.arange(0, BE)
        s1 = load_tile(rec + E, rows, units, WIDTH, left, E)
        s1 *= theta1[:, None] * slope(load_tile(rec, rows, units, WIDTH, left, E), ACTIVATION)
        dz1 = load_tile(work + 3 * E, rows, units, SCRATCH, left, E)
        W, P = load_tile(here, cols, units, E, D, E), load_tile(here + 2 * D * E, cols, units, E, D, E)
        dW, dP = load_tile(d_there, cols, units, E, D, E), load_tile(d_there + 2 * D * E, cols, units, E, D, E)
        dk = add_product(dk, dz1, tl.trans(W), like, PRECISION)
        dk -= G1[:, None] * product(s1, tl.trans(dW), like, PRECISION)
        dk -= n1[:, None] * product(s1, tl.trans(dP), like, PRECISION)
        db, df, dm = inner_products(W, P, dW, dP)
        db1, df1, dm1 = db1 + db, df1 + df, dm1 + dm
        W, P = load_tile(here + D * E, units, cols, D, E, D), load_tile(here + 3 * D * E, units, cols, D, E, D)
        dW, dP = load_tile(d_there + D * E, units, cols, D, E, D), load_tile(d_there + 3 * D * E, units, cols, D, E, D)
        db, df, dm = inner_products(W, P, dW, dP)
        db2, df2, dm2 = db2 + db, df2 + df, dm2 + dm
    store_tile(dk_start + first, dk, rows, cols, stride_t, left, D)
    if LAYERS == 1:
        db1, df1, dm1 = db1 + db2, df1 + df2, dm1 + dm2
    else:
        tl.store(second_layer, db2)
        tl.store(second_layer + 1, df2)
        tl.store(second_layer + 2, dm2)
    tl.store(first_layer, db1)
    tl.store(first_layer + 1, df1)
    tl.store(first_layer + 2, dm1)
