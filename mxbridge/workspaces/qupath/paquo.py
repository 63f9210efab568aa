"""The optional judge: what a real QuPath reads from a project, through the extra ``paquo`` and an installed QuPath.

Nothing else in mxbridge needs a JVM; only this module imports paquo. The project is opened for reading only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mxbridge.errors import SourceError
from mxbridge.workspaces.qupath.compare import ObjectFacts

QUPATH_DIR = "PAQUO_QUPATH_DIR"

HOW_TO_GET = (
    "To compare with a real QuPath: pip install 'mxbridge[paquo]', install QuPath from https://qupath.github.io, and set "
    f"{QUPATH_DIR} to its folder"
)


def why_not() -> str:
    """Why no real QuPath can be asked here; empty when it can."""
    if find_spec("paquo") is None:
        return "the extra paquo is not installed"
    folder = os.environ.get(QUPATH_DIR, "")
    if not folder:
        return f"{QUPATH_DIR} is not set"
    if not Path(folder).is_dir():
        return f"{QUPATH_DIR} is {folder}, which is no folder"
    return ""


def read_with_qupath(project: Path) -> tuple[str, Iterator[tuple[int, list[ObjectFacts] | str]]]:
    """Version of QuPath, then per entry its id and its objects as QuPath sees them, or why it cannot open it.

    Starts a JVM, of which a process can have one only. Raises SourceError when there is no QuPath.
    """
    if reason := why_not():
        raise SourceError(f"no real QuPath to compare with: {reason}", hint=HOW_TO_GET)
    try:
        import paquo
        from paquo.java import GeneralTools
        from paquo.projects import QuPathProject
    except Exception as error:
        raise SourceError(f"paquo cannot start QuPath ({error})", hint=HOW_TO_GET) from error
    version = f"{GeneralTools.getVersion()} (paquo {paquo.__version__})"

    def entries() -> Iterator[tuple[int, list[ObjectFacts] | str]]:
        with QuPathProject(project, mode="r") as opened:
            for entry in opened.images:
                yield int(str(entry.entry_id)), _objects(entry.java_object)

    return version, entries()


def _objects(entry: Any) -> list[ObjectFacts] | str:
    # readImageData, never readHierarchy: the latter does not return on a damaged file.
    try:
        hierarchy = entry.readImageData().getHierarchy()
        return [_facts(found) for found in hierarchy.getFlattenedObjectList(None) if not found.isRootObject()]
    except Exception as error:  # Java exceptions share no Python base that exists without a JVM
        return f"QuPath cannot read it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def _facts(found: Any) -> ObjectFacts:
    roi, path_class, measured = found.getROI(), found.getPathClass(), found.getMeasurementList()
    names = [str(n) for n in _first(measured, "getNames", "getMeasurementNames")()]
    return ObjectFacts(
        id=str(found.getID()).lower(),
        name=None if found.getName() is None else str(found.getName()),
        class_name=None if path_class is None or path_class.toString() is None else _class(path_class),
        measurements={n: float(measured.get(n)) for n in names},
        bounds=None
        if roi is None
        else (
            float(roi.getBoundsX()),
            float(roi.getBoundsY()),
            float(roi.getBoundsX() + roi.getBoundsWidth()),
            float(roi.getBoundsY() + roi.getBoundsHeight()),
        ),
    )


def _class(path_class: Any) -> str | None:
    text = str(path_class.toString())
    return None if text in ("", "Unclassified") else text


def _first(owner: Any, *names: str) -> Callable[[], Any]:
    for name in names:
        if hasattr(owner, name):
            method: Callable[[], Any] = getattr(owner, name)
            return method
    raise SourceError(f"this version of QuPath has none of {', '.join(names)}", hint="mxbridge knows QuPath 0.4 to 0.7")
