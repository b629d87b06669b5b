"""Would the tests notice? Each mistake is put into the library, and the check meant for it must then fail."""

import pytest
import torch

import titans_mini.memory.checks
import titans_mini.memory.chunk
import titans_mini.memory.chunk_backward
import titans_mini.memory.chunked
import titans_mini.memory.deep
import titans_mini.memory.functional
import titans_mini.memory.linear
import titans_mini.memory.linear_backward
import titans_mini.memory.network
import titans_mini.memory.recurrence
import titans_mini.memory.spans
from tests.memory import test_errors, test_gradients, test_parity, test_recurrence

chunk, chunk_backward, chunked = titans_mini.memory.chunk, titans_mini.memory.chunk_backward, titans_mini.memory.chunked
recurrence, functional = titans_mini.memory.recurrence, titans_mini.memory.functional
spans, deep = titans_mini.memory.spans, titans_mini.memory.deep
linear, linear_backward = titans_mini.memory.linear, titans_mini.memory.linear_backward


def parity(depth=2, residual=True, norm=True, layers=None, read="after"):
    return lambda: test_parity.sweep(depth, residual, norm, layers, read)


def online(read="after"):
    check = test_parity.test_anchor_token_is_chunk_size_1_whatever_the_chunk_size
    return lambda: check(False, read, "chunked")


def oracle(backend="recurrence"):
    check = test_recurrence.test_against_an_oracle_that_shares_no_code
    return lambda: check(2, True, True, 1, 4, "after", backend)


# -- mistakes in the chunked form -------------------------------------------------------------------------------------


def gates_where(patch, change):
    """Change what the gates of a run of chunks multiply up to."""
    right = spans.multiply_gates
    patch.setattr(spans, "multiply_gates", lambda *z, **o: (change(lambda *y: right(*y)[0], *z), *right(*z, **o)[1:]))


def no_shift(patch):
    """read="before" reads after the write."""
    gates_where(patch, lambda right, a, e, th, read, online: right(a, e, th, "after", online))


def no_start_momentum(patch):
    """The term f_t S₀ is dropped."""
    only_b = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    gates_where(patch, lambda right, *z: (g := right(*z))._replace(reads=g.reads * only_b, f_end=0 * g.f_end))


def momentum_is_forgotten_too(patch):
    """S decays by 1 − α as well: S_t = (1−α_t) η_t S_{t−1} − …"""
    gates_where(patch, lambda right, a, e, *z: right(a, e * (1 - a), *z))


def no_momentum_between_tokens(patch):
    """G without n: each gradient enters M once."""
    gates_where(patch, lambda right, a, e, *z: right(a, e, *z)._replace(G=right(a, 0 * e, *z).G))


def decay_before_the_write_of_the_same_token(patch):
    """M_t = (1−α_t)(M_{t−1} + S_t): the reads see their own write decayed."""
    gates_where(patch, lambda right, a, *z: (g := right(a, *z))._replace(G=(1 - a).unsqueeze(-1) * g.G))


def the_tokens_own_write_is_not_read(patch):
    """The mask is strictly causal."""
    gates_where(patch, lambda right, *z: (g := right(*z))._replace(G=g.G.tril(-1)))


def one_layers_gates_for_all(patch):
    """Gates per layer are ignored but the first."""
    patch.setattr(chunk.Chunk, "of_layer", lambda self, layer: self.gates[0])


def anchor_refreshed_late(patch):
    """Every chunk of a call keeps the first one's anchor."""
    first = []

    def wrong(net, c, at, *z, right=deep.anchored_steps, **options):
        first.append([w.clone() for w in at])  # stacks are written over
        return right(net, c, first[0], *z, **options)

    patch.setattr(deep, "anchored_steps", wrong)


def position_forgotten(patch):
    """A call begins a chunk of its own wherever the call before ended."""

    def wrong(*arguments, right=chunked.chunked):
        y, state = right(*arguments)
        return y, type(state)(state.weights, state.momentum, state.weights, 0)

    patch.setitem(functional.BACKENDS, "chunked", wrong)


