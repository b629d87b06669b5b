"""The layout in which a chunk's products work: what belongs to the memory and what to its momentum, in one tensor."""

from __future__ import annotations

import torch
from torch import Tensor

Matrices = list[Tensor]  # one (N, in, out) for each layer


class Stack:
    """Weights W and momentum P of one layer on top of each other in one tensor, so that one product serves both.

    (N, 2·in, out) where in ≤ out; else both lie on their sides, (N, 2·out, in), so that what a product has to scale is
    always the narrower side of the two.
    """

    __slots__ = "P", "W", "halves", "upright", "whole"

    def __init__(self, whole: Tensor, upright: bool) -> None:
        """View a tensor as a stack. W and P are (N, in, out); `halves` is (N, 2, …), as they lie."""
        N, rows, columns = whole.shape
        self.whole, self.upright = whole, upright
        self.halves = whole.view(N, 2, rows // 2, columns)
        W, P = self.halves.unbind(1)
        self.W, self.P = (W, P) if upright else (W.mT, P.mT)

    @classmethod
    def of(cls, W: Tensor, P: Tensor) -> Stack:
        """Copy weights and momentum (N, in, out) into a stack."""
        upright = W.shape[1] <= W.shape[2]
        return cls(torch.cat((W, P) if upright else (W.mT, P.mT), 1).contiguous(), upright)

    def like(self) -> Stack:
        """Make another stack of the same kind, with nothing in it yet."""
        return Stack(torch.empty_like(self.whole), self.upright)

    def decay(self, keep: Tensor, f_end: Tensor, out: Stack) -> Stack:
        """Keep what a chunk leaves of its start: W = b_C W₀ + f_C P₀, P = m_C P₀; see `Gates`."""
        torch.mul(self.halves, keep, out=out.halves)
        out.W.addcmul_(self.P, f_end)
        return out


class Twice:
    """Scale rows by two columns of gates and set the results side by side, (N, c, D) and (N, c, 2, 1) to (N, c, 2D).

    The result is scratch: the next call for this D writes over it, which keeps its place in the processor's cache.
    """

    def __init__(self) -> None:
        """Begin with no scratch."""
        self.scratch: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor, pair: Tensor) -> Tensor:
        """Scale x by both."""
        shape = x.shape
        if shape not in self.scratch:
            apart = x.new_empty(*shape[:2], 2, shape[2])
            self.scratch[shape] = apart, apart.flatten(2)
        apart, whole = self.scratch[shape]
        torch.mul(x.unsqueeze(2), pair, out=apart)
        return whole


def rows(x: Tensor, y: Tensor, out: Tensor | None = None, add: bool = False) -> Tensor:
    """Inner products of rows: (…, D) and (…, D) to (…, 1); put into `out`, or added to what is there."""
    products = x * y
    return out.add_(products.sum(-1, keepdim=True)) if add else torch.sum(products, -1, keepdim=True, out=out)


def twice_backward(
    d: Tensor, x: Tensor, pair: Tensor, d_pair: Tensor, add: bool = False, dx: Tensor | None = None
) -> Tensor:
    """Differentiate `Twice`, from the gradient (N, c, 2D) at its result.

    Args:
        d: (N, c, 2D).
        x: (N, c, D), what was scaled.
        pair: (N, c, 2, 1), by what.
        d_pair: (N, c, 2, 1), where the gradient at the gates goes.
        add: whether it is added to what is there.
        dx: (N, c, D), what the gradient at x is added to, in place; nothing by default.

    Returns:
        The gradient at x.
    """
    d = d.view(*x.shape[:2], 2, x.shape[2])
    (left, right), (a, b) = d.unbind(2), pair.unbind(2)
    rows(d, x.unsqueeze(2), d_pair, add)
    dx = left * a if dx is None else dx.addcmul_(left, a)
    return dx.addcmul_(right, b)
