"""TitansLM: causality, states, gradients, presets, sampling, files, and bad input, for every variant."""

import dataclasses
import math

import pytest
import torch

from titans_mini import TitansConfig, TitansLM, TitansState
from titans_mini.models import presets
from titans_mini.models.config import GATES, OPEN, SIZES, VARIANTS
from titans_mini.models.titans import sample

OPTIONS = [(variant, {}) for variant in VARIANTS]
OPTIONS += [(v, {"persistent": 0}) for v in ("mac", "mag", "mal", "lmm", "swa")]
OPTIONS += [(v, {"gate": g}) for v in ("mac", "mag") for g in GATES[1:]]
OPTIONS += [("mac", {"order": "psh"}), ("mac", {"long_term": None}), ("mac", {"long_term": 4, "order": "psh"})]
OPTIONS += [("mal", {"mal_residual": False}), ("mag", {"read": "before"}), ("mac", {"read": "before"})]
OPTIONS += [("lmm", {"momentum": False}), ("lmm", {"forgetting": False}), ("lmm", {"conv_size": 1})]
OPTIONS += [("mag", {"memory_depth": 1, "residual": False, "norm": False}), ("mac", {"memory_depth": 4})]
OPTIONS += [(v, {"forget": "channel"}) for v in ("mac", "mag", "lmm")]
OPTIONS += [("lmm", {"layer_gates": False, "tie_embeddings": False})]
# what may be joined: each by itself, and all that a variant knows together
ATTENDING, REMEMBERING = ("mac", "mag", "mal", "transformer", "swa"), ("mac", "mag", "mal", "lmm", "gated-delta")
ALL = {"writes": "x", "sees": "own", "attention_conv": 4, "attention_heads": 4, "min_half_life": 8.0}
ALL |= {"learn_gates": False, "heads": 1}
NEW = [("mac", {"writes": w}) for w in ("x", "x+y")]
NEW += [("mac", {"sees": "own", "long_term": n}) for n in (None, 8, 1)]
NEW += [("mac", {"sees": "own", "writes": "x+y", "order": "psh", "long_term": 4})]
NEW += [(v, {"attention_conv": 4}) for v in ATTENDING] + [(v, {"attention_heads": 4}) for v in ATTENDING]
NEW += [(v, {name: x}) for v in REMEMBERING for name, x in (("min_half_life", 8.0), ("learn_gates", False))]
NEW += [(v, ALL) for v in VARIANTS] + [("mac", {"heads": 4, "attention_heads": 1})]
NEW += [("lmm", {"min_half_life": 8.0, "learn_gates": False, "forget": "channel"})]
OPTIONS += NEW


def config(variant="mac", **options):
    small = {"dim": 16, "window": 8, "segment": 16, "chunk_size": 4, "vocab_size": 50}
    return TitansConfig.preset(f"{variant}-tiny", **(small | options))


def model(variant="mac", seed=0, **options):
    torch.manual_seed(seed)
    return TitansLM(config(variant, **options)).double()


def text(B=2, T=45, seed=1, vocab=50):
    return torch.randint(0, vocab, (B, T), generator=torch.Generator().manual_seed(seed))


# -- causality, batches, splits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "options"), OPTIONS, ids=str)
@torch.no_grad()
def test_the_future_changes_nothing_exactly(variant, options):
    m, tokens = model(variant, **options), text()
    logits, _ = m(tokens)
    for at in (0, 15, 16, 30, 44):
        moved = tokens.clone()
        moved[0, at] = (moved[0, at] + 1) % 50
        other, _ = m(moved)
        assert torch.equal(other[0, :at], logits[0, :at]), at
        assert not torch.equal(other[0, at], logits[0, at])
        assert torch.equal(other[1], logits[1])  # sequences do not mix
        first, state = m(moved[:, :at]) if at else (None, None)
        second, _ = m(moved[:, at:], state)  # and across calls
        assert first is None or (first[0] - logits[0, :at]).abs().max() < 1e-10
        assert (second - other[:, at:]).abs().max() < 1e-10


