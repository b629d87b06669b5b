"""Tokenizers by name, for texts that are trained on and for measuring lengths; and a sentence splitter."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from titans_mini.data.fetch import KNOWN, fetch


@dataclass(frozen=True)
class Tokenizer:
    """Encoder and decoder of text. A call counts tokens: ``BYTES("é") == 2``.

    Attributes:
        name: how it is called; of a folder, its last part.
        encode: text to token ids. Text is text: what looks like a special token is taken letter by letter.
        decode: token ids to text. An incomplete character at the end is dropped.
        vocab_size: ids are below it.
        separator: id that stands for the end of a text; None if there is none.
        digest: tells apart tokenizers that share a name; "" where the name is enough.
    """

    name: str
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    vocab_size: int = 256
    separator: int | None = None
    digest: str = ""

    def __call__(self, text: str) -> int:
        """Return the number of tokens of `text`."""
        return len(self.encode(text))


BYTES = Tokenizer("bytes", lambda text: text.encode("utf-8"), lambda ids: bytes(ids).decode("utf-8", errors="ignore"))


END = "<|endoftext|>"


def tokenizer(name: str) -> Tokenizer:
    """Return a tokenizer by its name.

    Args:
        name: "bytes", "gpt2", or a tokenizer of Hugging Face: its name on the hub, or a folder on this machine.

    Raises:
        ImportError: when the library it needs is not installed.
        OSError: when it is neither here nor to be downloaded.
    """
    return BYTES if name == "bytes" else gpt2() if name == "gpt2" else _hugging_face(name)


def _hugging_face(name: str) -> Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError(
            f"got no transformers, expected it for the tokenizer {name!r}: pip install -e '.[prepare]' in a checkout"
        ) from error
    folder = Path(name).expanduser()
    coder = AutoTokenizer.from_pretrained(folder if folder.is_dir() else name)
    vocabulary = coder.get_vocab()
    content = coder.backend_tokenizer.to_str() if coder.is_fast else repr(sorted(vocabulary.items()))
    return Tokenizer(
        folder.resolve().name if folder.is_dir() else name,
        lambda text: coder.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False),
        lambda ids: coder.decode(list(ids)).removesuffix("\N{REPLACEMENT CHARACTER}"),
        max(vocabulary.values()) + 1,  # len(coder) would be too small where ids have gaps
        coder.eos_token_id,
        hashlib.sha256(content.encode()).hexdigest(),
    )


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
            "got no tiktoken, expected it to count GPT-2 tokens: install it with `pip install tiktoken`, or take bytes"
        ) from error
    ranks = data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=str(fetch("gpt2_vocab")),
        encoder_json_file=str(fetch("gpt2_encoder")),
        vocab_bpe_hash=KNOWN["gpt2_vocab"].sha256,
        encoder_json_hash=KNOWN["gpt2_encoder"].sha256,
    )
    coder = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END: 50256})
    # encode_ordinary takes "<|endoftext|>" in a text for what it is, 13 letters
    decode = partial(coder.decode, errors="ignore")
    return Tokenizer("gpt2", coder.encode_ordinary, lambda ids: decode(list(ids)), coder.n_vocab, coder.eot_token)


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
