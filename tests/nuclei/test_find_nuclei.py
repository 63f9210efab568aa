"""Nuclei do not depend on blocks, and are those that a plain look at the whole image finds."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from seg_images import FormulaSlide, coloured, tangled

from mxbridge.cells import Rings
from mxbridge.errors import InputError, UsageError
from mxbridge.image import Box
from mxbridge.nuclei.find import find_nuclei
from mxbridge.nuclei.found import Nuclei
from mxbridge.nuclei.judge import judge
from mxbridge.nuclei.regions import Regions
from mxbridge.nuclei.separate import Separation
from mxbridge.nuclei.source import ArraySource, optical_density
from mxbridge.nuclei.thresholds import AUTO_SIZE, Thresholds

WITH_DENSITY = Thresholds(od_lower=1)


def plainly(source: ArraySource, noise: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels in order of first pixels and the foreground, by textbook functions."""
    red, green, blue = source.picture.astype(int)
    foreground = (red + blue > 120) & (green <= 80)
    padded = np.pad(~foreground, 1, constant_values=True)
    outside = ndimage.label(padded)[0]
    labels, n = ndimage.label(~(outside == outside[0, 0])[1:-1, 1:-1], np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    wanted = [k for k in range(1, n + 1) if sizes[k] > noise]
    first = {k: int(np.argmax(labels.ravel() == k)) for k in wanted}
    number = np.zeros(n + 1, int)
    for index, k in enumerate(sorted(wanted, key=first.__getitem__), 1):
        number[k] = index
    number[[k for k in range(1, n + 1) if sizes[k] <= noise]] = -1
    return number[labels], foreground


def values(nuclei: Nuclei) -> dict[str, np.ndarray]:
    return {f.name: getattr(nuclei, f.name) for f in dataclasses.fields(nuclei) if f.name != "atlas"}


def assert_same(one: Nuclei, two: Nuclei) -> None:
    for name, value in values(one).items():
        np.testing.assert_array_equal(value, values(two)[name], err_msg=name)


sides = st.integers(1, 40)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), sides, sides, st.integers(2, 45))
@example(3, 40, 40, 1)
def test_blocks_change_nothing(seed: int, height: int, width: int, block: int) -> None:
    source = tangled(seed, height, width)
    expected, foreground = plainly(source)
    nuclei = find_nuclei(source, WITH_DENSITY, block=block)
    np.testing.assert_array_equal(nuclei.atlas.raster(source, Box(0, 0, height, width)), expected)
    assert_same(nuclei, find_nuclei(source, WITH_DENSITY, block=64))
    red, _, blue = source.picture.astype(int)
    density = optical_density(source.original)
    for k in range(len(nuclei)):
        own = expected == k + 1
        y, x = np.nonzero(own)
        assert tuple(nuclei.first[k]) == (y[0], x[0])
        assert nuclei.size[k] == own.sum()
        assert nuclei.positive_px[k] == (own & foreground & (red >= blue)).sum()
        assert nuclei.negative_px[k] == (own & foreground & (red < blue)).sum()
        assert nuclei.marker_max[k] == source.marker_image[own].max()
        np.testing.assert_allclose(nuclei.marker_mean[k], source.marker_image[own].mean(), rtol=1e-12)
        np.testing.assert_allclose(nuclei.density_mean[k], density[own].mean(), rtol=1e-12)
        both = (red + blue)[own & foreground].sum()
        np.testing.assert_allclose(nuclei.probability[k], red[own & foreground].sum() / both, rtol=1e-12)
        np.testing.assert_allclose(nuclei.centroid[k], (y.mean() + 0.5, x.mean() + 0.5), rtol=1e-12)
        assert tuple(nuclei.bbox[k]) == (y.min(), x.min(), y.max() + 1, x.max() + 1)
        at_edge = y.min() == 0 or x.min() == 0 or y.max() == height - 1 or x.max() == width - 1
        assert nuclei.touches_edge[k] == at_edge
    np.testing.assert_array_equal(nuclei.marker_histogram, np.bincount(source.marker_image.ravel(), minlength=256))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(5, 60))
