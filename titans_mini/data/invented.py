"""Books with invented names: what a model could know of a name by heart is gone, only a memory can know it.

A small model that meets Holmes a thousand times learns "Holmes" in its weights, and has no reason to remember a name
that it has just read. So in training all names of a book are exchanged for new ones, every few pages for others.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

# a capitalised word where no sentence begins; one letter of it is taken for an initial, two for a title
NAME = re.compile(r"(?:(?<=[a-z,;] )|(?<=Mr\. )|(?<=Mrs\. )|(?<=Dr\. ))[A-Z][a-z]{2,}")
NO_NAMES = frozenset(
    "Mrs Miss Sir Lady Lord God The And But Not You Yes Saint Master Mister Chapter".split()
)  # titles stay: they say that a name follows
SHORTEST, LONGEST = 8_000, 60_000  # characters until the names change


def names_of(text: str) -> list[str]:
    """Return the names of a book, sorted: three times or more capitalised within sentences, and rarely not.

    A rule, not a dictionary: "English" and "Monday" are taken too, which does no harm.
    """
    capital = Counter(NAME.findall(text))
    small = Counter(re.findall(r"\b[a-z]{3,}\b", text))
    return sorted(w for w, n in capital.items() if n >= 3 and small[w.lower()] <= n // 3 and w not in NO_NAMES)


def letter_chain(names: Iterable[str]) -> dict[str, str]:
    """Collect which letters follow each pair of letters in names; "^" and "$" mark the beginning and the end."""
    chain: defaultdict[str, str] = defaultdict(str)
    for name in names:
        marked = f"^^{name}$"
        for i in range(len(name) + 1):
            chain[marked[i : i + 2]] += marked[i + 2]
    return dict(chain)


def invent(chain: Mapping[str, str], draw: random.Random) -> str:
    """Invent a name of four to ten letters that looks like those of the chain.

    Args:
        chain: see `letter_chain`.
        draw: makes the choices.

    Raises:
        ValueError: if the chain makes no such name.
    """
    for _ in range(10_000):
        name = "^^"
        while not name.endswith("$") and len(name) < 14:
            name += draw.choice(chain[name[-2:]])
        if name.endswith("$") and 4 <= len(name) - 3 <= 10:
            return name[2:-1]
    raise ValueError(f"invent: got a chain of {len(chain)} pairs without a name of 4 to 10 letters: too few names?")


def with_invented_names(text: str, names: Iterable[str], chain: Mapping[str, str], seed: int | str) -> str:
    """Exchange all names of a book for invented ones, and every 8,000 to 60,000 characters for others.

    Args:
        text: the book.
        names: what to exchange, see `names_of`.
        chain: see `letter_chain`; of many books, so that none gives its own names away.
        seed: the same seed, the same names.
    """
    draw, names, parts, start = random.Random(seed), sorted(names), [], 0
    while start < len(text):
        length = SHORTEST * (LONGEST / SHORTEST) ** draw.random()  # every order of size equally often
        stop = text.find("\n", start + int(length)) + 1 or len(text)  # at the end of a paragraph
        new = {name: invent(chain, draw) for name in names}
        parts.append(re.sub(r"\b[A-Z][a-z]{2,}\b", lambda m, new=new: new.get(m[0], m[0]), text[start:stop]))
        start = stop
    return "".join(parts)
