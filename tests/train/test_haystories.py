"""Stories in novels: what training texts hold, which words are known, and a score in which a guess looks like one."""

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import nn

from tests.data import standin
from tests.data.babi_reader import Reader
from titans_mini import TitansConfig, TitansLM
from titans_mini.data import make_stories
from titans_mini.data.babi import last_room
from titans_mini.data.novels import TEST, TRAIN, VALIDATION
from titans_mini.data.recall import IGNORE
from titans_mini.train import TrainConfig, haystories
from titans_mini.train.babi import PAD, words
from titans_mini.train.experiments import Experiment
from titans_mini.train.haystories import TASKS, UNKNOWN, HayStories, Stage, last_label, read_answers
from titans_mini.train.recipes import PLANNED

SMALL = HayStories(
    vocab_size=80,
    stages=(Stage(2, 24, 0, ("qa1",)), Stage(4, 96, 0), Stage(6, 128, 192, texts=10)),
    train_on=TRAIN[:2],
    score_on=VALIDATION,
    lengths=("1k", "2k"),
    questions=30,
    block=100,
)
MODEL = TitansConfig("lmm", 80, 16, layers=1, heads=1, chunk_size=16, memory_expansion=1, persistent=0)


@pytest.fixture(autouse=True)
def books(tmp_path, monkeypatch):
    """Made-up novels and made stories, in place of files that a test machine need not have."""
    standin.write(tmp_path, monkeypatch, (*TRAIN[:2], *VALIDATION), 30)
    monkeypatch.setattr(haystories, "babi_qa1", lambda split: islice(make_stories("qa1", 5), 200))
    found = (haystories._coder, haystories._sentences)
    for cached in found:
        cached.cache_clear()
    yield
    for cached in found:
        cached.cache_clear()


def test_every_word_of_every_story_is_known():
    coder = SMALL.source(0).coder
    for task in TASKS:
        for story in islice(make_stories(task, 123), 300):
            for line in story.lines:
                ids = coder.encode(line.text)
                assert coder.decode(ids) == " ".join(words(line.text)), "no word is unknown"
    assert coder.decode(coder.encode("Zounds, the kitchen!")) == f"{UNKNOWN} the kitchen"
    assert coder.encode(coder.decode(coder.encode("Zounds."))) == coder.encode("Zounds.")
    assert coder.vocab_size == 80 and coder.decode([0]) == PAD
    with pytest.raises(ValueError, match="vocab_size: got 20, expected .* the words that are there"):
        replace(SMALL, vocab_size=20).source(0)


def spoken(source, index):
    """Return the sentences of each text of a batch, each with its answer or None."""
    batch, texts = source(index), []
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        text, sentence = [], []
        for token, target in zip(tokens, targets, strict=True):
            sentence.append(token)
            if target != IGNORE or source.coder.decode([token]) in (".", "?"):
                text.append(
                    (source.coder.decode(sentence), source.coder.decode([target]) if target != IGNORE else None)
                )
                sentence = []
        texts.append(text)
    return texts


def fact_at_the_end(sentence, lines):
    """Return the line of the story with which a sentence ends: one of a novel that was cut has no stop before it."""
    return max((line for line in lines if f" {sentence}".endswith(f" {line}")), key=len, default=None)


@pytest.mark.parametrize("index", [0, 3, 5])
def test_answers_follow_from_the_facts_that_are_there(index):
    source, asked = SMALL.source(0), 0
    stage = next(stage for stage in SMALL.stages if index < stage.until)
    for row, text in enumerate(spoken(source, index)):
        number = 16 * index + row
        story = next(make_stories(stage.tasks[number % len(stage.tasks)], 0, number, number + 1))
        lines = {" ".join(words(line.text)) for line in story.lines}
        heard = [found for sentence, _ in text if (found := fact_at_the_end(sentence, lines))]
        kept = [" ".join(words(line.text)) for line in story.lines][-len(heard) :]
        assert heard == kept and sum(len(line.split()) for line in heard) <= stage.story, "its last lines"
        for sentence, answer in text:
            if answer is not None:
                asked += 1
                question = fact_at_the_end(sentence, lines)
                same = [line for line in story.lines if " ".join(words(line.text)) == question]
                assert question.endswith("?") and answer in [line.answer.lower() for line in same]
    assert asked > 5


def test_a_question_whose_facts_are_cut_off_is_not_asked():
    source = SMALL.source(0)
    story = next(make_stories("qa1", 3))
    whole, cut = source._lines(story, 500), source._lines(story, 24)
    answers = [answer for _, answer in whole if answer != IGNORE]
    assert len(answers) == 5 and len(whole) == 15
    assert sum(len(text) for text, _ in cut) <= 24 < sum(len(text) for text, _ in whole[-len(cut) - 1 :])
    for (text, answer), (same, full), line in zip(cut, whole[-len(cut) :], story.lines[-len(cut) :], strict=True):
        there = hasattr(line, "support") and min(line.support) > 15 - len(cut)
        assert torch.equal(text, same) and answer == (full if there else IGNORE)


