"""A recorded run, with weights, momentum and surprise at every token, for widgets and figures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from titans_mini.memory.functional import neural_memory
from titans_mini.memory.network import MemoryNet, Weights
from titans_mini.memory.recurrence import loss, surprise
from titans_mini.memory.state import MemoryState


@dataclass(frozen=True)
class Trace:
    """One run through a memory, token by token; index 0 of `weights` and `momentum` is the start.

    Attributes:
        weights: L tensors (T+1, B, H, in, out), M_0 … M_T.
        momentum: L tensors (T+1, B, H, in, out), S_0 … S_T.
        momentary: (T, B, H), ‖θ_t ∇ℓ‖ over all layers: the step of this token alone.
        past: (T, B, H), ‖η_t S_{t−1}‖ over all layers: the step that earlier surprise still makes.
        loss: (T, B, H), ℓ(M_{t−1}; k_t, v_t), before the write.
        y: (B, H, T, D), the outputs.
        q: (B, H, T, D) as given; k, v, alpha, eta, theta likewise.
        k: see q.
        v: see q.
        alpha: (B, H, T) or (B, H, T, L) as given.
        eta: see alpha.
        theta: see alpha.

    Built in: notebooks/01 · Paper: eq. 8–14
    """

    weights: Weights
    momentum: Weights
    momentary: Tensor
    past: Tensor
    loss: Tensor
    y: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    alpha: Tensor
    eta: Tensor
    theta: Tensor

    def __len__(self) -> int:
        """Return the number of tokens T."""
        return self.k.shape[2]


def _norm(tensors: Weights) -> Tensor:
    """Frobenius norm over all layers: (B, H)."""
    return sum(x.square().sum((-2, -1)) for x in tensors).sqrt()


@torch.inference_mode(False)  # every token is differentiated, which inference mode does not allow
@torch.no_grad()
def record(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    state: MemoryState | None = None,
    *,
    net: MemoryNet,
    chunk_size: int = 1,
    read: str = "after",
) -> Trace:
    """Run a sequence through `neural_memory` one token per call and record every state.

    Meant for a few hundred tokens: it stores every M_t and S_t.

    Args:
        q: (B, H, T, D) queries.
        k: (B, H, T, D) keys.
        v: (B, H, T, D) values.
        alpha: (B, H, T) or (B, H, T, L) forget gates.
        eta: momentum gates, shaped like alpha.
        theta: step sizes, shaped like alpha.
        state: the initial state; default `net.init_state(B, H)`.
        net: the memory's network.
        chunk_size: C; 1 is the online rule.
        read: "after" or "before" the write.

    Returns:
        The recorded run, without gradients.

    Raises:
        ValueError: as `neural_memory`, and for a sequence without tokens.
        TypeError: as `neural_memory`.

    Built in: notebooks/01 · Paper: eq. 8–14
    """
    # one call over the whole sequence checks the inputs before anything is recorded, and sets the state's dtype
    _, end = neural_memory(q, k, v, alpha, eta, theta, state, net=net, chunk_size=chunk_size, read=read)
    if v.shape[2] == 0:
        raise ValueError(f"record: got shape {tuple(v.shape)}, expected (B, H, T, D) with at least one token")
    kind = {"device": v.device, "dtype": end.weights[0].dtype}
    state = state.clone() if state else net.init_state(*v.shape[:2], **kind)
    q, k, v, alpha, eta, theta = (x.to(**kind, copy=True) for x in (q, k, v, alpha, eta, theta))
    states, momentary, past, losses, y = [state], [], [], [], []
    for t in range(v.shape[2]):
        at = state.anchor if state.position else state.weights
        gates = [g[:, :, t].reshape(*g.shape[:2], -1).expand(-1, -1, net.depth).unbind(-1) for g in (eta, theta)]
        (eta_t, theta_t) = [[g[..., None, None] for g in layer] for layer in gates]
        u = surprise(net, at, k[:, :, t], v[:, :, t])
        momentary.append(_norm(tuple(a * b for a, b in zip(theta_t, u, strict=True))))
        past.append(_norm(tuple(a * b for a, b in zip(eta_t, state.momentum, strict=True))))
        losses.append(loss(net, state.weights, k[:, :, t], v[:, :, t]))
        token = [x[:, :, t : t + 1] for x in (q, k, v, alpha, eta, theta)]
        y_t, state = neural_memory(*token, state, net=net, chunk_size=chunk_size, read=read)
        states.append(state)
        y.append(y_t)
    weights = tuple(torch.stack(layer).detach() for layer in zip(*(s.weights for s in states), strict=True))
    momentum = tuple(torch.stack(layer).detach() for layer in zip(*(s.momentum for s in states), strict=True))
    kept = (torch.stack(momentary), torch.stack(past), torch.stack(losses), torch.cat(y, 2))
    return Trace(weights, momentum, *(x.detach() for x in (*kept, q, k, v, alpha, eta, theta)))
