"""Rules for the source: sizes, directions of imports, what an import loads, and where docstrings point."""

import ast
import importlib
import inspect
import re
import subprocess
import sys

import pytest

from tools import hygiene, notebooks

ROOT = notebooks.ROOT
PACKAGE = ROOT / "titans_mini"
MODULES = sorted(PACKAGE.rglob("*.py"))
# imports point left
ORDER = ["gates", "state", "derivatives", "network", "recurrence", "decay", "stack", "chunk"]
ORDER += ["chunk_backward", "spans", "deep", "linear", "linear_backward", "precision", "chunked"]
ORDER += ["channelwise", "tritons", "backends", "ranges", "uncompiled", "compiling", "functional", "checks"]
ORDER += ["convolution", "memory", "masks", "flex", "rotary", "attention", "config"]
ORDER += ["baselines", "mixers", "context", "blocks", "sampling", "hub", "model", "presets", "trace"]
PLUMBING = ("state", "ranges", "checks", "config", "hub", "presets", "trace")
PLUMBING += ("precision", "tritons", "uncompiled", "compiling")
MATHEMATICAL = [name for name in ORDER if name not in PLUMBING]
MAX_LINES = 300
LAST_EQUATION = 35  # the paper's equations run from 1 to 35
REFERENCE = re.compile(r"Built in: notebooks/(?P<notebook>\d\d) · Paper: (?P<paper>[^\n]+)\Z")
BOOKS = {path.name[:2]: path for path in notebooks.find()}


def relative(path):
    return str(path.relative_to(ROOT))


def committed_text():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # an archive without its history
        return sorted(MODULES)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    patterns = {"hygiene.py", "test_hygiene.py", "test_source.py"}  # these hold such paths as patterns
    paths = [path for path in paths if path.is_file() and path.name not in patterns]
    return [path for path in paths if path.suffix not in {".png", ".npz", ".ipynb"}]  # notebooks: tests/test_hygiene.py


# -- sizes and paths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_can_be_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def machine_paths(text):
    """Find paths into somebody's home or this checkout; system folders such as /usr are fine in code."""
    return re.findall(r"(?<![\w.:/<])/(?:home|Users|work|content)/[\w.-]+[^\s\"')]*", text)


@pytest.mark.parametrize("path", committed_text(), ids=relative)
def test_no_path_of_one_machine(path):
    text = path.read_text(encoding="utf-8", errors="replace")  # weights carry a header that is text
    found = machine_paths(text)
    assert not found and str(ROOT) not in text, found


def test_a_path_of_one_machine_is_found():
    assert machine_paths("open('/home/someone/x.txt')") == ["/home/someone/x.txt"]
    assert machine_paths("see https://example.org/home/page and a/content/b") == []


# -- imports --------------------------------------------------------------------------------------------------------


