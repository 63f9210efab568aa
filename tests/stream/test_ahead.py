"""Reading ahead where memory ends: what was half read is let go, the order stays, and no thread is left behind."""

from __future__ import annotations

import threading
import weakref

import pytest

from mxbridge.errors import InputError
from mxbridge.stream.ahead import read_ahead


class Pixels:
    """Something large."""


def test_what_was_half_read_is_let_go_before_it_is_read_again() -> None:
    half: list[weakref.ref[Pixels]] = []
    held: list[bool] = []

    def read(job: int) -> int:
        pixels = Pixels()
        if job == 3 and not half:
            half.append(weakref.ref(pixels))
            raise MemoryError
        if job == 3:
            held.append(half[0]() is not None)
        return job

    told: list[str] = []
    assert list(read_ahead(range(8), read, workers=2, ahead=4, reduced=told.append)) == list(range(8))
    assert held == [False]
    assert told == ["tiles read ahead 4 -> 1"]


def test_several_that_do_not_fit_at_once() -> None:
    """Every job fails while another one is under way."""
    under_way = threading.Semaphore(1)
    told: list[str] = []

    def read(job: int) -> int:
        if not under_way.acquire(blocking=False):
            raise MemoryError
        threading.Event().wait(0.005)
        under_way.release()
        return job

    assert list(read_ahead(range(12), read, workers=3, ahead=6, reduced=told.append)) == list(range(12))
    assert told
    assert not [t for t in threading.enumerate() if t.name.startswith("mxbridge-read")]


def test_errors_after_memory_ended_are_not_lost() -> None:
    def read(job: int) -> int:
        if job == 1:
            raise MemoryError
        return job

    stream = read_ahead(range(4), read, workers=2, ahead=2)
    assert next(stream) == 0
    with pytest.raises(InputError, match="not enough memory to read one tile"):
        next(stream)
    assert not [t for t in threading.enumerate() if t.name.startswith("mxbridge-read")]
