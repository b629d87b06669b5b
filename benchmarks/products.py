"""A call's matrix products and nothing else: what no work around the same products could go below.

The products of one call are written down, and done again one after the other, each with tensors of the same shapes and
strides that every product of that kind shares: they lie in the cache. What is left out are gates, activations, masks,
copies and the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.providers import Work

_aten = torch.ops.aten
PLAIN = {_aten.mm.default: torch.mm, _aten.bmm.default: torch.bmm}
ADDED = {  # to what was there before
    _aten.addmm.default: torch.addmm,
    _aten.addmm_.default: torch.addmm,
    _aten.baddbmm.default: torch.baddbmm,
    _aten.baddbmm_.default: torch.baddbmm,
}


class Recorder(TorchDispatchMode):
    """Writes down the matrix products of what runs under it.

    Attributes:
        products: calls without arguments, each one product.
        flops: of all of them.
    """

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.products: list[Callable[[], Tensor]] = []
        self.flops = 0
        self._shared: dict[tuple, Tensor] = {}

    def __torch_dispatch__(self, call, types, args=(), kwargs=None) -> object:
        """Run what was called, and note it if it is a product."""
        result = call(*args, **(kwargs or {}))
        if call in PLAIN or call in ADDED:
            left, right = args[-2:]
            self.flops += 2 * result.numel() * left.shape[-1]
            out = self._like(result, "out")
            product, factors = PLAIN.get(call) or ADDED[call], [self._like(left, "left"), self._like(right, "right")]
            before = [out] if call in ADDED else []
            self.products.append(lambda: product(*before, *factors, **(kwargs or {}), out=out))
        return result

    def _like(self, x: Tensor, place: str) -> Tensor:
        """Find the tensor of this shape that all products share; small numbers, for some are added up very often."""
        key = place, x.shape, x.stride(), x.dtype, x.device
        if key not in self._shared:
            drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
            self._shared[key] = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(drawn)
        return self._shared[key]


class Products:
    """The products of a provider, ready to run like the provider itself.

    Args:
        work: the provider.
    """

    def __init__(self, work: Work) -> None:
        """Write down the products of both passes."""
        self._recorded = {}
        for which, call in (("forward", work.forward), ("both", work.both)):
            with Recorder() as self._recorded[which]:
                call()

    def forward(self) -> Tensor:
        """Do those of the forward pass; returns the last one."""
        return self._run("forward")

    def both(self) -> Tensor:
        """Do those of both passes; returns the last one."""
        return self._run("both")

    def flops(self, which: str) -> int:
        """Count their operations."""
        return self._recorded[which].flops

    @torch.no_grad()
    def _run(self, which: str) -> Tensor:
        for product in self._recorded[which].products:
            out = product()
        return out
