"""Validation of inputs; every message names the value found, the value expected, and the likely cause.

Gates outside [0, 1] raise at once on a CPU. On a GPU reading a value would synchronise: the CPU would wait until the
GPU has computed it and everything queued before it. There a call copies the minimum and maximum of each gate to the
host asynchronously, and later calls check the values that have arrived.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor, nn

from titans_mini.memory.backends import BACKENDS
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.state import MemoryState, NeuralMemoryState
from titans_mini.memory.torch_modes import autocasts

HALF = (torch.float16, torch.bfloat16)

# -- the arguments of `neural_memory` ----------------------------------------------------------------------------------


def check_options(
    net: MemoryNet, chunk_size: int, anchor: str, read: str, backend: str, group_size: int | None
) -> None:
    """Raise if an option does not exist or does not fit the others."""
    if not isinstance(net, MemoryNet):
        raise TypeError(f"net: got {type(net).__name__}, expected a MemoryNet: MemoryNet(dim, depth=…)")
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
        raise ValueError(f"chunk_size: got {chunk_size!r}, expected an integer ≥ 1 (1 is the online rule)")
    whole = isinstance(group_size, int) and not isinstance(group_size, bool)
    if group_size is not None and (not whole or group_size < 1):
        raise ValueError(f"group_size: got {group_size!r}, expected an integer ≥ 1, in chunks, or None")
    if anchor not in ("chunk", "token"):
        raise ValueError(f"anchor: got {anchor!r}, expected 'chunk' or 'token'")
    if read not in ("after", "before"):
        raise ValueError(f"read: got {read!r}, expected 'after' (M_t) or 'before' (M_t−1)")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend: got {backend!r}, expected one of {['auto', *BACKENDS]}: a typing error?")
    if anchor == "token" and not net.is_matrix:
        raise ValueError(
            f"anchor: got 'token' with a memory of depth {net.depth}{' and norm' if net.norm else ''}, expected "
            "depth=1, norm=False: only a linear memory has the online rule in closed form; others use chunk_size=1"
        )


def check_tensors(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor, net: MemoryNet) -> None:
    """Raise at the first input of the wrong kind, dtype, device, shape or range."""
    named = {"q": q, "k": k, "v": v, "alpha": alpha, "eta": eta, "theta": theta}
    for name, x in named.items():
        if not torch.is_tensor(x):
            raise TypeError(f"{name}: got {type(x).__name__}, expected a tensor: a constant gate is torch.full(…)")
        if not x.is_floating_point():
            raise TypeError(f"{name}: got dtype {x.dtype}, expected floating point: token ids instead of vectors?")
    for name, x in named.items():
        if x.device != v.device:
            raise TypeError(f"{name}: got device {x.device}, expected {v.device} as for v: one .to(device) missing?")
        gate_of_half = name in ("alpha", "eta", "theta") and v.dtype in HALF and x.dtype == torch.float32
        if x.dtype != v.dtype and not gate_of_half:
            raise TypeError(f"{name}: got dtype {x.dtype}, expected {v.dtype} as for v: one .to(dtype) missing?")
    for p in net.parameters():
        if p.device != v.device:
            raise TypeError(f"net: got parameters on {p.device}, expected {v.device} as for v: net.to(…) moves it")
    if v.dim() != 4 or v.shape[-1] != net.dim:
        raise ValueError(f"v: got shape {tuple(v.shape)}, expected (B, H, T, D = {net.dim}): a head axis missing?")
    for name in ("q", "k"):
        if named[name].shape != v.shape:
            got, expected = tuple(named[name].shape), tuple(v.shape)
            raise ValueError(f"{name}: got shape {got}, expected {expected} as for v: other heads, length or batch?")
    for name in ("alpha", "eta", "theta"):
        check_gate_shape(name, named[name], v, net)
    if v.shape[:3].numel():
        check_gate_ranges({name: named[name] for name in ("alpha", "eta", "theta")})


def check_channels(net: MemoryNet, anchor: str, backend: str) -> None:
    """Raise if an option does not support one forget gate per channel."""
    if anchor == "token" or backend == "triton":
        got = "anchor='token'" if anchor == "token" else "backend='triton'"
        raise ValueError(
            f"alpha: got a rate for each channel with {got}, expected anchor='chunk' (chunk_size=1 is the online rule) "
            "and another backend: neither the closed form nor the kernels have one"
        )
    if any(out % net.dim for _, out in net.shapes):
        raise ValueError(
            f"alpha: got a rate for each of {net.dim} channels, expected hidden layers of a multiple of {net.dim}, not "
            f"{net.shapes[0][1]}: an expansion that is a whole number"
        )


def check_gate_shape(name: str, gate: Tensor, v: Tensor, net: MemoryNet) -> None:
    """Raise if a gate has the wrong shape."""
    shape = tuple(v.shape[:3])
    allowed = [shape, (*shape, 1), (*shape, net.depth)]
    if name == "alpha":
        allowed += [(*x, net.dim) for x in allowed[1:]]
    if tuple(gate.shape) not in allowed:
        raise ValueError(
            f"{name}: got shape {tuple(gate.shape)}, expected {shape} or {(*shape, net.depth)} (one for each layer): "
            "one gate per token and head"
        )


def check_state(
    state: MemoryState, net: MemoryNet, B: int, H: int, device: torch.device, dtype: torch.dtype, C: int, anchor: str
) -> None:
    """Raise if a state belongs to another network, batch, device, dtype or chunk size."""
    if not isinstance(state, MemoryState):
        raise TypeError(f"state: got {type(state).__name__}, expected a MemoryState: net.init_state(B, H) makes one")
    expected = [(B, H, *shape) for shape in net.shapes]
    for part in ("weights", "momentum", "anchor"):
        got = [tuple(w.shape) for w in getattr(state, part)]
        if got != expected:
            same_net = [g[2:] for g in got] == net.shapes
            cause = "another batch size or other heads?" if same_net else "a state of another network?"
            raise ValueError(f"state.{part}: got shapes {got}, expected {expected}: {cause}")
        for w in getattr(state, part):
            if w.device != device or w.dtype != dtype:
                raise TypeError(
                    f"state.{part}: got {w.dtype} on {w.device}, expected {dtype} on {device} as for the inputs: "
                    "state.to(…) moves it"
                )
    if anchor == "chunk" and not 0 <= state.position < C:
        raise ValueError(
            f"state.position: got {state.position}, expected less than chunk_size = {C}: "
            "a state from a run with a larger chunk size?"
        )


# -- gates in [0, 1] ---------------------------------------------------------------------------------------------------

MOST = 64  # pending calls per device; at this number the next call waits for the oldest


class _Pending(NamedTuple):
    """The minima and maxima of one call's gates, being copied to the host."""

    names: tuple[str, ...]
    bounds: Tensor
    arrived: torch.cuda.Event