def layer_norm_without_its_mean(patch):
    """The derivative of the norm forgets that the mean moves."""

    def wrong(dy, z, gain, eps, slow=False, found=None):
        centred = z - z.mean(-1, keepdim=True)
        rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        d, z_hat = dy * gain, centred * rstd
        return rstd * (d - z_hat * (d * z_hat).mean(-1, keepdim=True)), None, None

    patch.setattr(titans_mini.memory.network, "norm_pull", wrong)


def residual_not_in_the_gradient(patch):
    """δ is taken for M(k) without its residual."""

    def wrong(net, c, *z, right=deep.anchored_steps):
        return right(net, c._replace(v=c.v + c.k), *z)

    patch.setattr(deep, "anchored_steps", wrong)


def a_half_in_the_loss(patch):
    """½‖M(k) − v‖²: the gradient without its 2."""
    gates_where(patch, lambda right, *z: (g := right(*z))._replace(step=g.step / 2))


def online_with_G_of_the_same_row(patch):
    """The system of the online rule uses row t of G, b, f instead of row t − 1."""
    gates_where(
        patch,
        lambda right, *z: (g := right(*z))._replace(before=g.reads, G_before=g.G),
    )


def online_errors_that_ignore_each_other(patch):
    """The triangular system is left out: every error is taken at the chunk's start."""

    def wrong(k, step, G_before):
        return torch.eye(k.shape[-2], dtype=k.dtype).expand(*k.shape[:-1], k.shape[-2])

    patch.setattr(linear, "online_inverse", wrong)


CHUNKED = [
    (no_shift, parity(read="before")),
    (no_start_momentum, parity()),
    (momentum_is_forgotten_too, parity()),
    (no_momentum_between_tokens, parity()),
    (decay_before_the_write_of_the_same_token, parity()),
    (the_tokens_own_write_is_not_read, parity()),
    (one_layers_gates_for_all, parity(layers=2)),
    (anchor_refreshed_late, parity()),
    (position_forgotten, parity()),
    (layer_norm_without_its_mean, parity()),
    (residual_not_in_the_gradient, parity(norm=False)),
    (a_half_in_the_loss, parity()),
    (a_half_in_the_loss, parity(depth=1, residual=False, norm=False)),
    (online_with_G_of_the_same_row, online()),
    (online_errors_that_ignore_each_other, online()),
    (no_shift, online("before")),
]


@pytest.mark.parametrize(("mistake", "check"), CHUNKED, ids=[f"{i}-{m.__name__}" for i, (m, _) in enumerate(CHUNKED)])
def test_parity_notices(mistake, check, monkeypatch):
    check()
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        check()


# -- mistakes in the definition, which parity alone could share -------------------------------------------------------


def sign(patch):
    patch.setattr(recurrence, "surprise", lambda *z, right=recurrence.surprise: tuple(-u for u in right(*z)))


def half(patch):
    patch.setattr(recurrence, "surprise", lambda *z, right=recurrence.surprise: tuple(u / 2 for u in right(*z)))


def a_constant_gradient(patch):
    patch.setattr(recurrence, "surprise", lambda *z, right=recurrence.surprise: tuple(u.detach() for u in right(*z)))


def forgotten_momentum(patch):
    def wrong(M, S, u, alpha, eta, theta, right=recurrence.write):
        return right(M, S, u, alpha, [e * (1 - a) for e, a in zip(eta, alpha, strict=True)], theta)

    patch.setattr(recurrence, "write", wrong)


def late_theta(patch):
    """M takes S before the token's own gradient is in it."""

    def wrong(M, S, u, alpha, eta, theta, right=recurrence.write):
        zero = [0 * t for t in theta]
        return right(M, S, u, alpha, eta, zero)[0], right(M, S, u, alpha, eta, theta)[1]

    patch.setattr(recurrence, "write", wrong)


def gates_of_the_next_token(patch):
    def wrong(gates, t, depth, right=recurrence.gates_of_token):
        return right(gates, min(t + 1, gates.shape[2] - 1), depth)

    patch.setattr(recurrence, "gates_of_token", wrong)


