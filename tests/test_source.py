"""Rules for the source: which room may import which, what an import loads, and where docstrings point."""

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
FOLDERS = {"titans_mini": PACKAGE, "titans_mini.kernels": ROOT / "kernels", "tools": ROOT / "tools"}
MODULES = sorted(PACKAGE.rglob("*.py"))
# memory → models → data → train; what a room may import besides itself
ROOMS = {
    "minimal": set(),
    "testing": set(),  # it knows a layer by its calls alone
    "notebook": set(),
    "memory": {"kernels"},  # by name, when they are wanted: see `memory/backends.py`
    "kernels": {"memory"},
    "models": {"memory"},
    "data": {"memory", "models"},
    "train": {"memory", "models", "data", "viz", "notebook"},
    "viz": {"memory", "models", "data", "notebook", "kernels"},
    "exercises": {"memory", "models", "data", "train", "notebook", "kernels", "testing"},
    "": {"memory", "models"},  # titans_mini itself: the public names
}
LAST_EQUATION = 35  # the paper's equations run from 1 to 35
LAST_NOTEBOOK = 16
REFERENCE = re.compile(r"Built in: notebooks/(?P<notebook>\d\d) · Paper: (?P<paper>[^\n]+)\Z")


def sources():
    """Yield (dotted name, source) of every module of the package, the kernels and the tools."""
    for start, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [start, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts).removesuffix(".__init__")
            yield name, path.read_text(encoding="utf-8")


def imported(source, module, is_package=False):
    """List the modules and names that a module imports from ours, wherever in it, as dotted names."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".") if is_package else module.split(".")[:-1]
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            start = ".".join(part for part in (base, node.module) if part)
            found += [start, *(f"{start}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.split(".")[0] in ("titans_mini", "tools")]


# -- rooms ----------------------------------------------------------------------------------------------------------


def room(name):
    """Name the room of a module: "memory" of titans_mini.memory.gates, "" of titans_mini itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def wrong_directions(name, source):
    """List the imports of a module that lead to a room it must not know."""
    own = room(name)
    found = {x for x in imported(source, name) if x.startswith("titans_mini.")}
    return sorted(f"{name} imports {x}" for x in found if room(x) not in ROOMS[own] | {own})


def test_rooms_import_one_way():
    found = [
        fault for name, source in sources() if not name.startswith("tools") for fault in wrong_directions(name, source)
    ]
    assert not found, "\n".join(found)


def test_type_checkers_find_the_marker_that_the_package_promises():
    assert '"py.typed"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert (PACKAGE / "py.typed").is_file()


def test_every_room_is_there_and_no_other():
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__"} | {"kernels", ""} == set(ROOMS)


@pytest.mark.parametrize(
    "source",
    [
        "from titans_mini.models.titans import TitansLM",
        "from ..models.titans import TitansLM",
        "from titans_mini import models",
        "import titans_mini.viz",
        "def f():\n    from titans_mini.viz import palette",
    ],
)
def test_a_wrong_direction_is_found(source):
    assert wrong_directions("titans_mini.memory.gates", source)


def test_a_right_direction_passes():
    source = "from titans_mini.memory.gates import coefficients\nfrom .state import MemoryState\nimport torch"
    assert wrong_directions("titans_mini.memory.network", source) == []


