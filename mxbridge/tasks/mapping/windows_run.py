"""A slide through the networks of a translator, window by window, onto disk: maps, whatever the size of the slide.

Reading threads decode ahead, the networks run in this thread, one thread writes behind. What is finished lies on disk: a killed
run goes on and ends with identical maps. Besides the maps themselves there is room needed for two rows of windows
(:mod:`mxbridge.tasks.mapping.window_store`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxbridge.cells import Cells
from mxbridge.formats.atomic import make_folder
from mxbridge.image import LocalImage
from mxbridge.models.translators import Translator
from mxbridge.runs import digest
from mxbridge.stream.ahead import read_ahead
from mxbridge.stream.engine import Engine
from mxbridge.stream.records import RecordFile
from mxbridge.stream.windows import Window
from mxbridge.stream.writer import Writer
from mxbridge.tasks.derived import put
from mxbridge.tasks.mapping.assemble import disagreement, write_band
from mxbridge.tasks.mapping.colours import ColourReader, colours_of
from mxbridge.tasks.mapping.maps import Geometry, GrowingMaps, Maps, MapSettings, map_basis, opened
from mxbridge.tasks.mapping.slide_sample import choose_sample
from mxbridge.tasks.mapping.tissue import LowLevel, is_blank_tile, is_blank_window
from mxbridge.tasks.mapping.window_store import Fate, WindowRow, row_path

Tell = Callable[[int, int], None]
AROUND = 64
"""Windows so many maps' pixels beside an annotation are run as well, so that its nuclei are whole."""


@dataclass(frozen=True)
class MadeMaps:
    """Maps and how they came about.

    windows: of the grid. run: those that went through the networks. skipped: the others, by reason (``blank``,
    ``blank in the low level``, ``outside``). networks: that ran. sample: which windows statistics were frozen on, or None.
    disagreement: by image, how many grey levels windows are apart where they meet (which blending hides and pasting shows);
    empty where none meet. warnings: about pixels.
    """

    maps: Maps
    windows: int
    run: int
    skipped: Mapping[str, int]
    networks: tuple[str, ...]
    sample: Mapping[str, Any] | None
    disagreement: Mapping[str, float]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, maps: Maps) -> MadeMaps:
        made = maps.made
        return cls(
            maps,
            int(made["windows"]),
            int(made["run"]),
            dict(made["skipped"]),
            tuple(made["networks"]),
            made["sample"],
            dict(made["disagreement"]),
            tuple(made["warnings"]),
        )

    def describe(self) -> dict[str, Any]:
        """For the provenance and run.json."""
        return dict(self.maps.made)


def make_maps(
    image: LocalImage,
    translator: Translator,
    engine: Engine,
    settings: MapSettings,
    work: Path,
    target: Path,
    inside: Cells | None,
    tell: Callable[[str], Tell],
) -> MadeMaps:
    """The maps ``settings.images`` of an image, at ``target`` when they are finished. work: folder of what a killed run goes on
    with. inside: annotations, outside of which nothing is run. Raises MxbridgeError.

    Maps that are at ``target`` already and were made of the same by the same are taken as they are; others are replaced.
    """
    basis = {
        **map_basis(translator, image, settings),
        "inside": None if inside is None else inside.geometry_hash(),
        "precision": engine.describe()["precision"],
    }
    fingerprint = digest(basis)
    for there in (target, work / "maps.zarr"):
        maps = opened(there) if there.exists() else None
        if maps is not None and maps.fingerprint == fingerprint:
            put(work / "maps.zarr", target)
            return MadeMaps.of(Maps.open(target))
    _WindowsRun(image, translator, engine, settings, work, inside, fingerprint).go(tell)
    put(work / "maps.zarr", target)
    return MadeMaps.of(Maps.open(target))


