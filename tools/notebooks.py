"""Make, run, tidy and solve the course's notebooks.

On the command line::

    python tools/notebooks.py new draft.py notebooks/01_x.ipynb    a percent-format draft becomes a notebook
    python tools/notebooks.py draft notebooks/01_x.ipynb draft.py  and back again, to edit it as text
    python tools/notebooks.py run [--only 01] [PATH ...]           execute, rewrite outputs (the same bytes each time)
    python tools/notebooks.py solve notebooks/01_x.ipynb out.ipynb the same notebook with its exercises solved
    python tools/notebooks.py stamp https://…                      where a lone notebook installs from (Colab)

Everything is importable too; `tests/test_notebooks.py` uses `read`, `solve` and `execute`.
"""

from __future__ import annotations

import argparse
import ast
import base64
import copy
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"

MARKER = re.compile(r"^# %%(?P<markdown>\s+\[markdown\])?(?:\s+tags=(?P<tags>\[.*\]))?\s*$")
EXERCISE = re.compile(r"^# exercise: (?P<name>\S+)\s*$")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
WIDGET_TAG = "widget"  # `tidy` gives it to the cells that show one
CELL_METADATA = ("tags", "jupyter", "cellView")  # what survives: tags and hidden sources; timings and trust do not
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # the bootstrap cell, in JupyterLab and in Colab

# The first code cell of every notebook, before `make stamp` writes an address into it. `new` puts it where a draft has
# a code cell that starts with `# bootstrap`. It looks in one place after the other: installed, the folder around the
# notebook, TITANS_REPOSITORY, the repository that Colab opened the notebook from, REPOSITORY, an archive beside it.
BOOTSTRAP = r'''# bootstrap: find titans_mini, or install it; no later cell needs the network
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote
from urllib.request import urlopen

REPOSITORY = ""  # the https address of the git repository that this notebook came from


def opened_from():
    """Return the GitHub repository that Colab opened this notebook from, or ""."""
    if "google.colab" not in sys.modules:
        return ""
    try:
        record = f"http://{os.environ['COLAB_JUPYTER_IP']}:9000/api/sessions"
        [session] = json.load(urlopen(record, timeout=2))
        name = r"(\w[\w.-]*)"
        page = rf"fileId=https://github\.com/{name}/{name}/blob/{name}/.*"
        found = re.fullmatch(page, unquote(session["path"]), re.ASCII)
        return f"https://github.com/{found[1]}/{found[2]}@{found[3]}"
    except Exception:  # Colab promises no such record; without it the next place is tried
        return ""


package = importlib.util.find_spec("titans_mini")
if package is None or package.origin is None:  # not installed
    if Path("../titans_mini/__init__.py").is_file():  # the course lies around this notebook
        sys.path.insert(0, str(Path("..").resolve()))
    else:  # this notebook came alone, as on Colab: install the library from where it came
        given = os.environ.get("TITANS_REPOSITORY")  # who sets it wants no other address
        addresses = [given] if given else [opened_from(), REPOSITORY]
        sources = [f"git+{address}" for address in addresses if address]
        sources += [str(p) for p in Path().glob("titans?mini*") if p.suffix in (".zip", ".gz")]
        for source in sources:
            print(f"installing titans_mini from {source}")
            if subprocess.call([sys.executable, "-m", "pip", "install", "-q", source]) == 0:
                importlib.invalidate_caches()
                break
        else:  # no place was known, or pip could install from none
            raise ModuleNotFoundError(
                "titans_mini is not here: please fill in REPOSITORY above and run this cell again."
            )'''
STAMPED = re.compile(r'^REPOSITORY = "(?P<address>[^"\\]*)"', flags=re.M)
# A host and a path, perhaps with @branch behind: no password, no query, no page that shows a file of a repository.
ADDRESS = re.compile(r"https://[\w-]+(\.[\w-]+)+(:\d+)?(/(?!blob/|tree/)[\w.~-]+)+(@[\w./-]+)?")


