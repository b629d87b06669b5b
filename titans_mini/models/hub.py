"""Models on disk and on the Hugging Face Hub: config.json and model.safetensors, nothing executable."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INSTALL = "pip install 'titans-mini[train]'"
TABLES = ("embedding.weight", "head.weight")  # one tensor where they are tied, stored once under either name


def save(model: nn.Module, config: dict[str, Any], folder: str | os.PathLike[str], **options: Any) -> None:
    """Write a model's configuration and weights to a folder.

    Args:
        model: the model.
        config: the fields of its configuration.
        folder: the target.
        options: of `PyTorchModelHubMixin.save_pretrained`.
    """
    try:
        from huggingface_hub import PyTorchModelHubMixin
    except ImportError as error:
        raise ImportError(f"save_pretrained needs huggingface_hub and safetensors: {INSTALL}") from error

    class HubModel(nn.Module, PyTorchModelHubMixin, library_name="titans_mini", license="mit"):
        """Wrap a model for the mixin, which wants the configuration as an argument that JSON can hold."""

        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__()
            self.model = model

    HubModel(config).save_pretrained(folder, config={"config": config}, **options)


def load(
    name: str | os.PathLike[str],
    build: Callable[[dict[str, Any]], nn.Module],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> nn.Module:
    """Load a model from a folder or the Hugging Face Hub; the other options are for the Hub.

    Args:
        name: the folder, or user/model.
        build: function from the fields of the configuration to the model.
        revision: branch, tag or commit.
        cache_dir: where downloads are kept.
        token: of an account, for private models.
        local_files_only: use what was downloaded before.
        force_download: download again.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: if the folder or one of the two files is missing.
        ValueError: if a file is damaged, or the weights are not exactly those of the configuration.
    """
    folder = Path(name)
    if not folder.is_dir():
        options = {"revision": revision, "cache_dir": cache_dir, "token": token}
        options |= {"local_files_only": local_files_only, "force_download": force_download}
        folder = _download(os.fspath(name), options)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder / file}: got no such file, expected {CONFIG} and {WEIGHTS} in the folder")
    model = _build(folder / CONFIG, build)
    _load_weights(model, folder / WEIGHTS)
    return model.eval()


def _download(name: str, options: dict[str, Any]) -> Path:
    """Download the two files of user/model and return their folder."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise FileNotFoundError(
            f"from_pretrained: got {name!r}, expected a folder that exists, or user/model of the Hugging Face Hub"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"from_pretrained: got {name!r}, expected a folder that exists: a model of the Hub needs huggingface_hub, "
            f"{INSTALL}"
        ) from error
    return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS], **options))


def _build(path: Path, build: Callable[[dict[str, Any]], nn.Module]) -> nn.Module:
    """Build the model that a configuration file describes."""
    try:
        fields = json.loads(path.read_bytes())["config"]
        return build({key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()})  # JSON has no tuples
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:  # the last: too large, too deep
        raise ValueError(
            f"{path}: got no configuration of a model ({type(error).__name__}: {error}), expected the file that "
            "save_pretrained writes: damaged, or of another version?"
        ) from error


def _load_weights(model: nn.Module, path: Path) -> None:
    """Load a file of weights that has to hold exactly the model's tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: got {error}, expected a file of safetensors: damaged or incomplete?") from error
    prefix = "model." if all(name.startswith("model.") for name in found) else ""  # of the wrapper that saved it
    weights = {name.removeprefix(prefix): x for name, x in found.items()}
    tables = [weights[name] for name in TABLES if name in weights] if model.config.tie_embeddings else []
    differ = len(tables) == 2 and not tables[0].equal(tables[1])
    wrong = [f"{TABLES[1]} differs from {TABLES[0]}, to which it is tied"] if differ else []
    weights |= dict.fromkeys(TABLES, tables[0]) if tables else {}
    expected = model.state_dict()
    wrong += [f"{name} is missing" for name in expected if name not in weights]
    wrong += [f"{name} is unknown" for name in weights if name not in expected]
    shapes = [(name, tuple(weights[name].shape), tuple(x.shape)) for name, x in expected.items() if name in weights]
    wrong += [f"{name} has shape {got} instead of {shape}" for name, got, shape in shapes if got != shape]
    kinds = [(name, x.dtype) for name, x in weights.items() if name in expected and not x.is_floating_point()]
    wrong += [f"{name} has {kind} instead of floating point" for name, kind in kinds]  # load_state_dict would cast it
    if wrong:
        names = "; ".join(wrong[:4]) + ("; …" if len(wrong) > 4 else "")
        raise ValueError(
            f"{path}: got {len(wrong)} tensor(s) that do not fit {CONFIG} ({names}), expected exactly those of the "
            "model: a file of another one?"
        )
    model.load_state_dict(weights)
