"""Where simulated cells are: seeds, types, and for every pixel its cell, its next neighbour and its compartment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from mxbridge.training.tissue_settings import TissueSettings

CANDIDATES = 5
"""Nearest seeds that compete for a pixel."""

MIN_AREA_UM2 = 12.0
"""Smaller leftovers of a cell are background."""

FAR = np.float32(9.0)


@dataclass(frozen=True)
class Seeds:
    """Cells before they have pixels; coordinates in µm. ``frame`` (n, 2, 2) maps an offset (y, x) to the unit circle."""

    centre: NDArray[np.float32]
    radius: NDArray[np.float32]
    frame: NDArray[np.float32]
    type_index: NDArray[np.int64]
    nucleus_shift: NDArray[np.float32]
    nucleus_size: NDArray[np.float32]


@dataclass(frozen=True)
class Territory:
    """Per pixel (y, x): ``own`` and ``next`` cell (0 none, k + 1 is seed k), ``depth_um`` from the own border inwards,
    ``next_um`` distance to the border of the neighbour, ``nucleus`` inside the own nucleus."""

    own: NDArray[np.int32]
    next: NDArray[np.int32]
    depth_um: NDArray[np.float32]
    next_um: NDArray[np.float32]
    nucleus: NDArray[np.bool_]


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> NDArray[np.float32]:
    """Random field (y, x), mean 0, standard deviation about 1, features of about ``scale`` pixels."""
    step = max(1.0, scale / 2)
    coarse_shape = tuple(int(np.ceil(n / step)) + 3 for n in shape)
    coarse = ndimage.gaussian_filter(rng.standard_normal(coarse_shape, dtype=np.float32), 1.0, mode="wrap")
    coarse *= 1.0 / max(float(coarse.std()), 1e-6)
    shift = tuple(rng.uniform(0, 1, 2))
    matrix = [(n - 1) / step / max(1, n - 1) for n in shape]
    return ndimage.affine_transform(coarse, matrix, offset=shift, output_shape=shape, order=1, mode="nearest")


def place_cells(settings: TissueSettings, rng: np.random.Generator) -> Seeds:
    """A jittered hexagonal grid, thinned by gaps, with types drawn by share and neighbourhood."""
    s, spacing = settings, settings.spacing_um
    rows, columns = int(s.height_um / (spacing * 0.866)) + 3, int(s.width_um / spacing) + 3
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    centre = np.stack([(y - 1) * spacing * 0.866, (x - 1 + 0.5 * (y % 2)) * spacing], axis=-1).reshape(-1, 2)
    centre += rng.normal(0, 0.17 * spacing, centre.shape).astype(np.float32)
    kept = rng.random(len(centre)) < s.filled
    if s.gaps > 0:
        tissue = sample(smooth_field(rng, (128, 128), 24), centre, s)
        kept &= tissue > np.quantile(tissue, s.gaps)
    kept[0] |= not kept.any()
    centre = centre[kept]

    weight = np.array([t.share for t in s.types], np.float64)[None].repeat(len(centre), 0)
    for niche in range(s.niches):
        pull = sample(smooth_field(rng, (128, 128), 128 * s.niche_um / max(s.height_um, s.width_um)), centre, s)
        for index, cell_type in enumerate(s.types):
            if cell_type.niche == niche:
                weight[:, index] *= np.exp(s.niche_strength * pull)
    chance = np.cumsum(weight / weight.sum(1, keepdims=True), axis=1)
    type_index = (rng.random(len(centre))[:, None] > chance[:, :-1]).sum(1)

    n = len(centre)
    diameter = np.array([t.diameter_um for t in s.types])[type_index] * np.exp(rng.normal(0, s.diameter_spread, n))
    radius = (0.5 * s.packing * diameter).astype(np.float32)
    stretch = np.sqrt(np.array([t.elongation for t in s.types])[type_index] * np.exp(np.abs(rng.normal(0, 0.1, n))))
    angle = rng.uniform(0, np.pi, n)
    along, across = 1 / (radius * stretch), stretch / radius
    c, d = np.cos(angle), np.sin(angle)
    frame = np.stack([np.stack([along * c, along * d], -1), np.stack([-across * d, across * c], -1)], 1)
    shift = rng.normal(0, 0.12, (n, 2)).astype(np.float32)
    size = rng.uniform(0.45, 0.7, n).astype(np.float32)
    return Seeds(centre, radius, frame.astype(np.float32), type_index, shift, size)


def grow_cells(settings: TissueSettings, seeds: Seeds, rng: np.random.Generator) -> Territory:
    """Give every pixel to the seed whose ellipse it lies deepest in; warped, so that borders are not straight."""
    shape, um = settings.shape, settings.um_per_px
    n = len(seeds.centre)
    rows = (np.arange(shape[0], dtype=np.float32) + 0.5) * um
    columns = (np.arange(shape[1], dtype=np.float32) + 0.5) * um
    at = np.empty((2, *shape), np.float32)
    at[0] = rows[:, None] + 0.5 * smooth_field(rng, shape, 5 / um)
    at[1] = columns[None, :] + 0.5 * smooth_field(rng, shape, 5 / um)

    block = max(1, round(1.0 / um))  # one query per µm, candidates are shared within the block
    coarse = np.stack([a[block // 2 :: block, block // 2 :: block] for a in at], -1)
    tree = cKDTree(seeds.centre)
    _, near = tree.query(coarse, k=CANDIDATES)
    near = np.minimum(near, n - 1)

    best = np.full(shape, FAR)
    second = np.full(shape, FAR)
    own = np.zeros(shape, np.int32)
    other = np.zeros(shape, np.int32)
    core = np.full(shape, FAR)
    for k in range(min(CANDIDATES, n)):
        seed = _expand(near[..., k], block, shape)
        dy, dx = at[0] - seeds.centre[seed, 0], at[1] - seeds.centre[seed, 1]
        frame = seeds.frame[seed]
        u = frame[..., 0, 0] * dy + frame[..., 0, 1] * dx
        v = frame[..., 1, 0] * dy + frame[..., 1, 1] * dx
        distance = np.sqrt(u * u + v * v)
        shift = seeds.nucleus_shift[seed]
        inner = np.sqrt((u - shift[..., 0]) ** 2 + (v - shift[..., 1]) ** 2) / seeds.nucleus_size[seed]
        wins = distance < best
        runner_up = ~wins & (distance < second)
        second = np.where(wins, best, np.where(runner_up, distance, second))
        other = np.where(wins, own, np.where(runner_up, seed + 1, other)).astype(np.int32)
        best, own = np.where(wins, distance, best), np.where(wins, seed + 1, own).astype(np.int32)
        core = np.where(wins, inner, core)

    radius = np.concatenate([[np.float32(5)], seeds.radius])
    depth = radius[own] * np.minimum(1 - best, (second - best) / 2)
    outside = best > 1
    next_um = np.where(outside, radius[own] * (best - 1), radius[other] * np.maximum(second - 1, (second - best) / 2))
    next_cell = np.where(outside, own, other)
    own = np.where(outside, 0, own).astype(np.int32)
    nucleus = (core < 1) & (own > 0) & (depth > 0.5)
    return Territory(own, next_cell.astype(np.int32), np.maximum(depth, 0), next_um, nucleus)


def outline_labels(
    settings: TissueSettings, territory: Territory, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The label image (y, x) a segmentation would give, and the seed index of each label 1..n.

    Borders are moved by a smooth random shift; only the largest part of a cell stays, small leftovers go.
    """
    shape, um = settings.shape, settings.um_per_px
    labels = territory.own
    if settings.segmentation_error_um > 0:
        error = settings.segmentation_error_um / um
        y = np.arange(shape[0])[:, None] + error * smooth_field(rng, shape, 4 / um)
        x = np.arange(shape[1])[None, :] + error * smooth_field(rng, shape, 4 / um)
        y = np.clip(np.rint(y).astype(np.intp), 0, shape[0] - 1)
        x = np.clip(np.rint(x).astype(np.intp), 0, shape[1] - 1)
        labels = labels[y, x]
    parts, owner, area = _parts(labels)
    order = np.lexsort((area, owner))
    last = np.r_[owner[order][1:] != owner[order][:-1], True] if len(order) else np.zeros(0, bool)
    kept = np.sort(order[last & (area[order] * um * um >= MIN_AREA_UM2)])
    new = np.zeros(len(owner) + 1, np.int32)
    new[kept + 1] = np.arange(1, len(kept) + 1)
    return new[parts], owner[kept].astype(np.int64) - 1


def sample(field: NDArray[np.float32], centre: NDArray[np.float32], settings: TissueSettings) -> NDArray[np.float32]:
    """A coarse field (y, x) over the whole tissue, read at points in µm."""
    scale = np.array(field.shape) / (settings.height_um, settings.width_um)
    where = np.clip((centre * scale).astype(np.intp), 0, np.array(field.shape) - 1)
    return field[where[:, 0], where[:, 1]]


def _expand(blocks: NDArray[np.intp], block: int, shape: tuple[int, int]) -> NDArray[np.intp]:
    """Repeat every value over ``block`` x ``block`` pixels, cut or edge-filled to ``shape``."""
    rows = np.minimum(np.arange(shape[0]) // block, blocks.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) // block, blocks.shape[1] - 1)
    return blocks[rows[:, None], columns[None, :]]


def _parts(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Connected parts (connectivity 1) of every label: part image, label and area of each part 1..k."""
    from skimage.measure import label as connected

    parts = connected(labels, background=0, connectivity=1)
    count = int(parts.max())
    area = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    owner = np.zeros(count + 1, np.int32)
    owner[parts.ravel()] = labels.ravel()
    return parts, owner[1:], area
