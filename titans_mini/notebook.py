"""What notebooks share: sizes for slow machines, and recorded results."""

from __future__ import annotations

import json
import os
from pathlib import Path

FAST: bool = os.environ.get("TITANS_FAST", "") == "1"

HERE = Path(__file__).parent
FOLDERS = (HERE / "assets" / "results", HERE.parent / "assets" / "results")  # installed; in a checkout
COMMANDS = {
    "chunked_cpu": "python -m benchmarks --json assets/results/chunked_cpu.json",
    "sizes_cpu": "python -m benchmarks --sweep depth D --json assets/results/sizes_cpu.json",
    "stream_cpu": "python -m benchmarks.stream",
    "kernels_gpu": "python -m benchmarks.gpu",
    "kernels_compiled": "python -m tests.kernels.compiling",
    "remember_needle": "make results",
    "remember_ablations": "make results",
    "remember_babi": "make results",
    "remember_text": "make results",
}


def size(full, fast):
    """Return `fast` when the environment says ``TITANS_FAST=1``, else `full`."""
    return fast if FAST else full


def load_results(name: str) -> dict:
    """Read a recorded result.

    Args:
        name: "chunked_cpu" (times of all forms of the memory), "sizes_cpu" (over its width and depth), "stream_cpu"
            (a million bytes, token by token), "kernels_gpu" (times of the kernels), "kernels_compiled" (what they take
            of a GPU), or the trainings of notebook 12: "remember_needle", "remember_ablations", "remember_babi",
            "remember_text".

    Returns:
        What the file holds; always with `hardware`, `date`, `commit` and `command`.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    for folder in FOLDERS:
        path = folder / f"{name}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    looked = " and ".join(str(folder / f"{name}.json") for folder in FOLDERS)
    if name not in COMMANDS:
        raise FileNotFoundError(f"results: got {name!r}, expected one of {sorted(COMMANDS)}; looked for {looked}")
    raise FileNotFoundError(
        f"results: nothing recorded as {name!r}; looked for {looked}. In a checkout this makes it: {COMMANDS[name]}"
    )
