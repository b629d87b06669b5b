"""Evenings: who is here and who has gone, and the loop that reads them."""

import pytest
import torch
import torch.nn.functional as F

from titans_mini import MemoryNet, neural_memory
from titans_mini.data.evening import NOBODY, answers, attend, evening, evenings, spell


def test_hooks_are_reused_and_guests_leave():
    e = evening(0, visits=100, hooks=4, every=10)
    assert len(e.names) == len(set(e.names)) == 4 + 9 and e.keys.shape == (13, 26)
    assert (e.here[torch.arange(100), e.hook] == e.who).all(), "whoever speaks is on the hook"
    assert not any({*here} & {*gone} - {NOBODY} for here, gone in zip(e.here.tolist(), e.gone.tolist(), strict=True))
    assert e.gone[9].tolist() == [NOBODY] * 4 and e.gone[10, 0] == e.here[9, e.hook[10]]
    for guest, (arrival, departure) in enumerate(e.stays):
        here = (e.here == guest).any(1)
        assert here[arrival:departure].all() and here.sum() == departure - arrival


def test_closing_time_empties_the_room():
    e = evening(1, visits=60, hooks=3, every=10**6, closing=20)
    assert len(e.names) == 9 and e.here[20].tolist().count(NOBODY) == 2
    assert sorted(e.gone[20].tolist()) == [0, 1, 2] and sorted(e.gone[40].tolist()) == [3, 4, 5]


def test_the_same_seed_is_the_same_evening_and_stacks():
    one, both = evening(5, visits=50), evenings([4, 5], visits=50)
    assert both.names[1] == one.names
    assert all(torch.equal(stacked[1], single) for stacked, single in zip(both[1:], one[1:], strict=True))
    assert torch.equal(both.visits[0][1], one.visits[0])


@pytest.mark.parametrize("alpha", [0.0, 0.1, "per visit"])
def test_the_loop_is_the_library(alpha):
    e = evening(2, visits=60)
    ramp = torch.linspace(0, 1, 60, dtype=torch.float64)
    gate = ramp if alpha == "per visit" else torch.full_like(ramp, alpha)
    k, v = e.visits
    k4, v4 = k[None, None], F.pad(v, (0, 21))[None, None]
    net = MemoryNet(26, depth=1, residual=False, norm=False)
    gates = [g.expand(1, 1, 60) for g in (gate, gate.new_tensor(0.5), gate.new_tensor(0.2))]
    y, _ = neural_memory(k4, k4, v4, *gates, net=net, chunk_size=1)
    books = attend(k, v, gate, 0.5, 0.2)
    torch.testing.assert_close((k[:, None] @ books)[:, 0], y[0, 0, :, :5], rtol=0, atol=1e-12)


def test_who_is_asked_for_answers_and_nobody_is_nan():
    e = evening(3, visits=40)
    books = attend(*e.visits, 0, 0, 0.5)
    said = answers(e.gone, e.keys, books)
    assert said.shape == (40, 5, 5) and said[0].isnan().all()
    torch.testing.assert_close(said[30, 0], e.keys[e.gone[30, 0]] @ books[30])


def test_a_name_is_its_letters():
    anna, hanna = spell("Anna", "Hanna")
    assert anna @ hanna == pytest.approx(0.943, abs=1e-3) and anna.norm() == pytest.approx(1)
