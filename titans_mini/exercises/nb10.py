"""Exercises of notebook 10: a window with a prefix, the test for leaks, the mask of h, and one page through MAC."""

import torch

from titans_mini.exercises import Exercise
from titans_mini.exercises.compare import Comparison, describe


def prefix_window(T, window, P):
    """Mask of T queries over P persistent tokens and T tokens, of which each sees `window`: (T, P + T) booleans."""
    distance = torch.arange(T)[:, None] - torch.arange(T)
    tokens = (distance >= 0) & (distance < window)
    return torch.cat([torch.ones(T, P, dtype=torch.bool), tokens], 1)


def h_mask(T, stride):
    """Mask of T queries of a segment over h taken at tokens 0, stride, 2·stride, …: (T, number of h) booleans."""
    at = torch.arange(0, T, stride)
    return at <= torch.arange(T)[:, None]


def leaks(layer, x):
    """All pairs (i, j), j > i, where a change of token j moves output i: a list. layer: (T, D) -> (T, D)."""
    before, found = layer(x), []
    for j in range(len(x)):
        changed = x.clone()
        changed[j] += 1
        moved = (layer(changed) != before).any(-1)
        found += [(i, j) for i in range(j) if moved[i]]
    return found


def mac_page(S, P, M, theta):
    """One segment S (n, D) after persistent P (p, D) and memory M (D, D) -> outputs (n, D), M after it (D, D)."""
    h, outputs = S @ M, []
    for i in range(len(S)):
        y = torch.cat([P, h[: i + 1], S[: i + 1]]).mean(0)
        M = M - theta * 2 * torch.outer(y, y @ M - y)
        outputs.append(y * (y @ M))
    return torch.stack(outputs), M


def may_move(T, segment, j, literal):
    """Outputs of mac that may move when token j of T changes, as printed (literal) or causal: their positions."""
    first = j // segment * segment if literal else j
    return list(range(first, T))


def _window_cases(seed):
    return [(7, 3 + seed % 2, 2), (5, 1, 3), (6, 4, 1), (8, 5, 4)]


def _h_cases(seed):
    return [(8, 2), (6, 3), (8 + 4 * (seed % 3), 4), (6, 1)]


def _move_cases(seed):
    return [(16, 4, 6, True), (16, 4, 6, False), (12, 4, 9 + seed % 2, True), (12, 6, 2, False)]


def _mean_so_far(x):
    return x.cumsum(0) / torch.arange(1, len(x) + 1, dtype=x.dtype)[:, None]


def _page_mean(x):
    """Every token gets the mean of its page of four, its own future included."""
    return torch.cat([page.mean(0, keepdim=True).expand(len(page), -1) for page in x.split(4)])


def _glance(size):
    """The mean so far, and `size` times the next token."""
    return lambda x: _mean_so_far(x) + size * torch.cat([x[1:], x[:1] * 0])


def _leak_cases(seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 3, generator=g, dtype=torch.float64)
    lopsided = torch.tensor([1.0, -1, 0], dtype=x.dtype)  # a leak that leaves one component alone
    return [(layer, x) for layer in (_page_mean, _mean_so_far, _glance(1.0), _glance(lopsided), _glance(1e-7))]


def _pairs(got, expected, tolerance):
    """Compare pairs of positions: a list, a set, a tensor (n, 2), or a mask (T, T)."""
    if isinstance(got, torch.Tensor) and got.dtype == torch.bool and got.ndim == 2:
        got = got.nonzero()
    return _positions(got, expected, "pairs of positions, such as [(0, 3)]", _pair)


def _pair(item):
    i, j = item
    return int(i), int(j)


def _place(item):
    if isinstance(item, bool):
        raise TypeError("a truth value is no position")
    return int(item)


def _places(got, expected, tolerance):
    """Compare positions: a list, a range, a set, or a tensor."""
    return _positions(got, expected, "positions, such as [4, 5, 6]", _place)


