"""Text without a download: the English and the code that ship with Python."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from typing import TypeVar

import torch
from torch import Tensor

Text = TypeVar("Text", str, Tensor)

TOPICS = ("truth", "while", "assert", "import", "with", "yield")  # prose in every Python since 3.10


def english(*topics: str) -> str:
    """Return English prose from Python's own help pages, one paragraph per line.

    Headings, grammar and code blocks are left out. Wording changes a little from one Python version to the next.

    Args:
        *topics: names of help topics, such as "truth", "while", "assert"; a few good ones by default.

    Raises:
        KeyError: for a topic that this Python does not have.
    """
    from pydoc_data.topics import topics as pages

    unknown = [topic for topic in topics if topic not in pages]
    if unknown:
        raise KeyError(f"got topic {unknown[0]!r}, expected one of {', '.join(sorted(pages))}")
    return "\n".join(_prose(pages[topic]) for topic in topics or TOPICS)


def _prose(page: str) -> str:
    """Keep the flush-left paragraphs of a page, without headings, lists of grammar and markup."""
    paragraphs = []
    for block in re.split(r"\n(?:[ \t]*\n)+", page.strip("\n")):
        lines = block.split("\n")
        heading = len(lines) > 1 and re.fullmatch(r"([*=\-~^'\"])\1{2,}", lines[1].strip())
        if heading or lines[0].startswith(" ") or lines[0].startswith((">>>", "*", "#", "[", "+", "|")):
            continue
        paragraph = " ".join(" ".join(line.split()) for line in lines)
        if "::=" not in paragraph and len(paragraph) > 20:
            plain = re.sub(r"``(.+?)``", r'"\1"', paragraph)  # newer Pythons mark code with backticks
            paragraphs.append(re.sub(r" \[\d+\]|\*", "", plain))
    return "\n".join(paragraphs)


def code(name: str = "bisect") -> str:
    """Return source code of the standard library.

    Args:
        name: a module such as "bisect", or one of its functions or classes such as "bisect:bisect_right".

    Raises:
        ValueError: when the module has no Python source, or no such function or class.
    """
    module_name, _, item = name.partition(":")
    try:
        source = inspect.getsource(importlib.import_module(module_name))
    except (ImportError, OSError, TypeError) as error:
        raise ValueError(f"got {name!r}, expected a module written in Python, such as 'bisect' or 'heapq'") from error
    if not item:
        return source
    for node in ast.parse(source).body:
        if getattr(node, "name", None) == item:
            return ast.get_source_segment(source, node)
    raise ValueError(f"got {name!r}, expected a function or class at the top level of {module_name}")


def to_bytes(text: str) -> Tensor:
    """Return the UTF-8 bytes of `text` as numbers 0 … 255: (T,) int64."""
    return torch.tensor(list(text.encode("utf-8")), dtype=torch.int64)


def vocabulary(text: str) -> str:
    """Return the distinct characters of `text`, sorted."""
    return "".join(sorted(set(text)))


def encode(text: str, vocabulary: str) -> Tensor:
    """Return the position of each character of `text` in `vocabulary`: (T,) int64.

    Raises:
        ValueError: for a character that is not in the vocabulary.
    """
    index = {character: i for i, character in enumerate(vocabulary)}
    unknown = next((character for character in text if character not in index), None)
    if unknown is not None:
        raise ValueError(
            f"got the character {unknown!r}, expected one of {vocabulary!r}: build it from all of your text"
        )
    return torch.tensor([index[character] for character in text], dtype=torch.int64)


def held_out(text: Text, share: float = 0.1) -> tuple[Text, Text]:
    """Split a text in two: a training part, and its end as the held-out part.

    One cut and no shuffling, so that the two parts are neighbours at one point only.

    Args:
        text: a string, or its ids (N,).
        share: of the held-out part.

    Raises:
        ValueError: if a part would be empty.
    """
    cut = len(text) - round(len(text) * share)
    if not 0 < cut < len(text):
        raise ValueError(f"held_out: got {len(text)} and share={share}, expected two parts that are not empty")
    return text[:cut], text[cut:]
