"""Providers timed on a GPU, behind one interface, and the correctness gate before them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import cases as cpu
from benchmarks import providers
from benchmarks.gpu_cases import Case
from titans_mini import MemoryNet, neural_memory
from titans_mini.memory.backends import kernels

DEVICE = "cuda"
# relative RMS against float64: outputs and final state, dq dk dv, gates
LIMITS = {torch.float32: (1e-5, 1e-5, 1e-5), torch.bfloat16: (0.005, 0.008, 0.02)}
BACKENDS = {
    "triton": {"backend": "triton"},
    "triton online": {"backend": "triton", "anchor": "token"},
    "chunked": {"backend": "chunked"},
}


class Missing(Exception):
    """A provider that cannot run here; the message says why."""


class Work(NamedTuple):
    """A provider, ready to run."""

    run: Callable[[], Tensor]
    leaves: list[Tensor]

    def call(self, which: str) -> None:
        """Run forward, or forward and backward with an upstream gradient of ones."""
        if which == "forward":
            with torch.no_grad():
                self.run()
            return
        y = self.run()
        torch.autograd.grad(y, self.leaves, torch.ones_like(y), allow_unused=True)


def inputs(case: Case, dtype: torch.dtype = torch.bfloat16, device: str = DEVICE) -> list[Tensor]:
    """Draw unit-length q, k, v (B, H, T, D) and gates in a stable range (B, H, T), all with requires_grad."""
    g = torch.Generator(device).manual_seed(0)
    shape = case.B, case.H, case.T, case.D
    x = [F.normalize(torch.randn(shape, generator=g, device=device), dim=-1).to(dtype) for _ in range(3)]
    x += [torch.rand(shape[:3], generator=g, device=device) * top for top in (0.02, 0.9, 0.5 / case.C)]
    return [z.requires_grad_() for z in x]


def in_one_line(error: Exception) -> str:
    """Return an error's type and the first line of its message, which may be empty."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:150]}"


def ready(case: Case, device: str = DEVICE) -> Work:
    """Build a case, and run third-party providers once in both passes.

    Raises:
        Missing: as `build`, or if a third-party provider fails; the message says how.
    """
    work = build(case, device)
    if case.provider in ("fla", cpu.PER_TOKEN):
        try:
            for which in cpu.PASSES:
                work.call(which)
        except Exception as error:
            raise Missing(in_one_line(error)) from error
    return work


def build(case: Case, device: str = DEVICE) -> Work:
    """Build a case.

    Raises:
        Missing: if its package is not installed, or the kernels cannot run this memory.
    """
    if case.provider in (cpu.LAYER, cpu.PER_TOKEN):
        same = cpu.Case(case.sweep, case.provider, case.net, case.T, case.C, case.D, case.B, case.H)
        try:
            return Work(*providers.build(same, device))
        except ModuleNotFoundError as error:
            raise Missing(str(error)) from error
    if case.provider == "fla":
        return _fla(case, device)
    x = inputs(case, device=device)
    if case.provider == "sdpa":
        return Work(lambda: F.scaled_dot_product_attention(*x[:3], is_causal=True), x[:3])
    net, options = case.network().to(device), {"chunk_size": case.C, **BACKENDS[case.provider]}
    if options["backend"] == "triton":
        reason = kernels().unsupported_reason(net, x[2], case.C, options.get("anchor", "chunk"))
        if reason:
            raise Missing(reason)
    state = net.init_state(case.B, case.H, device=device)
    return Work(lambda: neural_memory(*x, state, net=net, **options)[0], [*x, *net.parameters()])


def _fla(case: Case, device: str) -> Work:
    """Build the gated delta rule of flash-linear-attention: one state and no momentum, so less work than ours."""
    try:
        rule = importlib.import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule
        guarded = importlib.import_module("fla.ops.common.chunk_o")
    except ImportError as error:
        raise Missing(f"flash-linear-attention: {error}") from error
    # on Hopper with Triton from 3.4 to 3.7.0 its backward pass refuses because dk would be wrong; its time is valid
    guarded.TRITON_ABOVE_3_7_1 = True
    q, k, v, alpha, _, beta = inputs(case, device=device)
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
                case = Case("gate", "triton", name, T=200, H=4)
                net = case.network().to(device)
                if (
                    kernels().unsupported_reason(net, torch.empty(0, dtype=dtype, device=device), case.C, anchor)
                    is None
                ):
                    for kind, error, most in _errors(case, net, anchor, dtype, device):
                        found[f"{name}, {anchor}, {str(dtype)[6:]}: {kind}"] = {"error": error, "limit": most}
    return found


def failures(checks: dict[str, dict[str, float]]) -> list[str]:
    """Return one line per failed check, with its error and its limit."""
    wrong = {name: c for name, c in checks.items() if not c["error"] <= c["limit"]}  # NaN is wrong too
    return [f"{name}: error {c['error']:.1e}, at most {c['limit']:.0e} allowed" for name, c in wrong.items()]


def _errors(case: Case, net: MemoryNet, anchor: str, dtype: torch.dtype, device: str) -> list[tuple[str, float, float]]:
    """Compare one memory: (kind, error, limit) for outputs, vectors' gradients and gates' gradients."""
    x = inputs(case, dtype, device)
    options = {"chunk_size": case.C, "anchor": anchor}
    got = _outcome(x, net, torch.float32, backend="triton", **options)
    x = [z.detach().double().requires_grad_() for z in x]
    expected = _outcome(x, net.double(), torch.float64, backend="chunked", **options)
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
