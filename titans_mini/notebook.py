"""What notebooks share: sizes for slow machines, recorded results, and the reader's predictions."""

from __future__ import annotations

import html
import json
import math
import os
import re
import sys
import unicodedata
from numbers import Real
from pathlib import Path

FAST: bool = os.environ.get("TITANS_FAST", "") == "1"

HERE = Path(__file__).parent
FOLDERS = (HERE / "assets" / "results", HERE.parent / "assets" / "results")  # installed; in a checkout
COMMANDS = {
    "speed_cpu": "python -m benchmarks --json assets/results/speed_cpu.json",
    "stream_cpu": "python -m benchmarks.stream",
    "readers_cpu": "python -m benchmarks.models --readers",
    "widgets_cpu": "TITANS_FAST=1 OMP_NUM_THREADS=1 python -m benchmarks.widgets",
    "kernels_gpu": "python -m benchmarks.gpu",
    "kernels_compiled": "python -m tests.kernels.compiling",
    "remember_needle": "make results",
    "remember_ablations": "make results",
    "remember_mac": "make results",
    "remember_rivals": "make results",
    "remember_probe": "make results",
    "remember_mal": "make results",
    "remember_search": "make results ARGS='--only search'",
    "remember_long": "make results ARGS='--only long'",
    "remember_shapes": "make results ARGS='--only shapes'",
    "remember_babilong": "make results ARGS='--only babilong'",
    "remember_babi": "make results",
    "remember_text": "make results",
}


def size(full, fast):
    """Return `fast` when the environment says ``TITANS_FAST=1``, else `full`."""
    return fast if FAST else full


def load_results(name: str) -> dict:
    """Read a recorded result.

    Args:
        name: "speed_cpu" (times of all forms of the memory), "stream_cpu" (a million bytes, token by token),
            "readers_cpu" (training steps of lesson 12's readers of novels),
            "widgets_cpu" (processor time of a move of each widget),
            "kernels_gpu" (times of the kernels), "kernels_compiled" (what they take of a GPU), or a group of the
            trainings of lesson 12, "remember_" and its name in `titans_mini.train.recipes`, such as "remember_needle".

    Returns:
        What the file holds; always with `hardware`, `date`, `commit` and `command`.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    for folder in FOLDERS:
        path = folder / f"{name}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    looked = " and ".join(str(folder / f"{name}.json") for folder in FOLDERS)
    if name not in COMMANDS:
        raise FileNotFoundError(f"results: got {name!r}, expected one of {sorted(COMMANDS)}; looked for {looked}")
    raise FileNotFoundError(
        f"results: nothing recorded as {name!r}; looked for {looked}. In a checkout this makes it: {COMMANDS[name]}"
    )


# -- predictions ----------------------------------------------------------------------------------------------------

LONGEST_GUESS = 80  # characters: a guess is an option, a number or a few words
_guesses: dict[str, str | Real] = {}
_verdicts: dict[str, bool] = {}  # of the guesses that a figure has answered


def predict(name: str, guess: str | Real | None = ...) -> None:
    """Note the reader's guess before a figure shows the answer; one quiet line confirms it.

    Args:
        name: the prediction, "NN.M": the notebook's number and the prediction's.
        guess: a short text, an option or a number. Another call replaces it; `...` takes it back.

    Raises:
        TypeError: if the name is no text, or the guess neither text nor number.
        ValueError: if the name is not of the form "03.2", or the guess is longer than 80 characters.
    """
    _check_name(name)
    if guess is not None and guess is not ... and not isinstance(guess, (str, Real)):
        raise TypeError(
            f"prediction {name}: got a {type(guess).__name__} as a guess, expected a short text or a number; "
            "are the quotation marks missing?"
        )
    if isinstance(guess, str):
        guess = " ".join(guess.split())
        if len(guess) > LONGEST_GUESS:
            raise ValueError(
                f"prediction {name}: got a guess of {len(guess)} characters, expected at most {LONGEST_GUESS}; "
                "name the option, and leave out the reason"
            )
    _verdicts.pop(name, None)  # it judged the guess before this one
    if guess is None or guess is ... or guess == "":
        _guesses.pop(name, None)
        _quiet("no guess yet: write yours in place of the …")
    else:
        _guesses[name] = guess
        _quiet(f"noted: you said {guess}")


def reveal(name: str, *answers: str | Real) -> str:
    """Compare the reader's guess with the answer, and return a sentence for the figure that shows it.

    Case, spaces and the way a number is written do not matter: 0.5 is "0.50". Calling it again changes nothing.

    Args:
        name: the prediction, "NN.M", as in `predict`.
        answers: the right answer; further ones are accepted too, and only the first is named.

    Returns:
        "You said η. Right; 4 of 7 so far.", "You said past, it is η; 4 of 7 so far." or "No guess yet: …". The count
        is of the guesses that figures have answered since Python started.

    Raises:
        TypeError: if there is no answer, or one that is neither text nor number.
        ValueError: if the name is not of the form "03.2".
    """
    _check_name(name)
    if not answers or not all(isinstance(answer, (str, Real)) for answer in answers):
        got = ", ".join(type(answer).__name__ for answer in answers) or "nothing"
        raise TypeError(f"prediction {name}: got {got} as answers, expected one or more short texts or numbers")
    if name not in _guesses:
        return f'No guess yet: predict("{name}", …) above.'
    guess = _guesses[name]
    _verdicts[name] = right = any(_same(guess, answer) for answer in answers)
    count = f"{sum(_verdicts.values())} of {len(_verdicts)} so far."
    return f"You said {guess}. Right; {count}" if right else f"You said {guess}, it is {answers[0]}; {count}"


def _check_name(name: str) -> None:
    """Raise unless a prediction's name is of the form "03.2"."""
    if not isinstance(name, str):
        raise TypeError(
            f'prediction: got the name {name!r}, expected text such as "03.2"; are the quotation marks missing?'
        )
    if not re.fullmatch(r"[0-9]{2}\.[0-9]{1,2}", name):
        raise ValueError(
            f'prediction: got the name {name!r}, expected "NN.M" such as "03.2": two digits for the notebook, '
            "a dot, one or two digits for the prediction"
        )


def _same(guess: str | Real, answer: str | Real) -> bool:
    """Return whether two answers agree as texts, or else as numbers."""
    texts = [_plain(x) for x in (guess, answer)]
    if texts[0] == texts[1]:
        return True
    try:
        return math.isclose(*map(float, texts), rel_tol=1e-9)
    except ValueError:
        return False


def _plain(x: str | Real) -> str:
    """Reduce a text or number to lower case without spaces, a printed minus sign to a typed one."""
    text = unicodedata.normalize("NFC", str(x).casefold().replace("−", "-"))
    return "".join(text.split())


def _quiet(line: str) -> None:
    """Display one line in small print in a notebook, and print it elsewhere."""
    ipython = sys.modules.get("IPython")  # a notebook has loaded it; nobody else needs it
    if ipython is None or ipython.get_ipython() is None:
        print(line)
        return
    from IPython.display import display

    small = f'<div style="font-size:13px;opacity:0.75">{html.escape(line)}</div>'
    display({"text/plain": line, "text/html": small}, raw=True)
