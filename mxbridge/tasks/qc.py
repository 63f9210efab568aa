"""``mxbridge qc``: which stains of an image do not look like what the other stains say they should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mxbridge.errors import ChangedMeanwhile, InputError, NotApplicable, QualityFlagged
from mxbridge.formats.cell_tables import write_csv
from mxbridge.metrics.agreement import ALPHA, BLOCK, Agreement, Range
from mxbridge.metrics.input_range import is_broken, nothing_in
from mxbridge.models.maxim import Maxim
from mxbridge.models.maxim_stream import listed
from mxbridge.panel import read_panel
from mxbridge.progress import SILENT, Progress
from mxbridge.report.qc_pictures import MarkerPicture, draw_marker
from mxbridge.results import Results
from mxbridge.runs import ImageRecord, Run, digest, fingerprint, result_key
from mxbridge.stream.engine import Engine
from mxbridge.tasks.imputing.chain import targets_wanted
from mxbridge.tasks.imputing.named_channels import named
from mxbridge.tasks.judging.causes import Key, Search, Suspicious, choose_crops, key
from mxbridge.tasks.judging.one_image import Asked, Expectation, Look, look, refuse_repeated, stream_of
from mxbridge.tasks.judging.verdicts import CORRECTION, Found, Row, is_patchy, judge, load_found, save_found, tests_of
from mxbridge.tasks.over_images import Finished, Outcome, Plan, run_over_images
from mxbridge.tasks.regions import Region, planned_region, region_of
from mxbridge.tasks.score_maps import plain_names
from mxbridge.workspaces.base import CellKind, Pulled, Workspace

ALGORITHM = "qc 1"
TABLE, BLOCKS = "qc.csv", "qc_blocks.csv"
BLOCK_COLUMNS = ["image", "image_id", "marker", "model", "x_um", "y_um", "side_x_um", "side_y_um", "agreement"]
PICTURES = "qc"
"""Folder of an image's pictures, in its folder of the run."""


@dataclass(frozen=True)
class QcOptions:
    """See ``mxbridge qc --help``. markers: only these. value_scale: stored numbers are multiplied by it. inside: only blocks with
    their centre in annotations of these classes or with these ids (the cause of what is found there is looked for on crops, which
    may reach beyond)."""

    markers: tuple[str, ...] = ()
    panel: Path | None = None
    value_scale: float | None = None
    inside: tuple[str, ...] = ()


def qc(
    workspace: Workspace,
    models: Sequence[Maxim],
    engine: Engine,
    options: QcOptions = QcOptions(),
    *,
    images: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = True,
    progress: Progress = SILENT,
) -> tuple[Finished, list[Row]]:
    """Judge the stains of a workspace's images (all, or those named). Nothing is written but the run's folder.

    Raises MxbridgeError for what stops everything; errors of single images are in the answer.
    """
    refs = workspace.list(images)
    if not refs:
        raise InputError(f"{workspace.address} holds no images")
    task = QcTask(models, engine, options)
    finished = run_over_images(
        workspace, refs, task, all_named=bool(images), out=out, publish=False, resume=resume, progress=progress
    )
    return finished, task.rows(finished.run)


