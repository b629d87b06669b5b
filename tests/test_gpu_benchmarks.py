"""The GPU benchmarks count and compare rightly, shown with a made-up clock; no figure is recorded that no GPU gave."""

import contextlib
import json
import math

import pytest
import torch

from benchmarks import gpu, gpu_cases, gpu_kernels, gpu_providers, gpu_report, report
from benchmarks.gpu_cases import Case, Machine, cases, floor, flops, least_bytes
from benchmarks.gpu_providers import LIMITS, Missing, Work
from benchmarks.timing import Times
from tests.kernels.helpers import DEVICE, GPU, needs_triton
from titans_mini.notebook import load_results

MACHINE = Machine(rate=1e12, bandwidth=1e9, steps={})


def made_up(case, which):
    """Seconds of a case: attention is quadratic, all else linear; the kernels ten times faster than the rest."""
    seconds = 1e-9 * case.B * case.H * case.T * (case.T / 2048 if case.provider == "sdpa" else 1)
    return seconds * (3 if which == "both" else 1) * (1 if case.provider in gpu_cases.OURS else 10)


def make(case):
    if case.provider == "fla":
        raise Missing("flash-linear-attention: not here")
    return Work(lambda: None, [])


def clock(calls, rounds, device, say):
    return {key: Times(made_up(*key), made_up(*key), 1.0) for key in calls}


def rows_of(sweep, machine=MACHINE):
    return gpu.measure_sweep(cases(sweep), 1, machine, make, clock, lambda work, which: 2**30)


@pytest.fixture(scope="module")
def everything():
    rows = rows_of("chain")
    machine = MACHINE._replace(steps=gpu.steps(rows))
    return rows + [row for sweep in gpu_cases.SWEEPS if sweep != "chain" for row in rows_of(sweep, machine)]


def test_every_size_has_what_it_is_compared_with():
    found = {(c.T, c.provider, c.net) for c in cases("T")}
    for T in gpu_cases.LENGTHS:
        for net in ("matrix", "mlp2", "mlp4"):
            assert (T, "triton", net) in found
        assert {(T, "triton online", "matrix"), (T, "fla", None), (T, "sdpa", None)} <= found
    assert min(gpu_cases.LENGTHS) == 2048 and max(gpu_cases.LENGTHS) == 65536
    assert {(c.B, c.H) for c in cases("heads")} == set(gpu_cases.SEQUENCES)
    assert all(c.T <= 4096 for sweep in gpu_cases.SWEEPS for c in cases(sweep, quick=True))
    with pytest.raises(ValueError, match="sweep: got 'no'"):
        cases("no")


def test_operations_and_bytes_by_hand():
    case = Case("T", "triton", "matrix", T=128, B=2, H=3, D=64, C=64)
    a_token = 10 * 64 * 64 + 2 * 64 * 128  # 12P − 2P₁ + 2CN with P = P₁ = D², N = 2D
    assert flops(case, "forward") == 2 * 3 * 128 * a_token
    assert flops(case, "both") == 3 * flops(case, "forward")
    assert least_bytes(case, "forward") == 2 * 3 * 128 * (4 * 64 * 2 + 3 * 4)
    assert least_bytes(case, "both") == 2 * 3 * 128 * (11 * 64 * 2 + 9 * 4)
    attention = Case("T", "sdpa", T=128, B=2, H=3)
    assert flops(attention, "forward") == 2 * 3 * 2 * 128 * 128 * 64  # half of 4 T² D
    assert least_bytes(attention, "forward") == 2 * 3 * 128 * 4 * 64 * 2
    assert flops(Case("T", "fla"), "forward") is None


def test_the_floor_is_three_counts():
    case = Case("T", "triton", "matrix", T=130)  # three chunks, the last one short
    machine = MACHINE._replace(steps={("matrix", "forward"): 1e-6})
    found = floor(case, "forward", machine)
    assert found == {
        "matrix": flops(case, "forward") / 1e12,
        "bytes": least_bytes(case, "forward") / 1e9,
        "chain": pytest.approx(3e-6),
    }
    assert floor(Case("T", "sdpa", T=130), "forward", machine)["chain"] is None


