"""``mxbridge evaluate`` as people run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mxbridge.cli.app import run
from mxbridge.tasks import evaluate
from tests.toy_maxim import write_model

CHANNELS = ("DAPI", "CD3", "Ki67")


@pytest.fixture
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pictures, which take longer than small evaluations."""
    monkeypatch.setattr(evaluate, "draw_evaluation", lambda *_: ())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "any.safetensors", CHANNELS)


def command(fields: Path, *more: str) -> list[str]:
    images = [part for name in ("north", "south") for part in ("--files", str(fields / f"{name}.ome.tif"))]
    masks = [part for name in ("north", "south") for part in ("--labels", str(fields / f"{name}_mask.tif"))]
    return ["evaluate", *images, *masks, "--workers", "1", *more]


def test_one_document_and_tables(fields: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = tmp_path / "cases.csv"
    cases.write_text("image,case\nnorth.ome.tif,one\nsouth.ome.tif,one\n")
    more = [
        "--model",
        str(model),
        "--cases",
        str(cases),
        "--positive-threshold",
        "CD3=300",
        "--out",
        str(tmp_path / "run"),
    ]
    assert run(command(fields, *more, "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["marker"] for row in document["markers"]} == set(CHANNELS)
    assert {row["cases"] for row in document["markers"]} == {1}
    assert {t["from"] for t in document["thresholds"] if t["marker"] == "CD3"} == {"given (stored numbers)"}
    images = pd.read_csv(tmp_path / "run" / "images.csv")
    third = images[(images["marker"] == "CD3") & (images["method"] == "model")]
    assert third["prevalence"].between(0.25, 0.4).all() and (third["cells"] == 64).all()
    assert run(command(fields, *more)) == 0
    out = capsys.readouterr().out
    assert "base: mean of inputs" in out and "markers" in out and "Tables and pictures" in out


@pytest.mark.usefixtures("unpictured")
def test_a_project_is_read_and_left_as_it_is(project: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in project.parent.rglob("*.qpdata")} | {project: project.read_bytes()}
    assert run(["evaluate", "--project", str(project), "--model", str(model), "--workers", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [image["error"] for image in document["images"]] == [None, None]
    assert all(row["cells"] > 0 for row in document["markers"])
    assert before == {p: p.read_bytes() for p in before}


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--task", "colours"], 2, "There is: imputation"),
        (["--task", "colours", "--truth", "t.png"], 2, "There is: imputation"),
        (["--marker", "CD99"], 2, "no model here imputes CD99"),
        (["--positive-threshold", "CD3"], 2, "MARKER=NUMBER"),
        (["--compat", "maxim"], 2, "go together"),
        (["--compat", "maxim", "--compat-pad", "256", "--compat-split", "../x"], 2, "file name"),
        (["--baselines", "none.npz"], 4, "no baselines at none.npz"),
        (["--cases", "none.csv"], 4, "none.csv"),
        (["--inputs", "A,B"], 2, "--inputs goes with --compat maxim"),
        (["--value-scale", "-1"], 2, "--value-scale"),
        (["--views", "seven"], 2, "no --views 'seven'"),
        (["--views", "six", "--compat", "maxim", "--compat-pad", "256"], 2, "knows no --views six"),
        (["--npy-panel", "A,B"], 2, "--npy-panel goes with --npy"),
        (["--compat-split", "valid"], 2, "--compat-split goes with"),
    ],
)
def test_what_is_wrong_is_said(
    fields: Path,
    model: Path,
    more: list[str],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    mxrun: Callable[..., int],
) -> None:
    assert mxrun(command(fields, "--model", str(model), *more)) == code
    assert says in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def mxrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    return run


def test_no_model_and_one_that_imputes_nothing(
    fields: Path, capsys: pytest.CaptureFixture[str], mxrun: Callable[..., int]
) -> None:
    assert mxrun(command(fields)) == 2
    assert "no model was named" in capsys.readouterr().err
    assert mxrun(command(fields, "--model", "demo")) == 5
    assert "imputes no markers" in " ".join(capsys.readouterr().err.split())


@pytest.mark.shared
@pytest.mark.usefixtures("unpictured")
def test_the_published_programs_own_data(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mxrun: Callable[..., int]
) -> None:
    oracle = shared / "oracles/maxim"
    panel = json.loads((oracle / "meta.json").read_text())
    more = ["--npy-panel", ",".join(panel["marker_panel"]), "--inputs", ",".join(panel["input_markers"])]
    source = ["evaluate", "--npy", str(oracle / "images.csv"), "--model", str(oracle / "checkpoint.pt")]
    line = [*source, *more, "--marker", "KI67", "--compat", "maxim", "--compat-pad", "96", "--out", "run"]
    assert mxrun(line) == 0
    for name in ("test_96_96_stats.csv", "test_96_96_stats_zero.csv", "test_96_96_stats_mean.csv"):
        ours, theirs = pd.read_csv(tmp_path / "run" / name), pd.read_csv(oracle / name)
        assert list(ours.columns) == list(theirs.columns) and list(ours["Image_Name"]) == list(theirs["Image_Name"])
        for column in theirs.columns[1:6]:
            assert ours[column].tolist() == pytest.approx(theirs[column].tolist(), rel=1e-4, abs=1e-6)
    assert "over 2 cases" in capsys.readouterr().out
    assert mxrun([*line, "--compat-split", "valid"]) == 2 and "It has: test" in capsys.readouterr().err
    assert mxrun([*line, "--plane", "0,0"]) == 2 and "source of its own" in capsys.readouterr().err
    assert mxrun([*line, "--files", "x.tif"]) == 2 and "source of its own" in capsys.readouterr().err
