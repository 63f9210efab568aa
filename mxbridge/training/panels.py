"""Ready settings for the simulator: the demonstration slide, and the fixed scenarios by which networks are judged."""

from __future__ import annotations

from dataclasses import replace

from mxbridge.training.simulator import Tissue, simulate
from mxbridge.training.tissue_settings import CellType, Marker, TissueSettings


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


def scenarios() -> dict[str, TissueSettings]:
    """Fixed settings that no training field has: the demonstration panel under one difficulty each, and all of them.

    ``NOTHING_TO_CORRECT`` names those in which a threshold on mean intensity is as good as it gets.
    """
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
    ions = tuple(replace(m, peak=m.peak / 900, photons=m.peak / 900) for m in clean.markers)  # 10 down to 1 a pixel
    return {
        "clean": clean,
        "few photons": replace(clean, photons=15),
        "ion counts": replace(clean, markers=ions, read_noise=0, offset=0, background=0.06),
        "spill-over": replace(clean, **spill),
        "autofluorescence": replace(clean, **glow),
        "artefacts": replace(clean, **debris),
        "all at once": replace(clean, photons=60, **spill, **glow, **debris),
    }


NOTHING_TO_CORRECT = ("clean", "few photons", "ion counts")
