"""Exercises of notebook 05: ask a deep memory, write a whole evening into it, two books, and what no matrix holds."""

import torch

from titans_mini.exercises import Exercise

gelu = torch.nn.functional.gelu


def ask_mlp(W1, W2, x):
    """M(x) of a two-layer memory with GELU: W1 (D, hidden), W2 (hidden, D), x (T, D) -> (T, D)."""
    return torch.nn.functional.gelu(x @ W1) @ W2


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
    return [(randn(d, h), randn(h, d), randn(t, d)) for d, h, t in ((3, 6, 4), (2, 5, 1), (4, 3, 7))]


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


EXERCISES = (
    Exercise(
        name="05.1",
        title="Ask a memory of two layers",
        difficulty="easy",
        minutes=5,
        points=1,
        solution=ask_mlp,
        cases=_ask_cases,
        mutants={
            "no σ": (
                lambda W1, W2, x: x @ W1 @ W2,
                "σ is missing. Two matrices in a row are one matrix: nothing is gained over lesson 01.",
            ),
            "σ on the answer": (
                lambda W1, W2, x: gelu(gelu(x @ W1) @ W2),
                "σ stands after the last layer as well. Answers must be free to be negative: σ only between layers.",
            ),
            "σ on the input": (
                lambda W1, W2, x: gelu(x) @ W1 @ W2,
                "σ acts on the input. The matrices then still follow each other directly; put it between them.",
            ),
            "transposed": (
                lambda W1, W2, x: gelu(x @ W2.mT) @ W1.mT,
                "The layers are in the wrong order, transposed: W₁ meets the input, x @ W1, as rows times matrix.",
            ),
            "relu": (
                lambda W1, W2, x: torch.relu(x @ W1) @ W2,
                "You used ReLU; this memory uses GELU, `torch.nn.functional.gelu`.",
            ),
            "tanh GELU": (
                lambda W1, W2, x: gelu(x @ W1, approximate="tanh") @ W2,
                "That is the approximation of GELU by a tanh. The memory uses the exact one, PyTorch's default.",
            ),
        },
        hints=(
            "Row vectors: a layer is `x @ W`, from the left to the right.",
            "h = σ(x W₁), then h W₂. Nothing after that.",
            "σ is `torch.nn.functional.gelu`.",
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
                "Everyone gets the sum over the counters: a guest of one writes into all books. Keep the b in the "
                "result.",
            ),
            "mean": (
                lambda M, k, v: surprise_each(M, k, v).mean(0).expand_as(M),
                "Everyone gets the mean over the counters: still one surprise for all books. Keep the b in the result.",
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
