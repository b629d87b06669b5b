"""The roofline: lower bounds on a memory's time on a GPU, by matrix units, bytes, and the chain of chunks."""

from __future__ import annotations

from typing import NamedTuple

import ipywidgets
import numpy as np

from titans_mini.memory.network import MemoryNet
from titans_mini.notebook import load_results
from titans_mini.viz import draw, figure, legend, palette
from titans_mini.viz.widgets.explorer import Explorer

SEQUENCES = tuple(2**i for i in range(11))  # B·H
CHUNKS = (16, 32, 64, 128)


class GPU(NamedTuple):
    """Peak rates of a GPU, and their source."""

    name: str
    rate: float  # operations per second of dense bfloat16 products
    bandwidth: float  # bytes per second
    processors: int  # streaming multiprocessors
    source: str  # "data sheet, assumed" or "measured"


H100 = GPU("H100", 989e12, 3.35e12, 132, "data sheet, assumed")
H200 = GPU("H200", 989e12, 4.8e12, 132, "data sheet, assumed")


def recorded() -> GPU | None:
    """Return the GPU of the recorded benchmark with its measured rate and bandwidth; None if none was measured."""
    results = load_results("kernels_gpu")
    if not results["machine"]:
        return None
    name, source = results["hardware"]["gpu"].removeprefix("NVIDIA "), f"measured {results['date']}"
    return GPU(name, results["machine"]["rate"], results["machine"]["bandwidth"], 132, source)


def operations(net: MemoryNet, C: int) -> tuple[int, int]:
    """Count forward operations per token and head: the total, and the part on the chain from chunk to chunk.

    Total: 12P − 2P₁ + 2CN, with P weights, P₁ of the first layer, N the sum of all layers' inputs and outputs. Chain:
    errors at the anchor and their updates of weights and momentum, 8P − 2P₁; the answers are not on it.
    """
    P = sum(i * o for i, o in net.shapes)
    P1 = net.shapes[0][0] * net.shapes[0][1]
    return 12 * P - 2 * P1 + 2 * C * sum(i + o for i, o in net.shapes), 8 * P - 2 * P1


def floors(net: MemoryNet, gpu: GPU, sequences, T: int, C: int) -> dict[str, np.ndarray]:
    """Compute three lower bounds on the seconds of a forward pass.

    Args:
        net: the memory's network.
        gpu: the GPU's rates.
        sequences: (N,) numbers of sequences, B·H.
        T: tokens per sequence.
        C: chunk size.

    Returns:
        "matrix", all products at the full rate; "bytes", q, k, v, y in half precision and three gates in single, each
        moved once; "chain", one sequence's writes, on one processor with its share of the rate. (N,) each.
    """
    sequences = np.asarray(sequences, dtype=float)
    every, chained = operations(net, C)
    return {
        "matrix": sequences * T * every / gpu.rate,
        "bytes": sequences * T * (4 * net.dim * 2 + 3 * 4) / gpu.bandwidth,
        "chain": np.full_like(sequences, T * chained / (gpu.rate / gpu.processors)),
    }


