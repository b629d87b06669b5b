"""Rendering of checks, hints and solutions: a panel in a notebook, plain text elsewhere."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

# (stripe and sign, background); the text is always dark, so that the panel looks the same in a dark theme
RIGHT, WRONG, OPEN = ("#1C9066", "#EEF7F3"), ("#D65802", "#FDF3EC"), ("#6B6B6B", "#F4F4F4")
TEXT, QUIET = "#222222", "#5C5C5C"


@dataclass(frozen=True)
class Result:
    """The outcome of a check.

    Attributes:
        name: the exercise, "NN.M".
        title: its title.
        passed: whether all cases are right.
        message: the verified claim, or the diagnosis.
        attempted: False for a function that still returns nothing.
        effort: difficulty, minutes and points in words.
    """

    name: str
    title: str
    passed: bool
    message: str
    attempted: bool = True
    effort: str = ""

    @property
    def mark(self) -> str:
        """Return ✓ for passed, ✗ for not passed, ○ for not attempted."""
        return "✓" if self.passed else "✗" if self.attempted else "○"

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        effort = f" ({self.effort})" if self.effort else ""
        return f"{self.mark} {self.name} {self.title}{effort}\n  {self.message}"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        stripe, background = RIGHT if self.passed else WRONG if self.attempted else OPEN
        effort = f' <span style="color:{QUIET}">{html.escape(self.effort)}</span>' if self.effort else ""
        return (
            f'<div style="border-left:5px solid {stripe};background:{background};color:{TEXT};padding:8px 14px;'
            'margin:4px 0;max-width:690px;border-radius:3px;font-size:14px;line-height:1.5">'
            f'<b><span style="color:{stripe}">{self.mark}</span> {html.escape(self.name)} · '
            f"{html.escape(self.title)}</b>{effort}<br>{_code(self.message)}</div>"
        )


@dataclass(frozen=True)
class Note:
    """Markdown in a notebook, plain text elsewhere."""

    markdown: str

    def __repr__(self) -> str:
        return re.sub(r"\*\*(.+?)\*\*|(?<!\*)\*([^*\n]+)\*$", r"\1\2", self.markdown, flags=re.M)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/markdown": self.markdown, "text/plain": repr(self)}


def _code(message: str) -> str:
    """Escape for HTML and turn `backticks` into code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(message))
