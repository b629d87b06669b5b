"""The two-loop stepper, without a kernel: every preset and control, and that it shows what the model would answer."""

import copy

import ipywidgets
import numpy as np
import pytest
import torch
from torch import nn

from titans_mini import NeuralMemory
from titans_mini.viz import palette
from titans_mini.viz.widgets import TwoLoopStepper

NAMES, HOOKS, PAIRS, DIM = 5, 7, 4, 8
WORDS = ["Ada", "4", "Ben", "1", "Cleo", "6", "Dan", "0"]
TOKENS = torch.tensor([0, NAMES + 4, 1, NAMES + 1, 2, NAMES + 6, 3, NAMES + 0])


class Small(nn.Module):
    """As in notebook 06, only smaller."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(NAMES + HOOKS, DIM)
        matrix = {"heads": 1, "depth": 1, "residual": False, "norm": False, "anchor": "token", "conv_size": 2}
        self.memory = NeuralMemory(DIM, **matrix)
        self.read_out = nn.Linear(DIM, HOOKS)

    def forward(self, tokens, state=None):
        y, state = self.memory(self.embed(tokens), state)
        return self.read_out(y), state


def parameters(step):
    """Stages of a training that never was; M₀ is not zero in the later ones."""
    with torch.random.fork_rng():
        torch.manual_seed(step)
        model = Small()
        if step:
            nn.init.normal_(model.memory.initial_weights[0], std=0.3)
            nn.init.normal_(model.read_out.weight, std=2.0)
    return model.state_dict()


@pytest.fixture(scope="module")
def model():
    return Small()


@pytest.fixture(scope="module")
def history():
    return {0: (0.1, parameters(0)), 50: (0.45, parameters(50)), 100: (0.9, parameters(100))}


@pytest.fixture(scope="module")
def made(model, history):
    return TwoLoopStepper(model, history, TOKENS, WORDS, NAMES)


@pytest.fixture
def widget(made):
    made.reset()
    return made


def test_every_control_changes_the_picture_and_the_sentence(widget):
    for name, value in {"step": 50, "t": 3, "write": False}.items():
        picture, sentence = widget.png, widget.alt_text
        widget._controls[name].value = value
        assert widget.png != picture and widget.alt_text != sentence


def test_the_presets_show_different_pictures_and_reset_returns(widget):
    first, sentence = widget.png, widget.alt_text
    pictures = {}
    for name in widget.presets:
        widget.preset(name)
        pictures[name] = widget.png
    assert len(set(pictures.values())) == len(pictures) == 5
    assert pictures["trained"] == first  # it opens at the end of both loops
    widget.reset()
    assert widget.png == first and widget.alt_text == sentence


def test_the_half_way_preset_is_the_stage_nearest_to_one_half(widget):
    widget.preset("half way")
    assert widget.values == {"step": 50, "t": 8, "write": True}


def test_the_ends_of_every_slider(widget, history):
    for step in history:
        for t in (0, len(WORDS)):
            for write in (True, False):
                widget.set(step=step, t=t, write=write)
                assert f"Outer step {step}, after token {t} of 8" in widget.alt_text
                assert widget._message.value == ""


@pytest.mark.parametrize("step", [0, 100])
@pytest.mark.parametrize("t", [0, 3, 8])
def test_chances_are_what_the_model_answers_when_asked_at_that_moment(widget, model, history, step, t):
    asked = copy.deepcopy(model)
    asked.load_state_dict(history[step][1])
    for guest in range(PAIRS):
        with torch.no_grad():
            logits, _ = asked(torch.cat([TOKENS[:t], TOKENS[2 * guest : 2 * guest + 1]])[None])
        chance = logits[0, -1].softmax(-1)
        hook = int(TOKENS[2 * guest + 1]) - NAMES
        run = widget.runs[step, True]
        assert run["chance"][t, guest] == pytest.approx(chance[hook].item(), abs=1e-5)
        assert run["right"][t, guest] == (int(chance.argmax()) == hook)


def test_what_is_written_starts_at_nothing_and_is_the_memory_less_its_start(widget, model, history):
    asked = copy.deepcopy(model)
    asked.load_state_dict(history[100][1])
    with torch.no_grad():
        _, state = asked(TOKENS[None])
    expected = state.memory.weights[0][0, 0] - asked.memory.initial_weights[0][0].detach()
    run = widget.runs[100, True]
    assert not run["written"][0].any()
    np.testing.assert_allclose(run["written"][8], expected.numpy(), atol=1e-5)
    widget.set(step=100, t=8)
    np.testing.assert_allclose(np.asarray(widget.memory.image.get_array()), expected.numpy(), atol=1e-5)


def test_the_push_of_the_first_token_is_its_step_times_its_gradient(widget, model, history):
    asked = copy.deepcopy(model)
    asked.load_state_dict(history[100][1])
    with torch.no_grad():
        x = asked.embed(TOKENS[None, :1])
        _, k, v, _ = (
            z[0, 0, 0] if z.dim() == 4 else z for z in asked.memory.project(x, asked.memory.init_state(1).conv)
        )
        theta = asked.memory.gates(x)[2][0, 0, 0, 0]
        error = k @ asked.memory.initial_weights[0][0] - v
    expected = theta * 2 * torch.outer(k, error).norm()
    assert widget.runs[100, True]["push"][0] == pytest.approx(expected.item(), rel=1e-4)


def test_without_the_inner_loop_nothing_is_pushed(widget):
    widget.set(step=100, write=False)
    run = widget.runs[100, False]
    assert not run["push"].any() and "switched off (θ = 0)" in widget.alt_text
    assert np.linalg.norm(run["written"][8]) < 0.05 * np.linalg.norm(widget.runs[100, True]["written"][8])  # only α
    assert all(bar.get_height() == 0 for bar in widget.push.container)


def test_only_tokens_already_read_push_and_only_told_guests_are_counted(widget):
    widget.set(step=100, t=3)
    heights = [bar.get_height() for bar in widget.push.container]
    assert all(heights[:3]) and not any(heights[3:])
    served = int(widget.runs[100, True]["right"][3][:1].sum())
    assert widget.served.get_text() == f"asked now: {served} of 1 told guests right"
    assert [bar.get_alpha() for bar in widget.guests.container] == [1.0, 0.35, 0.35, 0.35]


def test_right_answers_are_blue_and_wrong_ones_grey(widget):
    run = widget.runs[100, True]
    widget.set(step=100, t=8)
    for bar, right in zip(widget.guests.container, run["right"][8], strict=True):
        rgb = palette.MEMORY if right else palette.MUTED
        assert tuple(round(255 * z) for z in bar.get_facecolor()[:3]) == tuple(bytes.fromhex(rgb[1:]))


def test_two_sliders_and_a_box(widget):
    kinds = [type(control) for control in widget._controls.values()]
    assert kinds == [ipywidgets.SelectionSlider, ipywidgets.IntSlider, ipywidgets.Checkbox]


def test_the_model_is_left_as_it_was(model, history):
    before = copy.deepcopy(model.state_dict())
    TwoLoopStepper(model, history, TOKENS, WORDS, NAMES)
    assert model.memory.max_theta == 1.0
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize("words", [WORDS[:-1], [*WORDS, "Eve"]])
def test_a_word_for_each_token_is_asked_for(model, history, words):
    with pytest.raises(ValueError, match=f"got 8 tokens and {len(words)} words"):
        TwoLoopStepper(model, history, TOKENS, words, NAMES)


def test_half_a_pair_is_refused(model, history):
    with pytest.raises(ValueError, match="got 7 tokens and 7 words"):
        TwoLoopStepper(model, history, TOKENS[:-1], WORDS[:-1], NAMES)
