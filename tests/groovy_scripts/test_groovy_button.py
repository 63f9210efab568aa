"""A button from the press to its end: what mxbridge is asked, what is saved, and everything that can go wrong beside it."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import ALL, COMPILED, SHARED, Place, handed_over, lines_of, scored, sha256, write_exchange

pytestmark = [
    pytest.mark.groovy,
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="the program that stands in for mxbridge is a shell script"),
]

SAMPLES = Path(__file__).parent.parent / "data" / "exchange"
CELL = "02c82b23-4911-3bfe-bee6-a14a7930141b"
OTHER = "b9c4e7a8-c71e-394d-afa3-c9ca90dbde2a"
ANNOTATION = "55ead814-ccd1-51fa-b5fc-fbdc2f34b336"


class Cases:
    """Cases by name, each with its own place."""

    def __init__(self, root: Path) -> None:
        self.root, self.places, self.cases = root, {}, {}

    def place(self, name: str, **made: Any) -> Place:
        folder = self.root / name
        folder.mkdir()
        self.places[name] = Place(folder).make(**made)
        return self.places[name]

    def add(
        self, name: str, script: str, settings: dict[str, Any] | None = None, *, made: dict | None = None, **told: Any
    ) -> Place:
        """A button that works: it is handed a value for one cell."""
        place = self.place(name, **(made or {}))
        lines = lines_of(SAMPLES / "impute.jsonl.gz")
        head = {**lines[0], "entries": [], "counts": {"cells": 1, "removed": 0, "objects": 0, "lines": 3}}
        objects = told.setdefault("objects", [{"id": CELL}, {"id": OTHER}])
        saves = told.get("changed") or (made or {}).get("data", "") is None
        now = f"saved: {len(objects)}" if saves else "there"
        file = write_exchange(
            place.folder / "exchange.jsonl.gz", [head, {"id": CELL, "m": [0.5]}, {"end": 2}],
            data_sha256=sha256(now), image={"id": "2", "name": "image µ"},
        )  # fmt: skip
        place.behaviour = {
            **dict.fromkeys(("score", "impute", "translate"), scored(place.folder / "run")),
            "qupath hand-over": handed_over(place, file),
        }
        self.cases[name] = place.case(script, settings, **told)
        return place

    def behave(self, name: str, **behaviour: Any) -> None:
        """Let the program do something else."""
        place = self.places[name]
        place.behaviour |= behaviour
        assert place.python


def ledger(place: Place, **told: Any) -> None:
    """mxbridge's record of what it wrote into an image."""
    folder = place.project.parent / "mxbridge" / "published"
    folder.mkdir(parents=True)
    state = {"measurements": {"Nimbus: CD3": {}}, "image_values": {}, **told.pop("state", {})}
    document = {"format": 1, "written": sha256("there"), "state": state, "journal": None, **told}
    (folder / "2.json").write_text(json.dumps(document), encoding="utf-8")


def finished_run(place: Place, name: str, status: str, image: str = "2") -> None:
    folder = place.project.parent / "mxbridge-runs" / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"images": [{"id": image, "status": status}]}), encoding="utf-8")


