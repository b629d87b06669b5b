"""The kernels of a matrix memory equal the definition in float64, outputs, states and every gradient."""

import pytest
import torch

from tests.helpers import in_pieces, matrix
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

# T, D, C, anchor, read, position, group_size: T = 1, T < C, tails; D and C that are no powers of two; several spans
CASES = [
    (1, 16, 16, "chunk", "after", 0, None),
    (5, 24, 16, "chunk", "before", 0, None),
    (21, 16, 8, "chunk", "before", 0, 1),
    (30, 20, 12, "chunk", "after", 5, 1),
    (32, 32, 16, "chunk", "after", 3, None),
    (40, 64, 32, "chunk", "after", 0, None),
    (66, 16, 64, "chunk", "after", 0, 1),
    (17, 128, 16, "chunk", "before", 0, None),
    (1, 16, 16, "token", "before", 0, None),
    (37, 24, 16, "token", "after", 0, None),
    (70, 16, 64, "token", "before", 0, 1),
    (9, 64, 4, "token", "after", 3, None),
]


@pytest.mark.parametrize(("T", "D", "C", "anchor", "read", "position", "group"), CASES)
def test_kernels_equal_the_definition(T, D, C, anchor, read, position, group):
    """Among NaN: new tensors hold it, and so does what lies beside them. Measured: up to 4e-7."""
    net = matrix(D)
    x, state = problem(net, C, T, position=position, theta=1.0 if anchor == "token" else None, seed=T)
    options = {"chunk_size": C, "anchor": anchor, "read": read}
    got = outcome(net, x, state, "triton", guard=Guarded(), group_size=group, **options)
    assert_near(got, outcome(net, x, state, "recurrence", torch.float64, **options))


@pytest.mark.parametrize("anchor", ["chunk", "token"])
def test_residual_and_layout(anchor):
    """M(k) = k + k M, and tensors that lie in memory as a layer makes them, (B, T, H, D)."""
    net = matrix(16, residual=True)
    x, state = problem(net, 8, 19, B=2, time_first=True)
    assert not x[0].is_contiguous()
    got = outcome(net, x, state, "triton", guard=Guarded(), chunk_size=8, anchor=anchor)
    assert_near(got, outcome(net, x, state, "chunked", torch.float64, chunk_size=8, anchor=anchor))


@pytest.mark.parametrize("anchor", ["chunk", "token"])
def test_gates_of_exactly_0_and_1(anchor):
    """All eight corners, a head for each; unit keys and θ = 1 make errors grow, so the sequence is short."""
    net = matrix(16)
    x, state = problem(net, 4, 6, H=8)
    for bit, gate in enumerate(x[3:]):
        gate[:] = torch.tensor([float(h >> bit & 1) for h in range(8)])[None, :, None]
    got = outcome(net, x, state, "triton", guard=Guarded(), chunk_size=4, anchor=anchor)
    assert_near(got, outcome(net, x, state, "recurrence", torch.float64, chunk_size=4, anchor=anchor))


def test_long_half_lives_are_not_rounded_away():
    """α = 7e-7 in every token: 1 − α in float32 would be 3 % off in what is forgotten. Measured: 5e-4."""
    net = matrix(16)
    x, state = problem(net, 64, 256, H=1, edges=False)
    x[3].fill_(7e-7)
    x[5].zero_()
    momentum = tuple(torch.zeros_like(s) for s in state.momentum)
    state = type(state)(state.weights, momentum, state.weights, 0)
    x, state = [z.to(DEVICE) for z in x], state.to(DEVICE)
    with torch.no_grad():
        _, end = neural_memory(*x, state, net=net.float().to(DEVICE), chunk_size=64, backend="triton")
    forgotten = 1 - end.weights[0].double() / state.weights[0].double()
    expected = -torch.expm1(torch.log1p(-x[3][0, 0].double()).sum())
    assert ((forgotten.mean() - expected) / expected).abs() < 5e-3  # float32 rounds the memory itself


@torch.no_grad()
def test_any_split_into_calls():
    """A call may end inside a chunk; the next one goes on there, by whatever route."""
    net = matrix(16)
    x, state = problem(net, 8, 23)
    x, state, net = [z.to(DEVICE) for z in x], state.to(DEVICE), net.float().to(DEVICE)
    whole, end = neural_memory(*x, state, net=net, chunk_size=8, backend="triton")
    for cuts in ([5, 5, 12], [8, 16, 22]):
        pieces, last = in_pieces(x, state, net, cuts, chunk_size=8, backend="triton")
        assert last.position == end.position == 7
        torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5)
        for part in ("weights", "momentum", "anchor"):
            torch.testing.assert_close(getattr(last, part)[0], getattr(end, part)[0], rtol=1e-5, atol=1e-5)


def test_nothing_to_read():
    net = matrix(16).float().to(DEVICE)
    x, state = problem(net, 8, 0)
    x, state = [z.to(DEVICE) for z in x], state.to(DEVICE)
    y, end = neural_memory(*x, state, net=net, chunk_size=8, backend="triton")
    assert y.shape == x[0].shape and end.position == 0
    assert torch.equal(end.weights[0], state.weights[0])


