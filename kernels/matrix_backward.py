"""The matrix memory, backward: `gather` and `differentiate` are parallel over chunks, `retreat` carries the gradients back.

With dy the gradient at the answers, dM and dS those at the chunk's end, and everything else as in `matrix_forward`:
    P = (Q Kᵀ ∘ G)ᵀ dy                                                                               (gather)
    ds = −P − g ∘ (K dM) − n ∘ (K dS),  e = 2θ ∘ ds                                                  (retreat)
    dM_start = b dM + Qᵀ(b ∘ dy) + Wᵀ e,  dS_start = f dM + m dS + Qᵀ(f ∘ dy) [+ W₂ᵀ e]
The rest needs no neighbour: gradients at q, k, v, θ and at the coefficients                          (differentiate)
"""

import triton
import triton.language as tl

from titans_mini.kernels.tiles import load_mask, load_rows, load_share, load_state, mul, store_rows, store_state
from titans_mini.kernels.triangular import interact


@triton.jit
def gather(
    q, k, dy, G, P,
    T, nc, H, q_batch, q_head, q_token, theta_stride,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    SHIFT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gather what the answers of one chunk want of its writes."""
    c, i = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = i * nc + c
    r, d, v = tl.arange(0, BC), tl.arange(0, BD), tl.arange(0, BV)
    token = c * C + r
    there = (r < C) & (token < T)
    start = (i // H) * q_batch + (i % H) * q_head
    Q = load_rows(q + start, token, there, d, q_token, D)
    K = load_rows(k + start, token, there, d, q_token, D)
    A_T = mul(K, tl.trans(Q), PRECISION) * tl.trans(load_mask(G + at * C * C, r, r, C, SHIFT))
    A_T = A_T.to(Q.dtype)
    for first in range(0, D, BV):
        cols = first + v
        out = mul(A_T, load_rows(dy + start, token, there, cols, q_token, D), PRECISION)
        store_rows(P + at * C * D, out, r, r < C, cols, D, D)


@triton.jit
def retreat(
    q, k, dy, w, w2, theta, G, b, f, n, m, P, dM_end, dS_end, dM_last, ds, dM_chunks, dS_chunks, dM_start, dS_start,
    T, nc, H, q_batch, q_head, q_token, theta_stride, w_batch, w_head, w_token,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    ONLINE: tl.constexpr, SHIFT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Carry some columns of dM and dS back; leave ds, and both gradients at the end of every chunk."""
    i = tl.program_id(1).to(tl.int64)
    r, d = tl.arange(0, BC), tl.arange(0, BD)
    cols = tl.program_id(0) * BV + tl.arange(0, BV)
    start = (i // H) * q_batch + (i % H) * q_head
    w += (i // H) * w_batch + (i % H) * w_head
    w2 += (i // H) * w_batch + (i % H) * w_head
    dM = load_state(dM_end + i * D * D, d, cols, D).to(tl.float32)
    dS = load_state(dS_end + i * D * D, d, cols, D).to(tl.float32)
    for back in range(nc):
        c = nc - 1 - back
        at = i * nc + c
        token = c * C + r
        there = (r < C) & (token < T)
        store_state(dM_chunks + at * D * D, dM, d, cols, True, D)
        store_state(dS_chunks + at * D * D, dS, d, cols, True, D)
        K = load_rows(k + start, token, there, d, q_token, D)
        Q_T = tl.trans(load_rows(q + start, token, there, d, q_token, D))
        g_end = tl.load(G + (at * C + C - 1) * C + r, mask=r < C, other=0.0)[:, None]
        n_end = tl.load(n + (at * C + C - 1) * C + r, mask=r < C, other=0.0)[:, None]
        from_writes = g_end * mul(K, dM, PRECISION) + n_end * mul(K, dS, PRECISION)
        s_grad = -load_rows(P + at * C * D, r, r < C, cols, D, D).to(tl.float32) - from_writes
        store_rows(ds + at * C * D, s_grad, r, r < C, cols, D, D)
        e = 2.0 * tl.load(theta + i * theta_stride + token, mask=there, other=0.0)[:, None] * s_grad
        out = load_rows(dy + start, token, there, cols, q_token, D).to(tl.float32)
        b_t = load_share(b + at * C, r, 1.0, C, SHIFT)[:, None]
        f_t = load_share(f + at * C, r, 0.0, C, SHIFT)[:, None]
        b_end, f_end = tl.load(b + at * C + C - 1), tl.load(f + at * C + C - 1)
        m_end = tl.load(m + at * C + C - 1)
        dS = f_end * dM + m_end * dS + mul(Q_T, f_t * out, PRECISION)
        W = load_rows(w, token, there, d, w_token, D) if ONLINE else K
        dM = b_end * dM + mul(Q_T, b_t * out, PRECISION) + mul(tl.trans(W), e, PRECISION)
        if ONLINE:
            dS += mul(tl.trans(load_rows(w2, token, there, d, w_token, D)), e, PRECISION)
        if back == 0:  # the anchor of a begun chunk is what the memory was at its start
            dM += load_state(dM_last + i * D * D, d, cols, D).to(tl.float32)
    store_state(dM_start + i * D * D, dM, d, cols, True, D)
    store_state(dS_start + i * D * D, dS, d, cols, True, D)


@triton.jit
def meet(a, state, like, PRECISION: tl.constexpr):
    """Find a stateᵀ, and how much of it lies along `like`, row by row."""
    x = mul(a, tl.trans(state), PRECISION)
    return x, tl.sum(x * like, 1)


@triton.jit
def differentiate(
    q, k, dy, theta, G, b, f, n, inverse, E, ds, M_chunks, S_chunks, dM_chunks, dS_chunks,
    dq, dk, dv, d_theta, dG, db, df, dG_before, db_before, df_before, dG_end, dn_end, dbfm_end,
    T, nc, H, q_batch, q_head, q_token, theta_stride,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    ONLINE: tl.constexpr, SHIFT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Find all gradients of one chunk of one sequence, some columns after the others."""
    c, i = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = i * nc + c
    r, d = tl.arange(0, BC), tl.arange(0, BD)
    token, real = c * C + r, r < C
    there = real & (token < T)
    start = (i // H) * q_batch + (i % H) * q_head
    Q = load_rows(q + start, token, there, d, q_token, D)
    K = load_rows(k + start, token, there, d, q_token, D)
    step = 2.0 * tl.load(theta + i * theta_stride + token, mask=there, other=0.0)[:, None]
    b_read = load_share(b + at * C, r, 1.0, C, SHIFT)[:, None]
    f_read = load_share(f + at * C, r, 0.0, C, SHIFT)[:, None]
    g_end = tl.load(G + (at * C + C - 1) * C + r, mask=real, other=0.0)[:, None]
    n_end = tl.load(n + (at * C + C - 1) * C + r, mask=real, other=0.0)[:, None]
    dQ, dK = tl.zeros([BC, BD], tl.float32), tl.zeros([BC, BD], tl.float32)
    dA, dB = tl.zeros([BC, BC], tl.float32), tl.zeros([BC, BC], tl.float32)
    d_step, d_b, d_f = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32)
    d_g, d_n = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32)
    d_b1, d_f1 = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32)
    d_b_end, d_f_end, d_m_end = 0.0, 0.0, 0.0
    if ONLINE:
        G_1 = load_mask(G + at * C * C, r, r, C, 1)
        b_1 = load_share(b + at * C, r, 1.0, C, 1)[:, None]
        f_1 = load_share(f + at * C, r, 0.0, C, 1)[:, None]
        B_T = tl.trans(interact(K, G_1, r, PRECISION)).to(K.dtype)
        inverse_T = tl.trans(load_rows(inverse + at * C * C, r, real, r, C, C))
    for first in range(0, D, BV):
        cols = first + tl.arange(0, BV)
        out = load_rows(dy + start, token, there, cols, q_token, D)
        error = load_rows(E + at * C * D, r, real, cols, D, D).to(tl.float32)
        s_grad = load_rows(ds + at * C * D, r, real, cols, D, D).to(tl.float32)
        s = (step * error).to(K.dtype)
        wrong = step * s_grad  # the gradient at the errors, and then at what the memory guessed
        if ONLINE:
            wrong = mul(inverse_T, wrong, PRECISION)
            s_grad -= mul(B_T, wrong, PRECISION)
            dB -= mul(wrong.to(K.dtype), tl.trans(s), PRECISION)
        store_rows(dv + start, -wrong, token, there, cols, q_token, D)
        d_step += tl.sum(s_grad * error, 1)
        dA -= mul(out, tl.trans(s), PRECISION)
        wrong = wrong.to(K.dtype)
        M = load_state(M_chunks + at * D * D, d, cols, D)
        dM = load_state(dM_chunks + at * D * D, d, cols, D)
        d_b_end += tl.sum(M.to(tl.float32) * dM.to(tl.float32))
        x, along = meet(out, M, Q, PRECISION)
        dQ += b_read * x
        d_b += along
        x, along = meet(wrong, M, K, PRECISION)
        if ONLINE:
            d_b1 += along
            x *= b_1
        dK += x
        x, along = meet(s, dM, K, PRECISION)
        dK -= g_end * x
        d_g -= along
        S = load_state(S_chunks + at * D * D, d, cols, D)
        d_f_end += tl.sum(S.to(tl.float32) * dM.to(tl.float32))
        x, along = meet(out, S, Q, PRECISION)
        dQ += f_read * x
        d_f += along
        if ONLINE:
            x, along = meet(wrong, S, K, PRECISION)
            dK += f_1 * x
            d_f1 += along
        dS = load_state(dS_chunks + at * D * D, d, cols, D)
        d_m_end += tl.sum(S.to(tl.float32) * dS.to(tl.float32))
        x, along = meet(s, dS, K, PRECISION)
        dK -= n_end * x
        d_n -= along
    store_rows(dG + at * C * C, dA * mul(Q, tl.trans(K), PRECISION), r, real, r, C, C)
    dA = (dA * load_mask(G + at * C * C, r, r, C, SHIFT)).to(K.dtype)
    dQ += mul(dA, K, PRECISION)
    dK += mul(tl.trans(dA), Q, PRECISION)
    if ONLINE:
        dB = tl.where(r[:, None] > r[None, :], dB, 0.0)
        store_rows(dG_before + at * C * C, dB * mul(K, tl.trans(K), PRECISION), r, real, r, C, C)
        dB = dB * G_1
        dK += mul((dB + tl.trans(dB)).to(K.dtype), K, PRECISION)
        tl.store(db_before + at * C + r, d_b1, mask=real)
        tl.store(df_before + at * C + r, d_f1, mask=real)
    store_rows(dq + start, dQ, token, there, d, q_token, D)
    store_rows(dk + start, dK, token, there, d, q_token, D)
    tl.store(d_theta + i * theta_stride + token, 2.0 * d_step, mask=there)
    tl.store(db + at * C + r, d_b, mask=real)
    tl.store(df + at * C + r, d_f, mask=real)
    tl.store(dG_end + at * C + r, d_g, mask=real)
    tl.store(dn_end + at * C + r, d_n, mask=real)
    tl.store(dbfm_end + at * 3, d_b_end)
    tl.store(dbfm_end + at * 3 + 1, d_f_end)
    tl.store(dbfm_end + at * 3 + 2, d_m_end)
