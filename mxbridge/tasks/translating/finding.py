"""From the maps of one image to its nuclei, their classes and scores, in the image's own pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Rings
from mxbridge.errors import NoPixelSize
from mxbridge.nuclei.find import find_nuclei
from mxbridge.nuclei.found import Nuclei
from mxbridge.nuclei.judge import Judged, Score, judge
from mxbridge.nuclei.outlines import outlines
from mxbridge.nuclei.pictures import pictures
from mxbridge.nuclei.regions import Regions
from mxbridge.nuclei.separate import Separation
from mxbridge.nuclei.thresholds import SizeLimits, Thresholds, size_limits
from mxbridge.tasks.regions import Annotations
from mxbridge.tasks.translating.map_pixels import MapPixels
from mxbridge.tasks.translating.map_sources import FoundMaps, MapPlan, Tell
from mxbridge.tasks.translating.options import AUTO, NONE, Cut, TranslateOptions
from mxbridge.tasks.translating.scores import RegionScore

EXPAND_UM = 5.0
"""By which nuclei grow to cells where nothing is said, as in QuPath."""

RESOLUTIONS = {"40x": 0.25, "20x": 0.5, "10x": 1.0}
"""µm per pixel of what microscopes call so."""

ALIKE = 0.05
"""Relative difference of pixel sizes that are the same resolution."""

LARGE_NOISE_UM2 = 1000.0
"""Area from which something is too large for a nucleus: DeepLIIF's 16,000 pixels at 40x, 4,000 at 20x, 1,000 at 10x."""


