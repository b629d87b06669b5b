"""Exercises of notebook 00."""

import torch

from titans_mini.exercises import Exercise


def prediction_error(M, k, v):
    """Surprise of a memory that is a matrix: M (D, D), k (D,), v (D,) -> one number, ‖kM − v‖²."""
    return ((k @ M - v) ** 2).sum()


def write_once(M, k, v, theta):
    """One write, down the gradient of ‖kM − v‖²: M (D, D), k (D,), v (D,) -> (D, D)."""
    return M + theta * 2 * torch.outer(k, v - k @ M)


def surprise_of_stream(keys, values, theta):
    """Surprise at each token, asked before its write, from M₀ = 0: keys (T, D), values (T, E) -> (T,)."""
    M = torch.zeros(keys.shape[1], values.shape[1], dtype=keys.dtype)
    surprise = []
    for k, v in zip(keys, values, strict=True):
        error = v - k @ M
        surprise.append((error**2).sum())
        M = M + theta * 2 * torch.outer(k, error)
    return torch.stack(surprise)


def moved(before, after):
    """Names of the tensors that changed in at least one number: two dicts, name -> tensor -> a set of names."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def _associations(seed, thetas):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return [(draw(d, d), draw(d), draw(d), *theta) for d, theta in zip((3, 5, 4), thetas, strict=True)]


def _errors(seed):
    return _associations(seed, [(), (), ()])


def _writes(seed):
    return _associations(seed, [(0.1,), (0.25,), (0.05,)])


def _streams(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for T, D, E, theta in ((4, 3, 3, 0.25), (6, 3, 5, 0.1)):
        keys = torch.nn.functional.normalize(torch.randn(T, D, generator=g, dtype=torch.float64), dim=-1)
        cases.append((keys, torch.randn(T, E, generator=g, dtype=torch.float64), theta))
    return cases


def _snapshots(seed):
    g = torch.Generator().manual_seed(seed)
    names = ("to_qkv.weight", "to_gates.bias", "initial_weights.0", "memory.weights.0", "memory.momentum.0", "conv")
    cases = []
    for moving in (names[3:], names[4:5], ()):
        before = {name: (8 * torch.randn(3, 4, generator=g)).round() / 8 for name in names}  # sums without rounding
        after = {name: x.clone() for name, x in before.items()}
        for name in moving:
            after[name][1, 2] += 0.5  # one number is enough
        if "conv" in moving:
            after["conv"] = before["conv"].flip(0)  # the same numbers, in other places
        cases.append((before, after))
    return cases


def _run_stream(fn, keys, values, theta):
    """Run the learner's loop; where types or shapes do not meet, say what most likely made them."""
    try:
        return fn(keys, values, theta)
    except RuntimeError as error:
        if "size" in str(error) or "shapes" in str(error):
            raise RuntimeError(
                f"{error}. Likely cause: M needs a row for each number of the key and a column for each number of the "
                "value, torch.zeros(keys.shape[1], values.shape[1]), and so does the write: torch.outer(k, error)."
            ) from error
        if "dtype" not in str(error):
            raise
        raise RuntimeError(
            f"{error}. Likely cause: torch.zeros makes float32 unless it is told otherwise, and the keys are "
            f"{keys.dtype}. Start with torch.zeros(…, dtype=keys.dtype)."
        ) from error


def _run_moved(fn, before, after):
    """Run the learner's function; where a whole tensor is asked for a truth value, name the call that gives one."""
    try:
        return fn(before, after)
    except RuntimeError as error:
        if "ambiguous" not in str(error):
            raise
        raise RuntimeError(
            f"{error}. `!=` compares number by number and leaves a tensor of truth values; torch.equal(a, b) gives one."
        ) from error


def _stream_mutant(after=False, writes=True, late=0, guess=1, keep=1):
    def surprise(keys, values, theta):
        M = torch.zeros(keys.shape[1], values.shape[1], dtype=keys.dtype)
        found, queue = [], [torch.zeros_like(M)] * late
        for k, v in zip(keys, values, strict=True):
            queue.append(M)
            M_next = keep * M + writes * theta * 2 * torch.outer(k, v - guess * (k @ M))
            asked = M_next if after else queue[-1 - late]
            found.append(((k @ asked - v) ** 2).sum())
            M = M_next
        return torch.stack(found)

    return surprise


