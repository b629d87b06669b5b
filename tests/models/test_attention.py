"""Attention: masks, windows, segments, what is kept, and positions."""

import itertools
import re
import sys

import pytest
import torch

from titans_mini import TitansConfig, TitansLM
from titans_mini.models.attention import (
    Attention,
    AttentionState,
    MemoryKeys,
    additive_mask,
    rotate,
    segment_lengths,
    window_mask,
)
from titans_mini.models.flex import Layout, mask_rule


def layer(seed=0, **options):
    torch.manual_seed(seed)
    return Attention(16, 2, **options).double()


def inputs(B=2, T=50, seed=1):
    return torch.randn(B, T, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def oracle(a, x, prefix=None):
    """Every query by itself, a loop over what it may see."""
    wide = a.to_qkv(x)
    if a.conv is not None:  # the tokens before, across all borders, and nothing before the first
        taps = a.conv.weight[:, 0]
        shifted = [torch.nn.functional.pad(wide, (0, 0, j, 0))[:, : x.shape[1]] for j in range(taps.shape[1])]
        wide = torch.nn.functional.silu(sum(z * taps[:, -1 - j] for j, z in enumerate(shifted)))
    q, k, v = a.split_heads(wide, 3)
    places = torch.arange(x.shape[1])
    turned = places % a.segment if a.segment else places
    q, k = (rotate(z, turned + a.offset, a.rope_base) for z in (q, k))
    fixed = [] if prefix is None else [z.expand(len(x), -1, -1, -1) for z in a.keys_and_values(prefix)]
    y = torch.zeros_like(q)
    for t in range(x.shape[1]):
        first = max(0, t - a.window + 1) if a.window else t // a.segment * a.segment if a.segment else 0
        keys, values = k[:, :, first : t + 1], v[:, :, first : t + 1]
        if fixed:
            keys, values = torch.cat([fixed[0], keys], 2), torch.cat([fixed[1], values], 2)
        score = (keys @ q[:, :, t, :, None])[..., 0] * q.shape[-1] ** -0.5
        y[:, :, t] = (score.softmax(-1)[..., None] * values).sum(2)
    return a.to_output(y.transpose(1, 2).flatten(2))


SHAPES = [{}, {"window": 1}, {"window": 8}, {"window": 50}, {"window": 64}]
SHAPES += [{"segment": 8}, {"segment": 64, "offset": 9}]
SHAPES += [{"conv_size": 4}, {"conv_size": 4, "window": 8}, {"conv_size": 2, "segment": 8}]
SHAPES += [{"conv_size": 6, "window": 1}]


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("persistent", [0, 3])
@torch.no_grad()
def test_equal_to_a_loop_over_queries(options, persistent):
    a, x = layer(**options), inputs()
    prefix = torch.randn(1, persistent, 16, dtype=torch.float64) if persistent else None
    torch.testing.assert_close(a(x, None, prefix)[0], oracle(a, x, prefix), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", SHAPES, ids=str)
@torch.no_grad()
def test_any_split_gives_the_same(options):
    a, x = layer(**options), inputs()
    prefix = torch.randn(1, 3, 16, dtype=torch.float64)
    whole, end = a(x, None, prefix)
    for split in ([1] * 50, [7, 43], [20, 1, 29], [33, 17]):
        state, y = None, []
        for part in x.split(split, 1):
            part, state = a(part, state, prefix)
            y.append(part)
        torch.testing.assert_close(torch.cat(y, 1), whole, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.k, end.k, rtol=0, atol=1e-12)
        if a.conv is not None:
            torch.testing.assert_close(state.conv, end.conv, rtol=0, atol=1e-12)
            assert state.conv.shape == (2, 48, options["conv_size"] - 1)
        assert state.position == end.position == 50


@torch.no_grad()
def test_what_is_kept_is_bounded():
    for options, bound in (({"window": 8}, 7), ({"segment": 8}, 7)):
        a = layer(**options)
        _, state = a(inputs(T=400))
        assert state.k.shape[2] <= bound
        assert state.k.shape[2] == (7 if "window" in options else 0)


def test_the_window_is_linear_in_its_cost():
    """Scores of a long call: a band of two windows, never T × T."""
    a, seen = layer(window=8), []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v, **options):
        seen.append(q.shape[0] * q.shape[2] * k.shape[2])
        return original(q, k, v, **options)

    torch.nn.functional.scaled_dot_product_attention = spy
    try:
        for T in (80, 160):
            a(inputs(B=1, T=T))
    finally:
        torch.nn.functional.scaled_dot_product_attention = original
    assert seen == [80 * 16, 160 * 16]


def test_positions_are_relative_and_exact_far_out():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 8, dtype=torch.float64, generator=g)
    near = rotate(q, torch.tensor([7])) @ rotate(k, torch.tensor([3])).mT
    far = rotate(q, torch.tensor([1_000_007])) @ rotate(k, torch.tensor([1_000_003])).mT
    torch.testing.assert_close(near, far, rtol=0, atol=1e-9)
    assert not torch.allclose(near, rotate(q, torch.tensor([8])) @ rotate(k, torch.tensor([3])).mT, atol=1e-3)
    # in float32 too: the angles are computed in float64
    single = rotate(q.float(), torch.tensor([1_000_007])) @ rotate(k.float(), torch.tensor([1_000_003])).mT
    assert abs(single.item() - near.item()) < 1e-5


