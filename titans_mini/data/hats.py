"""Evenings on which a name is not enough: only the pair of a name and a hat tells the rail, and memories read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from titans_mini.data.digits import digits
from titans_mini.data.evening import spell
from titans_mini.memory.functional import neural_memory
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.state import MemoryState

NAMES = "Anna Bob Kim Ted Guy Ross Val Finn".split()
HATS = "red blue green white yellow pink orange violet".split()

STEPS = (0.05, 0.1, 0.2, 0.4, 0.8)  # step sizes that a memory may choose from


class Party(NamedTuple):
    """Several evenings of equal length: N names times M hats are G guests, who come T times in random order.

    Attributes:
        keys: (evenings, G, D) the guests: the letters of the name, then a one for the hat, scaled to length 1.
        rails: (evenings, G) the rail of each guest's coat.
        who: (evenings, T) the guest at the counter.
    """

    keys: Tensor
    rails: Tensor
    who: Tensor

    @property
    def visits(self) -> tuple[Tensor, Tensor]:
        """Return what is said at the counter: the keys and the values, a single one at the rail, (evenings, T, D)."""
        D = self.keys.shape[-1]
        keys = self.keys.gather(1, self.who[..., None].expand(*self.who.shape, D))
        return keys, F.one_hot(self.rails.gather(1, self.who), D).to(keys.dtype)


def guests(names: int = 4, hats: int = 4) -> Tensor:
    """Write every pair of a name and a hat as a key: (names·hats, 26 + hats), hats change fastest."""
    spelt = spell(*NAMES[:names]).float()[:, None].expand(names, hats, 26)
    worn = torch.eye(hats).expand(names, hats, hats)
    return F.normalize(torch.cat([spelt, worn], -1).flatten(0, 1), dim=-1)


def party(
    seeds: Sequence[int], names: int = 4, hats: int = 4, rails: int = 4, visits: int = 600, tidy: bool = True
) -> Party:
    """Draw one evening per seed.

    Args:
        seeds: the same seed gives the same evening.
        names: N, at most 8.
        hats: M.
        rails: R.
        visits: T.
        tidy: each rail gets no two coats of one name and no two hats of one colour, as far as it has room; otherwise
            every pair gets a rail at random.
    """
    rows, who = [], []
    for seed in seeds:
        g = torch.Generator().manual_seed(seed)
        if tidy:
            row, column = torch.randperm(names, generator=g), torch.randperm(hats, generator=g)
            rows.append((row[:, None] + column).flatten() % rails)
        else:
            rows.append(torch.randint(rails, (names * hats,), generator=g))
        who.append(torch.randint(names * hats, (visits,), generator=g))
    keys = guests(names, hats).expand(len(rows), -1, -1)
    return Party(keys, torch.stack(rows), torch.stack(who))


def plain(dim: int, depth: int, expansion: float = 4) -> MemoryNet:
    """Build a matrix (depth 1) or a network, without residual and norm."""
    return MemoryNet(dim, depth, expansion, residual=False, norm=False)


@torch.no_grad()
def read(
    net: MemoryNet, k: Tensor, v: Tensor, steps: Sequence[float], eta: float = 0.0, state: MemoryState | None = None
) -> tuple[Tensor, MemoryState]:
    """Let one memory per step size read the same visits, without forgetting.

    Args:
        net: the memory's network.
        k: (evenings, T, D) keys.
        v: (evenings, T, D) values.
        steps: S step sizes θ.
        eta: the share of the last step that is kept; θ is multiplied by 1 − η, so that pushes add up to the same.
        state: of an earlier call with as many steps and evenings.

    Returns:
        (S, evenings, T, D) what was said before each write, and the state.
    """
    shape = (len(steps), *k.shape)
    theta = torch.tensor(steps, dtype=k.dtype)[:, None, None].expand(shape[:3]) * (1 - eta)
    still = torch.zeros_like(theta)
    k, v = k.expand(shape), v.expand(shape)
    return neural_memory(k, k, v, still, still + eta, theta, state, net=net, chunk_size=1, read="before")


@torch.no_grad()
def read_book(k: Tensor, v: Tensor, steps: Sequence[float], book: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Let one matrix per step size read the same visits by the delta rule; keys may be wider than values.

    Args:
        k: (evenings, T, F) keys.
        v: (evenings, T, E) values.
        steps: S step sizes θ.
        book: (S, evenings, F, E) of an earlier call; default empty.

    Returns:
        (S, evenings, T, E) what was said before each write, and the book.
    """
    theta = torch.tensor(steps, dtype=k.dtype)[:, None, None, None]
    if book is None:
        book = k.new_zeros(len(steps), len(k), k.shape[-1], v.shape[-1])
    said = []
    for key, value in zip(k.unbind(1), v.unbind(1), strict=True):
        answer = key[:, None] @ book  # (S, evenings, 1, E)
        said.append(answer[..., 0, :])
        book = book - 2 * theta * key[..., None] * (answer - value[:, None])
    return torch.stack(said, 2), book


