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


def _pytorch(M, S, u, eta, theta):
    S_next = eta * S + u
    return M - theta * S_next, S_next


def _minus_at_the_end(M, S, u, eta, theta):
    S_next = eta * S + theta * u
    return M - S_next, S_next


def _momentum_cases(seed):
    g = torch.Generator().manual_seed(seed)
    gates = ((3, 3, 0.9, 0.1), (2, 5, 0.3, 0.5), (4, 1, 0.6, 0.2))
    return [(*(torch.randn(d, e, generator=g) for _ in range(3)), eta, theta) for d, e, eta, theta in gates]


def total_push(theta, eta, n):
    """How far a shock of size 1 has moved the memory after n ≥ 1 tokens, its own included."""
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


def shift(M, S, keys, values, eta, theta):
    """T visits, from book M and momentum S (D, E) -> both at the end of the shift."""
    for k, v in zip(keys, values, strict=True):
        S = eta * S - theta * 2 * torch.outer(k, k @ M - v)
        M = M + S
    return M, S


def _from_rest(M, S, keys, values, eta, theta):
    return shift(M, torch.zeros_like(S), keys, values, eta, theta)


def _as_found(M, S, keys, values, eta, theta):
    return shift(M, torch.zeros_like(S), keys, values, eta, theta)[0], S


def _twice_at_the_door(M, S, keys, values, eta, theta):
    return shift(M + S, S, keys, values, eta, theta)


def _too_early_shift(M, S, keys, values, eta, theta):
    for k, v in zip(keys, values, strict=True):
        M, S = M + S, eta * S - theta * 2 * torch.outer(k, (k @ M) + (k @ S) - v)
    return M, S


def _luggage(M, S, keys, values, eta, theta):
    end, _ = shift(M, S, keys, values, eta, theta)
    return end, end - M


def _decayed_at_the_door(M, S, keys, values, eta, theta):
    end, S = shift(M, S, keys, values, eta, theta)
    return end, eta * S


def _old_luggage(M, S, keys, values, eta, theta):
    end, _ = shift(M, S, keys, values, eta, theta)
    return end, S