EXERCISES = (
    Exercise(
        name="00.1",
        title="One prediction error",
        difficulty="easy",
        minutes=3,
        points=1,
        solution=prediction_error,
        cases=_errors,
        mutants={
            "no square": (
                lambda M, k, v: (k @ M - v).norm(),
                "This is the distance ‖kM − v‖. The paper squares it (eq. 12), and so no root is left.",
            ),
            "mean": (
                lambda M, k, v: ((k @ M - v) ** 2).mean(),
                "You take the mean over the components. The paper's ℓ is their sum; the mean makes θ D times weaker.",
            ),
            "half": (
                lambda M, k, v: ((k @ M - v) ** 2).sum() / 2,
                "A factor ½ too much: equation (12) has none. (It turns up in the paper's appendix, for other rules.)",
            ),
            "wrong side": (
                lambda M, k, v: ((M @ k - v) ** 2).sum(),
                "M stands on the wrong side. Vectors are rows in the paper: the memory's answer is k @ M, not M @ k.",
            ),
            "absolute": (
                lambda M, k, v: (k @ M - v).abs().sum(),
                "You sum absolute values. Square each difference instead, then sum.",
            ),
            "signed": (
                lambda M, k, v: (k @ M - v).sum(),
                "Errors of opposite sign cancel here. Square each difference before you sum.",
            ),
            "sum first": (
                lambda M, k, v: (k @ M - v).sum() ** 2,
                "You sum first and square then, so errors of opposite sign cancel. Square each difference, then sum.",
            ),
            "no matrix product": (
                lambda M, k, v: ((k * M - v) ** 2).sum(),
                "`k * M` multiplies number by number. The memory's answer is a matrix product, k @ M, a vector.",
            ),
        },
        hints=("What does the memory answer? `k @ M`, a vector.", "Subtract v, square, sum: `((…) ** 2).sum()`."),
        why="A sum over components, no ½, no root: ℓ(M; k, v) = ‖M(k) − v‖², equation (12).",
    ),
    Exercise(
        name="00.2",
        title="One write",
        difficulty="easy",
        minutes=5,
        points=1,
        solution=write_once,
        cases=_writes,
        mutants={
            "sign": (
                lambda M, k, v, theta: M - theta * 2 * torch.outer(k, v - k @ M),
                "The sign: this step goes up. With the error as v − kM it is added; with kM − v it is subtracted.",
            ),
            "factor 2": (
                lambda M, k, v, theta: M + theta * torch.outer(k, v - k @ M),
                "A factor 2 is missing: it comes down from the square, ∇ℓ = 2 kᵀ(kM − v).",
            ),
            "swapped": (
                lambda M, k, v, theta: M + theta * 2 * torch.outer(v - k @ M, k),
                "The outer product is transposed. Rows of M belong to the key: torch.outer(k, error).",
            ),
            "no prediction": (
                lambda M, k, v, theta: M + theta * 2 * torch.outer(k, v),
                "You write all of v, also what the memory knew already. Write the error v − kM only.",
            ),
            "no key": (
                lambda M, k, v, theta: M + theta * 2 * (v - k @ M),
                "Every row of M gets the same error here. Each row is moved by its own number of the key: "
                "torch.outer(k, error).",
            ),
            "number by number": (
                lambda M, k, v, theta: M + theta * 2 * k * (v - k @ M),
                "`k * error` pairs the numbers of the two and leaves a vector. Every number of the key meets every "
                "number of the error: torch.outer(k, error), a matrix.",
            ),
            "loss": (
                lambda M, k, v, theta: M - theta * ((k @ M - v) ** 2).sum(),
                "You subtract the error's size, one number, from all of M. The step goes along its gradient, "
                "2 kᵀ(kM − v), a matrix.",
            ),
            "dot product": (
                lambda M, k, v, theta: M + theta * 2 * (k @ (v - k @ M)),
                "`k @ error` is one number, and all of M gets the same. In code a vector has no rows or columns, so kᵀ "
                "times the error is torch.outer(k, error), a matrix.",
            ),
            "no step size": (
                lambda M, k, v, theta: M + 2 * torch.outer(k, v - k @ M),
                "The step size θ is missing: the change is θ times the gradient.",
            ),
            "wrong side": (
                lambda M, k, v, theta: M + theta * 2 * torch.outer(k, v - M @ k),
                "The memory's answer is k @ M, not M @ k: vectors are rows here.",
            ),
            "no memory": (
                lambda M, k, v, theta: theta * 2 * torch.outer(k, v - k @ M),
                "That is the change alone. The write adds it to M.",
            ),
        },
        hints=(
            "Write the error first: `error = v - k @ M`.",
            "∇ℓ = 2 kᵀ(kM − v) is an outer product: row i of it is k[i] times a vector.",
            "`M + theta * 2 * torch.outer(k, error)`",
        ),
        why="The error times its key, added to M: equation (8) for a memory that is a matrix.",
    ),
    Exercise(
        name="00.3",
        title="The surprise of a stream",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=surprise_of_stream,
        cases=_streams,
        mutants={
            "asked after": (
                _stream_mutant(after=True),
                "You ask after the write. By then the memory has seen the answer: that is no surprise, that is a leak.",
            ),
            "never writes": (
                _stream_mutant(writes=False),
                "Your memory never changes: every token meets M₀ = 0. Write M after each token.",
            ),
            "no prediction": (
                _stream_mutant(guess=0),
                "You write all of v, also what the memory knew already. Write the error v − kM only.",
            ),
            "starts over": (
                _stream_mutant(keep=0),
                "Each write replaces M, and everything older is gone. Add the write to M.",
            ),
            "mean": (
                lambda keys, values, theta: surprise_of_stream(keys, values, theta) / values.shape[1],
                "You take the mean over the components. Surprise is their sum.",
            ),
            "one late": (
                _stream_mutant(late=1),
                "Token t meets M_{t−2}: your memory is one token late. Put the write at the end of the loop's body.",
            ),
            "total": (
                lambda keys, values, theta: surprise_of_stream(keys, values, theta).cumsum(0),
                "Your numbers pile up: entry t is the sum over all tokens so far. Keep one number a token.",
            ),
            "factor 2": (
                lambda keys, values, theta: surprise_of_stream(keys, values, theta / 2),
                "Your writes are half as large as they should be: the factor 2 of ∇ℓ = 2 kᵀ(kM − v) is missing.",
            ),
            "default dtype": (
                lambda keys, values, theta: surprise_of_stream(keys, values, theta).float(),
                "Your numbers are right, but they came out as float32: torch.zeros and torch.tensor make that unless "
                "they are told dtype=keys.dtype. Collect the numbers as they are and end with torch.stack.",
            ),
            "default dtype throughout": (
                lambda keys, values, theta: surprise_of_stream(keys.float(), values.float(), theta),
                "You read the keys as float32, and they are float64. Keep the dtype that you are given: "
                "M starts as torch.zeros(…, dtype=keys.dtype).",
            ),
            "sign": (
                lambda keys, values, theta: surprise_of_stream(keys, values, -theta),
                "Your writes go up the gradient, so surprise grows. With the error as kM − v the write is subtracted.",
            ),
            "no square": (
                lambda keys, values, theta: surprise_of_stream(keys, values, theta).sqrt(),
                "This is the distance ‖kM − v‖. Surprise is its square: no root is left.",
            ),
        },
        hints=(
            "Start with `M = torch.zeros(keys.shape[1], values.shape[1], dtype=keys.dtype)` and a list.",
            "In the loop, three lines in this order: the error, its square into the list, the write.",
            "`torch.stack(list)` turns T numbers into a tensor (T,).",
        ),
        why="Predict, be surprised, write, in this order: token t is judged by M_{t−1}, which has not seen it.",
        tolerance=1e-9,
        run=_run_stream,
    ),
    Exercise(
        name="00.4",
        title="What moved?",
        difficulty="easy",
        minutes=4,
        points=1,
        solution=moved,
        cases=_snapshots,
        mutants={
            "stayed": (
                lambda before, after: {name for name in before if torch.equal(before[name], after[name])},
                "These are the names that stayed. Turn the condition round.",
            ),
            "every number": (
                lambda before, after: {name for name in before if (before[name] != after[name]).all()},
                "You ask that every number differs. A tensor has moved when one does: any, not all.",
            ),
            "sum": (
                lambda before, after: {
                    name for name in before if not torch.isclose(before[name].sum(), after[name].sum(), atol=1e-4)
                },
                "You compare sums. Numbers that change places keep their sum; compare the tensors themselves.",
            ),
            "identity": (
                lambda before, after: set(before),
                "You name every tensor. `is` asks whether two names mean the same object, and a copy never does; "
                "compare the numbers.",
            ),
            "memory only": (
                lambda before, after: {name for name in before if name.startswith("memory.")},
                "You go by the names. Compare the numbers: what is called memory may rest, and other things may move.",
            ),
        },
        hints=(
            "`torch.equal(a, b)` is True when all numbers agree.",
            "A set comprehension: `{name for name in before if …}`.",
        ),
        why="At test time this set holds states only: no parameter is ever in it.",
        run=_run_moved,
    ),
)
