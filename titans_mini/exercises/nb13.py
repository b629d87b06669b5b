"""Five puzzles of notebook 13: kernels, each checked for its numbers and for the bytes that it moves.

A puzzle is solved when the numbers are right and every number is moved once. Inputs and outputs lie between NaN, so
that reading or writing beside a tensor shows.
"""

import torch

from titans_mini.exercises import Exercise
from titans_mini.exercises.mistakes13 import chained, decayed, ended, pulled, scaled
from titans_mini.kernels import interpret
from titans_mini.kernels.emulator import tl  # `interpret.start` replaces it by Triton's where Triton runs

GUARD = 64  # numbers before and behind every tensor


def run(fn, grid, inputs, shape, sizes, machine=None):
    """Start a kernel on guarded memory: what it wrote, and what that moved; None where it stored nothing."""
    x = [_guarded(z) for z in (*inputs, torch.full(shape, torch.nan))]
    machine = machine or interpret.machine_for(fn)
    with interpret.recording(machine) as tape:
        interpret.start(fn, grid, *x, *sizes.values(), machine=machine)
    if not tape.bytes("store"):
        return None
    beside = sum(int((~z.isnan()).sum()) for y in x for z in _around(y))
    changed = sum(int((a != b).sum()) for a, b in zip(x, inputs, strict=False))
    return {"output": x[-1], "bytes moved": tape.bytes(), "numbers written beside": beside, "inputs changed": changed}


def _guarded(x):
    whole = torch.full((x.numel() + 2 * GUARD,), torch.nan)
    inside = whole[GUARD:-GUARD].view(x.shape)
    return inside.copy_(x)


def _around(x):
    whole = torch.empty(0).set_(x.untyped_storage())
    return whole[:GUARD], whole[-GUARD:]


def score(outputs):
    """Say what a right kernel moved."""
    return f" Moved: {outputs[-1]['bytes moved']:,} bytes in the last case, and fewer are not possible."


# -- the solutions -----------------------------------------------------------------------------------------------------


def scale_errors(e, theta, s, T, D, BT: tl.constexpr, BD: tl.constexpr):
    """Write s = 2θ ∘ e: e and s (T, D), theta (T,); each program takes BT rows."""
    t, d = tl.program_id(0) * BT + tl.arange(0, BT), tl.arange(0, BD)
    inside = (t < T)[:, None] & (d < D)[None, :]
    place = t[:, None] * D + d[None, :]
    step = 2.0 * tl.load(theta + t, mask=t < T, other=0.0)
    tl.store(s + place, step[:, None] * tl.load(e + place, mask=inside, other=0.0), mask=inside)


def decay(alpha, b, T, C: tl.constexpr):
    """Write b_t, the product of 1 − α from its chunk's first token to t: alpha and b (T,); a program takes a chunk."""
    kept = 1.0
    for i in range(C):
        t = tl.program_id(0) * C + i
        kept = kept * (1.0 - tl.load(alpha + t, mask=t < T, other=0.0))
        tl.store(b + t, kept, mask=t < T)


def end_of_chunk(k, s, g, b, M, M_next, C, D, BC: tl.constexpr, BD: tl.constexpr):
    """Write b M − Kᵀ(g ∘ s): k and s (C, D), g (C,), b (1,), M and M_next (D, D); one program."""
    r, d = tl.arange(0, BC), tl.arange(0, BD)
    rows, square = r[:, None] * D + d[None, :], d[:, None] * D + d[None, :]
    there, inside = (r < C)[:, None] & (d < D)[None, :], (d < D)[:, None] & (d < D)[None, :]
    K = tl.load(k + rows, mask=there, other=0.0)
    writes = tl.load(g + r, mask=r < C, other=0.0)[:, None] * tl.load(s + rows, mask=there, other=0.0)
    kept = tl.load(b) * tl.load(M + square, mask=inside, other=0.0)
    tl.store(M_next + square, kept - tl.dot(tl.trans(K), writes, input_precision="ieee"), mask=inside)


