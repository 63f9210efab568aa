"""How a task tells what it is doing. The default says nothing; the command line prints (see ``cli/console.py``)."""

from __future__ import annotations


class Progress:
    """Override what you want to hear. Called from the thread that runs the task."""

    def image(self, number: int, total: int, name: str) -> None:
        """Work on image ``number`` (from 1) of ``total`` begins."""

    def step(self, name: str, done: int, total: int) -> None:
        """``done`` of ``total`` units (tiles, images) of the step ``name`` are finished."""

    def note(self, text: str) -> None:
        """Something people like to know (which channels were left out, what is done already)."""

    def warning(self, text: str) -> None:
        """Something people must know."""


SILENT = Progress()
