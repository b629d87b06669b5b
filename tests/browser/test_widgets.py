"""What the widgets' base promises to somebody who moves them, in JupyterLab with a real browser."""

import json
import time

import nbformat
import pytest

from tests.browser import driving
from tests.browser.test_browser import chromium, page  # noqa: F401
from tools import notebooks

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SLOW = """\
import time
import ipywidgets
from titans_mini.viz import draw, figure
from titans_mini.viz.widgets import ForgettingDesk, SurpriseStrip
from titans_mini.viz.widgets.explorer import Explorer

class Slow(Explorer):
    presets = {"far": {"t": 200}}
    def controls(self):
        return {"t": ipywidgets.IntSlider(0, 0, 200, description="token t")}
    def build(self):
        fig, ax = figure(4, 2)
        ax.set(xlim=(0, 200))
        self.here = draw.marker(ax, 0)
        return fig
    def draw(self, t):
        time.sleep(0.12)
        self.here.update(t)
    def alt(self, t):
        return f"A line at {t}. " + "And more of it. " * (t // 10)

slow = Slow()
frames = []
slow.image.observe(lambda change: frames.append(slow.values["t"]), "value")
slow"""
DESK = "from titans_mini.data.evening import evening\ndesk = ForgettingDesk(evening(seed=7, visits=160))\ndesk"
STRIP = """\
strip = SurpriseStrip()
readings = []
strip.image.observe(lambda change: readings.append(strip.values["text"]), "value")
strip"""
ASK = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const asked = kernel.requestExecute({ code, store_history: false });
  let said = '';
  asked.onIOPub = message => { if (message.header.msg_type === 'stream') said += message.content.text; };
  await asked.done;
  return said;
}"""
HEIGHTS = """root => { window.heights = new Set();
  new ResizeObserver(() => window.heights.add(Math.round(root.getBoundingClientRect().height))).observe(root); }"""
OUTSIDE = """root => { const wide = root.getBoundingClientRect(), found = [];
  for (const part of root.querySelectorAll('select, textarea, button, input, img, .noUi-target, .widget-readout')) {
    const box = part.getBoundingClientRect();
    if (box.width && (box.right > wide.right + 1 || box.left < wide.left - 1 || box.right > window.innerWidth))
      found.push(`${part.tagName} ${part.className}: ${box.left} to ${box.right} of ${wide.left} to ${wide.right}`);
  }
  return found; }"""
SEEN = "root => [...root.querySelectorAll('img')].filter(node => node.offsetWidth).map(node => node.className)"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trials") / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in (SLOW, DESK, STRIP)]
    nb = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": notebooks.KERNELSPEC})
    notebooks.write(nb, folder / "moves.ipynb")
    with driving.serve(folder, tmp_path_factory.mktemp("lab")) as address:
        yield address


@pytest.fixture
def roots(page, served):  # noqa: F811
    complaints = driving.open_and_run(page, served, "moves.ipynb")
    assert not complaints, complaints
    return page.locator(driving.ROOTS)


def ask(page, code):  # noqa: F811
    return json.loads(page.evaluate(ASK, f"import json; print(json.dumps({code}))"))


def test_a_dragged_slider_ends_where_it_is_let_go_without_a_queue(page, roots):  # noqa: F811
    root = roots.nth(0)
    handle, track = root.locator(".noUi-handle"), root.locator(".noUi-base")
    handle.scroll_into_view_if_needed()
    start, box = handle.bounding_box(), track.bounding_box()
    y = start["y"] + start["height"] / 2
    page.mouse.move(start["x"] + start["width"] / 2, y)
    page.mouse.down()
    for i in range(1, 61):
        page.mouse.move(box["x"] + box["width"] * i / 66, y)
        time.sleep(0.01)
    page.mouse.up()
    let_go = time.monotonic()
    driving.wait_until_quiet(page, quiet=0.4)
    waited = time.monotonic() - let_go - 0.4
    end, frames = int(float(handle.get_attribute("aria-valuenow"))), ask(page, "frames")
    assert end > 100 and frames[-1] == ask(page, "slow.values['t']") == end
    assert len(frames) < 30, f"{len(frames)} frames for 60 positions: a queue"
    assert waited < 6
    assert f"A line at {end}." in root.locator("[role=status]").inner_text()


def test_the_height_stays_the_same_while_it_moves(page, roots):  # noqa: F811
    for index, keys in ((0, ["End", "Home", "End"]), (1, ["Home", "End", "ArrowLeft"]), (2, ["End", "Home"])):
        root = roots.nth(index)
        root.evaluate(HEIGHTS)
        for key in keys:
            root.locator(".noUi-handle").first.focus()
            page.keyboard.press(key)
            driving.wait_until_quiet(page)
        if index == 2:
            root.locator("textarea").fill("z" * 5000)
            driving.wait_until_quiet(page, quiet=1)
        assert page.evaluate("() => [...window.heights]") == [round(root.bounding_box()["height"])], index


def test_a_text_is_read_after_a_pause(page, roots):  # noqa: F811
    box = roots.nth(2).locator("textarea")
    box.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("the cat sat on the quantum mat", delay=30)
    time.sleep(1.5)  # the focus stays in the box
    driving.wait_until_quiet(page)
    assert ask(page, "readings") == ["the cat sat on the quantum mat"]


def test_the_keyboard_alone_reaches_and_moves_everything(page, roots):  # noqa: F811
    root = roots.nth(1)
    root.locator(".noUi-handle").first.focus()
    wanted = root.locator(".noUi-handle, .widget-readout, select, textarea, button").count()
    reached = 1
    for _ in range(wanted - 1):
        page.keyboard.press("Tab")
        reached += root.evaluate("root => root.contains(document.activeElement)")
    assert reached == wanted and page.evaluate("() => document.activeElement.textContent") == "reset"
    root.locator(".noUi-handle").first.focus()
    page.keyboard.press("Home")
    driving.wait_until_quiet(page)
    status = root.locator("[role=status]")
    assert status.text_content().startswith("half-life: 1. An evening")
    root.locator("button").last.focus()
    page.keyboard.press("Enter")
    driving.wait_until_quiet(page)
    assert status.text_content().startswith("half-life: 24. An evening")
    assert root.locator("img:visible").get_attribute("title").startswith("An evening"), "the picture has a name"
    assert driving.errors(page) == []


def test_the_page_of_200_percent_cuts_no_control(page, roots):  # noqa: F811
    page.set_viewport_size({"width": 650, "height": 500})  # what is left of 1300 × 1000 at 200 %
    page.evaluate("async () => { const app = window.jupyterapp; app.shell.collapseLeft(); app.shell.collapseRight(); }")
    time.sleep(0.5)
    for index in range(3):
        assert roots.nth(index).evaluate(OUTSIDE) == []


def test_the_picture_follows_the_theme(page, roots):  # noqa: F811
    def shown():
        return [" ".join(names) for names in (root.evaluate(SEEN) for root in roots.all())]

    assert all("titans-light" in names and "titans-dark" not in names for names in shown())
    page.evaluate("async () => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    assert all("titans-dark" in names and "titans-light" not in names for names in shown())
    roots.nth(0).locator(".noUi-handle").focus()
    page.keyboard.press("End")
    driving.wait_until_quiet(page)
    assert "A line at 200." in roots.nth(0).locator("[role=status]").inner_text()
