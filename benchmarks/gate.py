"""The correctness gate: before anything is timed, everything that claims to compute the same must do so.

Small sizes in float64, outputs and gradients; then float32 at the size that is timed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases import EVERY_CHUNK, LAYER, PER_TOKEN, Case
from benchmarks.peers import EqualLayer, copy_weights, their_layer, titans_pytorch
from benchmarks.providers import OPERATORS, Operator
from titans_mini import MemoryNet, MemoryState

EXACT, ROUNDED = 1e-10, 1e-5  # equal by algebra, in float64; the same in float32
NETS = {
    "matrix": {"depth": 1, "residual": False, "norm": False},
    "mlp2": {"depth": 2, "expansion": 2, "residual": False, "norm": False},
    "mlp4 norm": {"depth": 2, "expansion": 4},
}


def limit(name: str) -> float:
    """Return the largest error that a check of this name may show."""
    return ROUNDED if "float32" in name else EXACT


def run_gate(operators: dict[str, Operator] = OPERATORS, device: str = "cpu") -> dict[str, float]:
    """Measure every error.

    Args:
        operators: what to check by name; "recurrence" is the definition that the others must equal.
        device: where it will be timed, so where it is checked.

    Returns:
        For each check its largest relative error; NaN where a result is not finite.
    """
    errors = dict(_equal_operators(operators, device))
    errors |= dict(_equal_layers(device))
    errors |= dict(_single_precision(operators["chunked"], device))
    return errors


def failures(errors: dict[str, float]) -> list[str]:
    """Say which checks failed and by how much."""
    wrong = {name: e for name, e in errors.items() if not e <= limit(name)}  # NaN is wrong too
    return [f"{name}: error {e:.1e}, at most {limit(name):.0e} allowed" for name, e in wrong.items()]


def difference(got: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest ‖got − expected‖ / ‖expected‖ of several tensors; NaN stays NaN."""
    found = [torch.linalg.norm(a - b) / torch.linalg.norm(b) for a, b in zip(got, expected, strict=True)]
    return torch.stack([x.detach() for x in found]).max().item()


def problem(B: int, H: int, T: int, D: int, C: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Draw q, k, v and gates that want gradients."""
    g = torch.Generator().manual_seed(3)
    x = [F.normalize(torch.randn(B, H, T, D, generator=g, dtype=torch.float64), dim=-1) for _ in range(3)]
    x += [torch.rand(B, H, T, generator=g, dtype=torch.float64) * top for top in (0.1, 0.9, 0.5 / C)]
    return [z.to(device, dtype).requires_grad_() for z in x]


def unit_answers(net: MemoryNet) -> MemoryNet:
    """Set the norm's gain as `NeuralMemory` does, so that answers are as long as unit keys and values.

    With a gain of 1 they are √D long and the memory jumps about: it amplifies rounding to 4e-4, and the definition in
    float32 is then off by as much as the fast form. That would test the problem and not the code.
    """
    if net.norm:
        nn.init.constant_(net.norm_weight, net.dim**-0.5)
    return net


def start(net: MemoryNet, B: int, H: int) -> MemoryState:
    """Start from a memory and a momentum that are nowhere zero."""
    g = torch.Generator().manual_seed(4)
    M, S = ([torch.randn(B, H, *s, generator=g, dtype=torch.float64) / s[0] ** 0.5 for s in net.shapes] for _ in "MS")
    return MemoryState(weights=tuple(M), momentum=tuple(0.1 * s for s in S), anchor=tuple(M))


def outcome(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Return an output and the gradients of a fixed random projection of it."""
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(y)
    return [y, *torch.autograd.grad((y * weight).sum(), leaves)]


def _equal_operators(operators: dict[str, Operator], device: str) -> Iterator[tuple[str, float]]:
    """Compare the fast form, the exact online form and the materialised form with the definition."""
    C = 8
    x = problem(2, 2, 29, 6, C, torch.float64, device)  # three chunks and a part of one
    for name, shape in NETS.items():
        net = MemoryNet(6, **shape).to(device, torch.float64)
        state = start(net, 2, 2).to(device)
        expected = outcome(operators["recurrence"](x, state, net, C), x)
        for form in ("chunked", "chunked" + EVERY_CHUNK, "materialised"):
            got = outcome(operators[form](x, state, net, C), x)
            yield f"{form} = recurrence, {name}", difference(got[:1], expected[:1])
            yield f"{form} = recurrence, {name}, gradients", difference(got[1:], expected[1:])
        if net.is_matrix:
            expected = outcome(operators["recurrence"](x, state, net, 1), x)  # C = 1 is the online rule
            for form in ("online", "online" + EVERY_CHUNK):
                got = outcome(operators[form](x, state, net, C), x)
                yield f"{form} = recurrence, {name}", difference(got[:1], expected[:1])
                yield f"{form} = recurrence, {name}, gradients", difference(got[1:], expected[1:])


def _equal_layers(device: str) -> Iterator[tuple[str, float]]:
    """Compare titans-pytorch at per-token semantics with our operator on its own q, k, v and gates."""
    if titans_pytorch() is None:
        return
    for net in ("matrix", "mlp4"):
        torch.manual_seed(6)
        case = Case("main", PER_TOKEN, net, T=28, C=8, D=6)
        theirs, ours = (z.to(device, torch.float64) for z in (their_layer(case), EqualLayer(case.network(), case.C)))
        copy_weights(ours, theirs)
        x = torch.randn(3, case.T, case.D, dtype=torch.float64).to(device).requires_grad_()
        a, b = (list(z) for z in zip(*ours.pairs(theirs), strict=True))
        got, expected = outcome(ours(x), [x, *a]), outcome(theirs(x)[0], [x, *b])
        yield f"{LAYER} = {PER_TOKEN}, {net}", difference(got[:1], expected[:1])
        yield f"{LAYER} = {PER_TOKEN}, {net}, gradients", difference(got[1:], expected[1:])


def _single_precision(chunked: Operator, device: str) -> Iterator[tuple[str, float]]:
    """Compare the fast form in float32 with itself in float64, at the width and chunk size that are timed."""
    for name, shape in NETS.items():
        net, results = unit_answers(MemoryNet(64, **shape)), []
        for dtype in (torch.float32, torch.float64):
            x = problem(1, 2, 512, 64, 64, torch.float32, device)
            x = [z.detach().to(dtype).requires_grad_() for z in x]  # the same numbers for both
            state = start(net, 1, 2).to(torch.float32).to(device, dtype)
            results.append([z.double() for z in outcome(chunked(x, state, net.to(device, dtype), 64), x)])
        yield f"chunked float32 = float64, {name}", difference(results[0][:1], results[1][:1])
        yield f"chunked float32 = float64, {name}, gradients", difference(results[0][1:], results[1][1:])
