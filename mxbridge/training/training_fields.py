"""The fields a network is trained on: every one has its own panel, cells, optics, noise and artefacts, drawn from a number.

``RANGES`` is the one place that says what is varied and how far. What comes out of here is frozen by
``frozen.simulator_hash``: embedded weights carry the hash of what they were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mxbridge.training.simulator import Tissue, simulate
from mxbridge.training.tissue_settings import CellType, Marker, TissueSettings

MARKERS = 10
"""Channels of a field."""

SIDE_UM = 224.0
"""Side of a field."""

COUNTING_BELOW, COUNTING_SHARE = 25.0, 0.6
"""Of the fields with fewer photons at a peak than this, that share is taken by an ion counter: no camera, no offset."""

NUISANCE_SHARE = 0.5
"""How often each nuisance is drawn from its hard range instead of its mild one, independently of the others."""

FOLDED_SHARE = 0.15
"""How often a field has a band where the tissue lies double."""


@dataclass(frozen=True)
class Range:
    """Evenly drawn from low to high (evenly in the logarithm with ``log``); ``hard`` is the other range of a nuisance."""

    low: float
    high: float
    unit: str
    what: str
    log: bool = False
    hard: tuple[float, float] | None = None


RANGES: dict[str, Range] = {
    # cells
    "diameter_um": Range(6.5, 13, "µm", "mean diameter of a cell type"),
    "spacing_um": Range(8.5, 13, "µm", "mean distance of neighbouring cells"),
    "packing": Range(0.95, 1.3, "x radius", "from about 1.2 on cells touch"),
    "niche_um": Range(30, 120, "µm", "size of neighbourhoods"),
    "niche_strength": Range(0, 2.5, "-", "0 well mixed, 3 separate"),
    "gaps": Range(0, 0.2, "share of area", "places without tissue"),
    "segmentation_error_um": Range(0.1, 0.6, "µm", "outlines off the true borders"),
    # markers
    "faint": Range(0, 0.2, "x peak", "light of a marker in the other compartments"),
    "peak": Range(300, 15000, "counts", "typical positive pixel (an ion counter's is its photons)", log=True),
    "spread": Range(0.2, 0.5, "sd of log", "brightness of positive cells"),
    "patchiness": Range(0.1, 0.8, "-", "mottling within a cell"),
    "part": Range(0.02, 0.4, "share of a type", "that expresses a marker only some of its cells express"),
    "whole": Range(0.9, 1.0, "share of a type", "that expresses a marker of the type"),
    # optics
    "psf_um": Range(0.25, 0.8, "µm", "sigma of the sharp image"),
    "haze": Range(0, 0.08, "share of light", "out of focus", hard=(0.1, 0.3)),
    "haze_um": Range(2, 8, "µm", "sigma of what is out of focus"),
    "membrane_sharing": Range(0, 0.2, "x peak", "membrane light on the neighbour's side", hard=(0.25, 0.6)),
    "bleed": Range(0, 0, "x peak", "of the previous channel", hard=(0, 0.06)),
    # background
    "background": Range(0, 0.15, "x peak", "even"),
    "shading": Range(0, 0.4, "share", "fall of illumination across the field"),
    "matrix": Range(0.02, 0.02, "x peak", "fibrous texture between cells", hard=(0.05, 0.3)),
    "autofluorescence": Range(0, 0.04, "x peak", "granular, the same cells in every channel", hard=(0.06, 0.25)),
    # artefacts
    "specks_per_mm2": Range(10, 10, "per mm²", "bright debris of 1 to 6 peaks", hard=(50, 500)),
    "fibres_per_mm2": Range(0, 0, "per mm²", "bright lines", hard=(0, 50)),
    # detection
    "photons": Range(8, 600, "counts", "detected at a peak (shot noise)", log=True),
    "read_noise": Range(1, 30, "counts", "camera"),
    "offset": Range(0, 200, "counts", "added by the camera"),
}
"""What is varied, between which bounds, in which unit."""

UM_PER_PX = (0.325, 0.5, 0.5, 0.5, 0.65, 1.0)
FILLED = (0.35, 0.7, 0.9, 0.97)
ELONGATION = (1.1, 1.25, 1.6, 2.2)
LEAK = (0.0, 0.02, 0.05, 0.1)
GLOW_OF_TYPE = (1.0, 1.0, 0.5, 2.0)

COMPARTMENTS = {"membrane": 0.45, "nucleus": 0.22, "cytoplasm": 0.18, "both": 0.15}
"""Share of markers whose light sits there."""

PROGRAMMES = {"none": 0.1, "one": 0.5, "few": 0.25, "all": 0.05, "any": 0.1}
"""How many cell types carry a marker: share of markers."""

PARTLY_SHARE = 0.25
"""How often a type carries a marker in a part of its cells."""


def grow(seed: int, number: int) -> Tissue:
    """Training field ``number`` of a seed: settings and tissue from one number."""
    own = seed * 1_000_000 + number
    return simulate(random_settings(own), own)


def random_settings(seed: int, size_um: float = SIDE_UM) -> TissueSettings:
    """Settings of a field, all drawn from ``seed`` within ``RANGES``."""
    draw = _Draw(np.random.default_rng([seed, 21]))
    rng = draw.rng
    names = tuple(f"M{k}" for k in range(MARKERS))
    markers = tuple(_random_marker(name, draw) for name in names)
    types = _random_types(names, draw)
    haze, sharing, bleed, matrix, glow, debris = rng.random(6) < NUISANCE_SHARE
    photons = draw("photons")
    counting = photons < COUNTING_BELOW and rng.random() < COUNTING_SHARE
    if counting:
        markers = tuple(replace(m, peak=photons) for m in markers)
    return TissueSettings(
        markers,
        types,
        height_um=size_um,
        width_um=size_um,
        um_per_px=float(rng.choice(UM_PER_PX)),
        spacing_um=draw("spacing_um"),
        filled=float(rng.choice(FILLED)),
        packing=draw("packing"),
        niche_um=draw("niche_um"),
        niche_strength=draw("niche_strength"),
        gaps=draw("gaps"),
        segmentation_error_um=draw("segmentation_error_um"),
        psf_um=draw("psf_um"),
        haze=draw("haze", haze),
        haze_um=draw("haze_um"),
        membrane_sharing=draw("membrane_sharing", sharing),
        bleed=draw("bleed", bleed),
        background=draw("background"),
        shading=draw("shading"),
        matrix=draw("matrix", matrix),
        autofluorescence=draw("autofluorescence", glow),
        specks_per_mm2=draw("specks_per_mm2", debris),
        fibres_per_mm2=draw("fibres_per_mm2", debris),
        folds=int(rng.random() < FOLDED_SHARE),
        photons=photons,
        read_noise=0.0 if counting else draw("read_noise"),
        offset=0.0 if counting else draw("offset"),
    )


class _Draw:
    """Numbers by the name of their range."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __call__(self, name: str, hard: bool = False) -> float:
        """From the range of ``name``; a nuisance's mild one unless ``hard``. A fixed value costs no random number."""
        wanted = RANGES[name]
        low, high = wanted.hard if hard and wanted.hard is not None else (wanted.low, wanted.high)
        if low == high:
            return float(low)
        if wanted.log:
            return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
        return float(self.rng.uniform(low, high))

    def one_of(self, shares: dict[str, float]) -> str:
        return str(self.rng.choice(list(shares), p=list(shares.values())))