def _positions(got, expected, words, read):
    try:
        found = {read(item) for item in (got.tolist() if isinstance(got, torch.Tensor) else got)}
    except (TypeError, ValueError):
        return Comparison(float("inf"), f"got {describe(got)}, expected {words}.")
    missing, extra = (sorted(a - b) for a, b in ((set(expected), found), (found, set(expected))))
    if not missing and not extra:
        return Comparison(0.0, None)
    parts = [f"{name} {', '.join(map(str, some[:4]))}{', …' if len(some) > 4 else ''}"
             for name, some in (("missing", missing), ("too many:", extra)) if some]  # fmt: skip
    return Comparison(1.0, f"got {len(found)} of them, expected {len(expected)}: {'; '.join(parts)}.")


def _poor_test(pairs=lambda i, j: j > i, tokens=range, moved=lambda a, b: (a != b).any(-1)):
    """A mutant of `leaks`."""

    def mutant(layer, x):
        before, found = layer(x), []
        for j in tokens(len(x)):
            changed = x.clone()
            changed[j] += 1
            far = moved(layer(changed), before)
            found += [(i, j) for i in range(len(x)) if pairs(i, j) and far[i]]
        return found

    return mutant


def _page_cases(seed):
    g = torch.Generator().manual_seed(seed)
    return [
        (*(torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (tokens, prefix, 3)), theta)
        for tokens, prefix, theta in ((4, 2, 0.1), (1, 1, 0.25), (6, 3, 0.05))
    ]


def _sight(P, h, S, i):
    return torch.cat([P, h[: i + 1], S[: i + 1]]).mean(0)


def _poor_page(look=_sight, value=None, write="y", read="own", anchor="own", step=2.0, turn=False,
               combine=torch.mul, running=False):  # fmt: skip
    """A mutant of `mac_page`."""

    def mutant(S, P, M, theta):
        h, ys, memories = S @ M, [], [M]
        for i in range(len(S)):
            if running:
                h = torch.cat([h[:i], S[i : i + 1] @ M, h[i + 1 :]])
            y = look(P, h, S, i)
            key = y if write == "y" else S[i]
            error = key @ (memories[0] if anchor == "page" else M) - (key if value is None else S[i])
            slip = torch.outer(key, error)
            M = M - theta * step * (slip.mT if turn else slip)
            ys.append(y)
            memories.append(M)
        reads = {"own": memories[1:], "before": memories[:-1], "page": memories[:1] * len(S), "end": [M] * len(S)}
        return torch.stack([combine(y, y @ m) for y, m in zip(ys, reads[read], strict=True)]), M

    return mutant


def _tokens(T, rule):
    return rule(torch.arange(T)[:, None] - torch.arange(T))


def _window(T, w, P, rule, first=True):
    parts = [torch.ones(T, P, dtype=torch.bool), _tokens(T, rule)]
    return torch.cat(parts if first else parts[::-1], 1)


