"""The bars, as data: what has to hold, by how much, and how its number is read off the rows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks.cases import AT_START, EVERY_CHUNK, LAYER, PASSES, PER_CHUNK, PER_TOKEN

WORDS = {"forward": "forward", "both": "forward+backward"}
CHUNK_SIZES = (8, 16, 32, 64, 128, 256)


class Missing(Exception):
    """A row that a bar needs was not measured."""


class Row(NamedTuple):
    """Which row of the results is meant; lengths as in a full run."""

    provider: str
    net: str | None
    which: str
    T: int = 4096
    C: int | None = 64
    sweep: str = "main"


class Rows:
    """The rows of a results file and the numbers beside them, to be asked by name.

    Args:
        rows: as in the results file.
        scale: lengths were divided by it (a smoke run).
        numbers: what is measured apart from the rows, by name.
    """

    def __init__(self, rows: list[dict], scale: int = 1, numbers: dict[str, float] | None = None) -> None:
        keys = "provider", "net", "pass", "T", "C", "sweep"
        self.found = {tuple(r[key] for key in keys): r for r in rows if r["D"] == 64}
        self.scale, self.numbers = scale, numbers or {}

    def get(self, row: Row, field: str = "seconds") -> float:
        """Return a field of one row."""
        found = self.found.get((*row[:3], row.T // self.scale, *row[4:]), {}).get(field)
        if found is None:
            raise Missing(f"{field} of {row}")
        return found

    def number(self, name: str) -> float:
        """Return a number that was measured apart from the rows."""
        if self.numbers.get(name) is None:
            raise Missing(name)
        return self.numbers[name]

    def quickest(self, row: Row) -> float:
        """Return the time of one row, at the group size that is the faster one."""
        seconds = self.get(row)
        try:
            return min(seconds, self.get(row._replace(provider=row.provider + EVERY_CHUNK)))
        except Missing:  # from 64 tokens on the default is the same
            return seconds

    def best_C(self, row: Row) -> float:
        """Return the least time over all chunk sizes."""
        return min(self.quickest(row._replace(C=C)) for C in CHUNK_SIZES)


Measure = Callable[[Rows], float]


class Bar(NamedTuple):
    """One bar.

    Attributes:
        what: in words, with the sizes.
        sense: "≥" or "≤".
        limit: the number to reach.
        measure: from the rows to our number; raises Missing.
    """

    what: str
    sense: str
    limit: float
    measure: Measure

    def verdict(self, rows: Rows) -> dict:
        """Compare: {"what", "bar", "number", "reached"}, the last two None where a row is missing."""
        try:
            number = self.measure(rows)
        except Missing:
            number = None
        compare = operator.ge if self.sense == "≥" else operator.le
        reached = None if number is None else bool(compare(number, self.limit))  # NaN reaches nothing
        return {"what": self.what, "bar": f"{self.sense} {self.limit:.3g}", "number": number, "reached": reached}


def ratio(top: Row, bottom: Row, field: str = "seconds", factor: float = 1) -> Measure:
    """Divide a field of one row by that of another."""
    return lambda rows: factor * rows.get(top, field) / rows.get(bottom, field)


def faster(provider: str, net: str, limits: tuple[float, float], T: int = 4096, sweep: str = "main") -> Iterator[Bar]:
    """Ask how many times faster ours is: layers meet layers, and attention has neither network nor chunks."""
    ours = LAYER if provider in (PER_TOKEN, PER_CHUNK, AT_START) else "chunked"
    for which, limit in zip(PASSES, limits, strict=True):
        theirs = Row(provider, net, which, T, sweep=sweep)
        if provider == "sdpa":
            theirs = theirs._replace(net=None, C=None)
        measure = ratio(theirs, Row(ours, net, which, T, sweep=sweep))
        yield Bar(f"{net}, T {T:,}: times faster than {provider}, {WORDS[which]}", "≥", limit, measure)


def comparisons() -> Iterator[Bar]:
    """Against attention, titans-pytorch and the definition."""
    yield from faster("sdpa", "matrix", (5, 5))
    yield from faster("sdpa", "mlp2", (1.5, 1.6))
    yield from faster("sdpa", "mlp4", (1, 1))
    yield from faster("sdpa", "mlp4", (3.7, 3.7), T=16384, sweep="T")
    yield from faster(PER_TOKEN, "matrix", (30, 25), T=512)
    yield from faster(PER_TOKEN, "mlp4", (100, 80), T=256)
    for net, T in (("matrix", 512), ("mlp4", 256)):
        for which in PASSES:
            measure = ratio(Row(LAYER, net, which, T), Row(PER_TOKEN, net, which, T), "peak_bytes")
            yield Bar(f"{net}, T {T}: peak memory over {PER_TOKEN}, {WORDS[which]}", "≤", 1 / 15, measure)
    for net in ("matrix", "mlp4"):
        yield from faster(PER_CHUNK, net, (5, 4))
        yield from faster(AT_START, net, (1.5, 1.5))
    yield from faster("recurrence", "matrix", (40, 40), T=512)
    yield from faster("recurrence", "mlp4", (20, 20), T=256)


def own_costs() -> Iterator[Bar]:
    """The fast form against itself and against the machine's rate of products."""
    for which in PASSES:
        measure = ratio(Row("chunked", "mlp4 norm", which), Row("chunked", "mlp4", which))
        yield Bar(f"mlp4 with residual and norm over plain mlp4: time, {WORDS[which]}", "≤", 1.15, measure)
    for net, limit in (("matrix", 0.45), ("mlp4", 0.65)):
        row = Row("chunked", net, "forward")
        yield Bar(f"{net}: share of the yardstick product's rate, forward", "≥", limit, _field(row, "share"))
    for net in ("matrix", "mlp2", "mlp4"):
        measure = ratio(Row("chunked", net, "both"), Row("chunked", net, "forward"))
        yield Bar(f"{net}: forward+backward over forward, time", "≤", 3.5, measure)


