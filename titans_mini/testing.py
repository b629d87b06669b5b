"""A battery of checks for any sequence layer: ours, a baseline, a student's.

Most faults of a sequence layer do not raise. A mask that is off by one trains to a wonderful loss, a memory that two
sequences share looks like a slightly worse one, and a state that is a view of a parameter goes wrong after the next
optimizer step. `check_sequence_layer` looks for these faults by behaviour alone: it builds the layer, calls it, and
compares. It never looks inside.

    report = check_sequence_layer(lambda: nn.GRU(8, 8, batch_first=True), dim=8)

A layer reads x (B, T, dim), or tokens (B, T), and is called in one of two ways:

    y, state = layer(x)            with a state, like nn.GRU: layer(more, state) goes on, layer(x, None) starts too
    y = layer(x)                   without one: the checks on states are skipped, and the report says so

y is (B, T, …). A state may be anything: a tensor, a tuple, a dictionary, a dataclass. Each check below is one small
function; its name, with spaces, is the name in the report and in the error.
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import itertools
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# the largest difference that counts as equal, in units of the largest expected entry
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# numbers that an input is spoiled with, and the components of a token that receive them
SPOILS = {"NaN": (torch.nan, slice(None)), "Inf": (torch.inf, slice(None)), "one Inf": (torch.inf, 0)}


# -- what comes out ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """One failed check.

    Attributes:
        check: its name, such as "causality".
        dtype: the dtype in which it failed, such as "float64".
        got: the behaviour found.
        expected: the behaviour that the check wants.
        cause: one sentence on where to look first.
    """

    check: str
    dtype: str
    got: str
    expected: str
    cause: str

    def __str__(self) -> str:
        return f"{self.check} ({self.dtype}): got {self.got}, expected {self.expected}. Likely cause: {self.cause}."


class SequenceLayerError(AssertionError):
    """Raised by `check_sequence_layer`: lists every failed check, each with its likely cause.

    Attributes:
        failures: the `Failure`s, in the order of the checks.
        names: the names of the failed checks, each once.
        report: the checks that passed and those that were skipped.
    """

    def __init__(self, failures: Sequence[Failure], report: SequenceLayerReport) -> None:
        self.failures, self.report = tuple(failures), report
        self.names = tuple(dict.fromkeys(failure.check for failure in failures))
        lines = "\n".join(f"- {failure}" for failure in failures)
        advice = "" if len(failures) < 2 else "\nStart with the first: the others may follow from it."
        super().__init__(f"{report.layer} fails {', '.join(self.names)}:\n{lines}{advice}\n{report.summary}")

    def __reduce__(self) -> tuple[Any, ...]:  # pytest-xdist pickles errors
        return type(self), (self.failures, self.report)


@dataclass(frozen=True, repr=False)
class SequenceLayerReport:
    """The checks that a layer passed, and those that were skipped.

    Attributes:
        layer: the name of its class.
        dtypes: the dtypes it was checked in.
        passed: names of the checks that passed in every dtype.
        skipped: name of a check → the reason why it was skipped.
        notes: remarks that are not faults, such as "a call of no tokens is refused".
    """

    layer: str
    dtypes: tuple[str, ...]
    passed: tuple[str, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """Return the lines on passed and skipped checks, and the notes."""
        lines = [f"passed: {', '.join(self.passed) or 'none'}"]
        for reason in dict.fromkeys(self.skipped.values()):  # checks that share a reason share a line
            names = ", ".join(name for name, why in self.skipped.items() if why == reason)
            lines.append(f"skipped: {names}, because {reason}")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def __repr__(self) -> str:
        return f"{self.layer} in {' and '.join(self.dtypes)}\n{self.summary}"


class _Fault(Exception):
    """Ends a check that failed: got, expected, likely cause."""


class _Skip(Exception):
    """Ends a check that does not apply, with the reason."""


# -- what the checks share ---------------------------------------------------------------------------------------------


@dataclass
class _Bench:
    """Builds layers and inputs, calls, and compares: everything that the checks have in common."""

    factory: Callable[[], nn.Module]
    dim: int
    batch: int
    tokens: int
    dtype: torch.dtype
    tolerance: float
    vocab_size: int | None
    perturbation: float
    no_gradient: tuple[str, ...]
    seed: int
    stateful: bool = True
    notes: list[str] = dataclasses.field(default_factory=list)

    def build(self, seed: int = 0) -> nn.Module:
        """Build a layer in eval mode and move its parameters a little.

        A fresh layer may hide a fault behind a zero: a gate or an output projection that starts at 0 passes nothing on.
        """
        torch.manual_seed(self.seed + seed)
        layer = self.factory()
        if not isinstance(layer, nn.Module):
            raise _Fault(
                f"{type(layer).__name__} from the factory", "an nn.Module", "the factory returns nothing, or a function"
            )
        layer, g = layer.to(self.dtype).eval(), self.generator(seed + 1)
        with torch.no_grad():
            for p in layer.parameters():
                if p.is_floating_point():
                    p.add_(self.perturbation * torch.randn(p.shape, generator=g, dtype=torch.float64).to(p))
        return layer

    def generator(self, seed: int) -> torch.Generator:
        """Return a random generator of its own, so that no check depends on another."""
        return torch.Generator().manual_seed(1000 * self.seed + seed)

    def read(self, seed: int = 0, batch: int | None = None, tokens: int | None = None) -> Tensor:
        """Draw an input: (B, T, dim) in the dtype, or (B, T) tokens."""
        shape, g = (batch or self.batch, tokens or self.tokens), self.generator(100 + seed)
        if self.vocab_size is not None:
            return torch.randint(self.vocab_size, shape, generator=g)
        return torch.randn(*shape, self.dim, generator=g, dtype=torch.float64).to(self.dtype)

    def other_than(self, x: Tensor, seed: int = 0) -> Tensor:
        """Draw an input of the same shape that differs from x at every token."""
        g = self.generator(200 + seed)
        if self.vocab_size is not None:
            return (x + torch.randint(1, self.vocab_size, x.shape, generator=g)) % self.vocab_size
        return torch.randn(x.shape, generator=g, dtype=torch.float64).to(x)

    def raw_call(self, layer: nn.Module, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Call a layer on x itself: y and the state, None without one."""
        if not self.stateful:
            y = layer(x)
            return (y[0] if isinstance(y, tuple) else y), None
        return layer(x, state)

    def call(self, layer: nn.Module, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Call a layer on a copy of x, so that a layer that spoils its input fails one check and not all."""
        return self.raw_call(layer, self.on_device(layer, x.clone()), state)

    def stream(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Read x in two calls, the state carried from the first to the second; in one without states."""
        if not self.stateful:
            return self.call(layer, x)[0]
        half = x.shape[1] // 2
        first, state = self.call(layer, x[:, :half])
        return torch.cat([first, self.call(layer, x[:, half:], state)[0]], 1)

    def unless_refused(self, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Make a call that a layer may refuse with an error; then return None, and note it."""
        try:
            return call(*arguments)
        except Exception as error:
            self.notes.append(f"{what} is refused ({type(error).__name__})")
            return None

    def call_empty(self, layer: nn.Module, x: Tensor, state: Any = None) -> tuple[Tensor, Any] | None:
        """Call a layer on no tokens; None if it refuses, as nn.GRU does."""
        return self.unless_refused("a call of no tokens", self.call, layer, x[:, :0], state)

    def project(self, y: Tensor) -> Tensor:
        """Return a random projection of the outputs, a loss whose gradient is of size 1 everywhere."""
        return (y * torch.randn(y.shape, generator=self.generator(300), dtype=torch.float64).to(y)).sum()

    @staticmethod
    def on_device(layer: nn.Module, x: Tensor) -> Tensor:
        """Move an input to the device of the layer's first parameter."""
        first = next(layer.parameters(), None)
        return x if first is None else x.to(first.device)

    def difference(self, got: Tensor, expected: Tensor) -> float:
        """Return the largest difference in units of the largest expected entry; infinite if NaN is involved."""
        if got.shape != expected.shape:
            raise _Fault(
                f"an output of shape {tuple(got.shape)}", f"{tuple(expected.shape)}", "an axis is lost or squeezed"
            )
        if not expected.numel():
            return 0.0
        got, expected = got.detach().double(), expected.detach().double()
        scale = expected.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
        return ((got - expected).abs().max() / scale).nan_to_num(nan=torch.inf, posinf=torch.inf).item()

    def expect_equal(self, got: Tensor, expected: Tensor, when: str, cause: str) -> None:
        """Raise a fault if two outputs differ by more than the tolerance."""
        found = self.difference(got, expected)
        if found > self.tolerance:
            raise _Fault(f"{when} that differ by {found:.2g}", f"at most {self.tolerance:.0e} (relative)", cause)

    def expect_state(self, action: str = "carry") -> None:
        """Skip a check for layers without a state."""
        if not self.stateful:
            raise _Skip(f"the layer returns no state to {action}")


def _leaves(x: Any, path: str = "state", seen: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield (path, tensor or plain value) of everything that a state holds, whatever it is made of."""
    if id(x) in seen:
        return
    seen = (*seen, id(x))
    if torch.is_tensor(x) or isinstance(x, str | bytes | int | float | complex | None):
        yield path, x
    elif isinstance(x, Mapping):
        for key, y in x.items():
            yield from _leaves(y, f"{path}[{key!r}]", seen)
    elif isinstance(x, np.ndarray | np.generic):
        yield path, torch.as_tensor(x)  # shares the array's memory
    elif isinstance(x, tuple | list | deque):
        for i, y in enumerate(x):
            yield from _leaves(y, f"{path}[{i}]", seen)
    else:
        slots = (getattr(kind, "__slots__", ()) for kind in type(x).__mro__)
        names = [name for some in slots for name in ((some,) if isinstance(some, str) else some) if hasattr(x, name)]
        for name in dict.fromkeys([*names, *getattr(x, "__dict__", ())]):
            yield from _leaves(getattr(x, name), f"{path}.{name}", seen)


def _copy_leaves(state: Any) -> dict[str, Any]:
    """Copy everything that a state holds, by path."""
    return {path: x.detach().clone() if torch.is_tensor(x) else x for path, x in _leaves(state)}


def _moved(state: Any, before: Mapping[str, Any]) -> str:
    """Name the parts of a state that are not as they were; empty if all are."""

    def same(a: Any, b: Any) -> bool:
        if not (torch.is_tensor(a) and torch.is_tensor(b)):
            return type(a) is type(b) and a == b
        a, b = a.detach(), b.detach()
        return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())

    now = dict(_leaves(state))
    paths = [path for path in {**before, **now} if path not in now or path not in before]
    paths += [path for path in now if path in before and not same(now[path], before[path])]
    return ", ".join(paths[:3]) + (" and more" if len(paths) > 3 else "")


# -- the checks --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def interface(s: _Bench) -> None:
    """A call returns y (B, T, …), finite, in the layer's dtype, and a state that the next call takes."""
    layer, x = s.build(), s.read()
    if s.build() is layer:
        raise _Fault(
            "the same layer from two calls of the factory", "a fresh one", "build the layer inside: lambda: MyLayer(8)"
        )
    found = layer(s.on_device(layer, x.clone()))
    s.stateful = isinstance(found, tuple) and len(found) == 2 and found[1] is not None
    y = found[0] if isinstance(found, tuple) else found
    if not torch.is_tensor(y) or tuple(y.shape[:2]) != tuple(x.shape[:2]):
        got = f"an output of shape {tuple(y.shape)}" if torch.is_tensor(y) else f"a {type(y).__name__}"
        raise _Fault(
            got, f"y ({s.batch}, {s.tokens}, …), or y and a state", "time before batch (batch_first=True for nn.GRU)"
        )
    if y.dtype != s.dtype:
        raise _Fault(f"y in {y.dtype}", f"{s.dtype}", "a tensor made in forward without dtype=x.dtype")
    if not y.isfinite().all():
        raise _Fault("NaN or Inf in y", "finite outputs for inputs of size 1", "steps or gates too large, or 0/0")
    if s.stateful:
        s.call(layer, x, found[1])
        begun = s.call(layer, x, None)[0]
        if s.difference(s.call(layer, x)[0], y) <= s.tolerance:  # else two equal calls differ: see `determinism`
            s.expect_equal(begun, y, "layer(x) and layer(x, None)", "state=None must start a sequence")


@torch.no_grad()
def causality(s: _Bench) -> None:
    """A changed token moves no output before it; of more than 32 tokens, 32 are changed in turn."""
    layer, x = s.build(), s.read()
    y, other = s.call(layer, x)[0], s.other_than(x)
    for t in range(1, s.tokens) if s.tokens <= 32 else torch.linspace(1, s.tokens - 1, 32).long().tolist():
        changed = x.clone()
        changed[:, t] = other[:, t]
        s.expect_equal(
            s.call(layer, changed)[0][:, :t],
            y[:, :t],
            f"outputs before token {t}, with that token and with another,",
            "a mask is missing or off by one, or something is averaged, normalised or shifted over time",
        )


@torch.no_grad()
def split(s: _Bench) -> None:
    """Any split into calls, the state carried, gives the outputs of one call; a call of no tokens changes nothing."""
    s.expect_state()
    layer, x, g = s.build(), s.read(tokens=s.tokens + 3), s.generator(3)
    whole, total = s.call(layer, x)[0], s.tokens + 3
    splits = [[1] * total, [total // 2, total - total // 2], [1, total - 1], [total - 1, 1]]
    for share in (0.15, 0.3, 0.5, 0.7):
        cuts = [t for t in range(1, total) if torch.rand((), generator=g) < share]
        splits.append([b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)])
    cause = (
        "the layer ignores the state that it is given, or a part of the past is not in it: a position, a cache of the "
        "convolution, a chunk that had begun"
    )
    for lengths in splits:
        parts, state = [], None
        for piece in x.split(lengths, 1):
            y, state = s.call(layer, piece, state)
            parts.append(y)
        calls = f"{total} calls of 1 token" if lengths == [1] * total else f"calls of {lengths} tokens"
        s.expect_equal(torch.cat(parts, 1), whole, f"outputs of {calls} and of one call", cause)
    half = total // 2
    start = s.call_empty(layer, x)
    if start is None:
        return
    first, state = s.call(layer, x[:, :half], start[1])
    nothing = s.call_empty(layer, x, state)
    if nothing is not None:
        rest = s.call(layer, x[:, half:], nothing[1])[0]
        s.expect_equal(
            torch.cat([start[0], first, nothing[0], rest], 1),
            whole,
            "outputs with and without calls of no tokens between",
            "a call of no tokens counts as a step, or starts afresh",
        )


@torch.no_grad()
def batch(s: _Bench) -> None:
    """A sequence's outputs depend on no other: not when another changes, moves to another place, goes or is NaN."""
    layer, x = s.build(), s.read()
    y, changed = s.stream(layer, x), x.clone()
    changed[0] = s.other_than(x)[0]
    s.expect_equal(
        s.stream(layer, changed)[1:],
        y[1:],
        "outputs of a sequence beside one and beside another",
        "a memory or a statistic is shared by the batch, a reshape mixes it with another axis, or the layer reads time "
        "before batch (nn.GRU without batch_first=True)",
    )
    s.expect_equal(
        s.stream(layer, x.roll(1, 0)),
        y.roll(1, 0),
        "outputs of the batch in one order and in another",
        "something belongs to a place of the batch and not to its sequence",
    )
    s.expect_equal(
        s.stream(layer, x[-1:]),
        y[-1:],
        "outputs of a sequence alone and in the batch",
        "a sum or a statistic runs over the batch",
    )
    for name, (value, components) in SPOILS.items() if s.vocab_size is None else ():
        changed = x.clone()
        changed[0, :, components] = value
        beside = s.unless_refused(f"{name} in the input", s.stream, layer, changed)
        if beside is not None:
            s.expect_equal(
                beside[1:],
                y[1:],
                f"outputs of a sequence beside one and beside {name}",
                "sequences are multiplied by 0 where they should be kept apart",
            )


def inputs(s: _Bench) -> None:
    """The input is as it was after a call and after its backward pass, and so is the state that was passed in."""
    layer = s.build()
    x = s.on_device(layer, s.read())
    leaf = x.clone().requires_grad_(s.vocab_size is None)
    for training, context in itertools.product((True, False), (torch.no_grad, torch.enable_grad)):
        layer.train(training)
        with context():
            given, state, before = leaf.clone(), None, {}
            if s.stateful:
                state = s.call(layer, s.read(1))[1]
                before = _copy_leaves(state)
            y, _ = s.raw_call(layer, given, state)
            after = "a call"
            if y.requires_grad:
                s.project(y).backward()
                after = "a call and its backward pass"
        if not torch.equal(given.detach(), x):
            raise _Fault(
                f"another x after {after}", "x unchanged", "an operation in place: x += …, x.mul_(…), x[…] = …"
            )
        if moved := _moved(state, before) if s.stateful else "":
            raise _Fault(
                f"another {moved} after {after} with it",
                "the state that was passed in unchanged",
                "the layer writes into the state it was given: make a new one",
            )
    if not s.stateful:
        s.notes.append("inputs: there was no state to watch")


def snapshot(s: _Bench) -> None:
    """A returned state stays as it is: when more is read, x or y is overwritten, or the parameters take a step."""
    s.expect_state("keep")
    longest, more = s.read(2), s.read(3)
    for tokens in (s.tokens, 1, 0):
        layer = s.build()
        x = s.on_device(layer, longest[:, :tokens].clone())
        if not tokens and s.call_empty(layer, x) is None:
            continue
        after = f"after {tokens} token{'s' if tokens != 1 else ''}"
        with torch.no_grad():
            y, state = s.raw_call(layer, x)
        before, expected = _copy_leaves(state), f"the state {after} to stay as it was returned"
        with torch.no_grad():
            s.call(layer, more, state)
            s.call(layer, more)
        if moved := _moved(state, before):
            raise _Fault(
                f"another {moved} when more is read",
                expected,
                "the layer keeps writing into tensors that it has returned: a buffer of its own, or an operation in "
                "place on the state",
            )
        x.copy_(s.other_than(x, 4))
        if moved := _moved(state, before):
            raise _Fault(
                f"another {moved} when x is overwritten", expected, "the state is a view of the input: .clone() it"
            )
        with torch.no_grad():  # as `y += x` of a residual connection would; an expanded axis is written once
            y[tuple(slice(None) if stride else slice(1) for stride in y.stride())].fill_(7)
        if moved := _moved(state, before):
            raise _Fault(
                f"another {moved} when y is overwritten", expected, "the state is a view of the output: .clone() it"
            )
        state = s.call(layer, longest[:, :tokens])[1]  # with gradients, as in training
        before = _copy_leaves(state)
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(1 if p.is_floating_point() else 0)
        if moved := _moved(state, before):
            raise _Fault(
                f"another {moved} when the parameters take a step",
                expected,
                "the state is a view of a parameter: expand, view and slices share its memory, .clone() does not",
            )


@torch.no_grad()
def past_stays_clean(s: _Bench) -> None:
    """NaN or Inf in a token leaves the outputs before it finite and equal; a layer may refuse such inputs."""
    if s.vocab_size is not None:
        raise _Skip("tokens are integers and cannot be NaN")
    layer, x = s.build(), s.read()
    y, answered = s.call(layer, x)[0], False
    for t in sorted({1, 2, s.tokens // 2, s.tokens - 2, s.tokens - 1}):
        for name, (value, components) in SPOILS.items():
            spoiled = x.clone()
            spoiled[:, t, components] = value
            found = s.unless_refused(f"{name} in the input", s.call, layer, spoiled)
            if found is None:
                continue
            answered = True
            s.expect_equal(
                found[0][:, :t],
                y[:, :t],
                f"outputs before token {t}, with and without {name} there,",
                "the future is masked by a product with 0, and 0·NaN is NaN: select with where or slices instead",
            )
    if not answered:
        raise _Skip("the layer refuses NaN and Inf")


def copies(s: _Bench) -> None:
    """A deep copy, a fresh layer with the state dict, and an unpickled layer give equal outputs."""
    layer, x = s.build(), s.read()

    def reload() -> nn.Module:
        other = s.build(seed=1)
        other.load_state_dict(layer.state_dict())
        return other

    makers = {
        "a deep copy": (lambda: copy.deepcopy(layer), "the layer keeps a tensor of its last call, or shares one"),
        "a fresh layer with its state dict": (
            reload,
            "a tensor that is neither an nn.Parameter nor a registered buffer",
        ),
        "an unpickled copy": (
            lambda: pickle.loads(pickle.dumps(layer)),
            "a lambda, or a class defined inside a function, which pickle cannot find again",
        ),
    }
    with torch.no_grad():
        expected = s.stream(layer, x)
    s.call(layer, x)  # with gradients: a layer that keeps a tensor of its last call cannot be copied
    for name, (make, cause) in makers.items():
        try:
            twin = make().eval()
        except Exception as error:
            raise _Fault(_first_line(error), name, cause) from error
        with torch.no_grad():
            s.expect_equal(s.stream(twin, x), expected, f"outputs of the layer and of {name}", cause)


def gradients(s: _Bench) -> None:
    """Every parameter receives a gradient that is finite and somewhere not 0, at one of three random settings."""
    alive, names = set(), []
    for attempt in range(3):
        layer, x = s.build(seed=attempt).train(), s.read(attempt)
        y = s.stream(layer, x)
        if y.requires_grad:
            s.project(y).backward()
        named = {name: p for name, p in layer.named_parameters() if p.requires_grad}
        names = [name for name in named if not any(fnmatch.fnmatch(name, allowed) for allowed in s.no_gradient)]
        found = {name: named[name].grad for name in names if named[name].grad is not None}
        if wrong := [name for name, grad in found.items() if not grad.isfinite().all()]:
            raise _Fault(
                f"NaN or Inf in the gradient of {', '.join(wrong)}",
                "finite gradients",
                "the derivative of a root or norm at 0, or where() over a branch that is not finite",
            )
        alive |= {name for name, grad in found.items() if grad.abs().max() > 0}
    if dead := [name for name in names if name not in alive]:
        raise _Fault(
            f"no gradient for {', '.join(dead)}",
            "one for every parameter (no_gradient= lists exceptions)",
            "the parameter is not used, cancels out, or detach or .data cuts it off",
        )


@torch.no_grad()
def determinism(s: _Bench) -> None:
    """In eval mode two calls with the same input give equal outputs, whatever was read between them."""
    layer, x = s.build(), s.read()
    first = s.stream(layer, x)
    s.expect_equal(
        s.stream(layer, x), first, "outputs of two equal calls", "random numbers in eval mode, or a past kept in self"
    )
    s.stream(layer, s.read(5, batch=s.batch + 1))
    s.expect_equal(
        s.stream(layer, x),
        first,
        "outputs before and after another batch was read",
        "the layer keeps something of its last call in self: a cache, a running statistic",
    )


def _name(check: Callable[[_Bench], None]) -> str:
    return check.__name__.replace("_", " ")


# determinism early: all that follow compare calls, so a layer that fails it fails some of them too
_ORDER = (interface, determinism, causality, split, batch, inputs, snapshot, past_stays_clean, copies, gradients)
CHECKS: dict[str, Callable[[_Bench], None]] = {_name(check): check for check in _ORDER}
# compare the outputs of several calls, which says nothing of a layer that answers the same call differently each time
COMPARE = {_name(check) for check in (causality, split, batch, past_stays_clean, copies)}


def _first_line(error: Exception) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}".removesuffix(": ")


# -- the battery -------------------------------------------------------------------------------------------------------


def check_sequence_layer(
    factory: Callable[[], nn.Module],
    *,
    dim: int = 8,
    batch: int = 3,
    tokens: int = 20,
    vocab_size: int | None = None,
    dtype: torch.dtype | Sequence[torch.dtype] = torch.float64,
    tolerance: float | None = None,
    no_gradient: Sequence[str] = (),
    skip: Mapping[str, str] | None = None,
    perturbation: float = 0.1,
    seed: int = 0,
) -> SequenceLayerReport:
    """Check a sequence layer: determinism, causality, splits, batches, inputs, snapshots, NaN, copies, gradients.

    The layer reads x (B, T, dim), batch first, and returns y (B, T, …), or y and a state; `layer(more, state)` then
    goes on where the first call stopped. A second output of another kind, such as attention weights, is no state:
    return y alone. For example:

        print(check_sequence_layer(lambda: nn.GRU(8, 8, batch_first=True), dim=8))

    Every check starts from a fresh layer in eval mode whose parameters are moved a little at random, so that nothing
    hides behind a gate or a projection that starts at 0. Keep sizes tiny, and `tokens` longer than the layer's chunk or
    window: about a second then. The global random generator is left as it was.

    Args:
        factory: builds a fresh layer, without arguments: `lambda: MyLayer(8)`. It is seeded before each call.
        dim: size of the input vectors.
        batch: B, sequences per batch, at least 2.
        tokens: T, tokens per sequence, at least 4.
        vocab_size: for language models: the input is (B, T) integers below it, and `dim` is ignored.
        dtype: one dtype or several; the layer is moved to it. Float64 finds the most, because it forgives the least.
        tolerance: largest difference that counts as equal, relative to the largest expected entry; default 1e-10 in
            float64, 1e-4 in float32, 2e-2 in float16 and 0.1 in bfloat16 (`TOLERANCES`).
        no_gradient: names of parameters that need no gradient, with * as wildcard. Say why beside it.
        skip: name of a check, as the report spells it → the reason to leave it out, which the report repeats.
        perturbation: standard deviation of the random numbers added to the parameters.
        seed: of layers and inputs.

    Returns:
        A report: its text lists the checks that passed and those that were skipped.

    Raises:
        SequenceLayerError: if a check fails. It lists all that do: got, expected, likely cause.
        TypeError: if the factory is a layer, or a dtype none.
        ValueError: if sizes are too small to check anything, or `skip` names no check.
    """
    dtypes = (dtype,) if isinstance(dtype, torch.dtype) else tuple(dtype)
    skip = dict(skip or {})
    _check_arguments(factory, dim, batch, tokens, vocab_size, dtypes, tolerance, skip)
    failures: dict[str, Failure] = {}
    skipped, notes, first_error = dict(skip), [], None
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        layer = type(factory()).__name__
        for one in dtypes:
            limit = TOLERANCES[one] if tolerance is None else tolerance
            sizes = (dim, batch, tokens, one, limit, vocab_size)
            bench = _Bench(factory, *sizes, perturbation, tuple(no_gradient), seed)
            for name, check in CHECKS.items():
                if name in skip or name in failures:  # one failure says enough
                    continue
                try:
                    check(bench)
                except _Skip as reason:
                    skipped[name] = str(reason)
                except _Fault as fault:
                    first_error = first_error or fault.__cause__
                    failures[name] = Failure(name, _short(one), *fault.args)
                except Exception as error:
                    first_error = first_error or error
                    failures[name] = Failure(name, _short(one), _first_line(error), "no error", _cause_of_error(name))
                if "interface" in failures:
                    break
            notes += bench.notes
            if "interface" in failures:
                skipped |= {name: "the layer cannot be called" for name in CHECKS if name not in failures}
                break
    if "determinism" in failures:
        for name in [name for name in failures if name in COMPARE]:
            del failures[name]
            skipped[name] = "two equal calls differ already, see determinism"
    passed = tuple(name for name in CHECKS if name not in failures and name not in skipped)
    report = SequenceLayerReport(layer, tuple(map(_short, dtypes)), passed, skipped, tuple(dict.fromkeys(notes)))
    if failures:
        ordered = [failures[name] for name in CHECKS if name in failures]
        raise SequenceLayerError(ordered, report) from first_error
    return report


def _short(dtype: torch.dtype) -> str:
    """Return "float64" for torch.float64."""
    return str(dtype).removeprefix("torch.")


def _cause_of_error(check: str) -> str:
    """Return the likely cause if the layer raises in a check."""
    if check == "interface":
        return (
            "dim= or vocab_size= does not fit the layer, forward is not forward(x, state=None), or a second output is "
            "no state, such as attention weights: return y alone"
        )
    return "the layer does not expect such a call; the first error in the traceback above says where"


def _check_arguments(factory, dim, batch, tokens, vocab_size, dtypes, tolerance, skip) -> None:
    """Raise if an argument of the battery leaves nothing to check."""
    if isinstance(factory, nn.Module) or not callable(factory):
        got = type(factory).__name__
        raise TypeError(f"factory: got a {got}, expected a function that builds one: lambda: MyLayer(8)")
    if batch < 2 or tokens < 4 or dim < 1 or (vocab_size is not None and vocab_size < 2):
        raise ValueError(
            f"check_sequence_layer: got batch={batch}, tokens={tokens}, dim={dim}, vocab_size={vocab_size}, expected "
            "at least 2, 4, 1 and 2: smaller ones cannot tell sequences or tokens apart"
        )
    for one in dtypes:
        if not isinstance(one, torch.dtype) or (one not in TOLERANCES and tolerance is None):
            raise TypeError(f"dtype: got {one!r}, expected some of {list(TOLERANCES)}: integers with vocab_size=?")
    if not dtypes or (unknown := sorted(set(skip) - set(CHECKS) | set(skip) & {"interface"})):
        raise ValueError(
            f"skip, dtype: got {unknown if dtypes else 'no dtype'}, expected names of checks other than 'interface', "
            f"{list(CHECKS)[1:]}, and at least one dtype"
        )
