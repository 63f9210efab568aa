"""What an imputation network is given: the right channels, at the right scale, in the right numbers, or an error that says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from maxim_models import MARKERS, SCALINGS, image_of, model_of, noise, predict

from mxbridge.errors import InputError, NoPixelSize, UnknownName, UsageError
from mxbridge.image import Box
from mxbridge.models.linear_start import PENALTY, LinearStart, corrected, network_input
from mxbridge.models.maxim import MaximStream, Request
from mxbridge.models.maxim_input import ScaledReader, find_markers
from mxbridge.models.scaling import Scaling
from mxbridge.stream.engine import Engine

ALL = [SCALINGS[marker] for marker in MARKERS]


def stream(model, image, *targets: str, **options) -> MaximStream:
    return MaximStream(model, image, Engine(device="cpu"), [Request(targets or ("KI67",))], **options)


# --- numbers and scale ---


def test_numbers_are_scaled_then_shrunk() -> None:
    raw = noise(4, 60, 90, 1)
    found = ScaledReader(image_of(raw, um=(0.25, 0.5)), [3, 0], [ALL[3], ALL[0]], 0.5).read(Box(0, 0, 30, 90))
    ki67 = np.clip(np.arcsinh(raw[3] / 5) / 6, 0, 1)
    dapi = np.clip((raw[0].astype(float) - 100) / 2900, 0, 1)
    expected = np.stack([ki67, dapi]).reshape(2, 30, 2, 90).mean(2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32


@settings(deadline=None, max_examples=30)
@given(
    um=st.tuples(*[st.sampled_from([0.125, 0.25, 0.3, 0.5, 0.9, 2.0])] * 2),
    place=st.tuples(*[st.floats(0, 1)] * 4),
    pyramid=st.booleans(),
)
def test_any_box_is_a_part_of_the_whole(
    um: tuple[float, float], place: tuple[float, float, float, float], pyramid: bool
) -> None:
    raw = noise(4, 64, 96, 1, np.float32)
    levels = (raw.reshape(4, 32, 2, 48, 2).mean((2, 4)),) if pyramid else ()
    reader = ScaledReader(image_of(raw, um=um, levels=levels), range(4), ALL, 0.5)
    height, width = reader.shape
    y0, x0 = int(place[0] * (height - 1)), int(place[1] * (width - 1))
    box = Box(y0, x0, y0 + 1 + int(place[2] * (height - 1 - y0)), x0 + 1 + int(place[3] * (width - 1 - x0)))
    whole = reader.read(Box(0, 0, height, width))
    np.testing.assert_array_equal(reader.read(box), whole[:, box.y0 : box.y1, box.x0 : box.x1])
    assert 0 <= whole.min() < whole.max() <= 1


def test_boxes_outside_and_lists_of_other_lengths() -> None:
    reader = ScaledReader(image_of(noise(4, 20, 30, 1)), [0], ALL[:1], 0.5)
    for box in (Box(0, 0, 21, 30), Box(-1, 0, 5, 5), Box(5, 5, 5, 9)):
        with pytest.raises(ValueError, match="not inside"):
            reader.read(box)
    with pytest.raises(ValueError, match="scalings"):
        ScaledReader(image_of(noise(4, 20, 30, 1)), [0, 1], ALL[:1], 0.5)


@pytest.mark.parametrize(
    ("um", "shape", "notes"),
    [
        ((0.5, 0.5), (40, 60), 0),
        ((0.505, 0.495), (40, 60), 0),
        ((0.506, 0.5), (41, 60), 1),
        ((2.0, 2.0), (160, 240), 1),
        ((0.125, 0.25), (10, 30), 1),
    ],
)
def test_the_models_scale(um: tuple[float, float], shape: tuple[int, int], notes: int) -> None:
    found = stream(model_of(), image_of(noise(4, 40, 60, 1), um=um))
    assert found.shape == shape
    assert len(found.notes) == notes
    assert all("-> 0.5 µm per pixel" in note for note in found.notes)


@pytest.mark.parametrize("um", [(0.124, 0.5), (0.5, 2.01)])
def test_too_far_from_the_models_scale(um: tuple[float, float]) -> None:
    image = image_of(noise(4, 40, 60, 1), um=um)
    with pytest.raises(InputError, match=r"more than a factor of 4.*--um-per-px"):
        stream(model_of(), image)
    with pytest.raises(InputError, match="factor of 4"):
        ScaledReader(image, [0], ALL[:1], 0.5)


def test_another_scale_by_order() -> None:
    """At the image's own scale nothing is resampled."""
    image = image_of(noise(4, 40, 60, 1), um=(0.3, 0.9))
    found = stream(model_of(), image, at_um_per_px=(0.3, 0.9))
    assert (found.shape, found.notes) == ((40, 60), ())
    with pytest.raises(NoPixelSize):
        stream(model_of(), image_of(noise(4, 40, 60, 1), um=None))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">u2", np.uint32, np.float64, np.float16, np.int8])
