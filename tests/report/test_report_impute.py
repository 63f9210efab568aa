"""The report of impute: derived stains beside measured ones with one rule for white, wherever they lie, and the cells' means."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pytest

from mxbridge.cells import Cells
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.models.card import read_card
from mxbridge.models.maxim import from_card
from mxbridge.report.blocks import Group, Note, Picture, Pictures, Plot, Table
from mxbridge.report.build import build_report
from mxbridge.report.of_impute import SPREAD_COLUMNS, _joined, against_plot, distribution_plot, sections
from mxbridge.report.side_by_side import MOST_WINDOWS, WINDOW, Stain, brightest, measured_means, windows
from mxbridge.results import ImageRef, Results
from mxbridge.runs import Run
from mxbridge.stream.engine import Engine
from mxbridge.tasks.derived import FOLDER, place
from mxbridge.tasks.impute import ImputeOptions, impute, summary
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.report.shown_blocks import assert_says_the_same, column, context_of, of_kind, pixels, read_csv, shown
from tests.toy_maxim import write_model

NAMES = ("DAPI", "CK", "CD8")
SHAPE = (120, 160)
HOSTILE = "a <b>$\\x"


class Project(MemoryWorkspace):
    """A place that keeps derived images itself, as a project does."""

    home: Path | None = None

    def derived_folder(self, ref: ImageRef) -> Path | None:
        return None if self.home is None else self.home / ref.id[:1]


def stain_planes(seed: int) -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    waves = [0.5 + 0.45 * np.sin(y / (6 + k) + seed) * np.cos(x / (9 - k)) for k in range(3)]
    return (1000 * np.stack(waves)).astype(np.uint16)


def squares() -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return ((y // 16) * 10 + x // 16 + 1) * ((y % 16 > 3) & (x % 16 > 3))


def workspace(home: Path) -> Project:
    images = {name: (stain_planes(k), NAMES, 0.5) for k, name in enumerate((HOSTILE, "b"))}
    return Project(images, {HOSTILE: squares()}, runs_home=home)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CD8 imputed, which both images have; KI67 which none has. One image has cells. With the spread of six views."""
    folder = tmp_path_factory.mktemp("impute")
    path = write_model(folder / "any.safetensors", (*NAMES, "KI67"))
    card = read_card(path)
    assert card is not None
    options = ImputeOptions(("CD8", "KI67"), uncertainty=True)
    engine = Engine(device="cpu", workers=1)
    finished = impute(workspace(folder), [from_card(path, card)], engine, options, out=folder / "run", publish=False)
    assert not finished.errors
    return finished.run.path


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


def test_tables_say_what_the_command_says(done: Path) -> None:
    context = context_of(done, workspace(done))
    found = shown(sections(context))
    assert list(found) == ["imputed", "imputed-images", "imputed-cells"]
    (table,) = of_kind(found["imputed"], Table)
    rows = summary(Run.load(done))
    assert len(rows) == 8
    for got, expected in zip(table.rows, rows, strict=True):
        assert got[:3] == tuple(expected.values())[:3] and got[4] == "not known"
        assert got[3] == pytest.approx(expected["mean"], nan_ok=True)
    assert context.problems == []


def test_what_the_models_say_of_the_image(run: Path) -> None:
    record = Run.load(run)
    known = {"model": "M for CD8", "distance": 3.25, "limit": 1.5, "flagged": True, "unusual": [["CK", 4.0]]}
    record.images[0].counts |= {"familiarity": [known, "nonsense"], "unfamiliar": 1}
    record.save()
    (run / "spread.csv").write_text(
        "marker,source,pixels,spread,error\nCD8,six views,10,0.1,0.2\nCD8,six views,9,0.2,0.3\n"
    )
    found = shown(sections(context_of(run)))
    overview, distances = of_kind(found["imputed"], Table)
    assert column(overview, "Like the training")[0] == "no"
    assert distances.rows == ((HOSTILE, "M for CD8", 3.25, 1.5, "no", "CK (+4.0 sd)"),)
    assert any("1 image is unlike" in note.text for note in of_kind(found["imputed"], Note))
    (spread,) = of_kind(found["imputed-spread"], Table)
    assert assert_says_the_same(spread, read_csv(run / "spread.csv"), SPREAD_COLUMNS) == 5
    assert len(of_kind(found["imputed-spread"], Plot)) == 1


