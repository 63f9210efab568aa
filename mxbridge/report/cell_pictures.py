"""Cells drawn into pictures: filled by a colour each, or outlined, at whatever scale the picture has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import BoxIndex, Cells, LabelCells, OutlineCells, Rings
from mxbridge.image import Box
from mxbridge.report.legends import Colour

FINER = 2
"""Cells are drawn so many times finer than the picture and averaged."""

TINY = 3.0
"""Cells whose box is shorter than this on the finer canvas are points; of points that share a pixel the mean colour is seen."""

LABEL_PIXELS = 64_000_000
"""Of a larger part of a label image cells are drawn as ellipses in their boxes, instead of reading all of it."""

STRIP_ROWS = 512
"""Rows of labels read together."""

SEPARATED, RIM_LIGHT = 0.5, 0.55
"""Cells that touch are told apart by darker rims, where these are less than this part of all that is drawn."""

STRONGER = 1.4
"""A rim half a pixel wide would be too pale to be seen."""

BACKGROUND: Colour = (28, 28, 32)
NO_VALUE: Colour = (118, 118, 118)
POSITIVE: Colour = (255, 171, 0)
NEGATIVE: Colour = (86, 180, 233)
CORNERS = 12
"""Of the polygons that stand for ellipses."""


@dataclass(frozen=True)
class View:
    """A picture of ``shape`` (y, x) that shows ``box`` (full-resolution pixels), and the finer canvas that it is made of."""

    box: Box
    shape: tuple[int, int]

    @property
    def canvas(self) -> tuple[int, int]:
        return self.shape[0] * FINER, self.shape[1] * FINER

    @property
    def scale(self) -> tuple[float, float]:
        """(y, x) canvas pixels per full-resolution pixel."""
        return self.canvas[0] / max(1, self.box.shape[0]), self.canvas[1] / max(1, self.box.shape[1])


@dataclass(frozen=True)
class Painting:
    """Which cell owns which pixel of a picture. labels: int32 on the finer canvas, 0 or cell + 1. points: ``(n, 2)`` y, x there of
    the cells ``point_cells`` that are too small for an outline. shape: (y, x) of the picture."""

    labels: NDArray[np.int32]
    points: NDArray[np.int64]
    point_cells: NDArray[np.int64]
    shape: tuple[int, int]

    @classmethod
    def of_rings(
        cls,
        rings: Rings,
        which: NDArray[np.int64],
        points: NDArray[np.int64],
        point_cells: NDArray[np.int64],
        view: View,
    ) -> Painting:
        """From outlines in full-resolution pixels; later ones paint over earlier ones, points lie above all.

        which: the cells that ``rings`` are of. points, point_cells: those too small for an outline.
        """
        import cv2

        canvas = np.zeros(view.canvas, np.int32)
        scale_y, scale_x = view.scale
        shift = 4  # bits of a coordinate behind the point, as OpenCV takes them
        xy = (rings.xy - (view.box.x0, view.box.y0)) * (scale_x, scale_y) - 0.5
        fixed = np.clip(np.round(xy * (1 << shift)), -(2**30), 2**30).astype(np.int32)
        for k, cell in enumerate(which.tolist()):
            parts = range(rings.object_starts[k], rings.object_starts[k + 1])
            contours = [fixed[rings.ring_starts[r] : rings.ring_starts[r + 1]] for r in parts]
            cv2.fillPoly(canvas, [c for c in contours if len(c) >= 3], cell + 1, cv2.LINE_8, shift)
        return cls(canvas, points, point_cells, view.shape)

    @classmethod
    def of_labels(cls, cells: LabelCells, box: Box, shape: tuple[int, int]) -> Painting:
        """From a label image, of which each pixel of the picture sees the nearest."""
        rows, columns = (
            np.minimum(((np.arange(n * FINER) + 0.5) * side / (n * FINER)).astype(np.int64), side - 1)
            for n, side in zip(shape, box.shape, strict=True)
        )
        canvas = np.zeros((len(rows), len(columns)), np.int32)
        for first in range(0, box.shape[0], STRIP_ROWS):
            begin, end = np.searchsorted(rows, [first, first + STRIP_ROWS])
            if begin == end:
                continue
            strip = cells.raster(Box(box.y0 + first, box.x0, min(box.y1, box.y0 + first + STRIP_ROWS), box.x1))
            canvas[begin:end] = strip[rows[begin:end] - first][:, columns]
        none = np.zeros(0, np.int64)
        return cls(canvas, none.reshape(0, 2), none, shape)

    def filled(
        self, colours: NDArray[np.uint8], background: Colour | NDArray[np.uint8] = BACKGROUND
    ) -> NDArray[np.uint8]:
        """``(y, x, 3)``. colours: uint8 ``(cells, 3)``. background: one colour, or a picture of this size."""
        import cv2

        table = np.concatenate([np.zeros((1, 3), np.float32), colours.astype(np.float32)])
        canvas, covered = table[self.labels], (self.labels > 0).astype(np.float32)
        rims = _at_border(self.labels) & (self.labels > 0)
        if rims.sum() < SEPARATED * covered.sum():
            canvas[rims] *= RIM_LIGHT
        if len(self.points):
            self._put_points(canvas, covered, colours)
        drawn = cv2.resize(canvas, self.shape[::-1], interpolation=cv2.INTER_AREA)
        share = cv2.resize(covered, self.shape[::-1], interpolation=cv2.INTER_AREA)[..., None]
        below = np.broadcast_to(np.asarray(background, np.float32), (*self.shape, 3))
        return _as_colours(drawn + below * (1 - share))

    def _put_points(
        self, canvas: NDArray[np.float32], covered: NDArray[np.float32], colours: NDArray[np.uint8]
    ) -> None:
        """Points are as large as a pixel of the picture; where several meet, the mean of their colours."""
        height, width = covered.shape
        cell = self.points // FINER
        spot = cell[:, 0] * (width // FINER) + cell[:, 1]
        counts = np.bincount(spot, minlength=(height // FINER) * (width // FINER))
        there = np.flatnonzero(counts)
        sums = [np.bincount(spot, colours[self.point_cells, c].astype(float), minlength=len(counts)) for c in range(3)]
        mean = np.stack([s[there] / counts[there] for s in sums], axis=1).astype(np.float32)
        y, x = there // (width // FINER) * FINER, there % (width // FINER) * FINER
        for dy in range(FINER):
            for dx in range(FINER):
                canvas[y + dy, x + dx], covered[y + dy, x + dx] = mean, 1.0

    def outlined(
        self, picture: NDArray[np.uint8], which: NDArray[np.bool_], colour: Colour, *, thick: int = 1
    ) -> NDArray[np.uint8]:
        """``picture`` with the inner rims of some cells. which: bool ``(cells,)``. thick: half pixels of the picture."""
        import cv2

        chosen = np.concatenate([[False], which])[self.labels]
        rim = chosen & _at_border(self.labels)
        if thick > 1:
            wide = cv2.dilate(rim.astype(np.uint8), np.ones((2 * thick - 1, 2 * thick - 1), np.uint8)).astype(bool)
            rim = wide & chosen
        marks = rim.astype(np.float32)
        y, x = (self.points[which[self.point_cells]] // FINER * FINER).T
        for dy in range(FINER):
            for dx in range(FINER):
                marks[y + dy, x + dx] = 1.0
        cover = cv2.resize(marks, self.shape[::-1], interpolation=cv2.INTER_AREA)[..., None]
        cover = np.minimum(1.0, cover * STRONGER)
        mixed = picture * (1 - cover) + np.asarray(colour, np.float32) * cover
        return _as_colours(mixed)


@dataclass(frozen=True)
class Drawable:
    """The cells of one image, ready to be drawn, whole or in part. boxes: ``(cells, 4)`` y0, x0, y1, x1 in full-resolution pixels;
    NaN for a cell without an outline."""

    cells: Cells | Rings
    boxes: NDArray[np.float64]
    _index: BoxIndex

    @classmethod
    def of(cls, cells: Cells | Rings) -> Drawable:
        """Raises TypeError for cells that are neither outlines nor labels."""
        if isinstance(cells, LabelCells):
            boxes = cells.boxes.astype(np.float64)
        elif isinstance(cells, OutlineCells):
            cells = cells.outlines
            boxes = cells.bounds()
        elif isinstance(cells, Rings):
            boxes = cells.bounds()
        else:
            raise TypeError(f"cells of the kind {type(cells).__name__} cannot be drawn")
        return cls(cells, boxes, BoxIndex(boxes))

    def painting(self, box: Box, shape: tuple[int, int]) -> Painting:
        """box: full-resolution pixels that the picture shows. shape: (y, x) of the picture."""
        if isinstance(self.cells, LabelCells) and box.shape[0] * box.shape[1] <= LABEL_PIXELS:
            return Painting.of_labels(self.cells, box, shape)
        view, near = View(box, shape), self._index.hits(box)
        bounds = (self.boxes[near] - [box.y0, box.x0, box.y0, box.x0]) * [*view.scale, *view.scale]
        tiny = np.all(bounds[:, 2:] - bounds[:, :2] < TINY, axis=1)
        middles = ((bounds[tiny, :2] + bounds[tiny, 2:]) / 2).astype(np.int64)
        points = np.clip(middles, 0, np.array(view.canvas) - 1)
        large = near[~tiny]  # of a slide with a million cells none: their outlines are not even copied
        rings = self.cells.take(large) if isinstance(self.cells, Rings) else ellipses(self.boxes[large])
        return Painting.of_rings(rings, large, points, near[tiny], view)


def draw_lines(picture: NDArray[np.uint8], rings: Rings, colours: Sequence[Colour], box: Box) -> NDArray[np.uint8]:
    """``picture``, which shows ``box``, with the outlines of a few large objects (annotations) as lines, each in its colour."""
    import cv2

    out = np.ascontiguousarray(picture).copy()
    bits = 4
    scale = out.shape[1] / max(1, box.shape[1]), out.shape[0] / max(1, box.shape[0])
    xy = (rings.xy - (box.x0, box.y0)) * scale - 0.5
    points = np.clip(np.round(xy * (1 << bits)), -(2**30), 2**30).astype(np.int32)
    for k, colour in enumerate(colours):
        parts = range(rings.object_starts[k], rings.object_starts[k + 1])
        lines = [points[rings.ring_starts[r] : rings.ring_starts[r + 1]] for r in parts]
        cv2.polylines(out, [line for line in lines if len(line) > 1], True, colour, 2, cv2.LINE_AA, bits)
    return out


def _as_colours(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _at_border(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels beside one of another cell or of none."""
    border = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border


