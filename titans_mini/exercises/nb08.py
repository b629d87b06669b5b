"""Exercises of notebook 08: the share of S₀, a masked read, the end of a chunk, and the triangular system."""

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


def end_of_chunk(k, s, alpha, eta, M, S):
    """Memory and momentum after the chunk: k, s (C, D), gates (C,), its start M, S (D, D) -> M_C, S_C."""
    c = coefficients(alpha, eta)
    M_C = c.b[-1] * M + c.f[-1] * S - k.T @ (c.G[-1][:, None] * s)
    S_C = c.m[-1] * S - k.T @ (c.n[-1][:, None] * s)
    return M_C, S_C


def online_writes(k, wrong, theta, G_before):
    """Solve the online rule: k, wrong (C, D), theta (C,), G_before (C, C), rows of t−1 -> s (C, D)."""
    step = 2 * theta[:, None]
    system = torch.eye(len(k), dtype=k.dtype) + step * (k @ k.T) * G_before
    return torch.linalg.solve_triangular(system, step * wrong, upper=False)


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


def _end_cases(seed):
    randn = _randn(seed)
    return [(randn(C, D), randn(C, D), *_gates(seed + C, C), randn(D, D), randn(D, D)) for C, D in SIZES]


def _online_cases(seed):
    randn, cases = _randn(seed), []
    for C, D in SIZES:
        G = coefficients(*_gates(seed + C, C)).G
        G_before = torch.cat([torch.zeros_like(G[:1]), G[:-1]])
        theta = 0.1 + 0.1 * torch.arange(C, dtype=torch.float64)
        cases.append((randn(C, D), randn(C, D), theta, G_before))
    return cases


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


def _end(write=-1.0, S_keeps="m", row=-1, column=False, S_row="n"):
    """A mutant of `end_of_chunk`."""

    def mutant(k, s, alpha, eta, M, S):
        c = coefficients(alpha, eta)
        to_M, to_S = (x[:, row] if column else x[row] for x in (c.G, getattr(c, S_row)))
        M_C = c.b[row] * M + c.f[row] * S + write * k.T @ (to_M[:, None] * s)
        return M_C, getattr(c, S_keeps)[row] * S + write * k.T @ (to_S[:, None] * s)

    return mutant


def _online(factor=2.0, columns=False, sign=1.0, coupled=True):
    """A mutant of `online_writes`."""

    def mutant(k, wrong, theta, G_before):
        step = factor * (theta[None, :] if columns else theta[:, None])
        coupling = step * (k @ k.T) * G_before if coupled else torch.zeros_like(G_before)
        system = torch.eye(len(k), dtype=k.dtype) + sign * coupling
        return torch.linalg.solve_triangular(system, 2 * theta[:, None] * wrong, upper=False)

    return mutant


EXERCISES = (
    Exercise(
        name="08.1",
        title="How much S₀ is in M",
        difficulty="medium",
        minutes=10,
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
        name="08.3",
        title="The end of a chunk",
        difficulty="medium",
        minutes=12,
        points=2,
        solution=end_of_chunk,
        cases=_end_cases,
        mutants={
            "first column": (
                _end(row=-1, column=True),
                "You weigh the writes with a column of G and n. What is there after the last token is the last row.",
            ),
            "first row": (
                _end(row=0),
                "You took the first row: that is the memory after one token. The end is row −1, of b, f and m too.",
            ),
            "S forgets": (
                _end(S_keeps="b"),
                "S₀ fades by η alone: c.m[-1]. b holds the decay of M.",
            ),
            "G for S": (
                _end(S_row="G"),
                "You weigh the writes of the momentum with G. That is how much is in M; for S it is n.",
            ),
            "sign": (
                _end(write=1.0),
                "The sign: each write goes down, −k_jᵀ s_j.",
            ),
        },
        hints=(
            "After the last token the last rows count: c.b[-1], c.f[-1], c.G[-1] for M; c.m[-1], c.n[-1] for S.",
            "A weighted sum of outer products is one product: k.T @ (weights[:, None] * s).",
            "M_C = c.b[-1] * M + c.f[-1] * S − …, and S_C = c.m[-1] * S − … with c.n[-1].",
        ),
        why="Only the last row is needed: of C memories one is built.",
    ),
    Exercise(
        name="08.4",
        title="The online rule in one solve",
        difficulty="hard",
        minutes=20,
        points=4,
        solution=online_writes,
        cases=_online_cases,
        mutants={
            "anchored": (
                _online(coupled=False),
                "You leave out the other writes of the chunk, as the anchored rule does. Solve with "
                "I + diag(2θ) (K Kᵀ ∘ G₋).",
            ),
            "factor 2": (
                _online(factor=1.0),
                "A factor 2 is missing in the matrix: it comes from the square, on both sides of the equation.",
            ),
            "columns": (
                _online(columns=True),
                "θ multiplies the columns of your matrix. Equation t carries θ_t: it belongs to rows, theta[:, None].",
            ),
            "sign": (
                _online(sign=-1.0),
                "The sign in the matrix: earlier writes make the error smaller, so on the left they are added.",
            ),
        },
        hints=(
            "Row t says: s_t + 2θ_t Σ_{j<t} G₋[t, j] (k_t·k_j) s_j = 2θ_t wrong_t.",
            "system = eye + 2θ[:, None] * (k @ k.T) * G_before is unit lower triangular: G₋ is strictly lower.",
            "torch.linalg.solve_triangular(system, 2θ[:, None] * wrong, upper=False).",
        ),
        why="Errors of a linear memory are linear in earlier writes, so all C of them are one triangular solve.",
    ),
)
