"""Grade notebooks: run each, check every exercise again with the library's own checks, print one table.

    python -m titans_mini.exercises.grader submission.ipynb more/ --csv grades.csv --json grades.json

A notebook runs from top to bottom; a cell that fails does not stop the rest. Right after each cell whose first line is
``# exercise: NN.M`` the grader checks the function that this very cell defines, with a fresh import of this package,
on cases the notebook never showed. So a redefined ``check``, a hard-coded answer or a later import of the same name
does not count. A passed exercise earns its card's points; the table and the CSV give their sum for each notebook.

Limits: the student's code runs in the same process as the check and with the same rights as you. Someone determined to
cheat can patch torch or Python itself, read the reference from the package, or harm the machine. Read the notebooks
before you grade them, and run untrusted ones in a container.

The exit status is 0 when every exercise of every notebook is passed, else 1.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import os
import re
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from titans_mini.exercises.card import SEED, get, names

MARKER = re.compile(r"# exercise: (\d\d\.\d)\s*$")
WARM_UP, PATIENCE = "warm-up", 600  # the first cell, and its seconds
GRADING_SEEDS = (SEED, SEED + 1)
# of the CSV; the last two are the same in every row of a notebook
COLUMNS = ("notebook", "exercise", "status", "message", "points", "possible", "notebook_points", "notebook_possible")


@dataclass(frozen=True)
class Grade:
    """One exercise of one notebook.

    Attributes:
        notebook: file name.
        exercise: "NN.M".
        status: passed, wrong, open (not attempted), error (the function raised), missing (no such function).
        message: the message of the check, or the error.
        points: the points reached, all of the card's or none.
        possible: the card's points.
    """

    notebook: str
    exercise: str
    status: str
    message: str
    points: int = 0
    possible: int = 0


@dataclass(frozen=True)
class Report:
    """All grades of one notebook, and the errors of its cells as "cell 7: ValueError: …"."""

    notebook: str
    grades: tuple[Grade, ...]
    errors: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Return whether every exercise is passed; False if there is none."""
        return bool(self.grades) and all(grade.status == "passed" for grade in self.grades)

    @property
    def points(self) -> int:
        """Return the points reached in this notebook."""
        return sum(grade.points for grade in self.grades)

    @property
    def possible(self) -> int:
        """Return the points of all its exercises, deleted ones included."""
        return sum(grade.possible for grade in self.grades)


def grade(path: str | Path, timeout: int = 120) -> Report:
    """Run one notebook and grade its exercises; the file is not modified.

    Args:
        path: the notebook.
        timeout: seconds per cell; a cell that takes longer is interrupted.
    """
    import nbformat

    path = Path(path)
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:
        return Report(path.name, (), (f"cannot be read as a notebook: {type(error).__name__}: {error}",))
    token = secrets.token_hex(16)
    cells, exercises = _with_checks(notebook.cells, token)
    notebook.cells = [_warm_up(), *cells]
    stopped = _execute(notebook, path, timeout)
    verdicts, errors = _collect(cells, token)
    for name in exercises:
        verdicts.setdefault(name, ("missing", stopped or "no check came back from its cell"))
    for name in _expected(path, exercises):
        verdicts.setdefault(name, ("missing", f"no cell begins with '# exercise: {name}'"))
    grades = tuple(_grade(path.name, name, *verdicts[name]) for name in sorted(verdicts))
    return Report(path.name, grades, tuple(errors + ([stopped] if stopped else [])))


def _grade(notebook: str, exercise: str, status: str, message: str) -> Grade:
    """Give a verdict its points, from this process's own cards."""
    possible = get(exercise).points
    return Grade(notebook, exercise, status, message, possible if status == "passed" else 0, possible)


def _warm_up():
    """Return a first cell that loads torch, so that a student's cell is not charged for it on a busy machine."""
    import nbformat

    return nbformat.v4.new_code_cell("import torch, titans_mini.exercises", metadata={"grader": WARM_UP})


def _with_checks(cells: list, token: str) -> tuple[list, list[str]]:
    """Insert a grading cell after every exercise cell."""
    import nbformat

    result, exercises = [], []
    for number, cell in enumerate(cells, 1):
        cell.metadata["grader"] = number
        result.append(cell)
        found = MARKER.match(cell.source.split("\n", 1)[0]) if cell.cell_type == "code" else None
        if found and found[1] in names():
            exercises.append(found[1])
            code = f"{_CHECK}\n_titans_grade({found[1]!r}, {_function(found[1], cell.source)!r}, {token!r})"
            result.append(nbformat.v4.new_code_cell(code, metadata={"grader": found[1]}))
    return result, exercises


