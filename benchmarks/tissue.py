"""Real images for quality tables, as mxbridge reads them: an OME-TIFF per field, and a panel that keeps every channel.

``python -m benchmarks.tissue spectre|orion DATA OUT``. DATA is the folder of real data (``MXBRIDGE_SHARED``/data), of which nothing
goes into the repository.

- spectre: four regions of imaging mass cytometry, counts, 13 markers, 1 µm per pixel; masks of cells (numbers stretched to 16 bits).
- orion: seven tiles of one colon carcinoma, 18 channels rendered to 8 bits, 1.3 µm per pixel; no cells.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

UM_SPECTRE, UM_ORION = 1.0, 1.3
ARGON = "80ArAr"
"""In one region only; background gas."""


@dataclass(frozen=True)
class Fields:
    """images: OME-TIFF by name. masks: by name, none where there are no cells. train, test: names. panel: CSV that keeps all."""

    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    train: tuple[str, ...]
    test: tuple[str, ...]
    panel: Path
    markers: tuple[str, ...]

    def options(self, names: tuple[str, ...], *, cells: bool) -> list[str]:
        """Of a command that is to work on these fields. cells: with their masks, where there are any."""
        given = [word for name in names for word in ("--files", str(self.images[name]))]
        if not cells:
            return [*given, "--panel", str(self.panel)]
        masks = [word for name in names if name in self.masks for word in ("--labels", str(self.masks[name]))]
        return [*given, *masks, *(["--stretched-labels"] if masks else []), "--panel", str(self.panel)]


def spectre(data: Path, out: Path) -> Fields:
    """Train on 002, 004, 006; 008 is for the test."""
    place = data / "imc_spectre"
    names = ("ROI002", "ROI004", "ROI006", "ROI008")
    fields = {}
    for name in names:
        files = sorted((place / name).glob("*.tiff"), key=lambda path: path.name)
        fields[name] = {path.name.partition("_")[0]: _read(path) for path in files if not path.name.startswith(ARGON)}
    masks = {name: place / "masks_simple" / f"{name}_Cell_mask.tiff" for name in names}
    return _written(out, fields, masks, names[:3], names[3:], UM_SPECTRE)


def orion(data: Path, out: Path) -> Fields:
    """Six tiles train, 9_9 is for the test."""
    place = data / "orion_crc01"
    channels = {folder.name.partition("__")[2]: folder for folder in place.iterdir() if "__" in folder.name}
    order = sorted(channels, key=lambda name: int(channels[name].name.partition("__")[0].rpartition("_")[2]))
    tiles = ("4_3", "4_4", "5_3", "5_4", "6_3", "8_9", "9_9")
    fields = {f"tile_{tile}": {name: _grey(channels[name] / f"2_{tile}.jpg") for name in order} for tile in tiles}
    names = tuple(fields)
    return _written(out, fields, {}, names[:6], names[6:], UM_ORION)


def _written(
    out: Path,
    fields: Mapping[str, Mapping[str, np.ndarray]],
    masks: Mapping[str, Path],
    train: tuple[str, ...],
    test: tuple[str, ...],
    um_per_px: float,
) -> Fields:
    import dask.array as da

    from mxbridge.formats.ome_tiff import write_ome_tiff
    from mxbridge.image import Channel

    out.mkdir(parents=True, exist_ok=True)
    markers = tuple(next(iter(fields.values())))
    images = {}
    for name, planes in fields.items():
        if set(planes) != set(markers):
            raise SystemExit(f"{name} has other channels: {', '.join(sorted(set(planes) ^ set(markers)))}")
        images[name] = out / f"{name}.ome.tif"
        stack = da.from_array(np.stack([planes[marker] for marker in markers]))
        write_ome_tiff(images[name], stack, [Channel(marker) for marker in markers], (um_per_px, um_per_px))
    panel = out / "panel.csv"
    with panel.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("channel", "name", "role", "keep"))
        rows.writerows((marker, marker, "marker", 1) for marker in markers)
    return Fields(images, dict(masks), train, test, panel, markers)


def _read(path: Path) -> np.ndarray:
    import tifffile

    return np.asarray(tifffile.imread(path))


def _grey(path: Path) -> np.ndarray:
    """uint8 ``(y, x)`` of a picture that is grey, stored in three colours."""
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"))


FIELDS = {"spectre": spectre, "orion": orion}

if __name__ == "__main__":
    found = FIELDS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    print(
        f"train: {' '.join(found.train)}; test: {' '.join(found.test)}; {len(found.markers)} channels in {sys.argv[3]}"
    )
