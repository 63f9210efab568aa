"""RenderingEngine: settings only, enough for `getChannels()`; nothing is rendered."""

from __future__ import annotations

from typing import Any

import numpy as np
import omero.api

from ..caller import Caller
from ..pixel_data import PixelData
from ..servant import Servant, service
from ..store import Row
from .pixels import DESCRIPTION
from .queries import TypesService, find_one


@service(omero.api.RenderingEngine, omero.api.RenderingEnginePrx, "createRenderingEngine")
class Rendering(Servant, omero.api.RenderingEngine):
    """Windows from the data, colours from the channels."""

    row: Row
    pixels: PixelData

    def do_lookupPixels(self, caller: Caller, pixels_id: int) -> None:
        self.row = caller.see("Pixels", pixels_id)
        self.pixels = caller.world.pixel_data(self.row)
        self.active: dict[int, bool] = {}

    def do_lookupRenderingDef(self, caller: Caller, pixels_id: int) -> bool:
        return True

    def do_loadRenderingDef(self, caller: Caller, definition_id: int) -> None:
        """One setting only."""

    def do_resetDefaultSettings(self, caller: Caller, save: bool) -> int:
        return 1

    def do_load(self, caller: Caller) -> None:
        """Nothing to load."""

    def do_getRenderingDefId(self, caller: Caller) -> int:
        return 1

    def do_getPixels(self, caller: Caller) -> Any:
        return find_one(caller, DESCRIPTION, id=self.row.id)

    def do_getModel(self, caller: Caller) -> Any:
        return TypesService(self.server, self.session).do_getEnumeration(caller, "RenderingModel", "rgb")

    def do_getDefaultZ(self, caller: Caller) -> int:
        return int(self.pixels.values.shape[2] // 2)

    def do_getDefaultT(self, caller: Caller) -> int:
        return int(self.pixels.values.shape[0] // 2)

    def do_getPixelsTypeLowerBound(self, caller: Caller, channel: int) -> float:
        return self._bounds(channel)[0]

    def do_getPixelsTypeUpperBound(self, caller: Caller, channel: int) -> float:
        return self._bounds(channel)[1]

    def _bounds(self, channel: int) -> tuple[float, float]:
        values = self.pixels.values
        if values.dtype.kind == "f":
            return float(values[:, channel].min()), float(values[:, channel].max())
        return float(np.iinfo(values.dtype).min), float(np.iinfo(values.dtype).max)

    def do_isActive(self, caller: Caller, channel: int) -> bool:
        return self.active.get(channel, channel < 3)

    def do_setActive(self, caller: Caller, channel: int, active: bool) -> None:
        self.active[channel] = active

    def do_getChannelWindowStart(self, caller: Caller, channel: int) -> float:
        return float(self.pixels.values[:, channel].min())

    def do_getChannelWindowEnd(self, caller: Caller, channel: int) -> float:
        return float(self.pixels.values[:, channel].max())

    def do_getRGBA(self, caller: Caller, channel: int) -> list[int]:
        row = self.row.members("channels")[channel]
        return [int(row.value(name) or 0) for name in ("red", "green", "blue", "alpha")]

    def do_getChannelLookupTable(self, caller: Caller, channel: int) -> str:
        return ""

    def do_getCodomainMapContext(self, caller: Caller, channel: int) -> list[Any]:
        return []

    def do_getChannelCurveCoefficient(self, caller: Caller, channel: int) -> float:
        return 1.0

    def do_getChannelNoiseReduction(self, caller: Caller, channel: int) -> bool:
        return False

    def do_getChannelFamily(self, caller: Caller, channel: int) -> Any:
        return TypesService(self.server, self.session).do_getEnumeration(caller, "Family", "linear")

    def do_close(self, caller: Caller) -> None:
        self.server.remove(self)
