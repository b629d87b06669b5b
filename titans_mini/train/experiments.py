"""The recorded experiments, as data: what is trained, on what, with which seeds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from titans_mini.models.config import TitansConfig
from titans_mini.models.titans import TitansLM
from titans_mini.train.loop import TrainConfig, Trainer
from titans_mini.train.sources import Source

SEEDS = (0, 1, 2)
EARLY = 5  # losses kept of the first steps: a test trains these steps again


class Task(Protocol):
    """What a model is trained and scored on."""

    @property
    def vocab_size(self) -> int:
        """Count the token ids."""

    def source(self, seed: int) -> Source:
        """Make the batches of training."""

    def score(self, model: nn.Module, seed: int) -> dict:
        """Return plain numbers for the record."""


@dataclass(frozen=True)
class Experiment:
    """One model on one task, for several seeds."""

    group: str  # the file of its results
    name: str  # unique in the group
    model: TitansConfig
    train: TrainConfig
    task: Task
    seeds: tuple[int, ...] = SEEDS
    why: str = ""  # what it is there for; not part of the configuration

    def config(self) -> dict[str, dict[str, Any]]:
        """Return every number that the result depends on, defaults included, as JSON has them."""
        train = replace(self.train, seed=0)  # the seed has a place of its own
        parts = {"model": self.model, "train": train, "task": self.task}
        plain = {name: {"kind": type(part).__name__, **asdict(part)} for name, part in parts.items()}
        return json.loads(json.dumps(plain))

    def hash(self) -> str:
        """Return a fingerprint of what differs from the defaults, which no new field with a default changes."""
        parts = {"model": self.model, "train": replace(self.train, seed=0), "task": self.task}
        own = {name: _chosen(part) for name, part in parts.items()}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:12]

    def trainer(self, seed: int, progress: bool = False) -> Trainer:
        """Make the model of one seed, ready to be trained."""
        torch.manual_seed(seed)
        model = TitansLM(self.model)
        return Trainer(model, self.task.source(seed), replace(self.train, seed=seed), progress=progress)

    def run(self, seed: int, progress: bool = False) -> dict[str, Any]:
        """Train and score one seed.

        Args:
            seed: of the weights and the data.
            progress: whether to show a bar.

        Returns:
            What is recorded, without place and time: "hash", "seed", "parameters", "seconds", "first" losses, "curve"
            and "scores".
        """
        trainer = self.trainer(seed, progress)
        history = trainer.run()
        trainer.model.eval()
        return {
            "hash": self.hash(),
            "seed": seed,
            "parameters": trainer.model.count_parameters(),
            "seconds": round(history.seconds, 1),
            "first": history.losses[:EARLY],
            "curve": [[step, round(loss, 4)] for step, loss in history.thin(40)],
            "scores": self.task.score(trainer.model, seed),
        }


def _chosen(part: Any) -> dict[str, Any]:
    """Fields of a dataclass that differ from their defaults, those of its parts likewise."""
    out: dict[str, Any] = {"kind": type(part).__name__}
    for field in fields(part):
        value = getattr(part, field.name)
        if value != field.default:
            out[field.name] = _chosen(value) if is_dataclass(value) else value
    return out
