"""One publication on an image at a time: runners on one machine wait for each other, others meet on the server and try again.

What two publications of one user on one image send is told apart by tokens, but each sweeps what the other has not committed
yet; the one that finds its parts gone begins anew.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from mxbridge.errors import ChangedMeanwhile, Locked
from mxbridge.formats.atomic import make_folder, output_error
from mxbridge.runs import digest

T = TypeVar("T")
LOCKS = 64
"""Files that are locked; two images may share one, which costs no more than waiting."""

WAIT_S = 3600.0
MEETINGS = 5
"""Attempts when another publication swept what this one had not committed."""


@contextmanager
def alone(folder: Path, server: str, image: str) -> Iterator[None]:
    """Keep other processes of this machine off publishing on an image while the block lasts; the system lets go when this one dies.

    folder: of the cache. Raises Locked after an hour, OutputError.
    """
    number = int(digest([server, image])[:8], 16) % LOCKS
    path = folder / "publishing" / f"{number:02d}.lock"
    make_folder(path.parent)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=WAIT_S)
    except Timeout as error:
        raise Locked(
            f"image {image}: another mxbridge has been publishing for an hour", hint="End it, or try again later"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise output_error(path, error if isinstance(error, OSError) else OSError(str(error))) from error
    try:
        yield
    finally:
        lock.release()


def undisturbed(work: Callable[[], T], *, wait: float = 0.5) -> T:
    """``work()``, from its start when another publication got in its way. wait: seconds between attempts, about."""
    for attempt in range(1, MEETINGS + 1):
        try:
            return work()
        except ChangedMeanwhile:
            if attempt == MEETINGS:
                raise
            time.sleep(wait * attempt * (0.5 + random.random()))  # noqa: S311 - to part those who met
    raise AssertionError("the last attempt returns or raises")
