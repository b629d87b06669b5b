"""One door to the memory: `neural_memory` checks what it is given and picks the path."""

from __future__ import annotations

import torch
from torch import Tensor

from titans_mini import ranges
from titans_mini.backends import BACKENDS, choose
from titans_mini.channelwise import channelwise
from titans_mini.compiling import not_compiled
from titans_mini.network import MemoryNet
from titans_mini.precision import no_autocast
from titans_mini.recurrence import recurrence
from titans_mini.state import MemoryState

_HALF = (torch.float16, torch.bfloat16)


@not_compiled
def neural_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    state: MemoryState | None = None,
    *,
    net: MemoryNet,
    chunk_size: int = 16,
    anchor: str = "chunk",
    read: str = "after",
    backend: str = "auto",
    group_size: int | None = None,
) -> tuple[Tensor, MemoryState]:
    """Stream a sequence through a memory that learns while it reads.

    S_t = η_t S_{t−1} − θ_t ∇ℓ(M_anchor; k_t, v_t),  M_t = (1−α_t) M_{t−1} + S_t,  y_t = M_t(q_t),
    with ℓ = ‖M(k) − v‖². Any split of a sequence into calls gives the same outputs and the same final state.

    Args:
        q: (B, H, T, D) queries.
        k: (B, H, T, D) keys.
        v: (B, H, T, D) values.
        alpha: (B, H, T) forget gates in [0, 1], or (B, H, T, depth): one for each layer, or (B, H, T, 1 or depth, D):
            one for each channel, see `channelwise`.
        eta: (B, H, T) momentum gates in [0, 1], or (B, H, T, depth).
        theta: step sizes in [0, 1], shaped like eta.
        state: where to go on from; default a fresh `net.init_state(B, H)`. It is never changed.
        net: the memory's network.
        chunk_size: C. Gradients are taken at the memory as it was at the start of the chunk; 1 is the online rule.
        anchor: "chunk", or "token": gradients at M_{t−1} whatever the chunk size (a matrix memory only; exact).
        read: "after" the write, y_t = M_t(q_t), or "before" it, M_{t−1}(q_t).
        group_size: for training with the chunked backend: chunks between two states that the backward pass keeps. 1 is
            fastest; a larger one takes less memory and computes each group again. Default: about 64 tokens.
        backend: "recurrence" (the definition), "chunked" (matrix products), "triton" (kernels for NVIDIA GPUs), or
            "auto" (the fastest that fits).

    Returns:
        y (B, H, T, D) in the type of v, and the state after the last token. Half-precision inputs are computed in
        float32, and the state is float32 then; the kernels multiply them as they are and sum in float32.

    Raises:
        ValueError: shapes, gates, sizes or options that cannot be. On a GPU, gates outside [0, 1] are said by the next
            call, for nobody waits for their numbers: `ranges.settle(device, wait=True)` does.
        TypeError: inputs that are not floating-point tensors of one type on one device.
        RuntimeError: backend="triton" where its kernels cannot run; it says why.

    Built in: notebooks/03 · Paper: eq. 13–18
    """
    _check_options(net, chunk_size, anchor, read, backend, group_size)
    _check_tensors(q, k, v, alpha, eta, theta, net)
    if alpha.dim() == 5:
        _check_channels(net, anchor, backend)
    dtype = torch.float32 if v.dtype in _HALF else v.dtype
    B, H = v.shape[:2]
    if state is None:
        state = net.init_state(B, H, device=v.device, dtype=dtype)
    _check_state(state, net, B, H, v.device, dtype, chunk_size, anchor)
    gates = [x.unsqueeze(-1) if x.dim() == 3 else x for x in (alpha, eta, theta)]
    (run, takes_half), outer = choose(backend, net, v, chunk_size, anchor), torch.is_grad_enabled()
    if alpha.dim() == 5 and run is not recurrence:
        run, takes_half = channelwise, False
    grouping = () if run is recurrence else (group_size,)
    # inference mode off: the memory differentiates while it reads
    with torch.inference_mode(False), torch.set_grad_enabled(outer), no_autocast(v.device):
        inputs = [_ordinary(x if takes_half else x.to(dtype)) for x in (q, k, v)]
        inputs += [_ordinary(x.to(dtype)) for x in gates]
        y, state = run(*inputs, state.map(_ordinary), net, chunk_size, anchor, read, *grouping)
        return y.to(v.dtype), state


def _ordinary(x: Tensor) -> Tensor:
    """Copy a tensor that was born in inference mode: autograd refuses it."""
    return x.clone() if x.is_inference() else x


def _check_options(
    net: MemoryNet, chunk_size: int, anchor: str, read: str, backend: str, group_size: int | None
) -> None:
    """Refuse options that do not exist or do not fit together."""
    if not isinstance(net, MemoryNet):
        raise TypeError(f"net: got {type(net).__name__}, expected a MemoryNet: MemoryNet(dim, depth=…)")
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
        raise ValueError(f"chunk_size: got {chunk_size!r}, expected an integer ≥ 1 (1 is the online rule)")
    if group_size is not None and (not isinstance(group_size, int) or group_size < 1):
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


def _check_tensors(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor, net: MemoryNet) -> None:
    """Refuse inputs of the wrong kind, type, device, shape or range, the first one found."""
    named = {"q": q, "k": k, "v": v, "alpha": alpha, "eta": eta, "theta": theta}
    for name, x in named.items():
        if not torch.is_tensor(x):
            raise TypeError(f"{name}: got {type(x).__name__}, expected a tensor: a constant gate is torch.full(…)")
        if not x.is_floating_point():
            raise TypeError(f"{name}: got dtype {x.dtype}, expected floating point: token ids instead of vectors?")
    for name, x in named.items():
        if x.device != v.device:
            raise TypeError(f"{name}: got device {x.device}, expected {v.device} as for v: one .to(device) missing?")
        gate_of_half = name in ("alpha", "eta", "theta") and v.dtype in _HALF and x.dtype == torch.float32
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
        _check_gate_shape(name, named[name], v, net)
    if v.shape[:3].numel():
        ranges.check({name: named[name] for name in ("alpha", "eta", "theta")})


def _check_channels(net: MemoryNet, anchor: str, backend: str) -> None:
    """Refuse what does not go with a forget gate for each channel."""
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


def _check_gate_shape(name: str, gate: Tensor, v: Tensor, net: MemoryNet) -> None:
    """Refuse a gate of the wrong shape."""
    shape = tuple(v.shape[:3])
    allowed = [shape, (*shape, 1), (*shape, net.depth)]
    if name == "alpha":
        allowed += [(*x, net.dim) for x in allowed[1:]]
    if tuple(gate.shape) not in allowed:
        raise ValueError(
            f"{name}: got shape {tuple(gate.shape)}, expected {shape} or {(*shape, net.depth)} (one for each layer): "
            "one gate per token and head"
        )


def _check_state(
    state: MemoryState, net: MemoryNet, B: int, H: int, device: torch.device, dtype: torch.dtype, C: int, anchor: str
) -> None:
    """Refuse a state that belongs to another network, batch, device, type or chunk size."""
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
