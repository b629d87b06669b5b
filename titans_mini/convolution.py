"""The short causal convolution in front of a memory: each channel sees its own last few tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def short_convolution(x: Tensor, past: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each channel with its own past, y_t = Σ_j w_j x_{t−J+1+j}, as `nn.Conv1d` with a group for each channel does.

    On a CPU it is that sum of shifted copies, whole tensors at a time; elsewhere, and in half precision, PyTorch's own.

    Args:
        x: (B, T, C).
        past: (B, C, J − 1), the tokens before.
        weight: (C, 1, J), the last one is that of the token itself.

    Returns:
        (B, T, C), and the past of the next call.

    Built in: notebooks/05 · Paper: section 4.4
    """
    padded = torch.cat([past.mT.to(x.dtype), x], 1)  # only the past is put in front: causal
    left = padded[:, x.shape[1] :].mT.clone(memory_format=torch.contiguous_format)  # a view would keep all of it
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled("cpu"):
        return F.conv1d(padded.mT, weight, groups=len(weight)).mT, left
    return _ShiftAndAdd.apply(padded, weight.squeeze(1)), left


class _ShiftAndAdd(torch.autograd.Function):
    """The sum of J shifted copies: (B, J − 1 + T, C) and (C, J) to (B, T, C)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        taps, T = weight.mT.contiguous(), x.shape[1] - weight.shape[1] + 1
        y = x[:, :T] * taps[0]
        for j in range(1, len(taps)):
            y.addcmul_(x[:, j : j + T], taps[j])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:  # by itself, so that it can be differentiated again
        x, weight = ctx.saved_tensors
        J, T = weight.shape[1], dy.shape[1]
        dx = _ShiftAndAdd.apply(F.pad(dy, (0, 0, J - 1, J - 1)), weight.flip(1))
        return dx, torch.stack([(dy * x[:, j : j + T]).sum((0, 1)) for j in range(J)], 1)
