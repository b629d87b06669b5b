"""The benchmarks count and compare rightly. Nothing here depends on how fast the machine is."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import titans_mini
from benchmarks import __main__ as command
from benchmarks import against, cases, forms, gate, measure, report, stream
from tests.helpers import difference
from titans_mini import MemoryNet
from titans_mini.notebook import COMMANDS, load_results
from tools import notebooks

CHECKED = ("chunked", "online")  # against the definition, "recurrence"

needs_peer = pytest.mark.skipif(
    forms.titans_pytorch() is None, reason="titans-pytorch is not installed: pip install -e '.[bench]'"
)


# -- the gate -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def errors():
    return gate.run_gate()


def test_the_gate_passes(errors):
    assert gate.failures(errors) == []
    for form in (*CHECKED, "chunked float32"):
        assert any(name.startswith(f"{form} =") for name in errors), form


@needs_peer
def test_titans_pytorch_per_token_equals_ours_on_its_own_queries_keys_values_and_gates(errors):
    names = [name for name in errors if cases.PER_TOKEN in name]
    assert len(names) == 4 and all(errors[name] <= gate.EXACT for name in names)


def wrong_sign(form):
    """Read −q: for a matrix the output changes its sign."""
    right = forms.OPERATORS[form]
    return lambda x, *rest: right([-x[0], *x[1:]], *rest)


def wrong_gradient(form):
    """The right output, and half of the gradient at v."""
    right = forms.OPERATORS[form]
    return lambda x, *rest: right([*x[:2], x[2] * 0.5 + x[2].detach() * 0.5, *x[3:]], *rest)


@pytest.mark.parametrize("mistake", [wrong_sign, wrong_gradient])
@pytest.mark.parametrize("form", CHECKED)
def test_the_gate_can_fail(form, mistake):
    wrong = gate.failures(gate.run_gate({**forms.OPERATORS, form: mistake(form)}))
    assert wrong and all(line.startswith(form) for line in wrong)


def test_nan_does_not_pass_the_gate():
    assert gate.failures({"chunked = recurrence": math.nan})


def test_nothing_is_timed_or_printed_when_the_gate_fails(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gate, "run_gate", lambda: {"chunked = recurrence, matrix": 0.5})
    monkeypatch.setattr(command, "measure_sweep", lambda *_: pytest.fail("it was timed"))
    assert command.main(["--quick", "--json", str(tmp_path / "x.json")]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "error 5.0e-01" in printed.err
    assert not list(tmp_path.iterdir())


def test_a_memory_that_diverges_is_not_timed():
    with pytest.raises(ValueError, match="not finite"):
        command.check_finite(cases.Case("main", "chunked"), forms.Work(lambda: torch.tensor([1.0, math.nan]), []))


# -- what is counted ------------------------------------------------------------------------------------------------


IN_PLACE = {torch.ops.aten.baddbmm_: lambda z, a, b, **_: 2 * a[0] * a[1] * a[2] * b[2]}  # unknown to PyTorch


def torchs_count(case):
    """What PyTorch counts in a forward pass."""
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        forms.build(case).call("forward")
    return counter.get_total_flops()


@pytest.mark.parametrize("C", [16, 64, 128])
def test_the_formula_against_torchs_own_count(C):
    """Of the matrix case, whose products are all that either counts; within 1 %."""
    case = cases.Case("main", "chunked", "matrix", T=512, C=C)
    assert torchs_count(case) == pytest.approx(cases.flops(case, "forward"), rel=0.01)


def test_the_formula_by_hand_and_for_attention():
    D, C = 64, 64
    assert cases.per_token(MemoryNet(D, 1, residual=False, norm=False), C) == 10 * D * D + 4 * C * D
    attention = cases.Case("main", "sdpa", T=256)
    assert cases.flops(attention, "forward") == 4 * (2 * 2 * 256 * 256 * 64) // 2  # two products, half of them masked
    assert cases.flops(cases.Case("main", "recurrence", "matrix"), "forward") is None


def test_peak_memory_sees_what_a_call_takes():
    if not measure.STATUS.exists():
        pytest.skip("no /proc/self/status: peak memory is measured on Linux")
    long = cases.Case("main", "recurrence", "matrix", T=256)
    few, many = (measure.peak_apart(replace(long, T=T)) for T in (128, 256))
    assert many - few > 128 * 4 * 64 * 64 * 4  # at least one float32 matrix per token and head


# -- the results ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A smoke run in a process of its own, as a reader starts it."""
    path = tmp_path_factory.mktemp("benchmarks") / "quick.json"
    words = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(path)]
    done = subprocess.run(words, cwd=notebooks.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text(encoding="utf-8")), done.stdout, path


