"""Results that hold one of everything, small, and a workspace on the test server to publish them in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mxbridge.cells import Rings
from mxbridge.formats.ome_zarr_writer import OmeZarrWriter
from mxbridge.image import Box, Channel
from mxbridge.results import (
    ClassChanges,
    DerivedImage,
    ImageRef,
    ImageValue,
    Measurement,
    NewObjects,
    Results,
)
from mxbridge.runs import result_key
from mxbridge.workspaces.omero.sessions.connection import Session
from mxbridge.workspaces.omero.sessions.login import Credentials
from mxbridge.workspaces.omero.sessions.session import Sessions
from mxbridge.workspaces.omero.workspace import OmeroWorkspace
from tests.omero_server.running import RunningServer

SHAPE = (40, 50)
CELLS = ("5:7", "5:8", "6:9")
MARKERS = ("CD3", "CD8")


def key(target: str, ref: ImageRef, task: str = "score") -> str:
    return result_key(task=task, model="Nimbus", target=target, source=ref.id)


def add_slide(server: RunningServer, name: str = "slide.tif", **more: Any) -> ImageRef:
    """A small image with two channels, in the dataset ``slides``."""
    pixels = np.arange(2 * SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(2, *SHAPE)
    return ImageRef(str(server.add_image(name, pixels, channels=MARKERS, um_per_px=0.5, **more)), name)


def sessions_of(server: RunningServer, user: str = "alice", **options: Any) -> Sessions:
    """Sessions that log in as this user and lose no time."""
    from mxbridge.workspaces.omero.sessions.address import Place

    place = Place.parse(server.address("image:1", user))
    options = {"wait": 0.01, "linger": 0.2, **options}
    return Sessions(place.server, credentials=lambda: Credentials(user, password="secret"), **options)


@contextmanager
def asking(server: RunningServer, user: str = "alice") -> Iterator[Session]:
    """A session of another client, which is over when the block is."""
    sessions = sessions_of(server, user)
    with sessions.use() as session:
        yield session
    sessions.close()


def open_omero(
    server: RunningServer, folder: Path, images: str, *, user: str = "alice", **options: Any
) -> OmeroWorkspace:
    options.setdefault("sessions", sessions_of(server, user))
    return OmeroWorkspace(server.address(images, user), cache=folder / "cache", runs_home=folder / "runs", **options)


def derived_image(
    folder: Path, name: str, value: float, channels: Sequence[str], shape: tuple[int, int] = SHAPE
) -> None:
    """A float image in ``folder/derived``, as tasks leave it."""
    writer = OmeZarrWriter(
        folder / "derived" / name,
        (len(channels), *shape),
        np.float32,
        [Channel(c, 0x00FF00) for c in channels],
        (0.5, 0.5),
    )
    for number in range(len(channels)):
        values = np.full(shape, value + number, np.float32) + np.arange(shape[1], dtype=np.float32) / 8
        writer.write(number, Box(0, 0, *shape), values)
    writer.finish()


def everything(
    ref: ImageRef, folder: Path, *, value: float = 1.0, run_id: str = "run-1", markers: Sequence[str] = MARKERS
) -> Results:
    """Scores, classes, objects, a derived image and a value of the image."""
    channels = ("KI67 (Nimbus)", "KI67 spread (Nimbus)")
    derived_image(folder, "ki67.ome.zarr", value, channels)
    return Results(
        image=ref,
        run_id=run_id,
        cell_ids=CELLS,
        measurements=tuple(
            Measurement(f"Nimbus: {m}", np.array([value, k, np.nan], np.float32), key(m, ref))
            for k, m in enumerate(markers)
        ),
        class_changes=ClassChanges(("Tumor: CD3", None, "Stroma"), (None, None, "Stroma"), key("classes", ref)),
        objects=(nuclei(ref, value),),
        derived=(DerivedImage("ki67.ome.zarr", channels, key("KI67", ref)),),
        image_values=(ImageValue("Nimbus: positive %", 10 * value, key("values", ref)),),
        provenance={"task": "score", "name": "Nimbus", "weights_sha256": "ab" * 32},
        fingerprint=f"work-{value}",
        folder=folder,
    )


def scores(ref: ImageRef, markers: Sequence[str], *, value: float, run_id: str = "run-2") -> Results:
    """Measurements alone."""
    values = np.array([value, value + 1, value + 2], np.float32)
    return Results(
        image=ref,
        run_id=run_id,
        cell_ids=CELLS,
        measurements=tuple(Measurement(f"Nimbus: {m}", values, key(m, ref)) for m in markers),
        provenance={"task": "score", "name": "Nimbus"},
        fingerprint=f"work-{value}",
    )


def nuclei(ref: ImageRef, value: float = 1.0) -> NewObjects:
    square = np.array([[2, 2], [9, 2], [9, 9], [2, 9]], float)
    return NewObjects(
        "detection",
        key("nuclei", ref),
        ("n1", "n2"),
        Rings.of([[square], [square + 15 + value]]),
        class_names=("Positive", None),
        measurements={"area": np.array([49, 49], np.float32)},
    )
