"""IPixels: new images and what describes their pixels."""

from __future__ import annotations

from typing import Any

import omero
import omero.api
from omero.rtypes import rdouble, rint, rlong, unwrap

from ..caller import Caller, Change, now
from ..hydrate import whole
from ..pixel_data import TYPES
from ..servant import Servant, service
from ..store import Row
from ..world import text
from .queries import find_one

DESCRIPTION = (
    "select p from Pixels p join fetch p.pixelsType join fetch p.dimensionOrder join fetch p.image left outer join fetch p.channels ch "
    "left outer join fetch ch.logicalChannel lc left outer join fetch ch.statsInfo "
    "left outer join fetch lc.photometricInterpretation where p.id = :id"
)


def create_image(
    change: Change, name: str, description: str | None, sizes: dict[str, int], pixel_type: str, channels: list[int]
) -> Row:
    """Image, Pixels, Channels and LogicalChannels, as IPixels.createImage makes them. `sizes` by axis letter."""
    store = change.caller.world.store
    image = change.insert("Image", name=name, description=text(description), acquisitionDate=now(), series=rint(0))
    pixels = change.insert(
        "Pixels", image=image, pixelsType=store.word("PixelsType", pixel_type), dimensionOrder=store.word("DimensionOrder", "XYZCT"),
        sha1="Pending...", **{f"size{axis}": rint(size) for axis, size in sizes.items()},
    )  # fmt: skip
    for wave in channels:
        logical = change.insert(
            "LogicalChannel", photometricInterpretation=store.word("PhotometricInterpretation", "Monochrome")
        )
        store.assign(logical, "emissionWave", _wavelength(wave))
        change.insert(
            "Channel",
            pixels=pixels,
            logicalChannel=logical,
            red=rint(255),
            green=rint(0),
            blue=rint(0),
            alpha=rint(255),
        )
    return image


def _wavelength(wave: int) -> Any:
    return omero.model.LengthI(float(wave), omero.model.enums.UnitsLength.NANOMETER) if wave > 0 else None


@service(omero.api.IPixels, omero.api.IPixelsPrx, "getPixelsService")
class PixelsService(Servant, omero.api.IPixels):
    """Pixels as objects; their values come and go by RawPixelsStore."""

    def do_retrievePixDescription(self, caller: Caller, pixels_id: int) -> Any:
        return find_one(caller, DESCRIPTION, id=pixels_id)

    def do_getAllEnumerations(self, caller: Caller, kind: str) -> list[Any]:
        from .queries import TypesService

        return TypesService(self.server, self.session).do_allEnumerations(caller, kind)

    def do_getBitDepth(self, caller: Caller, pixel_type: Any) -> int:
        return int(caller.world.store.word("PixelsType", pixel_type.value.val).value("bitSize"))

    def do_createImage(
        self,
        caller: Caller,
        x: int,
        y: int,
        z: int,
        t: int,
        channels: list[int],
        pixel_type: Any,
        name: str,
        description: str,
    ) -> Any:
        if min(x, y, z, t, len(channels)) < 1:
            raise omero.ApiUsageException(message="sizes must be positive")
        if not name or len(name) > 255:
            raise omero.ValidationException(message="Image.name must have 1 to 255 characters")
        with caller.change() as change:
            sizes = {"X": x, "Y": y, "Z": z, "T": t, "C": len(channels)}
            image = create_image(change, name, description, sizes, self._known_type(pixel_type), list(channels))
        return rlong(image.id)

    def _known_type(self, pixel_type: Any) -> str:
        value = unwrap(pixel_type.value) if pixel_type is not None else None
        if value not in TYPES:
            raise omero.ApiUsageException(message=f"no pixel type '{value}'")
        return str(value)

    def do_copyAndResizeImage(
        self,
        caller: Caller,
        image_id: int,
        x: Any,
        y: Any,
        z: Any,
        t: Any,
        channels: list[int],
        methodology: str,
        statistics: bool,
    ) -> Any:
        source = caller.see("Image", image_id)
        pixels = source.members("pixels")[0]
        given = {"X": x, "Y": y, "Z": z, "T": t}
        sizes = {axis: value.val if value is not None else pixels.value(f"size{axis}") for axis, value in given.items()}
        sizes["C"] = len(channels)
        with caller.change() as change:
            name = f"{source.value('name')}{methodology or ''}"
            made = create_image(
                change,
                name,
                source.value("description"),
                sizes,
                pixels.fields["pixelsType"].value("value"),
                [0] * len(channels),
            )
            copy = made.members("pixels")[0]
            for field in ("physicalSizeX", "physicalSizeY", "physicalSizeZ"):
                caller.world.store.assign(copy, field, pixels.fields.get(field))
        return rlong(made.id)

    def do_setChannelGlobalMinMax(self, caller: Caller, pixels_id: int, channel: int, low: float, high: float) -> None:
        pixels = caller.see("Pixels", pixels_id)
        channels = pixels.members("channels")
        if not 0 <= channel < len(channels):
            raise omero.ApiUsageException(message=f"no channel {channel}")
        with caller.change() as change:
            if not caller.may_edit(pixels):
                raise omero.SecurityViolation(message=f"Updating {pixels} not allowed.")
            statistics = change.insert("StatsInfo", globalMin=rdouble(low), globalMax=rdouble(high))
            change.assign(channels[channel], statsInfo=statistics)

    def do_retrieveRndSettings(self, caller: Caller, pixels_id: int) -> Any:
        settings = [row for row in caller.see("Pixels", pixels_id).members("settings") if caller.may_see(row)]
        return whole(caller, settings[0]) if settings else None
