"""Exercises of notebook 10: a window with a prefix, the mask of h, cutting at segments, and which outputs may move."""

import torch

from titans_mini.exercises import Exercise


def prefix_window(T, window, P):
    """Mask of T queries over P persistent tokens and T tokens, of which each sees `window`: (T, P + T) booleans."""
    distance = torch.arange(T)[:, None] - torch.arange(T)
    tokens = (distance >= 0) & (distance < window)
    return torch.cat([torch.ones(T, P, dtype=torch.bool), tokens], 1)


def h_mask(T, stride):
    """Mask of T queries of a segment over h taken at tokens 0, stride, 2·stride, …: (T, number of h) booleans."""
    at = torch.arange(0, T, stride)
    return at <= torch.arange(T)[:, None]


def cut(T, position, segment):
    """Lengths of the parts of a call of T tokens after `position` older ones, each inside one segment: a list."""
    parts = []
    while T > 0:
        part = min(T, segment - position % segment)
        parts.append(part)
        T, position = T - part, position + part
    return parts


def may_move(T, segment, j, literal):
    """Outputs of mac that may move when token j of T changes, as printed (literal) or causal: a list of positions."""
    first = j // segment * segment if literal else j
    return list(range(first, T))


def _window_cases(seed):
    return [(7, 3 + seed % 2, 2), (5, 1, 3), (6, 4, 1), (8, 5, 4)]


def _h_cases(seed):
    return [(8, 2), (6, 3), (8 + 4 * (seed % 3), 4), (6, 1)]


def _cut_cases(seed):
    return [(10, 6, 4), (9 + seed % 3, 0, 4), (2, 5, 8), (9, 3, 3), (7, 4, 4)]


def _move_cases(seed):
    return [(16, 4, 6, True), (16, 4, 6, False), (12, 4, 9 + seed % 2, True), (12, 6, 2, False)]


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
        },
        hints=(
            "Distances first: `torch.arange(T)[:, None] - torch.arange(T)`, row minus column.",
            "A token sees distances 0 … window − 1.",
            "Put P columns of True before them: `torch.ones(T, P, dtype=torch.bool)` and `torch.cat`.",
        ),
        why="What is always visible is a column of True; what slides is a band below the diagonal.",
    ),
    Exercise(
        name="10.3",
        title="The causal mask of h",
        difficulty="easy",
        minutes=5,
        points=1,
        solution=h_mask,
        cases=_h_cases,
        mutants={
            "all": (
                lambda T, s: torch.ones(T, len(range(0, T, s)), dtype=torch.bool),
                "Everyone sees every h: the printed form, and the leak. h_j knows token j.",
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
        name="10.2",
        title="Cut where segments end",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=cut,
        cases=_cut_cases,
        mutants={
            "position forgotten": (
                lambda T, p, s: cut(T, 0, s),
                "You cut as if the text began here. The first part only fills what is left of the current segment.",
            ),
            "rest lost": (
                lambda T, p, s: [n for n in cut(T, p, s)[:1] + [s] * ((T - cut(T, p, s)[0]) // s) if n],
                "The last tokens, which fill no whole segment, are lost: the parts must add up to T.",
            ),
            "empty first": (
                lambda T, p, s: (lambda f: [f, *cut(T - f, 0, s)] if f < T else [T])(-p % s),
                "At the start of a segment your first part is empty; there it is a whole segment, segment − 0.",
            ),
            "not limited": (
                lambda T, p, s: (lambda f: [f, *cut(T - f, 0, s)])(s - p % s),
                "A short call may end inside the segment: the first part is at most T.",
            ),
        },
        hints=(
            "`position % segment` tokens of the current segment are already there.",
            "The first part: what is missing to the segment's end, but at most T.",
            "Then whole segments, then the rest. A loop that moves `position` along does all three.",
        ),
        why="With this, one token at a time and a whole book at once meet the same segments.",
    ),
    Exercise(
        name="10.4",
        title="Which outputs may move",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=may_move,
        cases=_move_cases,
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
            "only later": (
                lambda T, s, j, literal: list(range(j // s * s if literal else j + 1, T)),
                "Output j itself may move: a token is read before its own output.",
            ),
        },
        hints=(
            "Nothing ends at the segment: what was written into the memory reaches all later segments.",
            "Causal: from j on.",
            "As printed: from the start of j's segment on, `j // segment * segment`.",
        ),
        why="This is the whole test for a leak: change a token, and look at what is earlier.",
    ),
)
