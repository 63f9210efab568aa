"""What publishing and undoing never take: what people added, copied, shared or made themselves, and what others published."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mxbridge.results import Results
from mxbridge.workspaces.omero.sessions.connection import Session
from mxbridge.workspaces.omero.workspace import OmeroWorkspace
from tests.omero_server.running import RunningServer
from tests.omero_workspace.toy_results import add_slide, asking, everything, open_omero, scores

pytestmark = pytest.mark.omero

LAB = 3


class Slide:
    """A slide with one of everything published on it by alice."""

    def __init__(self, server: RunningServer, folder: Path, workspace: OmeroWorkspace) -> None:
        self.server, self.folder, self.workspace = server, folder, workspace
        self.ref = add_slide(server)
        self.other = add_slide(server, "other.tif")
        self.id = int(self.ref.id)
        self.results = self.everything()
        workspace.publish(self.results)
        self.derived = self.ids("select i.id from Image i where i.name like 'slide.tif (%'")[0]

    def everything(self, value: float = 1.0) -> Results:
        return everything(self.ref, self.folder / "results", value=value, run_id=f"run-{value}")

    def ids(self, hql: str, **params: Any) -> list[int]:
        with asking(self.server) as session:
            return [int(row[0]) for row in session.rows(hql, **params)]

    def undo(self) -> tuple[str, ...]:
        return self.workspace.retract(self.ref, self.results.result_keys).notes


@pytest.fixture
def slide(server: RunningServer, tmp_path: Path) -> Iterator[Slide]:
    workspace = open_omero(server, tmp_path, "dataset:1", rois=10)
    yield Slide(server, tmp_path, workspace)
    workspace._sessions.close()


def link(session: Session, image: int, annotation: Any) -> None:
    from omero.model import ImageAnnotationLinkI, ImageI

    made = ImageAnnotationLinkI()
    made.setParent(ImageI(image, False))
    made.setChild(annotation)
    session.save_return(made, LAB)


def add_comment(session: Session, image: int) -> None:
    from omero.model import CommentAnnotationI
    from omero.rtypes import rstring

    comment = CommentAnnotationI()
    comment.setTextValue(rstring("look here"))
    link(session, image, comment)


def add_tag(session: Session, image: int) -> None:
    from omero.model import TagAnnotationI
    from omero.rtypes import rstring

    tag = TagAnnotationI()
    tag.setTextValue(rstring("good"))
    link(session, image, tag)


def add_roi(session: Session, image: int) -> None:
    from omero.model import EllipseI, ImageI, RoiI
    from omero.rtypes import rdouble

    roi, shape = RoiI(), EllipseI()
    for place in ("X", "Y", "RadiusX", "RadiusY"):
        getattr(shape, f"set{place}")(rdouble(5.0))
    roi.addShape(shape)
    roi.setImage(ImageI(image, False))
    session.save_return(roi, LAB)


@pytest.mark.parametrize("add", [add_comment, add_tag, add_roi])
def test_a_derived_image_to_which_somebody_added_something_stays(
    slide: Slide, add: Callable[[Session, int], None]
) -> None:
    with asking(slide.server) as session:
        add(session, slide.derived)
    done = slide.workspace.publish(slide.everything(2.0))
    assert any(f"derived image {slide.derived} stays" in note for note in done.notes)
    images = slide.ids("select i.id from Image i where i.name like 'slide.tif (%' order by i.id")
    assert len(images) == 2
    assert images[0] == slide.derived
    places = slide.ids("select l.child.id from DatasetImageLink l where l.child.id in (:ids)", ids=images)
    assert sorted(places) == images, "both are seen"
    again = open_omero(slide.server, slide.folder, "dataset:2")
    assert again.list() == [], "it is no input, though it is no result any more"
    again._sessions.close()
    slide.undo()
    assert slide.ids("select i.id from Image i where i.name like 'slide.tif (%'") == [slide.derived]


def test_undo_leaves_a_derived_image_to_which_somebody_added_something(slide: Slide) -> None:
    with asking(slide.server) as session:
        add_comment(session, slide.derived)
    assert any(f"derived image {slide.derived} stays" in note for note in slide.undo())
    assert slide.ids("select l.child.id from DatasetImageLink l where l.child.id = :id", id=slide.derived)
    assert slide.workspace.publish(slide.results).changed
    slide.undo()
    assert slide.ids("select i.id from Image i where i.name like 'slide.tif (%'") == [slide.derived]


def test_a_copy_of_a_derived_image_is_its_owners(slide: Slide) -> None:
    """As `omero duplicate` makes it, with the same annotation; and the record of what was published is gone."""
    copy = add_slide(slide.server, "my copy")
    from omero.model import MapAnnotationI

    with asking(slide.server) as session:
        ((mark,),) = session.rows("select a.id from Annotation a where a.ns = 'mxbridge/derived'")
        link(session, int(copy.id), MapAnnotationI(mark, False))
        session.delete("Annotation", slide.ids("select a.id from Annotation a where a.ns = 'mxbridge/result'"), LAB)
    slide.workspace.publish(slide.everything(2.0))
    slide.undo()
    assert slide.ids("select i.id from Image i order by i.id") == [int(i.id) for i in (slide.ref, slide.other, copy)]


def test_an_attachment_that_was_linked_to_another_image_stays_there(slide: Slide) -> None:
    from omero.model import FileAnnotationI

    tables = slide.ids("select a.id from FileAnnotation a where a.ns = 'mxbridge/table' order by a.id")
    with asking(slide.server) as session:
        for table in tables:
            link(session, int(slide.other.id), FileAnnotationI(table, False))
    there = "select l.child.id from ImageAnnotationLink l where l.parent.id = :id and l.child.ns = 'mxbridge/table'"
    theirs = scores(slide.other, ["CD3"], value=1.0)
    slide.workspace.publish(theirs)  # of the same task and model
    own = set(slide.ids(there, id=int(slide.other.id))) - set(tables)
    assert len(own) == 1
    assert set(slide.ids(there, id=slide.id)) == set(tables)
    assert slide.workspace.holds(slide.results)
    slide.undo()
    assert slide.ids(there, id=slide.id) == []
    assert set(slide.ids(there, id=int(slide.other.id))) == {*tables, *own}
    files = slide.ids("select a.file.id from FileAnnotation a where a.id in (:ids)", ids=tables)
    assert len(files) == len(tables)
    slide.workspace.retract(slide.other, theirs.result_keys)
    assert set(slide.ids(there, id=int(slide.other.id))) == set(tables)


def test_a_record_that_somebody_rewrote_deletes_nothing_of_people(slide: Slide) -> None:
    """Whoever may write in a group can change a marker: it names images, ROIs, annotations and files that are no results."""
    from omero.rtypes import rstring

    with asking(slide.server) as session:
        add_roi(session, int(slide.other.id))
        add_tag(session, int(slide.other.id))
        (marker,) = session.objects("select a from MapAnnotation a where a.ns = 'mxbridge/result'")
        told = json.loads(marker.getDescription().getValue())
        told["left"] = {
            "Image": [slide.id, int(slide.other.id)],
            "Roi": slide.ids("select r.id from Roi r where r.image.id = :id", id=int(slide.other.id)),
            "Annotation": slide.ids("select a.id from TagAnnotation a"),
            "OriginalFile": slide.ids("select f.id from OriginalFile f where f.path not like 'mxbridge/%'"),
        }
        marker.setDescription(rstring(json.dumps(told)))
        session.save_all([marker], LAB)
    before = {kind: slide.ids(f"select o.id from {kind} o order by o.id") for kind in ("Image", "Roi", "OriginalFile")}
    slide.workspace.publish(slide.results)
    now = {kind: slide.ids(f"select o.id from {kind} o order by o.id") for kind in before}
    assert now == before
    assert slide.ids("select a.id from TagAnnotation a")
    assert slide.workspace.holds(slide.results)


@pytest.mark.parametrize("name", ["aXb", "a_b: c", "a% of"])
def test_results_of_models_with_similar_names_stand_side_by_side(slide: Slide, name: str) -> None:
    """`_` and `%` stand for anything in a question to the server, and one name may begin with another."""
    results = []
    for model in (name, "a_b"):
        made = scores(slide.ref, ["CD3"], value=1.0)
        keyed = tuple(replace(m, result_key=f"{model}-{m.result_key}") for m in made.measurements)
        results.append(replace(made, measurements=keyed, provenance={"task": "score", "name": model}))
        slide.workspace.publish(results[-1])
    assert all(slide.workspace.holds(r) for r in (*results, slide.results))
    slide.workspace.retract(slide.ref, results[1].result_keys)
    assert slide.workspace.holds(results[0])


def test_key_values_that_are_edited_at_the_very_moment_are_their_editors(
    slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After they were looked at and before the transaction: the server says that they are not what was read."""
    from omero.model import NamedValue

    usual, met = Session.save_all, []

    def meeting(self: Session, objects: Any, group_id: int) -> None:
        if not met and len(objects) > 5:
            met.append(True)
            with asking(slide.server) as other:
                (values,) = other.objects("select a from MapAnnotation a where a.ns = 'mxbridge/values'")
                values.setMapValue([NamedValue("Nimbus: positive %", "by hand")])
                usual(other, [values], LAB)
        usual(self, objects, group_id)

    monkeypatch.setattr(Session, "save_all", meeting)
    done = slide.workspace.publish(slide.everything(2.0))
    assert met
    assert any("edited its key-values" in note for note in done.notes)
    with asking(slide.server) as session:
        found = session.objects("select a from MapAnnotation a where a.ns like '%client/mapAnnotation'")
    assert [pair.value for a in found for pair in a.getMapValue()] == ["by hand"]
    assert slide.workspace.holds(slide.everything(2.0))


def test_a_dataset_that_somebody_annotated_stays_when_it_is_empty(slide: Slide) -> None:
    from omero.model import CommentAnnotationI, DatasetAnnotationLinkI, DatasetI

    (home,) = slide.ids("select d.id from Dataset d where d.name = 'slides (mxbridge)'")
    with asking(slide.server) as session:
        made = DatasetAnnotationLinkI()
        made.setParent(DatasetI(home, False))
        made.setChild(CommentAnnotationI())
        session.save_return(made, LAB)
    slide.undo()
    assert slide.ids("select d.id from Dataset d where d.id = :id", id=home) == [home]


def test_what_somebody_else_deletes_at_the_same_moment_is_no_error(
    slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, met = Session.delete, []

    def meeting(self: Session, kind: str, ids: Any, group_id: int, **more: Any) -> None:
        if kind == "Roi" and not met:
            met.append(True)
            with asking(slide.server) as other:
                usual(other, kind, ids[:1], group_id)
        usual(self, kind, ids, group_id, **more)

    monkeypatch.setattr(Session, "delete", meeting)
    assert slide.workspace.publish(slide.everything(2.0)).changed
    assert met
    assert len(slide.ids("select r.id from Roi r")) == 2
