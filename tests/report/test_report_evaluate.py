"""The report of evaluate: its numbers are those of the run's tables, of imputation and of segmentation."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mxbridge.metrics.baselines import Baselines
from mxbridge.models.maxim_input import ScaledReader
from mxbridge.report import of_segmentation
from mxbridge.report.blocks import Block, Group, Note, Picture, Plot, Table
from mxbridge.report.build import build_report
from mxbridge.report.of_evaluate import KEYS, METRICS, _everything, _of_wins, sections
from mxbridge.report.of_segmentation import AGREEMENT, SUMMARY
from mxbridge.stream.engine import Engine
from mxbridge.tasks import evaluate as evaluate_task
from mxbridge.tasks.evaluate import EvaluateOptions, evaluate
from mxbridge.tasks.evaluate_segmentation import SegmentationOptions, evaluate_segmentation
from mxbridge.tasks.imputing.open_models import open_imputation_models
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.report.shown_blocks import assert_says_the_same, column, context_of, of_kind, pixels, read_csv, shown
from tests.toy_maxim import write_model

MARKERS = ("A$\\x", "B")
SHAPE = (96, 80)
GREEN, RED, BLUE = (0, 255, 0), (255, 0, 0), (0, 0, 255)


def planes(seed: int) -> np.ndarray:
    """Two markers in stored numbers."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    waves = [0.5 + 0.4 * np.sin(y / (5 + k) + seed) * np.cos(x / (7 - k)) for k in range(2)]
    noise = np.random.default_rng(seed).random((2, *SHAPE))
    return (1000 * np.clip(np.stack(waves) * 0.9 + 0.1 * noise, 0, 1)).astype(np.uint16)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images with cells, one model with its baselines."""
    folder = tmp_path_factory.mktemp("evaluate")
    path = write_model(folder / "any.safetensors", MARKERS)
    model = open_imputation_models([str(path)])[0]
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    labels = ((y // 12) * 10 + x // 12 + 1) * ((y % 12 > 2) & (x % 12 > 2))
    images = {f"image <{k}>": (planes(k), MARKERS, 0.5) for k in range(3)}
    workspace = MemoryWorkspace(images, dict.fromkeys(images, labels), runs_home=folder)
    image = workspace.pull(workspace.list()[0], None).image
    source = ScaledReader(image, range(2), [model[1].scaling[m] for m in MARKERS], 0.5)
    (folder / "any.training").mkdir()
    scaling = {m: s.to_json() for m, s in model[1].scaling.items()}
    Baselines.fit([source], MARKERS, scaling=scaling).save(folder / "any.training" / "baselines.npz")
    with pytest.MonkeyPatch.context() as patch:  # its own pictures are drawn by other tests
        patch.setattr(evaluate_task, "draw_evaluation", lambda *_: ())
        finished, _ = evaluate(workspace, [model], Engine(workers=1), EvaluateOptions(), out=folder / "run")
    assert not finished.errors
    return finished.run.path


@pytest.fixture(scope="module")
def told(done: Path) -> dict[str, list[Block]]:
    """By section, everything that is shown of the run."""
    context = context_of(done)
    found = shown(sections(context))
    assert context.problems == []
    return found


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


def test_every_number_is_that_of_the_runs_tables(done: Path, told: dict[str, list[Block]]) -> None:
    found = told
    assert list(found) == ["evaluation", "evaluation-tables", "evaluation-markers", "evaluation-images"]
    markers, wins, cases, images = (read_csv(done / f"{name}.csv") for name in ("markers", "wins", "cases", "images"))
    assert len(markers) == 12 and len(images) == 36
    means, ahead, everything = of_kind(found["evaluation-tables"], Table)
    heads = {name: c for name, c in KEYS.items() if name != "model"}
    assert [c.name for c in means.columns][-1] == "Chance"
    by_metric = {metric: next(c for c in means.columns if c.name == name) for metric, name in METRICS.items()}
    assert assert_says_the_same(means, markers, {**heads, **by_metric}) >= 11
    for head, name in {"MAE": "mae", "Pearson of cells": "cell_pearson", "AP of cells": "cell_ap"}.items():
        assert [np.nan if v is None else v for v in column(means, head)] == pytest.approx(
            markers[name].tolist(), nan_ok=True
        )
    assert assert_says_the_same(ahead, wins, _of_wins(wins)) >= 8
    assert assert_says_the_same(everything, markers, _everything(markers, heads)) >= 20
    per_case, per_image = of_kind(found["evaluation-images"], Table)
    assert assert_says_the_same(per_case, cases, _everything(cases, heads)) >= 15
    assert assert_says_the_same(per_image, images, _everything(images, heads)) >= 18


def test_every_marker_has_its_pictures(told: dict[str, list[Block]]) -> None:
    found = told
    assert len(of_kind(found["evaluation"], Plot)) == 4
    groups = of_kind(found["evaluation-markers"], Group)
    assert [group.title for group in groups] == list(MARKERS)
    plots, pictures = (of_kind(found["evaluation-markers"], kind) for kind in (Plot, Picture))
    assert len(plots) == 2 * 2 + 1, "violins and curves of each marker, then the channel means"
    assert all(len(plot.svg) < 60_000 for plot in plots)
    assert len(pictures) == 2 and all(pixels(picture).std() > 10 for picture in pictures)


def test_what_is_kept_of_an_image_may_be_damaged(run: Path) -> None:
    next(run.glob("images/0001*/comparison.json")).write_text("{")
    next(run.glob("images/0002*/samples-0.npz")).write_bytes(b"no")
    context = context_of(run)
    found = shown(sections(context))
    assert len(of_kind(found["evaluation-images"], Table)) == 2
    assert len(of_kind(found["evaluation-markers"], Plot)) == 2 * 2, "channel means need three images"
    assert not of_kind(found["evaluation-markers"], Picture)
    assert len(context.problems) == 3
    (run / "markers.csv").unlink()
    assert [type(block) for block in shown(sections(context_of(run)))["evaluation"]] == [Note]


# --- segmentation ---


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four class images against truth; the squares of every second one are moved."""
    folder = tmp_path_factory.mktemp("segmentation")
    for k in range(4):
        for name, shift in (("truth", 0), ("out", 3 * (k % 2))):
            picture = np.zeros((60, 80, 3), np.uint8)
            for n, (y, x) in enumerate(((5, 5), (5, 30), (30, 5), (30, 40))[: 3 + k % 2]):
                colour = RED if n < 1 + (k + shift) % 3 else BLUE
                picture[y - 1 : y + 9, x + shift - 1 : x + shift + 9] = GREEN
                picture[y : y + 8, x + shift : x + shift + 8] = colour
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(picture).save(folder / name / f"i{k} $<b>$.png")
    options = SegmentationOptions(truth=(str(folder / "truth"),))
    finished, _ = evaluate_segmentation([str(folder / "out")], options, out=folder / "run")
    assert not finished.errors
    return finished.run.path


