"""Fonts for scripts that matplotlib's own font lacks: Chinese, Japanese, Korean, Arabic, emoji and the like."""

from __future__ import annotations

from functools import lru_cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

OURS = "DejaVu Sans"  # comes with matplotlib
OTHERS = (  # families that are common somewhere; the first that has a character draws it
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Heiti SC",
    "Apple SD Gothic Neo", "Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic", "IPAGothic",
    "NanumGothic", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Hebrew", "Noto Sans Thai", "Geeza Pro",
    "Noto Emoji", "Symbola", "Segoe UI Symbol", "Segoe UI Emoji", "Apple Symbols", "Arial Unicode MS", "Unifont",
)  # fmt: skip


@lru_cache(maxsize=1)
def families() -> list[str]:
    """Return our font's family and the installed ones of `OTHERS` that have outlines, in order of preference."""
    installed = {font.name for font in fontManager.ttflist}
    return [OURS, *(name for name in OTHERS if name in installed and _opened(name).scalable)]


@lru_cache(maxsize=1024)
def family_with(character: str, first: str = OURS) -> str | None:
    """Return the first family that can draw one character, from `first` on; None if no installed one can."""
    for name in (first, *families()):
        if _opened(name).get_char_index(ord(character)):
            return name
    return None


@lru_cache(maxsize=64)
def _opened(family: str):
    return get_font(findfont(FontProperties(family=[family])))
