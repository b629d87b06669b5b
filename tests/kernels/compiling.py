"""Compile every kernel for GPUs that are not here, as the host code would start it, and read what it takes.

    python -m tests.kernels.compiling                the record, assets/results/kernels_compiled.json (minutes)
    python -m tests.kernels.compiling matrix         the same for cases of that name alone
    python -m tests.kernels.compiling --few OUT      the cases of the tests

The host code runs on CPU tensors with `launch.launch` replaced by a recorder: types, sizes, warps and stages of what is
compiled are those of a real start, and there is no second list of them to go stale. The bundled ptxas then says how
many registers a kernel takes and what it spills.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parent.parent.parent
RECORD = ROOT / "assets" / "results" / "kernels_compiled.json"
SHARED = {80: 163, 90: 227}  # KiB of shared memory a program may have
TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64", "int32": "i32", "int64": "i64"}


class Case(NamedTuple):
    """A memory, sizes and a type whose kernels are compiled, forward and backward."""

    name: str
    net: dict
    D: int = 64
    C: int = 64
    dtype: str = "bfloat16"
    anchor: str = "chunk"
    few: bool = False  # compiled by the tests as well, not only for the record

    def run(self) -> None:
        """Run the host code, forward and backward; what the tensors then hold means nothing."""
        from titans_mini import MemoryNet, kernels

        B, H, T, dtype = 2, 8, 4 * self.C, getattr(torch, self.dtype)
        net = MemoryNet(self.D, **self.net)
        q, k, v = (torch.zeros(B, H, T, self.D, dtype=dtype, requires_grad=True) for _ in range(3))
        gates = [torch.zeros(B, H, T, 1, requires_grad=True) for _ in range(3)]
        state = net.init_state(B, H)
        y, end = kernels.run(q, k, v, *gates, state, net, self.C, self.anchor, "after")
        (y.float().sum() + end.weights[0].sum()).backward()


PLAIN = {"depth": 1, "residual": False, "norm": False}
TWO = {"depth": 2, "expansion": 2}
FOUR = {"depth": 2, "expansion": 4}
CASES = [
    Case("matrix", PLAIN, few=True),
    Case("matrix", PLAIN, C=16),
    Case("matrix", PLAIN, C=32),
    Case("matrix", PLAIN, D=128),
    Case("matrix", PLAIN, dtype="float32"),
    Case("online matrix", PLAIN, anchor="token", few=True),
    Case("online matrix", PLAIN, D=128, anchor="token"),
    Case("online matrix", PLAIN, C=4, anchor="token", few=True),  # one chunk of 16 in all: Triton makes 1 a constant
    Case("online matrix", PLAIN, C=8, anchor="token"),
    Case("MLP", TWO, few=True),
    Case("MLP", TWO, C=16),
    Case("MLP", TWO, D=128),
    Case("MLP", TWO, C=32, dtype="float32"),  # the largest in float32: see kernels.mlp.unsupported_reason
    Case("MLP", TWO, D=32, C=32, dtype="float32", few=True),
    Case("MLP, expansion 4", FOUR),
]


class Start(NamedTuple):
    """One start of a kernel: all that the compiler needs to know of it."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]  # pointers and numbers that are multiples of 16
    num_warps: int
    num_stages: int


def described(value: Any) -> tuple[str, bool]:
    """Name the type of an argument as Triton does, and tell whether it is a multiple of 16."""
    if torch.is_tensor(value):
        return "*" + TYPES[str(value.dtype).removeprefix("torch.")], value.data_ptr() % 16 == 0
    if isinstance(value, bool):
        return "i1", False
    if isinstance(value, int):
        return ("i32" if -(2**31) <= value < 2**31 else "i64"), value % 16 == 0
    return "fp32", False


def record(kernel: Any, args: tuple, sizes: dict, num_warps: int, num_stages: int) -> Start:
    """Describe a start: numbers that are 1 become constants, as they do when Triton starts a kernel."""
    names = [p.name for p in kernel.params if not p.is_constexpr]
    assert len(names) == len(args), (kernel, len(names), len(args))
    types, constants, aligned = {}, dict(sizes), []
    for name, value in zip(names, args, strict=True):
        if value is None or (type(value) is int and value == 1):
            constants[name] = value
            continue
        types[name], even = described(value)
        aligned += [name] * even
    assert set(sizes) == {p.name for p in kernel.params if p.is_constexpr}, kernel
    signature = tuple((p.name, types.get(p.name, "constexpr")) for p in kernel.params)
    return Start(kernel, signature, tuple(sorted(constants.items())), tuple(aligned), num_warps, num_stages)


