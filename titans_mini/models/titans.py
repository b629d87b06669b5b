"""TitansLM: a Llama-style language model with a memory in every block."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_mini.memory.network import is_count
from titans_mini.memory.state import State, read_position
from titans_mini.memory.torch_modes import leave_inference_mode, not_compiled
from titans_mini.models.config import TitansConfig
from titans_mini.models.mac import MemoryAsContext
from titans_mini.models.mixers import AttentionAlone, BlockState, MemoryAlone, MemoryAsGate, MemoryAsLayer, Mixer

MIXERS: dict[str, type[Mixer]] = {
    "mac": MemoryAsContext,
    "mag": MemoryAsGate,
    "mal": MemoryAsLayer,
    "lmm": MemoryAlone,
    "delta": MemoryAlone,
    "gated-delta": MemoryAlone,
    "transformer": AttentionAlone,
    "swa": AttentionAlone,
}


class SwiGLU(nn.Module):
    """Feed-forward layer of a Llama block: (silu(x W₁) ∘ x W₃) W₂.

    Built in: notebooks/10 · Paper: section 3.3
    """

    def __init__(self, dim: int, ratio: float) -> None:
        """Build the projections; the hidden width is rounded to a multiple of 8."""
        super().__init__()
        hidden = max(8, round(dim * ratio / 8) * 8)
        self.gate_and_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.to_output = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (B, T, dim) → (B, T, dim)."""
        gate, up = self.gate_and_up(x).chunk(2, -1)
        return self.to_output(F.silu(gate) * up)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + SwiGLU(norm(x)).

    Built in: notebooks/10 · Paper: section 3.3
    """

    def __init__(self, c: TitansConfig) -> None:
        """Build the variant's mixer, the SwiGLU and their norms."""
        super().__init__()
        self.norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.mixer = MIXERS[c.variant](c)
        self.mlp_norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.mlp = SwiGLU(c.dim, c.mlp_ratio)

    def forward(self, x: Tensor, state: BlockState | None, fresh: Tensor | None = None) -> tuple[Tensor, BlockState]:
        """Apply the block: (B, T, dim) → (B, T, dim) and the state after the last token; state None starts a text.

        The mixer makes the first state itself, because FSDP gathers the weights for it only inside this call. With
        `fresh` it starts the text of some rows, see `TitansLM.forward`.
        """
        if state is not None and fresh is not None:
            state = self.mixer.restart(state, fresh)
        y, state = self.mixer(self.norm(x), state)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample a token per sequence.

    Args:
        logits: (B, V).
        temperature: 0 takes the likeliest token.
        top_k: keep the k likeliest tokens; None keeps all.
        top_p: keep the likeliest tokens that together reach this probability; None keeps all.
        generator: random generator; default torch's global one.

    Returns:
        (B,) token ids.

    Raises:
        ValueError: if an option is out of range.
    """
    whole = top_k is None or is_count(top_k)
    if not (temperature >= 0 and whole and (top_p is None or 0 < top_p <= 1)):  # NaN is not ≥ 0
        raise ValueError(
            f"sampling: got temperature={temperature}, top_k={top_k!r}, top_p={top_p}, "
            "expected temperature ≥ 0, an integer top_k ≥ 1 and 0 < top_p ≤ 1"
        )
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, index = logits.softmax(-1).sort(-1, descending=True)
        drop = ordered.cumsum(-1) - ordered >= top_p  # the token that reaches top_p stays
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, index, drop), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def token_ids(tokens: Tensor, name: str = "tokens") -> Tensor:
    """Return tokens of any integer type as int64, the type of the embedding and the loss.

    Args:
        tokens: (B, T) integers.
        name: the argument, for the message.

    Raises:
        TypeError: if they are not integers; bool is not.
        ValueError: if they are not (B, T), B ≥ 1.
    """
    kind = tokens.dtype if torch.is_tensor(tokens) else type(tokens).__name__
    if not torch.is_tensor(tokens) or kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise TypeError(f"{name}: got {kind}, expected integers (B, T): embeddings, or text not yet encoded?")
    if tokens.dim() != 2 or tokens.shape[0] == 0:
        raise ValueError(f"{name}: got shape {tuple(tokens.shape)}, expected (B, T): the batch axis missing?")
    return tokens.long()


@dataclass(frozen=True, eq=False)
class TitansState(State):
    """State that a model carries from call to call. Its size does not grow with the text, except for "transformer".

    Attributes:
        blocks: one `BlockState` per block.
        position: tokens read so far.

    Built in: notebooks/10 · Paper: section 4
    """

    blocks: tuple[BlockState, ...]
    position: int = 0

    @property
    def nbytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(x.numel() * x.element_size() for key, x in self.to_dict().items() if x.dim())

    @classmethod
    def from_dict(cls, flat: dict[str, Tensor]) -> TitansState:
        """Rebuild a state from `to_dict`.

        Args:
            flat: `position`, and the tensors of the blocks' states, named `blocks.0.…`, `blocks.1.…` and so on.

        Raises:
            ValueError: if names are missing or unknown.
        """
        parts: dict[int, dict[str, Tensor]] = {}
        for key, x in flat.items():
            head, _, rest = key.partition(".")
            number, _, name = rest.partition(".")
            if head == "blocks" and number.isdigit():
                parts.setdefault(int(number), {})[name] = x
            elif key != "position":
                raise ValueError(f"TitansState: got the name {key!r}, expected 'position' and 'blocks.…'")
        if "position" not in flat or sorted(parts) != list(range(len(parts))):
            raise ValueError(f"TitansState: got names {sorted(flat)[:5]}…, expected 'position', 'blocks.0.…' and so on")
        return cls(tuple(BlockState.from_dict(parts[i]) for i in range(len(parts))), read_position(flat["position"]))


class TitansLM(nn.Module):
    """A causal language model: tokens (B, T) → logits (B, T, vocab_size), with a state of constant size.

    Args:
        config: variant and sizes.

    Built in: notebooks/10 · Paper: section 4, section 3.3
    """

    def __init__(self, config: TitansConfig) -> None:
        """Build the model with fresh weights."""
        super().__init__()
        if not isinstance(config, TitansConfig):
            got = type(config).__name__
            raise TypeError(f"config: got {got}, expected a TitansConfig, such as TitansConfig.preset('mac-tiny')")
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        self._reference: list | None = None  # shapes of its states, computed when the first one is passed in
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        """Draw small normal weights; those of projections into the residual stream shrink with the depth."""
        for name, p in self.named_parameters():
            if name in ("embedding.weight", "head.weight"):
                p.normal_(0, 0.02)
            elif name.endswith(("to_qkv.weight", "gate_and_up.weight", "to_output_gate.weight")):
                p.normal_(0, p.shape[-1] ** -0.5)
            elif name.endswith("to_output.weight"):
                p.normal_(0, p.shape[-1] ** -0.5 / math.sqrt(2 * self.config.layers))

    def count_parameters(self) -> int:
        """Count the weights, tied ones once."""
        return sum(p.numel() for p in self.parameters())

    def init_state(self, batch: int) -> TitansState:
        """Return the state at the start of a text.

        Args:
            batch: number of sequences B.

        Returns:
            The state that `forward` uses by default.
        """
        return TitansState(tuple(block.mixer.init_state(batch) for block in self.blocks))

    def forward(
        self,
        tokens: Tensor,
        state: TitansState | None = None,
        *,
        fresh: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, TitansState]:
        """Compute the logits of the token after each position.

        Args:
            tokens: (B, T) integers in [0, vocab_size), of any integer type.
            state: state to continue from; default the start of a text. It is never changed.
            fresh: (B,) booleans, to train on texts side by side: True where a new text begins. The memories of the
                other rows go on from `state`; attention starts anew in all rows, so positions stay those of training.
                The piece before has to end with a chunk. Default: all rows go on with all that `state` holds.
            padding_mask: (B, T), True where a token is real. Padding is refused: it would shift the chunks of one
                sequence against those of another, and with them the memory. Pad on the right and ignore the logits
                there, or run prompts of different lengths one by one.

        Returns:
            logits (B, T, vocab_size) and the state after the last token. Any split into calls gives the same.

        Raises:
            ValueError: if ids are out of range, the state is of another model or batch, or there is padding.
            TypeError: if tokens are not integers, or the state is not a `TitansState`.

        Built in: notebooks/10 · Paper: section 4
        """
        tokens = token_ids(tokens)
        state = self._checked(tokens, state, padding_mask)
        if fresh is not None and (fresh.dtype != torch.bool or fresh.shape != tokens.shape[:1]):
            got = f"{tuple(fresh.shape)} of {fresh.dtype}"
            raise ValueError(f"fresh: got {got}, expected ({len(tokens)},) booleans: one for each row of tokens")
        if tokens.shape[1] == 0:
            empty = self.embedding.weight.new_zeros(*tokens.shape, self.config.vocab_size)
            return empty, state or self.init_state(tokens.shape[0])
        before, position = (state.blocks, state.position) if state else ([None] * len(self.blocks), 0)
        position = position if fresh is None else 0
        x, blocks = self.embedding(tokens), []
        for block, block_state in zip(self.blocks, before, strict=True):
            x, block_state = block(x, block_state, fresh)
            blocks.append(block_state)
        return self.head(self.norm(x)), TitansState(tuple(blocks), position + tokens.shape[1])

    def loss(self, tokens: Tensor, state: TitansState | None = None) -> tuple[Tensor, TitansState]:
        """Compute the next-token loss.

        Args:
            tokens: (B, T + 1) integers, T ≥ 1.
            state: state to continue from; default the start of a text.

        Returns:
            Mean cross-entropy in nats, and the state after T tokens.

        Raises:
            ValueError: if there is no token to predict.
        """
        tokens = token_ids(tokens)
        if tokens.shape[1] < 2:
            got = tuple(tokens.shape)
            raise ValueError(f"tokens: got shape {got}, expected (B, T + 1), T ≥ 1: the first token is not predicted")
        logits, state = self(tokens[:, :-1], state)
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()), state

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        state: TitansState | None = None,
        stream: Callable[[Tensor], Any] | None = None,
    ) -> tuple[Tensor, TitansState]:
        """Generate a continuation token by token; the memory keeps learning.

        Args:
            prompt: (B, T) integers, T ≥ 1.
            max_new_tokens: number of tokens to add, ≥ 0.
            temperature: see `sample`.
            top_k: see `sample`.
            top_p: see `sample`.
            seed: of a separate generator; default torch's global one.
            state: state to continue from; default the start of a text.
            stream: called with each new column (B,) of tokens.

        Returns:
            (B, T + max_new_tokens) tokens in int64, and the state after all but the last.

        Raises:
            ValueError: if the prompt is empty or a number out of range.
            TypeError: if the prompt is not integers.
        """
        count = max_new_tokens
        if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < 0:
            raise ValueError(f"max_new_tokens: got {count}, expected an integer ≥ 0: how many to add, not the total?")
        prompt = token_ids(prompt, "prompt")
        if prompt.shape[1] == 0:
            raise ValueError(f"prompt: got shape {tuple(prompt.shape)}, expected (B, T), T ≥ 1: give it a first token")
        generator = None if seed is None else torch.Generator(prompt.device).manual_seed(seed)
        out, new = [prompt], prompt
        for _ in range(max_new_tokens):
            logits, state = self(new, state)
            new = sample(logits[:, -1], temperature, top_k, top_p, generator)[:, None]
            out.append(new)
            if stream is not None:
                stream(new[:, 0])
        return torch.cat(out, 1), state if state is not None else self.init_state(prompt.shape[0])

    def save_pretrained(self, folder: str | os.PathLike[str], **options: Any) -> None:
        """Write `config.json` and `model.safetensors` with huggingface_hub's mixin; no pickle.

        Args:
            folder: the target.
            options: of `PyTorchModelHubMixin.save_pretrained`, such as `push_to_hub`.
        """
        from titans_mini.models.hub import save  # optional dependency: imported only when needed

        save(self, dataclasses.asdict(self.config), folder, **options)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> TitansLM:
        """Load a folder written by `save_pretrained`, or a model of the Hugging Face Hub; no pickle.

        Args:
            name: the folder, or user/model.
            options: of `titans_mini.models.hub.load`, for the Hub: `revision`, `cache_dir`, `token` and others.

        Returns:
            The model, in evaluation mode.

        Raises:
            FileNotFoundError: if the folder or one of its two files is missing.
            ValueError: if a file is damaged, or the weights are not exactly those of the configuration.
        """
        from titans_mini.models.hub import load

        return load(name, lambda config: cls(TitansConfig(**config)), **options)

    @not_compiled
    def _checked(self, tokens: Tensor, state: TitansState | None, padding_mask: Tensor | None) -> TitansState | None:
        """Raise if tokens, state or padding do not fit this model; return the state, out of inference mode."""
        if tokens.numel() and tokens.device.type != "meta":
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.config.vocab_size:
                top = self.config.vocab_size - 1
                raise ValueError(f"tokens: got ids from {low} to {high}, expected 0 to {top}: another tokenizer?")
        if padding_mask is not None and not bool(padding_mask.all()):
            raise ValueError(
                "padding_mask: got padding, expected none: it would shift the chunks of the memory. Pad on the right, "
                "ignore what comes out there, or run prompts of different lengths one by one"
            )
        if state is None:
            return None
        if not isinstance(state, TitansState):
            raise TypeError(f"state: got {type(state).__name__}, expected the TitansState this model returned")
        if self._reference is None:
            self._reference = _reference(self.config)
        if _shapes(state, tokens.shape[0]) != self._reference:
            raise ValueError("state: got one of another model or batch, expected the one this model returned for it")
        return state.map(leave_inference_mode) if torch.is_grad_enabled() else state


def _reference(config: TitansConfig) -> list[tuple[str, tuple[int, ...], bool]]:
    """Compute `_shapes` of a model's states from its configuration: FSDP's sharded weights cannot make a state."""
    with torch.device("meta"), torch.no_grad():
        start = Block(config).mixer.init_state(1)
    return _shapes(TitansState((start,) * config.layers), 1)


def _shapes(state: TitansState, batch: int) -> list[tuple[str, tuple[int, ...], bool]]:
    """List (name, shape, batch matches) of a state's tensors, without the batch axis and the growing axis of caches."""
    growing = ("attention.k", "attention.v", "h_keys", "h_values")
    out = []
    for name, x in state.to_dict().items():
        if x.dim():
            shape = tuple(x.shape)
            cut = shape[1:2] + shape[3:] if name.endswith(growing) else shape[1:]
            out.append((name, cut, shape[0] == batch))
    return out
