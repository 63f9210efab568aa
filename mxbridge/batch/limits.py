"""When a job may begin another image. Times of day are the wall clock's, durations the monotonic clock's."""

from __future__ import annotations

import re
import time as _time
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta

from mxbridge.errors import UsageError

DAY_AND_AN_HOUR = 25 * 3600.0
"""Seconds after which a time of day has come, whatever somebody does to the wall clock."""


class Clock:
    """The machine's clocks; tests have their own."""

    def now(self) -> datetime:
        """Local time, with its zone."""
        return datetime.now().astimezone()

    def monotonic(self) -> float:
        return _time.monotonic()

    def sleep(self, seconds: float) -> None:
        _time.sleep(seconds)


def parse_time(text: str) -> time:
    """``06:00``. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d{1,2}):(\d{2})\s*", text)
    if match is None or not (int(match[1]) < 24 and int(match[2]) < 60):
        raise NotATime(f"{text!r} is no time of day", hint="Write it as 06:00")
    return time(int(match[1]), int(match[2]))


class NotATime(UsageError, ValueError):
    """Also a ValueError, as pydantic wants it."""


@dataclass(frozen=True)
class Window:
    """A part of every day; it may reach over midnight."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Window:
        """``20:00-06:00``. Raises UsageError."""
        start, _, end = text.partition("-")
        try:
            window = cls(parse_time(start), parse_time(end))
        except NotATime as error:
            raise NotATime(f"{text!r} is no window of time", hint="Write it as 20:00-06:00") from error
        if window.start == window.end:
            raise NotATime(f"{text!r} is an empty window", hint="Leave it out to work at any time")
        return window

    def holds(self, now: datetime) -> bool:
        """Whether the local time of day lies in it."""
        at = now.time()
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


@dataclass
class Deadline:
    """Whether another image may be begun. window, until, images: see the job file; ``until`` is the next such time of day."""

    clock: Clock
    window: Window | None = None
    until: time | None = None
    images: int | None = None
    begun: set[str] = field(default_factory=set)
    """Images of this run, by key."""

    def __post_init__(self) -> None:
        self._began = self.clock.monotonic()
        now = self._local()
        self._end: datetime | None = None
        """On the wall's clock, without zone: 06:00 is 06:00 also in the night in which the clocks change."""
        if self.until is not None:
            today = now.replace(hour=self.until.hour, minute=self.until.minute, second=0, microsecond=0)
            self._end = today if today > now else today + timedelta(days=1)

    def why_over(self) -> str:
        """Why no image at all may be begun now; nothing where one may, as far as time goes."""
        now = self._local()
        if self.window is not None and not self.window.holds(now):
            return f"it is {now:%H:%M}, outside {self.window.start:%H:%M}-{self.window.end:%H:%M}"
        if self._end is not None and (now >= self._end or self.clock.monotonic() - self._began > DAY_AND_AN_HOUR):
            return f"it is {self._end:%H:%M} or later"
        return ""

    def why_not(self, image: str) -> str:
        """Why this image may not be begun now; nothing where it may."""
        if self.images is not None and image not in self.begun and len(self.begun) >= self.images:
            return self.why_over() or f"{self.images} images were begun in this run"
        return self.why_over()

    def _local(self) -> datetime:
        return self.clock.now().replace(tzinfo=None)