def test_texts_are_filled_with_novels_and_are_a_function_of_their_number():
    source = SMALL.source(1)
    assert source(1).tokens.shape[1] <= 24 and source(5).tokens.shape == source(99).tokens.shape == (10, 192)
    assert torch.equal(SMALL.source(1)(5).tokens, source(5).tokens)
    assert not torch.equal(SMALL.source(2)(5).tokens, source(5).tokens)
    people = {name.lower() for name in standin.PEOPLE}
    assert people & set(source.coder.decode(source(5).tokens.flatten().tolist()).split()), "sentences of the novels"
    assert not people & set(source.coder.decode(source(3).tokens.flatten().tolist()).split())


# -- the score --------------------------------------------------------------------------------------------------------


class Knows(nn.Module):
    """Answers as the stories' own reader does; with `window`, from the last tokens alone; else a word of no use."""

    def __init__(self, coder, window=10**6):
        super().__init__()
        self.coder, self.window = coder, window

    def forward(self, tokens, state=None):
        read = tokens if state is None else torch.cat([state, tokens], 1)
        logits = torch.zeros(*tokens.shape, self.coder.vocab_size)
        question = self.coder.encode("?")[0]
        for b, t in (tokens == question).nonzero().tolist():
            seen = self.coder.decode(read[b, : read.shape[1] - tokens.shape[1] + t + 1].tolist()[-self.window :])
            sentences = [" ".join(part.split()) for part in seen.replace("?", "?.").split(".") if part.strip()]
            logits[b, t, self._answer(sentences)] = 1.0
        return logits, read

    def _answer(self, sentences):
        name = sentences[-1].split()[-2]  # … where is NAME ?
        rooms = [s.split()[-1] for s in sentences[:-1] if name in s.split()]
        return self.coder.encode(rooms[-1])[0] if rooms else 1


def test_a_model_that_knows_is_right_at_every_length_and_a_window_is_not():
    task, coder = replace(SMALL, tasks=("qa1",)), SMALL.source(0).coder
    knows = task.score(Knows(coder), 0)
    assert knows["lengths"] == ["1k", "2k"]
    for cell in knows["qa1"]:
        assert cell["right"] == cell["asked"] == 30 and 5 <= cell["majority"] < 15 and cell["last"] < 24
    near = task.score(Knows(coder, window=64), 0)["qa1"]
    assert all(cell["right"] < 10 for cell in near)
    assert near[0]["majority"] == knows["qa1"][0]["majority"]


@pytest.mark.parametrize("task", TASKS)
def test_the_questions_of_the_score_have_the_answers_that_they_should(task):
    samples = list(islice(haystories._questions(task), 20))
    for sample in samples:
        assert Reader(sample.facts).answer(sample.question)[0] == sample.answer
        assert last_label(task, sample.facts, sample.question) in map(str.lower, haystories.LABELS[task])
    if task == "qa1":
        assert [last_label(task, s.facts, s.question) for s in samples] == [last_room(s) for s in samples]
        assert [len(s.facts) for s in samples[:6]] == [2, 4, 6, 8, 10, 2], "story n, question n modulo 5"


def test_the_shortcut_leaves_out_what_the_question_names():
    facts = ("The office is north of the kitchen.", "The garden is south of the kitchen.")
    assert last_label("qa4", facts, "What is south of the kitchen?") == "garden"
    assert last_label("qa5", ("Fred gave the apple to Bill.",), "Who did Fred give the apple to?") == "bill"
    assert last_label("qa1", ("Fred gave the apple to Bill.",), "Where is Fred?") == ""


@pytest.mark.parametrize("variant", ["lmm", "swa"])
@torch.no_grad()
def test_answers_are_read_at_the_end_of_each_text_whatever_the_block(variant):
    torch.manual_seed(0)
    model = TitansLM(replace(MODEL, variant=variant, window=8)).eval()
    rows = [torch.randint(80, (n,)).tolist() for n in (70, 33, 64, 1)]
    expected = [int(model(torch.tensor([row]))[0][0, -1].argmax()) for row in rows]
    assert read_answers(model, rows, 16) == read_answers(model, rows, 1000) == expected


def test_an_experiment_runs_and_its_record_is_plain():
    task = replace(SMALL, questions=5)
    run = Experiment("babilong", "x", MODEL, TrainConfig(steps=6, lr=1e-3, warmup=2), task).run(0)
    assert json.loads(json.dumps(run)) == run and run["scores"]["lengths"] == ["1k", "2k"]
    for task in TASKS:
        for cell in run["scores"][task]:
            assert cell["asked"] == 5 and 0 <= cell["right"] <= 5 and 1 <= cell["majority"] <= 5


def test_the_planned_twin_lacks_nothing_but_the_memory():
    planned = {e.name: e for e in PLANNED if e.group == "babilong"}
    model, twin = planned["lmm"], planned["swa"]
    sizes = [TitansLM(e.model).count_parameters() for e in (model, twin)]
    assert max(sizes) < 1.02 * min(sizes)
    assert twin.model.attention_conv == model.model.conv_size and twin.model.window < 700
    assert model.task == twin.task and model.train == twin.train and model.task.vocab_size == model.model.vocab_size
    assert model.task.stages[-1].until == model.train.steps and model.seeds == (0,)
    assert not set(model.task.train_on) & {*VALIDATION, *TEST} and set(model.task.score_on) == {*VALIDATION, *TEST}
