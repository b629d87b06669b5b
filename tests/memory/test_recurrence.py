"""The definition, against an oracle that shares no code with the library, and the properties it must have."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import (
    difference,
    gradients,
    in_pieces,
    inputs,
    matrix,
    network,
    results_difference,
    start,
    state_difference,
    tensors,
)
from titans_mini import MemoryNet, MemoryState, neural_memory
from titans_mini.memory.recurrence import gates_of_token, loss, surprise, write

BACKENDS = ["recurrence", "chunked"]


# -- an oracle in plain torch -----------------------------------------------------------------------------------------


def oracle_answer(W, x, residual, norm):
    """M(x) for one token: W a list of (B, H, in, out), x (B, H, D), norm None or (gain, bias)."""
    h = torch.einsum("bhi,bhio->bho", x, W[0])
    for w in W[1:]:
        h = torch.einsum("bhi,bhio->bho", F.gelu(h), w)
    if norm:
        h = F.layer_norm(h, h.shape[-1:], *norm, 1e-5)
    return x + h if residual else h


def oracle(q, k, v, alpha, eta, theta, W, S, A, position, C, read, residual, norm):
    """The equations, token by token; gates (B, H, T, L). Everything stays in the graph."""
    y = []
    for t in range(q.shape[2]):
        error = oracle_answer(A, k[:, :, t], residual, norm) - v[:, :, t]
        u = torch.autograd.grad((error * error).sum(), A, create_graph=True)
        before = W
        a, e, th = ([g[:, :, t, i, None, None] for i in range(len(W))] for g in (alpha, eta, theta))
        S = [e[i] * S[i] - th[i] * u[i] for i in range(len(W))]
        W = [(1 - a[i]) * W[i] + S[i] for i in range(len(W))]
        y.append(oracle_answer(W if read == "after" else before, q[:, :, t], residual, norm))
        position = (position + 1) % C
        A = W if position == 0 else A
    return torch.stack(y, 2), W, S, A, position


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("read", ["after", "before"])
@pytest.mark.parametrize(
    ("depth", "residual", "norm", "position", "C"),
    [
        (1, False, False, 0, 3),
        (1, True, True, 2, 3),
        (2, True, True, 0, 1),
        (2, True, True, 1, 4),
        (3, False, True, 3, 5),
        (4, True, False, 0, 3),
    ],
)
def test_against_an_oracle_that_shares_no_code(depth, residual, norm, position, C, read, backend):
    """Values, the final state, and the outer gradients of everything, through the final state too."""
    net = network(D=3, depth=depth, residual=residual, norm=norm)
    x = [z.requires_grad_() for z in inputs(B=2, H=2, T=8, D=3, layers=depth, theta=0.05)]
    state = start(net, position=position)
    parts = (state.weights, state.momentum, state.anchor)
    W, S, A = ([w.clone().requires_grad_() for w in part] for part in parts)
    A = W if position == 0 else A
    slow = list(net.parameters())
    leaves = [*x, *W, *S, *(A if position else []), *slow]

    def expected():
        y, W_T, S_T, A_T, _ = oracle(*x, W, S, A, position, C, read, residual, slow)
        return y, *W_T, *S_T, *A_T

    def got():
        begin = MemoryState(tuple(W), tuple(S), tuple(A), position)
        y, end = neural_memory(*x, begin, net=net, chunk_size=C, read=read, backend=backend)
        assert end.position == (position + 8) % C
        return y, *tensors(end)

    for a, b in zip(got(), expected(), strict=True):
        assert difference(a, b) <= 1e-12
    for a, b in zip(gradients(got, leaves), gradients(expected, leaves), strict=True):
        assert a is not None and b.abs().max() > 0 and difference(a, b) <= 1e-10


# -- the pieces -------------------------------------------------------------------------------------------------------


def test_loss_is_a_sum_over_components_without_a_half():
    k, v = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0, 4.0]]])
    assert loss(matrix(2), (torch.zeros(1, 1, 2, 2),), k, v).tolist() == [[25.0]]


def test_surprise_of_a_matrix_is_two_k_times_the_error():
    W = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    k, v = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    (u,) = surprise(matrix(), (W,), k, v)
    error = torch.einsum("bhi,bhio->bho", k, W) - v
    assert difference(u, 2 * torch.einsum("bhi,bho->bhio", k, error)) < 1e-13


def test_write_by_hand():
    M, S, u = (torch.tensor([[x]]) for x in (10.0, 4.0, 3.0))
    (M_next,), (S_next,) = write((M,), (S,), (u,), [torch.tensor(0.1)], [torch.tensor(0.5)], [torch.tensor(2.0)])
    assert S_next.item() == 0.5 * 4 - 2 * 3 and M_next.item() == pytest.approx(0.9 * 10 + S_next.item())


def test_gates_of_token():
    gates = torch.arange(12.0).reshape(1, 2, 3, 2)
    own, shared = gates_of_token(gates, 1, 2), gates_of_token(gates[..., :1], 1, 2)
    assert [g.flatten().tolist() for g in own] == [[2.0, 8.0], [3.0, 9.0]] and own[0].shape == (1, 2, 1, 1)
    assert [g.flatten().tolist() for g in shared] == [[2.0, 8.0]] * 2


# -- properties of the equations, for both backends -------------------------------------------------------------------


def properties(backend, depth=2, T=9, layers=None):
    net = network(depth=depth)
    return net, inputs(T=T, layers=layers, edges=False), start(net), {"net": net, "chunk_size": 4, "backend": backend}


@pytest.mark.parametrize("backend", BACKENDS)
def test_alpha_1_erases(backend):
    """After α = 1 the memory is the surprise of that token: M_t = S_t, whatever was there."""
    net, x, state, options = properties(backend)
    x[3][:, :, -1] = 1.0
    _, end = neural_memory(*x, state, **options)
    for w, s in zip(end.weights, end.momentum, strict=True):
        assert difference(w, s) <= 1e-15


@pytest.mark.parametrize("backend", BACKENDS)
def test_theta_0_only_decays(backend):
    net, x, state, options = properties(backend)
    state = dataclasses.replace(state, momentum=tuple(0 * s for s in state.momentum))
    x[5].zero_()
    _, end = neural_memory(*x, state, **options)
    left = (1 - x[3]).prod(-1)[..., None, None]
    for w, before, s in zip(end.weights, state.weights, end.momentum, strict=True):
        assert difference(w, left * before) <= 1e-14 and (s == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_momentum_keeps_writing_when_theta_is_0_and_is_not_decayed_by_alpha(backend):
    net, x, state, options = properties(backend, T=2)
    x[5].zero_()
    _, end = neural_memory(*x, state, **options)
    (a1, a2), (e1, e2) = x[3][..., None, None].unbind(2), x[4][..., None, None].unbind(2)
    for w, s, w0, s0 in zip(end.weights, end.momentum, state.weights, state.momentum, strict=True):
        assert difference(s, e2 * e1 * s0) <= 1e-15
        assert difference(w, (1 - a2) * ((1 - a1) * w0 + e1 * s0) + e2 * e1 * s0) <= 1e-15


@pytest.mark.parametrize("backend", BACKENDS)
def test_gates_of_0_change_nothing(backend):
    net, x, state, options = properties(backend)
    for gate in x[3:]:
        gate.zero_()
    y, end = neural_memory(*x, state, **options)
    assert difference(y, net(state.weights, x[0])) <= 1e-14
    assert all(torch.equal(a, b) for a, b in zip(end.weights, state.weights, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_read_before_is_the_memory_without_the_present_token(backend):
    """M_{t−1}(q_t) does not depend on token t's key, value and gates; M_t(q_t) does."""
    net, x, state, options = properties(backend)
    changed = [x[0], *(torch.cat([z[:, :, :-1], 1 - z[:, :, -1:]], 2) for z in x[1:])]
    before = [neural_memory(*z, state, read="before", **options)[0] for z in (x, changed)]
    after = [neural_memory(*z, state, read="after", **options)[0] for z in (x, changed)]
    assert torch.equal(*before)
    assert (after[0] - after[1])[:, :, -1].abs().amin((0, 1)).max() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("read", ["after", "before"])
