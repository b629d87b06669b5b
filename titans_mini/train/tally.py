"""What training costs, counted and not estimated: the real code runs on fake tensors, which have shapes and no numbers.

PyTorch's fake tensors (`FakeTensorMode`) live on the meta device and say that they live on the CPU. Attention and
autocast then take the same paths as in a run; on plain meta tensors attention would build all scores, and autocast is
unknown. A full-size block is counted this way without allocating one weight.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from titans_mini.memory.scan import default_group
from titans_mini.models.config import TitansConfig
from titans_mini.models.titans import Block, TitansLM

_aten = torch.ops.aten


def _like(operation: Any) -> Callable[..., int]:
    """Return PyTorch's formula for an operation, for another one with the same arguments."""

    def formula(*args: Any, **kwargs: Any) -> int:
        return flop_registry[operation](*args, **kwargs)

    formula._get_raw = True  # it is given tensors, not shapes
    return formula


# what PyTorch's counter does not know, or counts wrongly; for `FlopCounterMode(custom_mapping=FORMULAS)` too
FORMULAS: dict[Any, Callable[..., int]] = {
    _aten.baddbmm_: _like(_aten.baddbmm),
    _aten._scaled_dot_product_flash_attention_for_cpu: _like(_aten._scaled_dot_product_flash_attention),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _like(
        _aten._scaled_dot_product_flash_attention_backward
    ),
    # the short convolution has 4 products per component; its gradient is counted as if every channel saw all others
    _aten.convolution: lambda *_, **__: 0,
    _aten.convolution_backward: lambda *_, **__: 0,
}


class Tally(TorchDispatchMode):
    """Count the products of what runs inside, and the bytes of the tensors that are alive.

    Attributes:
        flops: floating-point operations of all matrix products and of attention, whose masked half counts too.
        live: bytes of the tensors made inside that are still alive, each storage once.
        peak: the most that `live` has been; may be set back.
    """

    def __init__(self) -> None:
        """Start at 0."""
        super().__init__()
        self.flops = self.live = self.peak = 0
        self._formulas, self._known = flop_registry | FORMULAS, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run one operation and count it."""
        if func is _aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 1.0  # checks ask for numbers that nobody computed: this one is finite, a valid gate, and true
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if (formula := self._formulas.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and id(storage := x.untyped_storage()) not in self._known:
                self._known.add(id(storage))
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class Cost(NamedTuple):
    """What the forward and the backward pass of a part of the model take, for one micro-batch."""

    kept: int  # bytes that autograd keeps from one to the other, the part's input included, weights excluded
    state: int  # bytes of the returned state that are not among them
    above: int  # most bytes besides those kept in the forward pass; in both passes without the weights' gradients
    working: int  # most bytes besides those kept in the backward pass
    forward: int  # floating-point operations of the forward pass
    backward: int  # and of the backward pass

    def plus(self, other: Cost, times: int = 1) -> Cost:
        """Add a multiple of another cost."""
        return Cost(*(a + times * b for a, b in zip(self, other, strict=True)))


def autocast(precision: str) -> AbstractContextManager:
    """Return the context of a forward pass on the CPU in "float32" or "bfloat16"."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()


def count(build: Callable[[], nn.Module], call: Callable[[nn.Module], tuple[Tensor, Any]], precision: str) -> Cost:
    """Count one forward and backward pass, without numbers.

    Args:
        build: makes the module.
        call: makes the inputs, and calls the module with them; returns an output and a state, or None.
        precision: "float32", or "bfloat16" for autocast.

    Returns:
        The cost of the two passes; gradients of the weights exist before, as after a first micro-batch.
    """
    with FakeTensorMode(), Tally() as tally:
        module, saved = build(), {}
        for p in module.parameters():
            p.grad = torch.zeros_like(p)
        weights = {id(p.untyped_storage()) for p in module.parameters()}
        start = tally.peak = tally.live

        def pack(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if id(storage) not in weights:
                saved[id(storage)] = storage  # the storage itself: an id alone could be used again
            return x

        with saved_tensors_hooks(pack, lambda x: x), autocast(precision):
            y, state = call(module)
        forward, kept = tally.flops, sum(x.nbytes() for x in saved.values())
        stores = {id(x.untyped_storage()): x.untyped_storage() for x in (state.to_dict().values() if state else ())}
        state = sum(x.nbytes() for key, x in stores.items() if key not in saved and key not in weights)
        saved.clear()
        stores.clear()
        before = start + kept + y.untyped_storage().nbytes()  # the output is kept, if at all, by the next part
        above, tally.peak = tally.peak - before, tally.live
        y.backward(torch.ones_like(y))
        return Cost(kept, state, above, tally.peak - before, forward, tally.flops - forward)


class _Given(nn.Module):
    """In place of embedding and blocks: tokens to vectors that nobody computed."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, self.dim, requires_grad=True)


def count_head(config: TitansConfig, batch: int, length: int, precision: str) -> Cost:
    """Count what comes after the blocks: last norm, head and loss."""

    def build() -> nn.Module:
        model = TitansLM(replace(config, layers=1))
        model.embedding, model.blocks = _Given(config.dim), nn.ModuleList()
        return model

    def call(model: nn.Module) -> tuple[Tensor, None]:
        return model.loss(torch.zeros(batch, length + 1, dtype=torch.int64))[0], None

    return count(build, call, precision)


def count_block_directly(config: TitansConfig, batch: int, length: int, precision: str) -> Cost:
    """Count one block chunk by chunk; see `count_block` for a faster way to the same numbers."""

    def call(block: nn.Module) -> tuple[Tensor, Any]:
        return block(torch.zeros(batch, length, config.dim, requires_grad=True), None)

    return count(lambda: Block(replace(config, attention="sdpa")), call, precision)


def count_block(config: TitansConfig, batch: int, length: int, precision: str) -> Cost:
    """Count one block, in seconds at any length.

    The memory's loop over chunks is long, and the same again and again: what it adds is affine in the length, as long
    as lengths differ by whole groups of chunks, for MAC by whole segments. So it is counted at two short lengths.
    Attention is one call at any length and is counted at the full one; "swa" is what MAG and MAL add a memory to.

    Args:
        config: of the model.
        batch: sequences of the micro-batch.
        length: tokens of each.
        precision: "float32" or "bfloat16".

    Returns:
        The cost, equal to that of `count_block_directly`. Only `working` and `above` are not exact: each moment of a
        pass is affine, the largest of them is not, and beyond 4,096 tokens the memory's coefficients stop growing.
    """
    mac, C = config.variant == "mac", config.chunk_size
    unit = config.segment if mac else C * (config.group_size or default_group(C))
    first = length % unit + (unit if mac else 2 * unit)  # a single group holds less than each of several
    repeats = (length - first) // unit
    if config.variant in ("transformer", "swa") or repeats <= 1:
        return count_block_directly(config, batch, length, precision)
    added_to = config.variant in ("mag", "mal")
    attention = replace(config, variant="swa" if added_to else "transformer", literal=False)

    def added(length: int) -> Cost:
        whole = count_block_directly(config, batch, length, precision)
        if not added_to:
            return whole
        rest = count_block_directly(attention, batch, length, precision)
        return whole.plus(rest, -1)._replace(above=whole.above, working=whole.working)

    one, two, rest = added(first), added(first + unit), count_block_directly(attention, batch, length, precision)
    cost = one.plus(two.plus(one, -1), repeats)
    largest = {name: max(getattr(cost, name), getattr(rest, name)) for name in ("above", "working")}
    return (cost.plus(rest) if added_to else cost)._replace(**largest)  # at the memory, or at the feed-forward layer
