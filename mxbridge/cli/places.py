"""Where images are, on the command line: one decorator puts the options that name them into a command.

    @takes_places(labels=True, publishes=True)
    def score(places: Places, ...) -> None:
        workspace = places.open()

The command then has ``--project``, ``--files``, ``--omero`` and all that goes with them, and gets one :class:`Places`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from mxbridge.cli import options
from mxbridge.cli.sources import OMERO_ONLY, open_source
from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.workspaces.base import Workspace

R = TypeVar("R")


@dataclass(frozen=True)
class Places:
    """What the options of one call say of images. values: by parameter; those a command does not have are not there."""

    values: Mapping[str, Any]
    usual: Mapping[str, Any]

    @property
    def given(self) -> frozenset[str]:
        """Parameters that were not left as they usually are."""
        return frozenset(
            name for name, value in self.values.items() if value != self.usual[name] and value not in ([], ())
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of single images, by name or id."""
        return tuple(self.values["image"] or ())

    @property
    def all_named(self) -> bool:
        """Whether the images were named one by one; otherwise those that a task is not made for are left out."""
        return bool(self.names) or str(self.values["omero"] or "").rpartition("/")[2].startswith("image:")

    @property
    def project(self) -> Path | None:
        """The one project."""
        found: Path | None = self.values["project"]
        return found

    @property
    def path_maps(self) -> tuple[str, ...]:
        return tuple(self.values["path_map"] or ())

    @property
    def um_per_px(self) -> float | None:
        found: float | None = self.values["um_per_px"]
        return found

    def open(self) -> Workspace:
        """The one place that is named. Raises UsageError where none is, or several are, and as ``open_workspace``."""
        return open_source(**self._sources())

    def open_each(self) -> list[Workspace]:
        """For commands that take several projects: each of them, then the files, then the images of a server."""
        every = self._sources()
        projects, files, omero = every.pop("project") or (), every.pop("files"), every.pop("omero")
        of_omero = {name: every.pop(name) for name in OMERO_ONLY if name in every}
        path_map, plane = every.pop("path_map"), every.pop("plane")
        if not omero and (idle := self.given & OMERO_ONLY):
            raise UsageError(f"--{min(idle).replace('_', '-')} goes with --omero")
        if plane and not files and not omero:
            raise UsageError("--plane goes with --files and --omero")
        found = [open_source(project=one, path_map=path_map, **every) for one in projects]
        if files or not (found or omero):
            found.append(open_source(files=files, plane=plane, **every))
        if omero:
            found.append(open_source(omero=omero, plane=plane, **of_omero, **every))
        return found

    def _sources(self) -> dict[str, Any]:
        """For ``open_source``: names are for listing, and what was left as usual does not speak for a kind of place."""
        idle = OMERO_ONLY - self.given
        return {name: None if name in idle else value for name, value in self.values.items() if name != "image"}


def takes_places(
    *,
    labels: bool = False,
    stretched: bool = False,
    publishes: bool = False,
    makes_objects: bool = False,
    several_projects: bool = False,
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command the options that name images, where its parameter ``places`` stands.

    labels: it looks at cells. stretched: also at label images with stretched numbers. publishes: it writes results back.
    makes_objects: new outlines among them. several_projects: ``--project`` may be repeated; the command uses :meth:`Places.open_each`.
    """
    offered = _offered(labels, stretched, publishes, makes_objects, several_projects)

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for name, one in inspect.signature(command).parameters.items():
            if name == "places":
                parameters += [place for place in offered if place.name not in OMERO_ONLY]
            else:
                parameters.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))
        parameters += [place for place in offered if place.name in OMERO_ONLY]  # few need them: last in the help

        @functools.wraps(command)
        def with_places(**given: Any) -> R:
            values = {one.name: given.pop(one.name) for one in offered}
            return command(places=Places(values, {one.name: one.default for one in offered}), **given)

        with_places.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_places.__annotations__ = {one.name: one.annotation for one in parameters}
        return with_places

    return decorate


def _offered(
    labels: bool, stretched: bool, publishes: bool, makes_objects: bool, several_projects: bool
) -> list[inspect.Parameter]:
    found: dict[str, tuple[Any, Any]] = {
        "project": (options.Projects if several_projects else options.Project, None),
        "omero": (options.Omero, None),
        "image": (options.Image, None),
        "files": (options.Files, None),
    }
    if labels:
        found["labels"] = (options.Labels, None)
    if stretched:
        found["stretched_labels"] = (options.StretchedLabels, False)
    found |= {
        "plane": (options.Plane, None),
        "um_per_px": (options.UmPerPx, None),
        "path_map": (options.PathMap, None),
        "server": (options.OmeroServer, None),
        "user": (options.OmeroUser, None),
        "group": (options.OmeroGroup, None),
        "verify_server": (options.VerifyServer, False),
        "ca_file": (options.CaFile, None),
        "cache": (options.Cache, None),
        "cache_size": (options.CacheSize, None),
        "repository": (options.Repository, None),
    }
    if publishes:
        found |= {
            "beside": (options.Beside, False),
            "large_images": (options.LargeImages, options.LargeImage.auto),
            "as_owner": (options.AsOwner, False),
        }
    if makes_objects:
        found |= {"rois": (options.Rois, None), "rois_as": (options.RoisAs, options.RoiKind.masks)}
    kind = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(n, kind, default=usual, annotation=hint) for n, (hint, usual) in found.items()]
