"""What does not need a server: digests, merged tables, the marker's record, names, the import command."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import OutputError, UsageError
from mxbridge.image import Channel, LocalImage
from mxbridge.results import ClassChanges, DerivedImage, ImageRef, ImageValue, Measurement, Results
from mxbridge.workspaces.omero.objects.cell_sources import CellSource, owner_of, owners_of
from mxbridge.workspaces.omero.publishing import import_client
from mxbridge.workspaces.omero.publishing.content import (
    Table,
    cells_table,
    derived_name,
    digests,
    merged_values,
    told_of_model,
)
from mxbridge.workspaces.omero.publishing.import_client import Client, imported_image
from mxbridge.workspaces.omero.publishing.marker import FilePart, ImagePart, KeyRecord, Marker, RoisPart, ValuesPart
from mxbridge.workspaces.omero.publishing.marks import own_path, pending_text, short_name

REF = ImageRef("17", "slide.tif")


def scored(values: dict[str, list[float]], cells: tuple[str, ...] = ("1:1", "1:2")) -> Results:
    columns = tuple(Measurement(f"N: {name}", np.array(v, np.float32), f"key {name}") for name, v in values.items())
    return Results(REF, "run", cells, columns)


# --- digests ---


def test_digest_knows_what_matters_and_nothing_else() -> None:
    one = digests(scored({"A": [1, np.nan], "B": [2, 3]}), {})
    assert one == digests(replace(scored({"A": [1, np.nan], "B": [2, 3]}), run_id="other", fingerprint="f"), {})
    other = digests(scored({"A": [1, 0], "B": [2, 3]}), {})
    assert other["key A"] != one["key A"]
    assert other["key B"] == one["key B"]
    moved = digests(scored({"B": [2, 3]}, ("1:1", "1:9")), {})
    assert moved["key B"] != one["key B"]


def test_digest_of_derived_images_follows_the_work_and_the_place() -> None:
    results = Results(REF, "run", derived=(DerivedImage("a.zarr", ("KI67",), "k"),), fingerprint="f1")
    one = digests(results, {"large": "auto"})["k"]
    assert digests(replace(results, fingerprint="f2"), {"large": "auto"})["k"] != one
    assert digests(results, {"large": "zarr"})["k"] != one


# --- tables ---


def test_a_table_is_extended_by_cell_id() -> None:
    first = cells_table(REF, scored({"A": [1, 2], "B": [3, 4]}), None, ())
    assert first is not None
    second = cells_table(REF, scored({"B": [9, 8]}, ("1:2", "7:7")), first, {"key A"})
    assert second is not None
    assert list(second.frame["cell"]) == ["1:2", "7:7", "1:1"], "the new cells first, in their order"
    assert list(second.frame["N: B"][:2]) == [9, 8]
    assert np.isnan(second.frame["N: B"][2])
    assert list(second.frame["N: A"].fillna(-1)) == [2, -1, 1]
    assert second.frame["N: A"].dtype == np.float32
    assert second.keys == {"N: A": "key A", "N: B": "key B"}
    assert list(second.frame.columns) == ["image_id", "image", "cell", "N: A", "N: B"]


def test_columns_of_replaced_results_go() -> None:
    first = cells_table(REF, scored({"A": [1, 2], "B": [3, 4]}), None, ())
    assert first is not None
    rest = cells_table(REF, Results(REF, ""), first, {"key B"})
    assert rest is not None
    assert list(rest.frame.columns) == ["image_id", "image", "cell", "N: B"]
    assert list(rest.frame["N: B"]) == [3, 4]
    assert cells_table(REF, Results(REF, ""), first, set()) is None


def test_classes_are_text_or_nothing() -> None:
    results = replace(scored({"A": [1, 2]}), class_changes=ClassChanges(("Tumor", None), (None, None), "key class"))
    first = cells_table(REF, results, None, ())
    assert first is not None
    more = cells_table(REF, scored({"B": [5]}, ("9:9",)), first, {"key A", "key class"})
    assert more is not None
    assert dict(zip(more.frame["cell"], more.frame["class"], strict=True)) == {"9:9": None, "1:1": "Tumor", "1:2": None}


names = st.sampled_from(["A", "B", "C", "µ", "a b"])
cells = st.lists(st.integers(0, 30).map(lambda k: f"{k}:{k}"), unique=True, min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(cells, st.sets(names, min_size=1)), min_size=1, max_size=4))
def test_any_number_of_reruns_ends_with_the_last_value_of_every_cell(runs: list[tuple[list[str], set[str]]]) -> None:
    table: Table | None = None
    expected: dict[str, dict[str, float]] = {}
    for number, (ids, markers) in enumerate(runs):
        values = {m: [float(number * 100 + k) for k in range(len(ids))] for m in sorted(markers)}
        kept = {f"key {m}" for m in expected if m not in markers}
        table = cells_table(REF, scored(values, tuple(ids)), table, kept)
        expected |= {m: dict(zip(ids, column, strict=True)) for m, column in values.items()}
    assert table is not None
    frame = table.frame.set_index("cell")
    assert set(frame.index) == {cell for column in expected.values() for cell in column} or set(frame.index) >= set(
        runs[-1][0]
    )
    for marker, column in expected.items():
        stored = frame[f"N: {marker}"].dropna()
        assert dict(zip(stored.index, stored.astype(float), strict=True)) == column


def test_values_without_a_number_are_left_out() -> None:
    results = Results(REF, "", image_values=(ImageValue("b", 0.1, "kb"), ImageValue("a", float("nan"), "ka")))
    values, keys = merged_values(results, {"a": "1.0", "c": "2.0"}, {"a": "old", "c": "kc"}, {"kc"})
    assert values == {"b": "0.1", "c": "2.0"}
    assert keys == {"b": "kb", "c": "kc"}


# --- names and record ---


def test_names() -> None:
    assert derived_name("s.tif", DerivedImage("f", ("A", "B"), "k")) == "s.tif (A, B)"
    assert derived_name("s.tif", DerivedImage("f", ("A",), "k", title="mIF")) == "s.tif (mIF)"
    assert len(short_name("x" * 300)) == 255
    assert own_path(17, "ab").startswith(own_path(17))
    assert not pending_text(17, "ab").startswith(pending_text(1))


def test_provenance_is_told_in_words() -> None:
    results = Results(REF, "", provenance={"task": "score", "name": "N", "weights_sha256": "abc", "models": [1]})
    assert set(told_of_model(results)) == {"mxbridge", "weights sha256"}


def marker() -> Marker:
    return Marker(
        17,
        "score",
        "Nimbus",
        {"k": KeyRecord("d", "f", "r")},
        (FilePart("table cells", 2, "ns", "n", "rows:3", ("k",), {"Nimbus: CD3": "k"}, annotation=1),),
        ValuesPart(3, {"a": "1"}, {"a": "k"}),
        (RoisPart("k", (4, 5)),),
        (ImagePart("k", "f.zarr", 6, 7),),
        ("tables",),
        {"weights sha256": "ab"},
        {"Roi": (8,)},
        False,
        "2026-11-21",
        9,
    )


def test_marker_survives_its_json() -> None:
    assert Marker.from_json(marker().to_json(), 9) == marker()
    empty = Marker(1, "t", "", id=2)
    assert Marker.from_json(empty.to_json(), 2) == empty


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_records_are_refused_in_one_way(data: Any) -> None:
    document = json.loads(marker().to_json())
    name = data.draw(st.sampled_from(sorted(document)))
    document[name] = data.draw(st.sampled_from([None, 3, "x", [1], {"a": 1}, [{"a": 2}]]))
    with suppress(
        ValueError, LookupError, TypeError, AttributeError
    ):  # which read_markers turns into an error for people
        found = Marker.from_json(json.dumps(document), 9)
        document.clear()
    if not document:  # what was taken can be worked with
        assert Marker.from_json(found.leaving({"Roi": [1]}).to_json(), 9)
        assert found.rows()
        assert found.everything()


def test_what_is_left_can_be_added_to_and_spared() -> None:
    more = marker().leaving({"Roi": [1], "Image": [2, 2]})
    assert more.left == {"Image": (2,), "Roi": (1, 8)}
    assert more.sparing("Roi", {8}).left == {"Image": (2,), "Roi": (1,)}


# --- cells ---


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("rois", CellSource("rois")),
        ("attachment", CellSource("attachment")),
        ("attachment:a:b.zip", CellSource("attachment", "a:b.zip")),
        ("image:5", CellSource("image", None, 5)),
        (" dataset:7 ", CellSource("dataset", None, 7)),
    ],
)
def test_where_cells_are(text: str, source: CellSource) -> None:
    assert CellSource.parse(text) == source


@pytest.mark.parametrize("text", ["", "rois:5", "image", "image:x", "dataset:-1", "project:5", "image:1,2"])
def test_no_cells_are_there(text: str) -> None:
    with pytest.raises(UsageError, match="names no cells"):
        CellSource.parse(text)


@pytest.mark.parametrize(
    ("label", "owner"),
    [
        ("fov1_mask", 1),
        ("fov10_mask.tif", 2),
        ("mask of FOV1", 1),
        ("fov1", 1),
        ("fov2", None),
        ("fov1 tumor labels", 3),
        ("afov1", None),
    ],
)
def test_whose_label_image_it_is(label: str, owner: int | None) -> None:
    assert owner_of(label, {1: "fov1.tif", 2: "fov10.ome.tiff", 3: "fov1 tumor"}) == owner


@pytest.mark.parametrize(
    ("images", "label", "owner"),
    [
        ({1: "../../x", 2: "x"}, "../../x", 1),
        ({1: "set/a", 2: "a"}, "set/a mask", 1),
        ({1: "slide.lif [Pos 1/1]", 2: "slide.lif [Pos 1/2]"}, "slide.lif [Pos 1/2]", 2),
        ({1: "slide.tif [0]", 2: "slide.tif [1]"}, "mask of slide.tif [1]", 2),
        ({1: "slide.tif [0]", 2: "slide.tif [1]"}, "slide mask", None),
        ({1: "two", 2: "two"}, "two", None),
    ],
)
def test_names_as_microscopes_give_them(images: dict[int, str], label: str, owner: int | None) -> None:
    assert owner_of(label, images) == owner


def test_images_and_their_label_images_in_one_dataset() -> None:
    names = {1: "fov1", 2: "fov2", 3: "fov1_mask", 4: "fov2_mask"}
    assert {k: owner for k, owner in owners_of(names, names).items() if k > 2} == {3: 1, 4: 2}


# --- the import command ---


def test_import_command_holds_nothing_secret() -> None:
    command = Client(("omero",)).command(Path("a b.ome.tiff"), name="x" * 300, description="mxbridge:pending:1:ab")
    assert command[:2] == ["omero", "import"]
    assert command[-1] == "a b.ome.tiff"
    assert len(command[command.index("--name") + 1]) == 255
    assert not any(word in " ".join(command) for word in ("--transfer", "-k", "-w", "--password", "--sudo", "--key"))


@pytest.mark.parametrize(
    ("output", "image"),
    [("Image:123\n", 123), ("Other text\nImage:7\n", 7), ("Image:1,2\n", None), ("", None), ("Image: 5", None)],
)
def test_what_the_import_says(output: str, image: int | None) -> None:
    assert imported_image(output) == image


class FakeSession:
    """As much of a session as importing asks for."""

    key, user_name = "9f0c-key", "alice"
    server = SimpleNamespace(host="h.example.org", port=4064)

    def rows(self, hql: str, **params: Any) -> list[tuple[str]]:
        return [("lab",)]


def import_it(monkeypatch: pytest.MonkeyPatch, run: Any) -> int:
    monkeypatch.setattr(import_client, "_remember_session", lambda *args: None)
    pixels = da.zeros((1, 30, 40), np.uint8, chunks=(1, 30, 40))
    image = LocalImage("i", (pixels,), (Channel("A"),), (0.5, 0.5), "x")
    session: Any = FakeSession()
    return import_client.import_image(
        session, Client(("omero",)), image, name="n", description="d", group_id=3, run=run
    )


def test_importing_runs_the_command_on_a_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import tifffile

    seen: dict[str, Any] = {}

    def run(command: list[str], *, env: dict[str, str], **more: Any) -> subprocess.CompletedProcess[str]:
        with tifffile.TiffFile(command[-1]) as file:
            seen.update(shape=file.series[0].shape, ome=file.is_ome, env=env, command=command)
        return subprocess.CompletedProcess(command, 0, "Image:55\n", "")

    monkeypatch.setenv("OMERO_PASSWORD", "secret")
    assert import_it(monkeypatch, run) == 55
    assert seen["ome"]
    assert seen["shape"][-2:] == (30, 40)
    assert "OMERO_PASSWORD" not in seen["env"]
    assert Path(seen["env"]["OMERO_SESSIONDIR"]).name == "sessions"
    assert "9f0c-key" not in " ".join(seen["command"])
    assert not Path(seen["command"][-1]).exists(), "the folder is gone"


@pytest.mark.parametrize("code", [0, 3])
def test_an_import_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def run(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, code, "", "java.lang.Error\nno space left\n")

    with pytest.raises(OutputError, match=r"no space left.*--large-images tiles"):
        import_it(monkeypatch, run)


def test_an_import_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError("omero")

    with pytest.raises(OutputError, match="cannot be run"):
        import_it(monkeypatch, run)


@pytest.mark.omero
def test_the_commands_store_knows_the_session(tmp_path: Path) -> None:
    sessions = pytest.importorskip("omero.util.sessions")
    session: Any = FakeSession()
    import_client._remember_session(tmp_path, session, 3)
    host, user, key, port = sessions.SessionsStore(str(tmp_path)).get_current()
    assert (host, user, key, str(port)) == ("h.example.org", "alice", "9f0c-key", "4064")
