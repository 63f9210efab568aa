"""Which runner works on which image: a lock file per image, which the system lets go of when its holder dies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mxbridge.errors import UsageError
from mxbridge.formats.atomic import make_folder, output_error
from mxbridge.runs import digest, new_run_id

CLAIMS = "claims"
"""Folder of lock files beside the ledgers."""


def locked(path: Path, *, wait: bool = False) -> FileLock | None:
    """The lock file ``path``, held from now on; None where another process holds it. wait: until that one is done.

    Raises OutputError where the folder's file system has no locks.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        raise output_error(path.parent, error if isinstance(error, OSError) else OSError(str(error))) from error
    return lock


@contextmanager
def claimed(folder: Path, key: str) -> Iterator[bool]:
    """Whether this process now has what ``key`` stands for, until the block ends; False where another one has it.

    Raises OutputError where the folder's file system has no locks.
    """
    make_folder(folder)
    lock = locked(folder / f"{digest(['claim', key])}.lock")
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def waited_for(folder: Path, key: str) -> Iterator[None]:
    """Hold what ``key`` stands for, after whoever has it. Raises OutputError."""
    make_folder(folder)
    lock = locked(folder / f"{key}.lock", wait=True)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def shard_of(key: str, shard: tuple[int, int] | None) -> bool:
    """Whether an image belongs to shard K of N (from 1); the same for an image whatever others come and go."""
    if shard is None:
        return True
    k, n = shard
    return int(digest(["shard", key])[:12], 16) % n == k - 1


def parse_shard(text: str | None, environment: Mapping[str, str] | None = None) -> tuple[int, int] | None:
    """``2/8``, or what Slurm says of the task of an array this is. Raises UsageError."""
    known = os.environ if environment is None else environment
    if text is None:
        task, count = known.get("SLURM_ARRAY_TASK_ID", ""), known.get("SLURM_ARRAY_TASK_COUNT", "")
        if not (task.isdigit() and count.isdigit()):
            return None
        first, step = known.get("SLURM_ARRAY_TASK_MIN", "1"), known.get("SLURM_ARRAY_TASK_STEP", "1")
        k = (int(task) - int(first if first.isdigit() else 1)) // max(1, int(step if step.isdigit() else 1)) + 1
        return (k, int(count)) if 1 <= k <= int(count) else None
    first, slash, last = text.partition("/")
    if not (slash and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise UsageError(f"--shard {text!r} is not K/N", hint="As in --shard 2/8: the second of eight parts")
    return int(first), int(last)


def runner_name(environment: Mapping[str, str] | None = None) -> str:
    """What this runner is called: the task of a Slurm array, or the machine."""
    import platform

    known = os.environ if environment is None else environment
    task = known.get("SLURM_ARRAY_TASK_ID", "")
    name = f"array-{task}" if task.isdigit() else platform.node().split(".")[0]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).strip("-._")
    return plain[:48] or "runner"


def refit_word(environment: Mapping[str, str] | None = None) -> str:
    """What one request to find factors anew is called: the same for all tasks of a Slurm array."""
    known = os.environ if environment is None else environment
    array = known.get("SLURM_ARRAY_JOB_ID", "")
    return f"found anew, asked for by {f'array job {array}' if array else f'run {new_run_id()}'}"
