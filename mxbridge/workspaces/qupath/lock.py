"""One mxbridge run at a time on one project: a lock file that the system releases when its holder dies.

It keeps two runs of mxbridge apart. QuPath itself knows no such lock; against it helps only :mod:`mxbridge.formats.exchange`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mxbridge.errors import Locked
from mxbridge.formats.atomic import output_error

LOCK_NAME = ".lock"
OWNER_NAME = ".lock-owner.json"


class ProjectLock:
    """Re-entrant within a process: the run that holds it may publish as often as it likes, one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """folder: ``<project>/mxbridge``, made when the lock is first taken."""
        self._folder = folder
        self._file = FileLock(folder / LOCK_NAME, thread_local=False)
        self._threads = threading.RLock()

    @contextmanager
    def held(self, wait: float = 0.0, *, told: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the lock. wait: seconds to wait for another run; told: is given one line before the waiting begins.

        Raises Locked (with who holds it) after ``wait`` seconds, OutputError in a read-only project.
        """
        if not self._threads.acquire(timeout=max(wait, 0.0)):
            raise Locked("another thread of this process is writing to the project")
        try:
            self._acquire(wait, told)
            try:
                yield
            finally:
                self._release()
        finally:
            self._threads.release()

    def owner(self) -> str:
        """Who holds the lock, for people: ``process 4711 on host since 12:30``."""
        try:
            text = json.loads((self._folder / OWNER_NAME).read_text(encoding="utf-8"))
            return f"process {int(text['pid'])} on {str(text['host'])[:100]} since {str(text['since'])[:30]}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another run"

    def _acquire(self, wait: float, told: Callable[[str], None] | None) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
            try:
                self._file.acquire(timeout=0)
            except Timeout:
                if told is not None and wait > 0:
                    told(f"waiting up to {wait:g} s for {self.owner()}, which holds {self._folder.parent}")
                self._file.acquire(timeout=max(wait, 0.0), poll_interval=0.1)
        except Timeout:
            raise Locked(
                f"{self._folder.parent} is in use by {self.owner()}",
                hint="Wait until that run has ended, then run again",
            ) from None
        except OSError as error:
            raise output_error(self._folder / LOCK_NAME, error) from error
        except NotImplementedError:  # a file system without locks; better no lock than no work
            return
        if self._file.lock_counter == 1:
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            document = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            with suppress(OSError):
                (self._folder / OWNER_NAME).write_text(json.dumps(document), encoding="utf-8")

    def _release(self) -> None:
        if self._file.lock_counter == 1:
            with suppress(OSError):
                (self._folder / OWNER_NAME).unlink(missing_ok=True)
        if self._file.is_locked:
            self._file.release()
