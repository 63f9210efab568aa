"""Every error mxbridge raises on purpose, in one tree.

    MxbridgeError                        exit code
    ├── UsageError                       2    wrong usage
    │   └── UnknownName                       a marker, image, class or option value that is not there
    ├── SomeImagesFailed                 3    some images failed, the rest are done
    ├── SourceError                      4    a project, file or server cannot be reached
    ├── ModelError                       5    model or weights missing, wrong or not trusted
    ├── InputError                       6    input unreadable or invalid
    │   ├── BrokenFile                        not what its name says, truncated or hostile
    │   ├── Unsupported                       understood, but not something mxbridge handles
    │   ├── NotApplicable                     an image that a task is not made for
    │   ├── NoPixelSize                       no µm per pixel
    │   └── NoCells                           nothing to measure
    ├── OutputError                      7    output not writable or full
    │   ├── Locked                            another run holds the project
    │   └── ChangedMeanwhile                  somebody else wrote it since it was read
    ├── QualityFlagged                   8    quality flags (with --fail-on-flag)
    └── Interrupted                      130  stopped by the user; --resume goes on

Every message is one line that says what is wrong and in which file, channel or object; ``hint`` says what to do next.
Anything else that escapes is a bug (exit code 1) and shows a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from os import PathLike


class MxbridgeError(Exception):
    """Base of the tree. ``str(error)`` is one line: the message, then the hint."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = _one_line(message)
        self.hint = _one_line(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UsageError(MxbridgeError):
    exit_code = 2


class UnknownName(UsageError):
    """A name that is not among those that exist; the message lists what there is."""

    def __init__(self, kind: str, wanted: str, available: Iterable[str], *, where: str = "") -> None:
        self.wanted = wanted
        self.available = list(available)
        close = get_close_matches(wanted, self.available, n=1)
        place = f" in {where}" if where else ""
        shown = ", ".join(self.available[:40]) + (", ..." if len(self.available) > 40 else "")
        guess = f"Did you mean {close[0]!r}? " if close else ""
        super().__init__(f"no {kind} {wanted!r}{place}", hint=f"{guess}There is: {shown or 'nothing'}")


class SomeImagesFailed(MxbridgeError):
    exit_code = 3


class SourceError(MxbridgeError):
    exit_code = 4


class ModelError(MxbridgeError):
    exit_code = 5


class InputError(MxbridgeError):
    exit_code = 6


class BrokenFile(InputError):
    """A file whose content cannot be what its name promises. ``position`` is a byte offset where one is known."""

    def __init__(self, path: str | PathLike[str], what: str, *, position: int | None = None, hint: str = "") -> None:
        self.path = str(path)
        self.position = position
        where = "" if position is None else f" (at byte {position})"
        super().__init__(f"{self.path}: {what}{where}", hint=hint)


class Unsupported(InputError):
    pass


class NotApplicable(InputError):
    """Left out with a note when all images of a place are meant; an error for an image that was named."""


class NoPixelSize(InputError):
    def __init__(self, image: str) -> None:
        super().__init__(
            f"{image} does not say how large its pixels are",
            hint="Give it with --um-per-px, e.g. --um-per-px 0.5",
        )


class NoCells(InputError):
    pass


class OutputError(MxbridgeError):
    exit_code = 7


class Locked(OutputError):
    pass


class ChangedMeanwhile(OutputError):
    pass


class QualityFlagged(MxbridgeError):
    exit_code = 8


class Interrupted(MxbridgeError):
    exit_code = 130


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
