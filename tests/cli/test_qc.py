"""``mxbridge qc`` and ``mxbridge importance`` as people call them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from tests.linked_stains import MARKERS, UM, save_model, scrambled, shared_mixing, stains

Call = Callable[..., tuple[int, str, str]]


def write(path: Path, pixels: np.ndarray) -> None:
    metadata = {"axes": "CYX", "Channel": {"Name": list(MARKERS)}, "PhysicalSizeX": UM, "PhysicalSizeY": UM}
    tifffile.imwrite(path, pixels, ome=True, photometric="minisblack", metadata=metadata)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "any.safetensors"
    save_model(path, shared_mixing(), validation=[stains(seed, (256, 256)) for seed in range(3)])
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    bad = stains(11, (256, 256))
    bad[0] = scrambled(bad[0])
    write(folder / "bad.ome.tif", bad)
    write(folder / "good.ome.tif", stains(10, (256, 256)))
    return folder


def test_flags_are_told_and_fail_only_when_asked(mxbridge: Call, weights: Path, images: Path) -> None:
    code, out, err = mxbridge("qc", "--model", weights, "--files", images)
    assert code == 0, err
    assert "suspect input A" in out
    assert "3 of 10 stains are flagged" in out
    assert "Benjamini-Hochberg" in out
    assert "normal distribution" in out  # three small fields have too few windows for ranks
    code, out, err = mxbridge("qc", "--model", weights, "--files", images, "--fail-on-flag", "--json")
    assert code == 8
    assert "3 of 10 stains are flagged: bad" in err
    document = json.loads(out)
    assert document["computed"] == 0  # the same run
    flagged = [row for row in document["rows"] if row["verdict"] != "ok"]
    assert [(row["marker"], row["verdict"]) for row in flagged] == [
        ("A", "flagged"),
        ("B", "suspect input A"),
        ("C", "suspect input A"),
    ]
    assert all(Path(row["picture"]).is_file() for row in flagged)
    folder = Path(document["folder"])
    assert len(pd.read_csv(folder / "qc.csv")) == 10
    assert json.loads((folder / "run.json").read_text())["details"]["qc"]["tests"] == 10


def test_a_good_image_does_not_fail(mxbridge: Call, weights: Path, images: Path) -> None:
    code, out, _ = mxbridge(
        "qc", "--model", weights, "--files", images / "good.ome.tif", "--fail-on-flag", "--marker", "a,D"
    )
    assert code == 0
    assert "0 of 2 stains are flagged" in out


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--marker", ","], 2, "names no marker"),
        (["--marker", "KI67"], 2, "no marker 'KI67'"),
        (["--um-per-px", "5"], 6, "more than a factor of 4"),
        (["--model", "demo"], 5, "imputes no markers"),
        (["--model", "nowhere.safetensors"], 5, "no weights file"),
    ],
)
def test_wrong_words(mxbridge: Call, weights: Path, images: Path, arguments: list[str], code: int, word: str) -> None:
    given = [] if "--model" in arguments else ["--model", weights]
    got, out, err = mxbridge("qc", *given, "--files", images, *arguments)
    assert got == code
    assert word in err
    assert not out


def test_importance(mxbridge: Call, weights: Path, images: Path) -> None:
    where = ("--model", weights, "--files", images / "good.ome.tif", "--marker", "A", "--steps", "4")
    code, out, err = mxbridge("importance", *where, "--crop", "32", "--patches", "3", "--batch", "2")
    assert code == 0, err
    assert "3 of 64 squares of 32 px" in err
    assert "Means over 1 image." in out
    code, out, _ = mxbridge("importance", *where, "--crop", "32", "--patches", "3", "--json")
    document = json.loads(out)
    assert document["computed"] == 0  # how many passes go together changes nothing
    assert [row["input"] for row in document["rows"]] == ["B", "C", "D", "E"]
    assert len(document["pairs"]) == 6


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--method", "saliency"], "There is: integrated-gradients"),
        (["--steps", "1"], "not possible"),
        (["--crop", "0"], "positive"),
        (["--compat-pad", "64"], "go with --compat"),
        (["--compat", "maxim", "--crop", "64"], "whole images"),
        (["--compat", "maxim", "--compat-split", "a/b"], "file names"),
    ],
)
def test_wrong_words_for_importance(
    mxbridge: Call, weights: Path, images: Path, arguments: list[str], word: str
) -> None:
    code, _, err = mxbridge("importance", "--model", weights, "--files", images, *arguments)
    assert code == 2
    assert word in err


def test_a_project_is_judged_and_left_as_it_is(mxbridge: Call, project: Path, tmp_path: Path) -> None:
    markers = ("DAPI", "CD3", "Ki67")
    save_model(tmp_path / "m.safetensors", np.ones((3, 3)) - np.eye(3), markers, markers)
    before = {p: p.read_bytes() for p in project.parent.rglob("*") if p.is_file()}
    code, out, err = mxbridge("qc", "--model", tmp_path / "m.safetensors", "--project", project)
    assert code == 6
    assert "--value-scale" in err  # 16 bit, and the model knows 8
    code, out, err = mxbridge("qc", "--model", tmp_path / "m.safetensors", "--project", project, "--value-scale", "0.1")
    assert code == 0, err
    assert "no range of agreement" in out
    assert {p: p.read_bytes() for p in before} == before
    assert len(list((project.parent / "mxbridge-runs").glob("*/qc.csv"))) >= 1