def test_every_stored_type(dtype: object) -> None:
    raw = (noise(4, 20, 40, 2, np.float32) // 30).astype(np.uint8)
    expected = predict(model_of(), image_of(raw), measured=MARKERS)
    found = predict(model_of(), image_of(raw.astype(dtype)), measured=MARKERS)
    np.testing.assert_array_equal(found.unit, expected.unit)
    np.testing.assert_array_equal(found.measured, expected.measured)


@pytest.mark.parametrize(
    ("trained", "stored", "factor"),
    [("uint8", np.uint16, "0.00389105"), ("uint8", np.int32, "1 for as they are"), ("uint16", np.uint8, "257")],
)
def test_numbers_of_another_depth_are_refused(trained: str, stored: type, factor: str) -> None:
    image = image_of(noise(4, 20, 40, 2).astype(stored))
    with pytest.raises(InputError, match=f"trained on {trained}.*--value-scale {factor}"):
        stream(model_of(dtype=trained), image)
    stream(model_of(dtype=trained), image, value_scale=1.0)


def test_numbers_that_cannot_be_compared_are_noted() -> None:
    raw = noise(4, 20, 40, 2, np.float32)
    assert "taken as they are" in stream(model_of(dtype="uint16"), image_of(raw)).notes[0]
    assert stream(model_of(dtype="float32"), image_of(raw)).notes == ()
    assert stream(model_of(dtype="uint16"), image_of(raw.astype(np.int16))).notes == ()
    with pytest.raises(InputError, match="complex64"):
        stream(model_of(), image_of(raw.astype(np.complex64)))
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="--value-scale"):
            stream(model_of(), image_of(raw), value_scale=wrong)


# --- names ---


def test_names_in_any_case_and_exact_ones_first() -> None:
    names = ("dapi", " CD3 ", "Ki67", "cd8", "KI67", "CD8")
    image = image_of(noise(6, 20, 30, 1), names)
    assert find_markers(image, [*MARKERS, "CD20"]) == {"DAPI": 0, "CD3": 1, "CD8": 5, "KI67": 4}


def test_repeated_names() -> None:
    for names in (("DAPI", "CD3", "CD3", "KI67"), ("DAPI", "cd3", "Cd3", "KI67")):
        with pytest.raises(InputError, match=r"2 channels are called CD3 \(number 1, 2 from 0"):
            stream(model_of(), image_of(noise(4, 20, 30, 1), names))
    image = image_of(noise(4, 20, 30, 1), ("DAPI", "x", "x", "CD3"))
    stream(model_of(("DAPI", "CD3")), image)  # not the model's affair


def test_missing_inputs_are_named_all() -> None:
    image = image_of(noise(4, 20, 30, 1), ("DAPI", "CD3-old", "CD20", "KI67"))
    with pytest.raises(InputError, match=r"no channel CD3, CD8, which MAXIM needs for KI67.*--chain.*CD3-old"):
        stream(model_of(), image)
    with pytest.raises(InputError, match="no channel CD8"):
        stream(model_of(("DAPI",), ("KI67", "CD8")), image, measured=["CD8"])
    assert stream(model_of(("DAPI",), ("KI67", "CD8")), image, "CD8").shape == (20, 30)


def test_numbers_do_not_address_channels() -> None:
    with pytest.raises(InputError, match="no channel DAPI"):
        stream(model_of(), image_of(noise(4, 20, 30, 1), ("0", "1", "2", "3")))


