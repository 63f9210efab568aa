"""What killed publications left, and what complete ones replaced: found again by its marks, and deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mxbridge.errors import OutputError
from mxbridge.workspaces.omero.find import pages, rows_of
from mxbridge.workspaces.omero.objects.roi_parts import edited_rois
from mxbridge.workspaces.omero.publishing.marker import LEFT_KINDS, Marker
from mxbridge.workspaces.omero.publishing.marks import (
    DERIVED,
    OWN,
    PENDING,
    RESULT,
    derived_prefix,
    own_path,
    pending_text,
)
from mxbridge.workspaces.omero.publishing.peoples import bearing, linked_elsewhere, ours

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

_PENDING = {
    "Image": "select o.id from Image o where o.description like :text and o.details.owner.id = :me",
    "Roi": "select o.id from Roi o where o.image is null and o.description like :text and o.details.owner.id = :me",
    "Annotation": "select o.id from Annotation o where o.ns = :ns and o.description like :text and o.details.owner.id = :me",
}
_FILES = "select f.id from OriginalFile f where f.path like :path and f.details.owner.id = :me"
_PEOPLES = ("TagAnnotation", "TermAnnotation", "FileAnnotation")
"""What people attach stays on the server when what it was attached to goes."""


def sweep_pending(session: Session, image_id: int, group_id: int, token: str = "") -> None:
    """Delete what publications of this user on this image left that were never committed. token: only what that one left."""
    text = f"{pending_text(image_id, token)}%"
    found: dict[str, list[int]] = {}
    for kind, hql in _PENDING.items():
        more: dict[str, Any] = {"ns": PENDING} if kind == "Annotation" else {}
        found[kind] = [int(row[0]) for row in session.rows(hql, text=text, me=session.user_id, **more)]
    found["OriginalFile"] = [
        int(row[0]) for row in session.rows(_FILES, path=f"{own_path(image_id, token)}%", me=session.user_id)
    ]
    attached = _attached(session, found["OriginalFile"])
    pending = set(found["Annotation"])
    found["OriginalFile"] = [f for f in found["OriginalFile"] if attached.get(f, set()) <= pending]
    # annotations first: by their end, who still sends the rest knows
    delete_all(session, {"Annotation": found.pop("Annotation")}, image_id, group_id)
    delete_all(session, found, image_id, group_id)


def delete_all(session: Session, left: Mapping[str, Iterable[int]], image_id: int, group_id: int) -> None:
    """Delete what is still there of these ids, by kind: deleting one thing may have taken others with it.

    Only what this user's mxbridge has made for this image goes, whatever a marker says (who may write in the group can change
    one). An annotation of ours that somebody has linked to something else as well only leaves this image.
    """
    for kind in LEFT_KINDS:
        there = ours(session, kind, left.get(kind, ()), image_id)
        if kind == "Image" and there:
            kept = set(bearing(session, there))
            there = [i for i in there if i not in kept]
        if kind == "OriginalFile" and there:
            attached = _attached(session, there)
            there = [f for f in there if not attached.get(f)]
        if kind == "Annotation" and there:
            shared = linked_elsewhere(session, there, image_id)
            there = [a for a in there if a not in shared]
            _unlink(session, shared, image_id, group_id)
        for page in pages(there, 500):
            _delete(session, kind, page, image_id, group_id)


def _delete(session: Session, kind: str, ids: Sequence[int], image_id: int, group_id: int) -> None:
    """Delete these; what another publication deletes at the same moment is no error."""
    while ids:
        try:
            session.delete(kind, ids, group_id, keep=_PEOPLES if kind in ("Image", "Roi") else ())
            return
        except OutputError:
            left = ours(session, kind, ids, image_id)
            if len(left) == len(ids):
                raise
            ids = left


def _unlink(session: Session, annotations: Iterable[int], image_id: int, group_id: int) -> None:
    hql = (
        "select l.id from ImageAnnotationLink l where l.child.id in (:ids) and l.parent.id = :image "
        "and l.details.owner.id = :me"
    )
    rows = rows_of(session, hql, annotations, image=image_id, me=session.user_id)
    links = [int(row[0]) for row in rows]
    session.delete("ImageAnnotationLink", links, group_id, keep=("Annotation",))


def strays(session: Session, marker: Marker, known: Sequence[Marker]) -> dict[str, set[int]]:
    """Parts of the marker's results on its image that no marker tells of, because somebody has deleted the one that did: attached
    files and values of its task and model, ROIs and derived images of its result keys. ROIs that somebody has edited stay, and
    what is linked to other images too.

    known: all markers of the image, for what they tell of is not stray.
    """
    told: dict[str, set[int]] = {kind: set() for kind in LEFT_KINDS}
    for m in known:
        for kind, ids in m.everything().items():
            told[kind] |= ids
    attached = session.rows(
        "select a.id, a.description from ImageAnnotationLink l join l.child a where l.parent.id = :image "
        "and a.description like :text "
        "and a.ns <> :result and a.details.owner.id = :me",
        image=marker.image,
        text=f"{OWN}%",
        result=RESULT,
        me=session.user_id,
    )
    prefix = part_prefix(marker)  # names may hold what `like` takes for any letter
    loose = {int(a) for a, text in attached if (text or "").startswith(prefix)} - told["Annotation"]
    found = {"Annotation": loose - linked_elsewhere(session, sorted(loose), marker.image)}
    rois = session.rows(
        "select r.id, r.description from Roi r where r.image.id = :image and r.description like :text "
        "and r.details.owner.id = :me",
        image=marker.image,
        text=f"{OWN}%",
        me=session.user_id,
    )
    loose = {int(i) for i, text in rois if _key_of(text) in marker.keys} - told["Roi"]
    found["Roi"] = loose - set(edited_rois(session, sorted(loose))) if loose else loose
    images = _derived_images(session, marker) - told["Image"]
    found["Image"] = images - set(bearing(session, sorted(images)))
    return {kind: ids for kind, ids in found.items() if ids}


def _derived_images(session: Session, marker: Marker) -> set[int]:
    """Images whose marks say that they were derived from the marker's image under one of its result keys."""
    prefix = derived_prefix(marker.image)
    rows = session.rows(
        "select l.parent.id, a.description from ImageAnnotationLink l join l.child a where a.ns = :ns "
        "and a.description like :text and a.details.owner.id = :me",
        ns=DERIVED,
        text=f"{prefix}%",
        me=session.user_id,
    )
    told = ((int(image), (text or "").removeprefix(prefix).partition(":")) for image, text in rows)
    return {image for image, (number, _, key) in told if number == str(image) and key in marker.keys}


def _key_of(description: str | None) -> str:
    return (description or "").removeprefix(OWN).partition(" ")[0]


def part_prefix(marker: Marker) -> str:
    """How the descriptions of a marker's attached parts begin."""
    return f"{OWN}of image {marker.image}: {marker.task} {marker.model}: "


def finish_left(session: Session, marker: Marker, group_id: int) -> Marker | None:
    """Delete what a committed publication replaced; None when the marker itself is gone because it told of nothing more."""
    delete_all(session, marker.left, marker.image, group_id)
    if not marker.keys and marker.id is not None:
        delete_all(session, {"Annotation": [marker.id]}, marker.image, group_id)
        return None
    return replace(marker, left={})


def _attached(session: Session, files: Sequence[int]) -> dict[int, set[int]]:
    """Annotations by the file that they attach."""
    found: dict[int, set[int]] = {}
    hql = "select a.id, f.id from FileAnnotation a join a.file f where f.id in (:ids)"
    for annotation, file in rows_of(session, hql, files):
        found.setdefault(int(file), set()).add(int(annotation))
    return found
