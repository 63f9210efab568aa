"""IRoi."""

from __future__ import annotations

from typing import Any

import omero.api

from ..caller import Caller
from ..servant import Servant, service
from .containers import different
from .queries import find_objects

ROIS = (
    "select r from Roi r join fetch r.image i left outer join fetch r.shapes s left outer join fetch r.details.owner "
)


@service(omero.api.IRoi, omero.api.IRoiPrx, "getRoiService")
class RoiService(Servant, omero.api.IRoi):
    """Regions with their shapes."""

    def _found(self, caller: Caller, condition: str, **values: Any) -> Any:
        return omero.api.RoiResult(omero.api.RoiOptions(), different(find_objects(caller, ROIS + condition, **values)))

    def do_findByImage(self, caller: Caller, image_id: int, options: Any) -> Any:
        return self._found(caller, "where i.id = :id", id=image_id)

    def do_findByRoi(self, caller: Caller, roi_id: int, options: Any) -> Any:
        return self._found(caller, "where r.id = :id", id=roi_id)

    def do_findByPlane(self, caller: Caller, image_id: int, z: int, t: int, options: Any) -> Any:
        planes = "and (s.theZ is null or s.theZ = :z) and (s.theT is null or s.theT = :t)"
        return self._found(caller, f"where i.id = :id {planes}", id=image_id, z=z, t=t)