def test_wrong_questions() -> None:
    image = image_of(noise(4, 20, 30, 1))
    single, every = model_of(), model_of(MARKERS, any_marker=True)
    with pytest.raises(UnknownName, match=r"no marker 'KI76' in the model MAXIM.*Did you mean 'KI67'"):
        stream(single, image, "KI76")
    with pytest.raises(UnknownName, match="no marker 'DAPI'"):
        stream(single, image, "DAPI")
    with pytest.raises(UnknownName, match="no marker 'CD20'"):
        stream(single, image, measured=["CD20"])
    with pytest.raises(UsageError, match="needs all of its inputs"):
        MaximStream(single, image, Engine(device="cpu"), [Request(("KI67",), frozenset({"CD3"}))])
    with pytest.raises(UsageError, match="from nothing"):
        MaximStream(every, image, Engine(device="cpu"), [Request(("KI67",), frozenset(MARKERS[:3]))])
    for nothing in ([], [Request(())]):
        with pytest.raises(UsageError, match="nothing is asked"):
            MaximStream(every, image, Engine(device="cpu"), nothing)
    with pytest.raises(UsageError, match="no model of the published program"):
        stream(single, image, compat_pad=64)


def test_padding_of_the_published_program_has_its_limits(data) -> None:
    from mxbridge.models.maxim import load_checkpoint

    names = ("A", "B", "C", "D", "E", "F")
    model = load_checkpoint(data / "maxim" / "checkpoint.pt", names, ["T"], 0.5)
    image = image_of(noise(6, 20, 40, 1).astype(np.uint8), names)
    with pytest.raises(InputError, match="40 x 20 px do not fit into the padding of 32"):
        stream(model, image, "T", compat_pad=32)
    for pad in (0, 40, -16):
        with pytest.raises(UsageError, match="multiple of 16"):
            stream(model, image, "T", compat_pad=pad)
    with pytest.raises(InputError, match="--value-scale"):
        stream(model, image_of(noise(6, 20, 40, 1), names), "T", compat_pad=48)


# --- the linear start ---


def test_the_linear_start_is_the_regression_on_what_is_there() -> None:
    """Against least squares on the same values and 3x3 means."""
    rng = np.random.default_rng(3)
    planes = rng.random((3, 40, 50)) ** 2
    planes[2] = 0.4 * planes[0] + 0.3 * np.roll(planes[1], 1, 0) + 0.05 * rng.random((40, 50))
    window = np.lib.stride_tricks.sliding_window_view(
        np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge"), (3, 3), (1, 2)
    )
    values = np.concatenate([planes, window.mean((-1, -2))]).reshape(6, -1)
    start = LinearStart(("A", "B", "C"), values.mean(1), np.cov(values, bias=True))
    for hidden in (["C"], ["C", "A"]):
        there = [k for k in range(6) if "ABC"[k % 3] not in hidden]
        at = ["ABC".index(name) for name in hidden]
        centred = values - values.mean(1, keepdims=True)
        own = centred[there] @ centred[there].T / values.shape[1] + PENALTY * np.eye(len(there))
        weights = np.linalg.solve(own, centred[there] @ centred[at].T / values.shape[1])
        expected = (weights.T @ centred[there] + values.mean(1)[at][:, None]).clip(0, 1).reshape(len(at), 40, 50)
        shown = planes.copy()
        shown[at] = 9  # not looked at
        found = start.estimate(torch.from_numpy(shown).float(), hidden)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        batch = start.estimate(torch.from_numpy(np.stack([shown, shown])).float(), hidden)
        torch.testing.assert_close(batch[1], found, atol=1e-6, rtol=0)


def test_the_input_of_a_network_in_any_layout() -> None:
    unit, start = torch.rand(3, 4, 5), torch.rand(1, 4, 5)
    assert network_input(unit, [], None, any_marker=False) is unit
    found = network_input(unit, [1], start, any_marker=True)
    assert torch.equal(found[[0, 2]], unit[[0, 2]])
    assert torch.equal(found[1], start[0])
    assert found[3:].mean((1, 2)).tolist() == [1, 0, 1]
    out = torch.empty(1, 6, 4, 5, memory_format=torch.channels_last)
    network_input(unit, [1], start, any_marker=True, out=out[0])
    assert torch.equal(out[0], found)
    assert not network_input(unit, [1], None, any_marker=True)[1].any()
    assert corrected(start, None) is start
    assert torch.equal(corrected(torch.tensor(0.5), start), start)


def test_scalings_there_and_back() -> None:
    stored = np.linspace(101, 2999, 50, dtype=np.float32)
    for scaling in (*ALL, Scaling("linear", 0, 255, clip=False)):
        unit = scaling.to_unit(torch.from_numpy(stored)).numpy()
        inside = (unit > 0) & (unit < 1) | (not scaling.clip)
        np.testing.assert_allclose(scaling.to_stored(unit)[inside], stored[inside], rtol=1e-4)
        broken = scaling.to_unit(torch.tensor([float("nan"), float("inf"), 0.0]))
        assert broken[0] == broken[1] == broken[2]
