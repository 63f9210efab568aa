"""Whose is what: what mxbridge made and may delete, and what people have added to it since and want to keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mxbridge.workspaces.omero.find import own_images, rows_of
from mxbridge.workspaces.omero.publishing.marks import (
    BULK,
    LABELS,
    OWN,
    OWN_NAMESPACES,
    TABLE,
    VALUES,
    own_path,
    pending_text,
)

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

_DESCRIBED = {
    "Image": "select o.id, o.description, o.name from Image o where o.id in (:ids) and o.details.owner.id = :me",
    "Roi": "select o.id, o.description, o.name from Roi o where o.id in (:ids) and o.details.owner.id = :me",
    "Annotation": "select o.id, o.ns, o.description from Annotation o where o.id in (:ids) and o.details.owner.id = :me",
    "OriginalFile": "select o.id, o.path, o.name from OriginalFile o where o.id in (:ids) and o.details.owner.id = :me",
}

SHAREABLE = (TABLE, LABELS, BULK, VALUES)
"""Namespaces of our annotations that people may link to other things. The others are on several images by design."""

_ELSEWHERE = (
    "select l.child.id from ImageAnnotationLink l join l.child a where a.id in (:ids) and a.ns in (:shareable) and l.parent.id <> :image",
    "select l.child.id from DatasetAnnotationLink l join l.child a where a.id in (:ids) and a.ns in (:shareable)",
    "select l.child.id from ProjectAnnotationLink l join l.child a where a.id in (:ids) and a.ns in (:shareable)",
)
_ADDED = (
    "select l.parent.id, a.ns from ImageAnnotationLink l join l.child a where l.parent.id in (:ids)",
    "select r.image.id, r.description from Roi r where r.image.id in (:ids)",
)
_OF_IMPORTS = "openmicroscopy.org/omero/import"
"""Namespaces of what an import attaches to an image."""


def ours(session: Session, kind: str, ids: Iterable[int], image_id: int) -> list[int]:
    """Those of these ids that are there and that this user's mxbridge has made for this image, as they say themselves."""
    wanted = sorted(set(ids))
    rows = list(rows_of(session, _DESCRIBED[kind], wanted, me=session.user_id))
    if kind == "Image":
        marked = own_images(session, wanted)
        return [int(i) for i, text, _ in rows if i in marked or _begins(text, pending_text(image_id))]
    if kind == "Roi":
        return [int(i) for i, text, _ in rows if _begins(text, OWN)]
    if kind == "OriginalFile":
        return [int(i) for i, *told in rows if any(_begins(t, own_path(image_id)) for t in told)]
    return [int(i) for i, ns, text in rows if _begins(ns, OWN_NAMESPACES) or (ns == BULK and _begins(text, OWN))]


def linked_elsewhere(session: Session, annotations: Sequence[int], image_id: int) -> set[int]:
    """Tables, labels and values of ours that somebody has linked to another image, a dataset or a project too."""
    return {
        int(row[0])
        for hql in _ELSEWHERE
        for row in rows_of(
            session, hql, annotations, shareable=SHAREABLE, **({"image": image_id} if ":image" in hql else {})
        )
    }


def bearing(session: Session, images: Sequence[int]) -> list[int]:
    """Those of our derived images that bear annotations or ROIs of people: comments, tags, ratings, files, outlines."""
    found: set[int] = set()
    for hql in _ADDED:
        for image, told in rows_of(session, hql, images):
            if not any(_begins(told, start) for start in (OWN_NAMESPACES, OWN, _OF_IMPORTS)):
                found.add(int(image))
    return sorted(found)


def _begins(text: Any, start: str) -> bool:
    return str(text or "").lstrip("/").startswith(start)
