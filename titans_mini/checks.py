"""What a memory layer refuses, and how it says so: got, expected, likely cause."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from titans_mini.precision import autocasts
from titans_mini.state import NeuralMemoryState


def check_sequence(layer: nn.Module, x: Tensor, state: NeuralMemoryState | None) -> None:
    """Refuse an input or a state that does not fit a `NeuralMemory`.

    Args:
        layer: the layer.
        x: what it was given to read, expected (B, T, dim).
        state: where it was told to go on from.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: x is not floating point, or not of the layer's type and device; something else than a state.
    """
    if not torch.is_tensor(x):
        raise TypeError(f"x: got {type(x).__name__}, expected a tensor of shape (B, T, {layer.dim})")
    if not x.is_floating_point():
        raise TypeError(f"x: got dtype {x.dtype}, expected floating point: token ids instead of embeddings?")
    if x.dim() != 3 or x.shape[-1] != layer.dim:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected (B, T, {layer.dim}): the batch axis first?")
    weight = layer.to_qkv.weight
    cast = x.device == weight.device and autocasts(x.device)  # then any floating type will do
    if x.device != weight.device or (x.dtype != weight.dtype and not cast):
        raise TypeError(
            f"x: got {x.dtype} on {x.device}, expected {weight.dtype} on {weight.device} as the layer: "
            "a .to(…) missing for the one or the other?"
        )
    if state is None:
        return
    if not isinstance(state, NeuralMemoryState):
        raise TypeError(f"state: got {type(state).__name__}, expected the NeuralMemoryState this layer returned")
    expected = (x.shape[0], 3 * layer.heads * layer.head_dim, layer.conv_size - 1)
    if tuple(state.conv.shape) != expected:
        got = tuple(state.conv.shape)
        raise ValueError(f"state.conv: got shape {got}, expected {expected}: another layer or batch?")
    if state.conv.device != x.device:
        raise TypeError(f"state.conv: got device {state.conv.device}, expected {x.device}: state.to(…) moves it")
