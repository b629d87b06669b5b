"""Exercises of notebook 06: what belongs to which loop, the gradient of a write, store then ask, and a cut."""

import torch

from titans_mini.exercises import Exercise
from titans_mini.memory.layer import NeuralMemory


def through_the_write(M, k, v, theta, q, target):
    """Write (k, v) into M (D, E), then ask q: the loss, and its gradients for k (D,), v (E,) and theta ()."""
    k, v, theta = (x.detach().requires_grad_() for x in (k, v, theta))
    M_next = M - theta * 2 * torch.outer(k, k @ M - v)
    loss = (q @ M_next - target).square().sum()
    return loss, torch.autograd.grad(loss, (k, v, theta), materialize_grads=True)


def which_loop(name):
    """The name of a thing -> "outer" (trained), "inner" (written) or "computed" (made afresh for every token)."""
    outer = {"W_K", "W_V", "W_Q", "gate weights", "M_0"}
    inner = {"M_t", "S_t"}
    return "outer" if name in outer else "inner" if name in inner else "computed"


def store_then_ask(x, W_K, W_V, W_Q, theta, target):
    """Two tokens x (2, D), an empty memory: write the first, ask with the second; the outer loss -> a number."""
    k, v, q = x[0] @ W_K, x[0] @ W_V, x[1] @ W_Q
    M_0 = torch.zeros(len(k), len(v), dtype=x.dtype)
    M_1 = M_0 - theta * 2 * torch.outer(k, k @ M_0 - v)
    return (q @ M_1 - target).square().sum()


def truncated(layer, x, cut):
    """Run x (B, T, dim) in two pieces, no gradient across the cut: y (B, T, dim), and d(Σ y²)/dx."""
    x = x.detach().requires_grad_()
    y_1, state = layer(x[:, :cut])
    y_2, _ = layer(x[:, cut:], state.detach())
    y = torch.cat([y_1, y_2], 1)
    return y, torch.autograd.grad(y.square().sum(), x)[0]


def _write_cases(seed):
    g = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(d, e, generator=g, dtype=torch.float64),
            torch.randn(d, generator=g, dtype=torch.float64),
            torch.randn(e, generator=g, dtype=torch.float64),
            torch.tensor(0.1 + 0.1 * i, dtype=torch.float64),
            torch.randn(d, generator=g, dtype=torch.float64),
            torch.randn(e, generator=g, dtype=torch.float64),
        )
        for i, (d, e) in enumerate(((3, 3), (2, 5), (4, 2)))
    ]


def _written(sign=1.0, factor=2.0, detach=False, mean=False):
    """A mutant of `through_the_write`."""

    def mutant(M, k, v, theta, q, target):
        k, v, theta = (x.detach().requires_grad_() for x in (k, v, theta))
        u = factor * torch.outer(k, k @ M - v)
        M_next = M - sign * theta * (u.detach() if detach else u)
        wrong = (q @ M_next - target).square()
        loss = wrong.mean() if mean else wrong.sum()
        return loss, torch.autograd.grad(loss, (k, v, theta), materialize_grads=True)

    return mutant


def _loop_cases(seed):
    names = ("W_K", "W_V", "W_Q", "gate weights", "M_0", "M_t", "S_t", "k_t", "q_t", "alpha_t", "theta_t", "y_t")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    return [(names[i],) for i in order.tolist()]


def _moved(**other):
    """A mutant of `which_loop` that puts some names elsewhere."""
    return lambda name: other.get(name, which_loop(name))


def _store_cases(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for i, (d, e) in enumerate(((3, 3), (4, 2), (2, 5))):
        shapes = ((2, d), (d, d), (d, e), (d, d))
        x, W_K, W_V, W_Q = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)
        cases.append((x, W_K, W_V, W_Q, 0.2 + 0.1 * i, torch.randn(e, generator=g, dtype=torch.float64)))
    return cases


