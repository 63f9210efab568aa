"""Where the inferred images of a slide come from: networks, an earlier run, or pictures made elsewhere.

Everything behind them is the same code: nuclei depend on these images and on thresholds only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mxbridge.errors import InputError, MxbridgeError, UsageError
from mxbridge.image import LocalImage
from mxbridge.models.translators import Translator, Weighting
from mxbridge.results import ImageRef
from mxbridge.runs import Run, digest
from mxbridge.tasks.mapping.colours import colours_of
from mxbridge.tasks.mapping.maps import Geometry, Maps, MapSettings, map_basis
from mxbridge.tasks.mapping.windows_run import make_maps
from mxbridge.tasks.regions import Annotations
from mxbridge.tasks.translating.kept_maps import MAPS, KeptMaps, all_kept, choose_kept
from mxbridge.tasks.translating.options import NONE, TranslateOptions
from mxbridge.tasks.translating.system import System
from mxbridge.workspaces.base import Workspace

if TYPE_CHECKING:
    from mxbridge.stream.engine import Engine

Tell = Callable[[str], Callable[[int, int], None]]


@dataclass(frozen=True)
class MapPlan:
    """What the maps of one image will be, decided without its pixels.

    fingerprint: of all that decides their pixels but for ``images``, the names that are needed. compat, tile_size: how the
    published program would cut the image. scaled: whether their pixels have a size in µm. warnings, notes: for people.
    """

    fingerprint: str
    images: tuple[str, ...]
    system: System
    compat: bool = False
    tile_size: int | None = None
    scaled: bool = True
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundMaps:
    """Maps, open. made: how they came about, for run.json. image: the slide as it was when they were made."""

    maps: Maps
    image: LocalImage
    made: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class MapSource(Protocol):
    """Gives the maps of an image. model: what run.json says of what makes them. machine: on what they are made. warnings: of the
    model."""

    @property
    def warnings(self) -> tuple[str, ...]: ...

    @property
    def model(self) -> dict[str, Any]: ...

    @property
    def machine(self) -> dict[str, Any]: ...

    def plan(self, image: LocalImage, ref: ImageRef, annotations: Annotations) -> MapPlan:
        """Raises MxbridgeError where an image cannot be done."""
        ...

    def maps(
        self, image: LocalImage, ref: ImageRef, plan: MapPlan, annotations: Annotations, folder: Path, tell: Tell
    ) -> FoundMaps: ...


@dataclass
class NetworkMaps:
    """Maps made by a translator, or those that an earlier run made in the same way.

    reuse: whether earlier runs are asked at all.
    """

    translator: Translator
    engine: Engine
    options: TranslateOptions
    workspace: Workspace
    reuse: bool = True

    def __post_init__(self) -> None:
        if self.options.wants_nuclei:
            System.of(self.translator).require_segs(f"--outputs {self.options.outputs}")
        if self.options.marker_threshold != NONE and self.translator.marker_image is None:
            raise UsageError(
                f"{self.translator.name} makes no marker image for --marker-threshold", hint="Leave it out"
            )
        if self.options.compat and self.translator.samples_slide:
            raise UsageError(
                f"--compat deepliif is not for {self.translator.name}", hint="It is for models of DeepLIIF"
            )
        if self.options.compat and self.precision != "float32":
            raise UsageError("--compat reproduces float32 numbers", hint="Leave --precision out")
        weighting = _weighting(self.translator, self.options)
        images = self.translator.images_for(self.options.outputs, separate=self.options.separate)
        self.settings = MapSettings(
            compat=self.options.compat is not None,
            tile_size=self.options.tile_size,
            statistics=self.options.statistics,
            overlap=self.translator.overlap,
            weighting=weighting,
            images=tuple(images),
        )

    @property
    def model(self) -> dict[str, Any]:
        system = System.of(self.translator)
        weighting = self.settings.weighting
        return {
            "name": system.name,
            "system": system.to_record(),
            "weighting": None if weighting is None else weighting.to_json(),
            **self.translator.describe(),
        }

    @property
    def machine(self) -> dict[str, Any]:
        return self.engine.describe()

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.translator.warnings

    @cached_property
    def earlier(self) -> dict[str, list[KeptMaps]]:
        """Maps of earlier runs by fingerprint."""
        return all_kept(self.workspace.runs_home) if self.reuse else {}

    @property
    def precision(self) -> str:
        return str(self.engine.describe()["precision"])

    def translator_for(self, ref: ImageRef) -> tuple[Translator, tuple[str, ...]]:
        """The translator for one image, which has its own stain vectors where the project knows them, and notes."""
        with_stains = getattr(self.translator, "with_stains", None)
        vectors = None if with_stains is None or self.options.stains else self.workspace.stain_vectors(ref)
        if with_stains is None or vectors is None:
            return self.translator, ()
        return with_stains(vectors), (f"{ref.name}: stain vectors of the project ({vectors.name})",)

    def plan(self, image: LocalImage, ref: ImageRef, annotations: Annotations) -> MapPlan:
        translator, notes = self.translator_for(ref)
        basis = map_basis(translator, image, self.settings)
        del basis["images"]  # those of an earlier run may be more than are needed
        return MapPlan(
            fingerprint=digest([basis, self.precision]),
            images=self.settings.images,
            system=System.of(translator),
            compat=self.settings.compat,
            tile_size=Geometry.of(translator, image, self.settings).grid.side if self.settings.compat else None,
            warnings=colours_of(image).warnings,
            notes=notes,
        )

    def maps(
        self, image: LocalImage, ref: ImageRef, plan: MapPlan, annotations: Annotations, folder: Path, tell: Tell
    ) -> FoundMaps:
        earlier = self.earlier.get(plan.fingerprint, [])
        kept = choose_kept(earlier, folder, plan.fingerprint, plan.images, annotations.limit_hash)
        if kept is not None and (maps := _opened(kept)) is not None:
            elsewhere = kept.folder != folder
            kept.save(folder)
            notes = (f"the inferred images are those of an earlier run ({kept.maps}): no network was run",)
            return FoundMaps(maps, image, kept.made, notes=notes if elsewhere else ())
        translator, _ = self.translator_for(ref)
        made = make_maps(
            image, translator, self.engine, self.settings, folder / "work", folder / MAPS, annotations.limit, tell
        )
        record = KeptMaps(
            fingerprint=plan.fingerprint,
            pixels=image.identity,
            images=plan.images,
            system=plan.system,
            inside=annotations.limit_hash,
            um_per_px=image.pixel_size_um,
            compat=plan.compat,
            tile_size=plan.tile_size,
            made=made.describe(),
            folder=folder,
        )
        record.save(folder)
        return FoundMaps(made.maps, image, record.made, tuple(made.warnings))


def _weighting(translator: Translator, options: TranslateOptions) -> Weighting | None:
    """How segmentations are averaged, None where nothing is. Raises UsageError."""
    if not translator.n_segs:
        if options.weighting is not None:
            raise UsageError(f"{translator.name} averages no segmentations", hint="Leave --weighting out")
        return None
    if options.compat and options.weighting is None:
        return translator.peer_weighting()
    return Weighting.parse(options.weighting, translator.n_segs)


def _opened(kept: KeptMaps) -> Maps | None:
    """Maps that are whole, or None: they can be made again."""
    try:
        return Maps.open(kept.maps)
    except MxbridgeError:
        return None


@dataclass
class RunMaps:
    """Maps that an earlier run has left, for ``--rescore``. by_id: of its images, by their ids."""

    run: Run
    options: TranslateOptions
    by_id: Mapping[str, KeptMaps]
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Run, options: TranslateOptions) -> RunMaps:
        """Raises UsageError for a run of another task, BrokenFile for a damaged record."""
        if run.task != "translate":
            raise UsageError(f"{run.path} is a run of `{run.task}`, not of `translate`", hint="Name a translate run")
        found = {image.id: KeptMaps.load(run.folder_of(image)) for image in run.images}
        by_id = {image: kept for image, kept in found.items() if kept is not None}
        if not by_id:
            raise InputError(f"{run.path} has no inferred images", hint="Finish it first: run its command again")
        return cls(run, options, by_id)

    @property
    def images(self) -> tuple[str, ...]:
        """Ids of the images of the run, but for those that failed there."""
        return tuple(image.id for image in self.run.images if image.error is None)

    @property
    def model(self) -> dict[str, Any]:
        return {**self.run.model, "rescored": self.run.run_id}

    @property
    def machine(self) -> dict[str, Any]:
        return {}

    def plan(self, image: LocalImage, ref: ImageRef, annotations: Annotations) -> MapPlan:
        kept = self._kept(image, ref)
        images = _needed(kept.system, kept.images, separate=self.options.separate, where=str(self.run.path))
        if kept.inside and kept.inside != annotations.limit_hash:
            raise InputError(
                f"image {ref}: run {self.run.run_id} inferred images only inside annotations that were others, or have changed",
                hint="Run translate without --rescore",
            )
        return MapPlan(kept.fingerprint, images, kept.system, kept.compat, kept.tile_size)

    def maps(
        self, image: LocalImage, ref: ImageRef, plan: MapPlan, annotations: Annotations, folder: Path, tell: Tell
    ) -> FoundMaps:
        kept = self._kept(image, ref)
        maps = Maps.open(kept.maps)
        kept.save(folder)
        return FoundMaps(maps, replace(image, pixel_size_um=kept.um_per_px), kept.made)

    def _kept(self, image: LocalImage, ref: ImageRef) -> KeptMaps:
        """Raises InputError where there are none, or the image has changed since."""
        kept = self.by_id.get(ref.id)
        if kept is None or not kept.there:
            where = self.run.path if kept is None else kept.maps
            raise InputError(
                f"image {ref}: its inferred images are not there any more ({where})",
                hint="Run translate without --rescore",
            )
        if kept.pixels != image.identity:
            raise InputError(
                f"image {ref} has changed since run {self.run.run_id}", hint="Run translate without --rescore"
            )
        return kept


def _needed(system: System, there: Sequence[str], *, separate: bool, where: str) -> tuple[str, ...]:
    """The images that nuclei are found in. Raises UsageError where they were not made."""
    if not system.segs or not set(system.segs) <= set(there):
        raise UsageError(f"{where}: no segmentation image was made there", hint="Run translate with --outputs cells")
    if separate and system.separating_image and system.separating(tuple(there)) is None:
        raise UsageError(
            f"{where}: no image by which nuclei could be separated was made there ({', '.join(system.separating_image)})",
            hint="Run translate with --separate",
        )
    return tuple(there)
