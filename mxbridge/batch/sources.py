"""From the sources of a job to open places with images. One that cannot be reached does not stop the others."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mxbridge.batch.job import FilesSource, Job, OmeroSource, ProjectSource, Source
from mxbridge.errors import InputError, MxbridgeError, UsageError
from mxbridge.results import ImageRef
from mxbridge.runs import RUNS, digest
from mxbridge.workspaces import open_workspace
from mxbridge.workspaces.base import Workspace
from mxbridge.workspaces.omero.sessions.address import names_server, place_of


@dataclass(frozen=True)
class Place:
    """One open place of a source. key: what identifies it, so that an image that two sources name is one image.

    named: its images were named one by one. reach: asks the place for its images again; raises what keeps it from answering.
    """

    source: str
    workspace: Workspace
    key: str
    refs: tuple[ImageRef, ...]
    named: bool
    reach: Callable[[], object]

    def image_key(self, ref: ImageRef) -> str:
        return digest(["image", self.key, ref.id])

    def item_key(self, ref: ImageRef, task: str) -> str:
        """Of one task of one image: what the ledger calls it."""
        return digest(["item", self.key, ref.id, task])


@dataclass(frozen=True)
class Unreachable:
    """A source, or one of its places, that could not be opened or listed."""

    source: str
    error: MxbridgeError


def open_places(job: Job, tell: Callable[[str], None] | None = None) -> tuple[list[Place], list[Unreachable]]:
    """Open every source and list its images. An image that an earlier place has already is left to that one.

    tell: hears what places say by themselves, such as that a connection was lost and is made again.
    """
    places: list[Place] = []
    lost: list[Unreachable] = []
    taken: set[tuple[str, str]] = set()
    for name, source in job.sources.items():
        try:
            addresses = list(_addresses(job, source, tell))
        except (MxbridgeError, OSError) as error:
            lost.append(Unreachable(name, _told(error, name)))
            continue
        for address in addresses:
            try:
                workspace = address.open()
                refs = [ref for ref in workspace.list(source.images) if (address.key, ref.id) not in taken]
            except (MxbridgeError, OSError) as error:
                lost.append(Unreachable(name, _told(error, address.text)))
                continue
            taken.update((address.key, ref.id) for ref in refs)
            named = bool(source.images) or address.named
            places.append(
                Place(name, workspace, address.key, tuple(refs), named, partial(address.reach, source.images))
            )
    return places, lost


def _told(error: Exception, what: str) -> MxbridgeError:
    return error if isinstance(error, MxbridgeError) else InputError(f"{what}: {error}")


@dataclass(frozen=True)
class Address:
    """How to open a place. key: what identifies it. named: its images are named one by one."""

    text: str
    key: str
    options: dict[str, Any]
    named: bool = False

    def open(self) -> Workspace:
        return open_workspace(self.text, **self.options)

    def reach(self, images: Sequence[str]) -> None:
        """Raises what keeps the place from answering now."""
        fresh = self.open()
        fresh.list(images)
        fresh.rest()


def _addresses(job: Job, source: Source, tell: Callable[[str], None] | None) -> Iterator[Address]:
    if isinstance(source, ProjectSource):
        yield from _projects(job, source)
    elif isinstance(source, FilesSource):
        yield _files(job, source)
    else:
        yield _omero(job, source, tell)


def _projects(job: Job, source: ProjectSource) -> Iterator[Address]:
    for named in source.project:
        path = str(job.folder / Path(named).expanduser())
        found = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) and not Path(path).exists() else [path]  # noqa: PTH207
        if not found:
            raise InputError(f"nothing matches {named}", hint="Check the pattern with ls")
        for one in found:
            options = {"path_maps": source.path_map, "um_per_px": source.um_per_px}
            yield Address(f"project:{one}", f"project {Path(one).resolve()}", options)


def _files(job: Job, source: FilesSource) -> Address:
    options = {
        "paths": _beside(job, source.files),
        "labels": _beside(job, source.labels),
        "um_per_px": source.um_per_px,
        "stretched_labels": source.stretched_labels,
        "plane": source.plane,
        "runs_home": job.runs / RUNS,
    }
    return Address("files:", f"files {source.plane}", options)


def _omero(job: Job, source: OmeroSource, tell: Callable[[str], None] | None) -> Address:
    names_host = names_server(source.omero)
    if names_host and (source.server or source.user):
        raise UsageError(f"{source.omero!r} names a server, and so does server or user", hint="Leave one of both away")
    given = {
        "group": source.group if names_host else None,
        "labels": source.labels,
        "um_per_px": source.um_per_px,
        "plane": source.plane,
        "cache": None if source.cache is None else job.folder / Path(source.cache).expanduser(),
        "cache_size": source.cache_size,
        "repository": None if source.repository is None else job.folder / Path(source.repository).expanduser(),
        "beside": source.beside,
        "rois": source.rois,
        "rois_as": source.rois_as,
        "large": source.large_images,
        "as_owner": source.as_owner,
        "verify": source.verify_server,
        "ca_file": None if source.ca_file is None else job.folder / Path(source.ca_file).expanduser(),
    }
    usual = {"rois_as": "masks", "large": "auto"}
    options = {name: value for name, value in given.items() if value and value != usual.get(name)}
    place = place_of(source.omero, source.server, user=source.user, group=source.group)
    key = f"omero {place.server.name} {source.plane}"
    return Address(str(place), key, options | {"runs_home": job.runs / RUNS, "tell": tell}, place.kind == "image")


def _beside(job: Job, paths: Sequence[str]) -> tuple[str, ...]:
    """Paths and patterns, relative to the job file."""
    return tuple(str(job.folder / Path(path).expanduser()) for path in paths)
