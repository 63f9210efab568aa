"""Results written behind the model by one thread, in the order they were handed over."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box


class MapWriter(Protocol):
    """Where maps of a whole image go, tile by tile; called from one thread."""

    def write(self, marker: int, box: Box, values: NDArray[np.float32]) -> None:
        """marker: position among the markers asked for. box: at the model's scale, a core of the grid. values: ``(y, x)``."""


class Writer:
    """Runs jobs one after another in a thread; at most ``waiting`` are held. A job's error stops the jobs behind it and is
    raised by the next :meth:`put`, or on leaving the ``with`` block."""

    def __init__(self, waiting: int = 4) -> None:
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=waiting)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="mxbridge-write", daemon=True)

    def put(self, job: Callable[[], None]) -> None:
        self._raise()
        self._jobs.put(job)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what was handed over, also after an error elsewhere: it is then there when the run goes on."""
        self._jobs.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._error is None:
                try:
                    job()
                except BaseException as error:  # it is raised in the thread that handed the job over
                    self._error = error
