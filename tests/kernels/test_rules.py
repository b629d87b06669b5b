"""Rules for the source of the kernels: int64 addresses, plain pointers, and no other way to start one."""

import ast
import re
from pathlib import Path

from titans_mini.memory import backends

ROOT = Path(backends.__file__).parents[2]
FILES = sorted((ROOT / "kernels").glob("*.py"))
TEACHING = {"interpret.py", "emulator.py"}  # these run kernels of the notebook, on a CPU


def test_only_backends_knows_the_kernels():
    memory = ROOT / "titans_mini" / "memory"
    knowing = [p.name for p in memory.rglob("*.py") if "titans_mini.kernels" in p.read_text(encoding="utf-8")]
    assert knowing == ["backends.py"]


def started_otherwise(source):
    """List subscripted calls such as kernel[grid](…): a start that `launch.launch` and the compiler would not see."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(node.func) for node in calls if isinstance(node.func, ast.Subscript)]


def test_every_kernel_is_started_by_launch():
    found = {path.name: started_otherwise(path.read_text(encoding="utf-8")) for path in FILES}
    starts = {name: calls for name, calls in found.items() if calls and name not in TEACHING}
    assert starts == {"launch.py": ["kernel[grid]"]}


def test_plain_pointers_only():
    """Block pointers are gone in triton 3.9, and descriptors are not what these kernels are tested with."""
    pattern = re.compile(r"make_block_ptr|tensor_descriptor|autotune")
    assert FILES and not [path.name for path in FILES if pattern.search(path.read_text(encoding="utf-8"))]


def test_the_rules_find_what_breaks_them():
    assert started_otherwise("def f(k, x):\n    k[(1, 2)](x)") == ["k[1, 2]"]
