"""Forward pass of the matrix memory: `advance` carries the states from chunk to chunk, `read` is parallel over chunks.

With (M, S) at a chunk's start, K and V its keys and values, and g, n the last rows of its coefficients:
    E = K M − V,  s = 2θ ∘ E,    M_next = b M + f S − Kᵀ(g ∘ s),  S_next = m S − Kᵀ(n ∘ s)          (advance)
    y = b ∘ (Q M) + f ∘ (Q S) − (Q Kᵀ ∘ G) s                                                         (read)
The exact online rule replaces E by W M + W₂ S − U, from `triangular`.

The columns of M and S are independent: several programs share a sequence, with 16 columns each. A program holds them as
rows, and stores E and the states transposed: the product Mᵀ Kᵀ then leaves the matrix units in the layout of the next
product's left operand, and no conversion is needed between chunks.
"""

import triton
import triton.language as tl

from titans_mini.kernels.tiles import (
    add_mul,
    load_end,
    load_mask,
    load_rows,
    load_share,
    load_state,
    load_turned,
    mul,
    store_rows,
    store_state,
)


@triton.jit
def advance(
    k, w, w2, u, theta, G, b, f, n, m, M_start, S_start, E, M_chunks, S_chunks, M_end, S_end, M_last,
    T, nc, H, k_batch, k_head, k_token, theta_stride, w_batch, w_head, w_token, n_rows,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    ONLINE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Carry some columns of M and S through a sequence; store E, and both states at the start of every chunk."""
    i = tl.program_id(1).to(tl.int64)
    r, d = tl.arange(0, BC), tl.arange(0, BD)
    cols = tl.program_id(0) * BV + tl.arange(0, BV)
    k += (i // H) * k_batch + (i % H) * k_head
    w += (i // H) * w_batch + (i % H) * w_head
    u += (i // H) * w_batch + (i % H) * w_head
    w2 += (i // H) * w_batch + (i % H) * w_head
    M = tl.trans(load_state(M_start + i * D * D, d, cols, D).to(tl.float32))
    S = tl.trans(load_state(S_start + i * D * D, d, cols, D).to(tl.float32))
    V = load_rows(u, r, (r < C) & (r < T), cols, w_token, D)
    step, g_end, n_end, b_end, f_end, m_end = load_end(theta, G, b, f, n, m, i, 0, nc, T, r, theta_stride, n_rows, C)
    for c in range(nc):
        at = i * nc + c  # the chunk's index over all sequences
        token = (at - i * nc) * C + r  # int64: times a stride it may pass 2³¹
        valid = (r < C) & (token < T)
        V_next = load_rows(u, token + C, (r < C) & (token + C < T), cols, w_token, D)
        after = load_end(theta, G, b, f, n, m, i, c + 1, nc, T, r, theta_stride, n_rows, C)
        store_state(M_chunks + at * D * D, M, cols, d, True, D)
        store_state(S_chunks + at * D * D, S, cols, d, True, D)
        if c == nc - 1:
            store_state(M_last + i * D * D, tl.trans(M), d, cols, True, D)
        K = load_rows(k, token, valid, d, k_token, D)
        W = load_rows(w, token, valid, d, w_token, D) if ONLINE else K
        e = add_mul(-tl.trans(V).to(tl.float32), M.to(W.dtype), tl.trans(W), PRECISION)
        if ONLINE:
            W2 = load_rows(w2, token, valid, d, w_token, D)
            e = add_mul(e, S.to(W.dtype), tl.trans(W2), PRECISION)
        store_rows(E + at * C * D, e, cols, cols < D, r, C, C)
        s = -step * e
        M = add_mul(b_end * M + f_end * S, (g_end * s).to(K.dtype), K, PRECISION)
        S = add_mul(m_end * S, (n_end * s).to(K.dtype), K, PRECISION)
        V = V_next
        step, g_end, n_end, b_end, f_end, m_end = after
    store_state(M_end + i * D * D, tl.trans(M), d, cols, True, D)
    store_state(S_end + i * D * D, tl.trans(S), d, cols, True, D)


@triton.jit
def read(
    q, k, theta, G, b, f, E, M_chunks, S_chunks, y,
    T, nc, H, q_batch, q_head, q_token, theta_stride,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    SHIFT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the outputs of one chunk of one sequence."""
    c, i = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = i * nc + c
    r, d, v = tl.arange(0, BC), tl.arange(0, BD), tl.arange(0, BV)
    token = (at - i * nc) * C + r  # int64: times a stride it may pass 2³¹
    valid = (r < C) & (token < T)
    start = (i // H) * q_batch + (i % H) * q_head
    Q = load_rows(q + start, token, valid, d, q_token, D)
    K = load_rows(k + start, token, valid, d, q_token, D)
    A = mul(Q, tl.trans(K), PRECISION) * load_mask(G + at * C * C, r, r, C, SHIFT)
    A = A.to(Q.dtype)
    b_t = load_share(b + at * C, r, 1.0, C, SHIFT)[:, None]
    f_t = load_share(f + at * C, r, 0.0, C, SHIFT)[:, None]
    step = 2.0 * tl.load(theta + i * theta_stride + token, mask=valid, other=0.0)[:, None]
    for first in range(0, D, BV):
        cols = first + v
        s = step * load_turned(E + at * C * D, r, cols, C, D).to(tl.float32)
        out = b_t * mul(Q, load_turned(M_chunks + at * D * D, d, cols, D, D), PRECISION)
        out += f_t * mul(Q, load_turned(S_chunks + at * D * D, d, cols, D, D), PRECISION)
        out -= mul(A, s, PRECISION)
        store_rows(y + start, out, token, valid, cols, q_token, D)
