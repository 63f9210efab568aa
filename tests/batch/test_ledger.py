"""Ledgers: one file per runner, read as one, damaged ones refused and never made anew."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from mxbridge.batch.ledger import FrozenRow, Ledger, Ledgers
from mxbridge.errors import BrokenFile, OutputError, UsageError

ROW = {
    "item": "i",
    "source": "s",
    "image": "1",
    "name": "north",
    "task": "score",
    "started": "2026-11-21T20:00:00+00:00",
    "night": "2026-11-21",
    "run": "r",
}


def begin(ledgers: Ledgers, **more: str) -> int:
    return ledgers.writer.begin(**{**ROW, **more})


def test_what_one_runner_writes_all_read(tmp_path: Path) -> None:
    with Ledgers.opened(tmp_path, "one") as one, Ledgers.opened(tmp_path, "two") as two:
        n = begin(one, fingerprint="f")
        two.refresh()
        assert [(row.state, row.fingerprint) for row in two.of("i")] == [("begun", "f")]
        one.writer.end(n, state="done", ended="2026-11-21T21:00:00+00:00", counts={"cells": 3}, folder="score/x/r")
        two.refresh()
        (row,) = two.of("i")
        assert (row.state, row.counts, row.folder) == ("done", {"cells": 3}, "score/x/r")
        begin(two, started="2026-11-21T22:00:00+00:00")
        one.refresh()
        assert [row.state for row in one.of("i")] == ["done", "begun"]
    with Ledgers.looked_at(tmp_path) as read:
        assert len(read.rows()) == 2
    assert sorted(p.name for p in tmp_path.glob("*.sqlite")) == ["one.sqlite", "two.sqlite"]


def test_a_second_runner_of_one_name_gets_its_own_file(tmp_path: Path) -> None:
    with Ledgers.opened(tmp_path, "host") as one, Ledgers.opened(tmp_path, "host") as two:
        assert (one.runner, two.runner) == ("host", "host-2")
    with Ledgers.opened(tmp_path, "host") as again:
        assert again.runner == "host"


def test_the_highest_version_of_factors_counts(tmp_path: Path) -> None:
    with Ledgers.opened(tmp_path, "one") as one, Ledgers.opened(tmp_path, "two") as two:
        assert one.frozen("c") is None
        two.writer.freeze(FrozenRow("c", "score", 2, "later", {"factors": {"CD3": 2.0}}, "2026"))
        one.writer.freeze(FrozenRow("c", "score", 1, "first", {"factors": {"CD3": 1.0}}, "2027"))
        assert one.frozen("c") == two.frozen("c")
        assert one.frozen("c").document == {"factors": {"CD3": 2.0}}  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "other", "record"])
def test_a_damaged_ledger_is_an_error_and_stays(tmp_path: Path, damage: str) -> None:
    with Ledgers.opened(tmp_path, "one") as one:
        for _ in range(100):
            begin(one)
    path = tmp_path / "one.sqlite"
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "garbage":
        path.write_bytes(b"x" * 8192)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "record":
        database = sqlite3.connect(path)
        database.execute("UPDATE work SET counts = '[]'")
        database.commit()
        database.close()
    else:
        path.unlink()
        sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    before = path.read_bytes()
    with pytest.raises(BrokenFile, match=r"one\.sqlite: this ledger is damaged"), Ledgers.opened(tmp_path, "one"):
        pass
    with pytest.raises(BrokenFile), Ledgers.opened(tmp_path, "two"):
        pass
    assert path.read_bytes() == before


def test_a_ledger_of_another_version(tmp_path: Path) -> None:
    Ledger.make(tmp_path / "one.sqlite").close()
    database = sqlite3.connect(tmp_path / "one.sqlite")
    database.execute("PRAGMA user_version = 7")
    database.commit()
    database.close()
    with pytest.raises(BrokenFile, match="another version"):
        Ledger(tmp_path / "one.sqlite")


def test_a_writer_that_died_in_the_middle_is_rolled_back(tmp_path: Path) -> None:
    """A journal that was left is played back by whoever reads next."""
    with Ledgers.opened(tmp_path, "one") as one:
        begin(one)
    path, copies = tmp_path / "one.sqlite", tmp_path / "copy"
    copies.mkdir()
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN IMMEDIATE")
    for number in range(2000):  # more than the cache holds: pages of the open change are in the file
        database.execute("UPDATE work SET error = ?", ("x" * 5000 + str(number),))
    (copies / "one.sqlite").write_bytes(path.read_bytes())
    (copies / "one.sqlite-journal").write_bytes(path.with_name("one.sqlite-journal").read_bytes())
    database.execute("ROLLBACK")
    database.close()
    with Ledgers.opened(copies, "two") as two:
        assert [(row.state, row.error) for row in two.of("i")] == [("begun", None)]


def test_names_that_cannot_be_files(tmp_path: Path) -> None:
    for name in ("", "../x", "a/b", "a b"):
        with pytest.raises(UsageError), Ledgers.opened(tmp_path, name):
            pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError), Ledgers.opened(tmp_path / "file" / "x", "one"):
        pass