def circles(graph):
    """Find modules that import each other, by whatever detour."""
    reached = {name: set(after) for name, after in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    return sorted(name for name in graph if name in reached[name])


def test_no_circles():
    modules = dict(sources())
    graph = {}
    for name, source in modules.items():
        found = imported(source, name) if name != "titans_mini" else []
        graph[name] = {x for x in found if x in modules and x != name and not name.startswith(f"{x}.")}
    assert not circles(graph)


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


# -- words ----------------------------------------------------------------------------------------------------------

# names of the first edition that field words have replaced, as they stood in definitions, imports and calls
RETIRED = {
    *(
        "Stack",
        "Twice",
        "Room",
        "Run",
        "Record",
        "Normed",
        "FromReads",
        "Grads",
        "places",
        "put",
        "join_chunks",
    ),
    *("anchored_steps", "read_chunk", "end_chunk", "backward_reads", "backward_writes", "twice_backward"),
    *("fill_table", "fill_table_backward", "multiply_gates", "slice_gates", "keep_freed_memory", "online_inverse"),
    *("turn", "turns", "heads_of", "as_scores", "Recalled", "bend", "pull", "pull_down", "last_delta"),
    *("norm_pull", "norm_pull_backward", "one_step_earlier", "exact", "Shelf", "judge", "settle", "recall", "qkv"),
    *("unfit", "refusal", "writing"),
}


def retired(source):
    """List the retired names that a source defines, imports or calls."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.name.rpartition(".")[2] for alias in node.names}
        elif isinstance(node, ast.Call):
            found.add(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
    return sorted(found & RETIRED)


def test_no_retired_name_is_used():
    texts = [*sources(), *((p.name, p.read_text(encoding="utf-8")) for p in sorted(ROOT.glob("benchmarks/*.py")))]
    texts += [(str(p.relative_to(ROOT)), p.read_text(encoding="utf-8")) for p in sorted(ROOT.glob("tests/**/*.py"))]
    for path in notebooks.find():
        cells = [cell for _, cell in hygiene.code(notebooks.read(path))]
        texts += [(f"{path.name}, cell {cell.id}", ast.unparse(hygiene.parse(cell.source))) for cell in cells]
    found = {name: retired(text) for name, text in texts}
    assert not (wrong := {name: names for name, names in found.items() if names}), wrong


def test_a_retired_name_is_found():
    assert retired("from a.b import turns\n\ndef pull(x):\n    return x.heads_of(3)") == ["heads_of", "pull", "turns"]
    assert retired("recall = 3\nturn.x = recall  # pull()") == []


# -- paths and what an import loads ---------------------------------------------------------------------------------


def machine_paths(text):
    """Find paths into somebody's home or this checkout; system folders such as /usr are fine in code."""
    return re.findall(r"(?<![\w.:/<])/(?:home|Users|work|content)/[\w.-]+[^\s\"')]*", text)


def committed():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # an archive without its history
        return MODULES
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    patterns = {"hygiene.py", "test_hygiene.py", "test_source.py"}  # these hold such paths as patterns
    return [p for p in paths if p.is_file() and p.name not in patterns and p.suffix not in {".png", ".npz", ".ipynb"}]


def test_no_path_of_one_machine():
    found = []
    for path in committed():  # weights carry a header that is text
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {hit}" for hit in machine_paths(text)]
        found += [f"{path.relative_to(ROOT)}: {ROOT}"] if str(ROOT) in text else []
    assert not found, "\n".join(found)


def test_a_path_of_one_machine_is_found():
    assert machine_paths("open('/home/someone/x.txt')") == ["/home/someone/x.txt"]
    assert machine_paths("see https://example.org/home/page and a/content/b") == []


def loaded_after(statement):
    code = f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import titans_mini", "import titans_mini.memory.trace"])
def test_importing_the_library_loads_nothing_that_draws(statement):
    loaded = loaded_after(statement)
    assert "titans_mini" in loaded and "torch" in loaded
    assert loaded & {"matplotlib", "IPython", "ipywidgets", "triton", "sklearn", "PIL", "huggingface_hub"} == set()


# -- where docstrings point -----------------------------------------------------------------------------------------


def documented():
    """Yield (dotted name, docstring) of every public function, class and method of the library."""
    for name, _ in sources():
        if not name.startswith("titans_mini.") or name.startswith("titans_mini.kernels") or name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        for key, value in vars(module).items():
            if key.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value):
                methods = [(n, m) for n, m in vars(value).items() if inspect.isfunction(m) and not n.startswith("_")]
                yield from ((f"{name}.{key}.{n}", m.__doc__ or "") for n, m in methods)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{name}.{key}", value.__doc__ or ""


def faults(name, docstring):
    """List what is wrong with the reference at the end of a docstring."""
    reference = REFERENCE.search(docstring.rstrip())
    if not reference:
        return [f"{name}: its docstring does not end in `Built in: notebooks/NN · Paper: …`"]
    found = []
    if not 0 <= int(reference["notebook"]) <= LAST_NOTEBOOK:
        found.append(f"{name}: there is no notebook {reference['notebook']}")
    for part in re.split(r",\s*", reference["paper"].strip()):
        if re.fullmatch(r"(section|appendix) [\dA-Z][\d.]*", part):
            continue
        numbers = re.fullmatch(r"(?:eq\. )?(\d+)(?:–(\d+))?", part)
        if not numbers:
            found.append(f"{name}: {part!r} is neither `eq. X`, `eq. X–Y`, `section X` nor `appendix X`")
        elif not 1 <= int(numbers[1]) <= int(numbers[2] or numbers[1]) <= LAST_EQUATION:
            found.append(f"{name}: the paper has no equations {part}")
    return found


def test_references_resolve():
    referring = [(name, docstring) for name, docstring in documented() if "Built in" in docstring]
    assert len(referring) >= 20
    found = [fault for name, docstring in referring for fault in faults(name, docstring)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("Built in: notebooks/08 · Paper: eq. 16–18", None),
        ("Built in: notebooks/08 · Paper: eq. 12, 15, section 4.4", None),
        ("Built in: notebooks/01 · Paper: –", "neither"),
        ("Built in: notebooks/17 · Paper: eq. 8", "no notebook 17"),
        ("Built in: notebooks/08 · Paper: eq. 36", "no equations"),
        ("Built in: notebooks/08 · Paper: eq. 18–16", "no equations"),
        ("Built in: notebooks/08 · Paper: page 3", "neither"),
        ("Built in: notebook 8", "does not end in"),
        ("Built in: notebooks/08 · Paper: eq. 8\n\n    More text.", "does not end in"),
    ],
)
def test_a_wrong_reference_is_found(line, fault):
    found = faults("titans_mini.memory.gates.decay", f"Do it.\n\n    {line}\n    ")
    assert (fault is None and not found) or (fault is not None and fault in "\n".join(found)), found


def test_twin_paths_exist_for_what_is_exported():
    import titans_mini

    for name in titans_mini.__all__:
        value = getattr(titans_mini, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert hygiene.library_source(f"{value.__module__}.{name}")
