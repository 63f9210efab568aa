"""Publishing on the test server: what stands where afterwards, what replaces what, what is taken out again."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mxbridge.errors import OutputError
from mxbridge.results import ClassChanges, ImageRef, Measurement, Results
from mxbridge.workspaces.omero.workspace import OmeroWorkspace
from tests.omero_server.running import RunningServer
from tests.omero_workspace.toy_results import (
    CELLS,
    SHAPE,
    add_slide,
    asking,
    derived_image,
    everything,
    key,
    open_omero,
    scores,
    sessions_of,
)

pytestmark = pytest.mark.omero


class Place:
    """A slide on a fresh server, and alice's workspace."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.ref = add_slide(server)
        self.clean = server.state()
        self.workspace = open_omero(server, folder, "dataset:1", rois=10)

    def everything(self, **options: Any) -> Results:
        return everything(self.ref, self.folder / "results", **options)

    def image(self, name: str | None = None) -> dict[str, Any]:
        found = [i for i in self.server.state()["images"] if i["name"] == (name or self.ref.name)]
        assert len(found) == 1, [i["name"] for i in self.server.state()["images"]]
        return found[0]

    def annotations(self, ns: str, name: str | None = None) -> list[dict[str, Any]]:
        return [a for a in self.image(name)["annotations"] if a["ns"] == ns]

    def table(self, columns: str) -> dict[str, Any]:
        """The OMERO.table with such a column."""
        found = [a["file"] for a in self.annotations("openmicroscopy.org/omero/bulk_annotations")]
        (fitting,) = [file for file in found if columns in file["columns"]]
        return {**fitting, "by": pd.DataFrame(fitting["rows"], columns=fitting["columns"])}

    def parquet(self) -> pd.DataFrame:
        """The attached table of cells, as a client would fetch it."""
        with asking(self.server) as session:
            ((file, size),) = session.rows(
                "select f.id, f.size from ImageAnnotationLink l join l.child a join a.file f where l.parent.id = :id "
                "and f.name like :name",
                id=int(self.ref.id),
                name="%cells.parquet",
            )
            with session.raw_file(file) as store:
                return pd.read_parquet(io.BytesIO(store.read(0, size)))


@pytest.fixture
def place(server: RunningServer, tmp_path: Path) -> Any:
    made = Place(server, tmp_path)
    yield made
    made.workspace._sessions.close()


def test_everything_stands_where_people_look(place: Place) -> None:
    results = place.everything()
    done = place.workspace.publish(results)
    assert done.changed
    assert done.notes == ()
    assert place.workspace.holds(results)

    table = place.table("Nimbus_CD3")["by"]
    assert [f"{int(roi)}:{int(shape)}" for roi, shape in zip(table["Roi"], table["Shape"], strict=True)] == list(CELLS)
    assert set(table["Image"]) == {int(place.ref.id)}
    assert list(table["Class"]) == ["Tumor: CD3", "", "Stroma"]
    assert list(table["Nimbus_CD3"][:2]) == [1.0, 0.0]
    assert table["Nimbus_CD3"][2] == "nan"

    frame = place.parquet()
    assert list(frame.columns) == ["image_id", "image", "cell", "class", "Nimbus: CD3", "Nimbus: CD8"]
    assert list(frame["cell"]) == list(CELLS)
    assert frame["Nimbus: CD8"].dtype == np.float32

    made = place.image("slide.tif (KI67 (Nimbus), KI67 spread (Nimbus))")
    assert (made["shape"], made["type"]) == ([1, 2, 1, *SHAPE], "float")
    assert made["channels"] == ["KI67 (Nimbus)", "KI67 spread (Nimbus)"]
    assert made["datasets"] == ["slides (mxbridge)"]
    assert {a["ns"] for a in made["annotations"]} == {"mxbridge/derived", "mxbridge/result"}
    assert "computed by mxbridge from image" in made["description"]

    (values,) = place.annotations("mxbridge/values")
    assert values["values"] == [["Nimbus: positive %", "10.0"]]
    (marker,) = place.annotations("mxbridge/result")
    told = dict(marker["values"])
    assert (told["task"], told["model"], told["image"]) == ("score", "Nimbus", place.ref.id)
    assert told["weights sha256"] == "ab" * 32
    assert {v for n, v in marker["values"] if n == "result key"} == set(results.result_keys)

    assert [s[0] for roi in place.image()["rois"] for s in roi["shapes"]] == ["Mask", "Mask"]
    assert len(place.annotations("mxbridge/labels")) == 1
    nuclei = place.table("Label")["by"]
    assert list(nuclei["Label"]) == [1, 2]
    assert list(nuclei["Class"]) == ["Positive", ""]
    state = place.server.state()
    assert state["loose annotations"] == state["loose rois"] == []


