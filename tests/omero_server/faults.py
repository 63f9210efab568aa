"""What goes wrong on purpose: the n-th call of an operation is dropped, delayed, refused or loses its session."""

from __future__ import annotations

import fnmatch
import random
import threading
from dataclasses import dataclass

KINDS = ("drop", "kill-connection-after", "expire", "error", "delay", "restart")


@dataclass
class Fault:
    """From the `nth` matching call on, `times` calls in a row. `error` names the exception of omero for `error`."""

    operation: str
    nth: int = 1
    do: str = "drop"
    seconds: float = 0.0
    times: int = 1
    error: str = "InternalException"
    seen: int = 0

    def __post_init__(self) -> None:
        if self.do not in KINDS:
            raise ValueError(f"unknown fault '{self.do}': one of {', '.join(KINDS)}")

    def strikes(self, operation: str) -> bool:
        """Count a call; whether it is one to spoil."""
        if not fnmatch.fnmatchcase(operation, self.operation):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class Faults:
    """The planned faults and the random ones (seeded: the k-th call meets the same fate in every run)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[Fault] = []
        self._random: random.Random | None = None
        self._rate = 0.0
        self._kinds: tuple[str, ...] = ()
        self._left = 0
        self.struck: list[str] = []

    def plan(self, fault: Fault) -> None:
        with self._lock:
            self._planned.append(fault)

    def at_random(self, seed: int, rate: float, kinds: tuple[str, ...], at_most: int) -> None:
        """Every call with this probability, until `at_most` faults have struck. Rate 0 ends it."""
        for kind in kinds:
            Fault("*", do=kind)
        with self._lock:
            self._random = random.Random(seed) if rate > 0 else None
            self._rate, self._kinds, self._left = rate, kinds, at_most

    def clear(self) -> None:
        """No faults from now on."""
        with self._lock:
            self._planned.clear()
            self._random = None
            self.struck.clear()

    def next(self, operation: str) -> Fault | None:
        """The fault that this call meets."""
        if not self._planned and self._random is None:
            return None
        with self._lock:
            hits = [fault for fault in self._planned if fault.strikes(operation)]
            found = hits[0] if hits else self._chance(operation)
            if found is not None:
                self.struck.append(f"{found.do} at {operation}")
            return found

    def _chance(self, operation: str) -> Fault | None:
        if self._random is None or self._left <= 0:
            return None
        if self._random.random() >= self._rate:
            return None
        self._left -= 1
        kind = self._random.choice(self._kinds)
        return Fault(operation, do=kind, seconds=0.05 * self._random.random())
