"""Would the tests notice? Each mistake is put into the library, and the check meant for it must then fail."""

import pytest
import torch

from tests.memory import test_errors, test_gradients, test_parity, test_recurrence
from titans_mini.memory import backends, checks, chunk, network, online, recurrence, scan


def parity(depth=2, residual=True, norm=True, layers=None, read="after"):
    return lambda: test_parity.sweep(depth, residual, norm, layers, read)


def exact_rule(read="after"):
    check = test_parity.test_anchor_token_is_chunk_size_1_whatever_the_chunk_size
    return lambda: check(False, read, "chunked")


def oracle(backend="recurrence"):
    check = test_recurrence.test_against_an_oracle_that_shares_no_code
    return lambda: check(2, True, True, 1, 4, "after", backend)


# -- mistakes in the chunked form -------------------------------------------------------------------------------------


def rows_where(patch, change):
    """Change the coefficients that reads use."""
    patch.setattr(scan, "rows_of", lambda table, read, right=scan.rows_of: change(right, table, read))


def table_where(patch, change):
    """Change the table of coefficients."""

    def wrong(alpha, eta, keep_n=False, right=scan.coefficient_table):
        return change(lambda a, e: right(a, e, keep_n), alpha, eta)

    patch.setattr(scan, "coefficient_table", wrong)


def writes_where(patch, change):
    """Change what `chunk.write` is given."""

    def wrong(net, k, v, step, anchor, z, right=chunk.write):
        return right(net, *change(net, k, v, step, anchor, z))

    patch.setattr(chunk, "write", wrong)


def no_shift(patch):
    """Rows of the token before are those of the token itself."""
    rows_where(patch, lambda right, table, read: right(table, "after"))


def no_start_momentum(patch):
    """The term f_t S₀ is dropped."""
    rows_where(patch, lambda right, *z: (r := right(*z))._replace(f=0 * r.f))


def momentum_is_forgotten_too(patch):
    """S decays by 1 − α as well: S_t = (1−α_t) η_t S_{t−1} − …"""
    table_where(patch, lambda right, a, e: right(a, e * (1 - a)))


def no_momentum_between_tokens(patch):
    """G without n: each gradient enters M once."""

    def change(right, a, e):
        table, n = right(a, e)
        table[..., :-1, 2:] = right(a, 0 * e)[0][..., :-1, 2:]
        return table, n

    table_where(patch, change)


def decay_before_the_write_of_the_same_token(patch):
    """M_t = (1−α_t)(M_{t−1} + S_t): the reads see their own write decayed."""

    def change(right, a, e):
        table, n = right(a, e)
        table[..., 1:-1, 2:] *= (1 - a).unsqueeze(-1)
        return table, n

    table_where(patch, change)


def the_tokens_own_write_is_not_read(patch):
    """The mask is strictly causal."""
    rows_where(patch, lambda right, *z: (r := right(*z))._replace(G=r.G.tril(-1)))


def one_layers_gates_for_all(patch):
    """Gates per layer are ignored but the first."""
    patch.setattr(scan, "per_layer", lambda x, depth: [x[0]] * depth)


def anchor_refreshed_late(patch):
    """Every chunk of a call keeps the first one's anchor."""
    first = []

    def change(net, k, v, step, anchor, z):
        first.append(anchor)
        return k, v, step, first[0], chunk.outputs_at_keys(net, k, first[0])

    writes_where(patch, change)


def position_forgotten(patch):
    """A call begins a chunk of its own wherever the call before ended."""

    def wrong(*arguments, right=scan.chunked):
        y, state = right(*arguments)
        return y, type(state)(state.weights, state.momentum, state.weights, 0)

    patch.setitem(backends.BACKENDS, "chunked", wrong)


