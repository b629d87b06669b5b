"""The short causal convolution in front of a memory: each channel sees its own last few tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def short_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Mix each channel with its own past, y_t = Σ_j w_j x_{t−J+1+j}, as `nn.Conv1d` with a group for each channel does.

    On a CPU that is J products of whole tensors, each a step further on: oneDNN's grouped convolution, with what it has
    to lay out anew, takes two to four times as long there, forward and backward. Elsewhere, and in half precision,
    it is PyTorch's own.

    Args:
        x: (B, J − 1 + T, C), the last J − 1 tokens of the past in front.
        weight: (C, 1, J), the last one is that of the token itself.

    Returns:
        (B, T, C).

    Built in: notebooks/05 · Paper: section 4.4
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled("cpu"):
        return F.conv1d(x.mT, weight, groups=x.shape[2]).mT
    return _ShiftAndAdd.apply(x, weight.squeeze(1).mT.contiguous())


class _ShiftAndAdd(torch.autograd.Function):
    """The sum of J shifted copies: (B, J − 1 + T, C) and (J, C) to (B, T, C)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        T = x.shape[1] - len(w) + 1
        y = x[:, :T] * w[0]
        for j in range(1, len(w)):
            y.addcmul_(x[:, j : j + T], w[j])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:  # by itself, so that it can be differentiated again
        x, w = ctx.saved_tensors
        past, T = len(w) - 1, dy.shape[1]
        dx = _ShiftAndAdd.apply(F.pad(dy, (0, 0, past, past)), w.flip(0))
        return dx, torch.stack([(dy * x[:, j : j + T]).sum((0, 1)) for j in range(len(w))])
