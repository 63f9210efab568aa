"""From what a user names to a place and to where its inferred images come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxbridge.errors import BrokenFile, UsageError
from mxbridge.models.translators import Translator, open_translator
from mxbridge.runs import RECORD, Run
from mxbridge.stains import known_stains
from mxbridge.tasks.translating.finding import RESOLUTIONS
from mxbridge.tasks.translating.map_sources import NetworkMaps, RunMaps
from mxbridge.tasks.translating.options import TranslateOptions
from mxbridge.tasks.translating.seg_pictures import PictureMaps
from mxbridge.workspaces import open_workspace
from mxbridge.workspaces.base import Workspace

if TYPE_CHECKING:
    from mxbridge.stream.engine import Engine
    from mxbridge.workspaces.files import FilesWorkspace

OF_NETWORKS = ("weighting", "statistics", "compat", "tile_size", "stains", "positive_od")
"""Options that mean nothing without networks."""


def networks(
    workspace: Workspace,
    model: str | Path | Translator | None,
    engine: Engine,
    options: TranslateOptions,
    *,
    reuse: bool = True,
) -> NetworkMaps:
    """Raises UsageError, ModelError."""
    wanted = model if model is not None else workspace.default_model
    if wanted is None:
        raise UsageError(
            "no model is named", hint="--model deepliif (official weights), or --model deconvolution (needs none)"
        )
    translator = open_translator(wanted) if isinstance(wanted, str | Path) else wanted
    return NetworkMaps(_with_stains(translator, options), engine, options, workspace, reuse)


def _with_stains(translator: Translator, options: TranslateOptions) -> Translator:
    """The baseline with the stains and the threshold that were chosen. Raises UsageError for other models."""
    if options.stains is None and options.positive_od is None:
        return translator
    from mxbridge.models.deconvolution import Deconvolution

    made: object = translator
    if not isinstance(made, Deconvolution):
        raise UsageError("--stains and --positive-od are for --model deconvolution")
    stains = made.stains if options.stains is None else known_stains(options.stains)
    return Deconvolution(stains, made.positive_od if options.positive_od is None else options.positive_od)


def rescored(folder: Path, given: Mapping[str, Any]) -> tuple[RunMaps, TranslateOptions]:
    """An earlier run's maps, and its options with those ``given`` in their place. Raises UsageError, SourceError, BrokenFile."""
    for name in OF_NETWORKS:
        if given.get(name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} decides what networks see; --rescore runs none", hint="Leave it out"
            )
    run = Run.load(folder)
    before = dict(run.options)
    if given.get("outputs") not in (None, "score", "cells"):
        raise UsageError("--rescore makes nuclei and scores", hint="--outputs score or cells")
    if before.get("outputs") in ("channels", "all"):
        before["outputs"] = "cells"
    try:
        options = TranslateOptions.given(given, before)
    except (TypeError, ValueError) as error:
        raise BrokenFile(folder / RECORD, f"its options make no sense ({error})", hint="Run translate again") from error
    return RunMaps.of(run, options), options


def place_of(run: Run, project: Path | None = None, path_maps: Sequence[str] = ()) -> Workspace:
    """Where the images of a run are. project: where it is now, if it has moved away from its run. Raises as open_workspace."""
    if project is not None and run.is_of_server:
        raise UsageError(
            f"{run.path} is a run of images on an OMERO server, not of a project", hint="Leave --project out"
        )
    if project is not None or run.is_of_project:
        return open_workspace(f"project:{project or run.place}", path_maps=tuple(path_maps))
    if path_maps:
        raise UsageError("--path-map goes with projects")
    return open_workspace(run.place)


def pictures(
    segs: Sequence[str],
    markers: Sequence[str],
    given: Mapping[str, Any],
    *,
    resolution: str | None = None,
    um_per_px: float | None = None,
) -> tuple[PictureMaps, FilesWorkspace, TranslateOptions]:
    """Raises UsageError, SourceError."""
    for name in (*OF_NETWORKS, "inside", "od_lower", "od_upper"):
        if given.get(name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} does not go with --from-seg")
    if given.get("outputs") not in (None, "score", "cells"):
        raise UsageError("--from-seg makes nuclei and scores", hint="--outputs score or cells")
    if resolution is not None and um_per_px is not None:
        raise UsageError("give either --resolution or --um-per-px")
    if given.get("marker_threshold") is not None and not markers:
        raise UsageError("--marker-threshold needs --marker-image")
    um = RESOLUTIONS[resolution] if resolution is not None else um_per_px
    source, workspace = PictureMaps.of(segs, markers, um)
    return source, workspace, TranslateOptions.given(given)
