"""Pictures of reports: the right level and its means, cells where they are, legends that say what is seen, the right cells."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mxbridge.cells import OutlineCells, Rings
from mxbridge.formats.labels import scan_labels
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.report.blocks import Plot
from mxbridge.report.cell_pictures import (
    BACKGROUND,
    FINER,
    NO_VALUE,
    POSITIVE,
    Drawable,
    composite,
    discs,
    draw_lines,
    ellipses,
    grey_picture,
    score_colours,
    viridis,
)
from mxbridge.report.counts import (
    CLASSLESS,
    OTHERS,
    annotation_names,
    class_colours,
    class_counts,
    colours_of_cells,
    gathered,
    held_by,
)
from mxbridge.report.crops import card_side, cell_size, centred, densest, enlarged
from mxbridge.report.distributions import Distribution, plot_distribution
from mxbridge.report.encoding import encode
from mxbridge.report.gallery import SHOWN, Candidate, chosen, nearest
from mxbridge.report.legends import ColourBar, Legend, Swatch, with_legend
from mxbridge.report.pixels import ChannelPixels, TooLarge, picture_shape, read_reduced


def image_of(*levels: Any) -> LocalImage:
    arrays = tuple(level if isinstance(level, da.Array) else da.from_array(level) for level in levels)
    channels = tuple(Channel(f"c{k}") for k in range(arrays[0].shape[0]))
    return LocalImage("picture", arrays, channels, (0.5, 0.5), "identity")


def square(y: float, x: float, side: float) -> np.ndarray:
    return np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side)], float)


def unreadable(shape: tuple[int, int, int]) -> da.Array:
    def fail(block: np.ndarray) -> np.ndarray:
        raise AssertionError("full resolution was read")

    return da.zeros(shape, dtype=np.uint16, chunks=(1, 64, 64)).map_blocks(
        fail, dtype=np.uint16, meta=np.zeros((0, 0, 0), np.uint16)
    )


# --- pixels ---


def test_a_picture_is_made_of_the_coarsest_level_that_is_fine_enough() -> None:
    small = np.arange(2 * 40 * 60, dtype=np.uint16).reshape(2, 40, 60)
    image = image_of(unreadable((2, 160, 240)), small, small[:, ::4, ::4])
    seen = read_reduced(image, [1, 0], 30)
    assert seen.shape == (2, 20, 30)
    expected = small.reshape(2, 20, 2, 30, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(seen, expected[[1, 0]], rtol=1e-6)


def test_a_part_is_clipped_never_enlarged_and_read_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).integers(0, 4000, (1, 64, 48)).astype(np.float32)
    pixels[0, 3, 3] = np.nan
    image = image_of(pixels)
    monkeypatch.setattr("mxbridge.report.pixels.STRIP_PIXELS", 200)
    seen = read_reduced(image, [0], 1000, Box(-5, 10, 80, 200))
    np.testing.assert_array_equal(seen[0], np.nan_to_num(pixels[0, :, 10:]))
    whole = read_reduced(image, [0], 16)
    assert whole.shape == (1, 16, 12)
    np.testing.assert_allclose(whole[0], np.nan_to_num(pixels[0]).reshape(16, 4, 12, 4).mean(axis=(1, 3)), rtol=1e-5)


def test_a_huge_image_without_a_pyramid_is_refused_before_it_is_read() -> None:
    image = image_of(unreadable((1, 40_000, 40_000)))
    with pytest.raises(TooLarge, match="no pyramid level"):
        read_reduced(image, [0], 400)


def test_boxes_at_full_resolution_are_black_beyond_the_image() -> None:
    pixels = np.arange(1, 101, dtype=np.uint8).reshape(1, 10, 10)
    seen = ChannelPixels(image_of(pixels)).box(0, Box(-2, 7, 3, 12))
    assert seen.shape == (5, 5) and not seen[:2].any() and not seen[:, 3:].any()
    np.testing.assert_array_equal(seen[2:, :3], pixels[0, :3, 7:])


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(8, 600))
@settings(deadline=None, max_examples=40)
def test_shapes_of_pictures(height: int, width: int, longest: int) -> None:
    shape = picture_shape((height, width), longest)
    assert max(shape) == min(longest, max(height, width)) and min(shape) >= 1


# --- cells ---


def test_cells_from_outlines_and_from_labels_are_filled_alike() -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[4:16, 6:20], labels[20:36, 30:50] = 3, 9
    rings = Rings.of([[square_of(4, 6, 16, 20)], [square_of(20, 30, 36, 50)]])
    outlines = OutlineCells(("3", "9"), (None, None), (40, 60), rings)
    colours = np.array([(250, 0, 0), (0, 250, 0)], np.uint8)
    box = Box(0, 0, 40, 60)
    from_labels = (
        Drawable.of(scan_labels(da.from_array(labels), (40, 60), where="labels"))
        .painting(box, (20, 30))
        .filled(colours)
    )
    from_rings = Drawable.of(outlines).painting(box, (20, 30)).filled(colours)
    for picture in (from_labels, from_rings):
        assert tuple(picture[5, 6]) == (250, 0, 0) and tuple(picture[14, 20]) == (0, 250, 0)
        assert tuple(picture[0, 0]) == BACKGROUND and tuple(picture[18, 28]) == BACKGROUND
    assert np.abs(from_labels.astype(int) - from_rings).max(axis=2).astype(bool).mean() < 0.15  # rims only


def square_of(y0: float, x0: float, y1: float, x1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def test_a_part_draws_the_cells_of_that_part_under_their_own_numbers() -> None:
    rings = Rings.of([[square(10 * k, 10 * k, 8)] for k in range(10)])
    drawn = Drawable.of(rings)
    painting = drawn.painting(Box(50, 50, 60, 60), (100, 100))
    assert set(np.unique(painting.labels)) == {0, 6}
    colours = np.zeros((10, 3), np.uint8)
    colours[5] = (9, 99, 200)
    assert tuple(painting.filled(colours)[40, 40]) == (9, 99, 200)


def test_holes_stay_open_and_objects_without_points_are_nowhere() -> None:
    rings = Rings.of([[square(0, 0, 30), square(10, 10, 10)], []])
    painting = Drawable.of(rings).painting(Box(0, 0, 30, 30), (30, 30))
    assert painting.labels[15 * FINER, 15 * FINER] == 0 and painting.labels[3 * FINER, 3 * FINER] == 1
    assert 2 not in painting.labels


def test_of_cells_smaller_than_a_pixel_the_mean_colour_is_seen() -> None:
    rings = Rings.of([[square(100, 100, 2)], [square(104, 102, 2)], [square(900, 900, 2)]])
    painting = Drawable.of(rings).painting(Box(0, 0, 1000, 1000), (10, 10))
    assert not painting.labels.any() and len(painting.points) == 3
    picture = painting.filled(np.array([(200, 0, 0), (0, 100, 0), (0, 0, 50)], np.uint8))
    assert tuple(picture[1, 1]) == (100, 50, 0) and tuple(picture[9, 9]) == (0, 0, 50)
    marked = painting.outlined(np.zeros((10, 10, 3), np.uint8), np.array([False, False, True]), POSITIVE)
    assert marked[9, 9].any() and not marked[1, 1].any()


def test_only_the_chosen_cells_are_outlined_and_only_at_their_rims() -> None:
    rings = Rings.of([[square(5, 5, 20)], [square(35, 35, 20)]])
    painting = Drawable.of(rings).painting(Box(0, 0, 60, 60), (60, 60))
    marked = painting.outlined(np.zeros((60, 60, 3), np.uint8), np.array([False, True]), POSITIVE)
    assert not marked[:30, :30].any() and not marked[45, 45].any()
    assert marked[45, 35].max() > 150 and marked[35, 45].max() > 150


def test_a_huge_label_image_is_drawn_by_its_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((200, 200), np.int32)
    labels[50:150, 50:150] = 4
    cells = scan_labels(da.from_array(labels), (200, 200), where="labels")
    monkeypatch.setattr("mxbridge.report.cell_pictures.LABEL_PIXELS", 100)
    monkeypatch.setattr(type(cells), "raster", lambda *_: pytest.fail("all of a label image was read"))
    painting = Drawable.of(cells).painting(Box(0, 0, 200, 200), (50, 50))
    assert painting.labels[50, 50] == 1 and painting.labels[26, 26] == 0  # an ellipse has no corners
    assert abs((painting.labels > 0).sum() / FINER**2 * 16 / (np.pi * 50 * 50) - 1) < 0.1


def test_circles_have_the_area_of_the_cell() -> None:
    rings = discs(np.array([(20.0, 30.0)]), np.array([100.0]))
    (x, y), ring = rings.xy.mean(axis=0), rings.xy
    assert (round(x, 6), round(y, 6)) == (30, 20)
    area = abs(np.dot(ring[:, 0], np.roll(ring[:, 1], 1)) - np.dot(ring[:, 1], np.roll(ring[:, 0], 1))) / 2
    assert 90 < area <= 100
    assert len(ellipses(np.zeros((0, 4)))) == 0


def test_score_colours_follow_viridis_and_leave_unknown_ones_grey() -> None:
    colours = score_colours(np.array([0, 0.5, 1, np.nan, 7, -1], np.float32))
    table = viridis()
    assert [tuple(c) for c in colours] == [
        tuple(table[0]), tuple(table[128]), tuple(table[255]), NO_VALUE, tuple(table[255]), tuple(table[0]),
    ]  # fmt: skip


def test_the_factor_is_white() -> None:
    picture = grey_picture(np.array([[0, 50, 100, 400]], np.float32), 100)
    assert picture[0, 0, 0] == 0 and picture[0, 2, 0] == picture[0, 3, 0] == 255 and 0 < picture[0, 1, 0] < 255


def test_a_composite_adds_colours_and_keeps_backgrounds_black() -> None:
    planes = np.full((2, 8, 8), 10, np.float32)
    planes[0, 0, 0] = planes[1, 0, 0] = planes[0, 1, 1] = 100
    mixed = composite(planes, np.array([100, 100]), [(255, 0, 0), (0, 255, 0)])
    assert tuple(mixed[0, 0]) == (255, 255, 0) and tuple(mixed[1, 1]) == (255, 0, 0) and not mixed[5, 5].any()


def test_annotations_are_lines() -> None:
    drawn = draw_lines(
        np.zeros((50, 50, 3), np.uint8), Rings.of([[square(20, 20, 60)]]), [(255, 255, 0)], Box(0, 0, 100, 100)
    )
    assert drawn[10, 20].any() and drawn[40, 20].any() and not drawn[25, 25].any()


# --- legends and encoding ---


def test_the_threshold_is_marked_where_it_is() -> None:
    bar = ColourBar("score", viridis(), mark=0.25)
    drawn = with_legend(np.zeros((50, 400, 3), np.uint8), Legend(bar))
    strip = drawn[50:]
    dark = np.flatnonzero((strip[29:37] < 40).all(axis=(0, 2)))
    assert len(dark) and np.all(np.abs(dark - (6 + 387 * 0.25)) <= 3)


def test_legends_name_colours_and_widen_narrow_pictures() -> None:
    legend = Legend(swatches=tuple(Swatch(f"class {k} 日本\n", (200, k, 0)) for k in range(9)), um_per_px=(0.5, 0.5))
    drawn = with_legend(np.full((20, 30, 3), 7, np.uint8), legend)
    assert drawn.shape[1] == 240 and drawn.shape[0] > 20 + 3 * 22
    flat = drawn.reshape(-1, 3)
    assert all((flat == (200, k, 0)).all(axis=1).any() for k in range(9))


def test_the_scale_bar_is_as_long_as_it_says() -> None:
    drawn = with_legend(np.full((10, 400, 3), 255, np.uint8), Legend(um_per_px=(0.5, 0.5)))
    row = (drawn[10 + 3 + 10] < 60).all(axis=1)
    assert abs(int(row[:110].sum()) - 100) <= 2  # 50 µm at 0.5 µm per pixel


def test_pictures_get_poorer_rather_than_larger() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (120, 160, 3)).astype(np.uint8)
    rich, poor = encode(noise, "noise", budget=10**6), encode(noise, "noise", "caption", budget=1)
    assert len(poor.data) < len(rich.data) and (poor.width, poor.height, poor.kind) == (160, 120, "webp")
    with Image.open(BytesIO(poor.data)) as opened:
        assert opened.size == (160, 120) and opened.format == "WEBP"


# --- which cells ---


def slow_nearest(cells: list[str], scores: list[float], threshold: float) -> list[str]:
    known = [(abs(float(np.float32(s)) - threshold), c) for c, s in zip(cells, scores, strict=True) if not np.isnan(s)]
    return [c for _, c in sorted(known)][:SHOWN]


@given(
    st.lists(st.sampled_from([*np.linspace(0, 1, 11).tolist(), float("nan")]), max_size=70),
    st.floats(0.05, 0.95),
    st.randoms(),
)
@settings(deadline=None, max_examples=50)
def test_the_nearest_cells_are_those_and_the_same_in_any_order(
    scores: list[float], threshold: float, random: Any
) -> None:
    ids = [f"cell {k:03d}" for k in range(len(scores))]
    order = list(range(len(scores)))
    random.shuffle(order)
    shuffled = np.array([scores[k] for k in order], np.float32)
    found = nearest(0, [ids[k] for k in order], shuffled, shuffled, threshold)
    assert [c.cell for c in found] == slow_nearest(ids, scores, threshold)
    assert all(ids[order[c.row]] == c.cell for c in found)


def test_every_image_has_its_share_of_a_gallery() -> None:
    def cells(image: int, distances: list[float]) -> list[Candidate]:
        return [Candidate(d, image, f"{image}-{k:02d}", k, d, d) for k, d in enumerate(distances)]

    near, far, few = (
        cells(0, [k / 1000 for k in range(24)]),
        cells(1, [0.5 + k / 1000 for k in range(24)]),
        cells(2, [0.9]),
    )
    shown = chosen([near, far, few, []])
    assert len(shown) == SHOWN and [c.distance for c in shown] == sorted(c.distance for c in shown)
    by_image = [sum(c.image == k for c in shown) for k in range(3)]
    assert by_image == [15, 8, 1]  # a share of 8 each; what the third lacks goes to the nearest
    assert chosen([]) == [] and chosen([few]) == few


@given(st.lists(st.tuples(st.integers(0, 199), st.integers(0, 199)), min_size=1, max_size=30))
@settings(deadline=None, max_examples=40)
def test_the_densest_spot_has_as_many_as_any(points: list[tuple[int, int]]) -> None:
    centroids = np.array(points, float)
    box = densest(centroids, np.ones(len(points), bool), 40, (200, 200))

    def inside(b: Box) -> int:
        return int(((centroids >= (b.y0, b.x0)) & (centroids < (b.y1, b.x1))).all(axis=1).sum())

    assert box.shape == (40, 40) and box == box.clip((200, 200))
    assert inside(box) == max(inside(Box(y, x, y + 40, x + 40)) for y in range(0, 161, 20) for x in range(0, 161, 20))


def test_spots_of_nothing_in_particular() -> None:
    none = np.zeros((0, 2))
    assert densest(none, np.zeros(0, bool), 10, (100, 60)) == Box(45, 25, 55, 35)
    one = np.array([(90.0, 50.0), (np.nan, 2.0)])
    assert densest(one, np.array([False, True]), 20, (100, 60)) == Box(
        80, 40, 100, 60
    )  # an unknown place counts nowhere
    assert centred((5, 5), 40, (100, 20)) == Box(0, 0, 40, 20)


def test_crops_fit_their_cells() -> None:
    boxes = np.array([(0, 0, 10, 12), (0, 0, 10, 10), (0, 0, 60, 20), (np.nan,) * 4], float)
    assert cell_size(boxes) == 12 and cell_size(boxes[3:]) == 20
    assert card_side(boxes, 1) == 30 and card_side(boxes, 2) == 78
    assert enlarged(np.zeros((10, 20, 3), np.uint8), 80).shape == (40, 80, 3)


# --- numbers ---


def test_a_distribution_counts_every_cell_with_a_score_once() -> None:
    of = Distribution(0.5)
    of.add("a", np.array([0, 0.1, 1, np.nan], np.float32), np.array([1e-9, 0.1, 50, 1], np.float32))
    of.add("b", np.array([0.6], np.float32), None)
    assert of.cells == 4 and of.lines[0][1][0] == 1 and of.lines[0][1][-1] == 1
    assert of.against.sum() == 3 and of.against[0, 0] == 1 and of.against[-1, -1] == 1


@pytest.mark.parametrize("images", [1, 3, 12])
def test_plots_survive_any_name_and_stay_small(images: int) -> None:
    of = Distribution(0.37)
    scores = np.random.default_rng(2).random(500).astype(np.float32)
    for k in range(images):
        of.add(f"image $\\frac{{{k}}}$ <b>&", scores, scores)
    plot = plot_distribution("CD3 $x_{y <script>", of)
    assert isinstance(plot, Plot) and len(plot.svg) < 40_000 and "<script" not in plot.svg
    assert "0.37" in plot.alt and f"{500 * images} cells of {images} images" in plot.alt


def test_a_plot_without_intensities_or_threshold() -> None:
    of = Distribution(None)
    of.add("a", np.full(3, np.nan, np.float32), None)
    assert "threshold" not in plot_distribution("CD3", of, "probability").alt


def test_classes_are_counted_gathered_and_coloured() -> None:
    counts = class_counts(["B", "A", None, "A", "C", "", "D"])
    assert counts == {"A": 2, "B": 1, "C": 1, "D": 1, CLASSLESS: 2}
    few = gathered(counts, most=2)
    assert few == {"A": 2, "B": 1, OTHERS: 2, CLASSLESS: 2}
    colours = class_colours([*few, "Tumor: Positive"], {"B": -16711936})  # opaque green, as QuPath stores it
    assert colours["B"] == (0, 255, 0) and colours["Tumor: Positive"] == (200, 50, 50)
    assert len({colours["A"], colours["B"], colours[CLASSLESS], colours[OTHERS]}) == 4
    of_cells = colours_of_cells(["A", None, "D"], colours)
    assert [tuple(c) for c in of_cells] == [colours["A"], colours[CLASSLESS], colours[OTHERS]]


def test_annotations_hold_centroids() -> None:
    rings = Rings.of([[square(0, 0, 10), square(4, 4, 2)], [square(5, 5, 100)]])
    drawn = OutlineCells(("0123456789", "b"), ("Tumor", None), (100, 100), rings, names=(None, "gland"))
    held = held_by(drawn, np.array([(1, 1), (5, 5), (8, 8), (50, 50), (np.nan, 1)], float))
    assert [h.tolist() for h in held] == [[0, 2], [1, 2, 3]]
    assert annotation_names(drawn) == ["01234567", "gland"]


def test_a_composite_of_a_bright_flat_channel_is_no_error() -> None:
    """Factors may be those of another run: a channel may be brighter everywhere than what is white."""
    planes = np.full((1, 8, 8), 5000, np.float32)
    planes[0, 0, 0] = 9000
    mixed = composite(planes, np.array([100]), [(255, 0, 0)])
    assert tuple(mixed[0, 0]) == (255, 0, 0) and not mixed[5, 5].any()
