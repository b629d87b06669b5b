"""Checkpoints: whole or not at all, never believed unread, one process at a time."""

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from titans_mini.train.checkpoint import Checkpoints, Damaged, read, write

ROOT = Path(__file__).parent.parent.parent
CONTENT = {
    "model.safetensors": {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(2, dtype=torch.bfloat16)},
    "random.safetensors": {"torch": torch.arange(7, dtype=torch.uint8)},
    "run.json": {"history": [0.1, 1e-300, 3], "name": "é"},
}


def same(found):
    assert set(found) == set(CONTENT) and found["run.json"] == CONTENT["run.json"]
    for name in ("model.safetensors", "random.safetensors"):
        assert set(found[name]) == set(CONTENT[name])
        assert all(
            torch.equal(found[name][key], x) and found[name][key].dtype == x.dtype for key, x in CONTENT[name].items()
        )


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "one", CONTENT)
    same(read(tmp_path / "one"))
    write(tmp_path / "one", CONTENT)  # again, over it
    same(read(tmp_path / "one"))
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    (tmp_path / "plain").touch()  # as the umask says
    modes = {path.stat().st_mode for path in [*(tmp_path / "one").iterdir(), tmp_path / "plain"]}
    assert len(modes) == 1


def test_every_flipped_bit_is_noticed(tmp_path):
    write(tmp_path / "one", CONTENT)
    files = sorted((tmp_path / "one").iterdir())
    rng = random.Random(0)
    for i in range(100):
        path = files[i % len(files)]  # the manifest too
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(Damaged, match=path.name):
            read(tmp_path / "one")
        path.write_bytes(good)
    same(read(tmp_path / "one"))