def _shift_cases(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for T, D, E, eta, theta in ((3, 3, 2, 0.8, 0.1), (1, 2, 4, 0.5, 0.3), (5, 4, 3, 0.9, 0.05)):
        M, S, k, v = (torch.randn(*shape, generator=g) for shape in ((D, E), (D, E), (T, D), (T, E)))
        cases.append((M, S, k / k.norm(dim=-1, keepdim=True), v, eta, theta))
    return cases


def attend_with(f, weights, keys, values, eta, theta):
    """T visits of any memory f(weights, k), eta and theta (T,) -> its tensors after the last."""

    def loss(weights, k, v):
        return (f(weights, k) - v).square().sum()

    S = [torch.zeros_like(w) for w in weights]
    for k, v, eta_t, theta_t in zip(keys, values, eta, theta, strict=True):
        surprises = torch.func.grad(loss)(weights, k, v)  # one per tensor
        S = [eta_t * s - theta_t * u for s, u in zip(S, surprises, strict=True)]
        weights = [w + s for w, s in zip(weights, S, strict=True)]
    return weights


def _attend(f, weights, keys, values, eta, theta, *, half=1.0, kept="S", frozen=False, shared=False):
    """Exercise 02.6 with a mistake built in."""

    def loss(weights, k, v):
        return half * (f(weights, k) - v).square().sum()

    start, S, T = weights, [torch.zeros_like(w) for w in weights], len(keys)
    for t in range(T):
        u = torch.func.grad(loss)(start if frozen else weights, keys[t], values[t])
        gate, past = (eta[t - 1] if kept == "late" and t else eta[t]), S
        step = 1.0 if kept == "bare" else theta[t]
        S = [gate * s - step * g for s, g in zip(past, u, strict=True)]
        if shared:  # the first tensor's momentum for the others, where the shapes allow
            S = [S[0] if s.shape == S[0].shape else s for s in S]
        if kept == "nothing":
            S = [-theta[t] * g for g in u]
        moves = [theta[t] * s for s in S] if kept == "bare" else S
        weights = [w + s for w, s in zip(weights, moves, strict=True)]
    return weights


def _matrix(weights, k):
    return k @ weights[0]


def _two_layers(weights, k):
    return torch.tanh(k @ weights[0]) @ weights[1]


def _with_offset(weights, k):
    return k @ weights[0] + weights[1]


def _any_memory_cases(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for f, shapes, T, D, E in (
        (_two_layers, ((3, 3), (3, 3)), 4, 3, 3),
        (_matrix, ((2, 5),), 3, 2, 5),
        (_with_offset, ((4, 2), (2,)), 5, 4, 2),
    ):
        weights = [torch.randn(*shape, generator=g) for shape in shapes]
        k, v = torch.randn(T, D, generator=g), torch.randn(T, E, generator=g)
        eta, theta = 0.9 * torch.rand(T, generator=g), 0.02 + 0.08 * torch.rand(T, generator=g)
        cases.append((f, weights, k, v, eta, theta))
    return cases


EXERCISES = (
    Exercise(
        name="02.1",
        title="The surprise of a matrix",
        difficulty="easy",
        minutes=3,
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
            "sign and factor 2": (
                lambda M, k, v: torch.outer(k, v - k @ M),
                "This is the write of the exact step, −½∇ℓ. The gradient itself has the other sign, and a factor 2.",
            ),
            "mean": (
                lambda M, k, v: 2 * torch.outer(k, k @ M - v) / len(v),
                "Divided by E: your loss is a mean over the hooks, as in `mse_loss`. The paper's ℓ is their sum.",
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
        title="One visit with momentum",
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
            "pytorch": (
                _pytorch,
                "That is PyTorch's SGD: its buffer sums bare gradients, and −θ comes at the write. With a θ per "
                "visit it is another rule: in equation 10 each gradient keeps the θ of its own visit, inside S.",
            ),
            "no theta": (
                lambda M, S, u, eta, theta: (M + eta * S - u, eta * S - u),
                "θ is missing: the gradient says where to, θ how far. S_t = η S_{t−1} − θ u.",
            ),
            "old S": (
                lambda M, S, u, eta, theta: (momentum_step(M, S, u, eta, theta)[0], S),
                "The memory is right, but the S that goes out is the one that came in. Return the new one.",
            ),
            "swapped": (
                lambda M, S, u, eta, theta: momentum_step(M, S, u, eta, theta)[::-1],
                "Both are right, in the wrong order: first the memory, then its momentum.",
            ),
            "minus at the end": (
                _minus_at_the_end,
                "The minus is missing in S and comes back at the write. From S = 0 the book is the same, but the S "
                "you hand over points uphill: S_t = η S_{t−1} − θ u, then add it.",
            ),
        },
        hints=(
            "First the new S_t, from the old S and the gradient. Then the memory.",
            "S_t = η S_{t−1} − θ u, and M_t = M_{t−1} + S_t with the new S_t.",
        ),
        why="Equation 10, then equation 9: S_t carries both its sign and its θ, so the memory adds it as it is.",
    ),
    Exercise(
        name="02.3",
        title="How far one push carries",
        difficulty="medium",
        minutes=6,
        points=1,
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
            "factor 2": (
                lambda theta, eta, n: 2 * theta * (1 - eta**n) / (1 - eta),
                "A factor 2 too many: it belongs to the gradient, and this shock is a gradient of size 1 already. With "
                "a key of length 1 the memory stores 2θ of the value at once because the error comes doubled.",
            ),
            "infinite": (
                lambda theta, eta, n: theta / (1 - eta),
                "This is the whole infinite series. After n tokens the part θ η^n / (1 − η) is still to come.",
            ),
            "n - 1": (
                lambda theta, eta, n: theta * (1 - eta ** (n - 1)) / (1 - eta),
                "One term too few: the shock's own token pushes too, with η^0 = 1.",
            ),
            "no decay": (
                lambda theta, eta, n: theta * n,
                "All n pushes count in full here. Each is η times the one before.",
            ),
            "one late": (
                lambda theta, eta, n: theta * eta * (1 - eta**n) / (1 - eta),
                "η comes one token early: the first push is θ, with η^0, and only its later rests are weakened.",
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
        title="A gate that drops the past",
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
            "sign": (
                lambda u, theta, eta, new_topic: -gated_momentum(u, theta, eta, new_topic),
                "The sign: u points uphill. S_t = η_t S_{t−1} − θ u_t.",
            ),
            "both decay": (
                lambda u, theta, eta, new_topic: _with_gates(
                    u * torch.where(new_topic, 0.0, eta)[:, None], theta, [0.0 if new else eta for new in new_topic]
                ),
                "η weakens the new gradient too: it belongs to S_{t−1} alone, outside −θu.",
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
    Exercise(
        name="02.5",
        title="Mend the change of shifts",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=shift,
        cases=_shift_cases,
        mutants={
            "as found": (
                _as_found,
                "Not mended yet: this is the memory as you found it. What does the first visit of a shift lack?",
            ),
            "from rest": (
                _from_rest,
                "Still from rest: S comes in at the door, and your loop does not begin with it.",
            ),
            "too early": (
                _too_early_shift,
                "The book moves by the S of the visit before. First the new S, then M = M + S with the new one.",
            ),
            "twice": (
                _twice_at_the_door,
                "Twice: the last step is in the book already. S only feeds the next step.",
            ),
            "luggage": (
                _luggage,
                "Too much luggage: S is the last step, not the sum of all steps of the shift.",
            ),
            "decayed": (
                _decayed_at_the_door,
                "Decayed twice: η acts at the next visit, not at the door as well.",
            ),
            "old luggage": (
                _old_luggage,
                "The S that goes out is the one that came in. Hand over the step of the last visit.",
            ),
        },
        hints=(
            "After one long shift, which two things would the next visit need? Only one of them is in the book.",
            "The next visit computes η times the previous step. Who knows the previous step when a shift begins?",
            "Let the loop work on S itself, from the S that comes in to the S that goes out.",
        ),
        why="The next step needs the book and the last step, so both cross the threshold; nothing else is needed.",
    ),
    Exercise(
        name="02.6",
        title="Build an attendant for any memory",
        difficulty="hard",
        minutes=15,
        points=3,
        solution=attend_with,
        cases=_any_memory_cases,
        mutants={
            "half": (
                lambda *arguments: _attend(*arguments, half=0.5),
                "A factor 2 is missing: your loss has a ½, and equation 12 has none.",
            ),
            "mean": (
                lambda f, weights, keys, values, eta, theta: _attend(
                    f, weights, keys, values, eta, theta, half=1 / values.shape[-1]
                ),
                "Your loss is a mean, as in `mse_loss`. Equation 12 sums the squares of all components.",
            ),
            "pytorch": (
                lambda *arguments: _attend(*arguments, kept="bare"),
                "That is PyTorch's SGD: S sums bare gradients, and −θ comes at the write. With a θ per visit it is "
                "another rule: in equation 10 each gradient keeps the θ of its own visit, inside S.",
            ),
            "frozen": (
                lambda *arguments: _attend(*arguments, frozen=True),
                "All gradients are taken at the first weights. Each visit asks the memory as it is by then, M_{t−1}.",
            ),
            "uphill": (
                lambda f, weights, keys, values, eta, theta: _attend(f, weights, keys, values, eta, -theta),
                "The sign: the gradient points uphill, and your memory walks along it. The push is −θ∇ℓ.",
            ),
            "no momentum": (
                lambda *arguments: _attend(*arguments, kept="nothing"),
                "The momentum is lost from visit to visit: S_t needs η_t S_{t−1}, so keep S outside the loop.",
            ),
            "late gate": (
                lambda *arguments: _attend(*arguments, kept="late"),
                "The gate is one visit late: η_t of this visit multiplies the S of the previous one.",
            ),
            "one momentum": (
                lambda *arguments: _attend(*arguments, shared=True),
                "All tensors move by the momentum of the first. Each has its own gradient and its own S.",
            ),
        },
        hints=(
            "Four steps: a loss of (weights, k, v), its gradient, the momentum of each tensor, the write.",
            "`torch.func.grad(loss)(weights, k, v)` differentiates for the first argument: a list like `weights`.",
            "S is a list too, zeros at first. One comprehension makes the new S, another the new weights.",
        ),
        why="Nothing in the rule asks how the memory is made: it needs an answer that can be differentiated.",
    ),
)
