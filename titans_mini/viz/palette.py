"""One colour per concept, the same in equations, comments, figures and widgets.

The nine concept colours were checked in CIELAB: under simulated protanopia, deuteranopia and tritanopia
(Machado et al., 2009) every pair stays at least 20 units apart, without it at least 30. They also differ in
lightness, so that a grey print still tells the main ones apart. Text is always `INK`; the colours are for marks.
The two halves of `SIGNED` are alike in grey: where a cell's sign matters, write `signed_text` into it.
"""

from __future__ import annotations

import html

import numpy as np
from matplotlib.colors import Normalize, to_rgb

MEMORY = "#1F52B0"  # M, the memory itself
SURPRISE = "#D65802"  # momentary surprise: the gradient, the loss before a write
MOMENTUM = "#E6AA00"  # S, past surprise, η
KEY = "#1C9066"  # k
VALUE = "#B4559C"  # v
QUERY = "#45BAEE"  # q
FORGET = "#33285A"  # α
DIVERGED = "#6E0B1B"  # inf, NaN, warnings
TRAINED = "#7FAC52"  # parameters of the outer loop, frozen at test time
INK = "#222222"  # text and axes
MUTED = "#6B6B6B"  # captions, secondary text, baselines
GRID = "#DDDDDD"  # grid lines, cell borders
PAPER = "#FFFFFF"

# the same concepts on a dark page, where a heatmap keeps its colours; INK, PAPER and greys change places
DARK_PAPER, DARK_INK = "#111111", "#E6E6E6"
DARK = {MEMORY: "#145BE7", FORGET: "#9B6ECA", DIVERGED: "#C70D31", PAPER: DARK_PAPER, INK: DARK_INK, GRID: "#444444"}
DARK |= {MUTED: "#A3A3A3"}

CONCEPTS = {
    "memory": MEMORY,
    "surprise": SURPRISE,
    "momentum": MOMENTUM,
    "key": KEY,
    "value": VALUE,
    "query": QUERY,
    "forget": FORGET,
    "diverged": DIVERGED,
    "trained": TRAINED,
}

MAGNITUDE = "cividis"  # colour map for magnitudes, 0 is dark
SIGNED = "PuOr"  # colour map for signed weights, always with `signed_norm`


def signed_norm(x, limit: float | None = None) -> Normalize:
    """Return a colour norm symmetric about 0, so that white means 0.

    Args:
        x: numbers of any shape; inf and NaN are ignored.
        limit: the largest magnitude shown; by default the largest in `x`.
    """
    if limit is None:
        numbers = np.abs(np.asarray(x, dtype=float))
        finite = numbers[np.isfinite(numbers)]
        limit = float(finite.max()) if finite.size else 0.0
    limit = limit or 1.0
    return Normalize(-limit, limit)


def signed_text(number: float, digits: int | None = 2) -> str:
    """Write a number with its sign, "+0.63" or "−0.63", so that a grey print keeps the sign; about 0 is empty.

    Args:
        number: a number, perhaps not finite.
        digits: digits after the point; None writes the sign alone.
    """
    if np.isnan(number):
        return "NaN"
    size = "∞" if np.isinf(number) else f"{abs(number):.{2 if digits is None else digits}f}"
    if not size.strip("0."):
        return ""
    return ("+" if number > 0 else "−") + (size if digits is not None else "")


def luminance(colour) -> np.ndarray:
    """Return the relative luminance (WCAG) of RGB colours (..., 3 or 4) in [0, 1], or of a colour's name."""
    rgb = np.asarray(to_rgb(colour) if isinstance(colour, str) else colour, dtype=float)[..., :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def ink_on(colour) -> np.ndarray:
    """Return black or white, whichever has more contrast on `colour`: (..., 3) in [0, 1]."""
    light = luminance(colour)[..., None]
    dark_ink, light_ink = np.array(to_rgb(INK)), np.ones(3)
    contrast_dark = (light + 0.05) / (luminance(dark_ink) + 0.05)
    contrast_light = 1.05 / (light + 0.05)
    return np.where(contrast_dark >= contrast_light, dark_ink, light_ink)


def style() -> dict:
    """Return the matplotlib settings of every figure; used as a context, never set globally."""
    from titans_mini.viz.fonts import families

    return {
        "font.family": families(),
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.labelsize": 9.5,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.facecolor": PAPER,
        "axes.prop_cycle": _cycle(),
        "text.color": INK,
        "text.usetex": False,
        "mathtext.fontset": "dejavusans",
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.8,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "figure.facecolor": PAPER,
        "image.interpolation": "nearest",
    }


def _cycle():
    from cycler import cycler

    return cycler(color=[colour for name, colour in CONCEPTS.items() if name != "trained"])  # as in stored figures


class _Swatches:
    """The palette as a line of coloured chips, for a notebook."""

    def __init__(self, concepts: dict[str, str]):
        self.concepts = concepts

    def __repr__(self) -> str:
        return " · ".join(f"{name} {colour}" for name, colour in self.concepts.items())

    def _repr_html_(self) -> str:
        chip = (
            '<span style="display:inline-block;margin:2px 12px 2px 0">'
            '<span style="display:inline-block;width:1em;height:1em;border-radius:3px;vertical-align:-2px;'
            'background:{colour}">&#8203;</span>&nbsp;{name}</span>'
        )
        return "".join(chip.format(colour=c, name=html.escape(n)) for n, c in self.concepts.items())


def swatches(*names: str) -> _Swatches:
    """Show the colours of the named concepts (default: all), as HTML in a notebook and as text elsewhere."""
    unknown = [name for name in names if name not in CONCEPTS]
    if unknown:
        raise ValueError(f"got {unknown[0]!r}, expected one of {', '.join(CONCEPTS)}: an unknown concept has no colour")
    return _Swatches({name: CONCEPTS[name] for name in names or CONCEPTS})