def happy(cases: Cases) -> None:
    cases.add(
        "score",
        "Score_cells",
        {
            "markers": ["CD3", "CD8 µ"],
            "model": "demo",
            "setClass": True,
            "cells": "detections",
            "more": ["--threshold", "0.4"],
            "shared": str(SHARED),
        },
    )
    cases.add("impute", "Impute_a_stain", {"markers": ["KI67"], "model": "/m/a b.safetensors", "without": ["CD3"]})
    cases.add("translate", "Translate_IHC", {"marker": "Ki67", "outputs": "all", "objects": "cells"})
    rows = [
        {"marker": "CD3", "verdict": "failed", "reason": "looks empty"},
        {"marker": "CD8", "verdict": "ok", "reason": ""},
    ]
    cases.add("check", "Check_stains", {"model": "any", "markers": ["CD3"]})
    cases.behave("check", qc={"answer": {**scored("/run")["answer"], "rows": rows}, "code": 8})
    cases.add("changed", "Score_cells", changed=True)
    cases.add("never saved", "Score_cells", made={"data": None})
    cases.add("no project file", "Score_cells", made={"project": False})
    cases.add(
        "selected",
        "Score_cells",
        {"region": "selected"},
        selected=[ANNOTATION, OTHER],
        objects=[{"id": ANNOTATION, "kind": "annotation"}, {"id": CELL}, {"id": OTHER}],
    )
    events = [
        {"event": "image", "number": 1, "total": 1, "name": "image µ"},
        *({"event": "step", "name": "tiles", "done": k, "total": 1000} for k in range(1001)),
        {"event": "note", "text": "left out: DAPI"},
        {"event": "warning", "text": "thin cells"},
    ]
    cases.add("progress", "Score_cells", {})
    cases.behave("progress", score={**scored("/run"), "stderr": [*map(json.dumps, events), "{not json", "plain"]})
    for name, window in {"in the window": "same", "batch": "other"}.items():
        place = cases.add(name, "Apply_results", {"run": "/some/run"}, window=window)
        lines = lines_of(SAMPLES / "impute.jsonl.gz")
        classes = [{"name": "Tumor", "color": -2}, {"name": "Tumor: CD8", "color": -3}]
        write_exchange(
            place.folder / "exchange.jsonl.gz", lines, classes=classes,
            data_sha256=sha256("there"), image={"id": "2", "name": "image µ"},
        )  # fmt: skip
    for name, runs in {
        "newest": [
            ("20261101-a", "computed", "2"),
            ("20261103-b", "computed", "2"),
            ("20261104-c", "published", "2"),
            ("20261105-d", "computed", "7"),
        ],
        "none waits": [("20261104-c", "published", "2")],
    }.items():
        place = cases.add(name, "Apply_results")
        for run in runs:
            finished_run(place, *run)
        broken = place.project.parent / "mxbridge-runs" / "20261106-e"
        broken.mkdir()
        (broken / "run.json").write_text("{")
    cases.add("named run", "Apply_results", {"run": "20261101-a"})
    cases.add("nothing new", "Apply_results", {"run": "/some/run"})
    cases.behave(
        "nothing new",
        **{"qupath hand-over": handed_over(cases.places["nothing new"], None, notes=["all of this is there"])},
    )


def guarded(cases: Cases) -> None:
    with_values = [{"id": CELL, "measurements": {"Nimbus: CD3": 0.5}}, {"id": OTHER}]
    for name, state, objects, image in (
        ("older", {}, [{"id": CELL}], {}),
        ("older values of the image", {"image_values": {"DeepLIIF: Positive %": {}}}, with_values, {}),
        ("up to date", {"image_values": {"DeepLIIF: Positive %": {}}}, with_values, {"DeepLIIF: Positive %": 4}),
    ):
        ledger(cases.add(name, "Score_cells", objects=objects, imageValues=image), state=state)
    value, another = ({"values": {"Nimbus: CD3": {CELL: v, "not here": 9}}} for v in (0.5, 0.25))
    handed = {
        "before": sha256("there"),
        "after": None,
        "state": {"measurements": {"Nimbus: CD3": {}}},
        "samples": value,
    }
    for name, told in {
        "older rerun": {"samples": another},
        "same values": {"samples": {**value, "classes": {"not here": "Tumor"}}},
        "older classes": {"samples": {**value, "classes": {CELL: "Tumor", OTHER: "Stroma"}}},
        "older objects": {"samples": {**value, "objects": ["not here"]}},
        "applied, not saved": {"samples": another, "journal": handed},
        "published after that": {"samples": another, "journal": {**handed, "samples": None}},
    }.items():
        ledger(cases.add(name, "Score_cells", objects=with_values), **told)
    ledger(cases.add("older and changed", "Score_cells", changed=True, objects=[{"id": CELL}]))
    ledger(cases.add("saved since", "Score_cells", objects=[{"id": CELL}]), written=sha256("what mxbridge wrote"))