def test_pairs_turn_like_complex_numbers():
    x, at = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(5) * 37
    angle = at[:, None] * 10_000.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(1j * angle)
    torch.testing.assert_close(rotate(x, at), torch.cat([turned.real, turned.imag], -1), rtol=0, atol=1e-12)


def test_masks_by_hand():
    assert additive_mask(window_mask(2, 1, 2), torch.float32).tolist() == [[0, 0, -torch.inf], [-torch.inf, 0, 0]]
    assert window_mask(2, 1, 2).tolist() == [[True, True, False], [False, True, True]]
    assert window_mask(2, 1, None).tolist() == [[True, True, False], [True, True, True]]
    assert segment_lengths(10, 6, 4) == [2, 4, 4]
    assert segment_lengths(1, 6, 4) == [1] and segment_lengths(5, 4, 4) == [4, 1]


@pytest.mark.parametrize("T", [1, 8, 30])
def test_the_future_changes_nothing(T):
    for options, at in itertools.product(SHAPES, (0, T // 2, T - 1)):
        a, x = layer(**options), inputs(B=1, T=T)
        moved = x.clone()
        moved[:, at] += 1
        before, after = a(x)[0], a(moved)[0]
        assert torch.equal(before[:, :at], after[:, :at]) and not torch.equal(before[:, at:], after[:, at:])


def test_state_round_trip_and_errors(tmp_path):
    _, state = layer(window=8)(inputs())
    state.save(tmp_path / "s.npz")
    again = AttentionState.load(tmp_path / "s.npz")
    assert torch.equal(again.k, state.k) and again.position == 50
    with pytest.raises(ValueError, match="expected \\['k', 'position', 'v'\\] and perhaps 'conv'"):
        AttentionState.from_dict({"k": state.k})
    _, state = layer(window=8, conv_size=4)(inputs())
    state.save(tmp_path / "s.npz")
    assert torch.equal(AttentionState.load(tmp_path / "s.npz").conv, state.conv)
    for wrong in (0, 2.0, True):
        with pytest.raises(ValueError, match=f"conv_size={wrong}, expected an integer ≥ 1"):
            Attention(16, 2, conv_size=wrong)
    for wrong in ({"dim": 16, "heads": 3}, {"dim": 6, "heads": 2}):
        with pytest.raises(ValueError, match="even head size"):
            Attention(**wrong)
    for wrong in ({"window": 0}, {"segment": 0}, {"window": 4, "segment": 4}):
        with pytest.raises(ValueError, match="one of them"):
            Attention(16, 2, **wrong)


# -- FlexAttention: its rules are tested here, its kernel needs a CUDA device ----------------------------------------

LAYOUTS = [Layout(), Layout(window=3), Layout(prefix=2, window=4), Layout(old=5, window=6), Layout(prefix=3, old=2)]
LAYOUTS += [Layout(prefix=1, extra=4, stride=2), Layout(2, 3, 4, None, 3, 4), Layout(2, 4, 0, None, 2, 0, True)]
LAYOUTS += [Layout(2, 3, 0, None, 3, 0, own_extra=True), Layout(1, 3, 5, None, 3, 5, own_extra=True, first=1)]


def dense(layout, T):
    """The mask that the other implementation uses for the same layout."""
    k = torch.zeros(1, 1, layout.extra, 2)
    h = MemoryKeys(k, k, *layout[4:]).visible(T)  # the same fields in the same order
    return torch.cat([torch.ones(T, layout.prefix).bool(), h, window_mask(T, layout.old, layout.window)], 1)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("T", [1, 7])
def test_a_rule_is_the_mask(layout, T):
    from torch.nn.attention.flex_attention import create_mask

    expected = dense(layout, T)
    assert torch.equal(create_mask(mask_rule(layout), None, None, T, expected.shape[1], device="cpu")[0, 0], expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("options", [{}, {"window": 8}, {"window": 64}, {"segment": 8}], ids=str)
def test_flex_equals_sdpa(options, monkeypatch):
    """Uncompiled and on the CPU, where it may not be used: all of its path but the kernel."""
    from torch.nn.attention import flex_attention

    monkeypatch.setattr("titans_mini.models.flex.check_flex", lambda device: None)
    monkeypatch.setattr("titans_mini.models.flex._compiled", lambda: flex_attention.flex_attention)
    x, prefix = inputs(), torch.randn(1, 3, 16, dtype=torch.float64)
    a, b = (layer(implementation=name, **options) for name in ("sdpa", "flex"))
    with torch.no_grad():
        (y, state), (z, other) = (m(x[:, :20], None, prefix) for m in (a, b))
        torch.testing.assert_close(z, y, rtol=0, atol=1e-10)
        torch.testing.assert_close(b(x[:, 20:], other, prefix)[0], a(x[:, 20:], state, prefix)[0], rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("sees", ["causal", "own"])
@pytest.mark.parametrize("options", [{}, {"long_term": 4, "attention_conv": 3}], ids=str)
@torch.no_grad()
def test_flex_equals_sdpa_in_mac(sees, options, monkeypatch):
    from torch.nn.attention import flex_attention

    monkeypatch.setattr("titans_mini.models.flex.check_flex", lambda device: None)
    monkeypatch.setattr("titans_mini.models.flex._compiled", lambda: flex_attention.flex_attention)
    sizes = {"dim": 16, "layers": 1, "segment": 16, "chunk_size": 4, "memory_expansion": 1, "sees": sees}
    models = [TitansLM(TitansConfig("mac", attention=name, **sizes, **options)).double() for name in ("sdpa", "flex")]
    models[1].load_state_dict(models[0].state_dict())
    tokens = torch.randint(256, (2, 45), generator=torch.Generator().manual_seed(0))
    expected, _ = models[0](tokens)
    state, y = None, []
    for part in tokens.split((9, 4, 32), 1):
        logits, state = models[1](part, state)
        y.append(logits)
    torch.testing.assert_close(torch.cat(y, 1), expected, rtol=0, atol=1e-10)


def test_flex_says_where_it_runs():
    with pytest.raises(RuntimeError, match="got 'flex' on cpu, expected a CUDA device"):
        layer(implementation="flex")(inputs())


def test_flex_says_that_pytorch_is_too_old(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.nn.attention.flex_attention", None)  # as before 2.5: nothing to import
    monkeypatch.delattr("torch.nn.attention.flex_attention", raising=False)
    with pytest.raises(RuntimeError, match=f"got 'flex' with torch {re.escape(torch.__version__)}, expected 2.5"):
        layer(implementation="flex")(inputs())
    with pytest.raises(ValueError, match="implementation='flash'"):
        layer(implementation="flash")
