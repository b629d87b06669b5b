"""Tile operations of a two-layer memory: activations, products, the norm, loads and stores.

Shared by the kernels of `mlp_forward` and `mlp_backward`. Letters: C tokens per chunk, D the size of a key, E hidden
units. Tiles are padded to powers of two; padded rows and columns hold zeros, and every function here keeps them zero.
"""

from __future__ import annotations

import triton
import triton.language as tl

# --- activations: σ, σ′ and σ″, as in titans_mini.memory.derivatives ---


@triton.jit
def _normal_density(x):
    """Compute φ(x), the density of the normal distribution; 0.3989… is 1/√(2π)."""
    return tl.exp(-0.5 * x * x) * 0.3989422804014327


@triton.jit
def _normal_cdf(x):
    """Compute Φ(x), the normal distribution function, to 6e-9: below the resolution of float32 near 1.

    The tail beyond |x| is φ(x) times a polynomial in t = 1/(1 + 0.275 |x|). The coefficients are the minimax fit among
    multiples of 2⁻²³ that give Φ(0) = ½ to the last bit in any order of summation: a memory that has nearly forgotten
    amplifies an error of Φ(0), chunk after chunk. There is no branch, and φ needs the exponential anyway; Triton's erf
    branches for every number and compiles slowly.
    """
    t = 1 / (1 + 0.275 * tl.abs(x))
    p = 0.8373557329177856 + t * (-0.8300822973251343 + t * (1.133253812789917 + t * -0.2879739999771118))
    tail = _normal_density(x) * (t * (0.295322060585022 + t * (0.10543882846832275 + t * p)))
    return tl.where(x < 0, tail, 1 - tail)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """Compute σ(x); GELU is x Φ(x), not its approximation by tanh."""
    if ACTIVATION == "gelu":
        return x * _normal_cdf(x)
    else:
        return x * tl.sigmoid(x)


@triton.jit
def slope(x, ACTIVATION: tl.constexpr):
    """Compute σ′(x)."""
    if ACTIVATION == "gelu":
        return _normal_cdf(x) + x * _normal_density(x)
    else:
        s = tl.sigmoid(x)
        return s * (1 + x * (1 - s))


@triton.jit
def second_derivative(x, ACTIVATION: tl.constexpr):
    """Compute σ″(x)."""
    if ACTIVATION == "gelu":
        return (2 - x * x) * _normal_density(x)
    else:
        s = tl.sigmoid(x)
        return s * (1 - s) * (2 + x * (1 - 2 * s))


# --- products and the norm -------------------------------------------------------------------------------------------


@triton.jit
def narrow(x, like):
    """Cast to the dtype of `like`, for a product."""
    return x.to(like.dtype)


@triton.jit
def product(x, y, like, PRECISION: tl.constexpr):
    """Multiply matrices with operands in the dtype of `like`, accumulating in float32."""
    return tl.dot(narrow(x, like), narrow(y, like), input_precision=PRECISION)


@triton.jit
def add_product(total, x, y, like, PRECISION: tl.constexpr):
    """Add a product to a float32 sum."""
    return tl.dot(narrow(x, like), narrow(y, like), total, input_precision=PRECISION)


@triton.jit
def sharp_product(x, y, PRECISION: tl.constexpr):
    """Multiply without casting to half precision first: in TF32 if the inputs are half precision."""
    return tl.dot(x.to(tl.float32), y, input_precision=PRECISION)


@triton.jit
def normalize(z, cols, D: tl.constexpr, eps):
    """Compute x̂ = (z − μ) r and r = 1/√(variance + ε), over the D real columns of a row."""
    centred = tl.where(cols[None, :] < D, z - (tl.sum(z, 1) / D)[:, None], 0.0)
    r = 1 / tl.sqrt_rn(tl.sum(centred * centred, 1) / D + eps)
    return centred * r[:, None], r


@triton.jit
def flatten(d, x_hat, cols, D: tl.constexpr):
    """Project a gradient through the norm, without the factor r: d − mean d − x̂ mean(d x̂)."""
    flat = d - (tl.sum(d, 1) / D)[:, None] - x_hat * (tl.sum(d * x_hat, 1) / D)[:, None]
    return tl.where(cols[None, :] < D, flat, 0.0)


@triton.jit
def finish(z, x, gain, bias, cols, eps, D: tl.constexpr, NORM: tl.constexpr, RESIDUAL: tl.constexpr):
    """Compute [x +] [LN](z), the output of the network."""
    if NORM:
        x_hat, _ = normalize(z, cols, D, eps)
        z = x_hat * gain[None, :] + bias[None, :]
    if RESIDUAL:
        z += x
    return z


