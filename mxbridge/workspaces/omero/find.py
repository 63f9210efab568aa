"""Which images a dataset, project, plate or screen holds, without those that mxbridge made: in few round trips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mxbridge.errors import SourceError, UnknownName
from mxbridge.results import ImageRef
from mxbridge.workspaces.omero.publishing.marks import DERIVED

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

PAGE = 1000
"""Ids in one question: some servers' databases take no more than a few thousand parameters."""

_CLASSES = {"image": "Image", "dataset": "Dataset", "project": "Project", "plate": "Plate", "screen": "Screen"}

_IMAGES = {
    "image": "select i.id, i.name from Image i where i.id in (:ids)",
    "dataset": "select i.id, i.name from DatasetImageLink l join l.child i where l.parent.id in (:ids)",
    "project": (
        "select i.id, i.name from ProjectDatasetLink pl join pl.child d join d.imageLinks l join l.child i "
        "where pl.parent.id in (:ids)"
    ),
    "plate": "select i.id, i.name from WellSample s join s.image i join s.well w where w.plate.id in (:ids)",
    "screen": (
        "select i.id, i.name from ScreenPlateLink sl join sl.child p join p.wells w join w.wellSamples s join s.image i "
        "where sl.parent.id in (:ids)"
    ),
}
_OWN = "select l.parent.id from ImageAnnotationLink l join l.child a where a.ns = :ns and l.parent.id in (:ids)"


def find_images(session: Session, kind: str, ids: Sequence[int]) -> list[ImageRef]:
    """The images of these containers (or these images) in all groups that the session sees, each once, by ascending id.

    kind: image, dataset, project (its datasets'), plate, screen (its plates'). Images that mxbridge made are left out unless
    they are named one by one (kind image). Containers may be empty. Raises SourceError naming ids that are not there (or
    that may not be seen, which a server does not tell apart), UnknownName for a kind there is not.
    """
    if kind not in _IMAGES:
        raise UnknownName("kind of OMERO object", kind, _IMAGES)
    wanted = sorted(set(ids))
    names: dict[int, str] = {image: name or "" for image, name in rows_of(session, _IMAGES[kind], wanted)}
    there = names.keys() if kind == "image" else _containers(session, kind, wanted)
    gone = [i for i in wanted if i not in there]
    if gone:
        raise not_there(kind, gone)
    own = set() if kind == "image" else own_images(session, sorted(names))
    return [ImageRef(str(i), names[i]) for i in sorted(names) if i not in own]


def own_images(session: Session, ids: Sequence[int]) -> set[int]:
    """Which of these images mxbridge made."""
    return {image for (image,) in rows_of(session, _OWN, ids, ns=DERIVED)}


def not_there(kind: str, ids: Sequence[int]) -> SourceError:
    """The error for ids that the server does not show."""
    shown = ", ".join(map(str, ids[:20])) + (", ..." if len(ids) > 20 else "")
    return SourceError(
        f"the server has no {kind} {shown}",
        hint="It may have been deleted, or be in a group that this account is not in",
    )


def pages(ids: Sequence[int], size: int = PAGE) -> Iterator[list[int]]:
    """Parts of a list of ids, none longer than ``size``."""
    for start in range(0, len(ids), size):
        yield list(ids[start : start + size])


def rows_of(session: Session, hql: str, ids: Iterable[int], **more: Any) -> Iterator[tuple[Any, ...]]:
    """What the server answers for these ``:ids``, each asked for once, in as many questions as that takes. more: its other
    parameters."""
    for page in pages(sorted(set(ids))):
        yield from session.rows(hql, ids=page, **more)


def _containers(session: Session, kind: str, ids: Sequence[int]) -> set[int]:
    hql = f"select o.id from {_CLASSES[kind]} o where o.id in (:ids)"  # noqa: S608 - the name is one of five above
    return {found for (found,) in rows_of(session, hql, ids)}
