"""Settings of the whole process: what happens to freed memory and when garbage is looked for.

Only the program sets them, never the library: in a notebook they are the user's.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8  # numbers of glibc's malloc.h
MMAP_THRESHOLD = 4 * 1024**2
TRIM_THRESHOLD = 16 * 1024**2
ARENAS = 2
NEW_OBJECTS = 50_000
_ours: list[int] = []
"""Holds this process' id once it is ours to change."""


def prepare_process() -> None:
    """To be called once, before anything large is imported or allocated."""
    gc.set_threshold(NEW_OBJECTS, 20, 20)  # importing torch alone makes a million objects of which none is garbage
    _give_back_freed_memory()
    _ours.append(os.getpid())


def finish_process() -> None:
    """Leave what is left to the system: Python would look through every object of every library for garbage once more."""
    gc.freeze()


def _give_back_freed_memory() -> None:
    """Keep glibc from holding on to freed arrays.

    By itself it learns, from the first large array that is freed, to keep all up to 32 MB for later, in a pool for every
    thread; tiles of ever other sizes then leave gaps that grow with the slide, up to a third of the memory of a run. Other C
    libraries, and users who set ``MALLOC_MMAP_THRESHOLD_`` or ``MALLOC_ARENA_MAX`` themselves, are left alone. A little of what
    is smaller than the threshold is kept: networks that work through a layer in pieces take and free it over and over.
    """
    _set_allocator({_M_MMAP_THRESHOLD: MMAP_THRESHOLD, _M_TRIM_THRESHOLD: TRIM_THRESHOLD, _M_ARENA_MAX: ARENAS})


def keep_freed_memory() -> None:
    """For commands that make arrays of the same sizes again and again (training): fresh memory for each took a third of the
    time of a step. Undoes a part of :func:`prepare_process`, and does nothing where that was not called."""
    if os.getpid() not in _ours:
        return
    _set_allocator({_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 64 * 1024**2})


def _set_allocator(settings: Mapping[int, int]) -> None:
    if os.name != "posix" or {"MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX"} & set(os.environ):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in settings.items():
            mallopt(name, value)
