"""Long streams, steps that are too large, forgetting that is too strong: what stays finite, and what must not."""

import pytest
import torch

from tests.helpers import inputs, matrix, network, relative_rms, start
from titans_mini import NeuralMemory, neural_memory

# -- a step that is too large -----------------------------------------------------------------------------------------


def diverging(seed, dtype, T=400):
    q, k, v, alpha, eta, theta = inputs(T=T, D=4, theta=1.0, seed=seed, edges=False, dtype=dtype)
    return q, 3 * k, v, 0.1 * alpha, 0.9 + 0.1 * eta, 0.5 + 0.5 * theta


def chunks_survived(x, state, **options):
    """Chunks after which the whole memory was still finite, (B, H), and the answers, chunk by chunk."""
    finite, y = [], []
    for part in zip(*(z.split(options["chunk_size"], 2) for z in x), strict=True):
        answer, state = neural_memory(*part, state, **options)
        entries = [w.isfinite().all(-1).all(-1) for w in (*state.weights, *state.momentum)]
        finite.append(torch.stack(entries).all(0))
        y.append(answer)
    finite = torch.stack(finite).int()
    assert (finite.diff(dim=0) <= 0).all()  # once gone, gone for good: no memory looks healthy again
    assert not finite[-1].any()
    return finite.sum(0), y


