"""Tables on a server: typed columns, rows in pieces, readable names back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mxbridge.errors import InputError, MxbridgeError, OutputError
from mxbridge.workspaces.omero.attachments import tables
from mxbridge.workspaces.omero.attachments.tables import (
    TableColumn,
    cell_frame,
    count_rows,
    read_table,
    split_columns,
    table_columns,
    tables_enabled,
    write_parquet,
    write_tables,
)
from tests.omero_workspace.toy_results import asking, sessions_of


def _frame(rows: int = 3) -> pd.DataFrame:
    values = np.linspace(0, 1, rows).astype(np.float32)
    values[1] = np.nan
    classes = [("Tumor: µ", None, "")[k % 3] for k in range(rows)]
    return cell_frame(
        17, [f"{k // 2}:{k + 5}" for k in range(rows)], classes, {"Nimbus: CD3": values, "Area µm²": values * 2}
    )


def test_a_frame_says_which_cell_each_row_is() -> None:
    frame = _frame()
    assert list(frame) == ["Image", "Roi", "Shape", "Class", "Nimbus: CD3", "Area µm²"]
    assert (
        frame["Image"].tolist() == [17] * 3
        and frame["Roi"].tolist() == [0, 0, 1]
        and frame["Shape"].tolist() == [5, 6, 7]
    )
    named = cell_frame(17, ["1:2", "a", "99999999999999999999:1"])
    assert list(named) == ["Image", "Cell"] and named["Cell"].tolist() == ["1:2", "a", "99999999999999999999:1"]
    assert list(cell_frame(17, [])) == ["Image", "Cell"]
    with pytest.raises(InputError, match="cannot be called Class"):
        cell_frame(17, ["a"], ["b"], {"Class": [1.0]})


def test_columns_have_types_identifiers_and_room_for_their_texts() -> None:
    assert table_columns(_frame()) == (
        TableColumn("Image", "Image", "image"),
        TableColumn("Roi", "Roi", "roi"),
        TableColumn("Shape", "Shape", "long"),
        TableColumn("Class", "Class", "string", 9),
        TableColumn("Nimbus: CD3", "Nimbus_CD3", "double"),
        TableColumn("Area µm²", "Area_um2", "double"),
    )
    odd = pd.DataFrame({"Class": pd.Series([None, np.nan], dtype=object), "ok": [True, False]})
    assert table_columns(odd) == (TableColumn("Class", "Class", "string", 1), TableColumn("ok", "ok", "bool"))


def test_more_columns_than_a_table_holds_go_into_several_that_all_say_which_cell() -> None:
    columns = table_columns(cell_frame(1, ["a"], ["b"], {f"m{k}": [0.0] for k in range(1100)}))
    parts = split_columns(columns)
    assert [len(part) for part in parts] == [500, 500, 109]
    assert all([c.name for c in part[:3]] == ["Image", "Cell", "Class"] for part in parts)
    assert [c for part in parts for c in part[3:]] == list(columns[3:])
    long = [TableColumn("Image", "Image", "image"), *(TableColumn(str(k), "x" * 200, "double") for k in range(400))]
    assert all(sum(64 + len(c.name) for c in part) <= tables.HEADER_BYTES for part in split_columns(long))
    assert split_columns(columns[:2]) == [columns[:2]]


def test_headers_within_the_limits_are_accepted_by_the_program_that_keeps_tables() -> None:
    pytables = pytest.importorskip("tables", reason="PyTables is what an OMERO server keeps its tables in")
    for names in ([f"n{k:04d}" for k in range(tables.MOST_COLUMNS)], [f"{'x' * 68}{k:04d}" for k in range(440)]):
        (part,) = split_columns([TableColumn(name, name, "double") for name in names])
        file = pytables.open_file("wide.h5", "w", driver="H5FD_CORE", driver_core_backing_store=0)
        try:
            file.create_table("/", "t", {c.name: pytables.Float64Col(pos=k) for k, c in enumerate(part)})
        finally:
            file.close()


def test_parquet_has_the_readable_names_and_is_written_piece_by_piece(tmp_path: Path) -> None:
    frame = _frame(10)
    write_parquet(tmp_path / "cells.parquet", (frame.iloc[k : k + 3] for k in range(0, 10, 3)))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "cells.parquet"), frame)
    with pytest.raises(InputError, match="needs columns"):
        write_parquet(tmp_path / "none.parquet", [])
    assert [p.name for p in tmp_path.iterdir()] == ["cells.parquet"]


@pytest.fixture
def group(server: Any, session: Any) -> int:
    image = server.add_image("slide", np.zeros((1, 4, 4), np.uint8))
    return int(session.rows("select i.details.group.id from Image i where i.id = :i", i=image)[0][0])


@pytest.mark.omero
def test_rows_come_back_as_they_were_in_pieces_of_any_size(session: Any, group: int, monkeypatch: Any) -> None:
    frame = _frame(10)
    columns = table_columns(frame)
    assert tables_enabled(session)
    (whole,) = write_tables(session, [frame], columns, group_id=group, name="mxbridge/17/ab/cells")
    monkeypatch.setattr(tables, "PIECE_BYTES", 100)
    pieces = (frame.iloc[k : k + 4] for k in range(0, 10, 4))
    (paged,) = write_tables(
        session, pieces, columns, group_id=group, name="mxbridge/17/ac/cells", metadata={"run": "ä"}
    )
    expected = frame.astype({"Nimbus: CD3": float, "Area µm²": float}).fillna({"Class": ""})
    for file_id in (whole, paged):
        assert count_rows(session, file_id) == 10
        read = list(read_table(session, file_id))
        assert len(read) > 1
        pd.testing.assert_frame_equal(pd.concat(read, ignore_index=True), expected)
    told = session.rows("select f.mimetype, f.name, f.path from OriginalFile f where f.id = :f", f=whole)
    assert told[0][:2] == ("OMERO.tables", "cells"), "people see the name without its folder"
    assert "mxbridge/17/ab/" in told[0][2], "which a publication knows its files by"


@pytest.mark.omero
def test_clients_find_types_descriptions_and_rows_by_queries(session: Any, group: int) -> None:
    from omero.model import OriginalFileI

    frame = _frame(10)
    (file_id,) = write_tables(session, [frame], table_columns(frame), group_id=group, name="mxbridge/17/ab/cells")
    table = session.conn.c.sf.sharedResources().openTable(OriginalFileI(file_id, False), session.context(group))
    try:
        kinds = [(c.name, c.description, type(c).__name__.removesuffix("I")) for c in table.getHeaders()]
        assert kinds == [
            ("Image", "Image", "ImageColumn"), ("Roi", "Roi", "RoiColumn"), ("Shape", "Shape", "LongColumn"),
            ("Class", "Class", "StringColumn"), ("Nimbus_CD3", "Nimbus: CD3", "DoubleColumn"),
            ("Area_um2", "Area um2", "DoubleColumn"),
        ]  # fmt: skip
        assert table.getWhereList("(Nimbus_CD3 > 0.5) & (Roi < 4)", {}, 0, 10, 1) == [5, 6, 7]
    finally:
        table.close()


@pytest.mark.omero
def test_several_tables_for_too_many_columns_and_none_without_rows(session: Any, group: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(tables, "MOST_COLUMNS", 5)
    frame = _frame(4)
    frame["more"] = [1, 2, 3, 4]
    first, second, third = write_tables(session, [frame], table_columns(frame), group_id=group, name="mxbridge/17/ab/c")
    (one,), (two,), (three,) = (list(read_table(session, file_id)) for file_id in (first, second, third))
    assert [list(part)[-1] for part in (one, two, three)] == ["Nimbus: CD3", "Area µm²", "more"]
    assert one["Shape"].tolist() == two["Shape"].tolist() == three["Shape"].tolist()
    empty = frame.iloc[:0]
    ids = write_tables(session, [empty], table_columns(empty), group_id=group, name="mxbridge/17/ab/e")
    assert [count_rows(session, i) for i in ids] == [0] * len(ids) and list(read_table(session, ids[0])) == []


@pytest.mark.omero
def test_what_is_no_table_and_a_server_without_tables(server: Any, group: int, session: Any, tmp_path: Path) -> None:
    from mxbridge.workspaces.omero.attachments.files import upload_file

    (tmp_path / "a").write_bytes(b"no table")
    file_id = upload_file(session, tmp_path / "a", group_id=group, name="m/a", mimetype="text/plain")
    with pytest.raises(MxbridgeError), asking(server) as other:
        count_rows(other, file_id)
    server.set(tables=False)
    assert not tables_enabled(session)
    with pytest.raises(OutputError, match="keeps no tables"):
        write_tables(session, [_frame()], table_columns(_frame()), group_id=group, name="m/t")


@pytest.mark.omero
@pytest.mark.parametrize("do", ["drop", "kill-connection-after", "expire"])
@pytest.mark.parametrize("operation", ["Table.initialize", "Table.addData", "Table.getOriginalFile"])
def test_a_session_lost_while_writing_is_another_attempt(server: Any, operation: str, do: str) -> None:
    frame = _frame(10)
    sessions = sessions_of(server)
    server.fault(operation, do=do)
    (file_id,) = sessions.attempt(
        "writing", lambda s: write_tables(s, [frame], table_columns(frame), group_id=3, name="mxbridge/1/ab/c")
    )
    assert server.struck()
    assert sessions.attempt("counting", lambda s: count_rows(s, file_id)) == 10
    sessions.close()


@pytest.mark.omero
def test_rows_that_did_not_arrive_are_noticed(session: Any, group: int, monkeypatch: Any) -> None:
    class Forgetful:
        """A table that passes everything on but the last rows."""

        def __init__(self, table: Any) -> None:
            self.table, self.pieces = table, 0

        def addData(self, columns: Any) -> None:
            self.pieces += 1
            if self.pieces == 1:
                self.table.addData(columns)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.table, name)

    made = tables._new_table
    monkeypatch.setattr(tables, "_new_table", lambda *arguments: Forgetful(made(*arguments)))
    frame = _frame(10)
    with pytest.raises(OutputError, match="has 6 rows after 10 were written"):
        write_tables(session, [frame[:6], frame[6:]], table_columns(frame), group_id=group, name="mxbridge/1/ab/c")
