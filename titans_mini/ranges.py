"""Gates outside [0, 1]: refused at once on a CPU; on a GPU, which nobody should wait for, by the next call.

To look at a number, a CPU has to wait until the GPU has computed it, and everything before it. A call on a GPU copies
the ends of its gates to the host behind its own back, and the calls after it look at what has arrived.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

MOST = 64  # calls whose ends are on their way; the next one waits for the oldest


class _Sent(NamedTuple):
    """Ends on their way to the host."""

    names: tuple[str, ...]
    ends: Tensor
    arrived: torch.cuda.Event


_sent: dict[torch.device, deque[_Sent]] = {}


def check(gates: dict[str, Tensor]) -> None:
    """Refuse gates with NaN or outside [0, 1]; on a GPU those of an earlier call.

    Args:
        gates: by name, any shapes, on one device.

    Raises:
        ValueError: the first gate found wrong.
        RuntimeError: nobody may look at their numbers, as under torch.vmap.
    """
    device = next(iter(gates.values())).device
    if device.type == "meta":  # shapes without numbers
        return
    if device.type != "cuda":
        judge(tuple(gates), _numbers(gates))
    elif not torch.cuda.is_current_stream_capturing():
        settle(device)
        _send(device, gates)


def ends(gates: dict[str, Tensor]) -> Tensor:
    """Find the least and the greatest of each gate: (2 · gates,); NaN passes through both."""
    return torch.stack([x for gate in gates.values() for x in torch.aminmax(gate.detach())])


def _numbers(gates: dict[str, Tensor]) -> list[float]:
    """Look at the ends of gates on a CPU."""
    try:
        return [x.item() for x in ends(gates).cpu()]  # under torch.func.grad `tolist` came later than `item`
    except RuntimeError as error:
        raise RuntimeError(
            f"{', '.join(gates)}: got tensors whose numbers cannot be looked at, expected ordinary ones: torch.vmap or "
            "a tracer? Sequences that vmap would go through belong in the batch axis B"
        ) from error


def judge(names: tuple[str, ...], found: list[float], earlier: str = "") -> None:
    """Raise if a gate leaves [0, 1].

    Args:
        names: of the gates.
        found: their ends, two for each.
        earlier: how the error ends.
    """
    for name, low, high in zip(names, found[::2], found[1::2], strict=True):
        if math.isnan(low):
            raise ValueError(
                f"{name}: got NaN, expected numbers in [0, 1]: did the network that makes the gates diverge?{earlier}"
            )
        if low < 0 or high > 1:
            raise ValueError(f"{name}: got values in [{low}, {high}], expected [0, 1]: a sigmoid missing?{earlier}")


def settle(device: torch.device, wait: bool = False) -> None:
    """Judge the gates of earlier calls on a GPU, as far as their ends have arrived.

    Args:
        device: whose calls.
        wait: for all of them.

    Raises:
        ValueError: the first gate found wrong. What was sent before and after it is still judged by later calls.
    """
    waiting = _sent.get(device, ())
    while waiting and (wait or len(waiting) >= MOST or waiting[0].arrived.query()):
        names, found, arrived = waiting.popleft()
        arrived.synchronize()
        judge(names, found.tolist(), " (It was an earlier call on this GPU: no call waits for its own gates.)")


def _send(device: torch.device, gates: dict[str, Tensor]) -> None:
    """Let the ends of gates travel to the host, without waiting for them."""
    with torch.cuda.device(device):
        found = ends(gates)
        host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
    _sent.setdefault(device, deque()).append(_Sent(tuple(gates), host, arrived))
