"""Rules that every notebook of the course keeps: `python tools/hygiene.py [--only 01] [PATH …]` lists what breaks them.

With `--times` it lists instead how long each lesson takes, counted from its words, code and exercises.

A rule is a function from a notebook to a list of complaints, empty when all is well. `RULES` holds them by name.
`tests/test_hygiene.py` applies each to every notebook, and to a notebook that breaks it on purpose.
"""

from __future__ import annotations

import argparse
import ast
import base64
import importlib
import inspect
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also where it is run as a script
from tools.notebooks import CELL_METADATA, WIDGET_TAG, WIDGET_VIEW, address_in, exercise_name, find, read  # noqa: E402

Rule = Callable[[nbformat.NotebookNode], list[str]]
RULES: dict[str, Rule] = {}

MAX_BYTES, MAX_WIDGETS = 300_000, 3

ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])(/(home|root|Users|work|tmp|usr|opt|mnt|content|var)/|[A-Z]:\\\\?\w)")
WIDGET_REPR = re.compile(r"^<?[A-Z]\w+\((children|value|description|layout|options)=")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
PASTED = re.compile(r"[A-Za-z0-9+/]{200,}|data:[a-z]+/[\w.+-]+;base64")
NETWORK = re.compile(r"urlopen|urllib|requests\.|httpx|socket\.|https?://|git clone|^\s*[!%]|download=True", re.M)
FORBIDDEN_TAGS = {"raises-exception", "skip", "nbval-skip", "nbval-raises-exception"}
BANNED_WORDS = re.compile(r"\b(simply|just|obviously)\b", re.I)


def rule(function: Rule) -> Rule:
    """Enter a function into `RULES` under its own name."""
    RULES[function.__name__] = function
    return function


def check(nb: nbformat.NotebookNode) -> list[str]:
    """Apply all rules to a notebook; every complaint starts with the name of its rule."""
    return [f"{name}: {complaint}" for name, function in RULES.items() for complaint in function(nb)]


# -- looking into notebooks -----------------------------------------------------------------------------------------


def code(nb: nbformat.NotebookNode) -> Iterator[tuple[int, nbformat.NotebookNode]]:
    """Yield the index and the cell of every code cell that is not empty."""
    return ((i, cell) for i, cell in enumerate(nb.cells) if cell.cell_type == "code" and cell.source.strip())


def markdown(nb: nbformat.NotebookNode) -> Iterator[tuple[int, str]]:
    """Yield the index and the text of every markdown cell."""
    return ((i, cell.source) for i, cell in enumerate(nb.cells) if cell.cell_type == "markdown")


def outputs(nb: nbformat.NotebookNode) -> Iterator[tuple[int, nbformat.NotebookNode]]:
    """Yield every output with the index of its cell."""
    return ((i, output) for i, cell in code(nb) for output in cell.outputs)


def parse(source: str) -> ast.Module:
    """Parse a code cell; lines of IPython's own (`%`, `!`) become `pass`."""
    return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M))


def comments(source: str) -> list[str]:
    """List the comments of a code cell."""
    tokens = tokenize.generate_tokens(io.StringIO(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M)).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def prose(text: str) -> str:
    """Reduce markdown to the words a reader reads: no code, formulas, tags or addresses."""
    for pattern in (
        r"```.*?```",
        r"`[^`]*`",
        r"\$\$.*?\$\$",
        r"\$[^$]*\$",
        r"<[^>]+>",
        r"\]\([^)]*\)",
        r"https?://\S+",
    ):
        text = re.sub(pattern, " ", text, flags=re.S)
    return text


def words(text: str) -> int:
    """Count the words in the prose of a markdown text."""
    return len(re.findall(r"[^\W\d_][\w’'-]*", prose(text)))


