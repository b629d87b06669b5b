"""Titans in one file: its numbers are the library's, its names too, and it refuses by name what it does not know."""

import ast
import dataclasses
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import difference
from titans_mini import TitansConfig, TitansLM, minimal

VARIANTS = ("lmm", "mag", "mal", "mac")
SIZES = {"vocab_size": 11, "dim": 8, "heads": 2, "chunk_size": 4, "segment": 8, "window": 5, "memory_expansion": 2}
CASES = (  # what differs from SIZES, and the tokens of the text
    ({}, 13),  # two blocks; the last chunk and the last segment are cut short
    ({"persistent": 0}, 21),  # three segments
    ({"memory_depth": 1, "persistent": 0, "conv_size": 1, "layers": 1}, 3),  # a matrix; not even one chunk
    ({"memory_depth": 3, "memory_expansion": 1.5, "heads": 1, "long_term": 4, "window": 3, "layers": 1}, 22),
    ({"memory_depth": 1, "chunk_size": 1, "window": 1, "long_term": 2, "conv_size": 6, "layers": 1}, 11),
    ({"vocab_size": 5, "dim": 12, "heads": 3, "mlp_ratio": 2.0, "rope_base": 50.0, "norm_eps": 0.1}, 9),
    ({"chunk_size": 3, "segment": 6, "window": 40, "persistent": 1, "half_life": (2.0, 50.0), "conv_size": 2}, 12),
    ({"segment": 40, "chunk_size": 20, "layers": 1}, 1),  # one token
    ({"writes": "x", "sees": "own", "attention_heads": 1, "min_half_life": 20.0, "layers": 1}, 21),
    ({"writes": "x+y", "sees": "own", "long_term": 4, "heads": 1, "attention_heads": 4, "layers": 1}, 22),
    ({name: getattr(TitansConfig(), name) for name in SIZES} | {"layers": 1}, 70),  # the library's own sizes
)
NO_NUMBER = {"attention", "group_size", "half_life"}  # speed, memory, and where training starts
OTHERS = {
    "residual": [False],
    "norm": [False],
    "layer_gates": [False],
    "max_theta": [0.01, 1.0],
    "momentum": [False],
    "forgetting": [False],
    "forget": ["channel"],
    "learn_gates": [False],
    "read_only": [True],
    "attention_conv": [4],
    "read": ["before"],
    "gate": ["both", "literal", "add"],
    "order": ["psh"],
    "literal": [True],
    "mal_residual": [False],
    "tie_embeddings": [False],
}


def seeded(build, config, seed=0):
    """Build a model whose weights are the same each time, and leave the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


def shaken(config, dtype=torch.float64, seed=8):
    """Build the library's model with noise on every weight: fresh gates, gains and biases would hide mistakes.

    The noise shrinks with the width: 0.3 at dim 64 makes the library itself amplify rounding to 1e-11. With this seed
    the largest difference is 4e-14; among 25 seeds the worst, an ill-conditioned draw, is 1e-12.
    """
    g = torch.Generator().manual_seed(seed)
    model, scale = seeded(TitansLM, config, seed).to(dtype), 0.2 * (8 / config.dim) ** 0.5
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return model


def same_in_one_file(model):
    """Load the weights of a library's model into the one of the file."""
    copy = minimal.Titans(model.config).to(model.embedding.weight.dtype)
    copy.load_state_dict(model.state_dict())
    return copy


def text(config, T, B=2):
    return torch.randint(config.vocab_size, (B, T), generator=torch.Generator().manual_seed(T))


def logits_and_gradients(model, tokens):
    """Predict some next token everywhere; returns the logits and {name: gradient}."""
    logits = model(tokens)
    logits = logits[0] if isinstance(logits, tuple) else logits
    loss = F.cross_entropy(logits.flatten(0, 1), tokens.flip(1).flatten())
    names, weights = zip(*model.named_parameters(), strict=True)
    return logits, dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


