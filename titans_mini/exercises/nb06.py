"""Exercises of notebook 06: which loop, a torn sentence, store then ask, a layer from its parts, who loses her coat."""

import torch
import torch.nn.functional as F

from titans_mini.exercises import Exercise
from titans_mini.exercises.cloakroom import NEWCOMERS, moved_coats, serve
from titans_mini.exercises.compare import Comparison


def which_loop(name):
    """The name of a thing -> "outer" (trained), "inner" (written) or "computed" (made afresh for every token)."""
    outer = {"W_K", "W_V", "W_Q", "gate weights", "M_0"}
    inner = {"M_t", "S_t"}
    return "outer" if name in outer else "inner" if name in inner else "computed"


def word_by_word(x, weight):
    """Convolve x (B, T, C) with weight (C, J), one word per call, as if it came in one piece: (B, T, C)."""
    past, y = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2]), []
    for word in x.split(1, dim=1):
        seen = torch.cat([past, word], 1)  # (B, J, C), the newest word last
        y.append((seen * weight.T).sum(1, keepdim=True))
        past = seen[:, 1:]
    return torch.cat(y, 1)


def store_then_ask(x, W_K, W_V, W_Q, theta, target):
    """Two tokens x (2, D), an empty memory: write the first, ask with the second; the outer loss -> a number."""
    k, v, q = x[0] @ W_K, x[0] @ W_V, x[1] @ W_Q
    M_0 = torch.zeros(len(k), len(v), dtype=x.dtype)
    M_1 = M_0 - theta * 2 * torch.outer(k, k @ M_0 - v)
    return (q @ M_1 - target).square().sum()


def small_layer(x, W_Q, W_K, W_V, W_gates, b_gates, M_0):
    """Read words x (T, dim) with the gates (α, η, θ): the answers (T, E) and the last memory (D, E)."""
    q, k = (F.normalize(x @ W, dim=-1) for W in (W_Q, W_K))
    v = x @ W_V
    alpha, eta, theta = torch.sigmoid(x @ W_gates + b_gates).unbind(-1)
    M, S, y = M_0, torch.zeros_like(M_0), []
    for t in range(len(x)):
        S = eta[t] * S - theta[t] * 2 * torch.outer(k[t], k[t] @ M - v[t])
        M = (1 - alpha[t]) * M + S
        y.append(q[t] @ M)
    return torch.stack(y), M


def served_by_place(evening, W_K, theta):
    """Share of guests served, by the place of their last visit in the second round, first to last: (P,)."""
    right = serve(evening, W_K, theta).argmax(-1) == evening.answers  # (B, P)
    P = right.shape[1]
    place = (evening.answers[:, :, None] == evening.hooks[:, None, P:]).float().argmax(-1)  # (B, P)
    return torch.stack([right[place == j].float().mean() for j in range(P)])


def _loop_cases(seed):
    names = ("W_K", "W_V", "W_Q", "gate weights", "M_0", "M_t", "S_t", "k_t", "q_t", "alpha_t", "theta_t", "y_t")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    return [(names[i],) for i in order.tolist()]


LOOP_WORDS = {
    "outer": "the optimizer changes it in training, and no evening does.",
    "inner": "the next token needs its present value, so it is carried on; it is part of the state.",
    "computed": "it is made for one token, used and dropped, and neither an optimizer nor a state carries it on.",
}


def _sorted_name(fn, name):
    """Run `which_loop` on one name: {name: its answer}, or the stub's nothing as it is."""
    answer = fn(name)
    return answer if answer is None or answer is ... else {name: answer}


def _same_loop(got, expected, tolerance):
    """Compare one name's answer, and say why the right one is right."""
    if got == expected:
        return Comparison(0.0, None)
    ((name, loop),) = expected.items()
    said = got[name] if isinstance(got, dict) and name in got else got
    if said not in LOOP_WORDS:
        words = ", ".join(map(repr, LOOP_WORDS))
        return Comparison(float("inf"), f"for {name} got {said!r}, expected one of {words}.")
    return Comparison(0.0, f"{name} is not {said!r}: {LOOP_WORDS[loop]}")


def _moved(**other):
    """A mutant of `which_loop` that puts some names elsewhere."""
    return lambda name: other.get(name, which_loop(name))