def test_pixels_are_those_that_were_sent(place: Place) -> None:
    place.workspace.publish(place.everything(value=0.125))
    derived = place.image("slide.tif (KI67 (Nimbus), KI67 spread (Nimbus))")
    planes = [np.full(SHAPE, 0.125 + c, np.float32) + np.arange(SHAPE[1], dtype=np.float32) / 8 for c in range(2)]
    other = place.server.add_image("the same", np.stack(planes), dataset="others")
    assert other
    assert derived["sha256"] == place.image("the same")["sha256"]


def test_the_same_again_changes_nothing(place: Place) -> None:
    place.workspace.publish(place.everything())
    before, calls = place.server.state(), place.server.calls()
    done = place.workspace.publish(place.everything(run_id="run-9"))
    assert not done.changed
    assert place.server.state() == before
    written = place.server.calls() - calls
    assert not [name for name in written if name.startswith(("IUpdate.", "RawFileStore.write", "IPixels.create"))]


def test_own_things_are_never_inputs(place: Place) -> None:
    place.workspace.publish(replace(place.everything()))
    again = open_omero(place.server, place.folder, "dataset:1")
    assert again.list() == [place.ref]
    pulled = again.pull(place.ref)
    assert pulled.cells is None, "our ROIs, tables and labels are not cells of people"
    again._sessions.close()


def test_a_rerun_replaces_its_own_and_nothing_else(place: Place) -> None:
    place.workspace.publish(place.everything())
    place.workspace.publish(place.everything(value=2.0, run_id="run-2"))
    names = [i["name"] for i in place.server.state()["images"]]
    assert sorted(names) == ["slide.tif", "slide.tif (KI67 (Nimbus), KI67 spread (Nimbus))"]
    assert list(place.table("Nimbus_CD3")["by"]["Nimbus_CD3"][:1]) == [2.0]
    assert place.annotations("mxbridge/values")[0]["values"] == [["Nimbus: positive %", "20.0"]]
    assert len(place.image()["annotations"]) == 7  # two tables, two Parquet files, labels, values, marker
    assert len(place.image()["rois"]) == 2
    state = place.server.state()
    assert state["loose annotations"] == state["loose rois"] == []
    assert state["files"] == place.clean["files"] + 5


def test_a_rerun_of_one_marker_keeps_the_columns_of_the_others(place: Place) -> None:
    place.workspace.publish(place.everything())
    more = replace(scores(place.ref, ["CD8", "CD20"], value=7.0), cell_ids=("6:9", "5:7", "9:9"))
    assert place.workspace.publish(more).changed
    table = place.table("Nimbus_CD3")["by"]
    rows = {f"{int(r)}:{int(s)}": k for k, (r, s) in enumerate(zip(table["Roi"], table["Shape"], strict=True))}
    assert set(rows) == {*CELLS, "9:9"}
    assert [table["Nimbus_CD3"][rows[c]] for c in ("5:7", "5:8", "9:9")] == [1.0, 0.0, "nan"]
    assert [table["Nimbus_CD8"][rows[c]] for c in ("6:9", "5:7", "9:9", "5:8")] == [7.0, 8.0, 9.0, "nan"]
    assert [table["Nimbus_CD20"][rows[c]] for c in ("6:9", "5:8")] == [7.0, "nan"]
    assert table["Class"][rows["5:7"]] == "Tumor: CD3"
    assert place.workspace.holds(more)
    assert len(place.annotations("mxbridge/result")) == 1
    assert place.image("slide.tif (KI67 (Nimbus), KI67 spread (Nimbus))")["datasets"] == ["slides (mxbridge)"]
    assert set(place.workspace.published_keys(place.ref)) == {
        *place.everything().result_keys,
        *more.result_keys,
    }


