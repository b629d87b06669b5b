"""The battery for sequence layers: ours and others pass it, and each kind of broken layer fails by name."""

import pickle
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from titans_mini import NeuralMemory, TitansConfig, TitansLM
from titans_mini.models.attention import Attention
from titans_mini.models.baselines import DeltaMemory
from titans_mini.models.config import VARIANTS
from titans_mini.testing import CHECKS, SequenceLayerError, check_sequence_layer

BOTH = (torch.float64, torch.float32)
MATRIX = {"depth": 1, "residual": False, "norm": False}
MEMORIES = {
    "matrix": MATRIX,
    "deep": {"depth": 2},
    "online": {**MATRIX, "anchor": "token"},
    "channel": {"forget": "channel"},
    "read before": {"read": "before"},
    "frozen gates, a floor": {"learn_gates": False, "min_half_life": 8.0},
}
ATTENTIONS = {"full": {}, "window": {"window": 5}, "segment": {"segment": 6}}
ATTENTIONS |= {f"{name}, convolution": {**options, "conv_size": 3} for name, options in ATTENTIONS.items()}
EVERYTHING = {"writes": "x", "sees": "own", "attention_conv": 3, "attention_heads": 4, "heads": 1, "min_half_life": 8.0}
OTHERS = [(v, EVERYTHING | {"learn_gates": False}) for v in VARIANTS]
OTHERS += [("mac", {"writes": "x+y", "long_term": 4, "sees": "own"}), ("mac", {"writes": "x", "attention_conv": 2})]


# -- layers that pass --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", MEMORIES.values(), ids=MEMORIES)
def test_neural_memory_passes(options):
    check_sequence_layer(lambda: NeuralMemory(8, 2, chunk_size=4, **options), dtype=BOTH)


@pytest.mark.parametrize("gated", [False, True])
def test_delta_memory_passes(gated):
    check_sequence_layer(lambda: DeltaMemory(8, 2, gated=gated, chunk_size=4), dtype=BOTH)


@pytest.mark.parametrize("options", ATTENTIONS.values(), ids=ATTENTIONS)
def test_attention_passes_all_but_one_check(options):
    """PyTorch's attention adds −∞ to the scores of the future and multiplies its values by 0: NaN survives both."""
    with pytest.raises(SequenceLayerError) as error:
        check_sequence_layer(lambda: Attention(8, 2, **options), dtype=BOTH)
    assert error.value.names == ("past stays clean",)


@pytest.mark.parametrize("variant", VARIANTS)
def test_language_models_pass(variant):
    config = TitansConfig(variant, vocab_size=11, dim=8, window=5, segment=8, chunk_size=4, persistent=2)
    report = check_sequence_layer(lambda: TitansLM(config), vocab_size=11, tokens=18, dtype=BOTH)
    assert report.skipped == {"past stays clean": "tokens are integers and cannot be NaN"}


@pytest.mark.parametrize(("variant", "options"), OTHERS, ids=str)
def test_language_models_with_other_options_pass(variant, options):
    sizes = {"vocab_size": 11, "dim": 8, "window": 5, "segment": 8, "chunk_size": 4, "persistent": 2, "layers": 1}
    config = TitansConfig(variant, **sizes, **options)
    check_sequence_layer(lambda: TitansLM(config), vocab_size=11, tokens=18, dtype=BOTH)


def test_layers_of_pytorch_pass():
    report = check_sequence_layer(lambda: nn.GRU(8, 6, num_layers=2, batch_first=True), dtype=BOTH)
    assert report.passed == tuple(CHECKS) and not report.skipped
    assert report.notes == ("a call of no tokens is refused (RuntimeError)",)
    report = check_sequence_layer(lambda: nn.Linear(5, 3), dim=5)
    assert set(report.skipped) == {"split", "snapshot"} and set(report.passed) == set(CHECKS) - {"split", "snapshot"}


class Fading(nn.Module):
    """A sound layer to break: a fading sum of a shifted input that starts at a learned memory, and positions."""

    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.zeros(8))
        self.to_memory, self.to_output = nn.Linear(16, 8), nn.Linear(8, 8)

    def init_state(self, x):
        return {"h": self.start.expand(len(x), -1).clone(), "last": x.new_zeros(len(x), 8), "position": 0}

    def forward(self, x, state=None):
        if not x.shape[1]:
            return x, self.init_state(x) if state is None else state
        state = state or self.init_state(x)
        shifted = torch.cat([state["last"][:, None], x[:, :-1]], 1)
        h, out = state["h"], []
        for t, write in enumerate(self.to_memory(torch.cat([x, shifted], -1)).tanh().unbind(1)):
            h = self.next_memory(h, write)
            out.append(h * (2 + torch.tensor(float(state["position"] + t)).sin()))
        state = {"h": h, "last": self.keep(x), "position": state["position"] + x.shape[1]}
        return self.to_output(torch.stack(out, 1)), state

    def next_memory(self, h, write):
        return 0.9 * h + write

    def keep(self, x):
        return x[:, -1].clone()


def test_a_state_may_be_a_dictionary():
    assert check_sequence_layer(Fading, dtype=BOTH).passed == tuple(CHECKS)


