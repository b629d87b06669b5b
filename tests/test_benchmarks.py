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
from benchmarks import against, bars, cases, coefficients, flops, gate, memory, plots, providers, report, runs, stream
from benchmarks.materialised import decay_mask
from benchmarks.peers import titans_pytorch
from tests.helpers import difference
from titans_mini import MemoryNet
from titans_mini.memory.gates import coefficients as library_coefficients
from titans_mini.notebook import COMMANDS, load_results
from tools import notebooks

ROW = {"sweep", "provider", "net", "B", "H", "T", "D", "C", "depth", "pass"}
ROW |= {"seconds", "median", "spread", "flops", "share", "peak_bytes"}
HEAD = {"hardware", "date", "commit", "command", "gate", "bars", "rows", "sweeps"}
PROVIDERS = {"chunked", "online", "recurrence", "materialised", "sdpa", "product", cases.LAYER, *cases.PEERS}
PROVIDERS |= {form + cases.EVERY_CHUNK for form in ("chunked", "online")}

needs_peer = pytest.mark.skipif(
    titans_pytorch() is None, reason="titans-pytorch is not installed: pip install -e '.[bench]'"
)


# -- the gate -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def errors():
    return gate.run_gate()


def test_the_gate_passes(errors):
    assert gate.failures(errors) == []
    for form in (*providers.OPERATORS.keys() - {"recurrence"}, "chunked float32"):
        assert any(name.startswith(f"{form} =") for name in errors), form


@needs_peer
def test_titans_pytorch_per_token_equals_ours_on_its_own_queries_keys_values_and_gates(errors):
    names = [name for name in errors if cases.PER_TOKEN in name]
    assert len(names) == 4 and all(errors[name] <= gate.EXACT for name in names)


def wrong_sign(form):
    """Read −q: for a matrix the output changes its sign."""
    right = providers.OPERATORS[form]
    return lambda x, *rest: right([-x[0], *x[1:]], *rest)


def wrong_gradient(form):
    """The right output, and no gradient at v."""
    right = providers.OPERATORS[form]
    return lambda x, *rest: right([*x[:2], x[2] * 0.5 + x[2].detach() * 0.5, *x[3:]], *rest)


@pytest.mark.parametrize("mistake", [wrong_sign, wrong_gradient])
@pytest.mark.parametrize("form", sorted(providers.OPERATORS.keys() - {"recurrence"}))
def test_the_gate_can_fail(form, mistake):
    wrong = gate.failures(gate.run_gate({**providers.OPERATORS, form: mistake(form)}))
    assert wrong and all(line.startswith(form) for line in wrong)


def test_nan_does_not_pass_the_gate():
    assert gate.failures({"chunked = recurrence": math.nan})


