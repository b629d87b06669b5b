"""Exercises of notebook 09: the triangular system, two backward passes by hand, and a predicted curve of costs."""

import torch

from titans_mini.exercises import Exercise
from titans_mini.memory.gates import coefficients


def online_writes(k, wrong, theta, G_before):
    """Solve the online rule: k, wrong (C, D), theta (C,), G_before (C, C), rows of t−1 -> s (C, D)."""
    step = 2 * theta[:, None]
    system = torch.eye(len(k), dtype=k.dtype) + step * (k @ k.T) * G_before
    return torch.linalg.solve_triangular(system, step * wrong, upper=False)


def writes_backward(k, v, theta, M, ds):
    """Back through s = 2θ (k M − v): k, v (C, D), theta (C,), M (D, D), ds (C, D) -> dk, dv, dtheta, dM."""
    error = k @ M - v
    d_error = 2 * theta[:, None] * ds
    dtheta = (2 * error * ds).sum(-1)
    return d_error @ M.mT, -d_error, dtheta, k.mT @ d_error


def times_attention(T, D, C):
    """Operations per token of attention over those of chunks of a matrix: lengths T (N,), width D, chunk C -> (N,)."""
    return 2 * T * D / (10 * D**2 + 4 * C * D)


def solve_backward(A, r, ds):
    """Back through s = A⁻¹ r: A (C, C) unit lower triangular, r, ds (C, D) -> dA (C, C), strictly lower, and dr."""
    s = torch.linalg.solve_triangular(A, r, upper=False, unitriangular=True)
    dr = torch.linalg.solve_triangular(A.mT, ds, upper=True, unitriangular=True)
    return (-dr @ s.mT).tril(-1), dr


SIZES = ((3, 2), (4, 3), (5, 4))  # (C, D)


def _randn(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)


def _gates(seed, C):
    g = torch.Generator().manual_seed(100 + seed)
    alpha, eta = 0.1 + 0.8 * torch.rand(2, C, generator=g, dtype=torch.float64)
    return alpha, eta


def _online_cases(seed):
    randn, cases = _randn(seed), []
    for C, D in SIZES:
        G = coefficients(*_gates(seed + C, C)).G
        G_before = torch.cat([torch.zeros_like(G[:1]), G[:-1]])
        theta = 0.1 + 0.1 * torch.arange(C, dtype=torch.float64)
        cases.append((randn(C, D), randn(C, D), theta, G_before))
    return cases


def _writes_cases(seed):
    randn, cases = _randn(seed), []
    for C, D in SIZES:
        theta = 0.1 + 0.1 * torch.arange(C, dtype=torch.float64)
        cases.append((randn(C, D), randn(C, D), theta, randn(D, D), randn(C, D)))
    return cases


def _times_cases(seed):
    T = 512.0 * 2 ** torch.arange(8, dtype=torch.float64)
    return [(T, 64, 64), (T, 32 + seed, 16), (T, 128, 64)]


def _solve_cases(seed):
    randn, cases = _randn(seed), []
    for C, D in SIZES:
        A = torch.eye(C, dtype=torch.float64) + 0.5 * randn(C, C).tril(-1)
        cases.append((A, randn(C, D), randn(C, D)))
    return cases


def _online(factor=2.0, right=2.0, columns=False, sign=1.0, coupled=True):
    """A mutant of `online_writes`."""

    def mutant(k, wrong, theta, G_before):
        step = factor * (theta[None, :] if columns else theta[:, None])
        coupling = step * (k @ k.T) * G_before if coupled else torch.zeros_like(G_before)
        system = torch.eye(len(k), dtype=k.dtype) + sign * coupling
        return torch.linalg.solve_triangular(system, right * theta[:, None] * wrong, upper=False)

    return mutant


def _writes(part=None, value=None):
    """A mutant of `writes_backward`: one of its four results replaced by `value(k, v, theta, M, ds)`."""

    def mutant(k, v, theta, M, ds):
        found = list(writes_backward(k, v, theta, M, ds))
        found[part] = value(k, v, theta, M, ds)
        return tuple(found)

    return mutant


def _no_two(k, v, theta, M, ds):
    return tuple(x / 2 for x in writes_backward(k, v, theta, M, ds))


def _solve(transposed=True, sign=-1.0, lower=True, by_r=False):
    """A mutant of `solve_backward`."""

    def mutant(A, r, ds):
        s = torch.linalg.solve_triangular(A, r, upper=False, unitriangular=True)
        dr = torch.linalg.solve_triangular(A.mT if transposed else A, ds, upper=transposed, unitriangular=True)
        dA = sign * dr @ (r if by_r else s).mT
        return dA.tril(-1) if lower else dA, dr

    return mutant


