"""Clocks that tests move."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from mxbridge.batch.limits import Clock


class FakeClock(Clock):
    """Stands still unless moved. wall: local time; offset: of its zone, in hours."""

    def __init__(self, wall: str, offset: float = 1) -> None:
        self.wall, self.offset, self.ticks = datetime.fromisoformat(wall), offset, 1000.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.wall.replace(tzinfo=timezone(timedelta(hours=self.offset)))

    def monotonic(self) -> float:
        return self.ticks

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.move(seconds)

    def move(self, seconds: float) -> None:
        """Both clocks."""
        self.ticks += seconds
        self.wall += timedelta(seconds=seconds)