def _field(row: Row, field: str) -> Measure:
    return lambda rows: rows.get(row, field)


def over_lengths() -> Iterator[Bar]:
    """Linear in T: what a token costs does not grow."""
    asked = [("seconds", "time", which) for which in PASSES] + [("peak_bytes", "peak memory", "both")]
    for net in ("matrix", "mlp4"):
        for field, word, which in asked:
            long, short = (Row("chunked", net, which, T, sweep="T") for T in (65536, 4096))
            measure = ratio(long, short, field, factor=4096 / 65536)
            yield Bar(f"{net}: {word} per token, T 65,536 over T 4,096, {WORDS[which]}", "≤", 1.1, measure)
    for net, limit in (("matrix", 4), ("mlp4", 8)):
        yield Bar(f"{net}: training memory per token and head, KiB", "≤", limit, _training_memory(net))


def _training_memory(net: str) -> Measure:
    """Divide what 12,288 more tokens in four heads add to the peak, so that what does not grow cancels.

    The tables of gates grow up to 4,096 tokens and no further.
    """
    long, short = (Row("chunked", net, "both", T, sweep="T") for T in (16384, 4096))

    def kilobytes(rows: Rows) -> float:
        more = rows.get(long, "peak_bytes") - rows.get(short, "peak_bytes")
        return more * rows.scale / (16384 - 4096) / 4 / 1024

    return kilobytes


def over_chunk_sizes() -> Iterator[Bar]:
    """No cliff at small or large chunks, and exactness at a small price."""
    for net in ("matrix", "mlp4"):
        for which in PASSES:
            for C, limit in ((16, 1.6), (8, 3), (256, 2)):
                measure = _against_best(Row("chunked", net, which, C=C, sweep="C"))
                yield Bar(f"{net}: C {C} over the best C, time, {WORDS[which]}", "≤", limit, measure)
    for which in PASSES:
        online, chunked = (Row(provider, "matrix", which, sweep="C") for provider in ("online", "chunked"))
        what = f"exact online rule over the anchored one, each at its best C, time, {WORDS[which]}"
        yield Bar(what, "≤", 1.4, _best_over_best(online, chunked))


def _against_best(row: Row) -> Measure:
    return lambda rows: rows.quickest(row) / rows.best_C(row)


def _best_over_best(top: Row, bottom: Row) -> Measure:
    return lambda rows: rows.best_C(top) / rows.best_C(bottom)


def apart() -> Iterator[Bar]:
    """Numbers that are measured apart from the rows."""
    what = "coefficients in float32 for any gates, C up to 1,024: relative error"
    yield Bar(what, "≤", 2e-6, lambda rows: rows.number("coefficients"))
    what = "one decoding step after 1,000,000 tokens over one after 1,000, time"
    yield Bar(what, "≤", 1.05, lambda rows: rows.number("decoding step"))


def all_bars() -> list[Bar]:
    """Every bar, in the order of the table."""
    return [bar for group in (comparisons, own_costs, over_lengths, over_chunk_sizes, apart) for bar in group()]
