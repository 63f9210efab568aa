"""Windows of TIFF pages: only the strips or tiles that a window touches are read and decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mxbridge.errors import BrokenFile, Unsupported
from mxbridge.formats.pixels import SEGMENT_LIMIT, SEGMENTS, Level, read_span
from mxbridge.image import Box


class PageLevel(Level):
    """Channels stored as TIFF pages, each with one or several samples; the pages may lie in several files."""

    def __init__(self, pages: Sequence[tifffile.TiffPage], samples: int, token: str) -> None:
        """pages: one per group of ``samples`` channels, open. token: identity of the files, for the cache of tiles."""
        first = pages[0]
        path = Path(first.parent.filehandle.path)
        self._places = [(Path(p.parent.filehandle.path), int(p.offset)) for p in pages]
        self._samples, self._token = samples, token
        self._opened: dict[int, tifffile.TiffPage] = {}
        grain = (1 if first.planarconfig == 2 else samples, *_segment_shape(first, path))
        super().__init__(path, (len(pages) * samples, first.imagelength, first.imagewidth), first.dtype, grain)
        for page in pages:
            check_segments(page, Path(page.parent.filehandle.path))
            if (page.imagelength, page.imagewidth, page.dtype) != (first.imagelength, first.imagewidth, first.dtype):
                raise Unsupported(f"{path}: its channels differ in size or type")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def read(self, channels: range, box: Box) -> np.ndarray:
        out = np.zeros((len(channels), *box.shape), self.dtype)
        for at in sorted({c // self._samples for c in channels}):
            wanted = [c for c in channels if c // self._samples == at]
            for sample, y, x, block in self._segments(at, {c % self._samples for c in wanted}, box):
                rows = slice(max(y, box.y0), min(y + block.shape[0], box.y1))
                cols = slice(max(x, box.x0), min(x + block.shape[1], box.x1))
                part = block[rows.start - y : rows.stop - y, cols.start - x : cols.stop - x]
                for c in wanted:
                    plane = c % self._samples - sample
                    if 0 <= plane < block.shape[2]:
                        target = out[c - channels.start, rows.start - box.y0 : rows.stop - box.y0]
                        target[:, cols.start - box.x0 : cols.stop - box.x0] = part[:, :, plane]
        return out

    def _segments(self, at: int, samples: set[int], box: Box) -> list[tuple[int, int, int, np.ndarray]]:
        """(first sample, y, x, pixels (y, x, s)) of every strip or tile of a page that meets ``box``."""
        page, path = self._page(at), self._places[at][0]
        height, width = _segment_shape(page, path)
        across, down = math.ceil(page.imagewidth / width), math.ceil(page.imagelength / height)
        found = []
        for group in sorted(samples) if page.planarconfig == 2 else [0]:
            for row in range(box.y0 // height, (box.y1 - 1) // height + 1):
                for column in range(box.x0 // width, (box.x1 - 1) // width + 1):
                    index = (group * down + row) * across + column
                    found.append((group, row * height, column * width, self._segment(at, page, path, index)))
        return found

    def _segment(self, at: int, page: tifffile.TiffPage, path: Path, index: int) -> np.ndarray:
        def decode() -> np.ndarray:
            if index >= len(page.dataoffsets):
                raise BrokenFile(path, "the table of its tiles is shorter than the image")
            offset, count = int(page.dataoffsets[index]), int(page.databytecounts[index])
            data = read_span(path, offset, count) if count else None
            tables = page.jpegtables if page.jpegtables is not None else None
            pixels, _, shape = page.decode(data, index, jpegtables=tables)
            if pixels is None:  # an empty tile: never written
                return np.full(shape[1:], page.nodata, self.dtype)
            return np.asarray(pixels[0]).astype(self.dtype, copy=False)

        return SEGMENTS.get((self._token, self._places[at], index), decode)

    def _page(self, at: int) -> tifffile.TiffPage:
        page = self._opened.get(at)
        if page is None:
            path, offset = self._places[at]
            with tifffile.TiffFile(path) as tiff:
                tiff.filehandle.seek(offset)
                page = tifffile.TiffPage(tiff, index=0)
                _ = page.decode, page.dataoffsets, page.databytecounts, page.jpegtables, page.nodata
            self._opened[at] = page
        return page


class ContiguousLevel(Level):
    """Uncompressed pixels that lie in one stretch of the file."""

    def __init__(
        self, path: Path, offset: int, layout: tuple[int, int, int, int, int], picks: Sequence[int], dtype: np.dtype
    ) -> None:
        """layout: (planes, separate samples, y, x, interleaved samples) as stored. picks: planes that are channels."""
        self._offset, self._layout, self._picks, self._stored = offset, layout, list(picks), np.dtype(dtype)
        _planes, separate, height, width, samples = layout
        self._samples = separate * samples
        grain = (samples if separate == 1 else 1, 256, 256)
        super().__init__(path, (len(self._picks) * self._samples, height, width), dtype, grain)
        needed = offset + math.prod(layout) * self._stored.itemsize
        if path.stat().st_size < needed:
            raise BrokenFile(path, "the file is truncated", position=path.stat().st_size, hint="Copy it again")

    def read(self, channels: range, box: Box) -> np.ndarray:
        stored = np.memmap(self.path, self._stored, "r", self._offset, self._layout)
        out = np.empty((len(channels), *box.shape), self.dtype)
        for k, c in enumerate(channels):
            plane, sample = self._picks[c // self._samples], c % self._samples
            separate, inner = divmod(sample, self._layout[4])
            out[k] = stored[plane, separate, box.y0 : box.y1, box.x0 : box.x1, inner]
        return out


def _segment_shape(page: tifffile.TiffPage, path: Path) -> tuple[int, int]:
    if page.imagedepth != 1 or (page.is_tiled and page.tiledepth != 1):
        raise Unsupported(f"{path}: volumetric TIFF pages are not supported")
    shape = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    if min(shape) < 1:
        raise BrokenFile(path, f"its tiles are {shape[1]} x {shape[0]} pixels")
    return min(shape[0], page.imagelength) if not page.is_tiled else shape[0], shape[1]


def check_segments(page: tifffile.TiffPage, path: Path) -> None:
    """Refuse early what could not be read later: strips of absurd size, tables too short, data beyond the end."""
    height, width = _segment_shape(page, path)
    inner = page.samplesperpixel if page.planarconfig == 1 else 1
    if height * width * inner * page.dtype.itemsize > SEGMENT_LIMIT:
        raise Unsupported(
            f"{path}: one strip or tile unpacks to more than {SEGMENT_LIMIT >> 30} GB",
            hint="Save it as a tiled OME-TIFF (QuPath or bfconvert -tilex 512 -tiley 512 do)",
        )
    separate = page.samplesperpixel if page.planarconfig == 2 else 1
    expected = math.ceil(page.imagelength / height) * math.ceil(page.imagewidth / width) * separate
    if len(page.dataoffsets) < expected or len(page.databytecounts) < expected:
        raise BrokenFile(path, "the table of its tiles is shorter than the image")
    ends = np.asarray(page.dataoffsets[:expected], np.float64) + np.asarray(page.databytecounts[:expected], np.float64)
    size = path.stat().st_size
    if ends.max(initial=0) > size:
        raise BrokenFile(path, "the file is truncated", position=size, hint="Copy it again")
