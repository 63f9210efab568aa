"""Per-cell tables on OMERO (OMERO.tables): typed columns, rows sent and read in pieces, never all at once.

Columns have identifiers as names, because queries need them, and the readable name as description. ``Image`` and ``Roi`` are
columns of those types, by which OMERO's clients find the rows of what somebody looks at. How rows travel and what a table holds
was measured with the program that an OMERO server runs for its tables; a whole server was not at hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from mxbridge.errors import InputError, OutputError
from mxbridge.formats.atomic import write_atomically
from mxbridge.workspaces.omero.attachments.column_names import identifiers, in_ascii
from mxbridge.workspaces.omero.publishing.marks import short_name

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

Kind = Literal["image", "roi", "long", "double", "string", "bool"]

PIECE_BYTES = 4 << 20
"""Values of one call (8 MB at most on the wire, whatever the texts)."""

IDENTITY = ("Image", "Roi", "Shape", "Cell", "Label", "Class")
"""Columns that say which cell a row is; every one of several tables has them."""

MOST_COLUMNS, HEADER_BYTES, HEADER_PER_COLUMN = 500, 60_000, 64
"""What one table holds: above, the server's HDF5 file refuses the table's header (64 KB with all names in it; measured)."""

LABELS, LABELS_LIMIT = "mxbridge.labels", 32_000
"""Key of the table's metadata under which the labels are kept that are not ASCII, as JSON, and how long that may be."""


@dataclass(frozen=True)
class TableColumn:
    """label: what people read, and the name of the column in a data frame. name: the identifier. size: bytes of a text."""

    label: str
    name: str
    kind: Kind
    size: int = 0


