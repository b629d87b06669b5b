"""Saving and loading by huggingface_hub's mixin: config.json and model.safetensors, nothing that can be executed."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from titans_mini.config import TitansConfig
from titans_mini.model import TitansLM

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "save_pretrained and from_pretrained need huggingface_hub and safetensors: pip install 'titans-mini[train]'"
    ) from error


class _HubTitansLM(TitansLM, PyTorchModelHubMixin, library_name="titans_mini", license="mit"):
    """A TitansLM that is built from plain keyword arguments, as the mixin's config.json needs it."""

    def __init__(self, **config: Any) -> None:
        if isinstance(config.get("half_life"), list):  # JSON has no tuples
            config["half_life"] = tuple(config["half_life"])
        super().__init__(TitansConfig(**config))


def save(model: TitansLM, folder: str | os.PathLike[str], **options: Any) -> None:
    """Write a model.

    Args:
        model: the model.
        folder: where to write.
        options: of `PyTorchModelHubMixin.save_pretrained`.

    Built in: notebooks/12 · Paper: –
    """
    twin = _HubTitansLM(**dataclasses.asdict(model.config))
    twin.load_state_dict(model.state_dict())
    PyTorchModelHubMixin.save_pretrained(twin, folder, **options)


def load(name: str | os.PathLike[str], **options: Any) -> TitansLM:
    """Read a model.

    Args:
        name: a folder, or user/model of the Hugging Face Hub.
        options: of `PyTorchModelHubMixin.from_pretrained`.

    Returns:
        A plain `TitansLM` in evaluation mode.

    Built in: notebooks/12 · Paper: –
    """
    twin = super(TitansLM, _HubTitansLM).from_pretrained(os.fspath(name), **options)
    model = TitansLM(twin.config)
    model.load_state_dict(twin.state_dict())
    return model.eval()
