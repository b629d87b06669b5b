"""Every rule of tools/hygiene.py on every notebook, and on a notebook that breaks exactly that rule."""

import base64
import copy
import io

import nbformat
import pytest
from PIL import Image

from tools import hygiene, notebooks

PATHS = notebooks.find()


@pytest.mark.parametrize("name", hygiene.RULES)
def test_notebooks_keep_the_rule(name):
    rule = hygiene.RULES[name]
    complaints = [f"{path.name}: {complaint}" for path in PATHS for complaint in rule(notebooks.read(path))]
    assert not complaints, f"{name} ({rule.__doc__})\n" + "\n".join(complaints)


def test_the_command_lists_what_breaks_a_rule(tmp_path, capsys):
    path = tmp_path / "01_broken.ipynb"
    nb = good()
    nb.cells.append(nbformat.v4.new_markdown_cell("This is simply so."))
    notebooks.write(nb, path)
    assert hygiene.main([str(path)]) == 1
    assert "01_broken.ipynb: banned_words: cell" in capsys.readouterr().out


def test_the_bootstrap_cell_is_the_same_in_all_notebooks():
    first = {path.name: next(cell.source for _, cell in hygiene.code(notebooks.read(path))) for path in PATHS}
    assert set(first.values()) <= {notebooks.bootstrap(notebooks.stamped_address())}
    assert not hygiene.one_address({path.name: notebooks.read(path) for path in PATHS})


def test_exercises_carry_the_number_of_their_notebook():
    for path in PATHS:
        names = [notebooks.exercise_name(cell) for cell in notebooks.read(path).cells]
        assert all(name.startswith(f"{path.name[:2]}.") for name in names if name), path.name


# -- how long a lesson takes ----------------------------------------------------------------------------------------


def lesson(opening):
    """Build a notebook of 360 words and eight lines of code, with the cards 00.1 (3 minutes) and 13.4 (20 minutes)."""
    sources = [
        notebooks.BOOTSTRAP,
        "import math\n\n# a comment\nx = math.pi",
        '# exercise: 00.1\ndef f(x):\n    ...\n\n\ncheck("00.1", f)',
        "# exercise: 13.4",
    ]
    text = opening + "\n\n$x + y$ `code` <details>" + "word " * (360 - hygiene.words(opening)) + "</details>"
    cells = [nbformat.v4.new_markdown_cell(text), *map(nbformat.v4.new_code_cell, sources)]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.mark.parametrize(
    "opening, stated",
    [
        ("# 07\n\n*Time*: 45 minutes.", 45),
        ("# 07\n\n**Time** 50 minutes, with puzzles.", 50),
        ("# 07\n\n*Time:* 2 hours.", 120),
        ("# 07\n\nIn time 3 minutes pass. *Time*: a while.", None),
    ],
)
def test_the_time_of_a_lesson_is_counted(opening, stated):
    found = hygiene.honest_minutes(lesson(opening))
    assert found == (360, 8, 23, stated)
    assert found.minutes == 360 / 180 + 8 / 8 + 23


def test_the_command_lists_times_and_complains_about_none(tmp_path, capsys):
    path = tmp_path / "07_trial.ipynb"
    notebooks.write(lesson("# 07\n\n*Time*: 45 minutes. Simply so."), path)
    assert hygiene.main(["--times", str(path)]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["words", "lines", "cards", "minutes", "stated"]
    assert row.split() == ["07_trial", "360", "8", "23", "26", "45"]


def test_every_lesson_has_a_time_and_states_one():
    found = [hygiene.honest_minutes(notebooks.read(path)) for path in PATHS]
    assert all(t.words and t.lines and t.cards and t.stated for t in found)


# -- a notebook without fault ---------------------------------------------------------------------------------------

OPENING = "# 07 · A trial\n\n*You will* see, say and do. *Needs*: nothing. *Time*: a minute. *Runs on*: anything."
CLOSING = [
    "## Checkpoint",
    "## Summary\n\n| symbol | code | shape |\n|---|---|---|\n| $M$ | `M` | (D, D) |",
    "## Five questions\n\n" + "<details>An answer.</details>\n\n" * 5,
    "## Pitfalls",
    "## References\n\n![A picture](../assets/a.svg)",
]
TWIN = "# twin: tools.hygiene.words\n" + hygiene.library_source("tools.hygiene.words").replace("-> int", "")
WIDGET_DATA = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}


