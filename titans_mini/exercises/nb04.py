"""Exercises of notebook 04: the largest stable step, a NaN to mend, the limit after a pause, and a whole rota."""

import torch

from titans_mini.exercises import Exercise


def largest_step(k, alpha, eta):
    """The θ at which the memory stops learning the same key k (D,) at every token -> a number."""
    kappa = k.square().sum()
    return (2 - alpha) * (1 + eta) / (2 * kappa)


def steady(keys, values, theta):
    """Keys (T, D) of any length, values (T, E) -> the book; a visit corrects 2θ of its error."""
    M = torch.zeros(keys.shape[1], values.shape[1], dtype=keys.dtype)
    for k, v in zip(keys, values, strict=True):
        kappa = k.square().sum()
        if kappa > 0:
            M = M - theta / kappa * 2 * torch.outer(k, k @ M - v)
    return M


def pause_limit(eta, n):
    """The θκ up to which a guest is learned who comes at every n-th visit, α = 0 -> a number."""
    return (1 - eta) * (1 + eta**n) / (1 - eta**n)


def rota_limit(rota, eta):
    """The θκ up to which all guests of a rota such as "AAB" are learned; α = 0, orthogonal keys."""

    def settles(step):
        for guest in set(rota):
            A = torch.eye(2, dtype=torch.float64)
            for name in rota:
                push = 2 * step if name == guest else 0.0
                A = torch.tensor([[1 - push, eta], [-push, eta]], dtype=torch.float64) @ A
            if torch.linalg.eigvals(A).abs().max() >= 1:
                return False
        return True

    low, high = 0.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if settles(middle) else (low, middle)
    return low


def _step_cases(seed):
    g = torch.Generator().manual_seed(seed)
    gates = [(0.0, 0.5), (0.3, 0.0), (0.5, 0.9), (1.0, 0.4)]
    return [(torch.randn(3 + i, generator=g, dtype=torch.float64) + 1, *gate) for i, gate in enumerate(gates)]