@torch.no_grad()
def test_whole_segments_share_their_mask(monkeypatch):
    m, tokens, seen, attend = model("mac"), text(T=70), [], torch.nn.functional.scaled_dot_product_attention
    _, state = m(tokens[:, :10])

    def spy(q, k, v, attn_mask):
        seen.append(attn_mask)
        return attend(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    m(tokens[:, 10:], state)  # 6 tokens of a begun segment, three segments, 6 of a fourth
    masks = seen[: len(seen) // 2]  # of the first layer
    assert [len(x) for x in masks] == [6, 16, 16, 16, 6]
    assert masks[1] is masks[2] is masks[3]


@torch.no_grad()
def test_the_printed_form_of_mac_leaks():
    """The same test that the causal form passes: both leaks of the literal reading."""
    m, tokens = model("mac", literal=True), text(T=48)
    logits, _ = m(tokens)
    moved = tokens.clone()
    moved[0, 31] = (moved[0, 31] + 1) % 50  # the last token of the second segment
    changed = (m(moved)[0] - logits)[0].abs().amax(-1) > 0
    assert changed[16:32].all() and not changed[:16].any()
    with pytest.raises(ValueError, match="whole segments of 16"):
        m(tokens[:, :17])


@pytest.mark.parametrize(("variant", "options"), OPTIONS, ids=str)
@torch.no_grad()
def test_decoding_equals_reading_at_once(variant, options):
    m, tokens = model(variant, **options), text()
    whole, end = m(tokens)
    for split in ([1] * 45, [16, 29], [7, 1, 20, 17]):
        state, logits = None, []
        for part in tokens.split(split, 1):
            part, state = m(part, state)
            logits.append(part)
        assert (torch.cat(logits, 1) - whole).abs().max() < 1e-10
        assert state.position == 45
        a, b = end.to_dict(), state.to_dict()
        assert a.keys() == b.keys()
        assert all((a[key].double() - b[key].double()).abs().max() < 1e-10 for key in a if a[key].numel())


@pytest.mark.parametrize("persistent", [4, 3, 0])  # a chunk, less than one, none
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_text_begins_in_init_state(variant, persistent):
    m, tokens = model(variant, persistent=persistent), text()
    (logits, end), (expected, wanted) = m(tokens), m(tokens, m.init_state(2))
    assert (logits - expected).abs().max() < 1e-10
    wanted = wanted.to_dict()
    assert end.to_dict().keys() == wanted.keys()
    assert all((x - wanted[name]).abs().max() < 1e-10 for name, x in end.to_dict().items() if x.numel())
    upstream = torch.randn(logits.shape, dtype=logits.dtype, generator=torch.Generator().manual_seed(2))
    found, expected = (torch.autograd.grad(x, list(m.parameters()), upstream) for x in (logits, expected))
    for (name, _), x, y in zip(m.named_parameters(), found, expected, strict=True):
        assert (x - y).norm() <= 1e-9 * y.norm(), name


@pytest.mark.parametrize("options", [{}, ALL], ids=["", "all"])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "transformer"])
@torch.no_grad()
def test_the_state_does_not_grow(variant, options):
    m = model(variant, **options)
    _, state = m(text(T=32))
    size, first = state.nbytes, state
    for _ in range(4):
        _, state = m(text(T=32), state)
        assert state.nbytes == size
    assert first.position == 32 and state.position == 160