def _function(exercise: str, source: str) -> str | None:
    """Return the name of the function an exercise cell defines: the reference's name, or the last one defined."""
    try:
        plain = re.sub(r"^[%!].*$", "", source, flags=re.M)  # magics are not Python
        defined = [node.name for node in ast.parse(plain).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError:
        return None
    wanted = get(exercise).solution.__name__
    return wanted if wanted in defined else defined[-1] if defined else None


# Runs in the student's kernel. The package is imported afresh and the student's copy restored afterwards.
_CHECK = f"""
def _titans_grade(exercise, name, token):
    import importlib, json, sys
    fn = globals().get(name) if name else None
    kept = {{m: sys.modules.pop(m) for m in list(sys.modules) if m.split(".")[:2] == ["titans_mini", "exercises"]}}
    try:
        card = importlib.import_module("titans_mini.exercises.card")
        if not callable(fn) or getattr(fn, "__module__", None) != "__main__":
            verdict = ("missing", "the cell defines no function that can be checked")
        else:
            for seed in {GRADING_SEEDS}:
                result = card.check(exercise, fn, seed=seed)
                verdict = ("passed" if result.passed else "wrong" if result.attempted else "open", result.message)
                if not result.passed:
                    break
    except AssertionError as error:
        verdict = ("error", "AssertionError: " + str(error))
    except Exception as error:
        verdict = ("error", type(error).__name__ + ": " + str(error))
    finally:
        for m in [m for m in sys.modules if m.split(".")[:2] == ["titans_mini", "exercises"]]:
            del sys.modules[m]
        sys.modules.update(kept)
    sys.stdout.write("\\n" + token + json.dumps(verdict) + "\\n")
"""


def _execute(notebook, path: Path, timeout: int) -> str | None:
    """Run all cells; return the reason of an early stop, or None."""
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    client = NotebookClient(
        notebook,
        timeout_func=lambda cell: PATIENCE if cell.metadata["grader"] == WARM_UP else timeout,
        allow_errors=True,
        interrupt_on_timeout=True,
        record_timing=False,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    try:
        client.execute(env={k: v for k, v in os.environ.items() if k != "TITANS_STRICT"})  # checks report, not raise
    except DeadKernelError:
        return "the kernel died; the cells after it did not run"
    except Exception as error:  # errors that nbclient cannot recover from
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'stopped'}"
    return None


def _collect(cells: list, token: str) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Collect the verdicts of the grading cells and the errors of the student's cells."""
    verdicts, errors = {}, []
    for cell in (cell for cell in cells if cell.cell_type == "code"):
        tag = cell.metadata["grader"]
        for output in cell.get("outputs", []):
            if isinstance(tag, str) and output.output_type == "stream":
                for line in output.text.splitlines():
                    if line.startswith(token):
                        verdicts[tag] = tuple(json.loads(line[len(token) :]))
            elif isinstance(tag, str) and output.output_type == "error":
                verdicts[tag] = ("error", f"{output.ename}: {output.evalue}")
            elif output.output_type == "error":
                errors.append(f"cell {tag}: {output.ename}: {_first_line(output.evalue)}")
    return verdicts, errors


def _expected(path: Path, found: list[str]) -> list[str]:
    """List all exercises of the notebooks that a file's name or cells belong to, so that deleted ones are reported."""
    numbers = {name[:2] for name in found} | set(re.findall(r"^(\d\d)_", path.name))
    return [name for name in names() if name[:2] in numbers]


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


def table(reports: list[Report]) -> str:
    """Return the grades as aligned text, one line per exercise, and the errors below each notebook."""
    mark = {"passed": "✓", "wrong": "✗", "open": "○", "error": "!", "missing": "–"}
    width = max((len(report.notebook) for report in reports), default=0)
    lines = []
    for report in reports:
        right = sum(grade.status == "passed" for grade in report.grades)
        points = f"{report.points} of {report.possible} points"
        lines.append(f"{report.notebook:<{width}}  {right} of {len(report.grades)} passed, {points}")
        for one in report.grades:
            lines.append(f"  {mark[one.status]} {one.exercise}  {one.status:<8} {_first_line(one.message)}")
        lines += [f"  ! {error}" for error in report.errors]
    return "\n".join(lines)


def _notebooks(paths: list[str]) -> list[Path]:
    found = []
    for path in map(Path, paths):
        inside = sorted(p for p in path.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
        found += inside if path.is_dir() else [path]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Grade the notebooks named on the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m titans_mini.exercises.grader", description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="+", help="notebooks, or folders of notebooks")
    parser.add_argument("--csv", help="write the grades to this file, a line an exercise")
    parser.add_argument("--json", help="write the reports to this file")
    parser.add_argument("--timeout", type=int, default=120, help="seconds for a cell (default 120)")
    options = parser.parse_args(arguments)
    reports = [grade(path, options.timeout) for path in _notebooks(options.paths)]
    print(table(reports) if reports else f"got no notebook in {', '.join(options.paths)}")
    if options.csv:
        with open(options.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for report in reports:
                sums = {"notebook_points": report.points, "notebook_possible": report.possible}
                writer.writerows(asdict(one) | sums for one in report.grades)
    if options.json:
        text = json.dumps([asdict(report) for report in reports], indent=1, ensure_ascii=False)
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    return 0 if reports and all(report.passed for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