def field_of(picture: Picture) -> np.ndarray:
    """Without the legend below and the margins that it needs."""
    return pixels(picture)[: SHAPE[0], 40 : 40 + SHAPE[1]]


def test_measured_and_imputed_are_side_by_side(done: Path) -> None:
    found = shown(sections(context_of(done, workspace(done))))
    first, second = of_kind(found["imputed-images"], Pictures)
    assert (first.title, second.title) == ("Marker by marker", "Marker by marker")
    (cd8, pictures), (ki67, without) = first.choices
    assert (cd8, ki67) == ("CD8", "KI67")
    assert [p.caption.split(";")[0] for p in pictures][:2] == ["Measured", "Imputed"]
    assert [p.caption.split(";")[0] for p in without][:1] == ["Imputed"]
    assert len(pictures) == 3 and len(without) == 2, "the last is the spread"
    assert all(p.width == 240 and SHAPE[0] + 20 < p.height < SHAPE[0] + 90 for p in pictures), "legends are below"
    assert all((pixels(p)[SHAPE[0] + 4 : -4] < 60).any() for p in pictures), "with a scale bar"
    truth = np.clip(stain_planes(0)[2] / np.quantile(stain_planes(0)[2], 0.998), 0, 1)
    assert np.corrcoef(field_of(pictures[0])[..., 0].ravel(), truth.ravel())[0, 1] > 0.98


def test_equal_numbers_are_equal_greys() -> None:
    values = stain_planes(3)[None, 0]
    one, other = (
        LocalImage(name, (da.from_array(v),), (Channel("x"),), (0.5, 0.5), name)
        for name, v in (("derived", values), ("measured", np.minimum(values, 400)))
    )
    same = list(Stain("x", one, 0, None, one, 0).pictures(60_000))
    assert same[0].data == same[1].data
    measured, imputed = (field_of(p) for p in Stain("x", one, 0, None, other, 0).pictures(60_000))
    dark = values[0] < 390
    assert np.abs(measured - imputed)[dark].mean() < 4, "the failed stain has not its own white"
    assert imputed.max() > 245 > measured.max() + 60


def test_derived_images_are_found_where_the_project_keeps_them(run: Path, tmp_path: Path) -> None:
    place_of = workspace(tmp_path)
    place_of.home = tmp_path / "project"
    record = Run.load(run)
    for image in record.images:
        place(Results.load(record.folder_of(image)), record.folder_of(image), place_of)
    assert not list(run.glob(f"images/*/{FOLDER}/*"))
    context = context_of(run, place_of)
    found = shown(sections(context))
    assert len(of_kind(found["imputed-images"], Picture)) == 10 and context.problems == []
    left = next((tmp_path / "project" / "b").glob("KI67*"))
    shutil.rmtree(left)
    context = context_of(run, place_of)
    assert len(of_kind(shown(sections(context))["imputed-images"], Picture)) == 8
    assert [problem.split(":")[0] for problem in context.problems] == ["b"]


def test_without_the_images_the_run_folder_is_shown(run: Path) -> None:
    context = context_of(run)
    found = shown(sections(context))
    assert len(of_kind(found["imputed-images"], Picture)) == 8
    assert len(of_kind(found["imputed-cells"], Plot)) == 2, "distributions alone"
    shutil.rmtree(next(run.glob("images/0002*")) / FOLDER)
    (next(run.glob("images/0001*")) / "results.json").write_text("{")
    context = context_of(run)
    found = shown(sections(context))
    assert [g.title for g in of_kind(found["imputed-images"], Group)] == ["b"]
    assert not of_kind(found["imputed-images"], Picture)
    assert len(context.problems) >= 2
    text = build_report(run).read_text(encoding="utf-8")
    assert "a &lt;b&gt;$" in text and "<b>$" not in text


