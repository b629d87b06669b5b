"""Exercises of notebook 03: one full write, half-lives, a quiet hour, a curve of forgetting, and closing time."""

import math

import torch

from titans_mini.exercises import Exercise


def full_write(M, S, u, alpha, eta, theta):
    """Write one token: memory M, momentum S, gradient u, all (D, E) -> (M_next, S_next)."""
    S_next = eta * S - theta * u
    M_next = (1 - alpha) * M + S_next
    return M_next, S_next


def forget_gate(half_life):
    """Half-lives in tokens, any shape -> the constant forget gates α that have them."""
    return 1 - 0.5 ** (1 / half_life)


def quiet_hour(M, S, alpha, eta, visits):
    """Let visits pass at which nobody says anything (θ = 0): M and S (D, E) -> both afterwards."""
    for _ in range(visits):
        S = eta * S
        M = (1 - alpha) * M + S
    return M, S


def remaining(ages, alpha, theta, dim):
    """Expected share of a write left after ages (N,) visits by strangers, unit keys -> (N,)."""
    return (1 - alpha - 2 * theta / dim) ** ages


def last_evening(keys, values, first, eta, theta):
    """Visits (T, D), (T, E), first (T,) true where an evening begins -> the last book (D, E)."""
    M = S = torch.zeros(keys.shape[1], values.shape[1], dtype=keys.dtype)
    alpha_t = first.to(keys.dtype)  # 1 at the first visit of an evening, else 0
    eta_t = eta * (1 - alpha_t)
    for t, (k, v) in enumerate(zip(keys, values, strict=True)):
        S = eta_t[t] * S - theta * 2 * torch.outer(k, k @ M - v)
        M = (1 - alpha_t[t]) * M + S
    return M


def _write_cases(seed):
    g = torch.Generator().manual_seed(seed)
    gates = [(0.5, 0.5, 0.1), (0.1, 0.9, 0.05), (1.0, 0.8, 0.2)]
    shapes = [(3, 3), (2, 5), (4, 3)]
    return [
        (*(torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(3)), *gate)
        for shape, gate in zip(shapes, gates, strict=True)
    ]


def _half_life_cases(seed):
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.tensor([1.0, 2.0, 100.0], dtype=torch.float64),),
        (torch.rand(2, 3, generator=g, dtype=torch.float64) * 50 + 1,),
    ]


def _hour_cases(seed):
    g = torch.Generator().manual_seed(seed)
    gates = [(0.02, 0.8, 60), (0.1, 0.5, 7), (0.3, 0.9, 2), (0.05, 0.0, 12)]
    return [(*(torch.randn(3, 2, generator=g, dtype=torch.float64) for _ in range(2)), *gate) for gate in gates]


def _remaining_cases(seed):
    g = torch.Generator().manual_seed(seed)
    ages = torch.randint(0, 60, (5,), generator=g).double()
    return [(ages, 0.02, 0.3, 26), (ages, 0.0, 0.5, 64), (ages, 0.1, 0.2, 8)]


