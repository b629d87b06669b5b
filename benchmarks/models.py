"""The tiny language models beside a transformer of the same size: `python -m benchmarks.models`.

With `--readers`, a training step of lesson 12's readers of novels instead, memories of depth 1 to 4 among them.

Forward and backward of one batch, every architecture in turn in one process. A memory costs weights, so each variant is
compared with a transformer whose feed-forward layer is widened to as many weights; ratios are to that transformer in
the same round. It attends with PyTorch's causal kernel, which skips masked scores.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.cases import ROOT
from benchmarks.measure import Times, measure, say
from benchmarks.report import aligned, origin, stamp, write_json, write_text
from titans_mini import TitansConfig, TitansLM
from titans_mini.models.presets import count as weights
from titans_mini.train.recipes import long_shapes

TARGET = ROOT / "assets" / "results" / "models_cpu.json"
RIVAL, TITANS, OTHERS = "transformer", ("mac", "mag", "mal", "lmm"), ("swa", "delta", "gated-delta")
READERS = ROOT / "assets" / "results" / "readers_cpu.json"
SHAPES = ((4, 2048), (4, 8192), (1, 2048), (1, 8192))  # B, T
BARS = {2048: 2.0, 8192: 1.0}  # largest ratio to the transformer at this length and beyond


@functools.cache
def rival_of(variant: str) -> TitansConfig:
    """Return the transformer with as many weights as a variant; the preset itself if it has no neural memory."""
    base = TitansConfig.preset(f"{RIVAL}-tiny")
    if variant not in TITANS:
        return base
    target, step = weights(TitansConfig.preset(f"{variant}-tiny")), 8 / base.dim  # SwiGLU rounds its width to 8
    wider = [replace(base, mlp_ratio=step * i) for i in range(round(base.mlp_ratio / step), 10 * round(1 / step))]
    return min(wider, key=lambda c: abs(weights(c) - target))


def configs() -> dict[str, TitansConfig]:
    """Return everything that is timed, by name: the variants, and the transformers with as many weights."""
    found = {name: TitansConfig.preset(f"{name}-tiny") for name in (RIVAL, *TITANS, *OTHERS)}
    return found | {key_of(rival_of(name)): rival_of(name) for name in TITANS}


def key_of(rival: TitansConfig) -> str:
    """Return a transformer's name: the variant for the preset, others with their weights in thousands."""
    plain = rival == TitansConfig.preset(f"{RIVAL}-tiny")
    return RIVAL if plain else f"{RIVAL} {weights(rival) / 1000:.0f}k"


def call(config: TitansConfig, B: int, T: int) -> Callable[[], None]:
    """Build a model and a batch; return a function that runs forward and backward over B · T bytes."""
    torch.manual_seed(0)
    model = TitansLM(config)
    tokens = torch.randint(256, (B, T + 1), generator=torch.Generator().manual_seed(1))

    def run() -> None:
        loss, _ = model.loss(tokens)
        loss.backward()
        model.zero_grad(set_to_none=True)

    return run


def row(name: str, B: int, T: int, times: dict[str, Times]) -> dict:
    """Build a row of the results file; `name` is one of `configs`."""
    rival = rival_of(name)
    own, other = times[name], times[key_of(rival)]
    bar = BARS[T] if name in TITANS and T in BARS else None
    ratio = own.fastest / other.fastest  # on a CPU other work only ever adds time
    sizes = {"weights": weights(configs()[name]), "rival": key_of(rival), "rival_weights": weights(rival)}
    measured = {"seconds": own.fastest, "median": own.median, "spread": own.spread, "ratio": ratio}
    reached = None if bar is None else ratio <= bar
    return {"variant": name, "B": B, "T": T} | sizes | measured | {"bar": bar, "reached": reached}


def table(rows: list[dict]) -> str:
    """Format the rows as text, with every bar."""
    cells = [("batch", "length", "model", "weights", "ms", "µs/token", "ratio", "to", "bar", "")]
    for r in rows:
        times = f"{r['seconds'] * 1e3:.0f}", f"{r['seconds'] / r['B'] / r['T'] * 1e6:.1f}", f"{r['ratio']:.2f}"
        verdict = {None: "", True: "reached", False: "NOT reached"}[r["reached"]]
        bar = "" if r["bar"] is None else f"≤ {r['bar']:.1f}"
        names = str(r["B"]), str(r["T"]), r["variant"], f"{r['weights']:,}"
        cells.append((*names, *times, r["rival"], bar, verdict))
    return "\n".join(line.rstrip() for line in aligned(cells, right=7))


def report(results: dict) -> str:
    """Format the origin of the numbers, and the table."""
    note = "forward and backward, float32, fastest round, process time; ratio: to a transformer with as many weights"
    return "\n".join([results["command"], origin(results), note, "", table(results["rows"])])


def readers(rounds: int) -> list[dict]:
    """Time a training step of each reader of novels, 8 pieces of 256 tokens, in turn in one process."""
    experiments = long_shapes()
    B, T = len(experiments[0].task.forget), experiments[0].task.length
    times = measure({e.name: call(e.model, B, T) for e in experiments}, rounds)
    first = times[experiments[0].name].fastest
    return [
        {"variant": e.name, "B": B, "T": T, "weights": weights(e.model), "seconds": times[e.name].fastest,
         "spread": times[e.name].spread, "ratio": times[e.name].fastest / first}
        for e in experiments
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Time every model, print the table, and write it with its hardware, date and commit.

    Args:
        arguments: command-line arguments; default sys.argv[1:].
    """
    p = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--scale", type=int, default=1, help="divide all lengths, to try the script; no bar is judged then")
    p.add_argument("--readers", action="store_true", help="a training step of lesson 12's readers of novels")
    p.add_argument("--json", type=Path, default=TARGET, help="where the results go; the table goes beside them")
    options = p.parse_args(arguments)
    torch.set_num_threads(1)
    if options.readers:
        results = stamp("python -m benchmarks.models --readers") | {"rows": readers(options.rounds)}
        return write_json(READERS if options.json == TARGET else options.json, results)
    rows = []
    for B, T in ((B, T // options.scale) for B, T in SHAPES):
        calls = {name: call(config, B, T) for name, config in configs().items()}
        times = measure(calls, options.rounds, say=lambda text, at=(B, T): say(f"{at}: {text}"))
        rows += [row(name, B, T, times) for name in calls]
    command = "python -m benchmarks.models" + (f" --rounds {options.rounds}" if options.rounds != 3 else "")
    results = stamp(command) | {"rows": rows}
    write_json(options.json, results)
    write_text(options.json.with_suffix(".txt"), report(results))
    print(report(results))


if __name__ == "__main__":
    main()
