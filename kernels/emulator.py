"""The part of Triton that notebook 13 uses, in plain Python, for machines without Triton.

A kernel is called once per program; a pointer is a tensor's memory and a block of places in it. Nothing here is fast,
and it checks no more than Triton's own interpreter, except for places outside a tensor's memory.
`titans_mini.kernels.interpret` uses Triton where it is installed; the tests compare the results of both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

listeners: list[Callable] = []  # called with ("load" or "store", addresses, mask, bytes of a number), or ("dot", a, b)
_program = (0, 0, 0)


class Pointer:
    """A block of places in a tensor's memory, the result of `x + offsets`."""

    def __init__(self, memory: Tensor, places: Any):
        self.memory, self.places = memory, places  # the whole storage, flat; int or integer tensor

    def __add__(self, offsets: Any) -> Pointer:
        return Pointer(self.memory, self.places + offsets)

    __radd__ = __add__

    def __sub__(self, offsets: Any) -> Pointer:
        return Pointer(self.memory, self.places - offsets)

    def inside(self, mask: Any) -> tuple[Tensor, Tensor]:
        """Broadcast places and mask to one shape; raise if a place lies outside the memory."""
        places = torch.as_tensor(self.places)
        places, there = torch.broadcast_tensors(places, torch.as_tensor(True if mask is None else mask))
        wrong = there & ((places < 0) | (places >= len(self.memory)))
        if wrong.any():
            raise IndexError(
                f"got place {int(places[wrong][0])}, expected 0 to {len(self.memory) - 1}: is a mask missing? "
                "A GPU reads or writes there without a word"
            )
        return places, there

    def tell(self, what: str, places: Tensor, there: Tensor) -> None:
        """Report the addresses of a load or store to the listeners."""
        size = self.memory.element_size()
        for listener in listeners:
            listener(what, (self.memory.data_ptr() + size * places).numpy(), there.numpy(), size)


def program_id(axis: int) -> int:
    """Return the index of this program along an axis."""
    return _program[axis]


def load(pointer: Pointer, mask: Any = None, other: Any = 0.0) -> Tensor:
    """Load a block of numbers; `other` where the mask is False."""
    places, there = pointer.inside(mask)
    pointer.tell("load", places, there)
    return torch.where(there, pointer.memory[torch.where(there, places, 0)], torch.as_tensor(other).to(pointer.memory))


def store(pointer: Pointer, value: Any, mask: Any = None) -> None:
    """Store a block of numbers where the mask is True."""
    value = torch.as_tensor(value).to(pointer.memory.dtype)
    shape = torch.broadcast_shapes(torch.as_tensor(pointer.places).shape, value.shape)
    places, there = pointer.inside(mask)
    places, there = places.expand(shape), there.expand(shape)
    pointer.tell("store", places, there)
    pointer.memory[places[there]] = value.expand(shape)[there]


def dot(a: Tensor, b: Tensor, acc: Tensor | None = None, input_precision: str | None = None) -> Tensor:
    """Multiply two blocks, accumulating in float32."""
    for listener in listeners:
        listener("dot", tuple(a.shape), tuple(b.shape))
    product = a.float() @ b.float()
    return product if acc is None else acc + product


def _sum(x: Tensor, axis: int | None = None) -> Tensor:
    return x.sum() if axis is None else x.sum(axis)


def _where(condition: Any, a: Any, b: Any) -> Tensor:
    return torch.where(torch.as_tensor(condition), torch.as_tensor(a), torch.as_tensor(b))


class Kernel:
    """A function under `triton.jit`: called directly inside another kernel, or launched as kernel[grid](…)."""

    def __init__(self, fn: Callable):
        self.fn = fn

    def __call__(self, *args: Any, **sizes: Any) -> Any:
        """Run as part of another kernel."""
        return self.fn(*args, **sizes)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable:
        def start(*args: Any, num_warps: int = 4, num_stages: int = 2, **sizes: Any) -> None:
            global _program
            blocks = [_pointer(x) if torch.is_tensor(x) else x for x in args]
            for _program in itertools.product(*(range(n) for n in (*grid, 1, 1)[:3])):
                self.fn(*blocks, **sizes)

        return start


def _pointer(x: Tensor) -> Pointer:
    memory = torch.empty(0, dtype=x.dtype).set_(x.detach().untyped_storage())
    return Pointer(memory, x.storage_offset())


tl = SimpleNamespace(
    program_id=program_id, load=load, store=store, dot=dot, where=_where, sum=_sum,
    arange=torch.arange, trans=lambda x: x.T, zeros=lambda shape, dtype: torch.zeros(shape, dtype=dtype),
    full=lambda shape, value, dtype: torch.full(shape, value, dtype=dtype), exp=torch.exp, constexpr=int,
    float32=torch.float32, float64=torch.float64, int32=torch.int32, int64=torch.int64,
)  # fmt: skip
triton = SimpleNamespace(
    jit=Kernel, cdiv=lambda a, b: -(-a // b), next_power_of_2=lambda n: 1 << (n - 1).bit_length(), language=tl
)