_pending: dict[torch.device, deque[_Pending]] = {}


def check_gate_ranges(gates: dict[str, Tensor]) -> None:
    """Raise if a gate holds NaN or a value outside [0, 1]; on a GPU check the gates of earlier calls instead.

    Args:
        gates: tensors by name, of any shapes, on one device.

    Raises:
        ValueError: for the first invalid gate.
        RuntimeError: if their values cannot be read, as under torch.vmap.
    """
    device = next(iter(gates.values())).device
    if device.type == "meta":  # shapes without data
        return
    if device.type != "cuda":
        raise_if_outside(tuple(gates), _read_values(gates))
    elif not torch.cuda.is_current_stream_capturing():
        check_earlier_calls(device)
        _copy_to_host(device, gates)


def min_and_max(gates: dict[str, Tensor]) -> Tensor:
    """Compute the minimum and maximum of each gate: (2 · number of gates,); NaN propagates to both."""
    return torch.stack([x for gate in gates.values() for x in torch.aminmax(gate.detach())])


def _read_values(gates: dict[str, Tensor]) -> list[float]:
    """Return the minima and maxima of gates on a CPU as numbers."""
    try:
        return [x.item() for x in min_and_max(gates).cpu()]  # older PyTorch lacks `tolist` under torch.func.grad
    except RuntimeError as error:
        raise RuntimeError(
            f"{', '.join(gates)}: got tensors whose numbers cannot be looked at, expected ordinary ones: torch.vmap or "
            "a tracer? Sequences that vmap would go through belong in the batch axis B"
        ) from error


