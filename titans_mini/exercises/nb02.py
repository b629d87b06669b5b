"""Exercises of notebook 02."""

import torch

from titans_mini.exercises import Exercise


def momentary_surprise(M, k, v):
    """The gradient of ℓ = ‖kM − v‖² for M: M (D, E), k (D,), v (E,) -> (D, E)."""
    error = k @ M - v  # (E,)
    return 2 * torch.outer(k, error)


def _surprise_cases(seed):
    g = torch.Generator().manual_seed(seed)
    sizes = ((3, 3), (2, 5), (4, 3))
    return [tuple(torch.randn(*shape, generator=g) for shape in ((d, e), (d,), (e,))) for d, e in sizes]


def momentum_step(M, S, u, eta, theta):
    """One token: M, S and the gradient u (D, E), eta and theta numbers -> (M_t, S_t), both (D, E)."""
    S_next = eta * S - theta * u
    return M + S_next, S_next


def _sign(M, S, u, eta, theta):
    S_next = eta * S + theta * u
    return M + S_next, S_next


def _decays_both(M, S, u, eta, theta):
    S_next = eta * (S - theta * u)
    return M + S_next, S_next


def _too_early(M, S, u, eta, theta):
    return M + S, eta * S - theta * u


def _theta_twice(M, S, u, eta, theta):
    S_next = eta * S - theta * u
    return M + theta * S_next, S_next


def _subtracts(M, S, u, eta, theta):
    S_next = eta * S - theta * u
    return M - S_next, S_next


def _average(M, S, u, eta, theta):
    S_next = eta * S - (1 - eta) * theta * u
    return M + S_next, S_next


def _momentum_cases(seed):
    g = torch.Generator().manual_seed(seed)
    gates = ((3, 3, 0.9, 0.1), (2, 5, 0.3, 0.5), (4, 1, 0.6, 0.2))
    return [(*(torch.randn(d, e, generator=g) for _ in range(3)), eta, theta) for d, e, eta, theta in gates]


def total_push(theta, eta, n):
    """How far a shock of size 1 has moved the memory after n tokens, its own included (0 ≤ eta < 1, n ≥ 1)."""
    return theta * (1 - eta**n) / (1 - eta)


def _push_cases(seed):
    g = torch.Generator().manual_seed(seed)
    theta, eta = (torch.rand(4, generator=g) * 0.6 + 0.2).tolist(), (0.0, 0.5, 0.8, 0.9)
    return list(zip(theta, eta, (3, 1, 4, 7), strict=True))


def gated_momentum(u, theta, eta, new_topic):
    """Momentum that starts afresh with a topic: u (T, D), new_topic (T,) of bool -> S_1 … S_T (T, D)."""
    S, series = torch.zeros_like(u[0]), []
    for u_t, new in zip(u, new_topic, strict=True):
        eta_t = 0.0 if new else eta
        S = eta_t * S - theta * u_t
        series.append(S)
    return torch.stack(series)


def _with_gates(u, theta, gates):
    """Momentum with a given η for every token, for the mutants below."""
    S, series = torch.zeros_like(u[0]), []
    for u_t, eta_t in zip(u, gates, strict=True):
        S = eta_t * S - theta * u_t
        series.append(S)
    return torch.stack(series)


def _late(u, theta, eta, new_topic):
    return _with_gates(u, theta, [eta, *(0.0 if new else eta for new in new_topic[:-1])])


def _inverted(u, theta, eta, new_topic):
    return _with_gates(u, theta, [eta if new else 0.0 for new in new_topic])


def _constant(u, theta, eta, new_topic):
    return _with_gates(u, theta, [eta] * len(u))


def _silent(u, theta, eta, new_topic):
    return _with_gates(u * ~new_topic[:, None], theta, [0.0 if new else eta for new in new_topic])


def _gate_cases(seed):
    g = torch.Generator().manual_seed(seed)
    topics = ([0, 0, 1, 0, 0], [1, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1])
    gates = ((0.1, 0.9), (0.5, 0.5), (0.2, 0.7))
    return [
        (torch.randn(len(topic), d, generator=g), theta, eta, torch.tensor(topic, dtype=torch.bool))
        for topic, (theta, eta), d in zip(topics, gates, (3, 2, 1), strict=True)
    ]


