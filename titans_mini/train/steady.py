"""Train every architecture for a thousand steps with its default settings, and check that all numbers stay finite.

python -m titans_mini.train.steady            # all of them; the time of each is recorded
python -m titans_mini.train.steady --only mac # one of them; the records of the others stay
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from titans_mini.data.text import english, to_bytes
from titans_mini.models.config import TitansConfig
from titans_mini.models.titans import TitansLM
from titans_mini.train.config import TrainConfig
from titans_mini.train.history import History
from titans_mini.train.loop import Trainer
from titans_mini.train.record import RESULTS, commit, hardware
from titans_mini.train.sources import Source, Windows

# name: preset, changes, bytes per sequence (MAC reads its memory from the second segment on)
RUNS: dict[str, tuple[str, dict[str, Any], int]] = {
    "mac": ("mac-tiny", {}, 512),
    "mag": ("mag-tiny", {}, 256),
    "mal": ("mal-tiny", {}, 256),
    "lmm": ("lmm-tiny", {}, 256),
    "lmm, depth 4": ("lmm-tiny", {"memory_depth": 4}, 256),
}


def prose() -> torch.Tensor:
    """Return all English of Python's help pages as bytes: (N,)."""
    from pydoc_data.topics import topics

    return to_bytes(english(*sorted(topics)))


def steady(name: str, source: Source, steps: int, seed: int = 0) -> tuple[TitansLM, History]:
    """Train one architecture; all losses and gradients must be finite, and all weights at the end.

    Args:
        name: one of `RUNS`.
        source: source of the batches.
        steps: number of steps.
        seed: seed of the weights.

    Returns:
        The trained model and its history.

    Raises:
        FloatingPointError: if a loss, a gradient or a weight is infinite or NaN.
    """
    preset, changes, _ = RUNS[name]
    torch.manual_seed(seed)
    model = TitansLM(TitansConfig.preset(preset, **changes))
    trainer = Trainer(model, source, TrainConfig(steps=steps))
    for parameter in model.parameters():
        parameter.register_hook(_require_finite)
    history = trainer.run()
    _require_finite(nn.utils.parameters_to_vector(model.parameters()))
    return model, history


def _require_finite(x: torch.Tensor) -> None:
    """Raise FloatingPointError if x holds inf or NaN."""
    if not bool(x.isfinite().all()):
        raise FloatingPointError(f"got {int((~x.isfinite()).sum())} of {x.numel()} numbers infinite or NaN")


def main(arguments: list[str] | None = None) -> None:
    """Run the selected architectures and update the results file.

    Args:
        arguments: command-line arguments; default sys.argv[1:].
    """
    p = argparse.ArgumentParser(prog="python -m titans_mini.train.steady")
    p.add_argument("--only", choices=RUNS, action="append", help="one run; may be repeated")
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--out", type=Path, default=RESULTS / "steady_cpu.json")
    options = p.parse_args(arguments)
    torch.set_num_threads(1)
    ids = prose()
    for name in options.only or RUNS:
        origin = {"command": "python -m titans_mini.train.steady", "date": str(date.today()), "commit": commit()}
        _, history = steady(name, Windows(ids, 1, RUNS[name][2]), options.steps)
        run = origin | {"preset": RUNS[name][0], "changes": RUNS[name][1], "bytes": RUNS[name][2], "seed": 0}
        run |= {"steps": len(history.losses), "largest": max(history.losses), "curve": history.thin(50)}
        recorded = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
        runs = recorded.get("runs", {}) | {name: run | {"seconds": round(history.seconds), "hardware": hardware()}}
        head = origin | {"hardware": hardware(), "text": "english(*all topics)"}
        text = json.dumps(head | {"runs": {n: runs[n] for n in RUNS if n in runs}}, indent=1)
        options.out.write_text(text + "\n", encoding="utf-8")
        print(f"{name}: {len(history.losses)} steps, loss {history.losses[0]:.3f} → {history.smooth()[-1]:.3f}")


if __name__ == "__main__":
    main()
