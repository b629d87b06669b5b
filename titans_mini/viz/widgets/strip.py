"""The surprise strip of notebook 00: your own text, coloured by a memory's surprise."""

from __future__ import annotations

import random
import string

import ipywidgets
import torch
from torch import Tensor

from titans_mini.data import code, english, text_stream
from titans_mini.data.reading import read_text
from titans_mini.memory.functional import neural_memory
from titans_mini.memory.network import MemoryNet
from titans_mini.models.titans import TitansLM
from titans_mini.viz import draw, figure, palette
from titans_mini.viz.widgets.explorer import Explorer

COLUMNS, ROWS, WINDOW = 72, 10, 40
BRIGHT = 5  # bits per character from which on a cell of a trained model is brightest: a guess among 32
LONGEST = 1_200  # most characters read, in less than 100 ms; the strip shows the first COLUMNS · ROWS
LEARNING, FROZEN, RIGHT = "surprise, learning all along", "surprise, frozen halfway", "guessed right (dark)"
RHYME = (  # traditional; only the beginning of each line is new
    "This is the house that Jack built.\n"
    "This is the malt that lay in the house that Jack built.\n"
    "This is the rat that ate the malt that lay in the house that Jack built.\n"
    "This is the cat that killed the rat that ate the malt that lay in the house that Jack built.\n"
    "This is the dog that worried the cat that killed the rat that ate the malt that lay in the house that Jack "
    "built.\n"
    "This is the cow with the crumpled horn that tossed the dog that worried the cat that killed the rat that ate the "
    "malt that lay in the house that Jack built."
)
SENTENCE = (  # two lines of the strip, so that its repetitions align
    "A memory that was never trained reads this sentence once. It writes down"
    " what it did not expect. The second time there is little left to write. "
)
LINE = "Quimby Vorlat of Exmoor has a room upon the river and a dog called Zip. "  # one row of the strip
STORY = (  # our own; attention to 64 pieces has forgotten the name each time that it comes back
    "It rained all that morning, and nobody in the village expected a visitor. When the old coach stopped before the "
    "inn, a tall gentleman stepped down from it, and gave his name as Quimby Vorlat. The landlady carried his bag up "
    "the stairs herself, for the boy was at the smithy, and found it heavier than it looked. There were books in it, "
    "she told her sister, or else stones. When the doctor came in out of the rain, he shook hands with all, and "
    'asked who the stranger was. "That is Mr. Vorlat," she said in a low voice. But the evening was long, the fire was '
    "warm, and there was nobody else in the room who could play at cards. At nine o'clock the doctor rose and "
    'bowed. "I believe that I speak to Mr. Vorlat," he said.'
)


def _presets() -> dict[str, dict]:
    letters = random.Random(0)
    return {
        "a rhyme": {"text": RHYME, "theta": 0.15},
        "one sentence, five times": {"text": SENTENCE * 5, "theta": 0.3},
        "one changed letter": {"text": SENTENCE * 4 + SENTENCE.replace("expect", "extect"), "theta": 0.3},
        "English": {"text": english()[: COLUMNS * ROWS], "theta": 0.15},
        "Python code": {"text": code("bisect")[: COLUMNS * ROWS], "theta": 0.15},
        "random letters": {"text": "".join(letters.choices(string.ascii_lowercase, k=COLUMNS * ROWS)), "theta": 0.15},
    }


def _trained_presets() -> dict[str, dict]:
    """Return texts in which a reader sees what a trained model knew before, and what it wrote down while it read."""
    texts = {
        "a stranger": STORY,
        "one line, ten times": LINE * 10,
        "one changed word": LINE * 9 + LINE.replace("Exmoor", "London"),
        "a rhyme": RHYME,
    }
    return {name: {"text": text, "theta": 1.0} for name, text in texts.items()}


