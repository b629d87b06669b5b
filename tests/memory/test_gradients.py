"""Outer gradients: through every update, by both backends, and what autograd may be asked besides."""

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.helpers import (
    NAMES,
    difference,
    gradients,
    inputs,
    matrix,
    network,
    results_difference,
    start,
    tensors,
)
from titans_mini import MemoryState, NeuralMemory, neural_memory
from titans_mini.memory import scan

BACKENDS = ["recurrence", "chunked"]


def problem(depth, residual=True, norm=True, layers=None, T=5, B=1, H=1, D=2, position=0, theta=0.1):
    """Everything that can want a gradient, and a function of it all that returns everything computed."""
    net = network(D=D, depth=depth, residual=residual, norm=norm)
    x = inputs(B=B, H=H, T=T, D=D, layers=layers, theta=theta, edges=False)
    x[3:] = [z.clamp(0.02, 0.98) for z in x[3:]]  # gradcheck takes steps to both sides
    state = start(net, B=B, H=H, position=position)
    parts = [*state.weights, *state.momentum, *(state.anchor if position else ())]
    leaves = [z.clone().requires_grad_() for z in (*x, *parts, *net.parameters())]
    L = len(net.shapes)

    def run(*z, **options):
        weights, momentum = z[6 : 6 + L], z[6 + L : 6 + 2 * L]
        anchor = z[6 + 2 * L : 6 + 3 * L] if position else weights
        slow = z[6 + (3 if position else 2) * L :]
        begin = MemoryState(weights, momentum, anchor, position)
        y, end = neural_memory(*z[:6], begin, net=net.with_parameters(slow), **options)
        return y, *end.weights, *end.momentum, *(end.anchor if end.position else ())

    return run, leaves


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("depth", "kind", "options"),
    [
        (1, {"residual": False, "norm": False, "position": 1}, {"chunk_size": 2}),
        (1, {"residual": True, "norm": False}, {"chunk_size": 2, "anchor": "token"}),
        (2, {"position": 2}, {"chunk_size": 3, "read": "before"}),
        (2, {"norm": False, "layers": 2}, {"chunk_size": 2}),
        (3, {"residual": False, "layers": 3}, {"chunk_size": 2}),
    ],
)
def test_gradcheck(depth, kind, options, backend):
    """Of q, k, v, gates, initial weights, momentum, anchor and norm, through outputs and the final state.

    Three tokens of width 2 cross the end of a chunk, and that is all the derivatives can get wrong.
    """
    run, leaves = problem(depth, **kind, T=3)
    assert torch.autograd.gradcheck(lambda *z: run(*z, backend=backend, **options), leaves, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("read", ["after", "before"])
@pytest.mark.parametrize(("residual", "norm"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_chunked_gradients_equal_those_of_the_definition(depth, residual, norm, read):
    for T, C, position in ((11, 4, 0), (7, 5, 3), (3, 8, 2), (9, 1, 0)):
        run, leaves = problem(depth, residual, norm, depth, T, B=2, H=2, D=4, position=position, theta=0.02)
        got, expected = (
            gradients(lambda b=b: run(*leaves, backend=b, chunk_size=C, read=read), leaves)  # noqa: B023
            for b in ("chunked", "recurrence")
        )
        for a, b in zip(got, expected, strict=True):
            assert a is not None and difference(a, b) <= 1e-10


@pytest.mark.parametrize("residual", [False, True])
def test_gradients_of_the_exact_online_rule_do_not_depend_on_the_chunk_size(residual):
    run, leaves = problem(1, residual, norm=False, T=13, B=2, H=2, D=3, theta=1.0)
    expected = gradients(lambda: run(*leaves, backend="recurrence", chunk_size=1), leaves)
    for C in (1, 4, 16):
        got = gradients(lambda C=C: run(*leaves, backend="chunked", chunk_size=C, anchor="token"), leaves)
        assert max(difference(a, b) for a, b in zip(got, expected, strict=True)) <= 1e-10


@pytest.mark.parametrize("backend", BACKENDS)
def test_gates_of_exactly_0_and_1_have_finite_gradients(backend):
    net = network()
    x = [z.requires_grad_() for z in inputs(T=12, theta=0.02)]
    y, end = neural_memory(*x, start(net), net=net, chunk_size=4, backend=backend)
    for name, g in zip(NAMES, torch.autograd.grad(y.sum() + end.weights[0].sum(), x), strict=True):
        assert g.isfinite().all() and g.abs().max() > 0, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_input_learns_through_the_update(backend):
    """With a loss on the last token's answer only, what earlier tokens wrote carries all the gradient."""
    net = network()
    x = [z.requires_grad_() for z in inputs(T=9, theta=0.05, edges=False)]
    state = start(net).map(lambda w: w.requires_grad_())
    y, _ = neural_memory(*x, state, net=net, chunk_size=4, backend=backend)
    found = dict(zip(NAMES, torch.autograd.grad(y[:, :, -1].square().sum(), x, retain_graph=True), strict=True))
    for name in NAMES[1:]:
        assert (found[name].reshape(2, 2, 9, -1)[:, :, :-1].abs().sum(-1) > 0).all(), name
    assert (found["q"][:, :, :-1] == 0).all() and found["q"][:, :, -1].abs().max() > 0
    for part in (state.weights, state.momentum):
        assert all(g.abs().max() > 0 for g in torch.autograd.grad(y[:, :, -1].sum(), part, retain_graph=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_causal_and_do_not_mix_sequences_or_heads(backend):
    net = network()
    x = [z.requires_grad_() for z in inputs(T=9, theta=0.05, edges=False)]
    y, _ = neural_memory(*x, start(net), net=net, chunk_size=4, backend=backend)
    for g in torch.autograd.grad(y[0, 1, 5].sum(), x):
        rest = g.clone()
        rest[0, 1, :6] = 0
        assert (rest == 0).all() and g[0, 1, :6].abs().max() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_detached_state_stops_the_gradient(backend):
    """Truncated backpropagation: values go on, gradients stop."""
    net, options = network(), {"chunk_size": 4, "backend": backend}
    x = [z.requires_grad_() for z in inputs(T=10, theta=0.05)]
    first, second = [z[:, :, :6] for z in x], [z[:, :, 6:] for z in x]
    whole, _ = neural_memory(*x, start(net), net=net, **options)
    _, state = neural_memory(*first, start(net), net=net, **options)
    y, _ = neural_memory(*second, state.detach(), net=net, **options)
    assert difference(y, whole[:, :, 6:]) <= 1e-12
    cut = torch.autograd.grad(y.square().sum(), x)
    full = torch.autograd.grad(whole[:, :, 6:].square().sum(), x)
    for a, b in zip(cut[1:], full[1:], strict=True):
        assert (a[:, :, :6] == 0).all() and a[:, :, 6:].abs().max() > 0 and b[:, :, :6].abs().max() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_through_several_calls_equal_those_of_one(backend):
    net, options = network(), {"chunk_size": 4, "backend": backend}
    x = [z.requires_grad_() for z in inputs(T=10, theta=0.05)]
    whole, _ = neural_memory(*x, start(net), net=net, **options)
    state, y = start(net), []
    for begin, end in ((0, 3), (3, 4), (4, 10)):
        piece, state = neural_memory(*(z[:, :, begin:end] for z in x), state, net=net, **options)
        y.append(piece)
    leaves = [*x, *net.parameters()]
    got = torch.autograd.grad(torch.cat(y, 2).square().sum(), leaves, allow_unused=True)
    for a, b in zip(got, torch.autograd.grad(whole.square().sum(), leaves, allow_unused=True), strict=True):
        assert a is not None and b is not None and difference(a, b) <= 1e-10


# -- what autograd may be asked besides -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_twice_with_retain_graph(backend):
    net = network()
    x = [z.requires_grad_() for z in inputs(T=9)]
    leaves = [*x, *net.parameters()]
    y, _ = neural_memory(*x, start(net), net=net, chunk_size=4, backend=backend)
    first = torch.autograd.grad(y.square().sum(), leaves, retain_graph=True)
    second = torch.autograd.grad(y.square().sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(y.square().sum(), leaves)


@pytest.mark.parametrize("names", [["k"], ["alpha"], ["v", "theta"], []])
@pytest.mark.parametrize("backend", BACKENDS)
def test_only_some_want_a_gradient(backend, names):
    net = network()
    net.norm_bias.requires_grad_(False)
    x = [z.requires_grad_(name in names) for name, z in zip(NAMES, inputs(T=6, theta=0.05), strict=True)]
    y, _ = neural_memory(*x, start(net), net=net, chunk_size=4, backend=backend)
    leaves = [*(z for z in x if z.requires_grad), net.norm_weight]
    y.square().sum().backward()
    assert all(z.grad.abs().max() > 0 for z in leaves) and net.norm_bias.grad is None
    everything = [z.detach().requires_grad_() for z in x]
    y, _ = neural_memory(*everything, start(net), net=net, chunk_size=4, backend="recurrence")
    expected = dict(zip(NAMES, torch.autograd.grad(y.square().sum(), everything), strict=True))
    for name, z in zip(NAMES, x, strict=True):
        assert z.grad is None if name not in names else difference(z.grad, expected[name]) <= 1e-10


def test_second_derivatives():
    """The definition has them; the chunked form refuses, rather than return a wrong number."""
    net = matrix(D=2)
    x = inputs(B=1, H=1, T=2, D=2, edges=False)
    k = x[1].requires_grad_()

    def run(k, backend="recurrence"):
        return neural_memory(x[0], k, *x[2:], start(net, B=1, H=1), net=net, chunk_size=2, backend=backend)[0]

    assert torch.autograd.gradgradcheck(run, (k,))
    (g,) = torch.autograd.grad(run(k, "chunked").square().sum(), k, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative through the chunked form"):
        g.square().sum().backward()
    for y in (run(k, "chunked").sum(), run(k, "chunked").square().sum()):  # also asked for by name
        (g,) = torch.autograd.grad(y, k, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivative through the chunked form"):
            torch.autograd.grad(g.square().sum(), k, allow_unused=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_change_between_forward_and_backward_is_noticed(backend):
    """An optimizer step in between would otherwise give silently wrong gradients."""
    for change in ("norm", "keys"):
        net = network()
        x = [z.requires_grad_() for z in inputs(T=9)]
        k = x[1] * 1
        y, _ = neural_memory(x[0], k, *x[2:], start(net), net=net, backend=backend)
        with torch.no_grad():
            (net.norm_weight if change == "norm" else k).mul_(2)
        with pytest.raises(RuntimeError, match="modified (by an )?inplace"):
            y.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_functional_call_with_other_parameters(backend):
    """Parameters swapped in for one call (torch.func, ensembles, meta-learning) get the gradients, not the module's."""
    torch.manual_seed(0)
    layer = NeuralMemory(8, heads=2, chunk_size=4, backend=backend).double()
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    other = {name: (1.1 * p).detach().requires_grad_() for name, p in layer.named_parameters()}
    y, _ = torch.func.functional_call(layer, other, (x,))
    got = torch.autograd.grad(y.square().sum(), list(other.values()))
    twin = copy.deepcopy(layer)
    twin.load_state_dict({name: p.detach() for name, p in other.items()})
    expected = torch.autograd.grad(twin(x)[0].square().sum(), list(twin.parameters()))
    for a, b in zip(got, expected, strict=True):
        assert difference(a, b) <= 1e-12 and b.abs().max() > 0
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_checkpointing(reentrant):
    torch.manual_seed(0)
    layer = NeuralMemory(8, heads=2, chunk_size=4).double()
    x = torch.randn(2, 9, 8, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    layer(x)[0].square().sum().backward()
    expected = [p.grad for p in leaves]
    for p in leaves:
        p.grad = None
    checkpoint(lambda z: layer(z)[0], x, use_reentrant=reentrant).square().sum().backward()
    for p, g in zip(leaves, expected, strict=True):
        assert difference(p.grad, g) <= 1e-12


def test_hooks_and_saved_tensors_hooks():
    """A hook on a slow weight sees its gradient; what is kept for the backward pass can be packed away."""
    net, seen = network(), []
    x = [z.requires_grad_() for z in inputs(T=9)]
    plain, _ = neural_memory(*x, start(net), net=net, chunk_size=4)
    expected = torch.autograd.grad(plain.sum(), x)
    net.norm_weight.register_hook(lambda g: seen.append(g.clone()))
    with torch.autograd.graph.saved_tensors_hooks(lambda z: z.clone().numpy(force=True), torch.from_numpy):
        y, _ = neural_memory(*x, start(net), net=net, chunk_size=4)
    y.sum().backward()
    assert len(seen) >= 1 and torch.equal(net.norm_weight.grad, sum(seen))
    assert all(torch.equal(z.grad, g) for z, g in zip(x, expected, strict=True))


def test_gradients_of_the_state_reach_a_learned_initial_memory():
    net = network()
    M0 = tuple(w.double().requires_grad_() for w in net.init_weights(2))
    x = inputs(B=3, T=9, theta=0.05)
    y, end = neural_memory(*x, net.init_state(3, 2, weights=M0), net=net, chunk_size=4)
    got = torch.autograd.grad(y.sum(), M0, retain_graph=True)
    again, _ = neural_memory(*x, net.init_state(3, 2, weights=M0), net=net, chunk_size=4, backend="recurrence")
    for a, b in zip(got, torch.autograd.grad(again.sum(), M0), strict=True):
        assert difference(a, b) <= 1e-10 and a.abs().max() > 0
    assert all(w.requires_grad for w in tensors(end))


def test_grad_mode_changes_no_number():
    net = network()
    x, state = inputs(T=40, theta=0.02), start(net)
    with torch.no_grad():
        without = neural_memory(*x, state, net=net, chunk_size=2)
    with_graph = neural_memory(*(z.requires_grad_() for z in x), state, net=net, chunk_size=2)
    assert results_difference(with_graph, without) == 0


@pytest.mark.parametrize(
    ("depth", "norm", "position", "anchor", "read"),
    [
        (2, True, 0, "chunk", "after"),
        (2, False, 1, "chunk", "before"),
        (3, True, 1, "chunk", "after"),
        (1, True, 0, "chunk", "before"),
        (1, False, 0, "chunk", "after"),
        (1, False, 0, "token", "before"),
    ],
)
def test_groups_and_spans_change_nothing(depth, norm, position, anchor, read, monkeypatch):
    """Groups that fit and that do not, the last one smaller; spans of a group, of several, and of the whole run."""
    layers = depth if norm and position else None  # gates of their own, or one set for all
    run, leaves = problem(depth, norm, norm, layers, T=29, B=2, H=2, D=3, position=position)
    found = []
    for group_size, span in ((1, 4096), (1, 2), (2, 4096), (3, 12), (5, 4096), (100, 4)):
        monkeypatch.setattr(scan, "SPAN", span)
        options = {"backend": "chunked", "chunk_size": 2, "group_size": group_size, "anchor": anchor, "read": read}
        found.append((*run(*leaves, **options), *gradients(lambda o=options: run(*leaves, **o), leaves)))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert difference(a, b) <= 1e-12


@pytest.mark.parametrize("anchor", ["chunk", "token"])
def test_the_group_size_changes_memory_and_not_gradients(anchor):
    net = network(depth=1, residual=False, norm=False) if anchor == "token" else network(depth=2)
    found = []
    for group_size in (None, 1, 2, 3, 100):
        x = [z.requires_grad_() for z in inputs(T=23, theta=0.02)]
        y, state = neural_memory(*x, start(net), net=net, chunk_size=4, anchor=anchor, group_size=group_size)
        (y.square().sum() + state.weights[0].sin().sum() + state.momentum[0].cos().sum()).backward()
        found.append([z.grad for z in x])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert difference(a, b) < 1e-12


def test_what_is_kept_is_freed_after_use_and_seen_by_hooks():
    """States and products go by way of save_for_backward: offloading sees them, and a loss that lives holds none."""
    net, x = network(depth=2), [z.requires_grad_() for z in inputs(T=40)]
    packed = []

    def pack(z):
        packed.append(z.numel())
        return z.clone()

    plain, _ = neural_memory(*x, start(net), net=net, chunk_size=4, group_size=2)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda z: z):
        offloaded, _ = neural_memory(*x, start(net), net=net, chunk_size=4, group_size=2)
    weights = sum(w.numel() for w in start(net).weights)
    assert sum(packed) >= 2 * 5 * weights  # M and S at the start of five groups of 8 tokens
    expected, found = (torch.autograd.grad(y.square().sum(), x) for y in (plain, offloaded))
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="second time"):
        plain.sum().backward()
