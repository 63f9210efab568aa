"""The report of a translating run: slides, nuclei and counts as the run left them."""

from __future__ import annotations

import shutil
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest

from mxbridge import api
from mxbridge.cells import OutlineCells, Rings
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.report import of_translate, slide_pixels
from mxbridge.report.blocks import Block, Gallery, Note, Pictures, Plot, Table
from mxbridge.report.context import RunContext
from mxbridge.report.counts import INTENSITIES
from mxbridge.report.slide_pixels import SlidePixels, map_picture
from mxbridge.report.translated_image import CLASSES_OF_SEG
from mxbridge.runs import Run
from mxbridge.stream.engine import Engine
from mxbridge.tasks.mapping.maps import Maps
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.report.shown_blocks import leaves, of_kind
from tests.report.shown_blocks import pixels as opened
from tests.toy_ihc import ihc, positives

SHAPE = (128, 160)
TOTAL, POSITIVE = positives(SHAPE)
SLIDE = ihc(SHAPE)
COLOURS = ("red", "green", "blue")


def workspace(home: Path) -> MemoryWorkspace:
    left = Rings.of([[np.array([(0, 0), (80, 0), (80, 128), (0, 128)], float)]])
    drawn = OutlineCells(("region-1",), ("Stroma",), SHAPE, left, names=("left",))
    return MemoryWorkspace({"a": (SLIDE, COLOURS, 0.5)}, annotations={"a": drawn}, runs_home=home)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over one slide whose nuclei are known."""
    place = workspace(tmp_path_factory.mktemp("translated"))
    return api.translate(place, "deconvolution", engine=Engine("cpu", workers=1)).run.path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    """A copy that a test may damage."""
    return Run.load(Path(shutil.copytree(finished, tmp_path / "run")))


@pytest.fixture(autouse=True)
def quick_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """What plots look like is tested where they are drawn."""
    monkeypatch.setattr(of_translate, "plot_distribution", lambda title, *_: Plot("<svg/>", title))


def gone_through(context: RunContext) -> dict[str, list[Block]]:
    return {section.id: list(leaves(section.blocks)) for section in of_translate.sections(context)}


def test_everything_that_is_promised_is_there(run: Run, tmp_path: Path) -> None:
    context = RunContext(run, workspace(tmp_path))
    found = gone_through(context)
    assert list(found) == ["nuclei", "images", "distributions", "gallery"] and context.problems == []
    (pictures,) = of_kind(found["images"], Pictures)  # small enough for one look
    captions = [p.caption for p in pictures.choices[0][1]]
    assert captions == ["Slide", "Nuclei by class", f"Inferred: Seg. {CLASSES_OF_SEG}", "Inferred: DAB"]
    assert len(of_kind(found["distributions"], Plot)) == 1
    (gallery,) = of_kind(found["gallery"], Gallery)
    assert len(gallery.items) == min(24, TOTAL)


def test_numbers_are_those_of_the_run(run: Run, tmp_path: Path) -> None:
    found = gone_through(RunContext(run, workspace(tmp_path)))
    whole, region = of_kind(found["nuclei"], Table)[0].rows
    assert whole[2:] == (
        "whole image",
        None,
        TOTAL,
        POSITIVE,
        TOTAL - POSITIVE,
        pytest.approx(POSITIVE / TOTAL, abs=1e-5),
    )
    nuclei = pd.read_parquet(run.path / "nuclei.parquet")
    inside = nuclei[nuclei["x_px"] < 80]
    assert region[2:6] == ("left", "Stroma", len(inside), int((inside["class"] == "Positive").sum()))
    classes = {row[2]: row[3] for row in of_kind(found["distributions"], Table)[0].rows}
    assert classes == {"Positive": POSITIVE, "Negative": TOTAL - POSITIVE}


def test_nuclei_are_outlined_in_the_colour_of_their_class(run: Run, tmp_path: Path) -> None:
    plain = MemoryWorkspace(
        {"a": (SLIDE, COLOURS, 0.5)}, runs_home=tmp_path
    )  # lines of annotations would lie in between
    found = gone_through(RunContext(run, plain))
    slide, drawn, *_ = of_kind(found["images"], Pictures)[0].choices[0][1]
    scale = slide.width / SHAPE[1]
    side = round(SHAPE[0] * scale)
    before, after = opened(slide)[:side], opened(drawn)[:side]
    changed = np.abs(before - after).sum(axis=2) > 100
    for nucleus in pd.read_parquet(run.path / "nuclei.parquet").rename(columns={"class": "called"}).itertuples():
        y, x, reach = int(nucleus.y_px * scale), int(nucleus.x_px * scale), int(np.sqrt(nucleus.area_px) * scale)
        here = np.s_[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach]
        rim = after[here][changed[here]]
        far = {name: np.median(np.abs(rim - colour).sum(axis=1)) for name, colour in INTENSITIES.items()}
        assert len(rim) > 5 and min(far, key=lambda name: far[name]) == nucleus.called, far


def test_without_the_slide_inferred_images_and_tables_stay(run: Run) -> None:
    context = RunContext(run, None, "the project is gone")
    found = gone_through(context)
    (pictures,) = of_kind(found["images"], Pictures)
    assert [p.caption for p in pictures.choices[0][1]] == [
        "Nuclei by class",
        f"Inferred: Seg. {CLASSES_OF_SEG}",
        "Inferred: DAB",
    ]
    (table,) = of_kind(found["gallery"], Table)
    assert len(table.rows) == min(24, TOTAL) and not of_kind(found["gallery"], Gallery)


def test_without_outlines_nuclei_are_circles_at_their_places(run: Run, tmp_path: Path) -> None:
    folder = run.folder_of(run.images[0])
    (folder / "values.npz").write_bytes(b"damaged")
    shutil.rmtree(folder / "maps.zarr")
    context = RunContext(run, workspace(tmp_path))
    found = gone_through(context)
    assert "circles" in of_kind(found["images"], Note)[0].text
    assert [p.caption for p in of_kind(found["images"], Pictures)[0].choices[0][1]] == ["Slide", "Nuclei by class"]
    assert len(context.problems) == 2 and len(of_kind(found["gallery"], Gallery)[0].items) == min(24, TOTAL)


@pytest.mark.parametrize("damage", ["garbage", "other columns", "gone", "none found", "record", "words"])
def test_damaged_tables(run: Run, tmp_path: Path, damage: str) -> None:
    file = run.folder_of(run.images[0]) / "nuclei.parquet"
    table = pd.read_parquet(file)
    if damage == "garbage":
        file.write_bytes(b"PAR1")
    elif damage == "gone":
        file.unlink()
    elif damage == "other columns":
        table[["image", "nucleus"]].to_parquet(file)
    elif damage == "none found":
        table.iloc[:0].to_parquet(file)
    elif damage == "words":
        table.assign(x_px="left").to_parquet(file)
    else:
        run.images[0].counts["found"] = [{"prefix": 3}, "nonsense"]
    for place in (workspace(tmp_path), None):
        context = RunContext(run, place)
        found = gone_through(context)
        assert ("nuclei" in found) == (damage != "record")
        assert ("gallery" in found) == (damage == "record")
        assert place is None or of_kind(found["images"], Pictures)


def test_the_record_of_an_early_version(run: Run) -> None:
    """It knew nothing of ids of annotations and of some thresholds."""
    (found,) = run.images[0].counts["found"]
    for score in found["scores"]:
        for name in ("annotation_id", "size_thresh_upper", "marker_thresh"):
            score.pop(name)
    context = RunContext(run, None)
    counts, thresholds = of_kind(gone_through(context)["nuclei"], Table)
    assert len(counts.rows) == 2 and len(thresholds.rows) == 1 and context.problems == []
    found["scores"][0]["num_pos"] = "many"
    assert "nuclei" not in gone_through(context) and "num_pos is no number" in context.problems[0]


def test_a_larger_slide_is_also_shown_where_nuclei_are_undecided(tmp_path: Path) -> None:
    shape = (200, 520)
    place = MemoryWorkspace({"b": (ihc(shape), COLOURS, 0.5)}, runs_home=tmp_path)
    run = api.translate(place, "deconvolution", engine=Engine("cpu", workers=1)).run
    whole, part = of_kind(gone_through(RunContext(run, place))["images"], Pictures)
    assert "undecided" in part.title and [len(p) for _, p in (*whole.choices, *part.choices)] == [4, 4]


# --- colours ---


def test_a_slide_of_16_bits_is_shown_in_8() -> None:
    deep = (SLIDE.astype(np.uint16) << 4) + 3
    image = LocalImage("deep", (da.from_array(deep),), tuple(Channel(c) for c in COLOURS), None, "x", rgb=True)
    seen = SlidePixels(image).picture(10_000)
    assert np.abs(seen.astype(int) - np.moveaxis(SLIDE, 0, -1)).max() <= 1
    part = SlidePixels(image).picture(10_000, Box(10, 20, 40, 90))
    np.testing.assert_array_equal(part, seen[10:40, 20:90])


def test_a_palette_is_looked_up_not_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.zeros((1, 40, 40), np.uint8)
    numbers[0, :, 20:] = 2
    palette = np.array([(250, 0, 10), (1, 1, 1), (10, 0, 250)], np.uint8).T
    image = LocalImage("few colours", (da.from_array(numbers),), (Channel("index"),), None, "x")
    monkeypatch.setattr(slide_pixels, "colours_of", lambda _: slide_pixels.Colours(image, (0,), (), palette))
    monkeypatch.setattr(slide_pixels, "STRIP_ROWS", 7)
    seen = SlidePixels(image).picture(10)
    assert seen.shape == (10, 10, 3)
    assert (seen[:, :5] == (250, 0, 10)).all() and (seen[:, 5:] == (10, 0, 250)).all()


def test_parts_of_inferred_images_and_those_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    planes = np.random.default_rng(3).integers(0, 255, (3, 60, 80)).astype(np.uint8)
    maps = Maps.of_arrays({"Seg": planes}, (0.5, 0.5))
    part = map_picture(maps, "Seg", 1000, Box(10, 20, 40, 60))
    np.testing.assert_array_equal(part, np.moveaxis(planes[:, 10:40, 20:60], 0, -1))
    monkeypatch.setattr(slide_pixels, "STRIP_ROWS", 8)
    small = map_picture(maps, "Seg", 20)
    assert small is not None
    expected = planes.reshape(3, 15, 4, 20, 4).mean(axis=(2, 4))
    assert np.abs(np.moveaxis(small, -1, 0) - expected).max() <= 1
    monkeypatch.setattr(slide_pixels, "LARGEST_MAPS", 1000)
    assert map_picture(maps, "Seg", 20) is None and map_picture(maps, "Seg", 20, Box(0, 0, 20, 20)) is not None
    assert map_picture(maps, "Seg", 20, Box(100, 100, 120, 120)) is None