def test_a_quick_run_answers_every_question(quick):
    """Lengths are scaled, and the questions still find their rows."""
    results, printed, path = quick
    assert {"hardware", "date", "commit", "command", "gate", "bars", "rows"} == set(results)
    silent = [bar["what"] for bar in results["bars"] if bar["number"] is None]
    needs = ["titans-pytorch"] if forms.titans_pytorch() is None else []
    needs += [] if measure.STATUS.exists() else ["KiB"]
    assert all(any(word in what for word in needs) for what in silent), silent
    assert len(results["bars"]) == 15 and ("not measured" in printed) == bool(silent)
    assert path.with_suffix(".txt").read_text(encoding="utf-8") == printed
    assert path.with_name("speed_T.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_bars_compare_in_the_right_direction():
    rows = [{"provider": "a", "seconds": 3.4}, {"provider": "b", "seconds": 1.0}, {"provider": "c", "seconds": None}]

    def verdict(sense, top="a"):
        number = lambda rows: cases.find(rows, provider=top) / cases.find(rows, provider="b")  # noqa: E731
        return cases.Question("", sense, 3.5, number).verdict(rows)

    assert verdict("≤")["reached"] is True and verdict("≥")["reached"] is False and verdict("≤")["number"] == 3.4
    assert verdict("≤", "c")["number"] is None and verdict("≤", "d")["reached"] is None
    assert cases.Question("", "≤", 1, lambda _: math.nan).verdict(rows)["reached"] is False


def test_every_question_finds_its_own_rows():
    """With made-up times, every number is known: nothing is compared with a row of another size."""
    rows = []
    for case in cases.cases():
        seconds = 1e-6 * case.B * case.T * {"sdpa": case.T / 1024, "online": 2, "chunked": 1}.get(case.provider, 3)
        seconds *= 1 if case.provider != cases.LAYER else 0.5
        for which in case.passes:
            peak = 5000.0 * case.T if cases.weighed(case, which) else None
            rows.append(case.row() | {"pass": which, "seconds": seconds, "peak_bytes": peak})
    numbers = [question.verdict(rows)["number"] for question in cases.questions()]
    kept = 5000 / 4 / 1024
    expected = [4, 16, 4, 16, 2, 2, 2, 3, 3, 1, 1, kept, kept, 2]
    assert numbers[:-1] == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.endswith("_cpu")])
def test_recorded_results_load_and_say_where_they_are_from(name):
    results = load_results(name)
    assert set(results["hardware"]) == {"cpu", "torch", "threads"} and all(results["hardware"].values())
    assert results["commit"] and results["command"].startswith(COMMANDS[name].split(" --json")[0])
    assert len(results["date"]) == len("2026-01-01")


def test_the_record_has_every_case_and_passed_its_gate():
    results = load_results("speed_cpu")
    assert results["gate"] and gate.failures(results["gate"]) == []
    assert any(cases.PER_TOKEN in name for name in results["gate"])  # titans-pytorch was there
    asked = [case.row() | {"pass": which} for case in cases.cases() for which in case.passes]
    assert [{key: row[key] for key in asked[0]} for row in results["rows"]] == asked
    assert all(row["seconds"] > 0 for row in results["rows"])
    assert all(bar["number"] is not None for bar in results["bars"])
    text = (notebooks.ROOT / "assets" / "results" / "speed_cpu.txt").read_text(encoding="utf-8")
    assert text.strip() == report.table(results).strip()


def test_the_recorded_picture_is_drawn_from_the_recorded_numbers(tmp_path):
    report.picture(load_results("speed_cpu"), tmp_path / "speed_T.svg")
    drawn, recorded = (
        (folder / "speed_T.svg").read_text(encoding="utf-8") for folder in (tmp_path, notebooks.ROOT / "assets")
    )
    assert report.origin(load_results("speed_cpu")) in recorded and drawn.startswith("<?xml")


