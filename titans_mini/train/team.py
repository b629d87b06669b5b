"""The processes of a run: one alone, or several that torchrun started and that share every step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Team:
    """What one process knows of the run's processes. Alone, every operation is the identity.

    Attributes:
        device: where this process computes.
        rank: number of this process; 0 writes and speaks.
        world: number of processes.
        kind: "ddp" (each has the whole model) or "fsdp" (each holds a part of every weight).
        parent: process number of torchrun; 0 without it.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    kind: str = "ddp"
    parent: int = 0

    @classmethod
    def join(cls, device: str = "auto", kind: str = "auto") -> Team:
        """Join the processes that torchrun started, or be one alone.

        Args:
            device: "auto", "cpu", "cuda" or another of PyTorch's.
            kind: "auto", "ddp" or "fsdp".

        Raises:
            ValueError: if there is no such device here.
        """
        local = int(os.environ.get("LOCAL_RANK", 0))
        where = _device(device, local)
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if world > 1 and not dist.is_initialized():
            if where.type == "cuda":
                torch.cuda.set_device(where)
            dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
        return cls(where, rank, world, "ddp" if kind == "auto" else kind, os.getppid() if world > 1 else 0)

    def check_parent(self) -> None:
        """Leave at once if torchrun was killed: nobody would end this process, and it would keep the run's folder."""
        if self.parent and os.getppid() != self.parent:
            raise SystemExit("titans_mini.train: torchrun is gone; the same command goes on from the last checkpoint")

    def meet(self) -> None:
        """Wait until all processes are here: torchrun ends the others when one leaves with a status other than 0."""
        self.sum(0.0)

    def leave(self) -> None:
        """End the processes' connection."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as it is called in training: itself alone, behind DDP, or sharded block by block."""
        model.to(self.device) if self.kind == "ddp" or self.world == 1 else None
        if self.world == 1:
            return model
        if self.kind == "ddp":
            return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)  # one copy, not two
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.world,))
        for block in getattr(model, "blocks", ()):
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    def rows(self, batch: Iterable[Tensor | None], pieces: int) -> Iterator[tuple]:
        """Yield this process's rows of a global batch, piece by piece.

        Args:
            batch: a named tuple of tensors with the batch axis first; a None is passed on.
            pieces: at most this many, all of about the same size.
        """
        rows = next(len(x) for x in batch if torch.is_tensor(x)) // self.world
        size = -(-rows // pieces)
        for begin in range(self.rank * rows, (self.rank + 1) * rows, size):
            part = slice(begin, min(begin + size, (self.rank + 1) * rows))
            yield type(batch)(*(x[part].to(self.device, non_blocking=True) if torch.is_tensor(x) else x for x in batch))

    def local_gradients(self, model: nn.Module, last: bool) -> AbstractContextManager:
        """Let DDP average the gradients of the last piece of a batch only, which then hold those of all pieces."""
        return nullcontext() if last or self.world == 1 or self.kind == "fsdp" else model.no_sync()

    def sum(self, *numbers: float) -> list[float]:
        """Add numbers up over all processes."""
        if self.world == 1:
            return list(numbers)
        x = torch.tensor(
            numbers, dtype=torch.float64 if self.device.type != "mps" else torch.float32, device=self.device
        )
        dist.all_reduce(x)
        return x.tolist()

    def stack(self, x: Tensor) -> Tensor:
        """Stack a tensor of every process, on the CPU: (…) → (world, …)."""
        if self.world == 1:
            return x.detach().cpu().clone()[None]
        x = x.detach().to(self.device)
        parts = [torch.empty_like(x) for _ in range(self.world)]
        dist.all_gather(parts, x.contiguous())
        return torch.stack([part.cpu() for part in parts])

    def whole(self, x: Tensor) -> Tensor | None:
        """Copy a weight to the CPU of process 0, and return None in the others; all have to ask if it is sharded."""
        x = x.detach()
        x = x.full_tensor() if hasattr(x, "full_tensor") else x
        return x.cpu().clone() if self.rank == 0 else None

    def number(self, x: Tensor) -> float:
        """Return the number in a tensor of one element, which may be a sum over shards."""
        return (x.full_tensor() if hasattr(x, "full_tensor") else x).item()

    @torch.no_grad()
    def assign(self, mine: Tensor, whole: Tensor) -> None:
        """Copy a whole weight into this process's tensor, or into its part of it."""
        if hasattr(mine, "full_tensor"):
            from torch.distributed.tensor import distribute_tensor

            whole = distribute_tensor(whole.to(mine.device), mine.device_mesh, mine.placements)
        mine.copy_(whole)


@contextlib.contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Refuse operations whose results do not repeat bit for bit, within the context."""
    before = torch.are_deterministic_algorithms_enabled()
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _device(name: str, local: int) -> torch.device:
    """Return the device of a name; of several GPUs each process takes its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: got {name!r}, expected auto, cpu, cuda, cuda:0 or the like") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = torch.device("cuda", local if device.index is None else device.index)
        if device.index >= count:
            raise ValueError(f"device: got {name!r}, expected one of this machine, which has {count} GPU(s): try cpu")
    elif device.type not in ("cpu", "mps"):
        raise ValueError(f"device: got {name!r}, expected auto, cpu, cuda, cuda:0 or mps: this loop knows no other")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device: got 'mps', expected one of this machine, which has none: try cpu")
    return device
