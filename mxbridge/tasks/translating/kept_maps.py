"""Inferred images that runs keep: with them nuclei are found again by other thresholds, without any network.

Beside its ``maps.zarr`` each image's folder holds ``maps.json``, which says what they are of; a run that used the maps of
an earlier one says where those lie.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from mxbridge.errors import BrokenFile
from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.formats.json_files import parse_json
from mxbridge.runs import all_runs
from mxbridge.tasks.translating.system import System

RECORD = "maps.json"
FORMAT = "mxbridge kept maps 1"
MAPS = "maps.zarr"
RECORD_LIMIT = 4_000_000
"""Bytes; a longer file is no record."""


@dataclass(frozen=True)
class KeptMaps:
    """What the maps of one image are of, and where they lie.

    fingerprint: of all that decides their pixels, but for which images were made. pixels: identity of the slide. inside: of the
    annotations that they are limited to, empty for none. um_per_px: (y, x) of the slide. made: what is told of how they came
    about. folder: of the results they lie with.
    """

    fingerprint: str
    pixels: str
    images: tuple[str, ...]
    system: System
    inside: str = ""
    um_per_px: tuple[float, float] | None = None
    compat: bool = False
    tile_size: int | None = None
    made: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def maps(self) -> Path:
        return self.folder / MAPS

    @property
    def there(self) -> bool:
        return self.maps.is_dir()

    def save(self, folder: Path) -> None:
        """Write ``maps.json`` into ``folder``. Raises OutputError."""
        make_folder(folder)
        elsewhere = {}
        if self.folder != folder:
            at = self.folder.absolute()
            elsewhere = {"at": _relative(at, folder.absolute()), "absolute": str(at)}
        document = {"format": FORMAT, **asdict(self), "system": self.system.to_record(), **elsewhere}
        del document["folder"]
        with write_atomically(folder / RECORD) as part:
            part.write_text(json.dumps(document, indent=1, default=str), encoding="utf-8", errors="backslashreplace")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What ``folder`` says of its maps; None where it says nothing. Raises BrokenFile."""
        path = folder / RECORD
        try:
            if not path.is_file():
                return None
            if path.stat().st_size > RECORD_LIMIT:
                raise BrokenFile(path, "is too long for the record of maps")
            document = parse_json(path.read_bytes(), path)
        except OSError as error:
            raise BrokenFile(path, f"cannot be read ({error.strerror})") from error
        try:
            if document["format"] != FORMAT:
                raise ValueError("made by another version")
            um = document["um_per_px"]
            return cls(
                fingerprint=str(document["fingerprint"]),
                pixels=str(document["pixels"]),
                images=tuple(str(name) for name in document["images"]),
                system=System.from_record(document["system"]),
                inside=str(document["inside"]),
                um_per_px=None if um is None else (float(um[0]), float(um[1])),
                compat=bool(document["compat"]),
                tile_size=None if document["tile_size"] is None else int(document["tile_size"]),
                made=dict(document["made"]),
                folder=_place(folder, document),
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BrokenFile(path, f"is not the record of maps ({error})") from error


def all_kept(home: Path) -> dict[str, list[KeptMaps]]:
    """What the runs under ``home`` tell of their maps, by fingerprint, the newest first."""
    found: dict[str, list[KeptMaps]] = {}
    for run in all_runs(home):
        for image in run.images if run.task == "translate" else ():
            kept = _told(run.folder_of(image))
            if kept is not None:
                found.setdefault(kept.fingerprint, []).append(kept)
    return found


def usable(kept: KeptMaps | None, fingerprint: str, images: Sequence[str], inside: str) -> bool:
    """Whether maps are those wanted: ``inside`` annotations or of the whole slide, with at least these images."""
    if kept is None or kept.fingerprint != fingerprint or not set(images) <= set(kept.images):
        return False
    return kept.inside in ("", inside) and kept.there


def _told(folder: Path) -> KeptMaps | None:
    try:
        return KeptMaps.load(folder)
    except BrokenFile:
        return None  # they can always be made again


def choose_kept(
    places: Sequence[KeptMaps], own: Path, fingerprint: str, images: Sequence[str], inside: str
) -> KeptMaps | None:
    """The maps in the folder ``own``, else the first usable ones of ``places``."""
    for kept in (_told(own), *places):
        if kept is not None and usable(kept, fingerprint, images, inside):
            return kept
    return None


def _place(folder: Path, document: dict[str, Any]) -> Path:
    """Where the maps lie: folders of runs may have moved together, or this one alone."""
    if "at" not in document:
        return folder
    near = Path(os.path.normpath(folder / str(document["at"])))
    return near if (near / MAPS).is_dir() else Path(str(document.get("absolute", near)))


def _relative(path: Path, start: Path) -> str:
    try:
        return os.path.relpath(path, start)
    except ValueError:  # another drive
        return str(path)
