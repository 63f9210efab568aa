"""Image stacks as numpy files with a table of splits, as the published MAXIM program takes them.

The table is a CSV with the columns ``Image_Path`` and ``Split_Name`` (train, valid, test; anything else counts as neither).
Each file holds ``(n, y, x)`` numbers, one plane per marker of a panel that stands nowhere in the files. Files are mapped, not
read, and nothing is unpickled.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile, InputError, SourceError, UsageError
from mxbridge.formats.pixels import Level, file_identity
from mxbridge.image import Box, Channel, LocalImage

COLUMNS = ("Image_Path", "Split_Name")
SIDES = ("train", "valid", "test")


@dataclass(frozen=True)
class NpyPanel:
    """One image of a table. side: train, valid, test, or empty for a split of another name."""

    path: Path
    side: str
    image: LocalImage


def read_npy_panels(table: Path, panel: Sequence[str], um_per_px: float | None = None) -> list[NpyPanel]:
    """All images of a table, opened lazily. Relative paths count from the table's folder.

    panel: names of the planes, in order. Raises UsageError, SourceError and BrokenFile: no table, no columns, an image that is
    missing, repeated, no stack of ``len(panel)`` planes, or not of numbers.
    """
    names = [name.strip() for name in panel]
    if not names or "" in names or len(set(names)) < len(names):
        raise UsageError(
            "the panel of .npy images needs one name per plane, all different", hint="--npy-panel DAPI,CD4"
        )
    rows = _rows(table)
    seen: set[Path] = set()
    out = []
    for number, (text, split) in enumerate(rows, start=2):
        path = (table.parent / text).absolute()
        if path in seen:
            raise BrokenFile(table, f"line {number}: {text[:200]} is listed twice")
        seen.add(path)
        side = split.casefold() if split.casefold() in SIDES else ""
        out.append(NpyPanel(path, side, open_npy(path, names, um_per_px)))
    if not out:
        raise BrokenFile(table, "lists no image")
    return out


def _rows(table: Path) -> list[tuple[str, str]]:
    try:
        if not table.is_file():
            raise SourceError(f"no table of images at {table}")
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if not set(COLUMNS) <= set(reader.fieldnames or []):
                raise BrokenFile(table, f"has no columns {' and '.join(COLUMNS)}")
            rows = [((row[COLUMNS[0]] or "").strip(), (row[COLUMNS[1]] or "").strip()) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BrokenFile(table, f"is not a CSV table in UTF-8 ({error})") from error
    except OSError as error:
        raise SourceError(f"{table}: cannot be read ({error.strerror or error})") from error
    for number, (path, _) in enumerate(rows, start=2):
        if not path or "\0" in path:
            raise BrokenFile(table, f"line {number}: no path of an image")
    return rows


def open_npy(path: Path, names: Sequence[str], um_per_px: float | None = None) -> LocalImage:
    """One stack ``(n, y, x)`` as an image. Raises SourceError, BrokenFile, InputError."""
    if not path.is_file():
        raise SourceError(f"no image at {path}")
    stack = _mapped(path)
    if stack.ndim != 3 or 0 in stack.shape:
        raise BrokenFile(path, f"holds an array of shape {stack.shape}, expected (channels, y, x)")
    if len(stack) != len(names):
        raise InputError(
            f"{path}: has {len(stack)} planes, the panel {len(names)} names", hint="Give one name per plane, in order"
        )
    identity = file_identity([path], "npy", list(names))
    count, height, width = stack.shape
    level = _NpyLevel(path, (count, height, width), stack.dtype, (1, 256, 256))
    return LocalImage(
        name=path.stem,
        levels=(level.array(f"npy-{identity}"),),
        channels=tuple(Channel(name) for name in names),
        pixel_size_um=None if um_per_px is None else (um_per_px, um_per_px),
        identity=identity,
        files=(path,),
    )


def _mapped(path: Path) -> NDArray[Any]:
    """The array in a file, on disk. Raises BrokenFile for what is none, a shape that does not fit the file included."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=10_000)
    except Exception as error:  # whatever a hostile header makes numpy raise
        raise BrokenFile(path, f"is no array of numbers in numpy's format ({type(error).__name__})") from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise BrokenFile(path, "holds several arrays, expected one", hint="Save single arrays with numpy.save")
    return found


class _NpyLevel(Level):
    """Opens the file for every piece, so that thousands of images keep no handle."""

    def read(self, channels: range, box: Box) -> NDArray[Any]:
        found = _mapped(self.path)
        if found.shape != self.shape:
            raise BrokenFile(self.path, "has changed its shape since it was opened")
        return found[channels.start : channels.stop, box.y0 : box.y1, box.x0 : box.x1]
