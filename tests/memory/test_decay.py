"""Gates multiplied up for many chunks at once, against the definition of the coefficients."""

import pytest
import torch

from titans_mini.memory.decay import fill_table, fill_table_backward, multiply_gates, slice_gates
from titans_mini.memory.gates import coefficients, one_step_earlier


def gates(c, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    alpha, eta, theta = torch.rand(3, 2, 3, 2, c, dtype=torch.float64, generator=g)
    alpha[..., 0], eta[..., -1], alpha[0, 0, 0], eta[1, 0, 0] = 1, 0, 0, 1  # exact ends of the range too
    alpha[1, 1] *= 1e-4
    return [x.to(dtype) for x in (alpha, eta, theta)]


@pytest.mark.parametrize("c", [1, 2, 7, 16])
@pytest.mark.parametrize("read", ["after", "before"])
def test_equal_to_the_definition(c, read):
    alpha, eta, theta = gates(c)
    (found, table, _), write = multiply_gates(alpha, eta, theta, read, True), coefficients(alpha, eta)
    before = one_step_earlier(write)
    rows = write if read == "after" else before
    expected = [2 * theta[..., None], torch.stack((rows.b, rows.f), -1)[..., None], rows.G]
    expected += [torch.stack((write.G[..., -1, :], write.n[..., -1, :]), -1)[..., None]]
    expected += [torch.stack((write.b, write.m), -2)[..., -1, None, None], write.f[..., -1:, None]]
    b, m, f = (x[..., -1] for x in (write.b, write.m, write.f))
    expected += [torch.stack((b, f, torch.zeros_like(b), m), -1).unflatten(-1, (2, 2))]
    expected += [torch.stack((before.b, before.f), -1)[..., None], before.G]
    of_gradients = slice_gates(theta, table, read, True, gradients=True)
    assert of_gradients.keep is of_gradients.f_end is found.corner is None
    for name, x, y in zip(found._fields, found._replace(corner=of_gradients.corner), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-13, msg=lambda m, name=name: f"{name}: {m}")


def test_gradients_by_hand():
    alpha, eta, _ = (x.requires_grad_() for x in gates(6))
    c = coefficients(alpha, eta)
    g = torch.Generator().manual_seed(1)
    end = c._replace(m=c.m[..., -1], n=c.n[..., -1, :])  # S is asked for at the end of a chunk only
    wanted = [torch.randn(x.shape, dtype=x.dtype, generator=g) for x in end]
    expected = torch.autograd.grad(tuple(end), (alpha, eta), wanted)
    with torch.no_grad():
        table, n = fill_table(alpha, eta, keep_n=True)
        d = torch.zeros_like(table)
        d[..., 1:-1, 0], d[..., -1, 1], d[..., 1:-1, 1], d[..., 1:-1, 2:], d[..., -1, 2:] = wanted
        d[..., -1, 0] = 1e6  # n has a 0 there, always: its gradient means nothing
        found = fill_table_backward(alpha, eta, table, n, d)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("c", [64, 1024])
def test_float32(c):
    for seed in range(2):
        alpha, eta, theta = gates(c, torch.float32, seed)
        slow = torch.full_like(alpha, 1.7e-4)  # a half-life of 4,096 tokens, the same for every token
        slower = slow / 256, 1 - 6e-8 * eta  # 1 − α has an error of 1 % in float32
        for a, e in ((alpha, eta), (slow, eta), (slow, 0 * eta + 0.999), slower, (0 * slow, 0 * eta + 1)):
            found, _, _ = multiply_gates(a, e, theta, "after", False)
            exact, _, _ = multiply_gates(a.double(), e.double(), theta.double(), "after", False)
            for name, x, y in zip(found._fields[:6], found, exact, strict=False):
                assert x.isfinite().all()
                error = (x.double() - y).norm() / y.norm().clamp(min=1e-30)
                assert error <= 2e-6, (name, error.item())
