"""Random generators that depend on a few integers and on nothing else."""

from __future__ import annotations

import numpy as np
import torch


def generator(*numbers: int) -> torch.Generator:
    """Return a generator seeded by several integers, such as a seed and the index of a batch.

    torch's CPU generator keeps 32 bits of its seed only: (seed << 32) + index would drop the seed. NumPy's
    `SeedSequence` mixes all integers; it ignores trailing zeros, so their count is mixed in as well.

    Args:
        numbers: each ≥ 0; a different tuple gives a different stream.

    Returns:
        A generator on the CPU.

    Raises:
        ValueError: if a number is negative.
    """
    if min(numbers) < 0:
        raise ValueError(f"generator: got {numbers}, expected whole numbers ≥ 0")
    return torch.Generator().manual_seed(int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1)[0]))
