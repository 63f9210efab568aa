"""Simulated multiplexed tissue with the truth: images, cell and nucleus labels, and which cell expresses which marker.

Everything follows from the settings and a seed. It is a caricature that holds what makes scoring hard (spill-over between
touching cells, autofluorescence, uneven background, bright debris, shot noise, dim and rare markers), not a substitute for
real slides: figures on it say nothing about a particular tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mxbridge.training.tissue_geometry import Seeds, Territory, grow_cells, outline_labels, place_cells, smooth_field
from mxbridge.training.tissue_settings import Marker, TissueSettings

MEMBRANE_UM = 0.7
"""Half-width of the bright rim of a membrane marker."""


@dataclass(frozen=True)
class Tissue:
    """A simulated field.

    image: uint16 ``(c, y, x)``; cells, nuclei: int32 ``(y, x)``, 0 background, labels 1..n without holes in the numbering;
    a nucleus has its cell's label (a cell may have none). truth: bool ``(cells, markers)``, row k is label k + 1.
    types: name of each cell's type. channels: names, one per plane and per column of ``truth``.
    """

    image: NDArray[np.uint16]
    cells: NDArray[np.int32]
    nuclei: NDArray[np.int32]
    truth: NDArray[np.bool_]
    types: tuple[str, ...]
    channels: tuple[str, ...]
    settings: TissueSettings
    seed: int


def simulate(settings: TissueSettings, seed: int) -> Tissue:
    """Grow a tissue and take its picture. The same settings and seed give the same arrays."""
    rng = np.random.default_rng([seed, 20])
    seeds = place_cells(settings, rng)
    territory = grow_cells(settings, seeds, rng)
    cells, kept = outline_labels(settings, territory, rng)
    nuclei = np.where(territory.nucleus & (cells > 0) & (territory.own == _seed_of(cells, kept)), cells, 0)

    expressed = _express(settings, seeds, rng)
    stage = _Stage(settings, seeds, territory, rng)
    image = np.empty((len(settings.markers), *settings.shape), np.uint16)
    before: NDArray[np.float32] | None = None
    for index, marker in enumerate(settings.markers):
        stain = stage.stain(marker, expressed[:, index])
        light = stain if before is None or settings.bleed == 0 else stain + settings.bleed * before
        image[index] = stage.expose(marker, light)
        before = stain
    types = tuple(settings.types[t].name for t in seeds.type_index[kept])
    return Tissue(image, cells, nuclei.astype(np.int32), expressed[kept], types, settings.marker_names, settings, seed)


def _seed_of(cells: NDArray[np.int32], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Per pixel the seed number (1-based) of the cell it was given to."""
    return np.concatenate([[0], kept + 1])[cells]


