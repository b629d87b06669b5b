"""The engine of this checkout beside that of an earlier commit: `python -m benchmarks.against COMMIT`.

The earlier package is taken out of git, gets another name and is imported beside ours: both run in one process, in
turns. First both must give the same outputs, states and gradients in float64; if they do not, nothing is timed.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import titans_mini
from benchmarks import gate, report
from benchmarks.cases import QUICK, ROOT, network
from benchmarks.measure import measure, say

TARGET = ROOT / "assets" / "results" / "against.txt"
EARLIER = "earlier_titans"  # the name of the earlier package here
HEADS, DIM = 4, 64
SHORT, LONG = 4096, 16384  # tokens: for time, for memory
NOTE = """
ms   process time of the fastest of {rounds} rounds, B 1, H {heads}, T {short:,}, D {dim}; gradients reach all inputs
KiB  all tensors alive at the peak of forward and backward, per token and head, beyond the inputs, T {long:,}
mlp4 norm has the residual, the norm and gates for each layer
""".strip("\n")


class Case(NamedTuple):
    """One line of the table: a network of `cases.NETS`, the chunk size, and where gradients are taken."""

    net: str
    C: int
    anchor: str = "chunk"

    @property
    def name(self) -> str:
        """Name the network and the rule."""
        return f"{self.net}, exact rule" if self.anchor == "token" else self.net


CASES = [Case(net, C) for net in ("mlp4 norm", "mlp4", "mlp2", "matrix") for C in (64, 16)]
CASES += [Case("matrix", C, "token") for C in (16, 32, 64)]


def earlier(commit: str, folder: Path) -> ModuleType:
    """Import the library of a commit from a copy in an empty folder, which must stay there as long as it is used."""
    archive = folder / "earlier.zip"
    report.git("archive", "--format=zip", f"--output={archive}", commit, "titans_mini", "kernels")
    shutil.unpack_archive(archive, folder)
    package = (folder / "titans_mini").rename(folder / EARLIER)
    (folder / "kernels").rename(package / "kernels")
    for path in package.rglob("*.py"):
        path.write_text(path.read_text(encoding="utf-8").replace("titans_mini", EARLIER), encoding="utf-8")
    sys.path.append(str(folder))
    return importlib.import_module(EARLIER)


class Step(NamedTuple):
    """An engine with its inputs, ready to run.

    Attributes:
        run: returns y, and the memory and momentum after the last token.
        leaves: everything that gradients reach.
        directions: the gradients that arrive at the results of `run`.
    """

    run: Callable[[], list[Tensor]]
    leaves: list[Tensor]
    directions: list[Tensor]

    def forward(self) -> list[Tensor]:
        """Return the results, without a graph."""
        with torch.no_grad():
            return self.run()

    def both(self) -> list[Tensor]:
        """Return the results and the gradients."""
        results = self.run()
        return [*results, *torch.autograd.grad(results, self.leaves, self.directions)]


def step(package: ModuleType, case: Case, T: int, D: int = DIM, dtype: torch.dtype = torch.float32) -> Step:
    """Make the engine of a package ready for a case; every engine gets the same numbers."""
    g, net = torch.Generator().manual_seed(0), network(case.net, D, package.MemoryNet).to(dtype)
    sizes = (1, HEADS, T, net.depth) if case.net == "mlp4 norm" else (1, HEADS, T)
    x = [F.normalize(torch.randn(1, HEADS, T, D, generator=g), dim=-1) for _ in ("q", "k", "v")]
    x += [torch.rand(sizes, generator=g) * top for top in (0.02, 0.9, 0.02)]  # α, η, θ
    start = gate.start(net, 1, HEADS)
    x, M, S = ([z.to(dtype).requires_grad_() for z in part] for part in (x, start.weights, start.momentum))
    state = package.MemoryState(weights=tuple(M), momentum=tuple(S), anchor=tuple(M))
    options = {"net": net, "chunk_size": case.C, "anchor": case.anchor, "backend": "chunked"}

    def run() -> list[Tensor]:
        y, end = package.neural_memory(*x, state, **options)
        return [y, *end.weights, *end.momentum]

    directions = [torch.randn(z.shape, generator=g).to(dtype) for z in (x[2], *M, *S)]  # y is as large as v
    return Step(run, [*x, *M, *S, *net.parameters()], directions)


def differences(engines: dict[str, ModuleType]) -> dict[str, float]:
    """Compare the engines in a small problem in float64: of each case the largest relative error."""
    errors = {}
    for case in CASES:
        now, then = (step(engines[name], case, 5 * case.C // 2, 8, torch.float64).both() for name in ("now", "then"))
        errors[f"{case.name}, C {case.C}"] = gate.difference(now, then)
    return errors


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are made under it, while they live; `inputs` were there before."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = {x.untyped_storage()._cdata for x in inputs}

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation and count its results, unless they are views of what is known."""
        results = operation(*args, **(kwargs or {}))
        for storage in (x.untyped_storage() for x in tree_leaves(results) if torch.is_tensor(x)):
            key, size = storage._cdata, storage.nbytes()
            if key not in self.known:
                self.known.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, key, size)
        return results

    def _freed(self, key: int, size: int) -> None:
        """Take a storage off the count."""
        self.known.discard(key)
        self.now -= size


