"""Exercises of notebook 05: ask a deep memory, write a whole evening into it, two books, and what no matrix holds."""

import torch

from titans_mini.exercises import Exercise

gelu = torch.nn.functional.gelu


def ask_deep(layers, x):
    """M(x) with GELU between the layers: a list of L ≥ 1 matrices, the first (D, ·), the last (·, D); x (T, D)."""
    for W in layers[:-1]:
        x = torch.nn.functional.gelu(x @ W)
    return x @ layers[-1]


def deep_evening(W1, W2, keys, values, theta):
    """Write T visits into M(x) = tanh(x W1) W2: keys (T, D), values (T, E) -> both layers afterwards."""
    for k, v in zip(keys, values, strict=True):
        h = torch.tanh(k @ W1)
        delta2 = 2 * (h @ W2 - v)
        delta1 = (W2 @ delta2) * (1 - h**2)
        W1, W2 = W1 - theta * torch.outer(k, delta1), W2 - theta * torch.outer(h, delta2)
    return W1, W2


def surprise_each(M, k, v):
    """∇ of ‖kM − v‖² for each counter's own book: M (B, D, E), k (B, D), v (B, E) -> (B, D, E)."""
    error = torch.einsum("bd,bde->be", k, M) - v
    return 2 * torch.einsum("bd,be->bde", k, error)


def beyond_votes(table):
    """The right answers (names, hats) -> the mean squared error that the best matrix leaves."""
    votes = table.mean(1, keepdim=True) + table.mean(0, keepdim=True) - table.mean()
    return (table - votes).square().mean()


def _randn(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)


def _ask_cases(seed):
    randn = _randn(seed)
    sizes = ((3, 6, 3), (4, 5, 3, 4), (3, 3))
    return [([randn(i, o) for i, o in zip(s[:-1], s[1:], strict=True)], randn(5, s[0])) for s in sizes]


def _evening_cases(seed):
    randn = _randn(seed)
    sizes = ((3, 3, 3, 1), (2, 5, 4, 2), (4, 3, 1, 5))
    return [(randn(d, h), randn(h, e), randn(t, d), randn(t, e), 0.05) for d, h, e, t in sizes]


def _each_cases(seed):
    randn = _randn(seed)
    return [(randn(b, d, e), randn(b, d), randn(b, e)) for b, d, e in ((2, 3, 3), (3, 2, 5), (4, 4, 2))]


def _table_cases(seed):
    randn = _randn(seed)
    return [(randn(m, n) + 0.5,) for m, n in ((2, 2), (3, 5), (6, 4))]


def _ask(act=gelu, before=lambda x: x, after=lambda y: y, keep=0):
    """Ask with one mistake in it; `keep` times the input is added to the answer."""

    def ask_deep(layers, x):
        y = before(x)
        for W in layers[:-1]:
            y = act(y @ W)
        return after(y @ layers[-1]) + keep * x

    return ask_deep


def _evening(slope=lambda z, h: 1 - h**2, factor=2.0, layers=(1, 1), order="together"):
    """Write an evening with one mistake in it."""

    def deep_evening(W1, W2, keys, values, theta):
        for k, v in zip(keys, values, strict=True):
            z = k @ W1
            h = torch.tanh(z)
            delta2 = factor * (h @ W2 - v)
            W2_next = W2 - theta * torch.outer(h, delta2) * layers[1]
            carrier = W2_next if order == "second first" else W2
            delta1 = (carrier @ delta2) * slope(z, h)
            W1 = W1 - theta * torch.outer(k, delta1) * layers[0]
            if order == "first first":
                h = torch.tanh(k @ W1)
                W2_next = W2 - theta * torch.outer(h, factor * (h @ W2 - v)) * layers[1]
            W2 = W2_next
        return W1, W2

    return deep_evening