def imported(source, module):
    """List the titans_mini modules that a module's source imports, relative imports resolved."""
    package = module.rsplit(".", 1)[0] if "." in module else module
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            start = ".".join(part for part in (base, node.module) if part)
            found += [start, *(f"{start}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.split(".")[0] == "titans_mini"]


def wrong_directions(source, name):
    """List the imports of core module `name` that point to a later core module or to the outer rooms."""
    parts = {found.split(".")[1] for found in imported(source, f"titans_mini.{name}") if "." in found}
    later = set(ORDER[ORDER.index(name) + 1 :])
    return sorted(parts & (later | {"viz", "exercises"}))


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way(name):
    assert wrong_directions((PACKAGE / f"{name}.py").read_text(encoding="utf-8"), name) == []


@pytest.mark.parametrize(
    "source",
    [
        "from titans_mini.memory import NeuralMemory",
        "from .memory import NeuralMemory",
        "from . import memory",
        "from titans_mini import memory",
        "import titans_mini.memory",
        "def f():\n    from titans_mini.viz import palette",
    ],
)
def test_a_wrong_direction_is_found(source):
    assert wrong_directions(source, "gates")


def test_a_right_direction_passes():
    assert (
        wrong_directions("from titans_mini.gates import coefficients\nfrom .state import MemoryState", "network") == []
    )


def loaded_after(statement):
    code = f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import titans_mini", "import titans_mini.trace"])
def test_importing_the_library_loads_nothing_that_draws(statement):
    loaded = loaded_after(statement)
    assert "titans_mini" in loaded and "torch" in loaded
    assert loaded & {"matplotlib", "IPython", "ipywidgets", "triton", "sklearn", "PIL", "huggingface_hub"} == set()


# -- where docstrings point -----------------------------------------------------------------------------------------


def documented():
    """Yield (dotted name, object, docstring) of every public function, class and method of the library."""
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value):
                methods = [(n, m) for n, m in vars(value).items() if inspect.isfunction(m) and not n.startswith("_")]
                yield from ((f"{module.__name__}.{name}.{n}", m, m.__doc__ or "") for n, m in methods)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value, value.__doc__ or ""


DOCUMENTED = list(documented())


def faults(name, docstring, books):
    """List what is wrong with the reference at the end of a docstring; `books` maps "01" to a notebook's text."""
    reference = REFERENCE.search(docstring.rstrip())
    if not reference:
        return [f"{name}: its docstring does not end in `Built in: notebooks/NN · Paper: …`"]
    found = []
    if not 0 <= int(reference["notebook"]) <= 13:
        found.append(f"{name}: there is no notebook {reference['notebook']}")
    text = books.get(reference["notebook"])
    parts = name.split(".")
    possible = {parts[-1]} | {part for part in parts if part[0].isupper()}
    if text is not None and not any(re.search(rf"\b{part}\b", text) for part in possible):
        found.append(f"{name}: notebook {reference['notebook']} does not mention it")
    for part in re.split(r",\s*", reference["paper"].strip()):
        if part == "–" or re.fullmatch(r"(section|appendix) [\dA-Z][\d.]*", part):
            continue
        numbers = re.fullmatch(r"(?:eq\. )?(\d+)(?:–(\d+))?", part)
        if not numbers:
            found.append(f"{name}: {part!r} is neither `eq. X`, `eq. X–Y`, `section X` nor `–`")
        elif not 1 <= int(numbers[1]) <= int(numbers[2] or numbers[1]) <= LAST_EQUATION:
            found.append(f"{name}: the paper has no equations {part}")
    return found


def test_references_resolve():
    books = {number: "\n".join(cell.source for cell in notebooks.read(path).cells) for number, path in BOOKS.items()}
    referring = [(name, docstring) for name, _, docstring in DOCUMENTED if "Built in:" in docstring]
    assert referring
    found = [fault for name, docstring in referring for fault in faults(name, docstring, books)]
    assert not found, "\n".join(found)


def test_every_mathematical_function_says_where_it_comes_from():
    modules = {f"titans_mini.{name}" for name in MATHEMATICAL}
    functions = [(n, d) for n, value, d in DOCUMENTED if inspect.isfunction(value) and n.rsplit(".", 1)[0] in modules]
    assert len(functions) >= 10
    silent = [name for name, docstring in functions if "Built in:" not in docstring]
    assert not silent, silent


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("Built in: notebooks/06 · Paper: eq. 16–18", None),
        ("Built in: notebooks/06 · Paper: eq. 12, 15, section 4.4", None),
        ("Built in: notebooks/01 · Paper: –", None),
        ("Built in: notebooks/02 · Paper: eq. 8", "does not mention it"),
        ("Built in: notebooks/14 · Paper: eq. 8", "no notebook 14"),
        ("Built in: notebooks/06 · Paper: eq. 36", "no equations"),
        ("Built in: notebooks/06 · Paper: eq. 18–16", "no equations"),
        ("Built in: notebooks/06 · Paper: page 3", "neither"),
        ("Built in: notebook 6", "does not end in"),
        ("Built in: notebooks/06 · Paper: eq. 8\n\n    More text.", "does not end in"),
    ],
)
def test_a_wrong_reference_is_found(line, fault):
    found = faults("titans_mini.gates.decay", f"Do it.\n\n    {line}\n    ", {"01": "use decay", "02": "nothing"})
    assert (fault is None and not found) or (fault is not None and fault in "\n".join(found)), found


def test_twin_paths_exist_for_what_is_exported():
    import titans_mini

    for name in titans_mini.__all__:
        value = getattr(titans_mini, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert hygiene.library_source(f"{value.__module__}.{name}")
