"""States: small typed bundles of tensors that can be detached, moved, indexed, saved and loaded without pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import numbers
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

_META = "__titans_mini__"


class State:
    """Base class of all states, with the operations that they share. Subclasses are dataclasses.

    Fields may be tensors, tuples of tensors, other states, integers or None. Every tensor has the batch axis first.
    """

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        """Apply a function to every tensor and return a new state; this one is unchanged."""

        def walk(x: Any) -> Any:
            if torch.is_tensor(x):
                return fn(x)
            if isinstance(x, State):
                return x.map(fn)
            if isinstance(x, tuple):
                return tuple(walk(y) for y in x)
            return x

        return type(self)(**{f.name: walk(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def detach(self) -> Any:
        """Detach every tensor: the memory continues, gradients stop here (truncated backpropagation)."""
        return self.map(torch.Tensor.detach)

    def clone(self) -> Any:
        """Copy every tensor."""
        return self.map(torch.clone)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or cast every tensor, with the arguments of `torch.Tensor.to`."""
        return self.map(lambda x: x.to(*args, **kwargs))

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Any:
        """Select sequences of the batch. The batch axis stays, even for a single index."""
        if isinstance(index, numbers.Integral) or (torch.is_tensor(index) and index.dim() == 0):
            index = [int(index)]  # numpy's integers too
        return self.map(lambda x: x[index])

    def to_dict(self) -> dict[str, Tensor]:
        """Flatten to a dictionary of tensors with dotted names, for `torch.save` or safetensors."""
        flat: dict[str, Tensor] = {}
        for f in dataclasses.fields(self):
            x = getattr(self, f.name)
            if isinstance(x, State):
                flat |= {f"{f.name}.{key}": y for key, y in x.to_dict().items()}
            elif isinstance(x, tuple):
                for i, y in enumerate(x):
                    flat |= (
                        {f"{f.name}.{i}.{key}": z for key, z in y.to_dict().items()}
                        if isinstance(y, State)
                        else {f"{f.name}.{i}": y}
                    )
            elif x is not None:
                flat[f.name] = x if torch.is_tensor(x) else torch.tensor(x)
        return flat

    @classmethod
    def from_dict(cls, flat: dict[str, Tensor]) -> Any:
        """Rebuild a state from `to_dict`; missing or unknown names raise ValueError."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the state atomically to one `.npz` file: arrays, a line of JSON and their digest, no pickle.

        Args:
            path: file to write; an existing one is replaced only when the new one is complete.
        """
        flat = {key: x.detach().cpu().contiguous() for key, x in self.to_dict().items()}
        kinds = {key: str(x.dtype).removeprefix("torch.") for key, x in flat.items()}
        # numpy has no bfloat16: its bits are stored as int16
        arrays = {k: (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy() for k, x in flat.items()}
        meta = {"class": type(self).__name__, "dtypes": kinds, "digest": _digest(kinds, arrays)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, **{_META: np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)})
        path = Path(path)
        # a new folder beside the file: two saves at once never share a name, and a failed one leaves nothing
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.", suffix=".part") as folder:
            complete = Path(folder, path.name)
            complete.write_bytes(buffer.getvalue())
            os.replace(complete, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Any:
        """Load a state written by `save`; nothing in the file is executed.

        Args:
            path: the `.npz` file. Files of earlier versions have no digest; they are checked by the zip's sums alone.

        Raises:
            ValueError: if the file is damaged or does not hold a state of this class; the message names the file.
        """
        with open(path, "rb") as file:
            try:
                return cls.from_dict(_unpack(file, cls.__name__))
            except Exception as error:  # a damaged zip alone raises errors of half a dozen classes
                text = " ".join(str(error).split())
                if not isinstance(error, ValueError):
                    kind = type(error).__name__
                    text = f"got a file that cannot be read ({kind}: {text}), expected one written by save(): damaged?"
                raise ValueError(f"{path}: {text}") from error


def _unpack(file: IO[bytes], owner: str) -> dict[str, Tensor]:
    """Read the tensors of a file written by `State.save`, checked against its metadata.

    Args:
        file: the open file.
        owner: name of the class that is expected to have saved it.

    Returns:
        Tensors by name, for `from_dict`.
    """
    if not zipfile.is_zipfile(file):  # an .npz is a zip of arrays
        raise ValueError("got no .npz file, expected one written by save(): incomplete, or another kind?")
    with zipfile.ZipFile(file) as members:  # reading a whole member checks its sum before numpy sees it
        contents = {name.removesuffix(".npy"): io.BytesIO(members.read(name)) for name in members.namelist()}
    arrays = {name: np.lib.format.read_array(content, allow_pickle=False) for name, content in contents.items()}
    if _META not in arrays:
        raise ValueError("got an .npz without a titans_mini state, expected one written by save()")
    meta = json.loads(arrays.pop(_META).tobytes())
    saved_by, kinds = meta["class"], meta["dtypes"]
    if saved_by != owner:
        raise ValueError(f"got a {saved_by}, expected a {owner}: use the class that saved it")
    if set(arrays) != set(kinds):
        raise ValueError(f"got arrays {sorted(arrays)}, expected {sorted(kinds)}: changed after it was saved?")
    for name, kind in kinds.items():
        if str(arrays[name].dtype) != ("int16" if kind == "bfloat16" else kind):
            raise ValueError(f"got {name} as {arrays[name].dtype}, expected {kind}: changed after it was saved?")
    if "digest" in meta and meta["digest"] != (found := _digest(kinds, arrays)):
        raise ValueError(
            f"got contents of digest {found[:8]}…, expected {meta['digest'][:8]}…: changed after it was saved?"
        )
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: x.view(torch.bfloat16) if kinds[name] == "bfloat16" else x for name, x in tensors.items()}


