"""Exercises of notebook 08: the share of S₀, one scan for both, a masked read, a coach in two calls, and θC."""

import torch

from titans_mini.exercises import Exercise
from titans_mini.memory.gates import coefficients


def share_of_momentum(alpha, eta):
    """How much of S₀ is in M_1 … M_C: gates alpha and eta (C,) -> f (C,)."""
    m, f, rows = 1.0, 0.0, []
    for alpha_t, eta_t in zip(alpha, eta, strict=True):
        m = eta_t * m
        f = (1 - alpha_t) * f + m
        rows.append(f)
    return torch.stack(rows)


def masked_read(q, k, s, G, b, f, M, S):
    """Answers of a chunk: q, k, s (C, D), G (C, C), b, f (C,), its start M, S (D, D) -> (C, D)."""
    scores = (q @ k.T) * G
    return b[:, None] * (q @ M) + f[:, None] * (q @ S) - scores @ s


def part_of_a_coach(k, v, theta, M, anchor, position, C):
    """Write T guests of coaches of C: from M, its anchor and the seats taken -> M, anchor, position after them."""
    for k_t, v_t in zip(k, v, strict=True):
        if position == 0:
            anchor = M
        M = M - theta * 2 * torch.outer(k_t, k_t @ anchor - v_t)
        position = (position + 1) % C
    return M, anchor, position


def error_left(C, theta):
    """One guest comes C times, sizes C (N,): share of the error left, in one coach and in a queue -> two (N,)."""
    return 1 - 2 * theta * C, (1 - 2 * theta) ** C


def scan_both(alpha, eta, w):
    """Scan memory and momentum together, both from 0: gates (T,), writes w (T, D) -> M, S (T, D)."""
    top, bottom = torch.stack([1 - alpha, eta], -1), torch.stack([torch.zeros_like(eta), eta], -1)
    A = torch.stack([top, bottom], -2)  # (T, 2, 2), what a token does to the pair (M, S)
    z = torch.stack([-w, -w], 1)  # (T, 2, D), what it adds to both
    back = 1
    while back < len(w):
        z = torch.cat([z[:back], z[back:] + A[back:] @ z[:-back]])
        A = torch.cat([A[:back], A[back:] @ A[:-back]])
        back *= 2
    return z[:, 0], z[:, 1]


SIZES = ((3, 2), (4, 3), (5, 4))  # (C, D)


def _randn(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)


def _gates(seed, C):
    g = torch.Generator().manual_seed(100 + seed)
    alpha, eta = 0.1 + 0.8 * torch.rand(2, C, generator=g, dtype=torch.float64)
    return alpha, eta


def _share_cases(seed):
    return [_gates(seed + C, C) for C in (3, 4, 7)]


def _read_cases(seed):
    randn, cases = _randn(seed), []
    for C, D in SIZES:
        c = coefficients(*_gates(seed + C, C))
        cases.append((randn(C, D), randn(C, D), randn(C, D), c.G, c.b, c.f, randn(D, D), randn(D, D)))
    return cases


def _coach_cases(seed):
    randn, cases = _randn(seed), []
    for T, C, position in ((5, 4, 0), (3, 4, 2), (4, 3, 1)):  # from a door, across one, and from a seat to a seat
        M, D = randn(3, 3), 3
        anchor = M if position == 0 else randn(3, 3)
        cases.append((randn(T, D), randn(T, D), 0.1, M, anchor, position, C))
    return cases


def _coach(start=None, follow=False, seats=None, refresh=None):
    """A mutant of `part_of_a_coach`."""

    def mutant(k, v, theta, M, anchor, position, C):
        position = start if start is not None else position
        for k_t, v_t in zip(k, v, strict=True):
            if follow or position % C == (refresh if refresh is not None else 0):
                anchor = M
            M = M - theta * 2 * torch.outer(k_t, k_t @ anchor - v_t)
            position += 1
        return M, anchor, position if seats else position % C

    return mutant


def _coach_once(k, v, theta, M, anchor, position, C):
    """One anchor for the whole call: the one that came in."""
    for k_t, v_t in zip(k, v, strict=True):
        M = M - theta * 2 * torch.outer(k_t, k_t @ anchor - v_t)
    return M, anchor, (position + len(k)) % C


