"""Whether what a marker tells of still stands on the server, and whether somebody has edited it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from mxbridge.workspaces.omero.find import rows_of
from mxbridge.workspaces.omero.publishing.marker import Marker, ValuesPart

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session

_ON_IMAGE = "select l.child.id from ImageAnnotationLink l where l.parent.id = :image and l.child.id in (:ids)"
_FILES = "select a.id, f.id from FileAnnotation a join a.file f where a.id in (:ids)"
_ROIS = "select r.id from Roi r where r.image.id = :image and r.id in (:ids)"
_PLACES = "select l.child.id from DatasetImageLink l where l.child.id in (:ids)"
_MARKED = "select l.child.id from ImageAnnotationLink l where l.child.id in (:ids)"


def is_whole(session: Session, marker: Marker, info: ImageInfo) -> bool:
    """Whether every part is where it was put and is what it was, nothing is left to delete, and nothing that was left out for want
    of rights could be published now."""
    if marker.left or marker.id is None or marker.linked != info.can_annotate:
        return False
    values = () if marker.values is None else (marker.values.annotation,)
    attached = {*values, *(f.annotation for f in marker.files)} | ({marker.id} if marker.linked else set())
    if not _all(session, _ON_IMAGE, attached, image=info.id):
        return False
    if _attached(session, marker) != {f.annotation: f.file for f in marker.files}:
        return False
    if marker.values is not None and values_now(session, marker.values) != "ours":
        return False
    rois = {roi for part in marker.rois for roi in part.ids}
    return (
        _all(session, _ROIS, rois, image=info.id)
        and _all(session, _PLACES, {i.image for i in marker.images})
        and _all(session, _MARKED, {i.mark for i in marker.images})
    )


def pruned(session: Session, marker: Marker, info: ImageInfo) -> Marker:
    """The marker without parts that somebody has deleted or taken off the image; their result keys count as lost, so that whoever
    publishes those again puts the parts back, while other results of the marker can be whole."""
    on_image = _found(session, _ON_IMAGE, [f.annotation for f in marker.files], image=info.id)
    files = _attached(session, marker)
    there = [f for f in marker.files if f.annotation in on_image and files.get(f.annotation) == f.file]
    loose = [f for f in marker.files if f not in there and files.get(f.annotation) == f.file]
    rois = _found(session, _ROIS, [roi for part in marker.rois for roi in part.ids], image=info.id)
    shown = _found(session, _PLACES, [i.image for i in marker.images])
    marked = _found(session, _MARKED, [i.mark for i in marker.images])
    images = [i for i in marker.images if i.image in shown and i.mark in marked]
    lost = {key for f in marker.files if f not in there for key in f.keys}
    lost |= {part.key for part in marker.rois if not rois.issuperset(part.ids)}
    lost |= {i.key for i in marker.images if i not in images}
    return replace(
        marker,
        keys={k: replace(r, digest="") if k in lost else r for k, r in marker.keys.items()},
        files=tuple(there),
        rois=tuple(replace(part, ids=tuple(i for i in part.ids if i in rois)) for part in marker.rois),
        images=tuple(images),
    ).leaving({"Annotation": [f.annotation for f in loose], "OriginalFile": [f.file for f in loose]})


def values_now(session: Session, part: ValuesPart) -> Literal["ours", "edited", "gone"]:
    """What has become of our key-values."""
    found = session.objects("select a from MapAnnotation a where a.id = :id", id=part.annotation)
    if not found:
        return "gone"
    now = [(pair.name, pair.value) for pair in found[0].getMapValue() or [] if pair is not None]
    return "ours" if now == list(part.values.items()) else "edited"


def _attached(session: Session, marker: Marker) -> dict[int, int]:
    """Files by annotation, as they are now."""
    return {int(a): int(f) for a, f in rows_of(session, _FILES, [f.annotation for f in marker.files])}


def _all(session: Session, hql: str, ids: Iterable[int], **more: int) -> bool:
    """Whether the query finds every one of ``ids``."""
    return _found(session, hql, ids, **more) >= set(ids)


def _found(session: Session, hql: str, ids: Iterable[int], **more: int) -> set[int]:
    return {int(row[0]) for row in rows_of(session, hql, ids, **more)}
