"""Where derived images lie: with the results that made them, and, once published, where the workspace keeps such images.

They move in steps, so that a kill at any moment leaves a whole image in one of the places where the next move looks for it.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Collection
from pathlib import Path

from mxbridge.formats.atomic import PART_SUFFIX, make_folder, output_error, write_atomically
from mxbridge.results import Results
from mxbridge.workspaces.base import Workspace

FOLDER = "derived"
"""Inside the folder of an image's results."""

OURS, WORK = "mxbridge", "made_by"
"""Attributes of an image: that it is derived, and inside, the fingerprint of the work that made it."""


def is_placed(results: Results, workspace: Workspace) -> bool:
    """Whether every derived image is where the workspace wants it (or the workspace wants them left in the run folder), and
    nothing is left of a move that was killed."""
    home = workspace.derived_folder(results.image)
    return home is None or all(
        _is_of(results, home / d.file) and not any(part.exists() for part in _on_the_way(home / d.file))
        for d in results.derived
    )


def sign(results: Results, folder: Path) -> None:
    """Write into each derived image in the results' ``folder`` which work made it: another run of the same marker will put
    its own under the same name. Raises OutputError."""
    for derived in results.derived:
        path = folder / FOLDER / derived.file
        document, attributes = _attributes(path)
        if document is not None:
            attributes[OURS] = {**attributes.get(OURS, {}), WORK: results.fingerprint}
            with write_atomically(document[0]) as part:
                part.write_text(json.dumps(document[1], indent=1), encoding="utf-8")


def lost(results: Results, folder: Path, workspace: Workspace) -> tuple[str, ...]:
    """Result keys of derived images that are neither with the results nor in the workspace any more, as this work made them."""
    home = workspace.derived_folder(results.image)
    places = [folder / FOLDER] + ([home] if home is not None else [])
    return tuple(
        d.result_key
        for d in results.derived
        if not any(_is_of(results, way) for p in places for way in (p / d.file, _on_the_way(p / d.file)[0]))
    )


def place(results: Results, folder: Path, workspace: Workspace) -> None:
    """Move derived images from the results' folder into the workspace's. Raises OutputError."""
    home = workspace.derived_folder(results.image)
    for derived in results.derived if home else ():
        if home is not None:
            put(folder / FOLDER / derived.file, home / derived.file)


def take_back(results: Results, folder: Path, workspace: Workspace, keys: Collection[str] | None = None) -> None:
    """Move derived images from the workspace's folder back to the results', so that they can be published again.

    keys: the result keys that were taken out (None: all); under the others another run has put its own images there since.
    """
    home = workspace.derived_folder(results.image)
    for derived in results.derived if home else ():
        if home is not None and (keys is None or derived.result_key in keys):
            put(home / derived.file, folder / FOLDER / derived.file)


def replaced(results: Results, workspace: Workspace) -> tuple[str, ...]:
    """Result keys of derived images in whose place another work has put its own."""
    home = workspace.derived_folder(results.image)
    if home is None:
        return ()
    return tuple(
        d.result_key for d in results.derived if (home / d.file).is_dir() and not _is_of(results, home / d.file)
    )


def put(source: Path, target: Path) -> None:
    """Move a folder to ``target``, going on with moves that were killed; what was there goes only when the new one stands
    beside it. Without a ``source`` and a move to go on with nothing happens. Raises OutputError."""
    beside, _, copying = _on_the_way(target)
    try:
        _finish(source)
        if source.is_dir():
            make_folder(target.parent)
            _remove(beside)
            _move(source, beside, copying)
        _finish(target)
    except OSError as error:
        raise output_error(target, error) from error


def _finish(target: Path) -> None:
    """Let what stands beside ``target`` take its place; it is whole, because it got its name in one step."""
    beside, old, copying = _on_the_way(target)
    if beside.is_dir():
        _remove(old)
        if target.exists():
            target.rename(old)
        beside.rename(target)
    _remove(old)
    _remove(copying)


def _on_the_way(target: Path) -> tuple[Path, Path, Path]:
    """Places beside ``target``: of the new image, of the one it replaces, of a copy from another disk that is not whole yet."""
    beside, old, copying = (target.with_name(f"{target.name}{end}{PART_SUFFIX}") for end in ("", ".old", ".copy"))
    return beside, old, copying


def _move(source: Path, target: Path, copying: Path) -> None:
    try:
        source.rename(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    _remove(copying)
    shutil.copytree(source, copying)
    copying.rename(target)
    going = source.with_name(f"{source.name}.old{PART_SUFFIX}")
    _remove(going)
    source.rename(going)  # half of a source must not be taken for an image
    _remove(going)


def _is_of(results: Results, image: Path) -> bool:
    """Whether an image is there and no other work has signed it."""
    if not image.is_dir():
        return False
    ours = _attributes(image)[1].get(OURS)
    return not isinstance(ours, dict) or ours.get(WORK, results.fingerprint) == results.fingerprint


def _attributes(image: Path) -> tuple[tuple[Path, dict] | None, dict]:
    """Where an OME-Zarr keeps its attributes (file and whole document), and they themselves; none where they cannot be read."""
    for name, inside in ((".zattrs", None), ("zarr.json", "attributes")):
        try:
            document = json.loads((image / name).read_text(encoding="utf-8"))
            attributes = document if inside is None else document.setdefault(inside, {})
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if isinstance(attributes, dict):
            return (image / name, document), attributes
    return None, {}


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
