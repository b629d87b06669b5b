"""The kernels of a two-layer memory equal the definition in float64, outputs, states and every gradient."""

import contextlib
from unittest import mock

import pytest
import torch

from tests.helpers import in_pieces, network
from tests.kernels.helpers import (
    DEVICE,
    GPU,
    Guarded,
    assert_near,
    errors,
    limit,
    needs_gpu,
    needs_triton,
    outcome,
    problem,
)
from titans_mini import neural_memory

pytestmark = needs_triton
THETA = 0.02
CALM = 0.064  # θ times C, for half precision: with more, random values under a norm amplify any rounding of the inputs


@pytest.fixture(autouse=True, scope="module")
def one_patch():
    """Let the interpreter prepare the language once, not at every call of a helper inside a kernel: twice as fast."""
    if GPU:
        yield
        return
    from triton import language
    from triton.runtime import interpreter

    interpreter._patch_lang(language.zeros.fn)  # what the helpers of Triton's own library see
    run = mock.patch.object(interpreter.InterpretedFunction, "__call__", lambda f, *x, **kw: f.rewrite()(*x, **kw))
    with run:
        yield


def memory(D, **of_net):
    """Two layers, and inside the norm what `NeuralMemory` has: with less, rounding grew 20-fold with AVX-512."""
    return network(D, 2, eps=0.1 / D, **of_net)


def case(T, D, C, layers=1, read="after", position=0, group=None, **of_net):
    """A network, inputs, a state, and options; with `layers` 2 the gates of the layers differ."""
    net = memory(D, **of_net)
    x, state = problem(net, C, T, theta=THETA, position=position, seed=T)
    if layers == 2:
        x[3:] = [torch.stack([gate, gate.flip(1)], -1) for gate in x[3:]]
    return net, x, state, {"chunk_size": C, "read": read, "group_size": group}


CASES = {
    "one token": dict(T=1, D=16, C=16),
    "less than a chunk": dict(T=5, D=24, C=16, read="before"),
    "tail, odd D and hidden": dict(T=11, D=5, C=4, expansion=2.2),
    "SiLU, bare": dict(T=19, D=16, C=8, activation="silu", residual=False, norm=False),
    "GELU without norm": dict(T=13, D=16, C=8, norm=False, layers=2),
    "norm without residual": dict(T=12, D=12, C=6, residual=False, activation="silu", read="before"),
    "gates of each layer": dict(T=17, D=16, C=8, layers=2, read="before"),
    "from inside a chunk": dict(T=21, D=16, C=8, position=5),
    "a span for each chunk": dict(T=20, D=16, C=8, group=1),
    "three tiles of hidden units": dict(T=18, D=20, C=18, expansion=4, group=1),
    "C = 64": dict(T=70, D=16, C=64),
    "D = 128": dict(T=9, D=128, C=8, expansion=0.25),
}


@pytest.mark.parametrize("name", CASES)
def test_kernels_equal_the_definition(name):
    """Among NaN: new tensors hold it, and so does what lies beside them. Measured: up to 3e-6."""
    net, x, state, options = case(**CASES[name])
    got = outcome(net, x, state, "triton", guard=Guarded(), **options)
    del options["group_size"]
    assert_near(got, outcome(net, x, state, "recurrence", torch.float64, **options))


def test_expansion_4_at_64_needs_no_room_on_one_multiprocessor():
    """Weights and momenta of a head take 256 KiB; they are passed on through global memory, tile by tile."""
    net, x, state, options = case(20, 64, 16, expansion=4)
    got = outcome(net, x, state, "triton", **options)
    assert_near(got, outcome(net, x, state, "chunked", torch.float64, chunk_size=16))


def test_layout():
    """Tensors may lie in memory as a layer makes them, (B, T, H, D)."""
    net = memory(16)
    x, state = problem(net, 8, 11, B=2, theta=THETA, time_first=True)
    assert not x[0].is_contiguous()
    got = outcome(net, x, state, "triton", guard=Guarded(), chunk_size=8)
    assert_near(got, outcome(net, x, state, "chunked", torch.float64, chunk_size=8))


def test_gates_of_exactly_0_and_1():
    """All eight corners, a head for each; θ goes up to its largest value."""
    net = memory(16)
    x, state = problem(net, 4, 6, H=8)
    for bit, (gate, top) in enumerate(zip(x[3:], (1.0, 1.0, THETA), strict=True)):
        gate[:] = torch.tensor([top * float(h >> bit & 1) for h in range(8)])[None, :, None]
    got = outcome(net, x, state, "triton", guard=Guarded(), chunk_size=4)
    assert_near(got, outcome(net, x, state, "recurrence", torch.float64, chunk_size=4))


@torch.no_grad()
def test_any_split_into_calls():
    """A call may end inside a chunk; the next one goes on there."""
    net, x, state, _ = case(13, 16, 4)
    x, state, net = [z.to(DEVICE) for z in x], state.to(DEVICE), net.float().to(DEVICE)
    whole, end = neural_memory(*x, state, net=net, chunk_size=4, backend="triton")
    pieces, last = in_pieces(x, state, net, [3, 8, 9], chunk_size=4, backend="triton")
    assert last.position == end.position == 1
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5)
    for part in ("weights", "momentum", "anchor"):
        torch.testing.assert_close(getattr(last, part), getattr(end, part), rtol=1e-5, atol=1e-5)