def test_parting_does_not_depend_on_blocks_and_loses_no_pixel(seed: int, block: int) -> None:
    source = tangled(seed, 70, 60)
    how = Separation(depth=0.5)
    parted = find_nuclei(source, Thresholds(), separate=how, block=block)
    assert_same(parted, find_nuclei(source, Thresholds(), separate=how, block=128))
    raster = parted.atlas.raster(source, Box(0, 0, 70, 60))
    np.testing.assert_array_equal(np.bincount(raster[raster > 0], minlength=len(parted) + 1)[1:], parted.size)
    whole, _ = plainly(source)
    np.testing.assert_array_equal(raster > 0, whole > 0)
    pairs = {(a, b) for a, b in zip(raster[raster > 0], whole[whole > 0], strict=True)}
    assert len(pairs) == len(parted)  # every piece lies in one nucleus


def two_discs(bridge: int) -> np.ndarray:
    y, x = np.mgrid[0:40, 0:80]
    mask = ((y - 20) ** 2 + (x - 22) ** 2 < 150) | ((y - 20) ** 2 + (x - 55) ** 2 < 150)
    return mask | ((abs(y - 20) < bridge) & (x > 22) & (x < 55))


def test_two_discs_with_a_bridge_are_parted_and_one_oval_is_not() -> None:
    rng = np.random.default_rng(1)
    discs = ArraySource(coloured(two_discs(2), rng))
    assert len(find_nuclei(discs, Thresholds())) == 1
    parted = find_nuclei(discs, Thresholds(), separate=Separation())
    assert len(parted) == 2
    assert parted.centroid[0, 1] < 35 < 43 < parted.centroid[1, 1]
    y, x = np.mgrid[0:40, 0:80]
    oval = ArraySource(coloured(((y - 20) / 12) ** 2 + ((x - 40) / 25) ** 2 < 1, rng))
    assert len(find_nuclei(oval, Thresholds(), separate=Separation())) == 1


def test_a_bright_line_between_two_nuclei_parts_them() -> None:
    mask = np.zeros((40, 80), bool)
    mask[10:30, 10:70] = True
    line = np.zeros((40, 80), np.float32)
    line[:, 38:42] = 255
    source = ArraySource(coloured(mask, np.random.default_rng(2)), border_image=line)
    assert len(find_nuclei(source, Thresholds(), separate=Separation())) == 2
    assert len(find_nuclei(source, Thresholds(), separate=Separation(border=0))) == 1
    assert len(find_nuclei(source, Thresholds(), separate=Separation(largest=50))) == 1


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (5, 7)])
@pytest.mark.parametrize("separate", [None, Separation()])
def test_empty_and_full_images(shape: tuple[int, int], full: bool, separate: Separation | None) -> None:
    source = ArraySource(coloured(np.full(shape, full), np.random.default_rng(0)), np.zeros(shape, np.uint8))
    nuclei = find_nuclei(source, Thresholds(), separate=separate, block=4)
    judged = judge(nuclei, Thresholds(marker="auto"), AUTO_SIZE["40x"])
    assert len(nuclei) == int(full and np.prod(shape) > 4)
    assert judged.keep.sum() == len(nuclei)  # one nucleus has no automatic size threshold


def test_large_noise_is_no_nucleus_and_hides_no_pixel() -> None:
    mask = np.zeros((30, 30), bool)
    mask[2:12, 2:12], mask[20:25, 20:25] = True, True
    source = ArraySource(coloured(mask, np.random.default_rng(0)))
    nuclei = find_nuclei(source, Thresholds(large_noise=100))
    assert nuclei.size.tolist() == [25]
    assert set(np.unique(nuclei.atlas.raster(source, Box(0, 0, 30, 30)))) == {-1, 0, 1}
    assert find_nuclei(source, Thresholds(large_noise=101)).size.tolist() == [100, 25]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_annotations_hold_what_a_raster_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outlines = [[rng.integers(0, 40, (rng.integers(3, 7), 2)) + 0.25 for _ in range(2)] for _ in range(3)]
    points = rng.integers(0, 40, (50, 2)) + 0.5
    pairs = {tuple(p) for p in Regions(Rings.of(outlines)).holding(points).tolist()}
    for p, (y, x) in enumerate(points):
        for r, rings in enumerate(outlines):
            crossings = 0
            for ring in rings:
                for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                    if (y1 > y) != (y2 > y):
                        crossings += x1 + (y - y1) * (x2 - x1) / (y2 - y1) > x
            assert ((p, r) in pairs) == (crossings % 2 == 1)


