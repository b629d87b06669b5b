"""Gates: the coefficients of a chunk against their definition, and half-lives."""

import math

import pytest
import torch

from tests.helpers import relative_rms
from titans_mini.memory.gates import (
    coefficient_table,
    coefficient_table_backward,
    coefficients,
    end_of,
    half_life_bias,
    half_life_to_alpha,
    log_spaced_half_lives,
    rows_of,
    shift_by_one,
)


def gates(C=7, seed=0, shape=(2, 3)):
    g = torch.Generator().manual_seed(seed)
    alpha, eta = torch.rand(2, *shape, C, generator=g, dtype=torch.float64)
    alpha[..., 2], alpha[..., 4], eta[..., 1], eta[..., 5] = 0.0, 1.0, 0.0, 1.0
    return alpha, eta


def product(x, first, last):
    """Π of x over tokens first … last, 1 when there are none; token t lies at index t − 1."""
    return x[..., first - 1 : last].prod(-1)


def test_coefficients_follow_their_definition():
    alpha, eta = gates()
    keep, C = 1 - alpha, alpha.shape[-1]
    c = coefficients(alpha, eta)
    for t in range(1, C + 1):
        f = sum(product(keep, i + 1, t) * product(eta, 1, i) for i in range(1, t + 1))
        torch.testing.assert_close(c.b[..., t - 1], product(keep, 1, t), rtol=0, atol=1e-15)
        torch.testing.assert_close(c.m[..., t - 1], product(eta, 1, t), rtol=0, atol=1e-15)
        torch.testing.assert_close(c.f[..., t - 1], f, rtol=0, atol=1e-14)
        for j in range(1, C + 1):  # the gradient of token j enters S at j, and M at every i ≥ j
            n = product(eta, j + 1, t) if j <= t else torch.zeros(2, 3, dtype=torch.float64)
            G = sum((product(keep, i + 1, t) * product(eta, j + 1, i) for i in range(j, t + 1)), torch.zeros_like(n))
            torch.testing.assert_close(c.n[..., t - 1, j - 1], n, rtol=0, atol=1e-15)
            torch.testing.assert_close(c.G[..., t - 1, j - 1], G, rtol=0, atol=1e-14)


