"""The benchmark of the language models: what it measures, when a bar counts as reached, what it writes."""

import json

from benchmarks import models
from benchmarks.timing import Times


def times(seconds):
    return {name: Times(value, value, 1.0) for name, value in seconds.items()}


def test_a_bar_is_judged_for_titans_at_full_length_only():
    found = times({"transformer": 1.0, "mac": 2.1, "mag": 1.9, "swa": 5.0})
    assert models.row("mac", 4, 2048, found)["reached"] is False
    assert models.row("mag", 4, 2048, found)["reached"] is True
    assert models.row("mag", 4, 8192, found)["reached"] is False  # there it must be faster
    assert models.row("swa", 4, 2048, found)["reached"] is None
    assert models.row("mag", 4, 100, found)["reached"] is None
    text = models.table([models.row(name, 4, 2048, found) for name in ("transformer", "mac", "mag")])
    lines = text.splitlines()
    assert "NOT reached" in lines[2] and "NOT" not in lines[3] and "reached" in lines[3]
    assert "2.10" in lines[2] and "2,100" not in lines[2] and "2100" in lines[2]


def test_the_models_compared_are_of_one_size():
    """A memory costs weights of its own; the frame is the same."""
    found = times(dict.fromkeys(models.TITANS, 1.0) | {"transformer": 1.0})
    weights = {name: models.row(name, 1, 2048, found)["weights"] for name in (*models.TITANS, "transformer")}
    assert max(weights.values()) < 1.6 * weights["transformer"]


def test_a_short_run_writes_numbers_and_table(tmp_path, capsys):
    models.main(["--rounds", "1", "--scale", "128", "--json", str(tmp_path / "models.json")])
    results = json.loads((tmp_path / "models.json").read_text())
    assert len(results["rows"]) == 8 * len(models.SHAPES) and all(r["seconds"] > 0 for r in results["rows"])
    assert all(r["ratio"] == 1 for r in results["rows"] if r["variant"] == "transformer")
    assert {"hardware", "date", "commit", "command"} <= set(results)
    assert (tmp_path / "models.txt").read_text().strip() == capsys.readouterr().out.strip()
