"""The exact online rule of a matrix memory, still a chunk at a time.

With gradients at M_{t−1} the error of a token depends on the writes before it, and for a matrix it does so linearly.
So the writes w of a chunk solve one unit-lower-triangular system. Its matrix needs keys and gates only, and is inverted
before the memory is known:

    (I + diag(2θ) tril₋₁(K Kᵀ ∘ G₋)) w = 2θ ∘ e,      e = v − b₋ ∘ k M − f₋ ∘ k S

M and S are memory and momentum at the chunk's start, and b₋, f₋, G₋ the coefficients of the token before. The reads and
the end of the chunk are those of `chunk`, with a = k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from titans_mini.memory.chunk import Writes, bmm, row_dot
from titans_mini.memory.gates import Rows


def inverse_systems(k: Tensor, step: Tensor, G_before: Tensor) -> Tensor:
    """Invert the triangular systems of many chunks.

    Args:
        k: (…, c, D) keys.
        step: (…, c, 1), 2θ.
        G_before: (…, c, c), the coefficients of the token before.

    Returns:
        (…, c, c), unit lower triangular.

    Built in: notebooks/09 · Paper: eq. 13–14
    """
    system = (k @ k.mT).mul_(G_before).mul_(step)  # only what lies below its diagonal is looked at
    unit = torch.eye(system.shape[-1], dtype=k.dtype, device=k.device).expand_as(system)
    # X A = I instead of A X = I: the same inverse, in the order in which LAPACK wants the rows
    return torch.linalg.solve_triangular(system, unit, upper=False, left=False, unitriangular=True)


def errors(k: Tensor, v: Tensor, before: Rows, M: Tensor, S: Tensor, residual: bool) -> Tensor:
    """Compute the errors of a chunk as if it had written nothing: its start, decayed to each token, is asked.

    Args:
        k: (N, c, D) keys.
        v: (N, c, D) values.
        before: the coefficients of the token before.
        M: (N, D, D), the memory at the chunk's start.
        S: (N, D, D), the momentum there.
        residual: whether the memory adds its input to its answer.

    Returns:
        (N, c, D), v − b₋ ∘ k M − f₋ ∘ k S, with the residual taken off.
    """
    error = v - k if residual else v.clone()
    return error.sub_(bmm(k, M).mul_(before.b)).sub_(bmm(k, S).mul_(before.f))


def write(k: Tensor, step: Tensor, inverse: Tensor, error: Tensor) -> Writes:
    """Solve for the writes of a chunk.

    Args:
        k: (N, c, D) keys.
        step: (N, c, 1), 2θ.
        inverse: (N, c, c), from `inverse_systems`.
        error: (N, c, D), from `errors`.

    Returns:
        The rank-one factors of all writes.

    Built in: notebooks/09 · Paper: eq. 13–14
    """
    return Writes([k], [bmm(inverse, step * error)], [error], [], [], [], error)


def write_backward(
    x: Writes,
    step: Tensor,
    inverse: Tensor,
    before: Rows,
    M: Tensor,
    S: Tensor,
    residual: bool,
    dk: Tensor,
    dw: Tensor,
    d_step: Tensor,
    d_before: Rows,
    dM: Tensor,
    dS: Tensor,
) -> tuple[Tensor, Tensor]:
    """Backpropagate through `inverse_systems`, `errors` and `write`.

    `x` are the writes; `step` to `residual` are as given to these three. `dk` and `dw` (N, c, D) are the gradients of
    the reads and of the chunk's end at keys and writes; `dk` is overwritten. The gradients at step, before, M and S are
    accumulated in place in `d_step`, `d_before`, `dM` and `dS`. Returns the gradients at k and v, (N, c, D) each.
    """
    k, w = x.a[0], x.w[0]
    d_scaled = bmm(inverse.mT, dw)  # at 2θ ∘ e
    d_error = step * d_scaled
    scores, d_system = bmm(k, k.mT), bmm(d_scaled, w.mT).neg_().tril_(-1)
    d_step.add_(row_dot(d_scaled, x.error)).add_(row_dot(d_system * scores, before.G))
    d_system.mul_(step)
    d_before.G.addcmul_(d_system, scores)
    d_system.mul_(before.G)
    to_M, to_S = bmm(d_error, M.mT), bmm(d_error, S.mT)
    d_before.b.sub_(row_dot(to_M, k))
    d_before.f.sub_(row_dot(to_S, k))
    dM.baddbmm_((before.b * k).mT, d_error, alpha=-1)
    dS.baddbmm_((before.f * k).mT, d_error, alpha=-1)
    dk = dk.baddbmm_(d_system + d_system.mT, k).addcmul_(to_M, before.b, value=-1).addcmul_(to_S, before.f, value=-1)
    return dk.sub_(d_error) if residual else dk, d_error
