"""Novels that are made up, for tests where the real ones are not: prose-like, with names that return."""

import hashlib
import random

from titans_mini.data import KNOWN

PEOPLE = ("Arabella", "Bertram", "Cordelia", "Dashwell", "Edgarton", "Fanshawe", "Gwendolen", "Harriman", "Isolde")
WORDS = "the a of and to in that was he she it his her with as had for not at but be on is they said all".split()
HEADER = "Some licence\r\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\r\n\r\nProduced by Nobody\r\n\r\n\r\n"
FOOTER = "\r\n\r\nEnd of the Project Gutenberg EBook of X\r\n\r\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\r\nMore"


def prose(seed, kilobytes):
    """Write paragraphs of sentences."""
    draw, paragraphs = random.Random(seed), []
    people = draw.sample(PEOPLE, 4)
    while sum(map(len, paragraphs)) < 1024 * kilobytes:
        sentences = []
        for _ in range(draw.randint(1, 6)):
            first, *words = draw.choices(WORDS, k=draw.randint(4, 18))
            words.insert(draw.randint(1, 3), draw.choice(people))
            sentences.append(" ".join([first.capitalize(), *words]) + ".")
        paragraphs.append(" ".join(sentences))
    return paragraphs


def write(folder, monkeypatch, names, kilobytes=80):
    """Put made-up novels where `fetch` looks for real ones."""
    for number, name in enumerate(names):
        lines = "\r\n\r\n".join(text.replace(" ", "\r\n", 1) for text in prose(number, kilobytes))
        content = (HEADER + lines + FOOTER).encode()
        known = KNOWN[name]._replace(sha256=hashlib.sha256(content).hexdigest())
        (folder / known.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / known.path).write_bytes(content)
        monkeypatch.setitem(KNOWN, name, known)
    monkeypatch.setenv("TITANS_DATA", str(folder))
