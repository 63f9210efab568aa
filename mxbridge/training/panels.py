"""Ready settings for the simulator: the demonstration slide, random fields to train on, fixed scenarios to judge by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mxbridge.training.simulator import Tissue, simulate
from mxbridge.training.tissue_settings import CellType, Marker, TissueSettings

TRAINING_MARKERS = 10
"""Channels of a random training field."""


def demo_settings(um_per_px: float = 0.5) -> TissueSettings:
    """A tumour with lymphocytes: 8 markers, 600 x 600 µm, about 3,000 cells."""
    markers = (
        Marker("DAPI", membrane=0, cytoplasm=0.02, nucleus=1, peak=9000, spread=0.25),
        Marker("CD3", membrane=1, cytoplasm=0.1, peak=3500),
        Marker("CD8", membrane=1, cytoplasm=0.08, peak=1800),
        Marker("CD20", membrane=1, cytoplasm=0.05, peak=5000),
        Marker("CD68", membrane=0.1, cytoplasm=1, peak=2600, patchiness=0.7),
        Marker("PanCK", membrane=0.5, cytoplasm=0.8, peak=6000, patchiness=0.4),
        Marker("Ki67", membrane=0, cytoplasm=0, nucleus=1, peak=3000, spread=0.45, patchiness=0.5),
        Marker("FOXP3", membrane=0, cytoplasm=0.03, nucleus=1, peak=900),
    )
    seen = (("DAPI", 1.0),)
    types = (
        CellType("Tumor", 0.38, 11.0, niche=0, positive=(*seen, ("PanCK", 1.0), ("Ki67", 0.3))),
        CellType("T helper", 0.14, 8.0, niche=1, positive=(*seen, ("CD3", 1.0), ("Ki67", 0.05))),
        CellType("T regulatory", 0.06, 8.0, niche=1, positive=(*seen, ("CD3", 1.0), ("FOXP3", 1.0))),
        CellType("T cytotoxic", 0.12, 8.0, niche=1, positive=(*seen, ("CD3", 1.0), ("CD8", 1.0), ("Ki67", 0.1))),
        CellType("B", 0.10, 8.0, niche=2, positive=(*seen, ("CD20", 1.0), ("Ki67", 0.12))),
        CellType("Macrophage", 0.08, 11.5, 1.3, positive=(*seen, ("CD68", 1.0)), autofluorescence=1.8),
        CellType("Stroma", 0.12, 9.0, 2.2, positive=seen),
    )
    return TissueSettings(
        markers,
        types,
        height_um=600,
        width_um=600,
        um_per_px=um_per_px,
        spacing_um=10.3,
        filled=0.95,
        gaps=0.2,
        bleed=0.02,
    )


def demo_slide(seed: int) -> Tissue:
    """A field of the demonstration slide (uint16, 8 channels, 1200 x 1200 px at 0.5 µm per pixel)."""
    return simulate(demo_settings(), seed)


def random_settings(seed: int, size_um: float = 224.0) -> TissueSettings:
    """A training field: its own panel, cell types, optics, background, artefacts and camera, all drawn from ``seed``."""
    rng = np.random.default_rng([seed, 21])
    names = tuple(f"M{k}" for k in range(TRAINING_MARKERS))
    markers = tuple(_random_marker(name, rng) for name in names)
    share = rng.dirichlet(np.full(rng.integers(4, 9), 1.5))
    programme = _random_programme(names, len(share), rng)
    types = tuple(
        CellType(
            f"T{k}",
            float(share[k]) + 0.02,
            float(rng.uniform(6.5, 13)),
            float(rng.choice([1.1, 1.25, 1.6, 2.2])),
            int(rng.integers(-1, 3)),
            programme[k],
            float(rng.choice([1.0, 1.0, 0.5, 2.0])),
        )
        for k in range(len(share))
    )
    hard = rng.random(6) < 0.5  # each nuisance is absent or mild in half of the fields
    photons = float(np.exp(rng.uniform(np.log(8), np.log(600))))
    counting = photons < 25 and rng.random() < 0.6  # ion counting: no camera, few counts
    if counting:
        markers = tuple(replace(m, peak=photons) for m in markers)
    return TissueSettings(
        markers,
        types,
        height_um=size_um,
        width_um=size_um,
        um_per_px=float(rng.choice([0.325, 0.5, 0.5, 0.5, 0.65, 1.0])),
        spacing_um=float(rng.uniform(8.5, 13)),
        filled=float(rng.choice([0.35, 0.7, 0.9, 0.97])),
        packing=float(rng.uniform(0.95, 1.3)),
        niche_um=float(rng.uniform(30, 120)),
        niche_strength=float(rng.uniform(0, 2.5)),
        gaps=float(rng.uniform(0, 0.2)),
        segmentation_error_um=float(rng.uniform(0.1, 0.6)),
        psf_um=float(rng.uniform(0.25, 0.8)),
        haze=float(rng.uniform(0.1, 0.3)) if hard[0] else float(rng.uniform(0, 0.08)),
        haze_um=float(rng.uniform(2, 8)),
        membrane_sharing=float(rng.uniform(0.25, 0.6)) if hard[1] else float(rng.uniform(0, 0.2)),
        bleed=float(rng.uniform(0, 0.06)) if hard[2] else 0.0,
        background=float(rng.uniform(0, 0.15)),
        shading=float(rng.uniform(0, 0.4)),
        matrix=float(rng.uniform(0.05, 0.3)) if hard[3] else 0.02,
        autofluorescence=float(rng.uniform(0.06, 0.25)) if hard[4] else float(rng.uniform(0, 0.04)),
        specks_per_mm2=float(rng.uniform(50, 500)) if hard[5] else 10.0,
        fibres_per_mm2=float(rng.uniform(0, 50)) if hard[5] else 0.0,
        folds=int(rng.random() < 0.15),
        photons=photons,
        read_noise=0.0 if counting else float(rng.uniform(1, 30)),
        offset=0.0 if counting else float(rng.uniform(0, 200)),
    )


def _random_marker(name: str, rng: np.random.Generator) -> Marker:
    where = rng.choice(["membrane", "nucleus", "cytoplasm", "both"], p=[0.45, 0.22, 0.18, 0.15])
    faint = float(rng.uniform(0, 0.2))
    membrane, cytoplasm, nucleus = {
        "membrane": (1.0, faint, faint / 2),
        "nucleus": (0.0, faint / 2, 1.0),
        "cytoplasm": (0.2, 1.0, faint),
        "both": (0.7, 0.7, faint),
    }[str(where)]
    return Marker(
        name,
        membrane,
        cytoplasm,
        nucleus,
        peak=float(np.exp(rng.uniform(np.log(300), np.log(15000)))),
        spread=float(rng.uniform(0.2, 0.5)),
        leak=float(rng.choice([0.0, 0.02, 0.05, 0.1])),
        patchiness=float(rng.uniform(0.1, 0.8)),
    )


def _random_programme(
    names: tuple[str, ...], types: int, rng: np.random.Generator
) -> list[tuple[tuple[str, float], ...]]:
    """Which types express which marker: none, one, a few or all, always or in a part of the cells."""
    programme: list[list[tuple[str, float]]] = [[] for _ in range(types)]
    for name in names:
        kind = rng.choice(["none", "one", "few", "all", "any"], p=[0.1, 0.5, 0.25, 0.05, 0.1])
        carriers = {"none": 0, "one": 1, "few": int(rng.integers(2, 4)), "all": types, "any": types}[str(kind)]
        for index in rng.permutation(types)[:carriers]:
            part = rng.uniform(0.02, 0.4) if kind == "any" or rng.random() < 0.25 else rng.uniform(0.9, 1.0)
            programme[index].append((name, float(part)))
    return [tuple(p) for p in programme]


def scenarios() -> dict[str, TissueSettings]:
    """Fixed settings that no training field has: the demonstration panel under one difficulty each, and all of them."""
    clean = replace(
        demo_settings(),
        height_um=400,
        width_um=400,
        membrane_sharing=0.05,
        haze=0.02,
        bleed=0,
        matrix=0.01,
        autofluorescence=0.01,
        specks_per_mm2=0,
        fibres_per_mm2=0,
        shading=0,
        photons=400,
    )
    spill = {"membrane_sharing": 0.55, "haze": 0.25, "psf_um": 0.6, "packing": 1.3, "bleed": 0.03}
    glow = {"autofluorescence": 0.22, "matrix": 0.25, "background": 0.1, "shading": 0.35}
    debris = {"specks_per_mm2": 450, "fibres_per_mm2": 50, "folds": 1}
    return {
        "clean": clean,
        "spill-over": replace(clean, **spill),
        "autofluorescence": replace(clean, **glow),
        "artefacts": replace(clean, **debris),
        "few photons": replace(clean, photons=15),
        "all at once": replace(clean, photons=60, **spill, **glow, **debris),
    }