def names(tree: ast.AST) -> set[str]:
    """Collect every name and attribute that a syntax tree mentions, imports included."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found | {
        alias.name for node in ast.walk(tree) for alias in getattr(node, "names", []) if hasattr(alias, "name")
    }


# -- what is stored -------------------------------------------------------------------------------------------------


@rule
def no_widget_state(nb: nbformat.NotebookNode) -> list[str]:
    """Plain viewers show pictures, and a saved widget state can make a notebook unreadable there."""
    found = ["the notebook's metadata holds widget state"] if "widgets" in nb.metadata else []
    for i, output in outputs(nb):
        data = output.get("data", {})
        if WIDGET_VIEW in data:
            found.append(f"cell {i} stores a widget view; display one bundle that also holds image/png")
        elif not any(kind.startswith("image/") for kind in data) and WIDGET_REPR.match(data.get("text/plain", "")):
            found.append(f"cell {i} shows a widget's repr instead of a picture")
    return found


@rule
def tidy_metadata(nb: nbformat.NotebookNode) -> list[str]:
    """Timings, folding and trust marks change from run to run."""
    found = [
        f"the notebook's metadata holds {key!r}"
        for key in nb.metadata
        if key not in ("kernelspec", "language_info", "widgets")
    ]
    for i, cell in enumerate(nb.cells):
        found += [f"cell {i}: metadata {key!r}" for key in cell.metadata if key not in CELL_METADATA]
        found += [f"cell {i}: attachments"] if "attachments" in cell else []
    return found


@rule
def no_pasted_data(nb: nbformat.NotebookNode) -> list[str]:
    """Sources hold text; pictures are outputs or files."""
    return [f"cell {i} holds pasted base64" for i, cell in enumerate(nb.cells) if PASTED.search(cell.source)]


@rule
def no_absolute_paths(nb: nbformat.NotebookNode) -> list[str]:
    """A path of one machine means nothing on another."""
    texts = [(i, cell.source) for i, cell in enumerate(nb.cells)]
    for i, output in outputs(nb):
        texts += [(i, output.get("text", "")), (i, output.get("data", {}).get("text/plain", ""))]
    return [f"cell {i}: {hit[0]!r}" for i, text in texts for hit in [ABSOLUTE_PATH.search(text)] if hit]


@rule
def figures_end_cells(nb: nbformat.NotebookNode) -> list[str]:
    """`show` returns a picture: Jupyter displays it where it is the last thing in a cell, and nowhere else."""
    found = []
    for i, cell in code(nb):
        before = [ast.unparse(x) for x in parse(cell.source).body[:-1]]
        if any(x.startswith("show(") for x in before):
            found.append(f"cell {i}: show(…) is not the last thing in it, so nobody sees the figure")
    return found


@rule
def alt_text(nb: nbformat.NotebookNode) -> list[str]:
    """Who cannot see a picture reads its alt text: output metadata, markdown, or HTML."""
    found = []
    for i, output in outputs(nb):
        for kind in output.get("data", {}):
            if kind.startswith("image/") and not output.metadata.get(kind, {}).get("alt", "").strip():
                found.append(f'cell {i}: {kind} without metadata {{"{kind}": {{"alt": …}}}}')
    for i, text in markdown(nb):
        if re.search(r"!\[\s*\]\(", text) or any(
            not re.search(r'\balt="[^"]+"', t) for t in re.findall(r"<img[^>]*>", text)
        ):
            found.append(f"cell {i}: an image without alt text")
    return found


@rule
def small(nb: nbformat.NotebookNode) -> list[str]:
    """A notebook opens at once, also on GitHub."""
    size = len(nbformat.writes(nb).encode("utf-8"))
    return [f"{size:,} bytes with outputs, at most {MAX_BYTES:,}"] if size > MAX_BYTES else []


@rule
def outputs_committed(nb: nbformat.NotebookNode) -> list[str]:
    """A reader without a kernel sees what the cells did, from one clean run."""
    found = [f"cell {i} was not run" for i, cell in code(nb) if cell.execution_count is None]
    counts = [cell.execution_count for _, cell in code(nb)]
    if not found and counts != list(range(1, len(counts) + 1)):
        found.append(f"execution counts {counts} are not 1…n: run `make notebooks`")
    pictures = [output.data["image/png"] for _, output in outputs(nb) if "image/png" in output.get("data", {})]
    vector = [output for _, output in outputs(nb) if "image/svg+xml" in output.get("data", {})]
    if not pictures and not vector:
        found.append("no output holds a picture")
    found += ["an image/png that is no PNG" for p in pictures if not base64.b64decode(p).startswith(b"\x89PNG\r\n")]
    return found


@rule
def clean_outputs(nb: nbformat.NotebookNode) -> list[str]:
    """No errors, no stderr, and no addresses of objects, which differ in every run."""
    found = []
    for i, output in outputs(nb):
        if output.output_type == "error":
            found.append(f"cell {i} shows the error {output.ename}")
        if output.get("name") == "stderr":
            found.append(f"cell {i} shows stderr: {output.text[:60]!r}")
        if ADDRESS.search(output.get("text", "") + output.get("data", {}).get("text/plain", "")):
            found.append(f"cell {i} prints an object's address")
    return found


# -- how cells are written ------------------------------------------------------------------------------------------


@rule
def no_interact(nb: nbformat.NotebookNode) -> list[str]:
    """`interact` draws a new figure for every move: slow, and its errors are hard to see."""
    bad = {"interact", "interactive", "interact_manual", "interactive_output"}
    return [f"cell {i} uses {hit}" for i, cell in code(nb) for hit in sorted(bad & names(parse(cell.source)))]


@rule
def no_output_widget(nb: nbformat.NotebookNode) -> list[str]:
    """The `Output` widget swallows errors."""
    return [f"cell {i} uses an Output widget" for i, cell in code(nb) if re.search(r"\bOutput\(", cell.source)]


@rule
def no_trailing_semicolon(nb: nbformat.NotebookNode) -> list[str]:
    """A trailing `;` hides an output, which is no Python."""
    lines = ((i, line) for i, cell in code(nb) for line in cell.source.splitlines())
    return [f"cell {i}: {line.strip()!r}" for i, line in lines if line.split("#")[0].rstrip().endswith(";")]


@rule
def no_star_imports(nb: nbformat.NotebookNode) -> list[str]:
    """A reader can tell where each name comes from."""
    return [f"cell {i} imports *" for i, cell in code(nb) if re.search(r"^\s*from .+ import \*", cell.source, re.M)]


@rule
def no_warning_filters(nb: nbformat.NotebookNode) -> list[str]:
    """A warning is read and repaired, not hidden."""
    bad = {"filterwarnings", "simplefilter", "catch_warnings", "capture_output"}
    found = [
        f"cell {i} hides warnings: {hit}" for i, cell in code(nb) for hit in sorted(bad & names(parse(cell.source)))
    ]
    return found + [f"cell {i} hides output: %%capture" for i, cell in code(nb) if "%%capture" in cell.source]


@rule
def no_network(nb: nbformat.NotebookNode) -> list[str]:
    """After the bootstrap cell nothing is downloaded and no shell is called."""
    found = []
    for i, cell in code(nb):
        source = re.sub(r"#.*", "", cell.source)
        if address_in(cell.source) is None and (hit := NETWORK.search(source)):
            found.append(f"cell {i}: {hit[0].strip()!r}")
    return found


@rule
def no_forbidden_tags(nb: nbformat.NotebookNode) -> list[str]:
    """`raises-exception` passes even when nothing raises, and a skipped cell is not tested."""
    found = [
        f"cell {i}: tag {tag}" for i, cell in code(nb) for tag in cell.metadata.get("tags", []) if tag in FORBIDDEN_TAGS
    ]
    return found + [f"cell {i}: an NBVAL comment" for i, cell in code(nb) if re.search(r"#\s*NBVAL_", cell.source)]


@rule
def bootstrap_first(nb: nbformat.NotebookNode) -> list[str]:
    """The first code cell is the same in every notebook, up to the address that `make stamp` writes into it."""
    first = next((cell.source for _, cell in code(nb)), "")
    if address_in(first) is None:
        return [f"the first code cell is not the bootstrap cell but {first[:60]!r}"]
    return []


def one_address(notebooks: dict[str, nbformat.NotebookNode]) -> list[str]:
    """List the notebooks whose bootstrap cell holds another address than the first's; by name, as they are."""
    found = {name: address_in(next((cell.source for _, cell in code(nb)), "")) for name, nb in notebooks.items()}
    first = next(iter(found.values()), None)
    return [f"{name}: REPOSITORY is {found[name]!r}, elsewhere {first!r}" for name in found if found[name] != first]