def _tanh_answer(W1, W2, keys, values, theta):
    """Write an evening into tanh(tanh(x W1) W2)."""
    for k, v in zip(keys, values, strict=True):
        h = torch.tanh(k @ W1)
        y = torch.tanh(h @ W2)
        delta2 = 2 * (y - v) * (1 - y**2)
        delta1 = (W2 @ delta2) * (1 - h**2)
        W1, W2 = W1 - theta * torch.outer(k, delta1), W2 - theta * torch.outer(h, delta2)
    return W1, W2


def _old_layers(W1, W2, keys, values, theta):
    """Measure every visit at the layers of the evening's start."""
    ends = [deep_evening(W1, W2, k[None], v[None], theta) for k, v in zip(keys, values, strict=True)]
    return tuple(W + sum(end[i] - W for end in ends) for i, W in enumerate((W1, W2)))


def _asked_again(W1, W2, keys, values, theta):
    """Write the second layer, ask again, and write the first."""
    for k, v in zip(keys, values, strict=True):
        h = torch.tanh(k @ W1)
        W2 = W2 - theta * torch.outer(h, 2 * (h @ W2 - v))
        W1 = W1 - theta * torch.outer(k, (W2 @ (2 * (h @ W2 - v))) * (1 - h**2))
    return W1, W2


def _best_product(table):
    """Take the best product of a number per name and a number per hat off, not the best sum."""
    U, S, Vh = torch.linalg.svd(table, full_matrices=False)
    return (table - S[0] * torch.outer(U[:, 0], Vh[0])).square().mean()


def _rest(table):
    return table - table.mean(1, keepdim=True) - table.mean(0, keepdim=True) + table.mean()


