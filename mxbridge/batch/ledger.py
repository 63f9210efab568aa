"""What was done: a SQLite file per runner, which that runner alone writes and all read. Only ever added to, never rewritten.

Whether something is done does not hang on any clock: it is done when some row says so for exactly these inputs (the
fingerprint). Times are for people.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from mxbridge.batch.claims import locked
from mxbridge.errors import BrokenFile, Locked, MxbridgeError, OutputError, UsageError
from mxbridge.formats.atomic import PART_SUFFIX, fsync_folder, make_folder, output_error

SUFFIX = ".sqlite"
VERSION, APPLICATION = 1, 0x6D78_6272
"""In the file's header: our schema, and that it is ours (``mxbr``)."""

PATIENCE = 60.0
"""Seconds to wait for another runner that is just writing its row."""

MOST_RUNNERS = 1000
RUNNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

State = Literal["begun", "done", "failed", "cut off", "vanished"]

_SCHEMA = (
    "CREATE TABLE work (n INTEGER PRIMARY KEY, seq INTEGER NOT NULL UNIQUE, item TEXT NOT NULL, source TEXT NOT NULL, "
    "image TEXT NOT NULL, name TEXT NOT NULL, task TEXT NOT NULL, fingerprint TEXT NOT NULL, state TEXT NOT NULL, "
    "error TEXT, code INTEGER, started TEXT NOT NULL, ended TEXT, seconds REAL, counts TEXT NOT NULL, folder TEXT NOT NULL, "
    "night TEXT NOT NULL, run TEXT NOT NULL)",
    "CREATE TABLE normalizations (n INTEGER PRIMARY KEY, cohort TEXT NOT NULL, task TEXT NOT NULL, version INTEGER NOT NULL, "
    "why TEXT NOT NULL, document TEXT NOT NULL, made TEXT NOT NULL)",
    "CREATE TABLE runs (run TEXT PRIMARY KEY, night TEXT NOT NULL, started TEXT NOT NULL, ended TEXT, told TEXT NOT NULL)",
    f"PRAGMA user_version = {VERSION}",
    f"PRAGMA application_id = {APPLICATION}",
)
_COLUMNS = "n, item, source, image, name, task, fingerprint, state, error, code, started, ended, seconds, counts, folder, night, run"

_NEW_ROWS = f"SELECT {_COLUMNS}, seq FROM work WHERE seq > ? ORDER BY seq"  # noqa: S608 - nothing of it comes from outside


@dataclass(frozen=True)
class Row:
    """One attempt at one task on one image. item: of place, image and task. folder: of the run, relative to the runs' folder.

    counts: what is told of it (cells, positives, factors, drift, verdicts). night: the evening's date. run: of the batch.
    """

    n: int
    item: str
    source: str
    image: str
    name: str
    task: str
    fingerprint: str
    state: State
    error: str | None
    code: int | None
    started: str
    ended: str | None
    seconds: float | None
    counts: dict[str, Any]
    folder: str
    night: str
    run: str


@dataclass(frozen=True)
class FrozenRow:
    """Factors of a cohort; the one with the highest version counts. why: how they came about."""

    cohort: str
    task: str
    version: int
    why: str
    document: dict[str, Any]
    made: str


