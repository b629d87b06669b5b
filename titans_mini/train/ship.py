"""Put a recorded model on the shelf of those that come with the library, with its record and a card for people.

python -m titans_mini.train.ship long/mag 0 mag-novels
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from titans_mini.models.pretrained import FOLDERS
from titans_mini.models.titans import TitansLM
from titans_mini.train.experiments import Experiment
from titans_mini.train.longscore import CARRIED
from titans_mini.train.recipes import EXPERIMENTS, PLANNED
from titans_mini.train.record import PIECES, piece_name

MAX_BYTES = 4 * 2**20  # largest weights file
CARD = """---
license: mit
language: en
tags: [titans, memory]
---
# {name}

A small Titans model that reads English text and remembers what it has read: {weights:,} weights, {kilobytes:,} kB.
Memory as gate (MAG), two blocks, each with one {dim} × {dim} matrix that learns while it reads, beside attention to the
last {window} pieces of text. One of 2,048 byte-pair pieces is about three letters.

    from titans_mini.data.reading import read_text
    from titans_mini.models.pretrained import pretrained
    model = pretrained("{name}")
    bits, right = read_text(model, "any text of yours")

## Training

{steps:,} steps of {batch} × {length} pieces on {books} novels of Project Gutenberg (of the 19th century, in the public
domain), seed {seed}, {minutes:.0f} minutes of one thread on {cpu}. Readers go through whole books with a memory that is
carried on; names are exchanged for invented ones, and some passages come twice. Commit
{commit}, {date}. `{command}` trains it again; training.json has the whole configuration and the curve.

Loss, nats per piece: {curve}.

## What it is worth

Bits per byte on books that it has not seen, kilobytes {first} to {last} of each:

| books | memory carried along | memory reset every kilobyte |
|---|---|---|
{rows}

## Limits

It knows the English of these novels, not facts, and its sentences make sense for a few words at a time. What it
remembers are names and turns of phrase, for some kilobytes. It reads in chunks of 16 pieces, although it was trained in
chunks of 64: with those, a table of contents whose rows of dots repeat one piece many times spoiled its memory. Text of
other kinds, other languages above all, is read byte by byte and surprises it throughout. The novels speak of people as
their century did, and so does it.
"""


def ship(
    experiment: Experiment, seed: int, name: str, shelf: Path = FOLDERS[-1], pieces: Path = PIECES
) -> dict[str, Any]:
    """Copy the weights of a recorded run of `LongText`, its record to training.json, and write its card.

    Args:
        experiment: what was trained.
        seed: of the run.
        name: of the shipped model.
        shelf: folder of all shipped models.
        pieces: folder of the records and models of single runs, see `titans_mini.train.record.run_piece`.

    Returns:
        The contents of training.json.

    Raises:
        FileNotFoundError: if the run was not recorded here.
        ValueError: if the weights are larger than 4 MiB.
    """
    run = pieces / piece_name(experiment, seed)
    if not (run / "model.safetensors").is_file():
        raise FileNotFoundError(f"{run}: expected the model of a recorded run; `make results` trains and keeps it")
    size = (run / "model.safetensors").stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{run}: got {size:,} bytes of weights, expected at most {MAX_BYTES:,}: they travel")
    (shelf / name).mkdir(parents=True, exist_ok=True)
    model = TitansLM.from_pretrained(run)
    if experiment.task.read_chunk:  # it is used as it was scored
        reads = TitansLM(replace(model.config, chunk_size=experiment.task.read_chunk))
        reads.load_state_dict(model.state_dict())
        model = reads
    model.save_pretrained(shelf / name)
    (shelf / name / "model.safetensors").chmod(0o644)  # for everybody, whatever the writer asks for
    command = f"python -m titans_mini.train.record --only {experiment.group}/{experiment.name}"
    record = {"command": command, "config": experiment.config(), **json.loads(run.with_suffix(".json").read_text())}
    record |= {"sha256": hashlib.sha256((shelf / name / "model.safetensors").read_bytes()).hexdigest()}
    (shelf / name / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (shelf / name / "README.md").write_text(card(name, record, size), encoding="utf-8")
    return record


def card(name: str, record: dict[str, Any], size: int) -> str:
    """Write the card of a model from its record.

    Args:
        name: of the model.
        record: see `ship`.
        size: of the weights, in bytes.
    """
    model, train, task = (record["config"][part] for part in ("model", "train", "task"))
    edges = task["edges"]
    rows = []
    for score in filter(None, record["scores"].values()):
        bits = (score["position"][reading]["bits"][-1] for reading in (CARRIED, "reset 1"))
        titles = ", ".join(book.replace("_", " ") for book in score["books"])
        rows.append(f"| {titles} | " + " | ".join(f"{x:.3f}" for x in bits) + " |")
    curve = record["curve"]
    shown = [curve[round(i * (len(curve) - 1) / 5)] for i in range(6)]
    return CARD.format(
        name=name,
        weights=record["parameters"],
        kilobytes=round(size / 1024),
        dim=model["dim"] // model["heads"],
        window=model["window"],
        steps=train["steps"],
        batch=len(task["forget"]),
        length=task["length"],
        books=len(task["train_on"]),
        seed=record["seed"],
        minutes=record["seconds"] / 60,
        cpu=record["hardware"]["cpu"],
        commit=record["commit"],
        date=record["date"],
        command=record["command"],
        curve=", ".join(f"{loss:.2f} at step {step:,}" for step, loss in shown),
        first=edges[-2],
        last=edges[-1],
        rows="\n".join(rows),
    )


if __name__ == "__main__":
    known = {f"{e.group}/{e.name}": e for e in (*EXPERIMENTS, *PLANNED)}
    p = argparse.ArgumentParser(prog="python -m titans_mini.train.ship", description=__doc__)
    p.add_argument("experiment", choices=known, metavar="GROUP/NAME")
    p.add_argument("seed", type=int)
    p.add_argument("name")
    options = p.parse_args()
    made = ship(known[options.experiment], options.seed, options.name)
    print(json.dumps(made["scores"]["validation"]["position"]))
