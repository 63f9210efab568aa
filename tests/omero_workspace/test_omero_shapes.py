"""Shapes of ROIs as rings: every way in which OMERO spells them, and texts that mean harm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import InputError
from mxbridge.workspaces.omero.objects import roi_shapes

NUMBERS = st.floats(-1e6, 1e6).map(lambda v: round(v, 3))
RINGS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=12).filter(lambda p: p[0] != p[-1])


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


@settings(deadline=None, max_examples=60)
@given(
    RINGS, st.sampled_from([",", ", ", " ,"]), st.sampled_from([" ", "  ", "\n", ", "]), st.booleans(), st.booleans()
)
def test_points_are_read_in_every_spelling(
    points: list[tuple[float, float]], comma: str, space: str, old: bool, closed: bool
) -> None:
    spelt = space.join(f"{x}{comma}{y}" for x, y in [*points, *points[:1]][: len(points) + closed])
    text = f"points[{spelt}] points1[{spelt}] points2[{spelt}] mask[{','.join('0' * len(points))}]" if old else spelt
    (ring,) = roi_shapes.polygon(text)
    assert ring.tolist() == [list(p) for p in points]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "0 points"),
        ("1,1 2,2", "2 points"),
        ("1,1 2,2 1,1", "2 points"),
        ("1,1 2,2 3", "not pairs"),
        ("points[1,1 2,2 3,3", "not numbers"),
        ("1,1 2,2 nan,3", "not numbers"),
        ("1,1 2,2 1_0,3", "not numbers"),
        ("1,1 2,2 0x10,3", "not numbers"),
        ("1,1 2,2 1e999,3", "no pixels"),
        ("1,1 2,2 3,1e9", "no pixels"),
        ("1,1 2,2 e,-", "not numbers"),
        ("1,1 2,2 ٣,3", "not numbers"),
        ("__import__('os')", "not numbers"),
    ],
)
def test_what_is_no_polygon_is_said_so(text: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        roi_shapes.polygon(text)


def test_endless_texts_are_refused_without_looking_at_them() -> None:
    with pytest.raises(InputError, match="characters"):
        roi_shapes.polygon("9" * (roi_shapes.TEXT_LIMIT + 1))
    with pytest.raises(InputError):
        roi_shapes.polygon("points[" * 100_000)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=60))
def test_any_text_is_a_ring_or_an_input_error(text: str) -> None:
    try:
        (ring,) = roi_shapes.polygon(text)
    except InputError:
        return
    assert ring.shape[1] == 2 and len(ring) >= 3 and np.isfinite(ring).all()


@settings(deadline=None, max_examples=40)
@given(NUMBERS, NUMBERS, st.floats(1, 3000), st.floats(1, 3000))
def test_ellipses_have_their_area_and_their_centre(x: float, y: float, rx: float, ry: float) -> None:
    (ring,) = roi_shapes.ellipse(x, y, rx, ry)
    rim = math.pi * 2 * max(rx, ry)
    assert 0 <= math.pi * rx * ry - _area(ring - (x, y)) <= 0.03 * rim + 1e-6
    assert np.allclose(ring.mean(axis=0), (x, y), atol=1e-3)


def test_rectangles_and_sizes_that_are_none() -> None:
    assert roi_shapes.rectangle(1, 2, 3, 4)[0].tolist() == [[1, 2], [4, 2], [4, 6], [1, 6]]
    for width, height in ((0, 4), (3, -4), (math.nan, 4), (3, math.inf)):
        with pytest.raises(InputError):
            roi_shapes.rectangle(0, 0, width, height)
        with pytest.raises(InputError):
            roi_shapes.ellipse(0, 0, width, height)


def test_transforms_move_turn_and_stretch() -> None:
    square = roi_shapes.rectangle(0, 0, 2, 1)
    (turned,) = roi_shapes.moved(square, (0, 1, -1, 0, 10, 20))  # a quarter turn: x' = -y + 10, y' = x + 20
    assert turned.tolist() == [[10, 20], [10, 22], [9, 22], [9, 20]]
    (sheared,) = roi_shapes.moved(square, (1, 0, 0.5, 2, 0, 0))  # x' = x + y / 2, y' = 2 y
    assert sheared.tolist() == [[0, 0], [2, 0], [2.5, 2], [0.5, 2]]
    for matrix in (
        (0, 0, 0, 0, 1, 1),
        (math.nan, 0, 0, 1, 0, 0),
        (1, 0, 0, 1, math.inf, 0),
        (1e300, 0, 0, 1e300, 0, 0),
    ):
        with pytest.raises(InputError):
            roi_shapes.moved(square, matrix)


@pytest.mark.parametrize(("x", "inside"), [(-2, True), (-3, False), (9.5, True), (10, False)])
def test_what_lies_wholly_outside_the_image_is_known(x: float, inside: bool) -> None:
    assert roi_shapes.meets(roi_shapes.rectangle(x, 3, 3, 3), (20, 10)) is inside


def test_noise_has_no_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi_shapes, "EDGE_LIMIT", 100)
    noise = np.indices((20, 20)).sum(axis=0) % 2 == 0
    with pytest.raises(InputError, match="noise"):
        roi_shapes.traced(noise)
    assert len(roi_shapes.traced(noise[:5, :5])) > 1
