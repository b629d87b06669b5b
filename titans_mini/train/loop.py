"""The training loop: batch, loss, gradient, step. Everything else serves long runs, on one machine or on many GPUs."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from titans_mini.data.recall import IGNORE
from titans_mini.train.checkpoint import CHECKPOINTS, Checkpoints, read
from titans_mini.train.config import FREE, MachineConfig, TrainConfig
from titans_mini.train.history import History
from titans_mini.train.reporter import Reporter
from titans_mini.train.sources import Batch, Source
from titans_mini.train.team import Team, deterministic

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16}
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW keeps of a weight


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

    Several processes (torchrun) share every step: each builds the whole batch and computes its own rows of it.

    Args:
        model: called as model(tokens), returns logits (B, T, V) and a state, like `TitansLM`.
        source: batch number → batch. With `StreamBatch`es the memories are carried from step to step.
        config: hyperparameters.
        evaluate: called with the model every `evaluate_every` steps and at the end; returns named scores.
        folder: of the run; None writes nothing. A run that is there is resumed.
        reporter: is told of every step; default none.
        machine: where it is computed, and what is kept.
        team: the processes of the run; default this one alone, on the model's device.
        identity: plain data that has to be the same on resuming, such as the digest of the text.
        force: resume also where the configuration differs; never with another model.

    Raises:
        ValueError: if the checkpoints in `folder` belong to another run, or the batch cannot be shared.
        BlockingIOError: if another process trains in `folder`.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        config: TrainConfig,
        *,
        evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
        folder: str | Path | None = None,
        reporter: Reporter | None = None,
        machine: MachineConfig | None = None,
        team: Team | None = None,
        identity: dict[str, Any] | None = None,
        force: bool = False,
    ) -> None:
        """Build the optimiser and resume a run that is in the folder; see the class for the arguments."""
        self.source, self.config, self.evaluate = source, config, evaluate
        self.machine = machine or MachineConfig()
        self.team = team or Team(next(model.parameters()).device)
        self.force, self.identity = force, self._identity(model, identity or {})
        self.history = History()
        self.carried: list[Any] | None = None  # of streams: the memories after each piece of the last batch
        self.told: signal.Signals | None = None  # the signal that this process got
        self.stopped_by: signal.Signals | None = None  # and after a step, that any of them did
        self.plain = model  # the model itself; `self.model` is what is called, and may be wrapped around it
        self.model = self._prepare(model)
        groups = parameter_groups(self.plain, config.weight_decay)
        fused = self.team.device.type == "cuda"  # one kernel for all weights
        self.optimizer = torch.optim.AdamW(groups, config.lr, config.betas, fused=fused)
        self.folder = None if folder is None else Path(folder)
        self.reporter = reporter or Reporter()
        self.checkpoints: Checkpoints | None = None  # of the process that writes
        torch.manual_seed(config.seed + self.team.rank)
        if self.folder is not None:
            try:
                self._open()
            except BaseException:
                self.close()
                raise

    @property
    def done(self) -> int:
        """Return the number of completed steps."""
        return len(self.history.losses)

    def _identity(self, model: nn.Module, more: dict[str, Any]) -> dict[str, Any]:
        """Return what has to be the same on resuming, as plain data."""
        train = {name: x for name, x in asdict(self.config).items() if name not in FREE}
        config = getattr(model, "config", None)
        own = {"model": asdict(config)} if dataclasses.is_dataclass(config) else {}
        return _plain({"train": train, **own, **more})

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self, until: int | None = None) -> History:
        """Train up to step `until`, or to the end, or until SIGINT or SIGTERM; then the state is on the disk.

        Args:
            until: step at which to stop; another call or process can resume from there.

        Returns:
            The history so far. `stopped_by` is the signal that ended the run early, or None.

        Raises:
            FloatingPointError: if the loss or its gradient is not finite; the last checkpoint stays.
            OSError: if the last checkpoint could not be written.
        """
        c = self.config
        last = c.steps if until is None else min(until, c.steps)
        self.model.train()
        saved, clock = self.done, time.monotonic()
        with self._signals(), self.reporter.running(self.done, last), deterministic(self.machine.deterministic):
            while self.done < last and not self.stopped_by:
                self.team.check_parent()
                due = self.step(0 < self.machine.save_minutes <= (time.monotonic() - clock) / 60)
                if self.evaluate and (self.done == c.steps or (c.evaluate_every and self.done % c.evaluate_every == 0)):
                    self._score()
                if self.folder and (due or (c.save_every and self.done % c.save_every == 0)):
                    self._save()
                    saved, clock = self.done, time.monotonic()
            if self.folder and saved < self.done:
                self._save()
            if self.checkpoints is not None:
                self.checkpoints.wait()
        return self.history

    def step(self, due: bool = False) -> bool:
        """Run one optimiser step.

        Args:
            due: whether this process finds that it is time for a checkpoint.

        Returns:
            Whether any process does: all have to save together.
        """
        began, number = time.perf_counter(), self.done
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(number)
        batch = self._check(self.source(number))
        count = int((batch.targets != IGNORE).sum())  # of the whole batch, which every process has
        pieces = list(self.team.rows(batch, self.config.accumulate))
        total, states = 0.0, self.carried or [None] * len(pieces)
        for i, (piece, state) in enumerate(zip(pieces, states, strict=True)):
            with self.team.local_gradients(self.model, last=i == len(pieces) - 1):
                loss, states[i] = self._loss(piece, state)
                (loss * (self.team.world / max(count, 1))).backward()  # the processes' gradients are averaged
            total = total + loss.detach()
        self.carried = states if hasattr(batch, "fresh") else None
        total, stop, due = self.team.sum(float(total) / max(count, 1), float(bool(self.told)), float(due))
        if not math.isfinite(total):
            raise FloatingPointError(f"loss: got {total} at step {number + 1}, expected a finite number: lr too large?")
        norm = self.team.number(self._clip())
        if not math.isfinite(norm):  # the loss may still be a number, but the weights would be none, and would be saved
            raise FloatingPointError(
                f"gradient: got norm {norm} at step {number + 1}, expected a finite number: lr too large?"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if stop:  # all processes stop after the same step, also those that were not told
            self.stopped_by = self.told or signal.SIGTERM
        self.history.losses.append(total)
        self.history.seconds += time.perf_counter() - began
        self.reporter.step(self.done, total, self.config.rate(number), norm, batch.tokens.numel())
        return due > 0

    def _check(self, batch: Batch) -> Batch:
        """Raise ValueError if the processes cannot share a batch, and return it."""
        if len(batch.tokens) % self.team.world:
            raise ValueError(
                f"batch: got {len(batch.tokens)} sequences for {self.team.world} processes, expected a multiple: each "
                "computes as many as the others"
            )
        return batch

    def _clip(self) -> Tensor:
        """Clip the gradients; return the norm of all, or of all but those of M₀ if these are clipped apart.

        The norm after a memory makes its answers, and with them the gradient, as large for a small M₀ as for a large
        one. Clipped together with it, all other weights would learn more slowly the smaller M₀ is.
        """
        c, named = self.config, list(self.plain.named_parameters())
        starts = [p for name, p in named if c.clip_start is not None and "initial_weights" in name]
        if starts:
            nn.utils.clip_grad_norm_(starts, c.clip_start)
        apart = {id(p) for p in starts}
        return nn.utils.clip_grad_norm_([p for _, p in named if id(p) not in apart], c.clip)

    def _loss(self, piece: Batch, state: Any) -> tuple[Tensor, Any]:
        """Compute the summed cross-entropy of the positions that have a target, and the state to carry on."""
        kind = AUTOCAST[self.config.precision]
        streams = hasattr(piece, "fresh")
        with torch.autocast(self.team.device.type, kind) if kind else nullcontext():
            logits, state = self.model(piece.tokens, state, fresh=piece.fresh) if streams else self.model(piece.tokens)
        asked = piece.targets != IGNORE
        logits = logits[asked].to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, piece.targets[asked], reduction="sum")
        return loss, state.detach() if streams else None

    def _score(self) -> None:
        """Run the evaluation hook and append its scores to the history."""
        self.model.eval()
        with torch.no_grad():
            scores = self.evaluate(self.model)
        self.history.scores.append({"step": self.done, **scores})
        self.reporter.score(self.done, scores)
        self.model.train()

    def mean_loss(self, source: Source, batches: int) -> float:
        """Compute the mean cross-entropy of the first batches of a source, in nats per token; memories are carried.

        Args:
            source: batch number → batch.
            batches: how many.
        """
        total, count, states = 0.0, 0, None
        for number in range(batches):
            batch = source(number)
            pieces = list(self.team.rows(batch, self.config.accumulate))
            states = states or [None] * len(pieces)
            found = [self._loss(piece, state) for piece, state in zip(pieces, states, strict=True)]
            total, states = total + sum(float(loss) for loss, _ in found), [state for _, state in found]
            count += int((batch.targets != IGNORE).sum())
        return self.team.sum(total)[0] / max(count, 1)

    # -- before the first step -----------------------------------------------------------------------------------------

    def _prepare(self, model: nn.Module) -> nn.Module:
        """Set up what the machine's configuration asks of the model, and share it among the processes."""
        for block in getattr(model, "blocks", ()):
            if self.machine.checkpoint_activations:
                block.forward = _recomputed(block.forward)
            if self.machine.compile:
                block.compile()  # the memory's loop over chunks steps out by itself
        return self.team.wrap(model)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Note Ctrl-C and preemption, for the loop to stop after the step; a second Ctrl-C stops at once."""
        if self.folder is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _: Any) -> None:
            self.told = signal.Signals(number)
            signal.signal(signal.SIGINT, before.get(signal.SIGINT, signal.SIG_IGN))

        # a lost terminal counts too; what is ignored, as nohup ignores it, stays ignored
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, note) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # -- the state on the disk -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Take the folder and resume the run that is in it: one process chooses the checkpoint, all read it."""
        number, content = -1, None
        if self.team.rank == 0:
            self.checkpoints = Checkpoints(self.folder, self.machine.keep, self.reporter.say)
            number, content = self.checkpoints.load()
        (number,) = self.team.sum(number if self.team.rank == 0 else 0)
        if number < 0:
            return
        self._restore(content or read(self.folder / CHECKPOINTS / f"{int(number):08d}", checked=True))
        self.reporter.say(f"resumed at step {self.done:,}")

    def _tensors(self) -> dict[str, Tensor]:
        """Return every weight once, and what else the model would save, by name."""
        saved = self.plain.state_dict(keep_vars=True)
        buffers = {name: x for name, x in self.plain.named_buffers() if name in saved}
        return dict(self.plain.named_parameters()) | buffers

    def _save(self) -> None:
        """Copy everything that the next step depends on, and let it be written; all processes have to join in."""
        state, whole = self.optimizer.state, self.team.whole
        content: dict[str, Any] = {"model.safetensors": {name: whole(x) for name, x in self._tensors().items()}}
        content["optimizer.safetensors"] = {
            f"{key}.{name}": whole(state[p][key])
            for name, p in self.plain.named_parameters()
            for key in MOMENTS
            if p in state
        }
        content["random.safetensors"] = {name: self.team.stack(x) for name, x in _random_states(self.team).items()}
        if self.carried is not None:
            content["stream.safetensors"] = self._gathered([state.to_dict() for state in self.carried])
        if self.team.rank == 0:
            if dataclasses.is_dataclass(config := getattr(self.plain, "config", None)):
                content["config.json"] = {"config": asdict(config)}  # for from_pretrained
            content["run.json"] = {"history": self.history.to_dict(), "identity": self.identity}
            self.checkpoints.save(self.done, content)

    def _gathered(self, pieces: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Join the rows of the carried memories, of all pieces and processes; numbers are the same in all."""
        out = {}
        for name, first in pieces[0].items():
            rows = torch.cat([piece[name] for piece in pieces]) if first.dim() else first
            out[name] = self.team.stack(rows).flatten(0, 1) if first.dim() else rows
        return out

    def _restore(self, content: dict[str, Any]) -> None:
        """Restore model, optimiser, history, random states and carried memories from a checkpoint."""
        self._compare(content["run.json"]["identity"])
        weights, moments, mine = content["model.safetensors"], content["optimizer.safetensors"], self._tensors()
        wrong = sorted(set(mine) ^ set(weights)) or [n for n, x in mine.items() if x.shape != weights[n].shape]
        if wrong:
            raise ValueError(f"{self.folder}: expected a checkpoint of this model, got another's: {wrong[:3]}")
        for name, x in mine.items():
            self.team.assign(x, weights[name])
        for name, p in self.plain.named_parameters():
            if f"step.{name}" in moments:
                found = {key: torch.zeros_like(p) for key in MOMENTS[:2]}
                for key, x in found.items():
                    self.team.assign(x, moments[f"{key}.{name}"])
                step = moments[f"step.{name}"]
                found["step"] = step.to(p.device) if self.optimizer.defaults["fused"] else step
                self.optimizer.state[p] = found
        self.history = History(**content["run.json"]["history"])
        _restore_random(content["random.safetensors"], self.team)
        if "stream.safetensors" in content:
            self._resume_streams(dict(content["stream.safetensors"]))

    def _compare(self, saved: dict[str, Any]) -> None:
        """Raise ValueError if the checkpoint is of another run, and name every difference.

        A field that did not exist when the checkpoint was written had, in effect, its default.
        """
        for part, later in (("train", TrainConfig()), ("model", getattr(self.plain, "config", None))):
            if dataclasses.is_dataclass(later) and part in saved:
                new = _plain({f.name: f.default for f in dataclasses.fields(later)})
                saved[part] = {name: x for name, x in new.items() if name in self.identity[part]} | saved[part]
        found = list(differences(saved, self.identity))
        if found and not (self.force and all(name.split(".")[0] != "model" for name, *_ in found)):
            lines = "; ".join(f"{name}: got {here!r}, expected {there!r}" for name, there, here in found)
            cure = "choose another folder, or --force the change (never of the model)"
            raise ValueError(f"{self.folder}: {lines}, as in the checkpoints there: {cure}")
        for name, there, here in found:
            self.reporter.say(f"{name}: {there!r} until step {self.done:,}, {here!r} from now on, by --force")

    def _resume_streams(self, flat: dict[str, Tensor]) -> None:
        """Give every piece of this process its rows of the carried memories."""
        from titans_mini.models.titans import TitansState

        whole = TitansState.from_dict(flat)
        rows = torch.arange(max(len(x) for x in flat.values() if x.dim()))
        pieces = self.team.rows(Batch(rows, rows), self.config.accumulate)
        self.carried = [whole[piece.tokens.cpu()].to(self.team.device) for piece in pieces]

    def close(self) -> None:
        """Wait for the disk, and let another process have the folder."""
        if self.checkpoints is not None:
            self.checkpoints.close()
            self.checkpoints = None


def differences(saved: dict[str, Any], here: dict[str, Any], name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, saved, here) of every entry that differs between two nested dictionaries."""
    for key in sorted({**saved, **here}):
        a, b, path = saved.get(key), here.get(key), f"{name}.{key}" if name else key
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, path)
        elif a != b:
            yield path, a, b


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    """Return data as JSON gives them back: a tuple is a list there."""
    return json.loads(json.dumps(data))


