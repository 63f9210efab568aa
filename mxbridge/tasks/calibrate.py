"""``mxbridge calibrate``: thresholds per marker from cells that people have called positive or negative by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mxbridge.errors import InputError, UnknownName, UsageError
from mxbridge.formats.atomic import make_folder, output_error, write_atomically
from mxbridge.results import ImageRef
from mxbridge.runs import Run, now
from mxbridge.tasks.classifiers import (
    classifier_thresholds,
    describe_classifiers,
    put_classifiers,
    remember_classifiers,
)
from mxbridge.tasks.hand_calls import ClassedCells, Scored, find_marker, gather, published_scores, scores_of_run
from mxbridge.tasks.positivity import HandCalls
from mxbridge.tasks.threshold_fit import auroc, f1_at, fit_threshold
from mxbridge.tasks.thresholds import DEFAULT, Calibrated, ScoringRule, ThresholdsFile, project_thresholds
from mxbridge.workspaces import open_workspace
from mxbridge.workspaces.base import CellKind, Workspace
from mxbridge.workspaces.qupath.hand_classes import channel_names, class_names
from mxbridge.workspaces.qupath.workspace import PUBLISHING_TAKES, QuPathWorkspace

FEWEST = 5
VAGUE = 0.3
"""Width of an interval from which the classed cells say little about the threshold."""
MOSTLY_CLASSED = 0.5
"""Share of cells beyond which calls look like the work of a classifier."""


@dataclass(frozen=True)
class CalibrateOptions:
    """See ``mxbridge calibrate --help``. run: folder of a run whose tables are used instead of published scores. cells: which
    objects are the cells; None stands for those that were scored."""

    markers: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    model: str | None = None
    run: Path | None = None
    classes: Path | None = None
    cells: CellKind | None = None
    min_cells: int = FEWEST

    def __post_init__(self) -> None:
        if (self.positive or self.negative) and not self.markers:
            raise UsageError("--positive and --negative need to know of which marker", hint="Name it with --marker")
        if both := set(self.positive) & set(self.negative):
            raise UsageError(f"{', '.join(sorted(both))} cannot be both positive and negative")
        if self.min_cells < 2:
            raise UsageError(f"--min-cells {self.min_cells}: two of each kind are the least that say anything")


@dataclass(frozen=True)
class Refused:
    """A marker without a new threshold, and why."""

    marker: str
    positive: int
    negative: int
    conflicts: int
    unscored: int
    why: str


@dataclass(frozen=True)
class Calibration:
    """source: which scores were used, for people. newest: the run they come from, of several the last. workspace: the project
    that keeps the thresholds, None where the images are files."""

    model: str
    source: str
    fitted: tuple[Calibrated, ...]
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]
    newest: Run
    workspace: Workspace | None

    def table(self) -> pd.DataFrame:
        """One row per fitted marker, then those that were refused."""
        rows = [_row(one) for one in self.fitted] + [{"model": self.model, **asdict(one)} for one in self.refused]
        return pd.DataFrame(rows, columns=COLUMNS)


COLUMNS = [
    "model", "marker", "positive", "negative", "conflicts", "unscored", "threshold", "threshold_low", "threshold_high",
    "before", "auroc", "auroc_low", "auroc_high", "balanced_accuracy", "f1_before", "f1_after", "images", "runs", "why",
]  # fmt: skip


def calibrate(workspace: Workspace | None, options: CalibrateOptions, images: Sequence[str] = ()) -> Calibration:
    """Fit thresholds; nothing is written. workspace: the project, or None where the run says enough.

    Raises UsageError, InputError (nothing to fit), SourceError, BrokenFile.
    """
    run = Run.load(options.run) if options.run is not None else None
    workspace = workspace or (_place_of(run) if run is not None else None)
    project = workspace if isinstance(workspace, QuPathWorkspace) else None
    if project is None and run is None:
        raise UsageError("name the scores", hint="Give a project with --project, or a run with --run")
    if project is None and options.classes is None:
        raise UsageError(
            f"a run of {'images on a server' if run is not None and run.is_of_server else 'image files'} has no hand-made classes",
            hint="Give a table of them with --classes",
        )
    if run is not None:
        scored = _scored_by(run, project, options, images)
    else:
        assert project is not None  # noqa: S101 - checked above
        scored = published_scores(project, project.list(images), options.model)
    wanted = tuple(find_marker(m, scored.markers, "the scores") for m in options.markers) or scored.markers
    names = [name for ref in scored.images for name in channel_names(project, ref)] if project is not None else []
    others = tuple(dict.fromkeys(n for n in names if n not in scored.markers))
    calls = HandCalls(scored.markers, tuple(dict.fromkeys(wanted)), options.positive, options.negative, others)
    kind = options.cells or scored.newest.options.get("cells", "cells")
    found = gather(scored, calls, workspace=project, kind=kind, table=options.classes)
    if project is not None and options.classes is None:
        _check_classes(options, found, project, scored.images)
    known = project_thresholds(project) if project is not None else None
    stored = ThresholdsFile.read(known, missing=True) if known is not None else None
    return _calibrated(scored, found, stored, options, workspace)


def _check_classes(
    options: CalibrateOptions, found: Mapping[str, ClassedCells], project: QuPathWorkspace, images: Sequence[ImageRef]
) -> None:
    """Raises UnknownName for classes that were named and that nothing has: most likely they were misspelt."""
    if any(cells.conflicts or cells.unscored for cells in found.values()):
        return
    for side, names in enumerate((options.positive, options.negative)):
        if names and not any(cells.counts[side] for cells in found.values()):
            there = {name for ref in images for name in class_names(project, ref)}
            if not there & set(names):
                raise UnknownName("class", ", ".join(names), sorted(there), where=project.address)


def _place_of(run: Run) -> Workspace | None:
    """The project of a run, None where it was made of image files or of a server's images."""
    return open_workspace(run.place) if run.is_of_project else None


