"""First and second derivatives of the activations and of the norm, written out: the chunked form needs both.

A write is a gradient, so the forward pass contains first derivatives and training through it needs second ones.
A function named `…_vjp` is a vector-Jacobian product: it maps ∂ℓ/∂output to ∂ℓ/∂input, in one fused call of PyTorch.
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
    """An activation σ, its vector-Jacobian product (d, z) ↦ d σ′(z), and its second derivative σ″(z)."""

    sigma: Callable[[Tensor], Tensor]
    vjp: Callable[[Tensor, Tensor], Tensor]
    second_derivative: Callable[[Tensor], Tensor]

    def derivative(self, z: Tensor) -> Tensor:
        """Compute σ′(z)."""
        return self.vjp(torch.ones_like(z), z)


def _gelu_second_derivative(x: Tensor) -> Tensor:
    square = x * x
    bell = (square * -0.5).exp_().mul_(2 / math.sqrt(2 * math.pi))  # 2 φ(x)
    return torch.addcmul(bell, square, bell, value=-0.5, out=square)  # (2 − x²) φ(x)


def _silu_second_derivative(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _tanh_second_derivative(x: Tensor) -> Tensor:
    y = torch.tanh(x)
    return 2 * y * (y * y - 1)


ACTIVATIONS = {
    "gelu": Activation(F.gelu, _aten.gelu_backward, _gelu_second_derivative),
    "silu": Activation(F.silu, _aten.silu_backward, _silu_second_derivative),
    "relu": Activation(F.relu, lambda t, z: _aten.threshold_backward(t, z, 0), torch.zeros_like),
    "tanh": Activation(torch.tanh, lambda t, z: _aten.tanh_backward(t, torch.tanh(z)), _tanh_second_derivative),
}


def layer_norm_vjp(
    dy: Tensor, z: Tensor, gain: Tensor, eps: float, affine: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute ∂ℓ/∂z from ∂ℓ/∂LN(z), and with `affine` also the gradients of the norm's gain and bias.

    Args:
        dy: (..., D) gradient of the norm's output.
        z: (..., D) the norm's input.
        gain: (D,) the norm's gain.
        eps: inside the square root.
        affine: whether to compute the gradients of gain and bias.

    Returns:
        (..., D) gradient of z; (D,) gradients of gain and bias, or None.

    Built in: notebooks/08 · Paper: section 3.1
    """
    shape = (z.shape[-1],)
    _, mean, rstd = torch.native_layer_norm(z, shape, None, None, eps)
    return _aten.native_layer_norm_backward(dy, z, shape, mean, rstd, gain, gain, (True, affine, affine))


def layer_norm_vjp_backward(
    u: Tensor, delta: Tensor, error: Tensor, z: Tensor, gain: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Backpropagate through δ = layer_norm_vjp(error), with error = v − LN(z).

    With x̂ = (z − μ) r and d = error∘gain, δ = r (d − mean d − x̂ mean(d x̂)). The map d ↦ δ is symmetric, so the
    gradient of d is the same map applied to u; the other terms reach z through x̂ and r, and through the norm in the
    error.

    Args:
        u: (..., D) gradient of δ.
        delta: (..., D) δ.
        error: (..., D) v − LN(z).
        z: (..., D) the norm's input.
        gain: (D,) the norm's gain.
        eps: inside the square root.

    Returns:
        Gradients of v (..., D), z (..., D), gain (D,) and bias (D,).
    """
    shape = (z.shape[-1],)
    x_hat, mean, rstd = torch.native_layer_norm(z, shape, None, None, eps)

    def project(x: Tensor) -> Tensor:  # r (x − mean x − x̂ mean(x x̂))
        return _aten.native_layer_norm_backward(x, z, shape, mean, rstd, None, None, (True, False, False))[0]

    d = error * gain
    d_d = project(u)
    dv = d_d * gain
    along = (d * x_hat).mean(-1, keepdim=True)
    dx_hat = (u * along).addcmul_(d, (u * x_hat).mean(-1, keepdim=True))  # the gradient of x̂, divided by −r
    through_r = (u * delta).mean(-1, keepdim=True).mul_(rstd)  # ∂r/∂z = −r² x̂ / D
    dz = project(dx_hat.mul_(rstd).addcmul_(dv, gain)).addcmul_(x_hat, through_r).neg_()
    d_gain = d_d.mul_(error).addcmul_(dv, x_hat, value=-1)
    tokens = tuple(range(u.dim() - 1))
    return dv, dz, d_gain.sum(tokens), dv.sum(tokens).neg_()