@pytest.mark.parametrize("harm", ["cut", "gone", "no manifest", "empty manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(harm, tmp_path):
    said = []
    shelf = Checkpoints(tmp_path, say=said.append)
    for step in (1, 2):
        shelf.save(step, CONTENT)
    shelf.wait()
    last = tmp_path / "checkpoints" / "00000002"
    target = last / ("manifest.json" if "manifest" in harm else "model.safetensors")
    if harm in ("cut", "empty manifest"):
        target.write_bytes(target.read_bytes()[: 100 if harm == "cut" else 0])
    else:
        target.unlink()
    step, content = shelf.load()
    assert step == 1 and str(target) in said[0] and "before it is used" in said[0]
    same(content)
    shutil.rmtree(tmp_path / "checkpoints" / "00000001")
    with pytest.raises(Damaged, match="1 checkpoint.*all damaged.*another folder"):
        shelf.load()
    shelf.close()


def test_no_checkpoint_is_no_error_and_leftovers_are_cleared(tmp_path):
    (tmp_path / "checkpoints" / "00000007.part").mkdir(parents=True)
    (tmp_path / "checkpoints" / "00000007.part" / "model.safetensors").write_bytes(b"half")
    shelf = Checkpoints(tmp_path)
    assert shelf.load() == (-1, None) and not list((tmp_path / "checkpoints").iterdir())
    shelf.close()


def test_the_last_few_are_kept(tmp_path):
    shelf = Checkpoints(tmp_path, keep=2)
    for step in (9, 10, 11, 100):
        shelf.save(step, CONTENT)
    shelf.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00000011", "00000100"]


def test_damaged_ones_that_are_newer_do_not_push_out_what_is_whole(tmp_path):
    """Else a run that fell back to an older checkpoint, and is killed again, has none."""
    shelf = Checkpoints(tmp_path, keep=1)
    for step in (20, 30):
        write(tmp_path / "checkpoints" / f"{step:08d}", CONTENT)
    (tmp_path / "checkpoints" / "00000030" / "model.safetensors").write_bytes(b"lost")
    assert shelf.load()[0] == 20
    shelf.save(22, CONTENT)
    shelf.wait()
    assert shelf.load()[0] == 22
    assert sorted(path.name for path in shelf) == ["00000022", "00000030"]
    shelf.close()


def test_steps_are_numbers(tmp_path):
    shelf = Checkpoints(tmp_path)
    for name in ("99999999", "100000000", "²"):  # the last is a digit to Python, and no number
        write(tmp_path / "checkpoints" / name, CONTENT)
    assert shelf.load()[0] == 100_000_000
    shelf.close()


def test_what_cannot_be_written_is_an_error_and_no_silence(tmp_path):
    shelf = Checkpoints(tmp_path, say=lambda _: None)
    shelf.save(1, {"run.json": {"score": torch.tensor(1.0)}})
    with pytest.raises(TypeError, match="Tensor is not JSON"):
        shelf.wait()
    shelf.close()


def test_training_goes_on_while_it_is_written(tmp_path, monkeypatch):
    free, begun = threading.Event(), threading.Event()
    shelf = Checkpoints(tmp_path)

    def slow(path, content):
        begun.set()
        assert free.wait(30)
        write(path, content)

    monkeypatch.setattr("titans_mini.train.checkpoint.write", slow)
    shelf.save(1, CONTENT)
    assert begun.wait(30) and not (tmp_path / "checkpoints" / "00000001").exists()  # and we are here
    free.set()
    shelf.wait()
    same(read(tmp_path / "checkpoints" / "00000001"))
    shelf.close()


def test_a_full_disk_leaves_the_one_before_and_says_so(tmp_path):
    """No file may grow beyond the limit: what the system then says is what it says of a full disk."""
    said = []
    shelf = Checkpoints(tmp_path, say=said.append)
    shelf.save(1, CONTENT)
    shelf.wait()
    large = CONTENT | {"optimizer.safetensors": {"x": torch.zeros(1 << 18)}}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        shelf.save(2, large)
        with pytest.raises(OSError, match="no checkpoint of step 2.*is the disk full.*before it is whole"):
            shelf.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no checkpoint of step 2" in said[0]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000001"]
    same(shelf.load()[1])
    shelf.save(3, large)  # there is room again
    shelf.wait()
    assert shelf.load()[0] == 3
    shelf.close()


@pytest.mark.parametrize("at", range(1, 40))
def test_killed_at_any_moment_of_a_save_there_is_a_whole_checkpoint(at, tmp_path, monkeypatch):
    """The process dies at the n-th thing that it asks of the system; after it there is step 1 or step 2, whole."""

    class Killed(BaseException):
        pass

    shelf = Checkpoints(tmp_path, keep=1)
    write(tmp_path / "checkpoints" / "00000001", CONTENT)
    asked = 0

    def counting(right):
        def call(*args, **options):
            nonlocal asked
            asked += 1
            if asked >= at:
                raise Killed
            return right(*args, **options)

        return call

    for owner, name in ((os, "fsync"), (os, "replace"), (os, "open"), (os, "unlink"), (os, "rmdir"), (Path, "mkdir")):
        monkeypatch.setattr(owner, name, counting(getattr(owner, name)))
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    shelf.save(2, CONTENT)
    shelf.close()
    monkeypatch.undo()
    again = Checkpoints(tmp_path, keep=1)
    step, content = again.load()
    assert step in (1, 2)
    same(content)
    assert not list((tmp_path / "checkpoints").glob("*.part"))
    again.close()


def test_a_second_run_in_the_folder_is_refused_until_the_first_ends(tmp_path):
    code = f"from titans_mini.train.checkpoint import Checkpoints\nCheckpoints({str(tmp_path)!r})\nprint('free')"
    first = Checkpoints(tmp_path)
    ask = [sys.executable, "-c", code]
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    second = subprocess.run(ask, env=env, capture_output=True, text=True)
    assert "another process is training" in second.stderr and second.returncode == 1
    first.close()
    assert subprocess.run(ask, env=env, capture_output=True, text=True).stdout == "free\n"


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(OSError) as error:
        Checkpoints(tmp_path)
    assert error.value.errno == errno.EEXIST