@pytest.mark.parametrize("options", [{}, ALL], ids=["", "all"])
@pytest.mark.parametrize("B", [1, 2])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "transformer"])
@torch.no_grad()
def test_the_state_does_not_keep_the_text_alive(variant, B, options):
    """A view of a few tokens would: its storage is that of all."""
    m, alive = model(variant, **options), []
    for T in (160, 640):
        _, state = m(text(B, T))
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in state.to_dict().values()}
        alive.append(sum(storages.values()))
    assert alive[1] == alive[0]


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "options"), OPTIONS, ids=str)
@pytest.mark.parametrize("half", [False, True])
def test_gradients_reach_every_parameter(variant, options, half):
    m = model(variant, **options).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss, _ = m.loss(text())
    loss.backward()
    assert loss.isfinite()
    dead = [name for name, p in m.named_parameters() if p.grad is None or not 0 < p.grad.abs().max() < math.inf]
    assert dead == []


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm"])
def test_a_step_lowers_the_loss(variant):
    m, tokens = model(variant).float(), text(T=33)
    optimizer = torch.optim.AdamW(m.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss, _ = m.loss(tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05 and abs(losses[0] - math.log(50)) < 0.5


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm", "gated-delta"])
def test_the_group_size_decides_what_training_keeps_and_changes_no_gradient(variant):
    found = {}
    for group_size in (1, 8, None):  # chunks of 4 tokens; the default are 64 tokens, 16 chunks
        m, kept = model(variant, group_size=group_size, segment=64), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=kept: (to.append(x.numel()), x)[1], lambda x: x):
            loss, _ = m.loss(text(T=129))
        loss.backward()
        found[group_size] = sum(kept), [p.grad for p in m.parameters()]
    (most, first), (less, second), (least, third) = found.values()
    assert most > less > least
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12) and torch.allclose(a, c, rtol=1e-9, atol=1e-12)


# -- presets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["tiny", *SIZES])
@pytest.mark.parametrize("variant", VARIANTS)
def test_presets_build_on_the_meta_device(variant, size):
    c = TitansConfig.preset(f"{variant}-{size}")
    with torch.device("meta"):
        m = TitansLM(c)
    # 12 d² per layer and the embedding are the Llama frame; a memory adds projections of its own
    frame = 12 * c.dim**2 * c.layers + c.vocab_size * c.dim
    assert 0.75 * frame < m.count_parameters() < 1.8 * frame
    if size in SIZES:
        assert (c.dim, c.layers, c.heads) == SIZES[size] and (c.segment, c.window, c.chunk_size) == (512, 2048, 16)


def counted_by_hand(c):
    """Weights of a model with the options of a preset, from its sizes alone."""
    d, H, D = c.dim, c.heads, c.dim // c.heads
    swiglu, attention = 3 * d * 8 * round(d * c.mlp_ratio / 8), 4 * d * d
    matrix = "delta" in c.variant  # its memory is one: no momentum, no norm, and only one of the two forgets
    layers, gates = (1, 1 + (c.variant == "gated-delta")) if matrix else (2, 3)
    start = H * D * D if matrix else H * 2 * D * round(c.memory_expansion * D) + 2 * D
    memory = 5 * d * d + 3 * d * c.conv_size + gates * H * layers * (d + 1) + d + start
    mixer = {
        "transformer": attention,
        "swa": attention + c.persistent * d,
        "mac": attention + memory + c.persistent * d + 2 * d,  # two norms in the gate
        "mag": attention + memory + c.persistent * d + 2 * d,
        "mal": attention + memory + c.persistent * d + d,  # one between memory and attention
        "lmm": memory + c.persistent * d,
    }
    return c.vocab_size * d + d + c.layers * (2 * d + swiglu + mixer.get(c.variant, memory))


@pytest.mark.parametrize("size", ["tiny", *SIZES])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_preset_has_as_many_weights_as_its_sizes_say(variant, size):
    c = TitansConfig.preset(f"{variant}-{size}")
    assert presets.count(c) == counted_by_hand(c)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_block_returns_a_view(variant):
    """FSDP2 hooks what a block returns, states included, and loses its hook where a view is changed in place."""
    m, tokens = model(variant), text(T=24)
    x = m.embedding(tokens)
    for state in (None, m.blocks[0](x, None)[1]):
        y, after = m.blocks[0](x, state)
        assert not y._is_view() and not [name for name, z in after.to_dict().items() if z._is_view()]
    logits, _ = m(tokens)
    assert not logits._is_view()


def test_the_table_of_presets_shows_their_weights():
    header, *rows = presets.table().splitlines()
    assert header.split()[-5:] == ["tiny", *SIZES] and [row.split()[0] for row in rows] == list(VARIANTS)
    weights = counted_by_hand(TitansConfig.preset("mac-340m"))
    assert rows[VARIANTS.index("mac")].split()[3] == f"{weights / 1e6:.2f}"


