"""bAbI qa1 as a training task: stories as word tokens, with the answer as the target at each question mark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from titans_mini.data.babi import FILES, Question, Story, last_room, read_stories
from titans_mini.data.fetch import fetch
from titans_mini.data.recall import IGNORE
from titans_mini.data.seeds import generator
from titans_mini.train.sources import Batch, Source

PAD = "<pad>"


def words(sentence: str) -> list[str]:
    """Split a sentence into lower-case words, with its stop or question mark as the last."""
    return re.findall(r"\w+|[.?]", sentence.lower())


def _stories(split: str) -> Iterator[Story]:
    """Read the real stories of qa1; `split` is "train" or "test"."""
    return read_stories(fetch(FILES[split]))


@lru_cache(maxsize=2)
def encoded(split: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Encode the real stories of qa1 as token ids.

    Args:
        split: "train" or "test".

    Returns:
        tokens and targets, each (stories, T), padded on the right, with the answer as the target of each question
        mark; and the vocabulary of the training stories.
    """
    vocabulary = _vocabulary()
    index = {word: i for i, word in enumerate(vocabulary)}
    rows = [_row(story, index) for story in _stories(split)]
    longest = max(len(tokens) for tokens, _ in rows)
    tokens, targets = (torch.full((len(rows), longest), fill) for fill in (index[PAD], IGNORE))
    for i, (row, asked) in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        for place, answer in asked:
            targets[i, place] = answer
    return tokens, targets, vocabulary


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[str, ...]:
    """Return the sorted words of the training stories, with the padding token first."""
    found = {word for story in _stories("train") for line in story.lines for word in words(line.text)}
    return (PAD, *sorted(found))


def _row(story: Story, index: dict[str, int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Return a story's token ids without the answers, and (position, answer id) per question."""
    row: list[int] = []
    asked = []
    for line in story.lines:
        row += [index[word] for word in words(line.text)]
        if isinstance(line, Question):
            asked.append((len(row) - 1, index[line.answer]))
    return row, asked


@dataclass(frozen=True)
class Babi:
    """A task of `titans_mini.train.experiments`: real qa1, 2,000 stories with five questions, the n-th after 2n facts.

    Each story is its own curriculum: two facts precede its first question, ten its last. Early in training `stages`
    truncates the stories: (end step, questions kept).
    """

    stages: tuple[tuple[int, int], ...] = ((100, 1), (200, 2))
    batch: int = 16
    vocab_size: int = 22  # words of qa1, stop, question mark and padding

    def source(self, seed: int) -> Source:
        """Return the source of training batches."""
        tokens, targets, vocabulary = encoded("train")
        if len(vocabulary) != self.vocab_size:
            raise ValueError(f"vocab_size: got {self.vocab_size}, expected {len(vocabulary)} words of qa1")
        return _Stories(tokens, targets, self.stages, self.batch, seed)

    @torch.no_grad()
    def score(self, model: nn.Module, seed: int) -> dict:
        """Score a model on the 1,000 real test questions.

        Args:
            model: a `TitansLM`.
            seed: training seed; not used, the questions are the same for all.

        Returns:
            "accuracy" over all questions; "by_facts": {number of facts before the question: accuracy}; "last_room":
            accuracy of the shortcut that answers with the room mentioned last.
        """
        tokens, targets, _ = encoded("test")
        said = torch.cat([model(part)[0].argmax(-1) for part in tokens.split(50)])
        where = targets != IGNORE
        right = (said[where] == targets[where]).float().view(len(tokens), -1)  # five questions per story
        samples = [sample for story in _stories("test") for sample in story.samples()]
        shortcut = sum(last_room(sample) == sample.answer for sample in samples) / len(samples)
        by_facts = {str(2 * n + 2): round(x, 3) for n, x in enumerate(right.mean(0).tolist())}
        return {"accuracy": round(right.mean().item(), 4), "by_facts": by_facts, "last_room": round(shortcut, 4)}


@dataclass(frozen=True, eq=False)
class _Stories:
    """Random batches of stories, truncated after the first questions early in training."""

    tokens: Tensor
    targets: Tensor
    stages: tuple[tuple[int, int], ...]
    batch: int
    seed: int

    def __call__(self, index: int) -> Batch:
        """Return batch number `index`."""
        rows = torch.randint(len(self.tokens), (self.batch,), generator=generator(self.seed, index))
        tokens, targets = self.tokens[rows], self.targets[rows]
        kept = next((n for end, n in self.stages if index < end), None)
        if kept is not None:
            order = (targets != IGNORE).cumsum(-1)
            targets = targets.masked_fill(order > kept, IGNORE)
            last = int((targets != IGNORE).nonzero()[:, 1].max()) + 1
            tokens, targets = tokens[:, :last], targets[:, :last]
        return Batch(tokens, targets)