@pytest.mark.parametrize(("C", "T"), [(1, 120), (4, 160), (16, 400)])
@pytest.mark.parametrize(("depth", "residual"), [(1, False), (1, True), (2, False), (2, True)])
@torch.no_grad()
def test_divergence_reaches_both_backends_in_the_same_chunk(depth, residual, C, T):
    """The same chunk, or the one beside it, and not the same token.

    The two forms multiply in another order: at the edge of the largest float one of them overflows in a product that
    the other never builds (a weight matrix; a score). Inside a chunk, a mask then turns inf into 0·inf = NaN.
    """
    dtype = torch.float32 if depth == 1 else torch.float64  # an MLP explodes within a few tokens
    for seed in range(3):
        net = network(4, depth, residual, norm=False).to(dtype)
        x, state = diverging(seed, dtype, T), start(net).to(dtype)
        options = {"net": net, "chunk_size": C}
        (one, y), (other, z) = (chunks_survived(x, state, backend=b, **options) for b in ("recurrence", "chunked"))
        assert (one - other).abs().max() <= 1 and one.min() > 0
        for a, b in zip(y[: one.min() // 2], z, strict=False):
            assert relative_rms(b, a) <= (1e-4 if depth == 1 else 1e-8)  # until then they agree


@torch.no_grad()
def test_the_online_rule_diverges_in_the_same_chunk():
    net = matrix().float()
    x, state = diverging(0, torch.float32), start(net).to(torch.float32)
    options = {"net": net, "chunk_size": 16, "anchor": "token"}
    one, other = (chunks_survived(x, state, backend=b, **options)[0] for b in ("recurrence", "chunked"))
    assert (one - other).abs().max() <= 1


@torch.no_grad()
def test_a_diverged_sequence_leaves_the_others_alone():
    net = matrix()
    x, state = inputs(T=200), start(net)
    clean, _ = neural_memory(*x, state, net=net, chunk_size=4)
    for z, wild in zip(x, diverging(0, torch.float64, T=200), strict=True):
        z[1, 1] = wild[1, 1]
    x[1][1, 1] *= 1e3
    y, _ = neural_memory(*x, state, net=net, chunk_size=4)
    assert not y[1, 1].isfinite().all()
    assert torch.equal(y[0], clean[0]) and torch.equal(y[1, 0], clean[1, 0])


def test_a_nan_in_a_value_is_passed_on_and_not_hidden():
    net = matrix()
    x = inputs(T=8)
    x[2][0, 0, 3, 1] = float("nan")
    for backend in ("recurrence", "chunked"):
        y, end = neural_memory(*x, start(net), net=net, chunk_size=4, backend=backend)
        assert y[0, 0, 3:].isnan().any(-1).all() and end.weights[0][0, 0].isnan().any()
        assert y[1].isfinite().all() and y[0, 1].isfinite().all()


# -- strong forgetting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low", [0.5, 0.9, 0.999])
@torch.no_grad()
def test_strong_forgetting_over_long_chunks_in_float32(low):
    """Against float64 from the same numbers. Quotients of cumulative products would be inf or NaN here."""
    net = matrix(D=8).float()
    x = inputs(T=512, D=8, theta=1 / 256, edges=False, dtype=torch.float32)
    x[3] = low + (1 - low) * x[3] / 0.2
    state = start(net).to(torch.float32)
    y32, s32 = neural_memory(*x, state, net=net, chunk_size=256)
    y64, s64 = neural_memory(*(z.double() for z in x), state.to(torch.float64), net=net, chunk_size=256)
    assert y32.isfinite().all()
    assert relative_rms(y32, y64) <= 2e-6 and relative_rms(s32.weights[0], s64.weights[0]) <= 2e-6


# -- the default gates over 65,536 tokens -----------------------------------------------------------------------------


def streams(T, dim, seed=1):
    """White noise, one vector for ever, and fifty vectors in turn: (3, T, dim)."""
    g = torch.Generator().manual_seed(seed)
    noise, constant, cycle = (
        torch.randn(T, dim, generator=g),
        torch.randn(1, dim, generator=g),
        torch.randn(50, dim, generator=g),
    )
    return torch.stack([noise, constant.expand(T, dim), cycle.repeat(T // 50 + 1, 1)[:T]])


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 4])
@torch.no_grad()
def test_an_untrained_memory_survives_65536_tokens(depth):
    """Finite everywhere; weights within a factor 20 below and 3 above their start, in every head and layer.

    Forgetting pulls weights to zero, and the gradient of each layer has the other layers' weights as a factor: where
    all layers forget within tens of tokens, writing loses for good (the test below). By default only the last one does.
    """
    torch.manual_seed(0)
    layer = NeuralMemory(32, heads=4, depth=depth)
    x, state = streams(65536, 32), layer.init_state(3)
    at_start = [w.norm(dim=(-2, -1)) for w in state.memory.weights]
    for part in x.split(8192, 1):
        y, state = layer(part, state)
        assert y.isfinite().all() and all(w.isfinite().all() for w in state.memory.weights)
        assert 0.05 < y.square().mean((1, 2)).sqrt().min() and y.abs().max() < 5
        for w, norm in zip(state.memory.weights, at_start, strict=True):
            kept = w.norm(dim=(-2, -1)) / norm  # (B, H)
            assert 0.05 < kept.min() and kept.max() < 3, (kept.min(), kept.max())


@torch.no_grad()
def test_a_head_whose_layers_all_forget_quickly_is_wiped():
    torch.manual_seed(0)
    lasting = NeuralMemory(16, heads=2, depth=4, half_life=(32, 32))
    fleeting = NeuralMemory(16, heads=2, depth=4, half_life=(32, 32), feature_half_life=32)
    x = streams(4096, 16)[:1]
    assert min(w.norm() for w in lasting(x)[1].memory.weights) > 0.05
    assert max(w.norm() for w in fleeting(x)[1].memory.weights) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "chunk_size"), [(2, 64), (4, 64)])
@torch.no_grad()
def test_longer_chunks_stay_finite_too(depth, chunk_size):
    torch.manual_seed(0)
    layer = NeuralMemory(16, heads=4, depth=depth, chunk_size=chunk_size)
    y, state = layer(streams(16384, 16))
    assert y.isfinite().all() and all(w.isfinite().all() for w in state.memory.weights)


@torch.no_grad()
def test_the_norms_eps_keeps_short_heads_from_amplifying_rounding():
    """Why the default is eps = 0.1 / D: a change of 1e-7 in the first token, seen after 4,096 tokens.

    Here all layers forget quickly, which the default avoids. With eps = 1e-5 the head that forgets within 32 tokens
    amplifies it more than 100 times (measured: 1e7, as far as it can go); with the default it shrinks.
    """
    torch.manual_seed(0)
    x = torch.randn(1, 4096, 16, dtype=torch.float64)
    moved = x.clone()
    moved[:, 0] += 1e-7 * torch.randn(16, dtype=torch.float64)

    def amplification(eps):
        torch.manual_seed(0)
        layer = NeuralMemory(16, heads=2, eps=eps, feature_half_life=32).double()
        answers = []
        for z in (x, moved):
            state = layer.init_state(1)
            q, k, v, _ = layer.project(z, state.conv)
            y, _ = neural_memory(q, k, v, *layer.gates(z), state.memory, net=layer.net, **layer.options)
            answers.append(y)
        return (answers[0] - answers[1])[0, :, -96:].norm(dim=-1).amax(-1) / 1e-7  # (H,)

    default, tiny = amplification(None), amplification(1e-5)
    assert default.max() < 0.1
    assert tiny[0] > 1e2 and tiny[1] < 0.1