class SurpriseStrip(Explorer):
    """A text, coloured character by character by the surprise of a memory that learns while it reads.

    Args:
        text: initial text; by default a rhyme that repeats itself.
        theta: initial step size; with a model, a factor on its trained step size.
        dim: D, the size of keys and values.
        model: a trained model of bytes or pieces whose memory reads; None for an untrained memory.
    """

    caption = (
        f"Dark: the memory saw the character coming. Bright: it did not. The curve is the mean of the last {WINDOW} "
        "characters; 1 is a memory that knows nothing."
    )

    def __init__(
        self, text: str = RHYME, theta: float | None = None, dim: int = 256, model: TitansLM | None = None
    ) -> None:
        """Start with `text`; see the class for the arguments."""
        self.key = (("foreseen, or right", palette.MAGNITUDE, "no idea, or wrong"), ("mean surprise", palette.SURPRISE))
        self.model = model
        self.presets = _presets() if model is None else _trained_presets()
        if model is not None:
            self.caption = (
                f"Dark: the model saw the character coming. Bright: it did not, {BRIGHT} bits or more, a guess among "
                f"{2**BRIGHT}. The curve is the mean of the last {WINDOW} characters."
            )
        self.unit = "θ" if model is None else "writes ×"
        self.text = text
        self.theta = theta if theta is not None else 0.15 if model is None else 1.0
        self.net = MemoryNet(dim, depth=1, residual=False, norm=False)
        self._cache_key = self._cached = None
        super().__init__()

    def controls(self) -> dict:
        """Return the controls: text, step size and meaning of the colours."""
        box = ipywidgets.Layout(width="700px", max_width="100%", height="90px")
        return {
            "text": ipywidgets.Textarea(self.text, description="your text", continuous_update=False, layout=box),
            "theta": ipywidgets.FloatSlider(
                self.theta,
                min=0,
                max=1 if self.model is None else 2,
                step=0.05,
                description="step size θ" if self.model is None else self.unit,
            ),
            "colour": ipywidgets.Dropdown(options=(LEARNING, FROZEN, RIGHT), description="colour by"),
        }

    def build(self):
        """Draw an empty strip above an empty curve."""
        strip = draw.text_height(ROWS, COLUMNS)
        fig, (top, self.ax) = figure(7.2, strip + 1.75, 2, 1, height_ratios=[strip, 1.2])
        fig.get_layout_engine().set(rect=(0, 0, 0.98, 1))  # room for half a tick label on the right
        limit = 1.0 if self.model is None else float(BRIGHT)
        self.grid = draw.text_grid(top, "", [], columns=COLUMNS, rows=ROWS, limit=limit)
        self.title = self.ax.set_title(" ", loc="left", fontsize=9.5)
        self.ax.axhline(limit, color=palette.MUTED, linewidth=1, linestyle=":")
        self.curve = draw.line(self.ax, [], color=palette.SURPRISE)
        self.half = draw.marker(self.ax, 0, color=palette.FORGET)
        self.ax.set(ylim=(0, 1.6 * limit), xlabel="character t", ylabel="surprise")
        self.beyond = draw.edges(self.ax, color=palette.SURPRISE)
        if self.model is None:
            self.ax.set_yticks((0, 0.5, 1, 1.5), ("foreseen 0", "0.5", "no idea 1", "1.5"))
        else:
            self.ax.set_yticks((0, 2, BRIGHT, 8), ("foreseen 0", "2", f"{BRIGHT} bits", "8"))
        return fig

    @torch.no_grad()
    def read(self, text: str, theta: float, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """Read a text with a fresh memory.

        Args:
            text: T characters.
            theta: step size.
            frozen: stop learning halfway.

        Returns:
            The surprise of every character (T,), with a model in bits, and whether the best guess was right (T,).
        """
        if (text, theta, frozen) == self._cache_key:
            return self._cached
        self._cache_key = (text, theta, frozen)  # the picture, its alt text and other colours need the same reading
        read = self._read_untrained if self.model is None else self._read_trained
        self._cached = read(text, theta, frozen)
        return self._cached

    def _read_trained(self, text: str, theta: float, frozen: bool) -> tuple[Tensor, Tensor]:
        return read_text(self.model, text, theta, len(text) // 2 if frozen else None)

    def _read_untrained(self, text: str, theta: float, frozen: bool) -> tuple[Tensor, Tensor]:
        k, v = text_stream(text, self.net.dim)  # (1, 1, T, D)
        zero = torch.zeros(k.shape[:3])
        step = torch.full_like(zero, theta)
        if frozen:
            step[..., len(text) // 2 :] = 0
        options = {"net": self.net, "anchor": "token", "read": "before", "chunk_size": 64}
        y, _ = neural_memory(k, k, v, zero, zero, step, **options)
        return (y - v).square().sum(-1)[0, 0], (y.argmax(-1) == v.argmax(-1))[0, 0]

    def draw(self, text: str, theta: float, colour: str) -> None:
        """Read the text and recolour it."""
        whole, text = text, text[:LONGEST]
        surprise, right = self.read(text, theta, frozen=colour == FROZEN)
        shown = COLUMNS * ROWS
        values = (~right).float() if colour == RIGHT else surprise
        self.grid.update(values[:shown], text[:shown])
        self.curve.update(_smooth(surprise), torch.arange(len(text)) + 1)
        self.beyond.update(_smooth(surprise), torch.arange(len(text)) + 1)
        self.ax.set_xlim(0, max(len(text), 10))
        self.half.artist.set_visible(colour == FROZEN)
        self.half.update(len(text) // 2)
        self.title.set_text(self._summary(whole, surprise, right))

    def _summary(self, text: str, surprise: Tensor, right: Tensor) -> str:
        if not text:
            return "Nothing to read: type something above."
        of = f"{LONGEST:,} of " if len(text) > LONGEST else ""
        count = f"{of}{len(text):,} character{'s' * (len(text) != 1)}"
        if len(text) > COLUMNS * ROWS:
            count += f" ({COLUMNS * ROWS} shown)"
        text = text[:LONGEST]
        quarter = max(1, len(text) // 4)
        first, last = surprise[:quarter].mean(), surprise[-quarter:].mean()
        numbers = f"{first:.2f} (first quarter), {last:.2f} (last)"
        if self.model is not None:
            numbers = f"{first:.1f} bits (first quarter), {last:.1f} (last)"
        return f"{count}; surprise {numbers}; guessed right {right.float().mean():.0%}"

    def alt(self, text: str, theta: float, colour: str) -> str:
        """Describe the change of surprise from the first quarter to the last."""
        surprise, right = self.read(text[:LONGEST], theta, frozen=colour == FROZEN)
        step = f"θ = {theta:.2f}" if self.model is None else f"{self.unit} {theta:.2f}"
        cut = len(text) - LONGEST
        more = f"; the last {cut:,} characters were cut off and not read" if cut > 0 else ""
        lacking = sorted({c for c in text[: COLUMNS * ROWS] if c in self.grid.missing})
        if lacking:
            more += f"; □ stands for {len(lacking)} character{'s' * (len(lacking) > 1)} that no font here has"
        return f"A text coloured by {colour}, {step}: {self._summary(text, surprise, right)}{more}"


def _smooth(x: Tensor) -> Tensor:
    """Return the running mean (T,) of the last WINDOW numbers, of fewer at the start."""
    total = torch.cat([torch.zeros(1, dtype=torch.float64), x.double().cumsum(0)])
    ends = torch.arange(1, len(x) + 1)
    starts = (ends - WINDOW).clamp(min=0)
    return (total[ends] - total[starts]) / (ends - starts)