def picture():
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def output(data, metadata=None):
    return nbformat.v4.new_output("display_data", data=data, metadata=metadata or {})


def good():
    code = [
        nbformat.v4.new_code_cell(source) for source in (notebooks.BOOTSTRAP, "import math", "x = math.pi\nx", TWIN)
    ]
    for number in (1, 2, 3):
        name = f'"07.{number}"'
        stub = f"# exercise: 07.{number}\ndef f{number}(x):\n    return None  # hint({name}), solution({name})\n\n\n"
        code.append(nbformat.v4.new_code_cell(stub + f"check({name}, f{number})"))
    code[2].outputs = [output({"image/png": picture()}, {"image/png": {"alt": "a dot"}})]
    code[2].metadata["tags"] = ["widget"]
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
    filler = [nbformat.v4.new_markdown_cell("A word " * 29) for _ in range(15)]
    closing = [nbformat.v4.new_markdown_cell(text) for text in CLOSING]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(OPENING), *code, *filler, *closing])


def add_code(source):
    def change(nb):
        last = max(cell.execution_count for _, cell in hygiene.code(nb))
        nb.cells.append(nbformat.v4.new_code_cell(source, execution_count=last + 1))

    return change


def add_text(source):
    return lambda nb: nb.cells[20].update(source=nb.cells[20].source + "\n\n" + source)


def add_output(data, metadata=None):
    return lambda nb: nb.cells[4].outputs.append(output(data, metadata))


def add_tag(tag):
    return lambda nb: nb.cells[3].metadata.update(tags=nb.cells[3].metadata["tags"] + [tag])


def edit(index, old, new):
    def change(nb):
        assert old in nb.cells[index].source
        nb.cells[index].source = nb.cells[index].source.replace(old, new)

    return change


def remove(start, stop):
    def change(nb):
        del nb.cells[start:stop]

    return change


def replace_closing(old, new):
    return lambda nb: [cell.update(source=cell.source.replace(old, new)) for cell in nb.cells[-5:]]


def many_widgets(nb):
    for cell in nb.cells[2:6]:
        cell.metadata["tags"] = ["widget"]


def stream(text, name="stdout"):
    return lambda nb: nb.cells[4].outputs.append(nbformat.v4.new_output("stream", text=text, name=name))


