"""The measuring of commands."""

from __future__ import annotations

import sys

import pytest

from benchmarks.harness import Case, compare, measure, table


def test_cpu_seconds_and_memory_are_those_of_the_command() -> None:
    block = "x = b'x' * 200_000_000; import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
    busy = measure(Case("busy", [sys.executable, "-c", block]))
    assert busy.cpu >= 0.3
    assert busy.rss >= 180


def test_a_failing_command_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match=r"bad failed \(3\): why"):
        measure(Case("bad", [sys.executable, "-c", "import sys; sys.stderr.write('why'); sys.exit(3)"]))


def test_cases_are_compared_in_one_table() -> None:
    figures = compare([Case(name, [sys.executable, "-c", ""]) for name in ("one", "two")], runs=2)
    assert list(figures) == ["one", "two"]
    assert "| two |" in table("Nothing", figures, 2)
