"""Memory scrubber: step through a recorded stream of digits and show the memory at every step."""

from __future__ import annotations

import ipywidgets
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from titans_mini.memory.trace import Trace
from titans_mini.viz import draw, palette
from titans_mini.viz.draw import as_array
from titans_mini.viz.picture import figure, legend
from titans_mini.viz.widgets.explorer import Explorer

RECENT = 50  # tokens in the running accuracy


class MemoryScrubber(Explorer):
    """One digit at a time: the query, the memory's answer, the memory after the write, its surprise.

    Args:
        images: (T, 64) pixels of the stream, in the order of the record.
        labels: (T,) labels, 0 … 9.
        traces: name of a rule → its record: a memory (64, ≥ 10) of batch 1 and one head, with the image as key
            and the one-hot label as value.
    """

    caption = (
        "Each small picture is one column of the memory, folded back into 8×8: what it believes that label looks "
        "like. Purple adds to the answer, orange takes away."
    )

    key = (
        ("takes away", palette.SIGNED, "adds to the answer"),
        ("digit", palette.KEY),
        ("surprise", palette.SURPRISE),
        ("the other rule", palette.MUTED),
        ("wrong answer", palette.INK),
    )

    def __init__(self, images, labels, traces: dict[str, Trace]):
        self.images, self.labels = as_array(images).reshape(-1, 8, 8), as_array(labels).astype(int)
        if not traces or any(len(trace) != len(self.labels) for trace in traces.values()):
            raise ValueError(f"got records of {[len(t) for t in traces.values()]} tokens, expected {len(self.labels)}")
        self.rules = {name: self._extract(trace) for name, trace in traces.items()}
        names, late = list(self.rules), len(self.labels) // 2
        surprise = np.where(np.arange(len(self.labels)) >= late, self.rules[names[0]]["surprise"], -1)
        last = {"t": len(self.labels)}
        self.presets = {
            "ten digits": {"t": min(10, len(self.labels))},
            "a surprise": {"t": int(surprise.argmax()) + 1, "show": "write"},
        }
        self.presets |= {"all": last} | {f"all, {name}": last | {"rule": name} for name in names[1:]}
        self.compared = ("ten digits", "all", *(f"all, {name}" for name in names[1:2]))
        super().__init__()

    def _extract(self, trace: Trace) -> dict[str, np.ndarray | float]:
        """Extract the ten label columns as images (T+1, 10, 8, 8), and the answers (T, 10)."""
        columns = as_array(trace.weights[0][:, 0, 0, :, :10])
        memory = columns.transpose(0, 2, 1).reshape(-1, 10, 8, 8)
        # M_{t−1}(k_t), not the recorded queries
        answers = np.einsum("tk,tkl->tl", as_array(trace.k[0, 0]), columns[:-1])
        hit = answers.argmax(-1) == self.labels
        limits = {"memory": np.abs(memory).max(), "write": np.abs(np.diff(memory, axis=0)).max()}
        limits = {name: 0.6 * float(limit) for name, limit in limits.items()}  # a few strong pixels may saturate
        surprise = as_array(trace.loss)[:, 0, 0]
        return {"memory": memory, "answers": answers, "hit": hit, "limits": limits, "surprise": surprise}

    def controls(self):
        """Return the controls: digit, rule, and whether to show the memory or its last change."""
        shown = [("memory after it", "memory"), ("what it changed", "write")]
        return {
            "t": ipywidgets.IntSlider(len(self.labels), 1, len(self.labels), description="digit t"),
            "rule": ipywidgets.Dropdown(options=list(self.rules), description="rule"),
            "show": ipywidgets.Dropdown(options=shown, description="show"),
        }

    def build(self) -> Figure:
        """Lay out the digit, the answer, the ten columns and the surprise."""
        fig, whole = figure(7.2, 4.6)
        whole.remove()
        with matplotlib.rc_context(palette.style()):
            layout = [["digit", "answer"], ["memory", "memory"], ["surprise", "surprise"]]
            self.axes = fig.subplot_mosaic(layout, width_ratios=[1, 3.2], height_ratios=[1.5, 1.15, 1.35])
        axes, start = self.axes, self.rules[next(iter(self.rules))]
        self.main = axes["memory"]
        self.digit = draw.tiles(axes["digit"], self.images[:1], limit=1)
        self.title = axes["digit"].set_title("")
        self._build_answer(axes["answer"])
        self.tiles = draw.tiles(axes["memory"], start["memory"][0], range(10), signed=True, limit=1)
        self.believed = axes["memory"].set_title("")
        self._build_surprise(axes["surprise"])
        return fig

    def _build_answer(self, ax) -> None:
        outline = {"color": "none", "edgecolor": palette.VALUE, "linewidth": 1.8, "zorder": 3}
        self.truth = draw.bars(ax, np.zeros(10), range(10), label="truth", **outline)
        self.answer = draw.bars(ax, np.zeros(10), color=palette.MEMORY, width=0.5, label="answer")
        ax.set_yscale("symlog", linthresh=1, linscale=1)
        ax.set(xticks=range(10), yticks=[-1, 0, 1, 10], yticklabels=["−1", "0", "1", "10"], ylim=(-1.05, 60))
        ax.minorticks_off()
        self.beyond = draw.edges(ax, color=palette.MEMORY)
        legend(ax, loc="lower right", ncols=2, bbox_to_anchor=(1, 1))
        self.told = ax.set_title("", loc="left")

    def _build_surprise(self, ax) -> None:
        blank = np.full(len(self.labels), np.nan)
        x = np.arange(1, len(blank) + 1)
        self.other = draw.line(ax, blank, x, color=palette.MUTED, width=0.8, alpha=0.6)
        self.surprise = draw.line(ax, blank, x, color=palette.SURPRISE, width=1.2)
        self.missed = draw.line(ax, blank, x, width=0, color=palette.INK, marker="|", markersize=6)
        self.here = draw.marker(ax, 1)
        ax.set_yscale("symlog", linthresh=2, linscale=1.6)
        ax.set(xlim=(0, len(blank) + 1), ylim=(-0.9, 8000), xlabel="digit t")
        ax.set(yticks=[0, 1, 2, 10, 100, 1000], yticklabels=["0", "1", "2", "10", "100", "1000"])
        ax.minorticks_off()
        self.higher = draw.edges(ax, color=palette.SURPRISE)
        # a title, since a legend would cost a fifth of the time of every redraw
        ax.set_title("loss ℓ before the write (grey: the other rule; ticks: wrong answers)")

    def draw(self, t, rule, show):
        """Show digit t of one rule's record."""
        run, i = self.rules[rule], t - 1
        other = next((r for name, r in self.rules.items() if name != rule), run)
        self.digit.update(self.images[i : i + 1])
        self.title.set_text(f"digit {t}")
        self.answer.update(run["answers"][i])
        self.beyond.update(run["answers"][i])
        self.truth.update(np.eye(10)[self.labels[i]])
        self.told.set_text(self._verdict(run, i))
        picture, limit, text = self._shown(run, t, show)
        self.tiles.update(picture, limit=limit)
        self.believed.set_text(f"{text}, colours to ±{limit:.2g}")
        x = np.arange(1, len(self.labels) + 1)
        self.other.update(other["surprise"], x)
        self.surprise.update(run["surprise"], x)
        self.higher.update(run["surprise"], x)
        self.missed.update(np.where(run["hit"], np.nan, -0.5), x)
        self.here.update(t)

    def _shown(self, run, t, show):
        if show == "write":
            change = run["memory"][t] - run["memory"][t - 1]
            return change, run["limits"][show], f"what digit {t} changed, $M_t-M_{{t-1}}$"
        return run["memory"][t], run["limits"][show], f"the memory after digit {t}, $M_t$"

    def _verdict(self, run, i):
        guess, truth = run["answers"][i].argmax(), self.labels[i]
        if not np.any(run["answers"][i]):
            return f"it knows nothing yet, and is told {truth}"
        return f"it says {guess}, then it is told {truth}: {'right' if run['hit'][i] else 'wrong'}"

    def alt(self, t, rule, show):
        """Describe the current digit, answer and loss."""
        run, i = self.rules[rule], t - 1
        recent = run["hit"][max(0, t - RECENT) : t]
        what = "ten pictures of the memory" if show == "memory" else "ten pictures of what this digit changed"
        return (
            f"{rule}, digit {t}: {self._verdict(run, i)}, loss {run['surprise'][i]:.2g}; "
            f"right {recent.mean():.0%} of the last {len(recent)}; below, {what}."
        )