BREAKS = [
    ("no_widget_state", lambda nb: nb.metadata.update(widgets={})),
    ("no_widget_state", add_output(WIDGET_DATA)),
    ("no_widget_state", add_output({"text/plain": "VBox(children=(IntSlider(value=0),))"})),
    ("tidy_metadata", lambda nb: nb.cells[3].metadata.update(execution={})),
    ("tidy_metadata", lambda nb: nb.metadata.update(colab={})),
    ("no_pasted_data", add_text("A" * 200)),
    ("no_pasted_data", add_text("![a](data:image/png;base64,AAAA)")),
    ("no_absolute_paths", add_text("Look in /home/someone/titans.")),
    ("no_absolute_paths", add_code("open('C:\\\\data')")),
    ("no_absolute_paths", stream("/usr/lib/python3/x.py:3: UserWarning")),
    ("alt_text", add_output({"image/png": picture()})),
    ("alt_text", add_output({"image/png": picture()}, {"image/png": {"alt": " "}})),
    ("alt_text", add_text("![](a.png)")),
    ("alt_text", add_text('<img src="a.png" alt="">')),
    ("small", stream("x" * hygiene.MAX_BYTES)),
    ("outputs_committed", lambda nb: nb.cells[3].update(execution_count=None)),
    ("outputs_committed", lambda nb: nb.cells[3].update(execution_count=9)),
    ("outputs_committed", lambda nb: nb.cells[3].update(outputs=[])),
    ("outputs_committed", lambda nb: nb.cells[3].outputs[0].data.update({"image/png": "AAAA"})),
    ("clean_outputs", stream("a warning", "stderr")),
    ("clean_outputs", stream("<function f at 0x7f0123456789>")),
    (
        "clean_outputs",
        lambda nb: nb.cells[4].outputs.append(nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])),
    ),
    ("no_interact", add_code("ipywidgets.interact(f, x=3)")),
    ("no_interact", add_code("from ipywidgets import interactive_output")),
    ("no_output_widget", add_code("out = ipywidgets.Output()")),
    ("no_trailing_semicolon", add_code("plot(x);  # quiet")),
    ("no_star_imports", add_code("from math import *")),
    ("no_warning_filters", add_code("import warnings\nwarnings.filterwarnings('ignore')")),
    ("no_warning_filters", add_code("%%capture\nx = 1")),
    ("no_network", add_code("from urllib.request import urlopen")),
    ("no_network", add_code("!pip install x")),
    ("no_network", add_code("load('https://example.org/a.txt')")),
    ("no_forbidden_tags", add_tag("raises-exception")),
    ("no_forbidden_tags", add_code("# NBVAL_SKIP\nx = 1")),
    ("bootstrap_first", edit(1, "import sys", "import sys, os")),
    ("bootstrap_first", edit(1, 'REPOSITORY = ""', 'REPOSITORY = "http://example.org/c"')),
    ("few_widgets", many_widgets),
    ("few_widgets", lambda nb: nb.cells[3].metadata.pop("tags")),
    ("banned_words", add_text("This is simply so.")),
    ("figures_end_cells", add_code("show(fig, 'A curve.')\nassert x > 0")),
    ("banned_words", add_text("You can\njust do it.")),
    ("banned_words", add_code("x = 1  # obviously")),
    ("opening", edit(0, "# 07 · A trial", "A trial")),
    ("opening", edit(0, "*Runs on*", "*With*")),
    ("closing", replace_closing("Checkpoint", "End")),
    ("closing", replace_closing("symbol", "thing")),
    ("closing", replace_closing("<details>An answer.</details>\n\n" * 5, "<details>An answer.</details>")),
    ("closing", replace_closing("Pitfalls", "Traps")),
    ("closing", replace_closing("References", "Reading")),
    ("exercises", edit(6, 'check("07.2", f2)', "f2(1)")),
    ("exercises", edit(6, 'hint("07.2")', "hint")),
    ("exercises", lambda nb: edit(6, "07.2", "08.2")(nb)),
    ("exercises", lambda nb: [edit(i, "# exercise: ", "# not ")(nb) for i in (5, 6, 7)]),
    ("twins", edit(4, "len(", "sum(")),
    ("twins", edit(4, "tools.hygiene.words", "tools.hygiene.no_such_function")),
    ("twins", edit(4, "tools.hygiene.words", "tools.no_such_module.words")),
]


def test_a_notebook_without_fault_keeps_every_rule():
    assert hygiene.check(good()) == []


def test_every_rule_has_a_notebook_that_breaks_it():
    assert set(hygiene.RULES) == {name for name, _ in BREAKS}


@pytest.mark.parametrize(("name", "change"), BREAKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BREAKS)])
def test_a_rule_can_fail(name, change):
    nb = copy.deepcopy(good())
    change(nb)
    assert hygiene.RULES[name](nb), f"{name} did not notice"


def test_twins_ignore_docstrings_and_annotations_only():
    plain = "def f(x, *y, z=1):\n    w = x\n    return w"
    noted = 'def f(x: int, *y: int, z: int = 1) -> int:\n    """Doc."""\n    w: int = x\n    return w'
    assert hygiene.bare(plain) == hygiene.bare(noted)
    assert hygiene.bare(plain) != hygiene.bare(plain.replace("z=1", "z=2"))
    in_class = "class A:\n    def f(self) -> int:\n        '''Doc.'''\n        return 1"
    assert hygiene.bare(in_class) == hygiene.bare("class A:\n    def f(self):\n        return 1")
