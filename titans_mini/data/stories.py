"""Endless new bAbI stories, qa1 to qa5, in the wording and with the statistics of version 1.2.

A small world is simulated: people move, take, drop and give things. After every two facts a question is asked about one
of the last five, if there is one whose answer follows from the sentences alone. That rule was read off the real files:
it reproduces the distances between question and support in qa1's 10,000 questions, and in the public stories of qa2,
qa3 and qa5 it predicts after which facts a question comes. The frequencies of the actions were counted in the same
stories, some 200 facts per task. (The public Lua generator has other words and rules.)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from titans_mini.data.babi import ROOMS, Fact, Question, Story

PEOPLE = ("Daniel", "John", "Mary", "Sandra")
GIVERS = ("Bill", "Fred", "Jeff", "Mary")
THINGS = ("apple", "football", "milk")
VERBS = {
    "move": ("went to", "journeyed to", "travelled to", "went back to", "moved to"),
    "get": ("got", "took", "grabbed", "picked up"),
    "drop": ("dropped", "left", "discarded", "put down"),
    "give": ("gave", "gave", "handed", "passed"),  # "gave" is half of them
}
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
QUESTIONS = 5  # per story
WINDOW = 5  # a question is about one of the last five facts
Ask = tuple[str, str, tuple[int, ...]]  # question, answer, support


@dataclass(frozen=True)
class Script:
    """Statistics of the stories of a task.

    Attributes:
        people: names of the people.
        weights: relative frequency of each action; one that nobody can do is drawn again.
        there: probability that "there" ends the sentence of an action.
    """

    people: tuple[str, ...]
    weights: dict[str, float]
    there: dict[str, float] = field(default_factory=dict)


SCRIPTS = {
    "qa1": Script(PEOPLE, {"move": 1}),
    "qa2": Script(PEOPLE, {"move": 3, "get": 2, "drop": 1.5}, {"get": 1.0, "drop": 0.1}),
    "qa3": Script(PEOPLE, {"move": 3, "get": 2, "drop": 1.5}, {"get": 0.2, "drop": 0.15}),
    "qa5": Script(GIVERS, {"move": 2.5, "get": 2, "drop": 0.6, "give": 7}, {"get": 1.0, "drop": 0.1}),
}


@dataclass(frozen=True)
class Event:
    """One fact in the simulation: person `who` did action `kind` with `what` (room or thing), given to person `to`."""

    id: int
    kind: str
    who: str
    what: str
    to: str = ""


def make_stories(task: str = "qa1", seed: int = 0, shard: int = 0, shards: int = 1) -> Iterator[Story]:
    """Yield endless stories. Story n depends on the task, the seed and n only.

    Args:
        task: "qa1" (one supporting fact), "qa2" (two), "qa3" (three), "qa4" (two arguments), "qa5" (three arguments).
        seed: of the stream.
        shard: this worker's number, from 0.
        shards: number of workers. Each gets the stories shard, shard + shards, …: disjoint, and together the stream of
            a single worker.

    Raises:
        KeyError: for an unknown task.
        ValueError: for a shard outside 0 … shards − 1.
    """
    if task != "qa4" and task not in SCRIPTS:
        raise KeyError(f"got the task {task!r}, expected one of qa1, qa2, qa3, qa4, qa5")
    if not 0 <= shard < shards:
        raise ValueError(f"got shard {shard} of {shards}, expected 0 ≤ shard < shards")
    return (_story(task, random.Random(f"{task} {seed} {n}")) for n in count(shard, shards))


def _story(task: str, rng: random.Random) -> Story:
    if task == "qa4":
        return _compass(rng)
    world, lines = _World(SCRIPTS[task], rng), []
    while sum(isinstance(line, Question) for line in lines) < QUESTIONS:
        for _ in range(2):
            lines.append(world.act(len(lines) + 1))
        asks = [found for event in world.events[-WINDOW:] if (found := ASKERS[task](event, world.events))]
        if asks:
            lines.append(Question(len(lines) + 1, *rng.choice(rng.choice(asks))))
    return Story(tuple(lines))


class _World:
    """True places of people and things, known from the start; the reader knows only the sentences."""

    def __init__(self, script: Script, rng: random.Random) -> None:
        self.script, self.rng = script, rng
        self.room = {who: rng.choice(ROOMS) for who in script.people}
        self.place = {thing: rng.choice(ROOMS) for thing in THINGS}  # a room, or the person who holds it
        self.events: list[Event] = []

    def act(self, number: int) -> Fact:
        """Draw a possible action, apply it and return its fact."""
        possible: list[tuple[str, str, str]] = []
        while not possible:
            kind = self.rng.choices(list(self.script.weights), list(self.script.weights.values()))[0]
            possible = self._possible(kind)
        who, what, to = self.rng.choice(possible)
        if kind == "move":
            self.room[who] = what
        else:
            self.place[what] = {"get": who, "drop": self.room[who], "give": to}[kind]
        self.events.append(Event(number, kind, who, what, to))
        there = " there" if self.rng.random() < self.script.there.get(kind, 0) else ""
        return Fact(number, f"{who} {self.rng.choice(VERBS[kind])} the {what}{f' to {to}' if to else ''}{there}.")

    def _possible(self, kind: str) -> list[tuple[str, str, str]]:
        """List the possible (who, what, to) of an action."""
        people = self.script.people
        if kind == "move":
            return [(who, room, "") for who in people for room in ROOMS if room != self.room[who]]
        if kind == "get":
            return [(who, thing, "") for who in people for thing in THINGS if self.place[thing] == self.room[who]]
        held = [(self.place[thing], thing) for thing in THINGS if self.place[thing] in people]
        if kind == "drop":
            return [(who, thing, "") for who, thing in held]
        return [(a, thing, b) for a, thing in held for b in people if b != a and self.room[a] == self.room[b]]


def _moves(events: list[Event], who: str, after: int = 0, before: float = float("inf")) -> list[Event]:
    return [e for e in events if e.kind == "move" and e.who == who and after < e.id < before]


def _is_latest(event: Event, events: list[Event]) -> bool:
    """Return whether this is its thing's latest event; earlier ones are not asked about."""
    return event.kind != "move" and not any(e.what == event.what and e.id > event.id for e in events)