@torch.no_grad()
def rails_named(net: MemoryNet | None, evenings: Party, steps: Sequence[float], eta: float = 0.0) -> Tensor:
    """Read the evenings and ask for every guest at the end: the rail that is named, (S, evenings, G).

    Args:
        net: the memory's network; None is a matrix with one column per rail, for keys of any width.
        evenings: what is read.
        steps: S step sizes θ.
        eta: the share of the last step that is kept; 0 without a network.
    """
    (k, v), rails = evenings.visits, evenings.rails.max() + 1
    if net is None:
        if eta:
            raise ValueError(f"rails_named: got eta={eta} without a network, expected 0: such a book has no momentum")
        return (evenings.keys @ read_book(k, v[..., :rails], steps)[1]).argmax(-1)
    _, state = read(net, k, v, steps, eta)
    answers = net(state.weights, evenings.keys.expand(len(steps), *evenings.keys.shape))
    return answers[..., :rails].argmax(-1)


def best_boards(net: MemoryNet, evening: Party, steps: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Read one evening with each step size: the rails that the best names, and the right ones, (names, hats) each."""
    named, right = rails_named(net, evening, steps)[:, 0], evening.rails[0]
    best = named[(named == right).sum(-1).argmax()]
    hats = evening.keys.shape[-1] - 26  # the letters come first
    return best.view(-1, hats), right.view(-1, hats)


def at_its_best(
    net: MemoryNet | None,
    practice: Party,
    judged: Party,
    steps: Sequence[float] = STEPS,
    etas: Sequence[float] = (0.0, 0.6),
) -> float:
    """Choose θ and η on some evenings; return the share of guests who get their coat on others.

    Args:
        net: the memory's network, or None, as in `rails_named`.
        practice: the evenings on which θ and η are chosen.
        judged: the other evenings.
        steps: step sizes θ to choose from.
        etas: values of η to choose from.
    """
    best = (-1.0, 0.0, 0.0)
    for eta in etas:
        shares = (rails_named(net, practice, steps, eta) == practice.rails).float().mean((1, 2))
        best = max(best, (shares.max().item(), steps[int(shares.argmax())], eta))
    _, theta, eta = best
    return (rails_named(net, judged, (theta,), eta) == judged.rails).float().mean().item()


def pair_share(tables: Tensor) -> float:
    """Return the share of the variance in tables (N, names, hats) that their rows and columns do not explain."""
    rest = tables - tables.mean((-2, -1), keepdim=True)
    pairs = rest - rest.mean(-1, keepdim=True)
    pairs = pairs - pairs.mean(-2, keepdim=True)
    return (pairs.square().sum() / rest.square().sum()).item()


# -- guests who are described by more than a name and a hat ----------------------------------------------------------


def two_of_fifteen(runs: int, visits: int) -> tuple[Tensor, Tensor]:
    """Draw guests of fifteen signs and a constant; the rail is the product of the first two.

    Returns:
        Keys (runs, visits, 16) of length 1 and rails (runs, visits), +1 or −1.
    """
    signs = torch.randint(2, (runs, visits, 16), generator=torch.Generator().manual_seed(1)).float() * 2 - 1
    signs[..., -1] = 1
    return signs / 4, signs[..., 0] * signs[..., 1]


def same_digit(runs: int, visits: int) -> tuple[Tensor, Tensor]:
    """Draw pairs of handwritten digits, each a 1 or a 7 in eight numbers; the rail is +1 where they are the same.

    Returns:
        Keys (runs, visits, 16) of length 1 and rails (runs, visits), +1 or −1.
    """
    images, classes = digits()
    few = (classes == 1) | (classes == 7)
    shown, is_seven = images[few] - images[few].mean(0), classes[few] == 7
    directions = torch.linalg.svd(shown, full_matrices=False)[2][:8]  # in which the images differ most
    short = F.normalize(shown @ directions.T, dim=-1)
    a, b = torch.randint(len(short), (2, runs, visits), generator=torch.Generator().manual_seed(0))
    keys = F.normalize(torch.cat([short[a], short[b]], -1), dim=-1)
    return keys, torch.where(is_seven[a] == is_seven[b], 1.0, -1.0)


def shuffled_digits(shuffles: int, visits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shuffle the handwritten digits: keys and values (shuffles, visits, 64), and the labels (shuffles, visits)."""
    piles = [digits(seed=seed) for seed in range(shuffles)]
    pixels = torch.stack([images[:visits] for images, _ in piles])
    labels = torch.stack([classes[:visits] for _, classes in piles])
    keys = F.normalize(pixels - pixels.mean(-1, keepdim=True), dim=-1)
    return keys, F.one_hot(labels, 64).float(), labels


def unrelated(pairs: int, runs: int, dim: int = 16) -> Tensor:
    """Draw keys and values of length 1 that have nothing to do with each other: (2, runs, pairs, dim)."""
    return F.normalize(torch.randn(2, runs, pairs, dim, generator=torch.Generator().manual_seed(0)), dim=-1)


@torch.no_grad()
def after_passes(net: MemoryNet | None, k: Tensor, v: Tensor, passes: int, steps: Sequence[float]) -> Tensor:
    """Show all pairs again and again, each time in a new order, and ask for all of them after every pass.

    Args:
        net: the memory's network; None is an empty matrix, for keys wider than the values.
        k: (runs, pairs, D) keys.
        v: (runs, pairs, D) values.
        passes: how often the pairs are shown.
        steps: S step sizes θ.

    Returns:
        (passes + 1, S, runs, pairs, D) the answers, from before the first pass on.
    """
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(k.shape[1], generator=generator) for _ in range(passes)]
    if net is None:
        book = k.new_zeros(len(steps), len(k), k.shape[-1], v.shape[-1])
        said = [k @ book]
        for order in orders:
            _, book = read_book(k[:, order], v[:, order], steps, book)
            said.append(k @ book)
        return torch.stack(said)
    state = net.init_state(len(steps), len(k))
    said = [net(state.weights, k)]
    for order in orders:
        _, state = read(net, k[:, order], v[:, order], steps, state=state)
        said.append(net(state.weights, k))
    return torch.stack(said)


