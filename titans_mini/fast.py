"""Fast mode: smaller sizes for tests and slow machines, and no other difference."""

import os

FAST: bool = os.environ.get("TITANS_FAST", "") == "1"


def size(full, fast):
    """Return `fast` when the environment says ``TITANS_FAST=1``, else `full`."""
    return fast if FAST else full
