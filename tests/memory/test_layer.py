"""The layer: what is trained from outside gets its gradient, streams can be cut anywhere, gates start as promised."""

import copy
import math
import pickle

import pytest
import torch

from tests.helpers import difference, state_difference
from titans_mini import NeuralMemory, NeuralMemoryState, neural_memory
from titans_mini.memory.gates import log_spaced_half_lives

VARIANTS = {
    "default": {},
    "matrix": {"depth": 1, "residual": False, "norm": False},
    "online matrix": {"depth": 1, "residual": False, "norm": False, "anchor": "token"},
    "deep": {"depth": 4},
    "no norm": {"norm": False},
    "no residual": {"residual": False},
    "gates for all layers": {"layer_gates": False},
    "read before": {"read": "before"},
    "no convolution": {"conv_size": 1},
    "token by token": {"chunk_size": 1},
    "wide heads": {"head_dim": 6},
    "one head": {"heads": 1},
    "recurrence": {"backend": "recurrence"},
    "silu": {"activation": "silu"},
    "groups of one chunk": {"group_size": 1},
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def layer_of(options=None, seed=0, dtype=torch.float64, dim=8):
    """A layer whose gates depend on the token: the fresh ones have no weights, only biases."""
    torch.manual_seed(seed)
    layer = NeuralMemory(dim, **{"heads": 2, "chunk_size": 4, "theta": None, **(options or {})}).to(dtype)
    with torch.no_grad():
        layer.to_gates.weight.normal_(std=0.2)
    return layer


def tokens(B=2, T=13, dim=8, seed=1, dtype=torch.float64):
    return torch.randn(B, T, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# -- what is trained from outside -------------------------------------------------------------------------------------


@variants
def test_every_parameter_receives_a_gradient(options):
    torch.manual_seed(0)
    layer = NeuralMemory(8, **{"heads": 2, "chunk_size": 4, **options})  # fresh, float32, as anybody would start
    y, _ = layer(tokens(T=20, dtype=torch.float32))
    y.square().mean().backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name
    gates = layer.to_gates.weight.grad.unflatten(0, (3, layer.heads, layer.gate_layers))
    assert (gates.abs().amax(-1) > 0).all()  # α, η and θ of every head and layer
    blocks = layer.to_qkv.weight.grad.unflatten(0, (3, layer.heads, layer.head_dim))
    assert (blocks.abs().amax((-2, -1)) > 0).all()  # q, k and v of every head
    assert (layer.output_norm.grad.abs().amax((1, 2)) > 0).all()


@variants
def test_finite_differences_agree_for_every_parameter(options):
    layer, x = layer_of(options), tokens()
    weights = torch.randn(2, 13, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def value():
        return (layer(x)[0] * weights).sum()

    named = dict(layer.named_parameters())
    found = torch.autograd.grad(value(), list(named.values()))
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for (name, p), grad in zip(named.items(), found, strict=True):
            for i in torch.randint(p.numel(), (2,), generator=g).tolist():
                entry, h = p.view(-1)[i : i + 1], 1e-6
                kept = entry.clone()
                entry.copy_(kept + h)
                up = value()
                entry.copy_(kept - h)
                slope = (up - value()) / (2 * h)
                entry.copy_(kept)
                assert abs(slope - grad.view(-1)[i]) <= 1e-6 * max(1, abs(slope)), (name, i, slope, grad.view(-1)[i])


@pytest.mark.parametrize("options", [{}, {"depth": 1, "norm": False}, {"heads": 4}], ids=["default", "matrix", "heads"])
def test_an_optimizer_step_lowers_the_loss_and_more_lower_it_further(options):
    """Predict the value that was three tokens ago; several heads, on the CPU."""
    torch.manual_seed(0)
    layer = NeuralMemory(16, **{"heads": 2, "chunk_size": 4, **options})
    x = tokens(B=4, T=24, dim=16, dtype=torch.float32)
    target = x.roll(3, 1)
    optimizer, losses = torch.optim.Adam(layer.parameters(), lr=3e-3), []
    for _ in range(12):
        loss = (layer(x)[0] - target)[:, 3:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize(
    "options", [{}, {"depth": 1, "norm": False}, {"read": "before"}], ids=["default", "matrix", "before"]
)
def test_keys_values_and_gates_learn_through_the_update(options):
    """The loss looks at the last answer; tokens beyond the convolution's reach act on it through the memory alone."""
    layer, x = layer_of(options), tokens(T=16)
    conv = layer.init_state(2).conv
    early, late = x[:, :10], x[:, 10:].detach()
    q, k, v, conv = layer.project(early, conv)
    gates = layer.gates(early)
    written = [z.detach().requires_grad_() for z in (k, v, *gates)]
    _, memory = neural_memory(q, *written, layer.init_state(2).memory, net=layer.net, **layer.options)
    y, _ = layer(late, NeuralMemoryState(memory=memory, conv=conv.detach()))
    found = torch.autograd.grad(y[:, -1].square().sum(), written)
    for name, g in zip(("k", "v", "alpha", "eta", "theta"), found, strict=True):
        per_token = g.abs().sum(-1)  # (B, H, T); at the first token η meets S₀ = 0, and α may meet M₀ = 0
        assert (per_token[:, :, 1:] > 0).all(), name


def test_the_gradient_reaches_back_over_many_chunks():
    layer, x = layer_of(), tokens(T=40).requires_grad_()
    (g,) = torch.autograd.grad(layer(x)[0][:, -1].sum(), x)
    assert (g.abs().amax(-1) > 0).all()


# -- streams ----------------------------------------------------------------------------------------------------------


@variants
@torch.no_grad()
def test_every_split_gives_the_same_result(options):
    """Pieces shorter than the convolution and of length 0 among them; the whole state agrees as well."""
    layer, x = layer_of(options), tokens(T=13)
    whole, end = layer(x)
    for cuts in ([6], [0, 1, 2], [3, 3, 10, 13], list(range(1, 13))):
        state, y = None, []
        for begin, stop in zip([0, *cuts], [*cuts, 13], strict=True):
            piece, state = layer(x[:, begin:stop], state)
            y.append(piece)
        assert difference(torch.cat(y, 1), whole) <= 1e-12
        assert difference(state.conv, end.conv) <= 1e-12 and state_difference(state.memory, end.memory) <= 1e-12


@variants
@torch.no_grad()
def test_the_future_changes_nothing_before_it(options):
    layer, x = layer_of(options), tokens(T=13)
    y, _ = layer(x)
    for t in range(13):
        changed = torch.cat([x[:, :t], -x[:, t:]], 1)
        y_changed, _ = layer(changed)
        assert torch.equal(y_changed[:, :t], y[:, :t])
        assert (y_changed[:, t] - y[:, t]).abs().max() > 1e-6


def test_sequences_do_not_mix_in_value_and_gradient():
    layer, x = layer_of(), tokens(B=3).requires_grad_()
    y, end = layer(x)
    changed = x.detach().clone()
    changed[1] *= -1
    y_changed, _ = layer(changed)
    assert torch.equal(y_changed[0], y[0]) and torch.equal(y_changed[2], y[2]) and not torch.equal(y_changed[1], y[1])
    (g,) = torch.autograd.grad(y[1].sum(), x)
    assert (g[0] == 0).all() and (g[2] == 0).all() and g[1].abs().max() > 0
    alone, last = layer(x[1:2])
    assert difference(alone, y[1:2]) <= 1e-13 and state_difference(last.memory, end.memory[1]) <= 1e-13


@torch.no_grad()
def test_the_same_input_twice_gives_the_same_output():
    layer, x = layer_of(dtype=torch.float32), tokens(dtype=torch.float32)
    (y1, s1), (y2, s2) = layer(x), layer(x)
    assert torch.equal(y1, y2) and state_difference(s1.memory, s2.memory) == 0
    (y1, s1), (y2, s2) = layer(x, s1), layer(x, s2)
    assert torch.equal(y1, y2) and torch.equal(s1.conv, s2.conv)


@torch.no_grad()
def test_the_callers_state_stays_as_it_is():
    layer, x = layer_of(), tokens()
    _, state = layer(x)
    kept = state.clone()
    layer(x, state)
    assert state_difference(state.memory, kept.memory) == 0 and torch.equal(state.conv, kept.conv)


@torch.no_grad()
def test_a_saved_state_goes_on_where_it_was(tmp_path):
    layer, x = layer_of(dtype=torch.float32), tokens(dtype=torch.float32)
    whole, _ = layer(x)
    _, state = layer(x[:, :6])
    state.save(tmp_path / "state.npz")
    y, _ = layer(x[:, 6:], NeuralMemoryState.load(tmp_path / "state.npz"))
    again, _ = layer(x[:, 6:], state)
    assert torch.equal(y, again) and difference(y, whole[:, 6:]) <= 1e-5
    one, _ = layer(x[1:, 6:], NeuralMemoryState.load(tmp_path / "state.npz")[1])
    assert difference(one, y[1:]) <= 1e-5


@torch.no_grad()
def test_a_state_moves_with_its_layer():
    layer, x = layer_of(dtype=torch.float32), tokens(T=12)
    _, state = layer(x[:, :6].float())
    y, end = layer.double()(x[:, 6:], state.to(torch.float64))
    assert y.dtype == end.conv.dtype == end.memory.weights[0].dtype == torch.float64
    assert end.to("meta").memory.momentum[1].is_meta


def test_truncated_backpropagation():
    """Training on a long stream: detach between the pieces; the graph ends there, the numbers do not change."""
    layer, x = layer_of(), tokens(T=16).requires_grad_()
    whole, _ = layer(x)
    _, state = layer(x[:, :8])
    y, _ = layer(x[:, 8:], state.detach())
    assert difference(y, whole[:, 8:]) <= 1e-12
    (g,) = torch.autograd.grad(y.sum(), x)
    assert (g[:, :8] == 0).all() and g[:, 8:].abs().max() > 0
    optimizer, state = torch.optim.SGD(layer.parameters(), lr=1e-2), None
    for piece in x.detach().split(4, 1):
        y, state = layer(piece, state)
        optimizer.zero_grad()
        y.square().mean().backward()
        optimizer.step()
        state = state.detach()


# -- where it starts --------------------------------------------------------------------------------------------------


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def half_lives(layer, x):
    alpha, eta, theta = layer.gates(x)
    return -math.log(2) / torch.log1p(-alpha), eta, theta


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("heads", [1, 2, 8])
@torch.no_grad()
def test_half_lives_start_log_spaced_from_tens_to_thousands_of_tokens(heads):
    layer = NeuralMemory(16, heads=heads)
    expected = log_spaced_half_lives(heads)
    if heads > 1:
        assert 10 <= expected[0] < 100 and 1000 <= expected[-1] < 10_000
    lives, eta, theta = half_lives(layer, tokens(dim=16))
    assert lives.shape == (2, heads, 13, 2)
    assert ((lives[..., -1] / expected[:, None]) - 1).abs().max() <= 1e-11
    assert (lives[..., 0] / 2**20 - 1).abs().max() <= 1e-9  # features last
    assert (eta - 0.5).abs().max() <= 1e-15 and (theta - 0.5 / 32).abs().max() <= 1e-15  # (1 − η)·(1/16)/2


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_where_the_gates_start_is_configurable():
    layer = NeuralMemory(8, heads=2, half_life=(5, 500), eta=0.9, theta=0.02, max_theta=0.1, layer_gates=False)
    lives, eta, theta = half_lives(layer, tokens())
    assert lives.shape == (2, 2, 13, 1)
    assert (lives[:, 0] / 5 - 1).abs().max() <= 1e-12 and (lives[:, 1] / 500 - 1).abs().max() <= 1e-11
    assert (eta - 0.9).abs().max() <= 1e-15 and (theta - 0.02).abs().max() <= 1e-15
    layer.to_gates.weight.normal_()
    layer.to_gates.bias.fill_(50.0)
    assert (layer.gates(tokens())[2] <= 0.1).all()
    layer.reset_gates()
    assert (half_lives(layer, tokens())[0][:, 0] / 5 - 1).abs().max() <= 1e-12


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("forget", ["scalar", "channel"])
@torch.no_grad()
def test_half_lives_have_a_floor(forget):
    layer = NeuralMemory(8, heads=2, half_life=(32, 500), min_half_life=16, forget=forget)
    free = NeuralMemory(8, heads=2, half_life=(32, 500), forget=forget)
    for mine, its in zip(layer.gates(tokens()), free.gates(tokens()), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-11, atol=0)  # they start alike
    layer.to_gates.bias.fill_(50.0)
    alpha, eta, _ = layer.gates(tokens())
    assert (alpha - (1 - 2 ** (-1 / 16))).abs().max() <= 1e-15 and (eta == 1).all()


def test_gates_that_do_not_learn_keep_what_they_have():
    layer, x = NeuralMemory(8, heads=2).double(), tokens().requires_grad_()
    with torch.no_grad():  # as if they had learned before
        layer.to_gates.weight.normal_(generator=torch.Generator().manual_seed(0))
    found = []
    for learn in (True, False):
        layer.learn_gates = learn
        y, _ = layer(x)
        named = {"x": x, **dict(layer.named_parameters())}
        found.append((y, dict(zip(named, torch.autograd.grad(y.sin().sum(), list(named.values())), strict=True))))
    (y, gradients), (z, others) = found
    torch.testing.assert_close(z, y, rtol=0, atol=1e-14)
    for name, gradient in gradients.items():
        if name.startswith("to_gates"):
            assert (others[name][:8] == 0).all() and (gradient[:8] != 0).all()  # H·L rows of α, as many of η
            others[name][:8] = gradient[:8]
        torch.testing.assert_close(others[name], gradient, rtol=0, atol=1e-12)  # and x still moves all gates


@torch.no_grad()
def test_half_lives_in_float32():
    """The bias is stored to 24 bits: half-lives within a millionth. 1 − α itself would only give 1e-4."""
    lives, _, _ = half_lives(NeuralMemory(16, heads=8), tokens(dim=16, dtype=torch.float32))
    assert (lives[..., -1].double() / log_spaced_half_lives(8)[:, None] - 1).abs().max() <= 3e-6


def test_default_step_sizes():
    for C in (1, 16, 64):
        layer = NeuralMemory(8, heads=2, chunk_size=C)
        assert layer.max_theta == 1 / C and layer.theta == 0.25 / C
    layer = NeuralMemory(8, heads=2, depth=1, norm=False, anchor="token")
    assert layer.max_theta == 1.0 and layer.theta == 0.25
    assert NeuralMemory(8, heads=2).net.eps == 0.1 / 4 and NeuralMemory(8, heads=2, eps=0).net.eps == 0


@torch.no_grad()
def test_queries_and_keys_are_unit_vectors_and_the_convolution_is_causal():
    layer, x = layer_of(), tokens()
    state = layer.init_state(2)
    q, k, v, conv = layer.project(x, state.conv)
    for z in (q, k):
        assert (z.norm(dim=-1) - 1).abs().max() <= 1e-14
    assert q.shape == v.shape == (2, 2, 13, 4)
    wide = layer.to_qkv(x).mT
    assert difference(conv, wide[..., -3:]) <= 1e-14
    by_hand = sum(layer.conv.weight[:, 0, i, None] * wide[..., 5 + i - 3][..., None] for i in range(4))
    expected = torch.nn.functional.silu(by_hand)[..., 0].unflatten(-1, (3, 2, 4))[:, 2]
    assert difference(v[:, :, 5], expected) <= 1e-14


@torch.no_grad()
def test_the_output_is_what_the_memory_answers_normed_gated_and_projected():
    layer, x = layer_of(), tokens()
    y, _ = layer(x)
    state = layer.init_state(2)
    q, k, v, _ = layer.project(x, state.conv)
    answer, _ = neural_memory(q, k, v, *layer.gates(x), state.memory, net=layer.net, chunk_size=4)
    answer = answer / (answer.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.output_norm
    gate = torch.nn.functional.silu(x @ layer.to_output_gate.weight.T)
    assert difference(y, (answer.transpose(1, 2).flatten(2) * gate) @ layer.to_output.weight.T) <= 1e-13


def test_two_seeds_two_layers_one_seed_one_layer():
    x = tokens(dtype=torch.float32)
    a, b, c = (layer_of(seed=s, dtype=torch.float32)(x)[0] for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


# -- sizes, types and tools -------------------------------------------------------------------------------------------


@variants
@pytest.mark.parametrize(("B", "T"), [(1, 1), (2, 0), (0, 5), (0, 0)])
def test_small_and_empty_inputs(options, B, T):
    layer = layer_of(options, dtype=torch.float32)
    x = tokens(B=B, T=T, dtype=torch.float32).requires_grad_()
    y, state = layer(x)
    assert y.shape == (B, T, 8) and state.memory.batch == B
    y, state = layer(x, state)
    assert y.dtype == torch.float32 and state.conv.shape[0] == B


def test_an_input_of_zeros_has_finite_gradients():
    layer, x = layer_of(), torch.zeros(1, 9, 8, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x)
    y.square().sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_layers_keep_their_memory_in_float32(dtype):
    layer, x = layer_of(dtype=dtype), tokens(dtype=dtype)
    y, state = layer(x)
    assert y.dtype == state.conv.dtype == dtype and all(w.dtype == torch.float32 for w in state.memory.weights)
    y, _ = layer(x, state)
    y.float().square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in layer.parameters())
    low, exact = layer(x)[0].double(), copy.deepcopy(layer).double()(x.double())[0]
    assert (low - exact).norm() / exact.norm() < 0.1


def test_under_autocast():
    layer, x = layer_of(dtype=torch.float32), tokens(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x)
        y, state = layer(x.bfloat16(), state)  # a layer before this one may hand over bfloat16
    assert y.dtype == torch.bfloat16 and all(w.dtype == torch.float32 for w in state.memory.weights)
    y.float().square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in layer.parameters())
    layer(x, state)  # and out of it again


def test_inference_mode_and_back_to_training():
    layer, x = layer_of(), tokens()
    expected, _ = layer(x)
    with torch.inference_mode():
        y, state = layer(x)
    assert torch.equal(y, expected)
    layer(x, state.clone())[0].sum().backward()


@variants
def test_state_dict_pickle_and_deepcopy(options):
    layer, x = layer_of(options), tokens()
    y, _ = layer(x)
    other = layer_of(options, seed=7)
    assert not torch.equal(other(x)[0], y)
    other.load_state_dict(layer.state_dict())
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x)[0], y)


def test_training_and_evaluation_are_the_same():
    layer, x = layer_of(), tokens()
    assert torch.equal(layer.train()(x)[0], layer.eval()(x)[0])


def test_print_shows_how_it_was_built():
    assert "dim=8, heads=2, half_life=(32.0, 4096.0), chunk_size=4, anchor='chunk'" in repr(layer_of())