def chain(k, v, w, b, M, M_end, nc, C: tl.constexpr, D, BD: tl.constexpr):
    """Per chunk e = K M − V, M = b M − Kᵀ(w ∘ e): k, v (nc·C, D), w (nc·C,), b (nc,), M and M_end (D, D)."""
    r, d = tl.arange(0, C), tl.arange(0, BD)
    inside, square = (d < D)[:, None] & (d < D)[None, :], d[:, None] * D + d[None, :]
    there = (r >= 0)[:, None] & (d < D)[None, :]
    held = tl.load(M + square, mask=inside, other=0.0)
    for c in range(nc):
        rows = (c * C + r)[:, None] * D + d[None, :]
        K = tl.load(k + rows, mask=there, other=0.0)
        e = tl.dot(K, held, input_precision="ieee") - tl.load(v + rows, mask=there, other=0.0)
        writes = tl.load(w + c * C + r)[:, None] * e
        held = tl.load(b + c) * held - tl.dot(tl.trans(K), writes, input_precision="ieee")
    tl.store(M_end + square, held, mask=inside)


def pull_queries(dy, k, s, G, b, M, dq, C, D, BC: tl.constexpr, BD: tl.constexpr):
    """Write b ∘ (dY Mᵀ) − (dY sᵀ ∘ G) K: dy, k, s, dq (C, D), G (C, C), b (C,), M (D, D); one program."""
    r, d = tl.arange(0, BC), tl.arange(0, BD)
    rows, there = r[:, None] * D + d[None, :], (r < C)[:, None] & (d < D)[None, :]
    dY = tl.load(dy + rows, mask=there, other=0.0)
    S = tl.load(s + rows, mask=there, other=0.0)
    both = (r < C)[:, None] & (r < C)[None, :]
    A = tl.dot(dY, tl.trans(S), input_precision="ieee")
    A = A * tl.load(G + r[:, None] * C + r[None, :], mask=both, other=0.0)
    square, inside = d[:, None] * D + d[None, :], (d < D)[:, None] & (d < D)[None, :]
    M_T = tl.trans(tl.load(M + square, mask=inside, other=0.0))
    out = tl.load(b + r, mask=r < C, other=0.0)[:, None] * tl.dot(dY, M_T, input_precision="ieee")
    out -= tl.dot(A, tl.load(k + rows, mask=there, other=0.0), input_precision="ieee")
    tl.store(dq + rows, out, mask=there)


# -- cases -------------------------------------------------------------------------------------------------------------


def _numbers(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=g), lambda *shape: torch.rand(*shape, generator=g)


