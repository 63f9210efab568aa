"""What one run of a job did, and how it ends: for people, for programs, and as an exit code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mxbridge.batch.sources import Unreachable
from mxbridge.errors import MxbridgeError, SomeImagesFailed, SourceError


@dataclass
class Report:
    """Names are ``image, task``. stopped: why no further image was begun. left: items that were to do and were not begun.

    done_before: items that were done already. elsewhere: under way at another runner.
    """

    run: str
    runner: str
    done: list[str] = field(default_factory=list)
    failed: dict[str, MxbridgeError] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    unreachable: list[Unreachable] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    done_before: int = 0
    stopped: str = ""

    @property
    def counts(self) -> dict[str, int]:
        return {
            "done": len(self.done),
            "failed": len(self.failed),
            "given up": len(self.given_up),
            "waiting": len(self.waiting),
            "not begun": len(self.left),
            "elsewhere": len(self.elsewhere),
            "done before": self.done_before,
        }

    def document(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "run": self.run,
            "runner": self.runner,
            "counts": self.counts,
            "done": self.done,
            "failed": {name: {"error": str(e), "code": e.exit_code} for name, e in self.failed.items()},
            "given_up": self.given_up,
            "waiting": self.waiting,
            "left_out": self.left_out,
            "elsewhere": self.elsewhere,
            "not_begun": self.left,
            "vanished": self.vanished,
            "unreachable": {u.source: str(u.error) for u in self.unreachable},
            "warnings": self.warnings,
            "stopped": self.stopped,
        }

    def raise_for_errors(self) -> None:
        """SomeImagesFailed when something is not done for an error, and the rest is; the error itself when nothing is."""
        errors: list[MxbridgeError] = [u.error for u in self.unreachable] + list(self.failed.values())
        if not errors and not self.given_up:
            return
        fine = bool(self.done or self.done_before)
        if self.unreachable and not fine and not self.failed:
            first = self.unreachable[0]
            if len(self.unreachable) == 1:
                raise first.error
            raise SourceError(f"{len(self.unreachable)} sources cannot be reached: {first.source}: {first.error}")
        if errors and not fine and not self.given_up:
            raise errors[0]
        parts = [f"{len(self.unreachable)} sources cannot be reached"] if self.unreachable else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += [f"{len(self.given_up)} were given up before"] if self.given_up else []
        first_error = str(errors[0]) if errors else next(iter(self.given_up.values()))
        raise SomeImagesFailed(
            f"{', '.join(parts)}, the rest is done: {first_error}",
            hint="See mxbridge batch status; --retry-failed tries all again",
        )
