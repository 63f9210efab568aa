"""``mxbridge translate``: a brightfield slide as inferred images, nuclei and scores.

The networks end at the inferred images (*maps*), which stay in the run folder. Nuclei, classes, outlines and scores depend on
these images and on thresholds only, so that they are found again without networks (``--rescore``), or in pictures made
elsewhere (``--from-seg``), by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mxbridge.errors import ChangedMeanwhile, InputError, NoPixelSize
from mxbridge.progress import SILENT, Progress
from mxbridge.results import DerivedImage, ImageRef, Results
from mxbridge.runs import ImageRecord, Run, digest, fingerprint, result_key
from mxbridge.tasks.mapping.derived_channels import shown_channels, write_brightfield, write_channels
from mxbridge.tasks.over_images import Finished, Outcome, Plan, run_over_images
from mxbridge.tasks.regions import Annotations, choose
from mxbridge.tasks.translating import files, tables
from mxbridge.tasks.translating.finding import Found, find
from mxbridge.tasks.translating.map_sources import FoundMaps, MapPlan, MapSource, Tell
from mxbridge.tasks.translating.objects import new_objects, nuclei_table
from mxbridge.tasks.translating.options import TranslateOptions
from mxbridge.tasks.translating.scores import NO_CELLS, image_values, measurements
from mxbridge.workspaces.base import CellKind, Pulled, Workspace

ALGORITHM = "translate 1"
"""Part of every fingerprint; raised when the numbers of an unchanged run would change."""

SEAM_LEVELS = 5.0
"""Grey levels by which windows may differ where they meet before people are told."""


def translate(
    workspace: Workspace,
    source: MapSource,
    options: TranslateOptions,
    *,
    images: Sequence[str] = (),
    out: Path | None = None,
    publish: bool = True,
    resume: bool = True,
    progress: Progress = SILENT,
) -> Finished:
    """Translate the images of a workspace (all, or those named) and publish nuclei, scores and channels there.

    Raises MxbridgeError for what stops everything; errors of single images are in the answer
    (:meth:`~mxbridge.tasks.over_images.Finished.raise_for_errors`).
    """
    refs = workspace.list(images)
    if not refs:
        raise InputError(f"{workspace.address} holds no images")
    task = TranslateTask(source, options)
    return run_over_images(
        workspace, refs, task, all_named=bool(images), out=out, publish=publish, resume=resume, progress=progress
    )


@dataclass
class TranslateTask:
    """Inferred images, nuclei and scores as a task of :mod:`mxbridge.tasks.over_images`."""

    source: MapSource
    options: TranslateOptions
    name: str = "translate"
    cell_kind: CellKind = "annotations"
    inside: tuple[str, ...] = field(default=(), init=False)
    workspace: Workspace | None = field(default=None, init=False)

    def describe(self) -> dict[str, Any]:
        return {"model": self.source.model, "options": {**vars(self.options), **self.source.machine}}

    def key(self, target: str, model: str, ref: ImageRef) -> str:
        return result_key(task=self.name, model=model, target=target, source=ref.id)

    # --- what will be done ---

    def plan(self, pulled: Pulled) -> Plan:
        image, ref = pulled.image, pulled.ref
        annotations = self._annotations(pulled)
        maps = self.source.plan(image, ref, annotations)
        if self.options.needs_scale and not maps.scaled:
            raise NoPixelSize(image.name)
        there = annotations.cells
        return Plan(
            ref=ref,
            basis={
                "result_keys": [self.key(target, maps.system.name, ref) for target in self._targets(maps)],
                "targets": self._targets(maps),
                "pixels": image.identity,
                "annotations": "" if there is None else there.geometry_hash(),
                "classes": digest([annotations.classes, annotations.labels]),
                "limited": annotations.limiting,
                "maps": maps.fingerprint,
                "images": maps.images,
                "um_per_px": image.pixel_size_um,
            },
            counts={"annotations": len(annotations.ids)},
            warnings=(*pulled.all_warnings, *maps.warnings, *annotations.warnings),
            notes=maps.notes,
        )

    def _annotations(self, pulled: Pulled) -> Annotations:
        return choose(pulled, self.options.inside) if self.options.wants_nuclei else Annotations(None)

    def _targets(self, maps: MapPlan) -> list[str]:
        """What is made of one image: the last part of result keys."""
        targets = []
        if self.options.wants_nuclei:
            targets.append("score")
        if self.options.wants_objects:
            targets += self._nuclei_targets(maps)
        if self.options.wants_channels:
            targets += ["channels", *(name.lower() for name in self._pictures(maps))]
        return targets

    def _nuclei_targets(self, maps: MapPlan) -> list[str]:
        segs = maps.system.segs
        return ["nuclei"] if len(segs) == 1 else [f"nuclei {seg.lower()}" for seg in segs]

    def _pictures(self, maps: MapPlan) -> list[str]:
        """Inferred images that are shown in their colours."""
        return [name for name in maps.system.brightfield if name in maps.images]

    def fingerprint(self, plan: Plan, plans: Sequence[Plan]) -> str:
        basis = plan.basis
        return fingerprint(
            result_keys=basis["result_keys"],
            options={**self.options.that_decide_nuclei(), "um_per_px": basis["um_per_px"]},
            weights_sha256="",  # part of the maps' fingerprint
            pixels=basis["pixels"],
            geometry=digest([basis["annotations"], basis["classes"], basis["limited"]]),
            channels={name: k for k, name in enumerate(basis["images"])},
            normalization=basis["maps"],
            algorithm=ALGORITHM,
        )

    def prepare(self, run: Run, workspace: Workspace, plans: Sequence[Plan], progress: Progress) -> None:
        self.workspace = workspace
        run.warnings = list(self.source.warnings)
        for warning in run.warnings:
            progress.warning(warning)

    # --- doing it ---

    def compute(self, run: Run, pulled: Pulled, plan: Plan, folder: Path, progress: Progress) -> Outcome:
        ref, annotations = pulled.ref, self._annotations(pulled)
        maps = self.source.plan(pulled.image, ref, annotations)
        drawn = "" if annotations.cells is None else annotations.cells.geometry_hash()
        now = {"pixels": pulled.image.identity, "maps": maps.fingerprint, "annotations": drawn}
        if any(plan.basis[what] != state for what, state in now.items()):
            raise ChangedMeanwhile(f"image {ref} was changed while the run was under way", hint="Run again")

        def tell(what: str) -> Callable[[int, int], None]:
            return lambda done, total: progress.step(what, done, total)

        got = self.source.maps(pulled.image, ref, maps, annotations, folder, tell)
        found = find(got, maps, annotations, self.options, tell) if self.options.wants_nuclei else []
        derived = self._derived(got, maps, ref, folder, tell) if self.options.wants_channels else []
        results = self._results(run, ref, maps, got, annotations, found, derived)
        self._write_files(got, maps, annotations, found, results, folder)
        counts = {
            "nuclei": sum(len(one) for one in found),
            "maps": got.made,
            "found": [{"prefix": one.prefix, "scores": [score.to_record() for score in one.scores]} for one in found],
        }
        if found:
            counts["score"] = files.peer_document(found)
        empty = [f"{NO_CELLS} ({one.prefix})" for one in found if not len(one)]
        return Outcome(results, counts, (*got.warnings, *empty), (*got.notes, *_about_seams(got, maps)))

    def _marker(self, maps: MapPlan) -> str:
        """What people call the marker."""
        return self.options.marker or maps.system.marker_image or "marker"

    def _derived(self, got: FoundMaps, maps: MapPlan, ref: ImageRef, folder: Path, tell: Tell) -> list[DerivedImage]:
        in_project = self.workspace is not None and self.workspace.derived_folder(ref) is not None
        version: Literal["0.4", "0.5"] = "0.4" if in_project else "0.5"  # QuPath reads no later one
        system = maps.system
        channels = shown_channels(got.maps, system.fluorescence, system.segs, system.marker_image, self.options.marker)
        key = self.key("channels", system.name, ref)
        made = [write_channels(got.maps, got.image, channels, key, folder, version, tell("writing channels"))]
        for name in self._pictures(maps):
            key = self.key(name.lower(), system.name, ref)
            made.append(write_brightfield(got.maps, got.image, name, key, folder, version, tell(f"writing {name}")))
        return made

    def _results(
        self,
        run: Run,
        ref: ImageRef,
        maps: MapPlan,
        got: FoundMaps,
        annotations: Annotations,
        found: Sequence[Found],
        derived: Sequence[DerivedImage],
    ) -> Results:
        key, marker = self.key("score", maps.system.name, ref), self._marker(maps)
        objects = []
        if self.options.wants_objects:
            for target, one in zip(self._nuclei_targets(maps), found, strict=True):
                nuclei = self.key(target, maps.system.name, ref)
                objects.append(new_objects(one, annotations, got.image, self.options, marker, nuclei))
        return Results(
            image=ref,
            run_id=run.run_id,
            cell_ids=annotations.ids,
            measurements=tuple(m for one in found for m in measurements(one.prefix, run.run_id, one.scores[1:], key))
            if annotations.ids
            else (),
            objects=tuple(objects),
            derived=tuple(derived),
            image_values=tuple(v for one in found for v in image_values(one.prefix, run.run_id, one.scores[0], key)),
            provenance={
                "task": self.name,
                "run": run.run_id,
                **self.source.model,
                "maps": got.made,
                "options": self.options.that_decide_nuclei(),
                "thresholds": {one.prefix: one.scores[0].to_record() for one in found},
            },
        )

    def _write_files(
        self,
        got: FoundMaps,
        maps: MapPlan,
        annotations: Annotations,
        found: Sequence[Found],
        results: Results,
        folder: Path,
    ) -> None:
        if found:
            rows, ids = [], {}
            for target, one in zip(self._nuclei_targets(maps), found, strict=True):
                ids[one.seg] = self._object_ids(results.image, self.key(target, maps.system.name, results.image), one)
                rows.append(
                    nuclei_table(
                        one, ids[one.seg], annotations, got.image, results.image, self.options, self._marker(maps)
                    )
                )
            tables.write_nuclei(tables.joined(rows), folder)
            if results.objects:
                files.write_geojson(found, results, ids, folder)
        files.write_overlays(got, found, folder)
        if maps.compat:
            files.write_peer_files(got, maps, found, results.image.name, folder)

    def _object_ids(self, ref: ImageRef, key: str, found: Found) -> Sequence[str]:
        """What nuclei are called in the workspace."""
        return found.keys if self.workspace is None else self.workspace.object_ids(ref, key, found.keys)

    # --- over all images ---

    def is_finished(self, run: Run) -> bool:
        wanted = tables.expected(_done(run)) if self.options.wants_nuclei else ()
        return all((run.path / name).is_file() for name in wanted)

    def finish(self, run: Run) -> None:
        """Tables over all images: one row per nucleus, and one per score."""
        if self.options.wants_nuclei:
            tables.join_nuclei(run, _done(run))
            tables.write_scores(run, _done(run))


def summary(run: Run) -> list[dict[str, Any]]:
    """One row per finished image and annotation."""
    return tables.score_rows(_done(run))


def _about_seams(got: FoundMaps, maps: MapPlan) -> list[str]:
    """What people should know of windows that see the same place differently."""
    seen = got.made.get("disagreement") or {}
    most = max((float(seen.get(seg) or 0) for seg in maps.system.segs), default=0.0)
    if maps.compat or not most >= SEAM_LEVELS:
        return []
    return [f"neighbouring windows differ by {most:.0f} grey levels where they meet; --statistics slide avoids that"]


def _done(run: Run) -> list[ImageRecord]:
    return [image for image in run.images if image.status in ("computed", "published")]
