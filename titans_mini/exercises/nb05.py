"""Exercises of notebook 05: ask a deep memory, its first layer's gradient, one gradient a sequence, and the bytes."""

import torch

from titans_mini.exercises import Exercise


def ask_mlp(W1, W2, x):
    """M(x) of a two-layer memory with GELU: W1 (D, hidden), W2 (hidden, D), x (T, D) -> (T, D)."""
    return torch.nn.functional.gelu(x @ W1) @ W2


def first_layer(W1, W2, k, v):
    """∇ of ‖tanh(k W1) W2 − v‖² for W1: W1 (D, hidden), W2 (hidden, E), k (D,), v (E,) -> (D, hidden)."""
    h = torch.tanh(k @ W1)
    delta2 = 2 * (h @ W2 - v)
    delta1 = (W2 @ delta2) * (1 - h**2)
    return torch.outer(k, delta1)


def surprise_each(M, k, v):
    """∇ of ‖kM − v‖² for every sequence: M (B, D, E), k (B, D), v (B, E) -> (B, D, E)."""
    error = (k[:, None, :] @ M)[:, 0] - v
    return 2 * k[:, :, None] * error[:, None, :]


def state_bytes(dim, depth, expansion, batch, heads):
    """Bytes of a float32 MemoryState: weights, momentum and anchor of every memory -> a whole number."""
    sizes = [dim, *[expansion * dim] * (depth - 1), dim]
    P = sum(i * o for i, o in zip(sizes[:-1], sizes[1:], strict=True))
    return 3 * P * 4 * batch * heads


def _randn(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)


def _ask_cases(seed):
    randn = _randn(seed)
    return [(randn(d, h), randn(h, d), randn(t, d)) for d, h, t in ((3, 6, 4), (2, 5, 1), (4, 3, 7))]


def _first_layer_cases(seed):
    randn = _randn(seed)
    return [(randn(d, h), randn(h, e), randn(d), randn(e)) for d, h, e in ((3, 3, 3), (2, 5, 4), (4, 3, 1))]


def _each_cases(seed):
    randn = _randn(seed)
    return [(randn(b, d, e), randn(b, d), randn(b, e)) for b, d, e in ((2, 3, 3), (3, 2, 5), (4, 4, 2))]


def _bytes_cases(seed):
    return [(4 + seed % 5, 1, 4, 2, 3), (8, 2, 4, 3, 1), (3, 3, 2, 2, 5), (5, 4, 3, 7, 2)]


def _delta1(W1, W2, k, v, slope, factor=2):
    return torch.outer(k, (W2 @ (factor * (torch.tanh(k @ W1) @ W2 - v))) * slope(k @ W1))


def _slope(z):
    return 1 - torch.tanh(z) ** 2


def _weights(dim, depth, expansion):
    sizes = [dim, *[expansion * dim] * (depth - 1), dim]
    return sum(i * o for i, o in zip(sizes[:-1], sizes[1:], strict=True))


gelu = torch.nn.functional.gelu