def test_a_preset_can_be_changed_and_names_are_checked():
    assert TitansConfig.preset("mac-340m", layers=3).layers == 3
    assert TitansConfig.preset("gated-delta-170m").variant == "gated-delta"
    for wrong in ("mac", "mac-170", "mag_340m", "rnn-tiny"):
        with pytest.raises(ValueError, match="for example 'mac-340m'"):
            TitansConfig.preset(wrong)


def test_open_choices_are_the_defaults():
    choices = TitansConfig.open_choices()
    assert choices.keys() == OPEN.keys() and len(choices) >= 10
    assert all(choice.default == repr(getattr(TitansConfig(), name)) for name, choice in choices.items())
    assert all(len(choice.reason.split()) > 5 for choice in choices.values())


# -- generation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_generate_goes_on_as_the_logits_say(variant):
    m, prompt = model(variant), text(T=9)
    streamed = []
    out, state = m.generate(prompt, 12, temperature=0, stream=streamed.append)
    assert out.shape == (2, 21) and state.position == 20
    with torch.no_grad():
        expected = m(out[:, :-1])[0].argmax(-1)[:, 8:]
    assert torch.equal(out[:, 9:], expected) and torch.equal(torch.stack(streamed, 1), expected)


def test_a_seed_repeats_and_a_state_goes_on():
    m, prompt = model("mag"), text(T=9)
    once, twice, other = (m.generate(prompt, 8, seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(once, twice) and not torch.equal(once, other)
    _, state = m(prompt[:, :4])
    assert torch.equal(m.generate(prompt[:, 4:], 8, seed=1, state=state)[0][:, 5:], once[:, 9:])
    with pytest.raises(ValueError, match="a first token"):
        m.generate(prompt[:, :0], 3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_text_begun_in_inference_mode_goes_on_in_training(variant):
    m, tokens = model(variant), text()
    expected, _ = m(tokens)
    for first in (0, 5, 16):
        with torch.inference_mode():
            _, state = m(tokens[:, :first])
        logits, _ = m(tokens[:, first:], state)
        assert (logits - expected[:, first:]).abs().max() < 1e-10
        logits.square().mean().backward()


def test_sampling_by_hand():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(4000, -1)
    g = torch.Generator().manual_seed(0)
    assert set(sample(logits, top_k=2, generator=g).tolist()) == {2, 3}
    assert set(sample(logits, top_p=0.6, generator=g).tolist()) == {3}  # 0.64 reaches 0.6 alone
    assert set(sample(logits, top_p=0.7, generator=g).tolist()) == {2, 3}
    drawn = torch.bincount(sample(logits, temperature=2.0, generator=g), minlength=4) / 4000
    torch.testing.assert_close(drawn, (logits[0] / 2).softmax(-1), rtol=0, atol=0.03)
    assert (sample(logits, temperature=0) == 3).all()
    nan = float("nan")
    for wrong in (
        *({"temperature": -1}, {"temperature": nan}, {"top_k": 0}, {"top_k": 2.5}, {"top_k": True}),
        *({"top_p": 0}, {"top_p": 1.1}, {"top_p": nan}),
    ):
        with pytest.raises(ValueError, match="sampling: got"):
            sample(logits, **wrong)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "options"), [*((v, {}) for v in VARIANTS), *((v, ALL) for v in VARIANTS)], ids=str)
@torch.no_grad()
def test_a_state_can_be_saved_loaded_indexed_and_moved(variant, options, tmp_path):
    m, tokens = model(variant, **options), text(B=3)
    _, state = m(tokens[:, :20])
    state.save(tmp_path / "state.npz")
    again = TitansState.load(tmp_path / "state.npz")
    expected, _ = m(tokens[:, 20:], state)
    assert torch.equal(m(tokens[:, 20:], again)[0], expected)
    assert (m(tokens[1:2, 20:], state[1])[0] - expected[1:2]).abs().max() < 1e-12
    assert state.detach().to("cpu").position == 20


@pytest.mark.parametrize("variant", ["mac", "gated-delta"])
@torch.no_grad()
def test_save_and_load_without_pickle(variant, tmp_path):
    m, tokens = model(variant).float(), text()
    m.save_pretrained(tmp_path / "model")
    assert {path.suffix for path in (tmp_path / "model").iterdir()} <= {".safetensors", ".json", ".md"}
    again = TitansLM.from_pretrained(tmp_path / "model")
    assert again.config == m.config and type(again) is TitansLM
    assert torch.equal(again(tokens)[0], m(tokens)[0])


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_errors_name_got_and_expected():
    m, tokens = model("mac"), text()
    _, state = m(tokens)
    cases = [
        (lambda: m(tokens + 50), ValueError, "got ids from 5. to 9., expected 0 to 49|got ids"),
        (lambda: m(tokens - 50), ValueError, "another tokenizer"),
        (lambda: m(tokens.float()), TypeError, "expected integers"),
        (lambda: m(tokens[0]), ValueError, "the batch axis missing"),
        (lambda: m("text"), TypeError, "expected integers"),
        (lambda: m(tokens, padding_mask=torch.zeros_like(tokens).bool()), ValueError, "Pad on the right"),
        (lambda: m(tokens[:1], state), ValueError, "another model or batch"),
        (lambda: model("mag")(tokens, state), ValueError, "another model or batch"),
        (lambda: m(tokens, state.blocks[0]), TypeError, "expected the TitansState"),
        (lambda: TitansState.from_dict({"blocks.0.memory.conv": tokens}), ValueError, "expected 'position'"),
        (lambda: TitansLM("mac-tiny"), TypeError, "expected a TitansConfig"),
        *(
            (lambda flat=flat: TitansState.from_dict(state.to_dict() | flat), ValueError, message)
            for flat, message in (
                ({"blocks.0.attention.position": torch.tensor(1.5)}, "position: got 1.5, expected an integer ≥ 0"),
                ({"blocks.0.h_keys.extra": tokens}, "BlockState: got names .*h_keys.extra"),
                ({"blocks.0.context.7": tokens}, "BlockState: got names .*context.7"),
            )
        ),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
    with pytest.raises(ValueError, match="got \\[\\]|a state of|BlockState"):
        TitansState.from_dict({"position": torch.tensor(1), "blocks.0.colour": tokens})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "rnn"}, "variant: got 'rnn'"),
        ({"dim": 0}, "dim: got 0"),
        ({"heads": 3}, "even head size"),
        ({"window": 0}, "window: got 0"),
        ({"segment": 10}, "a multiple of chunk_size"),
        ({"long_term": 5}, "a divisor of segment"),
        ({"gate": "tanh"}, "gate: got 'tanh'"),
        ({"persistent": -1}, "persistent: got -1"),
        ({"group_size": 0}, "group_size: got 0"),
        ({"group_size": 2.0}, "group_size: got 2.0"),
        ({"group_size": True}, "group_size: got True"),
        ({"layers": True}, "layers: got True, expected an integer ≥ 1"),
        *(({"persistent": x}, f"persistent: got {x}, expected an integer ≥ 0") for x in (True, 2.0)),
        *(({"long_term": x}, f"long_term: got {x}, expected an integer ≥ 1") for x in (True, 4.0, 0)),
        *(
            ({name: x}, f"{name}: got {x}, expected a finite number > 0")
            for name in ("mlp_ratio", "memory_expansion", "rope_base", "norm_eps")
            for x in (0, -1, math.nan, math.inf, True)
        ),
        ({"mlp_ratio": "4"}, "mlp_ratio: got '4', expected a finite number > 0"),
        *(
            ({name: x}, f"{name}: got {x!r}, expected True or False")
            for name in ("tie_embeddings", "residual", "norm", "layer_gates", "momentum", "forgetting", "mal_residual")
            for x in ("False", 0, None)
        ),
        ({"literal": 1}, "literal: got 1, expected True or False"),
        *(({"max_theta": x}, f"max_theta: got {x}, expected .*0, 1") for x in (0, 0.0, -0.1, 1.5, math.nan, True)),
        *(
            ({"half_life": x}, "half_life: got .*, expected two")
            for x in (
                (32.0,),
                (1.0, 2.0, 3.0),
                (0, 10.0),
                (-1.0, 10.0),
                (100.0, 10.0),
                (math.nan, 10.0),
                (10.0, math.inf),
                (10.0, "20"),
                (True, 20.0),
                32.0,
                None,
            )
        ),
        ({"forget": "vector"}, "forget: got 'vector'"),
        ({"forget": "channel", "memory_expansion": 1.5}, "a whole number"),
        ({"attention": "flash"}, "attention: got 'flash'"),
        ({"variant": "mag", "literal": True}, "the others do not leak"),
        ({"writes": "h"}, "writes: got 'h', expected one of .*'x.y'"),
        ({"sees": "all"}, "sees: got 'all', expected one of"),
        ({"writes": "x", "literal": True}, "writes: got 'x' with literal=True, expected 'y', as it is printed"),
        ({"sees": "own", "literal": True}, "sees: got 'own' with literal=True, expected 'causal'"),
        *(({"attention_conv": x}, f"attention_conv: got {x}, expected an integer ≥ 1") for x in (0, True, 2.0)),
        ({"attention_heads": 0}, "attention_heads: got 0, expected an integer ≥ 1"),
        ({"attention_heads": 16}, "attention_heads: got 16 for dim 16, expected dim = heads × an even head size"),
        *(({"heads": x, "attention_heads": 2}, f"^heads: got {x} for dim 16, expected dim = heads ×") for x in (3, 16)),
        *(({"min_half_life": x}, f"min_half_life: got {x}, expected a finite") for x in (-1, math.nan, False)),
        ({"min_half_life": 32.0}, "min_half_life: got 32.0, expected less than the first of half_life"),
        ({"learn_gates": 0}, "learn_gates: got 0, expected True or False"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config(), **change)


