"""``mxbridge evaluate --task segmentation``: nuclei and percent positive against truth, however they were made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mxbridge.errors import InputError, MxbridgeError, UsageError
from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.progress import SILENT, Progress
from mxbridge.results import ImageRef
from mxbridge.runs import RUNS, ImageRecord, Run, digest, folder_name, now, open_run
from mxbridge.tasks.evaluate import cases_of
from mxbridge.tasks.evaluating.channel_pictures import ChannelPair, compare_channel, find_channels
from mxbridge.tasks.evaluating.class_images import (
    OUTLINES,
    Classes,
    Prediction,
    by_stem,
    file_digest,
    find_predictions,
    picture_files,
    read_classes,
)
from mxbridge.tasks.evaluating.segmentation_tables import (
    SegmentationTables,
    class_rows,
    make_segmentation_tables,
    percentages,
)
from mxbridge.tasks.over_images import Finished
from mxbridge.training.maxim.split import read_cases

ALGORITHM = "evaluate segmentation 1"
PICTURE = "percent positive.png"
RADIUS_PX = 10.0
"""Of the paper that introduced DeepLIIF, at 0.25 µm per pixel."""


@dataclass(frozen=True)
class SegmentationOptions:
    """truth: class images, folders or patterns. channels_truth: pictures of measured channels. cases: CSV of image and case.

    radius_um: within which a nucleus counts as detected; needs um_per_px; None: 10 pixels. Raises UsageError.
    """

    truth: tuple[str, ...]
    channels_truth: tuple[str, ...] = ()
    cases: Path | None = None
    radius_um: float | None = None
    um_per_px: float | None = None

    def __post_init__(self) -> None:
        if not self.truth:
            raise UsageError("--task segmentation needs truth", hint="Name class images with --truth PATH")
        if (self.radius_um is None) != (self.um_per_px is None):
            raise UsageError("--radius and --um-per-px go together", hint="Or leave both out: 10 pixels")
        if self.radius_um is not None and not 0 < self.radius_um < math.inf:
            raise UsageError(f"--radius {self.radius_um} is not possible", hint="Give µm, for example 2.5")

    @property
    def radius_px(self) -> float:
        if self.radius_um is None or self.um_per_px is None:
            return RADIUS_PX
        return self.radius_um / self.um_per_px


def evaluate_segmentation(
    predictions: Sequence[str],
    options: SegmentationOptions,
    *,
    out: Path | None = None,
    resume: bool = True,
    progress: Progress = SILENT,
) -> tuple[Finished, SegmentationTables]:
    """Compare pictures and runs of translate with truth; tables and a picture go into a run folder.

    Raises InputError when nothing has a truth; errors of single images are in the answer.
    """
    truths = by_stem(picture_files(options.truth, "truth"), "truth")
    pairs = find_channels(predictions, options.channels_truth) if options.channels_truth else []
    found, strange = find_predictions(predictions, list(truths))
    of_channels = {pair.name for pair in pairs}
    for name in strange:
        if Path(name).stem not in of_channels:
            progress.note(f"{name}: no truth of that name")
    for name in truths:
        if not any(one.image == name for one in found):
            progress.note(f"{name}: no prediction of it")
    if not found:
        raise InputError(
            "no prediction has a truth of its name", hint=f"There is truth of {', '.join(list(truths)[:20])}"
        )
    if options.channels_truth and not pairs:
        raise InputError("no picture is called as one of the channels' truth", hint="Give them the same names")
    table = read_cases(options.cases) if options.cases else ()
    cases = cases_of([ImageRef(name, name) for name in truths], table)
    digests = {name: file_digest(path) for name, path in truths.items()}
    settings = [
        ALGORITHM,
        options.radius_px,
        sorted(cases.items()),
        [[p.name, p.identity, file_digest(p.truth)] for p in pairs],
    ]
    records = [
        ImageRecord(
            id=f"{one.method}: {one.image}",
            name=one.image,
            fingerprint=digest([*settings, one.method, one.image, one.identity, digests[one.image]]),
            folder=folder_name(number, one.image),
        )
        for number, one in enumerate(found, start=1)
    ]
    where = "files:" + ", ".join(str(path.absolute()) for path in truths.values())
    described = {
        "options": {k: str(v) for k, v in vars(options).items()},
        "model": {"methods": sorted({p.method for p in found})},
    }
    with open_run(Path.cwd() / RUNS, out, records, resume=resume, task="evaluate", address=where, **described) as (
        run,
        _,
    ):
        run.published = False
        work = _Work(run, found, truths, cases, options, progress)
        return work.done(pairs)


@dataclass
class _Work:
    run: Run
    found: Sequence[Prediction]
    truths: dict[str, Path]
    cases: dict[str, str]
    options: SegmentationOptions
    progress: Progress

    def done(self, pairs: Sequence[ChannelPair]) -> tuple[Finished, SegmentationTables]:
        errors: list[MxbridgeError] = []
        rows, percents = self._segmentations(errors)
        channels = []
        for pair in pairs:
            try:
                channels.append({**compare_channel(pair), "case": self._case_of(pair.name)})
            except MxbridgeError as error:
                errors.append(error)
                self.progress.warning(str(error))
        tables = make_segmentation_tables(rows, percents, channels)
        run = self.run
        with run.making():
            tables.write(run.path)
            _draw(tables, run.path / PICTURE)
        run.finished = None if errors else now()
        run.save()
        return Finished(run, len(rows), 0, tuple(errors)), tables

    def _segmentations(self, errors: list[MxbridgeError]) -> tuple[list[dict], list[dict]]:
        rows, percents = [], []
        seen: dict[str, Classes] = {}  # the truth that was read last
        pairs = sorted(zip(self.found, self.run.images, strict=True), key=lambda pair: pair[0].image)
        for number, (one, image) in enumerate(pairs, start=1):
            self.progress.image(number, len(pairs), f"{one.image} ({one.method})")
            try:
                truth, predicted = self._both(one, seen)
            except MxbridgeError as error:
                errors.append(error)
                image.status, image.error, image.error_code = "failed", str(error), error.exit_code
                self.progress.warning(f"{one.image} ({one.method}): {error}")
                continue
            image.status, image.error, image.error_code = "computed", None, None
            key = {"method": one.method, "image": one.image, "case": self.cases[one.image]}
            rows += [{**key, **row} for row in class_rows(truth, predicted, self.options.radius_px)]
            percents.append({**key, **percentages(truth, predicted)})
            image.counts = {"nuclei": sum(predicted.counts)}
        return rows, percents

    def _both(self, one: Prediction, seen: dict[str, Classes]) -> tuple[Classes, Classes]:
        """Truth and prediction; the size of outlines is that of the other. Raises InputError, and what reading raises."""
        path = self.truths[one.image]
        if path.suffix.lower() in OUTLINES:
            predicted = one.read(None)
            return read_classes(path, predicted.shape), predicted
        if one.image not in seen:
            seen.clear()
            seen[one.image] = read_classes(path)
        truth = seen[one.image]
        return truth, one.read(truth.shape)

    def _case_of(self, channel: str) -> str:
        """Of the truth whose name begins that of a channel, else the channel is its own case."""
        names = [name for name in self.cases if channel.startswith(name)]
        return self.cases[max(names, key=len)] if names else channel


def _draw(tables: SegmentationTables, path: Path) -> None:
    """Write the picture."""
    from mxbridge.report.agreement_plot import bland_altman

    by_method = {
        str(method): (part["image"].tolist(), part["truth_percent"].tolist(), part["predicted_percent"].tolist())
        for method, part in tables.percents.groupby("method", sort=False)
    }
    figure = bland_altman(by_method)
    make_folder(path.parent)
    with write_atomically(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
