"""Tokenizers that measure the length of a text, bytes and GPT-2's for benchmarks; and a sentence splitter."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from titans_mini.data.fetch import KNOWN, fetch


@dataclass(frozen=True)
class Tokenizer:
    """Encoder and decoder of text. A call counts tokens: ``BYTES("é") == 2``.

    Attributes:
        name: for error messages.
        encode: text to token ids.
        decode: token ids to text. An incomplete character at the end is dropped.
    """

    name: str
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]

    def __call__(self, text: str) -> int:
        """Return the number of tokens of `text`."""
        return len(self.encode(text))


BYTES = Tokenizer("bytes", lambda text: text.encode("utf-8"), lambda ids: bytes(ids).decode("utf-8", errors="ignore"))


@lru_cache(maxsize=1)
def gpt2() -> Tokenizer:
    """Return GPT-2's tokenizer, in which RULER and BABILong measure lengths. Its two files come from `fetch`.

    Raises:
        ImportError: when tiktoken is not installed.
        ConnectionError, ValueError: when a file cannot be found or downloaded, or has other bytes.
    """
    try:
        import tiktoken
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks
        from tiktoken_ext.openai_public import r50k_pat_str
    except ImportError as error:
        raise ImportError(
            "got no tiktoken, expected it to count GPT-2 tokens: install it with `pip install tiktoken`, or count "
            "bytes (the default)"
        ) from error
    ranks = data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=str(fetch("gpt2_vocab")),
        encoder_json_file=str(fetch("gpt2_encoder")),
        vocab_bpe_hash=KNOWN["gpt2_vocab"].sha256,
        encoder_json_hash=KNOWN["gpt2_encoder"].sha256,
    )
    coder = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    return Tokenizer("gpt2", coder.encode_ordinary, lambda ids: coder.decode(list(ids), errors="ignore"))


_END = re.compile(r"""(?<=[.!?])["'”’)\]]*\s+(?=["'“‘(\[]*[A-Z0-9])""")  # end mark, then the start of a sentence
_NO_END = re.compile(r"(?:^|[\s(\"'“‘])(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Prof|Mt|No|vs|e\.g|i\.e|cf|etc)\.$")


def split_sentences(text: str) -> list[str]:
    """Split English prose into sentences, without a model and without a download.

    The rule is plain: a full stop, question mark or exclamation mark, then space, then a capital, a digit or an opening
    quote; titles such as "Dr." and initials do not end a sentence. Runs of white space inside a sentence become one
    space, so that ``" ".join`` of the result is the text again. RULER and BABILong use NLTK's Punkt, which differs
    now and then: where every byte has to agree, pass `nltk.sent_tokenize` instead.

    Returns:
        Sentences without space around them; an empty list for an empty text.
    """
    text = " ".join(text.split())
    sentences, start = [], 0
    for gap in _END.finditer(text):
        end = gap.end()
        if not _NO_END.search(text[start:end].rstrip()):
            sentences.append(text[start:end].rstrip())
            start = end
    return [*sentences, text[start:]] if text[start:] else sentences
