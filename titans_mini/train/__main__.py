"""Train a language model, on a laptop or on many GPUs; a run that was interrupted goes on where it stopped.

python -m titans_mini.train mac-tiny
torchrun --nproc-per-node 8 -m titans_mini.train mac-340m --data fineweb-edu --batch 256 --length 4096
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch

from titans_mini.models.config import SIZES, VARIANTS, TitansConfig
from titans_mini.models.titans import TitansLM
from titans_mini.train.checkpoint import CHECKPOINTS, INSTALL
from titans_mini.train.config import DataConfig, MachineConfig, RunConfig, TrainConfig, nearest
from titans_mini.train.loop import Trainer
from titans_mini.train.reading import Reading, open_data
from titans_mini.train.reporter import CARD, PICTURE, Reporter, Screen, card, draw, trackers
from titans_mini.train.team import Team

NEEDED = ("jsonargparse", "yaml", "safetensors", "matplotlib")  # of the extra `train`
TRACKERS = {"tensorboard": "tensorboard", "trackio": "trackio"}  # option → package
CONFIG = "config.yaml"
PRESETS = [f"{variant}-{size}" for variant in VARIANTS for size in ("tiny", *SIZES)]


GROUPS = (RunConfig, DataConfig, TrainConfig, MachineConfig)


def main(arguments: list[str] | None = None) -> int:
    """Train; write checkpoints, log, curve, README and in the end the model to the folder of the run.

    Args:
        arguments: command-line arguments; default sys.argv[1:].

    Returns:
        The exit status: 0; 2 if something was wrong before the first step; 1 if training failed; 128 and the number of
        the signal that ended it early.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    first = int(os.environ.get("RANK", 0)) == 0
    try:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(f"packages: got no {', '.join(missing)}, expected the extra that trains: {INSTALL}")
        run, data, config, machine = parse(arguments)
        model_config = build_config(run, data)
        if run.dry_run:
            text = dry_run(run, model_config, data, config, machine)
            print(text if first else "", end="")
            return 0
        trainer, reading = prepare(run, model_config, data, config, machine, arguments)
    except SystemExit as leave:  # --help
        return int(leave.code or 0)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        complain(error)
        return 2
    try:
        history = trainer.run()
        if first:
            finish(trainer, reading, machine, arguments)
            if trainer.stopped_by:
                print(f"stopped after step {trainer.done:,}; the same command goes on from there")
            elif history.losses:
                smooth = history.smooth()[-1]
                print(f"loss {history.losses[0]:.3f} → {smooth:.3f} in {history.seconds:.0f} s; {trainer.folder}")
        trainer.team.meet()  # the first process has written everything
    except (FloatingPointError, OSError) as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        complain(KeyboardInterrupt("stopped at once; the same command goes on from the last checkpoint"))
        return 128 + signal.SIGINT
    finally:
        trainer.close()
        trainer.team.leave()
    return 128 + trainer.stopped_by if trainer.stopped_by else 0


# -- the command line --------------------------------------------------------------------------------------------------


def parse(arguments: list[str]) -> tuple[RunConfig, DataConfig, TrainConfig, MachineConfig]:
    """Read the command line, and the YAML that it may name.

    Raises:
        ValueError: for the first thing that is wrong, in one line.
    """
    import jsonargparse

    parser = build_parser()
    try:
        found = parser.parse_args(list(plain_words(arguments)))
    except (jsonargparse.ArgumentError, SystemExit) as error:
        if isinstance(error, SystemExit):
            raise
        raise ValueError(explain(str(error))) from error
    found["model"] = found.pop("preset") or found["model"]
    return tuple(group(**{f.name: found[f.name] for f in dataclasses.fields(group)}) for group in GROUPS)


def plain_words(arguments: list[str]) -> Iterator[str]:
    """Yield the words of a command line with underscores in the options, and a value for every switch."""
    switches = {f.name for group in GROUPS for f in dataclasses.fields(group) if isinstance(f.default, bool)}
    for word, after in zip(arguments, [*arguments[1:], ""], strict=True):
        word = re.sub(r"^--[\w.-]+", lambda option: "--" + option[0][2:].replace("-", "_"), word)
        yield f"{word}=true" if word[2:] in switches and after.lower() not in ("true", "false") else word


def build_parser():
    """Make the command line from the dataclasses; the comments of their fields are its help."""
    import jsonargparse

    usage = "python -m titans_mini.train [model] [--config run.yaml] [--data …] [--steps …] …"
    parser = jsonargparse.ArgumentParser(
        prog="titans_mini.train", description=__doc__.splitlines()[0], exit_on_error=False, usage=usage
    )
    parser.add_argument("--config", action="config", help="options from a YAML file; those that follow win")
    parser.add_argument("preset", nargs="?", help="short for --model")
    for group in GROUPS:
        parser.add_class_arguments(group, None)
        for action in parser._actions:
            if action.dest in comments(group):
                action.help = comments(group)[action.dest]
    return parser


