"""``mxbridge importance``: which measured markers an imputed marker is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mxbridge.errors import ChangedMeanwhile, InputError, NotApplicable, UsageError
from mxbridge.formats.atomic import write_atomically
from mxbridge.formats.cell_tables import write_csv
from mxbridge.image import LocalImage
from mxbridge.models.attribution import AttributionSettings
from mxbridge.models.maxim import Maxim
from mxbridge.models.maxim_stream import listed
from mxbridge.panel import read_panel
from mxbridge.progress import SILENT, Progress
from mxbridge.report.importance_plot import draw_importance
from mxbridge.results import Results
from mxbridge.runs import ImageRecord, Run, fingerprint, result_key
from mxbridge.stream.engine import Engine
from mxbridge.tasks.importance_of_image import Importance, ImportanceJob, Places, load, save
from mxbridge.tasks.imputing.chain import targets_wanted
from mxbridge.tasks.imputing.named_channels import named
from mxbridge.tasks.judging.one_image import refuse_repeated
from mxbridge.tasks.over_images import Finished, Outcome, Plan, run_over_images
from mxbridge.tasks.score_maps import plain_names
from mxbridge.workspaces.base import CellKind, Pulled, Workspace

ALGORITHM = "importance 1"
TABLE, PAIRS, PLOT = "attributions.csv", "attribution_pairs.csv", "importance.png"
KINDS = ("absolute", "positive", "negative")
COLUMNS = [
    *("image", "image_id", "target", "model", "input"),
    *(*KINDS, *(f"{kind}_percent" for kind in KINDS)),
    *("change", "delta", "places", "possible", "side_y", "side_x"),
]
PEER_KINDS = {"abs": "absolute", "pos": "positive", "neg": "negative"}


@dataclass(frozen=True)
class ImportanceOptions:
    """See ``mxbridge importance --help``. markers: only these targets. compat: reproduce the published program's files, with
    images padded to ``compat_pad``; ``split`` stands in their names."""

    markers: tuple[str, ...] = ()
    settings: AttributionSettings = field(default_factory=AttributionSettings)
    places: Places = field(default_factory=Places)
    panel: Path | None = None
    value_scale: float | None = None
    compat: str | None = None
    compat_pad: int = 2048
    split: str = "test"

    def __post_init__(self) -> None:
        if min(self.places.crop, self.places.patches) < 1:
            raise UsageError("--crop and --patches must be positive")
        if self.places.seed < 0:
            raise UsageError(f"--seed {self.places.seed} is not possible", hint="Give 0 or more")
        if not self.split.replace("-", "").replace("_", "").isalnum():
            raise UsageError(f"--compat-split {self.split!r} becomes part of file names", hint="Use letters and digits")

    @property
    def pad(self) -> int | None:
        return self.compat_pad if self.compat else None


def importance(
    workspace: Workspace,
    models: Sequence[Maxim],
    engine: Engine,
    options: ImportanceOptions = ImportanceOptions(),
    *,
    images: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = True,
    progress: Progress = SILENT,
) -> tuple[Finished, pd.DataFrame]:
    """Attribute imputed markers to the markers they came from, in a workspace's images (all, or those named).

    Answers with the table of :meth:`ImportanceTask.table`. Nothing is written but the run's folder. Raises MxbridgeError for
    what stops everything; errors of single images are in the answer.
    """
    refs = workspace.list(images)
    if not refs:
        raise InputError(f"{workspace.address} holds no images")
    task = ImportanceTask(models, engine, options)
    finished = run_over_images(
        workspace, refs, task, all_named=bool(images), out=out, publish=False, resume=resume, progress=progress
    )
    return finished, task.table(finished.run)


@dataclass
class ImportanceTask:
    """Attribution as a task of :mod:`mxbridge.tasks.over_images`. Raises UnknownName for markers of no model."""

    models: Sequence[Maxim]
    engine: Engine
    options: ImportanceOptions
    name: str = "importance"
    cell_kind: CellKind = field(default="cells", init=False)
    inside: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        refuse_repeated(self.models)
        self.panel = read_panel(self.options.panel) if self.options.panel else ()
        outputs = list(dict.fromkeys(m for model in self.models for m in model.outputs))
        self.markers = targets_wanted(self.options.markers, self.models) or tuple(outputs)

    def describe(self) -> dict[str, Any]:
        options = {
            **{k: str(v) if isinstance(v, Path) else v for k, v in vars(self.options).items()},
            "settings": asdict(self.options.settings),
            "places": asdict(self.options.places),
        }
        return {
            "model": {"models": [model.describe() for model in self.models]},
            "options": {**options, **self.engine.describe()},
        }

    def label(self, model: Maxim) -> str:
        """The model's name, made unique where another of that name imputes the same marker."""
        alike = [m for m in self.models if m.name == model.name and set(m.outputs) & set(model.outputs)]
        return model.name if len(alike) == 1 else f"{model.name} {model.weights_sha256[:6]}"

    def _asked(self) -> list[tuple[Maxim, list[str]]]:
        """Models with the targets asked of them."""
        asked = [(model, [m for m in model.outputs if m in self.markers]) for model in self.models]
        return [(model, targets) for model, targets in asked if targets]

    def _job(self, model: Maxim, image: LocalImage) -> ImportanceJob:
        return ImportanceJob(
            model,
            self.label(model),
            image,
            self.engine,
            value_scale=self.options.value_scale,
            compat_pad=self.options.pad,
        )

    def plan(self, pulled: Pulled) -> Plan:
        image = named(pulled.image, self.panel)
        if image.rgb:
            raise NotApplicable(
                f"image {pulled.ref} is a colour picture (RGB), not an image of markers",
                hint="Attribution needs the inputs of an imputation model",
            )
        jobs = [self._job(model, image) for model, _ in self._asked()]
        notes = dict.fromkeys(note for job in jobs for note in job.notes)
        notes |= {f"{j.label} does without {listed(sorted(j.absent))}": None for j in jobs if j.absent}
        return Plan(
            ref=pulled.ref,
            basis={
                "result_keys": [
                    result_key(task=self.name, model=model.name, target=m, source=pulled.ref.id)
                    for model, targets in self._asked()
                    for m in targets
                ],
                "pixels": image.identity,
                "channels": {m: k for job in jobs for m, k in job.channels.items()},
                "um_per_px": image.pixel_size_um,
            },
            counts={"targets": sum(len(targets) for _, targets in self._asked())},
            warnings=pulled.all_warnings,
            notes=tuple(notes),
        )

    def fingerprint(self, plan: Plan, plans: Sequence[Plan]) -> str:
        options = self.options
        return fingerprint(
            result_keys=plan.basis["result_keys"],
            options={
                **{key: getattr(options, key) for key in ("value_scale", "compat", "pad", "split")},
                "method": [options.settings.method, options.settings.steps],
                "places": asdict(options.places),
                "um_per_px": plan.basis["um_per_px"],
            },
            weights_sha256="+".join(model.weights_sha256 for model, _ in self._asked()),
            pixels=plan.basis["pixels"],
            geometry="",
            channels=plan.basis["channels"],
            normalization=[model.describe() for model, _ in self._asked()],
            algorithm=ALGORITHM,
        )

    def prepare(self, run: Run, workspace: Workspace, plans: Sequence[Plan], progress: Progress) -> None:
        """Images do not depend on each other."""

    def compute(self, run: Run, pulled: Pulled, plan: Plan, folder: Path, progress: Progress) -> Outcome:
        image = named(pulled.image, self.panel)
        if image.identity != plan.basis["pixels"]:
            raise ChangedMeanwhile(f"image {plan.ref} was changed while the run was under way", hint="Run again")
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for model, targets in self._asked():
            job = self._job(model, image)
            for target in targets:
                keep = self._keeping(folder, pulled.ref.name, target, len(targets)) if self.options.compat else None
                step = self._step(progress, f"attributing {target}")
                found.append(job.attribute(target, self.options.settings, self.options.places, keep, step))
        save(found, folder)
        results = Results(image=pulled.ref, run_id=run.run_id, provenance={"task": self.name, "run": run.run_id})
        return Outcome(results, {"places": found[0].places}, notes=(_looked_at(found[0]),))

    @staticmethod
    def _keeping(folder: Path, name: str, target: str, targets: int) -> Callable[[NDArray[np.float32]], None]:
        stem = plain_names([Path(name).stem + ("" if targets == 1 else f"_{target}")])[0]

        def keep(maps: NDArray[np.float32]) -> None:
            with write_atomically(folder / f"{stem}_attr.npy") as part, part.open("wb") as stream:
                np.save(stream, maps, allow_pickle=False)

        return keep

    @staticmethod
    def _step(progress: Progress, what: str) -> Callable[[int, int], None]:
        return lambda done, total: progress.step(what, done, total)

    @staticmethod
    def _done(run: Run) -> list[tuple[ImageRecord, list[Importance]]]:
        done = [image for image in run.images if image.status in ("computed", "published")]
        return [(image, load(run.folder_of(image))) for image in done]

    def table(self, run: Run) -> pd.DataFrame:
        """One row per image, target and input: sums and percentages. Raises BrokenFile."""
        rows = []
        for image, found in self._done(run):
            for one in found:
                percents = {kind: one.percent(kind) for kind in KINDS}
                for k, marker in enumerate(one.inputs):
                    sums = {kind: getattr(one, kind)[k] for kind in KINDS}
                    shares = {f"{kind}_percent": float(percents[kind][k]) for kind in KINDS}
                    where = {"image": image.name, "image_id": image.id, "target": one.target, "model": one.model}
                    about = {"change": one.change, "delta": one.delta, "places": one.places, "possible": one.possible}
                    side = {"side_y": one.side[0], "side_x": one.side[1]}
                    rows.append({**where, "input": marker, **sums, **shares, **about, **side})
        return pd.DataFrame(rows, columns=COLUMNS)

    def pairs(self, run: Run) -> pd.DataFrame:
        """Per target and pair of inputs the correlation of their maps: mean over images, and in how many it is known."""
        values: dict[tuple[str, str, str, str], list[float]] = {}
        for _, found in self._done(run):
            for one in found:
                for i, first in enumerate(one.inputs):
                    for j, second in enumerate(one.inputs[:i]):
                        values.setdefault((one.target, one.model, second, first), []).append(one.correlation[i][j])
        rows = []
        for (target, model, first, second), seen in values.items():
            known = [v for v in seen if np.isfinite(v)]
            mean = float(np.mean(known)) if known else np.nan
            rows.append((target, model, first, second, mean, len(known)))
        return pd.DataFrame(rows, columns=["target", "model", "first", "second", "correlation", "images"])

    def finish(self, run: Run) -> None:
        """Tables over all images, and their picture; under compat the published program's tables too."""
        table, pairs = self.table(run), self.pairs(run)
        for name, frame in ((TABLE, table), (PAIRS, pairs)):
            write_csv(frame, run.path / name)
        draw_importance(table, pairs, run.path / PLOT)
        if self.options.compat:
            for path, frame in self._peer_tables(run):
                write_csv(frame, path)

    def is_finished(self, run: Run) -> bool:
        wanted = [run.path / name for name in (TABLE, PAIRS, PLOT)]
        wanted += [path for path, _ in self._peer_tables(run)] if self.options.compat else []
        return all(path.is_file() for path in wanted)

    def _peer_tables(self, run: Run) -> list[tuple[Path, pd.DataFrame]]:
        """The published program's three tables, per target where there are several: inputs in panel order, then image_path."""
        done = self._done(run)
        targets = list(dict.fromkeys((one.target, one.model) for _, found in done for one in found))
        out = []
        for target, model in targets:
            plain = f"{self.options.split}_{self.options.compat_pad}_{self.options.compat_pad}"
            stem = f"attributions_{plain}" + ("" if len(targets) == 1 else f"_{plain_names([target])[0]}")
            for short, kind in PEER_KINDS.items():
                rows = [
                    {**dict(zip(one.inputs, getattr(one, kind), strict=True)), "image_path": image.name}
                    for image, found in done
                    for one in found
                    if (one.target, one.model) == (target, model)
                ]
                out.append((run.path / f"{stem}_attributions_{short}.csv", pd.DataFrame(rows)))
        return out


def _looked_at(one: Importance) -> str:
    high, wide = one.side
    if one.possible == 1:
        return f"looked at whole, {wide} x {high} px at the model's scale"
    return f"looked at {one.places} of {one.possible} squares of {wide} px at the model's scale (drawn at random, blank ones left out)"