def test_the_future_changes_nothing_before_it(backend, read):
    """Exactly nothing: a masked product adds exact zeros. (A NaN or inf in the future can pass a mask: 0·NaN = NaN.)"""
    net, x, state, options = properties(backend, T=11)
    y, _ = neural_memory(*x, state, read=read, **options)
    for t in range(11):
        changed = [torch.cat([z[:, :, :t], 1 - z[:, :, t:]], 2) for z in x]
        y_changed, _ = neural_memory(*changed, state, read=read, **options)
        assert torch.equal(y_changed[:, :, :t], y[:, :, :t])
        assert not torch.equal(y_changed[:, :, t], y[:, :, t])


@pytest.mark.parametrize("backend", BACKENDS)
def test_sequences_and_heads_do_not_mix(backend):
    """Each sequence and head alone gives the same numbers; a change to one moves no other, exactly."""
    net, x, state, options = properties(backend)
    y, end = neural_memory(*x, state, **options)
    for b in range(2):
        for h in range(2):
            one = state.map(lambda w, b=b, h=h: w[b : b + 1, h : h + 1])
            alone = neural_memory(*(z[b : b + 1, h : h + 1] for z in x), one, **options)
            cut = end.map(lambda w, b=b, h=h: w[b : b + 1, h : h + 1])
            assert results_difference(alone, (y[b : b + 1, h : h + 1], cut)) <= 1e-14
    changed = [z.clone() for z in x]
    for z in changed:
        z[1, 0] = 1 - z[1, 0]
    y_changed, _ = neural_memory(*changed, state, **options)
    assert torch.equal(y_changed[0], y[0]) and torch.equal(y_changed[1, 1], y[1, 1])
    assert not torch.equal(y_changed[1, 0], y[1, 0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_input_twice_gives_the_same_output(backend):
    net, x, state, options = properties(backend)
    (y1, s1), (y2, s2) = (neural_memory(*x, state, **options) for _ in range(2))
    assert torch.equal(y1, y2) and state_difference(s1, s2) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_callers_tensors_and_state_stay_as_they_are(backend):
    net, x, state, options = properties(backend)
    kept, held = [z.clone() for z in x], state.clone()
    neural_memory(*x, state, **options)
    assert all(torch.equal(a, b) for a, b in zip(x, kept, strict=True)) and state_difference(state, held) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_chunk_begins_at_the_present_memory(backend):
    """At position 0 the old anchor is spent: weights put in by hand are where the next gradients are taken."""
    net, x, state, options = properties(backend)
    by_hand = dataclasses.replace(state, anchor=tuple(w + 1 for w in state.weights))
    assert results_difference(neural_memory(*x, by_hand, **options), neural_memory(*x, state, **options)) == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("B", "H", "T"), [(1, 1, 3), (2, 2, 0), (0, 2, 3), (2, 0, 3), (0, 2, 40), (1, 1, 1)])
@pytest.mark.parametrize("grad", [False, True])
def test_small_and_empty_sizes(backend, B, H, T, grad):
    for net, anchor in ((network(), "chunk"), (matrix(), "token")):
        x = [z.requires_grad_(grad) for z in inputs(B=B, H=H, T=T)]
        state = start(net, B=B, H=H, position=0 if anchor == "token" else 1)
        y, end = neural_memory(*x, state, net=net, chunk_size=2, anchor=anchor, backend=backend)
        assert y.shape == (B, H, T, 4) and y.dtype == torch.float64
        assert end.position == (0 if anchor == "token" else (1 + T) % 2)
        if T == 0:
            assert state_difference(end, dataclasses.replace(state, anchor=end.anchor)) == 0
        if grad and T:
            y.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_anything_to_train_no_graph_is_kept(backend):
    """Otherwise a long stream would hold on to every token ever read."""
    net = matrix()
    y, end = neural_memory(*inputs(), start(net), net=net, backend=backend)
    assert not y.requires_grad and not any(w.requires_grad for w in tensors(end))
    with torch.no_grad():
        y, _ = neural_memory(*(z.requires_grad_() for z in inputs()), net=net.requires_grad_(), backend=backend)
    assert not y.requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("position", [0, 2])
def test_inference_mode(backend, position):
    """The memory learns while it reads, also where autograd is switched off hardest; the state goes on anywhere."""
    net = network()
    x, options = inputs(), {"net": net, "chunk_size": 5, "backend": backend}
    with torch.no_grad():
        expected = neural_memory(*x, start(net, position=position), **options)
        further = neural_memory(*x, expected[1], **options)
    with torch.inference_mode():
        born, state = [z.clone() for z in x], start(net, position=position)
        got = neural_memory(*born, state, **options)
    assert not got[0].requires_grad and results_difference(got, expected) == 0
    with torch.no_grad():
        assert results_difference(neural_memory(*born, got[1], **options), further) == 0
    y, _ = neural_memory(*(z.requires_grad_() for z in x), got[1], **options)  # and into training
    y.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_is_computed_in_float32(backend):
    net = MemoryNet(4)
    state = net.init_state(2, 2)
    for dtype in (torch.bfloat16, torch.float16):
        low = inputs(dtype=dtype)
        expected, end = neural_memory(*(z.float() for z in low), state, net=net, backend=backend)
        y, s = neural_memory(*low, state, net=net, backend=backend)
        assert y.dtype == dtype and torch.equal(y, expected.to(dtype)) and state_difference(s, end) == 0
        fresh, _ = neural_memory(*low, net=net, backend=backend)
        assert torch.equal(fresh, y)
        finer = [*low[:3], *(z.float() for z in low[3:])]  # gates in float32 are welcome beside half precision
        assert torch.equal(neural_memory(*finer, net=net, backend=backend)[0], y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_does_not_reach_the_memory(backend):
    net = MemoryNet(16)
    x = [z.float().requires_grad_() for z in inputs(D=16)]
    expected = neural_memory(*x, net=net, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x[0] @ x[0].mT).dtype == torch.bfloat16
        got = neural_memory(*x, net=net, backend=backend)
    assert results_difference(got, expected) == 0
    found = torch.autograd.grad(got[0].square().sum(), x)  # outside, as torch recommends
    for a, b in zip(found, torch.autograd.grad(expected[0].square().sum(), x), strict=True):
        assert torch.equal(a, b)


def test_keys_may_depend_on_the_memory():
    """As in MAC, where the memory is asked for the context from which keys and values are made."""
    net, (*x, alpha, eta, theta) = network(depth=2), inputs(T=6, edges=False)
    state = start(net)
    M = tuple(w.clone().requires_grad_() for w in state.weights)

    def run(backend):
        q = x[0] + net(M, x[0])
        k, v = (torch.nn.functional.normalize(net(M, z), dim=-1) for z in x[1:])
        begun = MemoryState(weights=M, momentum=state.momentum, anchor=M, position=0)
        y, end = neural_memory(q, k, v, alpha, eta, theta, begun, net=net, chunk_size=4, backend=backend)
        return y, *end.weights, *end.momentum

    with torch.no_grad():
        plain = run("recurrence")
    found, fast = run("recurrence"), run("chunked")
    for a, b, c in zip(found, plain, fast, strict=True):
        assert difference(a, b) < 1e-12 and difference(a, c) < 1e-12
    slopes = [torch.autograd.grad(sum(z.square().sum() for z in out), M) for out in (found, fast)]
    for a, b in zip(*slopes, strict=True):
        assert difference(a, b) < 1e-10


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", ["k", "v"])
@pytest.mark.parametrize("read", ["after", "before"])
@pytest.mark.parametrize(("backend", "anchor"), [("recurrence", "chunk"), ("chunked", "chunk"), ("chunked", "token")])
def test_the_past_stays_clean(backend, anchor, read, which, bad):
    """One entry of one token is not finite: the answers before it, and other heads and sequences, do not notice."""
    net = matrix() if anchor == "token" else network(depth=2)
    x, options = inputs(T=20), {"net": net, "chunk_size": 6, "anchor": anchor, "read": read, "backend": backend}
    y, state = neural_memory(*x, start(net), **options)
    spoiled = dict(zip(("q", "k", "v", "alpha", "eta", "theta"), [z.clone() for z in x], strict=True))
    spoiled[which][0, 1, 7, 3] = bad
    y_bad, state_bad = neural_memory(*spoiled.values(), start(net), **options)
    first = 7 if read == "after" else 8
    assert difference(y_bad[0, 1, :first], y[0, 1, :first]) < 1e-12
    assert difference(y_bad[0, 0], y[0, 0]) < 1e-12 and difference(y_bad[1], y[1]) < 1e-12
    assert not y_bad[0, 1, first:].isfinite().all()
    for part in ("weights", "momentum", "anchor"):
        for w, w_bad in zip(getattr(state, part), getattr(state_bad, part), strict=True):
            assert difference(w_bad[1], w[1]) < 1e-12 and difference(w_bad[0, 0], w[0, 0]) < 1e-12
            assert not w_bad[0, 1].isfinite().all()


@pytest.mark.parametrize("which", ["k", "v"])
@pytest.mark.parametrize("anchor", ["chunk", "token"])
@pytest.mark.parametrize("read", ["after", "before"])
def test_a_loss_on_a_clean_past_has_clean_gradients(read, anchor, which):
    net = matrix() if anchor == "token" else network(depth=2)
    options = {"net": net, "chunk_size": 6, "anchor": anchor, "read": read, "backend": "chunked"}

    def gradients(value=None):
        x, state = [z.clone().requires_grad_() for z in inputs(T=20)], start(net)
        given = list(x)
        if value is not None:
            spoiled = torch.zeros_like(x[0], dtype=torch.bool)
            spoiled[0, 1, 7, 3] = True
            given["qkv".index(which)] = given["qkv".index(which)].masked_fill(spoiled, value)
        y, _ = neural_memory(*given, state, **options)
        return torch.autograd.grad(y[:, :, :7].square().sum(), [*x, *net.parameters()])

    for value in (float("nan"), float("inf")):
        for got, expected in zip(gradients(value), gradients(), strict=True):
            assert difference(got, expected) < 1e-12


def test_a_spoiled_memory_stays_spoiled_in_any_split():
    net, x = network(depth=2), inputs(T=20)
    x[1][0, 1, 7, 3] = float("nan")
    whole, _ = neural_memory(*x, start(net), net=net, chunk_size=6)
    for cuts in ([7], [8], [3, 9, 13]):
        pieces, _ = in_pieces(x, start(net), net, cuts, chunk_size=6)
        assert torch.equal(pieces.isnan(), whole.isnan())
