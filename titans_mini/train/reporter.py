"""What a run shows while it goes on, and what stays of it beside the weights."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from titans_mini.train.history import History

LOG, PICTURE, CARD = "log.jsonl", "loss.svg", "README.md"


class Reporter:
    """Is told of everything that happens in a run, and keeps it to itself: the base of those that do not."""

    def say(self, text: str) -> None:
        """Say a sentence."""

    @contextmanager
    def running(self, done: int, last: int) -> Iterator[None]:
        """Be there while the steps from `done` to `last` run."""
        yield

    def step(self, step: int, loss: float, rate: float, norm: float, tokens: int) -> None:
        """Note a step: its number, loss, learning rate, gradient norm and tokens."""

    def score(self, step: int, scores: dict[str, float]) -> None:
        """Note the scores of an evaluation."""


class Screen(Reporter):
    """Shows a run on a terminal as a bar, elsewhere as lines, and writes log.jsonl.

    Args:
        folder: of the run, where the log goes; None writes none.
        device: whose memory is shown.
        every: steps between lines where the output is not a terminal.
        flops: operations of a token, forward and backward; with `peak`, for the share of the hardware that is used.
        peak: operations a second that the hardware can do, all GPUs together.
        trackers: are told the same numbers: functions of the step and a dictionary.
    """

    def __init__(
        self,
        folder: Path | None = None,
        device: torch.device | None = None,
        every: int = 10,
        flops: float = 0.0,
        peak: float = 0.0,
        trackers: tuple[Any, ...] = (),
    ) -> None:
        """Open the log; see the class for the arguments."""
        self.device, self.every, self.flops, self.peak = device or torch.device("cpu"), every, flops, peak
        self.trackers, self._place = trackers, "" if folder is None else f"{folder}{os.sep}"
        self._log = None if folder is None else open(folder / LOG, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._bar: tqdm | None = None
        self._last = 0
        self._recent: deque[tuple[float, int]] = deque(maxlen=21)  # moments and tokens, for the speed of late

    def say(self, text: str) -> None:
        """Print a sentence above the bar."""
        self._write({"event": text.replace(self._place, "") if self._place else text})  # no path of this machine
        with suppress(OSError):  # as below
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    @contextmanager
    def running(self, done: int, last: int) -> Iterator[None]:
        """Show the bar while the steps from `done` to `last` run."""
        self._last = last
        self._recent.clear()
        self._recent.append((time.perf_counter(), 0))
        self._bar = tqdm(total=last, initial=done, disable=None, unit="step", dynamic_ncols=True)  # None: on terminals
        try:
            yield
        finally:
            self._bar.close()
            self._bar = None

    def step(self, step: int, loss: float, rate: float, norm: float, tokens: int) -> None:
        """Write a step to the log, and show it."""
        self._recent.append((time.perf_counter(), tokens))
        (begin, _), *later = self._recent
        speed = sum(n for _, n in later) / (self._recent[-1][0] - begin)
        numbers = {"loss": loss, "lr": rate, "gradient_norm": norm, "tokens_per_second": speed}
        numbers["memory_bytes"] = used_memory(self.device)
        if self.flops and self.peak:
            numbers["mfu"] = speed * self.flops / self.peak
        self._write({"step": step} | numbers)
        for tracker in self.trackers:
            tracker(step, numbers)
        words = {"loss": f"{loss:.3f}", "tok/s": f"{speed:,.0f}", "GiB": f"{numbers['memory_bytes'] / 2**30:.1f}"}
        words |= {"MFU": f"{numbers['mfu']:.0%}"} if "mfu" in numbers else {}
        if self._bar is not None and not self._bar.disable:
            self._bar.update()
            self._bar.set_postfix(words, refresh=False)
        elif step % self.every == 0 or step == self._last:
            left = tqdm.format_interval((self._last - step) * (self._recent[-1][0] - begin) / max(1, len(later)))
            line = "  ".join(f"{name} {word}" for name, word in words.items())
            with suppress(OSError):  # a pipe that nobody reads any more, or a full disk, must not end the run
                print(f"step {step:,} of {self._last:,}  {line}  {left} left", flush=True)

    def score(self, step: int, scores: dict[str, float]) -> None:
        """Write scores to the log, and show them."""
        self._write({"step": step, "scores": scores})
        for tracker in self.trackers:
            tracker(step, {f"validation/{name}": x for name, x in scores.items()})
        self.say(f"step {step:,}: " + ", ".join(f"validation {name} {x:.4f}" for name, x in scores.items()))

    def _write(self, line: dict[str, Any]) -> None:
        if self._log is not None:
            with suppress(OSError):  # a full disk must not end the run; the history in the checkpoints has every loss
                self._log.write(json.dumps(line) + "\n")


def used_memory(device: torch.device) -> int:
    """Return the bytes that this process used at most: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024  # bytes there, KiB elsewhere


