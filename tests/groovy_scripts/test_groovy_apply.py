"""Exchange files, applied by the script to objects that stand in for QuPath's, and those that it must refuse."""

from __future__ import annotations

import gzip
import json
import math
import uuid
from pathlib import Path
from typing import Any

import pytest

from mxbridge.workspaces.qupath.handover import exchange_file

from .conftest import SHARED, Place, handed_over, lines_of, sha256, write_exchange

pytestmark = [pytest.mark.groovy, pytest.mark.slow]

SAMPLES = Path(__file__).parent.parent / "data" / "exchange"
MANY = 100_000
THERE = "there"


def of(sample: str) -> list[dict[str, Any]]:
    return lines_of(SAMPLES / f"{sample}.jsonl.gz")


def applied(
    folder: Path, lines: list[dict[str, Any]], *, entry: str = "2", case: dict | None = None, **header: Any
) -> dict:
    """A case of `mxbridge Apply results` in a place of its own."""
    folder.mkdir()
    place = Place(folder, entry=entry).make(data=THERE)
    header = {"data_sha256": sha256(THERE), "image": {"id": entry, "name": "image µ"}, **header}
    file = write_exchange(folder / "exchange.jsonl.gz", lines, **header)
    place.behaviour = {"qupath hand-over": handed_over(place, file)}
    return place.case("Apply_results", {"run": "/some/run"}, **(case or {}))


