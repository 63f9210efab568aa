"""What a script or notebook calls. The command line does the same through the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mxbridge.errors import ModelError
from mxbridge.models import catalogue
from mxbridge.models.maxim import Maxim
from mxbridge.models.nimbus import Nimbus
from mxbridge.models.translators import Translator
from mxbridge.progress import SILENT, Progress
from mxbridge.report.build import build_report
from mxbridge.stream.engine import Engine
from mxbridge.tasks import impute as _impute
from mxbridge.tasks import score as _score
from mxbridge.tasks import translate as _translate
from mxbridge.tasks.over_images import Finished
from mxbridge.tasks.translating import opening
from mxbridge.tasks.translating.options import TranslateOptions
from mxbridge.workspaces import open_workspace
from mxbridge.workspaces.base import Workspace

__all__ = ["impute", "load_model", "make_report", "open_workspace", "rescore", "score", "translate"]


def load_model(name_or_path: str | Path) -> Nimbus | Maxim:
    """Weights by name (``nimbus``, ``demo``, one you added) or by path. Raises ModelError."""
    model: Nimbus | Maxim = catalogue.open_model(catalogue.resolve(name_or_path))
    return model


def score(
    workspace: Workspace | str | Path,
    model: Nimbus | str | Path,
    *,
    images: str | Sequence[str] = (),
    engine: Engine | None = None,
    out: str | Path | None = None,
    publish: bool = True,
    resume: bool = True,
    progress: Progress = SILENT,
    **options: Any,
) -> Finished:
    """Score cells and publish the scores; ``options`` are those of :class:`mxbridge.tasks.score.ScoreOptions`.

    One name may stand for a list of ``images`` or ``markers``, and text for a path. Raises MxbridgeError, also when single
    images failed (the others are done then).
    """
    if not isinstance(workspace, Workspace):
        workspace = open_workspace(workspace)
    if not isinstance(model, Nimbus):
        options.setdefault("quantile", catalogue.resolve(model).card.normalization_quantile)
        loaded = load_model(model)
        if not isinstance(loaded, Nimbus):
            raise ModelError(f"{model} scores no cells", hint="It imputes markers: mxbridge.impute")
        model = loaded
    for option in ("markers", "inside"):
        if option in options:
            options[option] = _names(options[option])
    for option in ("panel", "normalization", "thresholds"):
        if options.get(option) is not None:
            options[option] = Path(options[option])
    finished = _score.score(
        workspace,
        model,
        engine or Engine(),
        _score.ScoreOptions(**options),
        images=_names(images),
        out=None if out is None else Path(out),
        publish=publish,
        resume=resume,
        progress=progress,
    )
    finished.raise_for_errors()
    return finished


def impute(
    workspace: Workspace | str | Path,
    model: Maxim | str | Path | Sequence[Maxim | str | Path],
    markers: str | Sequence[str],
    *,
    images: str | Sequence[str] = (),
    engine: Engine | None = None,
    out: str | Path | None = None,
    publish: bool = True,
    resume: bool = True,
    progress: Progress = SILENT,
    **options: Any,
) -> Finished:
    """Impute markers and publish them; ``options`` are those of :class:`mxbridge.tasks.impute.ImputeOptions`.

    model: one or several, loaded or by name or path. Raises MxbridgeError, also when single images failed (the others are done
    then).
    """
    if not isinstance(workspace, Workspace):
        workspace = open_workspace(workspace)
    given = [model] if isinstance(model, Maxim | str | Path) else model
    models = [m if isinstance(m, Maxim) else load_model(m) for m in given]
    for name, loaded in zip(given, models, strict=True):
        if not isinstance(loaded, Maxim):
            raise ModelError(f"{name} imputes no markers", hint="It scores cells: mxbridge.score")
    for option in ("without", "inside"):
        if option in options:
            options[option] = _names(options[option])
    if options.get("panel") is not None:
        options["panel"] = Path(options["panel"])
    finished = _impute.impute(
        workspace,
        [m for m in models if isinstance(m, Maxim)],
        engine or Engine(),
        _impute.ImputeOptions(markers=_names(markers), **options),
        images=_names(images),
        out=None if out is None else Path(out),
        publish=publish,
        resume=resume,
        progress=progress,
    )
    finished.raise_for_errors()
    return finished


def translate(
    workspace: Workspace | str | Path,
    model: Translator | str | Path | None = None,
    *,
    images: str | Sequence[str] = (),
    engine: Engine | None = None,
    out: str | Path | None = None,
    publish: bool = True,
    resume: bool = True,
    progress: Progress = SILENT,
    **options: Any,
) -> Finished:
    """Inferred images, nuclei and scores of brightfield slides; ``options`` are those of
    :class:`mxbridge.tasks.translating.options.TranslateOptions`.

    model: ``deepliif``, ``deconvolution``, a folder of official files, or one that is open; None takes the workspace's own.
    Raises MxbridgeError, also when single images failed (the others are done then).
    """
    if not isinstance(workspace, Workspace):
        workspace = open_workspace(workspace)
    if "inside" in options:
        options["inside"] = _names(options["inside"])
    chosen = TranslateOptions.given(options)
    finished = _translate.translate(
        workspace,
        opening.networks(workspace, model, engine or Engine(), chosen, reuse=resume),
        chosen,
        images=_names(images),
        out=None if out is None else Path(out),
        publish=publish,
        resume=resume,
        progress=progress,
    )
    finished.raise_for_errors()
    return finished


def rescore(
    run: str | Path,
    *,
    workspace: Workspace | str | Path | None = None,
    images: str | Sequence[str] = (),
    out: str | Path | None = None,
    publish: bool = True,
    resume: bool = True,
    progress: Progress = SILENT,
    **options: Any,
) -> Finished:
    """Nuclei and scores of an earlier :func:`translate` again, without networks; ``options`` that are not given are as there.

    run: its folder. workspace: where its images are, if not where they were. Raises MxbridgeError.
    """
    if "inside" in options:
        options["inside"] = _names(options["inside"])
    source, chosen = opening.rescored(Path(run), options)
    if workspace is None:
        workspace = opening.place_of(source.run)
    elif not isinstance(workspace, Workspace):
        workspace = open_workspace(workspace)
    finished = _translate.translate(
        workspace,
        source,
        chosen,
        images=_names(images) or source.images,
        out=None if out is None else Path(out),
        publish=publish,
        resume=resume,
        progress=progress,
    )
    finished.raise_for_errors()
    return finished


def make_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    project: str | Path | None = None,
    workspace: Workspace | None = None,
    progress: Progress = SILENT,
) -> Path:
    """The page of a run, with pictures and tables; returns where it is (``report.html`` in the run folder if not ``out``).

    run: its folder, ``finished.run.path``. project: where the project is now, if it has moved. workspace: where the images
    are, if it is open already (those in memory have no other way). Raises MxbridgeError.
    """
    return build_report(
        Path(run),
        None if out is None else Path(out),
        None if project is None else Path(project),
        workspace=workspace,
        progress=progress,
    )


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
