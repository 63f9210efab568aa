"""What people and programs see: progress on stderr, results on stdout, errors in one line."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mxbridge.progress import Progress

errors = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)


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
            sys.stderr.write(f"\r  {name} {done}/{total} \033[K")
            sys.stderr.flush()
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
            sys.stderr.write("\r\033[K")
            self._open_line = False
        errors.print(escape(text), style=style or None)


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
        sys.stderr.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
        sys.stderr.flush()


def make_progress(kind: str, *, quiet: bool, verbose: bool) -> Progress:
    return JsonProgress() if kind == "json" else TextProgress(quiet=quiet, verbose=verbose)


def print_json(document: Any) -> None:
    """The one JSON document a command answers with. NaN becomes null: JSON has no NaN."""
    sys.stdout.write(json.dumps(_plain(document), indent=1, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A short table; numbers are aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for k, column in enumerate(columns):
        numeric = all(isinstance(row[k], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else escape(str(v)) for v in row))
    out.print(table)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
