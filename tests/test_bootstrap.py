"""The bootstrap cell: every place where it looks for titans_mini, in order, and the one question it asks at the end."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import nbformat
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


# Stands in for pip: notes its arguments, and fails where one of them holds the word in FAKE_PIP_FAILS.
FAKE_PIP = """\
import json, os, sys
with open({log!r}, "a") as out: print(json.dumps(sys.argv[1:]), file=out)
bad = os.environ.get("FAKE_PIP_FAILS")
sys.exit(f"pip: {bad} cannot be installed" if bad and bad in " ".join(sys.argv) else 0)
"""


class Execution:
    """A run of a bootstrap cell's source in a folder: exit status, error, events, and the arguments of each pip."""

    def __init__(self, tmp_path, folder, source, then="", **variables):
        cell, runner, fake, log = (tmp_path / name for name in ("cell.py", "runner.py", "fake", "pip.json"))
        cell.write_text(source, encoding="utf-8")
        runner.write_text(RUNNER, encoding="utf-8")
        (fake / "pip").mkdir(parents=True, exist_ok=True)
        (fake / "pip" / "__init__.py").touch()
        (fake / "pip" / "__main__.py").write_text(FAKE_PIP.replace("{log!r}", repr(str(log))))
        away = ("TITANS", "PYTHON", "COLAB", "http_proxy", "HTTP_PROXY")
        env = {key: value for key, value in os.environ.items() if not key.startswith(away)}
        env |= {"PYTHONPATH": str(fake), "TRITON_INTERPRET": "1"} | variables
        command = [sys.executable, str(runner), str(cell), then]
        self.done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
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


@pytest.fixture
def alone(tmp_path):
    """Return a folder that holds one notebook and nothing else of the course."""
    (tmp_path / "alone").mkdir()
    shutil.copy(notebooks.find()[0], tmp_path / "alone")
    return tmp_path / "alone"


QUESTION = "ModuleNotFoundError: titans_mini is not here: please fill in REPOSITORY above and run this cell again."


def test_a_lone_notebook_asks_for_one_thing_and_calls_nobody(tmp_path, alone):
    run = Execution(tmp_path, alone, notebooks.bootstrap(), "raise SystemExit('went on')")
    assert run.done.returncode == 1 and run.pip == []
    assert run.done.stderr.strip().splitlines()[-1] == QUESTION and run.done.stdout == ""


def test_a_folder_that_has_the_name_alone_is_no_package(tmp_path):
    """After `git clone …/titans_mini` the folder beside the notebook is the repository, not the package in it."""
    (tmp_path / "alone" / "titans_mini" / "titans_mini").mkdir(parents=True)
    run = Execution(tmp_path, tmp_path / "alone", notebooks.bootstrap())
    assert run.done.returncode == 1 and "fill in REPOSITORY" in run.done.stderr


def installs(source):
    """Return the arguments of the one pip that installs a source."""
    return ["install", "-q", source]


def test_a_stamped_address_is_installed_and_nothing_else(tmp_path, alone):
    run = Execution(tmp_path, alone, notebooks.bootstrap(ADDRESS))
    said, events = run.lines
    assert said == f"installing titans_mini from git+{ADDRESS}"
    assert json.loads(events) == ["subprocess.Popen"] and run.pip == [installs(f"git+{ADDRESS}")]


def test_a_stamped_address_that_cannot_be_installed_ends_in_pips_error_and_the_question(tmp_path, alone):
    run = Execution(tmp_path, alone, notebooks.bootstrap(ADDRESS), FAKE_PIP_FAILS="someone")
    assert run.done.returncode == 1 and run.pip == [installs(f"git+{ADDRESS}")]
    assert "pip: someone cannot be installed" in run.done.stderr
    assert run.done.stderr.strip().splitlines()[-1] == QUESTION


def test_titans_repository_goes_before_the_stamp_and_is_the_only_address(tmp_path, alone):
    mine = "https://example.org/mine/titans_mini@fix"
    run = Execution(tmp_path, alone, notebooks.bootstrap(ADDRESS), TITANS_REPOSITORY=mine)
    assert run.lines[0] == f"installing titans_mini from git+{mine}" and run.pip == [installs(f"git+{mine}")]
    again = Execution(tmp_path, alone, notebooks.bootstrap(ADDRESS), TITANS_REPOSITORY=mine, FAKE_PIP_FAILS="mine")
    assert again.done.returncode == 1 and again.pip[1:] == [installs(f"git+{mine}")]


