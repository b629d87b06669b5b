"""What a run shows and leaves: lines or a bar, a log, trackers, a curve and a card."""

import json
import sys
import types

import pytest
import torch

from titans_mini.train import History
from titans_mini.train.reporter import Screen, card, draw, trackers, used_memory


def feed(screen, steps=4):
    with screen.running(0, steps):
        for step in range(1, steps + 1):
            screen.step(step, 2.0 / step, 1e-3, 0.5, 100)
        screen.score(steps, {"loss": 0.25})


def test_where_there_is_no_terminal_there_are_lines(capsys, tmp_path):
    feed(Screen(tmp_path, every=2))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 2 of 4", "step 4 of 4"]
    assert "loss 0.500" in lines[1] and "tok/s" in lines[1] and "left" in lines[1]
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3, 4] and {
        "step": 4,
        "scores": {"loss": 0.25},
    } in log


def test_the_share_of_the_hardware_is_shown_where_it_is_known(tmp_path, capsys):
    feed(Screen(tmp_path, every=1, flops=1e6, peak=1e12))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    step = next(line for line in log if "mfu" in line)
    assert step["mfu"] == pytest.approx(step["tokens_per_second"] * 1e-6) and "MFU" in capsys.readouterr().out


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path):
    screen = Screen(tmp_path)

    class Full:
        def write(self, text):
            raise OSError("no space left on device")

    screen._log = Full()
    feed(screen)


def test_an_output_that_nobody_reads_does_not_end_the_run(tmp_path, monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    screen = Screen(tmp_path, every=1)
    with screen.running(0, 4):
        monkeypatch.setattr(sys, "stdout", Closed())
        monkeypatch.setattr(sys, "stderr", Closed())
        screen.step(1, 2.0, 1e-3, 0.5, 100)
        screen.say("a sentence")
        monkeypatch.undo()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_trackers_are_told_the_same_numbers(tmp_path, monkeypatch):
    told = []

    class SummaryWriter:
        def __init__(self, folder):
            assert folder == str(tmp_path / "tensorboard")

        def add_scalar(self, name, value, step):
            told.append((step, name, value))

    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = SummaryWriter
    track = types.ModuleType("trackio")
    track.init = lambda **options: told.append(options)
    track.log = lambda numbers, step: told.append((step, numbers))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "trackio", track)
    feed(Screen(tmp_path, trackers=trackers(True, True, tmp_path, "one", {"lr": 1})))
    assert told[0] == {"project": "titans_mini", "name": "one", "config": {"lr": 1}}
    assert (1, "loss", 2.0) in told and (4, "validation/loss", 0.25) in told
    assert any(isinstance(x[1], dict) and x[0] == 2 and x[1]["loss"] == 1.0 for x in told[1:])


def test_the_curve_and_the_card_hold_what_the_history_holds(tmp_path):
    history = History([4.0, 3.0, 2.0], [{"step": 3, "loss": 2.5}], 7.0)
    draw(history, tmp_path / "loss.svg")
    assert "<svg" in (tmp_path / "loss.svg").read_text()
    text = card({"model": "lmm, 7 parameters", "data": "a.txt"}, history, "python -m titans_mini.train lmm-tiny")
    for words in ("# lmm, 7 parameters", "| data | a.txt |", "step 3: 2.5000", "loss.svg", "from_pretrained"):
        assert words in text
    assert "no step yet" in card({"model": "x"}, History(), "")


def test_memory_is_measured():
    assert used_memory(torch.device("cpu")) > 50e6