def unhappy(cases: Cases) -> None:
    cases.add("no image", "Score_cells", noImage=True)
    cases.add("no entry", "Score_cells", noEntry=True)
    cases.add("no project", "Score_cells", noProject=True)
    cases.add("a view", "Score_cells", metadata={"_mxbridge.joined": "1"})
    cases.add("odd region", "Score_cells", {"region": "all"})
    cases.add("none selected", "Score_cells", {"region": "selected"}, selected=[CELL])
    cases.add("nothing to impute", "Impute_a_stain", {"model": "x"})
    cases.add("no model", "Check_stains")
    cases.add("no python", "Score_cells", {"python": str(cases.root / "nowhere" / "python")})
    cases.add("no logic", "Score_cells", {"shared": "{project}/mxbridge/groovy/Mxbridge.groovy"})
    old = cases.root / "old" / "Mxbridge.groovy"
    shutil.copytree(COMPILED.parent, old.parent)
    old.write_text("class Mxbridge { static final int FORMAT = 0 }")
    cases.add("old logic", "Score_cells", {"shared": str(old)})
    for name, behaviour in {
        "no mxbridge": {"stderr": ["/usr/bin/python: No module named mxbridge"], "code": 1},
        "refused": {
            "stderr": [
                '{"event":"note","text":"reading"}',
                "error: image µ has no cells. Detect cells in QuPath first",
            ],
            "code": 6,
        },
        "killed": {"stderr": ['{"event":"note","text":"reading"}'], "kill": True},
        "garbage": {"text": "hello"},
        "other answer": {"text": "[1, 2]"},
        "failed image": {**scored("/run", error="image µ: its pixels are gone"), "code": 3},
    }.items():
        cases.add(name, "Score_cells")
        cases.behave(name, score=behaviour)
    for name, answer in {
        "no such image": {"answer": {"run": "r", "images": []}},
        "hand-over fails": {
            **handed_over(cases.places["score"], None, error="none of the 7 cells is in the project any more"),
            "code": 3,
        },
        "hand-over of another format": {
            "stderr": ["error: the scripts in this project speak format 1, this mxbridge speaks 2"],
            "code": 2,
        },
    }.items():
        cases.add(name, "Score_cells")
        cases.behave(name, **{"qupath hand-over": answer})
    for name, window in {"dialog": "same", "no dialog in a batch": "other"}.items():
        cases.add(name, "Score_cells", {"region": "selected"}, window=window)
    place = cases.add("stopped", "Score_cells")
    children = place.folder / "children.json"
    cases.behave("stopped", score={"children": str(children)})
    cases.cases["stopped"]["interruptWhen"] = str(children)


@pytest.fixture(scope="module")
def played(play, tmp_path_factory) -> tuple[dict[str, Any], dict[str, Place]]:
    cases = Cases(tmp_path_factory.mktemp("button"))
    for some in (happy, guarded, unhappy):
        some(cases)
    parsed = {f"parse {path.name}": {"parse": str(path), "noImage": True, "noProject": True} for path in ALL}
    return play(cases.cases | parsed), cases.places


@pytest.fixture
def told(played) -> dict[str, Any]:
    return played[0]


@pytest.fixture
def places(played) -> dict[str, Place]:
    return played[1]


def words_of(place: Place, which: int = 0) -> list[str]:
    return place.asked[which]["words"]


def applied(told: dict[str, Any]) -> bool:
    return told["objects"][CELL]["measurements"].get("MAXIM: CD8 mean") == 0.5


@pytest.mark.parametrize("name", [path.name for path in ALL])
def test_scripts_are_groovy(told, name) -> None:
    assert told[f"parse {name}"]["error"] is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("score", ["score", "--cells", "detections", "--threshold", "0.4", "--markers", "CD3,CD8 µ", "--model", "demo", "--set-class"]),
        ("impute", ["impute", "--marker", "KI67", "--model", "/m/a b.safetensors", "--without", "CD3"]),
        ("translate", ["translate", "--outputs", "all", "--objects", "cells", "--marker", "Ki67"]),
    ],
)  # fmt: skip
def test_what_mxbridge_is_asked(told, places, name, words) -> None:
    assert told[name]["error"] is None
    assert applied(told[name])
    place = places[name]
    where = ["--project", str(place.project), "--image", "id:2"]
    last = ["--no-publish", "--progress", "json", "--json"]
    assert words_of(place) == [words[0], *where, *words[1:], *last]
    assert words_of(place, 1) == ["qupath", "hand-over", str(place.folder / "run"), *where, "--format", "1", "--json"]
    assert {(one["safe"], one["home"]) for one in place.asked} == {("1", None)}


def test_checking_stains_tells_verdicts_and_changes_nothing(told, places) -> None:
    one = told["check"]
    assert one["error"] is None
    assert words_of(places["check"])[0] == "qc"
    assert "--no-publish" not in words_of(places["check"])
    assert [line for line in one["log"] if "CD3: failed; looks empty" in line]
    assert "INFO CD8: ok" in one["log"]
    assert not one["changed"]
    assert len(places["check"].asked) == 1


def test_only_unsaved_changes_are_saved(told) -> None:
    for name, saves, syncs in (
        ("score", None, None),
        ("changed", 1, None),
        ("never saved", 1, None),
        ("no project file", None, 1),
    ):
        one = told[name]
        assert one["error"] is None, name
        assert applied(one)
        assert (one["counts"].get("save 2"), one["counts"].get("syncChanges")) == (saves, syncs), name
        assert one["changed"], "QuPath has to save what was applied"


def test_selected_annotations_are_named_by_id(told, places) -> None:
    words = words_of(places["selected"])
    assert words[words.index("--inside") :][:3] == ["--inside", ANNOTATION, "--no-publish"]
    assert applied(told["selected"])


