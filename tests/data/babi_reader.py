"""An independent reader of bAbI's sentences: it knows neither the generator nor its world, only words, and answers."""

import re

MOVE = r"(\w+) (?:went to|journeyed to|travelled to|went back to|moved to) the (\w+)\."
GET = r"(\w+) (?:got|took|grabbed|picked up) the (\w+)(?: there)?\."
DROP = r"(\w+) (?:dropped|left|discarded|put down) the (\w+)(?: there)?\."
GIVE = r"(\w+) (?:gave|handed|passed) the (\w+) to (\w+)\."
SIDE = r"The (\w+) is (north|south|east|west) of the (\w+)\."
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


class Reader:
    """Follow the story sentence by sentence: for each thing, the rooms it is known to have been in."""

    def __init__(self, facts):
        self.at = {}  # who -> (room, fact)
        self.holder = {}  # thing -> who
        self.handled = {}  # thing -> the fact in which it was last taken or put down
        self.trail = {}  # thing -> rooms since it was last taken, each with the fact that brought it there
        self.gifts = []  # (giver, thing, receiver, fact)
        self.sides = []  # (a, side, b, fact)
        for number, fact in enumerate(facts):
            self.read(fact, number)

    def read(self, fact, number):
        if found := re.fullmatch(MOVE, fact):
            who, room = found.groups()
            self.at[who] = (room, number)
            for thing in [t for t, holder in self.holder.items() if holder == who]:
                self.trail[thing].append((room, number))
        elif found := re.fullmatch(GET, fact):
            who, thing = found.groups()
            assert self.holder.get(thing) is None, f"{thing} was taken while {self.holder[thing]} had it"
            self.holder[thing], self.handled[thing], self.trail[thing] = who, number, []
        elif found := re.fullmatch(DROP, fact):
            who, thing = found.groups()
            assert self.holder.get(thing) == who, f"{who} put down {thing} without having it"
            self.holder[thing], self.handled[thing] = None, number
            if not self.trail[thing] and who in self.at:
                self.trail[thing] = [self.at[who]]
        elif found := re.fullmatch(GIVE, fact):
            who, thing, to = found.groups()
            assert self.holder.get(thing) == who and to != who
            self.holder[thing], self.trail[thing] = to, []
            self.gifts.append((who, thing, to, number))
        elif found := re.fullmatch(SIDE, fact):
            self.sides.append((*found.groups(), number))
        else:
            raise AssertionError(f"no sentence of version 1.2: {fact!r}")

    def answer(self, question):
        """Return (answer, positions of the facts that support it)."""
        if found := re.fullmatch(r"Where is ([A-Z]\w+)\?", question):
            room, number = self.at[found[1]]
            return room, (number,)
        if found := re.fullmatch(r"Where is the (\w+)\?", question):
            room, number = self.trail[found[1]][-1]
            return room, (self.handled[found[1]], number)
        if found := re.fullmatch(r"Where was the (\w+) before the (\w+)\?", question):
            trail = self.trail[found[1]]
            i = max(i for i, (room, _) in enumerate(trail) if room == found[2])
            assert i > 0
            return trail[i - 1][0], (self.handled[found[1]], trail[i][1], trail[i - 1][1])
        if found := re.fullmatch(r"What is (\w+) of the (\w+)\?", question):
            return self.beside(lambda a, side, b: (side, b) == found.groups())
        if found := re.fullmatch(r"What is the (\w+) (\w+) of\?", question):
            return self.beside(lambda a, side, b: (b, OPPOSITE[side]) == found.groups())
        return self.gift(question)

    def beside(self, asked):
        """Find the one room a with asked(a, side, b), each fact read from both ends."""
        both = [(a, side, b, n) for a, side, b, n in self.sides]
        both += [(b, OPPOSITE[side], a, n) for a, side, b, n in self.sides]
        hits = [(a, (n,)) for a, side, b, n in both if asked(a, side, b)]
        assert len(hits) == 1, f"{len(hits)} answers"
        return hits[0]

    def gift(self, question):
        """Answer from the latest gift that fits all that the question names."""
        forms = [
            (r"What did (?P<who>\w+) give to (?P<to>\w+)\?", "thing"),
            (r"Who gave the (?P<thing>\w+)\?", "who"),
            (r"Who gave the (?P<thing>\w+) to (?P<to>\w+)\?", "who"),
            (r"Who did (?P<who>\w+) give the (?P<thing>\w+) to\?", "to"),
            (r"Who received the (?P<thing>\w+)\?", "to"),
        ]
        found, wanted = next((m, wanted) for form, wanted in forms if (m := re.fullmatch(form, question)))
        for who, thing, to, number in reversed(self.gifts):
            gift = {"who": who, "thing": thing, "to": to}
            if all(gift[name] == value for name, value in found.groupdict().items()):
                return gift[wanted], (number,)
        raise AssertionError(f"nobody gave what {question!r} asks for")
