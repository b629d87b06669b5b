"""Locate a Chromium for the browser tests: `python tools/browser.py`; `--install` installs one if needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge"]
PLACES = [
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
]
ADVICE = "install Chromium or Chrome, or run: python -m playwright install chromium"


def find() -> str | None:
    """Return the path of a Chromium, or None; `TITANS_BROWSER` overrides the search."""
    named = os.environ.get("TITANS_BROWSER")
    candidates = [named] if named else [shutil.which(name) for name in NAMES] + PLACES + [_playwright_own()]
    return next((path for path in candidates if path and Path(path).exists()), None)


def _playwright_own() -> str | None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def install() -> None:
    """Install Debian's Chromium where no prompt is needed: as root, with apt-get."""
    if not (shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0):
        return
    print("no browser found: installing Debian's Chromium for the browser tests", flush=True)
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
        done = subprocess.run(["apt-get", "-qq", *arguments], env=env, capture_output=True, text=True)
        if done.returncode:
            print(f"apt-get {arguments[0]} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Print the browser found; always return 0, because only the browser tests need one."""
    if find() is None and "--install" in arguments:
        install()
    print(f"browser: {find() or f'none found, so the browser tests will be skipped ({ADVICE})'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