def _digest(kinds: dict[str, str], arrays: dict[str, np.ndarray]) -> str:
    """Compute the SHA-256 of arrays with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(json.dumps([name, kinds[name], arrays[name].shape]).encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def read_position(position: Tensor) -> int:
    """Return the position in a state's dictionary as a number.

    Args:
        position: one integer ≥ 0, as `State.to_dict` writes it.

    Raises:
        ValueError: if it is anything else; a fraction is not rounded.
    """
    x = torch.as_tensor(position)
    counts = not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
    if x.dim() or not counts or int(x) < 0:
        raise ValueError(f"position: got {x.tolist()}, expected an integer ≥ 0: not a state's to_dict()?")
    return int(x)


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors is elementwise
class MemoryState(State):
    """Everything a memory carries from one call to the next; its size does not grow with the sequence.

    Attributes:
        weights: L tensors (B, H, in, out): M_t, the current memory.
        momentum: L tensors of the same shapes: S_t, the momentum of past surprise.
        anchor: L tensors of the same shapes: the weights at which the current chunk's gradients are taken.
        position: tokens of the current chunk already seen, in [0, chunk_size).

    Built in: notebooks/02 · Paper: eq. 13–14, 16
    """

    weights: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...]
    anchor: tuple[Tensor, ...]
    position: int = 0

    @property
    def batch(self) -> int:
        """Number of sequences B."""
        return self.weights[0].shape[0]

    @property
    def heads(self) -> int:
        """Number of heads H."""
        return self.weights[0].shape[1]

    @property
    def nbytes(self) -> int:
        """Size of all tensors of the state in bytes."""
        return sum(x.numel() * x.element_size() for x in (*self.weights, *self.momentum, *self.anchor))

    @classmethod
    def from_dict(cls, flat: dict[str, Tensor]) -> MemoryState:
        """Rebuild a state from `to_dict`.

        Args:
            flat: `weights.0`, `momentum.0`, `anchor.0`, … and `position`.

        Raises:
            ValueError: if names are missing or unknown.
        """
        depth = sum(key.startswith("weights.") for key in flat)
        expected = {f"{part}.{i}" for part in ("weights", "momentum", "anchor") for i in range(depth)} | {"position"}
        if depth == 0 or expected != set(flat):
            raise ValueError(f"MemoryState: got names {sorted(flat)}, expected {sorted(expected)}: not its to_dict()?")
        parts = {p: tuple(flat[f"{p}.{i}"] for i in range(depth)) for p in ("weights", "momentum", "anchor")}
        return cls(**parts, position=read_position(flat["position"]))


@dataclass(frozen=True, eq=False)
class NeuralMemoryState(State):
    """The state that a `NeuralMemory` carries from one call to the next.

    Attributes:
        memory: the memory's own state.
        conv: (B, 3·H·D, conv_size − 1), the last inputs of the causal convolution.

    Built in: notebooks/06 · Paper: section 4.4
    """

    memory: MemoryState
    conv: Tensor

    @classmethod
    def from_dict(cls, flat: dict[str, Tensor]) -> NeuralMemoryState:
        """Rebuild a state from `to_dict`.

        Args:
            flat: the memory's state, its names prefixed with `memory.`, and `conv`.

        Raises:
            ValueError: if names are missing or unknown.
        """
        if "conv" not in flat:
            raise ValueError(f"NeuralMemoryState: got names {sorted(flat)}, expected 'conv' and 'memory.…'")
        inner = {key.removeprefix("memory."): x for key, x in flat.items() if key != "conv"}
        return cls(memory=MemoryState.from_dict(inner), conv=flat["conv"])