def test_nothing_is_timed_or_printed_when_the_gate_fails(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gate, "run_gate", lambda **_: {"chunked = recurrence, matrix": 0.5})
    monkeypatch.setattr(command, "collect", lambda *_: pytest.fail("it was timed"))
    assert command.main(["--quick", "--json", str(tmp_path / "x.json")]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "error 5.0e-01" in printed.err
    assert not list(tmp_path.iterdir())


# -- what is counted ------------------------------------------------------------------------------------------------


IN_PLACE = {torch.ops.aten.baddbmm_: lambda z, a, b, **_: 2 * a[0] * a[1] * a[2] * b[2]}  # unknown to PyTorch


def torchs_count(case):
    """What PyTorch counts in a forward pass."""
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        providers.build(case).forward()
    return counter.get_total_flops()


@pytest.mark.parametrize("C", [16, 64, 128])
def test_the_formula_against_torchs_own_count(C):
    """Of the matrix case, whose products are all that either counts; within 1 %."""
    case = cases.Case("main", "chunked", "matrix", T=512, C=C)
    assert torchs_count(case) == pytest.approx(flops.flops(case, "forward"), rel=0.01)


def test_the_formula_for_a_matrix_by_hand():
    D, C = 64, 64
    assert flops.per_token(MemoryNet(D, 1, residual=False, norm=False), C) == 10 * D * D + 4 * C * D


def test_the_yardstick_and_attention_against_torchs_own_count():
    product = cases.Case("main", "product")
    assert torchs_count(product) == flops.flops(product, "forward")
    attention = cases.Case("main", "sdpa", T=256)
    assert flops.flops(attention, "forward") == 4 * (2 * 2 * 256 * 256 * 64) // 2  # two products, half of them masked


def test_decay_masks_multiply_what_lies_between():
    eta = torch.tensor([0.5, 0.0, 0.25, 1.0], dtype=torch.float64)
    expected = library_coefficients(torch.ones_like(eta), eta).n
    assert difference(decay_mask(eta), expected) == 0
    assert decay_mask(eta)[3].tolist() == [0.0, 0.25, 1.0, 1.0]


def test_coefficients_are_read_off_the_memory_itself():
    """The detour over a memory's answers gives G, n_C, b, f and m of the library's own function."""
    for alpha, eta in coefficients.gate_pairs(16).values():
        c = library_coefficients(alpha.double(), eta.double())
        G, n_end = coefficients.read_rows(alpha.double(), eta.double())
        starts = coefficients.read_starts(alpha.double(), eta.double())
        assert difference(G, c.G) < 1e-12 and difference(n_end, c.n[-1]) < 1e-12
        assert difference(starts, torch.cat([c.b, c.f, c.m[-1:]])) < 1e-12


def test_coefficients_in_single_precision():
    assert coefficients.worst_error((16, 1024)) <= 2e-6


def test_every_provider_of_every_sweep_can_be_built_small():
    for sweep in cases.SWEEPS:
        found = [case for case in cases.cases(sweep, cases.QUICK) if runs.installed(case)]
        assert {case.provider for case in found} <= PROVIDERS
        assert found[0].provider == "product"
    with pytest.raises(ValueError, match="expected one of"):
        cases.cases("width")


def test_peak_memory_sees_what_a_call_takes():
    if not memory.STATUS.exists():
        pytest.skip("no /proc/self/status: peak memory is measured on Linux")
    long = cases.Case("main", "materialised", "matrix", T=512)
    few, many = (memory.peak_apart(replace(long, T=T), "both", "cpu") for T in (128, 512))
    assert memory.peak_apart(cases.Case("main", "sdpa"), "forward", "cpu") >= 4 * 4096 * 64 * 4  # at least its output
    assert many - few > 384 * 4 * 64 * 64 * 4  # at least one float32 matrix per token and head


# -- the results file -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A smoke run in a process of its own, as a reader starts it."""
    path = tmp_path_factory.mktemp("benchmarks") / "quick.json"
    words = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(path)]
    done = subprocess.run(words, cwd=notebooks.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text(encoding="utf-8")), done.stdout, path


def test_a_quick_run_gives_every_key(quick):
    results, printed, path = quick
    assert set(results) == HEAD and set(results["hardware"]) == {"cpu", "torch", "threads"}
    assert all(set(row) == ROW for row in results["rows"])
    assert all(set(bar) == {"what", "bar", "number", "reached"} for bar in results["bars"])
    assert {row["sweep"] for row in results["rows"]} == set(cases.DEFAULT)
    assert {row["provider"] for row in results["rows"]} == PROVIDERS
    assert all((row["share"] is not None) <= (row["pass"] == "forward") for row in results["rows"])
    assert path.with_suffix(".txt").read_text(encoding="utf-8") == printed


def test_a_quick_run_can_answer_every_bar_on_time(quick):
    """Lengths are scaled, and the bars still find their rows."""
    later = ("memory", "decoding step") if titans_pytorch() else ("memory", "decoding step", "titans-pytorch")
    silent = [bar["what"] for bar in quick[0]["bars"] if bar["number"] is None]
    assert all(any(word in what for word in later) for what in silent), silent


def test_the_table_says_what_is_not_installed(quick):
    assert ("not installed" in quick[1]) == (titans_pytorch() is None)


def test_merging_keeps_what_a_run_did_not_measure():
    def row(**new):
        return dict.fromkeys(ROW) | {"sweep": "T", "provider": "chunked", "T": 4096} | new

    old = {"rows": [row(seconds=1.0), row(sweep="main", seconds=3.0)]}
    with_peak = report.merge(old, [row(peak_bytes=7)])
    again = report.merge({"rows": with_peak}, [row(seconds=2.0)])
    assert [(r["sweep"], r["seconds"], r["peak_bytes"]) for r in again] == [("main", 3.0, None), ("T", 2.0, 7)]


def test_every_sweep_keeps_its_own_commit():
    old = {"rows": [{"sweep": "main"}], "date": "1", "commit": "a", "command": "x", "hardware": {}}
    one = report.origins(old, {"date": "2", "commit": "b", "command": "y"}, "main", True)
    two = report.origins(old | {"sweeps": one}, {"date": "3", "commit": "c", "command": "z"}, "T", False)
    assert {what: o["commit"] for what, o in two.items()} == {"main": "a", "main, peak memory": "b", "T": "c"}


