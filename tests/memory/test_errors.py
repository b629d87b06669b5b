"""Bad input gets one clear error that says what came, what was expected and the likely cause; nothing has changed."""

import math
import re

import pytest
import torch

from tests.helpers import NAMES, inputs, network, start, state_difference
from titans_mini import MemoryNet, NeuralMemory, neural_memory
from titans_mini.memory import trace

BACKENDS = ["auto", "recurrence", "chunked"]
B, H, T, D = 2, 3, 5, 4


def replace_input(name, change):
    """A change to one of q, k, v, alpha, eta, theta."""
    return lambda x, options: x.__setitem__(NAMES.index(name), change(x[NAMES.index(name)]))


def option(**values):
    return lambda x, options: options.update(values)


def at(value):
    def change(gate):
        gate = gate.clone()
        gate[1, 2, 3] = value
        return gate

    return change


def other_state(change):
    return lambda x, options: options.update(state=change(options["state"]))


# (what is wrong, the change, the error's type, what its text must match: name, got, expected, cause)
SHAPES = r"\(2, 3, 5, 4\)"
CASES = [
    (
        "v without heads",
        replace_input("v", lambda v: v[:, 0]),
        ValueError,
        r"v: got shape \(2, 5, 4\), expected \(B, H, T, D = 4\)",
    ),
    (
        "v of another size",
        replace_input("v", lambda v: v[..., :3]),
        ValueError,
        r"v: got shape \(2, 3, 5, 3\), expected .*D = 4",
    ),
    (
        "q of other heads",
        replace_input("q", lambda q: q[:, :1]),
        ValueError,
        rf"q: got shape \(2, 1, 5, 4\), expected {SHAPES}.*heads",
    ),
    (
        "k of another length",
        replace_input("k", lambda k: k[:, :, 1:]),
        ValueError,
        rf"k: got .*4, 4\), expected {SHAPES}.*length",
    ),
    (
        "k of another batch",
        replace_input("k", lambda k: k[:1]),
        ValueError,
        rf"k: got shape \(1, .*expected {SHAPES}.*batch\?",
    ),
    (
        "alpha of other heads",
        replace_input("alpha", lambda a: a[:, :2]),
        ValueError,
        r"alpha: got .*expected \(2, 3, 5\) or \(2, 3, 5, 2\)",
    ),
    (
        "eta without heads",
        replace_input("eta", lambda e: e[:, 0]),
        ValueError,
        r"eta: got shape \(2, 5\), expected .*per token and head",
    ),
    (
        "theta of wrong layers",
        replace_input("theta", lambda t: t[..., None].expand(2, 3, 5, 3)),
        ValueError,
        r"theta: got .*each layer",
    ),
    (
        "alpha below 0",
        replace_input("alpha", at(-0.25)),
        ValueError,
        r"alpha: got values in \[-0.25, .*\], expected \[0, 1\].*sigmoid",
    ),
    (
        "eta above 1",
        replace_input("eta", at(1.5)),
        ValueError,
        r"eta: got values in .*1\.5\], expected \[0, 1\].*sigmoid",
    ),
    (
        "theta barely above 1",
        replace_input("theta", at(1 + 1e-9)),
        ValueError,
        r"theta: got values in .*1\.000000001\], expected \[0, 1\]",
    ),
    (
        "alpha barely below 0",
        replace_input("alpha", at(-1e-12)),
        ValueError,
        r"alpha: got values in \[-1e-12, .*expected \[0, 1\]",
    ),
    (
        "infinite theta",
        replace_input("theta", at(math.inf)),
        ValueError,
        r"theta: got values in .*inf\], expected \[0, 1\]",
    ),
    *(
        (
            f"NaN in {name}",
            replace_input(name, at(math.nan)),
            ValueError,
            rf"{name}: got NaN, expected numbers in \[0, 1\].*diverge",
        )
        for name in NAMES[3:]
    ),
    (
        "integer k",
        replace_input("k", lambda k: k.long()),
        TypeError,
        r"k: got dtype torch.int64, expected floating point: token ids",
    ),
    (
        "integer everything",
        lambda x, o: x.__setitem__(slice(None), [z.long() for z in x]),
        TypeError,
        "q: got dtype .*int64",
    ),
    (
        "boolean alpha",
        replace_input("alpha", lambda a: a > 0),
        TypeError,
        r"alpha: got dtype torch.bool, expected floating point",
    ),
    (
        "complex v",
        replace_input("v", lambda v: v + 0j),
        TypeError,
        r"v: got dtype torch.complex128, expected floating point",
    ),
    (
        "a number as gate",
        replace_input("theta", lambda t: 0.1),
        TypeError,
        r"theta: got float, expected a tensor: .*torch.full",
    ),
    ("a list as v", replace_input("v", lambda v: v.tolist()), TypeError, r"v: got list, expected a tensor"),
    ("None as q", replace_input("q", lambda q: None), TypeError, r"q: got NoneType, expected a tensor"),
    (
        "q on another device",
        replace_input("q", lambda q: q.to("meta")),
        TypeError,
        r"q: got device meta, expected cpu as for v.*\.to\(",
    ),
    (
        "alpha elsewhere",
        replace_input("alpha", lambda a: a.to("meta")),
        TypeError,
        r"alpha: got device meta, expected cpu as for v",
    ),
    (
        "float32 k",
        replace_input("k", lambda k: k.float()),
        TypeError,
        r"k: got dtype torch.float32, expected torch.float64 as for v",
    ),
    (
        "float32 gate",
        replace_input("eta", lambda e: e.float()),
        TypeError,
        r"eta: got dtype torch.float32, expected torch.float64",
    ),
    (
        "the net elsewhere",
        option(net=network().to("meta")),
        TypeError,
        r"net: got parameters on meta, expected cpu.*net\.to",
    ),
    ("another kind of net", option(net=torch.nn.Linear(4, 4)), TypeError, r"net: got Linear, expected a MemoryNet"),
    *(
        (
            f"chunk_size {C!r}",
            option(chunk_size=C),
            ValueError,
            r"chunk_size: got .*, expected an integer ≥ 1 \(1 is the online",
        )
        for C in (0, -4, 2.5, 16.0, True, None, "16")
    ),
    *(
        (
            f"group_size {size!r}",
            option(group_size=size),
            ValueError,
            r"group_size: got .*, expected an integer ≥ 1, in chunks, or None",
        )
        for size in (True, False, 0, 2.0)
    ),
    ("unknown anchor", option(anchor="start"), ValueError, r"anchor: got 'start', expected 'chunk' or 'token'"),
    (
        "unknown read",
        option(read="during"),
        ValueError,
        r"read: got 'during', expected 'after' \(M_t\) or 'before' \(M_t−1\)",
    ),
    (
        "unknown backend",
        option(backend="cuda"),
        ValueError,
        r"backend: got 'cuda', expected one of .*'recurrence'.*'chunked'",
    ),
    (
        "token for an MLP",
        option(anchor="token"),
        ValueError,
        r"anchor: got 'token' .*depth 2 and norm, expected depth=1, norm=Fal",
    ),
    (
        "no state",
        other_state(lambda s: s.to_dict()),
        TypeError,
        r"state: got dict, expected a MemoryState: net.init_state",
    ),
    (
        "state of another batch",
        other_state(lambda s: s[0]),
        ValueError,
        r"state.weights: got shapes .*expected .*another batch",
    ),
    (
        "state of other heads",
        option(state=start(network(), B=B, H=2)),
        ValueError,
        r"state.weights: got .*other heads\?",
    ),
    (
        "state of another width",
        option(state=start(network(D=6), B=B, H=H)),
        ValueError,
        r"state.weights: .*another network\?",
    ),
    (
        "state of another depth",
        option(state=start(network(depth=3), B=B, H=H)),
        ValueError,
        r"state.weights: .*another network\?",
    ),
    (
        "state in float32",
        other_state(lambda s: s.to(torch.float32)),
        TypeError,
        r"got torch.float32 on cpu, expected torch.float64",
    ),
    (
        "state elsewhere",
        other_state(lambda s: s.to("meta")),
        TypeError,
        r"state.weights: got .*on meta, expected .*on cpu.*state\.to",
    ),
    (
        "state of a longer chunk",
        option(chunk_size=2),
        ValueError,
        r"state.position: got 2, expected less than chunk_size = 2.*larger chunk size\?",
    ),
]


