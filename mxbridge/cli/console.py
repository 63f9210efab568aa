"""What people and programs see: progress on stderr, results on stdout, errors in one line.

Whoever reads may go away (``| head``): what is written then goes nowhere, and the work goes on.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mxbridge.progress import Progress


class _Lasting(Console):
    """A console that outlives its reader; rich would end the program."""

    def on_broken_pipe(self) -> None:
        _write_nowhere(sys.stderr if self.stderr else sys.stdout)

    def print(self, *objects: Any, **more: Any) -> None:
        """Texts cannot move the cursor: names come from files and servers."""
        super().print(*(_harmless(one) if isinstance(one, str) else one for one in objects), **more)


errors = _Lasting(stderr=True, highlight=False, soft_wrap=True, emoji=False)  # a name may hold ``:b:``
out = _Lasting(highlight=False, soft_wrap=True, emoji=False)


def prepare_streams() -> None:
    """Write what the encoding of a terminal or a pipe lacks as ``\\u65e5`` instead of failing (Windows' cp1252)."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def finish_streams() -> None:
    """Write out what is waiting; the interpreter would complain when it ends."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with _whoever_listens(stream):
                stream.flush()


@contextmanager
def _whoever_listens(stream: TextIO) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        _write_nowhere(stream)
    except OSError:
        if os.name != "nt":
            raise
        _write_nowhere(stream)  # what Windows says of a pipe without reader


def _write_nowhere(stream: TextIO) -> None:
    """From now on what is written to ``stream`` is lost, and so is what it still holds."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:  # noqa: PTH123 - no file
        os.dup2(nowhere.fileno(), stream.fileno())
        stream.flush()


class TextProgress(Progress):
    """Lines on stderr: a live counter on a terminal, otherwise a line per image and step."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose
        self._live = errors.is_terminal and not quiet
        self._last = 0.0
        self._open_line = False

    def image(self, number: int, total: int, name: str) -> None:
        if not self.quiet:
            self._line(f"[{number}/{total}] {name}")

    def step(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.quiet or (done < total and now - self._last < 0.2):
            return
        self._last = now
        if self._live:
            _tell(f"\r  {name} {done}/{total} \033[K")
            self._open_line = True
        elif self.verbose:
            self._line(f"  {name} {done}/{total}")

    def note(self, text: str) -> None:
        if not self.quiet:
            self._line(f"  {text}")

    def warning(self, text: str) -> None:
        self._line(f"warning: {text}", style="yellow")

    def _line(self, text: str, style: str = "") -> None:
        if self._open_line:
            _tell("\r\033[K")
            self._open_line = False
        errors.print(escape(shown(text)), style=style or None)


class JsonProgress(Progress):
    """One JSON document a line on stderr, for programs such as a button inside QuPath."""

    def image(self, number: int, total: int, name: str) -> None:
        self._event("image", number=number, total=total, name=name)

    def step(self, name: str, done: int, total: int) -> None:
        self._event("step", name=name, done=done, total=total)

    def note(self, text: str) -> None:
        self._event("note", text=text)

    def warning(self, text: str) -> None:
        self._event("warning", text=text)

    @staticmethod
    def _event(event: str, **fields: Any) -> None:
        _tell(json.dumps({"event": event, **fields}) + "\n")


def _tell(text: str) -> None:
    with _whoever_listens(sys.stderr):
        sys.stderr.write(text)
        sys.stderr.flush()


_made: list[Progress] = []
"""What this command tells its progress with, once it has said how."""


def make_progress(kind: str, *, quiet: bool, verbose: bool) -> Progress:
    _made[:] = [JsonProgress() if kind == "json" else TextProgress(quiet=quiet, verbose=verbose)]
    return _made[0]


def note(text: str) -> None:
    """What a place has to say by itself, in the way the command tells its progress: a connection that was lost, a long upload."""
    (_made[0] if _made else TextProgress()).note(text)


def print_json(document: Any) -> None:
    """The one JSON document a command answers with, in ASCII so that any encoding holds it. NaN becomes null: JSON has none."""
    with _whoever_listens(sys.stdout):
        sys.stdout.write(json.dumps(_plain(document), indent=1) + "\n")
        sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A short table; numbers are aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for k, column in enumerate(columns):
        numeric = all(isinstance(row[k], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else escape(shown(str(v))) for v in row))
    out.print(table)


def shown(text: str) -> str:
    """A text that people see in one line; names of images may hold whatever moves a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in text)


def _harmless(text: str) -> str:
    return "\n".join(map(shown, text.split("\n")))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