EXERCISES = (
    Exercise(
        name="05.1",
        title="Ask a deep memory",
        difficulty="easy",
        minutes=5,
        points=1,
        solution=ask_deep,
        cases=_ask_cases,
        mutants={
            "no σ": (
                _ask(act=lambda z: z),
                "σ is missing. Matrices in a row are one matrix: nothing is gained over lesson 01.",
            ),
            "σ on the answer": (
                _ask(after=gelu),
                "σ stands after the last layer as well. Answers must be free to be negative: σ only between layers.",
            ),
            "σ on the answer alone": (
                _ask(act=lambda z: z, after=gelu),
                "σ stands after the last layer alone, so that the layers still follow each other directly. It belongs "
                "between them.",
            ),
            "σ on the input": (
                _ask(before=gelu),
                "σ acts on the input too. A key goes into the first layer as it is; σ stands between layers.",
            ),
            "σ on the input alone": (
                _ask(act=lambda z: z, before=gelu),
                "σ acts on the input. The matrices then still follow each other directly; put it between them.",
            ),
            "added to the input": (
                _ask(keep=1),
                "You added the input to the answer. That is the residual of section 4; this memory has none.",
            ),
            "relu": (
                _ask(act=torch.relu),
                "You used ReLU; this memory uses GELU, `torch.nn.functional.gelu`.",
            ),
            "silu": (
                _ask(act=torch.nn.functional.silu),
                "You used SiLU; this memory uses GELU, `torch.nn.functional.gelu`.",
            ),
            "tanh": (
                _ask(act=torch.tanh),
                "You used tanh; this memory uses GELU, `torch.nn.functional.gelu`.",
            ),
            "tanh GELU": (
                _ask(act=lambda z: gelu(z, approximate="tanh")),
                "That is the approximation of GELU by a tanh. The memory uses the exact one, PyTorch's default.",
            ),
        },
        hints=(
            "Row vectors: a layer is `x @ W`, and the list is read from the left to the right.",
            "σ stands between two layers. With L layers there are L − 1 such places, and with one layer none.",
            "Loop over `layers[:-1]` with σ after each, and end with `x @ layers[-1]`.",
        ),
        why="One crease between two matrices is all that separates a deep memory from a matrix.",
    ),
    Exercise(
        name="05.2",
        title="Write a whole evening, without autograd",
        difficulty="hard",
        minutes=20,
        points=4,
        solution=deep_evening,
        cases=_evening_cases,
        mutants={
            "no slope": (
                _evening(lambda z, h: torch.ones_like(h)),
                "σ′ is missing: the blame must pass back through the tanh, δ₁ = (δ₂W₂ᵀ) ∘ σ′.",
            ),
            "factor 2": (
                _evening(factor=1.0),
                "A factor 2 is missing: ℓ is a square without ½, so δ₂ = 2 (hW₂ − v).",
            ),
            "z² for h²": (
                _evening(lambda z, h: 1 - z**2),
                "You wrote 1 − z² with z = k W₁, before the tanh. The slope of tanh is 1 − tanh(z)²: square the number "
                "after the activation, h.",
            ),
            "slope of h": (
                _evening(lambda z, h: 1 - torch.tanh(h) ** 2),
                "tanh is applied twice: σ′ is taken at h, after the activation. Its place is z = k W₁; written with h "
                "it is 1 − h².",
            ),
            "σ for σ′": (
                _evening(lambda z, h: h),
                "You multiplied by σ(z) where its slope belongs: σ′ = 1 − tanh².",
            ),
            "second layer first": (
                _evening(order="second first"),
                "W₂ was written before the blame went back through it. Both gradients belong to the same visit, so "
                "both are taken at the old layers.",
            ),
            "first layer first": (
                _evening(order="first first"),
                "W₁ was written, and then the memory was asked again for W₂. Ask once: both gradients are taken at "
                "the old layers.",
            ),
            "second first, asked again": (
                _asked_again,
                "W₂ was written, and then the memory was asked again for W₁. Ask once: both gradients are taken at "
                "the old layers.",
            ),
            "uphill": (
                _evening(factor=-2.0),
                "You stepped along the surprise, and the loss grows. The memory steps against it: W − θ∇ℓ.",
            ),
            "tanh of the answer": (
                _tanh_answer,
                "You put a tanh on the answer too. It stands between the layers only; the answer is h W₂ as it is.",
            ),
            "the layers of the start": (
                _old_layers,
                "Every visit is measured at the layers of the evening's start. Each write must be seen by the next "
                "visit: ask with the new layers.",
            ),
            "one visit": (
                lambda W1, W2, keys, values, theta: deep_evening(W1, W2, keys[:1], values[:1], theta),
                "Only the first visit was written. Does your `return` stand inside the loop?",
            ),
            "no θ": (
                lambda W1, W2, keys, values, theta: deep_evening(W1, W2, keys, values, 1.0),
                "θ is missing: both stamps are printed at full strength.",
            ),
            "only the first layer": (
                _evening(layers=(1, 0)),
                "W₂ stayed as it was. A write changes every layer.",
            ),
            "only the second layer": (
                _evening(layers=(0, 1)),
                "W₁ stayed as it was, so the features never move. A write changes every layer.",
            ),
        },
        hints=(
            "Step 1, ask: h = tanh(k W₁). Step 2, the blame of the answer: δ₂ = 2 (h W₂ − v).",
            "Step 3, carry it back through the layer as it is before the write: δ₁ = (W₂ δ₂) ∘ (1 − h²).",
            "Step 4, two stamps: outer(k, δ₁) for W₁ and outer(h, δ₂) for W₂, each times θ. Step 5: the next visit.",
        ),
        why="What came in times what is to blame, in every layer, and all of it taken before anything is written.",
        tolerance=1e-9,
    ),
    Exercise(
        name="05.3",
        title="Mend the two counters",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=surprise_each,
        cases=_each_cases,
        mutants={
            "sum": (
                lambda M, k, v: surprise_each(M, k, v).sum(0).expand_as(M),
                "The pace is right now, but every book gets the sum over all counters: a guest of one still writes "
                "into all of them. Which letter is missing in the result?",
            ),
            "mean": (
                lambda M, k, v: surprise_each(M, k, v).mean(0).expand_as(M),
                "Both symptoms are still there: all books receive one and the same surprise, and with B counters it is "
                "each guest's, divided by B.",
            ),
            "divided by B": (
                lambda M, k, v: surprise_each(M, k, v) / len(k),
                "The books are apart now, but each write is B times too small: a loss averaged over the counters. A "
                "book must not feel how many counters are open.",
            ),
            "factor 2": (
                lambda M, k, v: surprise_each(M, k, v) / 2,
                "A factor 2 is missing: ℓ is a square without ½.",
            ),
            "everybody's error": (
                lambda M, k, v: 2 * k[:, :, None] * (torch.einsum("bd,bde->be", k, M) - v).sum(0),
                "Each key meets everybody's error: a letter that stands in only one of the two factors is summed over "
                "as well.",
            ),
            "first memory": (
                lambda M, k, v: surprise_each(M[:1].expand_as(M), k, v),
                "All errors are measured with the first counter's book; each has its own M[b].",
            ),
        },
        hints=(
            "Which letters does the second einsum leave out of its result, and what does it do with such a letter?",
            "A letter that is missing on the right is summed over: `bd,be->bde` keeps the counters apart.",
            "And a book must not feel how many counters are open: what does the division do?",
        ),
        why="A batch axis on the weights: nobody's memory depends on who else is there.",
    ),
    Exercise(
        name="05.4",
        title="What no matrix can hold",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=beyond_votes,
        cases=_table_cases,
        mutants={
            "silence": (
                lambda t: t.square().mean(),
                "That is the loss of a book that says nothing. The votes of names and hats explain a part of it.",
            ),
            "one number": (
                lambda t: (t - t.mean()).square().mean(),
                "You let the book say the same to everybody. Names and hats have votes of their own.",
            ),
            "names alone": (
                lambda t: (t - t.mean(1, keepdim=True)).square().mean(),
                "Only the names vote. What a name cannot say, its hat may: take the hats' votes off as well.",
            ),
            "hats alone": (
                lambda t: (t - t.mean(0, keepdim=True)).square().mean(),
                "Only the hats vote. Take the names' votes off as well.",
            ),
            "mean counted twice": (
                lambda t: (t - t.mean(1, keepdim=True) - t.mean(0, keepdim=True)).square().mean(),
                "The mean of the whole table is in the names' votes and in the hats' votes, so you took it off twice: "
                "add it back once.",
            ),
            "halved votes": (
                lambda t: (t - (t.mean(1, keepdim=True) + t.mean(0, keepdim=True)) / 2).square().mean(),
                "You took the average of the two votes. The book adds them up, and counts the mean of the table once.",
            ),
            "best product": (
                _best_product,
                "You took off the best table of rank one, a product of a number per name and a number per hat. Votes "
                "are added, not multiplied.",
            ),
            "unbiased": (
                lambda t: _rest(t).var(),
                "`var` divides by one less than the number of guests. The mean of the squares is asked for.",
            ),
            "variance": (
                lambda t: t.var(),
                "That is the variance of the whole table. Take off first what the votes of names and hats explain.",
            ),
            "absolute": (
                lambda t: _rest(t).abs().mean(),
                "The loss is a square, not an absolute value.",
            ),
            "sum": (
                lambda t: beyond_votes(t) * t.numel(),
                "That is the sum over all guests; the mean is asked for.",
            ),
            "root": (
                lambda t: beyond_votes(t).sqrt(),
                "The loss is a square: no root.",
            ),
        },
        hints=(
            "The best vote of a name is the mean of its row. What is left in the table after all rows have voted?",
            "Then the hats: the mean of each column of what is left. Take it off too.",
            "Square what now remains, and take the mean.",
        ),
        why="Rows and columns can vote; the rest of the table lies in pairs, and for a matrix it does not exist.",
        tolerance=1e-9,
    ),
)
