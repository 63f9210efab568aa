"""Read OME-Zarr 0.1 to 0.5 as a LocalImage; any order of axes, labels, and what the omero block says of channels."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mxbridge.errors import BrokenFile, InputError, SourceError, Unsupported
from mxbridge.formats.ome_xml import um
from mxbridge.formats.pixels import SEGMENT_LIMIT, Level, choose_plane, coarser_levels, missing, reading
from mxbridge.formats.zarr_codecs import check_codecs
from mxbridge.image import Box, Channel, LocalImage

METADATA_LIMIT = 64 << 20
ROOT_FILES = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
DEFAULT_AXES = ("t", "c", "z", "y", "x")
"""Versions 0.1 and 0.2 always have these five."""


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group or array. Raises SourceError for a folder that may not be looked into."""
    try:
        return any((path / name).is_file() for name in ROOT_FILES)
    except PermissionError as error:
        raise SourceError(f"{path}: no permission to look into it", hint="Ask its owner to let you") from error


def open_ome_zarr(
    path: Path, *, name: str | None = None, series: int | None = None, plane: tuple[int, int] | None = None
) -> LocalImage:
    """Open an OME-Zarr image. A bioformats2raw container opens its first image (or ``series``); plates are refused.

    Pixel size comes from the scale of the first dataset where the axes have units; without units it is None. Raises
    SourceError, BrokenFile, Unsupported.
    """
    path = Path(path)
    attributes = read_attributes(path)
    if "plate" in attributes or "well" in attributes:
        raise Unsupported(f"{path}: a plate or well, not an image", hint=f"Name the image, e.g. {_first_field(path)}")
    if "bioformats2raw.layout" in attributes:
        return _open_container(path, name, series, plane)
    if series not in (None, 0):
        raise InputError(f"{path}: there is no image {series}", hint="It has one")
    multiscale = _multiscale(path, attributes)
    axes = _axes(path, multiscale)
    datasets = [_dataset(path, d) for d in multiscale["datasets"]]
    arrays = [_open_array(d.path) for d in datasets]
    identity = zarr_identity(path, [d.path for d in datasets], plane)
    index, notes = _choose(path, axes, arrays[0].shape, plane)
    levels = [ZarrLevel(d.path, axes, array, index) for d, array in zip(datasets, arrays, strict=True)]
    keep, unfit = coarser_levels(path, [level.shape for level in levels])
    channels, rgb = _channels(attributes, levels[0])
    size, unit_warnings = _pixel_size(path, axes, multiscale, datasets[0])
    return LocalImage(
        name=name or zarr_stem(path),
        levels=tuple(levels[k].array(f"zarr-{identity[:24]}-{k}") for k in keep),
        channels=tuple(channels),
        pixel_size_um=size,
        identity=identity,
        files=(path,),
        rgb=rgb,
        warnings=(*notes, *unfit, *unit_warnings),
    )