def test_a_nucleus_belongs_to_the_last_annotation_that_holds_its_centroid() -> None:
    slide = FormulaSlide((200, 200)).whole()
    squares = [[np.array([(a, a), (b, a), (b, b), (a, b)], float)] for a, b in ((0, 100), (60, 140), (150, 152))]
    regions = Regions.scaled(Rings.of([[2 * s for s in ring] for ring in squares]), (0.5, 0.5))
    nuclei = find_nuclei(slide, Thresholds(), inside=regions, block=50)
    inside = [np.all((nuclei.centroid >= a) & (nuclei.centroid < b), axis=1) for a, b in ((0, 100), (60, 140))]
    np.testing.assert_array_equal(nuclei.region, np.where(inside[1], 1, np.where(inside[0], 0, -1)))
    for k in range(2):
        np.testing.assert_array_equal(nuclei.in_region(k), np.flatnonzero(inside[k]))
    assert len(nuclei.in_region(2)) == 0
    assert (inside[0] & inside[1]).any()


@pytest.mark.parametrize("block", [16, 1024])
def test_the_marker_is_looked_at_inside_of_annotations_only(block: int) -> None:
    """So that it does not matter what was inferred elsewhere."""
    marker = np.random.default_rng(0).integers(0, 256, (50, 70), np.uint8)
    ring = np.array([(10, 5), (40, 5), (40, 30), (10, 30)], float)
    inside = Regions(Rings.of([[ring], [ring + 4]]))
    source = ArraySource(np.zeros((3, 50, 70), np.uint8), marker)
    found = find_nuclei(source, Thresholds(), inside=inside, block=block).marker_histogram
    held = np.zeros((50, 70), bool)
    held[5:30, 10:40] = held[9:34, 14:44] = True
    assert found is not None
    assert found.tolist() == np.bincount(marker[held], minlength=256).tolist()
    whole = find_nuclei(source, Thresholds(), block=block).marker_histogram
    assert whole is not None and whole.tolist() == np.bincount(marker.ravel(), minlength=256).tolist()


def test_wishes_without_the_pictures_they_need() -> None:
    source = ArraySource(coloured(two_discs(1), np.random.default_rng(0)))
    with pytest.raises(UsageError, match="optical density"):
        find_nuclei(source, Thresholds(od_upper=5))
    nuclei = find_nuclei(source, Thresholds())
    with pytest.raises(UsageError, match="marker"):
        judge(nuclei, Thresholds(marker=100), AUTO_SIZE["40x"])
    with pytest.raises(UsageError, match="optical density"):
        judge(nuclei, Thresholds(od_upper=5), AUTO_SIZE["40x"])
    with pytest.raises(InputError, match="80x40"):
        ArraySource(source.picture, np.zeros((3, 3), np.uint8))
    for wrong in ({"seg": 600}, {"noise": -1}, {"size": float("nan")}, {"size_upper": "auto"}, {"marker": -3}):
        with pytest.raises(UsageError):
            Thresholds(**wrong)
    with pytest.raises(UsageError):
        Separation(depth=0)


def test_memory_grows_with_nuclei_only() -> None:
    """A slide four times as high needs what its nuclei need, some hundred bytes each, and no more pixels."""
    peaks, counts = [], []
    find_nuclei(FormulaSlide((64, 64)), Thresholds(), block=256)
    for height in (512, 2048):
        slide = FormulaSlide((height, 1024))
        tracemalloc.start()
        counts.append(len(find_nuclei(slide, Thresholds(), block=256)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 1000 * (counts[1] - counts[0])


def test_a_formula_slide_in_blocks_is_the_slide_at_once() -> None:
    slide = FormulaSlide((900, 1100))
    whole = slide.whole()
    nuclei = find_nuclei(slide, Thresholds(), block=256)
    assert_same(nuclei, find_nuclei(whole, Thresholds(), block=2048))
    labels, _ = plainly(whole)
    assert len(nuclei) == labels.max() > 700
