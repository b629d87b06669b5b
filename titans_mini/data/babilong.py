"""BABILong: the facts of a bAbI question, scattered over a long unrelated text.

Length budget, insertion rule, labels, prompt and scoring follow booydar/babilong (Apache-2.0).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from titans_mini.data.babi import ROOMS, BabiSample
from titans_mini.data.text import english
from titans_mini.data.tokens import BYTES, Tokenizer, split_sentences

LENGTHS = {"0k": 0, **{f"{k}k": 1000 * k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)}, "1M": 1_000_000}
PROMPT_ROOM = 300  # tokens of a named length reserved for instructions and question
FACT_ROOM = 8  # upper bound on the GPT-2 tokens per fact; a sample with more facts than fit is dropped
SHORTEST = 10  # minimum tokens of a background sentence
PATIENCE = 1000  # consecutive samples dropped before an error
LABELS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), ROOMS),
    "qa5": ("Bill", "Fred", "Jeff", "Mary", "apple", "football", "milk"),
    **dict.fromkeys(("qa6", "qa9"), ("yes", "no")),
    "qa7": ("none", "one", "two", "three"),
    "qa8": ("apple", "football", "milk", "nothing"),
    "qa10": ("yes", "no", "maybe"),
}
PROMPT = "{instruction}\n\n{examples}\n\n{post_prompt}\n\n<context>\n{context}\n</context>\n\nQuestion: {question}"


@dataclass(frozen=True)
class BabilongSample:
    """One long text with one question.

    Attributes:
        input: background and facts; the context of the question.
        question: the question.
        target: the correct answer.
        facts: the sentences of the story in `input`, in their order.
        positions: number of background sentences before each fact; never decreasing.
        length: tokens of `input`, at most the budget.
    """

    input: str
    question: str
    target: str
    facts: tuple[str, ...]
    positions: tuple[int, ...]
    length: int


def babilong(
    samples: Iterable[BabiSample],
    length: str | int = "1k",
    *,
    background: str | Sequence[str] | None = None,
    tokenizer: Tokenizer = BYTES,
    seed: int = 0,
    sentences: Callable[[str], list[str]] = split_sentences,
) -> Iterator[BabilongSample]:
    """Yield one long text per bAbI question that fits.

    Background sentences are taken in order from a random place of a random text, short ones left out, and the last is
    cut to meet the budget. Each fact goes to a random gap between them; facts keep their order. Sample n depends on the
    seed, n and its question only.

    Args:
        samples: questions, real (`babi_qa1`) or made (`make_stories`).
        length: a name such as "4k", of which 300 tokens are reserved for the prompt ("0k": the facts alone), or the
            number of tokens of `input`.
        background: one text or several; by default Python's help pages. ⚠ BABILong uses the books of PG-19, and here
            sentences and facts are always separated by one space.
        tokenizer: unit of all lengths; bytes by default, `gpt2()` for BABILong's lengths.
        seed: of fact positions and background.
        sentences: function that splits the background. ⚠ BABILong uses NLTK's `PunktSentenceTokenizer().tokenize`.

    Raises:
        KeyError: for an unknown name of a length.
        ValueError: for a negative length, a background without a sentence of 10 tokens, or (later) when a thousand
            questions in a row do not fit.
    """
    if isinstance(length, str) and length not in LENGTHS:
        raise KeyError(f"got the length {length!r}, expected one of {', '.join(LENGTHS)} or a number of tokens")
    budget = max(LENGTHS[length] - PROMPT_ROOM, 0) if isinstance(length, str) else length
    if budget < 0:
        raise ValueError(f"length: got {length} tokens, expected 0 (facts alone) or more")
    if background is None:
        background = english()
    texts = _Background([background] if isinstance(background, str) else background, tokenizer, sentences)
    return _samples(samples, budget, texts, tokenizer, seed)


def _samples(
    samples: Iterable[BabiSample], budget: int, texts: _Background, tokenizer: Tokenizer, seed: int
) -> Iterator[BabilongSample]:
    dropped = 0
    for number, sample in enumerate(samples):
        need = budget - sum(tokenizer(f" {fact}") for fact in sample.facts)
        if budget and (need < 0 or len(sample.facts) >= budget // FACT_ROOM):
            dropped += 1
            if dropped == PATIENCE:
                raise ValueError(
                    f"length: got {budget} tokens, expected room for the facts of some question: {dropped} in a row "
                    f"do not fit, the last has {len(sample.facts)} facts of {budget - need} tokens; raise the length"
                )
            continue
        dropped = 0
        yield _scatter(sample, texts, max(need, 0), tokenizer, random.Random(f"babilong {seed} {number}"))


def _scatter(
    sample: BabiSample, texts: _Background, need: int, tokenizer: Tokenizer, rng: random.Random
) -> BabilongSample:
    """Insert the facts into a background of `need` tokens at random gaps."""
    around = texts.stretch(need, rng)
    positions = sorted(rng.choices(range(len(around) + 1), k=len(sample.facts)))
    pieces = [(place, 1, text) for place, text in enumerate(around)]
    pieces += [(place, 0, fact) for place, fact in zip(positions, sample.facts, strict=True)]
    pieces.sort(key=lambda piece: piece[:2])  # a stable sort: facts of one gap keep their order
    text = " ".join(piece[2] for piece in pieces)
    return BabilongSample(text, sample.question, sample.answer, sample.facts, tuple(positions), tokenizer(text))


class _Background:
    """Texts, split into sentences of at least `SHORTEST` tokens."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer, sentences: Callable[[str], list[str]]) -> None:
        self.tokenizer = tokenizer
        split = ([" ".join(s.split()) for s in sentences(text)] for text in texts)
        long = ([s for s in text if tokenizer(f" {s}") >= SHORTEST] for text in split)
        self.texts = [text for text in long if text]
        if not self.texts:
            raise ValueError(
                f"background: got {len(texts)} texts without a sentence of {SHORTEST} tokens, expected some prose"
            )

    def stretch(self, need: int, rng: random.Random) -> list[str]:
        """Return sentences of `need` tokens in all, each counted with the space before it."""
        taken: list[str] = []
        while need > 0:
            text = rng.choice(self.texts)
            for sentence in text[rng.randrange(len(text)) :]:
                ids = self.tokenizer.encode(f" {sentence}")
                taken.append(sentence if len(ids) <= need else self.tokenizer.decode(ids[:need]).strip())
                need -= len(ids)
                if need <= 0:
                    break
        return [sentence for sentence in taken if sentence]


