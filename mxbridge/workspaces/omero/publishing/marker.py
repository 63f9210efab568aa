"""The marker: a MapAnnotation that says what mxbridge has published on an image, for people and for the next publication.

There is one per image, user, task and model. Its key-values are for people; the record of all parts is JSON in its
description. It is changed in the same transaction that links the parts, so it never tells of half a publication.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mxbridge.errors import OutputError
from mxbridge.workspaces.omero.publishing.marks import RESULT

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

FORMAT = 1
LEFT_KINDS = ("Image", "Roi", "Annotation", "OriginalFile")
"""What may be left to delete, in the order in which it goes."""


@dataclass(frozen=True)
class KeyRecord:
    """One result key. digest: of what was published under it and how; run_id, fingerprint: of the work that made it."""

    digest: str
    fingerprint: str
    run_id: str


@dataclass(frozen=True)
class NewFile:
    """A file that is to be attached. slot: what it is in its marker (a rerun puts its own in the same place). columns: result
    keys by column, empty where the whole belongs to ``keys``. check: ``rows:N`` of a table, empty for other files, which were
    compared when they were sent."""

    slot: str
    file: int
    ns: str
    name: str
    check: str
    keys: tuple[str, ...]
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FilePart(NewFile):
    """An attached file. annotation: by which it is attached."""

    annotation: int

    @classmethod
    def of(cls, file: NewFile, annotation: int) -> FilePart:
        return cls(**vars(file), annotation=annotation)


@dataclass(frozen=True)
class ValuesPart:
    """Key-values of the image. values: text by name; keys: result key by name."""

    annotation: int
    values: dict[str, str]
    keys: dict[str, str]


@dataclass(frozen=True)
class RoisPart:
    """ROIs of one result key. What each was when it was made stands, as a hash, in its description."""

    key: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class ImagePart:
    """A derived image. file: its name in the run folder. mark: the annotation that says that it is ours."""

    key: str
    file: str
    image: int
    mark: int


@dataclass(frozen=True)
class Marker:
    """Everything of one publication. id: None before it is saved. told: what else the provenance says of the model. left: what
    is to be deleted, ids by kind. skipped: what the user's rights did not allow; linked: whether the marker is on the source
    image, which needs such rights."""

    image: int
    task: str
    model: str
    keys: dict[str, KeyRecord] = field(default_factory=dict)
    files: tuple[FilePart, ...] = ()
    values: ValuesPart | None = None
    rois: tuple[RoisPart, ...] = ()
    images: tuple[ImagePart, ...] = ()
    skipped: tuple[str, ...] = ()
    told: dict[str, str] = field(default_factory=dict)
    left: dict[str, tuple[int, ...]] = field(default_factory=dict)
    linked: bool = True
    published: str = ""
    id: int | None = None

    def to_json(self) -> str:
        document = {"mxbridge": FORMAT, **{k: v for k, v in asdict(self).items() if k != "id"}}
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, annotation_id: int) -> Marker:
        """Raises ValueError, LookupError, TypeError, AttributeError on anything that :meth:`to_json` does not give."""
        document = json.loads(text)
        if document.pop("mxbridge") != FORMAT:
            raise ValueError("made by another version")
        values = document.pop("values")
        return cls(
            image=int(document.pop("image")),
            keys={_text(k): KeyRecord(**_texts(v)) for k, v in document.pop("keys").items()},
            files=tuple(_file(f) for f in document.pop("files")),
            values=None
            if values is None
            else ValuesPart(int(values["annotation"]), _texts(values["values"]), _texts(values["keys"])),
            rois=tuple(RoisPart(_text(r["key"]), _ints(r["ids"])) for r in document.pop("rois")),
            images=tuple(
                ImagePart(_text(i["key"]), _text(i["file"]), int(i["image"]), int(i["mark"]))
                for i in document.pop("images")
            ),
            skipped=tuple(_text(what) for what in document.pop("skipped")),
            told=_texts(document.pop("told")),
            left={kind: _ints(ids) for kind, ids in document.pop("left").items() if kind in LEFT_KINDS},
            linked=bool(document.pop("linked")),
            id=annotation_id,
            **_texts(document),
        )

    def rows(self) -> list[tuple[str, str]]:
        """Key-values for people, and for queries by image and result key."""
        runs = dict.fromkeys(record.run_id for record in self.keys.values())
        rows = [("image", str(self.image)), ("task", self.task), ("model", self.model)]
        rows += [(name, text) for name, text in self.told.items() if text]
        rows += [("run", run) for run in runs if run] + [("published", self.published)]
        rows += [("result key", key) for key in self.keys]
        rows += [("fingerprint", f) for f in dict.fromkeys(r.fingerprint for r in self.keys.values()) if f]
        return rows + [("left out", what) for what in self.skipped]

    def leaving(self, more: Mapping[str, Iterable[int]]) -> Marker:
        """With more things to delete."""
        left = {kind: {*self.left.get(kind, ()), *more.get(kind, ())} for kind in LEFT_KINDS}
        return replace(self, left={kind: tuple(sorted(ids)) for kind, ids in left.items() if ids})

    def sparing(self, kind: str, ids: Iterable[int]) -> Marker:
        """Without these things to delete."""
        rest = tuple(i for i in self.left.get(kind, ()) if i not in set(ids))
        left = {**self.left, kind: rest}
        return replace(self, left={k: v for k, v in left.items() if v})

    def everything(self) -> dict[str, set[int]]:
        """Ids of all parts by kind, the marker itself left out."""
        values = () if self.values is None else (self.values.annotation,)
        return {
            "Image": {i.image for i in self.images},
            "Roi": {roi for part in self.rois for roi in part.ids},
            "Annotation": {*values, *(f.annotation for f in self.files), *(i.mark for i in self.images)},
            "OriginalFile": {f.file for f in self.files},
        }


def read_markers(session: Session, image_id: int) -> list[Marker]:
    """What the session's user has published on an image, in the order of the annotations. Raises OutputError for a damaged one."""
    rows = session.rows(
        "select a.id, a.description from MapAnnotation a join a.mapValue mv where a.ns = :ns and mv.name = :name "
        "and mv.value = :image and a.details.owner.id = :me",
        ns=RESULT,
        name="image",
        image=str(image_id),
        me=session.user_id,
    )
    found = []
    for annotation, text in sorted(dict(rows).items()):
        try:
            marker = Marker.from_json(text or "", annotation)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise OutputError(
                f"image {image_id}: mxbridge's record of what it published there (annotation {annotation}) is damaged "
                f"({error})",
                hint="Delete that annotation; what it told of then stays on the server as if it were yours",
            ) from error
        if marker.image == image_id:
            found.append(marker)
    return found


def _file(told: Mapping[str, Any]) -> FilePart:
    return FilePart(
        slot=_text(told["slot"]),
        annotation=int(told["annotation"]),
        file=int(told["file"]),
        ns=_text(told["ns"]),
        name=_text(told["name"]),
        check=_text(told["check"]),
        keys=tuple(_text(key) for key in told["keys"]),
        columns=_texts(told["columns"]),
    )


def _ints(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in values.items()}
