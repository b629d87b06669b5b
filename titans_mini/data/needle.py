"""A needle in a haystack in RULER's format: prompt, samples, parser and score.

The prompt's sentences are those of NVIDIA/RULER (Apache-2.0), task `niah` with one key, one value and one question, in
the singular form that RULER uses in this case. Samples are made by `titans_mini.data.ruler`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
PROMPT = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "{kind} afterwards.\n{context}\nWhat is the special magic {kind} for {key} mentioned in the provided text?"
)
ANSWER_PREFIX = " The special magic {kind} for {key} mentioned in the provided text is"
KINDS = ("number", "uuid", "word")


@dataclass(frozen=True)
class NeedleTask:
    """Kinds of haystack, value and key.

    Attributes:
        haystack: "noise", one sentence over and over, or "essay", running prose.
        value: kind of the value to remember: "number" (7 digits), "uuid" or "word".
        key: kind of its key.

    Raises:
        ValueError: for an unknown haystack or kind.
    """

    haystack: str
    value: str
    key: str = "word"

    def __post_init__(self) -> None:
        """Raise for an unknown haystack or kind."""
        if self.haystack not in ("noise", "essay"):
            raise ValueError(f"haystack: got {self.haystack!r}, expected 'noise' or 'essay'")
        for kind in (self.value, self.key):
            if kind not in KINDS:
                raise ValueError(f"kind of needle: got {kind!r}, expected one of {', '.join(KINDS)}")


RULER_TASKS = {  # ⚠ the paper's S-NIAH-PK, -N, -W: we read them as these three; RULER itself calls the last one uuids
    "niah_single_1": NeedleTask("noise", "number"),
    "niah_single_2": NeedleTask("essay", "number"),
    "niah_single_3": NeedleTask("essay", "uuid"),
}


@dataclass(frozen=True)
class NeedleSample:
    """One prompt with its answer.

    Attributes:
        input: the prompt, up to the question mark.
        answer_prefix: beginning of the answer; a model continues ``input + answer_prefix``.
        key, value: of the needle; the value is the answer.
        size: units of noise, or words of the essay, in the haystack.
        length: tokens of ``input + answer_prefix`` and the tokens reserved for the answer.
        index: characters of `input` before the value.
        token_position_answer: tokens of `input` before the value.
    """

    input: str
    answer_prefix: str
    key: str
    value: str
    size: int
    length: int
    index: int
    token_position_answer: int

    @property
    def depth(self) -> float:
        """Return the relative position of the needle: 0 at the beginning of the prompt, 1 at its end."""
        return self.index / len(self.input)

    def as_ruler(self) -> dict[str, object]:
        """Return the record that RULER's current code writes as one line of JSON."""
        return {
            "index": self.index,
            "input": self.input,
            "outputs": [self.value],
            "length": self.length,
            "length_w_model_temp": self.length,
            "answer_prefix": self.answer_prefix,
            "token_position_answer": self.token_position_answer,
        }


_NEEDLE = re.compile(r"One of the special magic (number|uuid|word)s for (.+?) is: (.+?)\.(?=\s)")


def parse_needle(text: str) -> tuple[NeedleTask, str, str, str]:
    """Parse a prompt in RULER's format.

    Args:
        text: an `input`, with or without the answer prefix after it.

    Returns:
        (task, key, value, context): the context verbatim, needle included.

    Raises:
        ValueError: when it is not such a prompt, or does not hold exactly one needle.
    """
    found = _NEEDLE.findall(text)
    if len(found) != 1:
        raise ValueError(f"got {len(found)} needles, expected one sentence 'One of the special magic … for … is: ….'")
    kind, key, value = found[0]
    before, after = PROMPT.format(kind=kind, key=key, context="\0").split("\0")
    end = text.rfind(after)
    rest = text[end + len(after) :].rstrip()
    if not text.startswith(before) or end < 0 or rest not in ("", ANSWER_PREFIX.format(kind=kind, key=key)):
        raise ValueError(f"got a prompt that starts {text[:40]!r}, expected RULER's words around the haystack")
    context = text[len(before) : end]
    return NeedleTask("noise" if NOISE in context else "essay", kind, _kind(key)), key, value, context


def _kind(name: str) -> str:
    if re.fullmatch(r"\d{7}", name):
        return "number"
    return "uuid" if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) else "word"


def string_match_all(predictions: Iterable[str], references: Iterable[Sequence[str]]) -> float:
    """Compute RULER's score: the mean share of references contained in each prediction, ignoring case, in %.

    Args:
        predictions: the model's answers, one per sample.
        references: the correct answers of each sample.

    Returns:
        0 … 100, rounded to two digits.

    Raises:
        ValueError: when the two differ in number, or are empty.
    """
    pairs = list(zip(predictions, references, strict=True))
    if not pairs:
        raise ValueError("string_match_all: got no predictions, expected at least one")
    shares = [sum(ref.lower() in text.lower() for ref in refs) / len(refs) for text, refs in pairs]
    return round(100 * sum(shares) / len(shares), 2)
