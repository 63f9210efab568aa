"""Factors: exact quantiles of all pixels of all images, with the guards the peer lacks."""

from __future__ import annotations

import json
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nimbus_fields import image_of, oracle_field

from mxbridge.errors import BrokenFile, InputError, UnknownName, UsageError
from mxbridge.image import Channel, LocalImage
from mxbridge.models.normalization import FEW_PIXELS, NO_SIGNAL, Normalization, fit
from mxbridge.stream import quantile as quantile_module
from mxbridge.stream.quantile import foreground_quantiles

TYPES = [
    "uint8",
    "int8",
    "uint16",
    "int16",
    ">u2",
    "uint32",
    "int32",
    ">i4",
    "float16",
    "float32",
    ">f4",
    "float64",
    "bool",
]


@given(
    dtype=st.sampled_from(TYPES),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    quantile=st.one_of(st.sampled_from([0.999, 0.5, 1.0]), st.floats(0.001, 1)),
    chunks=st.integers(12, 40),
    block_bytes=st.integers(1, 5000),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_quantiles_are_those_of_numpy(
    dtype: str, shape: tuple[int, int, int], quantile: float, chunks: int, block_bytes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    spread = 10 ** rng.uniform(0, 8 if dtype in ("uint32", "int32", ">i4", "float32", ">f4", "float64") else 2)
    raw = np.maximum(rng.normal(0, spread, shape), -100 if np.dtype(dtype).kind != "u" else 0).astype(np.dtype(dtype))
    if np.dtype(dtype).kind == "f":
        raw[rng.random(shape) < 0.1] = np.nan
        raw[rng.random(shape) < 0.05] = np.inf
    image = LocalImage(
        "x",
        (da.from_array(raw, chunks=(1, chunks, chunks)),),
        tuple(Channel(str(c)) for c in range(shape[0])),
        None,
        "i",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantile_module, "BLOCK_BYTES", block_bytes)
        found = foreground_quantiles(image, range(shape[0]), quantile, readers=2)
    for plane, one in zip(raw, found, strict=True):
        values = plane.astype(np.float32) if plane.dtype.kind == "f" else plane
        values = values[np.isfinite(values) & (values > 0)].astype(np.float64)
        assert one.pixels == len(values)
        if len(values):
            assert one.quantile == pytest.approx(np.quantile(values, quantile), rel=1e-12)
        else:
            assert np.isnan(one.quantile)


@pytest.mark.parametrize(
    ("fovs", "file", "crop"),
    [
        (["fov_a", "fov_b"], "two_fovs", (None, None)),
        (["fov_a"], "fov_a_only", (None, None)),
        (["fov_a"], "fov_a_odd_250x300", (250, 300)),
    ],
)
def test_factors_of_the_peer(data: Path, fovs: list[str], file: str, crop: tuple) -> None:
    folder = data / "nimbus"
    images = []
    for fov in fovs:
        raw = oracle_field(folder, fov)[0][:, : crop[0], : crop[1]]
        image = image_of(raw)
        images.append((fov, image, {"CD3": 0, "FOXP3": 1}))
    found = fit(images)
    expected = Normalization.load(folder / f"pipeline/normalization_dict_{file}.json")
    assert found.factors == pytest.approx(expected.factors, rel=1e-12)
    assert found.flags == {}


def images(markers: str = "ABC") -> list[tuple[str, LocalImage, dict[str, int]]]:
    """Two images; A everywhere, B in five pixels of the first, C nowhere."""
    rng = np.random.default_rng(0)
    common = rng.integers(1, 1000, (2, 60, 60)).astype(np.uint16)
    rare = np.zeros((2, 60, 60), np.uint16)
    rare[0, 0, :5] = [10, 20, 30, 40, 50]
    empty = np.zeros((60, 60), np.uint16)
    return [
        (str(k), image_of(np.stack([common[k], rare[k], empty])), {m: "ABC".index(m) for m in markers})
        for k in range(2)
    ]


def test_guards_against_rare_and_absent_signal() -> None:
    """A marker present in one of two images is not halved by the other, and an absent one is not divided by 1e-8."""
    found = fit(images())
    assert found.factors["C"] == 1.0
    assert found.flags == {"B": FEW_PIXELS, "C": NO_SIGNAL}
    assert found.factors["B"] == pytest.approx(np.quantile([10, 20, 30, 40, 50], 0.999))
    assert found.details["0"]["B"]["foreground_px"] == 5
    assert "quantile" not in found.details["1"]["B"]
    assert fit(images("A"), quantile=1e-9).factors["A"] == 1.0  # never below one count


def test_per_image_factors(tmp_path: Path) -> None:
    found = fit(images("AB"), mode="per-image")
    for image_id, image, _ in images():
        plane = image.levels[0][0].compute()
        assert found.for_image(image_id, ["A"]) == [pytest.approx(np.quantile(plane[plane > 0], 0.999), rel=1e-12)]
    assert found.for_image("1", ["B"]) == [1.0]
    with pytest.raises(UnknownName, match="no image 'other'"):
        found.for_image("other", ["A"])
    pooled = fit(images("AB"))
    assert pooled.for_image("other", ["B", "A"]) == [pooled.factors["B"], pooled.factors["A"]]
    with pytest.raises(UnknownName, match="no marker 'Z'"):
        pooled.for_image("0", ["Z"])
    for one in (found, pooled):
        one.save(tmp_path / "n.json")
        assert Normalization.load(tmp_path / "n.json") == one


def test_images_may_have_different_markers() -> None:
    first, second = images("AB")
    found = fit([first, (*second[:2], {"A": 0})])
    assert set(found.details["1"]) == {"A"}
    assert set(found.factors) == {"A", "B"}
    assert fit([]).factors == {}


def test_impossible_quantiles() -> None:
    for quantile in (0, 1.5, float("nan")):
        with pytest.raises(UsageError, match="quantile"):
            fit(images("A"), quantile=quantile)


def test_progress_counts_images() -> None:
    seen: list[tuple[int, int]] = []
    fit(images("A"), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        '{"CD3": "abc"}',
        '{"CD3": 0}',
        '{"CD3": -5}',
        '{"CD3": NaN}',
        '{"CD3": null}',
        '{"CD3": true}',
        '{"CD3": "inf"}',
        '{"mxbridge_normalization": 2, "mode": "pooled"}',
        '{"mxbridge_normalization": 1, "mode": "pooled"}',
        '{"mxbridge_normalization": 1, "mode": "pooled", "quantile": 1, "factors": [], "per_image": {}, "flags": {}, "details": {}}',
        "[" * 100_000,
    ],
)
def test_files_that_are_no_normalisation(tmp_path: Path, content: str) -> None:
    path = tmp_path / "n.json"
    path.write_text(content)
    with pytest.raises(BrokenFile, match=r"n\.json"):
        Normalization.load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Normalization.load(tmp_path / "n.json")


def test_numbers_as_text(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text(json.dumps({"CD3": "2435.5", "CD8": 7}))
    assert Normalization.load(tmp_path / "n.json").factors == {"CD3": 2435.5, "CD8": 7.0}