# -- drafts ---------------------------------------------------------------------------------------------------------


def from_percent(path: str | Path) -> nbformat.NotebookNode:
    """Turn a percent-format draft into a notebook with deterministic cell ids.

    A cell starts at a line `# %%` (code) or `# %% [markdown]`; either may end in `tags=["hide-input"]`. Markdown lines
    carry the prefix `# `, or the whole cell is one triple-quoted string. Code is kept as it is, magics included; a code
    cell that starts with `# bootstrap` becomes `BOOTSTRAP`, with the address that the course is stamped with.

    Args:
        path: the draft, a text file.

    Returns:
        A notebook without outputs, its cells named `cell-000`, `cell-001`, ….

    Raises:
        ValueError: a marker line is malformed, text stands before the first marker, or a markdown line lacks its `#`.
    """
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": KERNELSPEC, "language_info": LANGUAGE})
    for number, markdown, tags, lines in _split_draft(Path(path)):
        source = _uncomment(path, number, lines) if markdown else "\n".join(lines)
        is_bootstrap = not markdown and source.lstrip("\n").startswith("# bootstrap")
        source = bootstrap(stamped_address()) if is_bootstrap else source
        new_cell = nbformat.v4.new_markdown_cell if markdown else nbformat.v4.new_code_cell
        cell = new_cell(source.strip("\n"), id=f"cell-{len(nb.cells):03d}")
        if tags:
            cell.metadata["tags"] = tags
        if is_bootstrap:
            cell.metadata.update(nbformat.from_dict(FOLDED))
        nb.cells.append(cell)
    nbformat.validate(nb)
    return nb


