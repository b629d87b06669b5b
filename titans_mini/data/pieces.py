"""Byte-pair pieces: 2,048 tokens learned from the novels to train on, and an encoder that needs no library.

Ids below 256 are bytes, so every text has an encoding; id 256 + i is the i-th pair of ids that was merged. The merges
are shipped, `python -m titans_mini.data.pieces` learns them again (with the extra `prepare`, whose library counts pairs
in parallel; what it learns is the same every time).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from titans_mini.data.novels import TRAIN, novel
from titans_mini.data.tokens import Tokenizer

HERE = Path(__file__).parent.parent
FOLDERS = (HERE / "assets", HERE.parent / "assets")  # installed; in a checkout
FILE = "pieces.json"
SIZE = 2048
COMMAND = "python -m titans_mini.data.pieces"

# A piece never spans two words. A word is, as in GPT-2, letters, digits or signs with one space before them; here a
# letter is a–z or any byte of a character beyond ASCII, so that bytes and characters are cut at the same places.
_LETTER = r"[^\x00-@\[-`{-\x7f]"
_SIGN = r"[\x00-\x08\x0b\x0c\x0e-\x1f!-/:-@\[-`{-\x7f]"
_SPACE = r"[ \t\r\n]"
WORDS = rf"'(?:s|t|re|ve|m|ll|d)| ?{_LETTER}+| ?[0-9]+| ?{_SIGN}+|{_SPACE}+(?![^ \t\r\n])|{_SPACE}+"


class BytePairs:
    """Encoder and decoder of byte pairs, as fast as a dictionary: each word is merged once.

    Args:
        merges: pairs of ids in the order in which they were learned; number i makes id 256 + i.

    Attributes:
        pieces: the bytes of each id.
    """

    def __init__(self, merges: Iterable[Sequence[int]]) -> None:
        """Spell out the pieces; see the class for the arguments."""
        self._ids = {tuple(pair): 256 + i for i, pair in enumerate(merges)}
        self.pieces = [bytes([i]) for i in range(256)]
        for left, right in self._ids:
            self.pieces.append(self.pieces[left] + self.pieces[right])
        self._split = re.compile(WORDS.encode()).findall
        self._merged = lru_cache(maxsize=1 << 16)(self._merge)  # of the words of about ten novels

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return [i for word in self._split(text.encode("utf-8", "surrogatepass")) for i in self._merged(word)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; an incomplete character is dropped."""
        return b"".join([self.pieces[i] for i in ids]).decode("utf-8", errors="ignore")

    def _merge(self, word: bytes) -> tuple[int, ...]:
        """Merge neighbours, those first that were learned first, everywhere in the word."""
        ids = list(word)
        while True:
            made = min((self._ids[pair] for pair in zip(ids, ids[1:], strict=False) if pair in self._ids), default=0)
            if not made:
                return tuple(ids)
            merged, i = [], 0
            while i < len(ids):
                both = self._ids.get(tuple(ids[i : i + 2])) == made
                merged.append(made if both else ids[i])
                i += 2 if both else 1
            ids = merged


@lru_cache(maxsize=1)
def byte_pairs() -> BytePairs:
    """Return the shipped pieces.

    Raises:
        FileNotFoundError: if their file is not here.
    """
    return BytePairs(_shipped()["merges"])


@lru_cache(maxsize=1)
def pieces() -> Tokenizer:
    """Return the tokenizer of the shipped pieces: about three bytes of English a token, and any other text too.

    Raises:
        FileNotFoundError: if their file is not here.
    """
    coder, merges = byte_pairs(), _shipped()["merges"]
    digest = hashlib.sha256(json.dumps(merges).encode()).hexdigest()
    return Tokenizer("pieces", coder.encode, coder.decode, len(coder.pieces), digest=digest)


def _shipped() -> dict:
    """Read the file of the shipped pieces: "record" and "merges"."""
    path = next((folder / FILE for folder in FOLDERS if (folder / FILE).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"got no {FILE}, expected it in {FOLDERS[0]}: not installed completely? `{COMMAND}`")
    return json.loads(path.read_text(encoding="utf-8"))


# -- learning them ---------------------------------------------------------------------------------------------------


def letters() -> list[str]:
    """Return the letter that stands for each byte in files of Hugging Face: itself where it can be printed."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    rest = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]


def learn(texts: Iterable[str], size: int = SIZE) -> list[list[int]]:
    """Learn merges from texts with the library `tokenizers`.

    Args:
        texts: what to learn from.
        size: number of ids, the 256 bytes included.

    Returns:
        Pairs of ids, for `BytePairs`.

    Raises:
        ImportError: when the library is not installed.
    """
    try:
        from tokenizers import Regex, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Library
    except ImportError as error:
        raise ImportError("got no tokenizers, expected it to learn pieces: pip install -e '.[prepare]'") from error
    coder = Library(models.BPE())
    bytelevel = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    coder.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), bytelevel])
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters(), show_progress=False)
    coder.train_from_iterator(texts, trainer)
    ids = {letter: byte for byte, letter in enumerate(letters())}
    merges = []
    for pair in json.loads(coder.to_str())["model"]["merges"]:
        left, right = pair.split(" ") if isinstance(pair, str) else pair  # older versions write one text
        merges.append([ids[left], ids[right]])
        ids[left + right] = 255 + len(merges)
    return merges


def main() -> None:
    """Learn the pieces from the novels to train on, and write them with a record of how."""
    import tokenizers

    texts = {name: novel(name) for name in TRAIN}
    merges = learn(texts.values())
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    record = {"command": COMMAND, "tokenizers": tokenizers.__version__, "texts": sums, "words": WORDS}
    text = json.dumps({"record": record, "merges": "…"}, indent=1, ensure_ascii=False)
    rows = [json.dumps(merges[i : i + 16], separators=(",", ":"))[1:-1] for i in range(0, len(merges), 16)]
    text = text.replace('"…"', "[\n" + ",\n".join(rows) + "\n]")
    (FOLDERS[-1] / FILE).write_text(text + "\n", encoding="utf-8")
    print(f"{len(merges)} merges from {sum(map(len, texts.values())):,} characters: {FOLDERS[-1] / FILE}")


if __name__ == "__main__":
    main()
