"""Processor time of a move of every widget, drawing and PNG encoding included: `python -m benchmarks.widgets`.

The widgets are those of the notebooks, made by the notebooks' own cells with the small sizes of TITANS_FAST=1. A move
draws two pictures, one for a light page and one for a dark one. No kernel runs, so that sending them is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ipywidgets
import torch

from benchmarks.cases import ROOT
from benchmarks.report import origin, stamp, write_json
from titans_mini.viz.widgets.explorer import Explorer

TARGET = ROOT / "assets" / "results" / "widgets_cpu.json"
MOVES = 12  # at least, of each control
LIMIT = 0.1  # seconds, of the median
WORDS = "the cat sat on the mat and the cat sat on the quantum mat "
STEPS = 12  # positions of a slider of numbers


def positions(control) -> list:
    """Return values of a control to go through, in order."""
    if isinstance(control, ipywidgets.Checkbox):
        return [False, True]
    if hasattr(control, "options"):
        return [value for _, value in control._options_full]
    if hasattr(control, "min"):
        steps = round((control.max - control.min) / control.step)
        places = sorted({round(i * steps / STEPS) for i in range(STEPS + 1)})
        return [type(control.value)(control.min + place * control.step) for place in places]
    return [WORDS * i for i in range(1, 2 * STEPS, 2)]  # the last is longer than what the strip reads


def move(widget: Explorer, name: str) -> list[float]:
    """Move one control through its positions, at least MOVES times; return the seconds of processor time of each."""
    control, seconds = widget._controls[name], []
    widget.reset()
    while len(seconds) < MOVES:
        for value in positions(control):
            before = control.value
            begin = time.process_time()
            control.value = value
            spent = time.process_time() - begin
            if control.value != before:
                seconds.append(spent)
    widget.reset()
    return seconds


def measure(widget: Explorer) -> list[dict]:
    """Return one row for each control of a widget."""
    rows = []
    for name in widget._controls:
        seconds = move(widget, name)
        row = {"widget": type(widget).__name__, "control": name, "moves": len(seconds)}
        rows.append(row | {"median": statistics.median(seconds), "slowest": max(seconds), "png_bytes": len(widget.png)})
    return rows


@contextlib.contextmanager
def collected() -> Iterator[list[Explorer]]:
    """Collect every widget that is made inside."""
    made, init = [], Explorer.__init__

    def noted(self, *args, **options):
        init(self, *args, **options)
        made.append(self)

    Explorer.__init__ = noted
    try:
        yield made
    finally:
        Explorer.__init__ = init


def widgets_of(path: Path) -> list[Explorer]:
    """Run a notebook's cells up to its last widget; return its widgets."""
    from IPython.core.interactiveshell import InteractiveShell

    from tools import notebooks

    cells = notebooks.read(path).cells
    shown = [i for i, cell in enumerate(cells) if notebooks.WIDGET_TAG in cell.metadata.get("tags", [])]
    torch.set_default_dtype(torch.float32)
    shell, here = InteractiveShell.instance(), Path.cwd()
    shell.reset()
    os.chdir(path.parent)
    try:
        with collected() as made:
            for cell in cells[: shown[-1] + 1 if shown else 0]:
                if cell.cell_type == "code":
                    with contextlib.redirect_stdout(io.StringIO()):
                        result = shell.run_cell(cell.source)
                    result.raise_error()
    finally:
        os.chdir(here)
        torch.set_default_dtype(torch.float32)
    return made


def table(results: dict) -> str:
    """Write the rows as text."""
    lines = [origin(results), "", f"{'notebook':>8}  {'widget':16} {'control':10} {'median':>8} {'slowest':>8}  moves"]
    for row in results["rows"]:
        times = f"{1000 * row['median']:5.0f} ms {1000 * row['slowest']:5.0f} ms"
        lines.append(f"{row['notebook']:>8}  {row['widget']:16} {row['control']:10} {times}  {row['moves']:5}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, write the results file; the exit status says whether a median is above the limit."""
    from tools import notebooks

    parser = argparse.ArgumentParser("python -m benchmarks.widgets", description=__doc__)
    parser.add_argument("--only", default="", help="notebooks by number, such as 03,04")
    parser.add_argument("--json", type=Path, default=TARGET)
    options = parser.parse_args()
    if os.environ.get("TITANS_FAST") != "1":
        parser.error("got the full sizes, expected TITANS_FAST=1 in the environment: the cells would train for minutes")
    torch.set_num_threads(1)
    rows = []
    for path in notebooks.find():
        if not options.only or path.name[:2] in options.only.split(","):
            for widget in widgets_of(path):
                rows += [{"notebook": path.name[:2]} | row for row in measure(widget)]
                print(f"  … {path.name[:2]} {type(widget).__name__}", file=sys.stderr, flush=True)
    command = " ".join(["TITANS_FAST=1 OMP_NUM_THREADS=1 python -m benchmarks.widgets", *sys.argv[1:]])
    results = stamp(command) | {"limit": LIMIT, "rows": rows}
    write_json(options.json, results)
    print(table(results))
    return int(any(row["median"] > LIMIT for row in rows))


if __name__ == "__main__":
    sys.exit(main())
