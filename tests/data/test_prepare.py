"""Text becomes shards: the same ones whatever the number of processes, and however often it is interrupted."""

import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from filelock import FileLock

from titans_mini.data import Shards, corpus, find_shards, prepare
from titans_mini.data.tokens import BYTES, Tokenizer

WORDS = [f"Text {i}: " + f"word{i} " * (7 * i % 40 + 1) + "\n" for i in range(40)]
PAIRS = Tokenizer("pairs", lambda text: [300 + len(w) % 90_000 for w in text.split()], str, 90_301, 90_300)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TITANS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TITANS_DATA", raising=False)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a kill cannot tell; only a power cut could
    return tmp_path


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": 3}) + "\n" for text in WORDS))
    return path


def make(*sources, out=None, tokenizer="bytes", **options):
    return prepare.prepare([str(source) for source in sources], out, tokenizer, progress=False, **options)


def texts(tokens, decode=lambda ids: bytes(ids.tolist()).decode()):
    """Read the texts of a split back."""
    starts = itertools.pairwise([0, *tokens.ends[:].tolist()])
    return [decode(tokens[start:end]) for start, end in starts]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- what comes out -------------------------------------------------------------------------------------------------


def test_texts_come_back_and_each_goes_to_one_split(jsonl, tmp_path):
    shards = make(jsonl, out=tmp_path / "out", validation=0.1)
    train, validation = texts(shards.split("train")), texts(shards.split("validation"))
    assert sorted(train + validation) == sorted(WORDS) and WORDS[0] in validation
    assert train == [text for text in WORDS if text in train] and 1 <= len(validation) <= 12
    assert Shards.open(tmp_path / "out", verify=True) == shards
    names = {path.name.split("-")[0] for path in (tmp_path / "out").iterdir()}
    assert names == {"manifest.json", "train", "validation"}, "nothing is left over"
    assert shards.manifest["dtype"] == "uint16" and (shards.tokenizer, shards.vocab_size) == ("bytes", 256)


def test_validation_is_about_as_large_as_asked():
    split = [piece.split for piece in prepare.deal(lambda: corpus.whole("ab" for _ in range(20_000)), 0.01)]
    assert 140 < split.count("validation") < 260 and split[0] == "validation"
    assert {piece.split for piece in prepare.deal(lambda: corpus.whole(["a", "b"]), 0)} == {"train"}


def test_of_a_single_text_the_end_is_held_out(tmp_path):
    text = "".join(f"line {i}\n" for i in range(10_000))
    (tmp_path / "book.txt").write_text(text)
    shards = make(tmp_path / "book.txt", validation=0.1, limit_tokens=5000)
    assert texts(shards.split("validation")) == [text[-len(text) // 10 :]]
    assert texts(shards.split("train")) == [text[:5000]], "a limit is exact, and leaves validation whole"
    assert shards.folder == find_shards("book") == tmp_path / "cache/shards/book"
    whole = make(tmp_path / "book.txt", out=tmp_path / "w", validation=0)
    assert texts(whole.split("train")) == [text] and whole.splits == ["train"]


def test_of_few_texts_the_end_is_held_out():
    made = ["a" * 1000, "b" * 50, "c" * 50]
    pieces = list(prepare.deal(lambda: corpus.whole(made), 0.1))
    held_out = [("validation", "a" * 10, True), ("validation", made[1], True), ("validation", made[2], True)]
    assert pieces == [*held_out, ("train", "a" * 990, True)]
    pieces = list(prepare.deal(lambda: corpus.whole(made), 50 / 1100))
    assert [piece.split for piece in pieces] == ["validation", "train", "train"] and all(piece.ends for piece in pieces)


def test_a_separator_and_large_ids(jsonl, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "tokenizer", lambda name: PAIRS)
    shards = make(jsonl, out=tmp_path / "out", validation=0)
    got = texts(shards.split("train"), np.ndarray.tolist)
    assert got == [[*PAIRS.encode(text), 90_300] for text in WORDS]
    assert shards.manifest["dtype"] == "uint32" and shards.manifest["separator"] == 90_300


def test_a_tokenizer_that_breaks_its_word(jsonl, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "tokenizer", lambda name: Tokenizer("odd", lambda text: [70_000], str, 65_536))
    with pytest.raises(ValueError, match="odd: got the token 70000, expected fewer than 65536"):
        make(jsonl, out=tmp_path / "out")


def test_texts_longer_than_a_piece_and_a_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "PIECE", 100)
    monkeypatch.setattr(corpus, "BLOCK", 70)
    long = "".join(f"line {i} é漢🙂\n" for i in range(200)) + "x" * 1000 + " y" * 300
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("short", long, "z" * 350)))
    (tmp_path / "long.txt").write_text(long, encoding="utf-8")
    shards = make(tmp_path / "t.jsonl", out=tmp_path / "out", shard_tokens=500, validation=0)
    assert texts(shards.split("train")) == ["short", long, "z" * 350]
    assert len(shards.manifest["splits"]["train"]) > 8
    assert texts(make(tmp_path / "long.txt", validation=0, shard_tokens=300).split("train")) == [long]
    assert texts(make(tmp_path / "long.txt", out=tmp_path / "s", split_on="no", validation=0).split("train")) == [long]
    pieces = [text for _, text, _ in prepare.cut(corpus.whole([long]))]
    assert max(map(len, pieces)) == 100 and pieces[0].endswith("\n") and pieces[-1].startswith(" y")


