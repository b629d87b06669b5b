"""How the next token is drawn."""

from __future__ import annotations

import torch
from torch import Tensor


def choose(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a token from its logits.

    Args:
        logits: (B, V).
        temperature: 0 takes the likeliest.
        top_k: keep the k likeliest; None keeps all.
        top_p: keep the likeliest that together reach this probability; None keeps all.
        generator: of the draw.

    Returns:
        (B,) token ids.

    Raises:
        ValueError: if an option is out of range.

    Built in: notebooks/07 · Paper: –
    """
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(
            f"sampling: got temperature={temperature}, top_k={top_k}, top_p={top_p}, "
            "expected temperature ≥ 0, top_k ≥ 1 and 0 < top_p ≤ 1"
        )
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, index = logits.softmax(-1).sort(-1, descending=True)
        drop = ordered.cumsum(-1) - ordered >= top_p  # the first that reaches top_p stays
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, index, drop), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
