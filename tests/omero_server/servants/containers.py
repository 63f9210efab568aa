"""IContainer and IMetadata."""

from __future__ import annotations

from typing import Any

import omero
import omero.api

from ..caller import Caller
from ..hydrate import Hydration
from ..kinds import CONCRETE, kind_name
from ..servant import Servant, service
from ..store import Row
from .queries import find_objects

IMAGES = (
    "select i from Image i left outer join fetch i.pixels p left outer join fetch p.pixelsType "
    "left outer join fetch p.channels ch left outer join fetch ch.logicalChannel lc left outer join fetch i.details.owner "
    "left outer join fetch i.details.group left outer join fetch i.details.creationEvent "
    "left outer join fetch i.details.updateEvent left outer join fetch i.annotationLinks al left outer join fetch al.child "
)
HIERARCHY = {
    "Project": "select o from Project o left outer join fetch o.datasetLinks dl left outer join fetch dl.child d "
    "left outer join fetch d.imageLinks il left outer join fetch il.child i",
    "Dataset": "select o from Dataset o left outer join fetch o.imageLinks il left outer join fetch il.child i "
    "left outer join fetch i.pixels",
    "Screen": "select o from Screen o left outer join fetch o.plateLinks pl left outer join fetch pl.child p",
}


def different(objects: list[Any]) -> list[Any]:
    """Each object once."""
    return list({id(one): one for one in objects}.values())


@service(omero.api.IContainer, omero.api.IContainerPrx, "getContainerService")
class ContainerService(Servant, omero.api.IContainer):
    """Images of containers."""

    def do_getImages(self, caller: Caller, kind: str, ids: list[int], options: Any) -> list[Any]:
        conditions = {
            "Image": "where i.id in (:ids)",
            "Dataset": "join i.datasetLinks dl where dl.parent.id in (:ids)",
            "Project": "join i.datasetLinks dl join dl.parent d join d.projectLinks pl where pl.parent.id in (:ids)",
        }
        condition = conditions.get(kind_name(kind))
        if condition is None:
            raise omero.ApiUsageException(message=f"getImages of {kind}")
        return different(find_objects(caller, IMAGES + condition, ids=list(ids))) if ids else []

    def do_getCollectionCount(
        self, caller: Caller, kind: str, collection: str, ids: list[int], options: Any
    ) -> dict[int, int]:
        name = collection.rsplit(".", 1)[-1].rsplit("_", 1)[-1]
        return {one: len(caller.see(kind_name(kind), one).members(name)) for one in ids}

    def do_loadContainerHierarchy(self, caller: Caller, kind: str, ids: list[int], options: Any) -> list[Any]:
        if kind_name(kind) not in HIERARCHY:
            raise omero.ApiUsageException(message=f"loadContainerHierarchy of {kind}")
        text = (
            HIERARCHY[kind_name(kind)] + " left outer join fetch o.details.owner left outer join fetch o.details.group"
        )
        if ids:
            return different(find_objects(caller, text + " where o.id in (:ids)", ids=list(ids)))
        return different(find_objects(caller, text))


def _annotations(caller: Caller, rows: list[Row]) -> list[Any]:
    hydration = Hydration(caller)
    for row in rows:
        hydration.load(row)
        file = row.fields.get("file")
        hydration.load(file if isinstance(file, Row) else None)
    hydration.finish()
    return [hydration.objects[row] for row in rows]


@service(omero.api.IMetadata, omero.api.IMetadataPrx, "getMetadataService")
class MetadataService(Servant, omero.api.IMetadata):
    """Annotations of objects."""

    def do_loadAnnotations(
        self, caller: Caller, kind: str, ids: list[int], kinds: list[str], owners: list[int], options: Any
    ) -> dict:
        wanted = {one for name in kinds or [] for one in CONCRETE.get(kind_name(name), ())}
        found = {}
        for row_id in ids:
            links = caller.see(kind_name(kind), row_id).members("annotationLinks")
            rows = [
                link.fields["child"] for link in links if caller.may_see(link) and caller.may_see(link.fields["child"])
            ]
            rows = [
                row
                for row in rows
                if (not wanted or row.kind.name in wanted) and (not owners or (row.owner and row.owner.id in owners))
            ]
            found[row_id] = _annotations(caller, rows)
        return found

    def do_loadSpecifiedAnnotations(
        self, caller: Caller, kind: str, include: list[str], exclude: list[str], options: Any
    ) -> list[Any]:
        rows = [row for row in caller.world.store.rows(kind_name(kind)) if caller.may_see(row)]
        if include:
            rows = [row for row in rows if row.value("ns") in include]
        return _annotations(caller, [row for row in rows if row.value("ns") not in (exclude or [])])

    def do_loadAnnotation(self, caller: Caller, ids: list[int]) -> list[Any]:
        return _annotations(caller, [caller.see("Annotation", one) for one in ids])
