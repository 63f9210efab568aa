"""Maps: the images that a translator makes of a slide, uint8 colours at its scale. Everything else is found from them.

A folder ``maps.zarr`` with one array ``(3, y, x)`` per image, and attributes that say of what and how it was made. It stays in the
folder of the run, so that nuclei can be found again with other thresholds and no network.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile, InputError, SourceError, UsageError
from mxbridge.formats.atomic import output_error
from mxbridge.image import Box, LocalImage
from mxbridge.models.maxim_input import field_at, own_field
from mxbridge.models.translators import Translator, Weighting
from mxbridge.runs import digest
from mxbridge.stream.resample import Field, Scale
from mxbridge.stream.windows import PeerGrid, WindowGrid
from mxbridge.tasks.mapping.colours import colours_of

if TYPE_CHECKING:
    import zarr

FORMAT = "mxbridge maps 1"
ALGORITHM = 1
"""Counts up when the same settings give other pixels."""
OURS = "mxbridge"
AGAIN = "Run translate again, with --restart"
CHUNK = 512
SAMPLED, FROZEN, SEED = 12, 8, 20240501
"""Windows of which a translator learns a slide's colours; windows on which networks freeze their statistics, at most; and the
seed by which they are chosen."""


@dataclass(frozen=True)
class MapSettings:
    """How maps are made.

    images: names of those wanted. compat: tiles as the published program cuts them, of ``tile_size`` pixels of the image,
    otherwise windows at the translator's scale that are blended over ``overlap`` pixels (None: as the translator says).
    statistics: of each window, or of a sample of the slide. skip_blank: leave out blank windows. Raises UsageError.
    """

    images: tuple[str, ...]
    compat: bool = False
    tile_size: int | None = None
    statistics: Literal["window", "slide"] = "window"
    overlap: int | None = None
    weighting: Weighting | None = None
    skip_blank: bool = True

    def __post_init__(self) -> None:
        if self.compat and self.statistics == "slide":
            raise UsageError("--statistics slide is not what the published program does", hint="Leave --compat away")
        if (self.tile_size is not None) != self.compat:
            raise UsageError(
                "--compat deepliif and --tile-size go together", hint="Without them the pixel size decides the scale"
            )

    def samples(self, translator: Translator) -> bool:
        """Whether networks are frozen on a sample of the slide."""
        return self.statistics == "slide" or translator.samples_slide

    def sampled(self, translator: Translator, windows: int) -> int:
        """Windows in that sample. A window in it costs a network as much time as one of the slide, and far more memory."""
        return SAMPLED if translator.samples_slide else min(FROZEN, max(2, -(-windows // 4)))


@dataclass(frozen=True)
class Geometry:
    """Where windows lie. field: the source in maps' pixels. um_per_px: (y, x) of those. net_side: what a network sees of a
    window, the side of the grid's windows but in compat mode."""

    field: Field
    um_per_px: tuple[float, float] | None
    grid: WindowGrid
    net_side: int

    @classmethod
    def of(cls, translator: Translator, image: LocalImage, settings: MapSettings) -> Geometry:
        """Raises NoPixelSize, InputError and UsageError; no pixels are read."""
        if settings.compat:
            grid = PeerGrid.of_tiles(image.shape, settings.tile_size or 0)
            return cls(own_field(image), image.pixel_size_um, grid, translator.window)
        seen = field_at(image, translator.um_per_px)
        same = seen == own_field(image)
        um_maps = image.require_pixel_size() if same else (translator.um_per_px, translator.um_per_px)
        overlap = translator.overlap if settings.overlap is None else settings.overlap
        windows = WindowGrid.of(seen.shape, side=translator.window, overlap=overlap)
        return cls(seen, um_maps, windows, translator.window)


