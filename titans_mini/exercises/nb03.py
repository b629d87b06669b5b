"""Exercises of notebook 03: one full write, half-lives, the largest stable step, and the step of a chunk."""

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


def largest_step(k, alpha, eta):
    """The θ at which the memory stops learning the same key k (D,) token after token -> a number."""
    kappa = k.square().sum()
    return (2 - alpha) * (1 + eta) / (2 * kappa)


def chunk_limit(k, chunk_size):
    """The θ at which C equal keys k (D,) in one chunk stop being learned, with α = η = 0 -> a number."""
    return 1 / (k.square().sum() * chunk_size)


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


def _step_cases(seed):
    g = torch.Generator().manual_seed(seed)
    gates = [(0.0, 0.5), (0.3, 0.0), (0.5, 0.9), (1.0, 0.4)]
    return [(torch.randn(3 + i, generator=g, dtype=torch.float64) + 1, *gate) for i, gate in enumerate(gates)]


def _chunk_cases(seed):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(3 + i, generator=g, dtype=torch.float64) + 1, c) for i, c in enumerate((1, 4, 16))]


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
        title="The largest stable step",
        difficulty="hard",
        minutes=15,
        points=3,
        solution=largest_step,
        cases=_step_cases,
        mutants={
            "factor 2": (
                lambda k, a, e: (2 - a) * (1 + e) / k.square().sum(),
                "Twice too large: the gradient of the square brings a 2, so the condition reads 2θκ < (2 − α)(1 + η).",
            ),
            "no momentum": (
                lambda k, a, e: (2 - a) / (2 * k.square().sum()),
                "η is missing. For one repeated key momentum widens the limit by 1 + η.",
            ),
            "length": (
                lambda k, a, e: (2 - a) * (1 + e) / (2 * k.norm()),
                "You divide by ‖k‖. κ is ‖k‖²: the key acts once in the prediction and once in the gradient.",
            ),
            "wrong way": (
                lambda k, a, e: (2 - a) * (1 - e) / (2 * k.square().sum()),
                "1 − η belongs to keys that return after a pause. For the same key every token it is 1 + η.",
            ),
            "no forgetting": (
                lambda k, a, e: (1 + e) / k.square().sum(),
                "α is missing. Forgetting narrows the limit of a repeated key: 2 becomes 2 − α.",
            ),
        },
        hints=(
            "The condition of this section: 2θκ < (2 − α)(1 + η), with κ = ‖k‖².",
            "Compute kappa = k.square().sum(), put an equals sign into the condition, and solve for θ.",
        ),
        why="At this θ an eigenvalue of the 2×2 map is −1: the error changes its sign at each token and never shrinks.",
        tolerance=1e-9,
    ),
    Exercise(
        name="03.4",
        title="The step of a chunk",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=chunk_limit,
        cases=_chunk_cases,
        mutants={
            "no chunk": (
                lambda k, c: 1 / k.square().sum(),
                "That is the limit for C = 1. In a chunk the same error is corrected C times: the steps add up.",
            ),
            "perfect step": (
                lambda k, c: 1 / (2 * k.square().sum() * c),
                "At that θ the factor 1 − 2κCθ is 0: the best step. The limit is where it reaches −1.",
            ),
            "length": (
                lambda k, c: 1 / (k.norm() * c),
                "You divide by ‖k‖. κ is ‖k‖²: the key acts once in the prediction and once in the gradient.",
            ),
            "factor 2": (
                lambda k, c: 2 / (k.square().sum() * c),
                "Twice too large: the gradient of the square brings a 2, so the factor is 1 − 2κCθ.",
            ),
        },
        hints=(
            "All C gradients are equal: each is taken at the memory of the chunk's start. What does the error become?",
            "The error is multiplied by 1 − 2κCθ. Where does that reach −1?",
        ),
        why="This is why the library caps θ at 1/C by default, with keys of length 1.",
        tolerance=1e-9,
    ),
)