class RepeatsItsAnswer(Fading):
    """Sound, though its output is one tensor seen many times."""

    def forward(self, x, state=None):
        y, state = super().forward(x, state)
        return y[..., :1].expand(-1, -1, 8), state


def test_an_expanded_output_is_sound():
    assert "snapshot" in check_sequence_layer(RepeatsItsAnswer).passed


# -- layers that are broken --------------------------------------------------------------------------------------------


class LooksAhead(Fading):
    def forward(self, x, state=None):
        y, state = super().forward(x, state)
        return y + 0.01 * nn.functional.pad(x, (0, 0, 0, 1))[:, 1:], state


class LooksAround(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 4, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.gru(x)[0]


class SharesItsMemory(Fading):
    def next_memory(self, h, write):
        return 0.9 * h + write.mean(0, keepdim=True)


class ChangesItsInput(Fading):
    def forward(self, x, state=None):
        return super().forward(x.mul_(2), state)


class ChangesItsState(Fading):
    def next_memory(self, h, write):
        return h.mul_(0.9).add_(write) if not torch.is_grad_enabled() else super().next_memory(h, write)


class ReturnsAParameter(Fading):
    def forward(self, x, state=None):
        y, state = super().forward(x, state)
        return y, {**state, "start": self.start.expand(len(x), -1)}


class ReturnsItsInput(Fading):
    def keep(self, x):
        return x[:, -1]


class ReturnsItsOutput(Fading):
    def forward(self, x, state=None):
        y, state = super().forward(x, state)
        return y, {**state, "answer": y[:, -1:]}


class ChangesItsInputInEvalMode(Fading):
    def forward(self, x, state=None):
        y = super().forward(x, state)
        return y if self.training else (y[0] + 0 * x.detach().mul_(2), y[1])


class Slotted:
    """A state that is neither a container nor a dataclass."""

    __slots__ = ("parts",)

    def __init__(self, parts):
        self.parts = parts


class ChangesADeque(Fading):
    wrap = staticmethod(deque)

    def forward(self, x, state=None):
        state = self.wrap([np.zeros(())]) if state is None else state
        parts = getattr(state, "parts", state)
        y, inner = super().forward(x, parts[1] if len(parts) > 1 else None)
        parts[0] += x.shape[1]
        if len(parts) == 1:
            parts.append(inner)
        parts[1] = inner
        return y, state


class ChangesSlots(ChangesADeque):
    wrap = Slotted


class HasADeadParameter(Fading):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))


class CutsAGradient(Fading):
    def next_memory(self, h, write):
        return 0.9 * h.detach() + write if h.requires_grad else super().next_memory(h, write)


class ForgetsItsPosition(Fading):
    def forward(self, x, state=None):
        return super().forward(x, state and {**state, "position": 0})


class StartsAfreshAfterNothing(Fading):
    def forward(self, x, state=None):
        return super().forward(x, state if x.shape[1] else None)


class MultipliesByZero(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_output = nn.Linear(8, 8)

    def forward(self, x):
        return self.to_output(torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).tril() @ x)


class HidesATensor(Fading):
    def __init__(self):
        super().__init__()
        self.rates = torch.rand(8)

    def next_memory(self, h, write):
        return self.rates * h + write


class KeepsItsLastOutput(Fading):
    def forward(self, x, state=None):
        self.last, state = super().forward(x, state)
        return self.last, state


class Remembers(Fading):
    calls = 0

    def forward(self, x, state=None):
        self.calls += 1
        y, state = super().forward(x, state)
        return y + self.calls // 4 * 1e-6, state


class LosesAnAxis(Fading):
    def forward(self, x, state=None):
        y, state = super().forward(x, state)
        return y.flatten(0, 1), state


BROKEN = {
    LooksAhead: {"causality", "split", "past stays clean"},
    LooksAround: {"causality", "past stays clean"},  # has no state to split
    SharesItsMemory: {"batch"},
    ChangesItsInput: {"inputs"},
    ChangesItsState: {"inputs", "snapshot"},
    ReturnsAParameter: {"snapshot"},
    ReturnsItsInput: {"snapshot"},
    ReturnsItsOutput: {"snapshot"},
    ChangesItsInputInEvalMode: {"inputs"},
    ChangesADeque: {"inputs", "snapshot"},
    ChangesSlots: {"inputs", "snapshot"},
    HasADeadParameter: {"gradients"},
    ForgetsItsPosition: {"split"},
    StartsAfreshAfterNothing: {"split"},
    MultipliesByZero: {"past stays clean"},
    HidesATensor: {"copies"},
    KeepsItsLastOutput: {"copies"},
    LosesAnAxis: {"interface"},
}