def map_basis(translator: Translator, image: LocalImage, settings: MapSettings) -> dict[str, Any]:
    """Everything that decides the pixels of maps, for fingerprints; no pixels are read.

    Raises NotApplicable (not red, green and blue), NoPixelSize, InputError (a scale too far away), UsageError.
    """
    if translator.input_images > 1:
        raise InputError(
            f"{translator.name} looks at {translator.input_images} pictures of the same place at once, a slide is one",
            hint="Use a model that translates one picture",
        )
    colours = colours_of(image)
    geometry = Geometry.of(translator, image, settings)
    grid, seen = geometry.grid, geometry.field
    return {
        "algorithm": ALGORITHM,
        "translator": translator.name,
        "described": translator.describe(),
        "weights": translator.weights_sha256,
        "weighting": None if settings.weighting is None else settings.weighting.to_json(),
        "images": list(settings.images),
        "pixels": image.identity,
        "channels": list(colours.channels),
        "shape": list(seen.shape),
        "ratio": [seen.y.ratio, seen.x.ratio],
        "um_per_px": geometry.um_per_px,
        "compat": settings.compat,
        "windows": {
            "side": grid.side,
            "net": geometry.net_side,
            "ramp": grid.y.ramp,
            "y": digest([grid.y.starts, grid.y.cuts]),
            "x": digest([grid.x.starts, grid.x.cuts]),
        },
        "statistics": {"windows": settings.sampled(translator, len(grid)), "seed": SEED}
        if settings.samples(translator)
        else "window",
        "skip_blank": settings.skip_blank,
    }


class Planes(Protocol):
    """An array ``(3, y, x)`` of which boxes can be taken."""

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True)
class Maps:
    """Maps of one slide, read box by box.

    images: their names. field: the source image in maps' pixels. um_per_px: (y, x) of those, None where it is not known.
    translator: name of what made them. compat: made as the published program does. made: how, for the provenance.
    """

    images: tuple[str, ...]
    field: Field
    um_per_px: tuple[float, float] | None
    translator: str
    compat: bool
    made: Mapping[str, Any] = dataclasses.field(repr=False)
    _planes: Mapping[str, Planes] = dataclasses.field(repr=False)
    path: Path | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) in maps' pixels."""
        return self.field.shape

    @property
    def fingerprint(self) -> str:
        """Of everything that decided their pixels; empty for maps from arrays."""
        return str(self.made.get("fingerprint", ""))

    def blank(self, image: str) -> tuple[int, tuple[int, ...]]:
        """How many pixels no network has seen, and the colour that ``image`` has there. Raises BrokenFile."""
        try:
            told = self.made.get("blank") or {"pixels": 0, "colours": {}}
            return int(told["pixels"]), tuple(int(level) for level in told["colours"].get(image, (0, 0, 0)))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise BrokenFile(self.path or image, f"these maps are damaged ({error})") from error

    def read(self, image: str, box: Box) -> NDArray[np.uint8]:
        """Colours ``(3, y, x)`` of ``box``, which must lie inside. Raises InputError."""
        if image not in self.images:
            raise InputError(f"these maps hold no image {image}", hint=f"There is: {', '.join(self.images)}")
        try:
            return np.asarray(self._planes[image][:, box.y0 : box.y1, box.x0 : box.x1], np.uint8)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise BrokenFile(self.path or image, f"the map {image} cannot be read ({error})", hint=AGAIN) from error

    @classmethod
    def of_arrays(
        cls,
        images: Mapping[str, NDArray[np.uint8]],
        um_per_px: tuple[float, float] | None,
        *,
        translator: str = "DeepLIIF",
    ) -> Maps:
        """In memory, from ``(3, y, x)`` uint8 arrays of one size, pixel by pixel the source. Raises InputError."""
        shapes = {name: array.shape for name, array in images.items()}
        if (
            not shapes
            or any(len(s) != 3 or s[0] != 3 or 0 in s for s in shapes.values())
            or len(set(shapes.values())) > 1
        ):
            sizes = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise InputError(f"maps must be pictures in red, green and blue of one size: {sizes or 'none given'}")
        if any(array.dtype != np.uint8 for array in images.values()):
            raise InputError("maps must have 8 bits per colour")
        height, width = next(iter(images.values())).shape[1:]
        own = Field(Scale(height, 1.0), Scale(width, 1.0))
        return cls(tuple(images), own, um_per_px, translator, compat=False, made={}, _planes=dict(images))

    @classmethod
    def open(cls, path: Path) -> Maps:
        """Raises SourceError (not there), BrokenFile (no maps, or not finished)."""
        if not path.is_dir():
            raise SourceError(
                f"{path}: there are no maps", hint="Run translate again; it keeps them in the run's folder"
            )
        maps = opened(path)
        if maps is None:
            raise BrokenFile(path, "these are no finished maps of mxbridge", hint=AGAIN)
        return maps


