"""The chunked form equals the definition, for every network, chunk size, read-out, gate and split into calls.

On tolerances: a deep memory under a norm amplifies rounding. Two runs of the *definition* whose inputs differ by one
unit in the last place drift apart 1e4 to 1e12 times over 40 tokens when θ is large or α = 1 has wiped the weights
(the norm then scales up what little is left). No two orders of summation can agree to 1e-12 there. So the sweep
asserts 1e-12 where the problem is well conditioned, and `test_where_rounding_is_amplified` asserts that the chunked
form is as close to the definition as the definition is to itself.
"""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import (
    difference,
    in_pieces,
    inputs,
    matrix,
    network,
    relative_rms,
    results_difference,
    start,
    state_difference,
)
from titans_mini import MemoryNet, NeuralMemory, neural_memory

TOLERANCE = 1e-12
SIZES = [(1, 4), (3, 16), (16, 16), (21, 8), (13, 4), (9, 1), (12, 64)]  # (T, C): T = 1, T < C, whole, ragged, C = 1
KINDS = [(False, False), (True, False), (False, True), (True, True)]  # (residual, norm)


def both(x, state, **options):
    return [neural_memory(*x, state, backend=name, **options) for name in ("chunked", "recurrence")]


@torch.no_grad()
def sweep(depth, residual, norm, layers, read):
    net = network(depth=depth, residual=residual, norm=norm)
    theta = 1.0 if depth == 1 and not norm else 0.2 if not norm else 0.02
    for seed, (T, C) in enumerate(SIZES):
        x = inputs(T=T, layers=layers, theta=theta, seed=seed)
        position = seed % C
        got, expected = both(x, start(net, position=position), net=net, chunk_size=C, read=read)
        assert results_difference(got, expected) <= TOLERANCE, (T, C, position)
        assert got[1].position == (position + T) % C