def test_cells_are_compared_with_what_was_measured(done: Path) -> None:
    place_of = workspace(done)
    pulled = place_of.pull(place_of.list()[0])
    assert pulled.cells is not None
    which, means = measured_means(pulled.image, 2, pulled.cells)
    labels, values = squares().ravel(), stain_planes(0)[2].ravel()
    expected = np.bincount(labels, values)[1:] / np.maximum(np.bincount(labels)[1:], 1)
    assert means == pytest.approx(expected[np.bincount(labels)[1:] > 0])
    assert len(which) == len(pulled.cells) == 80
    found = shown(sections(context_of(done, place_of)))
    drawn = of_kind(found["imputed-cells"], Plot)
    assert len(drawn) == 3, "CD8 was measured, KI67 was not"
    imputed = Results.load(Run.load(done).folder_of(Run.load(done).images[0])).measurements[0].values
    r = np.corrcoef(means, imputed)[0, 1]
    assert f"Pearson {r:.2f} over 80 cells of 1 image" in drawn[1].caption


def test_cells_are_joined_by_id() -> None:
    measured, imputed = _joined(("a", "b", "c"), np.array([1, np.nan, 3], np.float32), ("c", "x", "a"),
                                np.array([0, 1, 2]), np.array([30.0, 9.0, 10.0]))  # fmt: skip
    assert (measured.tolist(), imputed.tolist()) == ([30, 10], [3, 1])


class Spread(Cells):
    """A cell of 20 pixels every 1000, without any pixels of its own."""

    def bounds(self) -> np.ndarray:
        y, x = np.mgrid[0 : self.shape[0] : 1000, 0 : self.shape[1] : 1000].reshape(2, -1) + 10.0
        return np.column_stack([y, x, y + 20, x + 20])

    def raster(self, box: Box) -> np.ndarray:
        out = np.zeros(box.shape, np.int32)
        for k, (y0, x0, y1, x1) in enumerate(self.bounds().astype(int).tolist(), start=1):
            if box.y0 <= y0 and box.x0 <= x0 and y1 <= box.y1 and x1 <= box.x1:
                out[y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0] = k
        return out

    def any_in(self, box: Box) -> bool:
        return True

    def geometry_hash(self) -> str:
        return ""

    def take(self, which: np.ndarray) -> Cells:
        return replace(self)


def test_a_slide_is_not_read_whole() -> None:
    side, read = 60_000, [0]

    def block(block_info: dict) -> np.ndarray:
        (y0, y1), (x0, x1) = block_info[None]["array-location"][1:]
        read[0] += (y1 - y0) * (x1 - x0)
        return np.full((1, y1 - y0, x1 - x0), 7, np.uint16)

    chunks = ((1,), (512,) * (side // 512) + (side % 512,), (512,) * (side // 512) + (side % 512,))
    pixels_ = da.map_blocks(block, dtype=np.uint16, chunks=chunks, meta=np.zeros((0, 0, 0), np.uint16))
    image = LocalImage("slide", (pixels_,), (Channel("x"),), (0.25, 0.25), "slide")
    cells = Spread(tuple(map(str, range(3600))), (None,) * 3600, (side, side))
    assert len(windows(cells)) <= MOST_WINDOWS
    which, means = measured_means(image, 0, cells)
    assert 3 < len(which) <= MOST_WINDOWS and (means == 7).all()
    assert read[0] <= MOST_WINDOWS * (WINDOW + 1024) ** 2


def test_the_detail_is_where_it_is_bright() -> None:
    reduced = np.zeros((100, 200), np.float32)
    reduced[20:24, 150:154] = 9
    box = brightest(reduced, (1000, 2000), 100)
    assert box.shape == (100, 100)
    assert box.y0 <= 200 and box.y1 >= 240 and box.x0 <= 1500 and box.x1 >= 1540
    assert brightest(reduced[:, ::-1] * 0, (50, 2000), 100).shape == (50, 100)


def test_plots_of_many_images_stay_small() -> None:
    rng = np.random.default_rng(0)
    lines = [(f"{HOSTILE} {k}", rng.random(500, np.float32)) for k in range(100)]
    assert len(distribution_plot("M: $\\x mean", lines).svg) < 450_000
    pairs = [(rng.random(1000), rng.random(1000)) for _ in range(100)]
    assert len(against_plot("M: $\\x mean", pairs).svg) < 60_000
    constant = [("a", np.full(9, 2.0, np.float32)), ("empty", np.zeros(0, np.float32))]
    assert "svg" in distribution_plot("M: x mean", constant).svg
