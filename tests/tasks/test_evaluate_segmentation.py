"""Evaluation of segmentations: which picture belongs to which truth, what the tables say, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import immunohistochemistry
from skimage.metrics import structural_similarity

from mxbridge.cells import Rings
from mxbridge.cli.app import run as mxbridge
from mxbridge.errors import InputError, SomeImagesFailed, SourceError, UsageError
from mxbridge.metrics.segmentation import compare_class
from mxbridge.progress import Progress
from mxbridge.report.agreement_plot import bland_altman
from mxbridge.results import ImageRef, NewObjects, Results
from mxbridge.runs import ImageRecord, Run, now
from mxbridge.stains import H_DAB
from mxbridge.tasks.evaluate_segmentation import PICTURE, SegmentationOptions, evaluate_segmentation
from mxbridge.tasks.evaluating.class_images import read_classes, truth_of
from mxbridge.workspaces.geojson import GeoObject, area_geometry, write_geojson

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)
Place = tuple[int, int, tuple[int, int, int]]


def class_image(path: Path, nuclei: Sequence[Place], shape: tuple[int, int] = (60, 80)) -> Path:
    """Squares of 8 pixels with a green border, each (y, x, colour)."""
    picture = np.zeros((*shape, 3), np.uint8)
    for y, x, colour in nuclei:
        picture[y - 1 : y + 9, x - 1 : x + 9] = GREEN
        picture[y : y + 8, x : x + 8] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


TRUTH: list[Place] = [(5, 5, RED), (5, 30, BLUE), (30, 5, BLUE), (30, 30, BLUE)]
PREDICTED: list[Place] = [(5, 7, RED), (5, 30, RED), (30, 5, BLUE), (45, 60, BLUE)]


class Notes(Progress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    def warning(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run folders go into the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_tables_of_pictures(tmp_path: Path) -> None:
    truth = class_image(tmp_path / "truth/a.png", TRUTH)
    class_image(tmp_path / "out/a_SegRefined.png", PREDICTED)
    class_image(tmp_path / "out/a_SegOverlaid.png", PREDICTED)  # other pictures of the same program are passed over
    class_image(tmp_path / "out/b_SegRefined.png", PREDICTED)
    notes = Notes()
    finished, tables = evaluate_segmentation(["out"], SegmentationOptions(truth=("truth",)), progress=notes)
    assert notes.told == ["b_SegRefined.png: no truth of that name"]
    assert set(tables.metrics["method"]) == {"SegRefined"}
    rows = tables.metrics.set_index("class")
    red = [np.asarray(Image.open(p))[..., 0] > 0 for p in (truth, tmp_path / "out/a_SegRefined.png")]
    expected = compare_class(*red)
    for metric, value in expected.items():
        assert rows.loc["positive", metric] == pytest.approx(value, nan_ok=True), metric
    assert rows.loc["positive", "iou"] == pytest.approx(6 / (8 + 2 + 8))
    assert rows.loc["negative", "truth_nuclei"] == 3
    assert rows.loc["mean", "dice"] == pytest.approx((rows.loc["positive", "dice"] + rows.loc["negative", "dice"]) / 2)
    # the second nucleus has the wrong class, which does not matter for nuclei as such: all but one are found
    assert rows.loc["nuclei", "detection_recall"] == rows.loc["nuclei", "object_recall"] == 3 / 4
    assert rows.loc["positive", "detection_precision"] == 1 / 2
    (percent,) = tables.percents.to_dict("records")
    assert (percent["truth_percent"], percent["predicted_percent"], percent["ihc_difference"]) == (25, 50, 25)
    stored = pd.read_csv(finished.run.path / "metrics.csv")
    assert stored["class"].tolist() == ["positive", "negative", "mean", "nuclei"]
    assert (finished.run.path / PICTURE).stat().st_size > 5000
    assert not (finished.run.path / "channels.csv").exists()
    again, _ = evaluate_segmentation(["out"], SegmentationOptions(truth=("truth",)))
    assert again.run.run_id == finished.run.run_id


def test_means_over_cases_and_their_intervals(tmp_path: Path) -> None:
    for k in range(8):
        class_image(tmp_path / f"truth/i{k}.png", TRUTH)
        class_image(tmp_path / f"out/i{k}.png", TRUTH if k < 4 else PREDICTED)
    table = tmp_path / "cases.csv"
    table.write_text("image,case\n" + "".join(f"i{k},{'one' if k < 4 else k}\n" for k in range(8)))
    alone, grouped = (
        evaluate_segmentation(["out"], SegmentationOptions(truth=("truth",), cases=cases))[1] for cases in (None, table)
    )
    bad = alone.metrics[(alone.metrics["image"] == "i7") & (alone.metrics["class"] == "nuclei")]["dice"].iloc[0]
    found = []
    for tables in (alone, grouped):
        summary = tables.summary.set_index(["of", "metric"]).loc[("nuclei", "dice")]
        found.append((summary["cases"], summary["mean"]))
        assert (summary["low"] < summary["mean"] < summary["high"]) == (summary["cases"] >= 6)
    assert found[0] == (8, pytest.approx((1 + bad) / 2))
    assert found[1] == (5, pytest.approx((1 + 4 * bad) / 5))
    told = alone.agreement.iloc[0]
    assert (told["images"], told["bias"]) == (8, 12.5)
    assert told["low"] < 12.5 < told["high"] and told["concordance"] == pytest.approx(0)


def saved_run(folder: Path, *, kind: str = "detection", objects: bool = True, task: str = "translate") -> Path:
    """A run of translate with the nuclei of ``PREDICTED``, as the command leaves it."""
    record = ImageRecord("images/a.tif", "a.tif", "print", "0001-a", status="computed")
    run = Run(folder, "20261121-083000-1a2b3c", task, "files:", "request", now(), [record], model={"name": "Toy"})
    folder.mkdir(parents=True)
    run.save()
    squares = [[np.array([(x, y), (x + 8, y), (x + 8, y + 8), (x, y + 8)], float)] for y, x, _ in PREDICTED]
    wide = [[ring * 1.0 + np.array([[-2, -2], [2, -2], [2, 2], [-2, 2]])] for (ring,) in squares]
    made = NewObjects(
        kind=kind,  # type: ignore[arg-type]
        result_key="key",
        keys=tuple("abcd"),
        outlines=Rings.of(wide if kind == "cell" else squares),
        nuclei=Rings.of(squares) if kind == "cell" else None,
        class_names=("Tumor: Positive", "Positive", "Tumor: Negative", "Negative"),
    )
    Results(ImageRef("a", "a.tif"), run.run_id, objects=(made,) if objects else ()).save(run.folder_of(record))
    return folder


@pytest.mark.parametrize("kind", ["detection", "cell"])
def test_runs_of_translate_are_read_like_class_images(tmp_path: Path, kind: str) -> None:
    class_image(tmp_path / "truth/a.png", TRUTH)
    class_image(tmp_path / "out/a.png", PREDICTED)
    folder = saved_run(tmp_path / "run", kind=kind)
    _, tables = evaluate_segmentation([str(folder), "out"], SegmentationOptions(truth=("truth",)))
    by_method = {m: part.drop(columns="method").reset_index(drop=True) for m, part in tables.metrics.groupby("method")}
    pd.testing.assert_frame_equal(by_method["Toy"], by_method["out"])


def test_outlines_from_qupath_are_truth_or_prediction(tmp_path: Path) -> None:
    """Nuclei classed by hand in QuPath, exported as GeoJSON; a region among them is no nucleus."""
    picture = class_image(tmp_path / "pictures/a.png", TRUTH)
    other = class_image(tmp_path / "out/a_Seg.png", PREDICTED)
    names = {RED: "Tumor: Positive", BLUE: "Negative"}
    areas = [
        GeoObject("annotation", area_geometry([ring]), class_name=name)
        for ring, name in [
            *((np.array([(x, y), (x + 8, y), (x + 8, y + 8), (x, y + 8)], float), names[c]) for y, x, c in TRUTH),
            (np.array([(0, 0), (70, 0), (70, 50), (0, 50)], float), "Tumor"),
        ]
    ]
    (tmp_path / "drawn").mkdir()
    write_geojson(tmp_path / "drawn/a.geojson", areas)
    (by_picture, by_outlines), (back,) = (
        [evaluate_segmentation([p], SegmentationOptions(truth=(t,)), resume=False)[1].metrics for p, t in pairs]
        for pairs in (
            [(str(other), str(picture)), (str(other), "drawn")],
            [("drawn", str(picture))],
        )
    )
    pd.testing.assert_frame_equal(by_picture, by_outlines)
    assert (back["dice"] == 1).all() and back["method"].unique().tolist() == ["drawn"]
    finished, _ = evaluate_segmentation(["drawn/a.geojson"], SegmentationOptions(truth=("drawn",)))
    with pytest.raises(InputError, match="how large"):
        finished.raise_for_errors()
    write_geojson(tmp_path / "drawn/a.geojson", areas[-1:])
    finished, _ = evaluate_segmentation([str(other)], SegmentationOptions(truth=("drawn",)))
    with pytest.raises(InputError, match="no areas of class"):
        finished.raise_for_errors()


def test_what_is_no_segmentation_is_refused(tmp_path: Path) -> None:
    class_image(tmp_path / "truth/a.png", TRUTH)
    options = SegmentationOptions(truth=("truth",))
    with pytest.raises(UsageError, match="run of impute"):
        evaluate_segmentation([str(saved_run(tmp_path / "other", task="impute"))], options)
    finished, _ = evaluate_segmentation([str(saved_run(tmp_path / "none", objects=False))], options)
    with pytest.raises(InputError, match="kept no nuclei"):
        finished.raise_for_errors()
    with pytest.raises(SourceError, match="is not there"):
        evaluate_segmentation(["nowhere"], options)
    with pytest.raises(InputError, match="no prediction has a truth"):
        evaluate_segmentation([str(class_image(tmp_path / "out/z.png", TRUTH))], options)
    class_image(tmp_path / "more/a.png", TRUTH)
    with pytest.raises(UsageError, match="same name"):
        evaluate_segmentation(["out"], SegmentationOptions(truth=("truth", "more")))
    for wrong in ({"truth": ()}, {"radius_um": 2.0}, {"um_per_px": 0.5}, {"radius_um": -1.0, "um_per_px": 1.0}):
        with pytest.raises(UsageError):
            SegmentationOptions(**{"truth": ("truth",), **wrong})  # type: ignore[arg-type]


def test_one_broken_picture_does_not_stop_the_others(tmp_path: Path) -> None:
    for name in "abc":
        class_image(tmp_path / f"truth/{name}.png", TRUTH)
    class_image(tmp_path / "out/a.png", PREDICTED)
    class_image(tmp_path / "out/b.png", PREDICTED, shape=(61, 80))
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(tmp_path / "out/c.png")
    finished, tables = evaluate_segmentation(["out"], SegmentationOptions(truth=("truth",)))
    assert set(tables.metrics["image"]) == {"a"}
    assert finished.run.finished is None
    errors = {image.name: image.error for image in finished.run.images}
    assert errors["a"] is None
    assert "80 x 61 pixels, its truth 80 x 60" in str(errors["b"])
    assert "no colour picture" in str(errors["c"])
    with pytest.raises(SomeImagesFailed, match="2 of 3"):
        finished.raise_for_errors()


def test_the_longest_name_is_the_truth() -> None:
    truths = ["6", "6_2", "16_2"]
    assert truth_of("6_2_Seg", truths) == "6_2"
    assert truth_of("6_3_Seg", truths) == "6"
    assert truth_of("6_2", truths) == "6_2"
    assert truth_of("66", truths) is None


def test_raw_outputs_are_told_by_their_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    picture = rng.integers(20, 90, (60, 80, 3)).astype(np.uint8)
    picture[10:20, 10:20] = (190, 30, 60)
    Image.fromarray(picture).save(tmp_path / "raw.png")
    found = read_classes(tmp_path / "raw.png")
    assert found.counts == (1, 0)
    assert (found.positive > 0).sum() == 100


def test_channels_have_the_range_of_their_type(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    class_image(tmp_path / "truth/a.png", TRUTH)
    class_image(tmp_path / "out/a_SegRefined.png", PREDICTED)
    measured = rng.integers(0, 65536, (60, 80)).astype(np.uint16)
    (tmp_path / "measured").mkdir()
    Image.fromarray(measured).save(tmp_path / "measured/a_DAPI.png")
    grey = (255 * (measured / 65535.0) ** 2).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "out/a_DAPI.png")
    options = SegmentationOptions(truth=("truth",), channels_truth=("measured",))
    finished, tables = evaluate_segmentation(["out"], options)
    (row,) = tables.channels.to_dict("records")
    difference = grey / 255.0 - measured / 65535.0
    assert (row["channel"], row["method"], row["case"]) == ("a_DAPI", "out", "a")
    assert row["mse"] == pytest.approx((difference**2).mean(), rel=1e-4)
    expected = structural_similarity(measured / 65535.0, grey / 255.0, data_range=1)  # with a range of 255 it is near 1
    assert row["ssim_uniform7"] == pytest.approx(expected, abs=1e-4) and expected < 0.97
    assert set(tables.summary[tables.summary["of"] == "channels"]["metric"]) >= {"mse", "ssim_gauss11"}
    assert (finished.run.path / "channels.csv").is_file()
    with pytest.raises(InputError, match="no picture is called"):
        evaluate_segmentation(["out/a_SegRefined.png"], options)


def test_inferred_channels_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are called as the image and the channel; here the truth is what the run should have made."""
    picture = immunohistochemistry()[150:310, 60:220]
    Image.fromarray(picture).save("tissue.png")
    command = [
        "translate",
        "--model",
        "deconvolution",
        "--files",
        "tissue.png",
        "--um-per-px",
        "0.5",
        "--out",
        "run",
        "-q",
    ]
    assert mxbridge([*command, "--outputs", "all"]) == 0
    class_image(tmp_path / "truth/tissue.png", TRUTH, shape=picture.shape[:2])
    brown = -(np.log10((picture + 1.0) / 256) @ np.linalg.inv(H_DAB.matrix))[..., 1]
    measured = np.clip(100 * brown, 0, 255).astype(np.uint8)
    (tmp_path / "measured").mkdir()
    Image.fromarray(measured).save(tmp_path / "measured/tissue_DAB.png")
    capsys.readouterr()
    files = ["--files", "run", "--truth", "truth", "--channels-truth", "measured"]
    assert mxbridge(["evaluate", "--task", "segmentation", *files, "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    (row,) = document["channels"]
    assert (row["channel"], row["method"], row["case"]) == ("tissue_DAB", "Deconvolution", "tissue")
    assert row["pearson"] > 0.99 and row["rmse"] < 0.05  # another white, hence not the same
    assert document["metrics"][0]["method"] == "Deconvolution"


def test_the_picture_shows_bias_and_limits() -> None:
    names, truth = ["$a", "b", "c", "d"], [10.0, 20.0, 30.0, float("nan")]
    figure = bland_altman({"One": (names, truth, [12.0, 19.0, 35.0, 1.0]), "Two": (names[:2], truth[:2], [1.0, 2.0])})
    one, _, two, other = figure.axes
    points, *lines = [line.get_ydata() for line in one.lines]
    assert list(points) == [2, -1, 5]
    assert [line[0] for line in lines] == [pytest.approx(y) for y in (2, 2 - 1.96 * 3, 2 + 1.96 * 3, 0)]
    assert [text.get_text() for text in one.texts] == ["?a", "b", "c"]
    assert len(two.lines) == 3 and other.get_title().startswith("2 images")  # the bias alone, and zero


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_image(tmp_path / "truth/a.png", TRUTH)
    class_image(tmp_path / "out/a_SegRefined.png", PREDICTED)
    command = ["evaluate", "--task", "segmentation", "--files", "out", "--truth", "truth"]
    assert mxbridge([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["percents"][0]["ihc_difference"] == 25
    assert {row["class"] for row in document["metrics"]} == {"positive", "negative", "mean", "nuclei"}
    assert mxbridge([*command, "--radius", "1", "--um-per-px", "0.5"]) == 0  # two pixels: as far as the first is off
    shown = capsys.readouterr().out
    assert "SegRefined, 1 image, percent" in shown and "off by 25.0 points" in shown
    for more in (
        ["--marker", "CD3"],
        ["--model", "x"],
        ["--views", "six"],
        ["--project", "p.qpproj"],
        ["--tile", "64"],
    ):
        assert mxbridge([*command, *more]) == 2
        assert "does not go with --task segmentation" in capsys.readouterr().err
    assert mxbridge(["evaluate", "--files", "out", "--truth", "truth"]) == 2
    assert "--task segmentation" in capsys.readouterr().err
    assert mxbridge(["evaluate", "--task", "colours", "--files", "out"]) == 2


@pytest.mark.shared
def test_the_baseline_on_real_samples(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No weights, no tuning to these two: far from the network's, far from nothing."""
    for name in ("6_2", "34_3"):
        strip = Image.open(shared / f"data/deepliif/test/{name}.png").convert("RGB")
        strip.crop((0, 0, 512, 512)).save(f"{name}.png")
    files = ["--files", "6_2.png", "--files", "34_3.png"]
    assert mxbridge(["translate", "--model", "deconvolution", *files, "--um-per-px", "0.25", "--out", "run", "-q"]) == 0
    capsys.readouterr()
    truth = str(shared / "data/deepliif/test_groundtruth")
    assert mxbridge(["evaluate", "--task", "segmentation", "--files", "run", "--truth", truth, "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = pd.DataFrame(document["metrics"]).set_index(["image", "class"])
    assert set(rows["method"]) == {"Deconvolution"}
    for image, dice in (("6_2", 0.45), ("34_3", 0.55)):
        assert rows.loc[(image, "mean"), "dice"] > dice
        assert rows.loc[(image, "mean"), "pixel_accuracy"] > 0.88
        assert rows.loc[(image, "positive"), "recall"] > 0.7
        assert 60 < rows.loc[(image, "nuclei"), "predicted_nuclei"] < 180
    assert all(row["ihc_difference"] < 25 for row in document["percents"])