# -- the template ---------------------------------------------------------------------------------------------------


@rule
def few_widgets(nb: nbformat.NotebookNode) -> list[str]:
    """One to three widgets; running a notebook tags the cells that show one."""
    count = sum(WIDGET_TAG in cell.metadata.get("tags", []) for _, cell in code(nb))
    return [] if 1 <= count <= MAX_WIDGETS else [f"{count} widgets, expected 1–{MAX_WIDGETS}"]


@rule
def banned_words(nb: nbformat.NotebookNode) -> list[str]:
    """What is simple to the writer need not be so to the reader."""
    texts = [(i, prose(text)) for i, text in markdown(nb)]
    texts += [(i, "\n".join(comments(cell.source))) for i, cell in code(nb)]
    return [f"cell {i}: {hit[0]!r}" for i, text in texts for hit in BANNED_WORDS.finditer(text)]


def section(nb: nbformat.NotebookNode, title: str) -> str | None:
    """Return the markdown from the heading whose text contains `title` up to the next heading of the same rank."""
    text = "\n\n".join(text for _, text in markdown(nb))
    start = re.search(rf"^(#+) [^\n]*{title}[^\n]*$", text, re.M | re.I)
    if not start:
        return None
    end = re.search(rf"^#{{1,{len(start[1])}}} ", text[start.end() :], re.M)
    return text[start.start() : start.end() + end.start() if end else None]


