"""From parts that are on the server unseen to the one commit that shows them, and the marker that tells of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mxbridge.errors import ChangedMeanwhile
from mxbridge.results import Results
from mxbridge.workspaces.omero.objects.roi_parts import edited_rois
from mxbridge.workspaces.omero.publishing import commit as committing
from mxbridge.workspaces.omero.publishing.commit import Commit, FileNote, MapNote
from mxbridge.workspaces.omero.publishing.content import merged_values
from mxbridge.workspaces.omero.publishing.homes import Home, make_one
from mxbridge.workspaces.omero.publishing.marker import (
    FilePart,
    ImagePart,
    KeyRecord,
    Marker,
    RoisPart,
    ValuesPart,
    read_markers,
)
from mxbridge.workspaces.omero.publishing.marks import CLIENT, DERIVED, OWN, REPLACED, RESULT, VALUES, derived_text
from mxbridge.workspaces.omero.publishing.parts import Parts
from mxbridge.workspaces.omero.publishing.peoples import bearing
from mxbridge.workspaces.omero.publishing.standing import values_now
from mxbridge.workspaces.omero.publishing.sweep import part_prefix, strays

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session


class Plan:
    """From parts to one commit and the marker that tells of it."""

    def __init__(
        self,
        session: Session,
        info: ImageInfo,
        before: Marker,
        keys: dict[str, KeyRecord],
        parts: Parts,
        results: Results,
    ) -> None:
        self._session, self._info, self._before, self._parts, self._results = session, info, before, parts, results
        self._keys = keys
        self._commit = Commit()
        self._left: dict[str, set[int]] = {}
        self._skipped: list[str] = []
        self.notes: list[str] = []

    def skip(self, what: str) -> None:
        self._skipped.append(what)
        self.notes.append(f"left out: {what}")

    def commit(
        self,
        token: str,
        earlier: Sequence[Marker],
        kept: Collection[str],
        may_annotate: bool,
        home: Home | None,
        told: dict[str, str],
    ) -> Marker:
        """Save everything at once; the marker as it is saved, with what is left to delete."""
        there = {f.slot: f for f in self._before.files}
        fresh = [f for f in self._parts.files if f.slot not in there or not self._is_there(there[f.slot])]
        values, value_keys = self._values(kept) if may_annotate else ({}, {})
        reuse_values = self._values_are_ours()
        new_maps = len(self._parts.images) + (bool(values) and not reuse_values) + (self._before.id is None)
        first = [] if self._parts.sentinel is None else [self._parts.sentinel]
        more = max(0, new_maps - len(first))
        made = committing.pending_annotations(self._session, self._info, token, [f.file for f in fresh], more)
        ids = dict(zip((f.slot for f in fresh), made, strict=False))
        maps = iter([*first, *made[len(fresh) :]])
        if not new_maps:
            self._leave("Annotation", first)
        files = self._files({**{s: f.annotation for s, f in there.items()}, **ids}, kept)
        rois = self._rois(kept)
        images = self._images(maps, kept)
        values_part = self._value_part(values, value_keys, reuse_values, maps)
        marker = replace(
            self._before,
            keys=self._keys,
            files=files,
            values=values_part,
            rois=rois,
            images=images,
            skipped=tuple(self._skipped),
            told={**self._before.told, **told},
            linked=may_annotate,
            published=datetime.now(UTC).isoformat(timespec="seconds"),
            id=self._before.id if self._before.id is not None else next(maps),
        )
        known = [m for m in earlier if m.id != marker.id]
        others = read_markers(self._session, self._info.id)
        marker = marker.leaving(self._left).leaving(strays(self._session, marker, [marker, *earlier, *others]))
        marker = marker.leaving({"Annotation": [m.id for m in known if m.id is not None]})
        marker = marker.sparing("Roi", self._commit.handed_over)
        marker = marker.sparing("Annotation", {n for n, ns in self._commit.renamed.items() if ns == CLIENT})
        on = ((self._info.id,) if may_annotate else ()) + tuple(i.image for i in images)
        self._commit.maps.append(
            MapNote(marker.id or 0, RESULT, marker.rows(), marker.to_json(), on if marker.keys else ())
        )
        self._commit.renamed |= {m.id: REPLACED for m in known if m.id is not None}
        self._refuse_changed(earlier)
        committing.run(self._session, self._info, self._commit, home)
        if home is not None and home.id is None:
            make_one(self._session, home, self._info.group_id)
        return marker

    def _refuse_changed(self, earlier: Sequence[Marker]) -> None:
        """Raise ChangedMeanwhile when another publication of this user has committed since the markers were read."""
        now = [m for m in read_markers(self._session, self._info.id) if self._concerns(m)]
        if sorted(now, key=_number) != sorted(earlier, key=_number):
            raise ChangedMeanwhile(
                f"{self._info}: another run has just published on it", hint="Run the same command again"
            )

    def _concerns(self, marker: Marker) -> bool:
        same = (marker.task, marker.model) == (self._before.task, self._before.model)
        return same or bool(marker.keys.keys() & (self._before.keys.keys() | self._keys.keys()))

    def _is_there(self, part: FilePart) -> bool:
        return bool(self._session.rows("select a.id from FileAnnotation a where a.id = :id", id=part.annotation))

    def _files(self, annotations: dict[str, int], kept: Collection[str]) -> tuple[FilePart, ...]:
        """New files in the annotations of their slots; earlier ones stay whose results all stay, the others go."""
        new = {f.slot: f for f in self._parts.files}
        prefix = part_prefix(self._before)
        for slot, file in new.items():
            text = f"{prefix}{file.name}; result keys {' '.join(file.keys)}"
            self._commit.files.append(FileNote(annotations[slot], file.ns, file.file, text))
        stay = []
        for part in self._before.files:
            if part.slot in new:
                self._leave("OriginalFile", [part.file])
            elif set(part.keys) <= set(kept):
                stay.append(part)
            else:
                self._leave("Annotation", [part.annotation])
                self._leave("OriginalFile", [part.file])
        return (*stay, *(FilePart.of(f, annotations[f.slot]) for f in new.values()))

    def _values(self, kept: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
        before = self._before.values
        return merged_values(self._results, before.values if before else {}, before.keys if before else {}, kept)

    def _values_are_ours(self) -> bool:
        """Whether earlier key-values are there and as we wrote them; edited ones become their editor's."""
        part = self._before.values
        now = "gone" if part is None else values_now(self._session, part)
        if part is not None and now == "edited":
            self._commit.renamed[part.annotation] = CLIENT
            self.notes.append(
                f"{self._info}: somebody has edited its key-values; they stay, and are theirs from now on"
            )
        return now == "ours"

    def _value_part(
        self, values: dict[str, str], keys: dict[str, str], reuse: bool, maps: Iterable[int]
    ) -> ValuesPart | None:
        before = self._before.values
        if not values:
            if before is not None and reuse:
                self._leave("Annotation", [before.annotation])
            return None
        number = before.annotation if before is not None and reuse else next(iter(maps))
        text = f"{part_prefix(self._before)}values; result keys {' '.join(dict.fromkeys(keys.values()))}"
        self._commit.maps.append(MapNote(number, VALUES, list(values.items()), text, (self._info.id,)))
        return ValuesPart(number, values, keys)

    def _rois(self, kept: Collection[str]) -> tuple[RoisPart, ...]:
        stay = [part for part in self._before.rois if part.key in kept]
        going = [roi for part in self._before.rois if part.key not in kept for roi in part.ids]
        going += self._before.left.get("Roi", ())
        edited = edited_rois(self._session, going) if going else []
        if edited:
            self.notes.append(
                f"{self._info}: {len(edited)} ROIs that somebody has edited stay, and are theirs from now on"
            )
        self._commit.handed_over += edited
        self._commit.rois_off += [roi for roi in going if roi not in set(edited)]
        self._leave("Roi", self._commit.rois_off)
        for made in self._parts.rois:
            self._commit.rois |= {i: f"{OWN}{made.key} {h}" for i, h in zip(made.ids, made.hashes, strict=True)}
        return (*stay, *(RoisPart(made.key, made.ids) for made in self._parts.rois))

    def _images(self, maps: Iterable[int], kept: Collection[str]) -> tuple[ImagePart, ...]:
        """New derived images in the places of those they replace."""
        numbers = iter(maps)
        stay = [part for part in self._before.images if part.key in kept]
        going = {(part.key, part.file): part for part in self._before.images if part.key not in kept}
        going = self._without_peoples(going)
        made = []
        for new in self._parts.images:
            mark, old = next(numbers), going.get((new.key, new.file))
            rows = [*self._mark_rows(), ("channels", ", ".join(new.channels)), ("result key", new.key)]
            text = derived_text(self._info.id, new.image, new.key)
            self._commit.maps.append(MapNote(mark, DERIVED, rows, text, (new.image,)))
            self._commit.images[new.image] = new.description
            self._commit.places.append((new.image, old.image if old else None))
            made.append(ImagePart(new.key, new.file, new.image, mark))
        self._leave("Image", [part.image for part in going.values()])
        self._leave("Annotation", [part.mark for part in going.values()])
        return (*stay, *made)

    def _without_peoples(self, going: dict[tuple[str, str], ImagePart]) -> dict[tuple[str, str], ImagePart]:
        """Derived images that may go. One that people have added something to stays where it is and is theirs; its mark keeps it
        from being an input."""
        kept = set(bearing(self._session, [part.image for part in going.values()]))
        for part in going.values():
            if part.image in kept:
                self._commit.maps.append(
                    MapNote(part.mark, DERIVED, [*self._mark_rows(), ("kept", "replaced since")], "")
                )
                self.notes.append(
                    f"{self._info}: the earlier derived image {part.image} stays, because somebody has added annotations or "
                    "ROIs to it; it is theirs from now on"
                )
        return {place: part for place, part in going.items() if part.image not in kept}

    def _mark_rows(self) -> list[tuple[str, str]]:
        about = [("image", str(self._info.id)), ("name", self._info.name)]
        return [*about, ("task", self._before.task), ("model", self._before.model)]

    def _leave(self, kind: str, ids: Iterable[int]) -> None:
        self._left.setdefault(kind, set()).update(ids)


def _number(marker: Marker) -> int:
    return marker.id or 0
