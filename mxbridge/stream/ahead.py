"""Reading ahead of whoever works: threads decode, a bounded queue holds what is ready, in order.

An error in a thread surfaces where its result is taken, and no thread outlives the loop that asked for results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Item = TypeVar("Item")


def read_ahead(
    jobs: Iterable[Job], read: Callable[[Job], Item], *, workers: int, ahead: int
) -> Generator[Item, None, None]:
    """``read`` of every job, in order, at most ``ahead`` (one or more) under way or waiting while a result is worked on.

    An exception of ``read`` is raised when its turn comes. Closing the iterator ends the threads before it returns.
    """
    waiting: deque[Future[Item]] = deque()
    pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="mxbridge-read")
    try:
        for job in jobs:
            waiting.append(pool.submit(read, job))
            if len(waiting) > max(1, ahead):  # whoever takes the first works while ``ahead`` others are read
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True, cancel_futures=True)