@rule
def opening(nb: nbformat.NotebookNode) -> list[str]:
    """A title, then what you will do, what it needs, how long it takes, what it runs on."""
    texts = [text for _, text in markdown(nb)]
    found = (
        []
        if texts and nb.cells[0].cell_type == "markdown" and texts[0].startswith("# ")
        else ["no title in the first cell"]
    )
    opening_text = prose("\n".join(texts[:3])).lower()
    return found + [
        f"no *{part}* in the first three texts"
        for part in ("you will", "needs", "time", "runs on")
        if part not in opening_text
    ]


@rule
def closing(nb: nbformat.NotebookNode) -> list[str]:
    """Checkpoint, summary table symbol → code → shape, five questions with hidden answers, pitfalls, references."""
    found = [
        f"no heading with “{part}”" for part in ("checkpoint", "pitfalls", "references") if section(nb, part) is None
    ]
    if not re.search(
        r"^\|[^\n]*symbol[^\n]*\|[^\n]*code[^\n]*\|[^\n]*shape", section(nb, "summary") or "", re.M | re.I
    ):
        found.append("no heading with “summary” followed by a table | symbol | code | shape |")
    answers = len(re.findall(r"<details>.*?</details>", section(nb, "questions") or "", re.S))
    return found + ([] if answers == 5 else [f"{answers} hidden answers (<details>) under “questions”, expected 5"])


@rule
def exercises(nb: nbformat.NotebookNode) -> list[str]:
    """Exercises of the notebook's own number, each a stub with its check, hint and solution."""
    found, cells = [], [(exercise_name(cell), cell.source) for _, cell in code(nb) if exercise_name(cell)]
    if not cells:
        found.append("no exercise")
    everything = "\n".join(cell.source for cell in nb.cells)
    for name, source in cells:
        last = source.rstrip().splitlines()[-1]
        if not re.fullmatch(rf'check\("{re.escape(name)}", *\w+\)', last):
            found.append(f'exercise {name} ends in {last!r}, expected check("{name}", function)')
        found += [f'no {help_}("{name}")' for help_ in ("hint", "solution") if f'{help_}("{name}")' not in everything]
    if len({name.split(".")[0] for name, _ in cells}) > 1:
        found.append("exercises of different notebooks")
    return found


# -- twins ----------------------------------------------------------------------------------------------------------


