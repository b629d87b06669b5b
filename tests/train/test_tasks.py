"""What experiments train and score on: needles by depth and length, stories, a book."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import nn

from titans_mini import TitansConfig, TitansLM
from titans_mini.data.babi import last_room
from titans_mini.data.recall import IGNORE, RecallTask
from titans_mini.data.stories import make_stories
from titans_mini.data.text import english
from titans_mini.train import Curriculum, Recall, babi, language
from titans_mini.train.needle import Needle, gates_by_kind, gates_by_layer

TASK = RecallTask(2, 4, keys=4, values=4, noise=2)
NEEDLE = Needle(TASK, stages=((2, 1),), batch=3, length=16, lengths=(16, 64), sequences=50, bins=4)


class Oracle(nn.Module):
    """Knows the rule: after a key, the token that followed it before; with `window`, among the last tokens only."""

    def __init__(self, vocabulary, window=10**6):
        super().__init__()
        self.vocabulary, self.window = vocabulary, window

    def forward(self, tokens, state=None):
        logits = torch.zeros(*tokens.shape, self.vocabulary)
        for b, row in enumerate(tokens.tolist()):
            for t, token in enumerate(row):
                seen = [s for s in range(max(0, t - self.window), t) if row[s] == token]
                if seen:
                    logits[b, t, row[seen[-1] + 1]] = 1.0
        return logits, None


def test_the_rule_finds_every_needle_and_a_window_only_the_near_ones():
    rows = NEEDLE.score(Oracle(TASK.vocab_size), 0)["lengths"]
    assert [row["length"] for row in rows] == [16, 64]
    for row in rows:
        assert row["right"] == row["asked"] and sum(row["asked"]) == 100
    near = NEEDLE.score(Oracle(TASK.vocab_size, window=24), 0)["lengths"][1]
    assert near["right"][3] > 10 and sum(near["right"][:2]) == 0


class Eliminator(nn.Module):
    """Knows which values a haystack holds, not whose they are: says the first of them that was not told yet."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def forward(self, tokens, state=None):
        logits, room = torch.zeros(*tokens.shape, self.task.vocab_size), tokens.shape[1] - 2 * self.task.pairs
        for b, row in enumerate(tokens.tolist()):
            values = [x for x in row[:room] if self.task.keys <= x < self.task.keys + self.task.values]
            for t in range(room, len(row)):
                left = [x for x in values if x not in row[room:t]]
                logits[b, t, (left or values)[0]] = 1.0
        return logits, None


def test_the_order_of_questions_tells_a_guess_by_elimination_from_knowledge():
    task = replace(TASK, values=16)  # two pairs seldom share their value
    many = replace(NEEDLE, task=task, sequences=200)
    knows, guesses = (many.score(model, 0)["lengths"][0] for model in (Oracle(task.vocab_size), Eliminator(task)))
    assert knows["order"] == [200, 200] and sum(knows["right"]) == 400
    first, last = guesses["order"]
    assert 70 < first < 140 and last == 200  # one of two, then the one that is left


def test_questions_are_scored_once_a_pair_and_never_those_of_training():
    trained = NEEDLE.source(0)(5).tokens
    asked = TASK.batch(50, 16, 10**6, 16).tokens
    assert not (trained[:, None] == asked[None]).all(-1).any()
    assert NEEDLE.score(Oracle(TASK.vocab_size), 3)["chance"] == 0.25


def test_the_curriculum_adds_pairs():
    source = NEEDLE.source(7)
    keys = [[len(set(row[row < 4].tolist())) for row in source(i).tokens] for i in (0, 1, 2)]
    assert keys == [[1] * 3, [1] * 3, [2] * 3]
    assert torch.equal(source(2).tokens, Recall(TASK, 3, 16, 7)(2).tokens)
    assert Curriculum((), Recall(TASK, 3, 16))(0).tokens.shape == (3, 16)