@dataclass
class QcTask:
    """Quality control as a task of :mod:`mxbridge.tasks.over_images`.

    Raises UnknownName for markers of no model, UsageError for models that are one, ModelError for a card that is broken.
    """

    models: Sequence[Maxim]
    engine: Engine
    options: QcOptions
    name: str = "qc"
    cell_kind: CellKind = field(default="cells", init=False)

    def __post_init__(self) -> None:
        refuse_repeated(self.models)
        self.expected = {model.weights_sha256: Expectation.of(model) for model in self.models}
        self.panel = read_panel(self.options.panel) if self.options.panel else ()
        self.markers = targets_wanted(self.options.markers, self.models)

    def label(self, model: Maxim) -> str:
        """The model's name, made unique where another of that name imputes the same marker."""
        alike = [m for m in self.models if m.name == model.name and set(m.outputs) & set(model.outputs)]
        return model.name if len(alike) == 1 else f"{model.name} {model.weights_sha256[:6]}"

    @property
    def inside(self) -> tuple[str, ...]:
        return self.options.inside

    @property
    def ranges(self) -> dict[Key, Range]:
        return {(sha, m): r for sha, known in self.expected.items() for m, r in known.ranges.items()}

    def describe(self) -> dict[str, Any]:
        options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.options).items()}
        return {
            "model": {"models": [model.describe() for model in self.models]},
            "options": {**options, **self.engine.describe()},
        }

    def plan(self, pulled: Pulled) -> Plan:
        image = named(pulled.image, self.panel)
        if image.rgb:
            raise NotApplicable(
                f"image {pulled.ref} is a colour picture (RGB), not an image of markers",
                hint="qc compares fluorescence and mass-spectrometry channels with what a model imputes",
            )
        image.require_pixel_size()
        asked = [Asked.of(model, image, self.markers) for model in self.models]
        useful = [a for a in asked if a.markers and not a.why_not]
        if not useful:
            why = "; ".join(f"{a.model.name}: {a.why_not or 'none of its markers is measured'}" for a in asked)
            raise NotApplicable(
                f"image {pulled.ref}: nothing to judge ({why})",
                hint=f"It has the channels {', '.join(image.channel_names[:40])}",
            )
        region = region_of(pulled, self.options.inside)
        fields = [stream_of(a, image, self.engine, self.options.value_scale).field for a in useful]  # or an error now
        if region is not None and not all(region.at_scale(field).blocks(BLOCK).any() for field in fields):
            raise InputError(
                f"image {pulled.ref}: no block of {BLOCK} px has its centre inside {region.words}",
                hint="qc compares blocks; draw larger annotations, or leave --inside out",
            )
        return Plan(
            ref=pulled.ref,
            basis={
                "result_keys": [
                    result_key(task=self.name, model=a.model.name, target=m, source=pulled.ref.id)
                    for a in useful
                    for m in a.markers
                ],
                "pixels": image.identity,
                "channels": {m: k for a in useful for m, k in a.channels.items()},
                "um_per_px": image.pixel_size_um,
                **({} if region is None else {"inside": region.digest}),
            },
            counts={"markers": len({m for a in useful for m in a.markers})},
            warnings=(*pulled.all_warnings, *(region.warnings if region else ())),
            notes=(
                *(note for a in useful for note in self._about(a)),
                *(() if region is None else (f"only blocks with their centre inside {region.words}",)),
            ),
        )

    def _about(self, asked: Asked) -> list[str]:
        """What people should know of a model's judgement."""
        label, notes = self.label(asked.model), []
        if asked.absent:
            notes.append(f"{label} does without {listed(sorted(asked.absent))}")
        if asked.model.card.validation.get("kind") == "region":
            notes.append(
                f"{label}: its ranges come from parts of its training images; other good slides may agree a little less"
            )
        return notes

    def fingerprint(self, plan: Plan, plans: Sequence[Plan]) -> str:
        return fingerprint(
            result_keys=plan.basis["result_keys"],
            options={
                "value_scale": self.options.value_scale,
                "markers": self.markers,
                "um_per_px": plan.basis["um_per_px"],
                **{key: plan.basis[key] for key in ("inside",) if key in plan.basis},
                "precision": self.engine.describe()["precision"],
            },
            weights_sha256="+".join(model.weights_sha256 for model in self.models),
            pixels=plan.basis["pixels"],
            geometry="",
            channels=plan.basis["channels"],
            normalization=[[model.describe(), digest(model.card.validation)] for model in self.models],
            algorithm=ALGORITHM,
        )

    def prepare(self, run: Run, workspace: Workspace, plans: Sequence[Plan], progress: Progress) -> None:
        """Images do not depend on each other before :meth:`finish`."""

    def compute(self, run: Run, pulled: Pulled, plan: Plan, folder: Path, progress: Progress) -> Outcome:
        image = named(pulled.image, self.panel)
        if image.identity != plan.basis["pixels"]:
            raise ChangedMeanwhile(f"image {plan.ref} was changed while the run was under way", hint="Run again")
        region = planned_region(pulled, self.options.inside, plan.basis)
        job = _ImageJob(self, image, progress, region)
        found = job.found()
        folder.mkdir(parents=True, exist_ok=True)
        save_found(found, folder)
        job.save_pictures(found, folder)
        results = Results(image=pulled.ref, run_id=run.run_id, provenance={"task": self.name, "run": run.run_id})
        counts = {"tested": tests_of([found]), "steps_back": list(self.engine.steps_back)}
        return Outcome(results, counts, notes=tuple(job.notes))

    def rows(self, run: Run) -> list[Row]:
        """The verdicts over all images that are done, tested together. Raises BrokenFile."""
        done = self._done(run)
        found = [load_found(run.folder_of(image)) for image in done]
        return judge([(image.name, image.id) for image in done], found, self.ranges)

    @staticmethod
    def _done(run: Run) -> list[ImageRecord]:
        return [image for image in run.images if image.status in ("computed", "published")]

    def finish(self, run: Run) -> None:
        """``qc.csv``, pictures of what is flagged, and in ``qc_blocks.csv`` where its bad blocks are."""
        rows = self.rows(run)
        write_csv(pd.DataFrame([asdict(r) for r in rows], columns=[f.name for f in fields(Row)]), run.path / TABLE)
        places: list[tuple[Any, ...]] = []
        for row, path in self.pictures(run, rows):
            picture = MarkerPicture.load(path.parent.parent, row.model, row.marker)
            draw_marker(picture, path, f"{row.image}: {row.marker}, {row.verdict}")
            high, wide = picture.um
            places += [
                (
                    row.image,
                    row.image_id,
                    row.marker,
                    row.model,
                    x * wide,
                    y * high,
                    wide,
                    high,
                    round(float(picture.blocks[y, x]), 3),
                )
                for y, x in np.argwhere(picture.bad)
            ]
        self._remove_pictures_but({path for _, path in self.pictures(run, rows)}, run)
        write_csv(pd.DataFrame(places, columns=BLOCK_COLUMNS), run.path / BLOCKS)
        found = [load_found(run.folder_of(image)) for image in self._done(run)]
        run.details["qc"] = {
            "tests": tests_of(found),
            "correction": CORRECTION,
            "alpha": ALPHA,
            "verdicts": dict(Counter(row.verdict for row in rows)),
        }

    def _remove_pictures_but(self, wanted: Collection[Path], run: Run) -> None:
        """Of what was flagged among fewer tests, before the last images were done."""
        for image in self._done(run):
            folder = run.folder_of(image)
            ours = plain_names([f"{marker} ({model})" for model, marker in MarkerPicture.names(folder)])
            for path in (folder / PICTURES / f"{name}.png" for name in ours):
                if path not in wanted:
                    path.unlink(missing_ok=True)

    def is_finished(self, run: Run) -> bool:
        if not all((run.path / name).is_file() for name in (TABLE, BLOCKS)):
            return False
        return all(path.is_file() for _, path in self.pictures(run, self.rows(run)))

    def pictures(self, run: Run, rows: Sequence[Row]) -> Iterator[tuple[Row, Path]]:
        """What is flagged, and where its picture goes. Raises BrokenFile."""
        for image in self._done(run):
            folder = run.folder_of(image)
            kept = MarkerPicture.names(folder)
            flagged = [r for r in rows if r.image_id == image.id and r.is_flag and (r.model, r.marker) in kept]
            names = plain_names([f"{row.marker} ({row.model})" for row in flagged])
            yield from ((row, folder / PICTURES / f"{name}.png") for row, name in zip(flagged, names, strict=True))

    def raise_for_flags(self, rows: Sequence[Row], run: Run) -> None:
        """Raise QualityFlagged when anything is flagged."""
        flags = [row for row in rows if row.is_flag]
        if flags:
            named = "; ".join(f"{row.image}: {row.marker} ({row.verdict})" for row in flags[:5])
            more = f" and {len(flags) - 5} more" if len(flags) > 5 else ""
            raise QualityFlagged(
                f"{len(flags)} of {len(rows)} stains are flagged: {named}{more}", hint=f"See {run.path / TABLE}"
            )