def test_rows_follow_from_the_clock(everything):
    wanted = ("T", "triton", "matrix", 4096)
    row = next(r for r in everything if (r["sweep"], r["provider"], r["net"], r["T"]) == wanted)
    case = Case("T", "triton", "matrix", T=4096)
    assert row["seconds"] == made_up(case, "forward") and row["pass"] == "forward"
    assert row["of_matrix"] == pytest.approx(flops(case, "forward") / made_up(case, "forward") / 1e12)
    # one sequence of 65,536 tokens takes 1e-9 s a token here, so a chunk takes 64e-9
    assert row["floor"]["chain"] == pytest.approx(64 * 64e-9)
    assert row["of_floor"] == pytest.approx(max(row["floor"].values()) / row["seconds"])


def test_what_is_not_installed_is_said_and_has_no_time(everything):
    fla = [row for row in everything if row["provider"] == "fla"]
    assert fla and all(row["seconds"] is None and "not here" in row["missing"] for row in fla)


def test_every_goal_reads_a_row_that_is_measured(everything):
    verdicts = {bar.what: bar.verdict(gpu_report.Rows(everything)) for bar in gpu_report.all_bars()}
    missing = [what for what, v in verdicts.items() if v["number"] is None]
    assert missing == [what for what in verdicts if "fla" in what]  # which the made-up machine lacks
    assert verdicts["matrix, T 2,048: times faster than sdpa, forward+backward"]["number"] == pytest.approx(10)
    step = verdicts["matrix: microseconds a chunk, one sequence alone, forward"]
    assert step["number"] == pytest.approx(0.064) and step["reached"] is True
    peak = verdicts["matrix, 1M tokens, 16 heads of 64: GiB at the peak, forward+backward"]
    assert peak["number"] == 1.0
    slow = [{**r, "seconds": 1.0} if r["provider"] == "triton" else r for r in everything]
    assert gpu_report.Bar("x", "≥", 1.0, lambda rows: math.nan).verdict(gpu_report.Rows([]))["reached"] is False
    reached = [bar.verdict(gpu_report.Rows(slow))["reached"] for bar in gpu_report.all_bars()]
    assert False in reached


def test_the_table_shows_rows_ratios_and_what_is_missing(everything):
    verdicts = [bar.verdict(gpu_report.Rows(everything)) for bar in gpu_report.all_bars()]
    hardware = {"gpu": "made up", "sm": "sm_00"}
    results = {"status": "measured", **gpu_report.head("command", hardware), "bars": verdicts, "rows": everything}
    text = gpu_report.table(results)
    assert "made up · sm_00" in text and "sweep million" in text and "flash-linear-attention: not here" in text
    line = next(x for x in text.splitlines() if x.split()[:6] == ["chunked", "matrix", "forward", "1", "16", "4096"])
    assert line.split()[-1] == "10.00"


def test_others_that_fail_are_missing_and_say_why(monkeypatch):
    def fail():
        raise RuntimeError("an illegal memory access was encountered\nand more")

    monkeypatch.setattr(gpu_providers, "build", lambda case, device: Work(fail, []))
    with pytest.raises(Missing, match=r"^RuntimeError: an illegal memory access was encountered$"):
        gpu_providers.ready(Case("T", "fla"), DEVICE)
    assert gpu_providers.ready(Case("T", "triton", "matrix"), DEVICE).run is fail  # ours is not excused


def test_a_gate_that_fails_is_said():
    good = {"error": 1e-6, "limit": 1e-5}
    checks = {"a": good, "b": {"error": 1e-4, "limit": 1e-5}, "c": {"error": math.nan, "limit": 1e-5}}
    assert [line[0] for line in gpu_providers.failures(checks)] == ["b", "c"]


@needs_triton
def test_the_gate_measures_the_kernels():
    case = Case("gate", "triton", "matrix", T=9, H=2, D=16, C=8)
    net, device = case.network(), gpu_providers.DEVICE if GPU else "cpu"
    found = gpu_providers._errors(case, net.to(device), "chunk", torch.float32, device)
    assert [kind for kind, *_ in found] == ["outputs and states", "dq, dk, dv", "gates"]
    assert all(0 < error <= most for _, error, most in found)
    assert LIMITS[torch.bfloat16] == (0.005, 0.008, 0.02)


