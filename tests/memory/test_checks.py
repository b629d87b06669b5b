"""Gates outside [0, 1]: at once on a CPU, by the next call on a GPU; which of them travels how, without a GPU."""

from collections import deque

import pytest
import torch

from titans_mini.memory import checks

GPU = torch.cuda.is_available()


class Event:
    """A stand-in for a CUDA event: arrived, or not yet."""

    def __init__(self, arrived):
        self.arrived, self.waited_for = arrived, False

    def query(self):
        return self.arrived

    def synchronize(self):
        self.waited_for = True


@pytest.fixture
def sent(monkeypatch):
    """Ends on their way from a made-up GPU."""
    found = deque()
    monkeypatch.setitem(checks._pending, "gpu", found)

    def send(low, high, arrived):
        found.append(checks._Pending(("alpha",), torch.tensor([low, high]), Event(arrived)))

    return found, send


@pytest.mark.parametrize(
    ("value", "message"), [(float("nan"), "alpha: got NaN"), (1.5, r"alpha: got values in \[0.5, 1.5\]")]
)
def test_on_a_cpu_at_once(value, message):
    good = torch.full((2, 3), 0.5)
    checks.check_gate_ranges({"alpha": good, "eta": good.double(), "theta": good})
    bad = good.clone()
    bad[1, 2] = value
    with pytest.raises(ValueError, match=message) as error:
        checks.check_gate_ranges({"alpha": bad, "eta": good})
    assert "earlier" not in str(error.value)


def test_ends_of_double_precision_are_not_rounded():
    high = torch.tensor([0.5, 1 + 1e-12], dtype=torch.float64)
    with pytest.raises(ValueError, match="theta: got values"):
        checks.check_gate_ranges({"alpha": torch.rand(3), "theta": high})


def test_what_has_not_arrived_is_not_waited_for(sent):
    found, send = sent
    send(0.0, 2.0, arrived=False)
    checks.check_earlier_calls("gpu")
    assert len(found) == 1 and not found[0].arrived.waited_for


def test_what_has_arrived_is_judged_and_the_rest_stays(sent):
    found, send = sent
    for high, arrived in ((1.0, True), (2.0, True), (3.0, True), (1.0, False)):
        send(0.0, high, arrived)
    with pytest.raises(ValueError, match=r"alpha: got values in \[0.0, 2.0\].*earlier call on this GPU"):
        checks.check_earlier_calls("gpu")
    with pytest.raises(ValueError, match=r"\[0.0, 3.0\]"):
        checks.check_earlier_calls("gpu")
    checks.check_earlier_calls("gpu")
    assert len(found) == 1


def test_asked_to_wait_it_waits(sent):
    found, send = sent
    send(float("nan"), float("nan"), arrived=False)
    event = found[0].arrived
    with pytest.raises(ValueError, match="alpha: got NaN.*earlier"):
        checks.check_earlier_calls("gpu", wait=True)
    assert event.waited_for and not found


def test_no_more_are_on_their_way_than_so_many(sent):
    found, send = sent
    for _ in range(checks.MOST):
        send(0.0, 1.0, arrived=False)
    checks.check_earlier_calls("gpu")
    assert len(found) == checks.MOST - 1


@pytest.mark.skipif(not GPU, reason="no GPU here: only there gates are judged later")
def test_on_a_gpu_by_the_next_call():
    good = torch.full((2, 3), 0.5, device="cuda")
    device = good.device
    checks.check_earlier_calls(device, wait=True)
    checks.check_gate_ranges({"alpha": good + 1, "eta": good})
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match="alpha: got values.*earlier call on this GPU"):
        checks.check_gate_ranges({"alpha": good, "eta": good})
    checks.check_gate_ranges({"alpha": good, "eta": good})
    checks.check_earlier_calls(device, wait=True)
