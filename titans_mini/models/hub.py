"""Saving and loading with huggingface_hub's mixin: config.json and model.safetensors, nothing executable."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch import nn

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError as error:
    raise ImportError(
        "save_pretrained and from_pretrained need huggingface_hub and safetensors: pip install 'titans-mini[train]'"
    ) from error


class HubModel(nn.Module, PyTorchModelHubMixin, library_name="titans_mini", license="mit"):
    """Wrap a model for the mixin, which needs the configuration as one argument that JSON can hold.

    Args:
        config: the fields of a `TitansConfig`.
        model: the model.
    """

    def __init__(self, config: dict[str, Any], model: nn.Module) -> None:
        """Store the model; the mixin stores the configuration."""
        super().__init__()
        self.model = model


def save(model: nn.Module, config: dict[str, Any], folder: str | os.PathLike[str], **options: Any) -> None:
    """Write a model's configuration and weights to a folder.

    Args:
        model: the model.
        config: the fields of its configuration.
        folder: the target.
        options: of `PyTorchModelHubMixin.save_pretrained`.
    """
    HubModel(config, model).save_pretrained(folder, config={"config": config}, **options)


def load(name: str | os.PathLike[str], build: Callable[[dict[str, Any]], nn.Module], **options: Any) -> nn.Module:
    """Load a model from a folder or the Hugging Face Hub.

    Args:
        name: the folder, or user/model.
        build: function from the fields of the configuration to the model.
        options: of `PyTorchModelHubMixin.from_pretrained`.

    Returns:
        The model, in evaluation mode.
    """

    class LoadedModel(HubModel):
        def __init__(self, config: dict[str, Any]) -> None:
            fields = {key: tuple(x) if isinstance(x, list) else x for key, x in config.items()}  # JSON has no tuples
            super().__init__(config, build(fields))

    return LoadedModel.from_pretrained(os.fspath(name), **options).model.eval()
