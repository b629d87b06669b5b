"""Exercises of notebook 07: through a write, blame that fades, a mended write, a text in pieces, and the capstone."""

import time

import torch
import torch.nn.functional as F

from titans_mini.exercises import Exercise
from titans_mini.exercises.cloakroom import NEWCOMERS, PRACTISED, spell
from titans_mini.exercises.compare import Comparison
from titans_mini.memory.layer import NeuralMemory


def through_the_write(M, k, v, theta, q, target):
    """Write (k, v) into M (D, E), then ask q: the loss, dL/dk (D,), dL/dv (E,) and dL/dθ ()."""
    error = k @ M - v  # of the write
    e = q @ (M - theta * 2 * torch.outer(k, error)) - target  # of the answer
    match = q @ k
    dk = -4 * theta * ((e @ error) * q + match * (M @ e))  # k stands in the match and in the error
    dv = 4 * theta * match * e
    dtheta = -4 * match * (e @ error)
    return e.square().sum(), dk, dv, dtheta


def truncated(layer, x, n):
    """Run x (B, T, dim) in pieces of n tokens, no gradient across a cut: y (B, T, dim), and d(Σ y²)/dx."""
    x = x.detach().requires_grad_()
    y, state = [], None
    for piece in x.split(n, dim=1):
        answer, state = layer(piece, state)
        y.append(answer)
        state = state.detach()
    y = torch.cat(y, 1)
    return y, torch.autograd.grad(y.square().sum(), x)[0]


def write(M, k, v, theta):
    """Write one pair by autograd: the next memory (D, E), differentiable in M, k, v and theta."""
    M = M.clone().requires_grad_()
    loss = (k @ M - v).square().sum()
    (surprise,) = torch.autograd.grad(loss, M, create_graph=True)
    return M - theta * surprise


def blame_by_age(keys, values, alpha, theta):
    """After every visit, ask guest 0: length of d(sum of her answer)/d(her value), (T,)."""
    first, blame = values[0].detach().requires_grad_(), []
    M = keys.new_zeros(keys.shape[1], values.shape[1])
    for k, v in zip(keys, [first, *values[1:]], strict=True):
        M = (1 - alpha) * M - theta * 2 * torch.outer(k, k @ M - v)
        (gradient,) = torch.autograd.grad((keys[0] @ M).sum(), first, retain_graph=True)
        blame.append(gradient.norm())
    return torch.stack(blame)


