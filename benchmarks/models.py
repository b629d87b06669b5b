"""The tiny language models beside a transformer of the same size: `python -m benchmarks.models`.

Forward and backward of one batch, every architecture in turn in one process. A memory costs weights, so each variant is
compared with a transformer whose feed-forward layer is widened to as many weights; ratios are to that transformer in
the same round. It attends with PyTorch's causal kernel, which skips masked scores.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.report import ROOT, stamp, write_json, write_text
from benchmarks.timing import Times, measure
from titans_mini import TitansConfig, TitansLM
from titans_mini.models.presets import count as weights

TARGET = ROOT / "assets" / "results" / "models_cpu.json"
RIVAL, TITANS, OTHERS = "transformer", ("mac", "mag", "mal", "lmm"), ("swa", "delta", "gated-delta")
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
    lines = [
        f"{'batch':>5} {'length':>7}  {'model':18}{'weights':>9}{'ms':>9}{'µs/token':>10}"
        f"{'ratio':>7} {'to':18}{'bar':>4}"
    ]
    for r in rows:
        bar = "" if r["bar"] is None else f"{r['bar']:.1f}"
        verdict = {None: "", True: "reached", False: "NOT reached"}[r["reached"]]
        per_token = r["seconds"] / r["B"] / r["T"] * 1e6
        lines.append(
            f"{r['B']:5} {r['T']:7}  {r['variant']:18}{r['weights']:9,}{r['seconds'] * 1e3:9.0f}{per_token:10.1f}"
            f"{r['ratio']:7.2f} {r['rival']:18}{bar:>4}  {verdict}".rstrip()
        )
    return "\n".join(lines)


def shared(few: dict, many: dict) -> float:
    """Compute the batch-independent seconds of a step, if it takes shared + B · each.

    Args:
        few: a row of `table`.
        many: the row of the same model and length with more sequences.
    """
    each = (many["seconds"] - few["seconds"]) / (many["B"] - few["B"])
    return few["seconds"] - few["B"] * each


def shares(rows: list[dict]) -> str:
    """Format the batch-independent time of each variant's smaller batch, and the ratio of the rest."""
    lines = [f"{'batch':>5} {'length':>7}  {'model':18}{'ms':>9}{'shared':>8}{'rest':>8}{'its ratio':>11}"]
    for r in rows:
        larger = [x for x in rows if (x["variant"], x["T"]) == (r["variant"], r["T"]) and x["B"] > r["B"]]
        if r["variant"] in TITANS and larger:
            part = shared(r, larger[0])
            rest = r["seconds"] - part
            lines.append(
                f"{r['B']:5} {r['T']:7}  {r['variant']:18}{r['seconds'] * 1e3:9.0f}{part * 1e3:8.0f}"
                f"{rest * 1e3:8.0f}{r['ratio'] * rest / r['seconds']:11.2f}"
            )
    return "\n".join(lines)


def report(results: dict) -> str:
    """Format the origin of the numbers, the table, and the batch-independent times."""
    h = results["hardware"]
    machine = (h["cpu"], f"torch {h['torch']}, {h['threads']} thread", results["date"], f"commit {results['commit']}")
    note = "forward and backward, float32, fastest round, process time; ratio: to a transformer with as many weights"
    parts = (
        "shared: what a step takes for any batch, if it takes shared + B · each; from the two batches of a length.\n"
        "its ratio: the rest alone, to the same transformer's whole step"
    )
    head = [results["command"], " · ".join(machine), note]
    return "\n".join([*head, "", table(results["rows"]), "", parts, "", shares(results["rows"])])


def main(arguments: list[str] | None = None) -> None:
    """Time every model, print the table, and write it with its hardware, date and commit.

    Args:
        arguments: command-line arguments; default sys.argv[1:].
    """
    p = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--scale", type=int, default=1, help="divide all lengths, to try the script; no bar is judged then")
    p.add_argument("--json", type=Path, default=TARGET, help="where the results go; the table goes beside them")
    options = p.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for B, T in ((B, T // options.scale) for B, T in SHAPES):
        calls = {name: call(config, B, T) for name, config in configs().items()}
        times = measure(calls, options.rounds, say=lambda text, at=(B, T): print(f"  … {at}: {text}", file=sys.stderr))
        rows += [row(name, B, T, times) for name in calls]
    command = "python -m benchmarks.models" + (f" --rounds {options.rounds}" if options.rounds != 3 else "")
    results = stamp("cpu", command) | {"rows": rows}
    write_json(options.json, results)
    write_text(options.json.with_suffix(".txt"), report(results))
    print(report(results))


if __name__ == "__main__":
    main()
