"""The memory's network: what it computes, its gradient written by hand, its weights."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import difference, matrix, network, start
from titans_mini import MemoryNet
from titans_mini.memory.derivatives import ACTIVATIONS, layer_norm_vjp, layer_norm_vjp_backward

SIGMA = {"gelu": F.gelu, "silu": F.silu, "relu": torch.relu, "tanh": torch.tanh}


def test_activations_and_their_derivatives():
    x = torch.linspace(-6, 6, 401, dtype=torch.float64).requires_grad_()  # 0 is not among them for relu's sake
    x = (x + 1e-3).detach().requires_grad_()
    assert ACTIVATIONS.keys() == SIGMA.keys()
    t = torch.linspace(1, 2, 401, dtype=torch.float64)
    for name, (sigma, vjp, second_derivative) in ACTIVATIONS.items():
        y = SIGMA[name](x)
        torch.testing.assert_close(sigma(x), y)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        torch.testing.assert_close(vjp(t, x), t * slope, rtol=0, atol=1e-14)
        (curve,) = torch.autograd.grad(slope.sum() + 0 * x.sum(), x)
        torch.testing.assert_close(second_derivative(x.detach()), curve, rtol=0, atol=1e-13)


def test_the_layer_norm_backward_twice():
    g = torch.Generator().manual_seed(0)
    v, z, u = torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=g)
    gain, bias = (x.requires_grad_() for x in torch.randn(2, 5, dtype=torch.float64, generator=g).unbind(0))
    v, z = v.requires_grad_(), z.requires_grad_()
    y = F.layer_norm(z, (5,), gain, bias, 1e-2)
    dy = v - y  # what the loss sends back depends on all of them
    delta, d_gain = torch.autograd.grad(y, (z, gain), dy, create_graph=True)
    found = layer_norm_vjp(dy, z, gain, 1e-2, affine=True)
    for got, expected in zip(found, (delta, d_gain, dy.sum((0, 1))), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)
    expected = torch.autograd.grad(delta, (v, z, gain, bias), u)
    with torch.no_grad():
        found = layer_norm_vjp_backward(u, delta, dy, z, gain, 1e-2)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("activation", SIGMA)
@pytest.mark.parametrize(("residual", "norm"), [(False, False), (True, False), (False, True), (True, True)])
def test_it_computes_what_it_says(activation, residual, norm):
    net = network(D=3, depth=3, residual=residual, norm=norm, activation=activation)
    W1, W2, W3 = W = start(net).weights
    x = torch.randn(2, 2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = SIGMA[activation]
    y = sigma(sigma(x @ W1) @ W2) @ W3
    if norm:
        mean, variance = y.mean(-1, keepdim=True), y.var(-1, keepdim=True, unbiased=False)
        y = (y - mean) / (variance + 1e-5).sqrt() * net.norm_weight + net.norm_bias
    assert difference(net(W, x), x + y if residual else y) < 1e-13


@pytest.mark.parametrize("activation", SIGMA)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(("residual", "norm"), [(False, False), (True, False), (False, True), (True, True)])
def test_gradients_by_hand_equal_autograd(activation, depth, residual, norm):
    net = network(D=3, depth=depth, residual=residual, norm=norm, activation=activation)
    W = [w.requires_grad_() for w in start(net, B=1, H=2).weights]
    k, v = torch.randn(2, 1, 2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a, z = [k], []
    for w in W:
        z.append(a[-1] @ w)
        a.append(SIGMA[activation](z[-1]))
    delta, _ = net.deltas(2 * (net.finish(z[-1], k) - v), z, W)
    a = a[:-1]
    assert [x.shape[-1] for x in a] == [i for i, _ in net.shapes]
    assert [x.shape[-1] for x in delta] == [o for _, o in net.shapes]
    for t in range(4):
        loss = (net(W, k[:, :, t : t + 1]) - v[:, :, t : t + 1]).square().sum()
        for a_l, d_l, expected in zip(a, delta, torch.autograd.grad(loss, W), strict=True):
            assert difference(a_l[:, :, t, :, None] * d_l[:, :, t, None, :], expected) < 1e-12


def test_shapes():
    assert MemoryNet(4).shapes == [(4, 16), (16, 4)]
    assert MemoryNet(4, depth=3, expansion=1.5).shapes == [(4, 6), (6, 6), (6, 4)]
    assert MemoryNet(4, depth=1, expansion=7).shapes == [(4, 4)]
    assert [MemoryNet(4, d, norm=n).is_matrix for d, n in ((1, False), (1, True), (2, False))] == [True, False, False]


def test_parameters_are_the_norm_only():
    assert {name: p.shape for name, p in MemoryNet(5).named_parameters()} == {"norm_weight": (5,), "norm_bias": (5,)}
    assert list(MemoryNet(5, norm=False).parameters()) == []


def test_a_matrix_starts_at_zero_and_an_mlp_does_not():
    (W,) = MemoryNet(4, depth=1, residual=False, norm=False).init_weights(3)
    assert W.shape == (3, 4, 4) and (W == 0).all()
    for net in (MemoryNet(32), MemoryNet(32, depth=1), MemoryNet(32, depth=3, norm=False, residual=False)):
        for w, (i, o) in zip(net.init_weights(3), net.shapes, strict=True):
            assert w.shape == (3, i, o)
            expected = 1.0 if net.norm else i**-0.5  # under a norm the gain is the scale
            assert abs(w.std().item() / expected - 1) < 0.05 and abs(w.mean().item()) < 0.1 * expected
            assert not torch.equal(w[0], w[1])


def test_the_gain_of_the_norm_sets_the_scale_of_the_weights():
    net = MemoryNet(32)
    torch.nn.init.constant_(net.norm_weight, 0.25)
    assert abs(net.init_weights(2)[0].std().item() - 0.25) < 0.01
    torch.nn.init.zeros_(net.norm_weight)
    assert net.init_weights(2)[0].std().item() > 0.1  # a zero MLP would never learn


def test_a_draw_repeats_and_a_generator_varies_it():
    net = MemoryNet(4)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again = net.init_weights(2), net.init_weights(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = net.init_weights(2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    assert torch.equal(net.init_weights(2, dtype=torch.float64)[0].float(), first[0])
    assert net.init_weights(2, device="meta")[0].is_meta


def test_init_state():
    net = MemoryNet(4)
    s = net.init_state(3, 2, dtype=torch.float64)
    assert s.position == 0 and (s.batch, s.heads) == (3, 2)
    for part in (s.weights, s.momentum, s.anchor):
        assert [tuple(w.shape) for w in part] == [(3, 2, 4, 16), (3, 2, 16, 4)]
        assert all(w.dtype == torch.float64 for w in part)
    assert all((w == 0).all() for w in s.momentum)
    assert torch.equal(s.weights[0][0], s.weights[0][2]) and torch.equal(s.weights[0], s.anchor[0])


def test_init_state_from_given_weights_keeps_their_graph():
    net = MemoryNet(4)
    shared = tuple(w.requires_grad_() for w in net.init_weights(2))
    own = tuple(w.expand(3, *w.shape) * 2 for w in shared)
    assert net.init_state(3, 2, weights=shared).weights[0].requires_grad
    assert torch.equal(net.init_state(3, 2, weights=own).weights[1], own[1])


@pytest.mark.parametrize("fault", ["one layer", "heads", "batch", "transposed", "another network", "a tensor"])
def test_weights_that_do_not_fit(fault):
    net = MemoryNet(4)
    W = net.init_weights(2)
    wrong = {
        "one layer": W[:1],
        "heads": net.init_weights(3),
        "batch": tuple(w.expand(2, *w.shape) for w in W),
        "transposed": W[::-1],
        "another network": MemoryNet(5).init_weights(2),
        "a tensor": W[0],
    }[fault]
    with pytest.raises(ValueError, match=r"weights: got shapes .*, expected .*\(3, 2, 4, 16\).*another network\?"):
        net.init_state(3, 2, weights=wrong)


@pytest.mark.parametrize(
    "wrong", [{"dim": 0}, {"dim": -2}, {"depth": 0}, {"expansion": 0}, {"expansion": float("nan")}]
)
def test_sizes_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="MemoryNet: got dim=.*expected all positive"):
        MemoryNet(**{"dim": 4} | wrong)


def test_a_hidden_layer_needs_a_unit():
    with pytest.raises(ValueError, match=r"got expansion=0.1 of dim=4, .*one unit: 0.4 rounds to none"):
        MemoryNet(4, expansion=0.1)
    assert MemoryNet(4, depth=1, expansion=0.1).shapes == [(4, 4)]  # a matrix has no hidden layer


def test_an_unknown_activation():
    with pytest.raises(ValueError, match="got activation='swish', expected one of .*'silu'"):
        MemoryNet(4, activation="swish")


def test_with_parameters_borrows_and_leaves_the_module_alone():
    net = network()
    state, x = start(net), torch.randn(2, 2, 3, 4, dtype=torch.float64)
    gain, bias = torch.full((4,), 2.0, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    other = net.with_parameters([gain, bias])
    plain = net.with_parameters([gain / 2, bias - 1])(state.weights, x) - x
    assert difference(other(state.weights, x), x + 2 * plain + 1) < 1e-14
    assert other.norm_weight is gain and isinstance(net.norm_weight, torch.nn.Parameter)
    assert matrix().with_parameters([]).is_matrix
    with pytest.raises(ValueError, match="zip"):
        net.with_parameters([gain])


def test_state_dict_pickle_deepcopy_and_print():
    net = network()
    x, W = torch.randn(2, 2, 3, 4, dtype=torch.float64), start(net).weights
    other = MemoryNet(4, expansion=2).double()
    other.load_state_dict(net.state_dict())
    for twin in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(W, x), net(W, x))
    assert "dim=4, depth=2, expansion=2" in repr(net)


def test_eps_is_the_eps_of_the_norm():
    W = (torch.zeros(1, 1, 2, 2, dtype=torch.float64),)
    W[0][..., 0, 0] = 1.0
    x = torch.tensor([[[[2.0, 0.0]]]], dtype=torch.float64)
    for eps in (1e-5, 0.5):
        net = MemoryNet(2, depth=1, residual=False, eps=eps).double()
        assert math.isclose(net(W, x)[0, 0, 0, 0].item(), 1 / math.sqrt(1 + eps), rel_tol=1e-12)