@pytest.mark.parametrize(
    "mistake", [sign, half, a_constant_gradient, forgotten_momentum, late_theta, gates_of_the_next_token]
)
def test_the_oracle_notices(mistake, monkeypatch):
    check = oracle()
    check()
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        check()


# -- mistakes in the backward pass, in what is refused, and in a mask that lets the future in -------------------------


def without(patch, place, part):
    """Leave one part of the backward pass out: what it adds in place is lost."""
    right = getattr(chunk_backward, place)

    def wrong(*arguments):
        out = arguments[-1]
        before = [x.clone() for x in part(out)]
        result = right(*arguments)
        for x, old in zip(part(out), before, strict=True):
            x.copy_(old)
        return result

    patch.setattr(chunk_backward, place, wrong)


def no_gradient_through_the_anchor(patch):
    without(patch, "_steps", lambda out: [z.W for z in out.Z])


def no_gradient_from_reads_to_the_momentum(patch):
    def wrong(*arguments, right=chunk_backward._start):
        dh = right(*arguments)
        *_, Z, dZ = arguments
        chunk_backward.Stack(dZ, Z.upright).P.zero_()
        return dh

    patch.setattr(chunk_backward, "_start", wrong)


def no_second_derivative_of_the_activation(patch):
    gelu = chunk.ACTIVATIONS["gelu"]
    patch.setitem(chunk.ACTIVATIONS, "gelu", gelu._replace(bend=torch.zeros_like))


def norm_pulled_back_once_only(patch):
    def wrong(u, *z, right=chunk_backward.norm_pull_backward):
        dv, dz, *slow = right(u, *z)
        return dv, 0 * dz, *slow

    patch.setattr(chunk_backward, "norm_pull_backward", wrong)


def no_gradient_through_the_products_of_eta(patch):
    def wrong(*z, right=spans.fill_table_backward):
        d_alpha, d_eta = right(*z)
        return d_alpha, 0 * d_eta

    patch.setattr(spans, "fill_table_backward", wrong)


def no_gradient_from_reads_to_the_states_of_a_matrix(patch):
    def wrong(run, b, r, dw, from_reads, *z, right=linear_backward._states_backward):
        return right(run, b, r, dw, 0 * from_reads, *z)

    patch.setattr(linear_backward, "_states_backward", wrong)


def no_gradient_through_the_triangular_system(patch):
    def wrong(*x, right=linear_backward._system_backward):
        return 0 * right(*x)

    patch.setattr(linear_backward, "_system_backward", wrong)


BACKWARD = [
    no_gradient_through_the_anchor,
    no_gradient_from_reads_to_the_momentum,
    no_second_derivative_of_the_activation,
    norm_pulled_back_once_only,
    no_gradient_through_the_products_of_eta,
]


OF_A_MATRIX = [no_gradient_from_reads_to_the_states_of_a_matrix, no_gradient_through_the_triangular_system]


@pytest.mark.parametrize("mistake", OF_A_MATRIX)
def test_gradients_of_a_matrix_notice(mistake, monkeypatch):
    check = test_gradients.test_gradients_of_the_exact_online_rule_do_not_depend_on_the_chunk_size
    check(False)
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        check(False)


@pytest.mark.parametrize("mistake", BACKWARD)
def test_gradients_notice(mistake, monkeypatch):
    def check():
        test_gradients.test_chunked_gradients_equal_those_of_the_definition(2, True, True, "after")

    check()
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        check()


def test_causality_notices_a_mask_that_lets_the_future_in(monkeypatch):
    def check():
        test_recurrence.test_the_future_changes_nothing_before_it("chunked", "before")

    check()
    gates_where(monkeypatch, lambda right, *z: (g := right(*z))._replace(G=g.G + 1e-9))
    with pytest.raises(AssertionError):
        check()


def test_errors_notice_a_check_that_is_gone(monkeypatch):
    (case,) = [c[1:] for c in test_errors.CASES if c[0] == "NaN in alpha"]
    test_errors.test_one_clear_error_and_an_unchanged_state(*case)
    monkeypatch.setattr(titans_mini.memory.checks, "check_ranges", lambda *_: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_errors.test_one_clear_error_and_an_unchanged_state(*case)
