"""Fast mode shrinks sizes, and only when it is asked for; a prediction is noted, compared and counted."""

import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest

from titans_mini import notebook
from titans_mini.notebook import predict, reveal


@pytest.mark.parametrize("value, expected", [("1", "True 2"), ("0", "False 9"), ("", "False 9"), (None, "False 9")])
def test_size(value, expected, monkeypatch):
    monkeypatch.delenv("TITANS_FAST", raising=False)
    if value is not None:
        monkeypatch.setenv("TITANS_FAST", value)
    script = "from titans_mini.notebook import FAST, size; print(FAST, size(9, 2))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == expected


# -- predictions ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_guessed_yet(monkeypatch):
    monkeypatch.setattr(notebook, "_guesses", {})
    monkeypatch.setattr(notebook, "_verdicts", {})


def test_a_guess_is_noted_in_one_line(capsys):
    assert predict("03.2", "  past\n surprise ") is None
    predict("03.3", 0.5)
    assert capsys.readouterr().out == "noted: you said past surprise\nnoted: you said 0.5\n"


def test_right_wrong_and_no_guess():
    assert reveal("03.2", "η") == 'No guess yet: predict("03.2", …) above.'
    predict("03.2", "η")
    assert reveal("03.2", "η") == "You said η. Right; 1 of 1 so far."
    predict("03.3", "past")
    assert reveal("03.3", "η") == "You said past, it is η; 1 of 2 so far."
    assert reveal("03.4", "η").startswith("No guess"), "and it does not count"
    predict("03.4", 7)
    assert reveal("03.4", 7, 8) == "You said 7. Right; 2 of 3 so far."


def test_running_a_cell_again_counts_once():
    for _ in range(3):
        predict("03.2", "η")
        assert [reveal("03.2", "η"), reveal("03.2", "η")] == ["You said η. Right; 1 of 1 so far."] * 2


def test_another_guess_replaces_the_first():
    predict("03.1", "yes")
    reveal("03.1", "no")
    predict("03.1", "no")
    predict("03.2", "yes")
    assert reveal("03.2", "yes") == "You said yes. Right; 1 of 1 so far.", "the first verdict went with its guess"
    assert reveal("03.1", "no") == "You said no. Right; 2 of 2 so far."


@pytest.mark.parametrize("nothing", [(...,), (None,), ("",), ("  ",), ()])
def test_an_open_cell_and_a_guess_taken_back(capsys, nothing):
    predict("03.2", "η")
    predict("03.2", *nothing)
    assert capsys.readouterr().out.splitlines()[-1] == "no guess yet: write yours in place of the …"
    assert reveal("03.2", "η").startswith("No guess yet")


@pytest.mark.parametrize(
    "guess, answer",
    [
        ("Past  Surprise", "past surprise"),
        ("pastsurprise", "past surprise"),
        ("0.50", 0.5),
        (0.5, "0.50"),
        ("1e3", 1000),
        ("−0.5", -0.5),
        (0.1 + 0.2, 0.3),
        (np.float32(0.25), "0.250"),
        (np.int64(3), 3.0),
        ("NaN", "nan"),
        (True, "true"),
        ("Η", "η"),
        ("µ", "μ"),  # the micro sign and the Greek letter
        ("e\u0301", "é"),
    ],
)
def test_the_same_answer_written_in_another_way(guess, answer):
    predict("03.2", guess)
    assert "Right" in reveal("03.2", "something else", answer)


@pytest.mark.parametrize(
    "guess, answer", [("η", "θ"), (0.5, 0.51), ("5", "0.5"), ("past", "past surprise"), (1, "one")]
)
def test_another_answer(guess, answer):
    predict("03.2", guess)
    assert reveal("03.2", answer) == f"You said {guess}, it is {answer}; 0 of 1 so far."


@pytest.mark.parametrize("call", [predict, reveal])
@pytest.mark.parametrize(
    "name, error, words",
    [
        ("3.2", ValueError, 'got the name \'3.2\', expected "NN.M" such as "03.2"'),
        ("03.2\n", ValueError, "got the name"),
        ("03-2", ValueError, "two digits for the notebook"),
        ("٠٣.٢", ValueError, "got the name"),
        (3.2, TypeError, 'got the name 3.2, expected text such as "03.2"; are the quotation marks missing?'),
    ],
)
def test_a_name_has_its_form(call, name, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call(name, "η")


def test_guesses_and_answers_that_cannot_be():
    predict("03.2", "η")
    with pytest.raises(TypeError, match="03.2: got a list as a guess, expected a short text or a number"):
        predict("03.2", ["η"])
    with pytest.raises(ValueError, match="got a guess of 81 characters, expected at most 80; name the option"):
        predict("03.2", "x" * 81)
    with pytest.raises(TypeError, match="got nothing as answers"):
        reveal("03.2")
    with pytest.raises(TypeError, match="got str, list as answers"):
        reveal("03.2", "η", ["θ"])
    assert "Right" in reveal("03.2", "η"), "the guess before the error is still there"


def test_a_notebook_shows_escaped_small_print_and_the_same_each_time():
    from nbclient import NotebookClient

    code = "from titans_mini.notebook import predict, reveal\npredict('03.2', 'a <b>')\nreveal('03.2', 'A<B>')"
    runs = []
    for _ in range(2):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code, id="only")])
        NotebookClient(nb, kernel_name="python3", record_timing=False, timeout=60).execute()
        runs.append([dict(output) for output in nb.cells[0].outputs])
    assert runs[0] == runs[1]
    shown, answered = runs[0]
    assert shown["output_type"] == "display_data"
    assert shown["data"]["text/plain"] == "noted: you said a <b>"
    assert "noted: you said a &lt;b&gt;</div>" in shown["data"]["text/html"]
    assert answered["data"]["text/plain"] == "'You said a <b>. Right; 1 of 1 so far.'"
