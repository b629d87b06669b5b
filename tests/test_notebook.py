"""Fast mode shrinks sizes, and only when it is asked for."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("value, expected", [("1", "True 2"), ("0", "False 9"), ("", "False 9"), (None, "False 9")])
def test_size(value, expected, monkeypatch):
    monkeypatch.delenv("TITANS_FAST", raising=False)
    if value is not None:
        monkeypatch.setenv("TITANS_FAST", value)
    script = "from titans_mini.notebook import FAST, size; print(FAST, size(9, 2))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == expected
