"""Tokens on disk: read like an array, never loaded whole, and no bit of them changes unnoticed."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from titans_mini.data import Shards, Tokens, find_shards, shards
from titans_mini.data.shards import Joined, canonical, seal, unseal


def write(folder, splits, dtype="uint16"):
    """Write a folder of shards: splits maps a name to a list of (tokens, ends within the shard)."""
    folder.mkdir(parents=True)
    lines = {}
    for split, made in splits.items():
        for number, (tokens, ends) in enumerate(made):
            path = folder / f"{split}-{number:05}.bin"
            path.write_bytes(np.array(tokens, shards.DTYPES[dtype]).tobytes())
            path.with_suffix(".ends.bin").write_bytes(np.array(ends, "<u8").tobytes())
            line = {"file": path.name, "tokens": len(tokens), "texts": len(ends)}
            line["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            line["ends_sha256"] = hashlib.sha256(path.with_suffix(".ends.bin").read_bytes()).hexdigest()
            lines.setdefault(split, []).append(line)
    content = {"format": 1, "tokenizer": "bytes", "vocab_size": 256, "dtype": dtype, "splits": lines}
    (folder / "manifest.json").write_bytes(seal(content))
    return folder


TRAIN = [(range(10), [3, 10]), (range(10, 17), []), (range(17, 20), [1, 3])]  # the third text spans three shards


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "shards", {"train": TRAIN, "validation": [([7, 8], [2])]})


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_shards_read_like_one_array(tmp_path, dtype):
    opened = Shards.open(write(tmp_path / "s", {"train": TRAIN}, dtype), verify=True)
    tokens = opened.split("train")
    assert len(tokens) == 20 and tokens[:].tolist() == list(range(20)) and tokens[:].dtype == dtype
    assert tokens[8:18].tolist() == list(range(8, 18)) and tokens[19] == tokens[-1] == 19
    assert tokens[15:99].tolist() == [15, 16, 17, 18, 19] and len(tokens[5:5]) == len(tokens[99:]) == 0
    assert tokens.ends[:].tolist() == [3, 10, 18, 20] and tokens.ends[2] == 18 and len(tokens.ends) == 4
    assert repr(tokens) == "Tokens(20 tokens, 4 texts)"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(-30, 30), st.integers(-30, 30))
def test_joined_slices_are_those_of_one_array(lengths, start, stop):
    whole = np.arange(sum(lengths), dtype=np.int32)
    parts = np.split(whole, np.cumsum(lengths)[:-1])
    assert Joined(parts)[start:stop].tolist() == whole[start:stop].tolist()
    shifted = Joined([part - part[:1].sum() for part in parts], [int(part[:1].sum()) for part in parts])
    assert shifted[start:stop].tolist() == whole[start:stop].tolist()


def test_places_that_are_not_there(folder):
    tokens = Shards.open(folder).split("train")
    for place in (20, -21):
        with pytest.raises(IndexError, match=f"got the place {place}, expected one of 20"):
            tokens[place]
    with pytest.raises(ValueError, match="step 2, expected 1"):
        tokens[::2]
    with pytest.raises(KeyError, match="got the split 'test', expected one of .*'train', 'validation'"):
        Shards.open(folder).split("test")


def test_what_is_read_is_a_copy(folder):
    tokens = Shards.open(folder).split("train")
    tokens[:5][:] = 0
    assert tokens[:5].tolist() == [0, 1, 2, 3, 4]


def test_tokens_in_memory():
    for array in (torch.arange(6), np.arange(6, dtype=np.uint8), [0, 1, 2, 3, 4, 5]):
        tokens = Tokens.of(array)
        assert tokens[2:9].tolist() == [2, 3, 4, 5] and tokens.ends[:].tolist() == [6] and len(tokens) == 6
    assert Tokens.of(torch.arange(6), torch.tensor([2, 6])).ends[:].tolist() == [2, 6]
    for array in (torch.zeros(0, dtype=torch.int64), torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64), 3):
        with pytest.raises(ValueError, match=r"Tokens.of: got .*expected whole numbers \(N,\)"):
            Tokens.of(array)
    for ends in ([], [2], [2, 2, 6], [0, 6], [4, 2, 6], [[6]]):
        with pytest.raises(ValueError, match="ends: got .*expected increasing numbers up to 6"):
            Tokens.of(torch.arange(6), ends)


def test_digest_and_names(folder, tmp_path):
    opened = Shards.open(str(folder))
    assert (opened.tokenizer, opened.vocab_size, opened.splits) == ("bytes", 256, ["train", "validation"])
    assert opened.digest == json.loads((folder / "manifest.json").read_bytes())["digest"]
    changed = [(range(10), [3, 10]), (range(10, 17), []), ([17, 18, 0], [1, 3])]
    assert Shards.open(write(tmp_path / "other", {"train": changed})).digest != opened.digest


def test_every_flipped_bit_of_a_manifest_is_noticed(folder):
    path = folder / "manifest.json"
    raw = path.read_bytes()
    assert unseal(raw, path)["format"] == 1
    for place in range(len(raw)):
        for bit in (1, 32, 128):
            changed = bytearray(raw)
            changed[place] ^= bit
            with pytest.raises(ValueError, match="manifest.json: got other bytes than were written"):
                unseal(bytes(changed), path)
    for other in (raw[:-1], raw + b"\n", b"", b"[]", b"3", b"[" * 100_000, raw.replace(b":", b": ", 1)):
        with pytest.raises(ValueError, match="got other bytes than were written"):
            unseal(other, path)


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00002.ends.bin", "validation-00000.bin"])
def test_changed_missing_and_shortened_files(folder, name):
    path = folder / name
    raw = path.read_bytes()
    path.write_bytes(bytes([raw[0] ^ 4]) + raw[1:])
    Shards.open(folder)  # cheap: sizes only
    with pytest.raises(ValueError, match=rf"{name}: got other bytes than its manifest says"):
        Shards.open(folder, verify=True)
    path.write_bytes(raw[:-1])
    with pytest.raises(ValueError, match=rf"{name}: got {len(raw) - 1} bytes, expected {len(raw)}"):
        Shards.open(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"got no .*{name}, expected {len(raw)} bytes"):
        Shards.open(folder)


def test_a_folder_without_a_manifest_is_not_finished(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="without manifest.json.*give the same prepare command again"):
        Shards.open(folder)


def test_another_format_is_refused(folder):
    content = json.loads((folder / "manifest.json").read_bytes())
    del content["digest"]
    (folder / "manifest.json").write_bytes(seal(content | {"format": 2}))
    with pytest.raises(ValueError, match="got format 2, expected 1"):
        Shards.open(folder)


def test_a_manifest_names_no_file_outside_of_its_folder(folder):
    content = json.loads((folder / "manifest.json").read_bytes())
    del content["digest"]
    content["splits"]["train"][0]["file"] = "../../elsewhere.bin"
    (folder / "manifest.json").write_bytes(seal(content))
    with pytest.raises(FileNotFoundError, match=f"got no {re.escape(str(folder / 'elsewhere.bin'))}"):
        Shards.open(folder)


def total(tokens):
    return int(tokens[:].sum()), tokens.ends[:].tolist()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_the_same(folder, start):
    if start == "fork":  # a pool would fork from a process with threads; a child that only reads is enough
        tokens = Shards.open(folder).split("train")
        tokens[:3]
        child = os.fork()
        if not child:
            os._exit(total(tokens) != (190, [3, 10, 18, 20]))
        assert os.waitpid(child, 0)[1] == 0
    else:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(total, (Shards.open(folder).split("train"),)) == (190, [3, 10, 18, 20])


def anonymous():
    """Return the resident memory that belongs to this process alone, in bytes; pages of files are not."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is measured as Linux tells it")
