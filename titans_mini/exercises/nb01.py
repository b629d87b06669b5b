"""Exercises of notebook 01."""

import torch

from titans_mini.exercises import Exercise


def exact_write(M, k, v):
    """One step of the delta rule that stores (k, v) exactly: M (D, E), k (D,), v (E,) -> M_next (D, E)."""
    theta = 1 / (2 * (k @ k))  # the error is multiplied by 1 - 2 theta |k|^2
    return M - theta * 2 * torch.outer(k, k @ M - v)


def _pairs(seed):
    g = torch.Generator().manual_seed(seed)
    sizes = ((3, 3, 1.0), (2, 5, 0.3), (6, 4, 4.0))
    return [
        (torch.randn(d, e, generator=g), scale * torch.randn(d, generator=g), torch.randn(e, generator=g))
        for d, e, scale in sizes
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


def _hits(k, v, theta):
    count = online_accuracy(k, v, theta) * torch.arange(1, len(k) + 1)
    return count.diff(prepend=count.new_zeros(1)).round()


def _other_dtype(k, v, theta):
    """The right shares, in float32 where the keys are float64, as in the notebook, or the other way round."""
    shares = online_accuracy(k, v, theta)
    return shares.float() if shares.dtype == torch.float64 else shares.double()


def _streams(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for steps, keys, labels, theta in ((40, 6, 4, 0.5), (30, 8, 3, 0.2), (50, 5, 5, 0.3)):
        centres = torch.randn(labels, keys, generator=g) + 1.0  # a shared part, as digits have: it confuses Hebb
        label = torch.randint(labels, (steps,), generator=g)
        k = centres[label] + 0.5 * torch.randn(steps, keys, generator=g)
        k = k / k.norm(dim=-1, keepdim=True)
        cases.append((k, torch.nn.functional.one_hot(label, labels).to(k.dtype), theta))
    return cases


def evening(M, keys, values, theta):
    """T guests, keys (T, D), values (T, E), by the delta rule: book M (D, E) -> the book at closing time (D, E)."""
    for k, v in zip(keys, values, strict=True):
        M = M - theta * 2 * torch.outer(k, k @ M - v)  # the book as it is by now
    return M


def _morning(M, keys, values, theta):
    for k, v, answer in zip(keys, values, keys @ M, strict=True):
        M = M - theta * 2 * torch.outer(k, answer - v)
    return M


def _late_answer(M, keys, values, theta):
    before = M
    for k, v in zip(keys, values, strict=True):
        before, M = M, M - theta * 2 * torch.outer(k, k @ before - v)
    return M


def _hebb_evening(M, keys, values, theta):
    return M + theta * 2 * keys.T @ values


def _only_last(M, keys, values, theta):
    return M - theta * 2 * torch.outer(keys[-1], keys[-1] @ M - values[-1])


def _evenings(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for T, D, E, theta in ((4, 3, 2, 0.5), (3, 2, 4, 0.2), (6, 5, 3, 0.3)):
        M, k, v = (torch.randn(*shape, generator=g) for shape in ((D, E), (T, D), (T, E)))
        cases.append((M, k / k.norm(dim=-1, keepdim=True), v, theta))
    return cases


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
        title="One step that stores exactly",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=exact_write,
        cases=_pairs,
        mutants={
            "sign": (
                lambda M, k, v: M + torch.outer(k, k @ M - v) / (k @ k),
                "The sign: the gradient points uphill, and you walk along it. The step is −θ∇ℓ.",
            ),
            "half": (
                lambda M, k, v: M - torch.outer(k, k @ M - v) / (2 * (k @ k)),
                "Half of the error is left. Did the 2 of the gradient get lost, while θ still counts on it?",
            ),
            "twice": (
                lambda M, k, v: M - 2 * torch.outer(k, k @ M - v) / (k @ k),
                "Twice too far: the gradient brings its own factor 2, so this step ends at minus the error.",
            ),
            "unit keys": (
                lambda M, k, v: M - torch.outer(k, k @ M - v),
                "θ = ½ is right for keys of length 1 only. How does the answer k @ M_next depend on ‖k‖?",
            ),
            "norm, not its square": (
                lambda M, k, v: M - torch.outer(k, k @ M - v) / k.norm(),
                "The length of k enters twice: once in the gradient's kᵀ, once when you ask with k. So ‖k‖², not ‖k‖.",
            ),
            "normalised": (
                lambda M, k, v: M - torch.outer(k, k / k.norm() @ M - v) / k.norm(),
                "You scaled the name first, so the pair is stored for the scaled name. Asked with k itself, the book "
                "answers ‖k‖ times v. Keep k as it is, and let θ make up for its length.",
            ),
            "no prediction": (
                lambda M, k, v: M + torch.outer(k, v) / (k @ k),
                "That is Hebb's rule: you add the value without asking first. Subtract what `k @ M` says already.",
            ),
            "transpose": (
                lambda M, k, v: (M - torch.outer(k, k @ M - v) / (k @ k)).T,
                "The result is transposed: keys are rows here, so M has a row per letter of k, shape (D, E).",
            ),
            "step": (
                lambda M, k, v: -torch.outer(k, k @ M - v) / (k @ k),
                "That is the step alone. Return where it leads: M plus the step.",
            ),
        },
        hints=(
            "Ask first: the error is the answer minus the truth, `k @ M - v`, shape (E,).",
            "Write the step with any θ and ask again: k M_next = k M − 2θ (k kᵀ)(k M − v). Here k kᵀ is a number.",
            "So the error is multiplied by 1 − 2θ‖k‖². For which θ is that 0?",
        ),
        why="The error after one step is (1 − 2θ‖k‖²) times the error before it, whatever M and v are.",
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
            "other dtype": (
                _other_dtype,
                "The shares are right, but their dtype is not that of the keys, which are float64 in the notebook. "
                "`.float()` is always float32, `.double()` and numpy are float64; `.to(k.dtype)` follows the keys.",
            ),
            "hits": (
                _hits,
                "These are the hits themselves, 1 or 0 for each guest. Return the share so far: sum and divide.",
            ),
            "sign": (
                lambda k, v, theta: _run(k, v, -theta),
                "The sign: each write makes the error larger. Subtract θ times the gradient.",
            ),
            "half step": (
                lambda k, v, theta: _run(k, v, theta / 2),
                "The step is half as long as it should be: the gradient brings a 2, so M = M − θ · 2 · kᵀ(kM − v).",
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
        title="Mend the diligent attendant",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=evening,
        cases=_evenings,
        mutants={
            "morning": (
                _morning,
                "Not mended yet: every answer is still looked up before the first guest. Which book should be asked?",
            ),
            "late": (
                _late_answer,
                "One guest late: the answer comes from the book before the previous guest was written.",
            ),
            "hebb": (
                _hebb_evening,
                "Now nobody is asked at all: that is Hebb's rule, which stores a regular guest once per visit.",
            ),
            "sign": (
                lambda M, keys, values, theta: evening(M, keys, values, -theta),
                "The sign: each write makes the error larger. The error is the answer minus the truth, `k @ M - v`.",
            ),
            "half step": (
                lambda M, keys, values, theta: evening(M, keys, values, theta / 2),
                "The right book is asked, but the step has lost its 2: the gradient is 2 kᵀ(kM − v).",
            ),
            "last": (
                _only_last,
                "Only the last guest is in the book. Keep each step: M = M − …",
            ),
        },
        hints=(
            "Let the same guest come twice to an empty book. What should her second visit write, and what does it?",
            "The answers are all looked up before the first write. Move that line.",
        ),
        why="A correction is measured on the book as it is at that moment: what one guest wrote, the next one finds.",
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
            "upper": (
                lambda q, k, v: (q @ k.T).triu() @ v,
                "The wrong triangle: token t uses the future, j ≥ t. In row t the keys j ≤ t lie at the left.",
            ),
            "softmax, no mask": (
                lambda q, k, v: (q @ k.T).softmax(-1) @ v,
                "That is attention with a softmax and without a mask. The scores are used as they are, for j ≤ t.",
            ),
            "softmax": (
                _softmax,
                "That is softmax attention. A sum of outer products has no softmax: the scores are used as they are.",
            ),
            "scaled": (
                lambda q, k, v: (q @ k.T).tril() @ v / q.shape[1] ** 0.5,
                "Attention divides its scores by √D to tame the softmax. Without one they stay as they are.",
            ),
            "mean": (
                lambda q, k, v: (q @ k.T).tril() @ v / torch.arange(1, len(q) + 1).view(-1, 1),
                "You take the mean of the values so far. The adder's book is a sum: it never divides.",
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
