"""Everything the server remembers: rows, pixels, files, people, settings. A reset is a new world."""

from __future__ import annotations

import random
import shutil
import threading
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import omero
import omero.model
from omero.rtypes import rstring

from .caller import now
from .faults import Faults
from .pixel_data import PixelData
from .sessions import Sessions
from .store import Row, Store


class Settings:
    """What a test may switch: see `RunningServer.set`."""

    def __init__(self) -> None:
        self.tables = True
        self.max_plane = 3192
        self.disk_full = False
        self.lost = "mixed"
        self.latency_ms = 0.0
        self.seed = 0
        self.chance = random.Random(0)


class World:
    """The state between two resets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.store = Store()
        self.sessions = Sessions()
        self.settings = Settings()
        self.faults = Faults()
        self.pixels: dict[int, PixelData] = {}
        self.passwords: dict[str, str] = {}
        self.modes: dict[Row, str] = {}
        self.leaders: set[tuple[Row, Row]] = set()
        self.admins: set[Row] = set()
        self.light: dict[Row, tuple[str, ...]] = {}
        self.home_groups: dict[Row, Row] = {}
        self.repository: Row | None = None
        self.database_uuid = str(uuid.uuid4())
        self.calls: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.errors: list[str] = []
        self.counting = threading.Lock()

    # -- people ---------------------------------------------------------------------------------------------------------

    def user(self, name: str) -> Row | None:
        return next((row for row in self.store.rows("Experimenter") if row.value("omeName") == name), None)

    def group(self, name: str) -> Row | None:
        return next((row for row in self.store.rows("ExperimenterGroup") if row.value("name") == name), None)

    def groups_of(self, user: Row) -> set[int]:
        return {row.fields["parent"].id for row in user.lists.get("groupExperimenterMap", ())}

    def mode(self, group: Row) -> str:
        """Its permissions, e.g. `rwra--`."""
        return self.modes[group]

    def leads(self, user: Row, group: Row) -> bool:
        return (user, group) in self.leaders

    def is_admin(self, user: Row) -> bool:
        return user in self.admins

    def is_light(self, user: Row) -> bool:
        """An administrator with some privileges only."""
        return user in self.light

    # -- rows that everything needs -----------------------------------------------------------------------------------

    def new_event(self, user: Row, session: Row | None) -> Row:
        """The stamp of one transaction."""
        return self.store.insert(
            "Event", time=now(), type=self.store.word("EventType", "User"), experimenter=user,
            experimenterGroup=self.home_groups.get(user), session=session, status=None, containingEvent=None,
        )  # fmt: skip

    def pixel_data(self, row: Row) -> PixelData:
        """The pixels behind a Pixels row, made when first asked for."""
        if row.id not in self.pixels:
            shape = tuple(int(row.value(f"size{axis}")) for axis in "TCZYX")
            kind = row.fields["pixelsType"].value("value")
            self.pixels[row.id] = PixelData(shape, kind, self.settings.max_plane)
        return self.pixels[row.id]

    def file_path(self, file_id: int) -> Path:
        """Where the bytes of an OriginalFile lie."""
        return self.folder / str(file_id)

    def check_disk(self) -> None:
        """The binary repository is full, when a test says so."""
        if self.settings.disk_full:
            raise omero.ResourceError(message="No space left on device")

    def forget(self, rows: list[Row]) -> None:
        """Bytes of deleted rows go too."""
        for row in rows:
            if row.kind.name == "Pixels":
                self.pixels.pop(row.id, None)
            elif row.kind.name == "OriginalFile":
                for path in (self.file_path(row.id), self.file_path(row.id).with_suffix(".h5")):
                    path.unlink(missing_ok=True)

    def count(self, operation: str) -> None:
        with self.counting:
            self.calls[operation] += 1


def text(value: str | None) -> Any:
    """An RString, or nothing."""
    return None if value is None else rstring(value)
