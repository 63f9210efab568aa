"""What OMERO says of one image: sizes, type, channels, pixel size, where it lies and what may be done with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mxbridge.errors import InputError, Unsupported
from mxbridge.formats.ome_xml import um
from mxbridge.formats.pixels import CHANNEL_LIMIT, SIDE_LIMIT
from mxbridge.formats.tiff_metadata import RGB_CHANNELS
from mxbridge.image import Channel
from mxbridge.workspaces.omero.find import not_there

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

PIXEL_TYPES = {
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float": "f4", "double": "f8",
}  # fmt: skip
"""NumPy's names of the pixel types that hold one number per pixel."""

_NO_MARKER = re.compile(r"(red|green|blue|[rgb]|(channel|ch)?[ _:-]*\d*)", re.IGNORECASE)
"""Names of samples of a colour picture. Three channels with names of their own are stains: servers show the first three of any
image in red, green and blue when nobody has chosen colours."""

RGB_COLORS = tuple(channel.color for channel in RGB_CHANNELS)

_PIXELS = (
    "select p from Pixels p join fetch p.image i join fetch p.pixelsType left outer join fetch p.channels c "
    "left outer join fetch c.logicalChannel left outer join fetch i.details.owner left outer join fetch i.details.group "
    "where i.id = :id order by p.id"
)
_PLACES = (
    "select d.id, d.name, d.details.owner.id, w.id, w.row, w.column, pl.id, pl.name from Image i "
    "left outer join i.datasetLinks dl left outer join dl.parent d "
    "left outer join i.wellSamples s left outer join s.well w left outer join w.plate pl where i.id = :id"
)
_WINDOWS = (
    "select rd.details.owner.id, index(cb), cb.inputStart, cb.inputEnd from RenderingDef rd join rd.waveRendering cb "
    "where rd.pixels.id = :id"
)


class Dataset(NamedTuple):
    """A dataset that an image lies in."""

    id: int
    name: str
    owner_id: int


class Well(NamedTuple):
    """The well of a plate that an image shows. row, column: 0-based."""

    id: int
    row: int | None
    column: int | None
    plate_id: int
    plate_name: str

    @property
    def label(self) -> str:
        """As on the plate: ``B03``; empty where row or column are not known."""
        if self.row is None or self.column is None:
            return ""
        letters, rest = "", self.row
        while rest >= 0:
            letters, rest = chr(ord("A") + rest % 26) + letters, rest // 26 - 1
        return f"{letters}{self.column + 1:02d}"


