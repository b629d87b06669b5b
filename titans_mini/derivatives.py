"""First and second derivatives of the activations and of the norm, written out: the chunked form needs both.

A write is a gradient: the forward pass already holds first derivatives, and training through it takes the second.
`pull` functions carry ∂ℓ/∂output back to ∂ℓ/∂input in one fused call of PyTorch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten


class Activation(NamedTuple):
    """σ, the pull-back (t, z) ↦ t·σ′(z), and the bend σ″(z)."""

    sigma: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]
    bend: Callable[[Tensor], Tensor]

    def slope(self, z: Tensor) -> Tensor:
        """Find σ′(z) itself, for more than one use."""
        return self.pull(torch.ones_like(z), z)


def _gelu_bend(x: Tensor) -> Tensor:
    square = x * x
    bell = (square * -0.5).exp_().mul_(2 / math.sqrt(2 * math.pi))  # 2 φ(x)
    return torch.addcmul(bell, square, bell, value=-0.5, out=square)  # (2 − x²) φ(x)


def _silu_bend(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _tanh_bend(x: Tensor) -> Tensor:
    y = torch.tanh(x)
    return 2 * y * (y * y - 1)


ACTIVATIONS = {
    "gelu": Activation(F.gelu, _aten.gelu_backward, _gelu_bend),
    "silu": Activation(F.silu, _aten.silu_backward, _silu_bend),
    "relu": Activation(F.relu, lambda t, z: _aten.threshold_backward(t, z, 0), torch.zeros_like),
    "tanh": Activation(torch.tanh, lambda t, z: _aten.tanh_backward(t, torch.tanh(z)), _tanh_bend),
}


def norm_pull(
    dy: Tensor, z: Tensor, gain: Tensor, eps: float, slow: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Pull ∂ℓ/∂LN(z) back to ∂ℓ/∂z, and to the gain and bias when `slow`.

    Args:
        dy: (..., D) gradient at the norm's output.
        z: (..., D) the norm's input.
        gain: (D,) the norm's gain.
        eps: inside the square root.
        slow: whether the gradients of gain and bias are wanted.

    Returns:
        (..., D) gradient at z; (D,) at the gain and (D,) at the bias, or None.

    Built in: notebooks/06 · Paper: section 3.1
    """
    shape = (z.shape[-1],)
    _, mean, rstd = torch.native_layer_norm(z, shape, None, None, eps)
    return _aten.native_layer_norm_backward(dy, z, shape, mean, rstd, gain, gain, (True, slow, slow))


def norm_pull_backward(
    u: Tensor, dy: Tensor, z: Tensor, gain: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate `norm_pull` once more: from the gradient u at its result to those at dy, z and the gain.

    With x̂ = (z − μ) r and d = dy·gain, the result is δ = r (d − mean d − x̂ mean(d x̂)). The map d ↦ δ is symmetric, so
    the gradient at d is the same map applied to u; x̂ and r carry the rest to z.

    Args:
        u: (..., D) gradient at δ.
        dy: (..., D) as in `norm_pull`.
        z: (..., D) the norm's input.
        gain: (D,) the norm's gain.
        eps: inside the square root.

    Returns:
        (..., D) gradient at dy, (..., D) at z, (..., D) at the gain, still per token.

    Built in: notebooks/06 · Paper: section 3.1
    """
    x_hat, _, r = torch.native_layer_norm(z, (z.shape[-1],), None, None, eps)
    d = dy * gain
    d_x, u_x = (d * x_hat).mean(-1, keepdim=True), (u * x_hat).mean(-1, keepdim=True)
    d_flat = d - d.mean(-1, keepdim=True) - x_hat * d_x  # δ / r
    u_flat = u - u.mean(-1, keepdim=True) - x_hat * u_x
    dd = r * u_flat
    dr = (u * d_flat).sum(-1, keepdim=True)
    dx_hat = (u * d_x + d * u_x).mul_(-r)
    dz = r * (dx_hat - dx_hat.mean(-1, keepdim=True) - x_hat * (dx_hat * x_hat).mean(-1, keepdim=True))
    dz -= x_hat * (dr * r * r / z.shape[-1])  # ∂r/∂z = −r² x̂ / D
    return dd * gain, dz, dd * dy
