"""What a MAC block writes into its memory, where its attention looks, and which of its two reads an answer comes from.

Numbers for hypotheses on why a model does not find its needle: a probe says what *could* be read from what is written,
attention says whose answers are seen, and a read that is silenced says what it was good for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import torch
from torch import Tensor

from titans_mini.data.recall import RecallBatch, RecallTask
from titans_mini.models.mac import MemoryAsContext
from titans_mini.models.titans import TitansLM


@torch.no_grad()
def probe(model: TitansLM, task: RecallTask, seed: int, length: int = 64, sequences: int = 512) -> dict:
    """Examine the first MAC block of a trained model on haystacks.

    Args:
        model: a `TitansLM` of the variant "mac".
        task: of its training; here each pair is asked once.
        seed: of the haystacks.
        length: tokens of a haystack, whole segments, so that the last segment holds the questions.
        sequences: how many; the probe is fitted on the first half and scored on the second.

    Returns:
        "written": share of tokens whose identity a linear probe reads from what the memory writes, at the "key" and the
        "value" of a pair. "looks": share of attention that a question spends on the "persistent" tokens, its "own h",
        the h of "other" positions, and "tokens" of its segment; the mean over heads. "found": share of needles found
        "as trained", "without h" and "without the last read", see `silenced`. "map": one sequence's attention in its
        last segment, (queries, keys), with its "tokens".

    Raises:
        ValueError: if the model has no MAC block, or the length is not whole segments with all questions in the last.
    """
    mixer = next((block.mixer for block in model.blocks if isinstance(block.mixer, MemoryAsContext)), None)
    if mixer is None:
        raise ValueError(f"probe: got a model of variant {model.config.variant!r}, expected mac")
    segment, task = mixer.c.segment, replace(task, questions=task.pairs)
    if length % segment or segment < 2 * task.questions:
        raise ValueError(f"probe: got {length} tokens and segments of {segment}, expected whole segments: the last one")
    made = task.batch(sequences, length, seed)
    found = {"as trained": _found(model, made)}
    for name in ("h", "the last read"):
        with silenced(mixer, name):
            found[f"without {name}"] = _found(model, made)
    with _watched(mixer) as (written, attention):
        model(made.tokens)
    haystack = torch.arange(length) < length - 2 * task.questions
    is_key, is_value = made.tokens < task.keys, (made.tokens >= task.keys) & (made.tokens < task.keys + task.values)
    kinds = {"key": is_key & haystack, "value": is_value & haystack}
    last = attention[-1].mean(1)  # (B, segment, keys): heads are averaged
    return {
        "written": {kind: _read_off(written[-1], made.tokens, where) for kind, where in kinds.items()},
        "looks": _looks(last, mixer, made.targets[:, -segment:] >= 0),
        "found": found,
        "map": [[round(x, 3) for x in row] for row in last[0].tolist()],
        "tokens": made.tokens[0, -segment:].tolist(),
    }


@contextmanager
def silenced(mixer: MemoryAsContext, what: str) -> Iterator[None]:
    """Let one of the block's two reads answer nothing: "h", before attention, or "the last read", after it.

    Raises:
        ValueError: for another name.
    """
    if what not in ("h", "the last read"):
        raise ValueError(f"silenced: got {what!r}, expected 'h' or 'the last read'")
    read, gate = mixer.memory.read, mixer.gate.forward
    nothing = mock.patch.object(mixer.memory, "read", lambda *inputs: torch.zeros_like(read(*inputs)))
    if what == "the last read":
        nothing = mock.patch.object(mixer.gate, "forward", lambda y, m: gate(y, torch.zeros_like(m)))
    with nothing:
        yield


@contextmanager
def _watched(mixer: MemoryAsContext) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Collect what is written, the last entry for all tokens, and the attention of each segment (B, H, T, keys)."""
    written, seen, choose, own = [], [], mixer._written, mixer.attention

    def note_written(x: Tensor, y: Tensor) -> Tensor:
        written.append(choose(x, y))
        return written[-1]

    def attend(q, k, v, state, front, extra, masks) -> Tensor:
        keys, values = own._concatenate_keys(k, v, state, front, extra)
        scores = q @ keys.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = (scores + own._mask(q, state, front, extra)).softmax(-1)
        seen.append(weights)
        return weights @ values

    with mock.patch.object(mixer, "_written", note_written), mock.patch.object(own, "_attend_dense", attend):
        yield written, seen


def _found(model: TitansLM, made: RecallBatch) -> float:
    """Return the share of questions that are answered."""
    asked = made.targets >= 0
    return round((model(made.tokens)[0][asked].argmax(-1) == made.targets[asked]).double().mean().item(), 4)


def _read_off(written: Tensor, tokens: Tensor, where: Tensor) -> float:
    """Fit a linear probe for the token on half of the sequences; return the share that it gets right on the others."""
    half = len(tokens) // 2
    x, one_hot = written.double(), torch.nn.functional.one_hot(tokens).double()
    x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    weights = torch.linalg.lstsq(x[:half][where[:half]], one_hot[:half][where[:half]], driver="gelsd").solution
    said = (x[half:][where[half:]] @ weights).argmax(-1)
    return round((said == tokens[half:][where[half:]]).double().mean().item(), 4)


def _looks(last: Tensor, mixer: MemoryAsContext, asked: Tensor) -> dict[str, float]:
    """Divide the attention (B, T, keys) of the questions: keys are persistent tokens, the segment's h, its tokens."""
    prefix, h = mixer.c.persistent, mixer.count
    own = torch.arange(asked.shape[1]) // mixer.stride  # of each token the h that is its own
    on_h = last[:, :, prefix : prefix + h]
    on_own = on_h.gather(2, own.expand(len(last), -1)[:, :, None])[..., 0]  # (B, T)
    shares = {
        "persistent": last[:, :, :prefix].sum(-1),
        "own h": on_own,
        "other h": on_h.sum(-1) - on_own,
        "tokens": last[:, :, prefix + h :].sum(-1),
    }
    return {name: round(x[asked].mean().item(), 4) for name, x in shares.items()}
