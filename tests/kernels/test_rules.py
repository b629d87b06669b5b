"""Rules for the source of the kernels: sizes, directions of imports, int64 addresses, and no other way to start one."""

import ast
import re

import pytest

from tests.test_source import MAX_LINES, ORDER, imported
from titans_mini import backends

FILES = sorted(backends.CHECKOUT.glob("*.py"))
EARLIER = set(ORDER[: ORDER.index("backends")]) | {"kernels"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_module_can_be_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def wrong_imports(source):
    """List what a kernel's module imports of the library beyond the modules before `backends`."""
    parts = {name.split(".")[1] for name in imported(source, "titans_mini.kernels.x") if "." in name}
    return sorted(parts - EARLIER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_point_one_way(path):
    assert wrong_imports(path.read_text(encoding="utf-8")) == []


def test_only_backends_knows_the_kernels():
    package = backends.CHECKOUT.parent / "titans_mini"
    knowing = [p.name for p in package.rglob("*.py") if "titans_mini.kernels" in p.read_text(encoding="utf-8")]
    assert knowing == ["backends.py"]


def started_otherwise(source):
    """List subscripted calls such as kernel[grid](…): a start that `launch.launch` and the compiler would not see."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(node.func) for node in calls if isinstance(node.func, ast.Subscript)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_kernel_is_started_by_launch(path):
    expected = ["kernel[grid]"] if path.name == "launch.py" else []
    assert started_otherwise(path.read_text(encoding="utf-8")) == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_plain_pointers_only(path):
    """Block pointers are gone in triton 3.9, and descriptors are not what these kernels are tested with."""
    assert not re.search(r"make_block_ptr|tensor_descriptor|autotune", path.read_text(encoding="utf-8"))


def test_the_rules_find_what_breaks_them():
    assert wrong_imports("from titans_mini.functional import neural_memory") == ["functional"]
    assert wrong_imports("from titans_mini.chunked import chunked\nfrom titans_mini.kernels import launch") == []
    assert started_otherwise("def f(k, x):\n    k[(1, 2)](x)") == ["k[1, 2]"]