def test_results_of_several_tasks_stand_side_by_side(place: Place) -> None:
    place.workspace.publish(place.everything())
    other = replace(scores(place.ref, ["CD3"], value=5.0), provenance={"task": "impute", "name": "MAXIM"})
    other = replace(other, measurements=tuple(replace(m, result_key=f"other-{m.name}") for m in other.measurements))
    place.workspace.publish(other)
    assert len(place.annotations("mxbridge/result")) == 2
    assert place.workspace.holds(other)
    assert place.workspace.holds(place.everything())
    place.workspace.retract(place.ref, other.result_keys)
    assert place.workspace.holds(place.everything())
    assert not place.workspace.holds(other)


def test_undo_leaves_nothing(place: Place) -> None:
    results = place.everything()
    place.workspace.publish(results)
    done = place.workspace.retract(place.ref, results.result_keys)
    assert done.changed
    assert set(done.keys or ()) == set(results.result_keys)
    assert place.server.state() == place.clean
    again = place.workspace.retract(place.ref, results.result_keys)
    assert not again.changed
    assert place.workspace.publish(results).changed


def test_undo_of_one_run_leaves_what_another_has_put_there_since(place: Place) -> None:
    place.workspace.publish(place.everything())
    later = scores(place.ref, ["CD3"], value=4.0, run_id="run-2")
    place.workspace.publish(later)
    taken = place.workspace.retract(place.ref, place.everything().result_keys, run_id="run-1")
    assert key("CD3", place.ref) not in (taken.keys or ())
    assert place.workspace.published_keys(place.ref) == (key("CD3", place.ref),)
    assert place.workspace.holds(later)
    (marker,) = place.annotations("mxbridge/result")
    assert ["weights sha256", "ab" * 32] in marker["values"]
    assert "Nimbus_CD8" not in place.table("Nimbus_CD3")["columns"]
    assert [i["name"] for i in place.server.state()["images"]] == ["slide.tif"]


def test_only_what_is_new_is_sent_again(place: Place) -> None:
    place.workspace.publish(place.everything())
    before = place.server.calls()
    changed = replace(place.everything(), measurements=scores(place.ref, ["CD3", "CD8"], value=3.0).measurements)
    assert place.workspace.publish(changed).changed
    written = place.server.calls() - before
    assert not written["IPixels.createImage"]
    assert not written["RawPixelsStore.setTile"]
    assert place.workspace.holds(changed)


def test_what_somebody_edited_stays_and_is_told(place: Place) -> None:
    from omero.model import NamedValue
    from omero.rtypes import rdouble

    results = place.everything()
    place.workspace.publish(results)
    with asking(place.server) as session:
        (mask,) = session.objects("select s from Shape s where s.roi.image.id = :id", id=int(place.ref.id), limit=1)
        mask.setX(rdouble(11.0))
        (values,) = session.objects("select a from MapAnnotation a where a.ns = :ns", ns="mxbridge/values")
        values.setMapValue([NamedValue("Nimbus: positive %", "by hand")])
        group = values.getDetails().getGroup().getId().getValue()
        session.save_all([mask, values], group)
    assert not place.workspace.holds(results)
    done = place.workspace.retract(place.ref, results.result_keys)
    assert len(done.notes) == 2
    assert any("1 ROIs that somebody has edited" in note for note in done.notes)
    (kept,) = place.image()["annotations"]
    assert kept["ns"] == "openmicroscopy.org/omero/client/mapAnnotation"
    assert kept["values"] == [["Nimbus: positive %", "by hand"]]
    assert len(place.image()["rois"]) == 1
    assert place.workspace.pull(place.ref).cells is not None, "an edited ROI is its editor's, and an input"


