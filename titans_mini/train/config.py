"""Configuration of a run: small dataclasses, a comment per field. The command line and its YAML are made from them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

PRECISIONS = ("float32", "bfloat16")
ORDERS = ("windows", "streams")
SCHEDULES = ("cosine", "flat")
FLAT = 0.4  # share of the steps for which the schedule "flat" keeps the rate
PARALLEL = ("auto", "ddp", "fsdp")
SEEDS = 1 << 62  # first seed that is too large: ranks and validation batches add to it


@dataclass(frozen=True)
class RunConfig:
    """What is trained, and where it is kept."""

    model: str = "mac-tiny"  # a preset: variant-size, such as mag-tiny or mac-340m
    architecture: dict[str, Any] = field(default_factory=dict)  # fields of TitansConfig, such as architecture.dim 128
    out: str = ""  # folder of the run, which is continued if it is there; default runs/ and the model's name
    force: bool = False  # continue although the configuration differs; never with another model
    dry_run: bool = False  # print the arithmetic of the run, and train nothing
    gpu: str = ""  # for dry_run: a GPU by name, such as h100


@dataclass(frozen=True)
class TrainConfig:
    """How a model learns. The defaults follow the paper where it gives a value (section 5.1, appendix E.1).

    Raises:
        ValueError: if a number is out of range.
    """

    steps: int = 1000  # optimizer steps
    lr: float = 4e-4  # learning rate at the end of the warm-up, as in the paper
    warmup: int = 50  # steps over which the rate rises from 0
    final_lr: float = 0.1  # end of the schedule, in units of lr
    schedule: str = "cosine"  # or flat: the rate stays for 40 % of the steps, then falls in a straight line
    weight_decay: float = 0.1  # on matrices only, as in the paper; norms, biases and gates would lose their meaning
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    clip: float = 1.0  # maximum gradient norm
    clip_start: float | None = None  # of all M₀ together, apart from the other weights; None: in one with them
    accumulate: int = 1  # pieces in which a process computes its part of a batch: less memory, the same step
    precision: str = "float32"  # or bfloat16: autocast; weights, their sums and the memory's state stay float32
    evaluate_every: int = 0  # steps between evaluations; 0: only at the end
    save_every: int = 0  # steps between checkpoints; 0: by the clock, see save_minutes
    seed: int = 0  # of the weights, of the order of the data, and of random draws inside the model

    def __post_init__(self) -> None:
        """Raise ValueError for the first field out of range."""
        check_least(self, 1, "steps", "accumulate")
        check_least(self, 0, "warmup", "evaluate_every", "save_every", "weight_decay", "final_lr", "seed")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a finite number > 0")
        if self.clip_start is not None and not 0 < self.clip_start < math.inf:
            raise ValueError(f"clip_start: got {self.clip_start}, expected a finite number > 0, or None")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: got {self.betas}, expected two numbers in [0, 1)")
        if self.seed >= SEEDS:
            raise ValueError(f"seed: got {self.seed}, expected a number < 2⁶²: generators take 64 bits")
        check_choice(self, "precision", PRECISIONS)
        check_choice(self, "schedule", SCHEDULES)

    def rate(self, step: int) -> float:
        """Compute the learning rate of step number `step`, counted from 0: a linear warm-up, then the schedule."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = min((step - self.warmup) / max(1, self.steps - self.warmup), 1)
        cosine, line = (1 + math.cos(math.pi * done)) / 2, min(1, (1 - done) / (1 - FLAT))
        return self.lr * (self.final_lr + (1 - self.final_lr) * (cosine if self.schedule == "cosine" else line))


@dataclass(frozen=True)
class DataConfig:
    """What is read.

    Raises:
        ValueError: if a number is out of range.
    """

    data: str = "english"  # english (ships with Python), recall, a known text, a text file, or prepared shards
    order: str = "windows"  # or streams: texts side by side, each going on where it stopped, with its memory
    batch: int = 16  # sequences of an optimizer step, over all processes
    length: int = 128  # tokens of a sequence
    validation: float = 0.05  # share of a text file kept for validation; prepared shards have their own
    evaluate_batches: int = 8  # batches of a validation loss
    echo: bool = False  # half of a batch repeats short pieces: teaches to memorize
    drill: int = 0  # with echo: first steps with nothing but nonsense repeated

    def __post_init__(self) -> None:
        """Raise ValueError for the first field out of range."""
        check_least(self, 1, "batch", "length", "evaluate_batches")
        check_least(self, 0, "drill")
        check_choice(self, "order", ORDERS)
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation: got {self.validation}, expected a share in [0, 1)")
        if self.order == "streams" and (self.echo or self.data == "recall"):
            what = "echo" if self.echo else self.data
            raise ValueError(f"order: got streams with {what}, expected windows: its sequences do not go on")
        if self.drill and not self.echo:
            raise ValueError(f"drill: got {self.drill} without echo, expected echo too: the drill is its beginning")


@dataclass(frozen=True)
class MachineConfig:
    """Where a run is computed. It may change when the run is resumed, and changes results by rounding only.

    Raises:
        ValueError: for an unknown name.
    """

    device: str = "auto"  # cuda if there is one, else cpu
    parallel: str = "auto"  # of several processes: ddp copies the model, fsdp shards it; auto is ddp
    checkpoint_activations: bool = False  # compute each block again in the backward pass: less memory, more time
    compile: bool = False  # torch.compile everything but the memory
    deterministic: bool = False  # refuse operations whose results do not repeat bit for bit
    save_minutes: float = 10.0  # minutes between checkpoints; 0: by steps alone, see save_every
    keep: int = 3  # checkpoints kept
    log_every: int = 10  # steps between lines where the output is not a terminal
    tensorboard: bool = False  # write TensorBoard's files as well
    trackio: bool = False  # tell trackio as well (wandb's interface, on your own disk)

    def __post_init__(self) -> None:
        """Raise ValueError for the first field out of range."""
        check_choice(self, "parallel", PARALLEL)
        check_least(self, 1, "keep", "log_every")
        check_least(self, 0, "save_minutes")


# fields of TrainConfig that change neither what is learned nor from what
FREE = ("accumulate", "evaluate_every", "save_every")


def check_least(config: object, least: int, *names: str) -> None:
    """Raise ValueError for the first of the fields that is smaller, or not a finite number."""
    for name in names:
        value = getattr(config, name)
        if type(value) not in (int, float) or not least <= value < math.inf:
            raise ValueError(f"{name}: got {value}, expected a number ≥ {least}")


def check_choice(config: object, name: str, allowed: Iterable[str]) -> None:
    """Raise ValueError if a field is none of the allowed names."""
    value = getattr(config, name)
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {list(allowed)}{nearest(value, allowed)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the known name that is most like a mistyped one, if any is."""
    found = difflib.get_close_matches(str(name), list(known), n=1)
    return f": did you mean {found[0]}?" if found else ""
