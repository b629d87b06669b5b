"""Exercises of notebook 12: how long a memory must last, a score by depth, an error bar, and a shortcut."""

import math

import torch

from titans_mini.exercises import Exercise


def half_life_for(distance, share):
    """The half-life in tokens with which `share` of a write is left after `distance` tokens -> a number."""
    return distance * math.log(2) / -math.log(share)


def by_depth(depth, found, bins):
    """Share found in each bin: depth (N,) in [0, 1], found (N,) of 0 and 1 -> (bins,), NaN where nothing was asked."""
    place = (depth * bins).long().clamp(max=bins - 1)
    right = torch.bincount(place, found, bins)
    return right / torch.bincount(place, minlength=bins)


def mean_and_error(scores):
    """One score a seed: (S,) -> its mean and the standard error of that mean, two numbers."""
    deviation = ((scores - scores.mean()).square().sum() / (len(scores) - 1)).sqrt()
    return scores.mean().item(), (deviation / len(scores) ** 0.5).item()


def where_is(people, rooms, who):
    """Fact t says: people[t] went to rooms[t]. People and rooms (T,), a person -> the room, −1 if never seen."""
    seen = (people == who).nonzero()
    return rooms[seen[-1, 0]].item() if len(seen) else -1


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _life_cases(seed):
    return [(2048, 0.5), (2048, 0.9), (4096, 0.25), (100 + seed, 0.7)]


def _depth_cases(seed):
    g = _generator(seed)
    cases = []
    for n, bins in ((40, 4), (9, 8), (60, 5)):
        depth = torch.rand(n, generator=g, dtype=torch.float64)
        depth[0], depth[1] = 1.0, 0.0
        cases.append((depth, (torch.rand(n, generator=g) < 0.6).double(), bins))
    return cases


def _score_cases(seed):
    g = _generator(seed)
    return [(torch.rand(n, generator=g, dtype=torch.float64),) for n in (3, 5, 10)]


def _story_cases(seed):
    g = _generator(seed)
    cases = []
    for n in (1, 4, 8, 12):
        people, rooms = torch.randint(4, (n,), generator=g), torch.randint(6, (n,), generator=g)
        cases += [(people, rooms, who) for who in range(4)]
    return cases


def _bins(depth, found, bins, place):
    return torch.bincount(place, found, bins) / torch.bincount(place, minlength=bins)


def _first_room(people, rooms, who):
    seen = (people == who).nonzero()
    return rooms[seen[0, 0]].item() if len(seen) else -1


def _last_place(people, rooms, who):
    seen = (people == who).nonzero()
    return seen[-1, 0].item() if len(seen) else -1


