import pytest
import torch

from titans_mini.viz.widgets import SurpriseStrip
from titans_mini.viz.widgets.strip import COLUMNS, FROZEN, LEARNING, LONGEST, RHYME, RIGHT, ROWS, SENTENCE, _smooth

TEXTS = {
    "empty": "",
    "one character": "x",
    "two": "ab",
    "umlauts and emoji": "äöü ÄÖÜ ß 🙂🙂🙂 漢字 “quoted” — …",
    "controls": "\t\n\r\u00a0\u200b\x00",
    "one line": "a" * COLUMNS,
    "a full strip": "abc" * (COLUMNS * ROWS // 3),
    "one more": "abc" * (COLUMNS * ROWS // 3) + "d",
    "the longest": "the cat sat on the mat. " * (LONGEST // 24 + 1),
    "too long": "z" * (3 * LONGEST),
}


@pytest.fixture
def strip():
    return SurpriseStrip()


def readings(strip):
    return strip.read(strip.values["text"][:LONGEST], strip.values["theta"])


def test_it_starts_with_a_rhyme_whose_new_words_are_the_surprise(strip):
    surprise, right = readings(strip)
    assert surprise[0] == 1 and len(surprise) == len(right) == len(RHYME)
    new_words = ("cat that kill", "dog that worr", "cow with the crumpled")
    news = [RHYME.index(words) + i for words in new_words for i in range(4)]
    known = [RHYME.rindex(word) + i for word in ("Jack built", "that lay in") for i in range(9)]
    assert surprise[news].mean() > 2 * surprise[known].mean()
    assert f"{len(RHYME)} characters" in strip.alt_text and "guessed right" in strip.alt_text


def test_every_preset_has_a_picture_and_a_sentence_of_its_own(strip):
    seen = set()
    for name in strip.presets:
        strip.preset(name)
        seen.add((strip.png, strip.alt_text))
        assert 0 < len(strip.values["text"]) <= COLUMNS * ROWS, "the strip shows all of a preset"
    assert len({picture for picture, _ in seen}) == len({text for _, text in seen}) == len(strip.presets)


def test_what_the_presets_promise(strip):
    last = {}
    for name in strip.presets:
        strip.preset(name)
        surprise, _ = readings(strip)
        last[name] = surprise[-len(surprise) // 4 :].mean()
    assert last["one sentence, five times"] < 0.4 < last["English"] < 1 < last["random letters"]
    strip.preset("one changed letter")
    surprise, _ = readings(strip)
    fourth, fifth = surprise.reshape(5, -1)[3:]
    changed = SENTENCE.index("expect") + 2
    assert changed <= (fifth - fourth).argmax() <= changed + 4


def test_every_control_changes_the_picture_and_the_sentence(strip):
    for name, value in {"text": "another text", "theta": 0.5, "colour": FROZEN}.items():
        picture, sentence = strip.png, strip.alt_text
        strip._controls[name].value = value
        assert strip.png != picture and strip.alt_text != sentence, name


def test_each_colour_is_another_picture(strip):
    pictures = set()
    for colour in (LEARNING, FROZEN, RIGHT):
        strip.set(colour=colour)
        pictures.add(strip.png)
        assert colour in strip.alt_text
    assert len(pictures) == 3


@pytest.mark.parametrize("theta", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_every_step_size_draws(strip, theta):
    strip.set(theta=theta)
    surprise, _ = readings(strip)
    assert surprise.isfinite().all() and f"θ = {theta:.2f}" in strip.alt_text
    if theta == 0:
        assert torch.equal(surprise, torch.ones_like(surprise))


@pytest.mark.parametrize("colour", [LEARNING, FROZEN, RIGHT])
@pytest.mark.parametrize("name", TEXTS)
def test_any_text_draws_and_a_reset_gives_the_same_bytes(strip, name, colour):
    start = strip.png
    strip.set(text=TEXTS[name], colour=colour)
    assert strip.png != start and strip._message.value == ""
    drawn = strip.png
    strip.reset()
    assert strip.png == start
    strip.set(text=TEXTS[name], colour=colour)
    assert strip.png == drawn, "nothing of the texts in between is left"


def test_what_is_said_about_odd_texts(strip):
    strip.set(text="")
    assert "Nothing to read" in strip.alt_text
    strip.set(text="x")
    assert ": 1 character;" in strip.alt_text
    strip.set(text="too long " * 1000)
    assert f"{LONGEST:,} of 9,000 characters ({COLUMNS * ROWS} shown)" in strip.alt_text
    assert f"the last {9000 - LONGEST:,} characters were cut off" in strip.alt_text
    assert f"{LONGEST:,} of 9,000" in strip.title.get_text()


def test_frozen_halfway_learns_before_and_not_behind(strip):
    text = 6 * "a sentence again and again. "
    learning, frozen = (strip.read(text, 0.2, frozen=f)[0] for f in (False, True))
    half = len(text) // 2
    assert torch.equal(learning[: half + 1], frozen[: half + 1])  # the first frozen write shows one character later
    assert frozen[-28:].mean() > learning[-28:].mean()


def test_a_text_of_your_own_is_the_start():
    strip = SurpriseStrip(text="mine", theta=0.4)
    assert strip.values["text"] == "mine" and strip.values["theta"] == 0.4
    strip.preset("English")
    strip.reset()
    assert strip.values["text"] == "mine"


def test_smoothing_is_the_mean_of_the_last_numbers():
    x = torch.arange(100, dtype=torch.float64)
    smooth = _smooth(x)
    assert len(smooth) == 100 and smooth[0] == 0 and smooth[1] == 0.5
    assert smooth[-1] == x[-40:].mean() and len(_smooth(x[:0])) == 0