def recalled(said: Tensor, v: Tensor) -> Tensor:
    """Return the share of answers said (…, pairs, D) that lie nearest to their own value v (pairs, D) in direction.

    A memory with a NaN recalls nothing.
    """
    nearest = (F.normalize(said, dim=-1) @ v.mT).argmax(-1)
    share = (nearest == torch.arange(v.shape[-2])).float().mean(-1)
    return share * said.isfinite().flatten(-2).all(-1)


def practised_loss(tables: Tensor, passes: int, theta: float = 0.05) -> float:
    """Let one matrix per table practise with a small step; return the mean squared error that it ends with.

    Args:
        tables: (evenings, names, hats) the right answers; a guest's key is a one for the name and a one for the hat.
        passes: how often every guest comes.
        theta: step size.
    """
    names, hats = tables.shape[1:]
    name, hat = torch.eye(names).repeat_interleave(hats, 0), torch.eye(hats).repeat(names, 1)
    keys = torch.cat([name, hat], -1).to(tables.dtype) / 2**0.5  # (names·hats, names + hats)
    right, generator = tables.flatten(1), torch.Generator().manual_seed(0)
    book = tables.new_zeros(len(tables), names + hats)
    for guest in torch.cat([torch.randperm(names * hats, generator=generator) for _ in range(passes)]).tolist():
        wrong = book @ keys[guest] - right[:, guest]
        book = book - theta * 2 * wrong[:, None] * keys[guest]
    return (book @ keys.T - right).square().mean().item()