def test_titans_repository_never_reaches_a_shell_or_becomes_an_option(tmp_path, alone):
    for mine in ("--index-url=https://example.org", "x; touch hacked", "$(touch hacked)"):
        run = Execution(tmp_path, alone, notebooks.bootstrap(), TITANS_REPOSITORY=mine)
        assert run.pip[-1] == installs(f"git+{mine}") and not (alone / "hacked").exists()


@pytest.mark.parametrize("name", ["titans_mini-main.zip", "titans-mini-main (1).zip", "titans_mini-0.1.0.tar.gz"])
def test_an_uploaded_archive_is_installed_where_no_address_is_known(tmp_path, alone, name):
    for other in (name, "titans_mini_notes.txt", "other.zip"):
        (alone / other).touch()
    run = Execution(tmp_path, alone, notebooks.bootstrap())
    assert run.lines[0] == f"installing titans_mini from {name}" and run.pip == [installs(name)]


def test_an_archive_comes_after_the_stamped_address(tmp_path, alone):
    (alone / "titans_mini-main.zip").touch()
    assert Execution(tmp_path, alone, notebooks.bootstrap(ADDRESS)).pip == [installs(f"git+{ADDRESS}")]
    run = Execution(tmp_path, alone, notebooks.bootstrap(ADDRESS), FAKE_PIP_FAILS="someone")
    assert run.lines[0].endswith(ADDRESS) and run.lines[1].endswith("from titans_mini-main.zip")
    assert run.pip[1:] == [installs(f"git+{ADDRESS}"), installs("titans_mini-main.zip")]


# -- Colab's record of where the notebook came from -----------------------------------------------------------------

ON_COLAB = "import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')\n"
PAGE = "https://github.com/owner/course.v2/blob/main/notebooks/00_start_here.ipynb"


def record(page):
    """Return what Colab's session server is said to answer for a notebook that was opened from a page."""
    path = f"fileId={quote(page)}"  # https%3A//github.com/…
    return json.dumps([{"kernel": {"id": "1"}, "name": "00_start_here.ipynb", "path": path, "type": "notebook"}])