class _Bare(ast.NodeTransformer):
    """Removes docstrings and annotations, so that only what a function does is compared."""

    def _definition(self, node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if not isinstance(node, ast.ClassDef):
            node.returns = None
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _definition

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        return ast.Assign(targets=[node.target], value=node.value) if node.value else ast.Expr(node.target)


def bare(source: str) -> str:
    """Dump a source's syntax tree without docstrings and annotations."""
    return ast.dump(_Bare().visit(ast.parse(textwrap.dedent(source))), indent=1)


def library_source(path: str) -> str:
    """Return the source of a dotted path such as `titans_mini.memory.gates.coefficients`."""
    parts = path.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError as error:
            if error.name and ".".join(parts[:split]).startswith(error.name):
                continue
            raise
        for name in parts[split:]:
            found = getattr(found, name)
        return inspect.getsource(found)
    raise ImportError(f"{path}: no such module")


@rule
def twins(nb: nbformat.NotebookNode) -> list[str]:
    """A cell that starts `# twin: dotted.path` holds that library function, up to docstrings and annotations."""
    found = []
    for i, cell in code(nb):
        marker = re.match(r"# twin:\s*(\S+)", cell.source)
        if not marker:
            continue
        try:
            original = bare(library_source(marker[1]))
        except (ImportError, AttributeError, OSError, TypeError) as error:
            found.append(f"cell {i}: {marker[1]} does not exist ({error})")
            continue
        if bare(cell.source) != original:
            found.append(f"cell {i} differs from {marker[1]}")
    return found


# -- how long a lesson takes ----------------------------------------------------------------------------------------

WORDS_PER_MINUTE, LINES_PER_MINUTE = 180, 8
STATED = re.compile(r"\*Time\b\W*(\d+)\s*(minute|hour)", re.I)


class LessonTime(NamedTuple):
    """Length of a lesson: words of prose, lines of code, minutes of its cards, and the minutes that it states."""

    words: int
    lines: int
    cards: int
    stated: int | None

    @property
    def minutes(self) -> float:
        """Return reading, code and exercises together, in minutes."""
        return self.words / WORDS_PER_MINUTE + self.lines / LINES_PER_MINUTE + self.cards


def honest_minutes(nb: nbformat.NotebookNode) -> LessonTime:
    """Count a lesson: every markdown word, hidden answers included; every line of code but blanks and the bootstrap."""
    from titans_mini.exercises import get

    texts = [text for _, text in markdown(nb)]
    cells = [cell for _, cell in code(nb) if address_in(cell.source) is None]
    lines = sum(bool(line.strip()) for cell in cells for line in cell.source.splitlines())
    cards = {name for cell in cells if (name := exercise_name(cell))}
    stated = STATED.search("\n".join(texts[:3]))
    return LessonTime(
        words=sum(map(words, texts)),
        lines=lines,
        cards=sum(get(name).minutes for name in cards),
        stated=int(stated[1]) * (60 if stated[2].lower() == "hour" else 1) if stated else None,
    )


def times(paths: list[Path]) -> str:
    """Return a table of how long each lesson takes, beside the time that it states."""
    width = max((len(path.stem) for path in paths), default=0)
    rows = [f"{'':{width}}  words  lines  cards  minutes  stated"]
    for path in paths:
        t = honest_minutes(read(path))
        stated = "–" if t.stated is None else t.stated
        rows.append(f"{path.stem:{width}}  {t.words:5}  {t.lines:5}  {t.cards:5}  {t.minutes:7.0f}  {stated:>6}")
    return "\n".join(rows)


# -- command line ---------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Check notebooks and print every complaint; returns the process's exit status."""
    parser = argparse.ArgumentParser(description="Check the course's notebooks against their rules.")
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--only", help="01, or 01,03: the first letters of the notebooks meant")
    parser.add_argument("--times", action="store_true", help="list how long each lesson takes, and check nothing")
    options = parser.parse_args(arguments)
    paths = options.paths or find(options.only)
    if options.times:
        print(times(paths))
        return 0
    notebooks = {path.name: read(path) for path in paths}
    complaints = [f"{name}: {complaint}" for name, nb in notebooks.items() for complaint in check(nb)]
    complaints += one_address(notebooks)
    print("\n".join(complaints) or f"{len(paths)} notebooks keep every rule")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
