"""Exercise cards: checks with a diagnosis, hints, and the reference solutions.

The cards of notebook NN are the list `EXERCISES` of the module `titans_mini/exercises/nbNN.py`, where `check`, the
grader and the tests find them. `register` adds one for as long as this Python runs.

>>> from titans_mini.exercises import check, hint, solution
>>> check("01.1", my_function)  # doctest: +SKIP
"""

from titans_mini.exercises.card import Exercise, Result, check, get, hint, names, register, results, solution, source

__all__ = ["Exercise", "Result", "check", "get", "hint", "names", "register", "results", "solution", "source"]