def cell_frame(
    image_id: int,
    cell_ids: Sequence[str],
    classes: Sequence[str | None] | None = None,
    values: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """One row per cell: ``Image``, ``Roi`` and ``Shape`` where all ids are ``<roi>:<shape>``, else ``Cell`` (text), ``Class``,
    then the values (float, NaN is 'no value')."""
    columns: dict[str, Any] = {"Image": np.full(len(cell_ids), image_id, np.int64)}
    pairs = _pairs(cell_ids)
    if pairs is None:
        columns["Cell"] = list(cell_ids)
    else:
        columns["Roi"], columns["Shape"] = pairs[:, 0], pairs[:, 1]
    if classes is not None:
        columns["Class"] = ["" if name is None else name for name in classes]
    clash = sorted(set(columns) & set(values or {}))
    if clash:
        raise InputError(f"measurements cannot be called {', '.join(clash)}: the table has columns of this name")
    return pd.DataFrame({**columns, **(values or {})})


def _pairs(cell_ids: Sequence[str]) -> np.ndarray | None:
    """``(cells, 2)`` int64 of ids ``<roi>:<shape>``; None where one is another text."""
    if not cell_ids or not all(map(is_shape_id, cell_ids)):
        return None
    return np.array([cell.split(":") for cell in cell_ids], np.int64)


def is_shape_id(cell_id: str) -> bool:
    """Whether it is ``<roi>:<shape>``, two numbers that a table's columns can hold."""
    pair = cell_id.split(":")
    return len(pair) == 2 and all(p.isascii() and p.isdigit() and len(p) < 19 for p in pair)


def table_columns(frame: pd.DataFrame) -> tuple[TableColumn, ...]:
    """The columns that a table for these rows has; texts are as wide as the longest of them."""
    labels = [str(column) for column in frame.columns]
    return tuple(
        TableColumn(label, name, *_kind(label, frame[column]))
        for label, name, column in zip(labels, identifiers(labels), frame.columns, strict=True)
    )


def _kind(label: str, values: pd.Series) -> tuple[Kind, int]:
    if values.dtype.kind in "iu":
        return {"Image": "image", "Roi": "roi"}.get(label, "long"), 0  # type: ignore[return-value]
    if values.dtype.kind == "f":
        return "double", 0
    if values.dtype.kind == "b":
        return "bool", 0
    return "string", max((len(_stored(text).encode()) for text in pd.unique(values)), default=0) or 1


def _stored(text: Any) -> str:
    """A text as a table holds it: without the zero bytes that would end it; nothing for None and NaN."""
    return "" if text is None or (isinstance(text, float) and np.isnan(text)) else str(text).replace("\0", " ")


def tables_enabled(session: Session) -> bool:
    """Whether the server has the service that keeps tables."""
    return bool(session.conn.c.sf.sharedResources().areTablesEnabled())


def write_tables(
    session: Session,
    pieces: Iterable[pd.DataFrame],
    columns: Sequence[TableColumn],
    *,
    group_id: int,
    name: str,
    metadata: Mapping[str, str] | None = None,
) -> list[int]:
    """Write rows into a new table and return the ids of its OriginalFile, which nothing is linked to yet.

    pieces: data frames with the labels of ``columns`` and no text longer than they say; only one is in memory at a time. name: of the file on the server,
    with its folder. metadata: texts kept with the table. Columns beyond what one table holds go into further tables (name
    ``... part 2``), each with the columns of :data:`IDENTITY`. Raises OutputError without tables, or when not all rows
    arrived.
    """
    parts = split_columns(columns)
    names = [name if k == 1 else f"{name} part {k}" for k in range(1, len(parts) + 1)]
    tables: list[Any] = []
    try:
        for part, called in zip(parts, names, strict=True):
            tables.append(_new_table(session, called, group_id))
            tables[-1].initialize([_column(column) for column in part])
            _keep(tables[-1], {**(metadata or {}), **_odd_labels(part)})
        rows = 0
        for frame in pieces:
            rows += len(frame)
            for table, part in zip(tables, parts, strict=True):
                for some in _slices(frame, part):
                    table.addData([_column(column, some[column.label]) for column in part])
        for table, called in zip(tables, names, strict=True):
            if (found := table.getNumberOfRows()) != rows:
                raise OutputError(f"the table {called} has {found:,} rows after {rows:,} were written")
        files = [int(table.getOriginalFile().id.val) for table in tables]
    except BaseException:
        for table in tables:
            with suppress(Exception):  # what went wrong before says more
                table.close()
        raise
    for table in tables:
        table.close()
    _name_plainly(session, files, group_id)
    return files


def _name_plainly(session: Session, files: Sequence[int], group_id: int) -> None:
    """Take the folder out of the names of table files: a server makes one text of folder and name both."""
    from omero.rtypes import rstring

    found = session.objects("select f from OriginalFile f where f.id in (:ids)", ids=list(files))
    for file in found:
        file.setName(rstring(short_name(file.getName().getValue().rpartition("/")[2])))
    session.save_all(found, group_id)


def split_columns(columns: Sequence[TableColumn]) -> list[tuple[TableColumn, ...]]:
    """The columns of each of the tables that these need: one, unless there are more than one table holds."""
    who = [column for column in columns if column.label in IDENTITY]
    room = HEADER_BYTES - sum(_header(column) for column in who)
    parts: list[list[TableColumn]] = [[]]
    used = 0
    for column in columns:
        if column in who:
            continue
        if parts[-1] and (len(parts[-1]) + len(who) >= MOST_COLUMNS or used + _header(column) > room):
            parts.append([])
            used = 0
        parts[-1].append(column)
        used += _header(column)
    return [(*who, *part) for part in parts]


def _header(column: TableColumn) -> int:
    return HEADER_PER_COLUMN + len(column.name)


def _slices(frame: pd.DataFrame, columns: Sequence[TableColumn]) -> Iterator[pd.DataFrame]:
    row = sum(max(8, column.size) for column in columns)
    step = max(1, PIECE_BYTES // row)
    yield from (frame.iloc[first : first + step] for first in range(0, len(frame), step))


def _new_table(session: Session, name: str, group_id: int) -> Any:
    context = session.context(group_id)
    shared = session.conn.c.sf.sharedResources()
    if not shared.areTablesEnabled():
        raise OutputError("this OMERO server keeps no tables", hint="The Parquet attachment has the same columns")
    repository = shared.repositories().descriptions[0].id.val
    table = shared.newTable(repository, name, context)
    if table is None:
        raise OutputError(
            "the OMERO server did not make a table", hint="Is its tables service running? Try again later"
        )
    return table.ice_context(context)


def _keep(table: Any, metadata: Mapping[str, str]) -> None:
    from omero.rtypes import rstring

    for key, text in metadata.items():
        table.setMetadata(key, rstring(text))


def _odd_labels(columns: Sequence[TableColumn]) -> dict[str, str]:
    odd = {column.name: column.label for column in columns if in_ascii(column.label) != column.label}
    text = json.dumps(odd)
    return {LABELS: text} if odd and len(text) <= LABELS_LIMIT else {}


def _column(column: TableColumn, values: pd.Series | None = None) -> Any:
    """A column of OMERO's, with values or, to make the table, without."""
    from omero import grid

    description = in_ascii(column.label)
    if column.kind == "string":
        texts = [] if values is None else [_stored(text) for text in values]
        return grid.StringColumn(column.name, description, column.size, texts)
    made = {
        "image": grid.ImageColumn,
        "roi": grid.RoiColumn,
        "long": grid.LongColumn,
        "double": grid.DoubleColumn,
        "bool": grid.BoolColumn,
    }[column.kind]
    return made(column.name, description, [] if values is None else values.to_numpy().tolist())


def count_rows(session: Session, file_id: int, *, group_id: int | None = None) -> int:
    """Rows of a table. Raises InputError when the file is none."""
    with _opened(session, file_id, group_id) as table:
        return int(table.getNumberOfRows())


def read_table(session: Session, file_id: int, *, group_id: int | None = None) -> Iterator[pd.DataFrame]:
    """The rows of a table in pieces, columns called as people read them. Nothing for a table without rows.

    Raises InputError when the file is no table.
    """
    with _opened(session, file_id, group_id) as table:
        headers = table.getHeaders()
        labels = _labels(headers, table)
        rows = int(table.getNumberOfRows())
        step = max(1, PIECE_BYTES // sum(max(8, int(getattr(column, "size", 0) or 0)) for column in headers))
        for first in range(0, rows, step):
            stop = min(rows, first + step)
            data = table.read(list(range(len(headers))), first, stop)
            yield pd.DataFrame({label: column.values for label, column in zip(labels, data.columns, strict=True)})


def _labels(headers: Sequence[Any], table: Any) -> list[str]:
    """What we called the columns; of others' tables the descriptions where these are there and tell them apart, else names."""
    odd: dict[str, Any] = {}
    kept = table.getMetadata(LABELS)
    with suppress(ValueError, RecursionError):
        found = json.loads(kept.val) if kept is not None else {}
        odd = found if isinstance(found, dict) else {}
    labels = [str(odd.get(column.name) or column.description or column.name) for column in headers]
    return labels if len(set(labels)) == len(labels) else [str(column.name) for column in headers]


@contextmanager
def _opened(session: Session, file_id: int, group_id: int | None) -> Iterator[Any]:
    from omero.model import OriginalFileI

    context = session.context(-1 if group_id is None else group_id)
    table = session.conn.c.sf.sharedResources().openTable(OriginalFileI(file_id, False), context)
    if table is None:
        raise InputError(f"file {file_id} on the server is no table that can be opened")
    try:
        yield table.ice_context(context)
    finally:
        table.close()


def write_parquet(path: Path, pieces: Iterable[pd.DataFrame]) -> None:
    """The same rows as one Parquet file with readable column names, piece by piece. Raises OutputError, InputError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with write_atomically(path) as part:
        writer: Any = None
        try:
            for frame in pieces:
                rows = pa.Table.from_pandas(frame, preserve_index=False)
                if writer is None:
                    writer = pq.ParquetWriter(part, rows.schema)
                writer.write_table(rows.cast(writer.schema))
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise InputError(f"{path}: a table needs columns")
