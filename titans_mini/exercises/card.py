"""The exercise card: run a learner's function on some cases, and report the result with a diagnosis.

A check never catches an exception of the learner's function: the traceback is the best diagnosis there is.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import os
import pkgutil
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from titans_mini.exercises.compare import Comparison, compare, describe
from titans_mini.exercises.panel import Note, Result

SEED = 0
DIFFICULTIES = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Exercise:
    """One exercise of a notebook.

    Attributes:
        name: "NN.M", the notebook's number and the exercise's.
        title: a few words.
        solution: the reference, one self-contained function with a short docstring.
        cases: seed → list of argument tuples; the same seed gives the same numbers in fresh objects.
        mutants: label → (function, message): typical mistakes, each with the diagnosis a learner gets for it.
        hints: at least two, each more specific than the one before.
        why: one sentence of explanation below the solution.
        tolerance: largest allowed difference, relative to 1 + |expected|.
        compare: (got, expected, tolerance) → Comparison, for outputs that need their own rule.
        run: (function, *arguments) → output, for functions that are not called but launched, such as kernels.
        note: outputs → one more sentence for a correct answer, such as a score.
        difficulty: "easy" (one line, once the idea is there), "medium" (several lines or one derivation) or "hard".
        minutes: the time it takes a reader who has just read the section.
        points: the weight in a grade, about one per five minutes.
    """

    name: str
    title: str
    solution: Callable
    cases: Callable[[int], list[tuple]]
    mutants: dict[str, tuple[Callable, str]]
    hints: tuple[str, ...]
    why: str = ""
    tolerance: float = 1e-6
    compare: Callable[..., Comparison] = field(default=compare)
    run: Callable = field(default=lambda fn, *arguments: fn(*arguments))
    note: Callable[[list], str] = field(default=lambda outputs: "")
    difficulty: str = "medium"
    minutes: int = 10
    points: int = 2

    def __post_init__(self):
        """Raise if the name is malformed, the hints are a single string, or the effort is none that can be shown."""
        if len(self.name) != 4 or self.name[2] != "." or not (self.name[:2] + self.name[3]).isdigit():
            raise ValueError(f"got the name {self.name!r}, expected 'NN.M' such as '01.2'")
        if isinstance(self.hints, str):
            raise TypeError("got one string as hints, expected a tuple of strings: is a comma missing?")
        if self.difficulty not in DIFFICULTIES:
            raise ValueError(f"{self.name}: got difficulty {self.difficulty!r}, expected one of {DIFFICULTIES}")
        for label, value in (("minutes", self.minutes), ("points", self.points)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{self.name}: got {label} {value!r}, expected a whole number from 1")

    @property
    def effort(self) -> str:
        """Return difficulty, minutes and points in words: "easy · 5 minutes · 1 point"."""
        return f"{self.difficulty} · {_count(self.minutes, 'minute')} · {_count(self.points, 'point')}"


_cards: dict[str, Exercise] = {}
_results: dict[str, Result] = {}
_hints_given: dict[str, int] = {}


def register(exercise: Exercise) -> Exercise:
    """Register an exercise under its name and return it; a later one of the same name replaces it."""
    _cards[exercise.name] = exercise
    return exercise


def get(name: str) -> Exercise:
    """Return the exercise called "NN.M"; the module of its notebook is imported on first use."""
    if name not in _cards:
        module = f"titans_mini.exercises.nb{str(name)[:2]}"
        if str(name)[:2].isdigit() and importlib.util.find_spec(module):
            for exercise in importlib.import_module(module).EXERCISES:
                register(exercise)
    if name not in _cards:
        raise KeyError(f"got exercise {name!r}, expected one of {', '.join(names())}")
    return _cards[name]


def names() -> list[str]:
    """Return the names of all exercises, in order."""
    import titans_mini.exercises as package

    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("nb"):
            for exercise in importlib.import_module(f"{package.__name__}.{module.name}").EXERCISES:
                _cards.setdefault(exercise.name, exercise)
    return sorted(_cards)


def check(name: str, fn: Callable, seed: int = SEED) -> Result:
    """Run `fn` on the cases of exercise `name` and report the result with a diagnosis.

    Args:
        name: the exercise, "NN.M".
        fn: your function. Its exceptions propagate.
        seed: seed of the cases; another seed gives other numbers.

    Returns:
        Result: `passed`, `attempted` and `message`, shown as a panel in a notebook.

    Raises:
        AssertionError: if the environment sets ``TITANS_STRICT=1`` and the check is not passed.
    """
    card = get(name)
    if not callable(fn):
        raise TypeError(
            f"got {describe(fn)}, expected your function: write check({name!r}, f), not check({name!r}, f(…))"
        )
    inputs, outputs = [], []
    for arguments in _fresh(card, seed):
        outputs.append(card.run(fn, *arguments))
        inputs.append(arguments)
    result = _judge(card, inputs, outputs, seed)
    _results[name] = result
    if os.environ.get("TITANS_STRICT") == "1" and not result.passed:
        raise AssertionError(str(result))
    return result


def hint(name: str) -> Note:
    """Show one more hint per call."""
    card = get(name)
    given = _hints_given[name] = min(_hints_given.get(name, 0) + 1, len(card.hints))
    lines = [f"{i}. {text}" for i, text in enumerate(card.hints[:given], 1)]
    left = len(card.hints) - given
    more = (
        f"{left} more: call hint({name!r}) again." if left else f"That was the last. solution({name!r}) shows one way."
    )
    return Note(f"**Hint {name} · {card.title}** ({card.effort})\n\n" + "\n".join(lines) + f"\n\n*{more}*")


def solution(name: str) -> Note:
    """Show the reference solution, highlighted, with its explanation."""
    card = get(name)
    why = f"\n\n{card.why}" if card.why else ""
    return Note(f"**Solution {name} · {card.title}**\n\n```python\n{source(name).rstrip()}\n```{why}")


def source(name: str) -> str:
    """Return the source of the reference solution: one self-contained function."""
    return textwrap.dedent(inspect.getsource(get(name).solution))


def results() -> dict[str, Result]:
    """Return the latest result of every exercise checked so far."""
    return dict(_results)


def _judge(card: Exercise, inputs: list[tuple], outputs: list, seed: int) -> Result:
    """Return the first result that applies: not attempted, inputs changed, right, a known mistake, a difference."""
    if all(_unattempted(output) for output in outputs):
        message = f"Not attempted yet: your function returns {_stub(outputs)}. Replace the … and run the cell again."
        return Result(card.name, card.title, False, message, attempted=False, effort=card.effort)
    changed = _changed(inputs, _fresh(card, seed))
    if changed:
        return Result(card.name, card.title, False, changed, effort=card.effort)
    expected = [card.run(card.solution, *arguments) for arguments in _fresh(card, seed)]
    found = [card.compare(got, want, card.tolerance) for got, want in zip(outputs, expected, strict=True)]
    if not any(c.problem for c in found):
        worst = max((c.deviation for c in found), default=0.0)
        cases = f"all {len(found)} cases equal" if len(found) > 1 else "the case equals"
        message = f"Right: {cases} the reference to {_short(card.tolerance)} (largest difference {_short(worst)})."
        message += card.note(outputs)
        return Result(card.name, card.title, True, message, effort=card.effort)
    message = _diagnose(card, outputs, seed) or _first_problem(found)
    return Result(card.name, card.title, False, message, effort=card.effort)


def _diagnose(card: Exercise, outputs: list, seed: int) -> str | None:
    """Return the message of the first typical mistake that gives the learner's outputs on every case."""
    for mutant, message in card.mutants.values():
        if _matches(card, mutant, outputs, seed):
            return message
    return None


