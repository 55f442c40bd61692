"""The runner of the benchmarks: what it keeps of their tables, and what it says has changed."""

import json
import sys

import pytest

from benchmarks import __main__ as runner

PRINTED = """2026-12-01 | AMD EPYC, 2 cores | python -m benchmarks.tables

## Rows

| library | asks    | read, ms | evals   |
| ------- | ------- | -------- | ------- |
| pandas  | by name | 6.4      | 21 / 6  |
| pandas  | as one  | 1,024.0  | 3e-2    |
"""


def result(text, commit, date="2026-12-01T00-00-00"):
    return {
        "command": "python -m benchmarks.tables",
        "commit": commit,
        "date": date,
        "status": 0,
        "printed": text,
        "tables": runner.tables(text),
    }


def test_tables_are_kept_with_heads_and_words():
    ((title, (heads, first, _)),) = runner.tables(PRINTED).items()
    assert (title, heads) == ("Rows", ["library", "asks", "read, ms", "evals"])
    assert first == ["pandas", "by name", "6.4", "21 / 6"]


def test_changes_are_listed_the_largest_first():
    after = PRINTED.replace("6.4 ", "3.2 ").replace("/ 6 ", "/ 60").replace("3e-2", "3e-2")
    said = runner.compared(result(PRINTED, "aaa"), result(after, "bbb")).splitlines()
    assert said[1:] == [
        "3 numbers are the same, 2 differ.",
        "6 -> 60 (10.00): Rows, pandas by name, evals, 1",
        "6.4 -> 3.2 (0.50): Rows, pandas by name, read, ms, 0",
    ]


def test_the_newest_of_each_is_reported(tmp_path):
    for date in ("2026-11-30T00-00-00", "2026-12-01T00-00-00"):
        kept = result(PRINTED.replace("6.4", date[8:10]), date[:10], date)
        (tmp_path / f"{date}-tables.json").write_text(json.dumps(kept))
    failed = result("", "ccc") | {"status": 1}
    (tmp_path / "2026-12-02T00-00-00-tables.json").write_text(json.dumps(failed))
    said = runner.report(tmp_path)
    assert "Commit 2026-12-01" in said
    assert "Commit 2026-11-30" not in said
    assert "There are no results" in runner.report(tmp_path / "none")


def test_a_failure_is_counted_and_kept(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(runner.QUICK, "tables", "--no-such-option")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "tables", "--quick", "--folder", str(tmp_path)])
    assert runner.main() == 1
    assert "failed: python -m benchmarks.tables --no-such-option" in capfd.readouterr().out
    (kept,) = tmp_path.glob("*-tables.json")
    assert json.loads(kept.read_text())["status"] == 2
    monkeypatch.setattr(sys, "argv", ["benchmarks", "speed"])
    with pytest.raises(SystemExit):
        runner.main()
    assert "there is no benchmark 'speed'" in capfd.readouterr().err