def _word_cases(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = ((1, 5, 3, 2), (2, 7, 4, 4), (2, 3, 2, 3))
    return [
        (torch.randn(b, t, c, generator=g, dtype=torch.float64), torch.randn(c, j, generator=g, dtype=torch.float64))
        for b, t, c, j in shapes
    ]


def _torn(keep):
    """A mutant of `word_by_word`: `keep(seen, word's output)` is handed to the next call."""

    def mutant(x, weight):
        past, y = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2]), []
        for word in x.split(1, dim=1):
            seen = torch.cat([past, word], 1)
            y.append((seen * weight.T).sum(1, keepdim=True))
            past = keep(seen, y[-1])
        return torch.cat(y, 1)

    return mutant


def _store_cases(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for i, (d, e) in enumerate(((3, 3), (4, 2), (2, 5))):
        shapes = ((2, d), (d, d), (d, e), (d, d))
        x, W_K, W_V, W_Q = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)
        cases.append((x, W_K, W_V, W_Q, 0.2 + 0.1 * i, torch.randn(e, generator=g, dtype=torch.float64)))
    return cases


def _stored(swap=False, ask="W_Q", last=0, mean=False, two=2, half=1.0, unit=False):
    """A mutant of `store_then_ask`: another question, another loss, another size of the write or of the keys."""

    def mutant(x, W_K, W_V, W_Q, theta, target):
        k, v = x[0] @ W_K, x[0] @ W_V
        q = x[1 - last] @ {"W_Q": W_Q, "W_K": W_K}[ask]
        k, q = (F.normalize(z, dim=-1) for z in (k, q)) if unit else (k, q)
        M_1 = torch.zeros(len(k), len(v), dtype=x.dtype) if swap else two * theta * torch.outer(k, v)
        wrong = (q @ M_1 - target).square()
        return wrong.mean() if mean else half * wrong.sum()

    return mutant


