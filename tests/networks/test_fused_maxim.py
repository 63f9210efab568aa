"""The network as it is run equals the published layout, whole and in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from maxim_networks import random_network

from mxbridge.networks.fused_maxim import FusedMaxim
from mxbridge.networks.maxim_unet import MaximUNet


def inputs_of(channels: int, height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(height * width))


@settings(max_examples=30, deadline=None)
@given(
    channels=st.integers(1, 5),
    outputs=st.integers(1, 3),
    width=st.integers(1, 5),
    rows=st.integers(1, 8),
    columns=st.integers(1, 8),
    batch=st.integers(1, 3),
    channels_last=st.booleans(),
    pieces=st.lists(st.none() | st.integers(1, 30).map(lambda n: 2 * n), min_size=4, max_size=4),
    place=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_whole_and_any_part_equal_the_published_layout(
    channels: int,
    outputs: int,
    width: int,
    rows: int,
    columns: int,
    batch: int,
    channels_last: bool,
    pieces: list[int | None],
    place: tuple[float, ...],
) -> None:
    """Also an image of one pixel at the deepest level, parts that touch its borders, and levels worked through in pieces."""
    network = random_network(channels, outputs, width)
    height, breadth = 16 * rows, 16 * columns
    inputs = inputs_of(channels, height, breadth, batch)
    shown = inputs.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    y0, x0 = int(place[0] * (height - 1)), int(place[1] * (breadth - 1))
    part = (y0, x0, y0 + 1 + int(place[2] * (height - 1 - y0)), x0 + 1 + int(place[3] * (breadth - 1 - x0)))
    fused = FusedMaxim(network)
    for level, side in zip(fused.levels, pieces, strict=True):
        level.pieces = side
    with torch.inference_mode():
        expected = network(inputs)
        assume(expected.std() > 1e-3)  # some of the narrowest are dead
        torch.testing.assert_close(fused(shown), expected, atol=1e-5, rtol=0)
        found = fused(shown, part)
    torch.testing.assert_close(found, expected[..., part[0] : part[2], part[1] : part[3]], atol=1e-5, rtol=0)


def test_oracle(data: Path) -> None:
    folder = data / "maxim"
    weights = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    fused, expected = FusedMaxim(MaximUNet.from_state_dict(weights)), np.load(folder / "output_1x1x64x80.npy")
    with torch.inference_mode():
        found = fused(torch.from_numpy(np.load(folder / "input_1x6x64x80.npy")), (3, 21, 60, 80))
    np.testing.assert_allclose(found, expected[..., 3:60, 21:80], atol=1e-5)


def test_chosen_outputs_share_the_weights() -> None:
    fused = FusedMaxim(random_network(3, 4))
    inputs = inputs_of(3, 48, 32)
    chosen = fused.giving([3, 0])
    with torch.inference_mode():
        torch.testing.assert_close(chosen(inputs), fused(inputs)[:, [3, 0]])
    assert chosen.conv.weight is fused.conv.weight
    assert fused.outputs is None


def test_less_is_computed_for_a_part() -> None:
    """The levels on the way up see little more than the part."""
    fused, sizes = FusedMaxim(random_network(3, 1)), []
    for level in fused.levels:
        level.second.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[-2:])))
    with torch.inference_mode():
        fused(inputs_of(3, 256, 256), (96, 96, 160, 160))
    assert sizes == [(16, 16), (24, 24), (38, 38), (68, 68)]


def test_the_network_itself_is_left_alone() -> None:
    network = random_network(3, 2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    own = {value.data_ptr() for value in FusedMaxim(network).state_dict().values()}
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
        assert value.data_ptr() not in own  # nothing follows when the fused one goes to another device


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_runs_in_half_precision(dtype: torch.dtype) -> None:
    network = random_network(3, 1, 4)
    inputs = inputs_of(3, 64, 96)
    with torch.inference_mode():
        expected = network(inputs)
        with torch.autocast("cpu", dtype=dtype):
            found = FusedMaxim(network)(inputs.contiguous(memory_format=FusedMaxim.memory_format), (0, 0, 64, 90))
    assert found.dtype == torch.float32
    assert float((found - expected[..., :90]).abs().mean()) < 0.02
