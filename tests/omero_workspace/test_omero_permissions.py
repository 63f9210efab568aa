"""Who may put what where: groups of every kind, other people's images, accounts that act for others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mxbridge.errors import OutputError, SourceError
from mxbridge.results import ImageRef, Results
from mxbridge.workspaces.omero.workspace import OmeroWorkspace
from tests.omero_server.running import RunningServer
from tests.omero_workspace.toy_results import add_slide, asking, everything, open_omero, scores

pytestmark = pytest.mark.omero

DERIVED = "slide.tif (KI67 (Nimbus), KI67 spread (Nimbus))"


def image(server: RunningServer, name: str) -> dict[str, Any]:
    (found,) = [i for i in server.state()["images"] if i["name"] == name]
    return found


def go(server: RunningServer, folder: Path, ref: ImageRef, user: str, **options: Any) -> OmeroWorkspace:
    return open_omero(server, folder, f"image:{ref.id}", user=user, **options)


@pytest.mark.parametrize("beside", [False, True])
def test_in_a_read_only_group_derived_images_go_into_a_dataset_of_ones_own(
    server: RunningServer, tmp_path: Path, beside: bool
) -> None:
    ref = add_slide(server, group="lab", owner="alice")
    before = image(server, "slide.tif")
    workspace = go(server, tmp_path, ref, "bob", rois=5, beside=beside)
    workspace.check_writable()
    planned = workspace.intentions(ref)
    assert any("bob may not annotate" in line for line in planned)
    results = everything(ref, tmp_path / "r")
    done = workspace.publish(results)
    assert [note for note in done.notes if "bob may not annotate slide.tif" in note]
    for told in (planned, done.notes):
        assert any("no dataset of it that you may put images into" in line for line in told) == beside
    assert image(server, "slide.tif") == before, "nothing of alice's was touched"
    made = image(server, DERIVED)
    assert (made["place"], made["datasets"]) == (["bob", "lab"], ["slides (mxbridge)"])
    assert ["left out", done.notes[-1].removeprefix("left out: ")] in next(
        a["values"] for a in made["annotations"] if a["ns"] == "mxbridge/result"
    )
    assert workspace.holds(results)
    assert not workspace.publish(results).changed
    workspace.retract(ref, results.result_keys)
    assert [i["name"] for i in server.state()["images"]] == ["slide.tif"]
    workspace._sessions.close()


def test_nothing_that_could_be_put_there_is_an_error(server: RunningServer, tmp_path: Path) -> None:
    ref = add_slide(server, group="lab", owner="alice")
    before = server.state()
    workspace = go(server, tmp_path, ref, "bob")
    with pytest.raises(OutputError, match=r"bob may not annotate it \(it belongs to alice\).*--as-owner"):
        workspace.publish(scores(ref, ["CD3"], value=1.0))
    assert server.state() == before
    assert not workspace.holds(scores(ref, ["CD3"], value=1.0))
    workspace._sessions.close()


@pytest.mark.parametrize("group", ["notes", "team"])
def test_where_one_may_annotate_everything_is_attached(server: RunningServer, tmp_path: Path, group: str) -> None:
    ref = add_slide(server, group=group, owner="alice")
    workspace = go(server, tmp_path, ref, "bob", rois=5)
    results = everything(ref, tmp_path / "r")
    assert workspace.publish(results).notes == ()
    there = image(server, "slide.tif")
    assert {tuple(a["place"]) for a in there["annotations"]} == {("bob", group)}
    assert len(there["rois"]) == 2
    assert workspace.holds(results)
    workspace._sessions.close()


def test_two_people_do_not_replace_each_others_results(server: RunningServer, tmp_path: Path) -> None:
    ref = add_slide(server, group="team", owner="alice")
    alice, bob = go(server, tmp_path, ref, "alice"), go(server, tmp_path, ref, "bob")
    results = everything(ref, tmp_path / "r")
    alice.publish(results)
    before = server.state()
    bob.publish(results)
    assert alice.holds(results)
    assert bob.holds(results)
    bob.retract(ref, results.result_keys)
    assert server.state() == before
    for workspace in (alice, bob):
        workspace._sessions.close()


def test_as_owner(server: RunningServer, tmp_path: Path) -> None:
    ref = add_slide(server, group="private", owner="alice")
    workspace = go(server, tmp_path, ref, "sudo", as_owner=True)
    workspace.check_writable()
    results = everything(ref, tmp_path / "r")
    assert workspace.publish(results).notes == ()
    assert workspace.holds(results)
    assert {tuple(a["place"]) for a in image(server, "slide.tif")["annotations"]} == {("alice", "private")}
    assert image(server, DERIVED)["place"] == ["alice", "private"]
    own = go(server, tmp_path, ref, "alice")
    assert own.holds(results), "the owner herself finds them as hers"
    for sessions in (workspace._sessions, own._sessions, *workspace._owners.values()):
        sessions.close()


def test_as_owner_without_the_privilege(server: RunningServer, tmp_path: Path) -> None:
    ref = add_slide(server, group="team", owner="alice")
    workspace = go(server, tmp_path, ref, "bob", as_owner=True)
    before = server.state()
    with pytest.raises(OutputError, match="cannot act as alice"):
        workspace.check_writable()  # before hours of work
    with pytest.raises(OutputError, match="cannot act as alice"):
        workspace.publish(everything(ref, tmp_path / "r"))
    assert server.state() == before
    workspace._sessions.close()


def test_a_project_of_the_source_gets_the_dataset(server: RunningServer, tmp_path: Path) -> None:
    server.add_dataset("slides", project="study")
    ref = add_slide(server)
    workspace = go(server, tmp_path, ref, "alice")
    workspace.publish(everything(ref, tmp_path / "r"))
    (made,) = [d for d in server.state()["datasets"] if d["name"] == "slides (mxbridge)"]
    assert made["projects"] == ["study"]
    workspace._sessions.close()


def test_an_image_that_was_deleted_meanwhile(server: RunningServer, tmp_path: Path) -> None:
    ref = add_slide(server)
    workspace = go(server, tmp_path, ref, "alice")
    results = everything(ref, tmp_path / "r")
    with asking(server) as session:
        session.delete("Image", [int(ref.id)], 3)
    before = server.state()
    with pytest.raises(SourceError, match=f"no image {ref.id}"):
        workspace.publish(results)
    assert server.state() == before
    workspace._sessions.close()


def test_an_image_that_is_deleted_while_results_are_sent(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mxbridge.workspaces.omero.publishing import planned

    ref, other = add_slide(server), add_slide(server, "other.tif")
    workspace = go(server, tmp_path, ref, "alice", rois=5)
    commit = planned.Plan.commit
    states: list[dict[str, Any]] = []

    def deleted_before(self: planned.Plan, *args: Any) -> Any:
        with asking(server) as session:
            session.delete("Image", [int(ref.id)], 3)
        states.append(server.state())
        return commit(self, *args)

    monkeypatch.setattr(planned.Plan, "commit", deleted_before)
    with pytest.raises(SourceError, match=f"no image {ref.id}"):
        workspace.publish(everything(ref, tmp_path / "r"))
    state = server.state()
    assert [i["name"] for i in state["images"]] == [other.name], "nothing was left behind"
    assert [i["name"] for i in states[0]["images"]] != [other.name], "there was something to leave behind"
    assert state["loose annotations"] == state["loose rois"] == []
    workspace._sessions.close()


def test_rights_that_were_given_later_are_used(server: RunningServer, tmp_path: Path) -> None:
    """In a marker that left something out, a result is not 'there already' once it could be whole."""
    from mxbridge.workspaces.omero.publishing.marker import read_markers
    from mxbridge.workspaces.omero.publishing.standing import is_whole

    ref = add_slide(server, group="lab", owner="alice")
    workspace = go(server, tmp_path, ref, "bob")
    workspace.publish(everything(ref, tmp_path / "r"))
    with workspace._sessions.use() as session:
        (marker,) = read_markers(session, int(ref.id))
        info = workspace._info(session, ref)
        assert is_whole(session, marker, info)
        assert not is_whole(session, marker, replace(info, can_annotate=True))
    workspace._sessions.close()


def test_another_group_than_the_users_own(server: RunningServer, tmp_path: Path) -> None:
    """The session is in ``lab``; the image is in ``team``: everything is written there."""
    ref = add_slide(server, group="team", owner="alice")
    workspace = go(server, tmp_path, ref, "alice", rois=5)
    results: Results = everything(ref, tmp_path / "r")
    workspace.publish(results)
    assert image(server, DERIVED)["place"] == ["alice", "team"]
    assert {tuple(a["place"]) for a in image(server, "slide.tif")["annotations"]} == {("alice", "team")}
    workspace._sessions.close()