def _layer_cases(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for T, dim, D, E in ((6, 4, 3, 3), (9, 5, 4, 2), (4, 3, 2, 5)):
        shapes = ((T, dim), (dim, D), (dim, D), (dim, E), (dim, 3), (3,), (D, E))
        cases.append(tuple(torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes))
    return cases


def _layer(unit_k=True, unit_q=True, start=True, read="after", order=(0, 1, 2), decay="memory", two=2.0, **off):
    """A mutant of `small_layer`; `unit_v`, `plain` and `keep` say that v has length 1, η is left out, α is turned."""

    def mutant(x, W_Q, W_K, W_V, W_gates, b_gates, M_0):
        q, k, v = x @ W_Q, x @ W_K, x @ W_V
        k, q = F.normalize(k, dim=-1) if unit_k else k, F.normalize(q, dim=-1) if unit_q else q
        v = F.normalize(v, dim=-1) if off.get("unit_v") else v
        gates = torch.sigmoid(x @ W_gates + b_gates).unbind(-1)
        alpha, eta, theta = (gates[i] for i in order)
        eta = 0 * eta if off.get("plain") else eta
        alpha = 1 - alpha if off.get("keep") else alpha
        M, y = M_0 if start else torch.zeros_like(M_0), []
        S = torch.zeros_like(M)
        for t in range(len(x)):
            before = q[t] @ M
            S = eta[t] * S - theta[t] * two * torch.outer(k[t], k[t] @ M - v[t])
            M = (1 - alpha[t]) * M + S if decay == "memory" else (1 - alpha[t]) * (M + S)
            y.append(before if read == "before" else q[t] @ M)
        return torch.stack(y), M

    return mutant


def _place_cases(seed):
    g = torch.Generator().manual_seed(seed)
    W_K = torch.eye(26) + 0.3 * torch.randn(26, 26, generator=g)
    return [(moved_coats(200, NEWCOMERS, P, generator=g), W_K, theta) for P, theta in ((6, 0.3), (8, 0.15))]


def _placed(first=False, back=False, asked=False, letters=False):
    """A mutant of `served_by_place`."""

    def mutant(evening, W_K, theta):
        W_K = torch.eye(26) if letters else W_K
        right = serve(evening, W_K, theta).argmax(-1) == evening.answers
        P = right.shape[1]
        if asked:
            return right.float().mean(0)
        said = evening.asked if first else None
        visits = evening.visits[:, :P]
        place = (evening.answers[:, :, None] == evening.hooks[:, None, P:]).float().argmax(-1)
        place = (said @ visits.mT).argmax(-1) if first else place
        shares = torch.stack([right[place == j].float().mean() for j in range(P)])
        return shares.flip(0) if back else shares

    return mutant


EXERCISES = (
    Exercise(
        name="06.1",
        title="Which loop?",
        difficulty="easy",
        minutes=4,
        points=1,
        solution=which_loop,
        cases=_loop_cases,
        run=_sorted_name,
        compare=_same_loop,
        mutants={
            "M_0 written": (
                _moved(M_0="inner"),
                "M_0 is where every evening starts, and it is the same every evening: a trained parameter. What is "
                "written is M_t.",
            ),
            "gates trained": (
                _moved(alpha_t="outer", theta_t="outer"),
                "α_t and θ_t differ from token to token: they are computed. Trained are the gate weights that "
                "compute them.",
            ),
            "keys written": (
                _moved(k_t="inner", q_t="inner"),
                "k_t and q_t are not carried to the next token: they are computed from the token, used, and dropped.",
            ),
            "key written": (
                _moved(k_t="inner"),
                "k_t is computed, as q_t is. The write uses it, but what is written, and carried on, is M_t.",
            ),
            "answer written": (
                _moved(y_t="inner"),
                "y_t is read from the memory, not written into it: it is computed, and the next token does not need "
                "it.",
            ),
            "all with t written": (
                _moved(k_t="inner", q_t="inner", alpha_t="inner", theta_t="inner", y_t="inner"),
                "An index t does not make a state. Only M_t and S_t are carried to the next token; the others are "
                "computed from one token and dropped.",
            ),
            "momentum computed": (
                _moved(S_t="computed"),
                "S_t needs S_{t−1}: it is carried from token to token, as M_t is. Both are the state.",
            ),
            "memory computed": (
                _moved(M_t="computed", S_t="computed"),
                "You have nothing in the inner loop. M_t and S_t are carried from token to token: they are written.",
            ),
        },
        hints=(
            "Ask of each name: does the optimizer change it? Does the next token need its present value?",
            "The optimizer changes the projections, the weights of the gates, and the start M_0.",
            "Carried on are M_t and S_t. Everything else with an index t is computed and dropped.",
        ),
        why="Parameters outlive the evening, the state lives for one evening, and the rest lives for one token.",
    ),
    Exercise(
        name="06.2",
        title="Mend: the torn sentence",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=word_by_word,
        cases=_word_cases,
        mutants={
            "forgets": (
                _torn(lambda seen, y: torch.zeros_like(seen[:, 1:])),
                "Every call still starts without a past, so no word knows the word before it. Hand the last J − 1 "
                "inputs on to the next call.",
            ),
            "hands on the output": (
                _torn(lambda seen, y: torch.cat([seen[:, 1:-1], y], 1)),
                "You hand on the output of the convolution. The next call needs its inputs: the words themselves.",
            ),
            "turned round": (
                _torn(lambda seen, y: seen[:, 1:].flip(1)),
                "The past is turned round: the newest word stands last, as it was heard.",
            ),
            "one word only": (
                _torn(lambda seen, y: torch.cat([torch.zeros_like(seen[:, 2:]), seen[:, -1:]], 1)),
                "You hand on one word. That is enough for J = 2; a convolution of width J looks back J − 1 words.",
            ),
        },
        hints=(
            "What does she know at the word “4” when it comes alone? What did she know when the sentence came whole?",
            "The past of a call is the last J − 1 words of what the call before it saw.",
            "Make the zeros once, before the loop, and end the loop with past = seen[:, 1:].",
        ),
        why="A convolution has a memory of J − 1 words. It is state, and belongs beside M and S.",
    ),
    Exercise(
        name="06.3",
        title="Store, then ask",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=store_then_ask,
        cases=_store_cases,
        mutants={
            "reads first": (
                _stored(swap=True),
                "You ask the empty memory M_0. Write the first token, then ask M_1.",
            ),
            "factor 2": (_stored(two=1), "A factor 2 is missing in the write: ℓ is a square without ½."),
            "asks with the key": (
                _stored(ask="W_K"),
                "You ask with W_K. The question has a projection of its own: q = x[1] @ W_Q.",
            ),
            "asks the first token": (
                _stored(last=1),
                "You ask with the token that was stored, x[0]. The second token asks.",
            ),
            "mean": (_stored(mean=True), "Your loss is a mean. ℓ sums over the components."),
            "half": (_stored(half=0.5), "Your loss has a factor ½. ℓ is the sum of the squares, with no ½."),
            "sign": (_stored(two=-2), "The sign: your write goes up the gradient. M_1 = M_0 − θ∇ℓ."),
            "length 1": (
                _stored(unit=True),
                "You made the key and the question of length 1. The layer does so; here they are x @ W as they come.",
            ),
        },
        hints=(
            "k = x[0] @ W_K and v = x[0] @ W_V are written; q = x[1] @ W_Q asks.",
            "M_0 is zero, so the write is M_1 = 2θ outer(k, v).",
            "The loss is (q @ M_1 − target).square().sum().",
        ),
        why="This scalar is all the outer loop sees, and all three projections and θ are in it.",
    ),
    Exercise(
        name="06.4",
        title="Build: a layer from its parts",
        difficulty="hard",
        minutes=15,
        points=3,
        solution=small_layer,
        cases=_layer_cases,
        mutants={
            "reads before": (
                _layer(read="before"),
                "You ask before you write. Here y_t = q_t M_t, after the write of t.",
            ),
            "keys too long": (_layer(unit_k=False), "Your keys do not have length 1: normalise x @ W_K."),
            "questions too long": (_layer(unit_q=False), "Your questions do not have length 1: normalise x @ W_Q too."),
            "empty start": (_layer(start=False), "You start from an empty book. The evening begins with M_0."),
            "gates turned": (_layer(order=(2, 1, 0)), "Your α and θ have changed places: the columns are α, η, θ."),
            "decays the write": (
                _layer(decay="both"),
                "You let α fade the new write as well: M_t = (1 − α_t) M_{t−1} + S_t, and S_t arrives whole.",
            ),
            "factor 2": (_layer(two=1.0), "A factor 2 is missing: ℓ is a square without ½."),
            "values of length 1": (
                _layer(unit_v=True),
                "Your values have length 1. Only keys and questions are normalised; a value keeps its size.",
            ),
            "no momentum": (_layer(plain=True), "η is missing: S_t = η_t S_{t−1} minus the push, carried on."),
            "alpha keeps": (
                _layer(keep=True),
                "You keep α_t of the memory. α says how much is forgotten: keep 1 − α_t.",
            ),
        },
        hints=(
            "Three products give q, k and v; normalise two of them along the last dimension.",
            "One product, one bias, one sigmoid: torch.sigmoid(x @ W_gates + b_gates).unbind(-1) are α, η and θ.",
            "Then the loop of lesson 03: S from the surprise at M_{t−1}, M = (1 − α) M + S, and y_t = q_t @ M.",
        ),
        why="The layer without convolution and output: W and b are the outer loop's, M and S the inner one's.",
    ),
    Exercise(
        name="06.5",
        title="Experiment: who loses her coat?",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=served_by_place,
        cases=_place_cases,
        mutants={
            "first visit": (
                _placed(first=True),
                "You counted the place of the first visit. Her coat was moved: the second visit decides.",
            ),
            "order of asking": (
                _placed(asked=True),
                "You sorted by the order of asking. Sort by the place of the last visit among the last P hooks.",
            ),
            "turned round": (_placed(back=True), "Your list runs from last to first; the earliest visit comes first."),
            "letters": (_placed(letters=True), "You asked a book whose keys are bare letters: pass W_K on to serve."),
        },
        hints=(
            "serve(evening, W_K, theta).argmax(-1) == evening.answers tells who is served: (B, P).",
            "On which of the last P visits was a guest's final hook named? Compare answers with hooks[:, P:].",
            "place = (evening.answers[:, :, None] == evening.hooks[:, None, P:]).float().argmax(-1); a mean per j.",
        ),
        why="A late write is never overwritten. The earlier she came, the more writes with similar keys came after.",
    ),
)
