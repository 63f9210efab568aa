"""``mxbridge translate`` as people use it: on QuPath projects and on files, with what is wrong said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mxbridge.workspaces.qupath.new import NewAnnotation, create_project, open_new_image
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from tests.toy_ihc import ihc, positives

Answer = tuple[int, str, str]
Mxbridge = Callable[..., Answer]
SHAPE = (128, 160)
TOTAL, POSITIVE = positives(SHAPE)
LEFT_TOTAL, LEFT_POSITIVE = 8, 3
"""Nuclei of the two columns on the left."""


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def write_picture(path: Path) -> Path:
    Image.fromarray(np.moveaxis(ihc(SHAPE), 0, -1)).save(path)
    return path


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one slide: the left half is tumour, a part of it marked once more as ``hot``, a region lies elsewhere."""
    folder = tmp_path_factory.mktemp("ihc")
    annotations = (
        NewAnnotation("left", "Tumor", (rectangle(0, 0, 80, 128),)),
        NewAnnotation("hot", "Hot", (rectangle(0, 0, 80, 32),)),
        NewAnnotation("lost", "Lost", (rectangle(900, 900, 950, 950),)),
    )
    new = open_new_image(write_picture(folder / "slide.png"))
    create_project(folder / "project ü", [replace(new, annotations=annotations)], um_per_px=0.5)
    return folder / "project ü"


@pytest.fixture
def project(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "project ü")) / "project.qpproj"


def objects(project: Path) -> dict[str, dict[str, Any]]:
    """Everything in the image's data, by id."""
    tree = ImageDataFile.read(project.parent / "data" / "1" / "data.qpdata")
    return {
        str(o.id): {"kind": o.kind, "class": o.class_name, "name": o.name, "values": dict(o.measurements)}
        for o in tree.objects()
        if o.id is not None
    }


def nuclei_in(project: Path) -> list[str | None]:
    return sorted(o["class"] for o in objects(project).values() if o["kind"] == "detection")


def counts_of(project: Path, name: str) -> dict[str, float]:
    """What is on an annotation, by name without the run."""
    (values,) = (o["values"] for o in objects(project).values() if o["name"] == name)
    return {key.split(" (run")[0]: value for key, value in values.items()}


def run_folder(answer: Answer) -> Path:
    return Path(json.loads(answer[1])["folder"])


def test_inside_annotations_classes_keep_their_base(mxbridge: Mxbridge, project: Path) -> None:
    code, out, err = mxbridge("translate", "--project", project, "--model", "deconvolution", "--inside", "Tumor")
    assert code == 0, err
    assert (
        nuclei_in(project) == ["Tumor: Negative"] * (LEFT_TOTAL - LEFT_POSITIVE) + ["Tumor: Positive"] * LEFT_POSITIVE
    )
    assert counts_of(project, "left") == {
        "Deconvolution: Num detections": LEFT_TOTAL,
        "Deconvolution: Num positive": LEFT_POSITIVE,
        "Deconvolution: Num negative": LEFT_TOTAL - LEFT_POSITIVE,
        "Deconvolution: Positive %": pytest.approx(37.5),
    }
    assert counts_of(project, "hot") == {}
    assert "37.5" in out
    assert "left" in out
    code, _, err = mxbridge("translate", "--project", project, "--model", "deconvolution", "--inside", "Tumor")
    assert code == 0, err
    code, _, err = mxbridge(
        "translate",
        "--project",
        project,
        "--model",
        "deconvolution",
        "--inside",
        "Tumor",
        "--base-class",
        "CD8: T cell",
    )
    assert code == 0, err
    assert set(nuclei_in(project)) == {"CD8: T cell: Negative", "CD8: T cell: Positive"}