@pytest.mark.parametrize("read", ["after", "before"])
@pytest.mark.parametrize("per_layer", [False, True], ids=["shared", "per-layer"])
@pytest.mark.parametrize(("residual", "norm"), KINDS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_chunked_equals_the_definition(depth, residual, norm, per_layer, read):
    """Outputs, weights, momentum, anchor, position; gates of exactly 0 and 1 sprinkled in; begun in mid-chunk too."""
    sweep(depth, residual, norm, depth if per_layer else None, read)


@pytest.mark.parametrize("activation", ["silu", "relu", "tanh"])
def test_other_activations(activation):
    net = network(depth=3, activation=activation)
    got, expected = both(inputs(T=13, theta=0.02), start(net), net=net, chunk_size=4)
    assert results_difference(got, expected) <= TOLERANCE


@pytest.mark.parametrize("C", [1, 8])
@pytest.mark.parametrize("theta", [0.3, 1.0])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("depth", [2, 3, 4])
@torch.no_grad()
def test_where_rounding_is_amplified(depth, residual, theta, C):
    """As close to the definition as the definition is to itself with inputs changed in their last digit.

    |chunked − recurrence| ≤ 20 · max over draws |recurrence(x (1 ± 2⁻⁵²)) − recurrence(x)| + 1e-12. Measured: up to 3.
    """
    net = network(D=6, depth=depth, residual=residual)
    x, state = inputs(T=40, D=6, theta=theta, layers=depth), start(net)
    got, expected = both(x, state, net=net, chunk_size=C)
    floor = []
    for draw in range(4):
        g = torch.Generator().manual_seed(draw)
        noise = [1 + 2.0**-52 * torch.randint(-1, 2, z.shape, generator=g).double() for z in x[:3]]
        moved = [*(z * n for z, n in zip(x[:3], noise, strict=True)), *x[3:]]
        again = neural_memory(*moved, state, net=net, chunk_size=C, backend="recurrence")
        floor.append(results_difference(again, expected))
    assert 0 < max(floor) < 0.1  # the yardstick is neither broken nor saturated
    assert results_difference(got, expected) <= 20 * max(floor) + TOLERANCE


# -- any split into calls ----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
@torch.no_grad()
def test_any_split_into_calls(data):
    """Cut anywhere, pieces of length 0 among them, each piece by either backend: outputs and final state agree."""
    depth = data.draw(st.integers(1, 3), "depth")
    T, C = data.draw(st.integers(0, 20), "T"), data.draw(st.integers(1, 9), "C")
    cuts = sorted(data.draw(st.lists(st.integers(0, T), max_size=6), "cuts"))
    read, residual = data.draw(st.sampled_from(["after", "before"]), "read"), data.draw(st.booleans(), "residual")
    net = network(depth=depth, residual=residual, norm=data.draw(st.booleans(), "norm"))
    options = {"net": net, "chunk_size": C, "read": read}
    x = inputs(B=1, T=T, layers=data.draw(st.sampled_from([None, depth]), "layers"), theta=0.02, seed=T)
    state = start(net, B=1, position=data.draw(st.integers(0, C - 1), "position"))
    expected = neural_memory(*x, state, backend="recurrence", **options)
    edges, y, end = [0, *cuts, T], [], state
    for begin, stop in zip(edges, edges[1:], strict=False):
        backend = data.draw(st.sampled_from(["chunked", "recurrence"]), "backend")
        piece, end = neural_memory(*(z[:, :, begin:stop] for z in x), end, backend=backend, **options)
        y.append(piece)
    assert results_difference((torch.cat(y, 2), end), expected) <= TOLERANCE


@pytest.mark.parametrize("read", ["after", "before"])
@torch.no_grad()
def test_one_token_at_a_time_and_across_groups(read):
    """Long enough for several groups of chunks, which the calls cut in other places."""
    net = network(depth=2)
    x, state = inputs(T=70, theta=0.01, edges=False), start(net)
    x[3] = x[3] / 10  # 70 tokens of α = 0.1 would leave a thousandth, see the top of this file
    options = {"net": net, "chunk_size": 3, "read": read}
    expected = neural_memory(*x, state, backend="recurrence", **options)
    for cuts in ([], [31], [2, 40], range(1, 70)):
        assert results_difference(in_pieces(x, state, cuts=cuts, **options), expected) <= TOLERANCE


# -- the exact online rule of a matrix ---------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("read", ["after", "before"])
@pytest.mark.parametrize("backend", ["recurrence", "chunked"])
@torch.no_grad()
def test_anchor_token_is_chunk_size_1_whatever_the_chunk_size(residual, read, backend):
    net = matrix(residual=residual)
    for seed, T in enumerate((1, 5, 16, 33)):
        x, state = inputs(T=T, theta=1.0, seed=seed), start(net, seed=seed)
        expected = neural_memory(*x, state, net=net, chunk_size=1, read=read, backend="recurrence")
        for C in (1, 2, 3, 7, 16, 64):
            options = {"net": net, "chunk_size": C, "anchor": "token", "read": read, "backend": backend}
            assert results_difference(neural_memory(*x, state, **options), expected) <= TOLERANCE
            assert results_difference(in_pieces(x, state, cuts=[T // 3, T // 2], **options), expected) <= TOLERANCE


@pytest.mark.parametrize("backend", ["recurrence", "chunked"])
@torch.no_grad()
def test_anchor_token_goes_on_from_a_chunk_that_was_begun_and_back(backend):
    net = matrix()
    x, begun = inputs(T=10, theta=1.0), start(net, position=3)
    fresh = dataclasses.replace(begun, anchor=begun.weights, position=0)
    options = {"net": net, "chunk_size": 5, "backend": backend}
    token = neural_memory(*x, begun, anchor="token", **options)
    assert results_difference(token, neural_memory(*x, fresh, net=net, chunk_size=1)) <= TOLERANCE
    assert (
        token[1].position == 0
        and state_difference(token[1], dataclasses.replace(token[1], anchor=token[1].weights)) == 0
    )
    neural_memory(*x, token[1], **options)


# -- what inputs may look like -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["recurrence", "chunked"])
@torch.no_grad()
def test_layout_in_memory_does_not_matter(backend):
    net = network()
    x, state = inputs(T=11), start(net)
    options = {"net": net, "chunk_size": 4, "backend": backend}
    expected = neural_memory(*x, state, **options)
    time_first = [z.movedim(2, 0).contiguous().movedim(0, 2) for z in x]
    strided = [torch.stack([z, z], -1)[..., 0] for z in x]
    for other in (time_first, strided):
        assert not other[0].is_contiguous()
        assert results_difference(neural_memory(*other, state, **options), expected) <= 1e-14
    flipped = state.map(lambda w: w.mT.contiguous().mT)
    assert results_difference(neural_memory(*x, flipped, **options), expected) <= 1e-14


@pytest.mark.parametrize("backend", ["recurrence", "chunked"])
@torch.no_grad()
def test_expanded_gates_and_states(backend):
    net = network()
    x = inputs(T=11)
    x[3:] = [torch.full((1, 1, 1), value, dtype=torch.float64).expand(2, 2, 11) for value in (0.1, 0.5, 0.05)]
    state = net.init_state(2, 2, dtype=torch.float64).map(lambda w: w[:1].expand_as(w))
    options = {"net": net, "chunk_size": 4, "backend": backend}
    assert state.weights[0].stride(0) == 0 and x[3].stride() == (0, 0, 0)
    dense = neural_memory(*(z.contiguous() for z in x), state.clone(), **options)
    assert results_difference(neural_memory(*x, state, **options), dense) == 0
    assert results_difference(neural_memory(*x, **{**options, "net": net}, state=None), dense) <= 1e-12


@pytest.mark.parametrize("backend", ["recurrence", "chunked"])
@torch.no_grad()
def test_each_gate_may_be_shared_or_per_layer_on_its_own(backend):
    net = network(depth=3)
    shared, layered, state = inputs(T=9, theta=0.02), inputs(T=9, theta=0.02, layers=3), start(net)
    options = {"net": net, "chunk_size": 4}
    for choice in range(8):
        mixed = [layered[i] if i >= 3 and choice >> (i - 3) & 1 else z for i, z in enumerate(shared)]
        wide = [z if z.dim() == 4 else z[..., None].expand(2, 2, 9, 3) for z in mixed]
        one = [z if z.dim() == 4 else z[..., None] for z in mixed]
        expected = neural_memory(*wide, state, backend="recurrence", **options)
        for form in (mixed, one):
            assert results_difference(neural_memory(*form, state, backend=backend, **options), expected) <= TOLERANCE


def test_auto_is_chunked():
    net = network()
    x, state = inputs(), start(net)
    chunked, auto = (neural_memory(*x, state, net=net, backend=name) for name in ("chunked", "auto"))
    assert results_difference(auto, chunked) == 0


# -- float32 -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def float32_error(net32, net64, x, initial=None, **options):
    """Relative RMS of the outputs of a float32 run against a float64 run from the same float32 numbers."""
    B, H = x[0].shape[:2]
    state = net32.init_state(B, H, weights=initial)
    y32, _ = neural_memory(*x, state, net=net32, **options)
    y64, _ = neural_memory(*(z.double() for z in x), state.to(torch.float64), net=net64, **options)
    return relative_rms(y32, y64)


@pytest.mark.parametrize("C", [16, 64])
@pytest.mark.parametrize(
    ("depth", "residual", "anchor"), [(1, False, "chunk"), (1, False, "token"), (2, False, "chunk"), (2, True, "chunk")]
)
def test_float32_over_4096_tokens(depth, residual, anchor, C):
    """Measured: 1.4e-8 (with residual) to 3.2e-7."""
    net = MemoryNet(16, depth, residual=residual, norm=False)
    x = inputs(B=1, T=4096, D=16, theta=1 / C if anchor == "chunk" else 0.3, edges=False, dtype=torch.float32)
    x[3] = x[3] / 10  # α up to 0.02
    assert float32_error(net, net, x, chunk_size=C, anchor=anchor) <= 2e-6


@pytest.mark.parametrize("C", [16, 64])
@pytest.mark.parametrize("depth", [1, 2, 4])
@torch.no_grad()
def test_float32_over_4096_tokens_of_the_default_layer(depth, C):
    """The layer's own q, k, v, gates and initial memory. Measured: 1.6e-7 to 8e-7."""
    torch.manual_seed(0)
    layer = NeuralMemory(64, heads=4, depth=depth, chunk_size=C)
    x = torch.randn(1, 4096, 64)
    q, k, v, _ = layer.project(x, layer.init_state(1).conv)
    gates = layer.gates(x)
    net64 = network(D=16, depth=depth, expansion=4, eps=layer.net.eps)
    net64.load_state_dict(layer.net.state_dict())
    error = float32_error(layer.net, net64, [q, k, v, *gates], tuple(layer.initial_weights), chunk_size=C)
    assert error <= 5e-6


@torch.no_grad()
def test_float32_of_the_definition():
    """The definition itself rounds 1 − α in every token; it stays within 1e-5 too. Measured: 4e-7."""
    net = MemoryNet(8, 1, residual=False, norm=False)
    x = inputs(B=1, H=1, T=4096, D=8, theta=0.3, edges=False, dtype=torch.float32)
    x[3] = x[3] / 10
    assert float32_error(net, net, x, chunk_size=16, backend="recurrence") <= 1e-5


def test_the_measure_of_difference_sees_nan():
    x = torch.zeros(3, dtype=torch.float64)
    assert not difference(torch.tensor([0.0, float("nan"), 0.0], dtype=torch.float64), x) <= 1.0
    assert difference(x + 2e-12, x) > TOLERANCE
