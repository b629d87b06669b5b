"""Every registered exercise keeps the promises of a card."""

import ast
import inspect
import os

import pytest
import torch

from titans_mini.exercises import card, check, get, names, source
from titans_mini.exercises.compare import describe

NAMES = names()
PAIRS = [(name, label) for name in NAMES for label in get(name).mutants]


@pytest.fixture(autouse=True)
def not_strict(monkeypatch):
    monkeypatch.delitem(os.environ, "TITANS_STRICT", raising=False)
    monkeypatch.setattr(card, "_results", {})


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes(name, seed):
    result = check(name, get(name).solution, seed=seed)
    assert result.passed, result


@pytest.mark.parametrize("name, label", PAIRS)
def test_each_mistake_gets_its_own_diagnosis(name, label):
    mutant, message = get(name).mutants[label]
    result = check(name, mutant)
    assert not result.passed and result.attempted, "the cases do not catch this mistake"
    assert result.message == message, "another diagnosis comes first"


@pytest.mark.parametrize("name", NAMES)
def test_three_mistakes_and_two_hints_at_least(name):
    exercise = get(name)
    messages = [message for _, message in exercise.mutants.values()]
    assert len(set(messages)) == len(messages) >= 3
    assert len(set(exercise.hints)) == len(exercise.hints) >= 2
    assert exercise.title and exercise.why


@pytest.mark.parametrize("name", NAMES)
def test_minutes_and_points_fit_each_other(name):
    exercise = get(name)
    assert 3 <= exercise.minutes <= 20
    assert exercise.points == max(1, round(exercise.minutes / 5)), "a point per five minutes"


def test_cards_differ_in_difficulty():
    assert {get(name).difficulty for name in NAMES} == set(card.DIFFICULTIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_is_not_attempted(name):
    result = check(name, lambda *arguments: None)
    assert not result.passed and not result.attempted


@pytest.mark.parametrize("name", NAMES)
def test_the_learners_traceback_arrives(name):
    def learner(*arguments):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as caught:
        check(name, learner)
    assert caught.traceback[-1].name == "learner"


@pytest.mark.parametrize("name", NAMES)
def test_changing_the_inputs_is_told(name):
    exercise = get(name)

    def careless(*arguments):
        output = exercise.solution(*arguments)
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                with torch.no_grad():
                    argument.logical_not_() if argument.dtype == torch.bool else argument.add_(1)
        return output

    if any(isinstance(argument, torch.Tensor) for case in exercise.cases(0) for argument in case):
        assert "in place" in check(name, careless).message


@pytest.mark.parametrize("name", NAMES)
def test_cases_depend_on_the_seed_alone(name):
    cases = get(name).cases
    first, again = cases(0), cases(0)
    assert len(first) == len(again) >= 1
    assert all(
        not card._differ(a, b) and describe(a) == describe(b)
        for case, twin in zip(first, again, strict=True)
        for a, b in zip(case, twin, strict=True)
        if isinstance(a, (torch.Tensor, tuple, list, float, int, str))
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_is_one_short_function(name):
    text = source(name)
    body = ast.parse(text).body
    assert len(body) == 1 and isinstance(body[0], ast.FunctionDef)
    assert ast.get_docstring(body[0]), "the docstring states the shapes"
    assert len(text.splitlines()) <= 25
    assert not inspect.signature(get(name).solution).parameters.keys() ^ {a.arg for a in body[0].args.args}
