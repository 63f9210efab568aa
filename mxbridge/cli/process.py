"""Settings of the whole process: what happens to freed memory and when garbage is looked for.

Only the program sets them, never the library: in a notebook they are the user's.
"""

from __future__ import annotations

import gc
import os

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # numbers of glibc's malloc.h
MMAP_THRESHOLD = 4 * 1024**2
ARENAS = 2
NEW_OBJECTS = 50_000


def prepare_process() -> None:
    """To be called once, before anything large is imported or allocated."""
    gc.set_threshold(NEW_OBJECTS, 20, 20)  # importing torch alone makes a million objects of which none is garbage
    _give_back_freed_memory()


def finish_process() -> None:
    """Leave what is left to the system: Python would look through every object of every library for garbage once more."""
    gc.freeze()


def _give_back_freed_memory() -> None:
    """Keep glibc from holding on to freed arrays.

    By itself it learns, from the first large array that is freed, to keep all up to 32 MB for later, in a pool for every
    thread; tiles of ever other sizes then leave gaps that grow with the slide, up to a third of the memory of a run. Other C
    libraries, and users who set ``MALLOC_MMAP_THRESHOLD_`` or ``MALLOC_ARENA_MAX`` themselves, are left alone.
    """
    if os.name != "posix" or {"MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX"} & set(os.environ):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        mallopt(_M_ARENA_MAX, ARENAS)
