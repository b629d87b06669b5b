"""The training loop: batch, loss, gradient, step. Everything else serves long runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from titans_mini.data.recall import IGNORE
from titans_mini.train.checkpoint import load_checkpoint, save_checkpoint
from titans_mini.train.history import History
from titans_mini.train.sources import Source

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters of training. The defaults follow the paper where it gives a value (section 5.1, appendix E.1).

    Raises:
        ValueError: if a number is out of range.
    """

    steps: int = 1000
    lr: float = 4e-4  # learning rate at the end of the warm-up, as in the paper
    warmup: int = 50  # steps over which the rate rises from 0
    final_lr: float = 0.1  # end of the cosine schedule, in units of lr
    weight_decay: float = 0.1  # on matrices only, as in the paper; norms, biases and gates would lose their meaning
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    clip: float = 1.0  # maximum gradient norm
    accumulate: int = 1  # batches per optimiser step
    precision: str = "float32"  # or "bfloat16": autocast, weights stay float32
    evaluate_every: int = 0  # steps between evaluations; 0: only at the end
    save_every: int = 0  # steps between checkpoints; 0: only at the end
    seed: int = 0  # seed of random draws inside the model

    def __post_init__(self) -> None:
        """Raise ValueError for the first field out of range."""
        for name in ("steps", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected ≥ 1")
        for name in ("warmup", "evaluate_every", "save_every", "weight_decay", "final_lr"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected ≥ 0")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected > 0")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: got {self.precision!r}, expected one of {list(PRECISIONS)}")

    def rate(self, step: int) -> float:
        """Compute the learning rate of step number `step`, counted from 0: a linear warm-up, then half a cosine."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (self.final_lr + (1 - self.final_lr) * (1 + math.cos(math.pi * min(done, 1))) / 2)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split the parameters into two groups: matrices with weight decay, everything else without.

    The bias of a forget gate *is* its half-life, and M₀ is a memory, not a map: weight decay would pull both towards
    arbitrary values.

    Args:
        model: any module.
        weight_decay: weight decay of the matrices.

    Returns:
        Two parameter groups for an optimiser.
    """
    matrices, others = [], []
    for name, p in model.named_parameters():
        decays = p.dim() >= 2 and not any(part in name for part in ("embedding", "initial_weights", "persistent"))
        (matrices if decays and "output_norm" not in name else others).append(p)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class Trainer:
    """A resumable training run: the numbers are the same whether it was interrupted or not.

    Args:
        model: called as model(tokens), returns logits (B, T, V) and a state, like `TitansLM`.
        source: batch number → batch.
        config: hyperparameters.
        evaluate: called with the model every `evaluate_every` steps and at the end; returns named scores.
        folder: folder of the checkpoints; None writes none. An existing checkpoint is resumed.
        progress: show a progress bar.

    Raises:
        ValueError: if the checkpoint in `folder` belongs to another run.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        config: TrainConfig,
        *,
        evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
        folder: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        """Build the optimiser; see the class for the arguments."""
        self.model, self.source, self.config, self.evaluate = model, source, config, evaluate
        self.progress, self.history = progress, History()
        self.optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), config.lr, config.betas)
        self.device = next(model.parameters()).device
        self.path = None if folder is None else Path(folder) / "checkpoint.pt"
        torch.manual_seed(config.seed)
        if self.path is not None and self.path.exists():
            self._restore(load_checkpoint(self.path, self.device))

    @property
    def done(self) -> int:
        """Return the number of completed steps."""
        return len(self.history.losses)

    def _content(self) -> dict[str, Any]:
        """Return the contents of a checkpoint: all state that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history.to_dict(),
            "random": torch.get_rng_state(),
            "config": asdict(self.config),
        }

    def _restore(self, content: dict[str, Any]) -> None:
        """Restore model, optimiser, history and random state from a checkpoint's `content`."""
        mine = asdict(self.config)
        other = {key: value for key, value in content["config"].items() if mine.get(key) != value}
        if other:
            got = {key: mine.get(key) for key in other}
            raise ValueError(
                f"{self.path}: got {got}, expected {other} as in this checkpoint: resume it or choose a new folder"
            )
        try:
            self.model.load_state_dict(content["model"])
        except RuntimeError as error:
            raise ValueError(f"{self.path}: expected a checkpoint of this model, got another one's: {error}") from error
        self.optimizer.load_state_dict(content["optimizer"])
        self.history = History(**content["history"])
        torch.set_rng_state(content["random"].cpu())

    def run(self, until: int | None = None) -> History:
        """Train up to step `until`, or to the end.

        Args:
            until: step at which to stop; another call or process can resume from there.

        Returns:
            The history so far.

        Raises:
            FloatingPointError: if the loss is not finite; the last checkpoint stays.
        """
        c = self.config
        last = c.steps if until is None else min(until, c.steps)
        self.model.train()
        with tqdm(total=last, initial=self.done, disable=None if self.progress else True, unit="step") as bar:
            while self.done < last:
                loss = self.step()
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", lr=f"{c.rate(self.done - 1):.1e}", refresh=False)
                if self.evaluate and (self.done == c.steps or (c.evaluate_every and self.done % c.evaluate_every == 0)):
                    self._score()
                if self.path and (self.done == last or (c.save_every and self.done % c.save_every == 0)):
                    save_checkpoint(self.path, self._content())
        return self.history

    def step(self) -> float:
        """Run one optimiser step and return its loss."""
        began, number, total = time.perf_counter(), self.done, 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(number)
        for i in range(self.config.accumulate):
            loss = self._loss(number * self.config.accumulate + i) / self.config.accumulate
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise FloatingPointError(f"loss: got {total} at step {number + 1}, expected a finite number: lr too large?")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.history.losses.append(total)
        self.history.seconds += time.perf_counter() - began
        return total

    def _loss(self, index: int) -> Tensor:
        """Compute the mean cross-entropy of batch number `index` over the positions that have a target."""
        tokens, targets = (x.to(self.device, non_blocking=True) for x in self.source(index))
        kind = PRECISIONS[self.config.precision]
        with torch.autocast(self.device.type, kind) if kind else nullcontext():
            logits, _ = self.model(tokens)
        asked = targets != IGNORE
        return F.cross_entropy(logits[asked].float(), targets[asked])

    def _score(self) -> None:
        """Run the evaluation hook and append its scores to the history."""
        self.model.eval()
        with torch.no_grad():
            self.history.scores.append({"step": self.done, **self.evaluate(self.model)})
        self.model.train()


def train(model: nn.Module, source: Source, config: TrainConfig, **options) -> History:
    """Train a model from start to end: `Trainer(model, source, config, **options).run()`.

    Args:
        model: see `Trainer`; trained in place.
        source: see `Trainer`.
        config: see `Trainer`.
        options: see `Trainer`.

    Returns:
        The history.
    """
    return Trainer(model, source, config, **options).run()
