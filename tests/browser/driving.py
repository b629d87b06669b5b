"""Serve notebooks with JupyterLab, run them in a real browser, and move every control of every widget."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
RUN_SECONDS, CHANGE_SECONDS = 180, 6
KEYS = ["ArrowRight", "ArrowLeft", "ArrowLeft", "End", "Home"]  # a slider that sits at one end still moves
TEXT = "the cat sat on the mat and the cat sat on the quantum mat"
ROOTS = ".jp-Notebook .jp-OutputArea-output .jupyter-widgets:not(.jupyter-widgets .jupyter-widgets)"

LISTEN = """async (path) => {
  const app = window.jupyterapp, pause = () => new Promise(done => setTimeout(done, 100));
  let panel = null;
  while (!(panel = app.shell.currentWidget)?.sessionContext || !panel.context.path.endsWith(path)) await pause();
  await panel.context.ready;
  await panel.sessionContext.ready;
  while (!panel.sessionContext.session?.kernel || panel.sessionContext.session.kernel.status !== 'idle') await pause();
  window.titansErrors = [];
  panel.sessionContext.session.kernel.anyMessage.connect((_, { msg, direction }) => {
    const kind = msg.header.msg_type, { ename, evalue, text } = msg.content;
    if (direction !== 'recv') return;
    if (kind === 'error') window.titansErrors.push(`${ename}: ${evalue}`);
    if (kind === 'stream' && text.includes('Traceback')) window.titansErrors.push(text);
  });
}"""
RUN = """async () => {
  const app = window.jupyterapp, panel = app.shell.currentWidget;
  const cells = [...panel.content.model.cells].filter(cell => cell.type === 'code');
  for (const cell of cells) { cell.clearExecution(); }
  await app.commands.execute('notebook:run-all-cells');
  return cells.filter(cell => cell.sharedModel.source.trim() && cell.executionCount === null).length;
}"""
STATUS = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status"
LOOK = """async (root) => {
  const pictures = [...root.querySelectorAll('img.widget-image, img.jupyter-widgets, canvas')];
  if (!pictures.length) return [...root.querySelectorAll('.widget-html-content')].map(node => node.innerHTML).join();
  const reads = pictures.map(async node => node.tagName === 'CANVAS' ? node.toDataURL()
      : Array.from(new Uint8Array(await (await fetch(node.src)).arrayBuffer())).join());
  return (await Promise.all(reads)).join();
}"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serve(folder, private):
    """Serve copies of the notebooks in `folder`, with a home, settings and caches of its own; yields the address."""
    served = private / "course"
    shutil.copytree(folder, served / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    if (folder.parent / "assets").is_dir():
        shutil.copytree(folder.parent / "assets", served / "assets")
    settings = private / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    port = free_port()
    log = private / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            server_command(port, served),
            cwd=served,
            env=server_environment(private),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own process group, so that its kernels end with it
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for_server(address, process, log)
            yield address
        finally:
            stop(process)


@contextlib.contextmanager
def lab(private, *extra):
    """Run tools/lab.py in a copy of the course, as `make lab` does; yields the address it prints, and the copy."""
    folder, home, port = private / "course", private / "home", free_port()
    home.mkdir()
    for name in ("tools", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    env = {key: value for key, value in os.environ.items() if not key.startswith("JUPYTER")}
    env.update(HOME=str(home), JUPYTER_RUNTIME_DIR=str(home / "runtime"), JUPYTER_CONFIG_DIR=str(home / "config"))
    command = [sys.executable, str(folder / "tools" / "lab.py"), "--port", str(port), "--no-browser", *extra]
    log = private / "lab.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=env, cwd=private, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_for_server(f"http://127.0.0.1:{port}", process, log)
        yield re.search(rf"http://127\.0\.0\.1:{port}/\S+\?token=\w+", log.read_text())[0], folder
    finally:
        stop(process)


def server_command(port, served):
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        *("--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={served}"),
        *(
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
        ),
    ]


def server_environment(private):
    env = dict(os.environ, HOME=str(private), JUPYTERLAB_SETTINGS_DIR=str(private / "settings"))
    env.update(JUPYTER_CONFIG_DIR=str(private / "config"), JUPYTER_RUNTIME_DIR=str(private / "runtime"))
    env.update(JUPYTERLAB_WORKSPACES_DIR=str(private / "workspaces"), IPYTHONDIR=str(private / "ipython"))
    env.update(JUPYTER_PREFER_ENV_PATH="1", TITANS_FAST="1", OMP_NUM_THREADS="1", TQDM_DISABLE="1")
    with contextlib.suppress(ImportError):
        import matplotlib

        env.setdefault("MPLCONFIGDIR", matplotlib.get_configdir())  # its font cache takes seconds to build
    return env


def wait_for_server(address, process, log, seconds=60):
    end = time.monotonic() + seconds
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), opener.open(f"{address}/api", timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


def stop(process):
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, ending)
            if ending is signal.SIGINT:  # JupyterLab asks once more before it ends, and takes a second yes
                time.sleep(0.2)
                os.killpg(process.pid, ending)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a kernel that stayed behind


