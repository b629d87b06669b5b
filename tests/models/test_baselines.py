"""The delta rules as settings of the memory, against loops of their own."""

import pytest
import torch

from titans_mini import neural_memory
from titans_mini.models.baselines import DeltaMemory


def delta_loop(q, k, v, keep, beta):
    """DeltaNet (keep = 1) and Gated DeltaNet as their papers write them, one token at a time."""
    B, H, T, D = q.shape
    M, y = torch.zeros(B, H, D, D, dtype=q.dtype), []
    for t in range(T):
        k_t, v_t = k[:, :, t, None], v[:, :, t, None]  # (B, H, 1, D)
        M = keep[:, :, t, None, None] * M
        M = M - beta[:, :, t, None, None] * k_t.mT @ (k_t @ M - v_t)
        y.append(q[:, :, t, None] @ M)
    return torch.cat(y, 2)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("C", [1, 7, 16])
@torch.no_grad()
def test_equal_by_algebra_to_the_published_rule(gated, C):
    torch.manual_seed(0)
    layer = DeltaMemory(16, 2, gated=gated, chunk_size=C).double()
    layer.to_gates.weight.normal_(0, 0.5)
    x = torch.randn(2, 40, 16, dtype=torch.float64)
    state = layer.init_state(2)
    q, k, v, _ = layer.project(x, state.conv)
    alpha, eta, theta = layer.gates(x)
    keep = 1 - alpha[..., 0]
    beta = 2 * theta[..., 0] / keep
    assert eta.abs().max() == 0 and 0 < beta.min() and beta.max() < 1 and (gated or keep.min() == 1)
    expected = delta_loop(q, k, v, keep, beta)
    y, _ = neural_memory(q, k, layer.targets(v, alpha), alpha, eta, theta, state.memory, net=layer.net, **layer.options)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_with_the_same_gates_gated_delta_is_not_the_memory_without_momentum():
    """The paper says it is; the erase term is decayed in the one and not in the other."""
    torch.manual_seed(0)
    layer = DeltaMemory(16, 2, gated=True, half_life=(4, 8)).double()
    x = torch.randn(1, 40, 16, dtype=torch.float64)
    state = layer.init_state(1)
    q, k, v, _ = layer.project(x, state.conv)
    alpha, eta, theta = layer.gates(x)
    keep, beta = 1 - alpha[..., 0], 2 * theta[..., 0] / (1 - alpha[..., 0])
    naive, _ = neural_memory(q, k, v, alpha, eta, beta[..., None] / 2, state.memory, net=layer.net, anchor="token")
    assert (naive - delta_loop(q, k, v, keep, beta)).abs().max() > 1e-3


@pytest.mark.parametrize("gated", [False, True])
def test_gradients_reach_every_parameter(gated):
    torch.manual_seed(0)
    layer = DeltaMemory(16, 2, gated=gated)
    y, _ = layer(torch.randn(2, 40, 16))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())