EXERCISES = (
    Exercise(
        name="05.1",
        title="Ask a memory of two layers",
        difficulty="easy",
        minutes=3,
        points=1,
        solution=ask_mlp,
        cases=_ask_cases,
        mutants={
            "no σ": (
                lambda W1, W2, x: x @ W1 @ W2,
                "σ is missing. Two matrices in a row are one matrix: nothing is gained over notebook 01.",
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
        },
        hints=(
            "Row vectors: a layer is `x @ W`, from the left to the right.",
            "h = σ(x W₁), then h W₂. Nothing after that.",
            "σ is `torch.nn.functional.gelu`.",
        ),
        why="One bend between two matrices is all that separates a deep memory from a matrix.",
    ),
    Exercise(
        name="05.2",
        title="The first layer's gradient",
        difficulty="hard",
        minutes=15,
        points=3,
        solution=first_layer,
        cases=_first_layer_cases,
        mutants={
            "no slope": (
                lambda W1, W2, k, v: _delta1(W1, W2, k, v, torch.ones_like),
                "σ′ is missing: the error must pass back through the tanh, δ₁ = (δ₂W₂ᵀ) ∘ σ′.",
            ),
            "factor 2": (
                lambda W1, W2, k, v: _delta1(W1, W2, k, v, _slope, factor=1),
                "A factor 2 is missing: ℓ is a square without ½.",
            ),
            "slope of h": (
                lambda W1, W2, k, v: _delta1(W1, W2, k, v, lambda z: _slope(torch.tanh(z))),
                "σ′ is taken at h, after the tanh. Its place is z = k W₁; in terms of h it is 1 − h².",
            ),
            "σ for σ′": (
                lambda W1, W2, k, v: _delta1(W1, W2, k, v, torch.tanh),
                "You multiplied by σ(z) where its slope belongs: σ′ = 1 − tanh².",
            ),
            "transposed": (
                lambda W1, W2, k, v: _delta1(W1, W2, k, v, _slope).mT,
                "Transposed: the gradient has W₁'s shape (D, hidden), so it is the outer product of k and δ₁.",
            ),
        },
        hints=(
            "Forward first: h = tanh(k W₁). Then the error at the output, δ₂ = 2 (h W₂ − v).",
            "Carry it back: δ₁ = (W₂ δ₂) ∘ σ′, and for a tanh σ′ = 1 − h².",
            "The gradient is `torch.outer(k, delta1)`.",
        ),
        why="What came in times the error that came back: rank one, in every layer.",
    ),
    Exercise(
        name="05.3",
        title="One memory per sequence",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=surprise_each,
        cases=_each_cases,
        mutants={
            "sum": (
                lambda M, k, v: surprise_each(M, k, v).sum(0).expand_as(M),
                "Everyone gets the sum over the batch: the memories are shared, and readers write into each other.",
            ),
            "mean": (
                lambda M, k, v: surprise_each(M, k, v).mean(0).expand_as(M),
                "Everyone gets the mean over the batch: still one surprise for all. Keep the batch axis.",
            ),
            "divided by B": (
                lambda M, k, v: surprise_each(M, k, v) / len(k),
                "Each is B times too small: a loss averaged over the batch. A memory must not feel how many run.",
            ),
            "factor 2": (
                lambda M, k, v: surprise_each(M, k, v) / 2,
                "A factor 2 is missing: ℓ is a square without ½.",
            ),
            "first memory": (
                lambda M, k, v: surprise_each(M[:1].expand_as(M), k, v),
                "All errors are measured with the first sequence's memory; each has its own M[b].",
            ),
        },
        hints=(
            "The errors first: one row times one matrix for each b. `torch.einsum('bd,bde->be', k, M)` does it.",
            "Then an outer product for each b: `k[:, :, None] * error[:, None, :]`.",
            "And the 2 of the square. No sum, no mean over b.",
        ),
        why="A batch axis on the weights: nobody's memory depends on who else is there.",
    ),
    Exercise(
        name="05.4",
        title="The bytes of a state",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=state_bytes,
        cases=_bytes_cases,
        mutants={
            "weights only": (
                lambda d, L, x, b, h: _weights(d, L, x) * 4 * b * h,
                "You counted the weights alone. The momentum and the anchor have the same shapes: three times as much.",
            ),
            "no anchor": (
                lambda d, L, x, b, h: 2 * _weights(d, L, x) * 4 * b * h,
                "Weights and momentum are there; the anchor of the chunk, a third copy, is missing.",
            ),
            "square layers": (
                lambda d, L, x, b, h: 3 * L * d * d * 4 * b * h,
                "You counted D² for each layer. Hidden layers are expansion·D wide.",
            ),
            "hidden layers D wide at one end": (
                lambda d, L, x, b, h: 3 * (d * d if L == 1 else L * x * d * d) * 4 * b * h,
                "Layers between two hidden ones are (expansion·D)², not expansion·D².",
            ),
            "shared": (
                lambda d, L, x, b, h: 3 * _weights(d, L, x) * 4 * h,
                "The batch is missing: every sequence has a memory of its own.",
            ),
            "numbers": (
                lambda d, L, x, b, h: 3 * _weights(d, L, x) * b * h,
                "That counts numbers. A float32 has 4 bytes.",
            ),
        },
        hints=(
            "Widths: D, then expansion·D for each hidden layer (there are depth − 1), then D.",
            "P is the sum of in·out over the layers. A matrix has P = D².",
            "Times 3 (weights, momentum, anchor), times 4 bytes, times B·H.",
        ),
        why="The state does not grow with the stream, but it grows with every reader.",
    ),
)