def _recomputed(forward: Callable) -> Callable:
    """Return a forward pass that keeps its inputs only, and runs again in the backward pass."""

    def run(*inputs: Any) -> Any:
        return checkpoint(forward, *inputs, use_reentrant=False)

    return run


def _random_states(team: Team) -> dict[str, Tensor]:
    """Return the states of all random generators: PyTorch's, of the device too, NumPy's and Python's."""
    _, keys, place, has_gauss, gauss = np.random.get_state()
    _, words, after = random.getstate()
    out = {"torch": torch.get_rng_state()}
    if team.device.type == "cuda":
        out["cuda"] = torch.cuda.get_rng_state(team.device)
    out["numpy"] = torch.tensor([*keys.tolist(), place, has_gauss], dtype=torch.int64)
    out["numpy gauss"] = torch.tensor([gauss], dtype=torch.float64)
    out["python"] = torch.tensor(words, dtype=torch.int64)
    out["python gauss"] = torch.tensor([torch.nan if after is None else after], dtype=torch.float64)
    return out


def _restore_random(states: Mapping[str, Tensor], team: Team) -> None:
    """Restore this process's random generators; one that had none keeps its seed."""
    if team.rank >= len(states["torch"]):
        return
    mine = {name: states[name][team.rank].clone() for name in states}  # PyTorch misreads a state within a tensor
    torch.set_rng_state(mine["torch"])
    if team.device.type == "cuda" and "cuda" in mine:
        torch.cuda.set_rng_state(mine["cuda"], team.device)
    *keys, place, has_gauss = mine["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, has_gauss, mine["numpy gauss"].item()))
    after = mine["python gauss"].item()
    random.setstate((3, tuple(mine["python"].tolist()), None if math.isnan(after) else after))


def train(model: nn.Module, source: Source, config: TrainConfig, **options: Any) -> History:
    """Train a model to the end: `Trainer(model, source, config, **options).run()`.

    Args:
        model: see `Trainer`.
        source: see `Trainer`.
        config: see `Trainer`.
        options: further arguments of `Trainer`.

    Returns:
        The history of the run.
    """
    trainer = Trainer(model, source, config, **options)
    try:
        return trainer.run()
    finally:
        trainer.close()
