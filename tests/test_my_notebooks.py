"""The reader's own copies of the lessons: nothing typed is overwritten, news is told, and git sees nothing of it."""

import json
import shutil
import subprocess

import nbformat
import pytest

from tools import my_notebooks, notebooks

LESSON = "01_x.ipynb"


@pytest.fixture
def course(tmp_path):
    (tmp_path / "notebooks").mkdir()
    publish(tmp_path / "notebooks", "x = 1")
    return tmp_path / "notebooks"


@pytest.fixture
def mine(tmp_path):
    return tmp_path / "my_notebooks"


def publish(folder, source, name=LESSON):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, id="a")])
    notebooks.write(nb, folder / name)


def run(path, text="42\n"):
    nb = notebooks.read(path)
    nb.cells[0].outputs = [nbformat.v4.new_output("stream", text=text)]
    nb.cells[0].execution_count = 7
    notebooks.write(nb, path)


def source(path):
    return notebooks.read(path).cells[0].source


def names(mine):
    return sorted(path.name for path in mine.glob("*.ipynb"))


def test_the_first_time_every_lesson_is_copied_and_the_second_time_nothing_changes(course, mine):
    assert my_notebooks.refresh(course, mine) == [] and names(mine) == [LESSON]
    run(mine / LESSON)
    before = (mine / LESSON).read_bytes()
    assert my_notebooks.refresh(course, mine) == [] and (mine / LESSON).read_bytes() == before
    publish(course, "y = 1", "02_y.ipynb")
    assert my_notebooks.refresh(course, mine) == [] and names(mine) == [LESSON, "02_y.ipynb"]


def test_a_copy_that_was_only_run_is_replaced_by_a_newer_edition(course, mine):
    my_notebooks.refresh(course, mine)
    run(mine / LESSON)
    publish(course, "x = 2")
    (line,) = my_notebooks.refresh(course, mine)
    assert source(mine / LESSON) == "x = 2" and names(mine) == [LESSON]
    assert "01_x: a newer edition replaced your copy" in line
    assert my_notebooks.refresh(course, mine) == []


def test_outputs_alone_are_no_newer_edition(course, mine):
    my_notebooks.refresh(course, mine)
    run(course / LESSON)
    assert my_notebooks.refresh(course, mine) == [] and notebooks.read(mine / LESSON).cells[0].outputs == []


def test_what_a_reader_wrote_is_never_overwritten(course, mine):
    my_notebooks.refresh(course, mine)
    publish(mine, "my answer")
    publish(course, "x = 2")
    (line,) = my_notebooks.refresh(course, mine)
    assert "is beside yours: my_notebooks/01_x.new.ipynb" in line
    assert source(mine / LESSON) == "my answer" and source(mine / "01_x.new.ipynb") == "x = 2"
    assert my_notebooks.refresh(course, mine) == [], "it is told once"
    publish(course, "x = 3")
    assert len(my_notebooks.refresh(course, mine)) == 1
    assert names(mine) == ["01_x.ipynb", "01_x.new.ipynb"] and source(mine / "01_x.new.ipynb") == "x = 3"
    publish(mine, "an answer to the new one", "01_x.new.ipynb")
    publish(course, "x = 4")
    my_notebooks.refresh(course, mine)
    assert [source(mine / name) for name in names(mine)] == ["my answer", "an answer to the new one", "x = 4"]


def test_a_deleted_copy_comes_back_fresh(course, mine):
    my_notebooks.refresh(course, mine)
    publish(mine, "a mess")
    (mine / LESSON).unlink()
    assert my_notebooks.refresh(course, mine) == [] and source(mine / LESSON) == "x = 1"


@pytest.mark.parametrize("record", ["", "[]", '{"seen": 1}'])
def test_without_its_record_it_overwrites_nothing(course, mine, record):
    my_notebooks.refresh(course, mine)
    publish(mine, "my answer")
    publish(course, "x = 2")
    (mine / my_notebooks.RECORD).write_text(record)
    my_notebooks.refresh(course, mine)
    assert source(mine / LESSON) == "my answer" and source(mine / "01_x.new.ipynb") == "x = 2"


def test_a_file_that_is_no_notebook_any_more_stays(course, mine):
    my_notebooks.refresh(course, mine)
    (mine / LESSON).write_text("half a notebo")
    publish(course, "x = 2")
    my_notebooks.refresh(course, mine)
    assert (mine / LESSON).read_text() == "half a notebo" and source(mine / "01_x.new.ipynb") == "x = 2"


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder, *arguments):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@needs_git
def test_work_that_lay_in_the_courses_own_folder_is_taken_along_and_kept(course, mine):
    """Whoever answered in `notebooks/`, as earlier editions had it, loses nothing when that folder is put in order."""
    git(course.parent, "init", "-q")
    git(course.parent, "add", "-A")
    git(course.parent, "commit", "-qm", "the course")
    publish(course, "my answer")
    my_notebooks.refresh(course, mine)
    git(course.parent, "checkout", "-q", "notebooks")
    my_notebooks.refresh(course, mine)
    assert source(mine / LESSON) == "my answer" and source(mine / "01_x.new.ipynb") == "x = 1"


@needs_git
def test_git_sees_nothing_of_the_copies():
    ignored = git(notebooks.ROOT, "check-ignore", "--no-index", "my_notebooks/00_start_here.ipynb")
    assert ignored.strip() == "my_notebooks/00_start_here.ipynb"


def test_every_lesson_of_the_course_has_an_edition(tmp_path):
    editions = {my_notebooks.digest(path) for path in notebooks.find()}
    assert "" not in editions and len(editions) == len(notebooks.find())
    (tmp_path / "list.ipynb").write_text(json.dumps([1]))
    assert my_notebooks.digest(tmp_path / "list.ipynb") == ""
