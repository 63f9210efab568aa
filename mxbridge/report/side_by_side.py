"""A derived stain beside the measured one: the same pixels, the same rule for white, and how unsure the model is of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box, LocalImage
from mxbridge.report.blocks import Picture

if TYPE_CHECKING:
    from mxbridge.cells import Cells

LONGEST = 720
"""Pixels of the longer side of a picture."""

DETAIL = 360
"""Side of the part that is shown in the image's own pixels, where the whole is much smaller than the image."""

CLEARLY_SMALLER = 0.7
WHITE = 0.998
"""Quantile of the brighter of both that is shown white."""

WINDOW = 768
"""Side of the squares in which measured cells are averaged, in pixels of the image."""

MOST_WINDOWS = 12
"""Squares of one image; a slide is never read whole."""


@dataclass(frozen=True)
class Stain:
    """One imputed marker of one image. derived: its plane ``channel`` is the stain; spread: plane of its spread, or None.

    measured: the image itself, ``measured_channel`` in it; None where it has no such channel or cannot be reached.
    """

    marker: str
    derived: LocalImage
    channel: int
    spread: int | None
    measured: LocalImage | None
    measured_channel: int

    def pictures(self, budget: int) -> Iterator[Picture]:
        """Measured, imputed, spread; then a detail of the first two. budget: bytes of each. Raises InputError, TooLarge."""
        whole = Box(0, 0, *self.derived.shape)
        planes = self._planes(whole, LONGEST)
        white = common_white([planes[name] for name in ("measured", "imputed") if name in planes])
        yield from self._stains(planes, white, budget, "", whole)
        if "spread" in planes:
            yield self._spread(planes["spread"], budget, whole)
        shown = max(planes["imputed"].shape) / max(self.derived.shape)
        if shown < CLEARLY_SMALLER:
            box = brightest(planes["imputed"], self.derived.shape, DETAIL)
            yield from self._stains(self._planes(box, DETAIL, spread=False), white, budget, "detail, ", box)

    def _planes(self, box: Box, longest: int, *, spread: bool = True) -> dict[str, NDArray[np.float32]]:
        from mxbridge.report.pixels import read_reduced

        planes = {}
        if self.measured is not None:
            planes["measured"] = read_reduced(self.measured, [self.measured_channel], longest, box)[0]
        planes["imputed"] = read_reduced(self.derived, [self.channel], longest, box)[0]
        if spread and self.spread is not None:
            planes["spread"] = read_reduced(self.derived, [self.spread], longest, box)[0]
        return planes

    def _stains(
        self, planes: dict[str, NDArray[np.float32]], white: float, budget: int, part: str, box: Box
    ) -> Iterator[Picture]:
        from mxbridge.report.cell_pictures import grey_picture
        from mxbridge.report.encoding import encode
        from mxbridge.report.legends import Legend, with_legend

        both = ", the same in both" if "measured" in planes else ""
        for name in ("measured", "imputed"):
            if name in planes:
                words = f"{(part + name).capitalize()}; white: {white:.4g} and more{both}"
                legend = Legend(um_per_px=self._um(box, planes[name].shape))
                drawn = with_legend(grey_picture(planes[name], white), legend)
                yield encode(drawn, f"{self.marker}, {part}{name}", words, budget=budget)

    def _spread(self, plane: NDArray[np.float32], budget: int, box: Box) -> Picture:
        from mxbridge.report.cell_pictures import viridis
        from mxbridge.report.encoding import encode
        from mxbridge.report.legends import ColourBar, Legend, with_legend

        top = common_white([plane])
        level = np.clip(plane / top * 255, 0, 255).round().astype(np.int64)
        bar = ColourBar("spread", viridis(), high=float(f"{top:.3g}"))
        drawn = with_legend(viridis()[level], Legend(bar, um_per_px=self._um(box, plane.shape)))
        words = f"Spread of the predictions; yellow: {top:.4g} and more"
        return encode(drawn, f"{self.marker}, spread of the predictions", words, budget=budget)

    def _um(self, box: Box, picture: tuple[int, ...]) -> tuple[float, float] | None:
        """µm per pixel of a picture of a box, for its scale bar."""
        um = self.derived.pixel_size_um
        return None if um is None else (um[0] * box.shape[0] / picture[0], um[1] * box.shape[1] / picture[1])


def common_white(planes: Sequence[NDArray[np.float32]]) -> float:
    """The stored number from which pictures that are compared are white; above 0."""
    tops = [float(np.quantile(plane, WHITE)) for plane in planes]
    top = max(tops) if max(tops) > 0 else max(float(plane.max()) for plane in planes)
    return top if top > 0 else 1.0


def brightest(reduced: NDArray[np.float32], shape: tuple[int, int], side: int) -> Box:
    """The square of ``side`` pixels of an image of ``shape`` where its reduced picture is brightest."""
    import cv2

    scale = shape[0] / reduced.shape[0], shape[1] / reduced.shape[1]
    window = max(1, round(side / scale[1])), max(1, round(side / scale[0]))
    mean = cv2.blur(reduced, window, borderType=cv2.BORDER_REPLICATE)
    y, x = np.unravel_index(int(np.argmax(mean)), mean.shape)
    corner = [
        min(max(0, round((at + 0.5) * s) - side // 2), max(0, n - side))
        for at, s, n in zip((y, x), scale, shape, strict=True)
    ]
    return Box(corner[0], corner[1], corner[0] + side, corner[1] + side).clip(shape)


def derived_folder(places: Sequence[Path], file: str) -> Path | None:
    """The first of the places that has a derived image."""
    return next((place / file for place in places if (place / file).is_dir()), None)


def windows(cells: Cells) -> list[Box]:
    """Squares of the image with cells in them, spread over the order of the cells; at most :data:`MOST_WINDOWS`."""
    bounds = cells.bounds()
    there = np.flatnonzero(np.isfinite(bounds).all(axis=1))
    chosen = there[np.unique(np.linspace(0, len(there) - 1, MOST_WINDOWS).round().astype(int))] if len(there) else there
    corners = dict.fromkeys((int(b[0]) // WINDOW, int(b[1]) // WINDOW) for b in bounds[chosen])
    return [Box(y * WINDOW, x * WINDOW, (y + 1) * WINDOW, (x + 1) * WINDOW).clip(cells.shape) for y, x in corners]


def measured_means(image: LocalImage, channel: int, cells: Cells) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices of the cells that lie in one of the :func:`windows` whole, and the mean of a channel over the pixels of each.

    Raises InputError."""
    from mxbridge.stream.reader import level_pixels

    bounds = cells.bounds()
    found: dict[int, float] = {}
    for box in windows(cells):
        with np.errstate(invalid="ignore"):
            whole = (bounds[:, 0] >= box.y0) & (bounds[:, 1] >= box.x0)
            whole &= (bounds[:, 2] <= box.y1) & (bounds[:, 3] <= box.x1)
        labels = cells.raster(box).ravel()
        values = level_pixels(image, 0, [channel], box)[0].astype(np.float64).ravel()
        kept = (labels > 0) & np.isfinite(values)
        counts = np.bincount(labels[kept], minlength=len(cells) + 1)[1:]
        sums = np.bincount(labels[kept], weights=values[kept], minlength=len(cells) + 1)[1:]
        for k in np.flatnonzero(whole & (counts > 0)).tolist():
            found[k] = float(sums[k] / counts[k])
    index = np.array(sorted(found), np.int64)
    return index, np.array([found[k] for k in index.tolist()], np.float64)
