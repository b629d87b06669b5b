"""Exercises of notebook 01."""

import torch

from titans_mini.exercises import Exercise


def delta_step(M, k, v, theta):
    """One step of the delta rule: M (D, E), k (D,), v (E,) -> M_next (D, E)."""
    error = k @ M - v  # what it says, minus what it should say
    return M - theta * 2 * torch.outer(k, error)


def _steps(seed):
    g = torch.Generator().manual_seed(seed)
    sizes = ((3, 3, 0.5), (2, 5, 0.1), (6, 4, 0.3))
    return [
        (torch.randn(d, e, generator=g), torch.randn(d, generator=g), torch.randn(e, generator=g), theta)
        for d, e, theta in sizes
    ]


def online_accuracy(k, v, theta):
    """Guess, then learn: keys k (T, D), one-hot v (T, E) -> share of right guesses so far (T,)."""
    M = torch.zeros(k.shape[1], v.shape[1])
    hits = []
    for k_t, v_t in zip(k, v, strict=True):
        y = k_t @ M  # the guess comes first
        hits.append(float(y.argmax() == v_t.argmax()))
        M = M - theta * 2 * torch.outer(k_t, y - v_t)
    return torch.tensor(hits).cumsum(0) / torch.arange(1, len(hits) + 1)


def _run(k, v, theta, *, leak=False, shift=False, write="delta"):
    """The stream of exercise 01.2 with a mistake built in."""
    M, hits, guess = torch.zeros(k.shape[1], v.shape[1]), [], 0
    for k_t, v_t in zip(k, v, strict=True):
        y = k_t @ M
        error = {"delta": y - v_t, "hebb": -v_t, "none": torch.zeros_like(v_t)}[write]
        M = M - theta * 2 * torch.outer(k_t, error)
        last, guess = guess, (k_t @ M if leak else y).argmax()
        hits.append(float((last if shift else guess) == v_t.argmax()))
    return torch.tensor(hits).cumsum(0) / torch.arange(1, len(hits) + 1)


def _streams(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for steps, keys, labels, theta in ((40, 6, 4, 0.5), (30, 8, 3, 0.2), (50, 5, 5, 0.3)):
        centres = torch.randn(labels, keys, generator=g) + 1.0  # a shared part, as digits have: it confuses Hebb
        label = torch.randint(labels, (steps,), generator=g)
        k = centres[label] + 0.5 * torch.randn(steps, keys, generator=g)
        k = k / k.norm(dim=-1, keepdim=True)
        cases.append((k, torch.nn.functional.one_hot(label, labels).float(), theta))
    return cases


def exact_step(k):
    """The θ with which one delta step stores the pair (k, v) exactly: k (D,) -> a number."""
    return 1 / (2 * (k @ k))


def _keys(seed):
    g = torch.Generator().manual_seed(seed)
    return [(scale * torch.randn(d, generator=g),) for d, scale in ((3, 1.0), (5, 0.3), (8, 4.0))]


def linear_attention(q, k, v):
    """The memory that only adds, without a memory: q, k (T, D), v (T, E) -> y (T, E), y_t = q_t M_t."""
    scores = q @ k.T  # (T, T), score of query t with key j
    return scores.tril() @ v


def _softmax(q, k, v):
    scores = q @ k.T
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1) @ v


