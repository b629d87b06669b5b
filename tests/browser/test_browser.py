"""Each notebook in JupyterLab with a real browser: all cells run, and every control of every widget works."""

import os
from pathlib import Path

import nbformat
import pytest

from tests.browser import driving
from tools import browser, notebooks

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PATHS = notebooks.find()
CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

TRIAL = """\
import io
import ipywidgets
from IPython.display import display
from PIL import Image

def picture(n):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), (10 * n, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()

def widget(action):
    slider, image = ipywidgets.IntSlider(2, 0, 20, description="n"), ipywidgets.Image(value=picture(2))
    slider.observe(lambda change: action(image, change["new"]), "value")
    display(ipywidgets.VBox([slider, image]))"""
SHOWS = [
    "widget(lambda image, n: setattr(image, 'value', picture(n)))",
    "widget(lambda image, n: None)",
    "widget(lambda image, n: setattr(image, 'value', picture(n // (n - 3))))",
    "button = ipywidgets.Button()\nbutton.on_click(lambda _: 1 / 0)\ndisplay(button)",
]


@pytest.fixture(scope="module")
def chromium():
    path = browser.find()
    if path is None:
        message = f"no Chromium found: {browser.ADVICE}"
        pytest.fail(message) if CI else pytest.skip(message)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=driving.FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(chromium):
    context = chromium.new_context(viewport={"width": 1300, "height": 1000})
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    with driving.serve(notebooks.NOTEBOOKS, tmp_path_factory.mktemp("lab")) as address:
        yield address


@pytest.fixture(scope="module")
def shots():
    folder = os.environ.get("TITANS_SHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_control_of_every_widget_works(path, page, course, shots):
    tagged = sum(notebooks.WIDGET_TAG in cell.metadata.get("tags", []) for cell in notebooks.read(path).cells)
    complaints = driving.try_notebook(page, course, path.name, tagged, shots)
    assert not complaints, "\n".join(complaints)


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_make_lab_opens_the_readers_first_notebook_and_asks_nothing(page, tmp_path):
    """JupyterLab asks every newcomer whether they want its news; `make lab` has answered for them."""
    with driving.lab(tmp_path, "--expose-app-in-browser") as (address, _):
        page.goto(address)
        page.wait_for_function("() => window.jupyterapp && window.jupyterapp.shell.currentWidget")
        page.evaluate(driving.LISTEN, "my_notebooks/00_start_here.ipynb")  # returns when the kernel is idle
        page.wait_for_timeout(3000)  # the question would come within one second of that
        assert [toast.inner_text() for toast in page.query_selector_all(".Toastify__toast")] == []


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trials") / "notebooks"
    folder.mkdir()
    for name, sources in {"widgets.ipynb": (TRIAL, *SHOWS), "cells.ipynb": ("x = 1", "x / 0", "x")}.items():
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        nb = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": notebooks.KERNELSPEC})
        notebooks.write(nb, folder / name)
    with driving.serve(folder, tmp_path_factory.mktemp("lab")) as address:
        yield address


def test_a_dead_slider_and_errors_in_callbacks_are_found(page, trials, tmp_path):
    complaints = driving.try_notebook(page, trials, "widgets.ipynb", widgets=4, shots=tmp_path)
    found = "\n".join(complaints)
    assert not any(complaint.startswith("widget 0") for complaint in complaints), found
    assert "widget 1: slider 0 ('n') never changes the picture" in found
    assert "widget 2: sliders: ZeroDivisionError" in found
    assert "widget 3: buttons: ZeroDivisionError" in found
    assert len(list(tmp_path.glob("widgets-widget*.png"))) == 8


def test_an_error_in_a_cell_and_a_missing_widget_are_found(page, trials):
    complaints = "\n".join(driving.try_notebook(page, trials, "cells.ipynb", widgets=1))
    assert "ZeroDivisionError" in complaints and "1 code cells did not run" in complaints
    assert "0 widgets on the page, expected 1" in complaints
