"""Models on the shelf: found, loaded without pickle, read token by token, with their writing scaled for a while."""

import hashlib
import re

import pytest
import torch

from tests.data import standin
from titans_mini import TitansConfig, TitansLM
from titans_mini.data import reading
from titans_mini.data.novels import TRAIN, VALIDATION
from titans_mini.data.pieces import byte_pairs
from titans_mini.models import pretrained
from titans_mini.train import TrainConfig, longtext, ship
from titans_mini.train.experiments import Experiment
from titans_mini.train.longtext import LongText
from titans_mini.train.record import run_piece
from titans_mini.viz.widgets import SurpriseStrip
from titans_mini.viz.widgets.strip import COLUMNS, LINE, ROWS, STORY

TEXT = "The naïve clock — stopped. " * 2
SMALL = {"dim": 16, "heads": 1, "layers": 1, "chunk_size": 4, "memory_depth": 1, "norm": False, "residual": False}


@pytest.fixture(scope="module", params=[256, 2048], ids=["bytes", "pieces"])
def model(request):
    torch.manual_seed(0)
    model = TitansLM(TitansConfig.preset("lmm-tiny", vocab_size=request.param, **SMALL)).eval()
    torch.nn.init.normal_(model.embedding.weight, 0, 0.5)  # opinions that differ
    with torch.no_grad():
        model.blocks[0].mixer.memory.to_output.weight.mul_(20)  # and a memory that is heard
    return model


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A recorded run on stand-ins for novels: the experiment, the folder of its pieces, and an empty shelf."""
    standin.write(tmp_path / "data", monkeypatch, (*TRAIN[:2], *VALIDATION), 30)
    longtext._encoded.cache_clear()
    books = {"train_on": TRAIN[:2], "validation": VALIDATION, "test": ()}
    task = LongText(steps=4, length=32, half_lives=(500.0,), kilobytes=2, edges=(0, 1, 2), block=160, **books)
    config = TitansConfig("mag", 2048, window=8, gate="add", persistent=0, max_theta=0.05, **SMALL)
    experiment = Experiment("long", "mag", config, TrainConfig(steps=4, lr=1e-3, warmup=2), task)
    run_piece(experiment, 0, tmp_path / "pieces")
    monkeypatch.setattr(pretrained, "FOLDERS", (tmp_path / "elsewhere", tmp_path / "shelf"))
    yield experiment, tmp_path / "pieces", tmp_path / "shelf"
    longtext._encoded.cache_clear()


def test_what_is_shipped_is_loaded_and_says_how_it_was_made(recorded):
    experiment, pieces, shelf = recorded
    ship.ship(experiment, 0, "small", shelf, pieces)
    again = pretrained.pretrained("small")
    assert again.config == experiment.model and not again.training
    assert {path.name for path in (shelf / "small").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "training.json",
    }
    made = pretrained.training_of("small")
    assert made["config"] == experiment.config() and made["seed"] == 0 and made["curve"][-1][0] == 4
    assert {"command", "seconds", "date", "hardware", "commit", "scores"} <= set(made)
    assert made["sha256"] == hashlib.sha256((shelf / "small" / "model.safetensors").read_bytes()).hexdigest()
    text = (shelf / "small" / "README.md").read_text()
    assert "4 steps of 8 × 32 pieces on 2 novels" in text and "--only long/mag" in text
    bits = made["scores"]["validation"]["position"]["carried"]["bits"][-1]
    assert f"| a tale of two cities, twenty thousand leagues under the sea | {bits:.3f} |" in text
    with pytest.raises(FileNotFoundError, match="expected the model of a recorded run"):
        ship.ship(experiment, 1, "small", shelf, pieces)
    assert pretrained.pretrained("small").config == experiment.model, "what is there stays"


def test_the_model_that_comes_along_learns_while_it_reads():
    """What notebook 00 begins with, on the shipped weights themselves: a name that nobody has is cheaper each time."""
    folder, made = pretrained.folder_of("mag-novels"), pretrained.training_of()
    weights = (folder / "model.safetensors").read_bytes()
    assert len(weights) <= ship.MAX_BYTES and hashlib.sha256(weights).hexdigest() == made["sha256"]
    model = pretrained.pretrained()
    places = [found.span() for found in re.finditer("Vorlat", STORY)]
    assert len(places) == 3 and len(STORY) <= COLUMNS * ROWS
    assert min(b[0] - a[1] for a, b in zip(places, places[1:], strict=False)) > 200, "attention has forgotten it"
    cost = {}
    for factor in (1.0, 0.0):
        bits, _ = reading.read_text(model, STORY, factor)
        cost[factor] = [bits[a:b].sum().item() for a, b in places]
    assert cost[1.0][1] < 0.75 * cost[1.0][0] and cost[1.0][2] < 0.5 * cost[1.0][0]
    assert min(cost[0.0]) > 0.75 * cost[0.0][0], "without writing it stays as strange"
    score = made["scores"]["test"]["position"]
    assert score["carried"]["bits"][-1] <= 1.9 and score["reset 1"]["gain"][-1] > 0.04
    card = (folder / "README.md").read_text()
    assert f"{made['parameters']:,} weights" in card and ship.card("mag-novels", made, len(weights)) == card


def test_every_button_of_the_trained_strip_shows_what_notebook_00_says_of_it():
    strip = SurpriseStrip(STORY, model=pretrained.pretrained())
    texts = {name: preset["text"] for name, preset in strip.presets.items()}
    assert set(texts) == {"a stranger", "one line, ten times", "one changed word", "a rhyme"}
    assert texts["a stranger"] == STORY and len(LINE) == COLUMNS
    for text in texts.values():
        assert len(text) <= COLUMNS * ROWS and "never trained" not in text
    read = {name: [strip.read(text, writes)[0] for writes in (1.0, 0.0)] for name, text in texts.items()}
    writing, frozen = (bits.view(10, -1).mean(1) for bits in read["one line, ten times"])
    assert writing[9] < 0.3 * writing[0] and (writing.diff() < 0).all() and frozen[9] > 0.9 * frozen[0]
    place = LINE.index("Exmoor")
    before, changed = read["one changed word"][0].view(10, -1)[8:, place : place + 6].mean(1)
    assert before < 0.5 and changed > 3
    writing, frozen = (bits[-len(bits) // 4 :].mean() for bits in read["a rhyme"])
    assert writing < 0.7 * frozen
    strip.preset("a rhyme")
    assert "1.2 (last)" in strip.alt_text and "5 bits or more" in strip.caption


def test_what_is_too_large_or_unknown_is_refused(recorded, monkeypatch):
    experiment, pieces, shelf = recorded
    with pytest.raises(FileNotFoundError, match="got 'large', expected one of \\[\\]"):
        pretrained.pretrained("large")
    monkeypatch.setattr(ship, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="expected at most 100"):
        ship.ship(experiment, 0, "small", shelf, pieces)
    assert not shelf.exists()


def test_bits_are_those_of_the_logits_and_characters_share_them_by_their_bytes(model):
    whole = model.config.vocab_size > 256
    ids = torch.tensor(byte_pairs().encode(TEXT) if whole else list(TEXT.encode()))
    with torch.no_grad():
        logits, _ = model(torch.cat([torch.tensor([reading.START]), ids[:-1]])[None])
    expected = -logits[0].double().log_softmax(-1).gather(1, ids[:, None])[:, 0] / torch.tensor(2.0).double().log()
    bits, guess = reading.read_tokens(model, ids)
    torch.testing.assert_close(bits, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(guess, logits[0].argmax(-1))
    by_character, right = reading.read_text(model, TEXT)
    assert len(by_character) == len(right) == len(TEXT)
    torch.testing.assert_close(by_character.sum(), bits.sum().float(), rtol=1e-5, atol=1e-3)
    if whole:  # "The" is one piece or more; its bits lie evenly on its letters
        first = len(byte_pairs().pieces[ids[0]])
        torch.testing.assert_close(by_character[:first], (bits[:1] / first).float().expand(first), rtol=1e-5, atol=1e-4)
    else:
        assert TEXT[6] == "ï"
        torch.testing.assert_close(by_character[6], bits[6:8].sum().float(), rtol=1e-5, atol=1e-4)
    assert reading.read_text(model, "")[0].shape == (0,)


def test_writing_can_be_forbidden_from_a_character_on(model):
    half = TEXT.index("naïve", 20) - 1  # where a piece begins
    all_along, halfway, never = (
        reading.read_text(model, TEXT, *options)[0] for options in ((1.0, None), (1.0, half), (0.0, None))
    )
    torch.testing.assert_close(halfway[:half], all_along[:half], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(halfway[half:], all_along[half:], atol=1e-4)
    assert not torch.allclose(halfway[:half], never[:half], atol=1e-4)


def test_writing_is_scaled_for_a_while_only(model):
    memories = [block.mixer.memory for block in model.blocks]
    before = [m.max_theta for m in memories]
    with pytest.raises(RuntimeError, match="on purpose"), pretrained.scaled_steps(model, 0.5):
        assert [m.max_theta for m in memories] == [0.5 * x for x in before]
        raise RuntimeError("on purpose")
    assert [m.max_theta for m in memories] == before


def test_reading_leaves_the_weights_alone(model):
    def print_of():
        return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()

    before = print_of()
    reading.read_text(model, TEXT)
    assert print_of() == before


def test_the_strip_is_read_by_a_model(model):
    strip = SurpriseStrip(TEXT, model=model)
    assert strip.values["theta"] == 1.0 and "writes × 1.00" in strip.alt_text and "bits" in strip.caption
    surprise, _ = strip.read(TEXT, 1.0)
    torch.testing.assert_close(surprise, reading.read_text(model, TEXT)[0])
    pictures = {strip.png}
    for change in ({"theta": 0.0}, {"theta": 2.0}, {"text": "", "theta": 1.0}, {"text": "🙂\ud800x"}):
        strip.set(**change)
        pictures.add(strip.png)
    assert len(pictures) == 5 and strip._message.value == ""
