"""The drawing grammar of the lessons: boxes and arrows, a stamp, a marble in a bowl, a projection, a strip of frames.

Colour is never alone. A box that learns at test time is round and one that was trained is square; a state flows along
a solid arrow and a gradient along a dashed one; a signed cell carries its sign. A grey print says the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import is_color_like, to_rgb
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke

from titans_mini.viz.draw.arrays import as_array
from titans_mini.viz.palette import (
    DIVERGED,
    FORGET,
    GRID,
    INK,
    KEY,
    MEMORY,
    MOMENTUM,
    MUTED,
    PAPER,
    SIGNED,
    SURPRISE,
    TRAINED,
    VALUE,
    ink_on,
    signed_norm,
    signed_text,
)

SMALL, TEXT = 8.5, 9.5  # points
ROLES = {  # of a box: its colour, and the shape that a grey print keeps
    "learns": (MEMORY, {"boxstyle": "round,pad=0,rounding_size=0.14", "linewidth": 2.2}),
    "trained": (TRAINED, {"boxstyle": "square,pad=0", "linewidth": 2.2}),
    "data": (MUTED, {"facecolor": PAPER, "linewidth": 1.0}),
}
KINDS = {  # of an arrow
    "plain": (MUTED, {}),
    "state": (MEMORY, {"linewidth": 2.4, "mutation_scale": 15}),
    "gradient": (SURPRISE, {"linewidth": 1.7, "linestyle": (0, (4, 2)), "mutation_scale": 13}),
}
PUSHES = {"θ": SURPRISE, "η": MOMENTUM, "α": FORGET}  # of a marble
SOFT = 1.6  # colour scale over largest number: dark cells hide the hue


def tint(colour: str, amount: float = 0.14) -> tuple[float, ...]:
    """Mix `amount` of a colour with white, for the inside of a box."""
    return tuple(1 - amount * (1 - np.array(to_rgb(colour))))


def page_ink(ax) -> tuple[float, ...]:
    """Return the colour of text that stands on the page: dark on a light figure, light on a dark one."""
    return tuple(ink_on(np.array(to_rgb(ax.figure.get_facecolor()))))


def page_mark(ax, colour: str):
    """Return the colour for a line on the page: itself on a light figure, paler on a dark one."""
    return tint(colour, 0.55) if page_ink(ax) == (1, 1, 1) else colour


def canvas(ax, width: float, height: float) -> None:
    """Turn axes into an empty sheet of width × height inches, with x to the right and y up."""
    ax.set_axis_off()
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")


def _check_colour(colour, otherwise: str) -> None:
    """Raise unless this is a colour: a mistyped role or kind would end deep inside matplotlib."""
    if not is_color_like(colour):
        raise ValueError(f"got colour={colour!r}, expected a colour of the palette, or {otherwise}")


def box(ax, x: float, y: float, width: float, height: float, colour: str, title: str, text: str = "", **options):
    """Draw a rounded box about (x, y) in inches, a bold title above a second line of text.

    Args:
        ax: Axes of a `canvas`.
        x: centre.
        y: centre.
        width: inches.
        height: inches.
        colour: a colour of the palette, or a role: "learns" (at test time), "trained" (before), "data" (in or out).
        title: bold first line.
        text: second line.
        **options: further arguments of `FancyBboxPatch`.

    Returns:
        FancyBboxPatch: the outline.
    """
    colour, shape = ROLES.get(colour, (colour, {}))
    _check_colour(colour, f"a role: {', '.join(ROLES)}")
    style = {"facecolor": tint(colour), "edgecolor": colour, "linewidth": 1.4}
    style = style | {"boxstyle": "round,pad=0,rounding_size=0.07"} | shape | options
    patch = ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, **style))
    ink = style.get("edgecolor") if style["facecolor"] == "none" else INK
    shift = height * 0.2 if text else 0
    ax.text(x, y + shift, title, ha="center", va="center", fontsize=9, fontweight="bold", color=ink)
    ax.text(x, y - shift, text, ha="center", va="center", fontsize=9, color=ink)
    return patch


def arrow(
    ax, start: tuple[float, float], end: tuple[float, float], colour: str | None = None, *,
    kind: str = "plain", bend: float = 0.0, label: str = "",
):  # fmt: skip
    """Draw an arrow from start to end, straight or bent.

    Args:
        ax: Axes to draw on.
        start: (x, y) of the tail.
        end: (x, y) of the head.
        colour: a colour of the palette instead of the kind's.
        kind: "plain", "state" (solid and strong) or "gradient" (dashed).
        bend: height of the arc as a share of the length; positive bends to the right as you walk from start to end,
            so an arrow that points left bends up.
        label: a few words on the middle of the arrow, which they cover: leave 0.3 inches of arrow on both sides.

    Returns:
        Annotation: the arrow.
    """
    if kind not in KINDS:
        raise ValueError(f"got kind={kind!r}, expected one of {', '.join(KINDS)}")
    if colour is not None:
        _check_colour(colour, f"kind= one of {', '.join(KINDS)}")
    colour = page_mark(ax, colour or KINDS[kind][0])
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 0} | KINDS[kind][1]
    if bend:
        style["connectionstyle"] = f"arc3,rad={2 * bend}"
    if label:
        (x0, y0), (x1, y1) = start, end
        middle = (x0 + x1) / 2 + bend * (y1 - y0), (y0 + y1) / 2 - bend * (x1 - x0)
        page = {"facecolor": ax.figure.get_facecolor(), "edgecolor": "none", "pad": 1.2}
        ax.text(*middle, label, ha="center", va="center", fontsize=SMALL, color=page_ink(ax), bbox=page, zorder=4)
    return ax.annotate("", end, start, arrowprops=style)


class Cells:
    """Drawn cells; `update(numbers)` shows another matrix of the same shape on the same colour scale."""

    def __init__(self, patches, texts, norm, digits):
        self.patches, self.texts, self.norm, self.digits = patches, texts, norm, digits

    def update(self, numbers) -> None:
        """Show numbers (rows, columns)."""
        values = as_array(numbers)
        if values.shape != self.patches.shape:
            raise ValueError(f"got numbers of shape {values.shape}, expected {self.patches.shape}: cells keep theirs")
        for place, value in np.ndenumerate(values):
            text = signed_text(value if self.digits is not None else value / self.norm.vmax, self.digits)
            face = matplotlib.colormaps[SIGNED](self.norm(value))[:3] if text else to_rgb(PAPER)
            face = face if np.isfinite(value) else to_rgb(DIVERGED)
            self.patches[place].set_facecolor(face)
            self.texts[place].set(text=text, color=tuple(ink_on(np.array(face))))


def cells(ax, numbers, x: float, y: float, *, limit=None, edge=MUTED, digits=2, cell=(0.5, 0.36)) -> Cells:
    """Draw a signed matrix as cells: PuOr about 0, with the number or at least its sign in each cell.

    Args:
        ax: Axes of a `canvas`.
        numbers: (rows, columns).
        x: left edge.
        y: upper edge; rows go down.
        limit: the largest magnitude of the colour scale; by default 1.6 times the largest in `numbers`.
        edge: colour of the frame, the concept that the matrix stands for.
        digits: digits after the point; None for small cells, which then hold only + or −.
        cell: width and height of one cell.
    """
    values = as_array(numbers)
    if values.ndim != 2:
        raise ValueError(f"got numbers of shape {values.shape}, expected (rows, columns)")
    (rows, columns), (w, h) = values.shape, cell
    patches, texts = np.empty(values.shape, object), np.empty(values.shape, object)
    style = {"fontsize": SMALL} if digits is not None else {"fontsize": 50 * min(cell), "fontweight": "bold"}
    for i, j in np.ndindex(values.shape):
        corner = x + j * w, y - (i + 1) * h
        patches[i, j] = ax.add_patch(Rectangle(corner, w, h, edgecolor=GRID, linewidth=0.8))
        texts[i, j] = ax.text(corner[0] + w / 2, corner[1] + h / 2, "", ha="center", va="center_baseline", **style)
    ax.add_patch(Rectangle((x, y - rows * h), columns * w, rows * h, fill=False, edgecolor=edge, linewidth=2.2))
    handle = Cells(patches, texts, signed_norm(values, limit or SOFT * signed_norm(values).vmax), digits)
    handle.update(values)
    return handle


class Stamp:
    """A drawn outer product; `update(rows, columns)` prints another."""

    def __init__(self, parts):
        self.parts = parts  # Cells of the column vector, of the row vector and of their product

    def update(self, rows, columns) -> None:
        """Show another column vector (D,) and row vector (E,)."""
        rows, columns = as_array(rows), as_array(columns)
        for part, numbers in zip(self.parts, (rows[:, None], columns[None], np.outer(rows, columns)), strict=True):
            part.update(numbers)


def stamp(
    ax, rows, columns, x: float, y: float, *, names=("key", "correction"), edges=(KEY, SURPRISE, SURPRISE), limit=None,
    digits=2, cell=(0.5, 0.36), gap=0.14,
) -> Stamp:  # fmt: skip
    """Draw an outer product as a stamp: a column vector, a row vector above it, and the matrix that they print.

    Args:
        ax: Axes of a `canvas`.
        rows: (D,) the column vector, at the left.
        columns: (E,) the row vector, at the top.
        x: left edge of the matrix; the column vector and its name take `cell[0] + gap` and more to the left.
        y: upper edge of the matrix; the row vector takes `cell[1] + gap` above it.
        names: words for the two vectors.
        edges: colours of the frames of column, row and matrix.
        limit: the largest magnitude of the one colour scale; by default 1.6 times the largest number.
        digits: digits after the point; None writes signs alone.
        cell: width and height of one cell.
        gap: between vectors and matrix.

    Returns:
        Stamp: a handle with `.update(rows, columns)`.
    """
    rows, columns = as_array(rows), as_array(columns)
    if rows.ndim != 1 or columns.ndim != 1:
        raise ValueError(f"got rows of shape {rows.shape} and columns of shape {columns.shape}, expected (D,) and (E,)")
    ink, (w, h) = np.outer(rows, columns), cell
    if limit is None:
        limit = SOFT * signed_norm(np.concatenate([rows, columns, ink.ravel()])).vmax
    style = {"limit": limit, "digits": digits, "cell": cell}
    parts = (
        cells(ax, rows[:, None], x - gap - w, y, edge=edges[0], **style),
        cells(ax, columns[None], x, y + gap + h, edge=edges[1], **style),
        cells(ax, ink, x, y, edge=edges[2], **style),
    )
    word = {"fontsize": TEXT, "color": page_ink(ax)}
    ax.text(x - gap - w / 2, y - len(rows) * h - 0.08, names[0], ha="center", va="top", **word)
    ax.text(x - gap, y + gap + h / 2, names[1], ha="right", va="center", **word)
    return Stamp(parts)


class Bowl:
    """A drawn bowl; `update(position, trail, pushes)` moves the marble."""

    def __init__(self, ax, height, target, reach, marble, dots):
        self.ax, self.height, self.target, self.reach = ax, height, target, reach
        self.marble, self.dots, self.arrows = marble, dots, []

    def _on(self, x):
        """Return (x, height), with x kept between the rims: a marble that left the bowl is drawn on a rim."""
        rims = self.target - self.reach, self.target + self.reach
        x = np.clip(np.nan_to_num(as_array(x), nan=rims[1]), *rims)
        return x, self.height(x)

    def update(self, position: float, trail: Sequence[float] = (), pushes: Mapping[str, float] | None = None) -> None:
        """Put the marble at `position`, with earlier positions `trail` and the `pushes` it gets now."""
        for artist in self.arrows:
            artist.remove()
        self.arrows = []
        pushes = pushes or {}
        if unknown := set(pushes) - set(PUSHES):
            raise ValueError(f"got pushes {sorted(unknown)}, expected names among {', '.join(PUSHES)}")
        self.dots.set_data(*self._on([*trail, position] if len(trail) else []))
        x, y = (float(c) for c in self._on(position))
        inside = abs(position - self.target) <= self.reach
        self.marble.set_data([x], [y])
        self.marble.set(color=MEMORY if inside else DIVERGED, marker="o" if inside else "X", markeredgecolor=PAPER)
        top = float(self.height(self.target + self.reach))
        lift = 0.15 * top
        level = min(y + 0.05 * top, 1.25 * top - lift * len(pushes))
        page = [withStroke(linewidth=3, foreground=self.ax.figure.get_facecolor())]
        for name, push in pushes.items():
            level, end = level + lift, x + push
            style = {"color": page_mark(self.ax, PUSHES[name]), "linewidth": 1.8, "mutation_scale": 9}
            style |= {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "path_effects": page}
            self.arrows.append(self.ax.annotate("", (end, level), (x, level), arrowprops=style))
            right = 1 if push >= 0 else -1
            place = {"xytext": (4 * right, 0), "textcoords": "offset points", "va": "center", "path_effects": page}
            place |= {"ha": "left" if push >= 0 else "right", "fontsize": TEXT, "color": page_ink(self.ax)}
            self.arrows.append(self.ax.annotate(name, (end, level), **place))
            x = end


def bowl(
    ax, position: float, *, trail: Sequence[float] = (), pushes: Mapping[str, float] | None = None, target: float = 0.0,
    curvature: float = 1.0, reach: float = 2.0, label: str = "",
) -> Bowl:  # fmt: skip
    """Draw the loss of one pair as a bowl and the memory as a marble in it.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        position: where the marble is; beyond the rim, or not finite, it is a dark red cross on the rim.
        trail: earlier positions, oldest first.
        pushes: lengths of the arrows from the marble, head to tail: "θ" new push, "η" kept push, "α" pull towards 0.
        target: bottom of the bowl, the right answer; if it is not 0, a dark diamond shows where 0 is.
        curvature: steepness.
        reach: distance from the bottom to the rim.
        label: words below the bottom.

    Returns:
        Bowl: a handle with `.update(position, trail, pushes)`.
    """

    def height(x):
        return curvature * (as_array(x) - target) ** 2 / 2

    ax.set_axis_off()
    wall, top = target + np.linspace(-1, 1, 201) * reach, float(height(target + reach))
    ax.plot(wall, height(wall), color=page_mark(ax, MUTED), linewidth=2)
    ax.text(target, -0.12 * top, label, ha="center", va="top", fontsize=SMALL, color=page_ink(ax))
    if 0 < abs(target) < reach:  # α pulls there
        ax.plot([0], height([0]), "D", color=FORGET, markersize=5, markeredgecolor=PAPER, markeredgewidth=0.8, zorder=4)
        place = {"xytext": (-9 * np.sign(target), -5), "textcoords": "offset points", "ha": "center", "va": "center"}
        ax.annotate("0", (0, float(height(0))), fontsize=SMALL, color=page_ink(ax), **place)
    (dots,) = ax.plot([], [], "o-", color=page_mark(ax, MEMORY), markerfacecolor=PAPER, markersize=4.5, linewidth=0.9)
    (marble,) = ax.plot([], [], "o", markersize=12, markeredgewidth=1.2, zorder=5)
    ax.set(xlim=(target - 1.15 * reach, target + 1.15 * reach), ylim=(-0.35 * top, 1.35 * top))
    handle = Bowl(ax, height, target, reach, marble, dots)
    handle.update(position, trail, pushes)
    return handle


class Projection:
    """A drawn delta step; `update(memory, target, step)` takes another."""

    def __init__(self, key, artists):
        self.key, self.artists = key, artists

    def update(self, memory, target: float, step: float = 1.0) -> None:
        """Correct `memory` (2,) along the key by the share `step` of its error."""
        memory, key = as_array(memory), self.key / np.linalg.norm(self.key)
        goal = target / np.linalg.norm(self.key)
        new, across = memory + step * (goal - memory @ key) * key, np.array([-key[1], key[0]])
        old, right, line = (memory @ key) * key, goal * key, goal * key + 9 * np.outer([-1, 1], across)
        points = {"answer": [old], "target": [right], "old": [memory], "new": [new]}
        for name, where in (points | {"drop": [memory, old], "line": line}).items():
            self.artists[name].set_data(*np.transpose(where))
        self.artists["correction"].xy = tuple(new)
        self.artists["correction"].set_position(tuple(memory))
        away = across * (1 if (memory - old) @ across >= 0 else -1)  # from the key towards the memory
        ahead = key if step * (goal - memory @ key) >= 0 else -key
        names = {"M": (memory, -1.3 * ahead), "M′": (new, 1.4 * ahead), "k": ((0, 0), away)}
        names |= {"kM": (old, -away - ahead), "v": (right, ahead - away), "label": ((memory + new) / 2, 1.3 * away)}
        for name, (where, side) in names.items():
            self.artists[name].xy = tuple(where)
            self.artists[name].set_position(tuple(11 * side))
        self.artists["label"].set_ha("left" if away[0] > 0.5 else "right" if away[0] < -0.5 else "center")


def projection(ax, key, memory, target: float, step: float = 1.0, *, reach: float = 1.6, label: str = "") -> Projection:
    """Draw one delta step in the plane of two weights: the correction runs along the key until the answer is right.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        key: (2,) the key k, a direction.
        memory: (2,) the memory M before the step; its answer is its shadow kM on the key.
        target: the right answer v; every memory on the dashed line gives it.
        step: share of the error that the step corrects.
        reach: limits of both axes.
        label: words beside the correction.

    Returns:
        Projection: a handle with `.update(memory, target, step)`.
    """
    key, ink = as_array(key), page_ink(ax)
    unit = key / np.linalg.norm(key)
    ax.set_axis_off()
    ax.set(xlim=(-0.25 * reach, reach), ylim=(-0.25 * reach, reach), aspect="equal")
    green, blue, pink, orange = (page_mark(ax, colour) for colour in (KEY, MEMORY, VALUE, SURPRISE))
    ax.plot(*np.outer(unit, [-9, 9]), color=green, linewidth=0.9)
    tip = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", tuple(key), (0, 0), arrowprops=tip | {"color": green, "linewidth": 2.0})
    looks = {
        "drop": {"color": blue, "linewidth": 1.2, "linestyle": ":"},
        "line": {"color": pink, "linewidth": 1.4, "linestyle": "--"},
        "answer": {"color": blue, "marker": "s", "markersize": 6},
        "target": {"color": pink, "marker": "D", "markersize": 7},
        "old": {"color": blue, "marker": "o", "markersize": 9, "markerfacecolor": PAPER, "markeredgewidth": 1.8},
        "new": {"color": blue, "marker": "o", "markersize": 9},
    }
    artists = {name: ax.plot([], [], zorder=3, **look)[0] for name, look in looks.items()}
    style = tip | {"color": orange, "linewidth": 2.6, "shrinkA": 5, "shrinkB": 5}
    artists["correction"] = ax.annotate("", (0, 0), (0, 0), arrowprops=style)
    middle = {"ha": "center", "va": "center", "color": ink, "textcoords": "offset points"}
    middle["path_effects"] = [withStroke(linewidth=3, foreground=ax.figure.get_facecolor())]
    for name in ("M", "M′", "kM", "v", "k"):
        artists[name] = ax.annotate(name, (0, 0), (0, 0), fontsize=TEXT, **middle)
    artists["label"] = ax.annotate(label, (0, 0), (0, 0), fontsize=SMALL, **middle)
    handle = Projection(key, artists)
    handle.update(memory, target, step)
    return handle


def strip(axes, frames: Sequence, draw: Callable, titles: Sequence[str] = ()) -> list:
    """Draw the frames of an animation side by side, with equal limits.

    Args:
        axes: one Axes per frame.
        frames: one argument per frame, or a dict of arguments.
        draw: called as `draw(ax, frame)`, or `draw(ax, **frame)`.
        titles: words above the frames.

    Returns:
        list: the handles that `draw` returned.
    """
    axes = list(np.ravel(axes))
    if len(axes) != len(frames):
        raise ValueError(f"got {len(axes)} axes for {len(frames)} frames, expected one each")
    handles = [draw(ax, **f) if isinstance(f, Mapping) else draw(ax, f) for ax, f in zip(axes, frames, strict=True)]
    x, y = (np.array([get() for get in gets]) for gets in zip(*((a.get_xlim, a.get_ylim) for a in axes), strict=True))
    for i, ax in enumerate(axes):
        ax.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
        if titles:
            ax.set_title(titles[i], fontsize=TEXT, color=page_ink(ax))
    return handles
