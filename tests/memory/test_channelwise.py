"""Channel-wise forgetting: equal to the definition, split, causal, differentiable, with the scalar gate inside it."""

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import difference, gradients, in_pieces, inputs, matrix, network, results_difference, start, tensors
from titans_mini import NeuralMemory, neural_memory

NETS = {
    "matrix": matrix(),
    "matrix + residual": matrix(residual=True),
    "mlp": network(),
    "depth 3, no norm": network(depth=3, norm=False, residual=False, activation="silu"),
    "depth 3, tanh": network(depth=3, activation="tanh", eps=0.025),
    "depth 4": network(depth=4, expansion=1, eps=0.025),  # as in NeuralMemory; a smaller one amplifies rounding
}


def channels(T=12, layers=None, seed=0, **options):
    """Inputs whose alpha has a rate for each channel, some exactly 0 and 1."""
    q, k, v, alpha, eta, theta = inputs(T=T, layers=layers, seed=seed, **options)
    g = torch.Generator().manual_seed(seed + 100)
    rates = 0.2 * torch.rand(*alpha.shape[:3], layers or 1, q.shape[-1], generator=g, dtype=torch.float64)
    where = torch.rand(rates.shape, generator=g)
    rates[where < 0.1], rates[where > 0.95] = 0.0, 1.0
    return [q, k, v, rates.to(q.dtype), eta, theta]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("C", [1, 4, 5, 16])
@pytest.mark.parametrize("read", ["after", "before"])
def test_equal_to_the_definition(name, C, read):
    net = NETS[name]
    for layers, position in ((None, 0), (net.depth, min(3, C - 1))):
        x, options = channels(layers=layers), {"net": net, "chunk_size": C, "read": read}
        state = start(net, position=position)
        slow = neural_memory(*x, state, backend="recurrence", **options)
        assert results_difference(neural_memory(*x, state, **options), slow) < 1e-12


@pytest.mark.parametrize("name", NETS)
def test_any_split_gives_the_same(name):
    net, x = NETS[name], channels(T=21)
    whole = neural_memory(*x, start(net), net=net, chunk_size=4)
    for cuts in ([7], [4, 8], [1, 2, 3, 20], range(1, 21)):
        assert results_difference(in_pieces(x, start(net), net, cuts, chunk_size=4), whole) < 1e-12


@pytest.mark.parametrize("name", NETS)
def test_outer_gradients_equal_those_of_the_definition(name):
    net = NETS[name]
    x, state = [z.requires_grad_() for z in channels(layers=net.depth)], start(net, position=2).map(torch.clone)
    leaves = [*x, *(w.requires_grad_() for w in tensors(state)), *net.parameters()]

    def run(backend):
        y, end = neural_memory(*x, state, net=net, chunk_size=4, backend=backend)
        return [y, *end.weights, *end.momentum]

    slow, fast = (gradients(lambda b=b: run(b), leaves) for b in ("recurrence", "chunked"))
    for a, b in zip(fast, slow, strict=True):
        assert (a is None) == (b is None) and (a is None or difference(a, b) < 1e-10)


def test_with_equal_rates_it_is_the_scalar_gate():
    net, (q, k, v, alpha, eta, theta) = NETS["mlp"], inputs(layers=2)
    rates = alpha[..., None].expand(*alpha.shape, 4)
    scalar = neural_memory(q, k, v, alpha, eta, theta, start(net), net=net, chunk_size=5)
    by_channel = neural_memory(q, k, v, rates, eta, theta, start(net), net=net, chunk_size=5)
    assert results_difference(by_channel, scalar) < 1e-12


def test_a_rate_acts_on_its_channel_of_the_values_alone():
    """A matrix memory, rate 1 on channel 2 at the last token: what was stored there is gone, the rest stays."""
    net, (q, k, v, alpha, eta, theta) = matrix(), channels(T=6)
    alpha.zero_()
    eta.zero_()
    theta[:, :, -1] = 0
    _, kept = neural_memory(q, k, v, alpha, eta, theta, net=net, chunk_size=3)
    alpha[:, :, -1, :, 2] = 1
    _, cleared = neural_memory(q, k, v, alpha, eta, theta, net=net, chunk_size=3)
    expected = kept.weights[0].clone()
    assert expected[..., 2].abs().max() > 0.01
    expected[..., 2] = 0
    assert difference(cleared.weights[0], expected) < 1e-15


@torch.no_grad()
def test_the_future_changes_nothing():
    net, x = NETS["mlp"], channels(T=20)
    y, _ = neural_memory(*x, net=net, chunk_size=8)
    for part, at in ((1, 9), (3, 15), (2, 19)):
        moved = [z.clone() for z in x]
        moved[part][:, :, at] = 0.5 * moved[part][:, :, at] + 0.1
        other, _ = neural_memory(*moved, net=net, chunk_size=8)
        assert torch.equal(other[:, :, :at], y[:, :, :at]) and not torch.equal(other[:, :, at:], y[:, :, at:])


def test_what_does_not_go_together_is_refused():
    x = channels()
    for options, message in (
        ({"net": matrix(), "anchor": "token"}, "chunk_size=1 is the online rule"),
        ({"net": NETS["mlp"], "backend": "triton"}, "the kernels"),
        ({"net": network(expansion=1.5)}, "a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            neural_memory(*x, **options)
    with pytest.raises(ValueError, match="eta: got shape"):
        neural_memory(*x[:4], x[3], x[5], net=NETS["mlp"])


def test_the_layer_forgets_by_channel_and_trains():
    torch.manual_seed(0)
    layer, x = NeuralMemory(16, 2, forget="channel", chunk_size=4), torch.randn(2, 30, 16)
    alpha, eta, _ = layer.gates(x)
    assert alpha.shape == (2, 2, 30, 2, 8) and eta.shape == (2, 2, 30, 2)
    scalar = NeuralMemory(16, 2, chunk_size=4).gates(x)[0]
    torch.testing.assert_close(alpha, scalar[..., None].expand_as(alpha))  # the same half-lives at the start
    losses, optimizer = [], torch.optim.Adam(layer.parameters(), 1e-2)
    for _ in range(15):
        loss = F.mse_loss(layer(x)[0], x.roll(3, 1))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.03
    alpha = layer.gates(x)[0]
    assert (alpha.max(-1).values - alpha.min(-1).values).max() > 1e-4  # the channels part ways