EXERCISES = (
    Exercise(
        name="10.1",
        title="A window with a prefix",
        difficulty="easy",
        minutes=6,
        points=1,
        solution=prefix_window,
        cases=_window_cases,
        mutants={
            "one too many": (
                lambda T, w, P: _window(T, w, P, lambda d: (d >= 0) & (d <= w)),
                "Your window is one token too long: a token counts itself, so distances go from 0 to window − 1.",
            ),
            "no window": (
                lambda T, w, P: _window(T, w, P, lambda d: d >= 0),
                "Causal, but without a window: far tokens must drop out.",
            ),
            "both sides": (
                lambda T, w, P: _window(T, w, P, lambda d: d.abs() < w),
                "Your window looks both ways: later tokens must stay hidden, distance ≥ 0.",
            ),
            "prefix last": (
                lambda T, w, P: _window(T, w, P, lambda d: (d >= 0) & (d < w), first=False),
                "The columns of the persistent tokens come first, as in [P ‖ x].",
            ),
            "prefix in the window": (
                lambda T, w, P: (lambda d: (d >= 0) & (d < w))(torch.arange(T)[:, None] + P - torch.arange(P + T)),
                "The prefix slides out of your window. It is always visible: its columns are all True.",
            ),
            "prefix hidden": (
                lambda T, w, P: prefix_window(T, w, P) & (torch.arange(P + T) >= P),
                "Your persistent tokens are hidden. Everybody may see them: P columns of True.",
            ),
            "no prefix": (
                lambda T, w, P: prefix_window(T, w, 0),
                "The columns of the persistent tokens are missing: P of them, before those of the tokens.",
            ),
            "prefix pays": (
                lambda T, w, P: _window(T, w, P, lambda d: (d >= 0) & (d < w - P)),
                "You take P off the window. The prefix comes on top of it: every token still sees `window` tokens.",
            ),
            "one triangle": (
                lambda T, w, P: torch.ones(T, P + T, dtype=torch.bool).tril(),
                "One triangle over prefix and tokens starts too early: row 0 must see the whole prefix and itself.",
            ),
            "one too few": (
                lambda T, w, P: _window(T, w, P, lambda d: (d >= 0) & (d < w - 1)),
                "Your window is one token too short: a token counts itself, so distances go from 0 to window − 1.",
            ),
            "not itself": (
                lambda T, w, P: _window(T, w, P, lambda d: (d > 0) & (d < w)),
                "A token must see itself: distance 0 belongs to the window.",
            ),
            "before itself": (
                lambda T, w, P: _window(T, w, P, lambda d: (d > 0) & (d <= w)),
                "Your window ends just before the token. It sees itself and the window − 1 tokens before it.",
            ),
            "later tokens": (
                lambda T, w, P: _window(T, w, P, lambda d: (d <= 0) & (d > -w)),
                "Your window looks into the future. Rows are queries and columns are keys: distance is row minus "
                "column.",
            ),
            "turned round": (
                lambda T, w, P: ~prefix_window(T, w, P),
                "Turned round: True says that the query sees the key, False that it does not.",
            ),
            "numbers": (
                lambda T, w, P: prefix_window(T, w, P).float(),
                "The right pattern in numbers. A mask is made of booleans: `dtype=torch.bool`, or a comparison.",
            ),
            "scores": (
                lambda T, w, P: torch.zeros(T, P + T).masked_fill(~prefix_window(T, w, P), -torch.inf),
                "These are numbers to add to scores. Return the booleans that they are made from.",
            ),
        },
        hints=(
            "Distances first: `torch.arange(T)[:, None] - torch.arange(T)`, row minus column.",
            "A token sees distances 0 … window − 1.",
            "Put P columns of True before them: `torch.ones(T, P, dtype=torch.bool)` and `torch.cat`.",
        ),
        why="What is always visible is a column of True; what slides is a band below the diagonal.",
    ),
    Exercise(
        name="10.2",
        title="The test for leaks",
        difficulty="medium",
        minutes=12,
        points=2,
        solution=leaks,
        cases=_leak_cases,
        compare=_pairs,
        mutants={
            "the past": (
                _poor_test(pairs=lambda i, j: j < i),
                "You list outputs *after* the changed token: they are allowed to move. A leak is an output before it.",
            ),
            "itself": (
                _poor_test(pairs=lambda i, j: j >= i),
                "Output j may move when token j changes. A leak needs j > i.",
            ),
            "everything": (
                _poor_test(pairs=lambda i, j: True),
                "You list every output that moves. Keep those before the changed token, j > i.",
            ),
            "last token only": (
                _poor_test(tokens=lambda T: [T - 1]),
                "You change the last token only. A layer may leak at the end of its first page, and be clean there.",
            ),
            "neighbours only": (
                _poor_test(pairs=lambda i, j: j == i + 1),
                "You look one token ahead. A leak may reach further, through a whole page.",
            ),
            "about equal": (
                _poor_test(moved=lambda a, b: ~torch.isclose(a, b).all(-1)),
                "One of the layers leaks by 1e-7, and `isclose` lets it pass: a model would learn to amplify it. "
                "Outputs before the change must be *equal*; nothing that they are made of has changed.",
            ),
            "threshold": (
                _poor_test(moved=lambda a, b: ((a - b).abs() > 1e-6).any(-1)),
                "One of the layers leaks by 1e-7, and your threshold lets it pass. Nothing that an earlier output is "
                "made of has changed, so ask for equality: `!=`.",
            ),
            "all components": (
                _poor_test(moved=lambda a, b: (a != b).all(-1)),
                "You ask that *all* components of an output move. One is enough: `.any(-1)`.",
            ),
            "anything moved": (
                lambda layer, x: [(i, j) for j in range(len(x)) for i in range(j)],
                "You list every earlier output. Do your changes pile up? Start each j from a fresh `x.clone()`. Or do "
                "you compare whole results? Compare output by output, `.any(-1)`.",
            ),
            "nothing": (
                lambda layer, x: [],
                "You find no leak at all, and four of the five layers have one. Does your change reach the layer? "
                "Compare `layer(changed)` with `layer(x)`.",
            ),
            "swapped": (
                lambda layer, x: [(j, i) for i, j in leaks(layer, x)],
                "Your pairs are (changed token, output). First the output i, then the token j.",
            ),
        },
        hints=(
            "Call the layer once on x. Then, for each j, call it on a copy of x in which token j is another one.",
            "`changed = x.clone(); changed[j] += 1`; `(layer(changed) != before).any(-1)` says which outputs moved.",
            "Keep the outputs i < j that moved.",
        ),
        why="It needs no idea of where a leak could be. Every future reaches the past through some output.",
    ),
    Exercise(
        name="10.3",
        title="Mend: the mask of h",
        difficulty="easy",
        minutes=5,
        points=1,
        solution=h_mask,
        cases=_h_cases,
        mutants={
            "all": (
                lambda T, s: torch.ones(T, len(range(0, T, s)), dtype=torch.bool),
                "Not mended yet: everyone sees every h, the printed form and the leak. h_j knows token j.",
            ),
            "strict": (
                lambda T, s: torch.arange(0, T, s) < torch.arange(T)[:, None],
                "Too strict: token i may see its own h_i, which was made from nothing later than token i.",
            ),
            "number of h": (
                lambda T, s: torch.arange(len(range(0, T, s))) <= torch.arange(T)[:, None],
                "You compared the number of h with the token. The e-th h was recalled by token e·stride.",
            ),
            "transposed": (
                lambda T, s: h_mask(T, s).mT,
                "Transposed: one row for each query, one column for each h.",
            ),
            "future only": (
                lambda T, s: torch.arange(0, T, s) >= torch.arange(T)[:, None],
                "The wrong way round: you show a token the answers to later ones. An h is visible from its token on.",
            ),
            "the latest only": (
                lambda T, s: h_mask(T, s) & (torch.arange(T)[:, None] < torch.arange(0, T, s) + s),
                'You keep the latest h only. That is a choice that section 6 meets (`sees="own"`); here a token sees '
                "all h up to its own.",
            ),
            "stride over": (
                lambda T, s: torch.arange(0, T, s) + s - 1 <= torch.arange(T)[:, None],
                "You wait until the stride is over. An h knows the token that asked, and may be seen from it on.",
            ),
            "one h late": (
                lambda T, s: torch.arange(0, T, s) + s <= torch.arange(T)[:, None],
                "One h late: each becomes visible only when the next one comes.",
            ),
            "turned round": (
                lambda T, s: ~h_mask(T, s),
                "Turned round: True says that the query sees the h.",
            ),
            "one per token": (
                lambda T, s: h_mask(T, 1),
                "One h per token: with a stride there are fewer, at tokens 0, stride, 2·stride, ….",
            ),
        },
        hints=(
            "Which tokens were asked about? `torch.arange(0, T, stride)`.",
            "Query i may see an h that was recalled by a token ≤ i.",
            "Compare a row with a column: `at <= torch.arange(T)[:, None]`.",
        ),
        why="An h is as old as the token that asked for it.",
    ),
    Exercise(
        name="10.4",
        title="Which outputs may move",
        difficulty="easy",
        minutes=5,
        points=1,
        solution=may_move,
        cases=_move_cases,
        compare=_places,
        mutants={
            "no leak": (
                lambda T, s, j, literal: list(range(j, T)),
                "As printed, earlier outputs of the same segment move too: they see h_j and the segment's last memory.",
            ),
            "always the segment": (
                lambda T, s, j, literal: list(range(j // s * s, T)),
                "That is the printed form in both cases. The causal one moves nothing before j.",
            ),
            "no memory": (
                lambda T, s, j, literal: list(range(j // s * s if literal else j, min(T, j // s * s + s))),
                "You stopped at the segment's end. The memory carries token j into all later segments.",
            ),
            "everything": (
                lambda T, s, j, literal: list(range(0 if literal else j, T)),
                "Not even the printed form reaches earlier segments: they were finished before this one began.",
            ),
            "swapped": (
                lambda T, s, j, literal: list(range(j if literal else j // s * s, T)),
                "The two cases are swapped: it is the printed form, literal=True, that reaches back.",
            ),
            "the whole text": (
                lambda T, s, j, literal: list(range(T)),
                "You list every output. Those of earlier segments were finished before token j was read.",
            ),
            "the segment alone": (
                lambda T, s, j, literal: list(range(j // s * s, min(T, j // s * s + s))),
                "You list j's segment in both cases. The memory goes on into later segments, and the causal form "
                "moves nothing before j.",
            ),
            "the leak alone": (
                lambda T, s, j, literal: list(range(j // s * s, j)) if literal else [],
                "You list what must not move. Asked is all that may: j itself and what follows belong to it.",
            ),
            "itself alone": (
                lambda T, s, j, literal: [j],
                "More than output j moves: later tokens of the segment see token j, and the memory remembers it.",
            ),
            "later segments": (
                lambda T, s, j, literal: list(range((j // s + 1) * s, T)),
                "Within its own segment token j moves outputs too, through attention.",
            ),
            "not itself": (
                lambda T, s, j, literal: [t for t in range(j // s * s if literal else j, T) if t != j],
                "Output j is missing: a token is read before its own output.",
            ),
            "only later": (
                lambda T, s, j, literal: list(range(j // s * s if literal else j + 1, T)),
                "In the causal form output j itself may move: a token is read before its own output.",
            ),
        },
        hints=(
            "Nothing ends at the segment: what was written into the memory reaches all later segments.",
            "Causal: from j on.",
            "As printed: from the start of j's segment on, `j // segment * segment`.",
        ),
        why="This is the whole test for a leak: change a token, and look at what is earlier.",
    ),
    Exercise(
        name="10.5",
        title="Build: one page through MAC",
        difficulty="hard",
        minutes=20,
        points=4,
        solution=mac_page,
        cases=_page_cases,
        tolerance=1e-9,
        mutants={
            "h of the page": (
                _poor_page(lambda P, h, S, i: torch.cat([P, h, S[: i + 1]]).mean(0)),
                "The first leak: your y_i is a mean over the h of the whole page. Token i may see h_j for j ≤ i.",
            ),
            "last memory for all": (
                _poor_page(read="end"),
                "The second leak: every y asks the memory at the end of the page. Let y_i ask right after its own "
                "write.",
            ),
            "both leaks": (
                _poor_page(lambda P, h, S, i: torch.cat([P, h, S[: i + 1]]).mean(0), read="end"),
                "This is the printed form, with both leaks: h of the whole page in y, and the page's last memory for "
                "everyone.",
            ),
            "everything": (
                _poor_page(lambda P, h, S, i: torch.cat([P, h, S]).mean(0)),
                "Your y_i is a mean over the whole page, its future included. Of h and of S it may see j ≤ i.",
            ),
            "no prefix": (
                _poor_page(lambda P, h, S, i: _sight(P[:0], h, S, i)),
                "The persistent tokens are missing from your mean.",
            ),
            "no h": (
                _poor_page(lambda P, h, S, i: torch.cat([P, S[: i + 1]]).mean(0)),
                "The answers h are missing from your mean: this clerk never listens to the memory.",
            ),
            "no page": (
                _poor_page(lambda P, h, S, i: torch.cat([P, h[: i + 1]]).mean(0)),
                "The page itself, S_j for j ≤ i, is missing from your mean.",
            ),
            "own h only": (
                _poor_page(lambda P, h, S, i: torch.cat([P, h[i : i + 1], S[: i + 1]]).mean(0)),
                "Your token sees only its own h. Here it sees those of earlier tokens too, h_j for j ≤ i.",
            ),
            "strict": (
                _poor_page(lambda P, h, S, i: torch.cat([P, h[:i], S[:i]]).mean(0)),
                "One too few: j ≤ i includes token i itself. In Python that is `[: i + 1]`.",
            ),
            "strict h": (
                _poor_page(lambda P, h, S, i: torch.cat([P, h[:i], S[: i + 1]]).mean(0)),
                "Your token misses its own h_i: j ≤ i includes it.",
            ),
            "mean of means": (
                _poor_page(lambda P, h, S, i: (P.mean(0) + h[: i + 1].mean(0) + S[: i + 1].mean(0)) / 3),
                "You average three means. One mean over all rows is asked for: stack them with `torch.cat` first.",
            ),
            "sum": (
                _poor_page(lambda P, h, S, i: torch.cat([P, h[: i + 1], S[: i + 1]]).sum(0)),
                "You add the rows up. A mean divides by their number.",
            ),
            "writes the page": (
                _poor_page(write="S"),
                "You write the token S_i. Equation 24 writes y_i, what attention made of it.",
            ),
            "S as value": (
                _poor_page(value="S"),
                "Your key is y_i, but your value is S_i. Here both are y_i: the error is y_i M − y_i.",
            ),
            "one error for all": (
                _poor_page(anchor="page"),
                "You measure every error with the memory at the page's start: a chunk, as in lesson 08. Here each "
                "write starts from the memory that the write before has left.",
            ),
            "asks before": (
                _poor_page(read="before"),
                "Your y_i asks the memory before its own write. Here it asks right after.",
            ),
            "asks the first": (
                _poor_page(read="page"),
                "Your y asks the memory as it was before the page. That was step 1; in step 4 it asks after its write.",
            ),
            "h from the moving memory": (
                _poor_page(running=True),
                "Your h_i asks a memory that has already read part of this page. Equation 21 asks the one before it.",
            ),
            "no gate": (
                _poor_page(combine=lambda y, m: m),
                "Step 5 is missing: you return the memory's answers. Multiply each by its y_i.",
            ),
            "squashed": (
                _poor_page(combine=lambda y, m: y * m.sigmoid()),
                "You squash the answer before you multiply, as the library does. Here it is y_i times the answer "
                "itself.",
            ),
            "added": (
                _poor_page(combine=torch.add),
                "You add y and the answer. The ⊗ of equation 25 multiplies them, number by number.",
            ),
            "one product": (
                _poor_page(combine=lambda y, m: y * (y @ m)),
                "Your ⊗ sums over the components (a dot product). Multiply number by number: `y * answer`.",
            ),
            "sign": (
                _poor_page(step=-2.0),
                "Your write makes the error larger: it is subtracted, M − θ·2·yᵀ(yM − y).",
            ),
            "column": (
                lambda S, P, M, theta: (lambda o, end: (o, end.mT))(*mac_page(S, P, M.mT, theta)),
                "Your memory answers M y, as if y were a column. In this course y is a row and the answer is y M.",
            ),
            "transposed": (
                _poor_page(turn=True),
                "Your slip lies on its side: rows belong to the key, columns to the error, `torch.outer(y, error)`.",
            ),
            "factor 2": (_poor_page(step=1.0), "A factor 2 is missing from the write: the loss is a square without ½."),
        },
        hints=(
            "h needs no loop: `h = S @ M`, before anything is written.",
            "In the loop: `y = torch.cat([P, h[: i + 1], S[: i + 1]]).mean(0)`.",
            "Write first, `M = M - theta * 2 * torch.outer(y, y @ M - y)`, then append `y * (y @ M)`.",
        ),
        why="Eight lines are a MAC. The library adds heads, gates, momentum, chunks, and a softmax for the mean.",
    ),
)