def peak(work: Step) -> int:
    """Count the bytes at the peak of a training step."""
    with Alive([*work.leaves, *work.directions]) as alive:
        work.both()
    return alive.peak


def compare(case: Case, engines: dict[str, ModuleType], rounds: int, scale: int) -> list[dict[str, float]]:
    """Measure one case: milliseconds forward, milliseconds with backward, and KiB, each by the name of the engine."""
    works = {name: step(package, case, SHORT // scale) for name, package in engines.items()}
    if not all(x.isfinite().all() for work in works.values() for x in work.both()):
        raise ValueError(f"{case}: its results are not finite, and the time of such a memory means nothing")
    calls = {(which, name): getattr(work, which) for which in ("forward", "both") for name, work in works.items()}
    times = measure(calls, rounds, say=lambda text: None)
    ms = [{name: times[which, name].fastest * 1e3 for name in engines} for which in ("forward", "both")]
    T = LONG // scale
    return [*ms, {name: peak(step(package, case, T)) / T / HEADS / 1024 for name, package in engines.items()}]


def table(rows: dict[Case, list[dict[str, float]]]) -> str:
    """Lay out the numbers of every case: then, now, and now over then."""
    titles = ("forward, ms", "forward + backward, ms", "KiB per token and head")
    lines = [" " * 24 + "".join(f"{title:>28}" for title in titles)]
    lines += [f"{'network':20}{'C':>4}" + f"{'then':>10}{'now':>9}{'ratio':>9}" * len(titles)]
    for case, found in rows.items():
        cells = [f"{x['then']:10.2f}{x['now']:9.2f}{x['now'] / x['then']:9.2f}" for x in found]
        lines.append(f"{case.name:20}{case.C:4}" + "".join(cells))
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Check, measure, and write the table; returns the exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.against", description=__doc__.split("\n")[0])
    parser.add_argument("commit", help="of the earlier engine")
    parser.add_argument("--rounds", type=int, default=5, help="of every measurement, after a warm-up (default 5)")
    parser.add_argument("--out", type=Path, default=TARGET, help=f"default {TARGET.relative_to(ROOT)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does it run?")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    rounds, scale = (1, QUICK) if options.quick else (options.rounds, 1)
    try:
        commit = report.git("rev-parse", "--short", "--verify", options.commit + "^{commit}")
    except (OSError, subprocess.CalledProcessError):
        parser.error(f"commit: got {options.commit!r}, expected one in the git history of {ROOT}")
    with tempfile.TemporaryDirectory() as folder:
        engines = {"then": earlier(commit, Path(folder)), "now": titans_mini}
        errors = differences(engines)
        if wrong := gate.failures(errors):
            print("the engines differ, so nothing was timed:", *wrong, sep="\n  ", file=sys.stderr)
            return 1
        rows = {}
        for case in CASES:
            say(f"{case.name}, C {case.C}")
            rows[case] = compare(case, engines, rounds, scale)
    h = report.hardware()
    head = f"{h['cpu']} · torch {h['torch']} · {h['threads']} thread · {date.today()}"
    commits = f"then: commit {commit} · now: commit {report.commit()}"
    same = f"gate: both are equal in {len(errors)} cases, largest relative error {max(errors.values()):.1e} in float64"
    note = NOTE.format(rounds=rounds, heads=HEADS, short=SHORT // scale, dim=DIM, long=LONG // scale)
    text = f"{head}\n{commits}\n{same}\n\n{table(rows)}\n\n{note}"
    report.write_text(options.out, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