def _scale_cases(seed):
    randn, rand = _numbers(seed)
    tiles = {"BT": 4, "BD": 8}
    sizes = ((8, 8), (7, 5), (9, 6))
    return [((-(-T // 4),), [randn(T, D), rand(T)], (T, D), {"T": T, "D": D, **tiles}) for T, D in sizes]


def _decay_cases(seed):
    _, rand = _numbers(seed)
    return [((-(-T // C),), [rand(T)], (T,), {"T": T, "C": C}) for T, C in ((8, 4), (10, 4), (3, 5))]


def _end_cases(seed):
    (randn, rand), cases = _numbers(seed), []
    for C, D in ((16, 16), (9, 6)):
        x = [randn(C, D), randn(C, D), rand(C), rand(1), randn(D, D)]
        cases.append(((1,), x, (D, D), {"C": C, "D": D, "BC": 16, "BD": 16}))
    return cases


def _chain_cases(seed):
    (randn, rand), cases = _numbers(seed), []
    for nc, D in ((2, 16), (3, 7)):
        x = [randn(16 * nc, D), randn(16 * nc, D), 0.1 * rand(16 * nc), rand(nc), randn(D, D)]
        cases.append(((1,), x, (D, D), {"nc": nc, "C": 16, "D": D, "BD": 16}))
    return cases


def _pull_cases(seed):
    (randn, rand), cases = _numbers(seed), []
    for C, D in ((16, 16), (11, 5)):
        x = [randn(C, D), randn(C, D), randn(C, D), rand(C, C).tril(), rand(C), randn(D, D)]
        cases.append(((1,), x, (C, D), {"C": C, "D": D, "BC": 16, "BD": 16}))
    return cases


def _puzzle(number, title, effort, solution, cases, make, mistakes, hints, why):
    """One card: effort is difficulty, minutes and points; mistakes go from flag to diagnosis."""
    mutants = {flag: (make(flag), message) for flag, message in mistakes.items()}
    difficulty, minutes, points = effort
    return Exercise(
        name=f"13.{number}",
        title=title,
        difficulty=difficulty,
        minutes=minutes,
        points=points,
        solution=solution,
        cases=cases,
        mutants=mutants,
        hints=hints,
        why=why,
        tolerance=1e-5,
        run=run,
        note=score,
    )


EXERCISES = (
    _puzzle(
        1, "Blocks and masks", ("medium", 12, 2), scale_errors, _scale_cases, scaled,
        {
            "same rows": "Every program takes the first BT rows. Add tl.program_id(0) * BT to the row numbers.",
            "two": "The factor 2 is missing: s = 2θ ∘ e.",
            "rows": "The last block hangs over the end: mask the rows, t < T, in every load and in the store.",
            "columns": "A tile is BD wide, a row only D: mask the columns, d < D, or you reach into the next row.",
            "stride": "Rows lie D numbers apart in memory, not BD: place = t · D + d. The tile's width is no distance.",
        },
        (
            "Row numbers: t = tl.program_id(0) * BT + tl.arange(0, BT). Columns: d = tl.arange(0, BD).",
            "Places: t[:, None] * D + d[None, :]. Mask: (t < T)[:, None] & (d < D)[None, :], for load and store.",
            "theta has one number a row: load it with mask t < T and multiply with [:, None].",
        ),
        "Each number comes once and leaves once: 4 · (2TD + T) bytes.",
    ),
    _puzzle(
        2, "The decay of a chunk", ("medium", 12, 2), decay, _decay_cases, decayed,
        {
            "again": "Right numbers, too many bytes: you load a chunk's first gates again for every token. Keep the "
            "product in a variable.",
            "everything": "Your product begins at the first token of the sequence. b begins anew in every chunk.",
            "forget": "You multiply α. What stays is 1 − α.",
            "before": "You store the product before this token's gate is in it. b_t includes token t.",
        },
        (
            "A program is one chunk; its tokens are t = tl.program_id(0) * C + i for i in range(C).",
            "Keep the product: kept = kept * (1 − α_t), one load a token, and mask=t < T, other=0.0.",
        ),
        "What the next step needs stays in a register: 4 · 2T bytes.",
    ),
    _puzzle(
        3, "The end of a chunk", ("medium", 15, 3), end_of_chunk, _end_cases, ended,
        {
            "twice": "Right numbers, too many bytes: K is loaded twice. tl.trans turns a tile that is already here.",
            "plain": "The weights g are missing: every write counts fully, as if nothing were forgotten.",
            "transposed": "Your write is transposed: rows of M belong to keys, Kᵀ (g ∘ s).",
            "sign": "The sign: writes are subtracted.",
            "kept": "M is not decayed: multiply it by b.",
        },
        (
            "Two masks: (r < C) & (d < D) for rows of tokens, (d < D) & (d < D) for M.",
            "writes = g[:, None] * s, then tl.dot(tl.trans(K), writes, input_precision=\"ieee\").",
            "b is one number: tl.load(b).",
        ),
        "One product, and each tile comes once: 4 · (2CD + C + 1 + 2D²) bytes.",
    ),
    _puzzle(
        4, "The chain", ("hard", 20, 4), chain, _chain_cases, chained,
        {
            "memory": "Right numbers, too many bytes: M goes to memory and back after every chunk. Hold it in a "
            "variable from the first chunk to the last.",
            "first": "Every round takes the first chunk. Its rows are c * C + r.",
            "one b": "Every chunk has its own b: tl.load(b + c).",
            "anchor": "Every chunk reads the M that the sequence began with. The anchor moves on with each chunk.",
            "sign": "The sign of e: what memory answers minus what it should, K M − V.",
        },
        (
            "Load M once before the loop, store it once after it.",
            "In the loop: e = tl.dot(K, held) − V, then held = b_c · held − tl.dot(tl.trans(K), w[:, None] * e).",
        ),
        "The state never leaves the program: 2D² numbers for a whole sequence, instead of 2D² a chunk.",
    ),
    _puzzle(
        5, "The way back through a read", ("hard", 20, 4), pull_queries, _pull_cases, pulled,
        {
            "transposed": "G is transposed. Query t reads writes j ≤ t: rows are queries, going back as well.",
            "swapped": "You took s dYᵀ. Rows are queries: dY sᵀ.",
            "writes": "The memory at the chunk's start is missing: b ∘ (dY Mᵀ).",
            "M": "M is not transposed: y = q M pulls dY back by Mᵀ.",
            "sign": "The sign: the writes were subtracted in y, so they are here.",
        },
        (
            "y = b ∘ (q M) − (q Kᵀ ∘ G) s is linear in q: what multiplies q from the right comes back transposed.",
            "A = tl.dot(dY, tl.trans(s)) * G, then b[:, None] * tl.dot(dY, tl.trans(M)) − tl.dot(A, K).",
        ),
        "The scores are made again and not fetched: 4 · (4CD + C² + C + D²) bytes.",
    ),
)  # fmt: skip
