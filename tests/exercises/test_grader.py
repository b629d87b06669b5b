"""The grader: runs notebooks, trusts no `check` but its own, and prints one table."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import titans_mini
from titans_mini.exercises import grader

CARD = '''
import torch
from titans_mini.exercises import Exercise


def double(x):
    """Twice x (D,)."""
    return 2 * x


def square(x):
    """The square of x (D,)."""
    return x * x


def cases(seed):
    return [(torch.randn(3, generator=torch.Generator().manual_seed(seed)),)]


WRONG = {"sign": (lambda x: -2 * x, "The sign.")}
EXERCISES = (
    Exercise("99.1", "Double", double, cases, WRONG, ("a", "b"), "Two.", points=1),
    Exercise("99.2", "Square", square, cases, {}, ("a", "b"), "Two.", points=3),
)
'''
IMPORT = "import torch\nfrom titans_mini.exercises import check"
RIGHT_1 = '# exercise: 99.1\ndef double(x):\n    return x + x\n\ncheck("99.1", double)'
RIGHT_2 = '# exercise: 99.2\ndef square(x):\n    return x**2\n\ncheck("99.2", square)'

SUBMISSIONS = {
    "all_right.ipynb": [IMPORT, RIGHT_1, RIGHT_2],
    # an error elsewhere does not lose the rest; a helper is found; noise on stdout is no trouble
    "one_error.ipynb": [
        IMPORT,
        "1 / 0",
        "def helper(x):\n    print('noise', end='')\n    return x + x",
        RIGHT_1.replace("return x + x", "return helper(x)"),
        RIGHT_2.replace("x**2", "x @ torch.ones(7)"),
    ],
    # the check is redefined, the answer of the shown cases is written down, and the other exercise imported later
    "cheat.ipynb": [
        IMPORT,
        "import titans_mini.exercises.card as c\ncheck = c.check = lambda *a, **k: print('✓ passed')",
        "shown = torch.randn(3, generator=torch.Generator().manual_seed(0))",
        RIGHT_1.replace("return x + x", "return 2 * shown"),
        RIGHT_2.replace("def square(x):\n    return x**2", "from titans_mini.exercises.nb99 import square"),
    ],
    # cells deleted, a function that never ends
    "99_lazy.ipynb": [IMPORT, RIGHT_1.replace("return x + x", "while True: pass")],
    "stub_and_syntax.ipynb": [IMPORT, RIGHT_1.replace("return x + x", "..."), RIGHT_2.replace("def", "deff")],
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """One run of the command line over a folder, with a copy of the package that has one more card."""
    root = tmp_path_factory.mktemp("grader")
    shutil.copytree(Path(titans_mini.__file__).parent, root / "lib" / "titans_mini")
    (root / "lib" / "titans_mini" / "exercises" / "nb99.py").write_text(CARD, encoding="utf-8")
    (root / "in").mkdir()
    for name, cells in SUBMISSIONS.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        nbformat.write(notebook, root / "in" / name)
    (root / "in" / "broken.ipynb").write_text("{", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in (root / "in").iterdir()}
    command = [sys.executable, "-m", "titans_mini.exercises.grader", "in", "--timeout", "5"]
    run = subprocess.run(
        [*command, "--csv", "out.csv", "--json", "out.json"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "lib"), "TITANS_STRICT": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
    )
    assert (root / "out.json").exists(), run.stderr
    assert {path.name: path.read_bytes() for path in (root / "in").iterdir()} == before, "submissions are only read"
    reports = {r["notebook"]: r for r in json.loads((root / "out.json").read_text(encoding="utf-8"))}
    return run, reports, list(csv.DictReader((root / "out.csv").open(encoding="utf-8")))


def statuses(graded, notebook):
    return {g["exercise"]: g["status"] for g in graded[1][notebook]["grades"]}


def test_right_is_passed(graded):
    assert statuses(graded, "all_right.ipynb") == {"99.1": "passed", "99.2": "passed"}
    assert graded[1]["all_right.ipynb"]["errors"] == []


def test_errors_do_not_lose_the_rest(graded):
    report = graded[1]["one_error.ipynb"]
    assert statuses(graded, "one_error.ipynb") == {"99.1": "passed", "99.2": "error"}
    assert "cell 2: ZeroDivisionError: division by zero" in report["errors"]
    assert any(error.startswith("cell 5: RuntimeError") for error in report["errors"])
    assert report["grades"][1]["message"].startswith("RuntimeError")


def test_a_redefined_check_a_written_down_answer_and_an_import_do_not_count(graded):
    assert statuses(graded, "cheat.ipynb") == {"99.1": "wrong", "99.2": "missing"}


def test_endless_and_deleted(graded):
    assert statuses(graded, "99_lazy.ipynb") == {"99.1": "error", "99.2": "missing"}
    messages = [g["message"] for g in graded[1]["99_lazy.ipynb"]["grades"]]
    assert "KeyboardInterrupt" in messages[0] and "no cell begins with '# exercise: 99.2'" in messages[1]


def test_stub_and_syntax_error(graded):
    assert statuses(graded, "stub_and_syntax.ipynb") == {"99.1": "open", "99.2": "missing"}
    assert any("SyntaxError" in error for error in graded[1]["stub_and_syntax.ipynb"]["errors"])


def test_a_broken_file_is_reported(graded):
    assert graded[1]["broken.ipynb"]["grades"] == []
    assert "cannot be read as a notebook" in graded[1]["broken.ipynb"]["errors"][0]


def test_table_csv_and_exit_status(graded):
    run, _, rows = graded
    assert run.returncode == 1
    assert "all_right.ipynb        2 of 2 passed" in run.stdout
    assert "  ✗ 99.1  wrong" in run.stdout
    assert len(rows) == 10 and {row["status"] for row in rows} == {"passed", "wrong", "open", "error", "missing"}


def test_points_are_summed_for_each_notebook(graded):
    run, reports, rows = graded
    assert list(rows[0])[:4] == ["notebook", "exercise", "status", "message"]
    assert "all_right.ipynb        2 of 2 passed, 4 of 4 points" in run.stdout
    assert "one_error.ipynb        1 of 2 passed, 1 of 4 points" in run.stdout
    assert "99_lazy.ipynb          0 of 2 passed, 0 of 4 points" in run.stdout, "deleted exercises count as possible"
    for row in rows:
        mine = [other for other in rows if other["notebook"] == row["notebook"]]
        for column in ("points", "possible"):
            assert int(row[f"notebook_{column}"]) == sum(int(other[column]) for other in mine)
        assert int(row["points"]) == (int(row["possible"]) if row["status"] == "passed" else 0)
    assert [grade["points"] for grade in reports["one_error.ipynb"]["grades"]] == [1, 0]


@pytest.mark.parametrize("states, status", [(["passed", "passed"], 0), (["passed", "open"], 1), ([], 1)])
def test_exit_status(monkeypatch, capsys, states, status):
    grades = tuple(grader.Grade("a.ipynb", f"99.{i}", state, "m") for i, state in enumerate(states))
    monkeypatch.setattr(grader, "grade", lambda path, timeout: grader.Report("a.ipynb", grades, ()))
    assert grader.main(["a.ipynb"]) == status
    assert "a.ipynb" in capsys.readouterr().out


def test_no_notebook_is_a_failure(tmp_path, capsys):
    assert grader.main([str(tmp_path)]) == 1
    assert "no notebook" in capsys.readouterr().out