EXERCISES = (
    Exercise(
        name="09.1",
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
                "I + diag(2θ) (K Kᵀ ∘ G₋), which is a lower triangle: upper=False.",
            ),
            "the missing 2": (
                _online(factor=1.0, right=1.0),
                "The 2 is missing, on both sides: the gradient of a square is twice the error, so each θ comes as 2θ.",
            ),
            "the missing 2, left": (
                _online(factor=1.0),
                "A factor 2 is missing in the matrix: it comes from the square, on both sides of the equation.",
            ),
            "the missing 2, right": (
                _online(right=1.0),
                "A factor 2 is missing on the right: s_t = 2θ_t (k_t M − v_t), so the right-hand side is 2θ wrong.",
            ),
            "G₋ᵀ": (
                lambda k, wrong, theta, G_before: torch.linalg.solve(
                    torch.eye(len(k), dtype=k.dtype) + 2 * theta[:, None] * (k @ k.T) * G_before.mT,
                    2 * theta[:, None] * wrong,
                ),
                "Your G₋ is transposed: each error then waits for the writes after it. Row t of G₋ belongs to error t.",
            ),
            "columns": (
                _online(columns=True),
                "θ multiplies the columns of your matrix. Equation t carries θ_t: it belongs to rows, theta[:, None].",
            ),
            "no θ on the left": (
                lambda k, wrong, theta, G_before: torch.linalg.solve_triangular(
                    torch.eye(len(k), dtype=k.dtype) + 2 * (k @ k.T) * G_before,
                    2 * theta[:, None] * wrong,
                    upper=False,
                ),
                "θ is missing in the matrix. The whole error of guest t is multiplied by 2θ_t, also the part that "
                "comes from earlier slips.",
            ),
            "no names": (
                lambda k, wrong, theta, G_before: torch.linalg.solve_triangular(
                    torch.eye(len(k), dtype=k.dtype) + 2 * theta[:, None] * G_before,
                    2 * theta[:, None] * wrong,
                    upper=False,
                ),
                "You forgot how much the names sound alike: G₋ is multiplied by (K Kᵀ), entry by entry.",
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
    Exercise(
        name="09.2",
        title="A gradient that stops halfway",
        difficulty="medium",
        minutes=12,
        points=2,
        solution=writes_backward,
        cases=_writes_cases,
        mutants={
            "the anchor as a constant": (
                lambda k, v, theta, M, ds: (0 * k, -2 * theta[:, None] * ds, (2 * (k @ M - v) * ds).sum(-1), 0 * M),
                "Keys and book get nothing, as if the anchor's answer kM were a constant. It is a product of two "
                "arguments, and sends a share to each.",
            ),
            "M left out": (
                _writes(3, lambda k, v, theta, M, ds: torch.zeros_like(M)),
                "The book gets no gradient. The errors were taken at the anchor, so it has a share in them: one outer "
                "product per token, summed.",
            ),
            "k left out": (
                _writes(0, lambda k, v, theta, M, ds: torch.zeros_like(k)),
                "The keys get no gradient. They were asked of the book: k M, so dk comes back through Mᵀ.",
            ),
            "the wrong sign": (
                lambda k, v, theta, M, ds: tuple(
                    x * sign for x, sign in zip(writes_backward(k, v, theta, M, ds), (-1, 1, 1, -1), strict=True)
                ),
                "The sign of dk and dM: in the error kM − v the product stands with a plus.",
            ),
            "the step left out": (
                lambda k, v, theta, M, ds: (ds @ M.mT, *writes_backward(k, v, theta, M, ds)[1:3], k.mT @ ds),
                "On the way from ds to kM there is a factor 2θ, the same that dv has already.",
            ),
            "M not transposed": (
                _writes(0, lambda k, v, theta, M, ds: 2 * theta[:, None] * ds @ M),
                "dk goes through M itself. The way back is the transpose: d_error @ M.mT.",
            ),
            "v with the wrong sign": (
                _writes(1, lambda k, v, theta, M, ds: 2 * theta[:, None] * ds),
                "The sign of dv: the error is kM − v.",
            ),
            "dM transposed": (
                _writes(3, lambda k, v, theta, M, ds: (2 * theta[:, None] * ds).mT @ k),
                "Your dM is transposed: the book is letters by hooks, so the key comes first, k.mT @ d_error.",
            ),
            "θ of the write": (
                _writes(2, lambda k, v, theta, M, ds: (2 * theta[:, None] * (k @ M - v) * ds).sum(-1)),
                "Your dθ still contains θ. The write is θ times 2(kM − v); its derivative is that factor alone.",
            ),
            "no 2": (
                _no_two,
                "The 2 of the square is missing: s = 2θ(kM − v) has it, so its gradient has it too.",
            ),
        },
        hints=(
            "Four things enter s = 2θ(kM − v). Which of them still get nothing?",
            "With d_error = 2θ ds: v gets −d_error, and k M is a product like any other.",
            "dk = d_error @ M.mT, dM = k.mT @ d_error, dθ = the sum over D of 2(kM − v) ds.",
        ),
        why="This path, through the errors into the anchor, carries the blame for the answers of the old book.",
    ),
    Exercise(
        name="09.3",
        title="Back through the solve",
        difficulty="hard",
        minutes=15,
        points=3,
        solution=solve_backward,
        cases=_solve_cases,
        mutants={
            "not transposed": (
                _solve(transposed=False),
                "You solve with A again. Backwards, the last error waits for nobody: the system is Aᵀ, upper.",
            ),
            "sign": (
                _solve(sign=1.0),
                "The sign of dA: A s = r stays true, so a larger A makes a smaller s. dA = −dr sᵀ.",
            ),
            "the whole square": (
                _solve(lower=False),
                "dA has entries above the diagonal or on it. Nothing was read there: keep the strictly lower part.",
            ),
            "the diagonal too": (
                lambda A, r, ds: (
                    (-solve_backward(A, r, ds)[1] @ torch.linalg.solve(A, r).mT).tril(),
                    solve_backward(A, r, ds)[1],
                ),
                "dA has entries on the diagonal. The ones there are fixed, A is read strictly below: tril(-1).",
            ),
            "ds for dr": (
                lambda A, r, ds: (
                    (-ds @ torch.linalg.solve_triangular(A, r, upper=False, unitriangular=True).mT).tril(-1),
                    solve_backward(A, r, ds)[1],
                ),
                "You put ds into dA. The gradient reaches A after it has come through the solve: dA = −dr sᵀ.",
            ),
            "dA transposed": (
                lambda A, r, ds: (
                    (
                        -torch.linalg.solve_triangular(A, r, upper=False, unitriangular=True)
                        @ solve_backward(A, r, ds)[1].mT
                    ).tril(-1),
                    solve_backward(A, r, ds)[1],
                ),
                "Your dA is transposed: entry (t, j) of A took s_j into equation t, so it is −dr_t · s_j, dA = −dr sᵀ.",
            ),
            "r for s": (
                _solve(by_r=True),
                "You multiply dr by r. The matrix met the solution s, so dA = −dr sᵀ.",
            ),
        },
        hints=(
            "Step 1: solve for s once more, it is cheap. Step 2: dr solves Aᵀ dr = ds.",
            "Step 3: differentiate A s = r on both sides: dA s + A ds = 0, which makes dA = −dr sᵀ.",
            "Step 4: A was read strictly below its diagonal only: .tril(-1).",
        ),
        why="Two solves and one outer product; no inverse and no chain of C steps.",
    ),
    Exercise(
        name="09.4",
        title="Operations, as a curve",
        difficulty="easy",
        minutes=5,
        points=1,
        solution=times_attention,
        cases=_times_cases,
        mutants={
            "upside down": (
                lambda T, D, C: (10 * D**2 + 4 * C * D) / (2 * T * D),
                "Upside down: attention's operations belong above the line.",
            ),
            "the whole square": (
                lambda T, D, C: 4 * T * D / (10 * D**2 + 4 * C * D),
                "You count the whole square of scores. The mask leaves half of it, 2TD per token.",
            ),
            "no scores": (
                lambda T, D, C: 2 * T * D / (10 * D**2 + 0 * T),
                "The chunk has scores as well, a small square of its own: 4CD.",
            ),
            "all tokens": (
                lambda T, D, C: 2 * T**2 * D / (10 * D**2 + 4 * C * D),
                "You count attention for all tokens and the chunk for one. Both per token, please.",
            ),
        },
        hints=(
            "Per token: attention 2TD, half of the square because of the mask; the chunk 10D² + 4CD.",
            "Their ratio is a straight line through 0 as a function of T.",
        ),
        why="The line crosses 1 at T = 5D + 2C: from there on the chunk has less to compute.",
    ),
)
