"""The published client as tests use it: short names for what omero-py spells out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def logged_in(host: str, port: int, user: str = "alice", password: str = "secret") -> Iterator[Any]:
    """A BlitzGateway; closed at the end."""
    from omero.gateway import BlitzGateway

    conn = BlitzGateway(user, password, host=host, port=port, secure=True)
    assert conn.connect(), conn.getLastError()
    try:
        yield conn
    finally:
        conn.close()


def in_group(conn: Any, group_id: int | None = None) -> dict[str, str]:
    """A call context; the session's own group when none is named."""
    return {"omero.group": str(conn.getEventContext().groupId if group_id is None else group_id)}


ALL_GROUPS = {"omero.group": "-1"}


def rows(conn: Any, hql: str, **values: Any) -> list[list[Any]]:
    """IQuery.projection over all groups, as plain values."""
    import omero.sys
    from omero.rtypes import rlist, rlong, rstring, unwrap

    parameters = omero.sys.ParametersI()
    for name, value in values.items():
        wrapped = rlist([rlong(one) for one in value]) if isinstance(value, list) else None
        parameters.add(name, wrapped or (rlong(value) if isinstance(value, int) else rstring(value)))
    found = conn.getQueryService().projection(hql, parameters, ALL_GROUPS)
    return [[unwrap(one) for one in line] for line in found]


def find(conn: Any, hql: str, **values: Any) -> list[Any]:
    """IQuery.findAllByQuery over all groups."""
    import omero.sys
    from omero.rtypes import rlong

    parameters = omero.sys.ParametersI()
    for name, value in values.items():
        parameters.add(name, rlong(value))
    return list(conn.getQueryService().findAllByQuery(hql, parameters, ALL_GROUPS))


def save(conn: Any, *objects: Any, group_id: int | None = None) -> list[int]:
    """IUpdate.saveAndReturnIds."""
    return list(conn.getUpdateService().saveAndReturnIds(list(objects), in_group(conn, group_id)))


def dataset(name: str = "made by a test") -> Any:
    """An unsaved dataset."""
    from omero.model import DatasetI
    from omero.rtypes import rstring

    made = DatasetI()
    made.name = rstring(name)
    return made


def map_annotation(ns: str, **pairs: str) -> Any:
    """An unsaved MapAnnotation."""
    from omero.model import MapAnnotationI, NamedValue
    from omero.rtypes import rstring

    made = MapAnnotationI()
    made.ns = rstring(ns)
    made.mapValue = [NamedValue(name, value) for name, value in pairs.items()]
    return made


def link(parent: Any, child: Any) -> Any:
    """An unsaved link between two objects of the model."""
    import omero.model

    kind = type(child).__name__.removesuffix("I")
    parent_kind = type(parent).__name__.removesuffix("I")
    name = f"{parent_kind}AnnotationLinkI" if kind.endswith("Annotation") else f"{parent_kind}{kind}LinkI"
    made = getattr(omero.model, name)()
    made.setParent(parent)
    made.setChild(child)
    return made


def image(image_id: int) -> Any:
    """An unloaded image."""
    from omero.model import ImageI

    return ImageI(image_id, False)


def new_image(conn: Any, name: str, values: np.ndarray, group_id: int | None = None) -> int:
    """An image of pixels (c, y, x), written in two tiles per plane."""
    from omero.rtypes import unwrap

    context = in_group(conn, group_id)
    word = {"float32": "float", "float64": "double"}.get(values.dtype.name, values.dtype.name)
    kind = conn.getQueryService().findByQuery(f"from PixelsType as p where p.value='{word}'", None, context)
    count, height, width = values.shape
    service = conn.getPixelsService()
    image_id = unwrap(service.createImage(width, height, 1, 1, list(range(count)), kind, name, "", context))
    half = height // 2
    with pixels_of(conn, image_id, write=True, group_id=group_id) as store:
        for c in range(count):
            for top, bottom in ((0, half), (half, height)):
                part = values[c, top:bottom]
                store.setTile(part.astype(part.dtype.newbyteorder(">")).tobytes(), 0, c, 0, 0, top, width, bottom - top)
        store.save()
    return int(image_id)


@contextmanager
def pixels_of(conn: Any, image_id: int, *, write: bool = False, group_id: int | None = None) -> Iterator[Any]:
    """An open RawPixelsStore of an image."""
    ((pixels_id,),) = rows(conn, "select p.id from Pixels p where p.image.id = :id", id=image_id)
    context = ALL_GROUPS if group_id is None and not write else in_group(conn, group_id)
    store = conn.c.sf.createRawPixelsStore(context).ice_context(context)
    try:
        store.setPixelsId(pixels_id, write)
        yield store
    finally:
        store.close()


def read_plane(conn: Any, image_id: int, dtype: np.dtype, shape: tuple[int, int], c: int = 0) -> np.ndarray:
    """One plane (y, x) in native order."""
    with pixels_of(conn, image_id) as store:
        data = store.getPlane(0, c, 0)
    return np.frombuffer(data, dtype.newbyteorder(">")).reshape(shape).astype(dtype)


def delete(conn: Any, kind: str, *ids: int) -> Any:
    """Delete2; the response."""
    from omero.callbacks import CmdCallbackI
    from omero.cmd import Delete2

    handle = conn.c.sf.submit(Delete2(targetObjects={kind: list(ids)}), ALL_GROUPS)
    callback = CmdCallbackI(conn.c, handle)
    try:
        callback.loop(100, 100)
        return callback.getResponse()
    finally:
        callback.close(True)
