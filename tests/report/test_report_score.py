"""The report of a scoring run: what it shows is what the run says, whatever else is within reach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mxbridge.cells import OutlineCells, Rings
from mxbridge.errors import BrokenFile
from mxbridge.formats.cell_tables import write_cell_tables
from mxbridge.report import of_score, scored_image
from mxbridge.report.blocks import Block, Gallery, Note, Picture, Pictures, Plot, Table
from mxbridge.report.context import RunContext
from mxbridge.results import ImageRef, Results
from mxbridge.runs import ImageRecord, Run
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.report.shown_blocks import leaves, of_kind
from tests.report.shown_blocks import pixels as opened

SIDE, CELL = 120, 12
MARKERS = ("CD3", "CD8 <b>$x_{</b>")
IDS = tuple(f"cell-{k:02d}" for k in range(36))
CORNERS = [(y * 20 + 4, x * 20 + 4) for y in range(6) for x in range(6)]
BRIGHT, CUT = 1000.0, 0.4


def outlines(scale: float = 1.0) -> Rings:
    return Rings.of(
        [[np.array([(x, y), (x + CELL, y), (x + CELL, y + CELL), (x, y + CELL)]) * scale] for y, x in CORNERS]
    )


def scores_of(image: str) -> np.ndarray:
    """``(markers, cells)``; the last cell has none."""
    first = np.linspace(0, 1, 36, dtype=np.float32)
    both = np.stack([first, first[::-1]]) if image == "a" else np.stack([first**2, first])
    both[:, -1] = np.nan
    return both


def table_of(image: str, **more: Any) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "image": image,
        "image_id": image,
        "cell": list(IDS),
        "class": [("Tumor" if k < 20 else None) for k in range(36)],
        "x_um": np.array([x + CELL / 2 for _, x in CORNERS], np.float32) * 0.5,
        "y_um": np.array([y + CELL / 2 for y, _ in CORNERS], np.float32) * 0.5,
        "area_um2": np.full(36, CELL**2 / 4, np.float32),
    }
    for marker, scores in zip(MARKERS, scores_of(image), strict=True):
        columns[f"Nimbus: {marker}"] = scores
        columns[f"Nimbus: {marker} view sd"] = scores * 0
        columns[f"{marker} mean"] = scores * np.float32(BRIGHT)
    return pd.DataFrame({**columns, **more})


def make_run(folder: Path, images: tuple[str, ...] = ("a", "b")) -> Run:
    records = [
        ImageRecord(
            n,
            n,
            f"print {n}",
            f"{k:04d}-{n}",
            "computed",
            counts={"cells": 36, "factors": dict.fromkeys(MARKERS, BRIGHT)},
        )
        for k, n in enumerate(images)
    ]
    run = Run(folder, "20261122-000000-abcdef", "score", "memory:", "request", "2026-11-22T00:00:00+00:00", records)
    run.options = {"cells": "cells", "thresholds_used": {MARKERS[0]: CUT}, "threshold": None, "set_class": False}
    for record in records:
        home = run.folder_of(record)
        write_cell_tables(table_of(record.id), home)
        Results(ImageRef(record.id, record.name), run.run_id).save(home)
    folder.mkdir(parents=True, exist_ok=True)
    run.save()
    return run


def pixels() -> np.ndarray:
    planes = np.full((2, SIDE, SIDE), 20, np.uint16)
    for y, x in CORNERS:
        planes[:, y : y + CELL, x : x + CELL] = 400
    return planes


def make_workspace(tmp_path: Path, ids: tuple[str, ...] = IDS) -> MemoryWorkspace:
    cells = OutlineCells(ids, (None,) * 36, (SIDE, SIDE), outlines())
    region = Rings.of([[np.array([(0, 0), (SIDE, 0), (SIDE, 40), (0, 40)], float)]])
    drawn = OutlineCells(("region-1",), ("Tumor",), (SIDE, SIDE), region, names=("upper third",))
    images = {n: (pixels(), MARKERS, 0.5) for n in ("a", "b")}
    return MemoryWorkspace(images, dict.fromkeys(images, cells), annotations={"a": drawn}, runs_home=tmp_path)


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(make_run(tmp_path / "run"), make_workspace(tmp_path))


@pytest.fixture(autouse=True)
def quick_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """What plots look like is tested where they are drawn."""
    monkeypatch.setattr(of_score, "plot_distribution", lambda title, *_: Plot("<svg/>", title))


def gone_through(context: RunContext) -> dict[str, list[Block]]:
    """Blocks of the sections, those of groups taken out of them."""
    return {section.id: list(leaves(section.blocks)) for section in of_score.sections(context)}


def by_marker(blocks: list[Block], number: int) -> dict[str, tuple[Picture, ...]]:
    """The pictures of the image with this number, by marker."""
    return dict([p for p in of_kind(blocks, Pictures) if len(p.choices) == len(MARKERS)][number].choices)


def is_orange(seen: np.ndarray) -> np.ndarray:
    """Pixels with a touch of the colour of positive cells; stains are grey, and WebP blurs colours."""
    return np.asarray(seen[..., 0] - seen[..., 2] > 60)


def test_everything_that_is_promised_is_there(context: RunContext) -> None:
    found = gone_through(context)
    assert list(found) == ["images", "distributions", "gallery", "counts"] and context.problems == []
    for number in (0, 1):
        pictures = by_marker(found["images"], number)
        assert list(pictures) == list(MARKERS) and all(len(p) == 3 for p in pictures.values())
    assert len(of_kind(found["distributions"], Plot)) == 2
    assert [g.title.split(":")[0] for g in of_kind(found["gallery"], Gallery)] == list(MARKERS)
    assert all(len(g.items) == 24 for g in of_kind(found["gallery"], Gallery))


def test_positive_cells_are_outlined_and_no_others(context: RunContext) -> None:
    stain, by_score, crop = by_marker(gone_through(context)["images"], 0)[MARKERS[0]]
    assert max(stain.width, crop.width) >= 240 and "threshold" in crop.caption
    seen = opened(stain)[:SIDE]
    left = (seen.shape[1] - SIDE) // 2  # narrow pictures have margins
    scores = scores_of("a")[0]
    for (y, x), score in zip(CORNERS, scores, strict=True):
        rim = seen[y : y + CELL, left + x : left + x + CELL]
        assert is_orange(rim).any() == bool(score >= CUT), (y, x, score)
    field = opened(by_score)[:SIDE]
    first, last = CORNERS[1], CORNERS[34]
    dark, light = (field[y + 6, left + x + 6] for y, x in (first, last))
    assert light.sum() > dark.sum() + 150  # viridis is the lighter the higher


def test_the_gallery_has_the_cells_nearest_the_threshold_of_every_image(context: RunContext) -> None:
    gallery = of_kind(gone_through(context)["gallery"], Gallery)[0]
    expected: list[tuple[float, str]] = []
    for name in ("a", "b"):
        near = sorted((abs(float(s) - CUT), i) for s, i in zip(scores_of(name)[0], IDS, strict=True) if s == s)
        expected += [(d, f"{i} {name}") for d, i in near[:12]]  # both have so many
    assert [f"{c.id} {c.lines[-1]}" for c in gallery.items] == [name for _, name in sorted(expected)]
    scores = {f"{i} {n}": s for n in ("a", "b") for i, s in zip(IDS, scores_of(n)[0], strict=True)}
    for card in gallery.items:
        told = float(card.lines[0].removeprefix("Score "))
        assert told == pytest.approx(scores[f"{card.id} {card.lines[-1]}"], abs=6e-4)
        assert float(card.lines[1].removeprefix("Mean ").replace("\u202f", "")) == pytest.approx(told * BRIGHT, abs=1)
        assert is_orange(opened(card.picture)).any() == (told >= CUT)
        assert card.picture.width <= 128 and len(card.picture.data) < 8000


def test_numbers_are_those_of_the_tables(context: RunContext) -> None:
    tables = {t.caption: t for t in of_kind(gone_through(context)["counts"], Table)}
    rows = {(r[0], r[1]): r[2:] for r in tables["Cells at or above the threshold"].rows}
    for name in ("a", "b"):
        for marker, scores, cut in zip(MARKERS, scores_of(name), (CUT, 0.5), strict=True):
            positive = int((scores >= np.float32(cut)).sum())
            assert rows[name, marker] == (cut, 35, positive, positive / 35)
    assert set(tables["Cells by class"].rows) == {
        (n, c, k, k / 36) for n in ("a", "b") for c, k in (("Tumor", 20), ("no class", 16))
    }
    (row,) = tables["Cells in annotations"].rows
    upper = scores_of("a")[:, :12]  # two rows of six
    shares = [float((s >= np.float32(c)).mean()) for s, c in zip(upper, (CUT, 0.5), strict=True)]
    assert row == ("a", "upper third", "Tumor", 12, *shares)


def test_the_threshold_decides_as_the_run_did_in_float32(context: RunContext) -> None:
    folder = context.run.folder_of(context.run.images[0])
    table = table_of("a")
    table[f"Nimbus: {MARKERS[0]}"] = np.float32(CUT)
    write_cell_tables(table, folder)
    tables = of_kind(gone_through(context)["counts"], Table)
    assert tables[0].rows[0][:5] == ("a", MARKERS[0], CUT, 36, 36)


def test_without_the_images_cells_are_circles_and_galleries_are_tables(tmp_path: Path) -> None:
    found = gone_through(RunContext(make_run(tmp_path / "run"), None, "the project is gone"))
    assert any("circles" in n.text for n in of_kind(found["images"], Note))
    pictures = by_marker(found["images"], 0)
    assert all(len(p) == 1 for p in pictures.values())  # by score only
    assert np.ptp(opened(pictures[MARKERS[0]][0])[:60], axis=(0, 1)).max() > 100
    galleries = of_kind(found["gallery"], Table)
    assert [len(t.rows) for t in galleries] == [24, 24] and not of_kind(found["gallery"], Gallery)
    assert len(of_kind(found["counts"], Table)) == 2


def test_cells_that_are_gone_are_told_and_the_others_drawn(tmp_path: Path) -> None:
    ids = (*(f"new-{k}" for k in range(6)), *IDS[6:])
    found = gone_through(RunContext(make_run(tmp_path / "run"), make_workspace(tmp_path, ids)))
    assert "6 of 36 cells are not in the table" in of_kind(found["images"], Note)[0].text
    lost = {row[1] for table in of_kind(found["gallery"], Table) for row in table.rows}
    assert lost <= set(IDS[:6])
    found = gone_through(
        RunContext(make_run(tmp_path / "other"), make_workspace(tmp_path, tuple(f"n{i}" for i in IDS)))
    )
    assert "circles" in of_kind(found["images"], Note)[0].text
    assert all(len(p) == 3 for p in by_marker(found["images"], 0).values())  # at their places in the image


def test_pixels_that_cannot_be_read_cost_only_their_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_workspace(tmp_path)
    pull = place.pull

    def broken(ref: ImageRef, cells: Any = "cells") -> Any:
        pulled = pull(ref, cells)
        if ref.id != "a":
            return pulled

        def fail(block: np.ndarray) -> np.ndarray:
            raise BrokenFile("a.tif", "is cut off")

        level = pulled.image.levels[0].map_blocks(fail, dtype=np.uint16, meta=np.zeros((0, 0, 0), np.uint16))
        return replace(pulled, image=replace(pulled.image, levels=(level,)))

    monkeypatch.setattr(place, "pull", broken)
    context = RunContext(make_run(tmp_path / "run"), place)
    found = gone_through(context)
    assert all(len(p) == 1 for p in by_marker(found["images"], 0).values())
    assert all(len(p) == 3 for p in by_marker(found["images"], 1).values())
    assert any("a.tif" in problem for problem in context.problems)
    assert {row[0] for table in of_kind(found["gallery"], Table) for row in table.rows} == {"a"}


def test_only_the_first_hundred_images_get_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mxbridge.report.context.MOST_PICTURED", 1)
    context = RunContext(make_run(tmp_path / "run"), make_workspace(tmp_path))
    found = gone_through(context)
    assert "first 1 of 2 images" in of_kind(found["images"], Note)[0].text
    assert len(of_kind(found["images"], Pictures)) == 2
    assert {c.lines[-1] for g in of_kind(found["gallery"], Gallery) for c in g.items} == {"a"}
    assert {row[0] for row in of_kind(found["counts"], Table)[0].rows} == {"a", "b"}


def test_markers_that_no_channel_is_called_are_shown_by_score_only(tmp_path: Path) -> None:
    place = make_workspace(tmp_path)
    place._images = {n: (p, ("x", "y"), um) for n, (p, _, um) in place._images.items()}
    found = gone_through(RunContext(make_run(tmp_path / "run"), place))
    assert all(len(p) == 1 for p in by_marker(found["images"], 0).values())


def test_a_panel_says_which_channel_a_marker_is(tmp_path: Path) -> None:
    place = make_workspace(tmp_path)
    place._images = {n: (p, ("x", "y"), um) for n, (p, _, um) in place._images.items()}
    panel = tmp_path / "panel.csv"
    panel.write_text(f"channel,name\nx,{MARKERS[0]}\ny,{MARKERS[1]}\n", encoding="utf-8")
    run = make_run(tmp_path / "run")
    run.options["panel"] = str(panel)
    found = gone_through(RunContext(run, place))
    assert all(len(p) == 3 for p in by_marker(found["images"], 0).values())


@pytest.mark.parametrize("damage", ["no scores", "garbage", "no cells", "no coordinates", "no ids", "words", "numbers"])
def test_damaged_tables(tmp_path: Path, damage: str) -> None:
    run = make_run(tmp_path / "run")
    folder = run.folder_of(run.images[0])
    if damage == "no scores":
        write_cell_tables(table_of("a")[["image", "image_id", "cell", "class"]], folder)
    elif damage == "garbage":
        (folder / "cells.parquet").write_bytes(b"PAR1 garbage")
    elif damage == "no ids":
        write_cell_tables(table_of("a").drop(columns=["cell", "class"]), folder)
    elif damage == "no cells":
        write_cell_tables(table_of("a").iloc[:0], folder)
    elif damage == "words":
        write_cell_tables(table_of("a").assign(**{f"{MARKERS[0]} mean": "bright"}), folder)
    elif damage == "numbers":
        write_cell_tables(table_of("a").assign(**{"class": 7}), folder)
    else:
        write_cell_tables(table_of("a").drop(columns=["x_um", "y_um"]), folder)
    for workspace in (make_workspace(tmp_path), None):
        context = RunContext(run, workspace)
        found = gone_through(context)
        assert bool(context.problems) == (damage in ("no scores", "garbage", "no ids", "words", "numbers"))
        assert {row[0] for row in of_kind(found["counts"], Table)[0].rows} >= {"b"}


def test_a_run_without_any_table_has_no_sections(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", images=())
    assert list(of_score.sections(RunContext(run, None))) == []


def test_a_run_whose_tables_are_all_broken_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.images[0].counts["factors"] = {MARKERS[0]: 1e-320, MARKERS[1]: float("inf")}
    assert [scored_image.factor_of(run.images[0], marker) for marker in MARKERS[:2]] == [None, None]
    for image in run.images:
        (run.folder_of(image) / "cells.parquet").write_bytes(b"no table")
    (only,) = of_score.sections(RunContext(run, None))
    assert only.id == "images" and "No table of cells" in next(iter(only.blocks)).text  # type: ignore[union-attr]


def test_sizes_shrink_with_the_number_of_pictures() -> None:
    sizes = [scored_image.Sizes.for_pictures(n) for n in (14, 200, 700)]
    assert [s.longest for s in sizes] == sorted({s.longest for s in sizes}, reverse=True)
    assert 700 * 2 * sizes[-1].budget * 4 / 3 < 25_000_000


def test_the_mixed_picture_has_the_same_markers_in_every_image(tmp_path: Path) -> None:
    tallies = {}
    for marker, positive in (("all", 10), ("half", 5), ("none", 0), ("few", 1)):
        tally = of_score.MarkerTally(marker, marker, 0.5, of_score.Distribution(0.5))
        tally.positive = [("a", "a", 10, positive), ("b", "b", 10, positive), ("c", "c", 0, 0)]
        tallies[marker] = tally
    assert sorted(tallies, key=lambda m: tallies[m].balance) == ["all", "none", "few", "half"]


def test_labels_that_cannot_be_read_cost_only_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise BrokenFile("mask.tif", "is cut off")

    monkeypatch.setattr("mxbridge.report.cell_pictures.Drawable.painting", fail)
    context = RunContext(make_run(tmp_path / "run"), make_workspace(tmp_path))
    found = gone_through(context)
    assert not of_kind(found["images"], Pictures) and any("mask.tif" in problem for problem in context.problems)
    assert len(of_kind(found["gallery"], Table)) == 2 and len(of_kind(found["counts"], Table)) == 3
