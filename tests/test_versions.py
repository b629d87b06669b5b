"""The first lessons on other people's versions: Colab's front end, and the oldest that pyproject.toml allows.

Each case lays the older packages over this environment and runs notebooks in it; minutes, so `make test-long` alone.
Torch stays the one that is here: its older wheels bring gigabytes of CUDA along.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tools import notebooks

COLAB = {"ipython": "7.34.0", "ipywidgets": "7.7.1", "ipykernel": "6.17.1", "jupyter_client": "7.4.9"}
LIGHT = ("ipywidgets", "ipykernel", "matplotlib", "safetensors", "tqdm")  # wheels for every Python that we support
NOTEBOOKS = ("00_start_here", "01_a_memory_that_is_a_matrix")
RUN = """\
import json, sys
from importlib.metadata import version
import nbformat
from nbclient import NotebookClient
nb = nbformat.read(sys.argv[1], 4)
NotebookClient(nb, timeout=300, kernel_name="python3", resources={"metadata": {"path": sys.argv[2]}}).execute()
print(json.dumps({name: version(name) for name in sys.argv[3:]}))
"""


def oldest():
    """The floors of pyproject.toml, as exact versions."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    project = tomllib.loads((notebooks.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]
    floors = dict(line.split(" ")[0].split(">=") for line in asked if ">=" in line)
    return {name: floors[name] for name in LIGHT}


@pytest.mark.long
@pytest.mark.parametrize("case", ["colab", "oldest"])
def test_the_first_lessons_run_on(case, tmp_path):
    wanted = COLAB if case == "colab" else oldest()
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.check_output(ask, text=True).strip())
    (site / "below.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")  # what is here, behind it
    exact = [f"{name}=={number}{'.*' if number.count('.') < 2 else ''}" for name, number in wanted.items()]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--ignore-installed", *exact]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if "Connection" in installed.stderr or "Temporary failure" in installed.stderr:
        pytest.skip("pip reaches no index from here, and older versions cannot be installed without one")
    assert installed.returncode == 0, installed.stderr
    subprocess.run([python, "-m", "ipykernel", "install", "--prefix", str(venv)], check=True, capture_output=True)
    env = dict(
        os.environ, TITANS_FAST="1", PYTHONPATH=str(notebooks.ROOT), JUPYTER_PATH=str(venv / "share" / "jupyter")
    )
    for name in NOTEBOOKS:
        path = notebooks.ROOT / "notebooks" / f"{name}.ipynb"
        command = [str(python), "-c", RUN, str(path), str(path.parent), *wanted]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout.splitlines()[-1])
        assert all(found[key].startswith(number) for key, number in wanted.items()), found
