"""Backward pass of the matrix memory: `retreat` carries the gradients of the states, all else is parallel over chunks.

With dy the gradient of the outputs, dM and dS those of the states at the chunk's end, the rest as in `matrix_forward`:
    P = (Q Kᵀ ∘ G)ᵀ dy                                                                       (gather)
    ds = −P − g ∘ (K dM) − n ∘ (K dS),  e = 2θ ∘ ds                                          (retreat)
    dM_start = b dM + Qᵀ(b ∘ dy) + Wᵀ e,  dS_start = f dM + m dS + Qᵀ(f ∘ dy) [+ W₂ᵀ e]
`gather` and `retreat` store their results transposed, for the reason given in `matrix_forward`.
The gradients of q, k, v, θ and the coefficients follow in kernels small enough for the registers of a program:
`pull_queries`, [`pull_systems` of the online rule,] `pull_keys`.
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
def gather(
    q, k, dy, G, P,
    T, nc, H, q_batch, q_head, q_token, theta_stride,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    SHIFT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute P for one chunk: minus the gradient of its writes s through its own reads."""
    c, i = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = i * nc + c
    r, d, v = tl.arange(0, BC), tl.arange(0, BD), tl.arange(0, BV)
    token = (at - i * nc) * C + r  # int64: times a stride it may pass 2³¹
    valid = (r < C) & (token < T)
    start = (i // H) * q_batch + (i % H) * q_head
    Q = load_rows(q + start, token, valid, d, q_token, D)
    K = load_rows(k + start, token, valid, d, q_token, D)
    A_T = mul(K, tl.trans(Q), PRECISION) * tl.trans(load_mask(G + at * C * C, r, r, C, SHIFT))
    A_T = A_T.to(Q.dtype)
    for first in range(0, D, BV):
        cols = first + v
        out = mul(A_T, load_rows(dy + start, token, valid, cols, q_token, D), PRECISION)
        store_rows(P + at * C * D, tl.trans(out), cols, cols < D, r, C, C)


@triton.jit
def retreat(
    q, k, dy, w, w2, theta, G, b, f, n, m, P, dM_end, dS_end, dM_last, ds, dM_chunks, dS_chunks, dM_start, dS_start,
    T, nc, H, q_batch, q_head, q_token, theta_stride, w_batch, w_head, w_token,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    ONLINE: tl.constexpr, SHIFT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Carry some columns of dM and dS backwards; store ds, and both gradients at the end of every chunk."""
    i = tl.program_id(1).to(tl.int64)
    r, d = tl.arange(0, BC), tl.arange(0, BD)
    cols = tl.program_id(0) * BV + tl.arange(0, BV)
    start = (i // H) * q_batch + (i % H) * q_head
    w += (i // H) * w_batch + (i % H) * w_head
    w2 += (i // H) * w_batch + (i % H) * w_head
    dM = tl.trans(load_state(dM_end + i * D * D, d, cols, D).to(tl.float32))
    dS = tl.trans(load_state(dS_end + i * D * D, d, cols, D).to(tl.float32))
    at = i * nc + nc - 1
    token = (at - i * nc) * C + r  # int64 even if nc is 1, which Triton turns into a constant
    p = load_rows(P + at * C * D, cols, cols < D, r, C, C)
    out = load_rows(dy + start, token, (r < C) & (token < T), cols, q_token, D)
    step, g_end, n_end, b_end, f_end, m_end = load_end(theta, G, b, f, n, m, i, nc - 1, nc, T, r, theta_stride, C, C)
    b_t = load_share(b + at * C, r, 1.0, C, SHIFT)[None, :]
    f_t = load_share(f + at * C, r, 0.0, C, SHIFT)[None, :]
    for back in range(nc):
        c = nc - 1 - back
        at, above = i * nc + c, i * nc + tl.maximum(c - 1, 0)  # the indices of this chunk and of the one before it
        token = (at - i * nc) * C + r  # int64: times a stride it may pass 2³¹
        valid = (r < C) & (token < T)
        p_next = load_rows(P + above * C * D, cols, cols < D, r, C, C)
        out_next = load_rows(dy + start, token - C, (r < C) & (c > 0), cols, q_token, D)
        b_next = load_share(b + above * C, r, 1.0, C, SHIFT)[None, :]
        f_next = load_share(f + above * C, r, 0.0, C, SHIFT)[None, :]
        after = load_end(theta, G, b, f, n, m, i, c - 1, nc, T, r, theta_stride, C, C)
        store_state(dM_chunks + at * D * D, dM, cols, d, True, D)
        store_state(dS_chunks + at * D * D, dS, cols, d, True, D)
        K = load_rows(k + start, token, valid, d, q_token, D)
        Q = load_rows(q + start, token, valid, d, q_token, D)
        K_T = tl.trans(K)
        from_writes = g_end * mul(dM.to(K.dtype), K_T, PRECISION) + n_end * mul(dS.to(K.dtype), K_T, PRECISION)
        s_grad = -p.to(tl.float32) - from_writes
        store_rows(ds + at * C * D, s_grad, cols, cols < D, r, C, C)
        e, out = (step * s_grad).to(K.dtype), tl.trans(out).to(tl.float32)
        dS = add_mul(f_end * dM + m_end * dS, (f_t * out).to(K.dtype), Q, PRECISION)
        dM = add_mul(b_end * dM, (b_t * out).to(K.dtype), Q, PRECISION)
        W = load_rows(w, token, valid, d, w_token, D) if ONLINE else K
        dM = add_mul(dM, e, W, PRECISION)
        if ONLINE:
            dS = add_mul(dS, e, load_rows(w2, token, valid, d, w_token, D), PRECISION)
        if back == 0:  # the anchor of an unfinished chunk is the memory at its start
            dM += tl.trans(load_state(dM_last + i * D * D, d, cols, D).to(tl.float32))
        p, out, b_t, f_t = p_next, out_next, b_next, f_next
        step, g_end, n_end, b_end, f_end, m_end = after
    store_state(dM_start + i * D * D, tl.trans(dM), d, cols, True, D)
    store_state(dS_start + i * D * D, tl.trans(dS), d, cols, True, D)


@triton.jit
def meet(a, state, like, PRECISION: tl.constexpr):
    """Compute x = a stateᵀ, and its product with `like` summed over each row."""
    x = mul(a, tl.trans(state), PRECISION)
    return x, tl.sum(x * like, 1)


@triton.jit
def pull_queries(
    q, k, dy, theta, G, b, f, E, M_chunks, S_chunks, dq, scores_grad, dG, db, df,
    T, nc, H, q_batch, q_head, q_token, theta_stride,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    SHIFT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Backpropagate through y = b ∘ (Q M) + f ∘ (Q S) − (Q Kᵀ ∘ G) s to Q, the scores Q Kᵀ, G, b and f."""
    c, i = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = i * nc + c
    r, d = tl.arange(0, BC), tl.arange(0, BD)
    token, real = (at - i * nc) * C + r, r < C
    valid = real & (token < T)
    start = (i // H) * q_batch + (i % H) * q_head
    Q = load_rows(q + start, token, valid, d, q_token, D)
    step = 2.0 * tl.load(theta + i * theta_stride + token, mask=valid, other=0.0)[:, None]
    b_read = load_share(b + at * C, r, 1.0, C, SHIFT)[:, None]
    f_read = load_share(f + at * C, r, 0.0, C, SHIFT)[:, None]
    dQ, dA = tl.zeros([BC, BD], tl.float32), tl.zeros([BC, BC], tl.float32)
    d_b, d_f = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32)
    for first in range(0, D, BV):
        cols = first + tl.arange(0, BV)
        out = load_rows(dy + start, token, valid, cols, q_token, D)
        s = step * load_turned(E + at * C * D, r, cols, C, D).to(tl.float32)
        dA -= mul(out, tl.trans(s.to(out.dtype)), PRECISION)
        x, along = meet(out, load_turned(M_chunks + at * D * D, d, cols, D, D), Q, PRECISION)
        dQ += b_read * x
        d_b += along
        x, along = meet(out, load_turned(S_chunks + at * D * D, d, cols, D, D), Q, PRECISION)
        dQ += f_read * x
        d_f += along
    K = load_rows(k + start, token, valid, d, q_token, D)
    store_rows(dG + at * C * C, dA * mul(Q, tl.trans(K), PRECISION), r, real, r, C, C)
    dA = (dA * load_mask(G + at * C * C, r, r, C, SHIFT)).to(K.dtype)
    store_rows(scores_grad + at * C * C, dA, r, real, r, C, C)
    store_rows(dq + start, dQ + mul(dA, K, PRECISION), token, valid, d, q_token, D)
    tl.store(db + at * C + r, d_b, mask=real)
    tl.store(df + at * C + r, d_f, mask=real)


@triton.jit
def pull_systems(
    k, theta, G, inverse, E, ds, dv, d_theta, keys_grad, dG_before,
    T, nc, H, k_batch, k_head, k_token, theta_stride,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Backpropagate through the systems of the online rule to their right side (−dv), θ, K Kᵀ and G₋."""
    c, i = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = i * nc + c
    r, d = tl.arange(0, BC), tl.arange(0, BD)
    token, real = (at - i * nc) * C + r, r < C
    valid = real & (token < T)
    start = (i // H) * k_batch + (i % H) * k_head
    K = load_rows(k + start, token, valid, d, k_token, D)
    scores = mul(K, tl.trans(K), PRECISION)
    G_before = load_mask(G + at * C * C, r, r, C, 1)
    later = r[:, None] > r[None, :]
    B_T = tl.trans(tl.where(later, scores * G_before, 0.0)).to(K.dtype)
    inverse_T = tl.trans(load_rows(inverse + at * C * C, r, real, r, C, C))
    step = 2.0 * tl.load(theta + i * theta_stride + token, mask=valid, other=0.0)[:, None]
    dB, d_step = tl.zeros([BC, BC], tl.float32), tl.zeros([BC], tl.float32)
    for first in range(0, D, BV):
        cols = first + tl.arange(0, BV)
        error = load_turned(E + at * C * D, r, cols, C, D).to(tl.float32)
        s_grad = load_turned(ds + at * C * D, r, cols, C, D).to(tl.float32)
        rhs_grad = mul(inverse_T, step * s_grad, PRECISION).to(K.dtype)
        s_grad -= mul(B_T, rhs_grad, PRECISION)
        dB -= mul(rhs_grad, tl.trans((step * error).to(K.dtype)), PRECISION)
        d_step += tl.sum(s_grad * error, 1)
        store_rows(dv + start, -rhs_grad, token, valid, cols, k_token, D)
    dB = tl.where(later, dB, 0.0)
    store_rows(dG_before + at * C * C, dB * scores, r, real, r, C, C)
    dB *= G_before
    store_rows(keys_grad + at * C * C, dB + tl.trans(dB), r, real, r, C, C)
    tl.store(d_theta + i * theta_stride + token, 2.0 * d_step, mask=valid)


@triton.jit
def pull_keys(
    q, k, theta, G, b, f, n, E, ds, M_chunks, S_chunks, dM_chunks, dS_chunks, scores_grad, keys_grad,
    dk, dv, d_theta, b_before, f_before, dG_end, dn_end, dbfm_end,
    T, nc, H, q_batch, q_head, q_token, theta_stride,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    ONLINE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Backpropagate through a chunk's writes and the outputs at its keys to k, v, θ and the last coefficients."""
    c, i = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = i * nc + c
    r, d = tl.arange(0, BC), tl.arange(0, BD)
    token, real = (at - i * nc) * C + r, r < C
    valid = real & (token < T)
    start = (i // H) * q_batch + (i % H) * q_head
    K = load_rows(k + start, token, valid, d, q_token, D)
    step = 2.0 * tl.load(theta + i * theta_stride + token, mask=valid, other=0.0)[:, None]
    g_end = tl.load(G + (at * C + C - 1) * C + r, mask=real, other=0.0)[:, None]
    n_end = tl.load(n + (at * C + C - 1) * C + r, mask=real, other=0.0)[:, None]
    dK, d_step = tl.zeros([BC, BD], tl.float32), tl.zeros([BC], tl.float32)
    d_g, d_n = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32)
    d_b, d_f = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32)
    b_end, f_end, m_end = 0.0, 0.0, 0.0
    for first in range(0, D, BV):
        cols = first + tl.arange(0, BV)
        error = load_turned(E + at * C * D, r, cols, C, D).to(tl.float32)
        if ONLINE:  # `pull_systems` has computed it
            rhs_grad = -load_rows(dv + start, token, valid, cols, q_token, D)
        else:
            s_grad = load_turned(ds + at * C * D, r, cols, C, D).to(tl.float32)
            d_step += tl.sum(s_grad * error, 1)
            rhs_grad = (step * s_grad).to(K.dtype)
            store_rows(dv + start, -rhs_grad, token, valid, cols, q_token, D)
        s = (step * error).to(K.dtype)
        M = load_turned(M_chunks + at * D * D, d, cols, D, D)
        dM = load_turned(dM_chunks + at * D * D, d, cols, D, D)
        b_end += tl.sum(M.to(tl.float32) * dM.to(tl.float32))
        x, along = meet(rhs_grad, M, K, PRECISION)
        if ONLINE:
            d_b += along
            x *= load_share(b + at * C, r, 1.0, C, 1)[:, None]
        dK += x
        x, along = meet(s, dM, K, PRECISION)
        dK -= g_end * x
        d_g -= along
        S = load_turned(S_chunks + at * D * D, d, cols, D, D)
        dS = load_turned(dS_chunks + at * D * D, d, cols, D, D)
        f_end += tl.sum(S.to(tl.float32) * dM.to(tl.float32))
        m_end += tl.sum(S.to(tl.float32) * dS.to(tl.float32))
        if ONLINE:
            x, along = meet(rhs_grad, S, K, PRECISION)
            d_f += along
            dK += load_share(f + at * C, r, 0.0, C, 1)[:, None] * x
        x, along = meet(s, dS, K, PRECISION)
        dK -= n_end * x
        d_n -= along
    Q = load_rows(q + start, token, valid, d, q_token, D)
    dK += mul(tl.trans(load_rows(scores_grad + at * C * C, r, real, r, C, C)), Q, PRECISION)
    if ONLINE:
        dK += mul(load_rows(keys_grad + at * C * C, r, real, r, C, C), K, PRECISION)
        tl.store(b_before + at * C + r, d_b, mask=real)
        tl.store(f_before + at * C + r, d_f, mask=real)
    else:
        tl.store(d_theta + i * theta_stride + token, 2.0 * d_step, mask=valid)
    store_rows(dk + start, dK, token, valid, d, q_token, D)
    tl.store(dG_end + at * C + r, d_g, mask=real)
    tl.store(dn_end + at * C + r, d_n, mask=real)
    tl.store(dbfm_end + at * 3, b_end)
    tl.store(dbfm_end + at * 3 + 1, f_end)
    tl.store(dbfm_end + at * 3 + 2, m_end)