EXERCISES = (
    Exercise(
        name="12.1",
        title="How long must it last?",
        difficulty="easy",
        minutes=5,
        points=1,
        solution=half_life_for,
        cases=_life_cases,
        mutants={
            "the time constant": (
                lambda distance, share: distance / -math.log(share),
                "That is the time after which 1/e is left. A half-life leaves ½: multiply by ln 2.",
            ),
            "linear": (
                lambda distance, share: distance / (2 * (1 - share)),
                "You let the memory fade along a straight line. Every token takes a share of what is *left*.",
            ),
            "the forgotten share": (
                lambda distance, share: distance * math.log(2) / -math.log(1 - share),
                "`share` is what is left, and you used what is gone.",
            ),
            "upside down": (
                lambda distance, share: -math.log(share) * distance / math.log(2),
                "Upside down: to keep more you now need a shorter half-life. Solve ½^(distance/h) = share for h.",
            ),
        },
        hints=(
            "After n tokens with half-life h, ½^(n/h) is left.",
            "Take logarithms: (n/h)·ln ½ = ln share.",
            "h = n·ln 2 / −ln share.",
        ),
        why="To keep 90 % over 2,048 tokens, half of it must last for 13,500. Reach is bought with half-life.",
    ),
    Exercise(
        name="12.2",
        title="A score by depth",
        difficulty="medium",
        minutes=10,
        points=2,
        solution=by_depth,
        cases=_depth_cases,
        mutants={
            "rounded": (
                lambda depth, found, bins: _bins(depth, found, bins, (depth * bins).round().long().clamp(max=bins - 1)),
                "You rounded to the nearest bin: then the first bin is half as wide as the others. Cut off instead.",
            ),
            "bins minus one": (
                lambda depth, found, bins: _bins(depth, found, bins, (depth * (bins - 1)).long()),
                "You stretched the depths over bins − 1: the last bin gets only the depth of exactly 1.",
            ),
            "counts": (
                lambda depth, found, bins: torch.bincount((depth * bins).long().clamp(max=bins - 1), found, bins),
                "These are counts. A share divides by how many were asked in that bin.",
            ),
            "share of all": (
                lambda depth, found, bins: (
                    torch.bincount((depth * bins).long().clamp(max=bins - 1), found, bins) / len(depth)
                ),
                "You divided by all questions. Each bin has its own number of questions.",
            ),
            "empty is zero": (
                lambda depth, found, bins: by_depth(depth, found, bins).nan_to_num(0.0),
                "A bin without questions is not a bin without answers: leave it NaN.",
            ),
        },
        hints=(
            "The bin of a depth is ⌊depth · bins⌋, and a depth of 1 belongs to the last bin.",
            "`torch.bincount(place, found, bins)` adds up `found` bin by bin; without weights it counts.",
            "Divide the two counts. 0 / 0 is NaN, as it should be.",
        ),
        why="One average hides where a model fails: a window fails everywhere but at the end.",
    ),
    Exercise(
        name="12.3",
        title="An error bar",
        difficulty="easy",
        minutes=6,
        points=1,
        solution=mean_and_error,
        cases=_score_cases,
        mutants={
            "spread of the seeds": (
                lambda s: (s.mean().item(), s.std().item()),
                "That is the spread of single seeds. The mean of S seeds wobbles √S times less.",
            ),
            "divided by S": (
                lambda s: (s.mean().item(), (s.std(unbiased=False) / len(s) ** 0.5).item()),
                "You divided the squares by S. The mean was fitted to the same seeds: S − 1. With three it matters.",
            ),
            "divided by S twice": (
                lambda s: (s.mean().item(), (s.std() / len(s)).item()),
                "The error of a mean falls with √S, not with S.",
            ),
            "half the range": (
                lambda s: (s.mean().item(), ((s.max() - s.min()) / 2).item()),
                "Half the range grows with more seeds. An error of the mean shrinks.",
            ),
            "median": (
                lambda s: (s.median().item(), (s.std() / len(s) ** 0.5).item()),
                "The first number is the median; the mean is asked for.",
            ),
        },
        hints=(
            "Standard deviation first: squares about the mean, divided by S − 1, square root.",
            "The standard error of the mean is the deviation divided by √S.",
            "`scores.std() / len(scores) ** 0.5`; torch's `std` divides by S − 1 by itself.",
        ),
        why="Three seeds give an error bar that is itself rough: twice the bar is no proof, ten times is.",
    ),
    Exercise(
        name="12.4",
        title="Who went where",
        difficulty="easy",
        minutes=6,
        points=1,
        solution=where_is,
        cases=_story_cases,
        mutants={
            "the shortcut": (
                lambda people, rooms, who: rooms[-1].item(),
                "That is the shortcut: the room mentioned last, whoever went there. It scores 0.527 on the real test.",
            ),
            "the first visit": (
                _first_room,
                "You return where the person went *first*. People move on; a memory has to overwrite.",
            ),
            "the place in the story": (
                _last_place,
                "You return the number of the fact. The room that it names is asked for.",
            ),
            "the shortcut, if seen": (
                lambda people, rooms, who: rooms[-1].item() if (people == who).any() else -1,
                "Still the shortcut: you checked that the person occurs, then took the last room of anybody.",
            ),
        },
        hints=(
            "Which facts are about `who`? `(people == who).nonzero()` lists their places.",
            "The last of them counts: later facts overwrite earlier ones.",
            "`rooms[seen[-1, 0]].item()`, and −1 when `seen` is empty.",
        ),
        why="Bind the room to the person, overwrite when the person moves: one key, one value, one delta rule.",
    ),
)
