"""Whose is what in the pixel cache: room for so many bytes, shared by any number of processes, any of which may be killed.

The cache is a folder of entries, one per image (see :mod:`mxbridge.workspaces.omero.pixels.cache` for what is in them):

    .lock                  held for moments, by whoever changes what follows
    uses                   a number that grows with each use of an entry: the age of an entry is counted, not timed
    leases/TOKEN.lock      locked by a live process for as long as it lives; the system unlocks it when the process dies
    locks/ENTRY.lock       held by the process that fetches pixels of an entry
    layouts/               how the server keeps an image: an entry's goes with it; its name is ENTRY up to the last "-"
    images/ENTRY/used      when it was used last, as counted by ``uses``
    images/ENTRY/leases/TOKEN      the process of that token uses this entry
    images/ENTRY/planes/NAME.begun, .whole      bytes that were set aside for a plane, or that it takes

Entries that no live process uses are removed, those unused for longest first, when there is no room. A process also gives up
entries of its own that it is not reading at this moment.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from mxbridge.errors import Locked, OutputError
from mxbridge.formats.atomic import PART_SUFFIX, make_folder, output_error

PATIENCE = 120.0
"""Seconds to wait for those who hold the whole cache, which takes moments."""

POLL = 0.02
GB = 1e9
LAYOUTS = "layouts"
DROPPED = "dropped-"
"""How the name of an entry begins that is being removed."""


@dataclass
class _Use:
    """What this process does with an entry. turn: grows whenever the entry was taken anew, so that it may have changed."""

    readers: int = 0
    turn: int = 0
    leased: bool = False


@dataclass(frozen=True)
class _Kept:
    name: str
    size: int
    used: int
    leases: tuple[str, ...] = field(default=())


class CacheRoom:
    """The entries of one cache folder, as seen by one process. Safe to use from several threads.

    limit: bytes that all entries together may take.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._images = folder / "images"
        self._mutex = threading.RLock()
        self._uses: dict[str, _Use] = {}
        self._dropped: deque[str] = deque()
        self._fetching: dict[str, threading.Lock] = {}
        self._token = ""
        self._alive: FileLock | None = None
        self._process = 0

    def path(self, entry: str) -> Path:
        return self._images / entry

    @contextmanager
    def using(self, entry: str) -> Iterator[int]:
        """Keep an entry from being removed while the block lasts; makes it where it is not there.

        Yields a number that changes when the entry was out of this process's hands since. Raises OutputError, Locked.
        """
        with self._mutex:
            self._after_fork()
            use = self._uses.setdefault(entry, _Use())
            if not use.leased:
                self._lease(entry)
                use.leased, use.turn = True, use.turn + 1
            use.readers += 1
            turn = use.turn
        try:
            yield turn
        finally:
            with self._mutex:
                use.readers -= 1

    def drop(self, entry: str) -> None:
        """Nobody in this process has the entry any more. May be called while anything else goes on (by a finaliser)."""
        self._dropped.append(entry)

    @contextmanager
    def fetching(self, entry: str) -> Iterator[None]:
        """One thread of one process at a time; call it while using the entry. The lock of a killed process is free."""
        with self._mutex:
            mine = self._fetching.setdefault(entry, threading.Lock())
        with mine:
            lock = self._file_lock(self.folder / "locks" / f"{entry}.lock")
            self._acquire(lock, None)
            try:
                yield
            finally:
                lock.release()

    def is_whole(self, entry: str, plane: str) -> bool:
        return (self.path(entry) / "planes" / f"{plane}.whole").is_file()

    def reserve(self, entry: str, plane: str, size: int, what: str) -> None:
        """Set ``size`` bytes aside for a plane, removing others' where needed; call it while using the entry.

        what: the image, for people. Raises OutputError where there can be no room, or the disk has none.
        """
        with self._locked():
            self._let_go()
            kept = {k.name: k for k in self._entries()}
            there = self._size_of(self.path(entry) / "planes", plane)
            missing = sum(k.size for k in kept.values()) - there + size - self.limit
            for old in sorted(kept.values(), key=lambda k: (self._is_ours(k), k.used)):
                if missing <= 0:
                    break
                if old.name != entry and self._remove(old):
                    missing -= old.size
            if missing > 0:
                raise self._no_room(kept, entry, size - there, what)
            begun = self.path(entry) / "planes" / f"{plane}.begun"
            self._write(begun, str(size))
        self._sweep()
        try:
            self._check_disk(size - there)
        except OutputError:
            begun.unlink(missing_ok=True)
            raise

    def settle(self, entry: str, plane: str, size: int) -> None:
        """A plane is whole; from now on it may be read."""
        planes = self.path(entry) / "planes"
        self._write(planes / f"{plane}.whole", str(size))
        with suppress(OSError):
            (planes / f"{plane}.begun").unlink(missing_ok=True)

    def unsettle(self, entry: str, plane: str) -> None:
        """A plane turned out not to be whole."""
        with suppress(OSError):
            (self.path(entry) / "planes" / f"{plane}.whole").unlink(missing_ok=True)

    def size(self) -> int:
        """Bytes that all entries take or have set aside."""
        return sum(kept.size for kept in self._entries())

    # -- leases

    def _lease(self, entry: str) -> None:
        with self._locked():
            self._let_go()
            if self._alive is None:
                self._token = secrets.token_hex(8)
                self._alive = self._file_lock(self.folder / "leases" / f"{self._token}.lock")
                self._acquire(self._alive, PATIENCE)
                for name in _names(self.folder / "leases"):
                    if name != f"{self._token}.lock":
                        self._is_alive(name.removesuffix(".lock"))  # what ended long ago is swept
            path = self.path(entry)
            for part in ("leases", "planes"):
                make_folder(path / part)
            self._write(path / "leases" / self._token, "")
            self._write(path / "used", str(self._count()))

    def _let_go(self) -> None:
        """Give back the entries that nobody here has any more."""
        while self._dropped:
            entry = self._dropped.popleft()
            use = self._uses.get(entry)
            if use is not None and use.leased and use.readers == 0:
                self._give_back(entry, use)

    def _give_back(self, entry: str, use: _Use) -> None:
        with suppress(OSError):
            (self.path(entry) / "leases" / self._token).unlink(missing_ok=True)
        use.leased = False

    def _remove(self, kept: _Kept) -> bool:
        """Remove an entry that nobody uses; one of this process's own is given up first."""
        use = self._uses.get(kept.name)
        if use is not None and use.leased:
            if use.readers:
                return False
            self._give_back(kept.name, use)
        others = [token for token in kept.leases if token != self._token]
        if any(self._is_alive(token) for token in others):
            return False
        try:
            self.path(kept.name).rename(self._images / f"{DROPPED}{secrets.token_hex(8)}")
        except OSError:  # on Windows, somebody may be looking at it
            return False
        for left in (f"locks/{kept.name}.lock", f"{LAYOUTS}/{kept.name.rpartition('-')[0]}.json"):
            with suppress(OSError):
                (self.folder / left).unlink(missing_ok=True)
        return True

    def _is_alive(self, token: str) -> bool:
        path = self.folder / "leases" / f"{token}.lock"
        lock = self._file_lock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            return True  # who cannot be asked is left alone
        lock.release()
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return False

    def _is_ours(self, kept: _Kept) -> bool:
        use = self._uses.get(kept.name)
        return use is not None and use.leased

    def _after_fork(self) -> None:
        """A forked process has no leases: those of its parent are its parent's to give back."""
        if self._process != os.getpid():
            self._process, self._alive, self._token = os.getpid(), None, ""
            self._uses, self._fetching = {}, {}
            self._dropped.clear()

    # -- what lies there

    def _entries(self) -> list[_Kept]:
        try:
            folders = [p for p in self._images.iterdir() if p.is_dir() and not p.name.startswith(DROPPED)]
        except FileNotFoundError:
            return []
        return [
            _Kept(p.name, self._size_of(p / "planes"), _number(p / "used"), tuple(_names(p / "leases")))
            for p in sorted(folders)
        ]

    def _size_of(self, planes: Path, only: str | None = None) -> int:
        """Bytes that planes take; a plane that is begun again counts once."""
        sizes: dict[str, int] = {}
        for name in _names(planes):
            plane, _, state = name.rpartition(".")
            if state in ("begun", "whole") and only in (None, plane):
                sizes[plane] = max(sizes.get(plane, 0), _number(planes / name))
        return sum(sizes.values())

    def _count(self) -> int:
        """The next number of use; where the last one was lost, the entries tell."""
        path = self.folder / "uses"
        number = 1 + (_number(path) or max((kept.used for kept in self._entries()), default=0))
        self._write(path, str(number))
        return number

    def _write(self, path: Path, text: str) -> None:
        """No flush to disk: what a power failure leaves is empty, which counts as nothing."""
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
        try:
            part.write_text(text, encoding="ascii")
            os.replace(part, path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise cache_error(path, error) from error

    def _sweep(self) -> None:
        """Remove what was taken out, by this process or one that was killed; outside the lock, for it may take a while."""
        for name in _names(self._images):
            if name.startswith(DROPPED):
                shutil.rmtree(self._images / name, ignore_errors=True)

    def _check_disk(self, size: int) -> None:
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:
            return
        if free < size:
            raise OutputError(
                f"{self.folder}: the disk has {_told(free)} left, {_told(size)} of pixels are to come",
                hint="Nothing was lost; free some space, or give a folder on another disk with --cache",
            )

    def _no_room(self, kept: dict[str, _Kept], entry: str, size: int, what: str) -> OutputError:
        mine = kept[entry].size + size if entry in kept else size
        if mine > self.limit:
            return OutputError(
                f"{what} needs {_told(mine)} in the pixel cache, which may take {_told(self.limit)}",
                hint="Allow more with --cache-size",
            )
        return OutputError(
            f"{what} needs {_told(size)} more in the pixel cache ({self.folder}); all of its {_told(self.limit)} "
            "are in use by running programs",
            hint="Wait until they have ended, allow more with --cache-size, or give another folder with --cache",
        )

    # -- locks

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._mutex:
            for part in ("images", "leases", "locks"):
                make_folder(self.folder / part)
            lock = self._file_lock(self.folder / ".lock")
            self._acquire(lock, PATIENCE)
            try:
                yield
            finally:
                lock.release()

    def _file_lock(self, path: Path) -> FileLock:
        return FileLock(path, thread_local=False)

    def _acquire(self, lock: FileLock, seconds: float | None) -> None:
        try:
            lock.acquire(timeout=-1 if seconds is None else seconds, poll_interval=POLL)
        except Timeout as error:
            raise Locked(
                f"{self.folder}: another program has held the pixel cache for {PATIENCE:.0f} s",
                hint="End it, or give another folder with --cache",
            ) from error
        except (OSError, NotImplementedError) as error:
            raise cache_error(self.folder, error if isinstance(error, OSError) else OSError(str(error))) from error


def cache_error(path: Path, error: OSError) -> OutputError:
    """The one-line error for a write to the cache that failed, with what to do about it there."""
    found = output_error(path, error)
    hint = found.hint.partition(";")[0] if found.hint else "Nothing was lost"
    return OutputError(
        found.message,
        hint=f"{hint}; free some space, allow less with --cache-size, or give another folder with --cache",
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(p.name for p in folder.iterdir())
    except OSError:
        return []


def _number(path: Path) -> int:
    """The number that a small file holds; 0 where there is none."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return 0
    return int(text) if text.isdigit() and len(text) < 19 else 0


def _told(size: int) -> str:
    """``1.5 GB``, ``12.0 MB``."""
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / 1e6:.1f} MB"
