"""What an imputation has to beat: regressions by streamed sums are those of the whole set at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from mxbridge.errors import BrokenFile, InputError, SourceError, UnknownName
from mxbridge.image import Box
from mxbridge.metrics import baselines, moments
from mxbridge.metrics.baselines import MEAN, PENALTY, RIDGE, RIDGE_3X3, TRAIN_MEAN, ZERO, Baselines, with_margin

MARKERS = ("A", "B", "C", "D")


class Held:
    """An array as a source of pixels."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels.astype(np.float32)
        self.boxes: list[Box] = []

    @property
    def shape(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[2]

    def read(self, box: Box) -> np.ndarray:
        assert box == box.clip(self.shape)
        self.boxes.append(box)
        return self.pixels[:, box.y0 : box.y1, box.x0 : box.x1]


def field(seed: int, shape: tuple[int, int] = (90, 70)) -> np.ndarray:
    """Four markers, the last a mixture of the others and of what surrounds them."""
    rng = np.random.default_rng(seed)
    three = rng.random((3, *shape))
    fourth = 0.2 + 0.3 * three[0] - 0.1 * three[1] + 0.4 * uniform_filter(three[2], 3) + 0.02 * rng.random(shape)
    return np.concatenate([three, fourth[None]]).astype(np.float32)


def features_of(pixels: np.ndarray) -> np.ndarray:
    means = np.stack([uniform_filter(plane.astype(np.float64), 3) for plane in pixels])
    return np.concatenate([pixels, means])


def ridge_at_once(fields: list[np.ndarray], target: int, *, wide: bool) -> np.ndarray:
    """The regression by a plain solver: the penalty as rows of their own, the constant by centring."""
    every = np.concatenate([features_of(f).reshape(8, -1) for f in fields], axis=1).astype(np.float64)
    used = [k for k in range(8 if wide else 4) if k % 4 != target]
    mean = every.mean(axis=1)
    centred = every - mean[:, None]
    x = np.vstack([centred[used].T, np.sqrt(PENALTY) * np.eye(len(used))])
    y = np.concatenate([centred[target], np.zeros(len(used))])
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    return np.clip(np.tensordot(weights, features_of(fields[0])[used] - mean[used, None, None], 1) + mean[target], 0, 1)


def whole(pixels: np.ndarray) -> np.ndarray:
    return with_margin(Held(pixels), Box(0, 0, *pixels.shape[1:]))


def test_streamed_regressions_are_those_of_the_whole_set(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [field(1), field(2, (33, 50))]
    monkeypatch.setattr(baselines, "BLOCK", 32)
    monkeypatch.setattr(moments, "ROWS", 7)
    fitted = Baselines.fit([Held(f) for f in fields], MARKERS)
    assert fitted.pixels == 90 * 70 + 33 * 50
    for k, target in enumerate(MARKERS):
        predicted = fitted.predict(whole(fields[0]), target)
        np.testing.assert_allclose(predicted[RIDGE], ridge_at_once(fields, k, wide=False), atol=2e-6)
        np.testing.assert_allclose(predicted[RIDGE_3X3], ridge_at_once(fields, k, wide=True), atol=2e-6)
        others = [j for j in range(4) if j != k]
        np.testing.assert_allclose(predicted[MEAN], fields[0][others].mean(axis=0), atol=1e-6)
        assert not predicted[ZERO].any()
        np.testing.assert_allclose(
            predicted[TRAIN_MEAN], np.concatenate([f[k].ravel() for f in fields]).mean(), atol=1e-6
        )


def test_a_target_is_never_predicted_from_itself() -> None:
    fitted = Baselines.fit([Held(field(1))], MARKERS)
    changed = field(1)
    changed[3] = np.random.default_rng(5).random(changed.shape[1:])
    for name, plane in fitted.predict(whole(field(1)), "D").items():
        np.testing.assert_array_equal(plane, fitted.predict(whole(changed), "D")[name])


def test_neighbours_help_where_they_matter_and_pieces_give_the_whole() -> None:
    fitted, test = Baselines.fit([Held(field(1))], MARKERS), field(7)
    predicted = fitted.predict(whole(test), "D")
    assert np.abs(predicted[RIDGE_3X3] - test[3]).mean() < 0.3 * np.abs(predicted[RIDGE] - test[3]).mean()
    piece = fitted.predict(with_margin(Held(test), Box(10, 20, 40, 70)), "D")
    np.testing.assert_allclose(piece[RIDGE_3X3], predicted[RIDGE_3X3][10:40, 20:70], atol=1e-6)


def test_inputs_and_targets_of_a_single_marker_model() -> None:
    fitted = Baselines.fit([Held(field(1))], MARKERS, inputs=("C", "A"), targets=("D",))
    both = fitted.predict(whole(field(7)[[2, 0]]), "D")
    again = Baselines.fit([Held(field(1)[[2, 0, 3]])], ("C", "A", "D")).predict(whole(field(7)[[2, 0, 3]]), "D")
    for name, plane in both.items():
        np.testing.assert_allclose(plane, again[name], atol=1e-6)
    with pytest.raises(UnknownName, match="'B'"):
        fitted.predict(whole(field(7)[[2, 0]]), "B")
    with pytest.raises(UnknownName, match="CD8"):
        Baselines.fit([Held(field(1))], MARKERS, targets=("CD8",))


def test_without_an_input_regressions_are_those_on_the_others(tmp_path: Path) -> None:
    """Not the old weights on a mean in its place: a model sees what is missing, and must not win by that."""
    twins = field(1)
    twins[1] = twins[0] + 0.3 * (twins[1] - 0.5)
    fitted, test = Baselines.fit([Held(twins)], MARKERS), field(7)
    fitted.save(tmp_path / "b.npz")
    alone = Baselines.fit([Held(twins[1:])], MARKERS[1:]).predict(whole(test[1:]), "D")
    test[0] = np.nan
    for one in (fitted, Baselines.load(tmp_path / "b.npz")):
        gone = one.predict(whole(test), "D", absent={"A"})
        np.testing.assert_allclose(gone[RIDGE], alone[RIDGE], atol=1e-6)
        np.testing.assert_allclose(gone[RIDGE_3X3], alone[RIDGE_3X3], atol=1e-6)
    np.testing.assert_allclose(gone[MEAN], test[1:3].mean(axis=0), atol=1e-6)
    nothing = fitted.predict(whole(test), "D", absent={"A", "B", "C"})
    np.testing.assert_allclose(nothing[RIDGE_3X3], nothing[TRAIN_MEAN], atol=1e-6)


def test_without_training_there_are_two() -> None:
    plain = Baselines.untrained(MARKERS, MARKERS)
    assert plain.names == (ZERO, MEAN) and set(plain.predict(whole(field(1)), "B")) == {ZERO, MEAN}
    absent = plain.predict(np.full((4, 5, 5), np.nan, np.float32), "B", absent=set(MARKERS))
    assert absent[MEAN].shape == (3, 3)


def test_pixels_that_are_not_finite_are_left_out() -> None:
    pixels, hole = field(1), field(1)
    hole[1, 5, 5] = np.nan
    fitted = Baselines.fit([Held(hole)], MARKERS)
    assert fitted.pixels == 90 * 70 - 9
    np.testing.assert_allclose(fitted.ridge, Baselines.fit([Held(pixels)], MARKERS).ridge, atol=1e-2)
    with pytest.raises(InputError, match="no pixels"):
        Baselines.fit([Held(np.full((4, 9, 9), np.nan))], MARKERS)


def test_markers_without_signal_and_twins_are_no_trouble() -> None:
    pixels = field(1)
    pixels[0], pixels[1] = 0, pixels[2]
    fitted = Baselines.fit([Held(pixels)], MARKERS)
    assert np.isfinite(fitted.ridge).all() and np.isfinite(fitted.ridge_3x3).all()
    assert np.abs(fitted.predict(whole(pixels), "B")[RIDGE] - pixels[1]).max() < 0.01


def test_a_large_set_is_read_in_part_and_with_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "BLOCK", 16)
    pixels = field(1, (160, 160))
    one, same, other = (Baselines.fit([Held(pixels)], MARKERS, most_pixels=2000, seed=s) for s in (1, 1, 2))
    assert 2000 <= one.pixels < 2000 + 256
    np.testing.assert_array_equal(one.ridge_3x3, same.ridge_3x3)
    assert not np.array_equal(one.ridge_3x3, other.ridge_3x3)
    source = Held(pixels)
    Baselines.fit([source], MARKERS, most_pixels=2000)
    assert max(box.shape[0] * box.shape[1] for box in source.boxes) <= 18 * 18


def test_saved_and_loaded(tmp_path: Path) -> None:
    fitted = Baselines.fit(
        [Held(field(1))], MARKERS, targets=("D",), scaling={"D": {"transform": "linear", "high": 9.0}}
    )
    fitted.save(tmp_path / "baselines.npz")
    loaded = Baselines.load(tmp_path / "baselines.npz")
    assert (loaded.inputs, loaded.targets, loaded.pixels) == (MARKERS, ("D",), 6300)
    assert loaded.scaling == {"D": {"transform": "linear", "high": 9.0}}
    for name, plane in fitted.predict(whole(field(3)), "D").items():
        np.testing.assert_array_equal(plane, loaded.predict(whole(field(3)), "D")[name])


def test_broken_files_are_told(tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    Baselines.fit([Held(field(1))], MARKERS).save(good)
    with pytest.raises(SourceError, match="no baselines"):
        Baselines.load(tmp_path / "none.npz")
    with np.load(good) as stored:
        arrays = dict(stored)
    for name, bad in {
        "ridge": np.zeros((4, 4)),
        "train_mean": np.full(4, np.nan),
        "input_mean": np.array([None] * 4),
        "about": np.array("[]"),
        "ridge_3x3": np.zeros((4, 9), np.float32),
    }.items():
        np.savez(tmp_path / "bad.npz", **{**arrays, name: bad})
        with pytest.raises(BrokenFile, match=r"bad\.npz"):
            Baselines.load(tmp_path / "bad.npz")
    raw = good.read_bytes()
    for cut in (0, 10, len(raw) // 2, len(raw) - 5):
        (tmp_path / "cut.npz").write_bytes(raw[:cut])
        with pytest.raises(BrokenFile):
            Baselines.load(tmp_path / "cut.npz")
    np.savez_compressed(tmp_path / "bomb.npz", about=np.zeros(30_000_000))
    with pytest.raises(BrokenFile, match="unpacks"):
        Baselines.load(tmp_path / "bomb.npz")