def test_the_manifest_tells_nothing_of_the_machine(jsonl, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    raw = (make(jsonl, out=tmp_path / "out").folder / "manifest.json").read_text()
    assert str(tmp_path) not in raw and "words" not in raw and "secret" not in raw and '"files":1' in raw
    assert not re.search(r'"/|home|root|/tmp', raw)


# -- sources --------------------------------------------------------------------------------------------------------


def test_folders_files_and_patterns(tmp_path):
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("z.txt", "b/a.txt", "B.TXT", ".hidden/no.txt", "b/no.pdf", "empty.txt"):
        (folder / name).write_text("" if name == "empty.txt" else name)
    (folder / "c.jsonl").write_text('{"text": "c"}\n\n{"text": ""}\n{"text": null}\n{"text": "d"}')
    assert texts(make(folder, out=tmp_path / "1", validation=0).split("train")) == [
        "B.TXT",
        "b/a.txt",
        "c",
        "d",
        "z.txt",
    ]
    pattern = make(folder / "**/*.txt", out=tmp_path / "2", validation=0)
    assert texts(pattern.split("train")) == ["b/a.txt", "z.txt"]
    several = make(folder / "z.txt", folder / "b", folder / "z.txt", out=tmp_path / "3", validation=0)
    assert texts(several.split("train")) == ["z.txt", "b/a.txt"]


def test_txt_line_ends_byte_order_mark_and_splits(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n  \r\nthree\r\n\n\n\xf0\x9f\x99\x82")
    assert texts(make(tmp_path / "a.txt", validation=0).split("train")) == ["one\ntwo\n\n  \nthree\n\n\n🙂"]
    split = make(tmp_path / "a.txt", out=tmp_path / "s", validation=0, split_on=r"\s*").split("train")
    assert texts(split) == ["one\ntwo\n", "three\n", "🙂"]


def test_halves_of_characters_in_json(tmp_path):
    (tmp_path / "a.jsonl").write_text(r'{"text": "a\ud83d\ude42b\ud800c"}')
    assert texts(make(tmp_path / "a.jsonl", validation=0).split("train")) == ["a🙂b\N{REPLACEMENT CHARACTER}c"]
    assert prepare._without_surrogates("\ud83d\ude42\udfff") == "🙂\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "name, raw, words",
    [
        ("a.txt", b"fine\nca\xe9 x\n", r"a\.txt: got the byte 0xe9 in line 2, expected UTF-8.*iconv.*--errors replace"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"a\.jsonl: got the byte 0xff in line 2, expected UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n\n{"body": "b"}', r"line 3: got the fields \['body'\], expected the field 'text'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}', r"line 2: got text = 3, expected text: another --field"),
        ("a.jsonl", b'{"text": "a"}\n["text"]', r"line 2: got \['text'\], expected the field 'text'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"', r"line 2: got \{.*expected JSON \("),
        ("a.jsonl", b'{"text": "a"}\n' + b"[" * 100_000, r"line 2: got \[+….?, expected JSON"),
        ("a.txt", b"", "got no text to train on .*is all of it empty"),
        ("a.jsonl", b"\n\n", "got no text to train on"),
        ("a.txt", b"x", "got no text to train on"),
        ("a.gz", b"x", r"got .*a\.gz, expected \.txt, \.jsonl, \.parquet: unpack it"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, raw, words):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=words):
        make(tmp_path / name, validation=0.5)
    (tmp_path / name).unlink()
    (tmp_path / "a.txt").write_text("a corrected source, and other arguments")
    make(tmp_path / "a.txt", validation=0)  # nothing stands in the way of the next try


def test_errors_replace(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"ca\xe9 x")
    assert texts(make(tmp_path / "a.txt", validation=0, errors="replace").split("train")) == ["ca� x"]


def test_nothing_there(tmp_path):
    for source in (tmp_path / "no.txt", tmp_path / "*.txt", tmp_path):
        with pytest.raises(FileNotFoundError, match="expected one of fineweb-edu, wikitext, or files that exist"):
            make(source, out=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="a pattern needs --out"):
        make(tmp_path / "*.txt")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"jobs": 0}, "got jobs=0"),
        ({"validation": 1.0}, "validation from 0 to below 1"),
        ({"validation": float("nan")}, "got jobs=1, validation=nan"),
        ({"limit_tokens": -1}, "limit_tokens=-1"),
        ({"shard_tokens": 0}, "shard_tokens=0"),
        ({"errors": "ignore"}, "errors: got 'ignore'"),
        ({"split_on": "("}, "split_on: got '\\(', expected a regular expression"),
    ],
)
def test_arguments_out_of_range(jsonl, options, words):
    with pytest.raises(ValueError, match=words):
        make(jsonl, **options)