@pytest.mark.skipif(GPU, reason="this is what happens without a GPU")
def test_without_a_gpu_it_says_so_and_keeps_what_is_recorded(tmp_path, capsys):
    path = tmp_path / "record.json"
    assert gpu.main(["--json", str(path)]) == 2
    assert "no GPU here" in capsys.readouterr().err
    assert json.loads(path.read_text(encoding="utf-8"))["status"] == gpu_report.NOT_YET
    path.write_text('{"status": "measured"}', encoding="utf-8")
    gpu.main(["--json", str(path)])
    assert json.loads(path.read_text(encoding="utf-8")) == {"status": "measured"}


def test_the_record_holds_measured_figures_or_none():
    results = load_results("kernels_gpu")
    assert {"hardware", "date", "commit", "command", "gate", "bars", "rows"} <= results.keys()
    if results["hardware"] is None:
        assert results["status"] == gpu_report.NOT_YET and results["rows"] == []
        assert all(bar["number"] is None and bar["reached"] is None for bar in results["bars"])
    else:
        assert results["status"] == "measured" and results["rows"] and not gpu_providers.failures(results["gate"])
    text = gpu.RECORD.with_suffix(".txt").read_text(encoding="utf-8")
    assert text.strip() == gpu_report.table(results).strip()


# -- kernel by kernel --------------------------------------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize(("net", "kernel"), [("matrix", "advance"), ("mlp2", "mlp_states")])
def test_a_variant_starts_the_chain_otherwise_and_nothing_else(net, kernel, monkeypatch):
    from titans_mini.kernels import launch, matrix_span

    starts, right, columns = {}, launch.launch, matrix_span.COLUMNS

    def noted(kernel, grid, *args, **sizes):
        starts[kernel.__name__] = sizes
        right(kernel, grid, *args, **sizes)

    monkeypatch.setattr(launch, "launch", noted)
    work = gpu_providers.build(Case("kernels", "triton", net, T=8, H=1, D=16, C=4), DEVICE)
    work.run()
    before = dict(starts)
    with gpu_kernels.variant(columns=32, units=16, warps=8, stages=3):
        work.run()
        assert starts[kernel]["num_warps"] == 8 and starts[kernel]["num_stages"] == 3
        assert starts[kernel].get("BE", 16) == 16 and matrix_span.COLUMNS == 32
        assert starts["fill_rows"] == before["fill_rows"]
    work.run()
    assert starts == before and matrix_span.COLUMNS == columns


def test_the_list_of_variants_says_what_fails_and_what_is_wrong(monkeypatch):
    tried = []

    def run():
        options = tried[-1]
        if options.get("warps") == 8:
            raise RuntimeError("out of resource: shared memory")
        return torch.ones(4) * (2 if options.get("units") == 32 else 1)

    @contextlib.contextmanager
    def variant(**options):
        tried.append(options)
        yield

    monkeypatch.setattr(gpu_kernels, "build", lambda case: Work(run, []))
    monkeypatch.setattr(gpu_kernels, "variant", variant)
    monkeypatch.setattr(gpu_kernels, "times", lambda work, which: {"mlp_states": (1, 4e-3), "read": (1, 1.0)})
    first, *others = gpu_kernels.compare("triton", "mlp2", 64000)
    assert "as it is" in first and "mlp_states    2.00" in first and "read" not in first
    assert len(others) == 2 * 2 * 2 == len(tried) - 1
    for line in others:
        assert ("out of resource" in line) == ("warps 8" in line)
        assert ("WRONG" in line) == ("units 32" in line and "warps 4" in line)


def test_without_a_gpu_no_kernel_is_profiled(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_kernels.main([]) == 2
    assert "no GPU here" in capsys.readouterr().err


def test_a_copy_without_history_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.delenv("TITANS_COMMIT", raising=False)
    assert report.commit().startswith("unknown")
    monkeypatch.setenv("TITANS_COMMIT", "abc1234")
    assert report.commit() == "abc1234"
    monkeypatch.undo()  # with a history, which may be older than the copy
    monkeypatch.setenv("TITANS_COMMIT", "abc1234")
    assert report.commit() == "abc1234"
