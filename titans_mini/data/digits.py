"""Handwritten digits: 1,797 images of 8×8 pixels that come with scikit-learn."""

from __future__ import annotations

import torch
from torch import Tensor


def digits(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits in an order that depends on `seed` only.

    Args:
        seed: of the shuffle.

    Returns:
        (images, labels): (1797, 64) float32 in [0, 1], and (1797,) int64 in 0 … 9.

    Raises:
        ImportError: when scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "got no scikit-learn, expected it for the digits: install it with `pip install scikit-learn`"
        ) from error
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(seed))
    images = torch.from_numpy(bunch.data).to(torch.float32) / 16  # 0 … 16 shades of ink
    return images[order], torch.from_numpy(bunch.target).to(torch.int64)[order]
