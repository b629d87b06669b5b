"""Data: what ships with Python and scikit-learn first, everything larger one `fetch` away."""

from titans_mini.data.digits import digits
from titans_mini.data.fetch import KNOWN, fetch
from titans_mini.data.stream import text_stream
from titans_mini.data.text import code, encode, english, to_bytes, vocabulary

__all__ = ["KNOWN", "code", "digits", "encode", "english", "fetch", "text_stream", "to_bytes", "vocabulary"]
