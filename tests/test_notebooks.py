"""Notebooks with their exercises solved, and the tools that make and run notebooks.

The notebooks as committed run through nbval in the same pytest call, which also fails on errors in widget callbacks.
"""

import ast
import os
import subprocess
import sys
import time

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tools import notebooks

PATHS = notebooks.find()
NOWHERE = "http://127.0.0.1:9"  # a proxy that refuses: whatever tries the network fails


def cpu_seconds_of_children():
    try:
        import resource
    except ImportError:  # Windows
        return time.perf_counter()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_solved_notebook_runs_without_network(path, monkeypatch, record_property):
    """Its processor time is measured and recorded, and limits nothing: a busy machine fails no test."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, NOWHERE)
    monkeypatch.setenv("TITANS_FAST", "1")
    solved = notebooks.solve(notebooks.read(path))
    start = cpu_seconds_of_children()
    notebooks.execute(solved, path.parent, timeout=300, strict=True)
    seconds = cpu_seconds_of_children() - start
    record_property("processor_seconds", round(seconds, 1))
    print(f"{path.name}: {seconds:.0f} s of processor time in fast mode")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_exercise_has_a_solution_other_than_its_stub(path):
    nb = notebooks.read(path)
    solved = notebooks.solve(nb)
    for before, after in zip(nb.cells, solved.cells, strict=True):
        if notebooks.exercise_name(before):
            assert ast.dump(ast.parse(before.source)) != ast.dump(ast.parse(after.source))
        else:
            assert before.source == after.source


# -- drafts ---------------------------------------------------------------------------------------------------------

DRAFT = '''\
# %% [markdown]
# # A title
#
# Two lines,
# one `code`.

# %%
# bootstrap

# %% tags=["hide-input"]
%matplotlib inline
def f(x):

    return x

# %% [markdown]
"""
Quoted *text*.
"""
'''


def draft(tmp_path, text):
    path = tmp_path / "draft.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_draft_becomes_a_notebook(tmp_path):
    nb = notebooks.from_percent(draft(tmp_path, DRAFT))
    assert [cell.cell_type for cell in nb.cells] == ["markdown", "code", "code", "markdown"]
    assert [cell.id for cell in nb.cells] == ["cell-000", "cell-001", "cell-002", "cell-003"]
    assert nb.cells[0].source == "# A title\n\nTwo lines,\none `code`."
    assert nb.cells[1].source == notebooks.bootstrap(notebooks.stamped_address())
    assert nb.cells[2].source == "%matplotlib inline\ndef f(x):\n\n    return x"
    assert nb.cells[2].metadata["tags"] == ["hide-input"]
    assert nb.cells[3].source == "Quoted *text*."


def test_a_notebook_becomes_a_draft_and_comes_back(tmp_path):
    nb = notebooks.from_percent(draft(tmp_path, DRAFT))
    assert notebooks.from_percent(draft(tmp_path, notebooks.to_percent(nb))) == nb


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n# %%\n", "draft.py:1: got text before the first cell"),
        ("# %% [raw]\n", "draft.py:1: got the cell marker"),
        ("# %% [markdown]\n# ok\nnot ok\n", "draft.py:3: got 'not ok' in a markdown cell"),
    ],
)
def test_a_malformed_draft_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        notebooks.from_percent(draft(tmp_path, text))


# -- running --------------------------------------------------------------------------------------------------------


def notebook(*sources):
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{i:03d}") for i, source in enumerate(sources)]
    return nbformat.v4.new_notebook(cells=cells)


WIDGET = """\
import io, sys, tqdm, warnings
import ipywidgets, matplotlib.pyplot as plt
from IPython.display import display
print("one")
print("two"); warnings.warn("this goes to stderr")
for _ in tqdm.tqdm(range(3)): pass
figure, axes = plt.subplots(figsize=(2, 1), dpi=50); axes.plot([1, 2]); buffer = io.BytesIO()
figure.savefig(buffer, format="png"); plt.close(figure)
import base64
bundle = ipywidgets.VBox([ipywidgets.IntSlider()])._repr_mimebundle_()
bundle["image/png"] = base64.b64encode(buffer.getvalue()).decode()
display(bundle, raw=True, metadata={"image/png": {"alt": "a rising line"}})"""


def test_running_twice_gives_the_same_bytes_and_only_pictures(tmp_path):
    path = tmp_path / "00_trial.ipynb"
    notebooks.write(notebook("x = {'a', 'b', 'c'}\nprint(x)", "", WIDGET), path)
    assert notebooks.run(path)
    first = path.read_bytes()
    assert not notebooks.run(path)
    assert path.read_bytes() == first
    assert first.endswith(b"}\n")
    nb = notebooks.read(path)
    assert [cell.execution_count for cell in nb.cells] == [1, None, 2]
    text, picture = nb.cells[2].outputs
    assert text.text == "one\ntwo\n"
    assert set(picture.data) == {"image/png", "text/plain"}
    assert picture.data["text/plain"] == "a rising line"
    assert nb.cells[2].metadata == {"tags": ["widget"]}
    assert "widgets" not in nb.metadata


def test_an_error_in_a_cell_stops_the_run(tmp_path):
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebooks.execute(notebook("1 / 0"), tmp_path)


def test_an_error_that_a_widget_swallows_is_found(tmp_path):
    click = "import ipywidgets\nb = ipywidgets.Button()\nb.on_click(lambda _: 1 / 0)\nb.click()"
    with pytest.raises(RuntimeError, match="cell 0 shows an error"):
        notebooks.execute(notebook(click), tmp_path)


def test_strict_reaches_the_kernel(tmp_path):
    show = notebook("import os\nprint(os.environ.get('TITANS_STRICT'))")
    assert notebooks.execute(show, tmp_path).cells[0].outputs[0].text == "None\n"
    assert notebooks.execute(show, tmp_path, strict=True).cells[0].outputs[0].text == "1\n"


def test_the_kernel_is_the_python_of_this_environment(tmp_path):
    shown = notebooks.execute(notebook("import sys\nprint(sys.prefix)"), tmp_path).cells[0].outputs[0].text
    assert shown.strip() == sys.prefix


def test_nbval_fails_a_notebook_whose_widget_callback_raises(tmp_path):
    path = tmp_path / "00_bad.ipynb"
    source = "import ipywidgets\ns = ipywidgets.Button()\ns.on_click(lambda _: 1 / 0)\ns.click()"
    notebooks.write(notebook("x = 1", source), path)
    options = [
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout=60",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-q",
    ]
    command = [sys.executable, "-m", "pytest", *options, f"--rootdir={tmp_path}", str(path)]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr


# -- exercises ------------------------------------------------------------------------------------------------------

STUB = "# exercise: 01.2\ndef double(x):\n    ...\n\n\ncheck('01.2', double)"
SOLUTION = 'def double(x):\n    """Twice x."""\n    return 2 * x\n'


def test_solve_replaces_stubs_and_nothing_else():
    nb = notebook("x = 1", STUB)
    solved = notebooks.solve(nb, {"01.2": SOLUTION}.__getitem__)
    assert solved.cells[0] == nb.cells[0]
    assert solved.cells[1].source == "# exercise: 01.2\n" + SOLUTION + "\ncheck('01.2', double)"
    assert nb.cells[1].source == STUB


@pytest.mark.parametrize(
    ("cell", "solution", "message"),
    [
        (STUB.replace("'01.2'", "'01.3'"), SOLUTION, "got the last line"),
        (STUB, SOLUTION.replace("double", "triple"), "defines \\['triple'\\]"),
    ],
)
def test_solve_refuses_a_cell_that_breaks_the_convention(cell, solution, message):
    with pytest.raises(ValueError, match=message):
        notebooks.solve(notebook(cell), lambda name: solution)


# -- pictures -------------------------------------------------------------------------------------------------------


def png(mode, size=(40, 30)):
    import base64
    import io

    from PIL import Image

    buffer = io.BytesIO()
    image = Image.effect_noise(size, 40).convert(mode)
    if mode == "RGBA":
        image.putalpha(128)
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_pictures_get_smaller_once_and_keep_transparency():
    for mode in ("RGB", "RGBA"):
        once = notebooks.compress_png(png(mode))
        assert notebooks.compress_png(once) == once
    see_through = png("RGBA")
    assert notebooks.compress_png(see_through) == see_through
    opaque = png("RGB", (200, 200))
    assert len(notebooks.compress_png(opaque)) < len(opaque)
