"""What a test puts into the server beforehand: images, datasets, plates, files of an import."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np
import omero.model
from omero.rtypes import rbool, rdouble, rint, rlong, rstring

from .caller import Caller, Change
from .pixel_data import TYPES, type_name
from .servants.pixels import create_image
from .sessions import Session
from .store import Row
from .world import World

COLOURS = ((0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 0), (0, 255, 255), (255, 0, 255))


def as_user(world: World, owner: str, group: str) -> Caller:
    """A caller for work inside the server."""
    user, place = world.user(owner), world.group(group)
    if user is None or place is None:
        raise ValueError(f"no user {owner} or no group {group}")
    return Caller(world, Session(world, user, place), {})


def add_dataset(world: World, name: str, project: str | None, group: str, owner: str) -> int:
    """A new dataset, in a project (made when there is none of that name)."""
    with as_user(world, owner, group).change() as change:
        dataset = change.insert("Dataset", name=name, description=None)
        if project:
            change.insert("ProjectDatasetLink", parent=_named(change, "Project", project), child=dataset)
        return dataset.id


def add_image(
    world: World,
    name: str,
    pixels: np.ndarray,
    *,
    dataset: str | None,
    channels: list[str],
    um_per_px: float | list[float] | None,
    group: str,
    owner: str,
    pixel_type: str | None = None,
) -> int:
    """An image with these pixels (c, y, x) or (t, c, z, y, x), in a dataset of that name (made when absent)."""
    values = pixels[None, :, None] if pixels.ndim == 3 else pixels
    with as_user(world, owner, group).change() as change:
        kind = pixel_type or type_name(values.dtype)
        sizes = dict(zip("TCZYX", values.shape, strict=True))
        image = create_image(change, name, None, sizes, kind, [0] * sizes["C"])
        if dataset is not None:
            change.insert("DatasetImageLink", parent=_named(change, "Dataset", dataset), child=image)
        row = image.members("pixels")[0]
        _describe(change, row, channels, um_per_px)
        data = world.pixel_data(row)
        data.values[...] = values.astype(TYPES[kind])
        world.store.assign(row, "sha1", rstring(data.sha1().hex()))
        return image.id


def _named(change: Change, kind: str, name: str) -> Row:
    caller = change.caller
    for row in caller.world.store.rows(kind):
        if (
            row.value("name") == name
            and row.group is not None
            and row.group.id == caller.group_id
            and row.owner is caller.user
        ):
            return row
    return change.insert(kind, name=name, description=None)


def _describe(change: Change, pixels: Row, channels: list[str], um_per_px: float | list[float] | None) -> None:
    store = change.caller.world.store
    for n, channel in enumerate(pixels.members("channels")):
        if n < len(channels):
            store.assign(channel.fields["logicalChannel"], "name", rstring(channels[n]) if channels[n] else None)
        for field, value in zip(("red", "green", "blue"), COLOURS[n % len(COLOURS)], strict=True):
            store.assign(channel, field, rint(value))
    if um_per_px is not None:
        y, x = um_per_px if isinstance(um_per_px, list) else (um_per_px, um_per_px)
        for field, value in (("physicalSizeY", y), ("physicalSizeX", x)):
            store.assign(pixels, field, omero.model.LengthI(float(value), omero.model.enums.UnitsLength.MICROMETER))


def add_plate(world: World, name: str, wells: list[list[Any]], screen: str | None, group: str, owner: str) -> int:
    """A plate; `wells` lists (row, column, image id), several images of one well as several lines."""
    with as_user(world, owner, group).change() as change:
        plate = change.insert("Plate", name=name, description=None)
        if screen:
            change.insert("ScreenPlateLink", parent=_named(change, "Screen", screen), child=plate)
        made: dict[tuple[int, int], Row] = {}
        for row, column, image_id in wells:
            well = made.get((row, column))
            if well is None:
                well = made[row, column] = change.insert("Well", plate=plate, row=rint(row), column=rint(column))
            change.insert("WellSample", well=well, image=world.store.need("Image", image_id))
        return plate.id


def add_fileset(world: World, image_id: int, path: str, series: int) -> int:
    """As if the image had been imported from this file; `path` lies below the managed repository."""
    image = world.store.need("Image", image_id)
    assert image.owner is not None and image.group is not None
    with as_user(world, image.owner.value("omeName"), image.group.value("name")).change() as change:
        place = PurePosixPath(path)
        folder = "" if str(place.parent) == "." else f"{place.parent}/"
        file = change.insert(
            "OriginalFile", name=place.name, path=folder, mimetype="application/octet-stream", size=rlong(0)
        )
        fileset = change.insert("Fileset", templatePrefix=folder)
        change.insert("FilesetEntry", fileset=fileset, originalFile=file, clientPath=f"home/somebody/{place.name}")
        world.store.assign(image, "fileset", fileset)
        world.store.assign(image, "series", rint(series))
        return fileset.id


def add_windows(world: World, image_id: int, windows: list[list[float]]) -> int:
    """Rendering settings of the image's owner: (start, end) per channel."""
    image = world.store.need("Image", image_id)
    assert image.owner is not None and image.group is not None
    with as_user(world, image.owner.value("omeName"), image.group.value("name")).change() as change:
        settings = change.insert(
            "RenderingDef", pixels=image.members("pixels")[0], name="", defaultZ=rint(0), defaultT=rint(0), compression=rdouble(0.9),
            model=world.store.word("RenderingModel", "rgb"),
        )  # fmt: skip
        for n, (start, end) in enumerate(windows):
            change.insert(
                "ChannelBinding", renderingDef=settings, family=world.store.word("Family", "linear"), coefficient=rdouble(1.0),
                inputStart=rdouble(start), inputEnd=rdouble(end), active=rbool(n < 3), noiseReduction=rbool(False),
            )  # fmt: skip
        return settings.id
