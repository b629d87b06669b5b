"""Exercises of notebook 11: the reach of window layers, the gate, memory before attention, and θ from β."""

import torch

from titans_mini.exercises import Exercise


def reach(windows, T):
    """Largest distance d ≤ T − 1 at which token t − d still moves output t: one window per layer -> a number."""
    return min(T - 1, sum(w - 1 for w in windows))


def gate(y, m, a, b):
    """norm(y) σ(norm(m)): y, m (T, D), learned vectors a of y's norm and b of m's (D,) -> (T, D)."""

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    return norm(y, a) * torch.sigmoid(norm(m, b))


def memory_first(x, R, A):
    """What MAL adds to the stream: x (T, D), the memory answers R @ x, attention is A @ norm(…) -> (T, D)."""
    m = R @ x
    y = x + m
    o = A @ torch.nn.functional.rms_norm(y, y.shape[-1:], eps=1e-6)
    return m + o


def from_gated_delta(keep, beta, v):
    """Gated DeltaNet's α′, β (T,) and v (T, D) -> α (T,), θ (T,), targets (T, D) of the memory with η = 0."""
    return 1 - keep, keep * beta / 2, v / keep[:, None]


def _randn(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)


def _rand(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)


def _reach_cases(seed):
    return [((8,), 64), ((8, 8, 8), 64), ((4, 16, 5), 100 + seed), ((9, 9, 9), 20), ((1, 3), 50)]


def _gate_cases(seed):
    randn = _randn(seed)
    return [(2 * randn(t, d) + 1, 3 * randn(t, d), randn(d), randn(d)) for t, d in ((4, 3), (1, 6), (7, 2))]


def _first_cases(seed):
    randn = _randn(seed)
    return [(randn(t, d), randn(t, t).tril(), randn(t, t).tril()) for t, d in ((3, 2), (5, 4), (2, 3))]


def _delta_cases(seed):
    rand = _rand(seed)
    return [(0.5 + 0.4 * rand(t), 0.2 + 0.6 * rand(t), 4 * rand(t, d) - 2) for t, d in ((5, 3), (1, 2), (8, 4))]


def _norm(x, weight=1.0):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


sigmoid = torch.sigmoid

