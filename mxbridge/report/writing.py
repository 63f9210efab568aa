"""A page to disk: one file, or a folder with its pictures beside it; whoever is killed leaves the old report or none."""

from __future__ import annotations

import glob
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mxbridge.errors import Locked, OutputError, UsageError
from mxbridge.formats.atomic import PART_SUFFIX, fsync_file, fsync_folder, make_folder, output_error, write_atomically
from mxbridge.report.page.rendering import GENERATOR
from mxbridge.report.page.store import PICTURES, PictureStore
from mxbridge.runs import folder_lock

INDEX = "index.html"
_OURS = re.compile(r"\d{4,}\.(webp|png|jpeg|svg)")
_HEAD = 2048
"""Bytes at the start of a page in which it says that it is ours."""


@contextmanager
def part_folder(beside: Path) -> Iterator[Path]:
    """A folder for what is not finished, beside the report; gone afterwards. Those of killed processes are swept, not that of
    another process that is just making the same report."""
    make_folder(beside.parent)
    _sweep(list(beside.parent.glob(f"{glob.escape(beside.name)}.*{PART_SUFFIX}")))
    part = beside.with_name(f"{beside.name}.{uuid.uuid4().hex[:8]}{PART_SUFFIX}")
    make_folder(part)
    try:
        with folder_lock(part):
            yield part
    except OSError as error:
        raise output_error(beside, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sweep(left: list[Path]) -> None:
    """Remove what killed processes left; nothing as long as one of them lives."""
    folders = [one for one in left if one.is_dir() and not one.is_symlink()]
    try:
        for folder in folders:
            with folder_lock(folder):
                pass
    except Locked:
        return
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for file in set(left) - set(folders):
        file.unlink(missing_ok=True)


def check_file(file: Path) -> None:
    """Raise UsageError where something that is no report stands in the way."""
    if file.is_dir() or (file.exists() and not _is_report(file)):
        raise UsageError(f"{file} is there and is no report of mxbridge", hint="Give another name with --out")


def _check_folder(folder: Path) -> None:
    if folder.exists() and not (_is_report(folder / INDEX) and not _strange(folder)):
        raise UsageError(
            f"{folder} is there and holds something else than a report of mxbridge",
            hint="This report is too large for one file and needs that name; give another with --out",
        )


def write_file(page: str, store: PictureStore, file: Path, folder: Path) -> Path:
    """Everything in one file; a folder that an earlier, larger report left is removed."""
    with write_atomically(file) as part, part.open("wb") as stream:
        store.inside(page, stream)
    if _is_report(folder / INDEX):
        _remove(folder)
    return file


def write_folder(page: str, store: PictureStore, file: Path, folder: Path, part: Path) -> Path:
    """``index.html`` and ``pictures/`` in ``folder``, built in ``part`` and moved in one step. Raises UsageError, OutputError."""
    _check_folder(folder)
    made = part / "made"
    make_folder(made)
    store.folder.rename(made / PICTURES)
    for picture in (made / PICTURES).iterdir():
        fsync_file(picture)
    with (made / INDEX).open("wb") as stream:
        store.beside(page, stream)
    fsync_file(made / INDEX)
    fsync_folder(made)
    if folder.exists():
        folder.rename(part / "old")
    made.rename(folder)
    fsync_folder(folder.parent)
    file.unlink(missing_ok=True)
    return folder / INDEX


def _remove(folder: Path) -> None:
    """Take a report away; what somebody put beside it stays."""
    try:
        (folder / INDEX).unlink()
        for picture in (folder / PICTURES).iterdir():
            if _OURS.fullmatch(picture.name):
                picture.unlink()
        with suppress(OSError):  # not empty
            (folder / PICTURES).rmdir()
            folder.rmdir()
    except OSError as error:
        raise OutputError(f"{folder}: an earlier report cannot be removed ({error.strerror or error})") from error


def _strange(folder: Path) -> bool:
    """Whether there is anything in it that is no part of a report."""
    pictures = folder / PICTURES
    inside = [p.name for p in pictures.iterdir()] if pictures.is_dir() else []
    return not {p.name for p in folder.iterdir()} <= {INDEX, PICTURES} or not all(map(_OURS.fullmatch, inside))


def _is_report(file: Path) -> bool:
    with suppress(OSError), file.open("rb") as stream:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in stream.read(_HEAD)
    return False
