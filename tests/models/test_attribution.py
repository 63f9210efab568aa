"""Integrated gradients against the published program's numbers, and what must hold of any attribution."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mxbridge.errors import InputError, UnknownName, UsageError
from mxbridge.models.attribution import METHODS, AttributionSettings, Forward, attribute, integrated_gradients
from mxbridge.models.linear_start import LinearStart
from mxbridge.models.maxim import Maxim, Request, load_checkpoint
from tests.linked_stains import GROUPS, MARKERS, save_model

INPUTS = ("DAPI", "FOXP3", "CD4", "CD8", "PDL1", "CK")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def oracle(shared: Path) -> Path:
    return shared / "oracles" / "maxim"


@pytest.fixture(scope="module")
def model(oracle: Path) -> Maxim:
    return load_checkpoint(oracle / "checkpoint.pt", INPUTS, ["KI67"], 0.25)


@pytest.fixture(scope="module")
def tiles(oracle: Path) -> np.ndarray:
    """``(2, 6, 32, 32)``."""
    panels = [np.load(oracle / f"tile_{k}.npy", allow_pickle=False) for k in (1, 2)]
    return np.stack(panels)[:, [0, 1, 2, 3, 4, 6]].astype(np.float32) / np.float32(255)


@pytest.mark.shared
@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_parity_whatever_the_batch(oracle: Path, model: Maxim, tiles: np.ndarray, batch: int) -> None:
    found = attribute(model, tiles, Request(("KI67",)), AttributionSettings(batch=batch), CPU, zero_pad=32)
    for k, maps in enumerate(found.maps, start=1):
        np.testing.assert_allclose(maps, np.load(oracle / f"tile_{k}_attr.npy", allow_pickle=False), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.change, [0.4083709 - 0.5354469, 0.4129186 - 0.5354469], atol=1e-5)
    np.testing.assert_allclose(found.delta, found.maps.sum(axis=(1, 2, 3)) - found.change, atol=1e-6)


@pytest.mark.shared
def test_a_side_that_is_no_multiple_and_a_tiny_image(model: Maxim, tiles: np.ndarray) -> None:
    settings = AttributionSettings(steps=100)
    for part in (tiles[:, :, :29, :31], tiles[:, :, :3, :1]):
        found = attribute(model, np.ascontiguousarray(part), Request(("KI67",)), settings, CPU)
        assert found.maps.shape == part.shape
        assert np.abs(found.delta).max() < 0.1 * np.abs(found.change).max()  # ReLUs: more steps, less


@pytest.mark.shared
def test_padding_with_zeros_is_the_published_way(model: Maxim, tiles: np.ndarray) -> None:
    """Zeros beyond the image stay without attribution; they are part of the mean."""
    padded = np.pad(tiles, ((0, 0), (0, 0), (0, 16), (0, 16)))
    request, settings = Request(("KI67",)), AttributionSettings(steps=10)
    whole = attribute(model, padded, request, settings, CPU, zero_pad=48)
    assert np.abs(whole.maps[..., 32:, :]).max() == 0
    part = attribute(model, tiles, request, settings, CPU, zero_pad=48)
    np.testing.assert_allclose(part.maps, whole.maps[..., :32, :32], atol=1e-7)


def test_a_lack_of_memory_makes_fewer_passes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = save_model(tmp_path / "m.safetensors", np.ones((5, 5)) - np.eye(5))
    unit = np.random.default_rng(0).random((3, 5, 20, 20), np.float32)
    settings, told = AttributionSettings(steps=4, batch=8), list[str]()
    whole = attribute(small, unit, Request(("A",)), settings, CPU)

    def fits(most: int) -> None:
        def method(forward: Forward, inputs: torch.Tensor, steps: int, passes: int) -> torch.Tensor:
            if passes > most:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return integrated_gradients(forward, inputs, steps, passes)

        monkeypatch.setitem(METHODS, "integrated-gradients", method)

    fits(2)
    found = attribute(small, unit, Request(("A",)), settings, CPU, reduced=told.append)
    np.testing.assert_allclose(found.maps, whole.maps, atol=1e-7)
    assert told == ["passes at once 8 -> 4", "passes at once 4 -> 2"]
    fits(0)
    with pytest.raises(InputError, match="20 x 20 px does not fit"):
        attribute(small, unit, Request(("A",)), settings, CPU)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(UnknownName, match="no method 'saliency'") as raised:
        AttributionSettings("saliency")
    assert "integrated-gradients" in raised.value.hint
    for wrong in ({"steps": 1}, {"batch": 0}):
        with pytest.raises(UsageError, match="is not possible"):
            AttributionSettings(**wrong)


def test_without_captum_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UsageError, match="captum") as raised:
        METHODS["integrated-gradients"](lambda x: x.mean((1, 2, 3)), torch.ones(1, 1, 4, 4), 2, 1)
    assert "mxbridge[train]" in raised.value.hint


def test_the_linear_start_is_attributed_too(tmp_path: Path) -> None:
    """A network that says one half everywhere leaves the regression, whose share of each input is weight times mean."""
    shape, scale = (32, 48), 0.05
    mixing = np.zeros((5, 5))
    model = save_model(tmp_path / "m.safetensors", mixing)
    with torch.no_grad():
        model.plain.conv.weight.zero_()
        assert model.plain.conv.bias is not None
        model.plain.conv.bias.zero_()
    correlations = np.where(np.array(GROUPS)[:, None] == GROUPS, 0.6, 0.1) + 0.4 * np.eye(5)
    covariance = scale**2 * np.block([[correlations, 0.9 * correlations], [0.9 * correlations, 0.9 * correlations]])
    start = LinearStart(MARKERS, np.full(10, 0.4), covariance)
    started = replace(model, start=start)
    unit = np.random.default_rng(0).normal(0.4, 0.05, (1, 5, *shape)).clip(0.2, 0.6).astype(np.float32)
    found = attribute(started, unit, Request(("A",), frozenset({"E"})), AttributionSettings(steps=20), CPU)
    assert np.abs(found.delta).max() < 1e-4
    with torch.no_grad():
        whole = start.estimate(torch.from_numpy(unit), ["A", "E"])[0, 0].mean()
        empty = start.estimate(torch.zeros(1, 5, *shape), ["A", "E"])[0, 0].mean()
    assert found.change[0] == pytest.approx(float(whole - empty), abs=1e-5)
    shares = found.maps[0].sum(axis=(1, 2))
    assert shares[[0, 4]].tolist() == [0, 0]  # the target and what is hidden
    assert shares[1] == pytest.approx(shares[2], rel=0.05)
    assert shares[1] > 3 * abs(shares[3])