def test_annotations_that_overlap_count_a_nucleus_each(mxbridge: Mxbridge, project: Path) -> None:
    """It is one object all the same, of the class of the annotation that was drawn last."""
    words = ["--project", project, "--model", "deconvolution", "--inside", "Tumor", "--inside", "Hot", "--json"]
    answer = mxbridge("translate", *words)
    assert answer[0] == 0, answer[2]
    assert counts_of(project, "left")["Deconvolution: Num detections"] == LEFT_TOTAL
    assert counts_of(project, "hot")["Deconvolution: Num detections"] == 2
    assert json.loads(answer[1])["images"][0]["score"]["num_total"] == LEFT_TOTAL
    assert nuclei_in(project)[:2] == ["Hot: Negative", "Hot: Positive"]
    assert len(nuclei_in(project)) == LEFT_TOTAL
    table = pd.read_csv(run_folder(answer) / "scores.csv")
    assert table["size_thresh"].notna().tolist() == [table["size_thresh"][1] == table["size_thresh"][2], True, True]


def test_every_annotation_gets_counts_and_one_outside_is_told(mxbridge: Mxbridge, project: Path) -> None:
    code, out, err = mxbridge("translate", "--project", project, "--model", "deconvolution", "--json")
    assert code == 0, err
    assert nuclei_in(project) == ["Negative"] * (TOTAL - POSITIVE) + ["Positive"] * POSITIVE
    assert counts_of(project, "left")["Deconvolution: Num detections"] == LEFT_TOTAL
    assert counts_of(project, "hot")["Deconvolution: Num detections"] == 2
    assert counts_of(project, "hot")["Deconvolution: Positive %"] == 50
    assert counts_of(project, "lost") == {}
    (image,) = json.loads(out)["images"]
    assert image["score"]["num_total"] == TOTAL
    assert any("1 of 3 annotations lie outside the image" in warning for warning in image["warnings"])
    table = pd.read_csv(run_folder((code, out, err)) / "scores.csv")
    assert table["num_total"].tolist() == [TOTAL, LEFT_TOTAL, 2]
    assert table["annotation"].fillna("").tolist() == ["", "left", "hot"]
    ids = {o["name"]: i for i, o in objects(project).items() if o["kind"] == "annotation"}
    assert table["annotation_id"].fillna("").tolist() == ["", ids["left"], ids["hot"]]
    of_nuclei = pd.read_csv(run_folder((code, out, err)) / "nuclei.csv")
    assert of_nuclei["annotation"].value_counts().to_dict() == {"left": LEFT_TOTAL - 2, "hot": 2}
    assert of_nuclei["annotation_id"].notna().sum() == LEFT_TOTAL
    there = {i: o["class"] for i, o in objects(project).items() if o["kind"] == "detection"}
    assert dict(zip(of_nuclei["nucleus"], of_nuclei["class"], strict=True)) == there
    exported = next((run_folder((code, out, err)) / "images").glob("*/nuclei.geojson")).read_text(encoding="utf-8")
    assert {feature["id"] for feature in json.loads(exported)["features"]} == set(there)


def test_other_thresholds_replace_the_nuclei_and_nothing_else(mxbridge: Mxbridge, project: Path) -> None:
    before = objects(project)
    first = mxbridge("translate", "--project", project, "--model", "deconvolution", "--outputs", "all", "--json")
    assert first[0] == 0, first[2]
    whole = objects(project)
    derived = sorted(p.name for p in (project.parent / "mxbridge" / "derived" / "1").glob("*.ome.*"))
    assert len(derived) >= 2
    again = mxbridge("translate", "--rescore", run_folder(first), "--min-area", 50, "--json")
    assert again[0] == 0, again[2]
    fewer = objects(project)
    nuclei = {i: o for i, o in fewer.items() if o["kind"] == "detection"}
    assert len(nuclei) == POSITIVE
    assert all(whole[i] == o for i, o in nuclei.items())  # the same ids for the same nuclei
    assert {i for i, o in fewer.items() if o["kind"] != "detection"} == set(before)
    runs = {key.split("(run ")[1] for o in fewer.values() for key in o["values"] if "(run " in key}
    assert runs == {f"{run_folder(again).name})"}
    assert sorted(p.name for p in (project.parent / "mxbridge" / "derived" / "1").glob("*.ome.*")) == derived
    state = (project.parent / "data" / "1" / "data.qpdata").read_bytes()
    assert mxbridge("translate", "--rescore", run_folder(first), "--min-area", 50, "--json")[0] == 0
    assert (project.parent / "data" / "1" / "data.qpdata").read_bytes() == state
    code, _, err = mxbridge("undo", run_folder(again))
    assert code == 0, err
    assert objects(project) == before