def parquet(path, values, name="text"):
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `prepare`")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": list(range(len(values))), name: values}), path, row_group_size=7)
    return path


def test_parquet(tmp_path):
    path = parquet(tmp_path / "a.parquet", [*WORDS, "", None])
    assert texts(make(path, validation=0).split("train")) == WORDS
    with pytest.raises(ValueError, match=r"a\.parquet: got columns \['id', 'text'\], expected 'body' among them"):
        make(path, out=tmp_path / "2", field="body")
    with pytest.raises(ValueError, match="got id = 0, expected text"):
        make(path, out=tmp_path / "3", field="id")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"a\.parquet: got .*expected a whole Parquet file"):
        make(path, out=tmp_path / "4")


def test_fineweb_through_the_library_datasets(tmp_path, monkeypatch):
    """The hub is replaced by a local file; the library and its streaming are the real ones."""
    datasets = pytest.importorskip("datasets", reason="needs the extra `prepare`")
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(tmp_path / "hf"))
    files, real, asked = str(parquet(tmp_path / "a.parquet", WORDS)), datasets.load_dataset, []

    def local(path, subset, **options):
        asked.append((path, subset, options))
        return real("parquet", data_files=files, **options)

    monkeypatch.setattr(datasets, "load_dataset", local)
    shards = make("fineweb-edu", validation=0)
    assert texts(shards.split("train")) == WORDS and find_shards("fineweb-edu") == shards.folder
    assert asked == [("HuggingFaceFW/fineweb-edu", "sample-10BT", {"split": "train", "streaming": True})]
    assert shards.manifest["source"] == {"dataset": "HuggingFaceFW/fineweb-edu", "subset": "sample-10BT"}


def test_a_hub_that_does_not_answer(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs the extra `prepare`")

    def offline(*_, **__):
        raise RuntimeError("nobody there")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ConnectionError, match=r"got RuntimeError while reading HuggingFaceFW/.*offline.*it goes on"):
        make("fineweb-edu")


def test_wikitext_is_joined_to_articles(monkeypatch):
    one = [" = A title = \n", "", " Words . \n", " = = Its section = = \n", " More , a = b . \n"]
    two = [" = B = \n", " Other words . \n", " = = = Deeper = = = \n"]
    monkeypatch.setattr(corpus, "rows", lambda *_: ({"text": line} for line in ["", *one, "", *two]))
    shards = make("wikitext", validation=0)
    assert texts(shards.split("train")) == ["".join(one), "".join(two)]


@pytest.mark.parametrize(
    "library, source, tokenizer", [("datasets", "wikitext", "bytes"), ("transformers", "words.jsonl", "a/name")]
)
def test_a_missing_library_is_named_with_the_command(jsonl, monkeypatch, library, source, tokenizer):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.chdir(jsonl.parent)
    with pytest.raises(ImportError, match=rf"got no {library}, .*pip install -e '\.\[prepare\]' in a checkout"):
        make(source, tokenizer=tokenizer)


def test_pyarrow_missing(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"got no pyarrow, .*pip install -e '\.\[prepare\]'"):
        make(tmp_path / "a.parquet")


# -- interrupted ----------------------------------------------------------------------------------------------------

