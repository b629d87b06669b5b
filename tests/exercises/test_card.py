"""The exercise card: what a learner is told, for every kind of right and wrong."""

import dataclasses
import math
import re
import traceback

import numpy as np
import pytest
import torch

from titans_mini.exercises import Exercise, card, check, get, hint, names, register, results, solution, source
from titans_mini.exercises.compare import compare


def step(M, k, v, theta):
    """One step of the delta rule: M (D, E), k (D,), v (E,) -> (D, E)."""
    return M - theta * 2 * torch.outer(k, k @ M - v)


def plus(M, k, v, theta):
    return M + theta * 2 * torch.outer(k, k @ M - v)


def half(M, k, v, theta):
    return M - theta * torch.outer(k, k @ M - v)


def square_only(M, k, v, theta):
    return M - theta * 2 * torch.outer(k @ M - v, k)


def cases(seed):
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(d, e, generator=g), torch.randn(d, generator=g), torch.randn(e, generator=g), 0.1)
        for d, e in ((3, 3), (2, 5))
    ]


MUTANTS = {
    "transpose": (square_only, "Transposed."),
    "sign": (plus, "The sign: `−θ∇ℓ` goes down."),
    "factor 2": (half, "A factor 2 is missing."),
}


@pytest.fixture(autouse=True)
def example(monkeypatch):
    for registry in ("_cards", "_results", "_hints_given"):
        monkeypatch.setattr(card, registry, {})
    monkeypatch.delenv("TITANS_STRICT", raising=False)
    return register(
        Exercise("99.1", "One <step>", step, cases, MUTANTS, ("Error first.", "Then `kᵀ`."), why="It goes downhill.")
    )


def test_right_says_what_was_verified():
    result = check("99.1", step)
    assert result.passed and result and result.attempted
    assert result.message == "Right: all 2 cases equal the reference to 1e-6 (largest difference 0)."


@pytest.mark.parametrize("fn, message", [(plus, MUTANTS["sign"][1]), (half, MUTANTS["factor 2"][1])])
def test_a_typical_mistake_gets_its_diagnosis(fn, message):
    result = check("99.1", fn)
    assert not result and result.attempted and result.message == message


@pytest.mark.parametrize(
    "fn, words",
    [
        (lambda M, k, v, t: step(M, k, v, t).T, "Case 2 of 2: got shape (5, 2), expected (2, 5)"),
        (lambda M, k, v, t: step(M, k, v, t).double(), "got dtype float64, expected float32"),
        (lambda M, k, v, t: step(M, k, v, t)[None], "one axis too many"),
        (lambda M, k, v, t: step(M, k, v, t).sum(0), "one axis too few"),
        (lambda M, k, v, t: (M, k), "got tuple of 2"),
        (lambda M, k, v, t: 1.0, "got float 1, expected a tensor of shape (3, 3)"),
        (lambda M, k, v, t: step(M, k, v, t) + (len(k) == 2), "Case 2 of 2: got"),
        (lambda M, k, v, t: step(M, k, v, t) * math.nan, "got nan"),
    ],
)
def test_another_mistake_is_located(fn, words):
    result = check("99.1", fn)
    assert not result and words in result.message
    assert "cases are right" in result.message


def test_the_worst_place_is_named():
    def off(M, k, v, t):
        M = step(M, k, v, t)
        M[1, 2] += 0.5
        return M

    assert "largest difference 0.5 at [1, 2], 1 of 9 numbers differ" in check("99.1", off).message


@pytest.mark.parametrize("stub", [lambda *a: None, lambda *a: ..., lambda *a: (..., ...), lambda *a: (None, None)])
def test_a_stub_is_not_attempted(stub):
    result = check("99.1", stub)
    assert not result.passed and not result.attempted and "Not attempted yet" in result.message


def test_what_the_function_raises_arrives_untouched():
    def learner(M, k, v, theta):
        return M @ torch.zeros(7, 7)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        check("99.1", learner)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "learner"
    assert "99.1" not in results()


def in_place(M, k, v, theta):
    M -= theta * 2 * torch.outer(k, k @ M - v)
    return M


def test_changing_an_argument_in_place_is_told():
    result = check("99.1", in_place)
    assert not result.passed and "changed its argument 1 in place (case 1)" in result.message
    assert check("99.1", step).passed, "the next check gets fresh inputs"


def test_shared_inputs_of_a_careless_card_survive():
    shared = torch.ones(2)
    register(Exercise("99.2", "Shared", lambda x: x + 1, lambda seed: [(shared,)], {}, ("a", "b")))

    def add(x):
        x += 1
        return x

    assert "in place" in check("99.2", add).message
    assert shared.tolist() == [1, 1]


def test_a_call_instead_of_a_function_is_explained():
    with pytest.raises(TypeError, match=r"check\('99.1', f\), not check\('99.1', f\(…\)\)"):
        check("99.1", torch.ones(2))


def test_unknown_names_list_the_known():
    with pytest.raises(KeyError, match="got exercise '98.1', expected one of .*99.1"):
        check("98.1", step)
    assert "99.1" in names()


@pytest.mark.parametrize("name", ["1.1", "99.10", "ab.c", "99-1"])
def test_a_name_has_its_form(name):
    with pytest.raises(ValueError, match="NN.M"):
        Exercise(name, "t", step, cases, MUTANTS, ("a", "b"))


def test_strict_raises_for_everything_but_right(monkeypatch):
    monkeypatch.setenv("TITANS_STRICT", "1")
    assert check("99.1", step).passed
    for wrong in (plus, lambda *a: None):
        with pytest.raises(AssertionError, match="99.1 One <step>"):
            check("99.1", wrong)
    assert not results()["99.1"].passed