def _name_cases(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for T, theta, silent in ((6, 0.3, True), (8, 0.5, True), (5, 0.1, False)):
        keys = torch.randint(0, 4, (T, 4), generator=g).double() + 0.25
        if silent:
            keys[T // 2] = 0  # a guest who says nothing
        cases.append((keys, torch.randn(T, 3, generator=g, dtype=torch.float64), theta))
    return cases


def _pause_cases(seed):
    g = torch.Generator().manual_seed(seed)
    etas = (0.3 + 0.6 * torch.rand(4, generator=g, dtype=torch.float64)).tolist()
    return list(zip(etas, (2, 3, 5, 20), strict=True))


def _rota_cases(seed):
    return [("A", 0.5), ("AB", 0.6), ("AAB", 0.8), ("ABCCB", 0.7), ("AABC", 0.8 + 0.1 * (seed % 2))]


def _book(keys, values, steps, unit=False):
    """Run with a step θ_t per visit; with `unit`, the key is scaled to length 1 everywhere."""
    M = torch.zeros(keys.shape[1], values.shape[1], dtype=keys.dtype)
    for k, v, step in zip(keys, values, steps, strict=True):
        k = k / k.norm().clamp(min=1e-12) if unit else k
        M = M - step * 2 * torch.outer(k, k @ M - v)
    return M


def _limit(rota, eta, *, guests=None, coasts=True):
    """The limit of some guests of a rota, perhaps with momentum that rests at the visits of others."""

    def settles(step):
        for guest in set(rota) if guests is None else guests(rota):
            A = torch.eye(2, dtype=torch.float64)
            for name in rota:
                if name != guest and not coasts:
                    continue
                push = 2 * step * (name == guest)
                A = torch.tensor([[1 - push, eta], [-push, eta]], dtype=torch.float64) @ A
            if torch.linalg.eigvals(A).abs().max() >= 1:
                return False
        return True

    low, high = 0.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if settles(middle) else (low, middle)
    return low


EXERCISES = (
    Exercise(
        name="04.1",
        title="The largest stable step",
        difficulty="hard",
        minutes=15,
        points=3,
        solution=largest_step,
        cases=_step_cases,
        mutants={
            "factor 2": (
                lambda k, a, e: (2 - a) * (1 + e) / k.square().sum(),
                "Twice too large: the gradient of the square brings a 2, so a visit moves the answer by 2θκ times the "
                "error. Is the 2 in your trace?",
            ),
            "no momentum": (
                lambda k, a, e: (2 - a) / (2 * k.square().sum()),
                "η is missing. Momentum widens the limit of one repeated key: it stands in the trace and in the "
                "determinant.",
            ),
            "length": (
                lambda k, a, e: (2 - a) * (1 + e) / (2 * k.norm()),
                "You divide by ‖k‖. κ is ‖k‖²: the key acts once in the answer and once in the gradient.",
            ),
            "wrong way": (
                lambda k, a, e: (2 - a) * (1 - e) / (2 * k.square().sum()),
                "You let momentum narrow the limit. That happens to keys that return after a pause; for one key at "
                "every token the bowls above show the opposite. Check the sign of η in the trace.",
            ),
            "rule of thumb": (
                lambda k, a, e: (1 - e) / k.square().sum(),
                "That is the rule of thumb for keys that return after pauses (section 4), and often far too careful "
                "here. For one key at every token the exact limit is asked for: find it with the Jury conditions.",
            ),
            "no forgetting": (
                lambda k, a, e: (1 + e) / k.square().sum(),
                "α is missing. Forgetting narrows the limit of a repeated key: it stands in the trace and in the "
                "determinant.",
            ),
            "section 1": (
                lambda k, a, e: 1 / k.square().sum(),
                "That is the limit of section 1, where α and η are 0. Here both turn the marble: use the 2×2 map.",
            ),
            "θκ": (
                lambda k, a, e: torch.tensor((2 - a) * (1 + e) / 2, dtype=k.dtype),
                "That is the limit of θκ. θ itself is asked for, and it depends on the key.",
            ),
            "no determinant": (
                lambda k, a, e: (2 - a + e) / (2 * k.square().sum()),
                "You ask for |τ| < 1. The condition is |τ| < 1 + δ, and with momentum the determinant δ is not 0.",
            ),
        },
        hints=(
            "The trace is the sum of 1 − α − 2θκ and η. For the determinant, much cancels: what is left of it?",
            "τ = 1 − α + η − 2θκ and δ = η(1 − α). As θ grows, τ goes down: which condition breaks first?",
            "Solve −τ = 1 + δ for θ, with kappa = k.square().sum().",
        ),
        why="At this θ an eigenvalue of the 2×2 map is −1: the error changes its sign at each token and never shrinks.",
        tolerance=1e-9,
    ),
    Exercise(
        name="04.2",
        title="Mend the loud names",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=steady,
        cases=_name_cases,
        mutants={
            "as it was": (
                lambda k, v, th: _book(k, v, [th / x.norm() for x in k]),
                "Both faults are still there. One by one: what does a visit leave of the error of a name with κ = 12, "
                "and what is θ / k.norm() for a name without letters?",
            ),
            "length": (
                lambda k, v, th: _book(k, v, [th / x.norm() if x.any() else 0.0 for x in k]),
                "You divide θ by ‖k‖. The key acts twice, in the answer and in the write: divide by κ = ‖k‖².",
            ),
            "no guard": (
                lambda k, v, th: _book(k, v, [th / x.square().sum() for x in k]),
                "There is a NaN in the book: a guest who says nothing has κ = 0, and 0/0 is NaN, which never leaves "
                "the book again. Let such a visit pass, and check once more.",
            ),
            "loudest": (
                lambda k, v, th: _book(k, v, [th / k.square().sum(-1).max()] * len(k)),
                "Safe, but not the same share: you take the loudest name's κ for everybody. Each visit has its own.",
            ),
            "unit keys": (
                lambda k, v, th: _book(k, v, [th] * len(k), unit=True),
                "You scale the name itself, so the book now answers to names of length 1. Tonight everybody asks at "
                "full length: leave k as it is, and change the step.",
            ),
            "plus one": (
                lambda k, v, th: _book(k, v, [th / (1 + x.square().sum()) for x in k]),
                "Dividing by 1 + κ is safe for silent guests, but short names are then corrected by less than 2θ.",
            ),
        },
        hints=(
            "The error of this guest is multiplied by 1 − 2θκ. Which step makes that 1 − 2θ for every guest?",
            "A step of θ/κ. Then think of a guest who says nothing.",
        ),
        why="A step of θ/κ makes every name equally loud. The library divides the key by its length instead.",
        tolerance=1e-6,  # a small number in the denominator is a good guard too
    ),
    Exercise(
        name="04.3",
        title="The limit after a pause",
        difficulty="hard",
        minutes=15,
        points=3,
        solution=pause_limit,
        cases=_pause_cases,
        mutants={
            "long pause": (
                lambda e, n: 1 - e,
                "That is the end of the curve, n → ∞. A guest who comes back sooner allows a larger step.",
            ),
            "no pause": (
                lambda e, n: 1 + e,
                "That is the start of the curve, n = 1: the same guest at every visit.",
            ),
            "upside down": (
                lambda e, n: (1 - e) * (1 - e**n) / (1 + e**n),
                "Upside down: at n = 1 it must give 1 + η, and yours gives (1 − η)²/(1 + η).",
            ),
            "one visit off": (
                lambda e, n: (1 - e) * (1 + e ** (n - 1)) / (1 - e ** (n - 1)),
                "One visit off: n counts from one visit of the guest to the next, so η acts n times.",
            ),
            "factor 2": (
                lambda e, n: 2 * (1 - e) * (1 + e**n) / (1 - e**n),
                "Twice too large: a visit pushes by 2θκ times the error, and the limit of θκ is asked for.",
            ),
            "push alone": (
                lambda e, n: (1 - e) / (1 - e**n),
                "That keeps the sum of all pushes below 1, but forgets the momentum that is left when she returns, ηⁿ.",
            ),
        },
        hints=(
            "Multiply the maps of one visit and of n − 1 visits without her: trace and determinant are all you need.",
            "The determinant is ηⁿ. The trace is 1 + ηⁿ − 2θκ(1 + η + … + ηⁿ⁻¹).",
            "The limit is where −trace = 1 + determinant; the sum is (1 − ηⁿ)/(1 − η).",
        ),
        why="At n = 1 it is 1 + η, and it falls to 1 − η, the rule of thumb, as the pause gets long.",
        tolerance=1e-9,
    ),
    Exercise(
        name="04.4",
        title="A whole rota",
        difficulty="hard",
        minutes=20,
        points=4,
        solution=rota_limit,
        cases=_rota_cases,
        mutants={
            "first guest": (
                lambda rota, eta: _limit(rota, eta, guests=lambda r: r[:1]),
                "You judge the first guest of the rota alone. All of them must be learned: take the smallest limit.",
            ),
            "momentum rests": (
                lambda rota, eta: _limit(rota, eta, coasts=False),
                "You get 1 + η, whatever the rota: the visits of others are missing, or push her as well. There the "
                "step is 0, and momentum coasts: s becomes ηs, and e moves by it.",
            ),
            "rule of thumb": (
                lambda rota, eta: 1 - eta,
                "That is the rule of thumb. This rota has an exact limit: multiply its maps, and search for radius 1.",
            ),
        },
        hints=(
            "Step 1: a function that multiplies the maps of a rota's visits for one guest and one step.",
            "Step 2: she is learned if no eigenvalue of that product reaches 1 in size. Do it for every guest.",
            "Step 3: bisection. Keep a step that settles and one that does not, and halve the gap 40 times.",
        ),
        why="The rota's product of maps is all that matters: the same question as one guest, one round at a time.",
        tolerance=1e-6,
    ),
)