@dataclass(frozen=True)
class ImageInfo:
    """One image as OMERO describes it.

    sizes: (t, c, z, y, x). dtype: of the pixels, in this machine's byte order. pixel_size_um: (y, x), None where OMERO has no
    usable length. update_event: of the pixels; changes with them. windows: (start, end) of each channel as its owner (else
    anybody) shows it, None where nobody has looked at it yet. rgb: three uint8 channels coloured red, green and blue without names of
    stains.
    """

    id: int
    name: str
    pixels_id: int
    sizes: tuple[int, int, int, int, int]
    dtype: np.dtype
    channels: tuple[Channel, ...]
    pixel_size_um: tuple[float, float] | None
    group_id: int
    owner_id: int
    owner_name: str
    update_event: int
    datasets: tuple[Dataset, ...]
    wells: tuple[Well, ...]
    can_annotate: bool
    can_link: bool
    can_edit: bool
    can_delete: bool
    windows: tuple[tuple[float, float] | None, ...]
    rgb: bool

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) in pixels."""
        return self.sizes[3], self.sizes[4]

    def __str__(self) -> str:
        return f"{self.name} (image {self.id})"


def image_info(session: Session, image_id: int) -> ImageInfo:
    """Ask the server for one image, in three questions. Raises SourceError (not there), Unsupported (its pixel type), InputError."""
    found = session.objects(_PIXELS, id=image_id)
    if not found:
        raise not_there("image", [image_id])
    pixels = min(found, key=lambda p: p.getId().getValue())
    image = pixels.getImage()
    name = _value(image.getName()) or ""
    dtype = pixel_type(_value(pixels.getPixelsType().getValue()), f"{name} (image {image_id})")
    sizes = _sizes(pixels, f"{name} (image {image_id})")
    channels, rgb = _channels(list(pixels.copyChannels()), sizes[1], dtype)
    details = image.getDetails()
    rights, owner = details.getPermissions(), details.getOwner()
    places = session.rows(_PLACES, id=image_id)
    return ImageInfo(
        id=image_id,
        name=name,
        pixels_id=pixels.getId().getValue(),
        sizes=sizes,
        dtype=dtype,
        channels=channels,
        pixel_size_um=_pixel_size(pixels),
        group_id=details.getGroup().getId().getValue(),
        owner_id=owner.getId().getValue(),
        owner_name=_value(owner.getOmeName()) or "",
        update_event=pixels.getDetails().getUpdateEvent().getId().getValue(),
        datasets=_datasets(places),
        wells=_wells(places),
        can_annotate=bool(rights.canAnnotate()),
        can_link=bool(rights.canLink()),
        can_edit=bool(rights.canEdit()),
        can_delete=bool(rights.canDelete()),
        windows=_windows(session.rows(_WINDOWS, id=pixels.getId().getValue()), owner.getId().getValue(), sizes[1]),
        rgb=rgb,
    )


def pixel_type(name: str, where: str) -> np.dtype:
    """NumPy's type for one of OMERO's. Raises Unsupported for bits and complex numbers."""
    if name not in PIXEL_TYPES:
        what = {"bit": "single bits", "complex": "complex numbers", "double-complex": "complex numbers"}.get(name, name)
        raise Unsupported(
            f"{where} holds {what} (pixel type {name})", hint=f"Only images of {', '.join(PIXEL_TYPES)} can be read"
        )
    return np.dtype(PIXEL_TYPES[name])


def _sizes(pixels: Any, where: str) -> tuple[int, int, int, int, int]:
    t, c, z, y, x = (int(_value(getattr(pixels, f"getSize{axis}")()) or 0) for axis in "TCZYX")
    if min(t, c, z, y, x) < 1 or max(y, x) > SIDE_LIMIT or c > CHANNEL_LIMIT:
        raise InputError(
            f"{where}: OMERO says that it has {x} x {y} pixels, {c} channels, {z} z-planes, {t} time points"
        )
    return t, c, z, y, x


def _channels(listed: Sequence[Any], count: int, dtype: np.dtype) -> tuple[tuple[Channel, ...], bool]:
    """Names (they may be empty) and colours; where OMERO lists fewer channels than planes, the others have neither."""
    channels = []
    for channel in [*listed[:count], *[None] * (count - len(listed))]:
        logical = channel.getLogicalChannel() if channel is not None else None
        name = _value(logical.getName()) if logical is not None else None
        channels.append(Channel((name or "").strip(), _color(channel) if channel is not None else None))
    colored = dtype == np.uint8 and tuple(c.color for c in channels) == RGB_COLORS
    rgb = colored and all(_NO_MARKER.fullmatch(c.name) for c in channels)
    if rgb and not any(c.name for c in channels):
        return RGB_CHANNELS, True
    return tuple(channels), rgb


def _color(channel: Any) -> int | None:
    parts = [_value(getattr(channel, f"get{part}")()) for part in ("Red", "Green", "Blue")]
    if any(part is None for part in parts):
        return None
    red, green, blue = (int(part) & 0xFF for part in parts)
    return red << 16 | green << 8 | blue


def _pixel_size(pixels: Any) -> tuple[float, float] | None:
    sizes = []
    for length in (pixels.getPhysicalSizeY(), pixels.getPhysicalSizeX()):
        sizes.append(um(length.getValue(), length.getSymbol() or "") if length is not None else None)
    y, x = sizes[0] or sizes[1], sizes[1] or sizes[0]
    return (y, x) if y and x else None


def _datasets(places: Sequence[tuple[Any, ...]]) -> tuple[Dataset, ...]:
    found = {row[0]: Dataset(row[0], row[1] or "", row[2]) for row in places if row[0] is not None}
    return tuple(found[i] for i in sorted(found))


def _wells(places: Sequence[tuple[Any, ...]]) -> tuple[Well, ...]:
    found = {row[3]: Well(row[3], row[4], row[5], row[6], row[7] or "") for row in places if row[3] is not None}
    return tuple(found[i] for i in sorted(found))


def _windows(rows: Sequence[tuple[Any, ...]], owner_id: int, count: int) -> tuple[tuple[float, float] | None, ...]:
    """rows: (who, channel, start, end). Every user may have settings of their own; the owner's come first."""
    windows: list[tuple[float, float] | None] = [None] * count
    for _, channel, start, end in sorted(rows, key=lambda row: (row[0] != owner_id, row[0]), reverse=True):
        if 0 <= channel < count and start is not None and end is not None and start < end:
            windows[channel] = (float(start), float(end))
    return tuple(windows)


def _value(boxed: Any) -> Any:
    """What is inside an ``omero.rtypes`` value, None where there is none."""
    return None if boxed is None else boxed.getValue()
