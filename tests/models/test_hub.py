"""Models on disk and on the Hugging Face Hub: read strictly, from safetensors alone."""

import dataclasses
import json
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from titans_mini import TitansConfig, TitansLM
from titans_mini.models import pretrained

SIZES = {"dim": 16, "heads": 1, "layers": 1, "chunk_size": 4, "vocab_size": 20}


def build(**changes):
    torch.manual_seed(0)
    return TitansLM(TitansConfig("lmm", **SIZES | changes)).eval()


@pytest.fixture
def folder(tmp_path):
    build().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def same(model, other):
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lose_half(weights):
    for name in sorted(weights)[::2]:
        del weights[name]


def lose_the_table(weights):
    del weights["model.embedding.weight"]


def add_one(weights):
    weights["model.blocks.7.norm.weight"] = torch.zeros(16)


def reshape_one(weights):
    weights["model.norm.weight"] = torch.zeros(15)


def round_one(weights):
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int32)


def untie(weights):
    weights["model.head.weight"] = weights["model.embedding.weight"] + 1


CHANGES = [
    (lose_half, r"model\.safetensors: got \d+ tensor\(s\) that do not fit.*blocks\.0\.\S+ is missing"),
    (lose_the_table, r"model\.safetensors: got .*embedding\.weight is missing"),
    (add_one, r"model\.safetensors: got 1 tensor.*blocks\.7\.norm\.weight is unknown"),
    (reshape_one, r"model\.safetensors: got 1 tensor.*norm\.weight has shape \(15,\) instead of \(16,\)"),
    (round_one, r"model\.safetensors: got 1 tensor.*norm\.weight has torch\.int32 instead of floating point"),
    (untie, r"model\.safetensors: got 1 tensor.*head\.weight differs from embedding\.weight"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
@pytest.mark.parametrize("shelf", [False, True], ids=["from_pretrained", "pretrained"])
def test_weights_that_do_not_fit_are_refused(change, message, shelf, folder, monkeypatch):
    change_weights(folder, change)
    monkeypatch.setattr(pretrained, "FOLDERS", (folder.parent,))
    with pytest.raises(ValueError, match=message) as caught:
        pretrained.pretrained("model") if shelf else TitansLM.from_pretrained(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert caught.value.__context__ is None


def test_another_models_weights_are_refused(folder, tmp_path):
    build(layers=2).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"blocks\.1\.\S+ is unknown"):
        TitansLM.from_pretrained(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_whole(tied, tmp_path):
    model = build(tie_embeddings=tied)
    model.save_pretrained(tmp_path)
    again = TitansLM.from_pretrained(str(tmp_path))
    assert same(again, model) and not again.training and again.config == model.config
    assert (again.head.weight is again.embedding.weight) == tied


@pytest.mark.parametrize("kept", ["embedding.weight", "head.weight", "both"])
@pytest.mark.parametrize("prefix", ["model.", ""])
def test_a_tied_table_has_one_of_two_names(kept, prefix, folder):
    def change(weights):
        table = weights.pop("model.embedding.weight")
        names = ("embedding.weight", "head.weight") if kept == "both" else (kept,)
        weights |= {f"model.{name}": table.clone() for name in names}
        for name in list(weights):
            weights[prefix + name.removeprefix("model.")] = weights.pop(name)

    change_weights(folder, change)
    assert same(TitansLM.from_pretrained(folder), build())


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(file, folder):
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file}: got no such file, expected config.json and model.saf"):
        TitansLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"\xff"),
        ("config.json", b"[]"),
        ("config.json", b'{"config": 3}'),
        ("config.json", b'{"config": {"colour": 3}}'),
        ("config.json", b'{"config": {"dim": -3}}'),
        ("config.json", b'{"config": {"vocab_size": 1000000000000000}}'),
        ("config.json", b"[" * 100_000),
        ("model.safetensors", b""),
        ("model.safetensors", b"not weights"),
    ],
)
def test_a_broken_file_is_named(file, content, folder):
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"model/{file}: got "):
        TitansLM.from_pretrained(folder)


def test_no_pickle_is_opened(folder, monkeypatch):
    (folder / "model.safetensors").unlink()
    torch.save(build().state_dict(), folder / "pytorch_model.bin")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(folder))
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was opened"))
    for name in (folder, "user/model"):
        with pytest.raises(FileNotFoundError, match="model.safetensors"):
            TitansLM.from_pretrained(name)


def test_the_hub_is_asked_for_two_files_and_gets_the_options(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: (asked.append((a, k)), str(folder))[1])
    options = {"revision": "v1", "cache_dir": "there", "token": "t", "local_files_only": True, "force_download": True}
    assert same(TitansLM.from_pretrained("user/model", **options), build())
    ((name,), found) = asked[0]
    assert name == "user/model" and sorted(found.pop("allow_patterns")) == ["config.json", "model.safetensors"]
    assert found == options


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "a/b/c", "/a/b"])
def test_a_name_that_is_neither_folder_nor_model_is_refused(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("the Hub was asked"))
    with pytest.raises(FileNotFoundError, match=f"from_pretrained: got '{name}', expected a folder .* or user/model"):
        TitansLM.from_pretrained(name)


def test_an_unknown_option_is_refused(folder):
    with pytest.raises(TypeError, match="colour"):
        TitansLM.from_pretrained(folder, colour=3)


def test_a_folder_needs_safetensors_alone(folder):
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"  # importing it raises ImportError
        "from titans_mini import TitansLM\n"
        f"TitansLM.from_pretrained({str(folder)!r})\n"
        "try:\n    TitansLM.from_pretrained('user/model')\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "huggingface_hub" in done.stdout and "pip install" in done.stdout


def test_what_is_written_stays_what_it_was(folder):
    config = json.loads((folder / "config.json").read_text())["config"]
    assert config == json.loads(json.dumps(dataclasses.asdict(build().config)))
    assert all(name.startswith("model.") for name in load_file(folder / "model.safetensors"))
