"""What OMERO says of an image, in its own types and units, and what it does not say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mxbridge.errors import InputError, SourceError, Unsupported
from mxbridge.image import Channel
from mxbridge.workspaces.omero.image_info import PIXEL_TYPES, Dataset, Well, _windows, image_info, pixel_type
from tests.omero_workspace.toy_results import asking


def edit(session: Any, image: int, change: Any) -> None:
    """Change what OMERO keeps of an image: ``change(pixels)`` with its channels loaded."""
    hql = (
        "select p from Pixels p left outer join fetch p.channels c left outer join fetch c.logicalChannel "
        "where p.image.id = :id"
    )
    (pixels,) = {p.id.val: p for p in session.objects(hql, id=image)}.values()
    change(pixels)
    session.save_return(pixels, pixels.details.group.id.val)


@pytest.mark.parametrize(
    ("row", "column", "label"), [(0, 0, "A01"), (7, 11, "H12"), (25, 0, "Z01"), (26, 47, "AA48"), (31, 4, "AF05")]
)
def test_wells_are_called_as_on_the_plate(row: int, column: int, label: str) -> None:
    assert Well(1, row, column, 2, "P").label == label
    assert Well(1, None, column, 2, "P").label == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [("bit", "single bits"), ("complex", "complex numbers"), ("double-complex", "complex"), ("q", "q")],
)
def test_pixel_types_that_are_no_numbers(name: str, words: str) -> None:
    with pytest.raises(Unsupported, match=f"slide holds {words}"):
        pixel_type(name, "slide")


def test_windows_are_the_owners_then_anybodys() -> None:
    rows = [
        (5, 0, 1.0, 2.0),
        (2, 0, 10.0, 20.0),
        (9, 0, 3.0, 4.0),
        (5, 1, 5.0, 6.0),
        (5, 2, 7.0, 7.0),
        (5, 9, 0.0, 1.0),
    ]
    assert _windows(rows, owner_id=2, count=4) == ((10.0, 20.0), (5.0, 6.0), None, None)
    assert _windows([], owner_id=2, count=1) == (None,)


def test_sizes_that_no_image_has() -> None:
    """A server that says nonsense is not believed before memory is set aside for it."""

    class Value:
        def __init__(self, value: Any) -> None:
            self.value = value

        def getValue(self) -> Any:
            return self.value

    sizes = {"T": 1, "C": 1, "Z": 1, "Y": 10**9, "X": 4}
    pixels = SimpleNamespace(
        getId=lambda: Value(1),
        getImage=lambda: SimpleNamespace(getName=lambda: Value("slide")),
        getPixelsType=lambda: SimpleNamespace(getValue=lambda: Value("uint8")),
        **{f"getSize{a}": lambda n=n: Value(n) for a, n in sizes.items()},
    )
    session = SimpleNamespace(objects=lambda hql, **params: [pixels])
    with pytest.raises(InputError, match="4 x 1000000000 pixels"):
        image_info(session, 1)  # type: ignore[arg-type]


@pytest.mark.omero
def test_an_image_in_a_dataset(server: Any, session: Any) -> None:
    dataset = server.add_dataset("d")
    image = server.add_image(
        "slide", np.zeros((2, 3, 4, 5, 6), np.uint16), dataset="d", channels=["DAPI", "", "CD3"], um_per_px=(0.25, 0.5)
    )
    server.add_windows(image, [(0, 100), (5, 50), (1, 2)])
    info = image_info(session, image)
    assert (info.id, info.name, info.sizes, info.dtype) == (image, "slide", (2, 3, 4, 5, 6), np.dtype("u2"))
    assert [c.name for c in info.channels] == ["DAPI", "", "CD3"]
    assert (info.pixel_size_um, info.shape, info.rgb) == ((0.25, 0.5), (5, 6), False)
    assert (info.group_id, info.owner_id, info.owner_name) == (3, 2, "alice")
    assert (info.datasets, info.wells) == ((Dataset(dataset, "d", 2),), ())
    assert info.windows == ((0, 100), (5, 50), (1, 2))
    assert info.can_annotate and info.can_link and info.can_edit and info.can_delete
    assert str(info) == f"slide (image {image})"
    assert info.pixels_id and info.update_event


@pytest.mark.omero
def test_it_takes_three_questions(server: Any, session: Any) -> None:
    image = server.add_image("slide", np.zeros((40, 5, 6), np.uint8))
    before = server.calls()
    image_info(session, image)
    calls = server.calls() - before
    assert sum(calls.values()) <= 5, calls  # the first use of a service may cost two more


@pytest.mark.omero
def test_images_of_a_plate_without_sizes_or_windows(server: Any, session: Any) -> None:
    image = server.add_image("field", np.zeros((1, 5, 6), np.int8), dataset=None)
    plate = server.add_plate("P", [(2, 1, image)])
    info = image_info(session, image)
    assert info.datasets == ()
    assert [(w.label, w.plate_id, w.plate_name) for w in info.wells] == [("C02", plate, "P")]
    assert (info.pixel_size_um, info.windows) == (None, (None,))


@pytest.mark.omero
@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (250.0, "NANOMETER", 0.25),
        (0.001, "MILLIMETER", 1.0),
        (5000.0, "ANGSTROM", 0.5),
        (2.0, "PIXEL", None),
        (2.0, "REFERENCEFRAME", None),
        (0.0, "MICROMETER", None),
        (-1.0, "MICROMETER", None),
        (float("nan"), "MICROMETER", None),
        (float("inf"), "MICROMETER", None),
    ],
)
def test_lengths_in_any_unit(server: Any, session: Any, value: float, unit: str, expected: float | None) -> None:
    import omero.model
    from omero.model.enums import UnitsLength

    image = server.add_image("slide", np.zeros((1, 2, 2), np.uint8))

    def change(pixels: Any) -> None:
        pixels.physicalSizeX = omero.model.LengthI(value, getattr(UnitsLength, unit))

    edit(session, image, change)
    size = image_info(session, image).pixel_size_um
    assert size == (None if expected is None else pytest.approx((expected, expected)))


@pytest.mark.omero
@pytest.mark.parametrize(
    ("names", "rgb"),
    [
        (["", "", ""], True),
        (["red", "Green", "B"], True),
        (["0", "1", "2"], True),
        (["Channel 0", "Channel 1", "Channel 2"], True),
        (["DAPI", "CD3", "CD8"], False),
        (["", "", "KI67"], False),
    ],
)
def test_three_bytes_in_red_green_and_blue_are_a_colour_picture(
    server: Any, session: Any, names: list[str], rgb: bool
) -> None:
    """Unless they are called after stains: a server shows any three channels in these colours when nobody has chosen others."""
    from omero.rtypes import rint

    image = server.add_image("slide", np.zeros((3, 2, 2), np.uint8), channels=names)

    def change(pixels: Any) -> None:
        for number, channel in enumerate(pixels.copyChannels()):
            channel.red, channel.green, channel.blue = (rint(255 if k == number else 0) for k in range(3))

    edit(session, image, change)
    info = image_info(session, image)
    assert info.rgb is rgb
    if not any(names):
        assert info.channels == (Channel("Red", 0xFF0000), Channel("Green", 0xFF00), Channel("Blue", 0xFF))


@pytest.mark.omero
@pytest.mark.parametrize("name", sorted(PIXEL_TYPES))
def test_every_pixel_type(server: Any, session: Any, name: str) -> None:
    image = server.add_image("slide", np.zeros((1, 2, 2), PIXEL_TYPES[name]))
    assert image_info(session, image).dtype == np.dtype(PIXEL_TYPES[name])


@pytest.mark.omero
def test_what_cannot_be_read_or_is_not_there(server: Any, session: Any) -> None:
    image = server.add_image("slide", np.zeros((1, 2, 2), np.uint8), pixel_type="bit")
    with pytest.raises(Unsupported, match=rf"slide \(image {image}\) holds single bits"):
        image_info(session, image)
    with pytest.raises(SourceError, match="no image 4711"):
        image_info(session, 4711)


@pytest.mark.omero
def test_what_somebody_else_may_do(server: Any) -> None:
    image = server.add_image("slide", np.zeros((1, 2, 2), np.uint8))  # lab: others read
    shared = server.add_image("slide", np.zeros((1, 2, 2), np.uint8), group="notes", dataset=None)  # others annotate
    with asking(server, "bob") as bob:
        read, annotate = image_info(bob, image), image_info(bob, shared)
    assert not (read.can_annotate or read.can_link or read.can_edit or read.can_delete)
    assert annotate.can_annotate
    assert not annotate.can_edit
    assert (annotate.owner_name, annotate.group_id) == ("alice", 5)
