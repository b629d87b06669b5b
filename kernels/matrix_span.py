"""A span of chunks of a matrix memory: the kernels of its forward and its backward pass, in order.

Within a span everything but the states is parallel over chunks. The buffers live as long as the span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from titans_mini.kernels import Job, coefficients, launch, matrix_backward, matrix_forward, triangular

ONLINE_C = 64  # the result of the online rule does not depend on it
COLUMNS = 16  # columns of the states per sequential program: the rows of one matrix instruction


def chunk_size(job: Job, T: int) -> int:
    """Return the tokens per chunk: as requested, or for the online rule the fastest number."""
    return min(ONLINE_C, launch.tile(T)) if job.online else job.chunk_size


def bytes_per_chunk(job: Job, N: int, D: int, C: int, element: int) -> int:
    """Return the buffer size of one chunk of N sequences in the backward pass, the larger of the two passes."""
    coefficients_and_gradients = 4 * C * C * (3 + job.online)
    operands = element * (4 * D * D + 3 * C * D + (C * C + 3 * C * D) * job.online)
    return N * (coefficients_and_gradients + operands)


class Span:
    """Some chunks of all sequences: their inputs, and the launches of their kernels.

    Args:
        job: options of the run.
        C: tokens per chunk.
        tensors: q, k, v (B, H, T, D) with one set of strides, alpha, eta, theta (N, T) float32, of the whole sequence.
        start: first token of the span.
        end: the token after its last.
        backwards: whether `go_back` follows.
    """

    def __init__(self, job: Job, C: int, tensors: Sequence[Tensor], start: int, end: int, backwards: bool) -> None:
        if (start, end) != (0, tensors[0].shape[2]):
            tensors = *(x[:, :, start:end] for x in tensors[:3]), *(x[:, start:end] for x in tensors[3:6])
        self.q, self.k, self.v, self.alpha, self.eta, self.theta = tensors[:6]
        B, H, T, D = self.q.shape
        self.N, self.C, self.D, self.nc = B * H, C, D, launch.chunks(T, C)
        self.online, self.place = job.online, slice(start, end)
        self.read = {"SHIFT": int(job.read == "before")}
        self.tiles = {"C": C, "BC": launch.tile(C), "D": D, "BD": launch.tile(D)}
        self.tiles["PRECISION"] = launch.precision(self.q.dtype)
        self.numbers = T, self.nc, H, *self.q.stride()[:3], self.theta.stride(0)
        self.c = coefficients.multiply_up(self.alpha, self.eta, C, keep_n=backwards)
        self.inverse, self.w, self.w2, self.u, self.w_strides = self._solve(H)

    # -- launches ----------------------------------------------------------------------------------------------------

    def _empty(self, *size: int) -> Tensor:
        """Allocate (N, nc, *size) in the operands' dtype."""
        return torch.empty(self.N, self.nc, *size, dtype=self.q.dtype, device=self.q.device)

    def _over_chunks(self, kernel: Any, *args: Any, **constants: Any) -> None:
        """Launch one program per chunk of each sequence."""
        wide = self.tiles["BD"] * self.q.element_size() > 128  # more than a row of 64 in half precision
        heavy = wide or kernel in (triangular.solve, matrix_backward.pull_systems)  # several C × C tiles at once
        launch.launch(kernel, (self.nc, self.N), *args, num_warps=8 if heavy else 4, **self.tiles, **constants)

    def _over_columns(self, kernel: Any, *args: Any, **constants: Any) -> None:
        """Launch programs that go from chunk to chunk, each with some columns of a sequence's states."""
        constants |= {"BV": COLUMNS, "ONLINE": self.online}
        row = self.tiles["BD"] * self.q.element_size()  # bytes of a key: the wider, the fewer are loaded ahead
        stages = 3 if row <= 128 else 2 if row <= 256 else 1
        grid = -(-self.D // COLUMNS), self.N
        launch.launch(kernel, grid, *args, num_warps=4, num_stages=stages, **self.tiles, **constants)

    @property
    def _column_tile(self) -> dict[str, int]:
        """Number of value columns that a program of one chunk processes at a time."""
        return {"BV": min(self.tiles["BD"], 128 // self.q.element_size())}

    # -- forward -----------------------------------------------------------------------------------------------------

    def _solve(self, H: int) -> tuple[Tensor | tuple[int, ...], ...]:
        """Solve the systems of the online rule: the inverses, W, W₂, U and the strides of the last three."""
        if not self.online:
            return self.k, self.k, self.k, self.v, self.q.stride()[:3]
        nc, C, D = self.nc, self.C, self.D
        out = self._empty(C, C), *(self._empty(C, D) for _ in range(3))
        tensors = self.k, self.v, self.theta, self.c.G, self.c.b, self.c.f, *out
        self._over_chunks(triangular.solve, *tensors, *self.numbers)
        return *out, (H * nc * C * D, nc * C * D, D)

    def advance(self, M: Tensor, S: Tensor) -> tuple[Tensor, ...]:
        """Carry the states through the span.

        Args:
            M: (N, D, D) the memory at its start, float32.
            S: (N, D, D) the momentum at its start, float32.

        Returns:
            Eᵀ (N, nc, D, C); Mᵀ and Sᵀ at the chunks' starts (N, nc, D, D); M and S at the end, and M at the last
            chunk's start, (N, D, D).
        """
        E, M_chunks, S_chunks = self._empty(self.D, self.C), self._empty(self.D, self.D), self._empty(self.D, self.D)
        ends = [torch.empty_like(M) for _ in range(3)]
        tensors = self.k, self.w, self.w2, self.u, self.theta, *self.c, M, S, E, M_chunks, S_chunks, *ends
        self._over_columns(matrix_forward.advance, *tensors, *self.numbers, *self.w_strides, self.c.n.shape[2])
        return E, M_chunks, S_chunks, *ends

    def answer(self, E: Tensor, M_chunks: Tensor, S_chunks: Tensor, y: Tensor) -> None:
        """Write the span's outputs into y (B, H, T, D), the outputs of the whole sequence."""
        tensors = self.q, self.k, self.theta, *self.c[:3], E, M_chunks, S_chunks, y[:, :, self.place]
        self._over_chunks(matrix_forward.read, *tensors, *self.numbers, **self._column_tile, **self.read)

    # -- backward ----------------------------------------------------------------------------------------------------

    def go_back(
        self, M: Tensor, S: Tensor, dy: Tensor, dM: Tensor, dS: Tensor, d_last: Tensor, grads: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Recompute the forward pass of the span, then backpropagate through it.

        Args:
            M: (N, D, D) the memory at its start.
            S: (N, D, D) the momentum at its start.
            dy: (B, H, T, D) the gradient of the whole sequence's outputs, with the strides of q.
            dM: (N, D, D) the gradient of the memory at the span's end.
            dS: (N, D, D) the gradient of the momentum at the span's end.
            d_last: (N, D, D) an additional gradient of the memory at the last chunk's start.
            grads: buffers for the gradients of q, k, v, alpha, eta, theta of the whole sequence.

        Returns:
            The gradients of the memory and the momentum at the span's start, (N, D, D) each.
        """
        E, M_chunks, S_chunks, *_ = self.advance(M, S)
        out = dy[:, :, self.place]
        P, ds = self._empty(self.D, self.C), self._empty(self.D, self.C)
        tensors = self.q, self.k, out, self.c.G, P
        self._over_chunks(matrix_backward.gather, *tensors, *self.numbers, **self._column_tile, **self.read)
        chunk_ends, starts = [self._empty(self.D, self.D) for _ in "MS"], [torch.empty_like(dM) for _ in "MS"]
        tensors = self.q, self.k, out, self.w, self.w2, self.theta, *self.c, P, dM, dS, d_last, ds, *chunk_ends, *starts
        self._over_columns(matrix_backward.retreat, *tensors, *self.numbers, *self.w_strides, **self.read)
        self._fill_gradients(out, E, ds, [M_chunks, S_chunks], chunk_ends, grads)
        return tuple(starts)

    def _fill_gradients(
        self, dy: Tensor, E: Tensor, ds: Tensor, states: list[Tensor], d_states: list[Tensor], grads: list[Tensor]
    ) -> None:
        """Fill the gradients of the span's inputs, in parallel over chunks."""
        dq, dk, dv = (x[:, :, self.place] for x in grads[:3])
        d_alpha, d_eta, d_theta = (x[:, self.place] for x in grads[3:])
        rows = coefficients.empty_grads(self.c, self.online)
        of_scores, of_keys = self._empty(self.C, self.C), self.inverse
        tensors = self.q, self.k, dy, self.theta, *self.c[:3], E, *states, dq, of_scores, rows.G, rows.b, rows.f
        self._over_chunks(matrix_backward.pull_queries, *tensors, *self.numbers, **self._column_tile, **self.read)
        if self.online:
            of_keys = self._empty(self.C, self.C)
            tensors = self.k, self.theta, self.c.G, self.inverse, E, ds, dv, d_theta, of_keys, rows.G_before
            self._over_chunks(matrix_backward.pull_systems, *tensors, *self.numbers, **self._column_tile)
        tensors = self.q, self.k, self.theta, *self.c[:4], E, ds, *states, *d_states, of_scores, of_keys
        places = dk, dv, d_theta, rows.b_before, rows.f_before, *rows[6:]
        options = {**self._column_tile, "ONLINE": self.online}
        if self.online:  # at D = 128 twice as many columns would spill 17 KB of registers on sm_80
            options["BV"] = min(options["BV"], 4096 // self.tiles["BD"])
        self._over_chunks(matrix_backward.pull_keys, *tensors, *places, *self.numbers, **options)
        out = d_alpha, d_eta
        coefficients.multiply_up_backward(self.alpha, self.eta, self.c, rows, out, self.read["SHIFT"], self.online)