def small(variant, vocabulary=TASK.vocab_size, **changes):
    torch.manual_seed(0)
    sizes = {"dim": 16, "layers": 1, "heads": 1, "chunk_size": 8, "memory_expansion": 1, "window": 8, "segment": 8}
    return TitansLM(TitansConfig(variant, vocab_size=vocabulary, **sizes | changes))


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal", "delta"])
def test_gates_are_averaged_by_kind_of_token(variant):
    model = small(variant, half_life=(64.0, 64.0))
    gates = gates_by_kind(model, TASK, 0, length=32)
    assert set(gates) == {"key", "value", "noise"}
    for kind in gates.values():
        if variant == "delta":
            assert kind["half_life"] is None  # it never forgets
        else:
            assert kind["half_life"] == pytest.approx(64, rel=1e-3)
        assert kind["theta"] == pytest.approx(0.25 if variant == "delta" else 1 / 32, rel=1e-3)
    assert gates_by_kind(small("swa"), TASK, 0) is None


@pytest.mark.parametrize(
    ("variant", "changes"), [("mal", {}), ("mac", {"layer_gates": False}), ("lmm", {"forget": "channel"})]
)
@torch.no_grad()
def test_the_gates_of_all_memories_and_layers_are_averaged(variant, changes):
    model = small(variant, layers=2, half_life=(64.0, 64.0), **changes)
    one = model.blocks[1].mixer.memory
    one.to_gates.bias[: one.gate_sizes["alpha"] // one.gate_layers] = 0  # the first layer's α is ½
    found = gates_by_layer(model, TASK, 0, length=32)
    assert [len(layers) for layers in found] == [one.gate_layers] * 2
    lives = [[layer["noise"]["half_life"] for layer in layers] for layers in found]
    expected = [[64.0], [1.0]] if changes.get("layer_gates") is False else [[2.0**20, 64.0], [1.0, 64.0]]
    assert lives == [pytest.approx(x, rel=0.01) for x in expected]
    assert all(kind["eta"] == pytest.approx(0.5) for layers in found for layer in layers for kind in layer.values())
    last = {kind: {k: gate[k] for k in ("half_life", "theta")} for kind, gate in found[0][-1].items()}
    assert gates_by_kind(model, TASK, 0, length=32) == last
    assert gates_by_layer(small("swa"), TASK, 0) == []


@pytest.mark.parametrize("variant", ["lmm", "mag", "mal"])
@torch.no_grad()
def test_gates_belong_to_their_tokens(variant):
    """The persistent tokens in front have gates as well."""
    model = small(variant)
    memory = model.blocks[0].mixer.memory
    memory.to_gates.weight.normal_(generator=torch.Generator().manual_seed(1))
    found, tokens = gates_by_kind(model, TASK, 0, length=32), TASK.batch(16, 32, 0).tokens
    _, _, theta = memory.gates(model.blocks[0].norm(model.embedding(tokens)))
    expected = theta[:, 0, :, -1][tokens < TASK.keys].mean().item()
    assert found["key"]["theta"] == pytest.approx(expected, rel=1e-6)


# -- stories --------------------------------------------------------------------------------------------------------


@pytest.fixture
def made_stories(monkeypatch):
    """Generated stories in place of the real files, which a test machine need not have."""
    splits = {
        "train": list(islice(make_stories("qa1", seed=0), 60)),
        "test": list(islice(make_stories("qa1", seed=1), 20)),
    }
    monkeypatch.setattr(babi, "_stories", splits.__getitem__)
    babi.encoded.cache_clear()
    babi._vocabulary.cache_clear()
    yield splits
    babi.encoded.cache_clear()
    babi._vocabulary.cache_clear()


def test_a_story_is_its_words_and_is_asked_at_question_marks(made_stories):
    tokens, targets, vocabulary = babi.encoded("train")
    story = made_stories["train"][0]
    said = [vocabulary[i] for i in tokens[0].tolist() if vocabulary[i] != babi.PAD]
    assert said == [word for line in story.lines for word in babi.words(line.text)]
    answers = [vocabulary[i] for i in targets[0].tolist() if i != IGNORE]
    assert answers == [line.answer for line in story.lines if isinstance(line, babi.Question)]
    assert {vocabulary[i] for i in tokens[targets != IGNORE].tolist()} == {"?"}
    assert len(vocabulary) == babi.Babi().vocab_size


def test_stories_are_short_at_first(made_stories):
    source = babi.Babi(stages=((1, 1), (2, 2)), batch=4).source(0)
    assert [(source(i).targets != IGNORE).sum(-1).tolist() for i in range(3)] == [[1] * 4, [2] * 4, [5] * 4]
    assert source(0).tokens.shape[1] < source(2).tokens.shape[1]
    assert torch.equal(source(1).tokens, source(1).tokens)


def test_the_shortcut_scores_as_a_model_that_takes_it(made_stories):
    tokens, _, vocabulary = babi.encoded("test")
    rooms = torch.tensor([i for i, word in enumerate(vocabulary) if word in babi_rooms()])

    class Shortcut(nn.Module):
        def forward(self, x, state=None):
            logits = torch.zeros(*x.shape, len(vocabulary))
            for b in range(len(x)):
                last = 0
                for t in range(x.shape[1]):
                    last = int(x[b, t]) if x[b, t] in rooms else last
                    logits[b, t, last] = 1.0
            return logits, None

    scores = babi.Babi().score(Shortcut(), 0)
    assert scores["accuracy"] == scores["last_room"] < 0.8 and set(scores["by_facts"]) == {"2", "4", "6", "8", "10"}
    samples = [s for story in made_stories["test"] for s in story.samples()]
    assert scores["last_room"] == pytest.approx(sum(last_room(s) == s.answer for s in samples) / len(samples), abs=1e-4)
    assert tokens.shape[0] == 20


def babi_rooms():
    from titans_mini.data.babi import ROOMS

    return ROOMS


def test_another_vocabulary_is_refused(made_stories):
    with pytest.raises(ValueError, match="vocab_size: got 5, expected 22"):
        babi.Babi(vocab_size=5).source(0)


# -- a book ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def made_book(monkeypatch):
    monkeypatch.setattr(language, "book", lambda name: english() * 2)
    return language.Language(context=64, pieces=4, edges=(0, 16, 64), along=256, block=64, length=32)


def test_the_beginning_is_held_out(made_book):
    learned, held_out = made_book.split()
    text = (english() * 2).encode()
    assert bytes(held_out.tolist()) + bytes(learned.tolist()) == text and len(held_out) == round(0.2 * len(text))
    assert made_book.source(0)(0).tokens.shape == (8, 32)


class Uniform(nn.Module):
    """Says that every byte is equally likely; its state counts what it has read."""

    def forward(self, tokens, state=None):
        return torch.zeros(*tokens.shape, 256), (state or 0) + tokens.shape[1]


def test_a_uniform_guess_costs_eight_bits_everywhere(made_book):
    scores = made_book.score(Uniform(), 0)
    assert scores["bits"] == pytest.approx([8, 8]) and scores["edges"] == [0, 16, 64]
    assert scores["carried"] == pytest.approx([8] * 4) and scores["fresh"] == pytest.approx([8] * 4)


def test_carried_blocks_are_one_long_reading(made_book):
    model = small("lmm", 256).eval()
    scores = made_book.score(model, 0)
    ids = made_book.split()[1][:257]
    whole = language.bits_per_token(model, ids[None])[0].view(4, 64).mean(1)
    assert scores["carried"] == pytest.approx(whole.tolist(), abs=2e-4)
    assert scores["fresh"][0] == scores["carried"][0] and scores["fresh"][1:] != scores["carried"][1:]


def test_what_the_publisher_wrote_is_left_out(monkeypatch, tmp_path):
    text = "Header\r\n*** START OF THIS EBOOK ***\r\n\r\nThe text.\r\nEnds.\r\n*** END OF THIS EBOOK ***\r\nLicence\r\n"
    (tmp_path / "x.txt").write_bytes(text.encode())
    monkeypatch.setattr(language, "fetch", lambda name: tmp_path / "x.txt")
    language.book.cache_clear()
    assert language.book("x") == "The text.\nEnds.\n"
    language.book.cache_clear()
