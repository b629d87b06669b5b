"""The recorder: every M_t, S_t and surprise of a run, against a loop by hand."""

import pytest
import torch

from tests.helpers import NAMES, difference, inputs, matrix, network, start, state_difference
from titans_mini import MemoryNet, neural_memory
from titans_mini.memory.trace import record


def by_hand(x, state, net, C):
    """One token at a time with autograd and plain loops; returns what a trace must hold."""
    q, k, v, alpha, eta, theta = x
    gates = [g if g.dim() == 4 else g[..., None].expand(*g.shape, net.depth) for g in (alpha, eta, theta)]
    M, S, A = ([w.clone() for w in part] for part in (state.weights, state.momentum, state.anchor))
    kept = {name: [] for name in ("weights", "momentum", "momentary", "past", "loss")}
    kept["weights"].append(M), kept["momentum"].append(S)
    for t in range(q.shape[2]):
        a, e, th = ([g[:, :, t, i, None, None] for i in range(net.depth)] for g in gates)
        kept["loss"].append(((net(M, k[:, :, t : t + 1]) - v[:, :, t : t + 1]) ** 2).sum((-2, -1)))
        at = [w.clone().requires_grad_() for w in A]
        u = torch.autograd.grad(((net(at, k[:, :, t : t + 1]) - v[:, :, t : t + 1]) ** 2).sum(), at)
        kept["momentary"].append(sum((th[i] * u[i]).square().sum((-2, -1)) for i in range(net.depth)).sqrt())
        kept["past"].append(sum((e[i] * S[i]).square().sum((-2, -1)) for i in range(net.depth)).sqrt())
        S = [e[i] * S[i] - th[i] * u[i] for i in range(net.depth)]
        M = [(1 - a[i]) * M[i] + S[i] for i in range(net.depth)]
        A = M if (state.position + t + 1) % C == 0 else A
        kept["weights"].append(M), kept["momentum"].append(S)
    layers = {name: [torch.stack(w) for w in zip(*kept[name], strict=True)] for name in ("weights", "momentum")}
    return {**layers, **{name: torch.stack(kept[name]) for name in ("momentary", "past", "loss")}}


@pytest.mark.parametrize("layers", [None, 2])
@pytest.mark.parametrize(("C", "position"), [(1, 0), (4, 0), (4, 3)])
def test_a_trace_holds_what_a_loop_by_hand_finds(C, position, layers):
    net = network()
    x, state = inputs(T=9, theta=0.02, layers=layers), start(net, position=position)
    trace = record(*x, state, net=net, chunk_size=C)
    expected = by_hand(x, state, net, C)
    for name in ("weights", "momentum"):
        for got, w in zip(getattr(trace, name), expected[name], strict=True):
            assert got.shape == (10, 2, 2, *w.shape[-2:]) and difference(got, w) <= 1e-12
    for name in ("momentary", "past", "loss"):
        assert getattr(trace, name).shape == (9, 2, 2)
        assert difference(getattr(trace, name), expected[name]) <= 1e-12


@pytest.mark.parametrize("read", ["after", "before"])
def test_a_trace_agrees_with_one_call(read):
    net = network(depth=3)
    x, state = inputs(T=11, theta=0.02), start(net)
    trace = record(*x, state, net=net, chunk_size=4, read=read)
    y, end = neural_memory(*x, state, net=net, chunk_size=4, read=read, backend="recurrence")
    assert difference(trace.y, y) <= 1e-12 and len(trace) == 11
    for got, w in zip((*trace.weights, *trace.momentum), (*end.weights, *end.momentum), strict=True):
        assert difference(got[-1], w) <= 1e-12
    for got, w in zip(trace.weights, state.weights, strict=True):
        assert torch.equal(got[0], w)


def test_it_keeps_what_it_was_given_and_no_graph():
    net = network()
    x = [z.requires_grad_() for z in inputs(T=5)]
    state = start(net).map(lambda w: w.requires_grad_())
    kept = state.clone()
    trace = record(*x, state, net=net)
    for name, z in zip(NAMES, x, strict=True):
        assert torch.equal(getattr(trace, name), z) and not getattr(trace, name).requires_grad
    found = [*trace.weights, *trace.momentum, trace.momentary, trace.past, trace.loss, trace.y]
    assert not any(z.requires_grad for z in found) and state_difference(state, kept) == 0
    assert torch.is_grad_enabled()


def test_surprise_falls_where_one_pair_repeats():
    k, v = torch.eye(4)[:2].double()
    x = [z.expand(1, 1, 6, 4) for z in (k, k, v)] + [torch.full((1, 1, 6), g).double() for g in (0.0, 0.0, 0.25)]
    trace = record(*x, net=matrix())
    assert torch.allclose(trace.loss[:, 0, 0], 0.25 ** torch.arange(6.0).double())  # error halves: 1 − 2θ
    assert (trace.past == 0).all()
    assert torch.allclose(trace.momentary[:, 0, 0], 0.5 * 0.5 ** torch.arange(6.0).double())  # θ·2·error


def test_default_state_one_layer_and_half_precision():
    net = MemoryNet(4)
    assert record(*inputs(dtype=torch.float32), net=net).weights[0].dtype == torch.float32
    low = inputs(dtype=torch.bfloat16)
    trace = record(*low, net=net)
    y, _ = neural_memory(*(z.float() for z in low), net=net, chunk_size=1)
    assert trace.y.dtype == torch.float32 and difference(trace.y, y) <= 1e-5


def test_in_inference_mode():
    net = network()
    expected = record(*inputs(T=5), start(net), net=net)
    with torch.inference_mode():
        trace = record(*inputs(T=5), start(net), net=net)
    assert torch.equal(trace.loss, expected.loss) and torch.equal(trace.momentary, expected.momentary)
