"""What killed publications left, and what complete ones replaced: found again by its marks, and deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mxbridge.workspaces.omero.find import pages
from mxbridge.workspaces.omero.objects.roi_parts import edited_rois
from mxbridge.workspaces.omero.publishing.marker import LEFT_KINDS, Marker
from mxbridge.workspaces.omero.publishing.marks import DERIVED, OWN, PENDING, RESULT, own_path, pending_text

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

_PENDING = {
    "Image": "select o.id from Image o where o.description like :text and o.details.owner.id = :me",
    "Roi": "select o.id from Roi o where o.image is null and o.description like :text and o.details.owner.id = :me",
    "Annotation": "select o.id from Annotation o where o.ns = :ns and o.description like :text and o.details.owner.id = :me",
}
_FILES = "select f.id from OriginalFile f where f.path like :path and f.details.owner.id = :me"
_THERE = {kind: f"select o.id from {kind} o where o.id in (:ids)" for kind in LEFT_KINDS}  # noqa: S608 - fixed names


def sweep_pending(session: Session, image_id: int, group_id: int) -> None:
    """Delete what publications of this user on this image left that were never committed."""
    text = f"{pending_text(image_id)}%"
    found: dict[str, list[int]] = {}
    for kind, hql in _PENDING.items():
        more: dict[str, Any] = {"ns": PENDING} if kind == "Annotation" else {}
        found[kind] = [int(row[0]) for row in session.rows(hql, text=text, me=session.user_id, **more)]
    found["OriginalFile"] = [
        int(row[0]) for row in session.rows(_FILES, path=f"{own_path(image_id)}%", me=session.user_id)
    ]
    attached = _attached(session, found["OriginalFile"])
    pending = set(found["Annotation"])
    found["OriginalFile"] = [f for f in found["OriginalFile"] if attached.get(f, set()) <= pending]
    delete_all(session, found, group_id)


def delete_all(session: Session, left: Mapping[str, Iterable[int]], group_id: int) -> None:
    """Delete what is still there of these ids, by kind: deleting one thing may have taken others with it."""
    for kind in LEFT_KINDS:
        there = [
            int(row[0])
            for page in pages(sorted(set(left.get(kind, ()))))
            for row in session.rows(_THERE[kind], ids=page)
        ]
        if kind == "OriginalFile" and there:
            there = [f for f in there if not _attached(session, there).get(f)]
        for page in pages(there, 500):
            session.delete(kind, page, group_id)


def strays(session: Session, marker: Marker, known: Sequence[Marker]) -> dict[str, set[int]]:
    """Parts of the marker's results on its image that no marker tells of, because somebody has deleted the one that did: attached
    files and values of its task and model, ROIs and derived images of its result keys. ROIs that somebody has edited stay."""
    told: dict[str, set[int]] = {kind: set() for kind in LEFT_KINDS}
    for m in known:
        for kind, ids in m.everything().items():
            told[kind] |= ids
    attached = session.rows(
        "select a.id from ImageAnnotationLink l join l.child a where l.parent.id = :image and a.description like :text "
        "and a.ns <> :result and a.details.owner.id = :me",
        image=marker.image,
        text=f"{part_prefix(marker)}%",
        result=RESULT,
        me=session.user_id,
    )
    found = {"Annotation": {int(row[0]) for row in attached} - told["Annotation"]}
    rois = session.rows(
        "select r.id, r.description from Roi r where r.image.id = :image and r.description like :text "
        "and r.details.owner.id = :me",
        image=marker.image,
        text=f"{OWN}%",
        me=session.user_id,
    )
    loose = {int(i) for i, text in rois if _key_of(text) in marker.keys} - told["Roi"]
    found["Roi"] = loose - set(edited_rois(session, sorted(loose))) if loose else loose
    images = _derived_images(session, marker)
    found["Image"] = images - told["Image"]
    return {kind: ids for kind, ids in found.items() if ids}


def _derived_images(session: Session, marker: Marker) -> set[int]:
    """Images that say that they were derived from the marker's image under one of its result keys."""
    rows = session.rows(
        "select a.id from MapAnnotation a join a.mapValue mv where a.ns = :ns and mv.name = :name and mv.value = :image "
        "and a.details.owner.id = :me",
        ns=DERIVED,
        name="image",
        image=str(marker.image),
        me=session.user_id,
    )
    marks = {int(row[0]) for row in rows}
    keyed = (
        {
            int(row[0])
            for page in pages(sorted(marks))
            for row in session.rows(
                "select a.id from MapAnnotation a join a.mapValue mv where a.id in (:ids) and mv.name = :name "
                "and mv.value in (:keys)",
                ids=page,
                name="result key",
                keys=sorted(marker.keys),
            )
        }
        if marker.keys
        else set()
    )
    return {
        int(row[0])
        for page in pages(sorted(keyed))
        for row in session.rows("select l.parent.id from ImageAnnotationLink l where l.child.id in (:ids)", ids=page)
    }


def _key_of(description: str | None) -> str:
    return (description or "").removeprefix(OWN).partition(" ")[0]


def part_prefix(marker: Marker) -> str:
    """How the descriptions of a marker's attached parts begin."""
    return f"{OWN}{marker.task} {marker.model}: "


def finish_left(session: Session, marker: Marker, group_id: int) -> Marker | None:
    """Delete what a committed publication replaced; None when the marker itself is gone because it told of nothing more."""
    delete_all(session, marker.left, group_id)
    if not marker.keys and marker.id is not None:
        delete_all(session, {"Annotation": [marker.id]}, group_id)
        return None
    return replace(marker, left={})


def _attached(session: Session, files: Sequence[int]) -> dict[int, set[int]]:
    """Annotations by the file that they attach."""
    found: dict[int, set[int]] = {}
    for page in pages(files):
        for annotation, file in session.rows(
            "select a.id, f.id from FileAnnotation a join a.file f where f.id in (:ids)", ids=page
        ):
            found.setdefault(int(file), set()).add(int(annotation))
    return found