def test_every_number_of_a_segmentation(segmented: Path, tmp_path: Path) -> None:
    context = context_of(segmented)
    found = shown(sections(context))
    assert list(found) == ["segmentation", "segmentation-percent", "segmentation-images"]
    tables = {
        name: read_csv(segmented / f"{name}.csv") for name in ("summary", "metrics", "percent_positive", "agreement")
    }
    means, every = of_kind(found["segmentation"], Table)
    assert assert_says_the_same(every, tables["summary"], SUMMARY) >= 8
    known = tables["summary"].set_index(["of", "metric"])["mean"]
    for metric, name in of_segmentation.SHOWN.items():
        expected = [known[kind, metric] for kind in column(means, "Class")]
        assert column(means, name) == pytest.approx(expected, nan_ok=True)
    agreed, percents = of_kind(found["segmentation-percent"], Table)
    assert assert_says_the_same(agreed, tables["agreement"], AGREEMENT) >= 6
    named = of_segmentation._named
    assert assert_says_the_same(percents, tables["percent_positive"], named(tables["percent_positive"])) >= 10
    (images,) = of_kind(found["segmentation-images"], Table)
    assert assert_says_the_same(images, tables["metrics"], named(tables["metrics"])) >= 20
    assert len(of_kind(found["segmentation"], Plot)) == len(of_kind(found["segmentation-percent"], Plot)) == 1
    assert context.problems == []
    assert "i0 $&lt;b&gt;$" in build_report(segmented, tmp_path / "s.html").read_text(encoding="utf-8")


def test_a_segmentation_without_its_other_tables(segmented: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(segmented, tmp_path / "run"))
    for name in ("summary", "percent_positive", "agreement"):
        (run / f"{name}.csv").unlink()
    assert list(shown(sections(context_of(run)))) == ["segmentation", "segmentation-images"]
    pd.DataFrame({"method": []}).to_csv(run / "metrics.csv")
    assert [type(b) for b in shown(sections(context_of(run)))["segmentation"]] == [Note]
