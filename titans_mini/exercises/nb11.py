"""Exercises of notebook 11: reach, the gate, memory before attention, θ from β, the state, and a block of one's own."""

import torch
from torch import nn

from titans_mini.exercises import Exercise
from titans_mini.exercises.capstone import DIM, Outcome, examine
from titans_mini.exercises.compare import Comparison, describe
from titans_mini.models.attention import Attention


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


def kept(variant, N, dim, window, memory):
    """Numbers in the state of one layer after N tokens; `memory` is the count in its memory, if it has one."""
    cached = {"transformer": N, "lmm": 0}.get(variant, min(N, window - 1))
    return 2 * dim * cached + (memory if variant in ("lmm", "mag", "mal") else 0)


def block(dim):
    """A layer: x (B, T, dim) and a state, or None at the start -> y (B, T, dim) and the next state."""

    class Attendant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.to_qkv = torch.nn.Linear(dim, 3 * dim, bias=False)
            self.to_theta = torch.nn.Linear(dim, 1)

        def forward(self, x, state=None):
            q, k, v = self.to_qkv(x).chunk(3, -1)
            q, k = (torch.nn.functional.normalize(z, dim=-1) for z in (q, k))
            theta = torch.sigmoid(self.to_theta(x))  # (B, T, 1): how firmly to write
            M, y = x.new_zeros(len(x), dim, dim) if state is None else state, []
            for t in range(x.shape[1]):
                error = v[:, t] - (k[:, t, None] @ M)[:, 0]
                M = M + k[:, t, :, None] * (theta[:, t] * error)[:, None]
                y.append((q[:, t, None] @ M)[:, 0])
            return torch.stack(y, 1), M

    return Attendant()


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


def _kept_cases(seed):
    at = 40 + seed
    return [("transformer", at, 16, 8, 900), ("swa", at, 16, 8, 900), ("lmm", at, 16, 8, 900), ("mag", at, 16, 8, 900),
            ("mal", 5, 16, 8, 900), ("swa", 3, 32, 64, 500)]  # fmt: skip


def _examined(fn, dim):
    """Examine a block; the reference is trained in a test of its own."""
    return Outcome("passes") if fn is block else examine(fn, dim)


def _verdict(got, expected, tolerance):
    if not isinstance(got, Outcome):
        return Comparison(float("inf"), f"got {describe(got)}, expected a layer.")
    if got.verdict == expected.verdict:
        return Comparison(0.0, None)
    return Comparison(1.0, f"{VERDICTS.get(got.verdict, got.verdict)}: {got.words.rstrip('.')}.")


def _score(outputs):
    return f" It {outputs[0].words}." if outputs[0].words else ""


VERDICTS = {
    "no layer": "`block` returns no layer",
    "battery": "`check_sequence_layer` found a fault",
    "weights": "too large to compare",
    "learns nothing": "hardly better than guessing where it was trained, so look at the shapes of what is written and "
    "asked, or at the step size",
    "forgets": "it works in short evenings and fails in long ones: either its reach ends, or what matters is "
    "overwritten by guests who leave nothing (can its gate stay shut?)",
}


class _Mean(nn.Module):
    """A mutant's layer: every token gets the mean of all."""

    def forward(self, x, state=None):
        return x.mean(1, keepdim=True).expand_as(x) + 0 * x, x[:, -1]


class _Stateless(nn.Module):
    """A mutant's layer: the mean so far, and no state."""

    def forward(self, x):
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]


def _norm(x, weight=1.0):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


sigmoid = torch.sigmoid