def _express(settings: TissueSettings, seeds: Seeds, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Truth per seed and marker, drawn from the type's programme."""
    names = settings.marker_names
    chance = np.zeros((len(settings.types), len(names)))
    for row, cell_type in enumerate(settings.types):
        for marker, share in cell_type.positive:
            chance[row, names.index(marker)] = share
    return rng.random((len(seeds.type_index), len(names))) < chance[seeds.type_index]


class _Stage:
    """What all channels of one field share: shapes, autofluorescence, fibres, folds, shading."""

    def __init__(self, settings: TissueSettings, seeds: Seeds, territory: Territory, rng: np.random.Generator) -> None:
        self.settings, self.territory, self.rng = settings, territory, rng
        shape, um = settings.shape, settings.um_per_px
        self.rim = np.exp(-((territory.depth_um / MEMBRANE_UM) ** 2)) * (territory.own > 0)
        self.rim_beyond = np.exp(-((territory.next_um / MEMBRANE_UM) ** 2)) * (territory.next > 0)
        self.body = ((territory.own > 0) & ~territory.nucleus).astype(np.float32)
        glow = np.array([t.autofluorescence for t in settings.types])[seeds.type_index]
        glow = glow * np.exp(rng.normal(0, 0.5, len(glow)))
        grain = np.clip(1 + 0.8 * smooth_field(rng, shape, 1.5 / um), 0, None)
        self.glow = settings.autofluorescence * _per_pixel(territory.own, glow) * (0.3 + 0.7 * self.body) * grain
        texture = np.clip(smooth_field(rng, shape, 12 / um) + 0.5 * smooth_field(rng, shape, 3 / um), 0, None)
        self.matrix = settings.matrix * texture * np.where(territory.own > 0, 0.3, 1.0)
        self.fibres = _fibres(settings, rng)
        self.folds = _folds(settings, rng)
        tilt = (
            np.linspace(-0.5, 0.5, shape[0])[:, None] * rng.normal() + np.linspace(-0.5, 0.5, shape[1]) * rng.normal()
        )
        self.shading = (1 - settings.shading * np.clip(tilt + 0.5, 0, 1)).astype(np.float32)

    def stain(self, marker: Marker, positive: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Sharp light of one marker, relative to its peak."""
        rng, territory = self.rng, self.territory
        n = len(positive)
        bright = np.clip(np.exp(rng.normal(0, marker.spread, n)), 0.35, 3.0)
        level = np.where(positive, bright, marker.leak * rng.uniform(0, 2, n))
        own, beyond = _per_pixel(territory.own, level), _per_pixel(territory.next, level)
        light = own * (marker.membrane * self.rim + marker.cytoplasm * self.body + marker.nucleus * territory.nucleus)
        light += beyond * (self.settings.membrane_sharing * marker.membrane * self.rim_beyond)
        mottle = smooth_field(rng, self.settings.shape, 2.0 / self.settings.um_per_px)
        return (light * np.clip(1 + marker.patchiness * mottle, 0, None)).astype(np.float32)

    def expose(self, marker: Marker, stain: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Light to counts: background, artefacts, optics, shot noise, camera."""
        s, rng, um = self.settings, self.rng, self.settings.um_per_px
        strength = rng.uniform(0.6, 1.4)  # autofluorescence differs between filters
        light = stain + strength * (self.glow + self.matrix) + s.background
        light += self.fibres * rng.uniform(0.2, 1.0)
        _add_specks(light, s, rng)
        sharp = ndimage.gaussian_filter(light, s.psf_um / um, truncate=3.0)
        if s.haze > 0:
            sharp = (1 - s.haze) * sharp + s.haze * ndimage.gaussian_filter(light, s.haze_um / um, truncate=3.0)
        if self.folds is not None:
            soft = ndimage.gaussian_filter(sharp, 1.2 / um, truncate=2.0)
            sharp = sharp + self.folds * (0.8 * soft + 0.25 - 0.3 * sharp)
        at_peak = s.photons if marker.photons is None else marker.photons
        photons = rng.poisson(np.maximum(sharp * self.shading, 0) * at_peak).astype(np.float32)
        counts = photons * np.float32(marker.peak / at_peak) + np.float32(s.offset)
        if s.read_noise > 0:
            counts += rng.standard_normal(counts.shape, dtype=np.float32) * np.float32(s.read_noise)
        return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def _per_pixel(cell: NDArray[np.int32], value: NDArray[np.float64]) -> NDArray[np.float32]:
    """Spread a value per seed over the pixels (y, x) of a territory; 0 outside."""
    return np.concatenate([[0.0], value]).astype(np.float32)[cell]


def _add_specks(light: NDArray[np.float32], settings: TissueSettings, rng: np.random.Generator) -> None:
    """Bright round debris, in place."""
    area_mm2 = settings.height_um * settings.width_um / 1e6
    height, width = light.shape
    for _ in range(rng.poisson(settings.specks_per_mm2 * area_mm2)):
        radius = max(0.7, rng.gamma(2.0, 0.5) / settings.um_per_px)
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        reach = int(3 * radius) + 1
        rows = np.arange(max(0, int(y) - reach), min(height, int(y) + reach + 1))
        columns = np.arange(max(0, int(x) - reach), min(width, int(x) + reach + 1))
        spot = np.exp(-(((rows[:, None] - y) ** 2 + (columns[None, :] - x) ** 2) / (radius * radius)))
        light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += rng.uniform(1, 6) * spot


def _fibres(settings: TissueSettings, rng: np.random.Generator) -> NDArray[np.float32]:
    """Curved bright lines (y, x), drawn as random walks and blurred to their width."""
    lines = np.zeros(settings.shape, np.float32)
    um, area_mm2 = settings.um_per_px, settings.height_um * settings.width_um / 1e6
    count = rng.poisson(settings.fibres_per_mm2 * area_mm2)
    for _ in range(count):
        steps = int(rng.uniform(20, 120) / um)
        direction = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.12 * np.sqrt(um), steps))
        y = rng.uniform(0, settings.shape[0]) + np.cumsum(np.sin(direction))
        x = rng.uniform(0, settings.shape[1]) + np.cumsum(np.cos(direction))
        inside = (y >= 0) & (y < settings.shape[0]) & (x >= 0) & (x < settings.shape[1])
        lines[y[inside].astype(np.intp), x[inside].astype(np.intp)] = rng.uniform(0.5, 2.0)
    if count == 0:
        return lines
    width = 0.6 / um
    return ndimage.gaussian_filter(lines, width) * np.float32(max(1.0, 2.5 * width))


def _folds(settings: TissueSettings, rng: np.random.Generator) -> NDArray[np.float32] | None:
    """Soft bands (y, x) in 0..1 where the tissue lies double; None without folds."""
    if settings.folds == 0:
        return None
    shape, um = settings.shape, settings.um_per_px
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32) * np.float32(um)
    band = np.zeros(shape, np.float32)
    for _ in range(settings.folds):
        angle, width = rng.uniform(0, np.pi), rng.uniform(8, 20)
        cy, cx = rng.uniform(0, settings.height_um), rng.uniform(0, settings.width_um)
        across = (y - cy) * np.cos(angle) + (x - cx) * np.sin(angle) + 6 * smooth_field(rng, shape, 60 / um)
        band = np.maximum(band, np.exp(-((across / width) ** 4)))
    return band
