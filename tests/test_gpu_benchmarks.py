"""The GPU benchmarks count and compare rightly, shown with a made-up clock; no figure is recorded that no GPU gave."""

import json
import math
from dataclasses import replace

import pytest
import torch

from benchmarks import forms, gpu, gpu_forms, gpu_kernels, report
from benchmarks.cases import ROOT, Case, flops
from benchmarks.gpu import Machine, cases, floor, least_bytes
from benchmarks.gpu_forms import LIMITS, Missing, Work
from benchmarks.measure import Times
from tests.kernels.helpers import DEVICE, GPU, needs_triton
from titans_mini.notebook import load_results

PROVIDERS = ("chunked", "triton", "triton online", "sdpa")
MACHINE = Machine(rate=1e12, bandwidth=1e9, steps={})


def made_up(case, which):
    """Seconds of a case: attention is quadratic, all else linear; the kernels ten times faster than the rest."""
    seconds = 1e-9 * case.B * case.H * case.T * (case.T / 2048 if case.provider == "sdpa" else 1)
    return seconds * (3 if which == "both" else 1) * (1 if case.provider in gpu.OURS else 10)


def make(case):
    if case.provider == "fla":
        raise Missing("flash-linear-attention: not here")
    return Work(lambda: None, [])


def clock(calls, rounds, device):
    return {key: Times(made_up(*key), made_up(*key), 1.0) for key in calls}


def rows_of(sweep, machine=MACHINE):
    return gpu.measure_sweep(cases(sweep), 1, machine, make, clock, lambda work, which: 2**30)


@pytest.fixture(scope="module")
def everything():
    rows = rows_of("chain")
    machine = MACHINE._replace(steps=gpu.steps(rows))
    return rows + [row for sweep in gpu.SWEEPS if sweep != "chain" for row in rows_of(sweep, machine)]


def test_every_size_has_what_it_is_compared_with():
    found = {(c.T, c.provider, c.net) for c in cases("T")}
    for T in gpu.LENGTHS:
        for net in ("matrix", "mlp2", "mlp4"):
            assert (T, "triton", net) in found
        assert {(T, "triton online", "matrix"), (T, "fla", None), (T, "sdpa", None)} <= found
    assert min(gpu.LENGTHS) == 2048 and max(gpu.LENGTHS) == 65536
    assert {(c.B, c.H) for c in cases("heads")} == set(gpu.SEQUENCES)
    assert all(c.T <= 4096 for sweep in gpu.SWEEPS for c in cases(sweep, quick=True))
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
    case = Case("T", "triton", "matrix", T=4096, H=16)
    assert row["seconds"] == made_up(case, "forward") and row["pass"] == "forward"
    assert row["of_matrix"] == pytest.approx(flops(case, "forward") / made_up(case, "forward") / 1e12)
    # one sequence of 65,536 tokens takes 1e-9 s a token here, so a chunk takes 64e-9
    assert row["floor"]["chain"] == pytest.approx(64 * 64e-9)
    assert row["of_floor"] == pytest.approx(max(row["floor"].values()) / row["seconds"])


def test_what_is_not_installed_is_said_and_has_no_time(everything):
    fla = [row for row in everything if row["provider"] == "fla"]
    assert fla and all(row["seconds"] is None and "not here" in row["missing"] for row in fla)


def test_every_goal_reads_a_row_that_is_measured(everything):
    verdicts = {question.what: question.verdict(everything) for question in gpu.questions()}
    missing = [what for what, v in verdicts.items() if v["number"] is None]
    assert missing == [what for what in verdicts if "fla" in what]  # which the made-up machine lacks
    assert verdicts["matrix, T 2,048: times faster than sdpa"]["number"] == pytest.approx(10)
    assert verdicts["matrix, a million tokens, 16 heads of 64: GiB at the peak"]["number"] == 1.0
    slow = [{**row, "seconds": 1.0} if row["provider"] == "triton" else row for row in everything]
    assert any(question.verdict(slow)["reached"] is False for question in gpu.questions())


def test_the_table_shows_rows_ratios_and_what_is_missing(everything):
    verdicts = [question.verdict(everything) for question in gpu.questions()]
    hardware = {"gpu": "made up", "sm": "sm_00"}
    results = {"status": "measured", **report.stamp("command", hardware), "bars": verdicts, "rows": everything}
    text = gpu.table(results)
    assert "made up · sm_00" in text and "sweep million" in text and "flash-linear-attention: not here" in text
    line = next(x for x in text.splitlines() if x.split()[:6] == ["chunked", "matrix", "forward", "1", "16", "4096"])
    assert line.split()[-1] == "10.00"