def test_a_configuration_at_the_edges_is_accepted():
    c = config(max_theta=1.0, half_life=(32, 32.0), mlp_ratio=4, persistent=0, norm_eps=1e-12, long_term=None)
    assert c.half_life == (32, 32.0) and c.max_theta == 1.0


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_tokens_may_be_integers_of_any_kind(dtype):
    m, tokens = model("mac"), text(T=9)
    with torch.no_grad():
        assert torch.equal(m(tokens.to(dtype))[0], m(tokens)[0])
        assert torch.equal(m.loss(tokens.to(dtype))[0], m.loss(tokens)[0])
    found, _ = m.generate(tokens.to(dtype), 3, temperature=0)
    assert found.dtype == torch.int64 and torch.equal(found, m.generate(tokens, 3, temperature=0)[0])
    assert m.generate(tokens.to(dtype), 0)[0].dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.complex64], ids=str)
def test_other_tokens_are_refused_everywhere(dtype):
    m, tokens = model("swa"), torch.ones(2, 9, dtype=dtype)
    calls = (m, m.loss, lambda x: m.generate(x, 3), lambda x: m.generate(x, 0), lambda x: m(x[:, :0]))
    for call in calls:
        with pytest.raises(TypeError, match=rf"got {dtype}, expected integers \(B, T\)"):
            call(tokens)


@pytest.mark.parametrize("length", [0, 1])
def test_a_loss_needs_a_token_to_predict(length):
    with pytest.raises(ValueError, match=rf"tokens: got shape \(2, {length}\), expected \(B, T \+ 1\), T ≥ 1"):
        model("swa").loss(text(T=length))
    assert model("swa").loss(text(T=2))[0].isfinite()


@pytest.mark.parametrize("number", [-1, 2.0, True, None], ids=str)
def test_generate_counts_its_tokens(number):
    with pytest.raises(ValueError, match=f"max_new_tokens: got {number}, expected an integer ≥ 0"):
        model("swa").generate(text(T=3), number)
    assert model("swa").generate(text(T=3), 0)[0].shape == (2, 3)


def test_a_padded_prompt_on_the_right_is_left_alone():
    m, tokens = model("mag"), text()
    padded = torch.cat([tokens[:, :30], torch.zeros(2, 10, dtype=torch.long)], 1)
    with torch.no_grad():
        assert torch.equal(m(padded)[0][:, :30], m(torch.cat([tokens[:, :30], tokens[:, 20:30]], 1))[0][:, :30])
