"""Inputs, networks and comparisons that the tests of the core share."""

import torch
import torch.nn.functional as F

from titans_mini import MemoryNet, MemoryState, neural_memory

PARTS = ("weights", "momentum", "anchor")
NAMES = ("q", "k", "v", "alpha", "eta", "theta")


def inputs(B=2, H=2, T=12, D=4, layers=None, theta=0.1, seed=0, edges=True, dtype=torch.float64):
    """q, k, v of unit length and gates; `edges` sprinkles gates of exactly 0 and 1 (θ: 0 and its largest value)."""
    g = torch.Generator().manual_seed(seed)
    q, k, v = (F.normalize(torch.randn(B, H, T, D, generator=g, dtype=torch.float64), dim=-1) for _ in range(3))
    shape = (B, H, T) if layers is None else (B, H, T, layers)
    alpha, eta, step = (torch.rand(shape, generator=g, dtype=torch.float64) for _ in range(3))
    alpha, step = 0.2 * alpha, theta * step
    if edges:
        for gate, top in ((alpha, 1.0), (eta, 1.0), (step, theta)):
            where = torch.rand(shape, generator=g)
            gate[where < 0.12] = 0.0
            gate[where > 0.94] = top
    return [x.to(dtype) for x in (q, k, v, alpha, eta, step)]


def network(D=4, depth=2, residual=True, norm=True, expansion=2, seed=0, **kwargs):
    """A network in float64 whose norm has a gain and a bias that are not 1 and 0."""
    net = MemoryNet(D, depth, expansion, residual=residual, norm=norm, **kwargs).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(D, generator=g, dtype=torch.float64))
    return net


def matrix(D=4, residual=False):
    return network(D, depth=1, residual=residual, norm=False)


def start(net, B=2, H=2, seed=0, position=0, momentum=0.1):
    """A state that is nowhere zero and differs from sequence to sequence; in mid-chunk its anchor is its own."""
    g = torch.Generator().manual_seed(seed)

    def noise(scale):
        return tuple(scale * torch.randn(B, H, *s, generator=g, dtype=torch.float64) for s in net.shapes)

    weights = tuple(a / s[0] ** 0.5 for a, s in zip(noise(1.0), net.shapes, strict=True))
    anchor = tuple(w + a for w, a in zip(weights, noise(0.1), strict=True)) if position else weights
    return MemoryState(weights=weights, momentum=noise(momentum), anchor=anchor, position=position)


def in_pieces(x, state, net, cuts, **options):
    """Run a sequence call by call, cut at `cuts`; returns the joined outputs and the last state."""
    edges = [0, *sorted(cuts), x[0].shape[2]]
    y = []
    for begin, end in zip(edges, edges[1:], strict=False):
        piece, state = neural_memory(*(z[:, :, begin:end] for z in x), state, net=net, **options)
        y.append(piece)
    return torch.cat(y, 2), state


def difference(got, expected):
    """Largest |got − expected| / max(1, |expected|), entry by entry; NaN anywhere gives NaN, which passes no test."""
    assert got.shape == expected.shape and got.dtype == expected.dtype
    if got.numel() == 0:
        return 0.0
    got, expected = got.detach(), expected.detach()
    return ((got - expected).abs() / expected.abs().clamp(min=1)).max().item()


def state_difference(got, expected):
    """The same over weights, momentum and anchor; the positions must agree."""
    assert got.position == expected.position
    found = [
        difference(a, b) for part in PARTS for a, b in zip(getattr(got, part), getattr(expected, part), strict=True)
    ]
    return torch.tensor(found).max().item()


def results_difference(got, expected):
    """The larger of both for two results (y, state)."""
    return torch.tensor([difference(got[0], expected[0]), state_difference(got[1], expected[1])]).max().item()


def relative_rms(got, expected):
    """‖got − expected‖ / ‖expected‖ in float64."""
    got, expected = got.detach().double(), expected.detach().double()
    return ((got - expected).norm() / expected.norm()).item()


def tensors(state):
    """All tensors of a MemoryState, in order."""
    return [x for part in PARTS for x in getattr(state, part)]


def gradients(fn, leaves):
    """Gradients of a fixed random projection of all outputs of `fn()`."""
    g = torch.Generator().manual_seed(99)
    out = [x for x in fn() if x.requires_grad]
    weights = [torch.randn(x.shape, generator=g, dtype=torch.float64).to(x.dtype) for x in out]
    total = sum((x * w).sum() for x, w in zip(out, weights, strict=True))
    return torch.autograd.grad(total, leaves, allow_unused=True)
