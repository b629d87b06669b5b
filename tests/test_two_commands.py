"""The two commands: what they would do, without installing anything again."""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.browser import driving
from tools import browser, lab, notebooks

ROOT = notebooks.ROOT
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments, **environment):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "ARGS"))} | environment
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


@needs_make
def test_make_alone_shows_the_help():
    done = make()
    assert done.returncode == 0 and done.stdout == make("help").stdout
    for target in ("lab", "test", "test-fast", "test-long", "notebooks", "stamp", "lint", "clean"):
        assert f"make {target}" in done.stdout


@needs_make
def test_every_target_in_the_help_exists():
    for target in set(re.findall(r"make ([a-z-]+)", make("help").stdout)):
        assert make("-n", target).returncode == 0, target


@needs_make
def test_the_port_reaches_jupyterlab():
    assert "--port 9999" in make("-n", "lab", "PORT=9999").stdout
    assert "--port 8888" in make("-n", "lab").stdout


@needs_make
def test_one_notebook_can_be_chosen():
    assert 'run --only "01"' in make("-n", "notebooks", "ONLY=01").stdout


@needs_make
def test_tests_run_in_one_pytest_call_with_small_sizes_and_one_thread():
    for target in ("test", "test-fast", "test-long"):
        lines = [line for line in make("-n", target).stdout.splitlines() if "-m pytest" in line]
        assert len(lines) == 1
        for part in ("TITANS_FAST=1", "OMP_NUM_THREADS=1", "-n 2", "--dist loadfile"):
            assert part in lines[0]
        assert ('-m "not slow"' in lines[0]) == (target == "test-fast")


@needs_make
def test_the_fast_tests_are_the_library_alone():
    (line,) = [line for line in make("-n", "test-fast").stdout.splitlines() if "-m pytest" in line]
    paths = re.findall(r"tests/[\w./]+", line)
    assert "tests/memory" in paths and "tests/models" in paths
    assert all((ROOT / path).exists() and "notebook" not in path and "browser" not in path for path in paths)


@pytest.fixture
def installed(tmp_path):
    """Return a folder that looks like an environment in which everything was installed after everything was written."""
    venv = tmp_path / "venv"
    venv.mkdir()
    for stamp in (".notebooks", ".tests"):
        (venv / stamp).touch()
        os.utime(venv / stamp, (4e9, 4e9))
    return venv


def extras(*arguments):
    """List the extras that a call of make would install."""
    return re.findall(r"pip install .*-e '\.\[(\w+)\]'", make("-n", *arguments).stdout)


@needs_make
@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements.txt", "constraints.txt"])
def test_a_changed_requirement_installs_again_and_nothing_else_does(installed, changed):
    for target, expected in {"lab": ["notebooks"], "test": ["notebooks", "test"]}.items():
        assert extras(target, f"VENV={installed}") == []
        assert extras(target, f"VENV={installed}", "-W", changed) == expected


@needs_make
def test_learning_installs_no_test_tools_and_testing_installs_everything(tmp_path, installed):
    fresh = f"VENV={tmp_path / 'fresh'}"
    for target in ("lab", "stamp"):
        assert extras(target, fresh) == ["notebooks"]
    for target in ("test", "test-fast", "test-long", "notebooks", "results", "lint", "install"):
        assert extras(target, fresh) == ["notebooks", "test"], target
    (installed / ".tests").unlink()  # a learner who begins to test
    assert extras("lab", f"VENV={installed}") == [] and extras("test", f"VENV={installed}") == ["test"]


@needs_make
def test_a_stamp_says_which_address_or_clears_it_but_not_by_accident():
    def line(*arguments):
        return make("-n", "stamp", *arguments).stdout.splitlines()[-1].rstrip()

    assert line("REPOSITORY=https://example.org/a/b").endswith('stamp "https://example.org/a/b"')
    assert line("REPOSITORY=").endswith('stamp ""')
    assert line().endswith("tools/notebooks.py stamp")


@needs_make
def test_an_old_python_is_refused_in_one_line(tmp_path):
    old = tmp_path / "python2"
    old.write_text('#!/bin/sh\nif [ "$1" = "--version" ]; then echo Python 2.7.18; else exit 1; fi\n')
    old.chmod(0o755)
    done = make("install", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}")
    assert done.returncode != 0 and "needs Python 3.10 or newer; got Python 2.7.18" in done.stdout


@needs_make
def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = make("install", f"VENV={tmp_path}")
    assert done.returncode != 0 and "is no Python environment" in done.stdout
    assert "pyvenv.cfg || rm -rf" in make("-n", "distclean", f"VENV={tmp_path}").stdout
    assert (tmp_path / "thesis.txt").exists()


@needs_make
def test_a_python_without_venv_is_explained_in_one_line(tmp_path):
    bare = tmp_path / "python3"
    bare.write_text('#!/bin/sh\nif [ "$1" = "-c" ]; then exit 0; fi\necho "No module named venv" >&2\nexit 1\n')
    bare.chmod(0o755)
    done = make("install", f"VENV={tmp_path / 'venv'}", f"PYTHON={bare}")
    assert done.returncode != 0 and "apt-get install python3-venv" in done.stdout
    assert "No module named venv" not in done.stdout + done.stderr
    assert not (tmp_path / "venv").exists()


# -- tools/lab.py ---------------------------------------------------------------------------------------------------