def _evening_cases(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for T, starts, eta, theta in ((9, (0, 5), 0.7, 0.3), (12, (0, 4, 8), 0.5, 0.4), (6, (0, 3), 0.9, 0.1)):
        keys, values = torch.randn(2, T, 3, generator=g, dtype=torch.float64)
        first = torch.zeros(T, dtype=torch.bool)
        first[list(starts)] = True
        cases.append((keys, values, first, eta, theta))
    return cases


def _book(keys, values, alpha, eta, theta, fresh=None):
    """Run with gates (T,); where `fresh` is true the book is emptied before the surprise is computed."""
    M = S = torch.zeros(keys.shape[1], values.shape[1], dtype=keys.dtype)
    for t, (k, v) in enumerate(zip(keys, values, strict=True)):
        M = M * 0 if fresh is not None and fresh[t] else M
        S = eta[t] * S - theta * 2 * torch.outer(k, k @ M - v)
        M = (1 - alpha[t]) * M + S
    return M


def _closing(keys, values, first, eta, theta, *, momentum=True, early=False, fresh=False, never=False):
    """Typical ways to close a book: without the momentum, one visit too early, before the surprise, or not at all."""
    first = first.to(keys.dtype)
    alpha = torch.cat([first[1:], first.new_zeros(1)]) if early else first
    gate = eta * (1 - alpha) if momentum else torch.full_like(alpha, eta)
    return _book(keys, values, alpha * (not never), gate, theta, first.bool() if fresh else None)


EXERCISES = (
    Exercise(
        name="03.1",
        title="One full write",
        difficulty="easy",
        minutes=5,
        points=1,
        solution=full_write,
        cases=_write_cases,
        mutants={
            "decay after": (
                lambda M, S, u, a, e, t: ((1 - a) * (M + e * S - t * u), e * S - t * u),
                "You decay after adding: the new S loses a share α at once. Decay M first, then add S as it is.",
            ),
            "S decays too": (
                lambda M, S, u, a, e, t: ((1 - a) * M + (1 - a) * e * S - t * u, (1 - a) * e * S - t * u),
                "You let α decay S as well. Only η fades the momentum; α acts on M alone.",
            ),
            "keep rate": (
                lambda M, S, u, a, e, t: (a * M + e * S - t * u, e * S - t * u),
                "You keep the share α of M. α is what is forgotten; 1 − α stays.",
            ),
            "sign": (
                lambda M, S, u, a, e, t: ((1 - a) * M + e * S + t * u, e * S + t * u),
                "The sign: the step goes down the gradient, S_t = ηS − θu.",
            ),
            "bare gradients": (
                lambda M, S, u, a, e, t: ((1 - a) * M - t * (e * S + u), e * S + u),
                "That is the momentum of torch.optim.SGD, which sums bare gradients. Here S carries its minus sign and "
                "its θ, and is added as it is.",
            ),
            "old momentum": (
                lambda M, S, u, a, e, t: ((1 - a) * M + S, e * S - t * u),
                "You add the old S to M. This token's surprise must arrive now: compute S_t first.",
            ),
        },
        hints=(
            "Two lines. Which of M and S do you need first?",
            "Eq. 14 first: S_next = eta * S − theta * u. It has the sign and the step inside.",
            "Eq. 13: M_next = (1 − alpha) * M + S_next. Return both.",
        ),
        why="The memory decays, the surprise in motion does not: a new write always arrives whole.",
        tolerance=1e-9,
    ),
    Exercise(
        name="03.2",
        title="From half-life to α",
        difficulty="easy",
        minutes=5,
        points=1,
        solution=forget_gate,
        cases=_half_life_cases,
        mutants={
            "e-folding": (
                lambda h: 1 - torch.exp(-1 / h),
                "After h tokens 1/e = 37 % would be left. Half-life asks for ½: replace e by 2.",
            ),
            "one over h": (
                lambda h: 1 / h,
                "1/α is a well-known rule of thumb, for another number: after 1/α tokens about 1/e = 37 % is left. "
                "Half is left earlier, after about ln 2/α tokens. Ask for ½.",
            ),
            "straight line": (
                lambda h: 1 / (2 * h),
                "You spread the loss of one half evenly over h tokens. Each token takes a share of what is left.",
            ),
            "keep rate": (
                lambda h: 0.5 ** (1 / h),
                "That is the share that stays, 1 − α. Return α.",
            ),
            "first order": (
                lambda h: math.log(2) / h,
                "ln 2 / h is an approximation for long half-lives; at h = 1 it forgets 69 %, not half.",
            ),
        },
        hints=(
            "After h tokens the share (1 − α)^h is left. Set it to ½.",
            "Take the h-th root of both sides, then solve for α.",
        ),
        why="(1 − α)^h = ½ gives 1 − α = ½^(1/h).",
        tolerance=1e-9,
    ),
    Exercise(
        name="03.3",
        title="Mend the quiet hour",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=quiet_hour,
        cases=_hour_cases,
        mutants={
            "as it was": (
                lambda M, S, a, e, n: ((1 - n * a) * M, e**n * S),
                "Both faults are still there. Let two quiet visits pass on paper, from M = 1 and S = 1 with α = η = ½, "
                "and compare with what two such visits leave here: of M, and of S in M.",
            ),
            "straight line": (
                lambda M, S, a, e, n: (
                    (1 - n * a) * M + sum((1 - a) ** (n - i) * e**i for i in range(1, n + 1)) * S,
                    e**n * S,
                ),
                "The momentum arrives, but the book fades by nα in one go: each visit takes a share of what is left.",
            ),
            "momentum never arrives": (
                lambda M, S, a, e, n: ((1 - a) ** n * M, e**n * S),
                "The book fades well, but S never arrives in it. Nobody spoke, and still M_t = (1−α)M_{t−1} + S_t.",
            ),
            "arrives once": (
                lambda M, S, a, e, n: ((1 - a) ** n * M + e**n * S, e**n * S),
                "Only the last step arrives in your book. While it is in motion, S is added at every quiet visit.",
            ),
            "arrives unfaded": (
                lambda M, S, a, e, n: ((1 - a) ** n * M + sum(e**i for i in range(1, n + 1)) * S, e**n * S),
                "Every step that arrives fades at the later visits like all other ink; yours arrives at the end.",
            ),
            "one step too early": (
                lambda M, S, a, e, n: (
                    (1 - a) ** n * M + sum((1 - a) ** (n - 1 - i) * e**i for i in range(n)) * S,
                    e**n * S,
                ),
                "The step S is in the book already. What arrives at the first quiet visit is ηS, not S.",
            ),
            "fades S": (
                lambda M, S, a, e, n: (
                    (1 - a) ** n * M + sum((1 - a) ** (n - i) * e**i for i in range(1, n + 1)) * S,
                    (1 - a) ** n * e**n * S,
                ),
                "The book is right, but α fades S as well. It acts on M alone.",
            ),
        },
        hints=(
            "Let one quiet visit pass on paper, with θ = 0 in equations 13 and 14. Which of M and S changes?",
            "Both do: S becomes ηS, and the new S is added to the faded M. Now let the second visit pass.",
            "A loop over the visits with these two lines is enough.",
        ),
        why="A quiet visit is a visit with θ = 0: the book fades, and the momentum goes on arriving.",
        tolerance=1e-9,
    ),
    Exercise(
        name="03.4",
        title="The curve of forgetting",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=remaining,
        cases=_remaining_cases,
        mutants={
            "gate alone": (
                lambda ages, a, th, d: (1 - a) ** ages,
                "That is the gate alone. Every stranger also writes over a little of it: 2θ times the mean squared "
                "cosine of two random names, which is 1/D.",
            ),
            "strangers alone": (
                lambda ages, a, th, d: (1 - 2 * th / d) ** ages,
                "That is being written over alone. The gate takes its share at every visit as well.",
            ),
            "one after the other": (
                lambda ages, a, th, d: ((1 - a) * (1 - 2 * th / d)) ** ages,
                "Close: you fade what the stranger has left. The surprise is computed at M_{t−1}, before the book "
                "fades, so the two losses add up: 1 − α − 2θ/D.",
            ),
            "no factor 2": (
                lambda ages, a, th, d: (1 - a - th / d) ** ages,
                "A factor 2 is missing: the gradient of the square brings it, so a write corrects 2θ of its error.",
            ),
            "exponential": (
                lambda ages, a, th, d: torch.exp(-(a + 2 * th / d) * ages),
                "Close: e^(−rate·age) is the limit of small rates. One visit takes its share and leaves 1 − rate.",
            ),
            "root of the dimension": (
                lambda ages, a, th, d: (1 - a - 2 * th / d**0.5) ** ages,
                "1/√D is the typical size of a cosine between two random names. A write acts through it twice, once "
                "in the error and once in the ink, so its mean square counts.",
            ),
            "straight line": (
                lambda ages, a, th, d: 1 - ages * (a + 2 * th / d),
                "You take the same amount at each visit. Each takes a share of what is left: a power, not a line.",
            ),
        },
        hints=(
            "One visit: M_t = (1−α)M_{t−1} − 2θ kᵀ(kM_{t−1} − v). Which two terms reduce what is already there?",
            "On average over random keys of length 1, kᵀk is the identity divided by D.",
            "So one visit leaves the share 1 − α − 2θ/D.",
        ),
        why="Strangers are a second gate: a book that never forgets on purpose forgets 2θ/D per visit by accident.",
        tolerance=1e-9,
    ),
    Exercise(
        name="03.5",
        title="Closing time",
        difficulty="hard",
        minutes=15,
        points=3,
        solution=last_evening,
        cases=_evening_cases,
        mutants={
            "momentum stays": (
                lambda *x: _closing(*x, momentum=False),
                "The book is cleared, but yesterday's momentum writes itself into it: α does not touch S. Which gate "
                "stops S at the same visit?",
            ),
            "too early": (
                lambda *x: _closing(*x, early=True),
                "You close at the last visit of an evening. Then that visit's write, which is added after the fading, "
                "survives the night. Close at the first visit of the next.",
            ),
            "before the surprise": (
                lambda *x: _closing(*x, fresh=True),
                "Cleaner than the paper: you start an evening with an empty book. In equation 14 the first surprise "
                "is still computed at M_{t−1}, yesterday's book, and only then does α clear it: build it with α_t and "
                "η_t, over all visits.",
            ),
            "no momentum at all": (
                lambda keys, values, first, eta, theta: _closing(keys, values, first, 0.0, theta),
                "Your momentum stops at every visit. Only the first visit of an evening must lose it; at all others "
                "η_t is eta.",
            ),
            "never": (
                lambda *x: _closing(*x, never=True),
                "The momentum stops at the door, but the book stays: no α is 1 yet.",
            ),
        },
        hints=(
            "Step 1: gates. α_t is 1 where `first` is true, else 0. What must η_t be there?",
            "η_t is 0 where an evening begins, else eta: alpha_t = first.to(keys.dtype), eta_t = eta * (1 - alpha_t).",
            "Step 2: the loop. First S with eta_t[t] and the error at the old M, then M with alpha_t[t].",
        ),
        why="Two gates close an evening: α_t = 1 clears the book, and η_t = 0 stops what was still in motion.",
        tolerance=1e-9,
    ),
)