def ellipses(boxes: NDArray[np.float64]) -> Rings:
    """Polygons that stand for cells of which only boxes ``(n, 4)`` y0, x0, y1, x1 are known."""
    angle = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    x = middle[:, 1:] + half[:, 1:] * np.cos(angle)
    y = middle[:, :1] + half[:, :1] * np.sin(angle)
    starts = np.arange(len(boxes) + 1, dtype=np.int64)
    return Rings(np.stack([x, y], axis=-1).reshape(-1, 2), starts * CORNERS, starts)


def discs(centroids: NDArray[np.float64], areas: NDArray[np.float64]) -> Rings:
    """Circles in place of cells of which only centroids ``(n, 2)`` y, x and areas are known, in the same unit."""
    radius = np.sqrt(np.maximum(areas, 0) / np.pi)[:, None]
    return ellipses(np.concatenate([centroids - radius, centroids + radius], axis=1))


@cache
def viridis() -> NDArray[np.uint8]:
    """``(256, 3)``."""
    from matplotlib import colormaps

    return _as_colours(np.asarray(colormaps["viridis"](np.arange(256)))[:, :3] * 255)


def score_colours(scores: NDArray[np.floating]) -> NDArray[np.uint8]:
    """``(cells, 3)``: scores 0..1 in viridis, cells without one grey."""
    at = (np.clip(np.nan_to_num(scores), 0, 1) * 255).round().astype(np.int64)
    out: NDArray[np.uint8] = viridis()[at]
    out[~np.isfinite(scores)] = NO_VALUE
    return out


