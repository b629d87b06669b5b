"""The bootstrap cell: an installed package, the folder around the notebook, the stamped address, or one question."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import hygiene, notebooks

ROOT = notebooks.ROOT
ADDRESS = "https://example.org/someone/titans_mini"
COURSE = ("titans_mini", "kernels", "assets", "notebooks")
# Runs a cell where titans_mini is not installed, and tells what it did: connections and commands.
RUNNER = """\
import importlib.util, json, os, sys
cell, then = sys.argv[1:]
sys.path[0] = ""  # as in a notebook's kernel
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
spec = importlib.util.find_spec("titans_mini")
assert spec is None or spec.origin is None, f"titans_mini is installed in {spec.origin}, and could not be hidden"
events = []
sys.addaudithook(lambda name, args: events.append(name) if name in
                 ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec") else None)
exec(compile(open(cell, encoding="utf-8").read(), "bootstrap", "exec"), {})
events = list(events)  # of the cell alone
exec(then)
print(json.dumps(events))
"""


class Execution:
    """A run of a bootstrap cell's source in a folder: exit status, error, events, and the arguments of each pip."""

    def __init__(self, tmp_path, folder, source, then=""):
        cell, runner, fake, log = (tmp_path / name for name in ("cell.py", "runner.py", "fake", "pip.json"))
        cell.write_text(source, encoding="utf-8")
        runner.write_text(RUNNER, encoding="utf-8")
        (fake / "pip").mkdir(parents=True, exist_ok=True)
        (fake / "pip" / "__init__.py").touch()
        (fake / "pip" / "__main__.py").write_text(
            f"import json, sys\nwith open({str(log)!r}, 'a') as out: print(json.dumps(sys.argv[1:]), file=out)\n"
        )
        env = {key: value for key, value in os.environ.items() if not key.startswith(("TITANS", "PYTHON"))}
        env |= {"PYTHONPATH": str(fake), "TRITON_INTERPRET": "1"}
        command = [sys.executable, str(runner), str(cell), then]
        self.done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        self.pip = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def lines(self):
        assert self.done.returncode == 0, self.done.stderr
        return self.done.stdout.splitlines()


IMPORTS = "import titans_mini, titans_mini.kernels.interpret as i; print(titans_mini.__file__); print(i.__file__)"


def copy_course(target, names=COURSE):
    """Copy what an archive of the repository holds: no .git, no environment, nothing that was built."""
    for name in names:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    return target


def test_in_a_checkout_it_takes_the_package_beside_the_notebooks(tmp_path):
    run = Execution(tmp_path, ROOT / "notebooks", notebooks.bootstrap(), IMPORTS)
    package, kernels, events = run.lines
    assert Path(package).parent == ROOT / "titans_mini" and Path(kernels).parent == ROOT / "kernels"
    assert json.loads(events) == [] and run.pip == []


def test_in_an_archive_it_takes_the_package_beside_the_notebooks_whatever_is_stamped(tmp_path):
    course = copy_course(tmp_path / "titans-mini-main")
    run = Execution(tmp_path, course / "notebooks", notebooks.bootstrap(ADDRESS), IMPORTS)
    package, kernels, events = run.lines
    assert Path(package).parent == course / "titans_mini" and Path(kernels).parent == course / "kernels"
    assert json.loads(events) == [] and run.pip == []


def test_a_lone_notebook_asks_for_one_thing_and_calls_nobody(tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(notebooks.find()[0], alone)
    run = Execution(tmp_path, alone, notebooks.bootstrap(), "raise SystemExit('went on')")
    assert run.done.returncode == 1 and run.pip == []
    last = run.done.stderr.strip().splitlines()[-1]
    assert last == "AssertionError: titans_mini is not here: please fill in REPOSITORY above and run this cell again."


def test_a_folder_that_has_the_name_alone_is_no_package(tmp_path):
    """After `git clone …/titans_mini` the folder beside the notebook is the repository, not the package in it."""
    (tmp_path / "alone" / "titans_mini" / "titans_mini").mkdir(parents=True)
    run = Execution(tmp_path, tmp_path / "alone", notebooks.bootstrap())
    assert run.done.returncode == 1 and "fill in REPOSITORY" in run.done.stderr


def test_a_stamped_address_is_installed_and_nothing_else(tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    run = Execution(tmp_path, alone, notebooks.bootstrap(ADDRESS))
    assert json.loads(run.lines[0]) == ["subprocess.Popen"]
    assert run.pip == [["install", "-q", f"git+{ADDRESS}"]]


def test_an_installed_package_wins(tmp_path):
    course = copy_course(tmp_path / "course", ("notebooks", "titans_mini"))
    (tmp_path / "site" / "titans_mini").mkdir(parents=True)
    (tmp_path / "site" / "titans_mini" / "__init__.py").touch()
    before = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
    then = "import titans_mini; print(titans_mini.__file__)"
    run = Execution(tmp_path, course / "notebooks", before + notebooks.bootstrap(ADDRESS), then)
    package, events = run.lines
    assert Path(package).parent == tmp_path / "site" / "titans_mini" and json.loads(events) == [] and run.pip == []


# -- the stamp ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return copy_course(tmp_path, ("notebooks",)) / "notebooks"


def test_a_stamp_changes_one_line_of_each_notebook_and_clearing_it_brings_the_bytes_back(folder):
    notebooks.stamp("", folder)
    before = {path.name: path.read_bytes() for path in notebooks.find(folder=folder)}
    assert len(notebooks.stamp(ADDRESS, folder)) == len(before) > 10
    assert notebooks.stamped_address(folder) == ADDRESS and notebooks.stamp(ADDRESS, folder) == []
    for path in notebooks.find(folder=folder):
        old, new = before[path.name].splitlines(), path.read_bytes().splitlines()
        different = [b for a, b in zip(old, new, strict=True) if a != b]
        assert len(different) == 1 and ADDRESS.encode() in different[0], path.name
        nb = notebooks.read(path)
        assert not hygiene.bootstrap_first(nb) and not hygiene.no_network(nb)
    notebooks.stamp("", folder)
    assert {path.name: path.read_bytes() for path in notebooks.find(folder=folder)} == before


@pytest.mark.parametrize(
    "address",
    [
        ADDRESS,
        "https://github.com/a-b/c.git",
        "https://git.example.org:8443/group/sub/c",
        "https://github.com/a/c@v0.2",
    ],
)
def test_addresses_of_repositories_are_taken(address):
    assert notebooks.address_in(notebooks.bootstrap(address)) == address


@pytest.mark.parametrize(
    "address",
    [
        "http://github.com/a/c",
        "git@github.com:a/c.git",
        "github.com/a/c",
        "https://github.com",
        "https://me:secret@github.com/a/c",
        "https://github.com/a/c/blob/main/notebooks/00_start_here.ipynb",
        "https://github.com/a/c/tree/main",
        "https://example.org/c.zip",
        'https://github.com/a/c"; import os  # ',
        "https://github.com/a/c --index-url=https://example.org",
        "https://github.com/a/c?token=1",
        " ",
    ],
)
def test_anything_else_is_refused_and_changes_nothing(folder, address, capsys):
    before = {path.name: path.read_bytes() for path in notebooks.find(folder=folder)}
    with pytest.raises(ValueError, match="expected the address that `git clone` takes"):
        notebooks.stamp(address, folder)
    assert {path.name: path.read_bytes() for path in notebooks.find(folder=folder)} == before
    assert notebooks.address_in(notebooks.BOOTSTRAP.replace('""', f'"{address}"', 1)) is None
    assert notebooks.main(["stamp", address]) == 1 and "got" in capsys.readouterr().err


def test_a_stamp_without_an_address_asks_for_one(capsys):
    assert notebooks.main(["stamp"]) == 1 and "which address?" in capsys.readouterr().err


def test_a_new_notebook_gets_the_address_of_the_others_and_a_hidden_bootstrap_cell(tmp_path, folder, monkeypatch):
    notebooks.stamp(ADDRESS, folder)
    stamped = notebooks.stamped_address(folder)
    monkeypatch.setattr(notebooks, "stamped_address", lambda: stamped)
    (tmp_path / "draft.py").write_text("# %%\n# bootstrap\n", encoding="utf-8")
    (cell,) = notebooks.from_percent(tmp_path / "draft.py").cells
    assert notebooks.address_in(cell.source) == ADDRESS
    assert cell.metadata == {"jupyter": {"source_hidden": True}}
    assert notebooks.tidy(notebooks.from_percent(tmp_path / "draft.py")).cells[0].metadata == cell.metadata


def test_notebooks_with_different_addresses_are_found(folder):
    first, second, *_ = notebooks.find(folder=folder)
    nbs = {path.name: notebooks.read(path) for path in (first, second)}
    assert hygiene.one_address(nbs) == []
    notebooks.bootstrap_cell(nbs[second.name]).source = notebooks.bootstrap("https://example.org/other/c")
    assert [line.split(":")[0] for line in hygiene.one_address(nbs)] == [second.name]