@dataclass
class _ImageJob:
    """Everything about one image: look with each model, then ask why."""

    task: QcTask
    image: Any
    progress: Progress
    region: Region | None = None
    notes: list[str] = field(default_factory=list)
    looks: list[tuple[Asked, Look]] = field(default_factory=list)
    agreements: dict[Key, Agreement] = field(default_factory=dict)
    bad_blocks: dict[Key, NDArray[np.bool_]] = field(default_factory=dict)

    def found(self) -> list[Found]:
        """One per marker and model; then channels that hold nothing and that no model judges."""
        rows: list[Found] = []
        for model in self.task.models:
            asked = Asked.of(model, self.image, self.task.markers)
            if asked.why_not:
                plain = Found(self.task.label(model), model.weights_sha256, "", why_not=asked.why_not)
                rows += [replace(plain, marker=m) for m in asked.markers]
            elif asked.markers:
                rows += self._look(asked)
        return self._with_causes(self._with_channels(rows))

    def _look(self, asked: Asked) -> list[Found]:
        model, options = asked.model, self.task.options
        expected = self.task.expected[model.weights_sha256]
        seen = look(
            asked,
            self.image,
            self.task.engine,
            value_scale=options.value_scale,
            region=self.region,
            progress=self._step(model.name),
        )
        self.looks.append((asked, seen))
        notes = (note.removeprefix(f"{self.image.name}: ") for note in seen.notes)  # whoever tells them names the image
        self.notes += [note for note in notes if note not in self.notes]
        rows = []
        for k, marker in enumerate(seen.markers):
            plain = Found(
                self.task.label(model), model.weights_sha256, marker, why_not=expected.why_not.get(marker, "")
            )
            if not plain.why_not:
                plain = self._compared(plain, seen, k, expected.ranges[marker])
            rows.append(plain)
        return rows

    def _compared(self, plain: Found, seen: Look, k: int, known: Range) -> Found:
        agreement = seen.sums.agreement(k, known.low_signal)
        at = plain.weights, plain.marker
        self.agreements[at] = agreement
        self.bad_blocks[at] = known.bad_blocks(agreement)
        return replace(
            plain,
            agreement=agreement.image,
            pearson=agreement.pixels,
            used=agreement.used,
            skipped=agreement.skipped,
            bad_blocks=int(self.bad_blocks[at].sum()),
        )

    def _with_channels(self, rows: Sequence[Found]) -> list[Found]:
        """What the channels themselves show: dead ones, and such as training has not seen."""
        out, told = list(rows), set()
        for asked, seen in self.looks:
            model, expected = asked.model, self.task.expected[asked.model.weights_sha256]
            for marker, summary in seen.inputs.summaries().items():
                dead = nothing_in(summary)
                odd = expected.inputs[marker].what_is_wrong(summary) if marker in expected.inputs and not dead else ""
                mine = [n for n, row in enumerate(out) if row.marker == marker and row.weights == model.weights_sha256]
                broken = bool(dead) and is_broken(summary)
                for n in mine:
                    out[n] = replace(out[n], dead=dead, odd=odd, broken=broken)
                if (dead or odd) and not any(row.marker == marker for row in out) and marker not in told:
                    told.add(marker)
                    lost = Found(self.task.label(model), model.weights_sha256, marker, why_not="no model judges it")
                    out.append(replace(lost, dead=dead, odd=odd, broken=broken))
        return out

    def _with_causes(self, rows: list[Found]) -> list[Found]:
        """Look for the causes of markers that do not agree."""
        suspicious = self._suspicious(rows)
        if not suspicious:
            return rows
        bad = [row.marker for row in rows if row.dead or row.odd]
        judged = {row.marker for row in rows if not row.why_not}
        others = [m for m in dict.fromkeys(c for asked, _ in self.looks for c in asked.channels) if m not in judged]
        worst = suspicious[0].asked.model.weights_sha256
        used = sum(self._where(one) for one in suspicious if key(one)[0] == worst)
        um = next(seen.um_per_px for asked, seen in self.looks if asked.model.weights_sha256 == worst)
        crops = list(choose_crops(self.image, np.asarray(used), um))
        search = Search(
            image=self.image,
            engine=self.task.engine,
            suspicious=suspicious,
            models=self.task.models,
            bad=bad,
            others=others,
            value_scale=self.task.options.value_scale,
            progress=self._step("looking for the cause"),
        )
        search.run(crops)
        out = []
        for row in rows:
            at = row.weights, row.marker
            out.append(replace(row, cause=search.causes.get(at), hangs_on=search.hangs_on.get(at, ())))
        return out

    def _where(self, one: Suspicious) -> NDArray[np.bool_]:
        """Blocks ``(by, bx)`` in which a marker's trouble can be seen."""
        return self.bad_blocks[key(one)] if one.patchy else np.isfinite(self.agreements[key(one)].blocks)

    def _suspicious(self, rows: Sequence[Found]) -> list[Suspicious]:
        """Markers that fail in places, or that would be flagged if each were the only one tested; the worst first."""
        asked_of = {asked.model.weights_sha256: asked for asked, _ in self.looks}
        out = []
        for row in rows:
            known = self.task.ranges.get((row.weights, row.marker))
            if row.why_not or known is None or not np.isfinite(row.agreement):
                continue
            p = known.windows.lowest_p(np.array(row.agreement))
            bad = bool(known.bad(np.array(row.agreement), p, known.windows))
            if bad or is_patchy(row):
                deficit = known.windows.deficit(row.agreement)
                out.append(Suspicious(asked_of[row.weights], row.marker, known, deficit, not bad))
        return sorted(out, key=lambda one: -one.deficit)

    def save_pictures(self, found: Sequence[Found], folder: Path) -> None:
        """Keep what pictures need of all markers that may turn out flagged when all images are known."""
        suspicious = {key(one) for one in self._suspicious(found)}
        causes = {channel for row in found if row.cause for channel in row.cause.channels}
        wanted = {(row.weights, row.marker) for row in found if row.dead or row.marker in causes}
        kept = []
        for asked, seen in self.looks:
            for k, marker in enumerate(seen.markers):
                at = asked.model.weights_sha256, marker
                if at not in suspicious and at not in wanted:
                    continue
                imputed, measured = seen.previews.of(k)
                blocks = self.agreements[at].blocks if at in self.agreements else seen.sums.pearson_blocks()[k]
                bad = self.bad_blocks.get(at, np.zeros(blocks.shape, bool))
                label, side = self.task.label(asked.model), seen.previews.side
                um = seen.um_per_px[0] * BLOCK, seen.um_per_px[1] * BLOCK
                kept.append(MarkerPicture(label, marker, measured, imputed, blocks, bad, side, um))
        MarkerPicture.save_all(kept, folder)

    def _step(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress.step(what, done, total)
