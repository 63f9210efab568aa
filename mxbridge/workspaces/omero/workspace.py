"""Images of an OMERO server as a workspace: metadata, pixels and cells in, derived images, tables and objects back.

Sessions are opened when something is asked of the server and closed while models compute. Pixels are fetched into a local
cache when they are first read, or read in place from a mounted repository. Results are published in one transaction per image
(see :mod:`~mxbridge.workspaces.omero.publishing.publication`).

All this was seen against the project's own test server, which speaks OMERO's protocol, and not against a real OMERO.server;
``tests/omero_workspace/test_conformance.py`` is what a real one should be tried with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mxbridge.errors import OutputError, UnknownName, UsageError
from mxbridge.image import LocalImage
from mxbridge.results import ImageRef, Results
from mxbridge.workspaces.base import MADE, CellKind, Published, Pulled, Workspace
from mxbridge.workspaces.omero.find import find_images
from mxbridge.workspaces.omero.publishing.alone import alone, undisturbed
from mxbridge.workspaces.omero.sessions.address import Place, place_of
from mxbridge.workspaces.omero.sessions.session import Sessions

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.objects.cell_sources import CellReader
    from mxbridge.workspaces.omero.pixels.cache import PixelCache
    from mxbridge.workspaces.omero.publishing.parts import Large, Publishing
    from mxbridge.workspaces.omero.publishing.publication import Publication
    from mxbridge.workspaces.omero.sessions.connection import Session

LARGE: tuple[str, ...] = ("auto", "tiles", "import", "zarr")


class OmeroWorkspace(Workspace):
    """Some images of one server. An image's id is its number there, as text.

    place: ``[USER@]HOST[:PORT]/dataset:5`` with options (see :class:`~mxbridge.workspaces.omero.sessions.address.Place`), or ``dataset:5``
        alone with ``server`` (else ``OMERO_HOST``, else where the omero command last logged in).
    labels: where cells are (see :mod:`~mxbridge.workspaces.omero.objects.cell_sources`). um_per_px: pixel size over what OMERO says.
    plane: (z, t) of stacks. cache, cache_size: folder and bytes for fetched pixels. repository: where the server's files, or
        registered OME-Zarr images, are mounted here.
    beside: derived images go into the source's dataset. rois: so many new objects at most become ROIs, as ``rois_as``.
    large: how images above the server's maximum plane size get there. as_owner: publish as the image's owner (accounts with
        the privilege Sudo). verify, ca_file: who may have signed the server's certificate.
    runs_home: where run folders go (default ``mxbridge-runs`` in the current folder). tell: hears of retries and long uploads.
    sessions: to be used instead of new ones.

    Nothing is asked of the server before it must be. Raises UsageError for options that make no sense.
    """

    def __init__(
        self,
        place: str | Place,
        *,
        server: str | None = None,
        user: str | None = None,
        group: str | None = None,
        labels: Sequence[str] | str = (),
        um_per_px: float | None = None,
        plane: tuple[int, int] | None = None,
        cache: str | PathLike[str] | None = None,
        cache_size: int | None = None,
        repository: str | PathLike[str] | None = None,
        beside: bool = False,
        rois: int | None = None,
        rois_as: Literal["masks", "polygons"] = "masks",
        large: Large = "auto",
        as_owner: bool = False,
        verify: bool = False,
        ca_file: str | PathLike[str] | None = None,
        runs_home: str | PathLike[str] | None = None,
        tell: Callable[[str], None] | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "labels": "\n".join([labels] if isinstance(labels, str) else labels),
            "um_per_px": um_per_px,
            "plane": None if plane is None else f"{plane[0]},{plane[1]}",
            "repository": None if repository is None else Path(repository).absolute(),
            "beside": int(beside),
            "rois": rois,
            "rois_as": None if rois_as == "masks" else rois_as,
            "large": None if large == "auto" else large,
            "as_owner": int(as_owner),
        }
        self._place = _placed(place, server, user, group, verify, ca_file, given)
        told = self._place.options
        self._um_per_px = _number(told, "um_per_px", float)
        if self._um_per_px is not None and not 0 < self._um_per_px < 1e6:
            raise UsageError(
                f"--um-per-px {self._um_per_px} makes no sense", hint="It is the width of a pixel in µm, e.g. 0.5"
            )
        self._plane = _plane(told.get("plane"))
        self._labels = tuple(told["labels"].split("\n")) if "labels" in told else ()
        self._repository = Path(told["repository"]) if "repository" in told else None
        self._as_owner = told.get("as_owner") == "1"
        self._cache_folder, self._cache_size = None if cache is None else Path(cache), cache_size
        self._runs_home = Path(runs_home) if runs_home is not None else Path.cwd() / "mxbridge-runs"
        self._tell = tell or (lambda text: None)
        self._sessions = sessions or Sessions(self._place.server, tell=tell)
        self._owners: dict[str, Sessions] = {}
        self._refs: tuple[ImageRef, ...] | None = None
        self.address = str(self._place)
        self._publishing = self._read_publishing()
        _ = self._cell_reader  # says now what is wrong with --labels

    @property
    def runs_home(self) -> Path:
        return self._runs_home

    def list(self, names: Sequence[str] = ()) -> list[ImageRef]:
        """All images by ascending id, or those called by name or id; a name that several share means all of them."""
        refs = self._all()
        if not names:
            return [*refs]
        chosen: dict[ImageRef, None] = {}
        for wanted in names:
            fitting = [r for r in refs if r.id == wanted] or [r for r in refs if r.name == wanted]
            fitting = fitting or [r for r in refs if r.name.casefold() == wanted.strip().casefold()]
            if not fitting:
                raise UnknownName("image", wanted, [str(r) for r in refs], where=self._place.images)
            chosen.update(dict.fromkeys(fitting))
        return [*chosen]

    def pull(self, ref: ImageRef, cells: CellKind | None = "cells") -> Pulled:
        """Metadata and cells; pixels are fetched when they are read. Raises SourceError, InputError, UnknownName."""

        def work(session: Session) -> Pulled:
            info = self._info(session, ref)
            image, notes = self._open(session, info)
            if cells is None:
                return Pulled(ref, image, None, notes)
            found, more = self._cell_reader.read(session, info, cells, self._plane or (0, 0))
            return Pulled(ref, image, found, (*notes, *more))

        return self._sessions.attempt(f"reading image {ref}", work)

    def publish(self, results: Results) -> Published:
        """Put results on the server in one transaction; see :mod:`~mxbridge.workspaces.omero.publishing.publication`."""
        ref = results.image
        if not results.result_keys:
            return Published(ref, changed=False, where="the run folder")
        begun: list[Publication] = []

        def work(session: Session) -> Published:
            info = self._info(session, ref)
            begun.append(self._publication(session, info))
            outcome = begun[-1].put(results)
            # an attempt that was cut off after its commit leaves nothing to do for the next
            return Published(ref, any(p.has_written for p in begun), self._where(info), outcome.notes)

        sessions = self._sessions_for(ref)
        with alone(self._local_folder, self._place.server.name, ref.id):
            return undisturbed(lambda: sessions.attempt(f"publishing on image {ref}", work))

    def holds(self, results: Results) -> bool:
        if not results.result_keys:
            return True

        def work(session: Session) -> bool:
            return self._publication(session, self._info(session, results.image)).holds(results)

        try:
            return self._sessions_for(results.image).attempt(f"looking at image {results.image}", work)
        except OutputError:
            return False

    def retract(self, ref: ImageRef, result_keys: Sequence[str], *, run_id: str | None = None) -> Published:
        """Take results out again; what somebody has edited of them stays and is told."""

        def work(session: Session) -> Published:
            info = self._info(session, ref)
            outcome = self._publication(session, info).take(result_keys, run_id)
            return Published(ref, outcome.changed, self._where(info), outcome.notes, outcome.keys)

        sessions = self._sessions_for(ref)
        with alone(self._local_folder, self._place.server.name, ref.id):
            return undisturbed(lambda: sessions.attempt(f"taking results off image {ref}", work))

    def check_writable(self) -> None:
        """Log in, and see that results could be put on the images: whose they are, and what may be done with them.

        With --as-owner the account's right to do so is tried. Raises SourceError, and OutputError where nothing could be published
        on any image.
        """
        from mxbridge.workspaces.omero.publishing.permissions import owners, refused

        refs = self._all()

        def work(session: Session) -> str | None:
            return refused(session, [int(ref.id) for ref in refs], as_owner=self._as_owner)

        reason = self._sessions.attempt(f"looking at {self._place.images}", work)
        if reason:
            raise OutputError(
                f"{self._place.images} of {self._place.server.name}: {reason}",
                hint="Compute without writing (--no-publish), ask the group's owner, or use --as-owner where you may",
            )
        if self._as_owner:
            ids = [int(ref.id) for ref in refs]
            every = self._sessions.attempt(f"looking at {self._place.images}", lambda session: owners(session, ids))
            for owner in every:
                self._sessions_of(owner)

    def intentions(self, ref: ImageRef, makes: Collection[str] = MADE) -> tuple[str, ...]:
        from mxbridge.workspaces.omero.publishing.intentions import intentions

        def work(session: Session) -> tuple[str, ...]:
            return intentions(session, self._info(session, ref), self._publishing, makes, as_owner=self._as_owner)

        return self._sessions_for(ref).attempt(f"looking at image {ref}", work)

    def rest(self) -> None:
        """Close the sessions: a long computation begins."""
        for sessions in (self._sessions, *self._owners.values()):
            sessions.rest()

    def published_keys(self, ref: ImageRef) -> tuple[str, ...]:
        """Result keys that the user has published on an image."""

        def work(session: Session) -> tuple[str, ...]:
            markers = self._publication(session, self._info(session, ref)).markers
            return tuple(sorted({key for marker in markers for key in marker.keys}))

        return self._sessions_for(ref).attempt(f"looking at image {ref}", work)

    def _all(self) -> tuple[ImageRef, ...]:
        """Asked once: the images of a run are those that were there when it began."""
        if self._refs is None:
            place = self._place
            self._refs = self._sessions.attempt(
                f"listing {place.images}", lambda session: tuple(find_images(session, place.kind, place.ids))
            )
        return self._refs

    def _info(self, session: Session, ref: ImageRef) -> ImageInfo:
        from mxbridge.workspaces.omero.image_info import image_info

        if not (ref.id.isascii() and ref.id.isdigit()):
            raise UnknownName("image", ref.id, [str(r) for r in self._refs or ()], where=self._place.images)
        return image_info(session, int(ref.id))

    def _open(self, session: Session, info: ImageInfo) -> tuple[LocalImage, tuple[str, ...]]:
        """The image, from the mounted repository where it lies there as it should, else through the cache; and remarks."""
        notes: tuple[str, ...] = ()
        image = None
        if self._repository is not None:
            from mxbridge.workspaces.omero.pixels.repository import open_in_place

            image, why = open_in_place(session, info, self._repository, self._plane)
            notes += (why,) if why else ()
        if image is None:
            image = self._cache.open(info, self._sessions, plane=self._plane, tell=self._tell)
        if self._um_per_px is not None:
            told = image.pixel_size_um
            image = image.with_pixel_size(self._um_per_px)
            if told is not None and any(abs(side / self._um_per_px - 1) > 0.01 for side in told):
                notes += (f"OMERO says {told[1]:g} µm per pixel; {self._um_per_px:g} was given and is used",)
        return image, notes

    def _publication(self, session: Session, info: ImageInfo) -> Publication:
        from mxbridge.workspaces.omero.publishing.publication import Publication

        return Publication(session, info, self._publishing, self._tell)

    def _sessions_for(self, ref: ImageRef) -> Sessions:
        """Those of the image's owner with --as-owner, else the user's own. Raises OutputError where that is not allowed."""
        if not self._as_owner:
            return self._sessions

        def work(session: Session) -> tuple[str, str]:
            return self._info(session, ref).owner_name, session.user_name

        owner, user = self._sessions.attempt(f"looking at image {ref}", work)
        return self._sessions if owner == user else self._sessions_of(owner)

    def _sessions_of(self, owner: str) -> Sessions:
        if owner not in self._owners:
            self._owners[owner] = self._sessions.as_owner(owner)
        return self._owners[owner]

    def _where(self, info: ImageInfo) -> str:
        return f"{self._place.server.name}, image {info.id}"

    @property
    def _local_folder(self) -> Path:
        from mxbridge.workspaces.omero.pixels.cache import default_folder

        return self._cache_folder or default_folder()

    @cached_property
    def _cache(self) -> PixelCache:
        from mxbridge.workspaces.omero.pixels.cache import PixelCache

        return PixelCache(self._cache_folder, self._cache_size)

    @cached_property
    def _cell_reader(self) -> CellReader:
        from mxbridge.workspaces.omero.image_info import image_info
        from mxbridge.workspaces.omero.objects.cell_sources import CellReader

        def open_image(session: Session, image_id: int) -> LocalImage:
            return self._open(session, image_info(session, image_id))[0]

        def siblings() -> dict[int, str]:
            return {int(ref.id): ref.name for ref in self._all()}

        return CellReader(self._labels, self._local_folder, open_image, siblings)

    def _read_publishing(self) -> Publishing:
        from mxbridge.workspaces.omero.publishing.parts import Publishing

        told = self._place.options
        rois = _number(told, "rois", int)
        rois_as, large = told.get("rois_as", "masks"), told.get("large", "auto")
        if rois_as not in ("masks", "polygons"):
            raise UnknownName("form of ROIs", rois_as, ("masks", "polygons"))
        if large not in LARGE:
            raise UnknownName("way of publishing large images", large, LARGE)
        if rois is not None and rois < 0:
            raise UsageError(f"--rois {rois} makes no sense", hint="It is the number of objects that may become ROIs")
        return Publishing(
            beside=told.get("beside") == "1",
            rois=rois or None,
            rois_as="polygons" if rois_as == "polygons" else "masks",
            large=large,  # type: ignore[arg-type]  # checked above
            plane=self._plane or (0, 0),
        )


def _placed(
    place: str | Place,
    server: str | None,
    user: str | None,
    group: str | None,
    verify: bool,
    ca_file: str | PathLike[str] | None,
    given: dict[str, Any],
) -> Place:
    """The place with all options in it, so that its address finds it again. Raises UsageError."""
    if isinstance(place, str):
        place = place_of(place, server, user=user, group=group)
    found = replace(
        place.server,
        user=user or place.server.user,
        group=group or place.server.group,
        verify=verify or place.server.verify,
        ca_file=Path(ca_file).absolute() if ca_file is not None else place.server.ca_file,
    )
    options = {**place.options, **{name: str(value) for name, value in given.items() if value}}
    return replace(place, server=found, options=options)


def _number(told: Any, name: str, kind: type[float] | type[int]) -> Any:
    if name not in told:
        return None
    try:
        return kind(told[name])
    except ValueError as error:
        raise UsageError(f"--{name.replace('_', '-')} {told[name]!r} is no number") from error


def _plane(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--plane {text!r} is not Z,T such as 3,0")
    return int(parts[0]), int(parts[1])
