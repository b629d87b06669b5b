"""Providers timed on a GPU, behind the same shape as on a CPU, and the correctness gate before them."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from benchmarks import forms
from benchmarks.cases import LAYERS, PER_TOKEN, Case
from benchmarks.forms import Work, inputs
from benchmarks.gate import as_dtype
from titans_mini import MemoryNet, neural_memory
from titans_mini.memory.backends import kernels

DEVICE = "cuda"
# relative RMS against float64: outputs and final state, dq dk dv, gates
LIMITS = {torch.float32: (1e-5, 1e-5, 1e-5), torch.bfloat16: (0.005, 0.008, 0.02)}


class Missing(Exception):
    """A provider that cannot run here; the message says why."""


def in_one_line(error: Exception) -> str:
    """Return an error's type and the first line of its message, which may be empty."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:150]}"


def ready(case: Case, device: str = DEVICE) -> Work:
    """Build a case, and run what others wrote once in both passes.

    Raises:
        Missing: as `build`, or if what others wrote fails; the message says how.
    """
    work = build(case, device)
    if case.provider in ("fla", PER_TOKEN):
        try:
            for which in case.passes:
                work.call(which)
        except Exception as error:
            raise Missing(in_one_line(error)) from error
    return work


def build(case: Case, device: str = DEVICE) -> Work:
    """Build a case: whole layers in float32, all else with vectors in bfloat16.

    Raises:
        Missing: if its package is not installed, or the kernels cannot run this memory.
    """
    if case.provider == "fla":
        return _fla(case, device)
    if case.provider.startswith("triton"):
        anchor = "token" if case.provider == "triton online" else "chunk"
        reason = unsupported(case, case.network().to(device), torch.bfloat16, anchor, device)
        if reason:
            raise Missing(reason)
    try:
        return forms.build(case, torch.float32 if case.provider in LAYERS else torch.bfloat16, device)
    except ModuleNotFoundError as error:
        raise Missing(str(error)) from error


def unsupported(case: Case, net: MemoryNet, dtype: torch.dtype, anchor: str, device: str) -> str | None:
    """Return why the kernels cannot run a memory; None if they can."""
    return kernels().unsupported_reason(net, torch.empty(0, dtype=dtype, device=device), case.C, anchor)


def _fla(case: Case, device: str) -> Work:
    """Build the gated delta rule of flash-linear-attention: one state and no momentum, so less work than ours."""
    try:
        rule = importlib.import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule
        guarded = importlib.import_module("fla.ops.common.chunk_o")
    except ImportError as error:
        raise Missing(f"flash-linear-attention: {error}") from error
    # on Hopper with Triton from 3.4 to 3.7.0 its backward pass refuses because dk would be wrong; its time is valid
    guarded.TRITON_ABOVE_3_7_1 = True
    q, k, v, alpha, _, beta = inputs(case, torch.bfloat16, device)
    q, k, v, beta = (z.detach().transpose(1, 2).contiguous().requires_grad_() for z in (q, k, v, beta.to(q.dtype)))
    decay = torch.log1p(-alpha.detach()).transpose(1, 2).contiguous().requires_grad_()  # (B, T, H), a logarithm
    return Work(lambda: rule(q, k, v, decay, beta)[0], [q, k, v, decay, beta])


# -- the gate ----------------------------------------------------------------------------------------------------------


def run_gate(device: str = DEVICE, nets: tuple[str, ...] = ("matrix", "mlp2", "mlp4")) -> dict[str, dict[str, float]]:
    """Compare outputs, final states and every gradient of the kernels with the chunked form in float64.

    Returns:
        Check → {"error": largest relative RMS error, NaN if a result is not finite, "limit": the largest allowed}.
        Memories that the kernels do not support have no check.
    """
    found = {}
    for name in nets:
        for anchor in ("chunk", "token") if name == "matrix" else ("chunk",):
            for dtype in LIMITS:
                case = Case("gate", "triton", name, T=200)
                net = case.network().to(device)
                if unsupported(case, net, dtype, anchor, device) is None:
                    for kind, error, most in errors(case, net, anchor, dtype, device):
                        found[f"{name}, {anchor}, {str(dtype)[6:]}: {kind}"] = {"error": error, "limit": most}
    return found


def failures(checks: dict[str, dict[str, float]]) -> list[str]:
    """Return one line per failed check, with its error and its limit."""
    wrong = {name: c for name, c in checks.items() if not c["error"] <= c["limit"]}  # NaN is wrong too
    return [f"{name}: error {c['error']:.1e}, at most {c['limit']:.0e} allowed" for name, c in wrong.items()]


def errors(case: Case, net: MemoryNet, anchor: str, dtype: torch.dtype, device: str) -> list[tuple[str, float, float]]:
    """Compare one memory: (kind, error, limit) for outputs, vectors' gradients and gates' gradients."""
    x = inputs(case, dtype, device)
    options = {"chunk_size": case.C, "anchor": anchor}
    got = _outcome(x, net, torch.float32, backend="triton", **options)
    expected = _outcome(as_dtype(x, torch.float64), net.double(), torch.float64, backend="chunked", **options)
    net.float()
    found = [(a.double() - b).norm() / b.norm() for a, b in zip(got, expected, strict=True)]
    parts = {"outputs and states": found[:-6], "dq, dk, dv": found[-6:-3], "gates": found[-3:]}
    worst = {kind: torch.stack(e).max().item() for kind, e in parts.items()}  # NaN stays NaN
    return [(kind, e, most) for (kind, e), most in zip(worst.items(), LIMITS[dtype], strict=True)]


def _outcome(x: list[Tensor], net: MemoryNet, dtype: torch.dtype, **options: str | int) -> list[Tensor]:
    """Return y, the final state, and the gradients of the six inputs for fixed random cotangents."""
    B, H = x[0].shape[:2]
    g = torch.Generator().manual_seed(1)
    weights = tuple(w + torch.randn(w.shape, generator=g).to(w) / w.shape[-2] ** 0.5 for w in net.init_weights(H))
    state = net.init_state(B, H, weights=tuple(w.to(x[0].device, dtype) for w in weights))
    y, end = neural_memory(*x, state, net=net, **options)
    out = [y, *end.weights, *end.momentum]
    draws = (torch.randn(z.shape, generator=torch.Generator().manual_seed(2)) for z in out)
    up = [up.bfloat16().to(z) for up, z in zip(draws, out, strict=True)]  # the same cotangents in every dtype
    return [*(z.detach() for z in out), *torch.autograd.grad(out, x, up)]