@pytest.mark.parametrize(("layer", "names"), BROKEN.items(), ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize("dtype", BOTH, ids=str)
def test_a_broken_layer_fails_by_name(layer, names, dtype):
    with pytest.raises(SequenceLayerError) as error:
        check_sequence_layer(layer, dtype=dtype)
    assert set(error.value.names) == names, error.value


def test_a_past_in_self_is_not_deterministic():
    with pytest.raises(SequenceLayerError) as error:
        check_sequence_layer(Remembers)
    assert error.value.names == ("determinism",)
    assert error.value.report.skipped["split"] == "two equal calls differ already, see determinism"


class DropsOut(Fading):
    def forward(self, x, state=None):
        y, state = super().forward(x, state)
        return nn.functional.dropout(y, 0.1), state


def test_dropout_in_eval_mode_is_called_by_its_name():
    with pytest.raises(SequenceLayerError) as error:
        check_sequence_layer(DropsOut)
    assert error.value.names == ("determinism",)  # and not a mask, or a state, that would be off


def test_every_check_can_fail():
    assert set().union(*BROKEN.values(), {"determinism"}) == set(CHECKS)


def test_a_time_first_layer_is_found():
    with pytest.raises(SequenceLayerError, match=r"- batch .*time before batch \(nn.GRU without batch_first"):
        check_sequence_layer(lambda: nn.GRU(8, 8))


class ReturnsItsWeights(nn.Module):
    """Attention that returns y and its weights, as PyTorch's does: the weights are no state."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)


def test_a_second_output_that_is_no_state_is_named_and_the_report_stays_short():
    with pytest.raises(SequenceLayerError, match="attention weights: return y alone") as error:
        check_sequence_layer(ReturnsItsWeights)
    skipped = [line for line in str(error.value).splitlines() if line.startswith("skipped: ")]
    assert skipped == [f"skipped: {', '.join(list(CHECKS)[1:])}, because the layer cannot be called"]


class Forgets(Fading):
    def forward(self, x, state=None):
        return super().forward(x, None)


def test_a_layer_that_ignores_its_state_is_told_so():
    with pytest.raises(SequenceLayerError, match="23 calls of 1 token .*the layer ignores the state"):
        check_sequence_layer(Forgets)


# -- errors, reports, options ------------------------------------------------------------------------------------------


def test_an_error_says_got_expected_and_cause_and_travels_between_processes():
    with pytest.raises(SequenceLayerError) as error:
        check_sequence_layer(ReturnsAParameter, dtype=BOTH)
    again = pickle.loads(pickle.dumps(error.value))
    for one in (error.value, again):
        assert isinstance(one, AssertionError) and one.names == ("snapshot",) and len(one.failures) == 1
        for part in ("ReturnsAParameter fails snapshot", "got another state['start']", "expected", "Likely cause: the"):
            assert part in str(one)
        assert "passed: interface, determinism" in str(one) and "Start with the first" not in str(one)


def test_an_error_inside_the_layer_is_its_cause():
    with pytest.raises(SequenceLayerError, match="interface.*size.*dim= or vocab_size=") as error:
        check_sequence_layer(Fading, dim=7)
    assert isinstance(error.value.__cause__, RuntimeError) and "causality" in error.value.report.skipped


def test_a_report_reads_well():
    report = check_sequence_layer(lambda: nn.Linear(8, 8), skip={"copies": "it is slow"})
    assert repr(report).splitlines() == [
        "Linear in float64",
        "passed: interface, determinism, causality, batch, inputs, past stays clean, gradients",
        "skipped: copies, because it is slow",
        "skipped: split, because the layer returns no state to carry",
        "skipped: snapshot, because the layer returns no state to keep",
        "note: inputs: there was no state to watch",
    ]


def test_a_parameter_may_be_allowed_no_gradient():
    assert "gradients" in check_sequence_layer(HasADeadParameter, no_gradient=["unus*"]).passed


def test_a_refused_nan_is_noted_and_no_fault():
    report = check_sequence_layer(Careful)
    assert report.skipped == {"past stays clean": "the layer refuses NaN and Inf"}
    assert "NaN in the input is refused (ValueError)" in report.notes


class Careful(Fading):
    def forward(self, x, state=None):
        if not x.isfinite().all():
            raise ValueError("x: got NaN")
        return super().forward(x, state)


def test_the_global_generator_is_left_alone_and_results_repeat():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with pytest.raises(SequenceLayerError) as first:
        check_sequence_layer(SharesItsMemory)
    assert torch.equal(torch.rand(3), expected)
    with pytest.raises(SequenceLayerError) as second:
        check_sequence_layer(SharesItsMemory)
    assert str(first.value) == str(second.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"factory": nn.Linear(8, 8)}, TypeError, "lambda"),
        ({"batch": 1}, ValueError, "batch=1"),
        ({"tokens": 3}, ValueError, "tokens=3"),
        ({"vocab_size": 1}, ValueError, "vocab_size=1"),
        ({"dtype": torch.int64}, TypeError, "int64"),
        ({"dtype": ()}, ValueError, "no dtype"),
        ({"skip": {"casuality": "typo"}}, ValueError, "casuality"),
        ({"skip": {"interface": "no"}}, ValueError, "interface"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        check_sequence_layer(**{"factory": Fading, **arguments})


def test_a_factory_must_build():
    layer = Fading()
    with pytest.raises(SequenceLayerError, match="the same layer"):
        check_sequence_layer(lambda: layer)
    with pytest.raises(SequenceLayerError, match="NoneType"):
        check_sequence_layer(lambda: None)
