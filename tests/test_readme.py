"""The README tells the truth: its code runs, its links lead somewhere, and what it calls planned is not there yet."""

import re

import pytest

from tools import hygiene, notebooks

README = (notebooks.ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_code_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    assert len(BLOCKS) == 6 and (tmp_path / "second.npz").exists()


def test_the_library_fits_in_twenty_lines():
    block = re.search(r"## The library in twenty lines\n.*?```python\n(.*?)```", README, re.S)[1]
    assert "NeuralMemory(" in block and sum(bool(line.strip()) for line in block.splitlines()) <= 20


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_into_the_repository_lead_somewhere(name):
    text = (notebooks.ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    missing = [link for link in links if not (notebooks.ROOT / link).exists()]
    assert not missing, missing


def test_the_course_table_lists_the_notebooks_and_no_others():
    rows = dict(re.findall(r"^\| (\d\d) \| ([^|]+) \|", README, re.M))
    there = {path.name[:2]: path.name for path in notebooks.find()}
    assert sorted(rows) == sorted(there)
    for number, row in rows.items():
        assert f"(notebooks/{there[number]})" in row


def test_the_map_in_notebook_00_fills_the_tiles_of_the_notebooks_that_exist():
    source = "\n".join(cell.source for cell in notebooks.read(notebooks.find("00")[0]).cells)
    ready = {int(number) for number in re.search(r"course_map\(ax, ready=\{([\d, ]+)\}", source)[1].split(",")}
    assert ready == {int(path.name[:2]) for path in notebooks.find()}


def test_every_file_that_the_tree_names_is_there():
    tree = README.split("## The house")[1].split("```")[1]
    names = set(re.findall(r"\b(\w+\.py)\b", tree))
    there = {path.name for folder in ("titans_mini", "kernels") for path in (notebooks.ROOT / folder).rglob("*.py")}
    assert len(names) > 20 and names <= there
    memory = {path.name for path in (notebooks.ROOT / "titans_mini" / "memory").glob("*.py")} - {"__init__.py"}
    assert memory <= names, memory - names


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_no_banned_words(name):
    text = (notebooks.ROOT / name).read_text(encoding="utf-8")
    assert not hygiene.BANNED_WORDS.findall(hygiene.prose(text))
