"""The one moment at which a publication becomes visible: a single IUpdate.saveArray.

It links the new parts, puts new files and values in the place of earlier ones (annotations stay, what they hold changes), moves
links from replaced derived images to the new ones, takes replaced ROIs off the image and rewrites the marker. Whoever looks
sees the state before or the state after. What was replaced is listed in the marker as left to delete.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mxbridge.errors import ChangedMeanwhile
from mxbridge.workspaces.omero.find import pages, rows_of
from mxbridge.workspaces.omero.objects.roi_parts import rois_to_link
from mxbridge.workspaces.omero.publishing.homes import Home, new_dataset
from mxbridge.workspaces.omero.publishing.marks import PENDING, pending_text

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session


@dataclass(frozen=True)
class MapNote:
    """Key-values as they are to be. id: of the annotation, which exists already. on: images to which it is linked."""

    id: int
    ns: str
    rows: Sequence[tuple[str, str]]
    description: str
    on: tuple[int, ...] = ()


@dataclass(frozen=True)
class FileNote:
    """An attachment as it is to be."""

    id: int
    ns: str
    file: int
    description: str


@dataclass
class Commit:
    """What the transaction does. places: (new image, the image whose place it takes or None). rois: descriptions by id.

    handed_over: ROIs that somebody has edited, and from now on theirs. renamed: annotations that only get another namespace.
    """

    maps: list[MapNote] = field(default_factory=list)
    files: list[FileNote] = field(default_factory=list)
    rois: dict[int, str] = field(default_factory=dict)
    rois_off: list[int] = field(default_factory=list)
    handed_over: list[int] = field(default_factory=list)
    places: list[tuple[int, int | None]] = field(default_factory=list)
    images: dict[int, str] = field(default_factory=dict)
    renamed: dict[int, str] = field(default_factory=dict)


def pending_annotations(session: Session, info: ImageInfo, token: str, files: Sequence[int], maps: int) -> list[int]:
    """Annotations that are linked to nothing yet: one per file, then so many of key-values. Their ids."""
    from omero.model import FileAnnotationI, MapAnnotationI, OriginalFileI
    from omero.rtypes import rstring

    made: list[Any] = []
    for file in files:
        attached = FileAnnotationI()
        attached.setFile(OriginalFileI(file, False))
        made.append(attached)
    made += [MapAnnotationI() for _ in range(maps)]
    for annotation in made:
        annotation.setNs(rstring(PENDING))
        annotation.setDescription(rstring(pending_text(info.id, token)))
    ids = session.save(made[: len(files)], info.group_id)
    return ids + session.save(made[len(files) :], info.group_id)


def run(session: Session, info: ImageInfo, commit: Commit, home: Home | None) -> None:
    """Load what changes, change it, and save all of it at once. Raises ChangedMeanwhile when something of it is gone."""
    from omero.model import FileAnnotationI, ImageAnnotationLinkI, ImageI, MapAnnotationI, NamedValue, OriginalFileI
    from omero.rtypes import rstring

    wanted: list[MapNote | FileNote] = [*commit.files, *commit.maps]
    annotations = _loaded(session, "Annotation", [*(n.id for n in wanted), *commit.renamed], info)
    saved: list[Any] = list(annotations.values())
    for note in wanted:
        annotation = annotations[note.id]
        annotation.setNs(rstring(note.ns))
        annotation.setDescription(rstring(note.description))
        if isinstance(note, FileNote):
            annotation.setFile(OriginalFileI(note.file, False))
        else:
            annotation.setMapValue([NamedValue(name, text) for name, text in note.rows])
    for number, ns in commit.renamed.items():
        annotations[number].setNs(rstring(ns))
        annotations[number].setDescription(rstring(""))
    pairs = [(info.id, note.id) for note in commit.files] + [(i, note.id) for note in commit.maps for i in note.on]
    classes = {note.id: FileAnnotationI if isinstance(note, FileNote) else MapAnnotationI for note in wanted}
    for image, number in _not_linked(session, pairs):
        link = ImageAnnotationLinkI()
        link.setParent(ImageI(image, False))
        link.setChild(classes[number](number, False))
        saved.append(link)
    saved += _images(session, info, commit, home)
    saved += rois_to_link(session, commit.rois, info.id)
    saved += _rois_that_go(session, info, commit)
    session.save_all(saved, info.group_id)


def _images(session: Session, info: ImageInfo, commit: Commit, home: Home | None) -> list[Any]:
    """New derived images with what they are called, and their links to datasets."""
    from omero.model import DatasetI, DatasetImageLinkI, ImageI
    from omero.rtypes import rstring

    images = _loaded(session, "Image", list(commit.images), info)
    for number, description in commit.images.items():
        images[number].setDescription(rstring(description))
    saved: list[Any] = list(images.values())
    replaced = [old for _, old in commit.places if old is not None]
    links: dict[int, list[Any]] = {}
    for page in pages(replaced):
        for link in session.objects("select l from DatasetImageLink l where l.child.id in (:ids)", ids=page):
            links.setdefault(int(link.getChild().getId().getValue()), []).append(link)
    homeless = []
    for new, old in commit.places:
        there = links.get(old, []) if old is not None else []
        for link in there:
            link.setChild(ImageI(new, False))
            saved.append(link)
        if not there:
            homeless.append(new)
    if homeless and home is not None and home.id is None:
        saved.append(new_dataset(home, homeless))
    elif home is not None and home.id is not None:
        for new in homeless:
            link = DatasetImageLinkI()
            link.setParent(DatasetI(home.id, False))
            link.setChild(ImageI(new, False))
            saved.append(link)
    return saved


def _rois_that_go(session: Session, info: ImageInfo, commit: Commit) -> list[Any]:
    """Replaced ROIs without their image; those that somebody has edited stay and lose our mark."""
    from omero.rtypes import rstring

    saved = []
    there = _loaded(session, "Roi", [*commit.rois_off, *commit.handed_over], info, gone_is_fine=True)
    for number, roi in there.items():
        roi.unloadShapes()
        if number in commit.handed_over:
            roi.setDescription(rstring("made by mxbridge, edited since"))
        else:
            roi.setImage(None)
        saved.append(roi)
    return saved


def _loaded(
    session: Session, kind: str, ids: Sequence[int], info: ImageInfo, *, gone_is_fine: bool = False
) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for page in pages(list(dict.fromkeys(ids))):
        hql = f"select o from {kind} o where o.id in (:ids)"  # noqa: S608 - one of three names
        found.update({int(o.getId().getValue()): o for o in session.objects(hql, ids=page)})
    if len(found) < len(set(ids)) and not gone_is_fine:
        raise ChangedMeanwhile(
            f"{info}: somebody has deleted what is just being published", hint="Run the same command again"
        )
    return found


def _not_linked(session: Session, pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of (image, annotation) those that have no link yet."""
    wanted = list(dict.fromkeys(pairs))
    hql = "select l.parent.id, l.child.id from ImageAnnotationLink l where l.child.id in (:ids)"
    rows = rows_of(session, hql, (annotation for _, annotation in wanted))
    there = {(int(image), int(annotation)) for image, annotation in rows}
    return [pair for pair in wanted if pair not in there]
