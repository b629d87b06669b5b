"""Triton's interpreter and the stand-in: same numbers, same bytes; what a tape records; what is refused."""

import importlib.util
import os
import subprocess
import sys
from unittest import mock

import pytest
import torch

from tests.kernels.helpers import needs_triton  # lets Triton be interpreted, before anything loads it
from titans_mini.exercises import get, nb13
from titans_mini.kernels import emulator, interpret
from titans_mini.kernels.interpret import recording
from tools import notebooks

STANDIN = interpret.find(allow_triton=False)
PUZZLES = [exercise.name for exercise in nb13.EXERCISES]


@needs_triton
@pytest.mark.parametrize("name", PUZZLES)
def test_the_stand_in_gives_the_numbers_and_the_bytes_of_triton(name):
    real = interpret.find()
    assert real.real, real.name
    card = get(name)
    for case in card.cases(0):
        ours, theirs = (nb13.run(card.solution, *case, machine=machine) for machine in (STANDIN, real))
        torch.testing.assert_close(ours.pop("output"), theirs.pop("output"), rtol=0, atol=1e-5)
        assert ours == theirs


LEAST = {  # numbers that have to move, from the case's sizes
    "13.1": lambda T, D, BT, BD: 2 * T * D + T,
    "13.2": lambda T, C: 2 * T,
    "13.3": lambda C, D, BC, BD: 2 * C * D + C + 1 + 2 * D * D,
    "13.4": lambda nc, C, D, BD: 2 * nc * C * D + nc * C + nc + 2 * D * D,
    "13.5": lambda C, D, BC, BD: 4 * C * D + C * C + C + D * D,
}


@pytest.mark.parametrize("name", PUZZLES)
def test_no_kernel_could_move_less_than_the_solution(name):
    for case in get(name).cases(0):
        found = nb13.run(get(name).solution, *case, machine=STANDIN)
        assert found["bytes moved"] == 4 * LEAST[name](**case[-1])
        assert not found["numbers written beside"] and not found["inputs changed"]
        assert found["output"].isfinite().all()


def copy(x, y, N, BLOCK):
    i = emulator.tl.program_id(0) * BLOCK + emulator.tl.arange(0, BLOCK)
    emulator.tl.store(y + i, emulator.tl.load(x + i, mask=i < N), mask=i < N)


def test_a_tape_names_programs_tensors_and_places():
    x, y = torch.arange(5.0), torch.zeros(5)
    with recording(STANDIN, x=x, y=y) as tape:
        emulator.triton.jit(copy)[(3,)](x, y, 5, 2)
    assert [(e.what, e.program, e.name, e.places.tolist()) for e in tape.events[-2:]] == [
        ("load", 2, "x", [4]),
        ("store", 2, "y", [4]),
    ]
    assert tape.bytes() == 40 and tape.bytes("load") == tape.bytes(name="x") == 20 and len(tape.programs) == 3
    assert y.tolist() == x.tolist() and not emulator.listeners


def test_a_place_outside_is_refused_by_the_stand_in():
    with pytest.raises(IndexError, match="got place 5, expected 0 to 4: is a mask missing"):
        emulator.triton.jit(lambda x, y: emulator.tl.load(x + 5))[(1,)](torch.zeros(5), torch.zeros(5))


def test_a_tensor_with_strides_is_refused():
    with pytest.raises(ValueError, match="got 'x' with strides"), recording(STANDIN, x=torch.zeros(4, 4).T):
        pass


@pytest.mark.parametrize("where", ["beside", "input"])
def test_what_a_puzzle_must_not_write_is_found(where):
    def kernel(x, y, N):
        tl = emulator.tl
        tl.store(y + tl.arange(0, N), tl.load(x + tl.arange(0, N)))
        tl.store(y + N if where == "beside" else x, 7.0)

    found = nb13.run(kernel, (1,), [torch.zeros(4)], (4,), {"N": 4}, machine=STANDIN)
    assert (found["numbers written beside"], found["inputs changed"]) == ((1, 0) if where == "beside" else (0, 1))


def test_it_says_why_it_is_a_stand_in():
    with mock.patch.object(importlib.util, "find_spec", return_value=None):
        assert "triton is not installed" in interpret.find().name
    with mock.patch.dict("os.environ", TRITON_INTERPRET="0"):
        assert not interpret.find().real
    with mock.patch("titans_mini.kernels.versions.version", return_value=(3, 1)):
        found = interpret.find()
    assert not found.real and ("triton is not" in found.name or "Triton 3.1 is installed" in found.name)


def test_it_loads_no_triton_unasked():
    code = "import sys, titans_mini.exercises.nb13; assert 'triton' not in sys.modules"
    environment = {key: z for key, z in os.environ.items() if key != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.slow
def test_notebook_13_runs_solved_where_triton_is_missing(tmp_path):
    nb = notebooks.solve(notebooks.read(notebooks.NOTEBOOKS / "13_triton_kernels.ipynb"))
    cells = [cell.source for cell in nb.cells if cell.cell_type == "code"]
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join(["import sys", "sys.modules['triton'] = None", *cells]), encoding="utf-8")
    environment = {**os.environ, "TITANS_FAST": "1", "TITANS_STRICT": "1"}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("triton is not installed") == 1
    assert "not run: the library's kernels need Triton itself" in done.stdout