EXERCISES = (
    Exercise(
        name="11.1",
        title="The reach of window layers",
        difficulty="medium",
        minutes=5,
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
            "T for T − 1": (
                lambda windows, T: min(T, sum(w - 1 for w in windows)),
                "Your limit is T. The first of T tokens lies T − 1 before the last.",
            ),
            "first window everywhere": (
                lambda windows, T: min(T - 1, len(windows) * (windows[0] - 1)),
                "You took the first layer's window for all of them. Each layer has its own.",
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
        minutes=5,
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
            "vectors without norms": (
                lambda y, m, a, b: y * a * sigmoid(m * b),
                "The learned vectors are there, and the norms are not: divide each row by its root mean square first.",
            ),
            "length for root mean square": (
                lambda y, m, a, b: (
                    torch.nn.functional.normalize(y, dim=-1) * a * sigmoid(torch.nn.functional.normalize(m, dim=-1) * b)
                ),
                "You divide by the length of a row. An RMS norm divides by the root of its *mean* square, so that the "
                "size of a component does not depend on the width.",
            ),
            "SiLU": (
                lambda y, m, a, b: _norm(y, a) * torch.nn.functional.silu(_norm(m, b)),
                "SiLU is x σ(x). Here σ alone is the gate, between 0 and 1.",
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
        title="Mend: memory first",
        difficulty="medium",
        minutes=5,
        points=1,
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
            "notes only": (
                lambda x, R, A: R @ x + A @ _norm(R @ x),
                "Attention sees the notes without the guests. With our residual it sees x + m.",
            ),
            "no attention": (
                lambda x, R, A: x + R @ x,
                "Attention is missing: x + m is what it has to look at.",
            ),
            "no norm": (
                lambda x, R, A: R @ x + A @ (x + R @ x),
                "The norm between memory and attention is missing.",
            ),
            "in parallel": (
                lambda x, R, A: R @ x + A @ _norm(x),
                "Not mended yet: attention reads x, so the two stand side by side. Let it read guest and note, x + m.",
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
        minutes=9,
        points=2,
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
    Exercise(
        name="11.5",
        title="The state, before you measure it",
        difficulty="easy",
        minutes=6,
        points=1,
        solution=kept,
        cases=_kept_cases,
        mutants={
            "w keys": (
                lambda variant, N, dim, window, memory: kept(variant, N, dim, window + 1, memory),
                "Your windows keep w tokens. The next token brings its own key, so w − 1 are enough.",
            ),
            "keys only": (
                lambda variant, N, dim, window, memory: kept(variant, N, dim // 2, window, memory),
                "You count one vector per token. Attention keeps two, a key and a value.",
            ),
            "window full from the start": (
                lambda variant, N, dim, window, memory: kept(variant, max(N, window), dim, window, memory),
                "Your window is full before so many tokens have come: it holds at most N of them.",
            ),
            "windows grow": (
                lambda variant, N, dim, window, memory: kept(variant, N, dim, N + 1, memory),
                "Your windows grow with the text. What slides out of a window is dropped; only the transformer grows.",
            ),
            "memory everywhere": (
                lambda variant, N, dim, window, memory: kept(variant, N, dim, window, 0) + memory,
                "The transformer and the plain window have no memory, so nothing is to be added there.",
            ),
            "a window in lmm": (
                lambda variant, N, dim, window, memory: kept(
                    "mag" if variant == "lmm" else variant, N, dim, window, memory
                ),
                "LMM is the memory alone: it has no attention, so it keeps no keys.",
            ),
            "no memory": (
                lambda variant, N, dim, window, memory: kept(variant, N, dim, window, 0),
                "The memories are missing: lmm, mag and mal keep `memory` numbers besides their keys.",
            ),
            "memory alone": (
                lambda variant, N, dim, window, memory: kept(
                    "lmm" if variant in ("mag", "mal") else variant, N, dim, window, memory
                ),
                "MAG and MAL keep the keys of their window as well as the memory.",
            ),
        },
        hints=(
            "Two questions for each variant: does it attend, and over how many tokens; does it have a memory?",
            "Attention keeps a key and a value of `dim` numbers for each token that the next one may still see.",
            "Tokens kept: N for the transformer, min(N, window − 1) for a window, none for lmm.",
        ),
        why="Only full attention grows; everything else has paid its whole price after a window of tokens.",
    ),
    Exercise(
        name="11.6",
        title="Build: a block of your own",
        difficulty="hard",
        minutes=20,
        points=4,
        solution=block,
        cases=lambda seed: [(DIM,)],
        run=_examined,
        compare=_verdict,
        note=_score,
        mutants={
            "looks ahead": (
                lambda dim: _Mean(),
                "Your layer looks ahead: change a token, and an earlier output moves. It would fail where it has to "
                "answer before the evening is over. Lesson 10 has the test that finds the pair.",
            ),
            "no state": (
                lambda dim: _Stateless(),
                "Your layer returns no state, so it cannot go on where it stopped. Return y and the state, and take "
                "the state as a second argument, None at the start.",
            ),
            "keeps every token": (
                lambda dim: Attention(dim, heads=2),
                "Your state grows with the text: it keeps the guests instead of remembering them. A memory has a size.",
            ),
        },
        hints=(
            "The smallest one that passes is the attendant alone: `to_qkv`, one gate θ, and the loop of lesson 01.",
            "Per token: `error = v - k @ M`, `M = M + θ kᵀ error`, `y = q @ M`; q and k of length 1, θ a sigmoid of a "
            "linear map of x, so that it can stay shut for guests who leave nothing.",
            "The state is M, zeros of shape (B, dim, dim) at the start. `NeuralMemory(dim, 1, chunk_size=8)` is a "
            "shorter way, and a window beside it makes a MAG.",
        ),
        why="A gate that stays shut is half of a memory: whoever writes everything remembers the last guests only.",
    ),
)