EXERCISES = (
    Exercise(
        name="11.1",
        title="The reach of window layers",
        difficulty="medium",
        minutes=6,
        points=1,
        solution=reach,
        cases=_reach_cases,
        mutants={
            "the token counted": (
                lambda windows, T: min(T - 1, sum(windows)),
                "You added whole windows. A window of w holds the token itself and w − 1 before it.",
            ),
            "the token counted once": (
                lambda windows, T: min(T - 1, sum(windows) - 1),
                "You took the token away once. Every layer's window contains its own token: w − 1 for each.",
            ),
            "one layer": (
                lambda windows, T: min(T - 1, max(windows) - 1),
                "That is the reach of the widest layer alone. A layer looks at outputs that have already looked back.",
            ),
            "product": (
                lambda windows, T: min(T - 1, torch.tensor(windows).prod().item() - 1),
                "You multiplied. Each layer starts where the one before has got to, so the steps back add up.",
            ),
            "beyond the text": (
                lambda windows, T: sum(w - 1 for w in windows),
                "Longer than the text: no distance between T tokens is above T − 1.",
            ),
        },
        hints=(
            "One layer with a window of 8: the furthest visible token is 7 places before.",
            "That token's vector has itself looked back, in the layer below. The distances add up.",
            "Sum w − 1 over the layers, and take the smaller of that and T − 1.",
        ),
        why="Reach grows with the number of layers, one window less one token at a time; never with the text.",
    ),
    Exercise(
        name="11.2",
        title="The gate",
        difficulty="easy",
        minutes=7,
        points=1,
        solution=gate,
        cases=_gate_cases,
        mutants={
            "product": (
                lambda y, m, a, b: y * m,
                "That is the literal product y·m. The paper normalises both, with learned vectors, and has a σ.",
            ),
            "no norm of y": (
                lambda y, m, a, b: y * sigmoid(_norm(m, b)),
                "y is not normalised: both branches are, each with a vector of its own.",
            ),
            "no norm of m": (
                lambda y, m, a, b: _norm(y, a) * sigmoid(m),
                "m goes into σ as it is. Normalise it first: else its size, not its direction, decides.",
            ),
            "σ of both": (
                lambda y, m, a, b: sigmoid(_norm(y, a)) * sigmoid(_norm(m, b)),
                'σ acts on both: that is the reading "both". Here y keeps its sign and only m becomes a gate.',
            ),
            "roles swapped": (
                lambda y, m, a, b: _norm(m, b) * sigmoid(_norm(y, a)),
                "The roles are swapped: attention gates the memory. Here m is the gate.",
            ),
            "layer norm": (
                lambda y, m, a, b: (
                    _norm(y - y.mean(-1, keepdim=True), a) * sigmoid(_norm(m - m.mean(-1, keepdim=True), b))
                ),
                "You took the mean away: that is a layer norm. An RMS norm only divides by the root mean square.",
            ),
        },
        hints=(
            "RMS norm of a row: x / sqrt(mean(x²) + 1e-6), then times the learned vector.",
            "y and m each have their own: norm(y) with a, norm(m) with b.",
            "`norm(y, a) * torch.sigmoid(norm(m, b))`.",
        ),
        why="After the norms only directions count, so neither branch can drown or shrink the other.",
    ),
    Exercise(
        name="11.3",
        title="Memory first",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=memory_first,
        cases=_first_cases,
        mutants={
            "attention first": (
                lambda x, R, A: (A @ _norm(x)) + R @ (x + A @ _norm(x)),
                "Attention comes first in yours. Equations 30 and 31: the memory reads, then attention looks at that.",
            ),
            "no residual": (
                lambda x, R, A: A @ _norm(R @ x),
                "That is eq. 30–31 to the letter: attention sees the memory's answers only. Here it sees x + m.",
            ),
            "the stream twice": (
                lambda x, R, A: x + R @ x + A @ _norm(x + R @ x),
                "x is in your result. The block adds it itself: return what is to be *added* to the stream.",
            ),
            "memory not passed on": (
                lambda x, R, A: A @ _norm(x + R @ x),
                "The memory's answer reaches the stream only through attention. Add m itself as well.",
            ),
            "no norm": (
                lambda x, R, A: R @ x + A @ (x + R @ x),
                "The norm between memory and attention is missing.",
            ),
            "in parallel": (
                lambda x, R, A: R @ x + A @ _norm(x),
                "Attention reads x. Then the two stand side by side, as in MAG; here attention reads x + m.",
            ),
        },
        hints=(
            "Three lines: m is what the memory answers, y = x + m, o is attention over the norm of y.",
            "The norm has no learned vector here: `torch.nn.functional.rms_norm(y, y.shape[-1:], eps=1e-6)`.",
            "The block adds x outside, so return m + o.",
        ),
        why="In a chain, attention can look for what the memory recalled; side by side it cannot.",
    ),
    Exercise(
        name="11.4",
        title="Gated DeltaNet as a memory",
        difficulty="hard",
        minutes=15,
        points=3,
        solution=from_gated_delta,
        cases=_delta_cases,
        mutants={
            "the paper's claim": (
                lambda keep, beta, v: (1 - keep, beta / 2, v),
                "Same gates, as the paper says. But then the erasing is not decayed: θ needs α′, and v 1/α′.",
            ),
            "θ not decayed": (
                lambda keep, beta, v: (1 - keep, beta / 2, v / keep[:, None]),
                "θ is β/2. Gated DeltaNet erases from the decayed memory: 2θ = α′β.",
            ),
            "v not scaled": (
                lambda keep, beta, v: (1 - keep, keep * beta / 2, v),
                "Now the write is α′βv, and it should be βv: the target is v/α′.",
            ),
            "no ½": (
                lambda keep, beta, v: (1 - keep, keep * beta, v / keep[:, None]),
                "A factor 2 is lost: the loss is a square without ½, so its gradient carries a 2, and 2θ = α′β.",
            ),
            "α is α′": (
                lambda keep, beta, v: (keep, keep * beta / 2, v / keep[:, None]),
                "Titans' α is what is *forgotten*, Gated DeltaNet's α′ is what is *kept*: α = 1 − α′.",
            ),
        },
        hints=(
            "Write both out. Gated DeltaNet: M ← α′M − α′β kᵀkM + β kᵀv. Memory: M ← (1−α)M − 2θ kᵀkM + 2θ kᵀṽ.",
            "Compare the three terms, one after the other.",
            "1 − α = α′, then 2θ = α′β, then 2θṽ = βv.",
        ),
        why="Three terms, three unknowns: every Gated DeltaNet is a memory, with other gates than its own.",
    ),
)