def test_others_that_fail_are_missing_and_say_why(monkeypatch):
    def fail():
        raise RuntimeError("an illegal memory access was encountered\nand more")

    monkeypatch.setattr(gpu_forms, "build", lambda case, device: Work(fail, []))
    with pytest.raises(Missing, match=r"^RuntimeError: an illegal memory access was encountered$"):
        gpu_forms.ready(Case("T", "fla"), DEVICE)
    assert gpu_forms.ready(Case("T", "triton", "matrix"), DEVICE).run is fail  # ours is not excused


def test_a_gate_that_fails_is_said():
    good = {"error": 1e-6, "limit": 1e-5}
    checks = {"a": good, "b": {"error": 1e-4, "limit": 1e-5}, "c": {"error": math.nan, "limit": 1e-5}}
    assert [line[0] for line in gpu_forms.failures(checks)] == ["b", "c"]


@needs_triton
def test_the_gate_measures_the_kernels():
    case = Case("gate", "triton", "matrix", T=9, H=2, D=16, C=8)
    net, device = case.network(), gpu_forms.DEVICE if GPU else "cpu"
    found = gpu_forms.errors(case, net.to(device), "chunk", torch.float32, device)
    assert [kind for kind, *_ in found] == ["outputs and states", "dq, dk, dv", "gates"]
    assert all(0 < error <= most for _, error, most in found)
    assert LIMITS[torch.bfloat16] == (0.005, 0.008, 0.02)


@needs_triton
def test_providers_are_built_with_the_same_numbers_and_refusals_say_why():
    """In float32, which an interpreter computes rightly."""
    small = Case("kernels", "triton", "matrix", T=8, H=1, D=16, C=4)
    expected, *_ = outputs = [forms.build(replace(small, provider=p), device=DEVICE).run() for p in PROVIDERS]
    errors = [((y - expected).norm() / expected.norm()).item() for y in outputs]
    assert errors[1] < 1e-5 < errors[2] < 0.5 < errors[3]  # the kernels; another rule; no memory at all
    gpu_forms.build(small, DEVICE).call("both")
    with pytest.raises(Missing, match="256"):
        gpu_forms.build(replace(small, D=256), DEVICE)


@pytest.mark.skipif(GPU, reason="this is what happens without a GPU")
def test_without_a_gpu_it_says_so_and_keeps_what_is_recorded(tmp_path, capsys):
    path = tmp_path / "record.json"
    assert gpu.main(["--json", str(path)]) == 2
    assert "no GPU here" in capsys.readouterr().err
    assert json.loads(path.read_text(encoding="utf-8"))["status"] == gpu.NOT_YET
    path.write_text('{"status": "measured"}', encoding="utf-8")
    gpu.main(["--json", str(path)])
    assert json.loads(path.read_text(encoding="utf-8")) == {"status": "measured"}


def test_the_record_holds_measured_figures_or_none():
    results = load_results("kernels_gpu")
    assert {"hardware", "date", "commit", "command", "gate", "bars", "rows"} <= results.keys()
    if results["hardware"] is None:
        assert results["status"] == gpu.NOT_YET and results["rows"] == []
        assert all(bar["number"] is None and bar["reached"] is None for bar in results["bars"])
    else:
        assert results["status"] == "measured" and results["rows"] and not gpu_forms.failures(results["gate"])
    text = gpu.RECORD.with_suffix(".txt").read_text(encoding="utf-8")
    assert text.strip() == gpu.table(results).strip()


# -- kernel by kernel --------------------------------------------------------------------------------------------------


def test_kernels_that_walk_over_chunks_are_summed_apart(monkeypatch):
    found = {"mlp_states": (2, 4e-3), "mlp_reads": (1, 1e-3)}
    monkeypatch.setattr(gpu_kernels, "build", lambda case: Work(lambda: None, []))
    monkeypatch.setattr(gpu_kernels, "times", lambda work, which: found)
    first, *others = gpu_kernels.lines(Case("kernels", "triton", "mlp2", T=64000))
    assert first == "  forward: 5000 µs in kernels, 4000 in the chain (4.00 a chunk)"
    assert others[0].split() == ["4000.0", "µs", "2", "×", "mlp_states"] and len(others) == 5


def test_the_kernels_of_the_chain_exist():
    """Their names are written by hand: one that is renamed would leave the chain's sum."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "kernels").glob("*.py"))
    assert all(f"\ndef {name}(" in text for name in gpu_kernels.CHAIN)


def test_without_a_gpu_no_kernel_is_profiled(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_kernels.main([]) == 2
    assert "no GPU here" in capsys.readouterr().err