def test_a_copy_without_history_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.delenv("TITANS_COMMIT", raising=False)
    assert report.commit().startswith("unknown")
    monkeypatch.setenv("TITANS_COMMIT", "abc1234")
    assert report.commit() == "abc1234"


def test_a_name_without_results_says_where_it_looked():
    with pytest.raises(FileNotFoundError, match="speed_cpu.*assets"):
        load_results("no_such_results")


def test_a_missing_file_names_the_command_that_makes_it(monkeypatch, tmp_path):
    monkeypatch.setattr("titans_mini.notebook.FOLDERS", (tmp_path,))
    with pytest.raises(FileNotFoundError, match="python -m benchmarks.stream"):
        load_results("stream_cpu")


def test_every_package_is_in_the_wheel():
    """The list in pyproject.toml is written by hand: assets/ has to be mapped into the package."""
    text = (notebooks.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = {path.parent for path in (notebooks.ROOT / "titans_mini").rglob("*.py")}
    names = [".".join(path.relative_to(notebooks.ROOT).parts) for path in found]
    missing = [name for name in [*names, "titans_mini.assets.results"] if f'"{name}",' not in text]
    assert not missing, missing


# -- against an earlier commit --------------------------------------------------------------------------------------


def test_an_earlier_engine_is_timed_beside_ours(tmp_path):
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=notebooks.ROOT, capture_output=True).returncode:
        pytest.skip("no git history here, so no earlier commit")
    path = tmp_path / "against.txt"
    words = [sys.executable, "-m", "benchmarks.against", "HEAD", "--quick", "--out", str(path)]
    done = subprocess.run(words, cwd=notebooks.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = path.read_text(encoding="utf-8").splitlines()
    for case in against.CASES:
        (line,) = (line for line in lines if line.startswith(f"{case.name:20}{case.C:4}"))
        numbers = [float(x) for x in line[24:].split()]  # three times then, now, ratio
        assert len(numbers) == 9 and all(math.isfinite(x) and x > 0 for x in numbers), line


def test_engines_that_differ_are_found():
    wrong = SimpleNamespace(**vars(titans_mini))
    wrong.neural_memory = lambda q, *rest, **options: titans_mini.neural_memory(-q, *rest, **options)
    found = against.differences({"then": wrong, "now": titans_mini})
    assert len(gate.failures(found)) == len(found) == len(against.CASES)
    same = against.differences({"then": titans_mini, "now": titans_mini})
    assert set(same.values()) == {0.0}


def test_living_tensors_are_counted():
    x = torch.zeros(1000)
    with against.Alive([x]) as alive:
        y = x + 1  # 4,000 bytes
        z = y[:10]  # and a view of them
        del y
        w = x.view(10, 100) * 2  # 4,000 more: z keeps those of y
        del z, w
        assert (alive.now, alive.peak) == (0, 8000)


# -- the stream -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demonstration():
    return stream.demonstrate(2_000, rounds=2)


def test_the_stream_has_a_state_of_constant_size(demonstration):
    for way in ("token_by_token", "in_calls_of_64"):
        positions = [record["position"] for record in demonstration[way]]
        assert positions == [100, 215, 464, 1000, 2000]
        assert len({record["state_bytes"] for record in demonstration[way]}) == 1
    assert demonstration["step"]["early"] == 1000 and demonstration["step"]["late"] == 2000


def test_the_stream_equals_one_call():
    """In float32, so to rounding; calls of 1, of 64, and one call."""
    reader = stream.Stream(stream.standard_library(2_000))
    with torch.no_grad():
        whole = reader.answers(2_000, 2_000)
        for size in (1, 64):
            assert difference(reader.answers(2_000, size), whole) < 1e-5


def test_the_stream_is_real_bytes_and_its_memory_learns_from_them():
    text = stream.standard_library(5_000)
    assert len(text) == 5_000 and len(text.unique()) > 30
    reader = stream.Stream(text)
    y, state = reader.call(None, 0, 5_000)
    guess = torch.einsum("td,vd->tv", y[0, 0], reader.table[:, 0]).argmax(-1)
    right = (guess[1_000:-1] == text[1_001:]).double().mean().item()
    most_common = (text == text.mode().values).double().mean().item()
    assert right > 0.9 * most_common
    assert state.position == 5_000 % stream.CHUNK
