"""Open the course in JupyterLab: `make lab`, or `python tools/lab.py` where there is no make.

It detects a superuser, a missing display and a taken port, so one command works everywhere. What it opens is the
reader's own copy of the lessons, in `my_notebooks/`: see `tools/my_notebooks.py`.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # also where it is run as a script
from tools import my_notebooks  # noqa: E402

FIRST = "my_notebooks/00_start_here.ipynb"
SETTINGS = ROOT / "tools" / "jupyter"  # JupyterLab's defaults here: it asks nobody whether they want its news


def command(port: int, *, superuser: bool, display: bool, extra: list[str] | None = None) -> list[str]:
    """Build JupyterLab's command line.

    Args:
        port: port of the server; it fails rather than moving to another one.
        superuser: allow running as root, which Jupyter otherwise refuses.
        display: False if no browser can open; JupyterLab then prints its address.
        extra: further options, passed on unchanged.
    """
    options = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={ROOT}",
        f"--LabApp.default_url=/lab/tree/{FIRST}",  # so that the address it prints leads to the notebook
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--LabApp.news_url=None",  # nothing fetched; that nobody is asked about news is in SETTINGS
        "--LanguageServerManager.autodetect=False",
        "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
    ]
    options += ["--allow-root"] if superuser else []
    options += [] if display else ["--no-browser"]
    return options + (extra or [])


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port of this machine."""
    with socket.socket() as probe:
        if os.name == "posix":  # a port closed a moment ago counts as free; on Windows this means something else
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def has_display() -> bool:
    """Return whether a browser could open here: always on Windows and macOS, on Linux if a display is set."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def main(arguments: list[str] | None = None) -> int:
    """Check the port, then start JupyterLab; return 1 with one line of advice if the port is taken."""
    parser = argparse.ArgumentParser(description="Open the course in JupyterLab.")
    parser.add_argument("--port", type=int, default=8888)
    options, extra = parser.parse_known_args(arguments)
    if not is_free(options.port):
        free = next((port for port in range(options.port + 1, options.port + 100) if is_free(port)), 0)
        print(f"port {options.port} is taken by another program; try:  make lab PORT={free}", file=sys.stderr)
        return 1
    for line in my_notebooks.refresh():
        print(line, flush=True)
    display = has_display()
    if not display:
        print("no display here, so no browser opens: copy the address that ends in a token into one", flush=True)
    superuser = hasattr(os, "geteuid") and os.geteuid() == 0
    command_line = command(options.port, superuser=superuser, display=display, extra=extra)
    env = dict(os.environ, JUPYTER_PREFER_ENV_PATH="1")  # our kernel, not one of the same name in the user's home
    folders = [str(SETTINGS), *filter(None, [env.get("JUPYTER_CONFIG_PATH")])]
    env["JUPYTER_CONFIG_PATH"] = os.pathsep.join(folders)
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    os.chdir(ROOT)
    if os.name == "posix":
        os.execve(command_line[0], command_line, env)
    return subprocess.call(command_line, env=env)


if __name__ == "__main__":
    sys.exit(main())
