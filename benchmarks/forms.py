"""Everything that can be timed, behind one shape: a function without arguments, and what it is differentiated by.

titans-pytorch is a whole layer: RMSNorm, linear q, k, v and gates, memory. `EqualLayer` is that layer with our operator
inside, so that both do the same work. Three of its properties are taken into account: its loss is a mean over D, so its
step is D times our θ; it reads after the write; with several heads its parameters are not contiguous (and slow), so one
head and a batch of sequences stand for several heads.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases import LAYER, LAYERS, NETS, PER_TOKEN, Case
from titans_mini import MemoryNet, MemoryState, neural_memory

MISSING = "titans-pytorch: not installed: pip install titans-pytorch==0.5.5"
STEP, DECAY = -3.0, -4.0  # biases that keep both memories stable over thousands of tokens

Operator = Callable[[list[Tensor], MemoryState, MemoryNet, int], Tensor]


def _ours(**options: str) -> Operator:
    return lambda x, state, net, C: neural_memory(*x, state, net=net, chunk_size=C, **options)[0]


OPERATORS: dict[str, Operator] = {
    "chunked": _ours(backend="chunked"),
    "online": _ours(backend="chunked", anchor="token"),
    "recurrence": _ours(backend="recurrence"),
    "triton": _ours(backend="triton"),
    "triton online": _ours(backend="triton", anchor="token"),
}


class Work(NamedTuple):
    """A provider, ready to run.

    Attributes:
        run: makes the output.
        leaves: what the backward pass differentiates by.
    """

    run: Callable[[], Tensor]
    leaves: list[Tensor]

    def call(self, which: str) -> None:
        """Run "forward" without a graph, or "both" with an upstream gradient of ones."""
        if which == "forward":
            with torch.no_grad():
                self.run()
            return
        y = self.run()
        torch.autograd.grad(y, self.leaves, torch.ones_like(y), allow_unused=True)


def inputs(case: Case, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
    """Draw unit-length q, k, v (B, H, T, D), and gates α, η, θ (B, H, T) in float32.

    θ up to 0.5/C keeps a chunk's steps along one key within what the loss allows.
    """
    g = torch.Generator(device).manual_seed(0)
    shape = case.B, case.H, case.T, case.D
    x = [F.normalize(torch.randn(shape, generator=g, device=device), dim=-1).to(dtype) for _ in range(3)]
    x += [torch.rand(shape[:3], generator=g, device=device) * top for top in (0.02, 0.9, 0.5 / case.C)]
    return [z.requires_grad_() for z in x]


def build(case: Case, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Work:
    """Make a case ready to run.

    Raises:
        ModuleNotFoundError: if the provider is a package that is not installed.
    """
    torch.manual_seed(0)
    if case.provider in LAYERS:
        return _layer(case, device)
    x = inputs(case, dtype, device)
    if case.provider == "sdpa":
        return Work(lambda: F.scaled_dot_product_attention(*x[:3], is_causal=True), x[:3])
    net, run = case.network().to(device), OPERATORS[case.provider]
    state = net.init_state(case.B, case.H, device=device)
    return Work(lambda: run(x, state, net, case.C), [*x, *net.parameters()])


# -- whole layers ---------------------------------------------------------------------------------------------------


def _layer(case: Case, device: str) -> Work:
    """Make a whole layer ready to run: gradients reach its parameters and its input."""
    layer = EqualLayer(case.network(), case.C) if case.provider == LAYER else their_layer(case)
    layer.to(device)
    x = torch.randn(case.B, case.T, case.D, device=device, requires_grad=True)

    def run() -> Tensor:
        y = layer(x)
        return y if torch.is_tensor(y) else y[0]  # theirs returns its state as well

    return Work(run, [x, *layer.parameters()])


def titans_pytorch():
    """Import the package; return None if it is not installed."""
    try:
        return importlib.import_module("titans_pytorch")
    except ModuleNotFoundError as error:
        if error.name != "titans_pytorch":  # installed but broken: report it
            raise
        return None


class EqualLayer(nn.Module):
    """Our operator behind the norms, projections and gates of a titans-pytorch layer.

    Args:
        net: the memory's network.
        chunk_size: C.
    """

    def __init__(self, net: MemoryNet, chunk_size: int) -> None:
        super().__init__()
        D = net.dim
        self.net, self.chunk_size = net, chunk_size
        self.retrieve_norm, self.store_norm = nn.RMSNorm(D), nn.RMSNorm(D)
        self.to_queries, self.to_keys, self.to_values = (nn.Linear(D, D, bias=False) for _ in range(3))
        self.to_step, self.to_momentum, self.to_decay = (nn.Linear(D, 1) for _ in range(3))
        self.start = nn.ParameterList([nn.Parameter(w) for w in net.init_weights(1)])
        with torch.no_grad():
            self.to_step.bias.fill_(STEP)
            self.to_decay.bias.fill_(DECAY)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer: (B, T, D) → (B, T, D)."""
        read, write = self.retrieve_norm(x), self.store_norm(x)
        qkv = self.to_queries(read), self.to_keys(write), self.to_values(write)
        raw = self.to_decay(write), self.to_momentum(write), self.to_step(write)
        alpha, eta, step = (torch.sigmoid(z).mT for z in raw)  # (B, 1, T)
        state = self.net.init_state(len(x), 1, weights=tuple(self.start))
        x = [z.unsqueeze(1) for z in qkv]  # (B, 1, T, D)
        y, _ = neural_memory(*x, alpha, eta, step / self.net.dim, state, net=self.net, chunk_size=self.chunk_size)
        return y.squeeze(1)

    def pairs(self, theirs: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """List our parameters, each with its counterpart in their layer."""
        names = "retrieve_norm", "store_norm", "to_queries", "to_keys", "to_values"
        modules = [(getattr(self, name), getattr(theirs, name)) for name in names]
        gates = (self.to_step, self.to_momentum, self.to_decay)
        their_gates = (theirs.to_adaptive_step, theirs.to_momentum, theirs.to_decay_factor)
        modules += [(a, b[0]) for a, b in zip(gates, their_gates, strict=True)]
        modules += [(self.start, theirs.memory_model_parameters)]
        return [pair for a, b in modules for pair in zip(a.parameters(), b.parameters(), strict=True)]

    def copy_weights(self, theirs: nn.Module) -> None:
        """Take over the parameters of their layer."""
        with torch.no_grad():
            for a, b in self.pairs(theirs):
                a.copy_(b)


def their_layer(case: Case) -> nn.Module:
    """Build the titans-pytorch layer of a case, with the same gate biases as ours."""
    package = titans_pytorch()
    if package is None:
        raise ModuleNotFoundError(MISSING)
    # per token: a gradient at every token, and the anchor moves every C tokens, as ours does. By default: one update a
    # chunk, and every gradient of a call is taken at the initial weights
    sizes = {"chunk_size": 1, "batch_size": case.C} if case.provider == PER_TOKEN else {"chunk_size": case.C}
    depth, expansion, _ = NETS[case.net]
    model = package.MemoryMLP(case.D, depth, expansion)
    layer = package.NeuralMemory(case.D, model=model, mem_model_norm_add_residual=False, **sizes)
    with torch.no_grad():
        layer.to_adaptive_step[0].bias.fill_(STEP)
        layer.to_decay_factor[0].bias.fill_(DECAY)
    return layer