def comments(group: type) -> dict[str, str]:
    """Return the comment after each field of a dataclass."""
    return dict(re.findall(r"^    (\w+): .+?  # (.+)$", inspect.getsource(group), re.M))


def explain(message: str) -> str:
    """Say in one line what the parser found wrong, with the nearest right name."""
    known = [f.name for group in GROUPS for f in dataclasses.fields(group)]
    unknown = re.search(r"(?:unrecognized arguments: -+|Option '|Key ')([\w.-]+)", message, re.I)
    if unknown:
        return f"{unknown[1]}: got an option that is not known, expected one of --help{nearest(unknown[1], known)}"
    wrong = re.search(r'Parser key "([\w.]+)":\s*(.+)', message, re.S)
    return f"{wrong[1]}: {wrong[2]}" if wrong else message


def complain(error: BaseException) -> None:
    """Say in one line what is wrong; of several processes the first speaks for all that find the same."""
    rank = int(os.environ.get("RANK", 0))
    if rank:
        time.sleep(5)  # when the first process leaves with the same error, torchrun ends this one meanwhile
    who = f"titans_mini.train, process {rank}" if rank else "titans_mini.train"
    print(f"{who}: {one_line(error)}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks."""
    of_system = isinstance(error, OSError) and error.strerror
    text = (
        f"{error.filename}: {error.strerror}"
        if of_system and error.filename
        else error.strerror
        if of_system
        else error
    )
    return " ".join(str(text).split())


# -- before the first step ---------------------------------------------------------------------------------------------


def build_config(run: RunConfig, data: DataConfig, vocab_size: int | None = None) -> TitansConfig:
    """Return the model's configuration; the number of tokens is that of the data, unless it is given.

    Raises:
        ValueError: for an unknown preset or field, or a value that cannot be.
    """
    if run.model not in PRESETS:
        raise ValueError(f"model: got {run.model!r}, expected variant-size{nearest(run.model, PRESETS)}")
    known = [f.name for f in dataclasses.fields(TitansConfig)]
    for name in run.architecture:
        if name not in known:
            raise ValueError(f"architecture: got {name!r}, expected a field of TitansConfig{nearest(name, known)}")
    changes = {name: tuple(x) if isinstance(x, list) else x for name, x in run.architecture.items()}
    if vocab_size is not None:
        changes = {"vocab_size": vocab_size} | changes
    config = TitansConfig.preset(run.model, **changes)
    if vocab_size is not None and config.vocab_size < vocab_size:
        raise ValueError(f"vocab_size: got {config.vocab_size}, expected ≥ {vocab_size}, the tokens of the data")
    if data.order == "streams" and data.length % (
        whole := config.segment if config.variant == "mac" else config.chunk_size
    ):
        raise ValueError(f"length: got {data.length} with order streams, expected a multiple of {whole}: whole chunks")
    return config


def prepare(
    run: RunConfig,
    model_config: TitansConfig,
    data: DataConfig,
    config: TrainConfig,
    machine: MachineConfig,
    arguments: list[str],
) -> tuple[Trainer, Reading]:
    """Open data, devices and the run's folder, and build the model: whatever can be wrong is found here.

    Raises:
        ValueError, OSError, ImportError: in one line what is wrong, and what to do.
    """
    for option, package in TRACKERS.items():
        if getattr(machine, option) and importlib.util.find_spec(package) is None:
            raise ImportError(f"{option}: got no package {package}, expected it: pip install {package}")
    reading = open_data(data, config.seed)
    if reading.validation is None and config.evaluate_every:
        raise ValueError(
            f"evaluate_every: got {config.evaluate_every}, expected 0, more text or a larger validation: too little is "
            "kept apart for a batch"
        )
    model_config = build_config(run, data, reading.vocab_size)
    team = Team.join(machine.device, machine.parallel)
    cxx = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # what PyTorch calls
    if machine.compile and team.device.type == "cpu" and shutil.which(cxx) is None:
        raise ValueError(f"compile: got no C++ compiler {cxx}, expected one on the PATH, or its name in CXX")
    if data.batch % team.world:
        raise ValueError(f"batch: got {data.batch} for {team.world} processes, expected a multiple")
    folder = Path(run.out or Path("runs") / run.model)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = TitansLM(model_config)
    identity = {"data": {**asdict(data), "data": Path(data.data).name, "digest": reading.digest}}
    for free in ("evaluate_batches",):
        del identity["data"][free]
    reporter = Reporter()
    if team.rank == 0:
        resolved = resolve(run, model_config, data, config, machine)
        tell = trackers(machine.tensorboard, machine.trackio, folder, folder.name, resolved)
        reporter = Screen(folder, team.device, machine.log_every, *speed(model_config, data, team), tell)
    trainer = Trainer(
        model,
        reading.train,
        config,
        folder=folder,
        machine=machine,
        team=team,
        identity=identity,
        force=run.force,
        reporter=reporter,
    )
    if reading.validation is not None:
        trainer.evaluate = lambda _: {"loss": trainer.mean_loss(reading.validation, data.evaluate_batches)}
    if team.rank == 0:
        write_yaml(folder / CONFIG, resolved)
        print(
            f"{run.model}: {model.count_parameters():,} parameters on {team.world} × {team.device.type}, "
            f"{reading.facts['data']}",
            flush=True,
        )
    return trainer, reading


def speed(config: TitansConfig, data: DataConfig, team: Team) -> tuple[float, float]:
    """Return the operations of a token and those of the GPUs a second; zeros where a GPU is not known."""
    peak = team.world * peak_of(torch.cuda.get_device_name(team.device)) if team.device.type == "cuda" else 0.0
    if not peak:
        return 0.0, 0.0
    from titans_mini.train.plan import plan

    sizes = {"batch": team.world, "micro_batch": 1, "length": data.length, "steps": 1, "world": team.world}
    return plan(config, **sizes).forward_backward, peak


def peak_of(name: str) -> float:
    """Return the operations a second of a GPU by the name that CUDA gives it; 0 if it is not in our table."""
    from titans_mini.train.plan import GPUS

    plain = name.lower().replace(" ", "")
    return next((gpu.peak for key, gpu in GPUS.items() if key.split("-")[0] in plain), 0.0)


def resolve(run: RunConfig, model: TitansConfig, *others: Any) -> dict[str, Any]:
    """Return every option of a run with its value, without what belongs to this machine or this call."""
    options = {"model": run.model, "architecture": asdict(model)}
    for group in others:
        options |= asdict(group)
    options["data"] = Path(options["data"]).name if Path(options["data"]).exists() else options["data"]
    return {name: list(x) if isinstance(x, tuple) else x for name, x in options.items()}


def write_yaml(path: Path, options: dict[str, Any]) -> None:
    """Write options as YAML that --config reads."""
    import yaml

    plain = {k: list(x) if isinstance(x, tuple) else x for k, x in options["architecture"].items()}
    text = yaml.safe_dump(options | {"architecture": plain}, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def dry_run(run: RunConfig, model: TitansConfig, data: DataConfig, config: TrainConfig, machine: MachineConfig) -> str:
    """Return the arithmetic of the run as text: weights, operations, memory, days."""
    from titans_mini.train.plan import plan

    world = int(os.environ.get("WORLD_SIZE", 1))
    micro = -(-data.batch // world // config.accumulate)
    sizes = {"batch": data.batch, "length": data.length, "steps": config.steps, "micro_batch": max(1, micro)}
    where = {"world": world, "shard": machine.parallel == "fsdp", "gpu": run.gpu.lower() or None}
    how = {"precision": config.precision, "checkpoint_activations": machine.checkpoint_activations}
    return plan(model, **sizes, **where, **how).text()


# -- after the last step -----------------------------------------------------------------------------------------------


def finish(trainer: Trainer, reading: Reading, machine: MachineConfig, arguments: list[str]) -> None:
    """Write curve and README, and once the run is complete the model: what the last checkpoint holds."""
    folder, history = trainer.folder, trainer.history
    config = trainer.plain.config
    weights = sum(p.numel() for p in trainer.plain.parameters())
    facts = {
        "model": f"{config.variant}, {weights:,} parameters",
        **reading.facts,
        "steps": f"{trainer.done:,} of {trainer.config.steps:,}",
        "date": str(date.today()),
        "hardware": f"{trainer.team.world} × {hardware_name(trainer.team.device)}",
        "software": f"torch {torch.__version__}, Python {platform.python_version()}",
        "configuration": f"[{CONFIG}]({CONFIG})",
    }
    if history.losses:
        draw(history, folder / PICTURE)
    (folder / CARD).write_text(card(facts, history, command_line(arguments, trainer.team.world)), encoding="utf-8")
    if trainer.done < trainer.config.steps:
        return
    last = folder / CHECKPOINTS / f"{trainer.done:08d}"
    for name in ("model.safetensors", "config.json", "run.json"):
        if (last / name).exists():
            shutil.copyfile(last / name, folder / f".{name}.part")
            os.replace(folder / f".{name}.part", folder / name)


def hardware_name(device: torch.device) -> str:
    """Return the name of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", info.read_text(), re.M) if info.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def command_line(arguments: list[str], world: int) -> str:
    """Return the command of a run, with the names of files and without their folders."""
    parts = [word.rpartition("=") if word.startswith("--") else ("", "", word) for word in arguments]
    words = [option + sign + (Path(value).name if os.sep in value else value) for option, sign, value in parts]
    start = ["python"] if world == 1 else ["torchrun", "--nproc-per-node", str(world)]
    return shlex.join([*start, "-m", "titans_mini.train", *words])


if __name__ == "__main__":
    status = main()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # gloo's threads now and then abort a process on Python's way out
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
