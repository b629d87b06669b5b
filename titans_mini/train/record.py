"""Run the experiments and record their results: python -m titans_mini.train.record, or make results."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import Any

import torch

from titans_mini.train.checkpoint import CHECKPOINTS
from titans_mini.train.experiments import Experiment
from titans_mini.train.recipes import EXPERIMENTS, PLANNED

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "assets" / "results"
PIECES = ROOT / "build" / "record"  # one record for each experiment and seed, before they are put together
COMMAND = "make results"


def hardware() -> dict[str, Any]:
    """Return the processor, PyTorch's version and the number of threads per run."""
    info, cpu = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    named = re.search(r"^model name\s*: (.+)$", info.read_text(), re.M) if info.exists() else None
    cpu = f"{named[1]}, {os.cpu_count()} cores" if named else cpu
    return {"cpu": cpu, "torch": torch.__version__, "threads": 1}


def commit() -> str:
    """Return the commit of the running code; a plus sign marks uncommitted changes to the library."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    code = ("--", ":(glob)titans_mini/**/*.py")
    try:
        return git("log", "-1", "--format=%h", *code) + ("+" if git("status", "--porcelain", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git history here"


def path_of(group: str, folder: Path = RESULTS) -> Path:
    """Return the path of a group's results file."""
    return folder / f"remember_{group}.json"


def read(group: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Read a group's results; return an empty record if there are none."""
    path = path_of(group, folder)
    empty = {"command": COMMAND, "hardware": {}, "date": "", "commit": "", "experiments": {}}
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


def add(experiment: Experiment, run: dict[str, Any], origin: dict[str, Any], folder: Path = RESULTS) -> None:
    """Add one run to its group's file, which is replaced atomically: an interruption leaves the old file.

    Args:
        experiment: the experiment of the run. Runs of an older configuration of that name are dropped.
        run: the result of `Experiment.run`.
        origin: "hardware", "date" and "commit".
        folder: results folder.
    """
    results = read(experiment.group, folder) | origin
    kept = results["experiments"].get(experiment.name, {})
    runs = [old for old in kept.get("runs", []) if old["hash"] == run["hash"] and old["seed"] != run["seed"]]
    runs = sorted([*runs, run | origin], key=lambda r: r["seed"])
    entry = {"why": experiment.why, "hash": run["hash"], "config": experiment.config(), "runs": runs}
    results["experiments"] = results["experiments"] | {experiment.name: entry}
    order = [e.name for e in (*EXPERIMENTS, *PLANNED) if e.group == experiment.group]
    results["experiments"] = dict(
        sorted(results["experiments"].items(), key=lambda item: order.index(item[0]) if item[0] in order else -1)
    )
    path = path_of(experiment.group, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(_compact(results), encoding="utf-8")
    os.replace(temporary, path)


def _compact(results: dict[str, Any]) -> str:
    """Format as JSON with each list of numbers on one line."""
    text = json.dumps(results, indent=1)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def missing(experiments: tuple[Experiment, ...], folder: Path = RESULTS) -> list[tuple[Experiment, int]]:
    """List the (experiment, seed) pairs without a result of the current configuration, first seeds first."""
    found = []
    for experiment in experiments:
        entry = read(experiment.group, folder)["experiments"].get(experiment.name, {})
        there = {run["seed"] for run in entry.get("runs", []) if run["hash"] == experiment.hash()}
        found += [(i, experiment, seed) for i, seed in enumerate(experiment.seeds) if seed not in there]
    return [(experiment, seed) for _, experiment, seed in sorted(found, key=lambda item: item[0])]


def piece_name(experiment: Experiment, seed: int) -> str:
    """Return the name of the record and the model of one run."""
    return re.sub(r"\W+", "-", f"{experiment.group}-{experiment.name}-{experiment.hash()}-{seed}")


def run_piece(experiment: Experiment, seed: int, pieces: Path = PIECES) -> dict[str, Any]:
    """Train and score one experiment with one seed, on one thread, and write a record of its own.

    A piece that is recorded already is read; one that was interrupted goes on from its last checkpoint. The trained
    model stays beside the record, in a folder of the same name.

    Args:
        experiment: what to train.
        seed: of the weights and the data.
        pieces: folder of these records and models, and of the checkpoints on the way to them.

    Returns:
        The record: that of `Experiment.run` with "hardware", "date" and "commit".
    """
    torch.set_num_threads(1)
    name = piece_name(experiment, seed)
    path = pieces / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    origin = {"hardware": hardware(), "date": date.today().isoformat(), "commit": commit()}
    pieces.mkdir(parents=True, exist_ok=True)
    run = experiment.run(seed, pieces / name) | origin
    part = path.with_suffix(".part")
    part.write_text(_compact(run), encoding="utf-8")
    os.replace(part, path)
    shutil.rmtree(pieces / name / CHECKPOINTS)
    return run


def record(experiments: tuple[Experiment, ...], jobs: int, folder: Path = RESULTS, pieces: Path = PIECES) -> None:
    """Run all missing pieces, one experiment with one seed each, and add each to the results as soon as it is done.

    Args:
        experiments: the experiments that should have results.
        jobs: worker processes.
        folder: results folder.
        pieces: folder of the pieces' own records.
    """
    todo, seconds = missing(experiments, folder), 0.0
    print(f"{len(todo)} runs to do, {jobs} at a time", flush=True)
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch can hang
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(run_piece, experiment, seed, pieces): experiment for experiment, seed in todo}
        for done, future in enumerate(as_completed(futures), 1):
            experiment, run = futures[future], future.result()
            origin = {key: run.pop(key) for key in ("hardware", "date", "commit")}
            add(experiment, run, origin, folder)
            seconds += run["seconds"]
            name = f"{experiment.group}/{experiment.name} seed {run['seed']}"
            print(f"{done:3d}/{len(todo)}  {name}: {run['seconds']:.0f} s", flush=True)
    print(f"{seconds / 60:.1f} minutes of training in all", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Record the missing results of the selected experiments.

    Args:
        arguments: command-line arguments; default sys.argv[1:].
    """
    known = (*EXPERIMENTS, *PLANNED)
    groups = sorted({e.group for e in known})
    p = argparse.ArgumentParser(prog="python -m titans_mini.train.record", description=__doc__)
    p.add_argument("--only", nargs="*", default=[], metavar="GROUP[/NAME]", help=f"groups: {', '.join(groups)}")
    p.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    p.add_argument("--fresh", action="store_true", help="forget all recorded results of these groups first")
    p.add_argument("--folder", type=Path, default=RESULTS)
    options = p.parse_args(arguments)
    chosen = tuple(e for e in known if _selected(e, options.only)) if options.only else EXPERIMENTS
    if not chosen:
        sys.exit(f"--only: got {options.only}, expected some of {', '.join(f'{e.group}/{e.name}' for e in known)}")
    pieces = PIECES if options.folder == RESULTS else options.folder / "pieces"
    if options.fresh:
        for group in {e.group for e in chosen}:
            path_of(group, options.folder).unlink(missing_ok=True)
            for piece in pieces.glob(f"{group}-*"):
                shutil.rmtree(piece) if piece.is_dir() else piece.unlink()
    record(chosen, options.jobs, options.folder, pieces)


def _selected(experiment: Experiment, only: list[str]) -> bool:
    return experiment.group in only or f"{experiment.group}/{experiment.name}" in only


if __name__ == "__main__":
    main()