EXERCISES = (
    Exercise(
        name="02.1",
        title="The momentary surprise of a matrix",
        difficulty="easy",
        minutes=4,
        points=1,
        solution=momentary_surprise,
        cases=_surprise_cases,
        mutants={
            "sign": (
                lambda M, k, v: 2 * torch.outer(k, v - k @ M),
                "The sign: this is −∇ℓ. The gradient points uphill, `kM − v`; the minus comes with the step, −θ∇ℓ.",
            ),
            "factor 2": (
                lambda M, k, v: torch.outer(k, k @ M - v),
                "A factor 2 is missing: the paper's ℓ = ‖kM − v‖² has no ½, and the square gives a 2.",
            ),
            "transposed": (
                lambda M, k, v: 2 * torch.outer(k @ M - v, k),
                "The outer product is transposed: rows belong to the key, columns to the error, as in M itself.",
            ),
            "no prediction": (
                lambda M, k, v: -2 * torch.outer(k, v),
                "The prediction is missing: this is surprised by every token, also by what the memory knows already.",
            ),
            "only the error": (
                lambda M, k, v: 2 * (k @ M - v).expand_as(M),
                "Every row gets the same error here. A row changes in proportion to its entry of the key.",
            ),
        },
        hints=(
            "Write the error first: what the memory says minus what is true, a vector of E numbers.",
            "ℓ is a sum of squares of the error, and entry j of the error holds M_ij k_i. Differentiate for M_ij.",
            "∂ℓ/∂M_ij = 2 k_i error_j: an outer product, the key first.",
        ),
        why="Each entry M_ij is multiplied by k_i on the way to error j, so its gradient is 2 k_i error_j: rank one.",
    ),
    Exercise(
        name="02.2",
        title="One step with past surprise",
        difficulty="easy",
        minutes=4,
        points=1,
        solution=momentum_step,
        cases=_momentum_cases,
        mutants={
            "sign": (_sign, "The sign of the momentary part: S_t = η S_{t−1} − θ u. The gradient points uphill."),
            "both decay": (_decays_both, "η weakens the new gradient too: it belongs to S_{t−1} alone, outside −θu."),
            "off by one": (_too_early, "M moves by the old S: this token's surprise arrives one token late (eq. 9)."),
            "theta twice": (_theta_twice, "θ acts twice: it is inside S_t already, so M_t = M_{t−1} + S_t."),
            "subtracts": (_subtracts, "S_t is subtracted from M. It carries its minus sign already: add it."),
            "average": (_average, "The gradient is weighted by 1 − η, as in a running average: not in equation 10."),
        },
        hints=(
            "First the new S_t, from the old S and the gradient. Then the memory.",
            "S_t = η S_{t−1} − θ u, and M_t = M_{t−1} + S_t with the new S_t.",
        ),
        why="Equation 10, then equation 9: S_t carries both its sign and its θ, so the memory adds it as it is.",
    ),
    Exercise(
        name="02.3",
        title="The whole push of one shock",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=total_push,
        cases=_push_cases,
        mutants={
            "n + 1": (
                lambda theta, eta, n: theta * (1 - eta ** (n + 1)) / (1 - eta),
                "One term too many: after n tokens the last power is η^(n−1); the shock's own token is the first.",
            ),
            "no theta": (
                lambda theta, eta, n: (1 - eta**n) / (1 - eta),
                "θ is missing: each push is θ times a power of η.",
            ),
            "infinite": (
                lambda theta, eta, n: theta / (1 - eta),
                "This is the whole infinite series. After n tokens the part θ η^n / (1 − η) is still to come.",
            ),
            "n - 1": (
                lambda theta, eta, n: theta * (1 - eta ** (n - 1)) / (1 - eta),
                "One term too few: the shock's own token pushes too, with η^0 = 1.",
            ),
            "last push": (
                lambda theta, eta, n: theta * eta ** (n - 1),
                "This is the push of the last token alone, S_n. The memory has moved by the sum of all of them.",
            ),
        },
        hints=(
            "Write the pushes of the first tokens: θ, θη, θη², … How many are there after n tokens?",
            "Call the sum X. Then X − ηX has two terms only.",
            "X = θ (1 − η^n) / (1 − η).",
        ),
        why="The pushes form a geometric series of n terms; multiplied by 1 − η all but its first and last cancel.",
    ),
    Exercise(
        name="02.4",
        title="Drop past surprise when the topic changes",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=gated_momentum,
        cases=_gate_cases,
        mutants={
            "late": (
                _late,
                "The gate closes one token late. η_t multiplies S_{t−1}: with η = 0 at the first token of the topic, "
                "that token drops what came before.",
            ),
            "inverted": (_inverted, "The gate is inverted: past surprise is kept at a new topic, dropped inside one."),
            "never": (_constant, "η is constant: the gate never closes."),
            "silent": (
                _silent,
                "The first token of a topic is silenced too. η touches past surprise only; −θu is added whatever η is.",
            ),
        },
        hints=(
            "A loop over tokens with one S. Only η depends on the token.",
            "At a new topic S_t = 0 · S_{t−1} − θ u_t, else S_t = η S_{t−1} − θ u_t.",
        ),
        why="η_t = 0 erases the past in the very step that adds the present: nothing of the old topic is left in S_t.",
    ),
)
