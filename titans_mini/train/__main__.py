"""Train a model from the command line: python -m titans_mini.train --help."""

from __future__ import annotations

import argparse
import ast
import json
from dataclasses import asdict, fields
from pathlib import Path

import torch

from titans_mini.data.fetch import KNOWN, fetch
from titans_mini.data.recall import RecallTask
from titans_mini.data.text import english, to_bytes
from titans_mini.models.config import TitansConfig
from titans_mini.models.titans import TitansLM
from titans_mini.train.echo import Echo
from titans_mini.train.loop import TrainConfig, Trainer
from titans_mini.train.sources import Recall, Source, Windows


def parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    p = argparse.ArgumentParser(prog="python -m titans_mini.train", description="Train a TitansLM.")
    p.add_argument("--model", default="mac-tiny", help="a preset: variant-size, such as mag-tiny or mac-340m")
    texts = ", ".join(name for name, known in KNOWN.items() if known.path.startswith("text/"))
    p.add_argument("--data", default="english", help=f"english (ships with Python), recall, {texts}, or a text file")
    p.add_argument("--batch", type=int, default=16, help="sequences of a batch")
    p.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    p.add_argument("--echo", action="store_true", help="half of a batch repeats short pieces: teaches to memorize")
    p.add_argument("--drill", type=int, default=0, help="with --echo: first steps with nothing but nonsense repeated")
    p.add_argument("--out", type=Path, required=True, help="folder of this run; one that is there is continued")
    p.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of the model's TitansConfig")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for field in fields(TrainConfig):
        if field.name != "betas":
            option = "--" + field.name.replace("_", "-")
            p.add_argument(option, type=type(field.default), default=field.default, help=f"default {field.default}")
    return p


def read_text(name: str) -> str:
    """Read a text: the English that ships with Python, a known file, or a path.

    Raises:
        FileNotFoundError: if the name is none of these.
    """
    if name == "english":
        return english()
    if name in KNOWN:
        return fetch(name).read_text(encoding="utf-8")
    if Path(name).is_file():
        return Path(name).read_text(encoding="utf-8")
    raise FileNotFoundError(f"data: got {name!r}, expected 'english', 'recall', one of {sorted(KNOWN)}, or a file")


def build(options: argparse.Namespace) -> tuple[TitansLM, Source]:
    """Build the model and its source of batches.

    Args:
        options: the parsed command line.

    Returns:
        The model on its device, with weights that depend on the seed only, and the source of batches.
    """
    changes = dict(item.split("=", 1) for item in options.set)
    changes = {key: _parse_value(value) for key, value in changes.items()}
    sizes = (options.batch, options.length, options.seed)
    if options.data == "recall":
        task = RecallTask()
        changes = {"vocab_size": task.vocab_size} | changes
        source: Source = Recall(task, *sizes)
    else:
        ids = to_bytes(read_text(options.data)).to(torch.uint8)
        changes = {"vocab_size": 256} | changes
        source = Echo(ids, *sizes, drill=options.drill) if options.echo else Windows(ids, *sizes)
    torch.manual_seed(options.seed)
    return TitansLM(TitansConfig.preset(options.model, **changes)).to(options.device), source


def _parse_value(text: str) -> object:
    """Parse a Python literal (number, tuple, None, bool); return any other text unchanged."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(arguments: list[str] | None = None) -> None:
    """Train, and write checkpoint.pt, history.json and the model (config.json, model.safetensors) to a folder.

    Args:
        arguments: command-line arguments; default sys.argv[1:].
    """
    options = parser().parse_args(arguments)
    model, source = build(options)
    names = [field.name for field in fields(TrainConfig) if field.name != "betas"]
    config = TrainConfig(**{name: getattr(options, name) for name in names})
    print(f"{options.model}: {model.count_parameters():,} parameters on {options.device}, data {options.data}")
    history = Trainer(model, source, config, folder=options.out).run()
    record = {"train": asdict(config), "data": options.data, "batch": options.batch, "length": options.length}
    record |= {"echo": options.echo, "drill": options.drill}
    text = json.dumps(record | {"history": history.to_dict()}, indent=1)
    (options.out / "history.json").write_text(text + "\n", encoding="utf-8")
    model.save_pretrained(options.out)
    print(f"loss {history.losses[0]:.3f} → {history.smooth()[-1]:.3f} in {history.seconds:.0f} s; {options.out}")


if __name__ == "__main__":
    main()
