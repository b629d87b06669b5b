"""Every kernel compiles for GPUs that are not here, within their shared memory and with few spilled registers."""

import json
import os
import subprocess
import sys

import pytest

from tests.kernels import compiling
from tests.kernels.helpers import needs_triton
from titans_mini.kernels import launch

# the kernels that multiply tiles of the values' width; the others fill rows
PRODUCTS = {"advance", "read", "solve", "gather", "retreat", "pull_queries", "pull_systems", "pull_keys"}
TWO_LAYERS = {"mlp_states", "mlp_reads", "mlp_chain_backward", "mlp_keys_backward"}
TWO_LAYERS |= {"mlp_answers_backward", "mlp_hidden_backward"}
MOST_SPILLED = 400  # bytes a thread, stores and loads together, at D = C = 64 in half precision
MOST_SPILLED_MLP = 3500  # those of two layers hold more tiles than a thread has registers, most of all the chain


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Compile the few cases of the tests, in a process that knows nothing of the interpreter."""
    out = tmp_path_factory.mktemp("compiled") / "few.json"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compiling", "--few", str(out)]
    done = subprocess.run(command, cwd=compiling.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text(encoding="utf-8"))["kernels"]


def recorded():
    return json.loads(compiling.RECORD.read_text(encoding="utf-8"))["kernels"]


def excesses(rows):
    """List what does not fit: shared memory beyond the GPU's, too many spills, products without the matrix units."""
    found = []
    for row in rows:
        name = f"{row['kernel']} of {row['case']}, D {row['D']}, C {row['C']}, {row['dtype']}, sm_{row['sm']}"
        if row["shared"] > compiling.SHARED[row["sm"]] * 1024:
            found.append(f"{name}: {row['shared']} bytes of shared memory")
        plain = row["D"] <= 64 and row["dtype"] != "float32" and row["kernel"] in PRODUCTS | TWO_LAYERS
        if plain and row["spilled"] > (MOST_SPILLED_MLP if row["kernel"] in TWO_LAYERS else MOST_SPILLED):
            found.append(f"{name}: {row['spilled']} bytes spilled")
        if row["kernel"] in PRODUCTS | TWO_LAYERS and not row["products"]:
            found.append(f"{name}: no matrix instruction")
    return found


@needs_triton
@pytest.mark.slow
def test_the_kernels_compile_for_gpus_that_are_not_here(few):
    assert {row["sm"] for row in few} == {80, 90}
    assert {row["kernel"] for row in few} >= PRODUCTS | TWO_LAYERS
    assert not excesses(few), "\n".join(excesses(few))


@needs_triton
def test_no_kernel_uses_the_instructions_that_crash(few):
    """See `launch.without_wgmma`."""
    assert not {row["kernel"] for row in few if "wgmma" in row["products"]}


@pytest.mark.parametrize("before", [None, "0"])
def test_the_environment_is_left_as_it_was_by_the_last_to_leave(before, monkeypatch):
    monkeypatch.delenv(launch.NO_WGMMA, raising=False)
    if before is not None:
        monkeypatch.setenv(launch.NO_WGMMA, before)
    first, second = launch.without_wgmma(), launch.without_wgmma()
    first.__enter__()
    second.__enter__()  # another thread
    first.__exit__(None, None, None)
    assert os.environ[launch.NO_WGMMA] == "1"
    second.__exit__(None, None, None)
    assert os.environ.get(launch.NO_WGMMA) == before


def test_the_record_holds_every_case_and_nothing_too_large():
    rows = recorded()
    cases = {(c.name, c.D, c.C, c.dtype, sm) for c in compiling.CASES for sm in (80, 90)}
    assert {(r["case"], r["D"], r["C"], r["dtype"], r["sm"]) for r in rows} == cases
    assert not excesses(rows), "\n".join(excesses(rows))


def test_an_excess_is_found():
    row = {"kernel": "read", "case": "matrix", "D": 64, "C": 64, "dtype": "bfloat16", "sm": 80, "products": ["mma"]}
    assert excesses([{**row, "shared": 1000, "spilled": 0}]) == []
    assert "shared memory" in excesses([{**row, "shared": 200_000, "spilled": 0}])[0]
    assert "spilled" in excesses([{**row, "shared": 1000, "spilled": 5000}])[0]
    assert "no matrix" in excesses([{**row, "shared": 1000, "spilled": 0, "products": []}])[0]
