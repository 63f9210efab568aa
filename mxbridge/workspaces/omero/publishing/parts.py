"""The parts of a publication, put on the server where nobody sees them yet: tables, labels, ROIs, derived images.

Everything here bears the publication's token and is read back before anything is linked (files by their SHA-1, tables by their
number of rows, pixels themselves); a publication that is killed or fails leaves only what the next one sweeps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from mxbridge.errors import OutputError
from mxbridge.formats.open_image import open_image
from mxbridge.results import DerivedImage, ImageRef, NewObjects, Results
from mxbridge.workspaces.omero.attachments.files import upload_file
from mxbridge.workspaces.omero.attachments.label_zip import write_labels
from mxbridge.workspaces.omero.attachments.tables import (
    TableColumn,
    cell_frame,
    is_shape_id,
    table_columns,
    tables_enabled,
    write_parquet,
    write_tables,
)
from mxbridge.workspaces.omero.objects.roi_parts import save_rois
from mxbridge.workspaces.omero.publishing.content import CELL, CLASS, Table, derived_name, objects_table
from mxbridge.workspaces.omero.publishing.derived import check_pixels, is_large, make_image, write_pixels
from mxbridge.workspaces.omero.publishing.import_client import find_client, import_image
from mxbridge.workspaces.omero.publishing.marker import NewFile
from mxbridge.workspaces.omero.publishing.marks import BULK, LABELS, TABLE, own_path, pending_text
from mxbridge.workspaces.omero.publishing.register import register

if TYPE_CHECKING:
    from mxbridge.image import LocalImage
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session

Large = Literal["auto", "tiles", "import", "zarr"]
PARQUET, ZIP = "application/vnd.apache.parquet", "application/zip"
ROWS = 100_000
"""Rows of a table that are sent from one piece of memory."""


@dataclass(frozen=True)
class Publishing:
    """What decides how results look on the server: derived images beside the source (else in an own dataset), how many new
    objects may become ROIs (None: none do) and as what, how images above the server's maximum plane size get there."""

    beside: bool = False
    rois: int | None = None
    rois_as: Literal["masks", "polygons"] = "masks"
    large: Large = "auto"
    plane: tuple[int, int] = (0, 0)

    def described(self) -> dict[str, object]:
        """Without ``beside``: it says where new images go first; people may have moved those that are there."""
        return {"rois": self.rois, "rois_as": self.rois_as, "large": self.large}


@dataclass(frozen=True)
class NewRois:
    key: str
    ids: tuple[int, ...]
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class NewImage:
    key: str
    file: str
    image: int
    name: str
    channels: tuple[str, ...]
    description: str


