"""Add a finished run of `python -m titans_mini.train` to the pretrained models that come with the library.

python -m titans_mini.train.ship FOLDER NAME "the command that trained it" COMMIT
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

from titans_mini.data.text import to_bytes
from titans_mini.models.pretrained import FOLDERS, pretrained, read_bytes
from titans_mini.train.history import History
from titans_mini.train.language import book
from titans_mini.train.record import commit, hardware

MAX_BYTES = 4 * 2**20  # largest weights file
HELD_OUT, BYTES = "the_verdict", 8192  # a story outside the training data, and the bytes read of it


def scores(name: str) -> dict[str, Any]:
    """Measure bits per byte on a held-out story, with the memory's writes on and off."""
    model, ids = pretrained(name), to_bytes(book(HELD_OUT))[:BYTES]
    bits = {word: read_bytes(model, ids, x)[0].mean().item() for word, x in (("writing", 1.0), ("frozen", 0.0))}
    bits = {word: round(x, 4) for word, x in bits.items()}
    return {"text": HELD_OUT, "bytes": len(ids), "bits": bits, "commit": commit(), "hardware": hardware()}


def ship(run: Path, name: str, command: str, trained_at: str, shelf: Path = FOLDERS[-1]) -> dict[str, Any]:
    """Copy a run's weights and configuration, and record its training in training.json.

    Args:
        run: folder of the finished run.
        name: name of the shipped model.
        command: the training command.
        trained_at: commit of the training code.
        shelf: folder of all shipped models.

    Returns:
        The contents of training.json.

    Raises:
        ValueError: if the weights are larger than 4 MiB.
    """
    size = (run / "model.safetensors").stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{run}: got {size:,} bytes of weights, expected at most {MAX_BYTES:,}: they travel with us")
    (shelf / name).mkdir(parents=True, exist_ok=True)
    for file in ("model.safetensors", "config.json"):
        shutil.copyfile(run / file, shelf / name / file)
    old = json.loads((run / "run.json").read_text(encoding="utf-8"))
    history = History(**old["history"])
    record = {"command": command} | {name: old["identity"][name] for name in ("data", "train")}
    record |= {"seconds": round(history.seconds), "curve": history.thin(60)}
    record |= {"date": str(date.today()), "commit": trained_at, "hardware": hardware()}
    record |= {"sha256": hashlib.sha256((shelf / name / "model.safetensors").read_bytes()).hexdigest()}
    if shelf in FOLDERS:
        record |= {"scores": scores(name)}
    (shelf / name / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


if __name__ == "__main__":
    p = argparse.ArgumentParser(prog="python -m titans_mini.train.ship")
    p.add_argument("run", type=Path)
    p.add_argument("name")
    p.add_argument("command")
    p.add_argument("commit")
    options = p.parse_args()
    print(json.dumps(ship(options.run, options.name, options.command, options.commit)["scores"]))
