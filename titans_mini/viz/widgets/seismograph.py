"""Surprise seismograph: one planted event in a stream, momentary surprise upwards, past surprise downwards."""

from __future__ import annotations

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from titans_mini.memory.network import MemoryNet
from titans_mini.memory.trace import record
from titans_mini.viz import draw, palette
from titans_mini.viz.draw import as_array
from titans_mini.viz.picture import figure, legend
from titans_mini.viz.widgets.explorer import Explorer

STEP, MOST = 0.05, 0.9  # step and maximum of the η slider

Event = tuple[Tensor, Tensor, Tensor, Tensor, str]


class Seismograph(Explorer):
    """The effect of one event on a matrix memory, for any η, with past surprise kept or dropped after the event.

    All runs are recorded as one batch; the controls only select among them.

    Args:
        events: name → (k, v, asked, truth, about). The stream is k, v (T, D); at every token the memory is asked
            `asked` (N, D) and should answer `truth` (N, D); `about` describes the questions in words.
        weights: (1, D, D) initial weights of the memory.
        theta: step size.
        at: token index of the event.
        presets: name → values of the controls `event`, `eta`, `drop`.
    """

    caption = (
        "Up: how hard this token pushes the memory. Down: how hard earlier tokens still push. "
        "Below: how wrong the memory now is about what should be known."
    )

    def __init__(
        self,
        events: dict[str, Event],
        weights: Tensor,
        theta: float = 0.1,
        at: int = 10,
        presets: dict[str, dict] | None = None,
    ):
        lengths = {name: len(event[0]) for name, event in events.items()}
        if not events or len(set(lengths.values())) != 1 or not 0 <= at < max(lengths.values()) - 1:
            raise ValueError(f"got streams of {lengths} tokens and an event at {at}, expected equal lengths beyond it")
        self.at, self.names, self.theta = at, list(events), theta
        self.etas = np.arange(round(MOST / STEP) + 1) * STEP
        self.about = [event[-1] for event in events.values()]
        self.presets = presets or {}
        self.compared = tuple(self.presets)[:3]
        self.runs = self._record(events, weights)
        super().__init__()

    def _record(self, events: dict[str, Event], weights: Tensor) -> dict[str, np.ndarray]:
        """Record all runs in one batch; each result is (events, etas, 2, T), errors with T+1."""
        most = max(len(asked) for _, _, asked, _, _ in events.values())
        padded = [_pad(event, most) for event in events.values()]
        k, v, asked, truth = (torch.stack(parts) for parts in zip(*padded, strict=True))
        n, (T, D), m = len(events), k.shape[1:], len(self.etas)
        eta = torch.from_numpy(self.etas).to(k.dtype)[None, :, None, None].repeat(n, 1, 2, T)
        eta[:, :, 1, self.at + 1] = 0  # past surprise dropped at the token after the event
        eta = eta.reshape(-1, 1, T)
        k, v = (x.repeat_interleave(2 * m, 0)[:, None] for x in (k, v))  # (B, 1, T, D)
        net = MemoryNet(D, depth=1, residual=False, norm=False)
        start = net.init_state(len(eta), 1, weights=(weights,), dtype=k.dtype)
        run = record(k, k, v, torch.zeros_like(eta), eta, torch.full_like(eta, self.theta), start, net=net)
        M = run.weights[0][:, :, 0].unflatten(1, (n, m, 2))  # (T+1, n, m, 2, D, D)
        wrong = (asked[:, None, None] @ M - truth[:, None, None]).square().sum(-1)  # (T+1, n, m, 2, N)
        results = {"momentary": run.momentary[..., 0], "past": run.past[..., 0], "error": wrong.nanmean(-1)}
        return {name: as_array(x.reshape(len(x), n, m, 2)).transpose(1, 2, 3, 0) for name, x in results.items()}

    def controls(self):
        """Return the controls: event, η, and whether past surprise is dropped after the event."""
        return {
            "event": ipywidgets.Dropdown(options=self.names, description="event"),
            "eta": ipywidgets.FloatSlider(0.8, min=0, max=MOST, step=STEP, description="η"),
            "drop": ipywidgets.Checkbox(False, description="η = 0 at the token after the event"),
        }

    def build(self) -> Figure:
        """Lay out the seismogram above and the error below, on a shared token axis."""
        fig, (top, low) = figure(7.2, 4.4, 2, 1, sharex=True, height_ratios=[1.5, 1])
        up, down = self.runs["momentary"].max() * 1.15, self.runs["past"].max() * 1.1
        blank = np.zeros(self.runs["past"].shape[-1])
        self.trace = draw.seismogram(top, blank, blank)
        top.set(ylim=(-down, up))
        top.tick_params(axis="x", length=0, labelbottom=False)
        legend(top, loc="lower left", ncols=2, bbox_to_anchor=(0, 1))
        x = np.arange(len(blank) + 1) - 0.5  # states lie between tokens
        self.plain = draw.line(low, x, x, color=palette.MUTED, width=1.3, linestyle=(0, (3, 2)), label="η = 0")
        self.error = draw.line(low, x, x, color=palette.MEMORY, label="this η")
        low.set(ylim=(-0.05, self.runs["error"].max() * 1.08), xlabel="token t", ylabel="error")
        low.set_xticks(range(0, len(blank) + 1, 10))
        legend(low, loc="upper right", ncols=2, bbox_to_anchor=(1, 1.08))
        self.asked = low.set_title("", loc="left")
        for ax in (top, low):
            draw.marker(ax, self.at, color=palette.GRID).artist.set_zorder(0)
        return fig

    def _index(self, event: str, eta: float, drop: bool) -> tuple[int, int, int]:
        return self.names.index(event), round(eta / STEP), int(drop)

    def draw(self, event, eta, drop):
        """Show one of the recorded runs."""
        i = self._index(event, eta, drop)
        self.trace.update(self.runs["momentary"][i], self.runs["past"][i])
        x = np.arange(self.runs["error"].shape[-1]) - 0.5
        self.error.update(self.runs["error"][i], x)
        self.plain.update(self.runs["error"][i[0], 0, 0], x)
        self.asked.set_text(f"how wrong the memory is about {self.about[self.names.index(event)]}")

    def alt(self, event, eta, drop):
        """Describe the peak of past surprise and the error after the event."""
        i = self._index(event, eta, drop)
        past, error, plain = self.runs["past"][i], self.runs["error"][i], self.runs["error"][i[0], 0, 0]
        kept = ", dropped at the token after the event" if drop else ""
        after, end = self.at + 1, min(self.at + 20, len(error) - 1)
        return (
            f"{event[0].upper()}{event[1:]} at token {self.at}, η = {eta:.2f}{kept}: "
            f"past surprise reaches {past.max():.2f}; the error is at most {error[after:].max():.2f} after the event "
            f"(η = 0: {plain[after:].max():.2f}) and {error[end]:.2f} "
            f"at token {end} (η = 0: {plain[end]:.2f})."
        )


def _pad(event: Event, most: int) -> tuple[Tensor, ...]:
    """Pad the questions and answers (N, D) of an event to `most` rows with NaN, which the mean leaves out."""
    k, v, asked, truth, _ = event
    nothing = asked.new_full((most - len(asked), asked.shape[-1]), torch.nan)
    return k, v, torch.cat([asked, nothing]), torch.cat([truth, nothing])