def _random_marker(name: str, draw: _Draw) -> Marker:
    where, faint = draw.one_of(COMPARTMENTS), draw("faint")
    membrane, cytoplasm, nucleus = {
        "membrane": (1.0, faint, faint / 2),
        "nucleus": (0.0, faint / 2, 1.0),
        "cytoplasm": (0.2, 1.0, faint),
        "both": (0.7, 0.7, faint),
    }[where]
    return Marker(
        name,
        membrane,
        cytoplasm,
        nucleus,
        peak=draw("peak"),
        spread=draw("spread"),
        leak=float(draw.rng.choice(LEAK)),
        patchiness=draw("patchiness"),
    )


def _random_types(names: tuple[str, ...], draw: _Draw) -> tuple[CellType, ...]:
    rng = draw.rng
    share = rng.dirichlet(np.full(rng.integers(4, 9), 1.5))
    programme = _random_programme(names, len(share), draw)
    return tuple(
        CellType(
            f"T{k}",
            float(share[k]) + 0.02,
            draw("diameter_um"),
            float(rng.choice(ELONGATION)),
            int(rng.integers(-1, 3)),
            programme[k],
            float(rng.choice(GLOW_OF_TYPE)),
        )
        for k in range(len(share))
    )


def _random_programme(names: tuple[str, ...], types: int, draw: _Draw) -> list[tuple[tuple[str, float], ...]]:
    """Which types express which marker: none, one, a few or all, always or in a part of the cells."""
    rng = draw.rng
    programme: list[list[tuple[str, float]]] = [[] for _ in range(types)]
    for name in names:
        kind = draw.one_of(PROGRAMMES)
        few = int(rng.integers(2, 4))
        carriers = {"none": 0, "one": 1, "few": few, "all": types, "any": types}[kind]
        for index in rng.permutation(types)[:carriers]:
            partly = kind == "any" or rng.random() < PARTLY_SHARE
            programme[index].append((name, draw("part" if partly else "whole")))
    return [tuple(p) for p in programme]