@triton.jit
def output_delta(z, k, v, gain, bias, cols, eps, D: tl.constexpr, NORM: tl.constexpr, RESIDUAL: tl.constexpr):
    """Compute δ = ∂‖M(k) − v‖²/∂z at the last layer's output."""
    delta = 2 * (finish(z, k, gain, bias, cols, eps, D, NORM, RESIDUAL) - v)
    if NORM:
        x_hat, r = normalize(z, cols, D, eps)
        delta = flatten(delta * gain[None, :], x_hat, cols, D) * r[:, None]
    return delta


@triton.jit
def layer_norm_vjp(dy, z, gain, cols, eps, D: tl.constexpr):
    """Backpropagate through the norm to z and, summed over tokens, to gain and bias."""
    x_hat, r = normalize(z, cols, D, eps)
    dz = flatten(dy * gain[None, :], x_hat, cols, D) * r[:, None]
    return dz, tl.sum(dy * x_hat, 0), tl.sum(dy, 0)


@triton.jit
def layer_norm_vjp_backward(u, delta, z, k, v, gain, bias, cols, eps, D: tl.constexpr, RESIDUAL: tl.constexpr):
    """Backpropagate through `output_delta` under a norm: from the gradient u of δ to z, error, gain and bias.

    The map from the error to δ is symmetric, and the other terms reach z through x̂ and r: see
    derivatives.layer_norm_vjp_backward.
    """
    x_hat, r = normalize(z, cols, D, eps)
    dy = 2 * (finish(z, k, gain, bias, cols, eps, D, True, RESIDUAL) - v)
    d_x, u_x = tl.sum(dy * gain[None, :] * x_hat, 1) / D, tl.sum(u * x_hat, 1) / D
    through_r = r * tl.sum(u * delta, 1) / D
    u_flat = flatten(u, x_hat, cols, D) * r[:, None]
    d_error = 2 * u_flat * gain[None, :]
    d_gain = tl.sum(u_flat * dy + d_error * x_hat, 0)
    dx_hat = d_error * gain[None, :] - r[:, None] * (u * d_x[:, None] + dy * gain[None, :] * u_x[:, None])
    dz = r[:, None] * flatten(dx_hat, x_hat, cols, D) - x_hat * through_r[:, None]
    return dz, d_error, d_gain, tl.sum(d_error, 0)


# --- loads and stores ------------------------------------------------------------------------------------------------


@triton.jit
def load_tile(start, rows, cols, stride, row_end, col_end):
    """Load a tile of a row-major matrix; entries outside the matrix are zero."""
    inside = (rows[:, None] < row_end) & (cols[None, :] < col_end)
    return tl.load(start + rows[:, None] * stride + cols[None, :], mask=inside, other=0.0)


@triton.jit
def store_tile(start, x, rows, cols, stride, row_end, col_end):
    """Store a tile, except for entries outside the matrix."""
    inside = (rows[:, None] < row_end) & (cols[None, :] < col_end)
    tl.store(start + rows[:, None] * stride + cols[None, :], x.to(start.dtype.element_ty), mask=inside)


@triton.jit
def load_tokens(start, rows, left):
    """Load one number per token of a chunk: a gate, a coefficient."""
    return tl.load(start + rows, mask=rows < left, other=0.0)


@triton.jit
def load_read(G, b, f, place, rows, C: tl.constexpr, SHIFT: tl.constexpr):
    """Load the rows of b, f and G for a chunk's reads: after the token's write, or with SHIFT = 1 before it."""
    inside = (rows >= SHIFT) & (rows < C)
    row = place * C - SHIFT + rows
    G_rows = tl.load(G + row[:, None] * C + rows[None, :], mask=inside[:, None] & (rows < C)[None, :], other=0.0)
    return tl.load(b + row, mask=inside, other=1.0), tl.load(f + row, mask=inside, other=0.0), G_rows


@triton.jit
def load_end(G, b, f, n, m, place, rows, C: tl.constexpr, N_ROWS: tl.constexpr):
    """Load the coefficients at the end of a chunk: the last b, f and m, and the last rows of G and n."""
    last = place * C + C - 1
    last_n = place * N_ROWS + N_ROWS - 1
    return (
        tl.load(b + last),
        tl.load(f + last),
        tl.load(m + last_n),
        tl.load(G + last * C + rows, mask=rows < C, other=0.0),
        tl.load(n + last_n * C + rows, mask=rows < C, other=0.0),
    )


@triton.jit
def load_slow(gain, bias, cols, D: tl.constexpr, NORM: tl.constexpr):
    """Load gain and bias of the norm; without one, zeros that are never used."""
    if NORM:
        return (
            tl.load(gain + cols, mask=cols < D, other=0.0).to(tl.float32),
            tl.load(bias + cols, mask=cols < D, other=0.0).to(tl.float32),
        )
    else:
        return tl.zeros(cols.shape, tl.float32), tl.zeros(cols.shape, tl.float32)
