"""Evenings at the cloakroom: guests arrive, come to the counter, go home, and their hooks are used again."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NOBODY = -1
CONSONANTS, VOWELS = "bdfghjklmnprstvz", "aeiou"


class Evening(NamedTuple):
    """One evening, or several of equal length stacked along a first axis: N guests, T visits, H hooks.

    Attributes:
        names: N names, in the order of arrival; a list of such lists for stacked evenings.
        keys: (…, N, 26) the names as keys.
        who: (…, T) the guest at the counter.
        hook: (…, T) the hook of that guest's coat.
        here: (…, T, H) the guest whose coat hangs on each hook after the visit, or −1.
        gone: (…, T, H) the H guests who went home last, newest first, or −1.
    """

    names: list
    keys: Tensor
    who: Tensor
    hook: Tensor
    here: Tensor
    gone: Tensor

    @property
    def visits(self) -> tuple[Tensor, Tensor]:
        """Return what is said at the counter: the keys (…, T, 26) and the values, hooks as rows, (…, T, H)."""
        index = self.who[..., None].expand(*self.who.shape, self.keys.shape[-1])
        return self.keys.gather(-2, index), F.one_hot(self.hook, self.here.shape[-1]).to(self.keys.dtype)

    @property
    def stays(self) -> list[tuple[int, int]]:
        """Return each guest's visit of arrival and of departure (T for who is still here), of a single evening."""
        present = (self.here[:, :, None] == torch.arange(len(self.names))).any(1)  # (T, N)
        first = present.int().argmax(0)
        return [(int(start), int(start + length)) for start, length in zip(first, present.sum(0), strict=True)]


def spell(*names: str) -> Tensor:
    """Turn names into keys: how often each letter occurs, scaled to length 1, (N, 26) in float64."""
    counts = [[float(name.lower().count(letter)) for letter in ascii_lowercase] for name in names]
    return F.normalize(torch.tensor(counts, dtype=torch.float64), dim=-1)


def evening(seed: int, visits: int = 300, hooks: int = 5, every: int = 20, closing: int = 0) -> Evening:
    """Draw an evening: at every `every`-th visit a guest goes home, and a new one takes the hook.

    Args:
        seed: of names and visits; the same seed gives the same evening.
        visits: T, at least `hooks`.
        hooks: H; the first H visits fill them.
        every: visits from one arrival to the next; at the others somebody who is here comes to the counter.
        closing: visits from one closing time to the next, when everybody goes home and the hooks fill anew; 0: none.
    """
    g = torch.Generator().manual_seed(seed)

    def draw(options):
        return int(torch.randint(options, (), generator=g))

    names, here, gone, rows = [], [NOBODY] * hooks, [NOBODY] * hooks, []
    for t in range(visits):
        since = t % closing if closing else t
        if closing and t and since == 0:
            gone, here = here, [NOBODY] * hooks
        spot = since if since < hooks else draw(hooks)
        if since < hooks or since % every == 0:
            if here[spot] != NOBODY:
                gone = [here[spot], *gone[:-1]]
            here[spot] = len(names)
            name = ""
            while not name or name in names:
                name = "".join(CONSONANTS[draw(16)] + VOWELS[draw(5)] for _ in range(2 + draw(2))).title()
            names.append(name)
        rows.append((here[spot], spot, tuple(here), tuple(gone)))
    return Evening(names, spell(*names), *(torch.tensor(column) for column in zip(*rows, strict=True)))


def evenings(seeds: Sequence[int], **options) -> Evening:
    """Draw one evening per seed and stack them along a first axis."""
    drawn = [evening(seed, **options) for seed in seeds]
    columns = zip(*(e[1:] for e in drawn), strict=True)
    return Evening([e.names for e in drawn], *(torch.stack(column) for column in columns))


def attend(keys: Tensor, values: Tensor, alpha, eta, theta) -> Tensor:
    """Run a matrix memory through T visits, with keys (…, T, D), values (…, T, E) and gates that are numbers or (T,).

    Returns:
        (…, T, D, E): the book after each visit.
    """
    T, D = keys.shape[-2:]
    gates = (torch.as_tensor(gate, dtype=keys.dtype).expand(T) for gate in (alpha, eta, theta))
    alpha, eta, theta = gates
    M = S = keys.new_zeros(*keys.shape[:-2], D, values.shape[-1])
    books = []
    for t in range(T):
        k, v = keys[..., t, :, None], values[..., t, None, :]
        S = eta[t] * S - theta[t] * 2 * k * (k.mT @ M - v)
        M = (1 - alpha[t]) * M + S
        books.append(M)
    return torch.stack(books, -3)


def answers(asked: Tensor, keys: Tensor, books: Tensor) -> Tensor:
    """Ask after every visit for some guests by name.

    Args:
        asked: (…, T, H) guests, such as `here` or `gone` of an evening; −1 asks for nobody.
        keys: (…, N, 26) the names of all guests.
        books: (…, T, 26, E) the book after each visit.

    Returns:
        (…, T, H, E) what the book says, NaN where nobody was asked for.
    """
    index = asked.clamp(min=0).flatten(-2)[..., None]
    named = keys.gather(-2, index.expand(*index.shape[:-1], keys.shape[-1])).unflatten(-2, asked.shape[-2:])
    return torch.where(asked[..., None] >= 0, named @ books, torch.nan)