def _matches(card: Exercise, mutant: Callable, outputs: list, seed: int) -> bool:
    for arguments, output in zip(_fresh(card, seed), outputs, strict=True):
        try:
            wrong = card.run(mutant, *arguments)
        except Exception:  # raised by our mutant, not by the learner: it may fit only some shapes
            return False
        if card.compare(output, wrong, card.tolerance).problem:
            return False
    return True


def _first_problem(found: list[Comparison]) -> str:
    wrong = [(i, c) for i, c in enumerate(found, 1) if c.problem]
    forms = [(i, c) for i, c in wrong if c.deviation == math.inf]  # a wrong kind, shape or dtype explains the rest
    number, (_, problem) = (forms or wrong)[0]
    right = sum(c.problem is None for c in found)
    return f"Not yet. Case {number} of {len(found)}: {problem} {right} of {len(found)} cases are right."


def _changed(inputs: list[tuple], originals: list[tuple]) -> str | None:
    for number, (after, before) in enumerate(zip(inputs, originals, strict=True), 1):
        for position, (a, b) in enumerate(zip(after, before, strict=True), 1):
            if _differ(a, b):
                return (
                    f"Your function changed its argument {position} in place (case {number}). The caller still needs "
                    "it: write M = M + x, not M += x or M.add_(x), and do not assign into an argument."
                )
    return None


def _differ(after, before) -> bool:
    """Return whether any tensor inside `after` differs from its counterpart in `before`."""
    if isinstance(before, torch.Tensor):
        if after.shape != before.shape:
            return True
        return bool((~((after == before) | ((after != after) & (before != before)))).any())
    if isinstance(before, (tuple, list)):
        return len(after) != len(before) or any(_differ(a, b) for a, b in zip(after, before, strict=True))
    if isinstance(before, dict):
        return after.keys() != before.keys() or any(_differ(after[name], before[name]) for name in before)
    return False


def _fresh(card: Exercise, seed: int) -> list[tuple]:
    """Return the cases, with all tensors cloned."""
    return [_clone(tuple(arguments)) for arguments in card.cases(seed)]


def _clone(x):
    if isinstance(x, torch.Tensor):
        return x.detach().clone().requires_grad_(x.requires_grad)
    if isinstance(x, (tuple, list)) and not hasattr(x, "_fields"):
        return type(x)(_clone(part) for part in x)
    if isinstance(x, dict):
        return {name: _clone(part) for name, part in x.items()}
    return x


def _unattempted(output) -> bool:
    if isinstance(output, (tuple, list)):
        return bool(output) and all(_unattempted(part) for part in output)
    return output is None or output is Ellipsis


def _stub(outputs: list) -> str:
    return "…" if outputs and outputs[0] is Ellipsis else "nothing"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _short(x: float) -> str:
    return re.sub(r"e([+-])0*", lambda m: "e" + m[1].strip("+"), f"{x:.1g}")
