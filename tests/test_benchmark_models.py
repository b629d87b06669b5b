"""The benchmark of the language models: what it measures, when a bar counts as reached, what it writes."""

import json

from benchmarks import models
from benchmarks.measure import Times


def times(seconds, rivals=1.0):
    seconds = {name: rivals for name in models.configs() if name.startswith("transformer")} | seconds
    return {name: Times(value, value, 1.0) for name, value in seconds.items()}


def test_a_bar_is_judged_for_titans_at_full_length_only():
    found = times({"mac": 2.1, "mag": 1.9, "swa": 5.0})
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
    """A memory costs weights of its own; its rival has a wider feed-forward part for them, and is that rival's time."""
    for name in models.TITANS:
        rival = models.rival_of(name)
        assert abs(models.weights(rival) / models.weights(models.configs()[name]) - 1) < 0.015
        found = times({name: 3.0, "transformer": 1.0, models.key_of(rival): 2.0})
        assert models.row(name, 4, 2048, found)["ratio"] == 1.5
    assert models.key_of(models.rival_of("swa")) == "transformer"
    assert models.weights(models.rival_of("mac")) > 1.4 * models.weights(models.rival_of("swa"))


def test_a_short_run_writes_numbers_and_table(tmp_path, capsys):
    models.main(["--rounds", "1", "--scale", "128", "--json", str(tmp_path / "models.json")])
    results = json.loads((tmp_path / "models.json").read_text())
    rows = results["rows"]
    assert len(rows) == len(models.configs()) * len(models.SHAPES) and all(r["seconds"] > 0 for r in rows)
    assert all(r["ratio"] == 1 for r in rows if r["variant"] == "transformer")
    assert {"hardware", "date", "commit", "command"} <= set(results)
    assert (tmp_path / "models.txt").read_text().strip() == capsys.readouterr().out.strip()