def _scored_by(run: Run, project: QuPathWorkspace | None, options: CalibrateOptions, images: Sequence[str]) -> Scored:
    """Raises UsageError where the run is of other images or another model than was said."""
    if project is not None and not run.is_of_project:
        kind = "images on a server" if run.is_of_server else "image files"
        raise UsageError(f"{run.path} is a run of {kind}, not of a project", hint="Leave out --project")
    scored = scores_of_run(run, images)
    if options.model not in (None, scored.model):
        raise UnknownName("scores of a model", str(options.model), [scored.model], where=str(run.path))
    return scored


def keep(
    calibration: Calibration, files: Sequence[Path] = (), reports: Sequence[Path] = (), *, classifiers: bool = False
) -> tuple[list[Path], list[str]]:
    """Write the new thresholds into the project and into ``files``, then the object classifiers, then the reports.

    Whatever can be refused is refused before anything is written, and the thresholds come first: no report is worth them. The
    files of thresholds come back, and what people should know. Raises UsageError, OutputError, BrokenFile where a file holds
    something else.
    """
    for report in reports:
        _check_report(report)
    kept: list[Path] = []
    notes: tuple[str, ...] = ()
    if calibration.fitted:
        kept = keep_thresholds(calibration, files)
        if classifiers:
            notes = renew_classifiers(calibration)
    for report in reports:
        keep_report(calibration, report)
    return kept, list(notes)


def keep_thresholds(calibration: Calibration, files: Sequence[Path] = ()) -> list[Path]:
    """Write the new thresholds into the project and into ``files``, beside those that are there; the files written.

    Raises OutputError, BrokenFile where a file holds something else.
    """
    written = []
    workspace = calibration.workspace
    own = project_thresholds(workspace) if workspace is not None else None
    for path in files:
        make_folder(path.parent)
        ThresholdsFile.read(path, missing=True)  # raises before anything is written
    if own is not None and isinstance(workspace, QuPathWorkspace):
        with workspace.locked(PUBLISHING_TAKES):
            ThresholdsFile.read(own, missing=True).put(calibration.fitted)
        written.append(own)
    for path in files:
        ThresholdsFile.read(path, missing=True).put(calibration.fitted)
        written.append(path)
    return written


def keep_report(calibration: Calibration, path: Path) -> None:
    """Write the report as CSV. A file that is no such report is not replaced. Raises UsageError, OutputError."""
    _check_report(path)
    with write_atomically(path) as part:
        calibration.table().to_csv(part, index=False, encoding="utf-8", lineterminator="\n")


def _check_report(path: Path) -> None:
    """Make the folder. Raises UsageError for a file that is no report, OutputError."""
    make_folder(path.parent)
    if not path.exists():
        return
    try:
        with path.open("rb") as stream:
            begins = stream.read(4096).decode("utf-8", "replace")
    except OSError as error:
        raise output_error(path, error) from error
    if not begins.startswith(",".join(COLUMNS)):
        raise UsageError(f"{path} is there already and is no report of calibrate", hint="Give another name")


def renew_classifiers(calibration: Calibration) -> tuple[str, ...]:
    """Write the object classifiers of the newest run anew, with the new thresholds; what people should know of it.

    Markers that were not fitted keep the threshold their run used. Raises UsageError, OutputError.
    """
    run, model, workspace = calibration.newest, calibration.model, calibration.workspace
    if workspace is None:
        raise UsageError("object classifiers live in QuPath projects only")
    fitted = {one.marker: one.threshold for one in calibration.fitted}
    known = project_thresholds(workspace)
    stored = ThresholdsFile.read(known, missing=True).of(model, ScoringRule.of_run(run)) if known is not None else {}
    cuts = {m: fitted.get(m, stored[m].threshold if m in stored else t) for m, t in thresholds_of(run).items()}
    with run.locked():
        remember_classifiers(run, describe_classifiers(model, {**cuts, **fitted}, run.options.get("cells", "cells")))
        if not run.published:
            return ("the object classifiers are written when the run is published",)
        written = put_classifiers(workspace, run)
    made = [f"object classifiers: {', '.join(written.files)}"] if written.files else []
    return (*made, *written.notes)