def grey_picture(plane: NDArray[np.float32], white: float) -> NDArray[np.uint8]:
    """``(y, x, 3)`` of one channel. white: the stored number that is shown white; darker ones are lifted (gamma 0.6)."""
    level = np.clip(plane / max(white, 1e-9), 0, 1) ** GAMMA
    return np.repeat(_as_colours(level * 255)[..., None], 3, axis=2)


GAMMA = 0.6
"""Exponent by which intensities are shown: stains are mostly dark, and cells near a threshold are what people look at."""

MIXED_WHITE = 0.7
"""Of what is white in pictures of single channels: means over areas are less bright."""

MIXED: tuple[Colour, ...] = (
    (0, 114, 255), (0, 200, 90), (230, 60, 50), (240, 220, 60), (220, 60, 220), (60, 220, 230),
)  # fmt: skip
"""Colours of channels that have none of their own."""


def composite(planes: NDArray[np.float32], whites: NDArray[np.floating], colours: list[Colour]) -> NDArray[np.uint8]:
    """Channels ``(c, y, x)`` added up, each in its colour, ``(y, x, 3)``. What half of a channel's pixels do not reach is black."""
    black = np.median(planes, axis=(1, 2)).astype(np.float64)[:, None, None]
    white = np.maximum(np.asarray(whites)[:, None, None] * MIXED_WHITE, black * 1.05 + 1e-9)
    level = np.clip((planes - black) / (white - black), 0, 1)
    mixed = np.einsum("cyx,ck->yxk", level, np.asarray(colours, np.float64))
    return _as_colours(mixed)
