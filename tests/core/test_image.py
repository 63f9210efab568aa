"""Channel names and addresses of channels."""

from __future__ import annotations

import dask.array as da
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxbridge.errors import InputError, NoPixelSize, UnknownName
from mxbridge.image import Box, Channel, LocalImage, find_name, unique_names


def test_repeated_and_empty_names_can_be_told_apart() -> None:
    assert unique_names(["DAPI", "CD3", "DAPI", "", "CD8", " "]) == ("DAPI", "CD3", "DAPI#2", "#4", "CD8", "#6")


@given(st.lists(st.sampled_from(["A", "A#2", "", "B", "#2", " A "]), max_size=8))
def test_names_are_always_unique(names: list[str]) -> None:
    unique = unique_names(names)
    assert len(set(unique)) == len(names)


def test_finding_a_name() -> None:
    names = ("DAPI", "cd3", "CD3", "Ki67")
    assert find_name(names, "CD3", kind="channel") == 2
    assert find_name(names, "KI67", kind="channel") == 3
    assert find_name(names, "1", kind="channel") == 1
    with pytest.raises(UnknownName, match="There is: DAPI, cd3, CD3, Ki67"):
        find_name(names, "Cd3", kind="channel")  # two names differ from it only in case


def image(planes: int = 2, **changes: object) -> LocalImage:
    fields = {
        "name": "x",
        "levels": (da.zeros((planes, 100, 80), dtype="uint16"), da.zeros((planes, 50, 40), dtype="uint16")),
        "channels": (Channel("A"), Channel("B")),
        "pixel_size_um": (0.5, 0.5),
        "identity": "i",
    }
    return LocalImage(**(fields | changes))


def test_an_image_is_checked() -> None:
    assert image().shape == (100, 80)
    assert image().downsample(1) == (2, 2)
    with pytest.raises(InputError, match="3 planes but 2 channel names"):
        image(3)
    with pytest.raises(InputError, match="makes no sense"):
        image(pixel_size_um=(0.0, 0.5))
    with pytest.raises(NoPixelSize, match="--um-per-px"):
        image(pixel_size_um=None).require_pixel_size()


def test_boxes() -> None:
    assert Box(2, 3, 1, 9).shape == (0, 6)
    assert Box(-2, -2, 9, 9).clip((5, 6)) == Box(0, 0, 5, 6)
