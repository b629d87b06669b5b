"""Kernels on a CPU, for teaching: Triton's interpreter or a stand-in, and a tape of the memory traffic.

TRITON_INTERPRET=1 has to be set before anything imports triton, and so before this module.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from titans_mini.kernels import emulator, versions


def find(allow_triton: bool = True) -> SimpleNamespace:
    """Return an interpreter of kernels for this machine's CPU.

    Args:
        allow_triton: False selects the stand-in.

    Returns:
        `triton` and `tl`, modules or stand-ins; `real`, whether it is Triton; `name`, a description.
    """
    why = _unavailable_reason() if allow_triton else "the stand-in was asked for"
    if why:
        name = f"a stand-in of {_count_lines()} lines ({why}); same results, same counts"
        return SimpleNamespace(triton=emulator.triton, tl=emulator.tl, real=False, name=name)
    import triton

    name = f"Triton {triton.__version__}'s interpreter"
    return SimpleNamespace(triton=triton, tl=triton.language, real=True, name=name)


def _unavailable_reason() -> str | None:
    """Return the reason why Triton's interpreter cannot run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: it comes to Linux, by pip install triton"
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "TRITON_INTERPRET is not 1"
    if reason := versions.unsupported_reason(interpreted=True):
        return reason
    import triton
    from triton.runtime.interpreter import InterpretedFunction

    if not isinstance(triton.language.zeros, InterpretedFunction):
        return "triton was loaded before TRITON_INTERPRET was set"
    return None


def _count_lines() -> int:
    with open(emulator.__file__, encoding="utf-8") as file:
        return sum(1 for _ in file)


HERE = find()
tl, triton = HERE.tl, HERE.triton


# -- memory traffic --------------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """One load, store or product of one program."""

    what: str  # "load", "store" or "dot"
    program: int  # index from 0, in the order of execution
    name: str  # of the tensor; of a product, its shapes
    places: np.ndarray  # flat indices into that tensor; of a product, its shape
    bytes: int


@dataclass
class Tape:
    """The recorded loads, stores and products of kernels, in order."""

    names: dict[str, Tensor]
    events: list[Event] = field(default_factory=list)
    programs: list[tuple] = field(default_factory=list)

    def bytes(self, what: str | None = None, name: str | None = None) -> int:
        """Return the bytes of loads, stores or both, of one tensor or all."""
        return sum(e.bytes for e in self.events if what in (None, e.what) and name in (None, e.name))

    def listen(self, program: tuple, what: str, *about: Any) -> None:
        """Append one event."""
        if not self.programs or self.programs[-1] != program:
            self.programs.append(program)
        number = len(self.programs) - 1
        if what == "dot":
            (rows, inner), (_, columns) = about
            name = f"{rows} × {inner} · {inner} × {columns}"
            self.events.append(Event(what, number, name, np.array([rows, columns]), 0))
            return
        addresses, mask, size = about
        addresses, mask = np.broadcast_arrays(addresses, mask)
        moved = addresses[mask].astype(np.int64)
        name, start = self._owner(moved)
        self.events.append(Event(what, number, name, (moved - start) // size, size * moved.size))

    def _owner(self, addresses: np.ndarray) -> tuple[str, int]:
        for name, x in self.names.items():
            start, end = x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()
            if addresses.size and start <= addresses.min() and addresses.max() < end:
                return name, start
        return "?", 0


@contextlib.contextmanager
def recording(machine: SimpleNamespace | None = None, **tensors: Tensor) -> Iterator[Tape]:
    """Record the loads, stores and products of kernels.

    Args:
        machine: the interpreter that runs them; default `HERE`.
        tensors: contiguous tensors, by the names used on the tape.

    Yields:
        A Tape that fills while kernels run.

    Raises:
        ValueError: if a tensor is not contiguous.
    """
    strided = [name for name, x in tensors.items() if not x.is_contiguous()]
    if strided:
        raise ValueError(f"recording: got {strided[0]!r} with strides, expected a contiguous tensor: .contiguous()")
    tape = Tape(tensors)
    with (_patched if (machine or HERE).real else _listening)(tape):
        yield tape


@contextlib.contextmanager
def _listening(tape: Tape) -> Iterator[None]:
    def listener(*event: Any) -> None:
        tape.listen(emulator._program, *event)

    emulator.listeners.append(listener)
    try:
        yield
    finally:
        emulator.listeners.remove(listener)


@contextlib.contextmanager
def _patched(tape: Tape) -> Iterator[None]:
    """Patch load, store and dot of Triton's interpreter to record events."""
    from triton.runtime.interpreter import interpreter_builder as builder

    def load(pointers: Any, mask: Any, *rest: Any) -> Any:
        size = pointers.get_element_ty().primitive_bitwidth // 8
        tape.listen(tuple(builder.grid_idx), "load", pointers.data, mask.data, size)
        return type(builder).create_masked_load(builder, pointers, mask, *rest)

    def store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        size = pointers.get_element_ty().primitive_bitwidth // 8
        tape.listen(tuple(builder.grid_idx), "store", pointers.data, mask.data, size)
        return type(builder).create_masked_store(builder, pointers, value, mask, *rest)

    def dot(a: Any, b: Any, *rest: Any) -> Any:
        tape.listen(tuple(builder.grid_idx), "dot", a.data.shape, b.data.shape)
        return type(builder).create_dot(builder, a, b, *rest)

    replaced = {"create_masked_load": load, "create_masked_store": store, "create_dot": dot}
    vars(builder).update(replaced)
    try:
        yield
    finally:
        for name in replaced:
            vars(builder).pop(name)


def machine_for(fn: FunctionType) -> SimpleNamespace:
    """Select the interpreter for a plain function: Triton refuses *args and closures, the stand-in does not."""
    return find(allow_triton=False) if fn.__closure__ or inspect.getfullargspec(fn).varargs else HERE


def start(fn: FunctionType, grid: tuple[int, ...], *args: Any, machine: SimpleNamespace | None = None) -> None:
    """Run a plain function as a kernel, with its name `tl` bound to the interpreter's language.

    Args:
        fn: a kernel without its decorator.
        grid: programs along each axis.
        args: tensors and numbers, in the kernel's order.
        machine: the interpreter; default `machine_for(fn)`.

    Raises:
        Exception: any exception of the kernel, unwrapped.
    """
    machine = machine or machine_for(fn)
    copy = FunctionType(fn.__code__, {**fn.__globals__, "tl": machine.tl}, fn.__name__, fn.__defaults__, fn.__closure__)
    sizes = {name for name, kind in fn.__annotations__.items() if kind in (emulator.tl.constexpr, tl.constexpr)}
    copy.__annotations__ = {name: machine.tl.constexpr for name in sizes}
    try:
        machine.triton.jit(copy)[grid](*args)
    except Exception as error:
        if type(error).__name__ == "InterpreterError" and error.__cause__ is not None:
            raise error.__cause__ from None  # Triton wraps the kernel's exception
        raise
