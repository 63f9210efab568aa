"""Tasks that stay inside annotations give there what they give for the whole image, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.cells import OutlineCells, Rings
from mxbridge.errors import InputError, NoCells, UnknownName
from mxbridge.formats.open_image import open_image
from mxbridge.image import Box
from mxbridge.models.card import read_card
from mxbridge.models.maxim import Maxim, from_card
from mxbridge.models.nimbus import Nimbus
from mxbridge.networks.fused_unet import FusedUNet
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.results import Results
from mxbridge.runs import Run
from mxbridge.stream.engine import Engine
from mxbridge.tasks.impute import ImputeOptions, impute
from mxbridge.tasks.over_images import Finished
from mxbridge.tasks.qc import QcOptions, qc
from mxbridge.tasks.regions import Region
from mxbridge.tasks.score import ScoreOptions, score
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.linked_stains import MARKERS, UM, save_model, scrambled, shared_mixing, stains
from tests.toy_maxim import write_model

HEIGHT, WIDTH = 300, 420
TUMOR = np.array([(210.5, 20.2), (400, 60), (330, 140), (250, 120)])
"""x, y: in the upper right; its outline cuts cells and tiles."""
STROMA = np.array([(10, 10), (60, 10), (60, 60), (10, 60)], float)


def drawn(*more: tuple[str, str | None, np.ndarray], shape: tuple[int, int] = (HEIGHT, WIDTH)) -> OutlineCells:
    objects = [("tumor-id", "Tumor", TUMOR), ("stroma-id", "Stroma", STROMA), *more]
    ids, classes, rings = zip(*objects, strict=True)
    return OutlineCells(ids=ids, classes=classes, shape=shape, outlines=Rings.of([[ring] for ring in rings]))


def squares() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.where((y % 16 < 13) & (x % 16 < 13), y // 16 * 100 + x // 16 + 1, 0).astype(np.int32)


def space(folder: Path, annotations: OutlineCells | None = None) -> MemoryWorkspace:
    rng = np.random.default_rng(3)
    labels = squares()
    pixels = rng.poisson(np.where(labels % 3 == 1, 900, 20), (3, HEIGHT, WIDTH)).astype(np.uint16)
    return MemoryWorkspace(
        {"a": (pixels, ("DAPI", "CD3", "CD8"), 0.5)},
        {"a": labels},
        annotations={"a": drawn() if annotations is None else annotations},
        runs_home=folder,
    )


@pytest.fixture(scope="module")
def nimbus() -> Nimbus:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Nimbus("Nimbus", 1.0, "seed 5", FusedUNet(ResidualUNet(3, 3).eval()))


@pytest.fixture
def maxim(tmp_path: Path) -> Callable[..., Maxim]:
    def make(inputs: Sequence[str], outputs: Sequence[str], **more: Any) -> Maxim:
        path = write_model(tmp_path / f"{'-'.join(outputs)}.safetensors", inputs, outputs, **more)
        card = read_card(path)
        assert card is not None
        return from_card(path, card)

    return make


def table_of(finished: Finished) -> pd.DataFrame:
    finished.raise_for_errors()
    return pd.read_parquet(finished.run.path / "cells.parquet").set_index("cell")


def inside_tumor(table: pd.DataFrame) -> np.ndarray:
    """By the definition: the cell's centroid lies in the outline (matplotlib's test, not ours)."""
    from matplotlib.path import Path as Outline

    return Outline(TUMOR).contains_points(table[["x_um", "y_um"]].to_numpy() / 0.5)


def results_of(run: Run) -> Results:
    return Results.load(run.folder_of(run.images[0]))


# --- the region itself ---


def _distance(point: np.ndarray, ring: np.ndarray) -> float:
    """From the closed ring; x, y."""
    a, b = ring, np.roll(ring, -1, axis=0)
    along = np.clip(((point - a) * (b - a)).sum(axis=1) / np.maximum(((b - a) ** 2).sum(axis=1), 1e-12), 0, 1)
    return float(np.hypot(*(a + along[:, None] * (b - a) - point).T).min())


@given(
    outline=st.lists(st.tuples(st.integers(-20, 130), st.integers(-20, 130)), min_size=3, max_size=8),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=60)
def test_boxes_that_hold_a_point_of_the_region_are_never_left_out(outline: list, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = OutlineCells(("r",), (None,), (100, 120), Rings.of([[np.array(outline, float)]]))
    region = Region(cells)
    points = rng.uniform((0, 0), (100, 120), (200, 2))
    held = region.holds(points)
    pixels = np.argwhere(np.ones((100, 120))) + 0.5
    painted = cells.raster(Box(0, 0, 100, 120)).ravel() > 0
    doubtful = pixels[
        region.holds(pixels) != painted
    ]  # the same rule as for the pixels of cells, but for what the line hits
    assert all(_distance(point[::-1], np.array(outline, float)) < 0.01 for point in doubtful)
    size = rng.uniform(0, 3, (len(points), 2))
    boxes = np.concatenate([points - size, points + size], axis=1)
    assert region.may_meet(boxes)[held].all()
    assert not region.holds(np.full((2, 2), np.nan)).any()


def test_far_boxes_are_left_out_also_on_a_slide() -> None:
    ring = np.array([(50_000, 40_000), (51_000, 40_000), (51_000, 41_000)], float)
    region = Region(OutlineCells(("r",), ("Tumor",), (90_000, 100_000), Rings.of([[ring]])))
    boxes = np.array([(40_100, 50_200, 40_110, 50_210), (45_000, 50_200, 45_010, 50_210), (np.nan,) * 4], float)
    assert region.may_meet(boxes).tolist() == [True, False, False]
    assert region.words == "1 annotation (Tumor)"


# --- score ---


@pytest.mark.parametrize("named", ["Tumor", "TUMOR-ID"])
def test_scores_inside_are_those_of_the_whole_image(nimbus: Nimbus, tmp_path: Path, named: str) -> None:
    engine = Engine(device="cpu", tile=96, workers=1)
    whole = score(space(tmp_path / "whole"), nimbus, engine, ScoreOptions(tta=False))
    part = score(space(tmp_path / "part"), nimbus, engine, ScoreOptions(tta=False, inside=(named,)))
    everywhere, found = table_of(whole), table_of(part)
    expected = everywhere[inside_tumor(everywhere)]
    assert 20 < len(expected) < 100
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-5)  # tiles are batched otherwise
    counts, all_counts = (finished.run.images[0].counts for finished in (part, whole))
    assert counts["cells"] == len(expected)
    assert counts["factors"] == all_counts["factors"]
    assert counts["tiles"] < all_counts["tiles"] / 2
    assert results_of(part.run).cell_ids == tuple(expected.index)


def test_a_region_enters_the_fingerprint_only_when_given(nimbus: Nimbus, tmp_path: Path) -> None:
    """Where the annotations lie counts, not how they were named."""
    engine, moved = Engine(device="cpu", tile=96), drawn(("more", "Tumor", STROMA + 100))

    def fingerprint(annotations: OutlineCells | None, *inside: str) -> str:
        place = space(tmp_path / "runs", annotations)
        run = score(place, nimbus, engine, ScoreOptions(("CD3",), tta=False, inside=inside)).run
        return run.images[0].fingerprint

    assert fingerprint(drawn()) == fingerprint(moved)
    assert fingerprint(drawn(), "Tumor") == fingerprint(moved, "tumor-id") != fingerprint(moved, "Tumor")
    assert fingerprint(drawn(), "Tumor") != fingerprint(drawn())


def test_maps_are_zero_outside_and_whole_inside(nimbus: Nimbus, tmp_path: Path) -> None:
    engine = Engine(device="cpu", tile=96)
    found = []
    for inside in ((), ("Tumor",)):
        options = ScoreOptions(("CD3",), tta=False, maps=True, inside=inside)
        run = score(space(tmp_path / f"runs{len(inside)}"), nimbus, engine, options).run
        results = results_of(run)
        path = run.folder_of(run.images[0]) / "derived" / results.derived[0].file
        found.append(np.asarray(open_image(path).levels[0])[0].astype(int))
    whole, part = found
    y, x = np.indices(part.shape)
    region = Region(drawn().take(np.array([0])))
    inside = region.holds(np.stack([y.ravel() + 0.5, x.ravel() + 0.5], axis=1) / 0.5).reshape(part.shape)
    assert inside.sum() > 1000
    assert np.abs(part - whole)[inside].max() <= 1
    assert whole[~inside].any()
    assert not part[~inside].any()


def test_what_cannot_be_scored_inside_is_said(nimbus: Nimbus, tmp_path: Path) -> None:
    engine = Engine(device="cpu")
    gap = ("gap-id", "Gap", np.array([(13.2, 13.2), (15.8, 13.2), (15.8, 15.8)]))
    away = ("away-id", "Away", STROMA + 1000)
    annotations = drawn(gap, away)
    for inside, error, words in (
        ("Tumour", UnknownName, "Did you mean 'Tumor'"),
        ("Gap", NoCells, "no cell has its centroid inside 1 annotation"),
        ("Away", InputError, "lie outside the image"),
    ):
        with pytest.raises(error) as caught:
            score(space(tmp_path, annotations), nimbus, engine, ScoreOptions(inside=(inside,))).raise_for_errors()
        assert words in f"{caught.value} {caught.value.hint}"
    bare = MemoryWorkspace({"a": (np.zeros((1, 64, 64), np.uint16), ("CD3",), 0.5)}, {"a": np.eye(64, dtype=np.int32)})
    with pytest.raises(InputError, match="has no annotations"):
        score(bare, nimbus, engine, ScoreOptions(inside=("Tumor",)), out=tmp_path / "run")


def test_another_region_replaces_what_the_first_gave(nimbus: Nimbus, tmp_path: Path) -> None:
    place, engine = space(tmp_path), Engine(device="cpu", tile=96)
    for inside in ("Tumor", "Stroma"):
        score(place, nimbus, engine, ScoreOptions(("CD3",), tta=False, inside=(inside,))).raise_for_errors()
    (published,) = place.published["a"]
    assert len(published.cell_ids) == 9  # the squares of STROMA, whose corner is cut at 10


# --- impute ---


def pixels_of(finished: Finished, number: int = 0) -> np.ndarray:
    finished.raise_for_errors()
    run = finished.run
    path = run.folder_of(run.images[0]) / "derived" / results_of(run).derived[number].file
    return np.asarray(open_image(path).levels[0])[0].astype(int)


@pytest.mark.parametrize("um", [0.5, 0.8])
def test_imputed_inside_is_as_in_the_whole_image(maxim: Callable[..., Maxim], tmp_path: Path, um: float) -> None:
    model = maxim(("DAPI", "CD8"), ("KI67",), um_per_px=um)
    engine = Engine(device="cpu", tile=288, workers=1)
    whole = impute(space(tmp_path / "whole"), [model], engine, ImputeOptions(("KI67",)))
    part = impute(space(tmp_path / "part"), [model], engine, ImputeOptions(("KI67",), inside=("Tumor",)))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    centres = np.stack([y.ravel(), x.ravel()], axis=1)
    inside = Region(drawn().take(np.array([0]))).holds(centres).reshape(HEIGHT, WIDTH)
    if um == 0.5:
        sure, outside = inside, ~inside
    else:  # at another scale the outline is as sharp as the model's pixels
        from scipy.ndimage import binary_dilation, binary_erosion

        sure, outside = binary_erosion(inside, iterations=3), ~binary_dilation(inside, iterations=3)
    here, there = pixels_of(part), pixels_of(whole)
    assert there[outside].max() > 5
    assert here[outside].max() == 0
    assert np.abs(here - there)[sure].max() <= 1
    everywhere, found = table_of(whole), table_of(part)
    expected = everywhere[inside_tumor(everywhere)]
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=0.01)
    tiles = [finished.run.images[0].counts["tiles"] for finished in (part, whole)]
    assert um > 0.5 or tiles[0] < tiles[1]  # at 0.8 µm the image is one tile
    assert results_of(part.run).provenance["inside"] == "1 annotation (Tumor)"


def test_what_is_imputed_first_is_imputed_everywhere(maxim: Callable[..., Maxim], tmp_path: Path) -> None:
    """Otherwise the second stain would be imputed from nothing where the region ends."""
    models = [maxim(("DAPI", "CD8"), ("CK",)), maxim(("DAPI", "CK"), ("KI67",), seed=1)]
    engine = Engine(device="cpu", tile=320, workers=1)
    options: dict[str, Any] = {"markers": ("KI67",), "chain": True}
    whole = impute(space(tmp_path / "whole"), models, Engine(device="cpu", tile=1024), ImputeOptions(**options))
    part = impute(space(tmp_path / "part"), models, engine, ImputeOptions(**options, inside=("Tumor",)))
    table, found = table_of(whole), table_of(part)
    pd.testing.assert_frame_equal(found, table[inside_tumor(table)], rtol=1e-4, atol=0.01)
    shown = {d.channels[0]: k for k, d in enumerate(results_of(part.run).derived)}
    assert (pixels_of(part, shown["CK (MAXIM)"]) > 0).mean() > 0.5
    assert (pixels_of(part, shown["KI67 (MAXIM)"]) > 0).mean() < 0.2


def test_a_region_without_cells_gets_its_channel(maxim: Callable[..., Maxim], tmp_path: Path) -> None:
    gap = ("gap-id", "Gap", np.array([(13.0, 10), (16, 10), (16, 200), (13, 200)]))
    finished = impute(
        space(tmp_path, drawn(gap)),
        [maxim(("DAPI", "CD8"), ("KI67",))],
        Engine(device="cpu", tile=224),
        ImputeOptions(("KI67",), inside=("Gap",)),
    )
    assert pixels_of(finished)[20:100, 13:16].any()
    assert results_of(finished.run).cell_ids == ()
    assert finished.run.images[0].counts["cells"] == 0


# --- qc ---


def test_only_blocks_inside_are_judged(tmp_path: Path) -> None:
    """A stain that failed in one half of the image is flagged by an annotation there, and not by one in the other half."""
    shape = (192, 384)
    model = save_model(
        tmp_path / "any.safetensors", shared_mixing(), validation=[stains(seed, (256, 256)) for seed in range(3)]
    )
    pixels = stains(10, shape)
    pixels[0, :, 192:] = scrambled(pixels[0])[:, 192:]
    halves = {"Left": (0, 192), "Right": (192, 384)}
    outlines = [[np.array([(a, 0), (b, 0), (b, 192), (a, 192)], float)] for a, b in halves.values()]
    dot = np.array([(1, 1), (9, 1), (9, 9)], float)
    annotations = OutlineCells(("l", "r", "d"), (*halves, "Dot"), shape, Rings.of([*outlines, [dot]]))
    place = MemoryWorkspace({"a": (pixels, MARKERS, UM)}, annotations={"a": annotations}, runs_home=tmp_path / "runs")
    used = {}
    for name in halves:
        finished, rows = qc(place, [model], Engine(device="cpu", tile=256), QcOptions(("A",), inside=(name,)))
        finished.raise_for_errors()
        (row,) = rows
        used[name] = row.blocks_used + row.blocks_skipped
        assert (row.verdict == "ok") == (name == "Left"), row
    assert used == {"Left": 9, "Right": 9}
    with pytest.raises(InputError, match="no block of 64 px has its centre inside"):
        qc(place, [model], Engine(device="cpu"), QcOptions(inside=("Dot",)))
