"""The package titans-pytorch and this library, both as whole layers so that both do the same work.

Its `NeuralMemory` is a layer: RMSNorm, linear projections to q, k, v and to three gates, memory. `EqualLayer` is that
layer with our operator inside. Three of its properties are taken into account here: its loss is a mean over D, so its
learning rate is D times our θ; it reads after the write; with several heads its parameters are not contiguous (and
slow), so one head and a batch of sequences stand for several heads.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from benchmarks.cases import AT_START, NETS, PER_CHUNK, PER_TOKEN, Case
from titans_mini import MemoryNet, neural_memory

MISSING = "not installed: pip install titans-pytorch==0.5.5"
STEP, DECAY = -3.0, -4.0  # biases that keep both memories stable over thousands of tokens


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


def their_layer(case: Case) -> nn.Module:
    """Build the titans-pytorch layer of a case, with the same gate biases as ours."""
    package = titans_pytorch()
    if package is None:
        raise ModuleNotFoundError(f"titans-pytorch: {MISSING}")
    settings = {
        PER_TOKEN: {"chunk_size": 1, "batch_size": case.C},  # a gradient per token, the anchor moves every C tokens
        PER_CHUNK: {"chunk_size": case.C, "batch_size": case.C},  # one update per chunk
        AT_START: {"chunk_size": case.C},  # one update per chunk, every gradient at the initial weights
    }[case.provider]
    shape = NETS[case.net]
    model = package.MemoryMLP(case.D, shape.depth, shape.expansion)
    layer = package.NeuralMemory(case.D, model=model, mem_model_norm_add_residual=False, **settings)
    with torch.no_grad():
        layer.to_adaptive_step[0].bias.fill_(STEP)
        layer.to_decay_factor[0].bias.fill_(DECAY)
    return layer


def copy_weights(ours: EqualLayer, theirs: nn.Module) -> None:
    """Copy their parameters into our layer, in place."""
    with torch.no_grad():
        for a, b in ours.pairs(theirs):
            a.copy_(b)