@pytest.mark.parametrize("lost", ["marker", "table", "values", "image", "roi"])
def test_what_was_deleted_on_the_server_is_put_back(place: Place, lost: str) -> None:
    results = place.everything()
    place.workspace.publish(results)
    whole = place.server.state()
    queries = {
        "marker": ("Annotation", "select a.id from MapAnnotation a where a.ns = 'mxbridge/result'"),
        "table": (
            "Annotation",
            "select a.id from FileAnnotation a where a.ns = 'openmicroscopy.org/omero/bulk_annotations'",
        ),
        "values": ("Annotation", "select a.id from MapAnnotation a where a.ns = 'mxbridge/values'"),
        "image": ("Image", "select i.id from Image i where i.name like 'slide.tif (%'"),
        "roi": ("Roi", "select r.id from Roi r"),
    }
    kind, hql = queries[lost]
    with asking(place.server) as session:
        session.delete(kind, [session.rows(hql)[0][0]], 3)
    assert place.server.state() != whole
    assert not place.workspace.holds(results)
    assert place.workspace.publish(results).changed
    assert place.workspace.holds(results)
    assert place.server.state() == whole


@pytest.mark.parametrize("lost", ["labels", "image", "roi", "link"])
def test_what_others_have_lost_does_not_keep_a_result_from_being_whole(place: Place, lost: str) -> None:
    """Two tasks of one model share a marker: what is missing of one is put back by that one, the other is done."""
    results = place.everything()
    place.workspace.publish(results)
    queries = {
        "labels": ("Annotation", "select a.id from FileAnnotation a where a.ns = 'mxbridge/labels'"),
        "image": ("Image", "select i.id from Image i where i.name like 'slide.tif (%'"),
        "roi": ("Roi", "select r.id from Roi r"),
        "link": ("ImageAnnotationLink", "select l.id from ImageAnnotationLink l where l.child.ns = 'mxbridge/labels'"),
    }
    kind, hql = queries[lost]
    with asking(place.server) as session:
        session.delete(kind, [session.rows(hql)[0][0]], 3)
    other = scores(place.ref, ["CD20"], value=2.0)
    assert place.workspace.publish(other).changed
    assert place.workspace.holds(other)
    assert not place.workspace.publish(other).changed
    assert not place.workspace.holds(results)
    assert place.workspace.publish(results).changed
    assert place.workspace.holds(results)
    assert place.workspace.holds(other)
    state = place.server.state()
    assert state["loose annotations"] == state["loose rois"] == []
    assert len(place.annotations("mxbridge/labels")) == 1
    assert len(place.image()["rois"]) == 2


def test_beside_puts_derived_images_into_the_same_dataset(place: Place) -> None:
    workspace = open_omero(place.server, place.folder, "dataset:1", beside=True)
    results = place.everything()
    workspace.publish(results)
    assert place.image("slide.tif (KI67 (Nimbus), KI67 spread (Nimbus))")["datasets"] == ["slides"]
    assert workspace.list() == [place.ref]
    workspace.retract(place.ref, results.result_keys)
    assert place.server.state() == place.clean
    workspace._sessions.close()


def test_what_is_there_already_stays_where_it_is(place: Place) -> None:
    """--beside is about new images: people may have moved those that are there."""
    results = place.everything()
    for beside in (False, True):
        workspace = open_omero(place.server, place.folder, "dataset:1", beside=beside)
        assert workspace.publish(results).changed == (not beside)
        workspace._sessions.close()
    assert place.image("slide.tif (KI67 (Nimbus), KI67 spread (Nimbus))")["datasets"] == ["slides (mxbridge)"]


def test_plates_get_a_dataset_of_their_own(place: Place) -> None:
    image = place.server.add_image("well", np.zeros((1, *SHAPE), np.uint16), dataset=None, um_per_px=0.5)
    plate = place.server.add_plate("plate 7", [(1, 2, image)])
    workspace = open_omero(place.server, place.folder, f"plate:{plate}")
    (ref,) = workspace.list()
    workspace.publish(everything(ref, place.folder / "results"))
    assert place.image("well (KI67 (Nimbus), KI67 spread (Nimbus))")["datasets"] == ["plate 7 (mxbridge)"]
    workspace._sessions.close()