class Roofline(Explorer):
    """Lower bounds on the forward time over the number of sequences, for a memory and a chunk size.

    Args:
        gpus: one or more; the first is drawn in full, the others' bytes are dashed.
        D: dimension of a head.
        T: tokens per sequence.
    """

    caption = (
        "No line is a measurement. Each is a least time: what counts of operations and bytes allow at best, on the "
        "GPU named in the title. The highest of the three is the floor (black). Where the chain is highest, more "
        "sequences cost nothing."
    )
    compared = ("one sequence", "a deep memory", "a full GPU")
    presets = {
        "one sequence": {"sequences": 1},
        "a deep memory": {"memory": "MLP, expansion 4", "sequences": 16},
        "a full GPU": {"sequences": 512},
    }

    def __init__(self, gpus: tuple[GPU, ...] = (H200, H100), D: int = 64, T: int = 8192):
        if not gpus or D < 1 or T < 1:
            raise ValueError(f"got {len(gpus)} GPUs, D={D}, T={T}, expected at least one of each")
        self.gpus, self.T = gpus, T
        self.nets = {"matrix": MemoryNet(D, depth=1, residual=False, norm=False)}
        self.nets |= {f"MLP, expansion {e}": MemoryNet(D, depth=2, expansion=e) for e in (2, 4)}
        super().__init__()

    def controls(self):
        """Return the controls: memory, number of sequences and chunk size."""
        return {
            "memory": ipywidgets.Dropdown(options=list(self.nets), value="matrix", description="memory"),
            "sequences": ipywidgets.SelectionSlider(options=SEQUENCES, value=16, description="sequences B·H"),
            "C": ipywidgets.SelectionSlider(options=CHUNKS, value=64, description="chunk size C"),
        }

    def build(self):
        """Draw three lines, the floor, and the chosen number of sequences."""
        fig, ax = figure(7.2, 3.4)
        ones = np.ones(len(SEQUENCES))
        first, *others = self.gpus
        self.lines = {
            "matrix": draw.line(ax, ones, SEQUENCES, color=palette.SURPRISE, label="matrix units"),
            "bytes": draw.line(ax, ones, SEQUENCES, color=palette.KEY, label=f"bytes, {first.name}"),
            "chain": draw.line(ax, ones, SEQUENCES, color=palette.MEMORY, label="chain of chunks"),
        }
        self.beyond = {name: draw.edges(ax, color=line.artist.get_color()) for name, line in self.lines.items()}
        self.others = [
            draw.line(ax, ones, SEQUENCES, color=palette.KEY, width=1.1, ls="--", label=f"bytes, {gpu.name}")
            for gpu in others
        ]
        self.floor = draw.line(ax, ones, SEQUENCES, color=palette.INK, width=4, alpha=0.3, label="floor")
        self.here = draw.marker(ax, 16, color=palette.MUTED)
        ax.set(xscale="log", yscale="log", ylim=(3e-7, 2e-2), xlabel="sequences, B·H", ylabel="least time, forward")
        ax.set_xticks(SEQUENCES, [f"{n:,}" for n in SEQUENCES])
        ax.set_yticks([1e-6, 1e-5, 1e-4, 1e-3, 1e-2], ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms"])
        ax.minorticks_off()
        ax.grid(axis="y")
        legend(ax, loc="lower right", ncols=2)
        self.title = ax.set_title("", fontsize=9.5)
        return fig

    def draw(self, memory, sequences, C):
        """Move the lines and update the title."""
        found = floors(self.nets[memory], self.gpus[0], SEQUENCES, self.T, C)
        for name, times in found.items():
            self.lines[name].update(times, SEQUENCES)
            self.beyond[name].update(times, SEQUENCES)
        for line, gpu in zip(self.others, self.gpus[1:], strict=True):
            line.update(floors(self.nets[memory], gpu, SEQUENCES, self.T, C)["bytes"], SEQUENCES)
        self.floor.update(np.max(list(found.values()), 0), SEQUENCES)
        self.here.update(sequences)
        gpu, bound = self.gpus[0], self.bound(memory, sequences, C)
        words = f"{gpu.rate / 1e12:.0f} TFLOP/s, {gpu.bandwidth / 1e12:.2f} TB/s"
        self.title.set_text(f"{memory}, T = {self.T:,}: bound by {bound}\n{gpu.name} ({gpu.source}): {words}")

    def bound(self, memory: str, sequences: int, C: int) -> str:
        """Return the name of the highest bound."""
        times = floors(self.nets[memory], self.gpus[0], [sequences], self.T, C)
        return {"matrix": "matrix units", "bytes": "bytes", "chain": "the chain"}[max(times, key=lambda n: times[n][0])]

    def alt(self, memory, sequences, C):
        """Describe the three lower bounds and name the highest."""
        times = floors(self.nets[memory], self.gpus[0], [sequences], self.T, C)
        each = ", ".join(f"{name} {1e6 * x[0]:,.0f} µs" for name, x in times.items())
        gpu = self.gpus[0]
        return (
            f"Least forward times of {memory}, {sequences} sequences of {self.T:,} tokens, chunks of {C}, on "
            f"{gpu.name} ({gpu.source}): {each}. Bound by {self.bound(memory, sequences, C)}."
        )
