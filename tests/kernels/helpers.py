"""What the tests of all kernels share: where they run, guarded memory, outcomes, and how far two outcomes are apart.

Kernels run on a GPU where there is one, else by the interpreter: tests/conftest.py asks Triton for it in time.
"""

import contextlib
import importlib
import importlib.util
from unittest import mock

import pytest
import torch

from tests.helpers import NAMES, inputs, relative_rms, start, tensors
from titans_mini import neural_memory
from titans_mini.memory.backends import kernels

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
FLOAT32 = 1e-5  # relative RMS against float64
HALF = {"y": 0.005, "end": 0.005, "qkv": 0.008, "gates": 0.02}
GUARD = 256  # numbers before and behind every tensor, so that nothing loses its alignment

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: it comes with PyTorch for CUDA"
)
needs_gpu = pytest.mark.skipif(
    not GPU, reason="no GPU here: Triton's interpreter runs one program after the other, and computes bfloat16 wrongly"
)


def loaded():
    """Load the kernels now, for the interpreter where that is asked for: triton decides it when a kernel is defined.

    A test that takes TRITON_INTERPRET away calls this first. Without it, it would leave kernels behind that no test
    after it in the same process can run.
    """
    if importlib.util.find_spec("triton") is not None:
        for half in ("matrix", "mlp"):
            importlib.import_module(f"{kernels().__name__}.{half}")


class Guarded:
    """Memory in which nothing is taken for granted: new tensors are full of NaN, and so is what lies around them.

    Reading what was not written, or beside a tensor, brings NaN into a result; writing beside a tensor is found by
    `check`.
    """

    def __init__(self):
        self.made = []
        self.real = torch.empty, torch.empty_like

    def place(self, shape, stride, dtype, device):
        numel = torch.Size(shape).numel()
        whole = self.real[0](numel + 2 * GUARD, dtype=dtype, device=device).fill_(float("nan"))
        self.made.append(whole)
        return whole[GUARD : GUARD + numel].as_strided(shape, stride)

    def empty(self, *size, dtype=None, device=None, pin_memory=False):
        if pin_memory:  # of the host: no kernel sees it
            return self.real[0](*size, dtype=dtype, pin_memory=True)
        size = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        return self.place(size, self.real[0](size, device="meta").stride(), dtype, device)

    def empty_like(self, x, device=None, dtype=None):
        like = self.real[1](x, device="meta")
        return like if device == "meta" else self.place(x.shape, like.stride(), dtype or x.dtype, x.device)

    def copy(self, x):
        """Put an input between guards; gradients flow to it as to any other."""
        return self.empty_like(x).copy_(x)

    @contextlib.contextmanager
    def memory(self):
        """Let every tensor that the host code makes room for be guarded."""
        with mock.patch.multiple(torch, empty=self.empty, empty_like=self.empty_like):
            yield

    def check(self):
        assert len(self.made) > 5
        for whole in self.made:
            assert whole[:GUARD].isnan().all() and whole[-GUARD:].isnan().all(), "something was written beside a tensor"


def problem(net, C, T, B=1, H=2, theta=None, position=0, seed=0, edges=True, dtype=torch.float32, time_first=False):
    """Inputs and a state in `dtype`; gates of exactly 0 and 1 sprinkled in."""
    x = inputs(B=B, H=H, T=T, D=net.dim, theta=theta or 2 / max(C, 4), seed=seed, edges=edges)
    x = [*(z.to(dtype) for z in x[:3]), *(z.float() for z in x[3:])]
    if time_first:
        x = [*(z.transpose(1, 2).contiguous().transpose(1, 2) for z in x[:3]), *x[3:]]
    return x, start(net, B=B, H=H, seed=seed, position=position).map(torch.Tensor.float)


def outcome(net, x, state, backend, dtype=None, guard=None, **options):
    """Everything computed, by name: y, the final state, and the gradients of a random projection of them.

    Args:
        dtype: of the whole computation; None leaves the inputs as they are.
        guard: Guarded memory for inputs and everything the host code makes.
    """
    device, copy = (DEVICE if backend == "triton" else "cpu"), guard.copy if guard else torch.clone
    net = net.to(device, dtype or torch.float32)
    x = [copy(z.to(device, dtype or z.dtype)).requires_grad_() for z in x]
    state = state.map(lambda w: copy(w.to(device, dtype or w.dtype)).requires_grad_())
    if not state.position:
        state = type(state)(state.weights, state.momentum, state.weights, 0)
    with guard.memory() if guard else contextlib.nullcontext():
        y, end = neural_memory(*x, state, net=net, backend=backend, **options)
        found = {"y": y} | {f"end {name}": z for name, z in zip(_names(end), tensors(end), strict=True)}
        leaves = dict(zip(NAMES, x, strict=True)) | dict(zip(_names(state), tensors(state), strict=True))
        leaves |= dict(net.named_parameters())
        anchored = state.position and options.get("anchor") != "token"
        leaves = leaves if anchored else {k: z for k, z in leaves.items() if not k.startswith("anchor")}
        total = sum((z.double() * _weight(z)).sum() for z in found.values())
        gradients = torch.autograd.grad(total, list(leaves.values()))
    if guard:
        guard.check()
    found |= {f"d {name}": z for name, z in zip(leaves, gradients, strict=True)}
    return {name: z.detach().double().cpu() for name, z in found.items()}


def _weight(z):
    g = torch.Generator().manual_seed(z.numel())
    return torch.randn(z.shape, generator=g).bfloat16().double().to(z.device)  # the same gradient arrives in every type


def _names(state):
    return [f"{part} {i}" for part in ("weights", "momentum", "anchor") for i in range(len(state.weights))]


def errors(got, expected):
    """Relative RMS of every quantity; of one that is zero everywhere, the RMS itself. NaN stays NaN."""
    assert got.keys() == expected.keys()
    small = {name: (got[name] - z).norm().item() for name, z in expected.items() if not z.any()}
    return {name: relative_rms(got[name], z) for name, z in expected.items() if z.any()} | small


def limit(name, dtype=torch.float32):
    """The largest error a quantity may have."""
    if dtype == torch.float32:
        return FLOAT32
    kind = name.split()
    if kind[0] in ("y", "end"):
        return HALF[kind[0]]
    return HALF["gates" if kind[1] in NAMES[3:] else "qkv"]


def assert_near(got, expected, dtype=torch.float32):
    """Hold every quantity to its bound; NaN passes none."""
    found = errors(got, expected)
    wrong = {name: e for name, e in found.items() if not e <= limit(name, dtype)}
    assert not wrong, wrong


kernels()  # in a checkout that was not installed, this is what makes titans_mini.kernels importable