def test_too_many_objects_get_no_rois_and_that_is_told(place: Place) -> None:
    workspace = open_omero(place.server, place.folder, "dataset:1", rois=1)
    done = workspace.publish(place.everything())
    assert place.image()["rois"] == []
    assert any("more than the 1 of --rois" in note for note in done.notes)
    assert workspace.holds(place.everything())
    workspace._sessions.close()


def test_a_server_without_tables(place: Place) -> None:
    place.server.set(tables=False)
    done = place.workspace.publish(place.everything())
    assert any("keeps no OMERO.tables" in note for note in done.notes)
    assert place.annotations("openmicroscopy.org/omero/bulk_annotations") == []
    assert list(place.parquet()["cell"]) == list(CELLS)
    assert place.workspace.holds(place.everything())


def test_images_above_the_maximum_plane_size_are_sent_by_tiles_for_want_of_better(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxbridge.workspaces.omero.publishing.parts.find_client", lambda: None)
    place.server.set(max_plane=16)
    done = place.workspace.publish(place.everything())
    assert any("above the server's maximum plane size" in note for note in done.notes)
    assert place.workspace.holds(place.everything())


def test_images_above_the_maximum_plane_size_by_the_import_command(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command itself cannot be run here: something else puts the image onto the server and says which it is."""
    from mxbridge.workspaces.omero.publishing import parts
    from mxbridge.workspaces.omero.publishing.derived import make_image, write_pixels
    from mxbridge.workspaces.omero.publishing.import_client import Client

    def imported(session: Any, client: Client, image: Any, *, group_id: int, **told: Any) -> int:
        made, pixels = make_image(session, image, group_id=group_id, **told)
        write_pixels(session, image, pixels, group_id)
        return made

    place.server.set(max_plane=16)
    workspace = open_omero(place.server, place.folder, "dataset:1", large="import")
    monkeypatch.setattr(parts, "find_client", lambda: None)
    with pytest.raises(OutputError, match="needs the `omero` command and Java"):
        workspace.publish(place.everything())
    assert place.server.state() == place.clean
    monkeypatch.setattr(parts, "find_client", lambda: Client(("omero",)))
    monkeypatch.setattr(parts, "import_image", imported)
    workspace.publish(place.everything())
    assert workspace.holds(place.everything())
    assert place.image("slide.tif (KI67 (Nimbus), KI67 spread (Nimbus))")["datasets"] == ["slides (mxbridge)"]
    workspace._sessions.close()


def test_registered_where_it_lies(place: Place) -> None:
    workspace = open_omero(place.server, place.folder, "dataset:1", large="zarr")
    workspace.publish(place.everything())
    with asking(place.server) as session:
        rows = session.rows(
            "select e.lsid, e.entityType from Image i join i.details.externalInfo e where i.name like :name",
            name="slide.tif (%",
        )
    path = (place.folder / "results" / "derived" / "ki67.ome.zarr").resolve()
    assert rows == [(str(path), "com.glencoesoftware.ngff:multiscales")]
    workspace._sessions.close()


def test_colours_stay_a_colour_picture(place: Place) -> None:
    results = place.everything()
    folder = place.folder / "rgb"
    derived_image(folder, "ki67.ome.zarr", 3.0, ("red", "green", "blue"))
    (derived,) = results.derived
    picture = replace(derived, channels=("red", "green", "blue"), rgb=True, title="mIF", show="apart")
    place.workspace.publish(replace(results, derived=(picture,), folder=folder))
    assert place.image("slide.tif (mIF)")["channels"] == ["red", "green", "blue"]


def test_two_markers_of_one_result_become_one(place: Place) -> None:
    """As when two machines publish for the first time at the same moment."""
    from mxbridge.workspaces.omero.publishing.publication import Publication

    with place.workspace._sessions.use() as session:
        info = place.workspace._info(session, place.ref)
        first, second = (Publication(session, info, place.workspace._publishing) for _ in range(2))
        first.put(place.everything())
        second.markers = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mxbridge.workspaces.omero.publishing.planned.Plan._refuse_changed", lambda *args: None)
            patch.setattr("mxbridge.workspaces.omero.publishing.planned.strays", lambda *args: {})
            second.put(place.everything(value=2.0))
    assert len(place.annotations("mxbridge/result")) == 2
    place.workspace.publish(scores(place.ref, ["CD3"], value=3.0))
    assert len(place.annotations("mxbridge/result")) == 1
    assert len(place.annotations("mxbridge/values")) == 1
    place.workspace.retract(place.ref, place.everything().result_keys)
    assert place.server.state() == place.clean


def test_many_rows_go_in_pieces(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids of all cells decide how a row says which cell it is, texts of all pieces how wide they are."""
    monkeypatch.setattr("mxbridge.workspaces.omero.publishing.parts.ROWS", 2)
    ids = ("1:1", "1:2", "3:4", "a cell with a long name", "5:5")
    names = (None, None, "T", None, "Tumor: CD3: CD8")
    results = Results(
        place.ref,
        "run",
        ids,
        tuple(Measurement(f"N: {k}", np.arange(5, dtype=np.float32) + k, f"key {k}") for k in range(2)),
        ClassChanges(names, (None,) * 5, "key c"),
        provenance={"task": "score", "name": "N"},
    )
    place.workspace.publish(results)
    table = place.table("N_0")["by"].sort_values("N_0")
    assert list(table["Cell"]) == list(ids)
    assert list(table["Class"]) == ["", "", "T", "", "Tumor: CD3: CD8"]
    frame = place.parquet()
    assert list(frame["cell"]) == list(ids)
    assert [c if isinstance(c, str) else None for c in frame["class"]] == list(names)
    later = scores(place.ref, ["CD3"], value=1.0)
    place.workspace.publish(replace(later, cell_ids=("3:4", "5:5", "x"), provenance=results.provenance))
    assert sorted(place.parquet()["cell"]) == sorted([*ids, "x"])


def test_one_that_was_cut_off_after_its_commit_still_says_that_it_changed_something(place: Place) -> None:
    place.workspace.publish(place.everything())
    place.server.fault("cmd.Delete2", do="kill-connection-after")
    assert place.workspace.publish(place.everything(value=2.0)).changed


def test_nothing_to_publish_is_nothing_to_do(place: Place) -> None:
    results = Results(image=place.ref, run_id="run-1", provenance={"task": "qc"})
    assert place.workspace.holds(results)
    assert not place.workspace.publish(results).changed
    assert place.server.state() == place.clean


def test_two_servers_given_the_same_end_alike(place: Place, server: RunningServer) -> None:
    place.workspace.publish(place.everything())
    place.workspace.publish(scores(place.ref, ["CD8"], value=2.0))
    first = server.state()
    place.workspace._sessions.close()
    server.reset()
    again = Place(server, place.folder)
    again.workspace.publish(replace(again.everything(), run_id="another"))
    again.workspace.publish(replace(scores(again.ref, ["CD8"], value=2.0), run_id="other"))
    assert server.state() == first
    again.workspace._sessions.close()


def test_dry_run_tells(place: Place) -> None:
    before = place.server.state()
    text = "\n".join(place.workspace.intentions(place.ref))
    for told in ("slides (mxbridge)", "50 x 40 px", "by tiles", "bulk_annotations", "ROIs (masks) for 10 at most"):
        assert told in text
    only = "\n".join(place.workspace.intentions(place.ref, ("values",)))
    assert "bulk_annotations" in only and "(mxbridge)" not in only and "ROIs" not in only
    assert place.server.state() == before
    place.workspace.publish(place.everything())
    assert "is replaced where the same is made again: Nimbus score" in "\n".join(place.workspace.intentions(place.ref))


def _names(refs: list[ImageRef]) -> list[str]:
    return [ref.name for ref in refs]


def test_address_finds_everything_again(place: Place) -> None:
    again = OmeroWorkspace(place.workspace.address, sessions=sessions_of(place.server), cache=place.folder / "cache")
    assert again.address == place.workspace.address
    results = place.everything()
    place.workspace.publish(results)
    assert again.holds(results)
    assert _names(again.list(["slide.tif"])) == ["slide.tif"]
    again._sessions.close()