class Parts:
    """Makes the parts of one publication. token: by which they are known. sentinel: the first pending annotation, whose end
    tells that another publication swept these parts. notes: what people should know."""

    def __init__(
        self,
        session: Session,
        info: ImageInfo,
        token: str,
        options: Publishing,
        tell: Callable[[str], None],
    ) -> None:
        self._session, self._info, self.token, self._options, self._tell = session, info, token, options, tell
        self.sentinel: int | None = None
        self.files: list[NewFile] = []
        self.rois: list[NewRois] = []
        self.images: list[NewImage] = []
        self.notes: list[str] = []
        self._tables: bool | None = None

    def add_cells(self, table: Table, name: str) -> None:
        """The table of cells: OMERO.table and Parquet."""
        keys = tuple(dict.fromkeys(table.keys.values()))
        self._add_tables("cells", partial(_cell_pieces, self._info.id, table), table.frame, name, keys, table.keys)

    def add_objects(self, made: NewObjects, name: str) -> None:
        """New objects: a table, label image, and ROIs where these are asked for and not too many."""
        table = objects_table(ImageRef(str(self._info.id), self._info.name), made)
        shown = table.frame.drop(columns=["image_id", "image"]).rename(
            columns={"label": "Label", CELL: "Cell", CLASS: "Class", "name": "Name"}
        )
        shown.insert(0, "Image", self._info.id)
        for column in ("Class", "Name"):
            if column in shown:
                shown[column] = [text or "" for text in shown[column]]
        self._add_tables(
            f"objects {made.result_key}", partial(_slices, shown), table.frame, name, (made.result_key,), {}
        )
        with tempfile.TemporaryDirectory(prefix="mxbridge-labels-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "labels.ome.zarr.zip"
            write_labels(path, made, self._info.shape, "labels", self._info.pixel_size_um)
            file = self._upload(path, f"{name}.ome.zarr.zip", ZIP)
        self.files.append(
            NewFile(f"labels {made.result_key}", file, LABELS, f"{name}.ome.zarr.zip", "", (made.result_key,))
        )
        self._add_rois(made)

    def add_derived(self, results: Results, derived: DerivedImage) -> None:
        """An image in no dataset, complete with pixels. Raises OutputError where the run folder has it no more."""
        path = None if results.folder is None else results.folder / "derived" / derived.file
        if path is None or not path.exists():
            raise OutputError(
                f"{results.image}: the derived image {derived.file} is not in the run folder ({path})",
                hint="Run the command of this run again with --restart",
            )
        name = derived_name(self._info.name, derived)
        image = open_image(path, name=name)
        self._tell(f"{self._info}: sending {name}")
        made = self._send(image, name, path)
        description = (
            f"{', '.join(derived.channels)}: computed by mxbridge from image {self._info.id} ({self._info.name})"
        )
        self.images.append(NewImage(derived.result_key, derived.file, made, name, derived.channels, description))

    def ids(self) -> dict[str, list[int]]:
        """Of what was made, by kind."""
        return {
            "Annotation": [] if self.sentinel is None else [self.sentinel],
            "OriginalFile": [f.file for f in self.files],
            "Roi": [roi for made in self.rois for roi in made.ids],
            "Image": [i.image for i in self.images],
        }

    def _send(self, image: LocalImage, name: str, path: Path) -> int:
        session, group, pending = self._session, self._info.group_id, pending_text(self._info.id, self.token)
        way = way_of(session, self._options, image.shape)
        if way == "import":
            client = find_client()
            if client is None:
                raise OutputError(
                    "--large-images import needs the `omero` command and Java, which are not both installed",
                    hint="Install them, or choose --large-images tiles or zarr",
                )
            return import_image(session, client, image, name=name, description=pending, group_id=group)
        made, pixels = make_image(session, image, name=name, description=pending, group_id=group)
        if way == "zarr":
            register(session, made, path, group)
            self.notes.append(f"{name} is read by the server where it lies, in {path}: it must stay there")
            return made
        if way == "slow tiles":
            self.notes.append(
                f"{name} is above the server's maximum plane size and was sent by tiles: a server may take long over it, or "
                "refuse; --large-images names other ways"
            )
        write_pixels(session, image, pixels, group)
        check_pixels(session, image, pixels, name, group)
        return made

    def _add_tables(
        self,
        what: str,
        shown: Callable[[], Iterator[pd.DataFrame]],
        frame: pd.DataFrame,
        name: str,
        keys: tuple[str, ...],
        columns: dict[str, str],
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="mxbridge-table-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "table.parquet"
            texts = {c: "string" for c in frame.columns if frame[c].dtype == object}
            write_parquet(path, (piece.astype(texts) for piece in _slices(frame)))
            file = self._upload(path, f"{name}.parquet", PARQUET)
        self.files.append(NewFile(f"parquet {what}", file, TABLE, f"{name}.parquet", "", keys, columns))
        if not self._has_tables():
            return
        files = write_tables(
            self._session,
            shown(),
            _columns(shown()),
            group_id=self._info.group_id,
            name=self._place(name),
        )
        for number, file in enumerate(files, start=1):
            part = "" if number == 1 else f" part {number}"
            slot, rows = f"table{part} {what}", f"rows:{len(frame)}"
            self.files.append(NewFile(slot, file, BULK, name + part, rows, keys, columns))

    def _has_tables(self) -> bool:
        if self._tables is None:
            self._tables = tables_enabled(self._session)
            if not self._tables:
                self.notes.append(
                    "this server keeps no OMERO.tables: values per cell are in the attached Parquet file only"
                )
        return self._tables

    def _add_rois(self, made: NewObjects) -> None:
        most = self._options.rois
        if most is None:
            return
        if len(made) > most:
            self.notes.append(
                f"{self._info}: {len(made):,} objects are more than the {most:,} of --rois and got none; the attached labels "
                "and table hold all of them"
            )
            return
        saved = save_rois(
            self._session,
            made,
            shape=self._info.shape,
            group_id=self._info.group_id,
            token=pending_text(self._info.id, self.token),
            as_=self._options.rois_as,
            cap=most,
            plane=self._options.plane,
        )
        self.notes += saved.notes
        self.rois.append(NewRois(made.result_key, saved.ids, saved.hashes))

    def _upload(self, path: Path, name: str, mimetype: str) -> int:
        return upload_file(
            self._session,
            path,
            group_id=self._info.group_id,
            name=self._place(name),
            mimetype=mimetype,
        )

    def _place(self, name: str) -> str:
        """A file's name with the folder, on the server, that tells whose it is."""
        return own_path(self._info.id, self.token) + name.replace("/", "-")


def way_of(session: Session, options: Publishing, shape: tuple[int, int]) -> str:
    """How an image of this (y, x) shape gets to the server: tiles, import, zarr, or ``slow tiles`` for want of better."""
    large = options.large
    if large != "zarr" and not is_large(session, shape):
        return "tiles"
    if large == "auto":
        return "import" if find_client() is not None else "slow tiles"
    return "slow tiles" if large == "tiles" else large


def _cell_pieces(image_id: int, table: Table) -> Iterator[pd.DataFrame]:
    """The table of cells as OMERO has it, piece by piece: ROI and shape of each cell where all cells have them."""
    by_roi = all(map(is_shape_id, table.frame[CELL]))
    for frame in _slices(table.frame):
        cells = list(frame[CELL])
        classes = list(frame[CLASS]) if CLASS in table.keys else None
        piece = cell_frame(image_id, cells, classes, {c: frame[c].to_numpy() for c in table.keys if c != CLASS})
        if not by_roi and "Roi" in piece:
            piece = piece.drop(columns=["Roi", "Shape"])
            piece.insert(1, "Cell", cells)
        yield piece


def _columns(pieces: Iterable[pd.DataFrame]) -> tuple[TableColumn, ...]:
    """The columns of all pieces, texts as wide as the longest in any."""
    widest: dict[str, TableColumn] = {}
    for piece in pieces:
        for column in table_columns(piece):
            size = max(column.size, widest.get(column.label, column).size)
            widest[column.label] = replace(column, size=size)
    return tuple(widest.values())


def _slices(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    return (frame.iloc[first : first + ROWS] for first in range(0, max(len(frame), 1), ROWS))