class Colab:
    """A session server on this machine that gives one answer, or none until it is closed, and counts the questions."""

    def __init__(self, answer):
        self.asked, self.closed = [], threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                if answer is None:
                    outer.closed.wait(60)
                    return
                self.send_response(200)
                self.end_headers()
                self.wfile.write(answer if isinstance(answer, bytes) else answer.encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def source(self, address=""):
        """Return the cell as it runs on Colab, with this server's port."""
        source = notebooks.bootstrap(address)
        assert source.count(":9000/api/sessions") == 1
        return ON_COLAB + source.replace(":9000/", f":{self.server.server_port}/")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


def on_colab(tmp_path, folder, answer, address="", **variables):
    """Run the cell beside a session server with that answer."""
    with Colab(answer) as colab:
        run = Execution(tmp_path, folder, colab.source(address), COLAB_JUPYTER_IP="127.0.0.1", **variables)
    assert set(colab.asked) <= {"/api/sessions"}
    run.asked = len(colab.asked)
    return run


def test_on_colab_the_repository_that_the_notebook_was_opened_from_goes_before_the_stamp(tmp_path, alone):
    run = on_colab(tmp_path, alone, record(PAGE), ADDRESS)
    said, events = run.lines
    assert said == "installing titans_mini from git+https://github.com/owner/course.v2@main" and run.asked == 1
    assert run.pip == [installs("git+https://github.com/owner/course.v2@main")]
    assert json.loads(events).count("socket.connect") == 1


def test_a_repository_on_colab_that_holds_only_notebooks_leaves_the_stamp(tmp_path, alone):
    run = on_colab(tmp_path, alone, record(PAGE), ADDRESS, FAKE_PIP_FAILS="owner/course")
    assert [line.split("git+")[1] for line in run.lines[:2]] == ["https://github.com/owner/course.v2@main", ADDRESS]
    assert run.pip[-1] == installs(f"git+{ADDRESS}")


@pytest.mark.parametrize(
    "answer",
    [
        record("https://evil.example.org/owner/course/blob/main/notebooks/00_start_here.ipynb"),
        record("https://github.com.example.org/owner/course/blob/main/a.ipynb"),
        record("https://githubxcom/owner/course/blob/main/a.ipynb"),
        record("https://me:secret@github.com/owner/course/blob/main/a.ipynb"),
        record("https://example.org/?fileId=https://github.com/owner/course/blob/main/a.ipynb"),
        record("http://github.com/owner/course/blob/main/a.ipynb"),
        record("https://github.com/owner/course"),
        record("https://github.com/../course/blob/main/a.ipynb"),
        record("https://github.com/owner/-course/blob/main/a.ipynb"),
        record("https://github.com/owner/course/blob/--upload-pack=x/a.ipynb"),
        record("https://github.com/owner/course;touch hacked/blob/main/a.ipynb"),
        record("https://github.com/owner/$(touch hacked)/blob/main/a.ipynb"),
        record("https://github.com/owner/course#egg=x/blob/main/a.ipynb"),
        record("https://github.com/owner/cöurse/blob/main/a.ipynb"),
        record("https://github.com/owner/course/blob/main/a.ipynb\nhttps://example.org"),
        record("1AbCdEfGhIjK"),  # a notebook on Google Drive
        json.dumps([*json.loads(record(PAGE)), *json.loads(record(PAGE))]),  # two sessions: which one is this?
        "[]",
        "{}",
        "null",
        '[{"path": 7}]',
        '[{"name": "00_start_here.ipynb"}]',
        "<html>403</html>",
        b"\xff\xfe\x00",
        "",
    ],
)
def test_a_record_that_names_no_repository_on_github_is_passed_over_in_silence(tmp_path, alone, answer):
    run = on_colab(tmp_path, alone, answer, ADDRESS)
    assert run.lines[0] == f"installing titans_mini from git+{ADDRESS}" and run.asked == 1
    assert run.pip == [installs(f"git+{ADDRESS}")] and run.done.stderr == "" and not (alone / "hacked").exists()


def test_a_record_that_never_comes_costs_two_seconds(tmp_path, alone):
    start = time.monotonic()
    run = on_colab(tmp_path, alone, None, ADDRESS)
    assert run.pip == [installs(f"git+{ADDRESS}")] and run.asked == 1 and time.monotonic() - start < 15


def test_without_a_server_an_address_or_colab_nothing_is_lost(tmp_path, alone):
    with Colab("[]") as colab:
        source = colab.source(ADDRESS)
    nobody = Execution(tmp_path, alone, source, COLAB_JUPYTER_IP="127.0.0.1")  # the server is gone
    unknown = Execution(tmp_path, alone, source)  # Colab does not say where its server is
    assert nobody.lines[0] == unknown.lines[0] == f"installing titans_mini from git+{ADDRESS}"
    assert json.loads(unknown.lines[-1]) == ["subprocess.Popen"]


def test_nobody_is_asked_elsewhere_or_where_the_course_is_there(tmp_path, alone):
    with Colab(record(PAGE)) as colab:
        source, here = colab.source(), {"COLAB_JUPYTER_IP": "127.0.0.1"}
        run = Execution(tmp_path, alone, source.removeprefix(ON_COLAB), **here)
        assert run.done.returncode == 1 and run.done.stderr.strip().endswith(QUESTION)
        assert json.loads(Execution(tmp_path, ROOT / "notebooks", source, **here).lines[0]) == []
        Execution(tmp_path, alone, source, TITANS_REPOSITORY=ADDRESS, **here)
    assert colab.asked == []


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


def test_a_stamp_renews_the_cell_of_an_older_edition_and_nothing_else(folder):
    notebooks.stamp(ADDRESS, folder)
    (path, *_), old = notebooks.find(folder=folder), '# bootstrap: as it was\nREPOSITORY = ""'
    before, nb = path.read_bytes(), notebooks.read(path)
    notebooks.bootstrap_cell(nb).source = old
    notebooks.write(nb, path)
    assert hygiene.bootstrap_first(notebooks.read(path))
    assert notebooks.stamp(ADDRESS, folder) == [path] and path.read_bytes() == before


def test_a_stamp_folds_the_cell_and_changes_nothing_else(folder):
    notebooks.stamp("", folder)
    path, *_ = notebooks.find(folder=folder)
    before, nb = path.read_bytes(), notebooks.read(path)
    notebooks.bootstrap_cell(nb).metadata = nbformat.from_dict({})
    notebooks.write(nb, path)
    assert notebooks.stamp("", folder) == [path] and path.read_bytes() == before


def test_the_cell_stays_short_enough_to_be_read():
    lines = notebooks.BOOTSTRAP.splitlines()
    assert len(lines) < 50 and max(map(len, lines)) <= 100


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
    assert cell.metadata == {"jupyter": {"source_hidden": True}, "cellView": "form"}
    assert notebooks.tidy(notebooks.from_percent(tmp_path / "draft.py")).cells[0].metadata == cell.metadata


def test_notebooks_with_different_addresses_are_found(folder):
    first, second, *_ = notebooks.find(folder=folder)
    nbs = {path.name: notebooks.read(path) for path in (first, second)}
    assert hygiene.one_address(nbs) == []
    notebooks.bootstrap_cell(nbs[second.name]).source = notebooks.bootstrap("https://example.org/other/c")
    assert [line.split(":")[0] for line in hygiene.one_address(nbs)] == [second.name]