def test_second_derivatives_are_refused():
    net = matrix(16).float().to(DEVICE)
    x, state = problem(net, 8, 3)
    x = [z.to(DEVICE).requires_grad_() for z in x]
    y, _ = neural_memory(*x, state.to(DEVICE), net=net, chunk_size=8, backend="triton")
    for loss in (y.square().sum(), y.sum()):  # with a gradient at y that has a graph of its own, and without
        (dq,) = torch.autograd.grad(loss, x[0], create_graph=True)
        with pytest.raises(RuntimeError, match="second derivative"):
            dq.sum().backward(retain_graph=True)


def test_the_guards_find_what_they_are_for():
    guard = Guarded()
    with guard.memory():
        made = [torch.empty(3, dtype=torch.float32, device="cpu") for _ in range(6)]
    assert made[0].isnan().all()
    guard.check()
    made[0].as_strided((4,), (1,))[3] = 0  # one place too far
    with pytest.raises(AssertionError, match="beside"):
        guard.check()
    assert errors({"y": made[1]}, {"y": torch.ones(3)})["y"] != 0
    with pytest.raises(AssertionError):
        assert_near({"y": made[1]}, {"y": torch.ones(3)})


# -- half precision ----------------------------------------------------------------------------------------------------


@pytest.fixture
def rounding(monkeypatch):
    """Round every operand to bfloat16, in the interpreter."""
    from tests.kernels import rounding
    from titans_mini.kernels import matrix_backward, matrix_forward, triangular

    for module in (matrix_forward, matrix_backward, triangular):
        monkeypatch.setattr(module, "mul", rounding.mul)
        monkeypatch.setattr(module, "store_rows", rounding.store_rows)


@pytest.mark.skipif(GPU, reason="a GPU computes bfloat16 itself: test_on_the_device")
@pytest.mark.parametrize("anchor", ["chunk", "token"])
def test_bfloat16_by_rounding_every_operand(rounding, anchor):
    """The bounds of `test_on_the_device`. Measured: 2e-3 to 4e-3; at T 300, D 64, C 64 the same."""
    net, C = matrix(32), 32
    x, state = problem(net, C, 80, dtype=torch.bfloat16, theta=0.5 / C if anchor == "chunk" else 0.3, edges=False)
    x = [z.float() for z in x]
    got = outcome(net, x, state, "triton", chunk_size=C, anchor=anchor)
    expected = outcome(net, x, state, "chunked", torch.float64, chunk_size=C, anchor=anchor)
    assert_near(got, expected, torch.bfloat16)
    assert errors(got, expected)["y"] > 1e-3  # it was rounded indeed


# -- what only a GPU can show ------------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("anchor", ["chunk", "token"])
@pytest.mark.parametrize(("T", "D", "C"), [(1000, 64, 64), (515, 128, 64), (300, 32, 16), (77, 96, 32)])
def test_on_the_device(T, D, C, anchor, dtype):
    """Bounds in bfloat16: 0.005 for outputs and final states, 0.008 for dq, dk, dv, 0.02 for gates."""
    net = matrix(D)
    x, state = problem(net, C, T, B=2, H=4, dtype=dtype, theta=0.5 / C if anchor == "chunk" else 0.3, edges=False)
    got = outcome(net, x, state, "triton", guard=Guarded(), chunk_size=C, anchor=anchor)
    expected = outcome(net, x, state, "chunked", torch.float64, chunk_size=C, anchor=anchor)
    print({name: f"{e:.1e} of {limit(name, dtype):.0e}" for name, e in errors(got, expected).items()})
    assert_near(got, expected, dtype)


@needs_gpu
@pytest.mark.parametrize("anchor", ["chunk", "token"])
def test_the_same_bits_twice(anchor):
    net = matrix(64)
    x, state = problem(net, 64, 3000, B=2, H=8, dtype=torch.bfloat16, theta=0.01)
    first, second = (outcome(net, x, state, "triton", chunk_size=64, anchor=anchor) for _ in range(2))
    assert all(torch.equal(z, second[name]) for name, z in first.items())


@needs_gpu
def test_addresses_beyond_32_bits():
    """2³¹ numbers and more in one tensor: the last sequence must equal itself alone."""
    N, T, D = 33, 2**20, 64
    if torch.cuda.get_device_properties(0).total_memory < 60e9:
        pytest.skip("needs a GPU of more than 60 GB: tensors of 2³¹ numbers")
    net = matrix(D).float().to(DEVICE)
    g = torch.Generator(DEVICE).manual_seed(0)
    q, k, v = (torch.randn(1, N, T, D, device=DEVICE, dtype=torch.bfloat16, generator=g) / 8 for _ in range(3))
    gates = [torch.rand(1, N, T, device=DEVICE, generator=g) * top for top in (0.05, 0.5, 0.01)]
    with torch.no_grad():
        y, _ = neural_memory(q, k, v, *gates, net=net, chunk_size=64, backend="triton")
        last = [z[:, -1:].clone() for z in (q, k, v, *gates)]
        alone, _ = neural_memory(*last, net=net, chunk_size=64, backend="triton")
    assert torch.equal(y[:, -1:], alone)


def test_where_these_tests_ran():
    assert GPU == (DEVICE == "cuda")