@pytest.mark.parametrize(("change", "error", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_clear_error_and_an_unchanged_state(change, error, text):
    for backend in BACKENDS:
        state = start(network(), B=B, H=H, position=2)
        kept, x = state.clone(), inputs(B=B, H=H, T=T, D=D, edges=False)
        options = {"net": network(), "chunk_size": 4, "state": state, "backend": backend}
        change(x, options)
        with pytest.raises(error, match=text) as caught:
            neural_memory(*x, options.pop("state"), **options)
        assert type(caught.value) is error and "\n" not in str(caught.value) and len(str(caught.value)) < 320
        assert caught.value.__cause__ is None and caught.value.__context__ is None  # one error, not a chain
        assert re.search("got .*expected", str(caught.value))
        assert state_difference(state, kept) == 0


def test_the_same_call_without_a_fault_passes():
    for backend in BACKENDS:
        state = start(network(), B=B, H=H, position=2)
        x = inputs(B=B, H=H, T=T, D=D, edges=False)
        neural_memory(*x, state, net=network(), chunk_size=4, backend=backend)


def test_several_faults_give_one_error():
    x = inputs(B=B, H=H, T=T, D=D)
    x[1], x[3] = x[1].long(), x[3] * math.nan
    with pytest.raises(TypeError, match="k: got dtype"):
        neural_memory(*x, net=network(), chunk_size=4)


def test_a_position_does_not_matter_to_the_online_rule():
    net = network(depth=1, norm=False)
    state = start(net, position=7)
    neural_memory(*inputs(), state, net=net, chunk_size=2, anchor="token")


# -- the layer --------------------------------------------------------------------------------------------------------

LAYER = [
    ("token ids", lambda x: x.long(), TypeError, "x: got dtype torch.int64, expected floating point: token ids"),
    ("no batch", lambda x: x[0], ValueError, r"x: got shape \(5, 8\), expected \(B, T, 8\): the batch axis first"),
    ("another width", lambda x: x[..., :6], ValueError, r"x: got shape \(2, 5, 6\), expected \(B, T, 8\)"),
    (
        "float64",
        lambda x: x.double(),
        TypeError,
        "x: got torch.float64 on cpu, expected torch.float32 on cpu as the layer",
    ),
    (
        "another device",
        lambda x: x.to("meta"),
        TypeError,
        "x: got torch.float32 on meta, expected torch.float32 on cpu",
    ),
    ("a list", lambda x: x.tolist(), TypeError, "x: got list, expected a tensor"),
]


@pytest.mark.parametrize(("change", "error", "text"), [case[1:] for case in LAYER], ids=[case[0] for case in LAYER])
def test_what_the_layer_refuses(change, error, text):
    torch.manual_seed(0)
    layer = NeuralMemory(8, heads=2)
    _, state = layer(torch.randn(2, 5, 8))
    kept = state.clone()
    with pytest.raises(error, match=text):
        layer(change(torch.randn(2, 5, 8)), state)
    assert state_difference(state.memory, kept.memory) == 0 and torch.equal(state.conv, kept.conv)


STATES = [
    ("the inner state", lambda s: s.memory, TypeError, "state: got MemoryState, expected the NeuralMemoryState"),
    ("another batch", lambda s: s[0], ValueError, r"state.conv: got shape \(1, 24, 3\), expected \(2, 24, 3\)"),
    (
        "another layer",
        lambda s: NeuralMemory(8, heads=4)(torch.zeros(2, 1, 8))[1],
        ValueError,
        "state.weights: got shapes",
    ),
    (
        "another width",
        lambda s: NeuralMemory(16, heads=2)(torch.zeros(2, 1, 16))[1],
        ValueError,
        "state.conv: got shape",
    ),
    ("float64", lambda s: s.to(torch.float64), TypeError, "state.weights: got torch.float64.*expected torch.float32"),
    ("another device", lambda s: s.to("meta"), TypeError, "state.conv: got device meta, expected cpu: state.to"),
]


@pytest.mark.parametrize(("change", "error", "text"), [case[1:] for case in STATES], ids=[case[0] for case in STATES])
def test_states_the_layer_refuses(change, error, text):
    torch.manual_seed(0)
    layer = NeuralMemory(8, heads=2)
    x = torch.randn(2, 5, 8)
    wrong = change(layer(x)[1])
    with pytest.raises(error, match=text):
        layer(x, wrong)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dim": 0}, "NeuralMemory: got dim=0"),
        ({"heads": 0}, "heads=0.*expected all ≥ 1"),
        ({"heads": 3}, "dim=8, heads=3.*dim a multiple of heads"),
        ({"conv_size": 0}, "conv_size=0"),
        ({"dim": 8.0}, "got dim=8.0.*whole"),
        ({"heads": "2"}, "heads='2'"),
        ({"head_dim": 0}, "head_dim=0"),
        ({"head_dim": -4}, "head_dim=-4"),
        ({"momentum": "False"}, "momentum: got 'False', expected True or False"),
        ({"norm": "False"}, "norm='False', expected True or False"),
        ({"half_life": 64}, "half_life: got 64, expected two numbers"),
        ({"half_life": (64,)}, "half_life: got .64,., expected two numbers"),
        ({"eps": -1}, "eps=-1, expected a number ≥ 0"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"eta": "0.5"}, "eta='0.5'.*expected numbers"),
        ({"max_theta": "1"}, "max_theta='1', expected numbers"),
        ({"activation": ["gelu"]}, "activation=.'gelu'.*expected one of"),
        ({"depth": 2.0}, "MemoryNet: got dim=4, depth=2.0"),
        ({"expansion": "4"}, "expansion='4', expected all positive"),
        ({"depth": 0}, "MemoryNet: got dim=4, depth=0"),
        ({"activation": "step"}, "got activation='step', expected one of"),
        ({"chunk_size": 0}, "chunk_size: got 0, expected an integer ≥ 1"),
        ({"anchor": "token"}, "anchor: got 'token' .*expected depth=1, norm=False"),
        ({"read": "never"}, "read: got 'never'"),
        ({"backend": "fast"}, "backend: got 'fast'"),
        ({"group_size": True}, "group_size: got True, expected an integer ≥ 1"),
        ({"half_life": (0, 100)}, "half-lives: got .*shortest=0"),
        ({"half_life": (100, 10)}, "half-lives: got .*shortest=100, longest=10"),
        ({"eta": 1.0}, "got eta=1.0.*a sigmoid reaches neither end"),
        ({"eta": 0.0}, "got eta=0.0"),
        ({"theta": 0.5}, "theta=0.5, max_theta=0.0625, expected .*0 < theta < max_theta"),
        ({"theta": 0.0}, "theta=0.0"),
        ({"max_theta": 1.5}, "max_theta=1.5"),
        ({"learn_gates": None}, "learn_gates: got None, expected True or False"),
        *(({"min_half_life": x}, f"min_half_life: got {x}, expected 0 for none, or tokens") for x in (-1, 32, None)),
        ({"min_half_life": 8, "feature_half_life": 8}, "min_half_life: got 8"),
    ],
)
def test_layers_that_cannot_be_built(options, text):
    with pytest.raises(ValueError, match=text):
        NeuralMemory(**{"dim": 8, "heads": 2, **options})


# -- the recorder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "error", "text"), [case[1:] for case in CASES[:31]], ids=[c[0] for c in CASES[:31]])
def test_the_recorder_refuses_what_the_memory_refuses(change, error, text):
    x, options = inputs(B=B, H=H, T=T, D=D, edges=False), {"net": network()}
    change(x, options)
    with pytest.raises(error, match=text):
        trace.record(*x, **options)


def test_the_recorder_wants_at_least_one_token():
    with pytest.raises(ValueError, match=r"record: got shape \(2, 2, 0, 4\), expected .* at least one token"):
        trace.record(*inputs(T=0), net=MemoryNet(4, expansion=2).double())