def _split_draft(path: Path) -> list[tuple[int, bool, list[str], list[str]]]:
    cells: list[tuple[int, bool, list[str], list[str]]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("# %%"):
            marker = MARKER.match(line)
            if not marker:
                raise ValueError(
                    f"{path}:{number}: got the cell marker {line!r}; "
                    'expected `# %%` or `# %% [markdown]`, optionally followed by tags=["…"]'
                )
            cells.append((number, bool(marker["markdown"]), json.loads(marker["tags"] or "[]"), []))
        elif cells:
            cells[-1][3].append(line.rstrip())
        elif line.strip():
            raise ValueError(f"{path}:{number}: got text before the first cell; expected a `# %%` line first")
    return cells


def _uncomment(path: str | Path, number: int, lines: list[str]) -> str:
    text = "\n".join(lines).strip()
    quoted = re.fullmatch(r'r?"""(.*)"""', text, flags=re.DOTALL)
    if quoted:
        return quoted[1]
    for offset, line in enumerate(lines, start=1):
        if line and line != "#" and not line.startswith("# "):
            raise ValueError(f"{path}:{number + offset}: got {line!r} in a markdown cell; expected a leading `# `")
    return "\n".join(line[2:] for line in lines)


def to_percent(nb: nbformat.NotebookNode) -> str:
    """Write a notebook's sources as a percent-format draft; the inverse of `from_percent` for tidy notebooks."""
    parts = []
    for cell in nb.cells:
        markdown = cell.cell_type == "markdown"
        tags = cell.metadata.get("tags")
        marker = "# %%" + (" [markdown]" if markdown else "") + (f" tags={json.dumps(tags)}" if tags else "")
        lines = cell.source.split("\n")
        body = [f"# {line}".rstrip() for line in lines] if markdown else lines
        parts.append("\n".join([marker, *body]))
    return "\n\n".join(parts) + "\n"


# -- reading and writing --------------------------------------------------------------------------------------------


def read(path: str | Path) -> nbformat.NotebookNode:
    """Read a notebook as nbformat 4."""
    return nbformat.read(path, as_version=4)


def write(nb: nbformat.NotebookNode, path: str | Path) -> None:
    """Write a notebook: sorted keys, indent 1, LF line ends, one newline at the end."""
    nbformat.validate(nb)
    text = nbformat.writes(nb, version=nbformat.NO_CONVERT).rstrip("\n") + "\n"
    Path(path).write_bytes(text.encode("utf-8"))


def find(only: str | None = None, folder: Path = NOTEBOOKS) -> list[Path]:
    """List the course's notebooks in order; `only="01"` keeps those whose name starts so (several: `"01,03"`)."""
    starts = tuple(part.strip() for part in only.split(",")) if only else ("",)
    return sorted(path for path in folder.glob("*.ipynb") if path.name.startswith(starts))


# -- the bootstrap cell ---------------------------------------------------------------------------------------------


def bootstrap(address: str = "") -> str:
    """Return the bootstrap cell with an address written into it.

    Raises:
        ValueError: the address is neither empty nor the https address of a git repository.
    """
    if address and (not ADDRESS.fullmatch(address) or address.endswith((".ipynb", ".zip"))):
        raise ValueError(
            f"got {address!r}; expected the address that `git clone` takes, such as https://github.com/you/titans_mini"
        )
    return STAMPED.sub(f'REPOSITORY = "{address}"', BOOTSTRAP, count=1)


def address_in(source: str) -> str | None:
    """Return the address in a bootstrap cell, "" where it holds none, and None for every other cell."""
    found = STAMPED.search(source)
    try:
        return found["address"] if found and source == bootstrap(found["address"]) else None
    except ValueError:
        return None


def bootstrap_cell(nb: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """Return a notebook's bootstrap cell, or None where it has none."""
    return next((cell for cell in nb.cells if cell.cell_type == "code" and address_in(cell.source) is not None), None)


def stamped_address(folder: Path = NOTEBOOKS) -> str:
    """Return the address that the notebooks of a folder are stamped with; "" where there is none."""
    cells = [bootstrap_cell(read(path)) for path in find(folder=folder)[:1]]
    return address_in(cells[0].source) if cells and cells[0] else ""


def stamp(address: str, folder: Path = NOTEBOOKS) -> list[Path]:
    """Write the bootstrap cell, folded and with an address, into every notebook in a folder; returns what changed.

    Nothing else changes. A cell of an older edition of the course, which also starts with `# bootstrap`, is renewed.

    Args:
        address: the https address of the git repository that readers open the notebooks from; "" clears it.
        folder: where the notebooks lie.

    Raises:
        ValueError: the address is neither empty nor the https address of a git repository.
    """
    source, changed = bootstrap(address), []
    for path in find(folder=folder):
        nb = read(path)
        codes = (cell for cell in nb.cells if cell.cell_type == "code")
        cell = next((cell for cell in codes if cell.source.startswith("# bootstrap")), None)
        if cell and (cell.source != source or not FOLDED.items() <= cell.metadata.items()):
            cell.source = source
            cell.metadata.update(nbformat.from_dict(FOLDED))
            write(nb, path)
            changed.append(path)
    return changed


# -- running --------------------------------------------------------------------------------------------------------


def environment(strict: bool = False) -> dict[str, str]:
    """Build the environment of a kernel: one thread, a fixed hash seed, no progress bars; the rest is inherited."""
    env = dict(os.environ, TQDM_DISABLE="1", PYTHONHASHSEED="0", JUPYTER_PREFER_ENV_PATH="1")
    env.setdefault("OMP_NUM_THREADS", "1")  # sums in a fixed order, so the printed digits are the same each time
    env.pop("MPLBACKEND", None)
    if strict:
        env["TITANS_STRICT"] = "1"
    return env


def execute(
    nb: nbformat.NotebookNode, folder: str | Path, *, timeout: int = 600, strict: bool = False
) -> nbformat.NotebookNode:
    """Run a copy of a notebook top to bottom in a fresh kernel and return it, tidied.

    Args:
        nb: the notebook; it is not changed.
        folder: the kernel's working directory, the notebook's own folder.
        timeout: seconds allowed for one cell.
        strict: sets `TITANS_STRICT=1`, in which `check` raises for a wrong or missing answer.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
        RuntimeError: a widget callback raised; nbclient alone lets those pass.
    """
    import nbclient

    nb = copy.deepcopy(nb)
    clear(nb)
    with tempfile.TemporaryDirectory() as private:
        env = environment(strict) | {"IPYTHONDIR": private}  # no start-up files and no history of the person running it
        client = nbclient.NotebookClient(
            nb,
            timeout=timeout,
            kernel_name="python3",
            record_timing=False,
            store_widget_state=False,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(env=env)
    for index, cell in enumerate(nb.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                raise RuntimeError(f"cell {index} shows an error ({output.ename}: {output.evalue}):\n{cell.source}")
    return tidy(nb)


def clear(nb: nbformat.NotebookNode) -> None:
    """Remove all outputs and execution counts, in place."""
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def run(path: Path, timeout: int = 600) -> bool:
    """Execute the notebook at `path` and rewrite it; returns whether the file changed."""
    before = path.read_bytes()
    write(execute(read(path), path.parent, timeout=timeout), path)
    return path.read_bytes() != before


# -- tidying --------------------------------------------------------------------------------------------------------


def tidy(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Make an executed notebook repeatable and readable in any viewer, in place.

    Metadata is fixed, the bootstrap cell folded, execution counts run 1…n, stderr goes, consecutive prints become one
    output, figures are stored with a palette, and an output that holds a widget and its picture keeps the picture.
    """
    nb.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": LANGUAGE})
    nb.nbformat, nb.nbformat_minor = 4, 5
    count = 0
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata})
        cell.pop("attachments", None)
        if cell.cell_type != "code":
            continue
        if address_in(cell.source) is not None:
            cell.metadata.update(nbformat.from_dict(FOLDED))
        ran = bool(cell.source.strip()) and cell.execution_count is not None
        count += ran
        cell.execution_count = count if ran else None
        shows_widget = any(WIDGET_VIEW in output.get("data", {}) for output in cell.outputs)
        tags = [tag for tag in cell.metadata.get("tags", []) if tag != WIDGET_TAG] + [WIDGET_TAG] * shows_widget
        cell.metadata = nbformat.from_dict({key: value for key, value in cell.metadata.items() if key != "tags"})
        if tags:
            cell.metadata["tags"] = tags
        cell.outputs = _tidy_outputs(cell.outputs, cell.execution_count)
    return nb


def _tidy_outputs(outputs: list, count: int | None) -> list:
    kept: list = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        if output.output_type == "execute_result":
            output.execution_count = count
        data = output.get("data", {})
        if "image/png" in data:
            alt = output.metadata.get("image/png", {}).get("alt")
            if data.pop(WIDGET_VIEW, None) and alt:
                data["text/plain"] = alt  # instead of the widget's repr, for readers without pictures
            data["image/png"] = compress_png(data["image/png"])
        kept.append(output)
    return kept


def compress_png(encoded: str) -> str:
    """Store an opaque base64 PNG with a palette of 256 colours when that is smaller; others come back unchanged."""
    from PIL import Image

    raw = base64.b64decode(encoded)
    image = Image.open(io.BytesIO(raw))
    if image.mode == "P" or ("A" in image.getbands() and image.getchannel("A").getextrema()[0] < 255):
        small = raw
    else:
        buffer = io.BytesIO()
        options = {"dpi": image.info["dpi"]} if "dpi" in image.info else {}
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True, **options)
        small = min(buffer.getvalue(), raw, key=len)
    return base64.b64encode(small).decode("ascii")


# -- exercises ------------------------------------------------------------------------------------------------------


def solve(nb: nbformat.NotebookNode, source: Callable[[str], str] | None = None) -> nbformat.NotebookNode:
    """Return a copy of a notebook in which every exercise holds its solution.

    An exercise cell starts with `# exercise: 01.2`, defines one function and ends with `check("01.2", fn)`. The solved
    cell is the first line, the solution's source, and the check.

    Args:
        nb: the notebook; it is not changed.
        source: exercise name to the text of a function; `titans_mini.exercises.source` when not given.

    Raises:
        ValueError: an exercise cell does not end in its own check, or the solution defines another function.
    """
    if source is None:
        from titans_mini.exercises import source
    nb = copy.deepcopy(nb)
    for cell in nb.cells:
        name = exercise_name(cell)
        if name is None:
            continue
        lines = cell.source.rstrip().split("\n")
        check = re.fullmatch(rf'check\(["\']{re.escape(name)}["\'], *(\w+)\)', lines[-1])
        if not check:
            raise ValueError(f'exercise {name}: got the last line {lines[-1]!r}; expected check("{name}", function)')
        solution = source(name).strip("\n")
        defined = [node.name for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef)]
        if check[1] not in defined:
            raise ValueError(f"exercise {name}: the cell checks {check[1]}, but its solution defines {defined}")
        cell.source = "\n".join([lines[0], solution, "", lines[-1]])
    return nb


def exercise_name(cell: nbformat.NotebookNode) -> str | None:
    """Return `"01.2"` for the code cell of that exercise and None for every other cell."""
    first = EXERCISE.match(cell.source.split("\n", 1)[0]) if cell.cell_type == "code" else None
    return first["name"] if first else None


# -- command line ---------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands in the module's docstring; returns the process's exit status."""
    parser = argparse.ArgumentParser(description="Make, run and solve the course's notebooks.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in [("new", "draft.py to notebook"), ("draft", "notebook to draft.py"), ("solve", "solve it")]:
        sub = commands.add_parser(command, help=text)
        sub.add_argument("source", type=Path)
        sub.add_argument("target", type=Path)
    sub = commands.add_parser("run", help="execute notebooks and rewrite their outputs")
    sub.add_argument("paths", nargs="*", type=Path)
    sub.add_argument("--only", help="01, or 01,03: the first letters of the notebooks meant")
    sub.add_argument("--timeout", type=int, default=600, help="seconds allowed for one cell")
    sub = commands.add_parser("stamp", help="write the repository's address into every bootstrap cell")
    sub.add_argument("address", nargs="?", help='https://…; "" clears it')
    options = parser.parse_args(arguments)
    if options.command == "run":
        return _run_all(options.paths or find(options.only), options.timeout)
    if options.command == "stamp":
        return _stamp_all(options.address)
    if options.command == "new":
        write(from_percent(options.source), options.target)
    elif options.command == "draft":
        options.target.write_text(to_percent(read(options.source)), encoding="utf-8")
    else:
        write(solve(read(options.source)), options.target)
    print(f"wrote {options.target}")
    return 0


def _stamp_all(address: str | None) -> int:
    if address is None:
        print("stamp: which address? make stamp REPOSITORY=https://… (REPOSITORY= clears it)", file=sys.stderr)
        return 1
    try:
        changed = stamp(address)
    except ValueError as error:
        print(f"stamp: {error}", file=sys.stderr)
        return 1
    print(f"REPOSITORY is {address or 'empty'} in {len(find())} notebooks, {len(changed)} of them changed")
    return 0


def _run_all(paths: list[Path], timeout: int) -> int:
    if not paths:
        print("no notebook matches", file=sys.stderr)
        return 1
    for path in paths:
        start = time.perf_counter()
        print(f"{path.name}: ", end="", flush=True)
        changed = run(path.resolve(), timeout)
        size = path.stat().st_size / 1000
        print(f"{'rewritten' if changed else 'unchanged'}, {time.perf_counter() - start:.0f} s, {size:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