# -- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_gradients_are_those_of_the_library(variant):
    wrong = []
    for changes, T in CASES:
        config = TitansConfig(**{"variant": variant, **SIZES, **changes})
        model = shaken(config)
        tokens = text(config, T)
        expected, expected_gradients = logits_and_gradients(model, tokens)
        logits, gradients = logits_and_gradients(same_in_one_file(model), tokens)
        differences = {"logits": difference(logits, expected)}
        for name, gradient in expected_gradients.items():
            assert gradient.abs().max() > 1e-5, (name, "has no gradient that could be compared")
            differences[name] = difference(gradients[name], gradient)
        wrong += [(changes, T, name, x) for name, x in differences.items() if not x <= 1e-12]  # also NaN
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_weights_have_the_same_names_and_shapes(variant):
    for changes, _ in CASES:
        config = TitansConfig(**{"variant": variant, **SIZES, **changes})
        expected, found = (
            {name: x.shape for name, x in m.state_dict().items()} for m in (TitansLM(config), minimal.Titans(config))
        )
        assert found == expected
        names = [name for name, _ in TitansLM(config).named_parameters()]  # tied weights are named once
        assert sorted(names) == sorted(name for name, _ in minimal.Titans(config).named_parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_float32_and_without_gradients_too(variant):
    config = TitansConfig(variant=variant, **SIZES)
    model = shaken(config, torch.float32)
    copy, tokens = same_in_one_file(model), text(config, 21)
    with torch.no_grad():
        logits = copy(tokens)
        assert difference(logits, model(tokens)[0]) < 1e-4
    assert logits.dtype == torch.float32 and not logits.requires_grad
    assert torch.equal(logits, copy(tokens))


@pytest.mark.parametrize("variant", VARIANTS)
def test_options_that_change_no_number_are_accepted(variant):
    config = TitansConfig(variant=variant, **SIZES)
    model, tokens = same_in_one_file(shaken(config)), text(config, 9)
    others = {"attention": "flex", "group_size": 3, "half_life": (1.0, 2.0)}
    assert set(others) == NO_NUMBER
    other = minimal.Titans(dataclasses.replace(config, **others)).double()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens), model(tokens))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_model_gives_finite_logits(variant):
    config = TitansConfig(variant=variant, segment=32)
    logits = seeded(minimal.Titans, config)(text(config, 70, B=1))
    assert logits.shape == (1, 70, config.vocab_size) and logits.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_future_changes_nothing_before_it(variant):
    config = TitansConfig(variant=variant, long_term=4, **SIZES)
    model, tokens = same_in_one_file(shaken(config)), text(config, 21)
    before = model(tokens)
    for t in range(1, 21):
        changed = tokens.clone()
        changed[:, t:] = (changed[:, t:] + 1) % config.vocab_size
        after = model(changed)
        assert difference(after[:, :t], before[:, :t]) <= 1e-12, t
        assert (after[:, t:] - before[:, t:]).abs().amin(1).max() > 1e-6, t  # and it changes all that follows


# -- options ----------------------------------------------------------------------------------------------------------


def message_of(config):
    """Return the message with which the file refuses a configuration, or None where it accepts it."""
    try:
        minimal.Titans(config)
    except ValueError as error:
        return str(error)


def test_every_other_option_is_refused_by_its_name():
    config = TitansConfig(**SIZES)
    assert message_of(config) is None
    assert set(OTHERS) == set(minimal.RECOMMENDED)
    others = OTHERS | {"variant": ["transformer", "swa", "delta", "gated-delta"]}
    where = {"read_only": {"variant": "lmm"}}  # MAC has no such twin
    refused = [
        (name, x, dataclasses.replace(config, **{name: x} | where.get(name, {})))
        for name, values in others.items()
        for x in values
    ]
    known = dataclasses.asdict(config)
    for name in others:  # and a value that nobody has thought of yet
        refused.append((name, "new", types.SimpleNamespace(**known | {name: "new"})))
    for name, value, other in refused:
        message = message_of(other)
        assert message and message.startswith(f"{name}: got {value!r}, expected "), (name, value, message)
        assert "titans_mini.TitansLM" in message


def test_the_recommended_options_are_the_defaults():
    defaults = {field.name: field.default for field in dataclasses.fields(TitansConfig)}
    assert minimal.RECOMMENDED == {name: defaults[name] for name in minimal.RECOMMENDED}
    assert all(type(value) is type(defaults[name]) for name, value in minimal.RECOMMENDED.items())


class Listening:
    """A configuration that remembers which of its fields were looked up."""

    def __init__(self, config):
        self.config_, self.looked_up = config, set()

    def __getattr__(self, name):
        self.looked_up.add(name)
        return getattr(self.config_, name)


def overlooked(config_class):
    """List the fields of a configuration that the file neither uses nor refuses, unless they change no number."""
    read = set()
    for variant in VARIANTS:
        config = Listening(config_class(variant=variant, **SIZES))
        minimal.Titans(config)
        read |= config.looked_up
    fields = {field.name for field in dataclasses.fields(config_class)}
    assert not read & NO_NUMBER and fields >= NO_NUMBER
    return sorted(fields - read - NO_NUMBER)


def test_every_field_is_used_or_refused():
    assert overlooked(TitansConfig) == []


def test_a_new_field_would_be_noticed():
    wider = dataclasses.make_dataclass("Wider", [("dropout", float, 0.0)], bases=(TitansConfig,), frozen=True)
    assert overlooked(wider) == ["dropout"]


# -- one file ---------------------------------------------------------------------------------------------------------


def test_it_imports_torch_and_nothing_of_the_library():
    found = set()
    for node in ast.walk(ast.parse(Path(minimal.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or "").split(".")[0])
    assert found == {"__future__", "torch"}