def trackers(tensorboard: bool, trackio: bool, folder: Path, name: str, config: dict[str, Any]) -> tuple[Any, ...]:
    """Open the trackers that were asked for.

    Args:
        tensorboard: write TensorBoard's files to `folder`/tensorboard.
        trackio: tell trackio.
        folder: of the run.
        name: of the run.
        config: of the run, as plain data.

    Returns:
        Functions of a step and its numbers.
    """
    found = []
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder / "tensorboard"))
        found.append(lambda step, numbers: [writer.add_scalar(key, x, step) for key, x in numbers.items()])
    if trackio:
        import trackio as tracker

        tracker.init(project="titans_mini", name=name, config=config)
        found.append(lambda step, numbers: tracker.log(numbers, step=step))
    return tuple(found)


def draw(history: History, path: Path) -> None:
    """Draw the losses of a run, and its validation losses, into an SVG file.

    Args:
        history: of the run.
        path: the file.
    """
    from titans_mini.viz import figure, legend
    from titans_mini.viz.palette import MEMORY, MUTED, SURPRISE

    fig, ax = figure(7.2, 3.2)
    steps = range(1, len(history.losses) + 1)
    ax.plot(steps, history.losses, color=MUTED, lw=0.6, label="each step")
    ax.plot(steps, history.smooth(), color=MEMORY, lw=1.6, label="mean of 20 steps")
    scores = [(score["step"], score["loss"]) for score in history.scores if "loss" in score]
    if scores:
        ax.plot(*zip(*scores, strict=True), "o-", color=SURPRISE, ms=4, lw=1.2, label="validation")
    ax.set(xlabel="step", ylabel="loss, nats per token")
    legend(ax)
    fig.savefig(path, metadata={"Date": None})


def card(facts: dict[str, str], history: History, command: str) -> str:
    """Write the README of a run.

    Args:
        facts: what the table shows: model, data, hardware and so on.
        history: of the run.
        command: the line that trained it.

    Returns:
        Markdown.
    """
    title = facts.get("model", "A run")
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    final = f"{history.smooth()[-1]:.4f} nats per token over the last 20 steps" if history.losses else "no step yet"
    curve = "\n".join(f"| {step:,} | {loss:.4f} |" for step, loss in history.thin(12))
    scores = [f"step {score['step']:,}: {score['loss']:.4f}" for score in history.scores if "loss" in score]
    checked = f"\n\nValidation loss, in nats per token: {'; '.join(scores[-8:])}." if scores else ""
    bits = f" ({history.smooth()[-1] / math.log(2):.3f} bits)" if history.losses else ""
    return f"""# {title}

Trained with [titans_mini](https://arxiv.org/abs/2501.00663) by

```
{command}
```

| | |
|---|---|
{table}

The training loss ended at {final}{bits}; it took {history.seconds:,.0f} seconds.{checked}

![training curve]({PICTURE})

| step | mean loss since the line above |
|---:|---:|
{curve}

```python
from titans_mini import TitansLM

model = TitansLM.from_pretrained(".")
```
"""