def _stored(swap=False, ask="W_Q", last=0, mean=False):
    """A mutant of `store_then_ask`: asked before the write, with another projection or token, or a mean."""

    def mutant(x, W_K, W_V, W_Q, theta, target):
        k, v = x[0] @ W_K, x[0] @ W_V
        q = x[1 - last] @ {"W_Q": W_Q, "W_K": W_K}[ask]
        M_1 = torch.zeros(len(k), len(v), dtype=x.dtype) if swap else 2 * theta * torch.outer(k, v)
        wrong = (q @ M_1 - target).square()
        return wrong.mean() if mean else wrong.sum()

    return mutant


def _cut_cases(seed):
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # layers draw from the global generator
        layers = [NeuralMemory(4, heads=h, depth=1, residual=False, norm=False, chunk_size=4).double() for h in (1, 2)]
    for layer in layers:
        layer.requires_grad_(False)  # only the gradient for x is asked for
    inputs = [torch.randn(b, t, 4, generator=g, dtype=torch.float64) for b, t in ((1, 9), (2, 12))]
    return list(zip(layers, inputs, (3, 7), strict=True))


def _cut(carry=lambda state: state.detach(), first=lambda x: x):
    """A mutant of `truncated`: another state is carried, or the first piece loses its gradient."""

    def mutant(layer, x, cut):
        x = x.detach().requires_grad_()
        y_1, state = layer(first(x[:, :cut]))
        y_2, _ = layer(x[:, cut:], carry(state))
        y = torch.cat([y_1, y_2], 1)
        return y, torch.autograd.grad(y.square().sum(), x)[0]

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
        title="Through one write",
        difficulty="medium",
        minutes=12,
        points=2,
        solution=through_the_write,
        cases=_write_cases,
        mutants={
            "detached": (
                _written(detach=True),
                "Your loss is right and the gradients of k and v are zero: the surprise was cut out of the graph "
                "(detach, .data or no_grad). Compute it from the k and v you were given, and leave it attached.",
            ),
            "sign": (_written(sign=-1.0), "The sign: you add the gradient. The write goes down, −θ∇ℓ."),
            "factor 2": (_written(factor=1.0), "A factor 2 is missing: ℓ is a square without ½."),
            "mean": (_written(mean=True), "Your outer loss is a mean. Here it is the sum of the squares."),
        },
        hints=(
            "Write as in notebook 01, M − θ·2·outer(k, k @ M − v), then ask: q @ M_next.",
            "The outer loss is the sum of (q @ M_next − target)².",
            "First k, v, theta = (x.detach().requires_grad_() for x in (k, v, theta)); last "
            "torch.autograd.grad(loss, (k, v, theta), materialize_grads=True).",
        ),
        why="The surprise is itself made of k and v, so differentiating the outer loss differentiates a gradient.",
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
            "asks with the key": (
                _stored(ask="W_K"),
                "You ask with W_K. The question has a projection of its own: q = x[1] @ W_Q.",
            ),
            "asks the first token": (
                _stored(last=1),
                "You ask with the token that was stored, x[0]. The second token asks.",
            ),
            "mean": (_stored(mean=True), "Your loss is a mean. ℓ sums over the components."),
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
        title="A cut",
        difficulty="medium",
        minutes=12,
        points=2,
        solution=truncated,
        cases=_cut_cases,
        mutants={
            "state dropped": (
                _cut(carry=lambda state: None),
                "The second piece starts from M_0: you dropped the state. Pass it on, detached.",
            ),
            "not detached": (
                _cut(carry=lambda state: state),
                "y is right, but gradients still cross the cut: hand over state.detach().",
            ),
            "first piece detached": (
                _cut(first=lambda x: x.detach()),
                "The first piece has no gradient at all. Its own answers should keep theirs: detach the state, not x.",
            ),
        },
        hints=(
            "x = x.detach().requires_grad_(), then call the layer twice: y_1, state = layer(x[:, :cut]).",
            "The second call gets state.detach().",
            "y = torch.cat([y_1, y_2], 1) and torch.autograd.grad(y.square().sum(), x)[0].",
        ),
        why="The memory crosses the cut, the gradient does not: values stay equal, and the backward pass gets shorter.",
    ),
)
