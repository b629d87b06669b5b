"""Stories in a haystack: bAbI's facts between sentences of novels, trained on short texts and scored on BABILong's.

Tokens are words, not pieces of words: a room, a person and a verb are one token each, so a fact is one short thing to
bind and reaches from person to room within the memory's convolution. Pieces would cut "bathroom" into three.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from titans_mini.data.babi import BabiSample, Question, Story, babi_qa1
from titans_mini.data.babilong import LABELS, SHORTEST, babilong
from titans_mini.data.novels import TEST, TRAIN, VALIDATION, novel
from titans_mini.data.recall import IGNORE
from titans_mini.data.seeds import generator
from titans_mini.data.stories import make_stories
from titans_mini.data.tokens import Tokenizer, split_sentences
from titans_mini.train.babi import PAD, words
from titans_mini.train.sources import Batch, Source

TASKS = ("qa1", "qa2", "qa3", "qa4", "qa5")
UNKNOWN = "unk"  # a word outside the vocabulary; no sign in it, so that text which was decoded is encoded the same
HELD_OUT = 1_000_000  # seed of the stories and haystacks of the score; seeds of trainings are smaller


class Stage(NamedTuple):
    """A part of training.

    Attributes:
        until: the step at which it ends.
        story: most tokens of a story; its last lines are kept.
        length: tokens of a text, filled up with sentences of a novel; 0 adds none.
        tasks: these take turns.
        texts: of a batch.
    """

    until: int
    story: int
    length: int
    tasks: tuple[str, ...] = TASKS
    texts: int = 16


FIRST = ("qa1",)  # alone it is learned in minutes, and the others start from a memory that is of use
STAGES = (
    Stage(120, 24, 0, FIRST),  # two facts and a question
    Stage(240, 48, 0, FIRST),
    Stage(500, 96, 0, FIRST),  # whole stories
    Stage(1500, 96, 0),
    Stage(1700, 128, 384),
    Stage(2100, 192, 1536, texts=5),  # as many tokens: what noise writes adds up, so few words of it must write at all
)


@dataclass(frozen=True)
class HayStories:
    """A task of `titans_mini.train.experiments`: qa1 to qa5 in novels, trained on short texts and scored on long ones.

    In training, stories are made, tasks take turns, and every question of a story is asked where it stands, if the
    facts that answer it are there. In the score one question ends the text.
    """

    vocab_size: int = 1024  # words: those of the stories, the most frequent of the novels, padding, unknown
    stages: tuple[Stage, ...] = STAGES
    train_on: tuple[str, ...] = TRAIN
    # the score
    tasks: tuple[str, ...] = TASKS
    score_on: tuple[str, ...] = (*VALIDATION, *TEST)
    lengths: tuple[str, ...] = ("1k", "2k", "4k", "8k", "16k")  # names of `babilong`
    questions: int = 100  # per task and length
    block: int = 512  # tokens of a call

    def source(self, seed: int) -> Source:
        """Return the source of training batches."""
        return _Hay(self, _coder(self.train_on, self.vocab_size), _sentences(self.train_on, self.vocab_size), seed)

    @torch.no_grad()
    def score(self, model: nn.Module, seed: int) -> dict:
        """Count right answers to the questions at the end of long texts.

        An answer is the likeliest of all words, not of the task's answers alone. qa1's questions are bAbI's own test
        questions; those of the other tasks are made by `make_stories`, because their files are not here. Story n is
        asked its question number n modulo 5, so the first and the last questions weigh the same.

        ⚠ Lengths count the tokens that the model reads, lower-case words, stops and question marks. BABILong counts
        those of GPT-2, of which the same text has about a quarter more. As there, a named length leaves 300 tokens for
        a prompt; ours is the question alone.

        Args:
            model: a `TitansLM`.
            seed: of the training; not used, all models read the same texts.

        Returns:
            "lengths", and per task a list over them of {"asked", "right", and what can be had without reading far:
            "majority", right answers of the word that answers most of these questions, and "last", those of the
            shortcut `last_label`, on qa1 the room named last}.
        """
        texts = [novel(name) for name in self.score_on]
        coder = _coder(self.train_on, self.vocab_size)
        found: dict = {"lengths": list(self.lengths)}
        for task in self.tasks:
            found[task] = [self._cell(model, task, length, texts, coder) for length in self.lengths]
        return found

    def _cell(self, model: nn.Module, task: str, length: str, texts: Sequence[str], coder: Tokenizer) -> dict:
        """Ask the questions of one task at one length."""
        made = babilong(_questions(task), length, background=texts, tokenizer=coder, seed=HELD_OUT)
        samples = list(islice(made, self.questions))
        rows = [coder.encode(f"{sample.input} {sample.question}") for sample in samples]
        said = [coder.decode([i]) for i in read_answers(model, rows, self.block)]
        answers = [sample.target.lower() for sample in samples]
        last = [last_label(task, sample.facts, sample.question) for sample in samples]
        return {
            "asked": len(samples),
            "right": sum(map(str.__eq__, said, answers)),
            "majority": Counter(answers).most_common(1)[0][1],
            "last": sum(map(str.__eq__, last, answers)),
        }


def last_label(task: str, facts: Sequence[str], question: str) -> str:
    """Return the possible answer that the facts name last, apart from those in the question: a shortcut to beat.

    On qa1 this is `titans_mini.data.babi.last_room`.

    Args:
        task: "qa1" … "qa5".
        facts: sentences of the story, oldest first.
        question: the question.

    Returns:
        A lower-case word; "" if the facts name none.
    """
    labels = {label.lower() for label in LABELS[task]} - set(words(question))
    return next((word for fact in reversed(facts) for word in reversed(words(fact)) if word in labels), "")


@torch.no_grad()
def read_answers(model: nn.Module, rows: Sequence[Sequence[int]], block: int) -> list[int]:
    """Read texts side by side, a block at a time, and return the likeliest token after each.

    Args:
        model: a `TitansLM`.
        rows: token ids of each text.
        block: tokens of a call, to bound its memory. Shorter texts are padded on the right, after their answers.

    Returns:
        A token id per text.
    """
    last = torch.tensor([len(row) - 1 for row in rows])
    tokens = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    said, state = torch.zeros(len(rows), dtype=torch.int64), None
    for start in range(0, tokens.shape[1], block):
        logits, state = model(tokens[:, start : start + block], state)
        here = (last >= start) & (last < start + block)
        said[here] = logits[here, last[here] - start].argmax(-1)
    return said.tolist()


def _questions(task: str) -> Iterator[BabiSample]:
    """Yield one question per story that the score asks: real ones of qa1, made ones of the other tasks."""
    stories = babi_qa1("test") if task == "qa1" else make_stories(task, HELD_OUT)
    for number, story in enumerate(stories):
        samples = list(story.samples())
        yield samples[number % len(samples)]


# -- words and noise --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _coder(names: tuple[str, ...], size: int) -> Tokenizer:
    """Return a tokenizer of words: padding, unknown, all words of the stories, and the most frequent of the novels.

    Raises:
        ValueError: for a size with no room for the stories, or more words than there are.
    """
    stories = (story for task in TASKS for story in islice(make_stories(task), 200))
    said = {word for story in stories for line in story.lines for word in words(line.text)}
    counts = Counter(word for name in names for word in words(novel(name)))
    known = list(dict.fromkeys((PAD, UNKNOWN, *sorted(said), *sorted(counts, key=lambda word: (-counts[word], word)))))
    if not len(said) + 2 <= size <= len(known):
        raise ValueError(f"vocab_size: got {size}, expected {len(said) + 2} to {len(known)}, the words that are there")
    index = {word: i for i, word in enumerate(known[:size])}
    return Tokenizer(
        "words",
        lambda text: [index.get(word, index[UNKNOWN]) for word in words(text)],
        lambda ids: " ".join(known[i] for i in ids),
        size,
    )


@lru_cache(maxsize=2)
def _sentences(names: tuple[str, ...], size: int) -> list[Tensor]:
    """Return the ids of each sentence of novels that is long enough for BABILong."""
    coder = _coder(names, size)
    found = (coder.encode(sentence) for name in names for sentence in split_sentences(novel(name)))
    return [torch.tensor(ids) for ids in found if len(ids) >= SHORTEST]


@dataclass(frozen=True, eq=False)
class _Hay:
    """Batches of short texts: the last lines of a story at random places between sentences of novels."""

    task: HayStories
    coder: Tokenizer
    sentences: list[Tensor]
    seed: int

    def __call__(self, index: int) -> Batch:
        """Return batch number `index`."""
        draw, stages = generator(self.seed, index), self.task.stages
        stage = next((stage for stage in stages if index < stage.until), stages[-1])
        most = max(stage.texts for stage in stages)  # no two batches have a story in common
        rows = [self._row(index * most + row, stage, draw) for row in range(stage.texts)]
        tokens, targets = zip(*rows, strict=True)
        return Batch(pad_sequence(tokens, True), pad_sequence(targets, True, IGNORE))

    def _row(self, number: int, stage: Stage, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return tokens and targets of text number `number`, each (T,): lines at random gaps, in their order."""
        story = next(make_stories(stage.tasks[number % len(stage.tasks)], self.seed, number, number + 1))
        lines = self._lines(story, stage.story)
        around = self._stretch(stage.length - sum(len(text) for text, _ in lines), draw)
        places = torch.randint(len(around) + 1, (len(lines),), generator=draw).sort().values.tolist()
        pieces = [(place, 1, text, IGNORE) for place, text in enumerate(around)]
        pieces += [(place, 0, *line) for place, line in zip(places, lines, strict=True)]
        pieces.sort(key=lambda piece: piece[:2])  # a stable sort: lines of one gap keep their order
        tokens = torch.cat([text for _, _, text, _ in pieces])
        targets = torch.full_like(tokens, IGNORE)
        ends = torch.tensor([len(text) for _, _, text, _ in pieces]).cumsum(0)
        targets[ends - 1] = torch.tensor([answer for *_, answer in pieces])
        return tokens, targets

    def _lines(self, story: Story, room: int) -> list[tuple[Tensor, int]]:
        """Return the last lines of a story that fit, each with its answer, if it is a question and its facts fit."""
        texts = [torch.tensor(self.coder.encode(line.text)) for line in story.lines]
        first = len(texts)
        while first and len(texts[first - 1]) <= room:
            first -= 1
            room -= len(texts[first])
        kept = []
        for line, text in zip(story.lines[first:], texts[first:], strict=True):
            asked = isinstance(line, Question) and min(line.support) > first  # lines are numbered from 1
            kept.append((text, self.coder.encode(line.answer)[0] if asked else IGNORE))
        return kept

    def _stretch(self, count: int, draw: torch.Generator) -> list[Tensor]:
        """Return sentences of `count` tokens in all, in order from a random one on; the last is cut."""
        place, taken = int(torch.randint(len(self.sentences), (1,), generator=draw)), []
        while count > 0:
            taken.append(self.sentences[place][:count])
            count -= len(taken[-1])
            place = (place + 1) % len(self.sentences)
        return taken