def babilong_prompt(sample: BabilongSample, instruction: str = "", examples: str = "", post_prompt: str = "") -> str:
    """Format the prompt for a language model.

    Args:
        sample: text and question.
        instruction: description of the task. The benchmark's own instructions, examples and post prompts are in its
            repository, `babilong/prompts.py`; the default is its variant with none of the three.
        examples: solved questions.
        post_prompt: format of the answer.
    """
    fields = {"instruction": instruction, "examples": examples, "post_prompt": post_prompt}
    return PROMPT.format(**fields, context=sample.input.strip(), question=sample.question).strip()


def babilong_correct(task: str, output: str, question: str, target: str) -> bool:
    """Check a model's answer.

    The labels of the task are collected from the answer's first sentence, without those in the question. The answer is
    correct if the target is the only label left.

    Args:
        task: "qa1" … "qa10".
        output: the model's answer.
        question: the question.
        target: the correct answer.

    Raises:
        KeyError: for a task without labels.
    """
    if task not in LABELS:
        raise KeyError(f"got the task {task!r}, expected one of {', '.join(LABELS)}")
    said = output.lower()
    for stop in (".", "<context>", "<example>"):
        said = said.split(stop)[0]
    labels = {label.lower() for label in LABELS[task]}
    asked = {label for label in labels if label in question.lower()}
    return {label for label in labels - asked if label in said} == {target.lower()}
