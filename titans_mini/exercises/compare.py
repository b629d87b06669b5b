"""Compare two outputs and report the first difference: in kind, in shape, in dtype or in value."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Comparison(NamedTuple):
    """The result of `compare`.

    Attributes:
        deviation: the largest absolute difference of two finite numbers; inf when the kind, shape or dtype differs.
        problem: None if equal, else a sentence with got, expected and the likely cause.
    """

    deviation: float
    problem: str | None


def compare(got, expected, tolerance: float = 1e-6) -> Comparison:
    """Compare two outputs: tensors, numbers, bools, strings, None, and tuples, lists and dicts of them.

    Two numbers are equal when |got − expected| ≤ tolerance·(1 + |expected|), when both are NaN, or when both are
    the same infinity.
    """
    if isinstance(expected, dict):
        if not isinstance(got, dict) or got.keys() != expected.keys():
            return _wrong(got, expected, "the names must be the same")
        return _parts([(f"[{name!r}]", got[name], expected[name]) for name in expected], tolerance)
    if isinstance(expected, (tuple, list)):
        if not isinstance(got, (tuple, list)):
            return _wrong(got, expected, f"{len(expected)} results are returned, separated by commas")
        if len(got) != len(expected):
            return _wrong(got, expected, f"{len(expected)} results are returned, in this order")
        return _parts([(f"[{i}]", g, e) for i, (g, e) in enumerate(zip(got, expected, strict=True))], tolerance)
    if isinstance(expected, Tensor):
        return _tensors(got, expected, tolerance)
    if isinstance(expected, (bool, np.bool_)):
        return _plain(got, bool(expected), bool, "a truth value is asked for")
    if isinstance(expected, (int, float, np.number)):
        return _numbers(got, float(expected), tolerance)
    return _plain(got, expected, type(expected), "the kind of result differs")


def _parts(parts, tolerance: float) -> Comparison:
    found = [(where, compare(got, expected, tolerance)) for where, got, expected in parts]
    deviation = max((c.deviation for _, c in found), default=0.0)
    problem = next((f"Result{where}: {c.problem}" for where, c in found if c.problem), None)
    return Comparison(deviation, problem)


def _tensors(got, expected: Tensor, tolerance: float) -> Comparison:
    if isinstance(got, (bool, int, float)) and expected.ndim == 0:
        got = torch.tensor(got, dtype=expected.dtype)
    if isinstance(got, np.ndarray):
        got = torch.from_numpy(got)
    if not isinstance(got, Tensor):
        return _wrong(got, expected, "a tensor is asked for")
    got, expected = got.detach().cpu(), expected.detach().cpu()
    if got.shape != expected.shape:
        cause = _shape_cause(tuple(got.shape), tuple(expected.shape))
        return Comparison(math.inf, f"got shape {tuple(got.shape)}, expected {tuple(expected.shape)}: {cause}.")
    if got.dtype != expected.dtype:
        cause = "keep the dtype of the inputs, do not convert on the way"
        return Comparison(math.inf, f"got dtype {_name(got.dtype)}, expected {_name(expected.dtype)}: {cause}.")
    if not expected.numel():
        return Comparison(0.0, None)
    return _values(got, expected, tolerance)


def _values(got: Tensor, expected: Tensor, tolerance: float) -> Comparison:
    g, e = got.to(torch.float64), expected.to(torch.float64)
    same = (g == e) | (g.isnan() & e.isnan())
    distance = torch.where(same, 0.0, (g - e).abs()).nan_to_num(nan=math.inf)
    finite = distance[distance.isfinite()]
    deviation = float(finite.max()) if finite.numel() else 0.0
    wrong = ~same & ~(e.isfinite() & (distance <= tolerance * (1 + e.abs())))
    if not wrong.any():
        return Comparison(deviation, None)
    worst = int(torch.where(wrong, distance, -1.0).argmax())
    place = ", ".join(str(int(i)) for i in np.unravel_index(worst, tuple(g.shape))) if g.ndim else ""
    where = f" at [{place}]" if place else ""
    most = f"largest difference {_digits(distance.flatten()[worst])}{where}"
    count = f", {int(wrong.sum())} of {g.numel()} numbers differ" if g.numel() > 1 else ""
    return Comparison(
        deviation, f"got {_digits(g.flatten()[worst])}, expected {_digits(e.flatten()[worst])} ({most}{count})."
    )


def _numbers(got, expected: float, tolerance: float) -> Comparison:
    if isinstance(got, (Tensor, np.ndarray)) and got.shape == ():
        got = got.item()
    if isinstance(got, (Tensor, np.ndarray)):
        return Comparison(math.inf, f"got shape {tuple(got.shape)}, expected one number: is a sum or a mean missing?")
    if isinstance(got, (bool, np.bool_)) or not isinstance(got, (int, float, np.number)):
        return _wrong(got, expected, "one number is asked for")
    as_tensors = (torch.tensor(float(x), dtype=torch.float64) for x in (got, expected))
    return _values(*as_tensors, tolerance)


def _plain(got, expected, kind: type, cause: str) -> Comparison:
    if kind is bool and isinstance(got, (Tensor, np.ndarray)) and got.shape == ():
        got = got.item()
    if kind is bool and isinstance(got, np.bool_):
        got = bool(got)
    if not isinstance(got, kind):
        return _wrong(got, expected, cause)
    return Comparison(0.0, None) if got == expected else Comparison(0.0, f"got {got!r}, expected {expected!r}.")


def _wrong(got, expected, cause: str) -> Comparison:
    return Comparison(math.inf, f"got {describe(got)}, expected {describe(expected)}: {cause}.")


def describe(x) -> str:
    """Describe `x` in a few words: a tensor by its shape, a tuple by its parts, the rest by its value."""
    if isinstance(x, (Tensor, np.ndarray)):
        return f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"an array of shape {x.shape}"
    if isinstance(x, (tuple, list)):
        inside = ", ".join(describe(part) for part in x[:4]) + (", …" if len(x) > 4 else "")
        return f"{type(x).__name__} of {len(x)} ({inside})"
    if isinstance(x, dict):
        return f"dict with {', '.join(map(repr, x))}"
    text = _digits(x) if isinstance(x, float) else repr(x)
    return f"{type(x).__name__} {text if len(text) <= 60 else text[:57] + '…'}" if x is not None else "None"


def _shape_cause(got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if len(got) >= 2 and got == expected[:-2] + expected[:-3:-1]:
        return "the last two axes are swapped, a transpose is missing or one too many"
    if len(got) == len(expected) + 1:
        return "one axis too many, is a sum or an index missing"
    if len(got) + 1 == len(expected):
        return "one axis too few, was one summed or indexed away"
    if len(got) == len(expected) and sum(g != e for g, e in zip(got, expected, strict=True)) == 1:
        axis = next(i for i, (g, e) in enumerate(zip(got, expected, strict=True)) if g != e)
        return f"axis {axis} has the wrong length"
    return "follow the shapes in the function's docstring line by line"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _digits(x) -> str:
    return f"{float(x):.3g}"