def _where_is_who(event: Event, events: list[Event]) -> list[Ask]:
    last = _moves(events, event.who)[-1]
    return [(f"Where is {event.who}?", last.what, (last.id,))]


def _where_is_what(event: Event, events: list[Event]) -> list[Ask]:
    """Ask where a thing is: where its holder last went, or where the person who dropped it stood."""
    if not _is_latest(event, events):
        return []
    if event.kind == "get":
        moves = _moves(events, event.who, after=event.id)
    else:
        moves = _moves(events, event.who, before=event.id)
    return [(f"Where is the {event.what}?", m.what, (event.id, m.id)) for m in moves[-1:]]


def _where_was_what(event: Event, events: list[Event]) -> list[Ask]:
    """Ask for the room before each room of a thing's latest carrying; of two visits to a room, the later counts."""
    if not _is_latest(event, events):
        return []
    got = next(e for e in reversed(events) if e.kind == "get" and e.what == event.what)
    path = _moves(events, got.who, got.id, event.id if event.kind == "drop" else float("inf"))
    return [
        (f"Where was the {event.what} before the {to.what}?", start.what, (event.id, to.id, start.id))
        for i, (start, to) in enumerate(zip(path, path[1:], strict=False), 2)
        if all(later.what != to.what for later in path[i:])
    ]


def _who_gave_what(event: Event, events: list[Event]) -> list[Ask]:
    """Ask about the latest gift: what, by whom and to whom equally often, the last two in two forms each."""
    if event.kind != "give" or any(e.kind == "give" and e.id > event.id for e in events):
        return []
    who, what, to, support = event.who, event.what, event.to, (event.id,)
    asked_what = (f"What did {who} give to {to}?", what, support)
    return [
        *(asked_what, asked_what),
        (f"Who gave the {what}?", who, support),
        (f"Who gave the {what} to {to}?", who, support),
        (f"Who did {who} give the {what} to?", to, support),
        (f"Who received the {what}?", to, support),
    ]


ASKERS: dict[str, Callable[[Event, list[Event]], list[Ask]]] = {
    "qa1": _where_is_who,
    "qa2": _where_is_what,
    "qa3": _where_was_what,
    "qa5": _who_gave_what,
}


def _compass(rng: random.Random) -> Story:
    """Draw a qa4 story: three rooms in a row, two facts about neighbours, a question about one of the facts."""
    rooms = rng.sample(ROOMS, 3)
    way = rng.choice(("north", "east"))
    pairs = [(rooms[0], way, rooms[1]), (rooms[1], way, rooms[2])]
    rng.shuffle(pairs)
    facts = []
    for number, pair in enumerate(pairs, 1):
        a, direction, b = _turned(pair, rng)
        facts.append(Fact(number, f"The {a} is {direction} of the {b}."))
    number = rng.randrange(2)
    a, direction, b = _turned(pairs[number], rng)
    text, answer = rng.choice([(f"What is {direction} of the {b}?", a), (f"What is the {a} {direction} of?", b)])
    return Story((*facts, Question(3, text, answer, (number + 1,))))


def _turned(pair: tuple[str, str, str], rng: random.Random) -> tuple[str, str, str]:
    """Return a relation or its converse, at random."""
    a, way, b = pair
    return rng.choice([(a, way, b), (b, OPPOSITE[way], a)])
