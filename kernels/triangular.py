"""The exact online rule of a matrix memory: every chunk's triangular system, solved before the sequential pass.

The error of a token depends on the writes before it in its chunk. With B = tril₋₁(K Kᵀ ∘ G₋), where b₋, f₋, G₋
are the rows one token earlier, and errors E with writes s = 2θ ∘ E:
    (I + B diag(2θ)) E = b₋ ∘ (K M) + f₋ ∘ (K S) − V
So with T the inverse, E = W M + W₂ S − U for W = T(b₋ ∘ K), W₂ = T(f₋ ∘ K), U = T V, none of which needs a state.
"""

import triton
import triton.language as tl

from titans_mini.kernels.tiles import load_mask, load_rows, load_share, mul, store_rows


@triton.jit
def interact(K, G_before, r, PRECISION: tl.constexpr):
    """Compute B, the effect of each write on the outputs at later keys of the chunk."""
    return tl.where(r[:, None] > r[None, :], mul(K, tl.trans(K), PRECISION) * G_before, 0.0)


@triton.jit
def invert(L, r, BC: tl.constexpr, PRECISION: tl.constexpr):
    """Invert I + L for a strictly lower triangular L by forward substitution in blocks of 16.

    Inside the diagonal blocks it goes row by row, in all blocks at once. Between blocks (I + N) Y = I with N = X O,
    where X inverts the diagonal blocks and O is the part below them: each step Y = I − N Y fixes one more block row.
    """
    N: tl.constexpr = BC // 16
    same = (r // 16)[:, None] == (r // 16)[None, :]
    a, c = tl.arange(0, N), tl.arange(0, 16)
    diagonal = (a[:, None, None, None] == a[None, None, :, None]) & (c[None, :, None, None] >= 0)
    blocks = tl.sum(tl.where(diagonal, tl.reshape(L, [N, 16, N, 16]), 0.0), 2)  # (N, 16, 16)
    X = tl.where(c[None, :, None] == c[None, None, :], 1.0, 0.0) + tl.zeros([N, 16, 16], tl.float32)
    for t in range(1, 16):
        row = tl.sum(tl.where((c == t)[None, :, None], blocks, 0.0), 1)  # (N, 16): row t of every block
        seen = tl.sum(row[:, :, None] * X, 1)
        X = tl.where((c == t)[None, :, None], X - seen[:, None, :], X)
    unit = tl.where(r[:, None] == r[None, :], 1.0, 0.0)
    X = tl.reshape(tl.where(diagonal, X[:, :, None, :], 0.0), [BC, BC])
    if N > 1:
        below = mul(X, tl.where(same, 0.0, L), PRECISION)
        Y = unit - below
        for _ in tl.static_range(N - 2):
            Y = unit - mul(below, Y, PRECISION)
        X = mul(Y, X, PRECISION)
    return X


@triton.jit
def solve(
    k, v, theta, G, b, f, inverse, w, w2, u,
    T, nc, H, k_batch, k_head, k_token, theta_stride,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Solve one chunk of one sequence: compute the inverse of its system, W, W₂ and U."""
    c, i = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = i * nc + c
    r, d = tl.arange(0, BC), tl.arange(0, BD)
    token = (at - i * nc) * C + r  # int64: times a stride it may pass 2³¹
    valid = (r < C) & (token < T)
    start = (i // H) * k_batch + (i % H) * k_head
    K = load_rows(k + start, token, valid, d, k_token, D)
    step = 2.0 * tl.load(theta + i * theta_stride + token, mask=valid, other=0.0)
    B = interact(K, load_mask(G + at * C * C, r, r, C, 1), r, PRECISION)
    X = invert(B * step[None, :], r, BC, PRECISION).to(K.dtype)
    store_rows(inverse + at * C * C, X, r, r < C, r, C, C)
    b_before = load_share(b + at * C, r, 1.0, C, 1)[:, None]
    f_before = load_share(f + at * C, r, 0.0, C, 1)[:, None]
    store_rows(w + at * C * D, mul(X, b_before * K, PRECISION), r, r < C, d, D, D)
    store_rows(w2 + at * C * D, mul(X, f_before * K, PRECISION), r, r < C, d, D, D)
    V = load_rows(v + start, token, valid, d, k_token, D)
    store_rows(u + at * C * D, mul(X, V, PRECISION), r, r < C, d, D, D)
