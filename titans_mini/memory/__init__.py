"""The memory: a small network whose weights are written, token by token, while it reads.

Read `recurrence.py` (the definition), then `chunk.py` (the same as matrix products), then `scan.py` (a whole sequence).
Public names are imported from `titans_mini`.

Glossary, with the paper's equations. Row vectors throughout: a layer maps h to h W.

    B, H, T, D   batch, heads, tokens, size of a head     L       layers of the memory's network; 1 is a matrix
    C, c         tokens of a chunk; of the present one    N       batch and heads as one axis, B·H
    q, k, v      query, key, value of a token (eq. 11)    y       answer of the memory, M(q) (eq. 15)
    M, S         weights of the memory and their momentum, the past surprise: L tensors (B, H, in, out) (eq. 13–14)
    ℓ            loss ‖M(k) − v‖², a sum over components, no ½ (eq. 12)
    u            surprise, ∇ℓ with respect to M (eq. 8)
    α, η, θ      alpha, eta, theta: forget gate, momentum gate, step size of a token, in [0, 1] (eq. 13–14)
    anchor       the memory where gradients are taken: the end of the previous chunk, or M_{t−1} (eq. 16)
    a, δ, w      a layer's input at the anchor; ∂ℓ/∂(its output); its write −θδ: token j adds a_jᵀ w_j
    b, f, G      shares of M₀, S₀ and each write in M_t, with M₀ and S₀ those at the chunk's start (eq. 16–18)
    m, n         shares of S₀ and each write in S_t
    W, P         a layer's part of M and of S
    d…           gradient of the outer loss with respect to …: dq, dM, d_step
"""
