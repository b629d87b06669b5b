"""The correctness gate: before anything is timed, everything that claims to compute the same must do so.

Small sizes in float64, outputs and gradients; then float32 at the width and chunk size that are timed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.cases import LAYER, NETS, PER_TOKEN, Case
from benchmarks.forms import OPERATORS, EqualLayer, Operator, inputs, their_layer, titans_pytorch
from titans_mini import MemoryNet, MemoryState

EXACT, ROUNDED = 1e-10, 1e-5  # equal by algebra, in float64; the same in float32


def run_gate(operators: dict[str, Operator] = OPERATORS) -> dict[str, float]:
    """Measure every error.

    Args:
        operators: what to check by name; "recurrence" is the definition that the others must equal.

    Returns:
        For each check its largest relative error; NaN where a result is not finite.
    """
    parts = _equal_operators(operators), _equal_layers(), _single_precision(operators["chunked"])
    errors = {}
    for name, got, expected in (check for part in parts for check in part):
        errors[name] = difference(got[:1], expected[:1])
        errors[f"{name}, gradients"] = difference(got[1:], expected[1:])
    return errors


def failures(errors: dict[str, float]) -> list[str]:
    """Say which checks failed and by how much."""
    limits = {name: ROUNDED if "float32" in name else EXACT for name in errors}
    wrong = {name: e for name, e in errors.items() if not e <= limits[name]}  # NaN is wrong too
    return [f"{name}: error {e:.1e}, at most {limits[name]:.0e} allowed" for name, e in wrong.items()]


def difference(got: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest ‖got − expected‖ / ‖expected‖ of several tensors; NaN stays NaN."""
    found = [torch.linalg.norm(a - b) / torch.linalg.norm(b) for a, b in zip(got, expected, strict=True)]
    return torch.stack([x.detach() for x in found]).max().item()


def as_dtype(x: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the same numbers as leaves of another precision."""
    return [z.detach().to(dtype).requires_grad_() for z in x]


def start(net: MemoryNet, B: int, H: int) -> MemoryState:
    """Start from a memory and a momentum that are nowhere zero."""
    g = torch.Generator().manual_seed(4)
    M, S = ([torch.randn(B, H, *s, generator=g, dtype=torch.float64) / s[0] ** 0.5 for s in net.shapes] for _ in "MS")
    return MemoryState(weights=tuple(M), momentum=tuple(0.1 * s for s in S), anchor=tuple(M))


def outcome(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Return an output and the gradients of a fixed random projection of it."""
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(y)
    return [y, *torch.autograd.grad((y * weight).sum(), leaves)]


Check = tuple[str, list[Tensor], list[Tensor]]  # what is compared: an output, then its gradients


def _equal_operators(operators: dict[str, Operator]) -> Iterator[Check]:
    """Compare the fast form and the exact online form with the definition."""
    for name in NETS:
        case = Case("gate", "chunked", name, T=29, C=8, D=6, B=2, H=2)  # three chunks and a part of one
        net, x = case.network().double(), as_dtype(inputs(case), torch.float64)
        state = start(net, case.B, case.H)

        def run(form: str, C: int, x=x, state=state, net=net) -> list[Tensor]:
            return outcome(operators[form](x, state, net, C), x)

        yield f"chunked = recurrence, {name}", run("chunked", case.C), run("recurrence", case.C)
        if net.is_matrix:  # the online rule is the recurrence with chunks of one token
            yield f"online = recurrence, {name}", run("online", case.C), run("recurrence", 1)


def _equal_layers() -> Iterator[Check]:
    """Compare titans-pytorch at per-token semantics with our operator on its own q, k, v and gates."""
    for name in ("matrix", "mlp4") if titans_pytorch() else ():
        torch.manual_seed(6)
        case = Case("gate", PER_TOKEN, name, T=28, C=8, D=6)
        theirs, ours = their_layer(case).double(), EqualLayer(case.network(), case.C).double()
        ours.copy_weights(theirs)
        x = torch.randn(3, case.T, case.D, dtype=torch.float64, requires_grad=True)
        a, b = (list(z) for z in zip(*ours.pairs(theirs), strict=True))
        yield f"{LAYER} = {PER_TOKEN}, {name}", outcome(ours(x), [x, *a]), outcome(theirs(x)[0], [x, *b])


def _single_precision(chunked: Operator) -> Iterator[Check]:
    """Compare the fast form in float32 with itself in float64."""
    for name in NETS:
        case, results = Case("gate", "chunked", name, T=512, H=2), []
        for dtype in (torch.float32, torch.float64):
            net, x = case.network().to(dtype), as_dtype(inputs(case), dtype)
            state = start(net, case.B, case.H).to(torch.float32).to(dtype)  # the same numbers for both
            results.append([z.double() for z in outcome(chunked(x, state, net, case.C), x)])
        yield f"chunked float32 = float64, {name}", *results
