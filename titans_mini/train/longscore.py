"""What a memory is worth on long texts: bits per byte by position, and bits of names by how far back they were met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from titans_mini.data.invented import NAME
from titans_mini.models.titans import TitansLM, TitansState
from titans_mini.train.language import bits_per_token

KILOBYTE = 1024
EDGES = (0, 1, 4, 16, 64)  # kilobytes
DISTANCES = (1, 4)  # kilobytes since a name was met
CARRIED = "carried"


def forget(model: TitansLM, state: TitansState) -> TitansState:
    """Set every memory back to M₀. Attention and convolutions go on, so the memory is all that differs.

    Raises:
        ValueError: if the state ends within a chunk, where a memory cannot be exchanged.
    """
    flat = state.to_dict()
    for name, x in model.init_state(next(len(x) for x in flat.values() if x.dim())).to_dict().items():
        if ".memory.memory." in name:
            if not x.dim() and int(x) != int(flat[name]):
                raise ValueError(
                    f"forget: got a state {int(flat[name])} tokens into a chunk, expected {int(x)}: read whole chunks"
                )
            flat[name] = x
    return TitansState.from_dict(flat)


@torch.no_grad()
def read_bits(model: TitansLM, ids: Tensor, block: int, reset_every: int = 0) -> Tensor:
    """Read texts side by side with one state each, and compute the bits of every token.

    Args:
        model: reads `block` tokens at a time, a multiple of its chunk.
        ids: (B, N + 1), N a multiple of `block`.
        block: tokens of a call.
        reset_every: blocks after which the memory forgets; 0 carries it to the end.

    Returns:
        (B, N), the bits of tokens 1 to N.
    """
    state, bits = None, []
    for number, start in enumerate(range(0, ids.shape[1] - 1, block)):
        if state is not None and reset_every and number % reset_every == 0:
            state = forget(model, state)
        found, state = bits_per_token(model, ids[:, start : start + block + 1], state)
        bits.append(found)
    return torch.cat(bits, 1)


# -- by position -----------------------------------------------------------------------------------------------------


def by_kilobyte(bits: np.ndarray, sizes: np.ndarray, kilobytes: int) -> np.ndarray:
    """Average bits per byte over each kilobyte of each book: (B, kilobytes).

    Args:
        bits: (B, N), of tokens 1 to N.
        sizes: (B, N + 1), bytes of tokens 0 to N.
        kilobytes: how many, from the beginning; tokens belong to the one in which they begin.
    """
    begin = sizes.cumsum(1)[:, :-1] // KILOBYTE  # (B, N), of the byte at which tokens 1 to N begin
    rows = []
    for place, x, size in zip(begin, bits, sizes[:, 1:], strict=True):
        total, weight = (np.bincount(place, of, kilobytes + 1)[:kilobytes] for of in (x, size))
        rows.append(total / weight)
    return np.stack(rows)


def standard_error(x: np.ndarray) -> float:
    """Return the standard error of a mean; 0 for a single number."""
    return float(x.std(ddof=1) / x.size**0.5) if x.size > 1 else 0.0


def bits_by_position(pieces: Mapping[str, np.ndarray | Sequence], edges: Sequence[int] = EDGES) -> dict:
    """Average bits per byte by position, and what the first reading gains over each other one.

    Two readings of the same books may be of two models, such as a memory and its twin: take both from their records.

    Args:
        pieces: name of a reading → (books, kilobytes) bits per byte, see `by_kilobyte`; the first is compared.
        edges: of the bins, in kilobytes.

    Returns:
        "edges"; for each reading its mean "bits" per bin, and their standard error over books, "books ±"; for each but
        the first also the "gain" of the first, "gain ±" over kilobytes and "gain, books ±" over books.
    """
    bins = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
    first = np.asarray(next(iter(pieces.values())))
    out: dict = {"edges": list(edges)}
    for name, x in pieces.items():
        x = np.asarray(x)
        row = {"bits": [x[:, bin].mean() for bin in bins], "books ±": [standard_error(x[:, b].mean(1)) for b in bins]}
        if len(out) > 1:
            row["gain"] = [(x - first)[:, bin].mean() for bin in bins]
            row["gain ±"] = [standard_error((x - first)[:, bin]) for bin in bins]
            row["gain, books ±"] = [standard_error((x - first)[:, bin].mean(1)) for bin in bins]
        out[name] = {key: [round(float(value), 5) for value in values] for key, values in row.items()}
    return out


# -- names -----------------------------------------------------------------------------------------------------------


def bits_of_names(bits: Mapping[str, np.ndarray], ids: np.ndarray, pieces: Sequence[bytes], kilobytes: int) -> dict:
    """Average the bits of a name on its first occurrence, and on later ones by the distance to the one before.

    Capitalised words within a sentence count as names, see `titans_mini.data.invented.NAME`. The bits of a word are
    those of all tokens it has a part in, with the space or quotation mark before it.

    Args:
        bits: name of a reading → (B, N) bits of tokens 1 to N.
        ids: (B, N + 1).
        pieces: bytes of each id.
        kilobytes: how much of each book is read.

    Returns:
        "groups"; "words": how many in each group, book by book; for each reading "bits", a mean over words per group,
        "by book" the same book by book (None without a word), and for each but the first the "gain" of the first with
        "gain ±" over words.
    """
    groups = ["first", *(f"< {d} kB" for d in DISTANCES), f"> {DISTANCES[-1]} kB"]
    found: list[list[list[dict]]] = [[[] for _ in groups] for _ in ids]
    for book, row in enumerate(ids):
        parts = [pieces[i] for i in row]
        ends, met = np.cumsum([len(part) for part in parts]), {}
        for word in NAME.finditer(b"".join(parts).decode("latin-1")):  # one character a byte, so places are of bytes
            begin, end = word.span()
            if end > kilobytes * KILOBYTE or end > ends[-1]:
                break
            a, z = int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(ends, end))  # its tokens, a … z
            if a:  # token 0 is given, not guessed
                gap = begin - met[word[0]] if word[0] in met else None
                group = 0 if gap is None else 1 + int(np.searchsorted(DISTANCES, gap / KILOBYTE, "right"))
                found[book][group].append({name: float(x[book, a - 1 : z].sum()) for name, x in bits.items()})
            met[word[0]] = begin
    out: dict = {"groups": groups, "words": [[len(group) for group in book] for book in found]}
    first = next(iter(bits))
    for name in bits:
        one = [[[word[name] for word in group] for group in book] for book in found]
        by_book = [[_mean(group) for group in book] for book in one]
        out[name] = {"bits": [_mean(sum(group, [])) for group in zip(*one, strict=True)], "by book": by_book}
        if name != first:
            gains = [[w[name] - w[first] for book in found for w in book[g]] for g in range(len(groups))]
            out[name]["gain"] = [_mean(gain) for gain in gains]
            out[name]["gain ±"] = [round(standard_error(np.array(gain)), 4) for gain in gains]
    return out


def _mean(x: Sequence[float]) -> float | None:
    return round(float(np.mean(x)), 4) if len(x) else None