def layer_norm_without_its_mean(patch):
    """The derivative of the norm forgets that the mean moves."""

    def wrong(dy, z, gain, eps, affine=False):
        centred = z - z.mean(-1, keepdim=True)
        rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        d, z_hat = dy * gain, centred * rstd
        return rstd * (d - z_hat * (d * z_hat).mean(-1, keepdim=True)), None, None

    patch.setattr(network, "layer_norm_vjp", wrong)


def residual_not_in_the_gradient(patch):
    """δ is taken for M(k) without its residual."""
    writes_where(patch, lambda net, k, v, *z: (k, v + k, *z))


def a_half_in_the_loss(patch):
    """½‖M(k) − v‖²: the gradient without its 2."""
    writes_where(patch, lambda net, k, v, step, *z: (k, v, [s / 2 for s in step], *z))


def online_errors_that_ignore_each_other(patch):
    """The triangular system is left out: every error is taken at the chunk's start."""

    def wrong(k, step, G_before):
        return torch.eye(k.shape[-2], dtype=k.dtype).expand(*k.shape[:-1], k.shape[-2])

    patch.setattr(online, "inverse_systems", wrong)


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
    (no_shift, exact_rule()),
    (online_errors_that_ignore_each_other, exact_rule()),
    (no_shift, exact_rule("before")),
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


def no_gradient_through_the_anchor(patch):
    def wrong(net, step, anchor, x, da, dw, d_step, d_anchor, d_norm, right=chunk.write_backward):
        return right(net, step, anchor, x, da, dw, d_step, [z.clone() for z in d_anchor], d_norm)

    patch.setattr(chunk, "write_backward", wrong)


def no_gradient_from_reads_to(patch, part):
    def wrong(*arguments, right=chunk.read_backward):
        dq, grads = right(*arguments)
        return dq, grads._replace(**{part: [0 * x for x in getattr(grads, part)]})

    patch.setattr(chunk, "read_backward", wrong)


def no_gradient_from_reads_to_the_momentum(patch):
    no_gradient_from_reads_to(patch, "S")


def no_gradient_from_reads_to_the_memory(patch):
    no_gradient_from_reads_to(patch, "M")


def no_second_derivative_of_the_activation(patch):
    gelu = chunk.ACTIVATIONS["gelu"]
    patch.setitem(chunk.ACTIVATIONS, "gelu", gelu._replace(second_derivative=torch.zeros_like))


def layer_norm_differentiated_once_only(patch):
    def wrong(u, *z, right=chunk.layer_norm_vjp_backward):
        dv, dz, *affine = right(u, *z)
        return dv, 0 * dz, *affine

    patch.setattr(chunk, "layer_norm_vjp_backward", wrong)


def no_gradient_through_the_products_of_eta(patch):
    def wrong(*z, right=scan.coefficient_table_backward):
        d_alpha, d_eta = right(*z)
        return d_alpha, 0 * d_eta

    patch.setattr(scan, "coefficient_table_backward", wrong)


def no_gradient_through_the_triangular_system(patch):
    def wrong(x, *z, right=online.write_backward):
        return right(x._replace(w=[0 * x.w[0]]), *z)

    patch.setattr(online, "write_backward", wrong)


BACKWARD = [
    no_gradient_through_the_anchor,
    no_gradient_from_reads_to_the_momentum,
    no_second_derivative_of_the_activation,
    layer_norm_differentiated_once_only,
    no_gradient_through_the_products_of_eta,
]


OF_A_MATRIX = [no_gradient_from_reads_to_the_memory, no_gradient_through_the_triangular_system]


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
    rows_where(monkeypatch, lambda right, *z: (r := right(*z))._replace(G=r.G + 1e-9))
    with pytest.raises(AssertionError):
        check()


def test_errors_notice_a_check_that_is_gone(monkeypatch):
    (case,) = [c[1:] for c in test_errors.CASES if c[0] == "NaN in alpha"]
    test_errors.test_one_clear_error_and_an_unchanged_state(*case)
    monkeypatch.setattr(checks, "check_gate_ranges", lambda *_: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_errors.test_one_clear_error_and_an_unchanged_state(*case)