def test_second_derivatives_are_refused():
    net, x, state, options = case(3, 16, 4)
    x = [z.to(DEVICE).requires_grad_() for z in x]
    y, _ = neural_memory(*x, state.to(DEVICE), net=net.float().to(DEVICE), backend="triton", **options)
    (dq,) = torch.autograd.grad(y.square().sum(), x[0], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        dq.sum().backward()


@pytest.mark.parametrize(
    ("net", "C", "reason"),
    [({"activation": "tanh"}, 16, "activation 'tanh'"), ({}, 128, "chunk_size = 128"), ({"D": 192}, 16, "D = 192")],
)
def test_what_the_kernels_cannot_run(net, C, reason):
    from titans_mini.kernels import mlp

    net = network(**net)
    assert reason in mlp.unsupported_reason(net, torch.zeros(1, 1, 1, net.dim, dtype=torch.bfloat16), C, "chunk")
    assert mlp.unsupported_reason(network(64), torch.zeros(1, 1, 1, 64, dtype=torch.bfloat16), 64, "chunk") is None


def test_float32_tiles_that_no_gpu_holds_are_refused(monkeypatch):
    """Compiled for sm_90, the way back through the chain takes 260 KiB of shared memory at D = C = 64 in float32.

    And as much at D = 96 and C = 21, whose tiles are 128 × 32: an H200 said so.
    """
    from titans_mini.kernels import launch, mlp

    monkeypatch.setattr(launch, "interpreted", lambda: False)
    v = torch.zeros(1, 1, 1, 64)
    assert "shared memory" in mlp.unsupported_reason(network(64), v, 64, "chunk")
    assert mlp.unsupported_reason(network(64), v, 32, "chunk") is None
    assert mlp.unsupported_reason(network(64), v.bfloat16(), 64, "chunk") is None
    assert "shared memory" in mlp.unsupported_reason(network(96), torch.zeros(1, 1, 1, 96), 21, "chunk")
    assert mlp.unsupported_reason(network(96), torch.zeros(1, 1, 1, 96), 16, "chunk") is None


# -- bfloat16: what its rounding does, without a GPU -------------------------------------------------------------------


def rounded(x, bits):
    """Round to some bits of mantissa, as narrower types do, in float32: the interpreter's own bfloat16 truncates."""
    big = x * (2.0 ** (24 - bits) + 1)
    return big - (big - x)


def rounded_product(x, y, PRECISION):
    """Multiply as TF32 does."""
    from titans_mini.kernels.mlp_tiles import tl

    return tl.dot(rounded(x, 11), rounded(y, 11))


@contextlib.contextmanager
def operands_like_bfloat16():
    """Let every operand of every product be rounded as on a GPU, while the interpreter multiplies float32."""
    from titans_mini.kernels import mlp_backward, mlp_chain, mlp_forward, mlp_tiles

    with contextlib.ExitStack() as stack:
        for module in (mlp_tiles, mlp_forward, mlp_backward, mlp_chain):
            stack.enter_context(mock.patch.object(module, "narrow", lambda x, like: rounded(x, 8)))
        stack.enter_context(mock.patch.object(mlp_forward, "sharp_product", rounded_product))
        yield


def test_rounding_is_that_of_bfloat16():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(x, 8), x.bfloat16().float())


@pytest.mark.skipif(GPU, reason="the device computes in bfloat16 itself, see below")
@pytest.mark.parametrize(("T", "C", "of_net"), [(70, 64, {}), (20, 16, {"norm": False, "activation": "silu"})])
def test_rounding_of_bfloat16_keeps_the_bounds(T, C, of_net):
    """0.005 for outputs and final states, 0.008 for dq, dk, dv, 0.02 for gates."""
    net = memory(32, **of_net)
    x, state = problem(net, C, T, theta=CALM / C, edges=False, dtype=torch.bfloat16)
    with operands_like_bfloat16():
        got = outcome(net, [z.float() for z in x], state, "triton", chunk_size=C)
    expected = outcome(net, x, state, "chunked", torch.float64, chunk_size=C)
    for name in ("y", "d q", "d k", "d v"):
        got[name] = got[name].bfloat16().double()
    print({name: f"{e:.1e} of {limit(name, torch.bfloat16):.0e}" for name, e in errors(got, expected).items()})
    assert_near(got, expected, torch.bfloat16)
    assert max(errors(got, expected).values()) > 1e-4, "nothing was rounded"


# -- what only a GPU can show ------------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(
    ("T", "D", "C", "expansion"), [(1000, 64, 64, 2), (515, 64, 32, 4), (300, 32, 16, 4), (77, 96, 32, 2)]
)
def test_on_the_device(T, D, C, expansion, norm, dtype):
    """Bounds in bfloat16: 0.005 for outputs and final states, 0.008 for dq, dk, dv, 0.02 for gates."""
    if dtype == torch.float32:  # larger tiles are refused: see test_float32_tiles_that_no_gpu_holds_are_refused
        C = min(C, 32 if D <= 64 else 16)
    net = memory(D, norm=norm, expansion=expansion)
    x, state = problem(net, C, T, B=2, H=4, dtype=dtype, theta=CALM / C, edges=False)
    # in all, no more is forgotten and written than by the 70 tokens of other tests: else both layers vanish, and the
    # final state is what the last bits leave of it
    x[3], x[5] = x[3] * min(1, 8 / T), x[5] * min(1, 70 / T)
    got = outcome(net, x, state, "triton", guard=Guarded(), chunk_size=C)
    expected = outcome(net, x, state, "chunked", torch.float64, chunk_size=C)
    print({name: f"{e:.1e} of {limit(name, dtype):.0e}" for name, e in errors(got, expected).items()})
    assert_near(got, expected, dtype)


@needs_gpu
def test_the_same_bits_twice():
    net = memory(64)
    x, state = problem(net, 64, 3000, B=2, H=8, dtype=torch.bfloat16, theta=CALM / 64)
    first, second = (outcome(net, x, state, "triton", chunk_size=64) for _ in range(2))
    assert all(torch.equal(z, second[name]) for name, z in first.items())
