"""Evaluation: its numbers are those of the whole image at once, what is not measured is no truth, and tables say what is missing."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage.metrics import structural_similarity

from mxbridge.errors import InputError, ModelError, NotApplicable, UsageError
from mxbridge.formats.ome_zarr_writer import OmeZarrWriter
from mxbridge.image import Box, Channel
from mxbridge.metrics import smoothed
from mxbridge.metrics.baselines import NAMES, RIDGE_3X3, Baselines, with_margin
from mxbridge.metrics.cell import otsu_threshold
from mxbridge.models.maxim import Maxim, MaximStream, PredictedTile, Request
from mxbridge.models.maxim_input import ScaledReader
from mxbridge.panel import PanelRow
from mxbridge.stream.engine import Engine
from mxbridge.stream.grid import Grid
from mxbridge.stream.views import SIX_VIEWS
from mxbridge.tasks import evaluate as evaluate_task
from mxbridge.tasks.evaluate import EvaluateOptions, cases_of, evaluate, find_candidates, parse_thresholds, truthful
from mxbridge.tasks.evaluating import one_image as evaluate_image
from mxbridge.tasks.evaluating.one_image import compare_image
from mxbridge.tasks.evaluating.tables import TABLES, make_tables
from mxbridge.tasks.imputing.open_models import labels_of, open_imputation_models
from mxbridge.training.maxim.split import CaseRow
from mxbridge.workspaces.files import FilesWorkspace
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.toy_maxim import LINEAR, write_model

MARKERS = ("A", "B", "C", "D")
SHAPE = (140, 130)


def pixels(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Stored numbers of four markers; the third follows the first two."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = [0.5 + 0.4 * np.sin(y / (5 + k) + seed) * np.cos(x / (7 - k)) for k in range(2)]
    planes = [*waves, 0.5 * waves[0] + 0.4 * waves[1], rng.random(shape)]
    return (1000 * np.clip(np.stack(planes) + 0.02 * rng.random((4, *shape)), 0, 1)).astype(np.uint16)


def labels(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return ((y // 14) * 20 + x // 14 + 1) * ((y % 14 > 2) & (x % 14 > 2))


def workspace(tmp_path: Path, images: int = 2, cells: bool = True, shape: tuple[int, int] = SHAPE) -> MemoryWorkspace:
    held = {f"image {k}": (pixels(k, shape), MARKERS, 0.5) for k in range(images)}
    masks = dict.fromkeys(held, labels(shape)) if cells else {}
    return MemoryWorkspace(held, masks, runs_home=tmp_path / "runs")


def source(k: int, model: Maxim, shape: tuple[int, int] = SHAPE) -> ScaledReader:
    space = MemoryWorkspace({"i": (pixels(k, shape), MARKERS, 0.5)})
    image = space.pull(space.list()[0], None).image
    return ScaledReader(image, range(4), [model.scaling[m] for m in MARKERS], 0.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Maxim]:
    """An any-marker model with baselines where training leaves them."""
    folder = tmp_path_factory.mktemp("models")
    path = write_model(folder / "any.safetensors", MARKERS)
    opened = open_imputation_models([str(path)])[0]
    (folder / "any.training").mkdir()
    scaling = {m: s.to_json() for m, s in opened[1].scaling.items()}
    fitted = Baselines.fit([source(k, opened[1]) for k in (7, 8)], MARKERS, scaling=scaling)
    fitted.save(folder / "any.training" / "baselines.npz")
    return opened


@pytest.fixture
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pictures, which take longer than small evaluations."""
    monkeypatch.setattr(evaluate_task, "draw_evaluation", lambda *_: ())


