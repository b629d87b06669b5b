"""The limits that the cards of notebook 04 teach, against the maps that they come from."""

import pytest
import torch

from titans_mini.exercises import get


def radius(eta, step, n):
    def one_visit(push):
        return torch.tensor([[1 - push, eta], [-push, eta]], dtype=torch.float64)

    A = torch.linalg.matrix_power(one_visit(0.0), n - 1) @ one_visit(2 * step)
    return torch.linalg.eigvals(A).abs().max()


@pytest.mark.parametrize("eta", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_the_limit_after_a_pause(eta, n):
    limit = get("04.3").solution(eta, n)
    assert radius(eta, 0.999 * limit, n) < 1 < radius(eta, 1.001 * limit, n)
    assert get("04.4").solution("A" + "".join(chr(66 + i) for i in range(n - 1)), eta) == pytest.approx(limit, rel=1e-6)


def test_the_rule_of_thumb_has_its_own_diagnosis():
    from titans_mini.exercises import check

    result = check("04.1", lambda k, alpha, eta: (1 - eta) / k.square().sum())
    assert "rule of thumb" in result.message and not result.passed
