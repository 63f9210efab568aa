"""Which images are meant: by image, dataset, project, plate and screen; ours left out; what is not there named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mxbridge.errors import SourceError, UnknownName
from mxbridge.results import ImageRef
from mxbridge.workspaces.omero.find import find_images, own_images, pages
from mxbridge.workspaces.omero.publishing.marks import DERIVED
from tests.omero_workspace.toy_results import asking

PIXELS = np.zeros((1, 4, 4), np.uint8)


def mark(session: Any, image: int, group_id: int = 3) -> None:
    """As publishing marks an image that mxbridge made."""
    from omero.model import ImageAnnotationLinkI, ImageI, MapAnnotationI
    from omero.rtypes import rstring

    annotation = MapAnnotationI()
    annotation.ns = rstring(DERIVED)
    link = ImageAnnotationLinkI()
    link.parent, link.child = ImageI(image, False), annotation
    session.save([link], group_id)


class TellingSession:
    """Answers from a table of images, and remembers how it was asked."""

    def __init__(self, images: int) -> None:
        self.images, self.asked = images, 0

    def rows(self, hql: str, **params: Any) -> list[tuple[Any, ...]]:
        self.asked += 1
        assert len(params["ids"]) <= 1000
        if "a.ns = :ns" in hql:
            return [(i,) for i in params["ids"] if i % 100 == 0]
        if hql.startswith("select o.id"):
            return [(i,) for i in params["ids"] if i != 9]
        if "from Image i" in hql:
            return [(i, f"n{i}") for i in params["ids"] if i <= self.images]
        return [(i, None) for i in reversed(range(1, self.images + 1))] * 2  # joins give an image more than once


def test_thousands_of_images_take_few_questions() -> None:
    session = TellingSession(5000)
    refs = find_images(session, "dataset", [3, 1, 3])  # type: ignore[arg-type]
    assert session.asked == 1 + 1 + 5
    assert [r.id for r in refs[:3]] == ["1", "2", "3"]
    assert len(refs) == 5000 - 50
    named = find_images(session, "image", range(1, 5001))  # type: ignore[arg-type]
    assert len(named) == 5000  # ours, too, where they are named one by one


def test_what_is_not_there_is_named() -> None:
    session = TellingSession(5)
    with pytest.raises(SourceError, match="no image 6, 77"):
        find_images(session, "image", [77, 6, 5])  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="no screen 9"):
        find_images(session, "screen", [8, 9])  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"no image 6, .*25, \.\.\."):
        find_images(session, "image", range(1, 99))  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="no kind of OMERO object 'fileset'"):
        find_images(session, "fileset", [1])  # type: ignore[arg-type]


def test_pages_hold_every_id_once() -> None:
    assert [len(p) for p in pages(range(2500))] == [1000, 1000, 500]
    assert [i for p in pages(range(7), 3) for i in p] == list(range(7))
    assert not list(pages([]))


@pytest.mark.omero
def test_containers_of_every_kind(server: Any, session: Any) -> None:
    dataset = server.add_dataset("d", project="p")
    empty = server.add_dataset("empty", project="p")
    a, b = (server.add_image(name, PIXELS, dataset="d") for name in ("same", "same"))
    c, d = (server.add_image(name, PIXELS, dataset=None) for name in ("c", "d"))
    plate = server.add_plate("P", [(0, 0, d), (2, 1, c), (2, 2, a)], screen="S")
    (project,) = {i for (i,) in session.rows("select p.id from Project p where p.name = :name", name="p")}
    (screen,) = {i for (i,) in session.rows("select s.id from Screen s where s.name = :name", name="S")}
    same = [ImageRef(str(a), "same"), ImageRef(str(b), "same")]
    assert find_images(session, "dataset", [dataset]) == same
    assert find_images(session, "dataset", [empty, dataset]) == same
    assert find_images(session, "dataset", [empty]) == []
    assert find_images(session, "project", [project]) == same
    welled = [ImageRef(str(i), n) for i, n in sorted(((a, "same"), (c, "c"), (d, "d")))]
    assert find_images(session, "plate", [plate]) == welled
    assert find_images(session, "screen", [screen]) == welled
    assert [r.id for r in find_images(session, "image", [d, a, d])] == [str(i) for i in sorted((a, d))]
    for kind in ("image", "dataset", "project", "plate", "screen"):
        with pytest.raises(SourceError, match=f"no {kind} 4711"):
            find_images(session, kind, [4711])


@pytest.mark.omero
def test_images_that_mxbridge_made_are_no_inputs_unless_named(server: Any, session: Any) -> None:
    theirs, ours = (server.add_image(name, PIXELS, dataset="d") for name in ("theirs", "ours"))
    dataset = server.add_dataset("other")
    mark(session, ours)
    (container,) = {i for (i,) in session.rows("select d.id from Dataset d where d.name = :name", name="d")}
    assert [r.id for r in find_images(session, "dataset", [container, dataset])] == [str(theirs)]
    assert [r.id for r in find_images(session, "image", [ours])] == [str(ours)]
    assert own_images(session, [theirs, ours]) == {ours}


@pytest.mark.omero
def test_what_may_not_be_seen_is_not_there(server: Any) -> None:
    hidden = server.add_image("hidden", PIXELS, dataset=None, group="private")
    with asking(server, "bob") as bob, pytest.raises(SourceError, match=f"no image {hidden}"):
        find_images(bob, "image", [hidden])
