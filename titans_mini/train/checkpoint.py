"""Checkpoints: one folder each, written in the background, whole or not at all, and never believed unread.

A checkpoint holds tensors (safetensors) and plain data (JSON), nothing that can be executed. It is written to a folder
of another name; its manifest, with the digest of every file, comes last; then the folder gets its name. So whatever
has a name is complete, unless the disk lost bits later, and then the digests tell.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout  # comes with torch
from torch import Tensor

from titans_mini.data.fetch import sha256_of
from titans_mini.data.shards import names_to_disk, seal, unseal

CHECKPOINTS, MANIFEST = "checkpoints", "manifest.json"
INSTALL = "pip install -e '.[train]'"
LEFTOVER = ".part"  # end of the name of a folder that is being written, or being deleted
Content = Mapping[str, Any]  # file name → tensors by name (.safetensors), or plain data (.json)


class Damaged(ValueError):
    """A checkpoint whose bytes are not those that were written; the message names the file."""


class Checkpoints:
    """The checkpoints of one run; one process at a time may hold them.

    Args:
        folder: of the run; created if it is not there.
        keep: number of checkpoints kept, the newest ones.
        say: receives a line of text about what happens in the background.

    Raises:
        BlockingIOError: if another process trains in this folder.
    """

    def __init__(self, folder: str | Path, keep: int = 3, say: Callable[[str], None] = print) -> None:
        """Take the lock, and clear what killed processes left behind."""
        self.folder, self.keep, self.say = Path(folder) / CHECKPOINTS, keep, say
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(Path(folder) / ".lock")
        for leftover in self.folder.glob(f"*{LEFTOVER}"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._thread: threading.Thread | None = None
        self._failed: Exception | None = None

    def __iter__(self):
        """Yield the folders of the checkpoints, the newest first."""
        yield from sorted((path for path in self.folder.iterdir() if path.name.isdecimal()), key=_step, reverse=True)

    def save(self, step: int, content: Content) -> None:
        """Write a checkpoint while the caller goes on; waits for the one before.

        A disk that is full costs this checkpoint, says so, and leaves the one before; `wait` raises then.

        Args:
            step: completed steps, the name of the checkpoint.
            content: what to write; tensors must not change afterwards.
        """
        self._join()
        self._thread = threading.Thread(target=self._write, args=(step, content), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk.

        Raises:
            OSError: if it could not be written.
            Exception: if its content could not.
        """
        self._join()
        if self._failed is not None:
            raise self._failed

    def load(self) -> tuple[int, dict[str, Any] | None]:
        """Read the newest checkpoint that is whole; a damaged one is named, and the one before it is read.

        Returns:
            Its step and its content; −1 and None if there is no checkpoint.

        Raises:
            Damaged: if there are checkpoints and none of them is whole.
        """
        damages = []
        for path in self:
            try:
                return _step(path), read(path)
            except Damaged as error:
                damages.append(str(error))
                self.say(f"{error}; the checkpoint before it is used")
        if damages:
            raise Damaged(
                f"{self.folder}: got {len(damages)} checkpoint(s), all damaged, expected one to resume: "
                f"start in another folder, or delete them to start again. The last: {damages[0]}"
            )
        return -1, None

    def close(self) -> None:
        """Wait for the disk, then let another process have the folder."""
        self._join()
        self._lock.release()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, step: int, content: Content) -> None:
        """Write one checkpoint and delete the oldest; runs in the thread, so `wait` raises what goes wrong."""
        try:
            write(self.folder / f"{step:08d}", content)
        except OSError as error:
            self._failed = OSError(
                error.errno,
                f"{self.folder}: got no checkpoint of step {step} ({error.strerror or error}), expected to write it: "
                "is the disk full? The one before it is whole",
            )
            self.say(self._failed.strerror)
            return
        except Exception as error:  # such as a score that is no plain number
            self._failed = error
            self.say(f"{self.folder}: got no checkpoint of step {step}: {error}")
            return
        self._failed = None
        # newer ones were found damaged, or this run would have begun there: they must not push out what is whole
        older = [path for path in self if _step(path) <= step]
        for old in older[self.keep :]:
            _remove(old)


def _step(path: Path) -> int:
    """Return the step of a checkpoint, which is its folder's name."""
    return int(path.name)


def write(path: Path, content: Content) -> None:
    """Write a folder of files with a manifest of their digests, whole or not at all.

    Args:
        path: the folder; one that is there is replaced.
        content: file name → tensors by name (.safetensors), or plain data (.json).

    Raises:
        OSError: if the disk is full or the folder cannot be written; nothing is left then.
    """
    part = path.with_name(path.name + LEFTOVER)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        digests = {}
        for name, data in content.items():
            _write_file(part / name, data)
            digests[name] = sha256_of(part / name)
        _write_file(part / MANIFEST, seal({"files": digests}))
        names_to_disk(part)
        if path.exists():
            _remove(path)
        os.replace(part, path)
        names_to_disk(path.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read(path: Path, checked: bool = False) -> dict[str, Any]:
    """Read a folder that `write` wrote, after every byte of it was checked.

    Args:
        path: the folder.
        checked: another process has just done so.

    Returns:
        The content as it was saved; tensors are read when they are asked for.

    Raises:
        Damaged: names the file that is missing or has other bytes.
    """
    digests = _read_manifest(path / MANIFEST)
    content = {}
    for name, digest in digests.items():
        if not (path / name).is_file():
            raise Damaged(f"{path / name}: got no such file, expected it: the manifest names it")
        if not checked and sha256_of(path / name) != digest:
            raise Damaged(
                f"{path / name}: got other bytes than were written (sha256), expected {digest[:12]}…: damaged"
            )
        content[name] = _read_file(path / name)
    return content


def _read_manifest(path: Path) -> dict[str, str]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path}: got no manifest ({error.strerror}), expected it: a save that was cut off?") from error
    try:
        return unseal(raw, path)["files"]
    except (ValueError, KeyError) as error:
        raise Damaged(
            f"{path}: got a manifest that does not fit its own digest, expected it unchanged: damaged"
        ) from error


def _write_file(path: Path, data: Any) -> None:
    """Write one file, readable as the umask says, and wait until it is on the disk."""
    if path.suffix == ".safetensors":
        path.touch()  # safetensors itself would write it for its owner alone
        mode = path.stat().st_mode
        tensors_to_file(data, path)
        path.chmod(mode)
    else:
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _read_file(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return json.loads(path.read_bytes())
    return Tensors(path)


class Tensors(Mapping):
    """The tensors of a file by name, each read when it is asked for: several processes need no copy of all."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        from safetensors import safe_open

        self._file = safe_open(path, "pt")

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor."""
        if name not in self._file.keys():  # noqa: SIM118  (the file is no dictionary)
            raise KeyError(name)
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._file.keys())

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._file.keys())


def tensors_to_file(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name to a file of safetensors.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: x.contiguous() for name, x in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:  # it wraps what the system says
        raise OSError(None, f"{error}") from error


def _remove(path: Path) -> None:
    """Delete a folder; interrupted, it is a leftover and no checkpoint."""
    gone = path.with_name(f"{path.name}.old{LEFTOVER}")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _lock(path: Path) -> FileLock:
    """Lock a file as long as this process lives; the system frees it even after kill -9."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(
            f"{path.parent}: got a folder in which another process is training, expected one of your own: wait for it, "
            "or choose another --out"
        ) from error
    return lock