@dataclass(frozen=True)
class Found:
    """Nuclei of one segmentation image that count: one row each in all arrays, in the order of first pixels.

    seg: the segmentation image. prefix: of measurements. first: (y, x) of its first pixel in maps' pixels, which names it.
    annotation: index of the annotation that holds it, -1 for none. area_px: full-resolution pixels. marker: mean of the marker
    image 0..255, NaN without one. probability: 0..1 that it is positive. centroid: (y, x) in full-resolution pixels. outlines,
    cells: there as well; None where no objects are wanted. scores: of the image, then of each annotation. drawing: the image's
    and the segmentation's pixels and what was judged, for pictures. peer_score: as the published program writes it.
    """

    seg: str
    prefix: str
    first: NDArray[np.int64]
    positive: NDArray[np.bool_]
    annotation: NDArray[np.int64]
    area_px: NDArray[np.float64]
    marker: NDArray[np.float64]
    probability: NDArray[np.float64]
    centroid: NDArray[np.float64]
    touches_edge: NDArray[np.bool_]
    outlines: Rings | None
    cells: Rings | None
    scores: tuple[RegionScore, ...]
    peer_score: dict[str, Any]
    drawing: tuple[MapPixels, Nuclei, Judged]

    def __len__(self) -> int:
        return len(self.first)

    @property
    def keys(self) -> tuple[str, ...]:
        """Unique names that other thresholds do not change."""
        return tuple(f"{y}-{x}" for y, x in self.first.tolist())

    def pictures(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The published program's overlay and its refined segmentation, ``(3, y, x)`` uint8 in full size."""
        source, nuclei, judged = self.drawing
        return pictures(source, nuclei, judged, source.original(source.whole))


def find(got: FoundMaps, plan: MapPlan, annotations: Annotations, options: TranslateOptions, tell: Tell) -> list[Found]:
    """Nuclei of every segmentation image. Raises NoPixelSize for sizes in µm² without a pixel size, UsageError."""
    limits = _limits(got, plan)
    thresholds = _thresholds(got, plan, options)
    system = plan.system
    found = []
    for seg in system.segs:
        marker = system.marker_image if system.marker_image in got.maps.images else None
        source = MapPixels(got.maps, got.image, seg, marker, system.separating(got.maps.images))
        prefix = system.name if len(system.segs) == 1 else f"{system.name} {seg}"
        found.append(_find_in(source, prefix, thresholds, limits, annotations, options, plan, tell))
    return found


def _find_in(
    source: MapPixels,
    prefix: str,
    thresholds: Thresholds,
    limits: SizeLimits,
    annotations: Annotations,
    options: TranslateOptions,
    plan: MapPlan,
    tell: Tell,
) -> Found:
    ratio = source.ratio
    drawn = None if annotations.cells is None else Regions.scaled(annotations.cells.outlines, ratio)
    nuclei = find_nuclei(
        source,
        thresholds,
        inside=drawn if annotations.limiting else None,
        separate=Separation() if options.separate else None,
        tell=tell("finding nuclei"),
    )
    if not (plan.compat or annotations.limiting):
        nuclei = _without_blank(nuclei, source)
    judged = judge(nuclei, thresholds, limits)
    holding = np.zeros((0, 2), np.int64) if drawn is None else drawn.holding(nuclei.centroid)
    region = np.full(len(nuclei), -1, np.int64)
    region[holding[:, 0]] = holding[:, 1]  # of several the last
    keep = judged.keep
    shapes, grown = None, None
    if options.wants_objects:
        shapes, grown = outlines(source, nuclei, keep, expand_px=_expand_px(source, options))
    return Found(
        seg=source.seg_image,
        prefix=prefix,
        first=nuclei.first[keep],
        positive=judged.positive[keep],
        annotation=region[keep],
        area_px=nuclei.size[keep] / (ratio[0] * ratio[1]),
        marker=nuclei.marker_mean[keep],
        probability=nuclei.probability[keep],
        centroid=np.minimum(nuclei.centroid[keep] / ratio, source.image.shape),
        touches_edge=nuclei.touches_edge[keep],
        outlines=_full_size(shapes, source),
        cells=_full_size(grown, source),
        scores=tuple(_scores(judged, holding, annotations, plan.compat)),
        peer_score=_peer_score(judged, plan.compat),
        drawing=(source, nuclei, judged),
    )


def _without_blank(nuclei: Nuclei, source: MapPixels) -> Nuclei:
    """Of the marker's brightness, from which a threshold may be found, only what networks have made of the slide: however much of
    it is glass or beyond annotations. (The published program counts blank tiles.)"""
    if nuclei.marker_histogram is None or source.marker_image is None:
        return nuclei
    pixels, colour = source.maps.blank(source.marker_image)
    counts = nuclei.marker_histogram.copy()
    level = min(255, max(colour, default=0))
    counts[level] = max(0, counts[level] - pixels)
    return replace(nuclei, marker_histogram=counts)


def _scores(judged: Judged, holding: NDArray[np.int64], annotations: Annotations, as_peer: bool) -> list[RegionScore]:
    """Of the image, then of every annotation; a nucleus counts in each annotation that holds it."""

    def row(of: tuple[str | None, str | None, str | None], which: Any, size: float | None) -> RegionScore:
        return RegionScore(
            *of,
            total=int(judged.keep[which].sum()),
            positive=int(judged.positive[which].sum()),
            size_threshold=size,
            size_upper=judged.size_upper,
            marker_threshold=judged.marker_threshold,
            empty_percent=0.0 if as_peer else float("nan"),
        )

    rows = [row((None, None, None), slice(None), judged.size_threshold)]
    for k, of in enumerate(zip(annotations.labels, annotations.ids, annotations.classes, strict=True)):
        members = holding[holding[:, 1] == k, 0]
        size = judged.size_thresholds[k] if annotations.limiting else judged.size_thresholds[0]
        rows.append(row(of, members, float(size)))
    return rows


def _peer_score(judged: Judged, as_peer: bool) -> dict[str, Any]:
    """The published program's keys. It says 0 % where there are no nuclei; that is said only in its name."""
    made = Score(
        total=int(judged.keep.sum()),
        positive=int(judged.positive.sum()),
        seg_threshold=judged.thresholds.seg,
        size_threshold=judged.size_threshold,
        size_upper=judged.size_upper,
        marker_threshold=judged.marker_threshold,
    ).peer()
    return made if as_peer or made["num_total"] else {**made, "percent_pos": None}


def _limits(got: FoundMaps, plan: MapPlan) -> SizeLimits:
    """Bounds of the automatic size threshold: by the tile size as the published program, else by the scale of the maps."""
    if plan.tile_size is not None:
        share = plan.tile_size / plan.system.window
        return size_limits(resolution="40x" if share > 0.75 else "20x" if share > 0.375 else "10x")
    um = _um_of(got)
    if um is None:
        return size_limits(resolution="40x")
    named = [name for name, known in RESOLUTIONS.items() if abs(um / known - 1) <= ALIKE]
    return size_limits(resolution=named[0]) if named else size_limits(um_per_px=um)


def _um_of(got: FoundMaps) -> float | None:
    """µm per pixel of the maps, the mean of both axes."""
    return None if got.maps.um_per_px is None else sum(got.maps.um_per_px) / 2


def _thresholds(got: FoundMaps, plan: MapPlan, options: TranslateOptions) -> Thresholds:
    """Everything in pixels of the maps. Raises NoPixelSize."""
    size: Cut = options.size
    upper = options.size_upper
    if options.min_area is not None or options.max_area is not None:
        um = got.maps.um_per_px
        if um is None:
            raise NoPixelSize(got.image.name)
        size = options.size if options.min_area is None else options.min_area / (um[0] * um[1])
        upper = None if options.max_area is None else options.max_area / (um[0] * um[1])
    return Thresholds(
        seg=options.seg_threshold,
        noise=options.noise,
        large_noise=_large_noise(got, plan, options.large_noise),
        size=_or_none(size),
        size_upper=upper,
        marker=_or_none(options.marker_threshold),
        od_lower=options.od_lower,
        od_upper=options.od_upper,
    )


def _or_none(cut: Cut) -> Any:
    return None if cut == NONE else cut


def _large_noise(got: FoundMaps, plan: MapPlan, cut: Cut) -> float | None:
    if cut != AUTO:
        return _or_none(cut)  # type: ignore[no-any-return]
    scale = _um_of(got) or RESOLUTIONS["40x"]
    if plan.tile_size is not None:
        scale = RESOLUTIONS["40x"] * plan.system.window / plan.tile_size
    return LARGE_NOISE_UM2 / scale**2


def _expand_px(source: MapPixels, options: TranslateOptions) -> float:
    """By how many pixels of the maps nuclei grow; 0 where no cells are wanted. Raises NoPixelSize."""
    if options.objects != "cells":
        return 0.0
    if source.maps.um_per_px is None:
        raise NoPixelSize(source.image.name)
    um = EXPAND_UM if options.expand is None else options.expand
    return um / (sum(source.maps.um_per_px) / 2)


def _full_size(rings: Rings | None, source: MapPixels) -> Rings | None:
    """In full-resolution pixels; the last pixels of maps may reach beyond the image, outlines end with it."""
    if rings is None:
        return None
    (ratio_y, ratio_x), (height, width) = source.ratio, source.image.shape
    xy = np.minimum(rings.xy / (ratio_x, ratio_y), (width, height))
    return Rings(xy, rings.ring_starts, rings.object_starts)
