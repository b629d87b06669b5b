"""Number of weights of every preset, counted on the meta device: `python -m titans_mini.models.presets`."""

from __future__ import annotations

import torch

from titans_mini.models.config import SIZES, VARIANTS, TitansConfig
from titans_mini.models.titans import TitansLM


def count(config: TitansConfig) -> int:
    """Count the weights of a model on the meta device, which holds shapes and no numbers.

    Args:
        config: of the model, of any size.

    Built in: notebooks/10 · Paper: appendix E.1
    """
    with torch.device("meta"):
        return TitansLM(config).count_parameters()


def table() -> str:
    """Format a table of the weights of all presets, in millions: one row per variant, one column per size.

    Built in: notebooks/10 · Paper: appendix E.1
    """
    sizes = ("tiny", *SIZES)
    lines = [f"{'millions of weights':20}" + "".join(f"{size:>9}" for size in sizes)]
    for variant in VARIANTS:
        millions = (count(TitansConfig.preset(f"{variant}-{size}")) / 1e6 for size in sizes)
        lines.append(f"{variant:20}" + "".join(f"{x:9.2f}" for x in millions))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
