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


class Normed(NamedTuple):
    """What a layer norm found in z, and what of the error it meets: what both its derivatives use."""

    z: Tensor  # (…, D) its input
    mean: Tensor  # (…, 1)
    rstd: Tensor  # (…, 1), r = 1/√(variance + ε)
    x_hat: Tensor  # (…, D), (z − mean) r
    d: Tensor  # (…, D), error ∘ gain
    along: Tensor  # (…, 1), mean of d ∘ x̂

    @classmethod
    def of(cls, z: Tensor, found: tuple[Tensor, Tensor], error: Tensor, gain: Tensor) -> Normed:
        """Go on from z (…, D), its mean and 1/std, to what the error (…, D) adds."""
        mean, rstd = found
        x_hat, d = (z - mean).mul_(rstd), error * gain
        return cls(z, mean, rstd, x_hat, d, (d * x_hat).mean(-1, keepdim=True))

    def flatten(self, u: Tensor) -> Tensor:
        """Take from u what lies along 1 and along x̂, times r: r (u − mean u − x̂ mean(u x̂)). A symmetric map."""
        shape = (u.shape[-1],)
        return _aten.native_layer_norm_backward(
            u, self.z, shape, self.mean, self.rstd, None, None, (True, False, False)
        )[0]


def norm_pull(
    dy: Tensor,
    z: Tensor,
    gain: Tensor,
    eps: float,
    slow: bool = False,
    found: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Pull ∂ℓ/∂LN(z) back to ∂ℓ/∂z, and to the gain and bias when `slow`.

    Args:
        dy: (..., D) gradient at the norm's output.
        z: (..., D) the norm's input.
        gain: (D,) the norm's gain.
        eps: inside the square root.
        slow: whether the gradients of gain and bias are wanted.
        found: mean and 1/std of z, (..., 1) each, where they are known already.

    Returns:
        (..., D) gradient at z; (D,) at the gain and (D,) at the bias, or None.

    Built in: notebooks/08 · Paper: section 3.1
    """
    shape = (z.shape[-1],)
    mean, rstd = found or torch.native_layer_norm(z, shape, None, None, eps)[1:]
    return _aten.native_layer_norm_backward(dy, z, shape, mean, rstd, gain, gain, (True, slow, slow))


def norm_pull_backward(
    u: Tensor, delta: Tensor, error: Tensor, n: Normed, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Differentiate once more what the loss sends back through the norm: δ = norm_pull(error), error = v − LN(z).

    With x̂ = (z − μ) r and d = error∘gain it is δ = r (d − mean d − x̂ mean(d x̂)). The map d ↦ δ is symmetric, so the
    gradient at d is the same map applied to u; x̂ and r carry the rest to z, and so does the norm in the error.

    Args:
        u: (..., D) gradient at δ.
        delta: (..., D) δ.
        error: (..., D) v − LN(z).
        n: what the norm found.
        gain: (D,) the norm's gain.

    Returns:
        (..., D) gradient at v, (..., D) at z, (D,) at the gain and (D,) at the bias.

    Built in: notebooks/08 · Paper: section 3.1
    """
    d_d = n.flatten(u)
    dv = d_d * gain
    dx_hat = (u * n.along).addcmul_(n.d, (u * n.x_hat).mean(-1, keepdim=True))  # ∂/∂x̂ of δ over −r
    through_r = (u * delta).mean(-1, keepdim=True).mul_(n.rstd)  # ∂r/∂z = −r² x̂ / D
    dz = n.flatten(dx_hat.mul_(n.rstd).addcmul_(dv, gain)).addcmul_(n.x_hat, through_r).neg_()
    d_gain = d_d.mul_(error).addcmul_(dv, n.x_hat, value=-1)
    tokens = tuple(range(u.dim() - 1))
    return dv, dz, d_gain.sum(tokens), dv.sum(tokens).neg_()
