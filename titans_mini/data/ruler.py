"""Needles in haystacks as RULER makes them: the same seed, tokenizer and words give the same bytes as its own code.

Insertion rule, length search and the order of random draws follow NVIDIA/RULER (Apache-2.0).
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from itertools import cycle, islice

from titans_mini.data.needle import ANSWER_PREFIX, NEEDLE, NOISE, PROMPT, RULER_TASKS, NeedleSample, NeedleTask
from titans_mini.data.text import english
from titans_mini.data.tokens import BYTES, split_sentences
from titans_mini.data.words import ruler_words

DEPTHS = tuple(round(i * 100 / 39) for i in range(40))  # % of an essay's sentences before the needle
TRIES = 100  # RULER tries forever; keys differ in length, so a tight budget may fit at a later try


def needles(
    task: str | NeedleTask = "niah_single_1",
    length: int = 4096,
    *,
    seed: int = 42,
    count: Callable[[str], int] = BYTES,
    essay: str | None = None,
    words: Sequence[str] | None = None,
    sentences: Callable[[str], list[str]] = split_sentences,
    reserve: int = 128,
    search: str = "binary",
) -> Iterator[NeedleSample]:
    """Yield endless samples, each as long as the token budget allows and never longer.

    RULER publishes 500 samples per task from seed 42; its shards use the seeds 43, 44, … With `count=gpt2()` and, for
    essays, its text and `sentences=nltk.sent_tokenize`, every byte agrees with RULER's output.

    Args:
        task: a name in `RULER_TASKS`, or a `NeedleTask` of your own.
        length: budget in tokens, for the prompt, the answer prefix and the answer.
        seed: of all random draws.
        count: function that counts a text's tokens; bytes by default, `gpt2()` for GPT-2's.
        essay: the text of an essay haystack, repeated if it is short; by default Python's help pages.
            ⚠ RULER uses essays of Paul Graham, which may not be redistributed.
        words: keys to choose from; by default RULER's six million.
        sentences: function that splits the essay; the needle goes between two sentences. ⚠ RULER uses NLTK's.
        reserve: tokens kept free for the answer.
        search: search for the largest haystack: "binary", or "linear" as in RULER's code of 2024, which does not
            repeat a short essay.

    Raises:
        KeyError: for an unknown task.
        ValueError: for another `search`, an empty essay, or (at the first sample) a budget that holds no haystack.
        ImportError: when the default words are not installed.
    """
    if isinstance(task, str) and task not in RULER_TASKS:
        raise KeyError(f"got the task {task!r}, expected one of {', '.join(RULER_TASKS)} or a NeedleTask")
    if search not in ("binary", "linear"):
        raise ValueError(f"search: got {search!r}, expected 'binary' or 'linear'")
    task = RULER_TASKS[task] if isinstance(task, str) else task
    if words is None:
        words = ruler_words() if "word" in (task.key, task.value) else ()
    parts = _words_of(english() if essay is None else essay) if task.haystack == "essay" else []
    split = lru_cache(maxsize=2)(lambda size: sentences(" ".join(islice(cycle(parts), size)).strip()))
    step = 500 if task.haystack == "essay" else 25 if length >= 4096 else 5
    cap = len(parts) if task.haystack == "essay" and search == "linear" else None
    sampler = _Sampler(task, random.Random(seed), words, split, count, length, reserve, step, cap)
    return sampler.samples(sampler.binary if search == "binary" else sampler.linear)


def _words_of(essay: str) -> list[str]:
    if not essay.strip():
        raise ValueError("essay: got an empty text, expected some prose for the haystack")
    return re.sub(r"\s+", " ", essay).split(" ")  # not split(): RULER counts the empty string before a leading space


@dataclass(frozen=True)
class _Draft:
    """A prompt that may still be too long; its fields are the first of `NeedleSample`."""

    input: str
    answer_prefix: str
    key: str
    value: str
    size: int

    @property
    def prompt(self) -> str:
        return self.input + self.answer_prefix


@dataclass(frozen=True)
class _Sampler:
    """Draws drafts in RULER's order (key, value, place, queried key) and yields those that fit the budget."""

    task: NeedleTask
    rng: random.Random
    words: Sequence[str]
    split: Callable[[int], list[str]]  # number of words ↦ the essay's first words, as sentences
    count: Callable[[str], int]
    length: int
    reserve: int
    step: int
    cap: int | None  # words of an essay that is not repeated; else None

    def samples(self, search: Callable[[], int]) -> Iterator[NeedleSample]:
        """Search for the size once, then yield samples that fit."""
        size = search()
        while True:
            draft, tokens = self.fit(size)
            index = draft.input.find(draft.value)
            before = self.count(draft.input[:index])
            yield NeedleSample(*astuple(draft), tokens + self.reserve, index, before)

    def binary(self) -> int:
        """Return the largest size that fits; each probe draws a new needle, as in RULER."""
        per_unit = self.count(self.draft(self.step).prompt) / self.step
        low, high, best = self.step, max(int(self.length / per_unit * 3), self.step * 2), self.step
        while low <= high:
            middle = (low + high) // 2
            if self.count(self.draft(middle).prompt) <= self.length - self.reserve:
                best, low = middle, middle + 1
            else:
                high = middle - 1
        return best

    def linear(self) -> int:
        """Increase the size by steps until the prompt with its answer is too long."""
        room, size, tokens = self.length - self.reserve, self.step, 0
        while tokens < room:
            draft = self.draft(size)
            tokens = self.count(draft.prompt + draft.value)
            if tokens > room:
                return size - self.step
            if self.cap is not None and size > self.cap:
                return self.cap
            size += self.step
        return size

    def fit(self, size: int) -> tuple[_Draft, int]:
        """Draw until a sample fits; return it and its tokens. If too long, shrink by a whole step, as in RULER."""
        room, tokens = self.length - self.reserve, "more"
        for _ in range(TRIES if size else 0):
            draft = self.draft(size)
            tokens = self.count(draft.prompt)
            if tokens <= room:
                return draft, tokens
            size -= self.step if size > self.step else 0
        raise ValueError(
            f"length: got {self.length}, of which {self.reserve} are reserved for the answer, expected room for "
            f"{tokens} tokens instead of {room}: raise the length, or count with a tokenizer that makes fewer"
        )

    def draft(self, size: int) -> _Draft:
        """Draw a key, a value and a place, and format the prompt."""
        key, value = self.name(self.task.key), self.name(self.task.value)
        needle = NEEDLE.format(kind=self.task.value, key=key, value=value)
        context = self.noise(size, needle) if self.task.haystack == "noise" else self.essay(size, needle)
        self.rng.sample(range(1), 1)  # RULER chooses one of its keys; even a single key advances the generator
        fields = {"kind": self.task.value, "key": key}
        return _Draft(PROMPT.format(context=context, **fields), ANSWER_PREFIX.format(**fields), key, value, size)

    def name(self, kind: str) -> str:
        """Draw a key or a value."""
        if kind == "number":
            return str(self.rng.randint(10**6, 10**7 - 1))
        if kind == "uuid":
            return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        return self.rng.choice(self.words)

    def noise(self, size: int, needle: str) -> str:
        """Insert the needle before one of `size` lines, never after the last."""
        lines = [NOISE] * size
        lines.insert(self.rng.sample(range(size), 1)[0], needle)
        return "\n".join(lines)

    def essay(self, size: int, needle: str) -> str:
        """Insert the needle between two sentences, at one of 40 depths."""
        sentences = self.split(size if self.cap is None else min(size, self.cap))
        place = int(len(sentences) * (self.rng.sample(DEPTHS, 1)[0] / 100))
        return " ".join([" ".join(sentences[:place]), needle, " ".join(sentences[place:])])
