"""The memory's own network: a matrix or an MLP whose weights are the memory.

Row vectors, as in the paper: a layer maps h to h W. `MemoryNet` holds no memory itself; the weights live in a
`MemoryState`, one set per sequence and head.
"""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_mini.memory.derivatives import ACTIVATIONS, layer_norm_vjp
from titans_mini.memory.state import MemoryState

Weights = tuple[Tensor, ...]


def is_count(x: object) -> bool:
    """Return whether x is an integer ≥ 1, of Python or numpy; True is not."""
    return isinstance(x, numbers.Integral) and not isinstance(x, bool) and x >= 1


def is_number(x: object) -> bool:
    """Return whether x is a finite number, of Python or numpy; True is not."""
    return isinstance(x, numbers.Real) and not isinstance(x, bool) and -math.inf < x < math.inf


class MemoryNet(nn.Module):
    """The function x ↦ M(x) that a memory computes: M(x) = [x +] [LN] (σ(… σ(x W_1) …) W_L).

    The default is the memory of the paper's second version: two layers, expansion 4, GELU, residual and layer norm.
    With `depth=1, residual=False, norm=False` it is a matrix. The gain and bias of the norm are slow weights: they are
    trained from outside and never written at test time (⚠ the paper does not say).

    Args:
        dim: D, the size of keys, values and queries.
        depth: L, number of layers (1 = a matrix).
        expansion: width of the hidden layers in units of D.
        activation: "gelu", "silu", "relu" or "tanh".
        residual: add the input to the output.
        norm: layer-normalise the last layer's output, over D.
        eps: inside the norm's square root.

    Raises:
        ValueError: if a size is not positive, the activation unknown, or another option no switch or number.

    Built in: notebooks/05 · Paper: section 3.1
    """

    def __init__(
        self,
        dim: int,
        depth: int = 2,
        expansion: float = 4,
        activation: str = "gelu",
        residual: bool = True,
        norm: bool = True,
        eps: float = 1e-5,
    ) -> None:
        """Describe the network; see the class for the arguments."""
        super().__init__()
        if not (is_count(dim) and is_count(depth) and is_number(expansion) and expansion > 0):
            raise ValueError(
                f"MemoryNet: got dim={dim!r}, depth={depth!r}, expansion={expansion!r}, expected all positive, dim and "
                "depth integers (depth=1 is a matrix)"
            )
        for name, x in (("residual", residual), ("norm", norm)):
            if not isinstance(x, bool):
                raise ValueError(
                    f"MemoryNet: got {name}={x!r}, expected True or False: a text such as 'False' would count as true"
                )
        if not (is_number(eps) and eps >= 0):
            raise ValueError(f"MemoryNet: got eps={eps!r}, expected a number ≥ 0: the root of less is NaN")
        if depth > 1 and round(expansion * dim) < 1:
            raise ValueError(
                f"MemoryNet: got expansion={expansion} of dim={dim}, expected hidden layers of at least one unit: "
                f"{expansion * dim:g} rounds to none"
            )
        if activation not in list(ACTIVATIONS):  # a list, for values without a hash
            raise ValueError(f"MemoryNet: got activation={activation!r}, expected one of {sorted(ACTIVATIONS)}")
        self.dim, self.depth, self.expansion, self.activation = dim, depth, expansion, activation
        self.residual, self.norm, self.eps = residual, norm, eps
        hidden = round(expansion * dim)
        sizes = [dim, *[hidden] * (depth - 1), dim]
        self.shapes: list[tuple[int, int]] = list(zip(sizes[:-1], sizes[1:], strict=True))
        if norm:
            self.norm_weight = nn.Parameter(torch.ones(dim))
            self.norm_bias = nn.Parameter(torch.zeros(dim))

    @property
    def is_matrix(self) -> bool:
        """Whether the memory is linear in its input, so that the exact online rule has a closed form."""
        return self.depth == 1 and not self.norm

    def extra_repr(self) -> str:
        """Show the configuration in `print(net)`."""
        return (
            f"dim={self.dim}, depth={self.depth}, expansion={self.expansion}, activation={self.activation!r}, "
            f"residual={self.residual}, norm={self.norm}"
        )

    def with_parameters(self, parameters: Iterable[Tensor]) -> MemoryNet:
        """Return a copy of the network that uses the given tensors as its slow weights; this one is unchanged.

        The backward pass recomputes a chunk with the tensors of its forward pass, even if the module's own were
        swapped in between, as `torch.func.functional_call` does.

        Args:
            parameters: as many tensors as `parameters()` has, in its order.

        Returns:
            A shallow copy: only the parameters are replaced.
        """
        copied = copy.copy(self)
        copied._parameters = dict(zip(self._parameters, parameters, strict=True))
        return copied

    # --- weights and states -------------------------------------------------------------------------------------

    def init_weights(
        self,
        heads: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Weights:
        """Return initial weights: zeros for a matrix (nothing stored yet), random for an MLP or under a norm.

        A zero MLP would never learn: each layer's gradient has the other layers' weights as a factor. Under a norm
        only the direction of z counts, and a step θ turns it by about θ·(gain/std)² for unit keys. The weights start
        with std = gain there, so that θ has the same effect on an MLP as on a matrix. Without a norm, std = 1/√in.

        Args:
            heads: number of heads H.
            generator: a CPU generator; default a new one with seed 0, so that equal calls give equal weights.
            device: device of the weights.
            dtype: their dtype; default `torch.get_default_dtype()`.

        Returns:
            L tensors (H, in, out).

        Built in: notebooks/05 · Paper: section 3.1
        """
        dtype = dtype or torch.get_default_dtype()
        if self.is_matrix:
            return (torch.zeros(heads, *self.shapes[0], device=device, dtype=dtype),)
        if torch.empty(0, device=device).is_meta:  # shapes without data
            return tuple(torch.empty(heads, i, o, device="meta", dtype=dtype) for i, o in self.shapes)
        generator = generator or torch.Generator().manual_seed(0)
        gain = self.norm_weight.detach().abs().mean().item() if self.norm else None
        weights = []
        for i, o in self.shapes:
            w = torch.randn(heads, i, o, generator=generator, dtype=torch.float64) * (gain or 1 / math.sqrt(i))
            weights.append(w.to(device=device, dtype=dtype))
        return tuple(weights)

    def init_state(
        self,
        batch: int,
        heads: int,
        weights: Weights | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MemoryState:
        """Create one memory per sequence and head: M₀ is the same for all sequences, the momentum S₀ is zero.

        Args:
            batch: number of sequences B.
            heads: number of heads H.
            weights: initial weights M₀, L tensors (H, in, out) or (B, H, in, out); default `init_weights`.
            generator: passed to `init_weights`.
            device: passed to `init_weights`.
            dtype: passed to `init_weights`.

        Returns:
            A MemoryState at position 0. Gradients flow back into `weights`.

        Raises:
            ValueError: if the weights do not fit this network.

        Built in: notebooks/05 · Paper: section 3.1
        """
        if weights is None:
            weights = self.init_weights(heads, generator, device, dtype)
        full = [(batch, heads, *shape) for shape in self.shapes]
        got = [tuple(w.shape) for w in weights]
        if len(got) != self.depth or any(g not in (f, f[1:]) for g, f in zip(got, full, strict=True)):
            raise ValueError(f"weights: got shapes {got}, expected {full} (batch optional): of another network?")
        start = tuple(w.expand(f).clone() for w, f in zip(weights, full, strict=True))  # a state shares no memory
        return MemoryState(weights=start, momentum=tuple(torch.zeros_like(w) for w in start), anchor=start, position=0)

    # --- the function and its gradient ----------------------------------------------------------------------------

    def forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Evaluate the memory: M(x).

        Args:
            weights: L tensors (..., in, out).
            x: (..., T, D) queries.

        Returns:
            (..., T, D) outputs.

        Built in: notebooks/05 · Paper: eq. 15
        """
        sigma = ACTIVATIONS[self.activation].sigma
        h = x
        for layer, W in enumerate(weights):
            z = h @ W
            h = sigma(z) if layer < self.depth - 1 else z
        return self.finish(h, x)

    def finish(self, z: Tensor, x: Tensor) -> Tensor:
        """Apply norm and residual to the last layer's output: [x +] [LN](z).

        Args:
            z: (..., D) output of the last layer.
            x: (..., D) input of the network.

        Returns:
            (..., D) output of the network.

        Built in: notebooks/05 · Paper: section 3.1
        """
        if self.norm:
            z = F.layer_norm(z, (self.dim,), self.norm_weight.to(z.dtype), self.norm_bias.to(z.dtype), self.eps)
        return x + z if self.residual else z

    def deltas(
        self, error: Tensor, z: list[Tensor], weights: Weights | list[Tensor], slope: list[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Backpropagate the loss ‖M(k) − v‖² by hand, for all tokens at once.

        The gradient of a layer is rank one per token, ∇ℓ = aᵀ δ, with a the layer's input. This computes δ = ∂ℓ/∂z
        from the last layer down: δ_l = (δ_{l+1} Wᵀ_{l+1}) ∘ σ′(z_l).

        Args:
            error: (..., T, D), ∂ℓ/∂M(k) = 2 (M(k) − v). All results are linear in it.
            z: L tensors (..., T, out), each layer's output at the keys, before its activation.
            weights: L tensors (..., in, out).
            slope: σ′ at the first L−1 of z, if already computed.

        Returns:
            δ, L tensors (..., T, out); and for all layers but the last δ_{l+1} Wᵀ_{l+1}, the factor of σ′.

        Built in: notebooks/08 · Paper: eq. 12, 17
        """
        delta, pulled = [error], []
        if self.norm:
            delta = [layer_norm_vjp(error, z[-1], self.norm_weight.to(error.dtype), self.eps)[0]]
        slope = slope or [ACTIVATIONS[self.activation].derivative(x) for x in z[:-1]]
        for layer in range(self.depth - 1, 0, -1):
            pulled.append(delta[-1] @ weights[layer].mT)
            delta.append(pulled[-1] * slope[layer - 1])
        return delta[::-1], pulled[::-1]
