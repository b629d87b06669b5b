"""The coefficient kernel gives the numbers of `decay.fill_rows` to the bit, and its derivative to rounding."""

import pytest
import torch

from tests.kernels.helpers import DEVICE, Guarded, needs_triton
from titans_mini.decay import fill_rows, fill_rows_backward
from titans_mini.gates import coefficients as definition

pytestmark = needs_triton


def gates(X, T, seed=0):
    g = torch.Generator().manual_seed(seed)
    alpha, eta = torch.rand(2, X, T, generator=g)
    for gate in (alpha, eta):
        gate[torch.rand(X, T, generator=g) < 0.1] = 0.0
        gate[torch.rand(X, T, generator=g) < 0.1] = 1.0
    return alpha.to(DEVICE), eta.to(DEVICE)


@pytest.mark.parametrize(("C", "chunks"), [(16, 3), (7, 2), (33, 1)])
def test_the_same_bits_as_the_chunked_form(C, chunks):
    from titans_mini.kernels import coefficients

    alpha, eta = gates(2, C * chunks)
    guard = Guarded()
    with guard.memory():
        got = coefficients.multiply_up(alpha, eta, C, keep_n=True)
        last = coefficients.multiply_up(alpha, eta, C)
    n, G = fill_rows(*(x.unflatten(1, (chunks, C)) for x in (alpha, eta)), keep_n=True)
    expected = G[..., 1:, 2:], G[..., 1:, 0], G[..., 1:, 1], n[..., 1:, 2:], n[..., 1:, 1]
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert torch.equal(last.n, got.n[:, :, -1:]) and torch.equal(last.m, got.m[:, :, -1:])


def test_rows_beyond_the_end_repeat_the_last_one():
    from titans_mini.kernels import coefficients

    alpha, eta = gates(3, 21)
    got = coefficients.multiply_up(alpha, eta, 16)
    expected = definition(alpha[:, 16:].double(), eta[:, 16:].double())
    for row in (4, 9, 15):
        torch.testing.assert_close(got.G[:, 1, row, :5].double(), expected.G[:, -1], rtol=1e-7, atol=0)
        torch.testing.assert_close(got.b[:, 1, row].double(), expected.b[:, -1], rtol=1e-7, atol=0)
        torch.testing.assert_close(got.f[:, 1, row].double(), expected.f[:, -1], rtol=1e-7, atol=0)
    assert not got.G[:, 1, :, 5:].any()


@pytest.mark.parametrize("shift", [0, 1])
def test_the_derivative(shift):
    from titans_mini.kernels import coefficients

    C, chunks = 16, 2
    alpha, eta = gates(2, C * chunks, seed=1)
    c = coefficients.multiply_up(alpha, eta, C, keep_n=True)
    g = torch.Generator().manual_seed(2)
    rows = coefficients.empty_grads(c, online=True)
    rows = type(rows)(*(torch.randn(x.shape, generator=g).to(DEVICE) for x in rows))
    out = torch.empty_like(alpha), torch.empty_like(eta)
    coefficients.multiply_up_backward(alpha, eta, c, rows, out, shift, online=True)
    assert_derivative(out, alpha, eta, rows, shift, C, chunks)


def assert_derivative(out, alpha, eta, rows, shift, C, chunks):
    """Lay the gradients out as `fill_rows_backward` wants them: b and f as columns, the chunk's start as row 0."""
    x = [z.unflatten(1, (chunks, C)) for z in (alpha, eta)]
    n, G = fill_rows(*x, keep_n=True)
    dG, dn = torch.zeros_like(G), torch.zeros_like(n[..., -1:, :])
    for parts, earlier in ((rows[:3], shift), (rows[3:6], 1)):
        of_rows = dG[..., 1 - earlier : C + 1 - earlier, :]
        for place, part in zip((of_rows[..., 2:], of_rows[..., 0], of_rows[..., 1]), parts, strict=True):
            place += part
    dG[..., -1, 2:] += rows.G_end
    dG[..., -1, :2] += rows.bfm_end[..., :2]
    dn[..., 0, 2:], dn[..., 0, 1] = rows.n_end, rows.bfm_end[..., 2]
    for got, expected in zip(out, fill_rows_backward(*x, n, G, dn, dG), strict=True):
        torch.testing.assert_close(got.unflatten(1, (chunks, C)), expected, rtol=1e-5, atol=1e-5)