def test_jupyterlab_is_told_what_the_machine_needs():
    plain = lab.command(8888, superuser=False, display=True)
    assert plain[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--LabApp.default_url=/lab/tree/my_notebooks/00_start_here.ipynb" in plain
    assert "--ServerApp.port=8888" in plain and "--allow-root" not in plain and "--no-browser" not in plain
    bare = lab.command(8888, superuser=True, display=False, extra=["--ip=0.0.0.0"])
    assert "--allow-root" in bare and "--no-browser" in bare and bare[-1] == "--ip=0.0.0.0"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_make_lab_prints_an_address_that_serves_the_readers_copy_of_the_first_notebook(tmp_path):
    with driving.lab(tmp_path) as (address, folder):
        printed = re.search(r"(http://127\.0\.0\.1:\d+)/(\S+)\?token=(\w+)", address)
        assert printed[2] == f"lab/tree/{lab.FIRST}" and (folder / lab.FIRST).is_file()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for path in (printed[2], f"api/contents/{lab.FIRST}"):
            assert opener.open(f"{printed[1]}/{path}?token={printed[3]}", timeout=20).status == 200


def test_a_taken_port_is_named_with_a_free_one_beside_it(capsys):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not lab.is_free(port)
        assert lab.main(["--port", str(port)]) == 1
    message = capsys.readouterr().err
    assert f"port {port} is taken" in message
    assert lab.is_free(int(re.search(r"PORT=(\d+)", message)[1]))


def test_a_display_is_looked_for_on_linux_only(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert not lab.has_display()
    monkeypatch.setenv("DISPLAY", ":0")
    assert lab.has_display()
    monkeypatch.delenv("DISPLAY")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert lab.has_display()


def test_a_kernel_of_the_same_name_in_the_home_does_not_win(tmp_path):
    spec = tmp_path / ".local/share/jupyter/kernels/python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        '{"argv": ["/nonexistent/python"], "display_name": "wrong", "language": "python"}'
    )
    env = dict(os.environ, HOME=str(tmp_path), JUPYTER_PREFER_ENV_PATH="1")
    env = {key: value for key, value in env.items() if key not in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "XDG_DATA_HOME")}
    code = "from jupyter_client.kernelspec import KernelSpecManager as K; print(K().get_kernel_spec('python3').argv[0])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "nonexistent" not in done.stdout


# -- the rest -------------------------------------------------------------------------------------------------------


def test_a_named_browser_wins_and_a_missing_one_is_no_browser(tmp_path, monkeypatch):
    mine = tmp_path / "chrome"
    mine.touch()
    monkeypatch.setenv("TITANS_BROWSER", str(mine))
    assert browser.find() == str(mine)
    monkeypatch.setenv("TITANS_BROWSER", str(tmp_path / "gone"))
    assert browser.find() is None


def test_a_missing_browser_is_said_aloud_and_is_no_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TITANS_BROWSER", str(tmp_path / "gone"))
    assert browser.main([]) == 0
    assert "none found, so the browser tests will be skipped" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_continuous_integration_calls_the_commands_of_the_readme():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text() and "make test" in (ROOT / "README.md").read_text()


def requirement_names(path):
    lines = [line.split("#")[0].strip() for line in Path(path).read_text().splitlines()]
    return {re.split(r"[<>=;\s\[]", line)[0].lower().replace("_", "-"): line for line in lines if line}


PLATFORM = r"( ; sys_platform == 'linux' and platform_machine == 'x86_64')"  # where Triton has wheels


def test_requirements_are_floors_and_constraints_are_exact():
    floors = requirement_names(ROOT / "requirements.txt")
    for name, line in floors.items():
        assert re.fullmatch(r"[\w-]+>=[\d.]+" + (PLATFORM if name == "triton" else ""), line), line
    exact = requirement_names(ROOT / "constraints.txt")
    assert all(re.match(r"[\w-]+==[\d.]+( ;|$)", line) for line in exact.values()), exact
    assert set(floors) <= set(exact)
    assert exact["torch"] == "torch==2.13.0" and exact["triton"] == "triton==3.7.1"


def project():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_requirements_agree_with_the_package():
    """What a laptop needs is what the package and its notebooks need, and what runs notebooks as tests."""
    declared = set(project()["dependencies"] + project()["optional-dependencies"]["notebooks"])
    tests = {line for line in project()["optional-dependencies"]["test"] if line.startswith(("pytest>", "nbval>"))}
    assert len(tests) == 2
    assert set(requirement_names(ROOT / "requirements.txt").values()) == declared | tests
    assert [re.split("[<>=]", name)[0] for name in project()["dependencies"]] == ["torch", "numpy", "tqdm"]


def test_no_requirement_replaces_what_colab_brings():
    """Colab's versions of 2026-08-19; it has a front end of its own, and runs no tests."""
    brings = {"torch": "2.11.0", "numpy": "2.1.3", "ipywidgets": "7.7.1", "ipykernel": "6.17.1"}
    floors = requirement_names(ROOT / "requirements-colab.txt")
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", line) for line in floors.values()), floors
    for name, version in brings.items():
        floor = floors[name].split(">=")[1]
        assert [int(x) for x in floor.split(".")] <= [int(x) for x in version.split(".")], name
    everywhere = requirement_names(ROOT / "requirements.txt")
    assert set(everywhere.values()) - set(floors.values()) == {
        everywhere[name] for name in ("jupyterlab", "triton", "pytest", "nbval")
    }
    assert set(floors.values()) <= set(everywhere.values())
