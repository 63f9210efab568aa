"""Where derived images lie: with the results that made them, and, once published, where the workspace keeps such images."""

from __future__ import annotations

import shutil
from pathlib import Path

from mxbridge.formats.atomic import PART_SUFFIX, make_folder, output_error
from mxbridge.results import Results
from mxbridge.workspaces.base import Workspace

FOLDER = "derived"
"""Inside the folder of an image's results."""


def is_placed(results: Results, workspace: Workspace) -> bool:
    """Whether every derived image is where the workspace wants it (or the workspace wants them left in the run folder)."""
    home = workspace.derived_folder(results.image)
    return home is None or all((home / d.file).is_dir() for d in results.derived)


def place(results: Results, folder: Path, workspace: Workspace) -> None:
    """Move derived images from the results' folder into the workspace's. Raises OutputError."""
    home = workspace.derived_folder(results.image)
    for derived in results.derived if home else ():
        if home is not None and (folder / FOLDER / derived.file).is_dir():
            put(folder / FOLDER / derived.file, home / derived.file)


def take_back(results: Results, folder: Path, workspace: Workspace) -> None:
    """Move derived images from the workspace's folder back to the results', so that they can be published again."""
    home = workspace.derived_folder(results.image)
    for derived in results.derived if home else ():
        if home is not None and (home / derived.file).is_dir():
            put(home / derived.file, folder / FOLDER / derived.file)


def put(source: Path, target: Path) -> None:
    """Move a folder to ``target``; what was there goes only when the new one stands beside it. Raises OutputError."""
    make_folder(target.parent)
    beside, old = (target.with_name(f"{target.name}{end}{PART_SUFFIX}") for end in ("", ".old"))
    try:
        for left in (beside, old):
            if left.exists():
                shutil.rmtree(left)
        shutil.move(source, beside)
        if target.exists():
            target.rename(old)
        beside.rename(target)
        if old.exists():
            shutil.rmtree(old)
    except OSError as error:
        raise output_error(target, error) from error