def _left_cases(seed):
    g = torch.Generator().manual_seed(seed)
    sizes = torch.arange(1, 9, dtype=torch.float64)
    return [(sizes, 0.1 + 0.3 * torch.rand((), generator=g, dtype=torch.float64).item()), (sizes, 0.5), (sizes, 0.05)]


def _scan_cases(seed):
    randn = _randn(seed)
    return [(*_gates(seed + T, T), randn(T, 3)) for T in (2, 5, 8)]


def _scan(keep=lambda alpha: 1 - alpha, fades=None, late=False, sign=-1.0, neighbours=False, own=True, fresh=False):
    """A mutant of `scan_both`, token after token."""

    def mutant(alpha, eta, w):
        M = S = torch.zeros_like(w[0])
        found = []
        for t, (alpha_t, eta_t, w_t) in enumerate(zip(alpha, eta, w, strict=True)):
            if neighbours and t > 1:  # only the token before is looked at
                S = sign * w[t - 1]
                M = S
            before = S
            S = eta_t * (fades(alpha_t) if fades else 1.0) * S + sign * w_t
            taken = before if late else S if own else S - sign * w_t
            taken = before + sign * w_t if fresh else taken
            M = keep(alpha_t) * M + taken
            found.append((M, S))
        M, S = (torch.stack(x) for x in zip(*found, strict=True))
        return M, S

    return mutant


def _scan_order(alpha, eta, w):
    """The products of the matrices in the wrong order."""
    A = torch.stack([torch.stack([1 - alpha, eta], -1), torch.stack([torch.zeros_like(eta), eta], -1)], -2)
    z, back = torch.stack([-w, -w], 1), 1
    while back < len(w):
        z = torch.cat([z[:back], z[back:] + A[back:] @ z[:-back]])
        A = torch.cat([A[:back], A[:-back] @ A[back:]])
        back *= 2
    return z[:, 0], z[:, 1]


def _share(start=1.0, late=False, inside=False, keep=lambda a: 1 - a, momentum=lambda e, m: e * m):
    """A mutant of `share_of_momentum`."""

    def mutant(alpha, eta):
        m, f, rows = start, 0.0, []
        for alpha_t, eta_t in zip(alpha, eta, strict=True):
            before, m = m, momentum(eta_t, m)
            f = keep(alpha_t) * (f + m) if inside else keep(alpha_t) * f + (before if late else m)
            rows.append(torch.as_tensor(f, dtype=alpha.dtype))
        return torch.stack(rows)

    return mutant


