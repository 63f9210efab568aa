"""RawPixelsStore: tiles and planes, big-endian, from every level of a pyramid."""

from __future__ import annotations

from typing import Any

import numpy as np
import omero
import omero.api
from omero.rtypes import rstring

from ..caller import Caller
from ..hydrate import whole
from ..pixel_data import PixelData
from ..servant import Servant, service
from ..store import Row
from .admin import event_context

LARGE_TILE = 1024
SMALL_TILE_ROWS = 256
Place = tuple[int, int, int, slice, slice]


@service(omero.api.RawPixelsStore, omero.api.RawPixelsStorePrx, "createRawPixelsStore")
class RawPixels(Servant, omero.api.RawPixelsStore):
    """One open set of pixels; what was written is kept by `save` or `close`."""

    row: Row | None = None
    pixels: PixelData
    resolution = 0

    def do_setPixelsId(self, caller: Caller, pixels_id: int, bypass: bool) -> None:
        self.row = caller.see("Pixels", pixels_id)
        self.pixels = caller.world.pixel_data(self.row)
        self.resolution = self.pixels.level_count - 1
        self.unsaved: list[tuple[Place, Any]] = []

    def release(self, *, unsaved: bool) -> None:
        if self.row is not None and not unsaved:
            for place, before in reversed(self.unsaved):
                self.pixels.values[place] = before

    def _values(self) -> Any:
        """The array (t, c, z, y, x) of the level that is set; resolution 0 is the smallest."""
        if self.row is None:
            raise omero.ApiUsageException(
                message="This RawPixelsStore has not been properly initialized: setPixelsId comes first"
            )
        return self.pixels.level(self.pixels.level_count - 1 - self.resolution)

    def _place(self, z: int, c: int, t: int, x: int, y: int, width: int, height: int) -> Place:
        count_t, count_c, count_z, rows, columns = self._values().shape
        if not (0 <= z < count_z and 0 <= c < count_c and 0 <= t < count_t):
            raise omero.ApiUsageException(
                message=f"DimensionsOutOfBounds z={z} c={c} t={t} of {count_z}, {count_c}, {count_t}"
            )
        if x < 0 or y < 0 or width < 1 or height < 1 or x + width > columns or y + height > rows:
            raise omero.ApiUsageException(
                message=f"DimensionsOutOfBounds tile {x},{y} {width}x{height} of {columns}x{rows}"
            )
        return t, c, z, slice(y, y + height), slice(x, x + width)

    def _plane(self, z: int, c: int, t: int) -> Place:
        rows, columns = self._values().shape[3:]
        return self._place(z, c, t, 0, 0, columns, rows)

    def _read(self, place: Place) -> bytes:
        found = self._values()[place]
        if self.pixels.type == "bit":
            found = np.packbits(found)
        data: bytes = found.tobytes()
        return data

    def _write(self, caller: Caller, place: Place, data: bytes) -> None:
        assert self.row is not None
        if not caller.may_edit(self.row):
            raise omero.SecurityViolation(message=f"Updating {self.row} not allowed.")
        if self.resolution != self.pixels.level_count - 1:
            raise omero.ApiUsageException(message="only the full resolution can be written")
        self.world.check_disk()
        whole_values = self.pixels.values
        area = whole_values[place]
        if len(data) != area.nbytes:
            raise omero.ApiUsageException(message=f"{len(data)} bytes for {area.nbytes}")
        self.unsaved.append((place, area.copy()))
        whole_values[place] = np.frombuffer(data, whole_values.dtype).reshape(area.shape)

    # -- reading ------------------------------------------------------------------------------------------------------

    def do_getTile(self, caller: Caller, z: int, c: int, t: int, x: int, y: int, width: int, height: int) -> bytes:
        return self._read(self._place(z, c, t, x, y, width, height))

    def do_getPlane(self, caller: Caller, z: int, c: int, t: int) -> bytes:
        return self._read(self._plane(z, c, t))

    def do_getRow(self, caller: Caller, y: int, z: int, c: int, t: int) -> bytes:
        return self._read(self._place(z, c, t, 0, y, self._values().shape[4], 1))

    def do_getHypercube(self, caller: Caller, start: list[int], size: list[int], step: list[int]) -> bytes:
        x, y, z, c, t = (slice(a, a + n, s) for a, n, s in zip(start, size, step, strict=True))
        return bytes(np.ascontiguousarray(self._values()[t, c, z, y, x]).tobytes())

    # -- writing ------------------------------------------------------------------------------------------------------

    def do_setTile(
        self, caller: Caller, data: bytes, z: int, c: int, t: int, x: int, y: int, width: int, height: int
    ) -> None:
        self._write(caller, self._place(z, c, t, x, y, width, height), data)

    def do_setPlane(self, caller: Caller, data: bytes, z: int, c: int, t: int) -> None:
        self._write(caller, self._plane(z, c, t), data)

    def do_save(self, caller: Caller) -> Any:
        self._values()
        assert self.row is not None
        if self.unsaved:
            if caller.world.store.get("Pixels", self.row.id) is None:
                raise omero.ValidationException(message=f"{self.row} was deleted meanwhile")
            self.pixels.changed()
            self.unsaved.clear()
            with caller.change() as change:
                change.assign(self.row, sha1=rstring(self.pixels.sha1().hex()))
        return whole(caller, self.row)

    def do_close(self, caller: Caller) -> None:
        try:
            if self.row is not None and self.unsaved:
                self.do_save(caller)
        finally:
            self.server.remove(self)

    # -- facts --------------------------------------------------------------------------------------------------------

    def do_getPixelsId(self, caller: Caller) -> int:
        self._values()
        assert self.row is not None
        return self.row.id

    def do_prepare(self, caller: Caller, ids: list[int]) -> None:
        """Nothing to read ahead."""

    def do_getByteWidth(self, caller: Caller) -> int:
        return int(self._values().dtype.itemsize)

    def do_isSigned(self, caller: Caller) -> bool:
        return self._values().dtype.kind in "if"

    def do_isFloat(self, caller: Caller) -> bool:
        return bool(self._values().dtype.kind == "f")

    def do_getRowSize(self, caller: Caller) -> int:
        return int(self._values().shape[4] * self._values().itemsize)

    def do_getPlaneSize(self, caller: Caller) -> int:
        return int(self._values().shape[3] * self.do_getRowSize(caller))

    def do_getStackSize(self, caller: Caller) -> int:
        return int(self._values().shape[2] * self.do_getPlaneSize(caller))

    def do_getTotalSize(self, caller: Caller) -> int:
        return int(self._values().nbytes)

    def do_requiresPixelsPyramid(self, caller: Caller) -> bool:
        self._values()
        return self.pixels.is_large

    def do_getResolutionLevels(self, caller: Caller) -> int:
        self._values()
        return self.pixels.level_count

    def do_getResolutionLevel(self, caller: Caller) -> int:
        self._values()
        return self.resolution

    def do_setResolutionLevel(self, caller: Caller, level: int) -> None:
        self._values()
        if not 0 <= level < self.pixels.level_count:
            raise omero.ApiUsageException(message=f"no resolution level {level} of {self.pixels.level_count}")
        self.resolution = level

    def do_getResolutionDescriptions(self, caller: Caller) -> list[Any]:
        self._values()
        shapes = [self.pixels.level(level).shape for level in range(self.pixels.level_count)]
        return [omero.api.ResolutionDescription(shape[4], shape[3]) for shape in shapes]

    def do_getTileSize(self, caller: Caller) -> list[int]:
        rows, columns = self._values().shape[3:]
        if self.pixels.is_large:
            return [min(LARGE_TILE, columns), min(LARGE_TILE, rows)]
        return [columns, min(SMALL_TILE_ROWS, rows)]

    def do_calculateMessageDigest(self, caller: Caller) -> bytes:
        self._values()
        return self.pixels.sha1()

    def do_findMinMax(self, caller: Caller, channels: list[int]) -> dict[int, list[float]]:
        values = self._values()
        return {c: [float(values[:, c].min()), float(values[:, c].max())] for c in channels}

    def do_getCurrentEventContext(self, caller: Caller) -> Any:
        return event_context(caller)
