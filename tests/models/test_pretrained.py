"""Models on the shelf: found, loaded without pickle, read byte by byte, with their writing scaled for a while."""

import hashlib
import json

import pytest
import torch

from titans_mini import TitansConfig, TitansLM
from titans_mini.models import pretrained
from titans_mini.train import ship
from titans_mini.viz.widgets import SurpriseStrip

TEXT = "The naïve clock — stopped. " * 2


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    small = {"dim": 16, "heads": 1, "layers": 1, "chunk_size": 4, "memory_depth": 1, "norm": False, "residual": False}
    model = TitansLM(TitansConfig.preset("lmm-tiny", **small)).eval()
    torch.nn.init.normal_(model.embedding.weight, 0, 0.5)  # opinions that differ
    with torch.no_grad():
        model.blocks[0].mixer.memory.to_output.weight.mul_(20)  # and a memory that is heard
    return model


@pytest.fixture
def shelf(model, tmp_path, monkeypatch):
    """A shelf with one model on it, and the folder of the run that made it."""
    run, shelf = tmp_path / "run", tmp_path / "shelf"
    model.save_pretrained(run)
    history = {"losses": [5.0, 4.0, 3.0], "scores": [], "seconds": 1.5}
    made = {"identity": {"train": {"steps": 3, "seed": 0}, "data": {"data": "english", "batch": 1}}, "history": history}
    (run / "run.json").write_text(json.dumps(made))
    monkeypatch.setattr(pretrained, "FOLDERS", (tmp_path / "elsewhere", shelf))
    ship.ship(run, "small", "python -m titans_mini.train --out run", "abc1234", shelf)
    return shelf


def test_what_is_shipped_is_loaded_and_says_how_it_was_made(model, shelf):
    again = pretrained.pretrained("small")
    assert again.config == model.config and not again.training
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(again(tokens)[0], model(tokens)[0])
    assert {path.suffix for path in (shelf / "small").iterdir()} == {".json", ".safetensors"}
    made = pretrained.training_of("small")
    assert made["curve"] == [[1, 5.0], [2, 4.0], [3, 3.0]] and made["commit"] == "abc1234"
    assert {"command", "data", "train", "seconds", "date", "hardware"} <= set(made)
    weights = (shelf / "small" / "model.safetensors").read_bytes()
    assert made["sha256"] == hashlib.sha256(weights).hexdigest()


LINE = "Quimby Vorlat of Exmoor "  # nobody has these names, so no training text does


def test_the_model_that_comes_along_learns_while_it_reads():
    """What notebook 00 begins with, on the shipped weights themselves."""
    folder, made = pretrained.folder_of("lmm-bytes"), pretrained.training_of("lmm-bytes")
    weights = (folder / "model.safetensors").read_bytes()
    assert len(weights) <= ship.MAX_BYTES and hashlib.sha256(weights).hexdigest() == made["sha256"]
    assert "titans_mini.train" in made["command"] and made["curve"][-1][0] == made["train"]["steps"]
    model = pretrained.pretrained()
    bits = {factor: pretrained.read_text(model, 3 * LINE, factor)[0].view(3, -1).mean(1) for factor in (1.0, 0.0)}
    assert bits[1.0][2] < 0.6 * bits[1.0][0] and bits[0.0][2] > 0.9 * bits[0.0][0]
    assert bits[1.0][0] < 8  # and it knows English letters from random bytes


def test_what_is_too_large_or_unknown_is_refused(shelf, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="got 'large', expected one of \\['small'\\]"):
        pretrained.pretrained("large")
    monkeypatch.setattr(ship, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="expected at most 100"):
        ship.ship(tmp_path / "run", "small", "", "", shelf)


def test_bits_are_those_of_the_logits_and_characters_add_their_bytes(model):
    ids = torch.tensor(list(TEXT.encode()))
    with torch.no_grad():
        logits, _ = model(torch.cat([torch.tensor([pretrained.START]), ids[:-1]])[None])
    expected = -logits[0].double().log_softmax(-1).gather(1, ids[:, None])[:, 0] / torch.tensor(2.0).double().log()
    bits, guess = pretrained.read_bytes(model, ids)
    torch.testing.assert_close(bits, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(guess, logits[0].argmax(-1))
    by_character, right = pretrained.read_text(model, TEXT)
    assert len(by_character) == len(right) == len(TEXT) < len(ids)
    assert TEXT[6] == "ï"
    torch.testing.assert_close(by_character[6], bits[6:8].sum().float(), rtol=1e-5, atol=1e-4)
    assert pretrained.read_text(model, "")[0].shape == (0,)


def test_writing_can_be_forbidden_from_a_character_on(model):
    half = len(TEXT) // 2
    all_along, halfway, never = (
        pretrained.read_text(model, TEXT, *options)[0] for options in ((1.0, None), (1.0, half), (0.0, None))
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
    pretrained.read_text(model, TEXT)
    assert print_of() == before


def test_the_strip_is_read_by_a_model(model):
    strip = SurpriseStrip(TEXT, model=model)
    assert strip.values["theta"] == 1.0 and "writes × 1.00" in strip.alt_text and "bits" in strip.caption
    surprise, _ = strip.read(TEXT, 1.0)
    torch.testing.assert_close(surprise, pretrained.read_text(model, TEXT)[0] / 8)
    pictures = {strip.png}
    for change in ({"theta": 0.0}, {"theta": 2.0}, {"text": "", "theta": 1.0}, {"text": "🙂\ud800x"}):
        strip.set(**change)
        pictures.add(strip.png)
    assert len(pictures) == 5 and strip._message.value == ""