def thresholds_of(run: Run) -> dict[str, float]:
    """The thresholds a run counted with, by marker, in the order in which its markers stand in classes.

    Its object classifiers may be younger than its scores: asking for another threshold makes no new run.
    """
    used = run.options.get("thresholds_used")
    if not isinstance(used, dict):
        return {}
    used = used | classifier_thresholds(run)
    return {str(marker): float(v) for marker, v in used.items() if isinstance(v, int | float) and 0 < v < 1}


def _calibrated(
    scored: Scored,
    found: dict[str, ClassedCells],
    stored: ThresholdsFile | None,
    options: CalibrateOptions,
    workspace: Workspace | None,
) -> Calibration:
    """Fit every marker of which anything is said; where markers were named, each of them is answered for."""
    fitted, refused, notes = [], [], []
    for marker, cells in found.items():
        if not options.markers and not (len(cells.scores) or cells.conflicts or cells.unscored):
            continue
        one = _fit(scored, marker, cells, stored, options.min_cells)
        if isinstance(one, Refused):
            refused.append(one)
            continue
        fitted.append(one)
        notes += _doubts(one, cells)
    if not fitted and not refused:
        raise InputError(
            f"no cell is classed by hand for any of {', '.join(scored.markers[:20])}",
            hint="In QuPath give cells classes such as CD3 and CD3-, or name yours with --marker, --positive, --negative",
        )
    source = f"run {scored.tables.run_id}" if scored.tables else f"published scores ({scored.model})"
    return Calibration(scored.model, source, tuple(fitted), tuple(refused), tuple(notes), scored.newest, workspace)


def _fit(
    scored: Scored, marker: str, cells: ClassedCells, stored: ThresholdsFile | None, min_cells: int
) -> Calibrated | Refused:
    positive, negative = cells.counts
    lost = {"conflicts": cells.conflicts, "unscored": cells.unscored}

    def refuse(why: str) -> Refused:
        return Refused(marker, positive, negative, **lost, why=why)

    if min(positive, negative) < min_cells:
        more = "".join(f", {count} {what}" for what, count in _left_out(cells).items())
        return refuse(f"{positive} positive and {negative} negative cells{more}; {min_cells} of each are needed")
    runs = scored.runs_of(marker)
    rules = {run.run_id: ScoringRule.of_run(run) for run in runs}
    rule = rules[runs[0].run_id]
    for other in rules.values():
        if differs := other.unlike(rule):
            return refuse(f"the images were scored in several ways ({differs}); choose some with --image")
    fit = fit_threshold(cells.scores, cells.positive)
    if fit is None or not 0 < fit.threshold < 1:
        area = auroc(cells.scores, cells.positive)
        return refuse(f"no threshold tells the cells apart better than guessing (AUROC {area:.2f})")
    known = stored.of(scored.model, rule).get(marker) if stored else None
    before = known.threshold if known else thresholds_of(runs[0]).get(marker, DEFAULT)
    return Calibrated(
        model=scored.model,
        marker=marker,
        threshold=fit.threshold,
        interval=fit.interval,
        rule=rule,
        auroc=fit.auroc,
        auroc_interval=fit.auroc_interval,
        balanced_accuracy=fit.balanced_accuracy,
        before=before,
        f1_before=f1_at(before, cells.scores, cells.positive),
        f1_after=f1_at(fit.threshold, cells.scores, cells.positive),
        positive=positive,
        negative=negative,
        **lost,
        images=tuple(scored.images[k].name for k in np.unique(cells.images)),
        runs=tuple(run.run_id for run in runs),
        made=now(),
    )


def _left_out(cells: ClassedCells) -> dict[str, int]:
    counts = {"called both positive and negative": cells.conflicts, "classed but without a score": cells.unscored}
    return {what: count for what, count in counts.items() if count}


def _doubts(one: Calibrated, cells: ClassedCells) -> list[str]:
    """What makes a threshold worth less than its interval says."""
    notes = []
    if len(one.images) == 1:
        notes.append(
            f"{one.marker}: all classed cells lie in one image ({one.images[0]}); others may need another threshold"
        )
    low, high = one.interval
    if high - low > VAGUE:
        notes.append(
            f"{one.marker}: these cells do as well with thresholds from {low:.2f} to {high:.2f}; class more cells that "
            "score in between"
        )
    notes += [f"{one.marker}: left out: {count} cells {what}" for what, count in _left_out(cells).items()]
    if len(cells.scores) > MOSTLY_CLASSED * cells.cells and cells.cells > 100:
        notes.append(
            f"{one.marker}: {len(cells.scores)} of {cells.cells} cells are classed; if a classifier did that, the new "
            "threshold only repeats it"
        )
    return notes


def _row(one: Calibrated) -> dict[str, Any]:
    plain = {key: value for key, value in asdict(one).items() if key in COLUMNS}
    return {
        **plain,
        "threshold_low": one.interval[0],
        "threshold_high": one.interval[1],
        "auroc_low": one.auroc_interval[0],
        "auroc_high": one.auroc_interval[1],
        "images": "; ".join(one.images),
        "runs": "; ".join(one.runs),
    }