EXERCISES = (
    Exercise(
        name="08.1",
        title="How much S₀ is in M",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=share_of_momentum,
        cases=_share_cases,
        mutants={
            "one token late": (
                _share(late=True),
                "You add the momentum of the token before. S_t is updated first, then M_t takes it: m first, then f.",
            ),
            "decayed at once": (
                _share(inside=True),
                "You let α decay the momentum that arrives with this very token. M is decayed first, then S_t is "
                "added as it is.",
            ),
            "b for f": (
                lambda alpha, eta: torch.cumprod(1 - alpha, 0),
                "That is b, what is left of M₀ in M. f asks for S₀, which is not in M at first: it flows in, by m_t at "
                "each token, and fades from then on.",
            ),
            "m for f": (
                lambda alpha, eta: torch.cumprod(eta, 0),
                "That is m, what is left of S₀ in S. At every token m_t is added to the book as well, and f is what "
                "has gathered there.",
            ),
            "η alone": (
                _share(momentum=lambda e, m: e),
                "You add η_t where m_t belongs: after t tokens the product of all η so far is left of S₀.",
            ),
            "forgets the rest": (
                _share(keep=lambda a: a),
                "You keep the share α. α is what is forgotten; 1 − α stays.",
            ),
            "a sum": (
                _share(keep=lambda a: 1.0),
                "You sum the m_t, as if nothing were forgotten. What arrived earlier decays by 1 − α_t.",
            ),
        },
        hints=(
            "Two numbers are carried: m, how much of S₀ is left in S, and f, how much of it is in M.",
            "m = η_t m comes first. Start with m = 1 and f = 0.",
            "Then f = (1 − α_t) f + m, collected for every t: torch.stack(rows).",
        ),
        why="f obeys the rule of M, with m in the place of S: numbers instead of matrices.",
    ),
    Exercise(
        name="08.2",
        title="One scan for memory and momentum",
        difficulty="hard",
        minutes=15,
        points=3,
        solution=scan_both,
        cases=_scan_cases,
        mutants={
            "order": (
                _scan_order,
                "Your products of matrices stand in the wrong order. The later token acts last, so it stands on the "
                "left: A[back:] @ A[:-back].",
            ),
            "α on S": (
                _scan(fades=lambda alpha: 1 - alpha),
                "You let α fade the momentum as well. The second row of a token's matrix is (0, η).",
            ),
            "momentum late": (
                _scan(late=True),
                "Your M takes the momentum of the token before. M_t = (1−α) M_{t−1} + S_t, and S_t contains η S_{t−1} "
                "and this token's own write: both rows add −w.",
            ),
            "M misses its own write": (
                _scan(own=False),
                "This guest's own slip does not reach your M. M_t takes the whole of S_t, so −w is added to both rows.",
            ),
            "momentum not faded": (
                _scan(fresh=True),
                "Your M takes S_{t−1} before η has faded it. S_t = η S_{t−1} − w comes first, so the first row of the "
                "matrix is (1−α, η).",
            ),
            "sign": (
                _scan(sign=1.0),
                "The sign: a write is subtracted, from S and so from M.",
            ),
            "no forgetting": (
                _scan(keep=lambda alpha: 1.0),
                "Your M forgets nothing. Its own share in the first row is 1 − α.",
            ),
            "swapped": (
                lambda alpha, eta, w: scan_both(alpha, eta, w)[::-1],
                "Right, in the other order: first M, then S.",
            ),
            "the forget share": (
                _scan(keep=lambda alpha: alpha),
                "You keep the share α of the memory. α is what is forgotten; 1 − α stays.",
            ),
            "one round": (
                _scan(neighbours=True),
                "You look one token back only. After one round an entry stands for two tokens: double the distance "
                "and go on until it reaches the first token.",
            ),
        },
        hints=(
            "Step 1: what does one token do to the pair (M, S)? Four numbers, A = [[1−α, η], [0, η]], and it adds −w "
            "to both.",
            "Step 2: two tokens in a row are one: (A₂ A₁, z₂ + A₂ z₁). The later one stands on the left.",
            "Step 3: double the distance. z = cat([z[:back], z[back:] + A[back:] @ z[:-back]]), then A likewise.",
        ),
        why="What is linear in its state can be scanned, a pair of states too. The rows of G are such products.",
    ),
    Exercise(
        name="08.3",
        title="A masked read",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=masked_read,
        cases=_read_cases,
        mutants={
            "no weights": (
                lambda q, k, s, G, b, f, M, S: b[:, None] * (q @ M) + f[:, None] * (q @ S) - (q @ k.T).tril() @ s,
                "Your mask is causal, but every write counts fully. Multiply the scores by G: it is the mask.",
            ),
            "sees the future": (
                lambda q, k, s, G, b, f, M, S: b[:, None] * (q @ M) + f[:, None] * (q @ S) - (q @ k.T) @ s,
                "There is no mask: queries read writes that come after them. Multiply the scores by G.",
            ),
            "sign": (
                lambda q, k, s, G, b, f, M, S: masked_read(q, k, -s, G, b, f, M, S),
                "The sign: token j writes −k_jᵀ s_j, so the sum over the scores is subtracted.",
            ),
            "Gᵀ": (
                lambda q, k, s, G, b, f, M, S: masked_read(q, k, s, G.mT, b, f, M, S),
                "Your weights are Gᵀ: a query then reads the writes that come after it. Row t of G belongs to query t, "
                "so G stays as it is.",
            ),
            "the errors' side": (
                lambda q, k, s, G, b, f, M, S: b[:, None] * (q @ M) + f[:, None] * (q @ S) - ((q @ s.T) * G) @ k,
                "You compare the question with what the slips say. Compare it with their names, q @ k.T; what is added "
                "up is s.",
            ),
            "M never fades": (
                lambda q, k, s, G, b, f, M, S: masked_read(q, k, s, G, torch.ones_like(b), f, M, S),
                "The old book answers as if nothing had been forgotten since. What is left of it for guest t is b_t.",
            ),
            "softmax": (
                lambda q, k, s, G, b, f, M, S: (
                    b[:, None] * (q @ M) + f[:, None] * (q @ S) - (torch.softmax(q @ k.T, -1) * G) @ s
                ),
                "You put the scores through a softmax. A matrix memory is linear: the scores count as they are.",
            ),
            "no momentum": (
                lambda q, k, s, G, b, f, M, S: masked_read(q, k, s, G, b, 0 * f, M, S),
                "The momentum at the chunk's start is missing: f_t · q_t S₀.",
            ),
            "scores transposed": (
                lambda q, k, s, G, b, f, M, S: (
                    masked_read(k, q, s, G, b, f, M, S) + b[:, None] * ((q - k) @ M) + f[:, None] * ((q - k) @ S)
                ),
                "Your scores are transposed: rows are queries, columns are keys, q @ k.T.",
            ),
        },
        hints=(
            "Three parts: what is left of M₀, what came in from S₀, and the writes of this chunk.",
            "The scores are (q @ k.T) * G, shape (C, C); they weigh the rows of s.",
            "b and f belong to rows: b[:, None] * (q @ M).",
        ),
        why="q_t (k_jᵀ s_j) = (q_t·k_j) s_j: the matrix in the middle is never needed.",
    ),
    Exercise(
        name="08.4",
        title="A coach in two calls",
        difficulty="medium",
        minutes=8,
        points=2,
        solution=part_of_a_coach,
        cases=_coach_cases,
        mutants={
            "a new coach each call": (
                _coach(start=0),
                "You begin a new coach with each call. The guests who still sit in the old one asked its anchor: go on "
                "counting seats from `position`.",
            ),
            "the queue": (
                _coach(follow=True),
                "Your anchor follows M at every guest: that is the queue, a coach of one. It moves at seat 0 only.",
            ),
            "one anchor": (
                _coach_once,
                "You never take a new anchor. When a coach is full, the next one asks the book as it is then.",
            ),
            "one seat late": (
                _coach(refresh=1),
                "You take the anchor at the second seat. The first guest of a coach asks the new book too: look at the "
                "position before you count the guest.",
            ),
            "seats without end": (
                _coach(seats=True),
                "The book is right, but your position runs past the coach: the seat after the last is seat 0.",
            ),
        },
        hints=(
            "A call may begin in the middle of a coach. Which book did the guests in front ask?",
            "The position counts seats: take a new anchor where it is 0, whoever calls.",
            "position = (position + 1) % C at the end of each guest; the anchor that came in is used until it is 0.",
        ),
        why="A state is all that the next call needs: the book, the anchor, the momentum and the position.",
    ),
    Exercise(
        name="08.5",
        title="The same guest, C times",
        difficulty="medium",
        minutes=6,
        points=1,
        solution=error_left,
        cases=_left_cases,
        mutants={
            "no 2": (
                lambda C, theta: (1 - theta * C, (1 - theta) ** C),
                "The factor 2 of the square is missing: one visit takes the share 2θ of the error.",
            ),
            "swapped": (
                lambda C, theta: ((1 - 2 * theta) ** C, 1 - 2 * theta * C),
                "Right, in the other order: first the coach, where all C corrections answer the same error.",
            ),
            "twice the queue": (
                lambda C, theta: ((1 - 2 * theta) ** C, (1 - 2 * theta) ** C),
                "You let the coach look at the book between two visits. All C of them see the error at the anchor.",
            ),
            "the share learned": (
                lambda C, theta: (2 * theta * C, 1 - (1 - 2 * theta) ** C),
                "That is the share that the book has learned. What is left is 1 minus that.",
            ),
            "the size": (
                lambda C, theta: ((1 - 2 * theta * C).abs(), ((1 - 2 * theta) ** C).abs()),
                "That is the size of the error. Keep its sign: below 0 the book says too much.",
            ),
        },
        hints=(
            "One visit changes the answer to this key by 2θ times the error that it sees (the key has length 1).",
            "In the queue each visit sees the error that the visit before has left: a power.",
            "In the coach all C see the first error: 1 − 2θ, then −2θ again and again.",
        ),
        why="1 − 2θC leaves [−1, 1] where θC exceeds 1: the coach shoots past, and the next one further.",
    ),
)
