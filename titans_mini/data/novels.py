"""Seventeen novels as clean text, split by whole books: long texts in which names and phrases return.

Whoever learns from one half of a book has met its people, so a book belongs to one part only. Authors cannot be kept
apart as strictly: "Emma" and "The Hound of the Baskervilles" are tested, and other books of Austen and Doyle are
trained on; "A Tale of Two Cities" likewise has Dickens' other novels beside it. Stevenson, Wilde, Emily Brontë and
Verne are not trained on at all.
"""

from __future__ import annotations

import re

from titans_mini.data.fetch import fetch

TRAIN = (
    "adventures_of_huckleberry_finn",
    "david_copperfield",
    "great_expectations",
    "jane_eyre",
    "middlemarch",
    "pride_and_prejudice",
    "sense_and_sensibility",
    "the_memoirs_of_sherlock_holmes",
    "the_return_of_sherlock_holmes",
    "the_woman_in_white",
)
VALIDATION = ("a_tale_of_two_cities", "twenty_thousand_leagues_under_the_sea")  # every choice is made on these
TEST = (  # read once, for the final table
    "emma",
    "the_hound_of_the_baskervilles",
    "the_picture_of_dorian_gray",
    "treasure_island",
    "wuthering_heights",
)

_BODY = re.compile(r"\*\*\* ?START OF[^\n]*\n(.*)\*\*\* ?END OF", re.S)
_CREDITS = re.compile(r"(Produced by|Transcribed from|Special thanks|This etext was) ")
_LAST_LINE = re.compile(r"\s*End of (the )?Project Gutenberg.*", re.S)


def gutenberg_body(raw: bytes) -> str:
    """Return a book without Project Gutenberg's header and footer, with plain line ends.

    Args:
        raw: the file; one without the marks of header and footer is taken whole.
    """
    text = raw.decode("utf-8").replace("\r\n", "\n")
    found = _BODY.search(text)
    return (found[1] if found else text).strip() + "\n"


def novel(name: str) -> str:
    """Return a novel as plain text: a paragraph is a line, and words are one space apart.

    Lines end where the printer's did, which says nothing about English and costs a model a guess at each.

    Args:
        name: one of `TRAIN`, `VALIDATION` and `TEST`.

    Raises:
        KeyError: for another name.
        ConnectionError, ValueError: see `fetch`.
    """
    if name not in (known := (*TRAIN, *VALIDATION, *TEST)):
        raise KeyError(f"got the novel {name!r}, expected one of {', '.join(known)}")
    body = _LAST_LINE.sub("", gutenberg_body(fetch(name).read_bytes()))
    paragraphs = [" ".join(lines.split()) for lines in re.split(r"\n[ \t]*\n", body)]
    paragraphs = [text for text in paragraphs if text]
    return "\n".join(paragraphs[1:] if _CREDITS.match(paragraphs[0]) else paragraphs) + "\n"