class ZarrLevel(Level):
    """One dataset of a multiscale image; axes other than c, y, x are fixed."""

    def __init__(self, path: Path, axes: Sequence[str], array: Any, index: dict[str, int]) -> None:
        """index: where the axes other than c, y, x stand."""
        if array.ndim != len(axes):
            raise BrokenFile(path, f"has {array.ndim} axes, the metadata name {len(axes)}")
        sizes, chunks = dict(zip(axes, array.shape, strict=True)), dict(zip(axes, array.chunks, strict=True))
        self._axes, self._index, self._array = tuple(axes), index, array
        shape = (sizes.get("c", 1), sizes["y"], sizes["x"])
        grain = (chunks.get("c", 1), chunks["y"], chunks["x"])
        super().__init__(path, shape, array.dtype, grain, divisible=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    def read(self, channels: range, box: Box) -> np.ndarray:
        if self._array is None:
            self._array = _open_array(self.path)
        spans = {"c": slice(channels.start, channels.stop), "y": slice(box.y0, box.y1), "x": slice(box.x0, box.x1)}
        block = np.asarray(self._array[tuple(spans.get(a, self._index.get(a, 0)) for a in self._axes)])
        kept = [a for a in self._axes if a in spans]
        order = [kept.index(a) for a in "cyx" if a in kept]
        block = block.transpose(order)
        return block if "c" in kept else block[None]


@dataclass(frozen=True)
class _Dataset:
    path: Path
    scale: tuple[float, ...] | None


def read_attributes(path: Path) -> dict[str, Any]:
    """OME attributes of a group: ``attributes.ome`` of zarr.json (0.5) or ``.zattrs``. Raises BrokenFile, SourceError."""
    if not path.exists():
        raise missing(path)
    if (path / "zarr.json").is_file():
        attributes = _json(path / "zarr.json").get("attributes", {})
        found = attributes.get("ome", attributes) if isinstance(attributes, dict) else attributes
    elif (path / ".zattrs").is_file():
        found = _json(path / ".zattrs")
    else:
        found = {}
    if not isinstance(found, dict):
        raise BrokenFile(path, "its attributes are not a table of names and values")
    return found


def is_derived(path: Path) -> bool:
    """Whether mxbridge wrote this image (or began to): such images are no inputs unless named one by one."""
    try:
        document = (
            _json(path / "zarr.json") if (path / "zarr.json").is_file() else {"attributes": read_attributes(path)}
        )
    except InputError:
        return False
    attributes = document.get("attributes")
    return isinstance(attributes, dict) and "mxbridge" in attributes


def label_image_path(path: Path) -> Path:
    """The label image meant by ``path``: itself, or the only one in its ``labels`` group. Raises InputError with a list."""
    attributes = read_attributes(path)
    if "image-label" in attributes:
        return path
    names = label_names(path)
    group = path if path.name == "labels" else path / "labels"
    if len(names) == 1:
        return group / names[0]
    if names:
        raise InputError(
            f"{path}: it has several label images", hint=f"Name one: {', '.join(str(group / n) for n in names)}"
        )
    if "multiscales" in attributes:
        return path  # a mask stored as a plain image
    raise InputError(f"{path}: it has no label image", hint="Labels belong into <image>.zarr/labels/<name>")


def label_names(path: Path) -> list[str]:
    """Names of the label images of an image (or of a ``labels`` group)."""
    group = path if path.name == "labels" else path / "labels"
    if not is_zarr(group):
        return []
    listed = read_attributes(group).get("labels", [])
    return [n for n in listed if isinstance(n, str) and is_zarr(_inside(group, n))] if isinstance(listed, list) else []


def zarr_identity(path: Path, datasets: Sequence[Path], *salt: object) -> str:
    """Hash over metadata and the listing of chunk files (place within the image, size, time of change)."""
    digest = hashlib.sha256(repr(salt).encode())
    with reading(path):
        for name in ROOT_FILES:
            if (path / name).is_file():
                digest.update((path / name).read_bytes())
        for number, dataset in enumerate(datasets):
            entries = sorted(_walk(dataset))
            digest.update(f"{number} {len(entries)}\n".encode())
            digest.update("\n".join(f"{n} {size} {time}" for n, size, time in entries).encode())
    return digest.hexdigest()


def _walk(folder: Path) -> list[tuple[str, int, int]]:
    found = []
    for here, _, names in os.walk(folder):
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.name in names:
                    state = entry.stat()
                    place = Path(entry.path).relative_to(folder).as_posix()
                    found.append((place, state.st_size, state.st_mtime_ns))
    return found


def _open_container(path: Path, name: str | None, series: int | None, plane: tuple[int, int] | None) -> LocalImage:
    listed = read_attributes(path / "OME").get("series") if is_zarr(path / "OME") else None
    if not isinstance(listed, list):
        listed = sorted((p.name for p in path.iterdir() if p.name.isdigit()), key=int)
    if not listed:
        raise BrokenFile(path, "a bioformats2raw container without images")
    if series is not None and not 0 <= series < len(listed):
        raise InputError(f"{path}: there is no image {series}", hint=f"It has {len(listed)}, counted from 0")
    chosen = _inside(path, str(listed[series or 0]))
    image = open_ome_zarr(
        chosen, name=name or (zarr_stem(path) if not series else f"{zarr_stem(path)} - {series}"), plane=plane
    )
    if series is None and len(listed) > 1:
        note = f"{path.name} holds {len(listed)} images; only the first was read"
        object.__setattr__(image, "warnings", (note, *image.warnings))
    return image


def _multiscale(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    scales = attributes.get("multiscales")
    if not scales:
        raise Unsupported(f"{path}: a Zarr folder without an OME image (no multiscales)", hint="Name an OME-Zarr image")
    if (
        not isinstance(scales, list)
        or not isinstance(scales[0], dict)
        or not isinstance(scales[0].get("datasets"), list)
    ):
        raise BrokenFile(path, "its multiscales metadata are malformed")
    version = str(attributes.get("version") or scales[0].get("version") or "0.4")
    if version.split("-", maxsplit=1)[0] not in ("0.1", "0.2", "0.3", "0.4", "0.5"):
        raise Unsupported(f"{path}: OME-Zarr version {version} is not supported", hint="0.1 to 0.5 are")
    if not scales[0]["datasets"]:
        raise BrokenFile(path, "its multiscales metadata list no dataset")
    found: dict[str, Any] = scales[0]
    return found


def _axes(path: Path, multiscale: dict[str, Any]) -> list[str]:
    listed = multiscale.get("axes") or DEFAULT_AXES
    if not isinstance(listed, (list, tuple)):
        raise BrokenFile(path, "its axes are not a list")
    names = [str(a.get("name", "")).lower() if isinstance(a, dict) else str(a).lower() for a in listed]
    if "y" not in names or "x" not in names or len(set(names)) != len(names):
        raise Unsupported(f"{path}: the axes {', '.join(names)} are not supported", hint="An image needs axes y and x")
    return names


def _units(multiscale: dict[str, Any]) -> dict[str, str]:
    listed = multiscale.get("axes") or []
    return {str(a.get("name", "")).lower(): str(a.get("unit") or "") for a in listed if isinstance(a, dict)}


def _dataset(path: Path, entry: Any) -> _Dataset:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise BrokenFile(path, "its multiscales metadata are malformed")
    return _Dataset(_inside(path, entry["path"]), _scale(path, entry.get("coordinateTransformations")))


def _scale(path: Path, transformations: Any) -> tuple[float, ...] | None:
    if not isinstance(transformations, list):
        return None
    for entry in transformations:
        if isinstance(entry, dict) and entry.get("type") == "scale" and isinstance(entry.get("scale"), list):
            try:
                return tuple(float(v) for v in entry["scale"])
            except (TypeError, ValueError) as error:
                raise BrokenFile(path, "its scale is not a list of numbers") from error
    return None


def _inside(path: Path, relative: str) -> Path:
    """A path below ``path``; metadata may not point elsewhere."""
    parts = Path(relative).parts
    if not parts or ".." in parts or Path(relative).is_absolute():
        raise BrokenFile(path, f"its metadata point outside of it ({relative!r})")
    return path.joinpath(*parts)


def _open_array(path: Path) -> Any:
    """The zarr array at ``path``, after checking that its codecs only unpack numbers and its chunks are no bombs."""
    import zarr

    if not path.is_dir():
        raise BrokenFile(
            path, "the metadata name this level, but it is missing", hint="Copy the whole .zarr folder again"
        )
    version = 3 if (path / "zarr.json").is_file() else 2
    described = _json(path / ("zarr.json" if version == 3 else ".zarray"))
    check_codecs(described, path)
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on how other programs wrote their metadata
        array = zarr.open_array(store=str(path), mode="r", zarr_format=version)
        size = int(np.prod(array.chunks, dtype=np.float64)) * array.dtype.itemsize
    if size > SEGMENT_LIMIT:
        raise Unsupported(f"{path}: one chunk unpacks to {size >> 20} MB", hint="Save it with smaller chunks")
    return array


def _json(path: Path) -> dict[str, Any]:
    with reading(path):
        if path.stat().st_size > METADATA_LIMIT:
            raise BrokenFile(path, f"larger than {METADATA_LIMIT >> 20} MB")
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise BrokenFile(path, f"not valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise BrokenFile(path, "not a table of names and values")
    return document


def _choose(
    path: Path, axes: Sequence[str], shape: Sequence[int], plane: tuple[int, int] | None
) -> tuple[dict[str, int], list[str]]:
    sizes = dict(zip(axes, shape, strict=False))
    (z, t), notes = choose_plane(path, (sizes.get("z", 1), sizes.get("t", 1)), plane)
    for axis, size in sizes.items():
        if axis not in "czyxt" and size > 1:
            notes.append(f"{path.name} has a further axis {axis} of size {size}; only its first plane was read")
    return {"z": z, "t": t}, notes


def _channels(attributes: dict[str, Any], level: Level) -> tuple[list[Channel], bool]:
    omero = attributes.get("omero")
    listed = omero.get("channels") if isinstance(omero, dict) else None
    listed = [c if isinstance(c, dict) else {} for c in listed] if isinstance(listed, list) else []
    channels = []
    for k in range(level.shape[0]):
        entry = listed[k] if k < len(listed) else {}
        label = entry.get("label")
        channels.append(Channel("" if label is None else str(label).strip(), _colour(entry.get("color"))))
    named = [c if c.name else Channel(f"Channel {i}", c.color) for i, c in enumerate(channels, 1)]
    pure = [c.color for c in named] == [0xFF0000, 0x00FF00, 0x0000FF]
    words = [c.name.lower() for c in named] == ["red", "green", "blue"]
    return named, pure and words and level.dtype == np.uint8


def _colour(text: Any) -> int | None:
    try:
        return int(str(text).lstrip("#"), 16) & 0xFFFFFF if text is not None else None
    except ValueError:
        return None


def _pixel_size(
    path: Path, axes: Sequence[str], multiscale: dict[str, Any], dataset: _Dataset
) -> tuple[tuple[float, float] | None, list[str]]:
    scale, outer = dataset.scale, _scale(path, multiscale.get("coordinateTransformations"))
    if scale is None or len(scale) != len(axes):
        return None, []
    factors = [s * (outer[i] if outer and len(outer) == len(axes) else 1.0) for i, s in enumerate(scale)]
    units, sizes = _units(multiscale), dict(zip(axes, factors, strict=True))
    y, x = um(sizes["y"], units.get("y", "")), um(sizes["x"], units.get("x", ""))
    if y and x:
        return (y, x), []
    if not units.get("x") and (sizes["y"], sizes["x"]) != (1.0, 1.0):
        return None, [f"{path.name}: its scale {sizes['x']:g} has no unit, so it was not taken as µm"]
    return None, []


def _first_field(path: Path) -> str:
    """An image below a plate or well, for the hint."""
    for depth in ("*/*/0", "0"):
        found = sorted(p for p in path.glob(depth) if is_zarr(p))
        if found:
            return str(found[0])
    return str(path / "A/1/0")


def zarr_stem(path: Path) -> str:
    stem = path.resolve().name
    for suffix in (".ome.zarr", ".zarr"):
        if stem.lower().endswith(suffix):
            return stem[: -len(suffix)]
    return stem
