"""Text as a stream of keys and values: the context before a character is the key, the character the value."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def text_stream(
    text: str,
    dim: int = 256,
    orders: Sequence[int] = (1, 2, 3, 4),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Convert a text to keys (the context) and values (the character that follows), one pair per character.

    The key of character t depends on the characters before t only. Each character has a fixed pattern of signs ±1.
    The patterns of the last n characters, rolled by their distance, are multiplied into one; the key is the sum of
    these products over the orders n, scaled to length 1. Contexts with the same ending get similar keys, contexts with
    different endings nearly orthogonal ones. Nothing here is learned.

    The value is one-hot at the character's code; characters beyond `dim` share the upper half by a hash, so that with
    dim ≥ 256 no ASCII character shares its index.

    Args:
        text: T characters, any Unicode.
        dim: D. The smaller, the more contexts interfere.
        orders: lengths n of the contexts, in characters.
        seed: of the sign patterns, which are the same in every process and on every machine.
        dtype: of both results.

    Returns:
        k and v, each (1, 1, T, D), for one sequence and one head.

    Raises:
        ValueError: if dim is smaller than 2 or an order smaller than 1.
    """
    if dim < 2 or not orders or min(orders) < 1:
        raise ValueError(f"text_stream: got dim={dim}, orders={tuple(orders)}, expected dim ≥ 2 and lengths n ≥ 1")
    longest = max(orders)
    padded = ["", *sorted(set(text))]  # "" pads the context before the beginning
    index = {character: i for i, character in enumerate(padded)}
    codes = torch.tensor([0] * longest + [index[character] for character in text])
    signs = torch.from_numpy(np.stack([_signs(c, dim, seed) for c in padded])).to(dtype)  # (characters, D)
    bound, k = (torch.full((len(text), dim), x, dtype=dtype) for x in (1, 0))  # (T, D)
    for n in range(1, longest + 1):
        bound = bound * signs.roll(n, -1)[codes[longest - n : len(codes) - n]]  # the character n places back
        k = k + bound if n in orders else k
    places = torch.tensor([_place(character, dim) for character in text], dtype=torch.int64)
    v = F.one_hot(places, dim).to(dtype)
    return F.normalize(k, dim=-1)[None, None], v[None, None]


def _signs(character: str, dim: int, seed: int) -> np.ndarray:
    """Return the sign pattern ±1 (D,) of a character; "" pads the context before the beginning of a text."""
    name = f"{seed} {character}".encode("utf-8", "surrogatepass")
    bits = np.frombuffer(hashlib.shake_256(name).digest(dim // 8 + 1), dtype=np.uint8)  # the same on every machine
    return np.unpackbits(bits)[:dim] * 2.0 - 1.0


def _place(character: str, dim: int) -> int:
    """Return the index of the 1 in a character's one-hot value."""
    code = ord(character)
    lower = dim // 2
    return code if code < dim else lower + zlib.crc32(character.encode("utf-8", "surrogatepass")) % (dim - lower)