def test_fifty_gigabytes_are_read_and_never_loaded(tmp_path):
    folder = write(tmp_path / "large", {"train": [([1], [1])] * 5})
    content = json.loads((folder / "manifest.json").read_bytes())
    del content["digest"]
    for line in content["splits"]["train"]:
        line["tokens"] = 5_000_000_000
        os.truncate(folder / line["file"], 10_000_000_000)  # a hole: takes no room on the disk
    (folder / "manifest.json").write_bytes(seal(content))
    assert sum(path.stat().st_blocks for path in folder.iterdir()) * 512 < 1 << 20, "holes take no room here"
    before = anonymous()
    tokens = Shards.open(folder).split("train")
    assert len(tokens) == 25_000_000_000
    for start in np.random.default_rng(0).integers(0, len(tokens) - 2049, 3000).tolist():
        assert len(tokens[start : start + 2049]) == 2049
    border = tokens[4_999_999_999:5_000_000_002]
    assert border.tolist() == [0, 1, 0]
    assert anonymous() - before < 50e6
    shutil.rmtree(folder)


def test_many_shards_need_few_open_files(tmp_path):
    import resource

    folder = write(tmp_path / "many", {"train": [([i % 256], [1]) for i in range(600)]})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    try:
        tokens = Shards.open(folder).split("train")
        assert tokens[:].tolist() == [i % 256 for i in range(600)] and tokens.ends[599] == 600
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_find_shards(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TITANS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TITANS_DATA", raising=False)
    assert find_shards(folder) == folder
    for name, command in (
        ("wikitext", r"prepare wikitext --tok"),
        ("mine", r"prepare YOUR_TEXT.txt --out .*shards/mine "),
    ):
        with pytest.raises(FileNotFoundError, match=rf"got '{name}', expected .*cache/shards: .*{command}"):
            find_shards(name)
    shutil.copytree(folder, tmp_path / "cache/shards/mine")
    assert find_shards("mine") == tmp_path / "cache/shards/mine"
    shutil.copytree(folder, tmp_path / "data/shards/mine")
    monkeypatch.setenv("TITANS_DATA", str(tmp_path / "data"))
    assert find_shards("mine") == tmp_path / "data/shards/mine"
    (tmp_path / "data/shards/mine/manifest.json").unlink()  # not finished there
    assert find_shards("mine") == tmp_path / "cache/shards/mine"


def test_canonical_is_one_way():
    assert canonical({"b": 1, "a": [0.005, None, "é"]}) == b'{"a":[0.005,null,"\\u00e9"],"b":1}'
