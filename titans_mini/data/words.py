"""The keys of RULER's needles: every adjective-noun pair of two lists, in sorted order, without building them all."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from itertools import accumulate

WORD_LISTS = {  # RULER's input; other bytes would give other keys from the same seed
    "adjectivelist.txt": "66814d46b7e292c83e839d12fe2fa083c8f66779b14b294e1be4e1342c5d4131",
    "nounlist.txt": "8d88b3ebc2e2969ed92ebe49cdb0c8a87c2ad3b27493d7afdff608f2e51c5bc9",
}


class KeyWords(Sequence[str]):
    """The sorted, distinct strings ``adjective-noun``, built on access.

    RULER builds and sorts six million of them. Sorted by "adjective-", the pairs of one adjective are contiguous and
    sorted by noun; only where one adjective is a prefix of another (``well-`` and ``well-known-``) do blocks overlap,
    and those few are merged.

    Args:
        adjectives: first halves, in any order, repeats allowed.
        nouns: second halves.

    Raises:
        ValueError: when a list is empty.
    """

    def __init__(self, adjectives: Iterable[str], nouns: Iterable[str]) -> None:
        self._nouns = sorted(set(nouns))
        groups: list[list[str]] = []
        for start in sorted({f"{adjective}-" for adjective in adjectives}):
            if groups and start.startswith(groups[-1][0]):
                groups[-1].append(start)
            else:
                groups.append([start])
        if not groups or not self._nouns:
            raise ValueError("KeyWords: got an empty list, expected at least one adjective and one noun")
        self._groups = groups
        self._merged = {i: self._merge(group) for i, group in enumerate(groups) if len(group) > 1}
        sizes = (len(self._merged.get(i, self._nouns)) for i in range(len(groups)))
        self._ends = list(accumulate(sizes))

    def _merge(self, group: list[str]) -> list[str]:
        return sorted({start + noun for start in group for noun in self._nouns})

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"got {index}, expected an index below {len(self)}")
        index %= len(self)
        group = bisect_right(self._ends, index)
        offset = index - (self._ends[group - 1] if group else 0)
        if group in self._merged:
            return self._merged[group][offset]
        return self._groups[group][0] + self._nouns[offset]


@lru_cache(maxsize=1)
def ruler_words() -> KeyWords:
    """Return the keys RULER draws from: 911 adjectives times 6,782 nouns of the package wonderwords.

    Raises:
        ImportError: when wonderwords is not installed.
        ValueError: when its lists are not the ones RULER's samples were made with.
    """
    return KeyWords(*(_read(name, sha256) for name, sha256 in WORD_LISTS.items()))


def _read(name: str, sha256: str) -> list[str]:
    try:
        raw = (resources.files("wonderwords") / "assets" / name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise ImportError(
            f"got no {name} of wonderwords, expected it for RULER's keys: install it with `pip install wonderwords`, "
            "or pass words of your own"
        ) from error
    got = hashlib.sha256(raw).hexdigest()
    if got != sha256:
        raise ValueError(
            f"got {name} with sha256 {got[:12]}…, expected {sha256[:12]}…: this version of wonderwords has other "
            "words, so a seed gives other keys than RULER; install wonderwords 3.0.1 or pass words of your own"
        )
    return [line.rstrip() for line in raw.decode("utf-8").splitlines()]  # RULER, too, strips the right end
