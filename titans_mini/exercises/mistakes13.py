"""What people write in the puzzles of notebook 13: kernels of the stand-in; `flag` says which mistake is made."""

from titans_mini.kernels.emulator import tl


def scaled(flag):
    """Make a mutant of puzzle 1."""

    def mutant(e, theta, s, T, D, BT, BD):
        t, d = (0 if flag == "same rows" else tl.program_id(0)) * BT + tl.arange(0, BT), tl.arange(0, BD)
        rows, columns = (t < T) | (flag == "rows"), (d < D) | (flag == "columns")
        inside = rows[:, None] & columns[None, :]
        place = t[:, None] * (BD if flag == "stride" else D) + d[None, :]
        step = (1.0 if flag == "two" else 2.0) * tl.load(theta + t, mask=rows, other=0.0)
        value = step[:, None] * tl.load(e + place, mask=inside, other=0.0)
        tl.store(s + place, value, mask=inside)

    return mutant


def decayed(flag):
    """Make a mutant of puzzle 2."""

    def mutant(alpha, b, T, C):
        kept, first = 1.0, tl.program_id(0) * C
        for t in range(first, first + C):
            if flag in ("again", "everything"):
                kept = 1.0
            for j in range(0 if flag == "everything" else first if flag == "again" else t, t + 1):
                a = tl.load(alpha + j, mask=j < T, other=0.0)
                before, kept = kept, kept * (a if flag == "forget" else 1.0 - a)
            tl.store(b + t, before if flag == "before" else kept, mask=t < T)

    return mutant


def ended(flag):
    """Make a mutant of puzzle 3."""

    def mutant(k, s, g, b, M, M_next, C, D, BC, BD):
        r, d = tl.arange(0, BC), tl.arange(0, BD)
        rows, square = r[:, None] * D + d[None, :], d[:, None] * D + d[None, :]
        there, inside = (r < C)[:, None] & (d < D)[None, :], (d < D)[:, None] & (d < D)[None, :]
        K, s = tl.load(k + rows, mask=there), tl.load(s + rows, mask=there)
        weights = tl.load(g + r, mask=r < C)[:, None]
        if flag == "twice":
            K = tl.load(k + rows, mask=there)
        write = tl.dot(tl.trans(K), s if flag == "plain" else weights * s)
        write = tl.trans(write) if flag == "transposed" else -write if flag == "sign" else write
        kept = tl.load(M + square, mask=inside)
        tl.store(M_next + square, (1.0 if flag == "kept" else tl.load(b)) * kept - write, mask=inside)

    return mutant


def chained(flag):
    """Make a mutant of puzzle 4."""

    def mutant(k, v, w, b, M, M_end, nc, C, D, BD):
        r, d = tl.arange(0, C), tl.arange(0, BD)
        square, inside = d[:, None] * D + d[None, :], (d < D)[:, None] & (d < D)[None, :]
        there, held = (r >= 0)[:, None] & (d < D)[None, :], tl.load(M + square, mask=inside)
        start = held
        for c in range(nc):
            at = 0 if flag == "first" else c
            rows = (at * C + r)[:, None] * D + d[None, :]
            K, read = tl.load(k + rows, mask=there), start if flag == "anchor" else held
            e = tl.dot(K, read) - tl.load(v + rows, mask=there)
            writes = tl.load(w + at * C + r)[:, None] * (-e if flag == "sign" else e)
            held = tl.load(b + (0 if flag == "one b" else at)) * held - tl.dot(tl.trans(K), writes)
            if flag == "memory" and c + 1 < nc:
                tl.store(M_end + square, held, mask=inside)
                held = tl.load(M_end + square, mask=inside)
        tl.store(M_end + square, held, mask=inside)

    return mutant


def pulled(flag):
    """Make a mutant of puzzle 5."""

    def mutant(dy, k, s, G, b, M, dq, C, D, BC, BD):
        r, d = tl.arange(0, BC), tl.arange(0, BD)
        rows, there = r[:, None] * D + d[None, :], (r < C)[:, None] & (d < D)[None, :]
        dY, K, s = (tl.load(x + rows, mask=there) for x in (dy, k, s))
        mask = tl.load(G + r[:, None] * C + r[None, :], mask=(r < C)[:, None] & (r < C)[None, :])
        A = tl.dot(dY, tl.trans(s)) * (tl.trans(mask) if flag == "transposed" else mask)
        A = tl.dot(s, tl.trans(dY)) * mask if flag == "swapped" else A
        W = tl.load(M + d[:, None] * D + d[None, :], mask=(d < D)[:, None] & (d < D)[None, :])
        share = tl.load(b + r, mask=r < C)[:, None] * (0.0 if flag == "writes" else 1.0)
        out = share * tl.dot(dY, W if flag == "M" else tl.trans(W))
        tl.store(dq + rows, out + tl.dot(A, K) if flag == "sign" else out - tl.dot(A, K), mask=there)

    return mutant