# -- the page -------------------------------------------------------------------------------------------------------


def open_and_run(page, address, name):
    """Open a notebook, wait for its kernel, run all cells; returns complaints."""
    page.set_default_timeout(RUN_SECONDS * 1000)
    page.goto(f"{address}/lab/tree/notebooks/{name}?reset")
    page.wait_for_function("() => window.jupyterapp && window.jupyterapp.shell.currentWidget")
    page.evaluate(LISTEN, name)
    not_run = page.evaluate(RUN)
    wait_until_quiet(page)
    return [f"{not_run} code cells did not run"] * bool(not_run) + errors(page)


def errors(page):
    """Everything that went wrong so far: errors the kernel sent, error outputs, widgets that could not be shown."""
    found = page.evaluate("() => window.titansErrors.splice(0)")
    found += [node.inner_text()[:300] for node in page.query_selector_all(".jupyter-widgets-error-widget")]
    alerts = [node.inner_text().strip() for node in page.query_selector_all(".jupyter-widgets [role=alert]")]
    return found + [text for text in alerts if text]


def wait_until_quiet(page, quiet=0.25, seconds=RUN_SECONDS):
    """Wait until the kernel has been idle for a moment."""
    end = time.monotonic() + seconds
    idle_since = None
    while time.monotonic() < end:
        if page.evaluate(STATUS) != "idle":
            idle_since = None
        elif idle_since is None:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= quiet:
            return
        time.sleep(0.05)
    raise AssertionError("the kernel is still busy")


def look(root):
    """Return a fingerprint of a widget's pictures, or of its text where it has none."""
    return hashlib.sha256(root.evaluate(LOOK).encode()).hexdigest()


def changed(page, root, before):
    """Wait until the widget looks different; False when its kernel is done and it still looks the same."""
    end = time.monotonic() + CHANGE_SECONDS
    while time.monotonic() < end:
        if look(root) != before:
            return True
        wait_until_quiet(page, quiet=0.4)
        if look(root) == before:
            return False
    return look(root) != before


def drive(page, root, label):
    """Move every control of one widget; returns complaints."""
    complaints = []
    steps = [drive_sliders, drive_dropdowns, drive_checkboxes, drive_texts, drive_buttons]
    for step in steps:
        complaints += [f"{label}: {complaint}" for complaint in step(page, root)]
        wait_until_quiet(page)
        complaints += [f"{label}: {step.__name__[6:]}: {error}" for error in errors(page)]
    return complaints


def drive_sliders(page, root):
    complaints = []
    for index in range(root.locator(".noUi-handle").count()):
        handle = root.locator(".noUi-handle").nth(index)
        if handle.get_attribute("aria-disabled") == "true" or not handle.is_visible():
            continue
        handle.scroll_into_view_if_needed()
        for key in KEYS:
            before = look(root)
            handle.focus()
            page.keyboard.press(key)
            if changed(page, root, before):
                break
        else:
            name = root.locator(".widget-slider").nth(index).inner_text().split("\n")[0]
            complaints.append(f"slider {index} ({name!r}) never changes the picture")
    return complaints


def drive_dropdowns(page, root):
    for index in range(root.locator("select").count()):
        select = root.locator("select").nth(index)
        for option in range(select.locator("option").count()):
            select.select_option(index=option)
            wait_until_quiet(page)
    return []


def drive_checkboxes(page, root):
    boxes = root.locator("input[type=checkbox], input[type=radio]")
    for index in range(boxes.count()):
        boxes.nth(index).click()
        wait_until_quiet(page)
    return []


def drive_texts(page, root):
    texts = root.locator("textarea, input[type=text]")
    for index in range(texts.count()):
        if texts.nth(index).is_editable():
            texts.nth(index).fill(TEXT)
            page.keyboard.press("Tab")
            wait_until_quiet(page)
    return []


def drive_buttons(page, root):
    buttons = root.locator("xpath=descendant-or-self::button")  # a widget may be nothing but a button
    for index in range(buttons.count()):
        if buttons.nth(index).is_visible() and buttons.nth(index).is_enabled():
            buttons.nth(index).click()
            wait_until_quiet(page)
    return []


def try_notebook(page, address, name, widgets, shots=None):
    """Run one notebook and drive all its widgets; returns complaints.

    Args:
        page: a page of the browser.
        address: where JupyterLab serves.
        name: the notebook's file name.
        widgets: how many widgets it should show.
        shots: a folder for one screenshot of each widget before and after, or None.
    """
    complaints = open_and_run(page, address, name)
    roots = page.locator(ROOTS)
    if roots.count() != widgets:
        complaints.append(f"{roots.count()} widgets on the page, expected {widgets}")
    for index in range(roots.count()):
        root = roots.nth(index)
        root.scroll_into_view_if_needed()
        if shots:
            root.screenshot(path=Path(shots) / f"{Path(name).stem}-widget{index}-start.png")
        complaints += drive(page, root, f"widget {index}")
        if shots:
            root.screenshot(path=Path(shots) / f"{Path(name).stem}-widget{index}-end.png")
    return complaints