def test_progress_is_told_and_not_flooded(told) -> None:
    log = told["progress"]["log"]
    assert "INFO left out: DAPI" in log
    assert "INFO Warning: thin cells" in log
    assert len([line for line in log if "tiles" in line]) == 11
    assert "INFO tiles: 100 %" in log


@pytest.mark.parametrize("name", ["in the window", "batch"])
def test_the_window_shows_new_classes_and_images_and_no_dialog(told, name) -> None:
    one = told[name]
    assert one["error"] is None
    assert one["dialogs"] == []
    assert one["objects"][CELL]["measurements"] == {"MAXIM: CD8 mean": 0.5}
    assert one["classes"] == [["Tumor", -1], ["Tumor: CD8", -3]]
    assert one["windowClasses"] == ["Tumor: CD8"]
    assert one["counts"]["refreshProject"] == 1
    assert [e["id"] for e in one["entries"]] == ["2", "3"]


def test_the_newest_run_that_waits_is_taken(told, places) -> None:
    assert told["newest"]["error"] is None
    assert words_of(places["newest"])[2].endswith("20261103-b")
    assert words_of(places["named run"])[2] == str(places["named run"].project.parent / "mxbridge-runs/20261101-a")
    assert "no results waiting for image µ" in told["none waits"]["error"]
    assert told["nothing new"]["error"] is None
    assert not told["nothing new"]["changed"]
    assert [line for line in told["nothing new"]["log"] if "all of this is there" in line]


OLDER = (
    "older", "older values of the image", "older and changed", "older rerun", "older classes", "older objects",
    "published after that",
)  # fmt: skip


@pytest.mark.parametrize("name", OLDER)
def test_an_older_state_is_never_saved_over_what_mxbridge_wrote(told, places, name) -> None:
    one = told[name]
    assert "mxbridge has written to this image since you opened it" in one["error"]
    assert "File > Reload data" in one["error"]
    assert one["saved"]["2"] == "there"
    assert places[name].asked == []


@pytest.mark.parametrize("name", ["up to date", "saved since", "same values", "applied, not saved"])
def test_a_state_that_is_not_older_is_worked_on(told, name) -> None:
    assert told[name]["error"] is None
    assert applied(told[name])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no image", "No image is open"),
        ("no entry", "This image is in no project"),
        ("no project", "This image is in no project"),
        ("a view", "was made by mxbridge from another image"),
        ("odd region", "region = 'all' is neither"),
        ("none selected", "Select one or more annotations first"),
        ("nothing to impute", "what to impute (markers) and with which model"),
        ("no model", "which model judges the stains"),
        ("no python", "There is no Python at"),
        ("no logic", "is not there: open a project, or run mxbridge qupath install-scripts again"),
        ("old logic", "is of another mxbridge: run mxbridge qupath install-scripts again"),
        ("no mxbridge", "has no mxbridge. Run mxbridge qupath install-scripts again"),
        ("refused", "image µ has no cells. Detect cells in QuPath first"),
        ("killed", "was ended from outside (exit code 137)"),
        ("garbage", "gave no answer that can be read"),
        ("other answer", "gave no answer that can be read"),
        ("failed image", "its pixels are gone"),
        ("no such image", "has no results for image µ"),
        ("hand-over fails", "none of the 7 cells is in the project any more"),
        ("hand-over of another format", "speak format 1, this mxbridge speaks 2"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_changes_nothing(told, name, words) -> None:
    one = told[name]
    assert words in (one["error"] or "")
    assert len(one["error"]) < 400
    assert not one["changed"]
    assert one["counts"].get("fireHierarchyUpdate") is None
    assert (one["saved"] or {}).get("2", "there") == "there"
    if one["objects"]:
        assert all(not o["measurements"] for o in one["objects"].values())


def test_a_dialog_only_where_somebody_looks(told) -> None:
    assert told["dialog"]["dialogs"] == ["mxbridge: " + told["dialog"]["error"]]
    assert told["no dialog in a batch"]["error"] == told["dialog"]["error"]
    assert told["no dialog in a batch"]["dialogs"] == []
    assert told["none selected"]["dialogs"] == []


def is_alive(process: int) -> bool:
    """Not ended; one that waits to be collected by its parent has."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc which processes live")
def test_stopping_the_script_ends_mxbridge_and_what_it_started(told, places) -> None:
    one = told["stopped"]
    assert "Stopped. Nothing was changed" in one["error"]
    assert not one["changed"]
    processes = json.loads((places["stopped"].folder / "children.json").read_text())
    assert len(processes) == 2
    end = time.monotonic() + 20
    while any(map(is_alive, processes)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_alive, processes))
