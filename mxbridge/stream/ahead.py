"""Reading ahead of whoever works: threads decode, a bounded queue holds what is ready, in order.

An error in a thread surfaces where its result is taken, and no thread outlives the loop that asked for results. Where memory
ends while something is read, it is read once more when nothing else is, and from then on less is read ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from mxbridge.errors import InputError

Job = TypeVar("Job")
Item = TypeVar("Item")


def read_ahead(
    jobs: Iterable[Job],
    read: Callable[[Job], Item],
    *,
    workers: int,
    ahead: int,
    reduced: Callable[[str], None] = lambda what: None,
) -> Generator[Item, None, None]:
    """``read`` of every job, in order, at most ``ahead`` (one or more) under way or waiting while a result is worked on.

    An exception of ``read`` is raised when its turn comes. Closing the iterator ends the threads before it returns. reduced: is
    told when less is read ahead for lack of memory; raises InputError when one job alone does not fit.
    """
    waiting: deque[tuple[Job, Future[Item]]] = deque()
    room = max(1, ahead)
    pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="mxbridge-read")

    def take() -> Item:
        nonlocal room
        job, future = waiting.popleft()
        try:
            return future.result()
        except MemoryError:
            reduced(f"tiles read ahead {room} -> 1")
            room = 1
        del future  # its error holds what was read so far
        wait([other for _, other in waiting])
        try:
            return read(job)
        except MemoryError as error:
            raise InputError(
                f"not enough memory to read one tile ({error})", hint="Close other programs, or use a smaller --tile"
            ) from error

    try:
        for job in jobs:
            waiting.append((job, pool.submit(read, job)))
            while len(waiting) > room:  # whoever takes the first works while ``room`` others are read
                yield take()
        while waiting:
            yield take()
    finally:
        for _, future in waiting:
            future.cancel()
        pool.shutdown(wait=True, cancel_futures=True)