def test_a_project_that_has_moved_is_rescored_where_it_is(mxbridge: Mxbridge, project: Path, tmp_path: Path) -> None:
    first = mxbridge("translate", "--project", project, "--model", "deconvolution", "--json")
    second = mxbridge("translate", "--rescore", run_folder(first), "--seg-threshold", 150, "--json")
    moved = project.parent.rename(tmp_path / "elsewhere") / "project.qpproj"
    run = moved.parent / "mxbridge-runs" / run_folder(second).name  # its images lie with the first run
    code, out, err = mxbridge("translate", "--rescore", run, "--min-area", 50, "--quiet", "--json")
    assert code == 0, err
    score = json.loads(out)["images"][0]["score"]
    assert (score["seg_thresh"], score["num_total"]) == (150, POSITIVE)


def test_files_with_regions_in_geojson(mxbridge: Mxbridge, tmp_path: Path) -> None:
    write_picture(tmp_path / "slide.png")
    ring = [[0, 0], [80, 0], [80, 128], [0, 128], [0, 0]]
    region = {
        "type": "Feature",
        "id": "5f0c1d0e-0000-4000-8000-000000000001",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "name": "Drüse 1", "classification": {"name": "Tumor"}},
    }
    (tmp_path / "slide.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [region]}))
    words = ["--files", tmp_path / "slide.png", "--labels", tmp_path / "slide.geojson", "--um-per-px", 0.5, "--json"]
    code, out, err = mxbridge("translate", "--model", "deconvolution", *words, "--inside", "Tumor")
    assert code == 0, err
    (image,) = json.loads(out)["images"]
    assert image["nuclei"] == LEFT_TOTAL
    folder = next((run_folder((code, out, err)) / "images").iterdir())
    written = json.loads((folder / "nuclei.geojson").read_text(encoding="utf-8"))
    names = [f["properties"]["classification"]["names"] for f in written["features"]]
    assert names.count(["Tumor", "Positive"]) == LEFT_POSITIVE
    assert set(pd.read_csv(folder / "nuclei.csv")["annotation"]) == {"Drüse 1"}
    with Image.open(folder / "overlay.png") as overlay:
        assert overlay.size == (160, 128)
    assert mxbridge("translate", "--rescore", folder.parents[1], "--inside", "Stroma")[0] == 6
    code, _, err = mxbridge(
        "translate", "--model", "deconvolution", *words[:2], "--um-per-px", 0.5, "--inside", "Tumor"
    )
    assert code == 6
    assert "has no annotations" in err


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(mxbridge: Mxbridge, project: Path) -> None:
    before = sorted(project.parent.rglob("*"))
    words = ["translate", "--project", project, "--model", "deconvolution", "--dry-run"]
    code, out, err = mxbridge(*words)
    assert code == 0, err
    assert "slide.png: Seg, DAB by Deconvolution, then score, nuclei" in out
    code, out, err = mxbridge(*words, "--outputs", "all", "--json")
    (image,) = json.loads(out)["images"]
    assert image["targets"] == ["score", "nuclei", "channels", "hematoxylin"]
    assert image["annotations"] == 2
    assert sorted(project.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--inside", "Tumour"], 2, "Did you mean 'Tumor'"),
        (["--inside", "Lost"], 6, "lie outside the image"),
        (["--weighting", "paper"], 2, "averages no segmentations"),
        (["--tile-size", "512"], 2, "goes with --compat"),
        (["--compat", "deepliif", "--tile-size", "512"], 2, "is not for Deconvolution"),
        (["--compat", "other"], 2, "--compat other is not known"),
        (["--compat", "deepliif", "--statistics", "slide"], 2, "knows no --statistics slide"),
        (["--compat", "deepliif", "--tile-size", "2"], 2, "not between 32 and 1024"),
        (["--min-area", "20", "--size-threshold", "30"], 2, "either in pixels"),
        (["--min-area", "20", "--max-area", "10"], 2, "not below --max-area"),
        (["--size-threshold", "much"], 2, "neither a number nor auto or none"),
        (["--seg-threshold", "600"], 2, "not between 0 and 510"),
        (["--od-lower", "-1"], 2, "at least 0"),
        (["--expand", "3"], 2, "goes with --objects cells"),
        (["--outputs", "channels", "--inside", "Tumor"], 2, "looks for no nuclei"),
        (["--outputs", "score", "--base-class", "Tumor"], 2, "makes no objects"),
        (["--stains", "H-PAS"], 2, "H-DAB"),
        (["--resolution", "40x"], 2, "go with --from-seg"),
        (["--marker", "a:b"], 2, "colon"),
        (["--base-class", " "], 2, "is no name"),
        (["--base-class", "Tumor:"], 2, "empty part"),
        (["--rescore", "run"], 2, "run no networks"),
        (["--from-seg", "seg.png"], 2, "run no networks"),
        (["--image", "other.png"], 2, "no image 'other.png'"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(
    mxbridge: Mxbridge, pristine: Path, words: list[str], code: int, says: str
) -> None:
    got, _, err = mxbridge("translate", "--project", pristine / "project.qpproj", "--model", "deconvolution", *words)
    assert (got, len(err.strip().splitlines())) == (code, 1), err
    assert says in err
    assert not (pristine / "mxbridge-runs").exists()


def test_wrong_models_and_runs(mxbridge: Mxbridge, pristine: Path, tmp_path: Path) -> None:
    place = ["--project", pristine / "project.qpproj"]
    code, _, err = mxbridge("translate", *place)
    assert (code, "no model is named" in err) == (2, True)
    code, _, err = mxbridge("translate", *place, "--model", "deepliif")
    assert (code, "--model deconvolution" in err) == (5, True)
    code, _, err = mxbridge("translate", *place, "--model", "demo")
    assert code == 5, err
    code, _, err = mxbridge("translate", "--rescore", tmp_path / "nothing")
    assert (code, "no run at" in err) == (4, True)
    code, _, err = mxbridge("translate", "--rescore", tmp_path, *place, "--statistics", "slide")
    assert (code, "--statistics decides what networks see" in err) == (2, True)


def test_pictures_made_elsewhere(mxbridge: Mxbridge, tmp_path: Path) -> None:
    seg = np.zeros((60, 90, 3), np.uint8)
    seg[5:25, 5:25, 0] = 200
    seg[5:25, 40:60, 2] = 200
    Image.fromarray(seg).save(tmp_path / "seg.png")
    code, out, err = mxbridge("translate", "--from-seg", tmp_path / "seg.png", "--json")
    assert code == 0, err
    (image,) = json.loads(out)["images"]
    assert {key: image["score"][key] for key in ("num_total", "num_pos", "num_neg", "percent_pos", "seg_thresh")} == {
        "num_total": 2,
        "num_pos": 1,
        "num_neg": 1,
        "percent_pos": 50.0,
        "seg_thresh": 120,
    }
    run = Path(json.loads(out)["folder"])
    code, _, err = mxbridge("translate", "--rescore", run)
    assert (code, "has no inferred images" in err) == (6, True)
    (tmp_path / "cut.png").write_bytes((tmp_path / "seg.png").read_bytes()[:60])
    code, out, err = mxbridge("translate", "--from-seg", tmp_path / "cut.png")
    assert (code, out) == (6, "")  # there are no tables to look at