@pytest.fixture(scope="module")
def done(model: tuple[Path, Maxim], tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("done")
    options = EvaluateOptions(thresholds={"a": 500.0})
    return evaluate(workspace(folder), [model], Engine(workers=1), options, out=folder / "run")


def imputed(model: Maxim, k: int, target: str) -> np.ndarray:
    """The model's answer for one marker, straight from the stream."""
    space = MemoryWorkspace({"i": (pixels(k), MARKERS, 0.5)})
    image = space.pull(space.list()[0], None).image
    tiles = list(MaximStream(model, image, Engine(workers=1), [Request((target,))]).tiles())
    assert len(tiles) == 1
    return tiles[0].unit[0, 0].astype(np.float64)


def test_numbers_are_those_of_the_whole_image(model, done) -> None:
    finished, tables = done
    finished.raise_for_errors()
    fitted = Baselines.load(model[0].parent / "any.training" / "baselines.npz")
    table = tables.images.set_index(["image", "marker", "method"])
    assert set(table.index.get_level_values("method")) == {"model", *NAMES}
    for target, k in (("A", 0), ("C", 1)):
        unit = (pixels(k) / np.float32(1000)).astype(np.float32)
        truth = unit[MARKERS.index(target)].astype(np.float64)
        answers = fitted.predict(with_margin(source(k, model[1]), Box(0, 0, *SHAPE)), target)
        for method, answer in {"model": imputed(model[1], k, target), **answers}.items():
            row = table.loc[(f"image {k}", target, method)]
            assert row["mae"] == pytest.approx(np.abs(truth - answer).mean(), abs=1e-6)
            assert row["ssim_uniform7"] == pytest.approx(
                structural_similarity(truth, answer.astype(np.float64), data_range=1), abs=1e-5
            )
            assert row["psnr"] == pytest.approx(-10 * math.log10(((truth - answer) ** 2).mean()), abs=1e-4)
            mask = labels()
            ids = np.unique(mask)[1:]
            means = [np.array([plane[mask == i].mean() for i in ids]) for plane in (truth, answer)]
            assert row["cells"] == len(ids)
            assert row["cell_mae"] == pytest.approx(np.abs(means[0] - means[1]).mean(), abs=1e-5)
            positive = means[0] >= (0.5 if target == "A" else otsu_of(target))
            assert row["prevalence"] == pytest.approx(positive.mean(), abs=1e-9)


def otsu_of(target: str) -> float:
    """Of the measured means of the cells of both images."""
    mask = labels()
    k = MARKERS.index(target)
    planes = [(pixels(i)[k] / np.float32(1000)).astype(np.float64) for i in (0, 1)]
    means = [plane[mask == i].mean() for plane in planes for i in np.unique(mask)[1:]]
    return otsu_threshold(np.array(means, np.float32))


def test_tables_and_pictures_are_written(done) -> None:
    finished, tables = done
    folder = finished.run.path
    written = pd.read_csv(folder / "markers.csv")
    assert len(written) == 4 * 6 and set(written["intervals"]) == {"2 cases; intervals need 6"}
    assert written["mae"].tolist() == pytest.approx(tables.markers["mae"].tolist())
    of = pd.read_csv(folder / "images.csv").set_index("marker")["threshold_from"]
    assert set(of["A"]) == {"given (stored numbers)"} and set(of["B"]) == {"Otsu of all cells (scaled 0..1)"}
    wins = pd.read_csv(folder / "wins.csv").set_index("baseline")
    ahead = [tables.markers.set_index(["marker", "method"])["mae"].unstack().eval(f"model < `{RIDGE_3X3}`").sum()]
    assert wins.loc[RIDGE_3X3, "mae"] == ahead[0] and wins.loc[RIDGE_3X3, "mae_of"] == 4
    pictures = sorted(p.name for p in (folder / "plots").iterdir())
    assert pictures == ["MAXIM paired errors.png", "MAXIM precision and recall.png", "MAXIM violins.png"]
    assert any("3 images" in note for note in finished.run.details["pictures"])
    assert json.loads((folder / "run.json").read_text())["published"] is False
    assert not list(folder.rglob("planes"))


@pytest.mark.usefixtures("unpictured")
def test_any_tile_gives_the_same_tables(model, tmp_path: Path) -> None:
    shape = (100, 300)
    found = []
    for tile in (None, 288):
        space = workspace(tmp_path, 1, shape=shape)
        found.append(evaluate(space, [model], Engine(tile=tile, workers=1), out=tmp_path / f"run {tile}")[1].images)
    numbers = found[0].select_dtypes("number").columns
    np.testing.assert_allclose(found[0][numbers], found[1][numbers], rtol=2e-4, atol=2e-5)


@pytest.mark.usefixtures("unpictured")
def test_a_second_run_computes_nothing_and_new_cases_only_the_tables(model, tmp_path: Path) -> None:
    space, engine = workspace(tmp_path, 6, cells=False, shape=(40, 36)), Engine(workers=1)
    first, tables = evaluate(space, [model], engine)
    assert first.computed == 6 and set(tables.markers["intervals"]) == {"95 %"}
    row = tables.markers.iloc[0]
    assert row["mae_low"] < row["mae"] < row["mae_high"] and set(tables.images["why_not"]) == {"no cells"}
    again, same = evaluate(space, [model], engine)
    assert (again.computed, again.run.run_id) == (0, first.run.run_id)
    pd.testing.assert_frame_equal(same.markers, tables.markers)
    listed = tmp_path / "cases.csv"
    listed.write_text("image,case\n" + "".join(f"image {k},{'one' if k < 4 else 'two'}\n" for k in range(6)))
    grouped, tables = evaluate(space, [model], engine, EvaluateOptions(cases=listed))
    assert grouped.computed == 0 and set(tables.cases["case"]) == {"one", "two"}
    assert set(pd.read_csv(grouped.run.path / "markers.csv")["intervals"]) == {"2 cases; intervals need 6"}
    mae = tables.images[tables.images["method"] == "model"].groupby(["marker", "case"])["mae"].mean()
    assert tables.markers.set_index(["marker", "method"]).loc[("A", "model"), "mae"] == pytest.approx(mae["A"].mean())


def test_cases_must_name_every_image_once(tmp_path: Path) -> None:
    refs = workspace(tmp_path).list()
    assert cases_of(refs, ()) == {"image 0": "image 0", "image 1": "image 1"}
    rows = (CaseRow("image 0", "x", ""), CaseRow("image 1", "x", "test"))
    assert cases_of(refs, rows) == {"image 0": "x", "image 1": "x"}
    with pytest.raises(UsageError, match=r"no row for image image 1"):
        cases_of(refs, rows[:1])
    with pytest.raises(UsageError, match=r"several cases \(x, y\)"):
        cases_of(refs, (*rows, CaseRow("image 1", "y", "")))


@pytest.mark.usefixtures("unpictured")
def test_what_cannot_be_said_is_counted_and_never_averaged(model, tmp_path: Path) -> None:
    dark = pixels(0)
    dark[1] = 0
    held = {"dark": (dark, MARKERS, 0.5), "lit": (pixels(1), MARKERS, 0.5)}
    space = MemoryWorkspace(held, {"dark": labels()}, runs_home=tmp_path)
    finished, tables = evaluate(space, [model], Engine(workers=1), EvaluateOptions(markers=("b",)))
    images = pd.read_csv(finished.run.path / "images.csv", dtype=str, keep_default_na=False).set_index(
        ["image", "method"]
    )
    assert images.loc[("dark", "zero"), "psnr"] == "inf" and images.loc[("dark", "model"), "pearson"] == ""
    assert images.loc[("dark", "model"), "why_not"] == "none of 100 cells positive"
    assert images.loc[("lit", "model"), "why_not"] == "no cells"
    markers = tables.markers.set_index("method")
    assert markers.loc["zero", "psnr_infinite"] == 1 and markers.loc["model", "pearson_undefined"] == 1
    lit = tables.images.set_index(["image", "method"]).loc[("lit", "zero"), "psnr"]
    assert markers.loc["zero", "psnr"] == pytest.approx(lit) and math.isnan(markers.loc["model", "cell_auroc"])


@pytest.mark.usefixtures("unpictured")
def test_pixels_that_are_not_finite_are_no_truth(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.safetensors", MARKERS, dtype="float32")
    opened = open_imputation_models([str(path)])
    holed = pixels(0).astype(np.float32)
    holed[0, 25:45, 25:45] = np.nan
    found = []
    for data in (holed, pixels(0).astype(np.float32)):
        space = MemoryWorkspace({"i": (data, MARKERS, 0.5)}, {"i": labels()}, runs_home=tmp_path)
        found.append(evaluate(space, opened, Engine(workers=1), EvaluateOptions(markers=("A",)))[1].images.iloc[0])
    assert found[0]["pixels"] == found[1]["pixels"] - 400
    assert found[0]["cells"] < found[1]["cells"] and math.isfinite(found[0]["cell_pearson"])


@pytest.mark.usefixtures("unpictured")
def test_six_views_are_averaged(model, tmp_path: Path) -> None:
    """As ``impute --uncertainty`` does; another run, whose tables say so."""
    space, engine = workspace(tmp_path, 1), Engine(workers=1)
    plain, one = evaluate(space, [model], engine, EvaluateOptions(markers=("C",)))
    finished, six = evaluate(space, [model], engine, EvaluateOptions(markers=("C",), views="six"))
    assert finished.computed == 1 and finished.run.run_id != plain.run.run_id
    assert finished.run.options["views"] == "six" and plain.run.options["views"] == "one"
    image = space.pull(space.list()[0], None).image
    (tile,) = MaximStream(model[1], image, engine, [Request(("C",))], views=SIX_VIEWS).tiles()
    truth = pixels(0)[2] / 1000
    found = {name: t.images.set_index("method")["mae"] for name, t in (("one", one), ("six", six))}
    assert found["six"]["model"] == pytest.approx(np.abs(tile.unit[:, 0].mean(axis=0) - truth).mean(), abs=1e-6)
    assert found["one"]["model"] == pytest.approx(np.abs(tile.unit[0, 0] - truth).mean(), abs=1e-6)
    assert found["six"]["model"] != found["one"]["model"] and found["six"][RIDGE_3X3] == found["one"][RIDGE_3X3]
    for name in TABLES:
        assert set(pd.read_csv(finished.run.path / name)["views"]) == {"six"}, name
    with pytest.raises(UsageError, match="no --views 'two'"):
        EvaluateOptions(views="two")
    with pytest.raises(UsageError, match="knows no --views six"):
        EvaluateOptions(views="six", compat_pad=96)


def test_nothing_measured_is_no_crash(tmp_path: Path) -> None:
    """A channel of which no pixel is a number has no figures and no pictures."""
    path = write_model(tmp_path / "m.safetensors", MARKERS, dtype="float32")
    lost = pixels(0).astype(np.float32)
    lost[0] = np.nan
    space = MemoryWorkspace({"i": (lost, MARKERS, 0.5)}, {"i": labels()}, runs_home=tmp_path)
    opened, options = open_imputation_models([str(path)]), EvaluateOptions(markers=("A",))
    finished, tables = evaluate(space, opened, Engine(workers=1), options)
    assert tables.images["mae"].isna().all() and (tables.images["pixels"] == 0).all()
    assert any("no measured pixel" in note for note in finished.run.details["pictures"])


@pytest.mark.usefixtures("unpictured")
def test_who_is_ahead_is_told_from_images_that_both_have(model, tmp_path: Path) -> None:
    """On a dark image zero is perfect: its ratio of infinity is in no mean, so the model's of that image must not be either."""
    dark = pixels(0)
    dark[1] = 0
    lit = pixels(1)
    lit[1] = 900
    held = {"dark": (dark, MARKERS, 0.5), "lit": (lit, MARKERS, 0.5)}
    space = MemoryWorkspace(held, dict.fromkeys(held, labels()), runs_home=tmp_path)
    options = EvaluateOptions(markers=("B",), thresholds={"B": 500.0})
    _, tables = evaluate(space, [model], Engine(workers=1), options)
    by_image = tables.images.set_index(["image", "method"])
    assert np.isinf(by_image.loc[("dark", "zero"), "psnr"])
    ahead = by_image.loc[("lit", "model"), "psnr"] > by_image.loc[("lit", "zero"), "psnr"]
    row = tables.wins.set_index("baseline").loc["zero"]
    assert (row["psnr"], row["psnr_of"]) == (int(ahead), 1)
    assert row["pearson_of"] == 0 and row["mae_of"] == 1


@pytest.mark.usefixtures("unpictured")
def test_chance_is_that_of_the_images_with_an_average_precision(model, tmp_path: Path) -> None:
    none = pixels(1)
    none[0] //= 4
    held = {"some": (pixels(0), MARKERS, 0.5), "none": (none, MARKERS, 0.5)}
    space = MemoryWorkspace(held, dict.fromkeys(held, labels()), runs_home=tmp_path)
    options = EvaluateOptions(markers=("A",), thresholds={"A": 500.0})
    _, tables = evaluate(space, [model], Engine(workers=1), options)
    by_image = tables.images.set_index(["image", "method"])["prevalence"]
    assert by_image["none", "model"] == 0 < by_image["some", "model"]
    row = tables.markers.set_index("method").loc["model"]
    assert row["cell_ap_chance"] == by_image["some", "model"] > row["prevalence"] and row["cell_ap_undefined"] == 1


@pytest.mark.usefixtures("unpictured")
def test_no_marker_is_imputed_from_itself(model, tmp_path: Path) -> None:
    scrambled = pixels(0)
    scrambled[0] = pixels(5)[0]
    held = {"plain": (pixels(0), MARKERS, 0.5), "scrambled": (scrambled, MARKERS, 0.5)}
    space = MemoryWorkspace(held, dict.fromkeys(held, labels()), runs_home=tmp_path)
    finished, _ = evaluate(space, [model], Engine(workers=1), EvaluateOptions(markers=("A", "B")))
    one, two = (pd.read_parquet(finished.run.folder_of(i) / "cells-0.parquet") for i in finished.run.images)
    for method in ("model", RIDGE_3X3, "mean of inputs"):
        np.testing.assert_array_equal(one[f"A: {method}"], two[f"A: {method}"])
        assert not np.allclose(one[f"B: {method}"], two[f"B: {method}"])


@pytest.mark.usefixtures("unpictured")
def test_absent_inputs_and_models_of_one_name(model, tmp_path: Path) -> None:
    single = write_model(tmp_path / "single.safetensors", ("A", "C"), ("D",))
    models = [model, *open_imputation_models([str(single)])]
    assert labels_of(models) == ["MAXIM any", "MAXIM single"]
    held = {"i": (pixels(0)[[0, 2, 3]], ("a", "C", "D"), 0.5)}
    finished, tables = evaluate(MemoryWorkspace(held, runs_home=tmp_path), models, Engine(workers=1))
    assert tables.images.groupby("model")["marker"].unique().map(list).to_dict() == {
        "MAXIM any": ["A", "C", "D"],
        "MAXIM single": ["D"],
    }
    assert finished.run.images[0].error is None
    ridge = tables.images[tables.images["method"] == RIDGE_3X3]
    assert set(ridge["model"]) == {"MAXIM any"} and np.isfinite(ridge["mae"]).all()
    missing = MemoryWorkspace({"i": (pixels(0)[[2, 3]], ("C", "D"), 0.5)}, runs_home=tmp_path)
    with pytest.raises(InputError, match="has no channel A"):
        evaluate(missing, models[1:], Engine(workers=1))
    single_marker = MemoryWorkspace({"i": (pixels(0)[:1], ("A",), 0.5)}, runs_home=tmp_path)
    with pytest.raises(InputError, match="has only A of the markers of MAXIM any: nothing to impute it from"):
        evaluate(single_marker, models, Engine(workers=1))
    foreign = MemoryWorkspace({"i": (pixels(0), ("E", "F", "G", "H"), 0.5)}, runs_home=tmp_path)
    with pytest.raises(InputError, match="none of the markers"):
        evaluate(foreign, models, Engine(workers=1))
    with pytest.raises(UsageError, match="no model here imputes KI67"):
        evaluate(missing, models, Engine(workers=1), EvaluateOptions(markers=("KI67",)))


@pytest.mark.usefixtures("unpictured")
def test_images_of_the_training_are_said_to_be(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.safetensors", MARKERS)
    (tmp_path / "m.training").mkdir()
    (tmp_path / "m.training" / "split.csv").write_text(
        "image,id,case,use\nimage 0,image 0,a,training\nimage 1,/elsewhere/image 1,b,validation\nimage 2,image 2,c,left out\n"
    )
    space = workspace(tmp_path, 3, cells=False, shape=(40, 36))
    finished, _ = evaluate(space, open_imputation_models([str(path)]), Engine(workers=1))
    said = [" ".join(image.warnings) for image in finished.run.images]
    assert said[0] == "MAXIM was trained on it (training): its figures say nothing of new images"
    assert said[1] == "the weights of MAXIM were chosen by an image of this name" and said[2] == ""
    (tmp_path / "m.training" / "split.csv").write_bytes(b"\xff\x00")
    assert evaluate_task.uses_of(tmp_path / "m.training" / "split.csv") == {}


def test_baselines_are_found_or_said_to_be_missing(model, tmp_path: Path) -> None:
    assert find_candidates([model], ())[0].methods == ("model", *NAMES)
    given = model[0].parent / "any.training" / "baselines.npz"
    alone = open_imputation_models([str(write_model(tmp_path / "alone.safetensors", MARKERS, seed=1))])
    (without,) = find_candidates(alone, ())
    assert without.methods == ("model", *NAMES[:2]) and "alone.training/baselines.npz is not there" in without.why_few
    assert find_candidates(alone, [given])[0].methods == ("model", *NAMES)
    scaled = write_model(tmp_path / "scaled.safetensors", MARKERS, scaling={**LINEAR, "high": 900.0})
    few = write_model(tmp_path / "few.safetensors", MARKERS[:3])
    for path, why in ((scaled, "A was scaled in another way"), (few, "they predict from D")):
        with pytest.raises(UsageError, match=why):
            find_candidates(open_imputation_models([str(path)]), [given])
    both = find_candidates([model, *open_imputation_models([str(few)])], [given])
    assert [bool(c.why_few) for c in both] == [False, True]


@pytest.mark.usefixtures("unpictured")
def test_what_mxbridge_made_is_never_truth(model, tmp_path: Path) -> None:
    path = tmp_path / "KI67 (MAXIM).ome.zarr"
    writer = OmeZarrWriter(path, (1, 40, 40), np.uint16, [Channel("A")], (0.5, 0.5))
    writer.write(0, Box(0, 0, 40, 40), np.full((40, 40), 7.0, np.float32))
    writer.finish()
    space = FilesWorkspace([path], runs_home=tmp_path)
    with pytest.raises(NotApplicable, match="never truth"):
        evaluate(space, [model], Engine(workers=1))
    pulled = workspace(tmp_path).pull(workspace(tmp_path).list()[0]).image
    joined = replace(pulled, files=(tmp_path / "a.tif", tmp_path / "p/mxbridge/derived/2/KI67 (MAXIM).ome.tif"))
    with pytest.raises(NotApplicable, match="never truth"):
        truthful(joined)
    assert truthful(replace(pulled, files=(tmp_path / "mxbridge/derived.tif",))).channels == pulled.channels
    made = MemoryWorkspace({"i": (pixels(0), ("A", "B", "C", "D (MAXIM)"), 0.5)}, runs_home=tmp_path)
    _, tables = evaluate(made, [model], Engine(workers=1))
    assert set(tables.images["marker"]) == {"A", "B", "C"}


def test_the_panel_renames_and_leaves_out(tmp_path: Path) -> None:
    space = workspace(tmp_path, 1)
    image = space.pull(space.list()[0], None).image
    rows = [PanelRow("A", "KI67", "marker", True), PanelRow("B", "B", "marker", False)]
    assert [c.name for c in truthful(image, rows).channels] == ["KI67", "", "C", "D"]
    with pytest.raises(NotApplicable, match="colour picture"):
        truthful(replace(image, rgb=True))


@pytest.mark.usefixtures("unpictured")
def test_one_bad_image_does_not_stop_the_others(model, tmp_path: Path) -> None:
    held = {"good": (pixels(0), MARKERS, 0.5), "no scale": (pixels(1), MARKERS, None)}
    finished, tables = evaluate(MemoryWorkspace(held, runs_home=tmp_path), [model], Engine(workers=1))
    assert set(tables.images["image"]) == {"good"} and "--um-per-px" in str(finished.errors[0])


class Shortcut:
    """In place of a stream: tiles of 64 px whose imputed values are the measured ones, made as they are asked for."""

    notes, value_scale = (), 1.0

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape, self.requests = shape, [Request(("A",))]

    def tiles(self, progress=None):
        for tile in Grid(self.shape, 1, 0, 64):
            values = np.random.default_rng(tile.index).random((1, *tile.core.shape)).astype(np.float32)
            yield PredictedTile(tile, values[None], values, np.zeros(4), None)


def test_memory_does_not_grow_with_the_slide(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoothed, "MOST_PIXELS", 1 << 12)
    candidate, image = find_candidates([model], ())[0], workspace(tmp_path).pull(workspace(tmp_path).list()[0]).image
    monkeypatch.setattr(evaluate_image, "_BaselineReader", lambda *_: NoReader())
    peaks = []
    for height in (256, 256, 4096):
        monkeypatch.setattr(evaluate_image, "open_stream", lambda *_, height=height: Shortcut((height, 192)))
        tracemalloc.start()
        compared = compare_image(candidate, image, None, Engine(workers=1), ["A"], tmp_path / "work")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert compared.rows[0]["pixels"] == height * 192 and compared.rows[0]["mae"] == 0
    assert peaks[2] < 1.5 * peaks[1]


class NoReader:
    absent = frozenset()

    def read(self, core: Box) -> np.ndarray:
        return np.zeros((4, core.shape[0] + 2, core.shape[1] + 2), np.float32)


def test_tables_of_nothing(tmp_path: Path) -> None:
    make_tables([], {}, {}).write(tmp_path)
    assert [len(pd.read_csv(tmp_path / name)) for name in TABLES] == [0, 0, 0, 0]


def test_thresholds_are_read() -> None:
    assert parse_thresholds("KI67=30, CD8 = 12.5") == {"KI67": 30.0, "CD8": 12.5} and parse_thresholds(None) == {}
    for bad in ("KI67", "=3", "KI67=x", "KI67=nan", ""):
        with pytest.raises(UsageError):
            parse_thresholds(bad)


def peer_images(shared: Path, tmp_path: Path) -> Sequence[Path]:
    import tifffile

    panel = json.loads((shared / "oracles/maxim/meta.json").read_text())["marker_panel"]
    paths = []
    for roi in ("roi_1", "roi_2"):
        path = tmp_path / f"{roi}.ome.tif"
        metadata = {"axes": "CYX", "Channel": {"Name": panel}}
        tifffile.imwrite(
            path, np.load(shared / f"oracles/maxim/{roi}.npy"), ome=True, photometric="minisblack", metadata=metadata
        )
        paths.append(path)
    return paths


@pytest.mark.shared
@pytest.mark.usefixtures("unpictured")
def test_the_published_programs_tables(shared: Path, tmp_path: Path) -> None:
    oracle = shared / "oracles/maxim"
    inputs = json.loads((oracle / "meta.json").read_text())["input_markers"]
    models = open_imputation_models([str(oracle / "checkpoint.pt")], compat="maxim", inputs=inputs, outputs=["KI67"])
    space = FilesWorkspace(peer_images(shared, tmp_path), runs_home=tmp_path / "runs")
    finished, _ = evaluate(space, models, Engine(workers=1), EvaluateOptions(compat_pad=96))
    for name in ("test_96_96_stats.csv", "test_96_96_stats_zero.csv", "test_96_96_stats_mean.csv"):
        ours, theirs = pd.read_csv(finished.run.path / name), pd.read_csv(oracle / name)
        assert list(ours.columns) == list(theirs.columns)
        assert [Path(n).stem for n in ours["Image_Name"]] == list(theirs["Image_Name"])
        numbers = list(theirs.columns[1:6])
        np.testing.assert_allclose(ours[numbers], theirs[numbers], rtol=1e-4, atol=1e-6)
        if "Corr" in theirs:
            np.testing.assert_allclose(ours["Corr"], theirs["Corr"], atol=2e-5)
            np.testing.assert_allclose(ours["p-value"], theirs["p-value"], rtol=0.05, atol=1e-12)


def test_models_that_do_not_impute_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="imputes no markers"):
        open_imputation_models(["demo"])
    with pytest.raises(UsageError, match="no model"):
        open_imputation_models([])
    with pytest.raises(UsageError, match="--compat other"):
        open_imputation_models(["x.pt"], compat="other")