def starts(case: Case) -> list[Start]:
    """List what a case starts, each once."""
    from titans_mini.kernels import launch

    found: dict[Start, None] = {}

    def recorder(kernel: Any, grid: tuple, *args: Any, num_warps: int = 4, num_stages: int = 2, **sizes: Any) -> None:
        found[record(kernel, args, sizes, num_warps, num_stages)] = None

    real, launch.launch = launch.launch, recorder
    try:
        case.run()
    finally:
        launch.launch = real
    return list(found)


def compiled(start: Start, capability: int) -> dict:
    """Compile one start; returns registers, spilled bytes, shared memory, and the matrix instructions it uses."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from titans_mini.kernels import launch

    places = {name: (i,) for i, (name, _) in enumerate(start.signature)}
    source = ASTSource(
        start.kernel,
        dict(start.signature),
        {places[name]: value for name, value in start.constants},
        {places[name]: [["tt.divisibility", 16]] for name in start.aligned},
    )
    options = {"num_warps": start.num_warps, "num_stages": start.num_stages}
    with launch.without_wgmma():
        out = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = out.asm["ptx"]
    said = assembled(ptx if isinstance(ptx, str) else ptx.decode(), capability)
    products = sorted(set(re.findall(r"\b(wgmma|mma)\.(?:mma_async\.)?sync", out.asm["ptx"])))
    return {**said, "shared": out.metadata.shared, "products": products}


def assembled(ptx: str, capability: int) -> dict[str, int]:
    """Assemble PTX with the ptxas that Triton brings, and read registers and spills from what it says."""
    import triton.backends.nvidia as nvidia

    ptxas = Path(nvidia.__file__).parent / "bin" / "ptxas"
    target = re.search(r"\.target (sm_\w+)", ptx)[1]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(ptx, encoding="utf-8")
        command = [ptxas, "-v", f"--gpu-name={target}", file, "-o", Path(folder) / "kernel.cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    number = {key: int(re.search(pattern, said)[1]) for key, pattern in PATTERNS.items()}
    return {"registers": number["registers"], "spilled": number["stores"] + number["loads"]}


PATTERNS = {
    "registers": r"Used (\d+) registers",
    "stores": r"(\d+) bytes spill stores",
    "loads": r"(\d+) bytes spill loads",
}


def compile_all(cases: list[Case], capabilities: tuple[int, ...] = (80, 90)) -> list[dict]:
    """Compile the kernels of some cases for some GPUs: a row for each; what two cases share is compiled once."""
    rows, done = [], {}
    for case in cases:
        sizes = {"case": case.name, "D": case.D, "C": case.C, "dtype": case.dtype}
        for start in starts(case):
            for capability in capabilities:
                key = start, capability
                done[key] = done.get(key) or compiled(start, capability)
                names = {"kernel": start.kernel.__name__, "warps": start.num_warps, "sm": capability}
                rows.append({**sizes, **names, **done[key]})
                print(*rows[-1].values(), file=sys.stderr)
    return rows


def main(words: list[str]) -> None:
    """Compile, and write rows with versions, date and commit."""
    import triton

    from benchmarks import report

    few, names = words[:1] == ["--few"], set(words) or {case.name for case in CASES}
    rows = compile_all([case for case in CASES if (case.few if few else case.name in names)])
    if not few and RECORD.exists():  # the others stay as they are
        rows += [row for row in json.loads(RECORD.read_text(encoding="utf-8"))["kernels"] if row["case"] not in names]
    head = {"triton": triton.__version__, "torch": torch.__version__, "date": date.today().isoformat()}
    head |= {"command": "python -m tests.kernels.compiling", "hardware": "none: compiled ahead of time, not run"}
    head |= {"commit": report.commit(), "kernels": rows}
    report.write_json(Path(words[1]) if few else RECORD, head)


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("TRITON_INTERPRET=1 is set: the interpreter compiles nothing")
    main(sys.argv[1:])