def opened(path: Path) -> Maps | None:
    """Finished maps, or None where there are none. Raises BrokenFile for what only looks like them."""
    import zarr

    try:
        group = zarr.open_group(str(path), mode="r")
        about = group.attrs[OURS]
        if not isinstance(about, dict) or about.get("format") != FORMAT or not about.get("made"):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    try:
        images = tuple(str(name) for name in about["images"])
        full, ratio = about["full"], about["ratio"]
        seen = Field(Scale(int(full[0]), float(ratio[0])), Scale(int(full[1]), float(ratio[1])))
        planes: dict[str, Any] = {name: group[f"{k}"] for k, name in enumerate(images)}
        if not images or any(p.shape != (3, *seen.shape) or p.dtype != np.uint8 for p in planes.values()):
            raise ValueError("arrays of another size or type")
        if about["pieces"] != _pieces(path):
            raise ValueError(f"{_pieces(path)} of {about['pieces']} files are there")
        um = about["um_per_px"]
        return Maps(
            images,
            seen,
            None if um is None else (float(um[0]), float(um[1])),
            str(about["translator"]),
            bool(about["compat"]),
            dict(about["made"]),
            planes,
            path,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise BrokenFile(path, f"these maps are damaged ({error})", hint=AGAIN) from error


def _pieces(path: Path) -> int:
    """Files with pixels; one that is lost would read as black. Raises OSError."""
    return sum(name != "zarr.json" for _, _, names in os.walk(path) for name in names)


class GrowingMaps:
    """Maps on their way to disk; without :meth:`finish` they are none yet. One thread writes at a time."""

    def __init__(
        self, path: Path, basis: str, images: Iterable[str], geometry: Geometry, about: Mapping[str, Any]
    ) -> None:
        """basis: fingerprint; what an interrupted run with the same one has written is kept, anything else is replaced.

        about: what attributes say besides. ``resumed`` says whether something was kept. Raises OutputError.
        """
        self.path, self.images = path, tuple(images)
        self._attributes = {
            **about,
            "format": FORMAT,
            "basis": basis,
            "images": list(self.images),
            "full": [geometry.field.y.full, geometry.field.x.full],
            "ratio": [geometry.field.y.ratio, geometry.field.x.ratio],
            "um_per_px": None if geometry.um_per_px is None else list(geometry.um_per_px),
        }
        try:
            self.resumed = self._adopt(basis)
            self._arrays = self._open((3, *geometry.field.shape))
        except OSError as error:
            raise output_error(path, error) from error

    def write(self, image: str, box: Box, values: NDArray[np.uint8]) -> None:
        """values: ``(3, y, x)``."""
        try:
            self._arrays[image][:, box.y0 : box.y1, box.x0 : box.x1] = values
        except OSError as error:
            raise output_error(self.path, error) from error

    def finish(self, made: Mapping[str, Any]) -> None:
        """Say that they are whole, and how they were made."""
        try:
            self._group.attrs[OURS] = {**self._attributes, "pieces": _pieces(self.path), "made": dict(made)}
        except OSError as error:
            raise output_error(self.path, error) from error

    def _adopt(self, basis: str) -> bool:
        import zarr

        if not self.path.exists():
            return False
        try:
            about = zarr.open_group(str(self.path), mode="r").attrs[OURS]
            same = isinstance(about, dict) and about.get("basis") == basis
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same:
            shutil.rmtree(self.path)
            return False
        for left in list(self.path.rglob("*.partial")):  # what zarr was writing when an earlier run was killed
            left.unlink()
        return True

    def _open(self, shape: tuple[int, int, int]) -> dict[str, zarr.Array[Any]]:
        import zarr

        self.path.mkdir(parents=True, exist_ok=True)
        self._group = zarr.open_group(str(self.path), mode="a")
        if not self.resumed:
            self._group.attrs[OURS] = self._attributes
        chunks = (3, min(CHUNK, shape[1]), min(CHUNK, shape[2]))
        arrays = {}
        for k, name in enumerate(self.images):
            arrays[name] = self._group.require_array(f"{k}", shape=shape, chunks=chunks, dtype=np.uint8, exact=True)
        return arrays