LIFE = {"shard_tokens": 1500, "validation": 0.1, "limit_tokens": 4000}


def killed_at(moment, run):
    """Run in a child that kills itself at the n-th step towards the disk; return whether it was killed."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    steps = itertools.count()

    def mortal(function):
        def call(*arguments, **options):
            if next(steps) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for owner, name in ((os, "replace"), (os, "fsync"), (prepare._Shard, "_write"), (shutil, "rmtree")):
        setattr(owner, name, mortal(getattr(owner, name)))
    try:
        run()
    finally:
        os._exit(0)


def test_killed_at_every_moment_and_run_again(jsonl, tmp_path):
    expected = content(make(jsonl, out=tmp_path / "whole", **LIFE).folder)
    for moment in itertools.count():
        out = tmp_path / str(moment)
        killed = killed_at(moment, lambda out=out: make(jsonl, out=out, **LIFE))
        if killed and not (out / "manifest.json").exists():
            with pytest.raises(FileNotFoundError, match="without manifest.json"):
                Shards.open(out)
        assert content(make(jsonl, out=out, **LIFE).folder) == expected, moment
        if not killed:
            break
    assert moment > 60


def test_killed_again_and_again(jsonl, tmp_path):
    expected = content(make(jsonl, out=tmp_path / "whole", **LIFE).folder)
    times = 0
    while killed_at(70, lambda: make(jsonl, out=tmp_path / "out", **LIFE)):
        times += 1
    assert times >= 1 and content(tmp_path / "out") == expected


def test_finished_parts_are_not_tokenised_again(jsonl, tmp_path, monkeypatch):
    read = []

    def spy(text):
        read.append(text)
        if len(read) == 25:
            raise KeyboardInterrupt
        return BYTES.encode(text)

    monkeypatch.setattr(prepare, "tokenizer", lambda name: Tokenizer("bytes", spy, BYTES.decode))
    monkeypatch.setattr(prepare, "BATCH", 1)
    with pytest.raises(KeyboardInterrupt):
        make(jsonl, out=tmp_path / "out", shard_tokens=1500, validation=0)
    done = sum(json.loads(p.read_bytes())["splits"]["train"]["texts"] for p in (tmp_path / "out/progress").glob("0*"))
    assert 10 < done < 25
    first, read[:] = read[:done], ["", *[""] * 24]
    shards = make(jsonl, out=tmp_path / "out", shard_tokens=1500, validation=0)
    assert first + read[25:] == WORDS == texts(shards.split("train"))


def interrupted(jsonl, out):
    """Leave a folder with a finished part and no manifest."""
    assert killed_at(50, lambda: make(jsonl, out=out, **LIFE))
    assert (out / "progress/00000.json").is_file()
    return out


@pytest.mark.parametrize("finished", [False, True])
def test_other_arguments_are_refused_and_each_is_named(jsonl, tmp_path, finished):
    out = tmp_path / "out"
    make(jsonl, out=out, **LIFE) if finished else interrupted(jsonl, out)
    before = content(out)
    words = r"validation: got 0\.2, it has 0\.1; limit_tokens: got 3, it has 4000.*delete it, or pass another --out"
    with pytest.raises(ValueError, match=words):
        make(jsonl, out=out, **LIFE | {"validation": 0.2, "limit_tokens": 3})
    assert content(out) | {"lock": b""} == before | {"lock": b""}
    jsonl.write_text(jsonl.read_text() + '{"text": "more"}\n')
    with pytest.raises(ValueError, match="source: got .*it has "):
        make(jsonl, out=out, **LIFE)


def test_a_source_that_changed_in_between(jsonl, tmp_path):
    out = interrupted(jsonl, tmp_path / "out")
    jsonl.write_text(jsonl.read_text().replace("word1 ", "WORD1 ", 1))  # as long as before
    with pytest.raises(ValueError, match="got another text than . finished parts were made of"):
        make(jsonl, out=out, **LIFE)


def test_a_finished_folder_is_opened_and_not_made_again(jsonl, tmp_path, monkeypatch):
    shards = make(jsonl, out=tmp_path / "out", **LIFE)
    monkeypatch.setattr(prepare, "encode", None)
    assert make(jsonl, out=tmp_path / "out", **LIFE) == shards


def test_two_at_once_and_a_folder_of_something_else(jsonl, tmp_path):
    (tmp_path / "out/progress").mkdir(parents=True)
    with FileLock(tmp_path / "out/progress/lock"), pytest.raises(OSError, match="got another process at work there"):
        make(jsonl, out=tmp_path / "out")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/train-00000.bin").write_text("mine")
    with pytest.raises(ValueError, match="got a folder with something else in it"):
        make(jsonl, out=tmp_path / "home")
    assert (tmp_path / "home/train-00000.bin").read_text() == "mine"


def test_a_full_disk(jsonl, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.EDQUOT, "quota")

    with monkeypatch.context() as patch:
        patch.setattr(prepare._Shard, "_write", full)
        with pytest.raises(OSError, match=r"got no room in .*out: the disk or your quota is full.*the same command"):
            make(jsonl, out=tmp_path / "out", **LIFE)
    assert not list((tmp_path / "out").glob("*.part")), "no unfinished file takes room"
    make(jsonl, out=tmp_path / "out", **LIFE)


def test_two_processes_killed_and_run_again_make_what_one_makes(jsonl, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "BATCH", 2000)  # many small batches
    jsonl.write_text(jsonl.read_text() * 200)
    line = "from titans_mini.data import prepare as p; p.BATCH = 2000; p.main()"
    command = [sys.executable, "-c", line, str(jsonl), "--out", str(tmp_path / "out"), "--tokenizer", "bytes"]
    process = subprocess.Popen([*command, "--jobs=2", "--shard-tokens=50000"], stdout=subprocess.DEVNULL)
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/progress/00001.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    workers = open(children).read().split() if os.path.exists(children) else []
    process.kill()
    process.wait()
    while any(running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert time.monotonic() < deadline, "workers end with the process that started them"
    assert not (tmp_path / "out/manifest.json").exists(), "too fast to be killed: give it more text"
    again = make(jsonl, out=tmp_path / "out", shard_tokens=50_000, jobs=2)
    assert content(again.folder) == content(make(jsonl, out=tmp_path / "whole", shard_tokens=50_000).folder)


def running(process):
    """Tell whether a process runs; one that ended and that nobody has asked about yet does not."""
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_that_dies_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "ProcessPoolExecutor", DeadPool)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ChildProcessError, match="got a worker that died.*fewer --jobs"):
        make(tmp_path / "a.txt", jobs=2)


class DeadPool:
    def __init__(self, *_):
        pass

    def submit(self, *_):
        raise BrokenProcessPool

    def shutdown(self, **_):
        pass


def test_everything_is_on_the_disk_before_it_gets_its_name(jsonl, tmp_path, monkeypatch):
    steps = []
    real = os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: steps.append(os.fstat(handle).st_ino))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append(("rename", os.stat(a).st_ino, str(b))), real(a, b)))
    out = make(jsonl, out=tmp_path / "out", **LIFE).folder
    renames = [i for i, step in enumerate(steps) if isinstance(step, tuple)]
    assert len(renames) > 10 and all(steps[i][1] in steps[:i] for i in renames)
    assert steps[-2][2] == str(out / "manifest.json") and steps[-1] == out.stat().st_ino


# -- the command and Hugging Face -----------------------------------------------------------------------------------


def test_the_command_line(jsonl, tmp_path, capsys):
    arguments = [str(jsonl), "--tokenizer", "bytes", "--jobs", "1", "--limit-tokens", "1000"]
    prepare.main(arguments)
    said = capsys.readouterr().out
    assert "tokens, " in said and "words: train Tokens(1,000 tokens" in said and "vocabulary 256 (bytes)" in said
    with pytest.raises(SystemExit, match="prepare: .*limit_tokens: got 5, it has 1000"):
        prepare.main([*arguments[:-1], "5"])


def test_a_tokenizer_of_hugging_face(jsonl, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="needs the extra `prepare`")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    raw.train_from_iterator(WORDS, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(tmp_path / "mine")
    jsonl.write_text(jsonl.read_text() + '{"text": "a</s>b"}\n')
    shards = make(jsonl, tokenizer=str(tmp_path / "mine"), validation=0)
    got = texts(shards.split("train"), lambda ids: fast.decode(ids.tolist()))
    assert got == [f"{text}</s>" for text in [*WORDS, "a</s>b"]]
    ids = shards.split("train")[:].tolist()
    assert ids.count(1) == len(WORDS) + 1, "a text that spells the separator does not end there"
    assert (shards.tokenizer, shards.vocab_size) == ("mine", len(fast)) and str(tmp_path) not in str(shards.manifest)
    with pytest.raises(OSError):
        make(jsonl, out=tmp_path / "no", tokenizer=str(tmp_path / "nothing"))