class _WindowsRun:
    """One image on its way to maps."""

    def __init__(
        self,
        image: LocalImage,
        translator: Translator,
        engine: Engine,
        settings: MapSettings,
        work: Path,
        inside: Cells | None,
        fingerprint: str,
    ) -> None:
        self.image, self.translator, self.engine, self.settings = image, translator, engine, settings
        self.inside, self.fingerprint = inside, fingerprint
        self.geometry = Geometry.of(translator, image, settings)
        self.grid = self.geometry.grid
        self.reader = ColourReader(colours_of(image), self.geometry.field, mirrored_twice=settings.compat)
        self.low = LowLevel(self.reader.colours, self.geometry.field, self.reader.top)
        self.growing, self.rows = work / "maps.zarr", work / "windows"
        chosen = engine.describe()
        self.header = {
            "fingerprint": fingerprint,
            **{key: chosen[key] for key in ("device_name", "precision", "threads", "torch")},
            "batch": engine.window_batch(self.geometry.net_side),
        }
        self._passes: Any = None
        self._told: dict[str, Any] = {}
        self._opened: list[WindowRow] = []

    def go(self, tell: Callable[[str], Tell]) -> None:
        """Make what is missing. Raises MxbridgeError."""
        about = {"translator": self.translator.name, "compat": self.settings.compat}
        maps = GrowingMaps(self.growing, digest(self.header), self.settings.images, self.geometry, about)
        make_folder(self.rows)
        if not maps.resumed:
            self._forget()
        with ExitStack() as stack:
            stack.callback(self._close)
            bands = RecordFile(self.rows / "bands.records", self.header)
            stack.callback(bands.close)
            finished = len(bands)
            self._sweep(finished - 1)
            progress = tell(f"making {', '.join(self.settings.images)}")
            before: WindowRow | None = None
            with Writer() as writer:
                for row in self._rows(max(0, finished - 1), progress, writer):
                    if row.row >= finished:  # the one before shares pixels with what comes, and is whole on disk
                        writer.put(_Band(self, maps, bands, before, row))
                    before = row
            tallies = [json.loads(record) for record in bands]
        maps.finish(self._made(tallies))
        self._forget()

    def _row(self, row: int) -> WindowRow:
        found = WindowRow(self.rows, row, self.settings.images, self.grid.side, self.header)
        self._opened.append(found)
        return found

    def _close(self) -> None:
        for row in self._opened:
            row.close()

    def _forget(self) -> None:
        """Remove all that is known of windows."""
        self._sweep(self.grid.rows)
        (self.rows / "bands.records").unlink(missing_ok=True)

    def _sweep(self, below: int) -> None:
        """Remove rows of windows that are in the maps already."""
        for path in self.rows.glob("row-*.records"):
            number = path.stem.removeprefix("row-")
            if not number.isdigit() or int(number) < below:
                path.unlink(missing_ok=True)

    # --- windows ---

    def _rows(self, first: int, progress: Tell, writer: Writer) -> Iterator[WindowRow]:
        """Rows of windows from ``first`` on, each when everything of it was handed to the writer.

        They are run in groups; one of which anything is missing is run again as a whole, so that every forward pass is the one
        it would have been.
        """
        columns, batch = self.grid.columns, int(self.header["batch"])
        begun = [self._row(row) for row in range(first, min(first + 2, self.grid.rows))]  # all that a run can leave
        kept = {row.row * columns + column for row in begun for column in row.fates}
        groups = [
            range(start, min(start + batch, (row + 1) * columns))
            for row in range(first, self.grid.rows)
            for start in range(row * columns, (row + 1) * columns, batch)
        ]
        todo = [group for group in groups if not kept.issuperset(group)]
        total = len(self.grid)
        done = total - sum(len(group) for group in todo)
        progress(done, total)
        windows = (self.grid[index] for group in tuple(todo) for index in group)
        stream = read_ahead(
            windows, self._read, workers=self.engine.readers, ahead=self._ahead(batch), reduced=self.engine.step_back
        )
        with closing(stream):
            for number in range(first, self.grid.rows):
                row = begun.pop(0) if begun else self._row(number)
                while todo and todo[0][0] // columns == number:
                    group = [next(stream) for _ in todo.pop(0)]
                    writer.put(_Keep(self, row, group, self._images(group)))
                    done += len(group)
                    progress(done, total)
                yield row

    def _ahead(self, batch: int) -> int:
        """Windows that are read ahead: those of the next batch, and what the readers have in hand."""
        waiting = self.engine.queue_bytes // (3 * self.geometry.net_side**2)
        return int(max(1, min(batch + 2 * self.engine.readers, waiting)))

    def _read(self, window: Window) -> _ReadWindow:
        """In a reading thread: the colours of a window, or why it is skipped. Raises InputError."""
        if self.inside is not None and not self._meets(window, self.inside):
            return _ReadWindow(window, Fate.OUTSIDE)
        return self._seen(window)

    def _seen(self, window: Window) -> _ReadWindow:
        """The same wherever annotations are."""
        compat, skip = self.settings.compat, self.settings.skip_blank
        if skip and not compat and self.low.is_blank(window.box):
            return _ReadWindow(window, Fate.BLANK_BELOW)
        pixels = self.reader.read(window.box)
        if skip and (is_blank_tile(pixels) if compat else is_blank_window(pixels)):
            return _ReadWindow(window, Fate.BLANK)
        return _ReadWindow(window, Fate.RUN, resized(pixels, self.geometry.net_side))

    def _meets(self, window: Window, inside: Cells) -> bool:
        """Whether an annotation lies in a window or close beside it."""
        near = self.geometry.field.owned(window.box.grow(AROUND).clip(self.grid.shape))
        return 0 not in near.shape and inside.any_in(near) and bool(inside.raster(near).any())

    def _images(self, group: Sequence[_ReadWindow]) -> dict[str, NDArray[np.uint8]]:
        """By name ``(n, 3, net side, net side)`` of those windows of a group that are run."""
        pixels = [read.pixels for read in group if read.pixels is not None]
        if not pixels:
            return {}
        if self._passes is None:
            self._load()
        found = self.engine.windows(self._passes, network_input(np.stack(pixels), self.engine.torch_device))
        return {name: stored(found[name]) for name in self.settings.images}

    def _load(self) -> None:
        """The passes, when the first window needs them; frozen on a sample of the slide where that is asked for.

        It is the whole slide that is sampled, also where windows are run near annotations only: what is found in one annotation
        does not change with another. A run that goes on chooses the same sample again. Raises ModelError, InputError.
        """
        passes = self.translator.passes(self.settings.images, self.settings.weighting)
        told: dict[str, Any] = {"networks": list(passes.networks)}
        passes = self.engine.prepare_windows(passes)
        if self.settings.samples(self.translator):
            count = self.settings.sampled(self.translator, len(self.grid))
            sample = choose_sample(self.grid, lambda window: self._seen(window).pixels, count)
            passes = self.engine.frozen(passes, network_input(sample.pixels, self.engine.torch_device))
            told["sample"] = sample.describe()
        self._passes = passes
        self._told = {**told, "passes": passes.describe()}

    # --- what is told ---

    def tally(self, row: WindowRow, apart: Mapping[str, tuple[float, int]], blank: int) -> bytes:
        """What is remembered of a row whose windows are thrown away. blank: pixels that no window shows."""
        fates = Counter(fate.name for fate in row.fates.values())
        return json.dumps({"fates": fates, "apart": apart, "blank": blank, **self._told}).encode()

    def _made(self, tallies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        fates: Counter[str] = Counter()
        for tally in tallies:
            fates.update(tally["fates"])
        told: Mapping[str, Any] = next((tally for tally in reversed(tallies) if "networks" in tally), {})
        skipped = {
            "blank": fates[Fate.BLANK.name],
            "blank in the low level": fates[Fate.BLANK_BELOW.name],
            "outside": fates[Fate.OUTSIDE.name],
        }
        return {
            "fingerprint": self.fingerprint,
            "windows": len(self.grid),
            "run": fates[Fate.RUN.name],
            "skipped": {reason: count for reason, count in skipped.items() if count},
            "blank": {
                "pixels": sum(tally["blank"] for tally in tallies),
                "colours": {
                    image: list(self.translator.fills().get(image, (0, 0, 0))) for image in self.settings.images
                },
            },
            "networks": told.get("networks", []),
            "passes": told.get("passes"),
            "sample": told.get("sample"),
            "statistics": "slide" if self.settings.samples(self.translator) else "window",
            "side": self.grid.side,
            "ramp": self.grid.y.ramp,
            "seams": [list(cuts) for cuts in self.grid.seams()],
            "disagreement": self._apart(tallies),
            "level": self.reader.level,
            "low_level": None if self.settings.compat or not self.settings.skip_blank else self.low.level,
            "engine": self.engine.describe(),
            "warnings": [*self.reader.colours.warnings, *self.reader.warnings],
        }

    def _apart(self, tallies: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        sums = {image: np.sum([tally["apart"][image] for tally in tallies], axis=0) for image in self.settings.images}
        return {image: round(float(total / count), 3) for image, (total, count) in sums.items() if count}


@dataclass(frozen=True)
class _ReadWindow:
    """pixels: uint8 ``(3, net side, net side)`` of a window that is to be run."""

    window: Window
    fate: Fate
    pixels: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class _Keep:
    """Job of the writer: the windows of a group. images: by name ``(n, 3, net side, net side)`` of those that were run."""

    run: _WindowsRun
    row: WindowRow
    group: Sequence[_ReadWindow]
    images: Mapping[str, NDArray[np.uint8]]

    def __call__(self) -> None:
        at = 0
        for read in self.group:
            if read.pixels is None:
                self.row.add(read.window.column, read.fate)
                continue
            side = self.run.grid.side
            self.row.add(read.window.column, read.fate, {n: resized(i[at], side) for n, i in self.images.items()})
            at += 1


@dataclass(frozen=True)
class _Band:
    """Job of the writer: what is settled once a row of windows is finished; the row before it is not needed any more."""

    run: _WindowsRun
    maps: GrowingMaps
    bands: RecordFile
    before: WindowRow | None
    here: WindowRow

    def __call__(self) -> None:
        blank = write_band(self.maps, self.run.grid, self.before, self.here, self.run.translator.fills())
        apart = disagreement(self.run.grid, self.before, self.here, self.run.settings.images)
        self.bands.append(self.run.tally(self.here, apart, blank))
        if self.before is not None:
            self.before.close()
            row_path(self.run.rows, self.before.row).unlink(missing_ok=True)


def network_input(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Colours 0..255 -> float32 -1..1 on the device, in the steps of the published program."""
    return torch.from_numpy(pixels).to(device).to(torch.float32).div_(255).sub_(0.5).div_(0.5)


def stored(image: Tensor) -> NDArray[np.uint8]:
    """What networks give, -1..1 -> 0..255; the part behind the point is dropped, as in the published program."""
    found: NDArray[np.uint8] = image.add(1).div_(2).mul_(255).clamp_(0, 255).to(torch.uint8).cpu().numpy()
    return found


def resized(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """``(3, y, x)`` colours -> a square of ``side`` pixels, bicubic as Pillow does it."""
    if pixels.shape[1:] == (side, side):
        return pixels
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    return np.ascontiguousarray(np.moveaxis(np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)), -1, 0))
