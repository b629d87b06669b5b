"""Random numbers that depend on a few whole numbers and on nothing else."""

from __future__ import annotations

import numpy as np
import torch


def generator(*numbers: int) -> torch.Generator:
    """Make a generator from several numbers, such as a seed and the number of a batch.

    torch's own generator on a CPU keeps 32 bits of its seed only: (seed << 32) + index would drop the seed. NumPy's
    `SeedSequence` mixes all of them; it ignores trailing zeros, so how many there are goes in as well.

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
