"""The recorded experiments as data: model, training configuration, task and seeds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from titans_mini.models.config import TitansConfig
from titans_mini.models.titans import TitansLM
from titans_mini.train.config import TrainConfig
from titans_mini.train.loop import Trainer
from titans_mini.train.sources import Source

SEEDS = (0, 1, 2)
EARLY = 5  # initial losses kept: a test trains these steps again


class Task(Protocol):
    """Interface of a task: training batches and a score.

    A task may also have a method `start(model, seed)`: it sets weights before training, and which of them are trained.
    """

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids."""

    def source(self, seed: int) -> Source:
        """Return the source of training batches."""

    def score(self, model: nn.Module, seed: int) -> dict:
        """Score a model; return plain numbers for the record."""


@dataclass(frozen=True)
class Experiment:
    """One model on one task, for several seeds."""

    group: str  # names the results file
    name: str  # unique in the group
    model: TitansConfig
    train: TrainConfig
    task: Task
    seeds: tuple[int, ...] = SEEDS
    why: str = ""  # purpose of the experiment; not part of the configuration

    def config(self) -> dict[str, dict[str, Any]]:
        """Return the full configuration, defaults included, as JSON data."""
        train = replace(self.train, seed=0)  # the seed is recorded separately
        parts = {"model": self.model, "train": train, "task": self.task}
        plain = {name: {"kind": type(part).__name__, **asdict(part)} for name, part in parts.items()}
        return json.loads(json.dumps(plain))

    def hash(self) -> str:
        """Hash the fields that differ from their defaults, so that a new field with a default keeps the hash."""
        parts = {"model": self.model, "train": replace(self.train, seed=0), "task": self.task}
        own = {name: _non_defaults(part) for name, part in parts.items()}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:12]

    def trainer(self, seed: int, folder: Path | None = None) -> Trainer:
        """Build the model of one seed and its trainer; see `run`."""
        torch.manual_seed(seed)
        model, config = TitansLM(self.model), replace(self.train, seed=seed)
        if hasattr(self.task, "start"):
            self.task.start(model, seed)
        return Trainer(model, self.task.source(seed), config, folder=folder, identity={"experiment": self.hash()})

    def run(self, seed: int, folder: Path | None = None) -> dict[str, Any]:
        """Train and score one seed.

        Args:
            seed: seed of the weights and the data.
            folder: of the run, which goes on if it was interrupted, and of the trained model; default none.

        Returns:
            The record without hardware, date and commit: "hash", "seed", "parameters", "seconds", "first" losses,
            "curve" and "scores".
        """
        trainer = self.trainer(seed, folder)
        try:
            history = trainer.run()
        finally:
            trainer.close()
        trainer.model.eval()
        if folder is not None:
            trainer.model.save_pretrained(folder)
        return {
            "hash": self.hash(),
            "seed": seed,
            "parameters": trainer.model.count_parameters(),
            "seconds": round(history.seconds, 1),
            "first": history.losses[:EARLY],
            "curve": [[step, round(loss, 4)] for step, loss in history.thin(40)],
            "scores": self.task.score(trainer.model, seed),
        }


def _non_defaults(part: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults, recursively."""
    out: dict[str, Any] = {"kind": type(part).__name__}
    for field in fields(part):
        value = getattr(part, field.name)
        if value != field.default:
            out[field.name] = _non_defaults(value) if is_dataclass(value) else value
    return out
