"""The coefficient kernel gives the numbers of `gates.coefficients`, its derivative those of autograd through them."""

import pytest
import torch

from tests.kernels.helpers import DEVICE, GPU, Guarded, needs_triton
from titans_mini.memory.gates import coefficients as definition
from titans_mini.memory.gates import shift_by_one

pytestmark = needs_triton


def gates(X, T, seed=0):
    g = torch.Generator().manual_seed(seed)
    alpha, eta = torch.rand(2, X, T, generator=g)
    for gate in (alpha, eta):
        gate[torch.rand(X, T, generator=g) < 0.1] = 0.0
        gate[torch.rand(X, T, generator=g) < 0.1] = 1.0
    return alpha.to(DEVICE), eta.to(DEVICE)


def same(got, expected):
    """To the bit in the interpreter; a GPU may fuse a product and a sum in float64."""
    return torch.allclose(got, expected, rtol=2e-7, atol=0) if GPU else torch.equal(got, expected)


@pytest.mark.parametrize(("C", "chunks"), [(16, 3), (7, 2), (33, 1)])
def test_the_same_bits_as_the_definition(C, chunks):
    from titans_mini.kernels import coefficients

    alpha, eta = gates(2, C * chunks)
    guard = Guarded()
    with guard.memory():
        got = coefficients.multiply_up(alpha, eta, C, keep_n=True)
        last = coefficients.multiply_up(alpha, eta, C)
    guard.check()
    expected = definition(*(x.unflatten(1, (chunks, C)) for x in (alpha, eta)))
    for name in ("G", "b", "f", "n", "m"):
        assert same(getattr(got, name), getattr(expected, name)), name
    assert torch.equal(last.n, got.n[:, :, -1:]) and torch.equal(last.m, got.m[:, :, -1:])


def test_rows_beyond_the_end_repeat_the_last_one():
    from titans_mini.kernels import coefficients

    alpha, eta = gates(3, 21)
    got, expected = coefficients.multiply_up(alpha, eta, 16), definition(alpha[:, 16:], eta[:, 16:])
    for row in (4, 9, 15):
        assert same(got.G[:, 1, row, :5].contiguous(), expected.G[:, -1])
        assert same(got.b[:, 1, row], expected.b[:, -1]) and same(got.f[:, 1, row], expected.f[:, -1])
    assert not got.G[:, 1, :, 5:].any()


@pytest.mark.parametrize("shift", [0, 1])
def test_the_derivative(shift):
    """Gradients arrive at the rows of the reads, at the rows of the online rule, and at the end; all in float64."""
    from titans_mini.kernels import coefficients

    C, chunks = 16, 2
    alpha, eta = gates(2, C * chunks, seed=1)
    c = coefficients.multiply_up(alpha, eta, C, keep_n=True)
    g = torch.Generator().manual_seed(2)
    rows = coefficients.empty_grads(c, online=True)
    rows = type(rows)(*(torch.randn(x.shape, generator=g).to(DEVICE) for x in rows))
    out = torch.empty_like(alpha), torch.empty_like(eta)
    coefficients.multiply_up_backward(alpha, eta, c, rows, out, shift, online=True)
    leaves = [x.double().requires_grad_() for x in (alpha, eta)]
    total = projected(definition(*(x.unflatten(1, (chunks, C)) for x in leaves)), rows, shift)
    for got, expected in zip(out, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


def projected(c, rows, shift):
    """Weigh the coefficients with the gradients that arrive at them."""
    before = shift_by_one(c)
    total = 0
    for of_rows, weights in ((before if shift else c, rows[:3]), (before, rows[3:6])):
        total += sum((getattr(of_rows, n) * w).sum() for n, w in zip("Gbf", weights, strict=True))
    total += (c.G[..., -1, :] * rows.G_end).sum() + (c.n[..., -1, :] * rows.n_end).sum()
    ends = torch.stack([c.b[..., -1], c.f[..., -1], c.m[..., -1]], -1)
    return total + (ends * rows.bfm_end).sum()
