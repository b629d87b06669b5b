"""The surprise of a trained model on a text of yours, character by character."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from titans_mini.data.pieces import byte_pairs
from titans_mini.models.pretrained import scaled_steps
from titans_mini.models.titans import TitansLM

START = 10  # newline, read by the model before the first token


@torch.no_grad()
def read_tokens(
    model: TitansLM, ids: Tensor, factor: float = 1.0, frozen_from: int | None = None
) -> tuple[Tensor, Tensor]:
    """Read a text from a fresh state, and compute the bits of each token.

    Args:
        model: a language model whose token 10 is the newline: of bytes or of `titans_mini.data.pieces`.
        ids: (T,) tokens.
        factor: of all step sizes, see `titans_mini.models.pretrained.scaled_steps`.
        frozen_from: index of the first token predicted without writing; None writes throughout.

    Returns:
        Bits (T,), −log₂ of the predicted probability of each token, and the likeliest token (T,).
    """
    line = torch.cat([ids.new_tensor([START]), ids[:-1]])[None]
    cut = len(ids) if frozen_from is None else frozen_from
    with scaled_steps(model, factor):
        logits, state = model(line[:, :cut])
    with scaled_steps(model, 0.0):
        logits = torch.cat([logits, model(line[:, cut:], state)[0]], 1)[0]
    bits = F.cross_entropy(logits.double(), ids, reduction="none") / torch.log(torch.tensor(2.0, dtype=torch.float64))
    return bits, logits.argmax(-1)


def read_text(model: TitansLM, text: str, factor: float = 1.0, frozen_from: int | None = None) -> tuple[Tensor, Tensor]:
    """Read a text like `read_tokens`, and share the bits of each token out to its characters, by their bytes.

    Args:
        model: a language model of bytes, or of the pieces of `titans_mini.data.pieces`.
        text: T characters, any Unicode.
        factor: of all step sizes, see `titans_mini.models.pretrained.scaled_steps`.
        frozen_from: index of the first character predicted without writing; None writes throughout.

    Returns:
        Bits per character (T,), and whether the likeliest tokens were right (T,).
    """
    if not text:
        return torch.zeros(0), torch.zeros(0, dtype=torch.bool)
    ids, pieces = _encode(model, text)
    sizes = torch.tensor([len(piece) for piece in pieces])
    token = torch.arange(len(ids)).repeat_interleave(sizes)  # (bytes,) the token of each byte
    each = torch.tensor([len(character.encode("utf-8", "surrogatepass")) for character in text])
    character = torch.arange(len(text)).repeat_interleave(each)
    cut = None
    if frozen_from is not None:  # the first token that begins with this character or behind it
        cut = int(((sizes.cumsum(0) - sizes) < each[:frozen_from].sum()).sum())
    bits, guess = read_tokens(model, ids, factor, cut)
    shared, missed = (bits / sizes)[token].float(), (guess != ids)[token].float()
    bits, wrong = (torch.zeros(len(text)).index_add_(0, character, x) for x in (shared, missed))
    return bits, wrong == 0


def _encode(model: TitansLM, text: str) -> tuple[Tensor, list[bytes]]:
    """Return the tokens of a text, (T,), and the bytes of each."""
    coder = byte_pairs()
    if model.config.vocab_size == len(coder.pieces):
        ids = coder.encode(text)
        return torch.tensor(ids), [coder.pieces[i] for i in ids]
    raw = text.encode("utf-8", "surrogatepass")
    return torch.tensor(list(raw)), [bytes([byte]) for byte in raw]