def test_G_is_the_decay_of_a_decay():
    alpha, eta = gates()
    c = coefficients(alpha, eta)
    forget_only, momentum_only = coefficients(alpha, torch.zeros_like(eta)), coefficients(torch.zeros_like(alpha), eta)
    torch.testing.assert_close(c.G, forget_only.G @ momentum_only.n, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_of_exactly_0_and_1_leave_no_rounding(dtype):
    g = torch.Generator().manual_seed(0)
    alpha, eta = (torch.randint(0, 2, (2, 50, 12), generator=g)).to(dtype)
    c = coefficients(alpha, eta)
    for x in c:
        assert torch.equal(x, x.round())
    for t in range(12):
        assert torch.equal(c.b[:, t], (alpha[:, : t + 1] == 0).all(-1).to(dtype))
        assert torch.equal(c.m[:, t], (eta[:, : t + 1] == 1).all(-1).to(dtype))


@pytest.mark.parametrize("wide", ["alpha", "eta"])
def test_one_gate_may_serve_all_layers_while_the_other_is_per_layer(wide):
    alpha, eta = gates(shape=(2, 1))
    big, _ = gates(seed=1, shape=(2, 3))
    pair = (big, eta) if wide == "alpha" else (alpha, big)
    narrow, full = coefficients(*pair), coefficients(*(x.expand(2, 3, -1) for x in pair))
    for got, expected in zip(narrow, full, strict=True):
        torch.testing.assert_close(got.expand_as(expected), expected, rtol=0, atol=0)


def test_one_step_earlier_shifts_every_row_and_starts_at_the_start():
    c = coefficients(*gates())
    before = shift_by_one(c)
    for got, was, first in zip(before[:3], c[:3], (1.0, 1.0, 0.0), strict=True):
        assert torch.equal(got[..., 1:], was[..., :-1]) and (got[..., 0] == first).all()
    for got, was in zip(before[3:], c[3:], strict=True):
        assert torch.equal(got[..., 1:, :], was[..., :-1, :]) and (got[..., 0, :] == 0).all()


def test_coefficients_differentiate_also_at_the_edges():
    alpha, eta = (x.requires_grad_() for x in gates(C=6, shape=(1,)))
    assert torch.autograd.gradcheck(lambda a, e: tuple(coefficients(a, e)), (alpha, eta))


def test_strong_forgetting_over_a_long_chunk_stays_accurate():
    """Quotients of cumulative products or exponentials of summed logarithms overflow here; rows from rows do not."""
    g = torch.Generator().manual_seed(0)
    for low in (0.5, 0.9, 0.999, 1.0):
        alpha = (low + (1 - low) * torch.rand(3, 256, generator=g)).float()
        eta = torch.rand(3, 256, generator=g)
        got, expected = coefficients(alpha, eta), coefficients(alpha.double(), eta.double())
        for x, y in zip(got, expected, strict=True):
            assert x.isfinite().all()
            assert (x.double() - y).abs().max() <= 2e-6
        for x, y in ((got.G, expected.G), (got.n, expected.n), (got.f, expected.f)):
            assert relative_rms(x, y) <= 2e-6
        large = expected.b > 1e-30  # relative, also where nearly nothing is left; below, float32 underflows
        assert ((got.b.double() - expected.b).abs() <= 4e-5 * expected.b)[large].all()


def test_long_half_lives_do_not_drift_in_float32():
    """The same rounding of 1 − α in every token adds up: 16 times α = 0.000169 must lose 16 times as much."""
    alpha = half_life_to_alpha(torch.tensor([4096.0], dtype=torch.float32)).expand(1, 64)
    lost = 1 - coefficients(alpha, torch.zeros_like(alpha)).b.double()
    expected = 1 - coefficients(alpha.double(), torch.zeros(1, 64, dtype=torch.float64)).b
    assert (lost - expected).abs().max() <= 2**-24 * 1.01  # half a unit in the last place of 1 − lost, once


def test_half_lives():
    for h in (1.0, 2.0, 32.0, 4096.0, 1e6):
        alpha = half_life_to_alpha(h)
        assert alpha.dtype == torch.float64
        assert math.isclose((1 - alpha.item()) ** h, 0.5, rel_tol=1e-9)
        assert math.isclose(torch.sigmoid(half_life_bias(h)).item(), alpha.item(), rel_tol=1e-13)
    h = torch.tensor([32.0, 4096.0])
    assert half_life_to_alpha(h).dtype == torch.float32 and half_life_bias(h).shape == (2,)
    assert half_life_to_alpha(1.0) == 0.5


def test_a_floor_under_the_half_lives():
    for floor, h in ((1.0, 2.0), (16.0, 17.0), (256.0, 1e6)):
        cap = half_life_to_alpha(floor).item()
        alpha = cap * torch.sigmoid(half_life_bias(h, floor)).item()
        assert math.isclose(alpha, half_life_to_alpha(h).item(), rel_tol=1e-12)
    assert torch.equal(half_life_bias(32.0, 0.0), half_life_bias(32.0))


def test_log_spaced_half_lives():
    h = log_spaced_half_lives(8)
    assert h.shape == (8,) and h.dtype == torch.float64
    assert math.isclose(h[0], 32, rel_tol=1e-12) and math.isclose(h[-1], 4096, rel_tol=1e-12)
    assert ((h[1:] / h[:-1]).log2() - 1).abs().max() < 1e-12  # 32 · 2⁷ = 4096
    assert math.isclose(log_spaced_half_lives(1, 10, 1000).item(), 100, rel_tol=1e-12)
    torch.testing.assert_close(log_spaced_half_lives(3, 7, 7), torch.full((3,), 7.0, dtype=torch.float64))


@pytest.mark.parametrize("half_life", [0, -1, math.nan, torch.tensor([3.0, 0.0])])
def test_a_half_life_that_cannot_be(half_life):
    for fn in (half_life_to_alpha, half_life_bias):
        with pytest.raises(ValueError, match="half_life: got .*expected a number of tokens > 0"):
            fn(half_life)


@pytest.mark.parametrize(
    "arguments", [(0,), (-1,), (2, 0, 5), (2, -1, 5), (2, 9, 5), (2, 1, math.inf), (2, math.nan, 5), (2, 1, math.nan)]
)
def test_a_range_of_half_lives_that_cannot_be(arguments):
    with pytest.raises(ValueError, match="half-lives: got .*expected"):
        log_spaced_half_lives(*arguments)


# -- the table of many chunks ---------------------------------------------------------------------------------------


def many_chunks(c, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    alpha, eta = torch.rand(2, 2, 3, 2, c, dtype=torch.float64, generator=g)
    alpha[..., 0], eta[..., -1], alpha[0, 0, 0], eta[1, 0, 0] = 1, 0, 0, 1  # exact ends of the range too
    alpha[1, 1] *= 1e-4
    return alpha.to(dtype), eta.to(dtype)


@pytest.mark.parametrize("c", [1, 2, 7, 16])
def test_the_table_holds_the_coefficients(c):
    alpha, eta = many_chunks(c)
    (table, _), after = coefficient_table(alpha, eta), coefficients(alpha, eta)
    for read, expected in (("after", after), ("before", shift_by_one(after))):
        rows = rows_of(table, read)
        for found, exact in zip(rows, (expected.b[..., None], expected.f[..., None], expected.G), strict=True):
            torch.testing.assert_close(found, exact, rtol=0, atol=1e-13)
    last = [x[..., -1, None, None] for x in (after.b, after.f, after.m)]
    last += [x[..., -1, :, None] for x in (after.G, after.n)]
    for found, exact in zip(end_of(table), last, strict=True):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-13)


def test_the_table_backward():
    alpha, eta = (x.requires_grad_() for x in many_chunks(6))
    c = coefficients(alpha, eta)
    g = torch.Generator().manual_seed(1)
    end = c._replace(m=c.m[..., -1], n=c.n[..., -1, :])  # S is asked for at the end of a chunk only
    wanted = [torch.randn(x.shape, dtype=x.dtype, generator=g) for x in end]
    expected = torch.autograd.grad(tuple(end), (alpha, eta), wanted)
    with torch.no_grad():
        table, n = coefficient_table(alpha, eta, keep_n=True)
        d = torch.zeros_like(table)
        d[..., 1:-1, 0], d[..., -1, 1], d[..., 1:-1, 1], d[..., 1:-1, 2:], d[..., -1, 2:] = wanted
        found = coefficient_table_backward(alpha, eta, table, n, d)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("c", [64, 1024])
def test_the_table_in_float32(c):
    for seed in range(2):
        alpha, eta = many_chunks(c, torch.float32, seed)
        slow = torch.full_like(alpha, 1.7e-4)  # a half-life of 4,096 tokens, the same for every token
        slower = slow / 256, 1 - 6e-8 * eta  # 1 − α has an error of 1 % in float32
        for a, e in ((alpha, eta), (slow, eta), (slow, 0 * eta + 0.999), slower, (0 * slow, 0 * eta + 1)):
            table, _ = coefficient_table(a, e)
            exact, _ = coefficient_table(a.double(), e.double())
            assert table.isfinite().all()
            for x, y in zip(
                (*rows_of(table, "after"), *end_of(table)), (*rows_of(exact, "after"), *end_of(exact)), strict=True
            ):
                assert ((x.double() - y).norm() / y.norm().clamp(min=1e-30)).item() <= 2e-6


def test_float32_coefficients_are_never_denormal_and_float64_ones_are_exact():
    """Denormal numbers make Intel processors slow, and what is below 1e-30 changes nothing in float32."""
    alpha, eta = torch.full((1, 256), 0.5), torch.rand(1, 256, generator=torch.Generator().manual_seed(0)) * 0.9
    table, n = coefficient_table(alpha, eta, keep_n=True)
    for x in (*coefficients(alpha, eta), table, n):
        assert x.dtype == torch.float32 and not ((x != 0) & (x < 1e-30)).any()
    exact = coefficients(alpha.double(), eta.double())
    assert ((exact.G > 0) & (exact.G < torch.finfo(torch.float32).tiny)).any()  # there was something to round
    assert exact.b[0, -1] == 0.5**256