def test_results_of_another_machine_are_not_mixed_in(tmp_path):
    path = tmp_path / "x.json"
    report.write_json(path, {"hardware": {"cpu": "an abacus", "torch": "0", "threads": 1}})
    with pytest.raises(ValueError, match="abacus.*another file"):
        report.read(path, "cpu")
    assert report.read(tmp_path / "none.json", "cpu") == {}


def test_bars_compare_in_the_right_direction():
    keys = dict.fromkeys(ROW) | {"provider": "chunked", "net": "matrix", "sweep": "main", "T": 4096, "C": 64, "D": 64}
    rows = bars.Rows([keys | {"pass": "forward", "seconds": 1.0}, keys | {"pass": "both", "seconds": 3.4}])
    both, forward = (bars.Row("chunked", "matrix", which) for which in ("both", "forward"))
    most, least = (bars.Bar("", sense, 3.5, bars.ratio(both, forward)).verdict(rows) for sense in "≤≥")
    assert most["reached"] is True and least["reached"] is False and most["number"] == 3.4
    missing = bars.Bar("", "≤", 1, bars.ratio(both, both._replace(T=8))).verdict(rows)
    assert missing["number"] is None and missing["reached"] is None
    nothing = bars.Bar("", "≤", 1, lambda _: math.nan).verdict(rows)
    assert nothing["reached"] is False


def test_chunk_sizes_are_compared_at_the_faster_group_size():
    keys = dict.fromkeys(ROW) | {"net": "mlp4", "pass": "both", "sweep": "C", "T": 4096, "D": 64}
    kept = "chunked" + cases.EVERY_CHUNK
    seconds = {("chunked", 8): 9.0, (kept, 8): 7.0, ("chunked", 16): 4.0, (kept, 16): 5.0}
    seconds |= {("chunked", C): 2.0 for C in bars.CHUNK_SIZES[2:]}
    rows = bars.Rows([keys | {"provider": p, "C": C, "seconds": s} for (p, C), s in seconds.items()])
    verdicts = {bar.what: bar.verdict(rows)["number"] for bar in bars.over_chunk_sizes()}
    found = [verdicts[f"mlp4: C {C} over the best C, time, forward+backward"] for C in (8, 16, 256)]
    assert found == [3.5, 2.0, 1.0]


# -- what is recorded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.endswith("_cpu")])
def test_recorded_results_load_and_say_where_they_are_from(name):
    results = load_results(name)
    assert set(results["hardware"]) == {"cpu", "torch", "threads"} and all(results["hardware"].values())
    assert results["commit"] and results["command"].startswith(COMMANDS[name].split(" --json")[0])
    assert len(results["date"]) == len("2026-01-01")


def test_recorded_results_passed_the_gate():
    results = load_results("chunked_cpu")
    assert results["gate"] and gate.failures(results["gate"]) == []
    assert any(cases.PER_TOKEN in name for name in results["gate"])  # titans-pytorch was there
    assert all(set(row) <= ROW and row["seconds"] > 0 for row in results["rows"])


@pytest.mark.parametrize("sweep", cases.SWEEPS)
def test_every_case_of_every_sweep_is_recorded(sweep):
    name = "chunked_cpu" if sweep in cases.DEFAULT else "sizes_cpu"
    found = {tuple(row[key] for key in report.KEY) for row in load_results(name)["rows"] if row["seconds"]}
    asked = [case.row() | {"pass": which} for case in cases.cases(sweep) for which in case.passes]
    assert asked and all(tuple(row[key] for key in report.KEY) in found for row in asked)


def test_a_name_without_results_says_where_it_looked():
    with pytest.raises(FileNotFoundError, match="chunked_cpu.*assets"):
        load_results("no_such_results")


def test_a_missing_file_names_the_command_that_makes_it(monkeypatch, tmp_path):
    monkeypatch.setattr("titans_mini.notebook.FOLDERS", (tmp_path,))
    with pytest.raises(FileNotFoundError, match="python -m benchmarks.stream"):
        load_results("stream_cpu")


def test_recorded_pictures_are_drawn_from_the_recorded_numbers(tmp_path):
    for name, fig in plots.draw(load_results("chunked_cpu")).items():
        plots.save(fig, tmp_path / f"{name}.svg")
        assert (notebooks.ROOT / "assets" / f"{name}.svg").exists()
        assert (tmp_path / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")


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
