"""The arithmetic of a run before it starts: parameters, tokens, operations, memory per GPU, days."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from titans_mini.models.config import SIZES, VARIANTS, TitansConfig
from titans_mini.models.titans import TitansLM
from titans_mini.notebook import load_results
from titans_mini.train.config import PRECISIONS
from titans_mini.train.tally import Cost, count_block, count_head

FLOAT = 4  # bytes: weights, gradients and the optimizer's two moments are float32, also under autocast
GIB = 2**30
WITH_ACTIVATIONS = ("logits and loss", "backward of a block")  # of `Plan.moments`


class Gpu(NamedTuple):
    """What a GPU has, as its maker says."""

    memory: float  # bytes; 1 GB is taken as 10⁹, a little less than there is: CUDA's context needs some of it
    peak: float  # operations per second of dense bfloat16 products, accumulated in float32


# NVIDIA's data sheets of the A100 (SXM), H100 (SXM), H200 (SXM) and L4, where the rates "with sparsity" are halved;
# and for the RTX 4090 the white paper "NVIDIA Ada GPU architecture", appendix A
GPUS = {
    "a100-40": Gpu(40e9, 312e12),
    "a100-80": Gpu(80e9, 312e12),
    "h100": Gpu(80e9, 989.5e12),
    "h200": Gpu(141e9, 989.5e12),
    "l4": Gpu(24e9, 121e12),
    "rtx4090": Gpu(24e9, 165.2e12),
}


def build_meta(config: TitansConfig) -> TitansLM:
    """Build a model on the meta device: shapes without numbers, so that any size fits anywhere.

    Args:
        config: of the model.
    """
    with torch.device("meta"):
        return TitansLM(config)


@dataclass(frozen=True)
class Plan:
    """A run in numbers; `plan` makes one, `text` prints it.

    Sizes are bytes. Operations are those of matrix products and attention, the half of it that a mask hides included.
    All memory is that of the chunked form in PyTorch, with autocast as on a CPU; the kernels keep other buffers.
    """

    config: TitansConfig
    batch: int  # sequences per step, of all GPUs together
    length: int  # tokens of a sequence
    steps: int
    world: int  # GPUs
    shard: bool  # FSDP: weights, gradients and moments are split among the GPUs; else every GPU has all of them
    micro_batch: int  # sequences that one GPU takes at once
    precision: str
    checkpoint_activations: bool  # keep only a block's input, and compute the block again in the backward pass
    gpu: str | None
    mfu: float  # assumed share of the GPU's peak
    parameters: int
    embedding: int  # parameters of the table of tokens, which is also the head where the two are tied
    block_parameters: int  # of one block
    block: Cost  # of one block and one micro-batch
    head: Cost  # of last norm, head and loss

    # -- work ----------------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """Count the tokens of the run."""
        return self.batch * self.length * self.steps

    @property
    def forward(self) -> float:
        """Return the operations of the forward pass per token."""
        return (self.config.layers * self.block.forward + self.head.forward) / (self.micro_batch * self.length)

    @property
    def forward_backward(self) -> float:
        """Return the operations of both passes per token, without recomputed blocks."""
        both = self.block.forward + self.block.backward, self.head.forward + self.head.backward
        return (self.config.layers * both[0] + both[1]) / (self.micro_batch * self.length)

    @property
    def with_recomputation(self) -> float:
        """Return the operations of both passes per token if every block is computed twice."""
        return self.forward_backward + self.config.layers * self.block.forward / (self.micro_batch * self.length)

    @property
    def flops(self) -> float:
        """Return the operations of the run, recomputed blocks included where there are any."""
        return self.tokens * (self.with_recomputation if self.checkpoint_activations else self.forward_backward)

    # -- memory --------------------------------------------------------------------------------------------------------

    @property
    def held(self) -> dict[str, int]:
        """Return what a GPU holds all the time, by name."""
        each = FLOAT * self.parameters // (self.world if self.shard else 1)
        held = {"weights": each, "gradients": each, "optimizer": 2 * each}
        if self.shard and self.world > 1:  # of a block: its weights, those of the next one, and its gradients
            rest = self.parameters - self.config.layers * self.block_parameters
            held["gathered by FSDP"] = FLOAT * (rest + 3 * self.block_parameters)
        return held

    @property
    def activations(self) -> int:
        """Return the bytes that the blocks keep for the backward pass of a micro-batch."""
        return self.config.layers * (self._input if self.checkpoint_activations else self.block.kept)

    @property
    def moments(self) -> dict[str, int]:
        """Return what a GPU needs above `held`, at the moments of a step that may need most."""
        again = self.block.kept - self._input if self.checkpoint_activations else 0
        table = FLOAT * self.embedding
        waiting = table if self.config.tie_embeddings else 0  # the head's gradient, for the embedding's to be added
        states = self.config.layers * self.block.state  # returned by every block, dropped once the loss is there
        return {
            "logits and loss": self.activations + self.head.kept + max(states + self.head.above, self.head.working),
            "backward of a block": self.activations + again + self.block.working + waiting,
            "embedding's gradient": table + waiting,
            "optimizer's step": self.held["weights"],  # on GPUs AdamW takes roots for all weights at once
        }

    @property
    def memory(self) -> int:
        """Return the bytes that a GPU needs, at the moment that needs most; exact from a second micro-batch on."""
        return sum(self.held.values()) + max(self.moments.values())

    @property
    def fits(self) -> bool | None:
        """Return whether a GPU has this memory; None where no GPU is named."""
        return None if self.gpu is None else self.memory <= GPUS[self.gpu].memory

    @property
    def _input(self) -> int:
        return FLOAT * self.micro_batch * self.length * self.config.dim

    def _advice(self) -> str:
        """Name the smallest change after which the run should fit; costs are scaled, not counted again."""
        for again in sorted({self.checkpoint_activations, True}):  # smaller micro-batches first: they cost little time
            for size in range(self.micro_batch, 0, -1):
                block, head = (Cost(*(x * size // self.micro_batch for x in cost)) for cost in (self.block, self.head))
                less = replace(self, micro_batch=size, block=block, head=head, checkpoint_activations=again)
                if self.batch % (self.world * size) == 0 and less.fits:
                    smaller = f"micro_batch {size}" if size < self.micro_batch else ""
                    more = "checkpoint_activations" if again > self.checkpoint_activations else ""
                    return "try " + " and ".join(x for x in (smaller, more) if x)
        return "try shorter sequences, or FSDP over more GPUs"

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def preset(self) -> str | None:
        """Return the name of this configuration, if it is a preset."""
        names = (f"{variant}-{size}" for variant in VARIANTS for size in ("tiny", *SIZES))
        return next((name for name in names if TitansConfig.preset(name) == self.config), None)

    @property
    def recorded(self) -> float | None:
        """Return the tokens per second of one GPU that were measured for this model, length and GPU, or None."""
        return next((row["tokens_per_second"] for row in records() if self._is_of(row)), None)

    def _is_of(self, row: dict) -> bool:
        return [row.get(key) for key in ("gpu", "model", "length")] == [self.gpu, self.preset, self.length]

    @property
    def days(self) -> float | None:
        """Return the days at the recorded rate, else at the assumed share of the peak; None where no GPU is named."""
        if self.gpu is None:
            return None
        if self.recorded:
            return self.tokens / (self.recorded * self.world) / 86_400
        return self.flops / (self.mfu * GPUS[self.gpu].peak * self.world) / 86_400

    # -- text ----------------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """Format the plan as a table."""
        lines = [
            f"{self.preset or self.config.variant}: {self.steps:,} steps of {self.batch:,} sequences of "
            f"{self.length:,} tokens, {self.tokens / 1e9:.3g} billion tokens",
            "",
            _row("parameters", f"{self.parameters / 1e6:,.1f} million"),
            _row("  without embedding", f"{(self.parameters - self.embedding) / 1e6:,.1f} million"),
            "",
            _row("FLOPs per token", ""),
            _row("  forward", f"{self.forward:.3g}", f"{self.forward / self.parameters / 2:.2f} × 2 per parameter"),
            _row("  and backward", f"{self.forward_backward:.3g}"),
            _row("  and recomputed blocks", f"{self.with_recomputation:.3g}", self._used()),
            _row("  of the run", f"{self.flops:.3g}"),
            "",
            *self._memory_lines(),
        ]
        return "\n".join(lines + (["", *self._time_lines()] if self.gpu else [])) + "\n"

    def _used(self) -> str:
        return "" if self.checkpoint_activations else "with checkpoint_activations; here not"

    def _memory_lines(self) -> list[str]:
        """Format the memory of one GPU."""
        parallel = "" if self.world == 1 else f", {'FSDP' if self.shard else 'DDP'} over {self.world} GPUs"
        L, block = self.config.layers, self._input if self.checkpoint_activations else self.block.kept
        kept = f"{L} blocks, {block / GIB:.3f} each" + (", inputs only" if self.checkpoint_activations else "")
        lines = [_row("memory per GPU", "GiB", f"{self.precision}, micro-batch {self.micro_batch}{parallel}")]
        lines += [_row(f"  {key}", f"{x / GIB:.3f}") for key, x in self.held.items()]
        lines.append(_row("  activations", f"{self.activations / GIB:.3f}", kept))
        for key, x in self.moments.items():
            note = ["at another moment", "at the moment that needs most"][x == max(self.moments.values())]
            if key in WITH_ACTIVATIONS:
                lines.append(_row(f"  {key}", f"{(x - self.activations) / GIB:.3f}", note))
            else:
                lines.append(_row(f"  {key}", f"{x / GIB:.3f}", f"{note}, without activations"))
        lines.append(_row("  total", f"{self.memory / GIB:.3f}", self._verdict()))
        lines.append("  of the memory's chunked form in PyTorch; the kernels keep other buffers, allocators leave gaps")
        return lines

    def _verdict(self) -> str:
        if self.gpu is None:
            return ""
        has = f"{GPUS[self.gpu].memory / GIB:.1f} GiB of {self.gpu}"
        return f"fits in the {has}" if self.fits else f"does not fit in the {has}: {self._advice()}"

    def _time_lines(self) -> list[str]:
        """Format the time of the run."""
        gpus = f"{self.world} {self.gpu}"
        time = f"{self.days:.3g} days" if self.days >= 1 else f"{24 * self.days:.2g} hours"
        if self.recorded:
            return [_row(f"time on {gpus}", time, f"at {self.recorded:,.0f} tokens per second and GPU, as recorded")]
        slow = "; float32 products are slower" if self.precision == "float32" else ""
        peak = f"{self.mfu:.0%} of the peak of {GPUS[self.gpu].peak / 1e12:.0f} TFLOP/s in bfloat16{slow}"
        return [
            _row(f"time on {gpus}", f"not yet measured on {self.gpu}"),
            _row("  if it ran at", time, f"{peak}: an assumption"),
        ]


def _row(name: str, value: str, note: str = "") -> str:
    """Format a line of the table."""
    return f"{name:24}{value:>14}   {note}".rstrip()


def records() -> list[dict]:
    """Read the recorded rates of training, assets/results/train_gpu.json.

    Returns:
        Rows with gpu, model (a preset), length and tokens_per_second (of one GPU); none if nothing was recorded.
    """
    try:
        found = load_results("train_gpu")
    except FileNotFoundError:
        return []
    return found["rows"] if isinstance(found, dict) else found


def plan(
    config: TitansConfig,
    *,
    batch: int,
    length: int,
    steps: int,
    micro_batch: int,
    world: int = 1,
    shard: bool = False,
    precision: str = "float32",
    checkpoint_activations: bool = False,
    gpu: str | None = None,
    mfu: float = 0.2,
) -> Plan:
    """Compute what a run will take, without allocating a weight.

    Args:
        config: of the model.
        batch: sequences per step, of all GPUs together.
        length: tokens of a sequence.
        steps: optimizer steps.
        micro_batch: sequences that one GPU takes at once.
        world: number of GPUs.
        shard: FSDP instead of DDP.
        precision: "float32", or "bfloat16": autocast, weights stay float32.
        checkpoint_activations: whether blocks are computed again in the backward pass.
        gpu: one of `GPUS`; None says nothing about fit and time.
        mfu: share of the GPU's peak that is assumed where no rate was recorded.

    Returns:
        The plan.

    Raises:
        ValueError: if a number is out of range, or the batch does not divide.
    """
    counts = {"batch": batch, "length": length, "steps": steps, "micro_batch": micro_batch, "world": world}
    for name, x in counts.items():
        if not isinstance(x, int) or isinstance(x, bool) or x < 1:
            raise ValueError(f"{name}: got {x!r}, expected an integer ≥ 1: a fraction, or a size of something else?")
    if batch % (world * micro_batch):
        raise ValueError(
            f"batch: got {batch}, expected a multiple of world × micro_batch = {world} × {micro_batch}: it counts the "
            "sequences of all GPUs together"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, expected one of {list(PRECISIONS)}: a typing error?")
    if gpu is not None and gpu not in GPUS:
        raise ValueError(f"gpu: got {gpu!r}, expected one of {list(GPUS)}, or None: another spelling?")
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu: got {mfu!r}, expected a share of the peak in (0, 1]: given in per cent?")
    model, of = build_meta(config), (config, micro_batch, length, precision)
    return Plan(
        config=config,
        batch=batch,
        length=length,
        steps=steps,
        world=world,
        shard=shard,
        micro_batch=micro_batch,
        precision=precision,
        checkpoint_activations=checkpoint_activations,
        gpu=gpu,
        mfu=mfu,
        parameters=model.count_parameters(),
        embedding=model.embedding.weight.numel(),
        block_parameters=sum(p.numel() for p in model.blocks[0].parameters()),
        block=count_block(*of),
        head=count_head(*of),
    )
