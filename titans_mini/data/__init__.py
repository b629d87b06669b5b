"""Data sets: generated, shipped with Python and scikit-learn, or, if larger, downloaded by `fetch`."""

from titans_mini.data.babi import BabiSample, Story, babi_qa1, last_room, parse_stories, read_stories
from titans_mini.data.babilong import BabilongSample, babilong, babilong_correct, babilong_prompt
from titans_mini.data.digits import digits
from titans_mini.data.fetch import KNOWN, fetch
from titans_mini.data.needle import RULER_TASKS, NeedleSample, NeedleTask, parse_needle, string_match_all
from titans_mini.data.novels import novel
from titans_mini.data.recall import RecallBatch, RecallTask
from titans_mini.data.ruler import needles
from titans_mini.data.shards import Shards, Tokens, find_shards
from titans_mini.data.stories import make_stories
from titans_mini.data.stream import text_stream
from titans_mini.data.text import code, encode, english, held_out, to_bytes, vocabulary
from titans_mini.data.tokens import BYTES, Tokenizer, gpt2, split_sentences, tokenizer
from titans_mini.data.tracking import ParityTask, PermutationTask, TrackingBatch

__all__ = [
    "BYTES",
    "KNOWN",
    "RULER_TASKS",
    "BabiSample",
    "BabilongSample",
    "NeedleSample",
    "NeedleTask",
    "ParityTask",
    "PermutationTask",
    "RecallBatch",
    "RecallTask",
    "Shards",
    "Story",
    "Tokenizer",
    "Tokens",
    "TrackingBatch",
    "babi_qa1",
    "babilong",
    "babilong_correct",
    "babilong_prompt",
    "code",
    "digits",
    "encode",
    "english",
    "fetch",
    "find_shards",
    "gpt2",
    "held_out",
    "last_room",
    "make_stories",
    "needles",
    "novel",
    "parse_needle",
    "parse_stories",
    "read_stories",
    "split_sentences",
    "string_match_all",
    "text_stream",
    "to_bytes",
    "tokenizer",
    "vocabulary",
]
