"""The drawings of lessons 06 and 07 and the blame map, without a kernel."""

import numpy as np
import pytest

from titans_mini.viz import draw, figure, png
from titans_mini.viz.widgets import BlameMap

NAMES, STEPS = ["Anna", "Hanna", "Dana", "Bob"], (0, 10, 20)


def inside(ax):
    ax.figure.canvas.draw()
    frame = ax.get_window_extent()
    return [
        t.get_text() for t in ax.texts
        if t.get_text() and not (frame.x0 - 2 <= t.get_window_extent().x0 and t.get_window_extent().x1 <= frame.x1 + 2)
    ]  # fmt: skip


@pytest.mark.parametrize("cut", ["", "surprise", "state"])
def test_the_loops_stay_in_their_frame_and_show_the_cut(cut):
    fig, ax = figure(7.2, 3.6)
    draw.loops_with_gradient(ax, cut)
    assert inside(ax) == []
    scissors = sum(t.get_text() == "✂" for t in ax.texts)
    assert scissors == {"": 0, "surprise": 3, "state": 3}[cut]


def test_the_layer_and_the_culprits_stay_in_their_frames():
    fig, ax = figure(7.2, 3.3)
    draw.layer_parts(ax)
    assert inside(ax) == []
    fig, ax = figure(7.2, 2.6)
    draw.culprits(ax, [("Anna", 1), ("Hanna", 4)], "Anna", 4, 1, [-0.5, 6.7])
    assert inside(ax) == []
    assert {"hook 4 ✗", "+6.7", "−0.5"} <= {t.get_text() for t in ax.texts}


def test_the_answer_board_counts_the_coats():
    answers = np.eye(4)
    answers[1] = [2, 1, 0, 0]  # Hanna is given Anna's
    fig, ax = figure(4, 3)
    assert draw.answer_board(ax, answers, NAMES, "new") == 3
    assert "Anna’s coat" in {t.get_text() for t in ax.texts} and "3 of 4 coats found" in ax.get_title(loc="left")


def test_letter_weights_go_up():
    fig, ax = figure(4, 2)
    draw.letter_weights(ax, [2.0, 1.0, 3.0], "abc", mark="c")
    assert [t.get_text() for t in ax.texts] == ["B", "A", "C"]


def test_a_blame_board_writes_signs_and_updates():
    fig, ax = figure(4, 3)
    board = draw.blame_board(ax, [[1.0, -1.0]], ["Anna", "Bob"], "t", signed=True, limit=1.0)
    assert [t.get_text() for t in board.texts.values()] == ["+", "−"]
    board.update([[-1.0, 0.0]])
    assert [t.get_text() for t in board.texts.values()] == ["−", ""]


@pytest.fixture(scope="module")
def made():
    g = np.random.default_rng(0)
    history = {}
    for i, step in enumerate(STEPS):
        said = np.array([3, 3, 3, 3] if i == 0 else [0, 1, 2, 3] if i == 2 else [0, 0, 2, 3])
        run = {"key": g.random((4, 4)), "value": g.random((4, 4)), "gate θ": g.normal(size=(4, 4)), "said": said}
        history[step] = run
    return BlameMap(history, NAMES)


def test_every_control_and_preset_changes_the_blame_map(made):
    made.reset()
    first, sentence = made.png, made.alt_text
    for name, value in {"step": 20, "part": "key", "guest": "Hanna"}.items():
        made.reset()
        made._controls[name].value = value
        assert made.png != first and made.alt_text != sentence
    for name in made.presets:
        made.preset(name)
    made.reset()
    assert made.png == first
    assert "Anna is given Bob's coat" in sentence and "1 of 4 coats" in sentence


def test_signs_are_written_for_the_gate_alone(made):
    made.set(part="key")
    assert not any(t.get_text() for t in made.board.texts.values())
    made.set(part="gate θ")
    assert any(t.get_text() for t in made.board.texts.values())
    made.reset()


def test_the_blame_map_refuses_names_that_do_not_fit():
    run = {"gate θ": np.zeros((2, 3)), "key": np.zeros((2, 3)), "value": np.zeros((2, 3)), "said": [0, 1]}
    with pytest.raises(ValueError, match="a name per write"):
        BlameMap({0: run}, NAMES)


def test_nothing_is_drawn_outside_a_png():
    fig, ax = figure(7.2, 3.6)
    draw.loops_with_gradient(ax)
    assert png(fig) == png(fig)