def train_a_memory(practice):
    """Practise until the time is up; return memory(visits, hooks, asked) -> answers (B, P, hooks)."""
    W, bias = torch.eye(27).requires_grad_(), torch.zeros(27).requires_grad_()
    theta, scale = torch.tensor(-1.0).requires_grad_(), torch.tensor(1.5).requires_grad_()
    w = torch.zeros(27).requires_grad_()

    def memory(visits, hooks, asked):
        k, q = (F.normalize(x @ W + bias, dim=-1) for x in (visits, asked))
        v, step = F.one_hot(hooks, asked.shape[1]).to(k.dtype), torch.sigmoid(theta + visits @ w)
        M = k.new_zeros(len(k), k.shape[-1], v.shape[-1])
        for k_t, v_t, s in zip(k.unbind(1), v.unbind(1), step.unbind(1), strict=True):
            k_t = k_t[:, :, None]
            M = M - s[:, None, None] * 2 * k_t * (k_t.mT @ M - v_t[:, None])
        return q @ M * scale.exp()

    optimizer = torch.optim.Adam([W, bias, theta, scale, w], lr=0.03)
    for visits, hooks, asked, answers in practice:
        loss = F.cross_entropy(memory(visits, hooks, asked).flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return memory


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


def _flat(fn, *arguments):
    """Run a function that returns several tensors; a tuple inside the tuple, as autograd makes it, is welcome."""
    output = fn(*arguments)
    if not isinstance(output, (tuple, list)):
        return output
    return tuple(x for part in output for x in (part if isinstance(part, (tuple, list)) else (part,)))


def _written(sign=1.0, factor=2.0, outer=2.0, detach=False, mean=False, ways=2, error=True, empty=False):
    """A mutant of `through_the_write`."""

    def mutant(M, k, v, theta, q, target):
        M = 0 * M if empty else M
        wrong = k @ M - v
        e = q @ (M - sign * factor * theta * torch.outer(k, wrong)) - target
        loss = e.square().mean() if mean else e.square().sum()
        blame = -sign * factor * outer * (e / len(e) if mean else e)  # dL/da, times what every part shares
        told = wrong if error else -v
        dk = theta * ((blame @ told) * q + (ways == 2) * (q @ k) * (M @ blame))
        dv = -theta * (q @ k) * blame
        return loss, 0 * dk if detach else dk, 0 * dv if detach else dv, (q @ k) * (blame @ told)

    return mutant


def _cut_cases(seed):
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # layers draw from the global generator
        layers = [NeuralMemory(4, heads=h, depth=1, residual=False, norm=False, chunk_size=4).double() for h in (1, 2)]
    for layer in layers:
        layer.requires_grad_(False)  # only the gradient for x is asked for
    inputs = [torch.randn(b, t, 4, generator=g, dtype=torch.float64) for b, t in ((1, 9), (2, 12))]
    return list(zip(layers, inputs, (3, 5), strict=True))


def _cut(carry=lambda state: state.detach(), first=lambda x: x, once=False):
    """A mutant of `truncated`: another state is carried, or the first piece loses its gradient."""

    def mutant(layer, x, n):
        x = x.detach().requires_grad_()
        y, state = [], None
        for i, piece in enumerate(x.split(n, dim=1)):
            answer, state = layer(first(piece) if i == 0 else piece, state)
            y.append(answer)
            state = carry(state) if i == 0 or not once else state
        y = torch.cat(y, 1)
        return y, torch.autograd.grad(y.square().sum(), x)[0]

    return mutant


def _mend_cases(seed):
    return [case[:4] for case in _write_cases(seed)]


def _with_gradients(fn, M, k, v, theta):
    """Run a write, then differentiate a fixed mixture of the next memory: M_next, and the gradients of M, k, v, θ."""
    leaves = [x.detach().requires_grad_() for x in (M, k, v, theta)]
    M_next = fn(*leaves)
    if not isinstance(M_next, torch.Tensor) or M_next.shape != M.shape:
        return M_next
    mixture = (M_next * torch.linspace(-1, 1, M.numel(), dtype=M.dtype).view_as(M)).sum()
    if not mixture.requires_grad or any(leaf._version for leaf in leaves):  # nothing to follow, or overwritten
        return M_next, *map(torch.zeros_like, leaves)
    return M_next, *torch.autograd.grad(mixture, leaves, materialize_grads=True)


def _unmended(detach=True, graph=False, sign=1.0):
    """A mutant of `write`, by default the broken one."""

    def mutant(M, k, v, theta):
        M = (M.detach() if detach else M.clone()).requires_grad_()
        (surprise,) = torch.autograd.grad((k @ M - v).square().sum(), M, create_graph=graph)
        return M - sign * theta * surprise

    return mutant


def _age_cases(seed):
    g = torch.Generator().manual_seed(seed)
    cases = []
    for T, D, alpha, theta in ((6, 8, 0.1, 0.5), (9, 4, 0.0, 0.3), (5, 6, 0.3, 0.25)):
        keys = F.normalize(torch.randn(T, D, generator=g, dtype=torch.float64), dim=-1)
        cases.append((keys, torch.randn(T, 3, generator=g, dtype=torch.float64), alpha, theta))
    return cases


def _aged(ask="first", cut=False, forget=True, late=False, two=2, length=torch.norm):
    """A mutant of `blame_by_age`."""

    def mutant(keys, values, alpha, theta):
        first, blame = values[0].detach().requires_grad_(), []
        M = keys.new_zeros(keys.shape[1], values.shape[1])
        keep = 1 - alpha if forget else 1.0
        for k, v in zip(keys, [first, *values[1:]], strict=True):
            write = theta * two * torch.outer(k, k @ M - v)
            M = keep * (M - write) if late else keep * M - write
            answer = ((keys[0] if ask == "first" else k) @ M).sum()
            (gradient,) = torch.autograd.grad(answer, first, retain_graph=True) if M.requires_grad else (0 * first,)
            blame.append(length(gradient))
            M = M.detach() if cut else M
        return torch.stack(blame)

    return mutant


def _strangers(keys, values, alpha, theta):
    """A mutant of `blame_by_age`: the law for names that share nothing."""
    return 2 * theta * values.shape[1] ** 0.5 * (1 - alpha) ** torch.arange(len(keys), dtype=keys.dtype)


# -- the capstone ---------------------------------------------------------------------------------------------------

GUESTS, WHISPERS = 8, 6  # of an evening
GOAL = 0.9  # share of guests served


def gossip_evening(batch, names, generator):
    """Draw evenings with two visits of each guest and some whispers, which name a wrong hook: see `Practice`."""

    def shuffled(n):
        return torch.rand(batch, n, generator=generator).argsort(1)

    who = shuffled(len(names))[:, :GUESTS]
    early, final = shuffled(GUESTS), shuffled(GUESTS)
    about = torch.randint(GUESTS, (batch, WHISPERS), generator=generator)
    off = torch.randint(1, GUESTS, (batch, WHISPERS), generator=generator)
    lies = (final.gather(1, about) + off) % GUESTS
    guest = torch.cat([torch.arange(GUESTS).expand(batch, -1), about], 1)
    hook, order = torch.cat([final, lies], 1), shuffled(GUESTS + WHISPERS)
    whispered = (order >= GUESTS).float()
    first = shuffled(GUESTS)
    guest = torch.cat([first, guest.gather(1, order)], 1)
    hooks = torch.cat([early.gather(1, first), hook.gather(1, order)], 1)
    mark = torch.cat([torch.zeros(batch, GUESTS), whispered], 1)
    spelt = spell(*names)
    visits = torch.cat([spelt[who.gather(1, guest)], mark[..., None]], -1)
    asked = torch.cat([spelt[who], torch.zeros(batch, GUESTS, 1)], -1)
    return visits, hooks, asked, final


class Practice:
    """Batches of 64 evenings, until 150 are used or 30 seconds of processor time have passed.

    Each is (visits (B, T, 27), hooks (B, T), asked (B, P, 27), answers (B, P)). A visit is a name as its 26 letters,
    and a 1 at the end if the hook was whispered by somebody else: then it is wrong.
    """

    def __init__(self, seed, batches=150, seconds=30):
        """Start the evenings of this seed."""
        self.seed, self.batches, self.seconds, self.used = seed, batches, seconds, 0

    def __iter__(self):
        """Yield fresh evenings while there is time."""
        generator, start = torch.Generator().manual_seed(self.seed), time.process_time()
        while self.used < self.batches and time.process_time() - start < self.seconds:
            self.used += 1
            yield gossip_evening(64, PRACTISED, generator)


def _graded(fn, practice):
    """Train, then serve names that no practice evening had: the share served, and what the memory did wrong."""
    memory = fn(practice)
    if memory is None or not callable(memory):
        return memory
    visits, hooks, asked, answers = gossip_evening(200, NEWCOMERS, torch.Generator().manual_seed(1))
    visits.requires_grad_()
    said = memory(visits, hooks, asked)
    if not isinstance(said, torch.Tensor) or said.shape != (200, GUESTS, GUESTS):
        return said
    share = (said.argmax(-1) == answers).float().mean().item()
    blame = torch.zeros(())
    if said.requires_grad:
        loss = F.cross_entropy(said.flatten(0, 1), answers.flatten())
        blame = torch.autograd.grad(loss, visits, materialize_grads=True)[0].abs().sum()
    unmarked = visits.detach().clone()
    unmarked[..., -1] = 0
    deaf = torch.equal(memory(unmarked, hooks, asked).argmax(-1), said.argmax(-1))
    verdict = "passed" if share >= GOAL else "below"
    if verdict == "below":
        faults = {"never": practice.used == 0, "luck": share < 1.5 / GUESTS, "cut": not blame, "deaf": deaf}
        verdict = next((name for name, fault in faults.items() if fault), "below")
    return {"verdict": verdict, "share": share}


def _same_verdict(got, expected, tolerance):
    if not isinstance(got, dict):
        kind = f"shape {tuple(got.shape)}" if isinstance(got, torch.Tensor) else type(got).__name__
        text = f"got {kind}, expected a memory that maps (visits, hooks, asked) to answers (B, P, hooks)."
        return Comparison(float("inf"), text)
    if got["verdict"] == expected["verdict"]:
        return Comparison(0.0, None)
    text = f"got {got['share']:.0%} of newcomers served, expected at least {GOAL:.0%}: look at the whispers and at θ."
    return Comparison(abs(got["share"] - expected["share"]), text)


def _poor(train=True, cut=False, deaf=False, early=False):
    """A mutant of `train_a_memory`."""

    def mutant(practice):
        W, theta = torch.eye(27).requires_grad_(), torch.tensor(-1.0).requires_grad_()
        scale = torch.tensor(1.5).requires_grad_()

        def memory(visits, hooks, asked):
            if deaf:
                visits = visits * torch.cat([torch.ones(26), torch.zeros(1)])
            k, q = F.normalize(visits @ W, dim=-1), F.normalize(asked @ W, dim=-1)
            v = F.one_hot(hooks, asked.shape[1]).to(k.dtype)
            M = k.new_zeros(len(k), k.shape[-1], v.shape[-1])
            for t in range(0 if early else k.shape[1]):
                u = 2 * k[:, t, :, None] * (k[:, t, None] @ M - v[:, t, None])
                M = M - theta.sigmoid() * (u.detach() if cut else u)
            return q @ M * scale.exp() + (0 * k.sum() if early else 0)

        optimizer = torch.optim.Adam([W, theta, scale], lr=0.03)
        for visits, hooks, asked, answers in practice if train else ():
            loss = F.cross_entropy(memory(visits, hooks, asked).flatten(0, 1), answers.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return memory

    return mutant


EXERCISES = (
    Exercise(
        name="07.1",
        title="Through one write",
        difficulty="medium",
        minutes=12,
        points=2,
        solution=through_the_write,
        cases=_write_cases,
        run=_flat,
        mutants={
            "one way in": (
                _written(ways=1),
                "dL/dk has one term too few. The key stands in the match q·k, and also in the error kM − v, where the "
                "book is asked before the write.",
            ),
            "no book": (
                _written(empty=True),
                "Your answer comes from an empty book, as in section 1. M stands in two places now: a = qM minus the "
                "write.",
            ),
            "empty book": (
                _written(error=False),
                "You used section 1's formulas for k and θ, where the book was empty. It knows something now: −v "
                "becomes the error kM − v.",
            ),
            "empty book, one way in": (
                _written(error=False, ways=1),
                "You used section 1's formulas as they stand. The book is not empty now: −v becomes the error "
                "kM − v, and k stands in that error too.",
            ),
            "detached": (
                _written(detach=True),
                "Your loss is right and the gradients of k and v are zero: the surprise was cut out of the graph "
                "(detach, .data or no_grad).",
            ),
            "sign": (_written(sign=-1.0), "The sign: you add the gradient. The write goes down, −θ∇ℓ."),
            "factor 2": (_written(factor=1.0), "A factor 2 is missing in the write: ℓ is a square without ½."),
            "outer factor 2": (
                _written(outer=1.0),
                "Your loss is right and every gradient is half of what it should be: the outer loss is a square too, "
                "and brings a 2 of its own.",
            ),
            "mean": (_written(mean=True), "Your outer loss is a mean. Here it is the sum of the squares."),
        },
        hints=(
            "Call the write's error r = kM − v and the answer's error e = qM − 2θ(q·k) r − target. The loss is e·e.",
            "For v and θ only −v has changed, into r: dL/dv = 4θ(q·k) e and dL/dθ = −4(q·k)(e·r).",
            "k stands in q·k and in r, so the product rule gives two terms: −4θ((e·r) q + (q·k) M e).",
        ),
        why="Where the book knows something already, a key is asked before it writes: that is its second way in.",
    ),
    Exercise(
        name="07.2",
        title="Experiment: does blame fade?",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=blame_by_age,
        cases=_age_cases,
        mutants={
            "asks the last": (_aged(ask="last"), "You ask with the latest guest's key. Guest 0 asks, every time."),
            "cut": (_aged(cut=True), "Your blame ends after one visit: the memory leaves the graph between visits."),
            "no forgetting": (_aged(forget=False), "α is missing: M_t = (1 − α) M_{t−1} minus the write."),
            "fades the write": (
                _aged(late=True),
                "You let α fade the new write too: (1 − α) belongs to M_{t−1} alone.",
            ),
            "sum": (_aged(length=torch.sum), "You summed the gradient. Its length is asked for: gradient.norm()."),
            "strangers": (
                _strangers,
                "That is the law for names that share nothing. Here the keys overlap, so let autograd walk back "
                "through the writes.",
            ),
            "factor 2": (_aged(two=1), "A factor 2 is missing in the write: ℓ is a square without ½."),
        },
        hints=(
            "Make values[0] a leaf with requires_grad_() and write with it; the other values are constants.",
            "After each write: torch.autograd.grad((keys[0] @ M).sum(), first, retain_graph=True).",
            "The write is (1 − alpha) * M − theta * 2 * torch.outer(k, k @ M − v); collect gradient.norm().",
        ),
        why="Every later visit multiplies the blame by 1 − α, and takes away the part that lies along its own key.",
    ),
    Exercise(
        name="07.3",
        title="Mend: the projections that never moved",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=write,
        cases=_mend_cases,
        run=_with_gradients,
        mutants={
            "as it was": (
                _unmended(),
                "Two cuts are left. The surprise is a constant for k and v, and the memory before is one too.",
            ),
            "surprise a constant": (
                _unmended(detach=False),
                "The memory is mended, the surprise is not: autograd.grad returns a constant unless it may build a "
                "graph of its own.",
            ),
            "past a constant": (
                _unmended(graph=True),
                "k and v are heard now, but this write forgets the writes before it: M still leaves the graph at the "
                "door.",
            ),
            "sign": (
                _unmended(False, True, -1.0),
                "The graph is whole and the sign is wrong: the write goes down, −θ∇ℓ.",
            ),
        },
        hints=(
            "Two places turn a part of the graph into a constant. Which tensors come out with requires_grad=False?",
            "autograd.grad has an argument that makes its result differentiable; retain_graph is not the one.",
            "create_graph=True, and M.clone() instead of M.detach(): a clone keeps the way back.",
        ),
        why="With create_graph=True the surprise is a function of k and v, and not only a matrix of numbers.",
    ),
    Exercise(
        name="07.4",
        title="Build: a text in pieces",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=truncated,
        cases=_cut_cases,
        mutants={
            "state dropped": (
                _cut(carry=lambda state: None),
                "Every piece starts from M_0: you dropped the state. Pass it on, detached.",
            ),
            "not detached": (
                _cut(carry=lambda state: state),
                "y is right, but gradients still cross the cuts: hand over state.detach().",
            ),
            "one cut only": (
                _cut(once=True),
                "The first cut holds and the later ones leak: the state has to be detached after every piece.",
            ),
            "first piece detached": (
                _cut(first=lambda x: x.detach()),
                "The first piece has no gradient at all. Its own answers should keep theirs: detach the state, not x.",
            ),
        },
        hints=(
            "x = x.detach().requires_grad_(), a state that is None at first, and a loop over x.split(n, dim=1).",
            "answer, state = layer(piece, state), and then state = state.detach(), after every piece.",
            "y = torch.cat(answers, 1) and torch.autograd.grad(y.square().sum(), x)[0].",
        ),
        why="The memory crosses every cut and no gradient does: the values are equal, and less must be kept.",
    ),
    Exercise(
        name="07.5",
        title="Capstone: an attendant who ignores gossip",
        difficulty="hard",
        minutes=20,
        points=4,
        solution=train_a_memory,
        cases=lambda seed: [(Practice(seed),)],
        run=_graded,
        compare=_same_verdict,
        note=lambda outputs: f" Newcomers served: {outputs[0]['share']:.0%}.",
        mutants={
            "never practised": (
                _poor(train=False),
                "You returned the memory as it was born. The outer loop is `for … in practice:` with a step in it.",
            ),
            "cut": (
                _poor(cut=True),
                "No answer depends on how the names of the visits were projected: a write is detached, in practice or "
                "in what you return.",
            ),
            "deaf to the mark": (
                _poor(deaf=True),
                "Your memory treats a whisper as a visit: take its mark away and every answer stays. Let column 26 "
                "into the key or into θ.",
            ),
            "reads first": (
                _poor(early=True),
                "No better than luck: the questions are asked of a book that nothing was written into.",
            ),
        },
        hints=(
            "Inner loop: k = normalise(visits @ W), a write per visit from an empty book, then ask with asked @ W.",
            "Outer loop: cross-entropy of scaled answers, Adam with lr 0.03 on W, θ and the scale.",
            "θ may differ per visit: torch.sigmoid(theta + visits @ w) learns to be near 0 where the mark is 1.",
        ),
        why="Nobody says that whispers are lies. The loss after the writing does, and the gradient finds the mark.",
    ),
)