def raise_if_outside(names: tuple[str, ...], found: list[float], earlier: str = "") -> None:
    """Raise if a gate leaves [0, 1].

    Args:
        names: names of the gates.
        found: minimum and maximum of each gate in turn.
        earlier: text appended to the message.

    Raises:
        ValueError: for the first invalid gate.
    """
    for name, low, high in zip(names, found[::2], found[1::2], strict=True):
        if math.isnan(low):
            raise ValueError(
                f"{name}: got NaN, expected numbers in [0, 1]: did the network that makes the gates diverge?{earlier}"
            )
        if low < 0 or high > 1:
            raise ValueError(f"{name}: got values in [{low}, {high}], expected [0, 1]: a sigmoid missing?{earlier}")


def check_earlier_calls(device: torch.device, wait: bool = False) -> None:
    """Check the gates of earlier calls on a GPU, as far as their values have arrived.

    Args:
        device: the GPU of these calls.
        wait: whether to wait for all of them.

    Raises:
        ValueError: for the first invalid gate. Gates still pending are checked by later calls.
    """
    waiting = _pending.get(device, ())
    while waiting and (wait or len(waiting) >= MOST or waiting[0].arrived.query()):
        names, found, arrived = waiting.popleft()
        arrived.synchronize()
        raise_if_outside(names, found.tolist(), " (An earlier call on this GPU: no call waits for its own gates.)")


def _copy_to_host(device: torch.device, gates: dict[str, Tensor]) -> None:
    """Copy the minimum and maximum of each gate to the host asynchronously."""
    with torch.cuda.device(device):
        found = min_and_max(gates)
        host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
    _pending.setdefault(device, deque()).append(_Pending(tuple(gates), host, arrived))


# -- the options and the input of a layer ------------------------------------------------------------------------------


def check_switches(switches: dict[str, object]) -> None:
    """Raise if an option that is on or off is anything but True or False."""
    for name, x in switches.items():
        if not isinstance(x, bool):
            raise ValueError(f"{name}: got {x!r}, expected True or False: a text such as 'False' would count as true")


def check_sequence(layer: nn.Module, x: Tensor, state: NeuralMemoryState | None) -> None:
    """Raise if an input or a state does not fit a `NeuralMemory`.

    Args:
        layer: the layer.
        x: the input, expected (B, T, dim).
        state: the state to continue from, or None.

    Raises:
        ValueError: if shapes do not fit.
        TypeError: if x is not floating point, or not of the layer's dtype and device, or state has another class.
    """
    if not torch.is_tensor(x):
        raise TypeError(f"x: got {type(x).__name__}, expected a tensor of shape (B, T, {layer.dim})")
    if not x.is_floating_point():
        raise TypeError(f"x: got dtype {x.dtype}, expected floating point: token ids instead of embeddings?")
    if x.dim() != 3 or x.shape[-1] != layer.dim:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected (B, T, {layer.dim}): the batch axis first?")
    weight = layer.to_qkv.weight
    cast = x.device == weight.device and autocasts(x.device)  # then any floating-point dtype is allowed
    if x.device != weight.device or (x.dtype != weight.dtype and not cast):
        raise TypeError(
            f"x: got {x.dtype} on {x.device}, expected {weight.dtype} on {weight.device} as the layer: "
            "a .to(…) missing for the one or the other?"
        )
    if state is None:
        return
    if not isinstance(state, NeuralMemoryState):
        raise TypeError(f"state: got {type(state).__name__}, expected the NeuralMemoryState this layer returned")
    expected = (x.shape[0], layer.to_qkv.out_features, layer.conv_size - 1)
    if tuple(state.conv.shape) != expected:
        got = tuple(state.conv.shape)
        raise ValueError(f"state.conv: got shape {got}, expected {expected}: another layer or batch?")
    if state.conv.device != x.device:
        raise TypeError(f"state.conv: got device {state.conv.device}, expected {x.device}: state.to(…) moves it")