def existing(lines: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    """Objects for every line that needs one."""
    return [{"id": one["id"], **more} for one in lines if "id" in one and "object" not in one]


def many_cells() -> list[dict[str, Any]]:
    head = of("score")[0]
    names = [f"Nimbus: M{k}" for k in range(7)]
    ids = [str(uuid.UUID(int=(1 << 64) | k)) for k in range(MANY)]
    cells = [{"id": i, "m": [k / MANY] * 6 + [None], "c": k % 4} for k, i in enumerate(ids)]
    counts = {"cells": MANY, "removed": 0, "objects": 0, "lines": MANY + 2}
    return [{**head, "columns": names, "counts": counts}, *cells, {"end": MANY + 1}]


def entry_case(
    folder: Path,
    *,
    copy: str | None,
    objects: str = "copy",
    number: int | None = None,
    images: list[dict[str, Any]] | None = None,
) -> dict:
    """An entry that replaces one with a copy of objects. copy: content of its data.qpdata. number: of a new one instead, in whose
    folder somebody left objects. images: what the project file lists, instead, by now."""
    lines = of("impute")
    if number is not None or images is not None:
        case = applied(folder, lines, case={"objects": existing(lines)})
        project = Path(case["project"])
        if images is not None:
            project.write_text(json.dumps({"images": images}), encoding="utf-8")
            return case
        data = project.parent / f"data/{number}/data.qpdata"
        data.parent.mkdir()
        data.write_text("somebody's")
        return case
    told = {**lines[0]["entries"][0], "replaces": "7", "objects": objects}
    known = {
        "id": "7",
        "imageName": "as I called it",
        "metadata": {"_mxbridge.objects": sha256("old copy"), "mine": "1"},
    }
    case = applied(folder, lines, entries=[told], case={"objects": existing(lines), "entries": [known]})
    if copy is not None:
        data = Path(case["project"]).parent / "data/7/data.qpdata"
        data.parent.mkdir()
        data.write_text(copy)
    return case


def no_such_shape() -> dict[str, Any]:
    """A line that makes sense, and that QuPath refuses nevertheless."""
    outline = {"type": "Polygon", "coordinates": [[[666, 0], [9, 0], [9, 9], [666, 0]]]}
    return {"id": str(uuid.UUID(int=5)), "object": {"kind": "detection", "geometry": outline}}


def broken(folder: Path) -> dict[str, Path]:
    """Files that must be refused, by what is wrong with them."""
    folder.mkdir()
    lines = of("score")
    head, cell, last = lines[0], lines[1], lines[-1]
    files = {
        "other version": [{**head, "version": 2}, *lines[1:]],
        "other format": [{**head, "format": "geojson"}, *lines[1:]],
        "no end": lines[:-1],
        "wrong end": [*lines[:-1], {"end": 3}],
        "goes on": [*lines, cell],
        "wrong count": [{**head, "counts": {**head["counts"], "cells": 12}}, *lines[1:]],
        "no count": [{k: v for k, v in head.items() if k != "counts"}, *lines[1:]],
        "too few values": [head, {**cell, "m": [1.0]}, *lines[2:]],
        "text as value": [head, {**cell, "m": ["a", "b", "c"]}, *lines[2:]],
        "no such class": [head, {**cell, "c": 99}, *lines[2:]],
        "bad id": [head, {**cell, "id": "../../x"}, *lines[2:]],
        "no header": [cell, last],
        "class without name": [{**head, "classes": [{"color": 1}] * len(head["classes"])}, *lines[1:]],
        "a cell twice": [
            {**head, "counts": {**head["counts"], "cells": head["counts"]["cells"] + 1, "lines": len(lines) + 1}},
            cell,
            *lines[1:-1],
            {"end": len(lines)},
        ],
        "odd entry": [{**head, "entries": [{"name": "a"}]}, *lines[1:]],
    }
    made = {name: write_exchange(folder / f"{k}.gz", one) for k, (name, one) in enumerate(files.items())}
    objects = of("translate")
    new = next(k for k, one in enumerate(objects) if "object" in one)
    for name, change in {
        "odd kind": {"kind": "tile"},
        "open outline": {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}},
        "odd outline": {"geometry": {"type": "Point", "coordinates": [0, 0]}},
        "no outline": {"geometry": None},
        "no rings": {"geometry": {"type": "MultiPolygon", "coordinates": []}},
        "not closed": {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9]]]}},
        "far away": {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1e30, 0], [9, 9], [0, 0]]]}},
        "odd metadata": {"metadata": {"_mxbridge.key": 5}},
        "odd measurement": {"measurements": {"area": "large"}},
    }.items():
        changed = [
            *objects[:new],
            {**objects[new], "object": {**objects[new]["object"], **change}},
            *objects[new + 1 :],
        ]
        made[name] = write_exchange(folder / f"{name}.gz", changed)
    gone = next(k for k, one in enumerate(objects) if "remove" in one)
    for name, k, count in (("an object twice", new, "objects"), ("removed twice", gone, "removed")):
        counts = {**objects[0]["counts"], count: objects[0]["counts"][count] + 1, "lines": len(objects) + 1}
        twice = [{**objects[0], "counts": counts}, *objects[1 : k + 1], *objects[k:-1], {"end": len(objects)}]
        made[name] = write_exchange(folder / f"{name}.gz", twice)
    whole = (SAMPLES / "score.jsonl.gz").read_bytes()
    for name, data in {
        "cut off": whole[: len(whole) // 2],
        "no gzip": b"{}",
        "empty": b"",
        "endless line": gzip.compress(b"[" * (70 << 20), 1),
        "deep": gzip.compress(b"[" * 100_000 + b"\n", 1),
        "no JSON": gzip.compress(b"hello\n"),
        "a list": gzip.compress(b"[1]\n"),
        "other bytes": gzip.compress(gzip.decompress(whole).replace(b"Nimbus", b"Nimb\xfcs"), 1),
    }.items():
        made[name] = folder / f"{name}.gz"
        made[name].write_bytes(data)
    made["not there"] = folder / "nowhere.gz"
    return made


@pytest.fixture(scope="module")
def played(play, tmp_path_factory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("apply µ")
    score, translate, impute = of("score"), of("translate"), of("impute")
    gone = score[2]["id"]
    with_old = {"measurements": {"Nimbus: old": 0.25, "area": 12.0}, "class": "Stroma"}
    cases = {
        "score": applied(root / "score", score, case={"objects": existing(score, **with_old), "imageValues": {"Nimbus: old %": 3}}),
        "gone": applied(root / "gone", score, case={"objects": [o for o in existing(score) if o["id"] != gone]}),
        "translate": applied(root / "translate", translate, entry="1", case={"objects": existing(translate)}),
        "again": applied(
            root / "again", translate, entry="1",
            case={"objects": existing(translate) + [{"id": o["id"], "kind": "cell"} for o in translate if "object" in o]},
        ),
        "impute": applied(root / "impute", impute, case={"objects": existing(impute)}),
        "replaced copy": entry_case(root / "replaced", copy="old copy"),
        "edited copy": entry_case(root / "edited", copy="saved by the user"),
        "kept objects": entry_case(root / "kept", copy="saved by the user", objects="keep"),
        "lost copy": entry_case(root / "lost", copy=None, number=3),
        "unknown images": entry_case(root / "unknown", copy=None, images=[{"entryID": 2}, {"entryID": 3, "imageName": "somebody's"}]),
        "no such shape": applied(root / "shape", [*translate[:-1], no_such_shape(), {"end": len(translate)}], entry="1",
            counts={**translate[0]["counts"], "objects": translate[0]["counts"]["objects"] + 1, "lines": len(translate) + 1},
            case={"objects": existing(translate)}),
        "many": applied(root / "many", many_cells(), case={"many": MANY, "quiet": True}),
        "other image": applied(root / "other", score, image={"id": "9", "name": "another"}, case={"objects": existing(score)}),
        "saved meanwhile": applied(root / "meanwhile", score, data_sha256=sha256("else"), case={"objects": existing(score)}),
        "version": applied(root / "version", [{**score[0], "version": 3}, *score[1:]], case={"objects": existing(score)}),
    }  # fmt: skip
    files = broken(root / "broken")
    cases |= {
        f"broken: {name}": {"read": str(file), "shared": str(SHARED), "noImage": True, "noProject": True}
        for name, file in files.items()
    }
    return {"files": files, **play(cases)}


def expected(lines: list[dict[str, Any]], before: dict[str, float], old_class: str | None) -> dict[str, dict[str, Any]]:
    head, found = lines[0], {}
    for line in lines[1:]:
        if "id" not in line or "remove" in line or "object" in line:
            continue
        values = dict(before)
        if "m" in line:
            values |= {n: "NaN" if v is None else v for n, v in zip(head["columns"], line["m"], strict=True)}
        for name in line.get("-", ()):
            values.pop(name, None)
        code = line.get("c")
        name = old_class if code is None else None if code < 0 else head["classes"][code]["name"]
        found[line["id"]] = {"measurements": values, "class": name}
    return found


def close(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(found, float | int):
        return math.isclose(found, wanted, rel_tol=1e-7)
    if isinstance(found, str) and "Infinity" in found:
        return float(found) == wanted
    return found == wanted


def test_measurements_and_classes_go_to_the_objects_that_are_named(played) -> None:
    told, lines = played["score"], of("score")
    assert told["error"] is None
    wanted = expected(lines, {"Nimbus: old": 0.25, "area": 12.0}, "Stroma")
    assert wanted.keys() == told["objects"].keys()
    assert any("-" in line for line in lines), "the sample must take a measurement away"
    for identity, one in wanted.items():
        found = told["objects"][identity]
        assert found["class"] == one["class"]
        assert found["measurements"].keys() == one["measurements"].keys()
        assert all(close(found["measurements"][n], v) for n, v in one["measurements"].items())
        assert found["closed"]
    colors = {c["name"]: c["color"] for c in lines[0]["classes"]}
    assert [c for c in told["classes"] if c[0] != "Tumor"] == [[n, c] for n, c in colors.items() if n != "Tumor"]
    assert told["classes"][0] == ["Tumor", -1], "the colour of a class that is known stays"
    values = {k: v for line in lines[1:] for k, v in line.get("image", {}).items()}
    assert told["image"].keys() == values.keys()
    assert all(close(told["image"][k], "NaN" if v is None else v) for k, v in values.items())
    assert told["changed"]
    assert told["counts"].get("save 2") is None, "QuPath saves, not the script"
    assert told["counts"]["fireHierarchyUpdate"] == 1


def test_objects_that_are_gone_are_reported_and_the_rest_is_done(played) -> None:
    told, lines = played["gone"], of("score")
    gone = lines[2]["id"]
    assert told["error"] is None
    assert gone not in told["objects"]
    assert [line for line in told["log"] if gone in line and line.startswith("WARN 1 objects are not in the image")]
    assert told["objects"][lines[1]["id"]]["measurements"]["Nimbus: CD3"] == pytest.approx(lines[1]["m"][0])


def test_objects_are_taken_away_and_added_with_all_they_have(played) -> None:
    told, lines = played["translate"], of("translate")
    assert told["error"] is None
    new = {line["id"]: line["object"] for line in lines if "object" in line}
    assert told["objects"].keys() == new.keys()
    for identity, one in new.items():
        found = told["objects"][identity]
        assert (found["kind"], found["name"], found["metadata"]) == (
            one["kind"],
            one.get("name"),
            one.get("metadata", {}),
        )
        assert found["class"] == (None if one.get("c") is None else lines[0]["classes"][one["c"]]["name"])
        meant = {n: "NaN" if v is None else v for n, v in one.get("measurements", {}).items()}
        assert found["measurements"].keys() == meant.keys()
        assert all(close(found["measurements"][n], v) for n, v in meant.items())
        for what, geometry in (("roi", one["geometry"]), ("nucleus", one.get("nucleus"))):
            assert (found[what] is None) == (geometry is None)
            if geometry is None:
                continue
            polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
            rings = [ring for polygon in polygons for ring in polygon]
            if len(rings) == 1:
                assert (found[what]["kind"], found[what]["rings"]) == ("polygon", [rings[0][:-1]])
            else:
                assert (found[what]["kind"], found[what]["rings"]) == ("geometry", rings)
    assert {o["geometry"]["type"] for o in new.values()} == {"Polygon", "MultiPolygon"}
    several = [o["geometry"]["coordinates"] for o in new.values() if o["geometry"]["type"] == "MultiPolygon"]
    assert any(len(polygon) > 1 for polygons in several for polygon in polygons), "a hole"
    assert told["counts"]["addObjects"] == told["counts"]["removeObjects"] == 1


def test_objects_that_are_there_already_are_left_as_they_are(played) -> None:
    told, lines = played["again"], of("translate")
    new = {line["id"] for line in lines if "object" in line}
    assert told["objects"].keys() == new
    removed = {line["id"] for line in lines if "remove" in line}
    assert new & removed, "one that comes again in another shape"
    assert {i for i, o in told["objects"].items() if o["roi"] is None} == new - removed
    assert [line for line in told["log"] if line.startswith(f"WARN {len(new - removed)} objects are there already")]


def test_an_entry_is_added_with_a_copy_of_the_objects(played) -> None:
    told, lines = played["impute"], of("impute")
    entry = lines[0]["entries"][0]
    assert told["error"] is None
    source, added = told["entries"]
    assert (source["id"], added["id"]) == ("2", "3")
    assert (added["name"], added["description"], added["builder"]) == (
        entry["name"],
        entry["description"],
        entry["serverBuilder"],
    )
    saved = told["saved"]["3"]
    assert saved == f"saved: {len(told['objects'])}"
    assert added["metadata"] == {**entry["metadata"], "_mxbridge.objects": sha256(saved)}
    assert told["counts"]["syncChanges"] == 1
    assert told["saved"]["2"] == THERE


def test_an_entry_that_is_replaced_keeps_its_id_and_name(played) -> None:
    told, entry = played["replaced copy"], of("impute")[0]["entries"][0]
    assert told["error"] is None
    assert [e["id"] for e in told["entries"]] == ["7", "2"]
    changed = told["entries"][0]
    assert (changed["name"], changed["builder"]) == ("as I called it", entry["serverBuilder"])
    assert changed["metadata"] == {"mine": "1", **entry["metadata"], "_mxbridge.objects": sha256(told["saved"]["7"])}
    assert told["saved"]["7"] == f"saved: {len(told['objects'])}"


@pytest.mark.parametrize("name", ["edited copy", "kept objects"])
def test_objects_that_a_user_has_changed_in_an_entry_stay(played, name) -> None:
    told = played[name]
    assert told["error"] is None
    assert told["saved"]["7"] == "saved by the user"
    assert told["entries"][0]["metadata"]["_mxbridge.objects"] == sha256("old copy")
    assert told["entries"][0]["builder"] == of("impute")[0]["entries"][0]["serverBuilder"]


def test_what_lies_in_the_folder_of_a_new_entry_is_not_written_over(played) -> None:
    told = played["lost copy"]
    assert told["error"] is None
    assert [e["id"] for e in told["entries"]] == ["2", "3"]
    assert told["saved"]["3"] == "somebody's"
    assert "_mxbridge.objects" not in told["entries"][1]["metadata"]


def test_images_that_were_added_on_disk_are_not_dropped_from_the_project(played) -> None:
    told = played["unknown images"]
    assert "The project has images that QuPath does not know of (somebody's)" in told["error"]
    assert [e["id"] for e in told["entries"]] == ["2"]
    assert "syncChanges" not in told["counts"]
    assert not told["changed"]
    assert all(not o["measurements"] for o in told["objects"].values())


def test_an_object_that_cannot_be_made_changes_nothing(played) -> None:
    told = played["no such shape"]
    assert "a shape that QuPath does not make" in told["error"]
    assert not told["changed"]
    assert told["objects"].keys() == {o["id"] for o in existing(of("translate"))}
    assert all(not o["measurements"] and o["class"] is None for o in told["objects"].values())


def test_a_hundred_thousand_cells_are_found_without_a_search_for_each(played) -> None:
    told = played["many"]
    assert told["error"] is None
    assert [line for line in told["log"] if f"{MANY} objects changed" in line]
    assert told["counts"]["getFlattenedObjectList"] <= 2
    assert told["counts"]["PathClass.fromString"] <= 10
    assert told["counts"]["fireHierarchyUpdate"] == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other image", "for another image"),
        ("saved meanwhile", "saved by somebody else meanwhile"),
        ("version", "has format 3, this script speaks 1: run mxbridge qupath install-scripts again"),
    ],
)
def test_what_does_not_fit_changes_nothing(played, name, words) -> None:
    told = played[name]
    assert words in told["error"]
    assert not told["changed"]
    assert all(not o["measurements"] and o["class"] is None for o in told["objects"].values())
    assert "fireHierarchyUpdate" not in told["counts"]


def test_broken_files_are_refused_in_one_sentence(played) -> None:
    for name, file in played["files"].items():
        told = played[f"broken: {name}"]
        assert told["type"] == "MxbridgeProblem", (name, told["error"], told["type"])
        assert str(file) in told["error"]
        assert len(told["error"]) < 600, name


def test_the_other_side_refuses_the_same_files(played) -> None:
    from mxbridge.errors import MxbridgeError

    for name, file in played["files"].items():
        with pytest.raises(MxbridgeError):
            exchange_file.read(file)
            pytest.fail(name)