class Ledger:
    """One file. ``read``: of any runner; ``write``: of the runner that holds its lock."""

    def __init__(self, path: Path) -> None:
        """Raises BrokenFile for what is no whole ledger; it is never made anew."""
        self.path = path
        with _speaking(path):
            self._db = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=PATIENCE, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.execute("PRAGMA synchronous = FULL")
            ours = self._db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if not ours or self._db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("not a whole ledger")
        if version != VERSION:
            raise BrokenFile(
                path, f"a ledger of another version ({version}, not {VERSION})", hint="Use the mxbridge that made it"
            )

    @classmethod
    def make(cls, path: Path) -> Ledger:
        """A new, empty one; it gets its name when it is whole. Raises OutputError."""
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PART_SUFFIX}")
        try:
            with _speaking(path):
                new = sqlite3.connect(part, isolation_level=None)
                for statement in _SCHEMA:
                    new.execute(statement)
                new.close()
            os.replace(part, path)
            fsync_folder(path.parent)
        except OSError as error:
            raise output_error(path, error) from error
        finally:
            part.unlink(missing_ok=True)
        return cls(path)

    def close(self) -> None:
        self._db.close()

    def rows(self, after: int = 0) -> tuple[list[Row], int]:
        """Rows that were added or changed since, and up to where that was read. Raises BrokenFile."""
        with _speaking(self.path):
            found = self._db.execute(_NEW_ROWS, (after,)).fetchall()
        return [_row(self.path, raw[:-1]) for raw in found], max((raw[-1] for raw in found), default=after)

    def frozen(self) -> list[FrozenRow]:
        with _speaking(self.path):
            found = self._db.execute("SELECT cohort, task, version, why, document, made FROM normalizations").fetchall()
        return [FrozenRow(c, t, v, why, _document(self.path, d), made) for c, t, v, why, d, made in found]

    def runs(self) -> list[dict[str, Any]]:
        with _speaking(self.path):
            found = self._db.execute("SELECT run, night, started, ended, told FROM runs ORDER BY started").fetchall()
        return [
            {"run": r, "night": n, "started": s, "ended": e, **_document(self.path, told)} for r, n, s, e, told in found
        ]

    # --- by its own runner ---

    def begin(self, **columns: Any) -> int:
        """Add a row in state ``begun``; its number."""
        values = {"state": "begun", "counts": "{}", "fingerprint": "", "folder": "", **columns}
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        with self._changing() as db:
            done = db.execute(
                f"INSERT INTO work ({names}, seq) VALUES ({marks}, (SELECT COALESCE(MAX(seq), 0) + 1 FROM work))",  # noqa: S608
                values,
            )
            return int(done.lastrowid or 0)

    def end(self, n: int, **columns: Any) -> None:
        """Say how an attempt ended."""
        if "counts" in columns:
            columns["counts"] = json.dumps(columns["counts"], ensure_ascii=False, default=str)
        changes = ", ".join(f"{name} = :{name}" for name in columns)
        with self._changing() as db:
            db.execute(
                f"UPDATE work SET {changes}, seq = (SELECT MAX(seq) + 1 FROM work) WHERE n = :n",  # noqa: S608
                {**columns, "n": n},
            )

    def freeze(self, row: FrozenRow) -> None:
        document = json.dumps(row.document, ensure_ascii=False)
        with self._changing() as db:
            db.execute(
                "INSERT INTO normalizations (cohort, task, version, why, document, made) VALUES (?, ?, ?, ?, ?, ?)",
                (row.cohort, row.task, row.version, row.why, document, row.made),
            )

    def note_run(self, run: str, night: str, started: str, ended: str | None, told: Mapping[str, Any]) -> None:
        with self._changing() as db:
            db.execute(
                "INSERT OR REPLACE INTO runs (run, night, started, ended, told) VALUES (?, ?, ?, ?, ?)",
                (run, night, started, ended, json.dumps(told, ensure_ascii=False, default=str)),
            )

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with _speaking(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@dataclass
class Ledgers:
    """All ledgers of a job, as one. own: of this runner, None for whoever only reads."""

    folder: Path
    own: Ledger | None = None
    runner: str = ""
    _open: dict[Path, Ledger] = field(default_factory=dict, init=False)
    _read: dict[Path, int] = field(default_factory=dict, init=False)
    _rows: dict[tuple[Path, int], Row] = field(default_factory=dict, init=False)
    _items: dict[str, dict[tuple[Path, int], Row]] = field(default_factory=dict, init=False)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, runner: str) -> Iterator[Ledgers]:
        """To work: this runner's own file is held as long as the block lasts; a second one of the same name gets ``name-2``.

        Raises UsageError for a name that cannot be one, BrokenFile, OutputError.
        """
        if not RUNNER.fullmatch(runner):
            raise UsageError(f"--runner {runner!r} is no name", hint="Use letters, digits, . _ and -")
        make_folder(folder)
        lock, name = _held(folder, runner)
        try:
            path = folder / f"{name}{SUFFIX}"
            ledgers = cls(folder, Ledger(path) if path.exists() else Ledger.make(path), name)
            try:
                ledgers.refresh()
                yield ledgers
            finally:
                ledgers.close()
        finally:
            lock.release()

    @classmethod
    @contextmanager
    def looked_at(cls, folder: Path) -> Iterator[Ledgers]:
        """Only to read; there may be none yet. Raises BrokenFile."""
        ledgers = cls(folder)
        try:
            ledgers.refresh()
            yield ledgers
        finally:
            ledgers.close()

    def close(self) -> None:
        for ledger in self._open.values():
            ledger.close()
        self._open.clear()

    def refresh(self) -> None:
        """Take in what all runners have written since. Raises BrokenFile."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path not in self._open:
                own = self.own
                self._open[path] = own if own is not None and path == own.path else Ledger(path)
            rows, self._read[path] = self._open[path].rows(self._read.get(path, 0))
            for row in rows:
                self._rows[path, row.n] = row
                self._items.setdefault(row.item, {})[path, row.n] = row

    @property
    def writer(self) -> Ledger:
        assert self.own is not None  # noqa: S101 - only whoever opened it to work writes
        return self.own

    def of(self, item: str) -> list[Row]:
        """All attempts at an item, in the order of their times."""
        return sorted(self._items.get(item, {}).values(), key=_when)

    def rows(self) -> list[Row]:
        return sorted(self._rows.values(), key=_when)

    def frozen(self, cohort: str) -> FrozenRow | None:
        """The factors that count now. Raises BrokenFile."""
        self.refresh()
        found = [row for ledger in self._open.values() for row in ledger.frozen() if row.cohort == cohort]
        return max(found, key=lambda row: row.version, default=None)

    def all_frozen(self) -> list[FrozenRow]:
        found = [row for ledger in self._open.values() for row in ledger.frozen()]
        return sorted(found, key=lambda row: (row.task, row.cohort, row.version))

    def runs(self) -> list[dict[str, Any]]:
        found = [{"runner": path.stem, **run} for path, ledger in self._open.items() for run in ledger.runs()]
        return sorted(found, key=lambda run: str(run["started"]))


def _held(folder: Path, runner: str) -> tuple[FileLock, str]:
    """The lock of the first free name. Raises OutputError, Locked."""
    for number in range(1, MOST_RUNNERS):
        name = runner if number == 1 else f"{runner}-{number}"
        if (lock := locked(folder / f"{name}.lock")) is not None:
            return lock, name
    raise Locked(f"{folder}: {MOST_RUNNERS} runners called {runner} are at work", hint="Give others with --runner NAME")


def _when(row: Row) -> tuple[str, int]:
    return row.ended or row.started, row.n


def _row(path: Path, raw: tuple[Any, ...]) -> Row:
    values = list(raw)
    values[13] = _document(path, values[13])
    return Row(*values)


def _document(path: Path, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError, TypeError) as error:
        raise _broken(path, error) from error
    if not isinstance(document, dict):
        raise _broken(path, "a record that is none")
    return document


@contextmanager
def _speaking(path: Path) -> Iterator[None]:
    """From what SQLite says to what people can do."""
    try:
        yield
    except MxbridgeError:
        raise
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise OutputError(f"{path}: the disk is full", hint="Free some space and run the job again") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Locked(
                f"{path}: another process keeps this ledger locked", hint="Run again once it has ended"
            ) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM):
            raise OutputError(f"{path}: the ledger cannot be opened or written ({error})") from error
        raise _broken(path, error) from error
    except sqlite3.DatabaseError as error:
        raise _broken(path, error) from error


def _broken(path: Path, why: object) -> BrokenFile:
    return BrokenFile(
        path,
        f"this ledger is damaged ({why})",
        hint="Put a copy of it back, or move it away: what it said was done is then looked at again, and taken from the runs",
    )
