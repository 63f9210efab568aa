"""The options that name images, the same in every command; a stand-in keeps what a workspace on a server would be opened with."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mxbridge import workspaces
from mxbridge.cli import evaluate, importance, impute, qc, score, train_maxim, translate
from mxbridge.cli import inspect as inspect_command
from mxbridge.cli.places import Places, takes_places
from mxbridge.cli.sources import OMERO_ONLY
from mxbridge.errors import OutputError, UsageError
from mxbridge.runs import ImageRecord, Run

Call = Callable[..., tuple[int, str, str]]
MODEL = ("--model", "demo")
COMMANDS = {
    "score": (score.score, ()),
    "impute": (impute.impute, ("--marker", "CD3", *MODEL)),
    "translate": (translate.translate, ()),
    "qc": (qc.qc, MODEL),
    "importance": (importance.importance, MODEL),
    "evaluate": (evaluate.evaluate, MODEL),
    "inspect": (inspect_command.inspect, ()),
    "train maxim": (train_maxim.train_maxim, ("--out", "x.safetensors", "--any-marker")),
}
PUBLISHING = {"score", "impute", "translate"}


class Standing:
    """Keeps how it was opened, and goes no further."""

    opened: tuple[tuple[Any, ...], dict[str, Any]]

    def __init__(self, *place: Any, **more: Any) -> None:
        assert callable(more.pop("tell", print)), "hears of what is lost"
        Standing.opened = (place, more)
        raise OutputError("as far as the stand-in goes")


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Standing]:
    """Whatever is opened on a server is this."""
    entry = type("Entry", (), {"load": lambda self: Standing})()
    monkeypatch.setattr(workspaces, "workspace_kinds", lambda: {"omero": entry})
    monkeypatch.setenv("OMERO_SESSIONDIR", str(tmp_path / "no sessions"))
    for name in ("OMERO_HOST", "OMERO_PORT", "OMERO_USER"):
        monkeypatch.delenv(name, raising=False)
    Standing.opened = ((), {})
    return Standing


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reaches_a_server(mxbridge: Call, standing: type[Standing], command: str) -> None:
    words, more = command.split(), COMMANDS[command][1]
    code, _, err = mxbridge(*words, *more, "--omero", "dataset:5", "--server", "h", "--user", "alice", "--plane", "2,1")
    assert (code, "as far as the stand-in goes" in err) == (7, True), err
    assert standing.opened == (("dataset:5",), {"server": "h", "user": "alice", "plane": (2, 1)})


@pytest.mark.parametrize("command", COMMANDS)
def test_options_stand_where_they_mean_something(command: str) -> None:
    names = list(inspect.signature(COMMANDS[command][0]).parameters)
    publishing, outlines = {"beside", "large_images", "as_owner"}, {"rois", "rois_as"}
    assert {"project", "omero", "image", "files", "plane", "um_per_px", "path_map"} <= set(names)
    assert OMERO_ONLY & set(names) == (
        OMERO_ONLY - (set() if command in PUBLISHING else publishing) - (set() if command == "translate" else outlines)
    )
    assert names[-len(OMERO_ONLY & set(names)) :] == [n for n in names if n in OMERO_ONLY], "the last ones in the help"
    assert len(names) == len(set(names)) and "places" not in names


def test_all_that_a_server_can_be_told(mxbridge: Call, standing: type[Standing]) -> None:
    words = [
        "--omero",
        "omero:alice@h/image:1,2?group=lab",
        "--labels",
        "rois",
        "--labels",
        "image:7",
        "--um-per-px",
        "0.5",
        "--verify-server",
        "--ca-file",
        "c.pem",
        "--cache",
        "kept",
        "--cache-size",
        "1.5TB",
        "--repository",
        "/mnt",
        "--beside",
        "--rois",
        "500",
        "--rois-as",
        "polygons",
        "--large-images",
        "import",
        "--as-owner",
    ]
    code, _, err = mxbridge("translate", *words)
    assert code == 7, err
    place, told = standing.opened
    assert place == ("alice@h/image:1,2?group=lab",)
    assert told == {
        "labels": ("rois", "image:7"), "um_per_px": 0.5, "verify": True, "ca_file": Path("c.pem"), "cache": Path("kept"),
        "cache_size": 1_500_000_000_000, "repository": Path("/mnt"), "beside": True, "rois": 500, "rois_as": "polygons",
        "large": "import", "as_owner": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "words, why",
    [
        ("", "name the images with either --project FILE.qpproj, --files PATH or --omero"),
        ("--project a.qpproj --files b.tif", "name the images with either"),
        ("--files b.tif --omero dataset:5 --server h", "name the images with either"),
        ("--project a.qpproj --omero dataset:5 --server h", "name the images with either"),
        ("--files b.tif --server h", "--server goes with --omero"),
        ("--files b.tif --cache c", "--cache goes with --omero"),
        ("--project a.qpproj --beside", "--beside goes with --omero"),
        ("--project a.qpproj --rois-as polygons", "--rois-as goes with --omero"),
        ("--project a.qpproj --plane 1,1", "do not go with --project"),
        ("--files b.tif --path-map a=b", "--path-map goes with --project"),
        ("--omero dataset:5", "no OMERO server is named"),
        ("--omero dataset:x --server h", "names no images of an OMERO server"),
        ("--omero h/dataset:5 --server h", "names a server already"),
        ("--omero dataset:5 --server h:x", "is no server"),
        ("--omero dataset:5 --server a:b:c", "'a:b:c' is no server"),
        ("--omero dataset:5 --server h --user a:secret", "may be a password"),
        ("--omero dataset:5 --server h --rois 5 --cache-size 1", "No such option: --rois"),
        ("--omero dataset:5?password=x --server h", "no option 'password'"),
        ("--omero dataset:5 --server h --path-map a=b", "--path-map goes with --project"),
        ("--omero dataset:5 --server h --stretched-labels", "--stretched-labels goes with --files"),
        ("--omero dataset:5 --server h --rois-as polygons", "--rois-as goes with --rois"),
        ("--omero dataset:5 --server h --cache-size much", "is no size"),
        ("--omero dataset:5 --server h --cache-size 0", "is no size"),
        ("--omero dataset:5 --server h --plane 1", "is not Z,T"),
        ("--omero dataset:5 --server h --password x", "No such option"),
    ],
)
def test_what_does_not_go_together(mxbridge: Call, standing: type[Standing], words: str, why: str) -> None:
    command = "translate" if "--rois-as" in words else "score"
    code, out, err = mxbridge(command, *words.split())
    assert (code, why in err, out) == (2, True, ""), err
    assert standing.opened == ((), {})


def test_several_places_of_a_training(mxbridge: Call, standing: type[Standing], fields: Path) -> None:
    more = COMMANDS["train maxim"][1]
    code, _, err = mxbridge("train", "maxim", *more, "--files", fields, "--server", "h")
    assert (code, "--server goes with --omero" in err) == (2, True), err
    code, _, err = mxbridge(
        "train", "maxim", *more, "--files", fields, "--plane", "0,0", "--omero", "plate:4", "--server", "h"
    )
    assert code == 2 and "kind 'files' is installed" in err, (
        "the files come first, and this installation has only the stand-in"
    )
    code, _, err = mxbridge("train", "maxim", *more, "--project", "a.qpproj", "--plane", "0,0")
    assert (code, "--plane goes with --files and --omero" in err) == (2, True)


def test_a_command_gets_what_was_given() -> None:
    seen: list[Places] = []

    @takes_places(labels=True)
    def command(places: Places, extra: int = 3) -> int:
        """Its own words."""
        seen.append(places)
        return extra

    usual = {name: one.default for name, one in inspect.signature(command).parameters.items()}
    assert command.__doc__ == "Its own words." and command(**usual) == 3
    assert seen[0].given == frozenset() and seen[0].names == () and not seen[0].all_named
    command(**{**usual, "image": ["a"], "labels": [], "um_per_px": 0.5, "verify_server": True, "extra": 4})
    assert seen[1].given == {"image", "um_per_px", "verify_server"}
    assert (seen[1].names, seen[1].all_named, seen[1].um_per_px) == (("a",), True, 0.5)
    with pytest.raises(UsageError):
        seen[0].open()


def test_images_that_are_named_by_id_are_named() -> None:
    for text, named in (("image:1", True), ("omero:h/image:1,2?group=a", True), ("dataset:1", False), (None, False)):
        assert Places({"image": None, "omero": text}, {"image": None, "omero": None}).all_named is named


def test_without_the_client_it_says_what_to_do(mxbridge: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "omero", None)
    monkeypatch.setitem(sys.modules, "omero.gateway", None)
    monkeypatch.setenv("OMERO_PASSWORD", "s3cret")
    code, out, err = mxbridge("inspect", "--omero", "dataset:1", "--server", "127.0.0.1:1", "--user", "alice")
    assert (code, out) == (4, "") and err.count("\n") == 1, err
    assert "the OMERO client is not installed" in err and "mxbridge doctor --fix omero" in err and "s3cret" not in err


def run_on_a_server(folder: Path) -> Run:
    folder.mkdir()
    run = Run(
        path=folder, run_id="r", task="score", address="omero:alice@h/dataset:5", request="q", started="2026-01-01T00:00:00+00:00",
        images=[ImageRecord(id="1", name="a", fingerprint="f", folder="0001-a")],
    )  # fmt: skip
    run.save()
    return run


@pytest.mark.parametrize("command", ["publish", "undo"])
def test_results_go_back_to_the_server_they_belong_to(
    mxbridge: Call, standing: type[Standing], tmp_path: Path, command: str
) -> None:
    run = run_on_a_server(tmp_path / "run")
    assert run.is_of_server and not run.is_of_project
    code, _, err = mxbridge(command, run.path)
    assert code == 7 and standing.opened == (("alice@h/dataset:5",), {}), err
    code, _, err = mxbridge(command, run.path, "--project", "a.qpproj")
    assert (code, "is a run of images on an OMERO server" in err) == (2, True)
    code, _, err = mxbridge(command, run.path, "--path-map", "a=b")
    assert (code, "--path-map goes with projects" in err) == (2, True)


def test_calibrating_by_a_table(mxbridge: Call, standing: type[Standing], tmp_path: Path) -> None:
    run = run_on_a_server(tmp_path / "run")
    code, _, err = mxbridge("calibrate", "--run", run.path)
    assert (code, "a run of images on a server has no hand-made classes" in err) == (2, True)
    assert standing.opened == ((), {})


def test_an_address_opens_a_server_from_a_script(standing: type[Standing]) -> None:
    mxbridge = importlib.import_module("mxbridge")
    with pytest.raises(OutputError):
        mxbridge.score("omero:alice@h/dataset:5?group=lab", "demo")
    assert standing.opened == (("alice@h/dataset:5?group=lab",), {})


def test_the_doctor_says_what_the_client_lacks(mxbridge: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mxbridge.tasks.omero_client.what_is_missing", lambda: ["zeroc-ice"])
    code, out, _ = mxbridge("doctor", "--json")
    [found] = [one for one in json.loads(out) if one["subject"] == "OMERO client"]
    assert code == 0 and found["state"] == "optional" and "zeroc-ice" in found["finding"]
    assert found["hint"] == "mxbridge doctor --fix omero"
    code, _, err = mxbridge("doctor", "--wheels", "x")
    assert (code, "--wheels goes with --fix omero" in err) == (2, True)
    code, _, err = mxbridge("doctor", "--fix", "omero", "--wheels", "no/such/folder")
    assert (code, "no folder no/such/folder" in err) == (4, True)