def _sequences(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = ((4, 3, 3), (5, 2, 4), (1, 3, 2))
    return [(*(torch.randn(t, d, generator=g) for _ in "qk"), torch.randn(t, e, generator=g)) for t, d, e in shapes]


EXERCISES = (
    Exercise(
        name="01.1",
        title="One step of the delta rule",
        difficulty="easy",
        minutes=5,
        points=1,
        solution=delta_step,
        cases=_steps,
        mutants={
            "sign": (
                lambda M, k, v, theta: M + theta * 2 * torch.outer(k, k @ M - v),
                "The sign: the gradient points uphill, and you walk along it. The step is −θ∇ℓ.",
            ),
            "factor 2": (
                lambda M, k, v, theta: M - theta * torch.outer(k, k @ M - v),
                "A factor 2 is missing: ℓ = ‖kM − v‖² has no ½ in front, so its gradient is 2 kᵀ(kM − v).",
            ),
            "no prediction": (
                lambda M, k, v, theta: M + theta * 2 * torch.outer(k, v),
                "That is Hebb's rule: you add the value without asking first. Subtract what `k @ M` says already.",
            ),
            "transpose": (
                lambda M, k, v, theta: (M - theta * 2 * torch.outer(k, k @ M - v)).T,
                "The result is transposed: keys are rows here, so M has a row for each pixel of k, shape (D, E).",
            ),
            "gradient": (
                lambda M, k, v, theta: -theta * 2 * torch.outer(k, k @ M - v),
                "That is the step alone. Return where it leads: M plus the step.",
            ),
        },
        hints=(
            "Ask first: the error is what the memory says minus what it should say, `k @ M - v`, shape (E,).",
            "The gradient of ‖kM − v‖² is an outer product, key times twice the error: `2 * torch.outer(k, error)`.",
            "`M_next = M - theta * gradient`.",
        ),
        why="The write is key times error: a pair that is known already has error 0 and changes nothing.",
    ),
    Exercise(
        name="01.2",
        title="Guess, then learn",
        difficulty="medium",
        minutes=12,
        points=2,
        solution=online_accuracy,
        cases=_streams,
        mutants={
            "leak": (
                lambda k, v, theta: _run(k, v, theta, leak=True),
                "The answer leaks: you guess after the update, so the memory has seen the label. Guess with M_{t−1}.",
            ),
            "no update": (
                lambda k, v, theta: _run(k, v, theta, write="none"),
                "The memory never learns: every guess comes from M = 0. Keep the result of the step, `M = M - …`.",
            ),
            "shifted": (
                lambda k, v, theta: _run(k, v, theta, shift=True),
                "Shifted by one: the guess for key t is compared with the label of key t + 1.",
            ),
            "hebb": (
                lambda k, v, theta: _run(k, v, theta, write="hebb"),
                "You stream with Hebb's rule: the step is missing the memory's own answer, `y - v_t`.",
            ),
            "share of all": (
                lambda k, v, theta: online_accuracy(k, v, theta) * torch.arange(1, len(k) + 1) / len(k),
                "You divide by T. After t guesses the share is (right so far) / t.",
            ),
        },
        hints=(
            "Start with `M = torch.zeros(D, E)` and loop over t. For each t, in this order: guess, compare, write.",
            "A guess is the largest entry of the answer: `(k_t @ M).argmax()`; the truth is `v_t.argmax()`.",
            "Collect 1.0 or 0.0 in a list `hits`; the share so far is `hits.cumsum(0) / torch.arange(1, T + 1)`.",
        ),
        why="Each item is a test before it is a lesson, so no item is ever judged by a memory that has seen it.",
    ),
    Exercise(
        name="01.3",
        title="The step that stores a pair exactly",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=exact_step,
        cases=_keys,
        mutants={
            "twice": (
                lambda k: 1 / (k @ k),
                "Twice too long: the gradient brings its own factor 2, so this step ends at minus the error.",
            ),
            "unit keys": (
                lambda k: torch.tensor(0.5),
                "½ is right for keys of length 1 only. How does the answer k @ M_next depend on ‖k‖?",
            ),
            "norm, not its square": (
                lambda k: 1 / (2 * k.norm()),
                "The length of k enters twice: once in the gradient's kᵀ, once when you ask with k. So ‖k‖², not ‖k‖.",
            ),
        },
        hints=(
            "Write one step and ask again: k M_next = k M − 2θ (k kᵀ)(k M − v). Here k kᵀ is a number.",
            "So the error is multiplied by 1 − 2θ‖k‖². For which θ is that 0?",
        ),
        why="The error after one step is (1 − 2θ‖k‖²) times the error before it, whatever M and v are.",
    ),
    Exercise(
        name="01.4",
        title="Hebb without a matrix",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=linear_attention,
        cases=_sequences,
        mutants={
            "no mask": (
                lambda q, k, v: q @ k.T @ v,
                "Every query sees the whole sequence, the future too. Token t may use j ≤ t only: a lower triangle.",
            ),
            "strict mask": (
                lambda q, k, v: (q @ k.T).tril(-1) @ v,
                "The diagonal is missing: y_t = q_t M_t is read after the write, so token t sees its own pair.",
            ),
            "softmax": (
                _softmax,
                "That is softmax attention. A sum of outer products has no softmax: the scores are used as they are.",
            ),
            "transposed": (
                lambda q, k, v: (k @ q.T).tril() @ v,
                "Keys and queries are swapped: row t of the scores belongs to query t, `q @ k.T`.",
            ),
        },
        hints=(
            "y_t = q_t M_t = q_t Σ_{j≤t} k_jᵀ v_j = Σ_{j≤t} (q_t·k_j) v_j.",
            "All the numbers q_t·k_j at once are `q @ k.T`, a (T, T) matrix. Which entries must be zero?",
            "`.tril()` keeps j ≤ t, the diagonal included.",
        ),
        why="Adding outer products and asking later is the same sum as scoring earlier keys and adding values.",
    ),
)
