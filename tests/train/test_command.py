"""The command line: what is wrong is said in one line before the first step, and nothing that was trained is lost."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from titans_mini import TitansConfig, TitansLM
from titans_mini.data.prepare import prepare
from titans_mini.train import __main__ as command
from titans_mini.train.checkpoint import CHECKPOINTS
from titans_mini.train.config import DataConfig, MachineConfig, TrainConfig

ROOT = Path(__file__).parent.parent.parent
TINY = ["--architecture.dim", "16", "--architecture.layers", "1", "--architecture.chunk_size", "8"]
TINY += ["--architecture.segment", "16", "--architecture.heads", "2", "--batch", "2", "--length", "32"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return command.main([*words])


def losses(folder):
    return json.loads((folder / "run.json").read_text())["history"]["losses"]


# -- a run from end to end ---------------------------------------------------------------------------------------------


def test_a_run_leaves_a_model_a_curve_a_card_and_its_configuration(here, capsys):
    assert run("mag-tiny", *TINY, "--steps", "4", "--evaluate-every", "2") == 0
    folder = here / "runs" / "mag-tiny"
    model = TitansLM.from_pretrained(folder)
    assert model.config.variant == "mag" and model.config.dim == 16 and len(losses(folder)) == 4
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert (
        TitansConfig(**{k: tuple(x) if isinstance(x, list) else x for k, x in resolved["architecture"].items()})
        == model.config
    )
    assert resolved["steps"] == 4 and resolved["betas"] == [0.9, 0.95] and resolved["data"] == "english"
    card = (folder / "README.md").read_text()
    assert "python -m titans_mini.train mag-tiny" in card and "More Information" not in card and "4 of 4" in card
    assert "<svg" in (folder / "loss.svg").read_text()
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4] and steps[0]["tokens_per_second"] > 0
    scores = [line["scores"]["loss"] for line in log if "scores" in line]
    assert len(scores) == 2 and all(1 < score < 10 for score in scores)
    out = capsys.readouterr()
    assert "parameters on 1 × cpu" in out.out and "step 4 of 4" in out.out and "validation loss" in out.err


def test_the_same_command_goes_on_and_a_finished_run_is_left_as_it_is(here):
    words = ["lmm-tiny", *TINY, "--out", "one", "--save-every", "2"]
    run(*words, "--steps", "4")
    found = losses(here / "one")
    run(*words, "--steps", "4")
    assert losses(here / "one") == found
    run("--config", "one/config.yaml", "--out", "two")
    assert losses(here / "two") == found


def test_yaml_and_options_make_one_configuration(here):
    (here / "a.yaml").write_text("model: lmm-tiny\nsteps: 7\nlr: 1e-3\narchitecture: {dim: 32}\nbetas: [0.8, 0.9]\n")
    assert command.parse(["--echo", "True"])[1].echo and not command.parse(["--echo", "False"])[1].echo
    run_config, data, config, machine = command.parse(
        ["--config", "a.yaml", "--steps", "3", "--final-lr", "0.2", "--echo"]
    )
    assert run_config.model == "lmm-tiny" and run_config.architecture == {"dim": 32} and data.echo
    assert (config.steps, config.lr, config.final_lr, config.betas) == (3, 1e-3, 0.2, (0.8, 0.9))


def test_every_field_has_a_comment_that_help_shows(capsys):
    for group in (command.RunConfig, DataConfig, TrainConfig, MachineConfig):
        assert set(command.comments(group)) == {f.name for f in dataclasses.fields(group)}
    assert run("--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "What is trained, and where it is kept:" in shown and "<class" not in shown
    for group in (DataConfig, TrainConfig, MachineConfig):
        assert all(" ".join(text.split()) in shown for text in command.comments(group).values())


def test_text_shards_and_streams_are_read(here):
    (here / "a.txt").write_text("a text that is long enough to cut pieces from it. " * 40, encoding="utf-8")
    assert run("mag-tiny", *TINY, "--data", "a.txt", "--out", "text", "--steps", "2") == 0
    (here / "b.txt").write_text("another text, shorter than the first one. " * 20, encoding="utf-8")
    prepare(["a.txt", "b.txt"], here / "shards", "bytes", validation=0.2, progress=False)
    for order in ("windows", "streams"):
        words = ["--data", "shards", "--order", order, "--out", order, "--steps", "2"]
        assert run("lmm-tiny", *TINY, *words) == 0
        assert len(losses(here / order)) == 2
    assert run("mac-tiny", *TINY, "--data", "recall", "--out", "recall", "--steps", "2") == 0


def test_nothing_of_this_machine_is_in_a_runs_files(here):
    secret = here / "private place"
    secret.mkdir()
    (secret / "a.txt").write_text("a text that is long enough to cut pieces from it. " * 40, encoding="utf-8")
    assert run("lmm-tiny", *TINY, "--data", str(secret / "a.txt"), "--out", str(here / "run"), "--steps", "2") == 0
    for path in (here / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for word in (str(here), "private place", os.environ.get("HOME", "/nonexistent")):
                assert len(word) < 4 or word.encode() not in content, f"{path}: {word}"


def test_nor_in_what_is_said_of_a_damage_nor_in_the_command(here, capsys):
    words = ["lmm-tiny", *TINY, f"--out={here / 'run'}", "--steps", "4", "--save-every", "2"]
    assert run(*words) == 0
    (here / "run" / CHECKPOINTS / "00000004" / "model.safetensors").write_bytes(b"lost")
    capsys.readouterr()
    assert run(*words) == 0
    assert str(here) in capsys.readouterr().err  # on the screen it helps
    log, card = ((here / "run" / name).read_text() for name in ("log.jsonl", "README.md"))
    assert "damaged" in log and str(here) not in log + card and "--out=run --steps" in card


def test_of_several_processes_one_prints_the_plan(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert run("lmm-tiny", *TINY, "--dry-run") == 0
    assert capsys.readouterr().out.count("FLOPs per token") == 1


def test_nothing_is_pickled():
    """Neither by us nor by what we call."""
    code = (
        "import pickle, sys, torch\n"
        "def no(*_, **__): raise AssertionError('pickle')\n"
        "for name in ('dump', 'dumps', 'load', 'loads'): setattr(pickle, name, no)\n"
        "torch.save = torch.load = no\n"
        "from titans_mini.train.__main__ import main\n"
        "for _ in range(2): assert main(sys.argv[1:]) == 0\n"
    )
    words = ["lmm-tiny", *TINY, "--steps", "2", "--save-every", "1"]
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sources = [path.read_text() for path in (ROOT / "titans_mini").rglob("*.py") if path.name != "testing.py"]
    assert not any(re.search(r"torch\.(load|save)\(|^import pickle", source, re.M) for source in sources)


# -- what is wrong is said before the first step -----------------------------------------------------------------------

WRONG = {
    ("mac-tinny",): "model: got 'mac-tinny', expected variant-size: did you mean mac-tiny?",
    ("--lenght", "3"): "lenght: got an option that is not known, expected one of --help: did you mean length?",
    ("--lr", "fast"): "lr: Expected a <class 'float'>. Got value: fast",
    ("--steps", "0"): "steps: got 0, expected a number ≥ 1",
    ("--order", "stream"): "order: got 'stream', expected one of ['windows', 'streams']: did you mean streams?",
    ("--architecture.dmi", "3"): "architecture: got 'dmi', expected a field of TitansConfig: did you mean dim?",
    ("--architecture.heads", "7"): "heads: got 7 for dim 64",
    ("--device", "cuda:7"): "device: got 'cuda:7', expected one of this machine",
    ("--device", "gpu"): "device: got 'gpu', expected auto, cpu, cuda",
    ("--data", "englsh"): "did you mean english?",
    ("--data", "fineweb-edu"): "python -m titans_mini.data.prepare fineweb-edu",
    ("--length", "1000000"): "more tokens than length",
    ("--order", "streams", "--length", "100"): "length: got 100 with order streams, expected a multiple of 256",
    ("--drill", "3"): "drill: got 3 without echo",
    ("--config", "none.yaml"): "config: File does not exist",
    ("--out", "a-file/run"): "a-file/run: Not a directory",
    ("--accumulate", "0"): "accumulate: got 0",
    ("--device", "meta"): "device: got 'meta', expected auto, cpu, cuda",
    ("--device", "xpu"): "device: got 'xpu', expected auto, cpu, cuda",
    ("--seed", "18446744073709551616"): "seed: got 18446744073709551616, expected a number <",
    ("-steps", "3"): "did you mean steps?",
    ("--echo", "--order", "streams"): "order: got streams with echo, expected windows",
    ("--data", "recall", "--order", "streams"): "order: got streams with recall, expected windows",
    ("--data", "recall", "--echo"): "echo: got data 'recall', expected a text of bytes",
    ("--data", "a-file"): "data: got a-file without a single byte, expected a text",
    ("--validation", "0", "--evaluate-every", "2"): "evaluate_every: got 2, expected 0, more text",
    ("--dry-run", "--gpu", "h1000"): "gpu: got 'h1000', expected one of",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_is_wrong_is_said_in_one_line(words, here, capsys):
    (here / "a-file").write_text("")
    assert run(*words) == 2
    out = capsys.readouterr()
    assert WRONG[words] in out.err and out.err.startswith("titans_mini.train: ") and out.err.count("\n") == 1, out.err
    assert "step 1" not in out.out and not (here / "runs" / "mac-tiny" / CHECKPOINTS).exists()


def test_a_value_that_is_nothing_is_said_to_be_wrong(here, capsys):
    (here / "a.yaml").write_text("seed: null\nfinal-lr: 0.2\n")
    assert run("--config", "a.yaml") == 2 and "final-lr: got an option that is not known" in capsys.readouterr().err
    (here / "a.yaml").write_text("seed: null\n")
    assert run("--config", "a.yaml") == 2 and "seed: got None, expected a number" in capsys.readouterr().err


def test_a_missing_compiler_is_named(here, capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert run("lmm-tiny", *TINY, "--compile") == 2
    assert "compile: got no C++ compiler no-such-compiler" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_command_that_installs_them(here, capsys, monkeypatch):
    right = command.importlib.util.find_spec
    monkeypatch.setattr(
        command.importlib.util, "find_spec", lambda name: None if name == "safetensors" else right(name)
    )
    assert run("lmm-tiny") == 2
    assert "got no safetensors, expected the extra that trains: pip install -e '.[train]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--batch", "4"], "data.batch: got 4, expected 2"),
        (["--data", "b.txt"], "data.digest: got"),
        (["--architecture.read", "before"], "model.read: got 'before', expected 'after'"),
        (["--steps", "9"], "train.steps: got 9, expected 3"),
        (["--lr", "1e-3", "--seed", "4"], "train.lr: got 0.001, expected 0.0004; train.seed: got 4, expected 0"),
    ],
)
def test_another_run_is_not_written_over(more, said, here, capsys):
    for name in "ab":
        (here / f"{name}.txt").write_text(f"a text {name} that is long enough to cut pieces from it. " * 40)
    words = ["lmm-tiny", *TINY, "--out", "one", "--steps", "3", "--data", "a.txt"]
    assert run(*words) == 0
    before = (here / "one" / "run.json").read_bytes()
    capsys.readouterr()
    assert run(*words, *more) == 2
    assert said in capsys.readouterr().err and (here / "one" / "run.json").read_bytes() == before
    forced = run(*words, *more, "--force")
    assert forced == (2 if "model" in said else 0)


# -- nothing is lost ---------------------------------------------------------------------------------------------------


def start(folder, variant, processes, steps, *more):
    """Start a run in processes of its own, as a user would."""
    words = [*TINY, "--steps", str(steps), "--save-every", "1", "--log-every", "1", "--out", str(folder), *more]
    launch = [sys.executable, "-m", "titans_mini.train", f"{variant}-tiny", *words]
    if processes > 1:
        many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        launch = [sys.executable, *many, "-m", "titans_mini.train", f"{variant}-tiny", *words]
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    return subprocess.Popen(
        launch, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def kill_series(folder, variant, processes, kills, steps=40):
    """Kill a run again and again at random moments, then let it end."""
    rng = random.Random(f"{variant} {processes}")
    for _ in range(kills):
        process = start(folder, variant, processes, steps)
        for line in process.stdout:
            if line.startswith("step "):  # it is training, and saving every step
                break
        time.sleep(rng.random() * 0.5)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    finish(start(folder, variant, processes, steps))
    return losses(folder)


SERIES = [("lmm", 1, 1), ("mac", 1, 1), ("mac", 2, 1)]
LONG = [(variant, processes, 20) for variant in ("lmm", "mac") for processes in (1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "processes", "kills"), [*SERIES, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG)]
)
def test_killed_at_any_moment_a_run_ends_as_if_nothing_had_been(variant, processes, kills, here):
    finish(start(here / "whole", variant, processes, 40, "--save-every", "0"))
    expected, found = losses(here / "whole"), kill_series(here / "killed", variant, processes, kills)
    if processes == 1:
        assert found == expected
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not list((here / "killed" / CHECKPOINTS).glob("*.part"))


def test_a_second_interrupt_stops_at_once_in_one_line(here, capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.Trainer, "run", interrupted)
    assert run("lmm-tiny", *TINY) == 128 + signal.SIGINT
    said = capsys.readouterr().err
    assert "goes on from the last checkpoint" in said and said.count("\n") == 1


@pytest.mark.parametrize(("ends", "again"), [("fails", False), ("told", True)])
def test_slurm_queues_a_run_again_that_was_told_to_stop_and_none_that_failed(ends, again, here):
    """With stand-ins for Slurm's commands that note their call; the signal does not go to srun, which would kill."""
    waits = "trap 'exit 1' USR1; echo $$ > pid; for i in $(seq 300); do sleep 0.1; done"
    stands = {
        "srun": "exit 1" if ends == "fails" else waits,
        "scontrol": '[ "$1" = show ] && echo node0',
        "scancel": "kill -USR1 $(cat pid)",
    }
    for name, does in stands.items():
        (here / name).write_text(f'#!/bin/bash\necho "{name} $*" >> calls\n{does}\n')
        (here / name).chmod(0o755)
    env = dict(os.environ, PATH=f"{here}:{os.environ['PATH']}", SLURM_JOB_NODELIST="n", SLURM_JOB_ID="7")
    env |= {"SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "32"}
    job = subprocess.Popen(["bash", ROOT / "tools" / "train.sbatch", "mac-340m", "--precision", "float32"], env=env)
    while ends == "told" and not (here / "pid").exists():
        time.sleep(0.05)
    job.terminate() if ends == "told" else None
    assert job.wait(timeout=30) == 1
    calls = (here / "calls").read_text()
    assert ("scontrol requeue 7" in calls) == ("scancel --signal=TERM 7" in calls) == again
    assert "--cpus-per-task=32" in calls and calls.index("--precision bfloat16") < calls.index("--precision float32")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_saves_and_says_how_to_go_on(number, here):
    process = start(here / "run", "lmm", 1, 5000, "--save-every", "0")
    for line in process.stdout:
        if line.startswith("step 5 "):
            break
    process.send_signal(number)
    rest = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number
    step = int(re.search(r"stopped after step ([\d,]+); the same command goes on", rest)[1].replace(",", ""))
    assert [path.name for path in (here / "run" / CHECKPOINTS).iterdir()] == [f"{step:08d}"]
    assert "Traceback" not in rest and (here / "run" / "README.md").exists()