def test_results_keep_the_latest():
    check("99.1", plus)
    check("99.1", step)
    assert {name: result.passed for name, result in results().items()} == {"99.1": True}


def test_nothing_is_printed(capsys):
    check("99.1", step), check("99.1", plus), hint("99.1"), solution("99.1")
    assert capsys.readouterr() == ("", "")


def test_panel_is_escaped_and_has_code_and_a_sign_for_those_who_see_no_colour():
    html = check("99.1", plus)._repr_html_()
    assert "One &lt;step&gt;" in html and "<code>−θ∇ℓ</code>" in html and "✗" in html
    assert "✓" in check("99.1", step)._repr_html_()
    assert str(check("99.1", step)).startswith("✓ 99.1 One <step> (medium · 10 minutes · 2 points)\n  Right")


@pytest.mark.parametrize("fn", [step, plus, in_place, lambda *a: None])
def test_every_panel_shows_difficulty_minutes_and_points(example, fn):
    register(dataclasses.replace(example, difficulty="easy", minutes=5, points=1))
    for text in (str(check("99.1", fn)), check("99.1", fn)._repr_html_(), hint("99.1").markdown, str(hint("99.1"))):
        assert "easy · 5 minutes · 1 point" in text and "1 points" not in text


@pytest.mark.parametrize(
    "effort, words",
    [
        ({"difficulty": "trivial"}, "99.1: got difficulty 'trivial', expected one of"),
        ({"minutes": 0}, "got minutes 0, expected a whole number from 1"),
        ({"minutes": 7.5}, "got minutes 7.5"),
        ({"points": True}, "got points True"),
        ({"points": -1}, "got points -1"),
    ],
)
def test_an_effort_that_cannot_be_is_refused(example, effort, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        dataclasses.replace(example, **effort)


def test_hints_come_one_by_one_and_stay():
    first, second, third = (hint("99.1").markdown for _ in range(3))
    assert "Error first." in first and "Then" not in first and "1 more" in first
    assert "Error first." in second and "Then" in second and "solution(" in second
    assert third == second


def test_solution_is_highlighted_and_runs_as_it_stands():
    note = solution("99.1")
    data = note._repr_mimebundle_()
    assert f"```python\n{source('99.1').rstrip()}\n```" in data["text/markdown"]
    assert "It goes downhill." in data["text/markdown"] and "**" not in data["text/plain"]
    namespace = {"torch": torch}
    exec(source("99.1"), namespace)
    assert check("99.1", namespace["step"]).passed


def test_other_seeds_give_other_cases():
    seen = []
    for seed in (0, 0, 1):
        seen.append(cases(seed)[0][0])
        assert check("99.1", step, seed=seed).passed
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_get_returns_the_card(example):
    assert get("99.1") is example


nan, inf = math.nan, math.inf


@pytest.mark.parametrize(
    "got, expected",
    [
        (torch.tensor([1.0, nan, inf]), torch.tensor([1.0, nan, inf])),
        (torch.tensor([1.0 + 5e-7]), torch.tensor([1.0])),
        (np.ones(2, np.float32), torch.ones(2)),
        (2.0, torch.tensor(2.0)),
        (torch.tensor(2.0), 2),
        (np.float64(2.0), 2.0),
        (nan, nan),
        (True, True),
        (torch.tensor(False), False),
        (np.bool_(True), True),
        ("leak", "leak"),
        ([torch.ones(2), 3], (torch.ones(2), 3)),
        ({"M": torch.ones(2)}, {"M": torch.ones(2)}),
        (torch.tensor([1, 2]), torch.tensor([1, 2])),
        (torch.tensor([True]), torch.tensor([True])),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (None, None),
    ],
)
def test_equal(got, expected):
    assert compare(got, expected).problem is None


@pytest.mark.parametrize(
    "got, expected, words",
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, nan]), "got 2, expected nan"),
        (torch.tensor([nan]), torch.tensor([1.0]), "got nan, expected 1"),
        (torch.tensor([inf]), torch.tensor([-inf]), "got inf, expected -inf"),
        (torch.tensor([1.0]), torch.tensor([inf]), "got 1, expected inf"),
        (torch.tensor([1.1]), torch.tensor([1.0]), "largest difference 0.1"),
        (torch.ones(2, 3), torch.ones(2, 4), "axis 1 has the wrong length"),
        (torch.ones(5, 2, 3), torch.ones(5, 3, 2), "last two axes are swapped"),
        (torch.tensor([1]), torch.tensor([1.0]), "got dtype int64, expected float32"),
        (torch.ones(2), 2.0, "is a sum or a mean missing"),
        (True, 1.0, "one number"),
        (1, True, "truth value"),
        ("a", "b", "got 'a', expected 'b'"),
        (None, 1.0, "got None"),
        ((1.0,), (1.0, 2.0), "2 results"),
        (1.0, (1.0, 2.0), "2 results"),
        ((1.0, 3.0), (1.0, 2.0), "Result[1]: got 3, expected 2"),
        ({"a": 1}, {"b": 1}, "names"),
    ],
)
def test_different(got, expected, words):
    assert words in compare(got, expected).problem


def test_deviation_is_the_largest_finite_difference():
    assert compare((torch.tensor([1.0, nan]), 2.0), (torch.tensor([1.25, nan]), 2.5)).deviation == 0.5
    assert compare(torch.ones(2), torch.ones(3)).deviation == inf
