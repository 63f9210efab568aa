"""Blocks to markup: what is escaped, how numbers read, what a plot may hold."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.report.blocks import Code, Column, Facts, Group, Note, Picture, Pictures, Section, Table
from mxbridge.report.page.rendering import Page
from mxbridge.report.page.store import PictureStore
from mxbridge.report.plotting import clean_svg
from mxbridge.report.texts import harmless, number, shown, sorting
from tests.report.showcase import HOSTILE, picture, plot


class Tags(HTMLParser):
    """All tags and attributes, and the texts outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def rendered(tmp_path: Path, *blocks: object) -> str:
    return str(Page(PictureStore(tmp_path)).section(Section("one", "One", blocks)).markup)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=25)
@given(name=st.text(max_size=60) | st.just(HOSTILE) | st.just('" onload="x'))
def test_no_name_becomes_markup(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    tmp_path = tmp_path_factory.mktemp("page")
    blocks = (
        Note(name),
        Facts(((name, name),)),
        Table((Column(name), Column("n", "number"), Column("b", "badge")), ((name, None, name or "x"),), name, name),
        Pictures(name, ((name, (Picture(b"RIFF", 4, 4, name, name),)),)),
        Group(name, (Code(name, name),)),
    )
    plain = (Note("x"), Facts((("x", "x"),)), Table(blocks[2].columns, (("x", None, "x"),), "x", "x"),
             Pictures("x", (("x", (Picture(b"RIFF", 4, 4, "x", "x"),)),)), Group("x", (Code("x", "x"),)))  # fmt: skip
    page, usual = Tags(rendered(tmp_path, *blocks)), Tags(rendered(tmp_path, *plain))
    if name:
        assert page.tags == usual.tags
        assert [key for key, _ in page.attributes] == [key for key, _ in usual.attributes]
    assert harmless(name).strip() in "".join(page.texts)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\ud800-\udfff]", "".join(page.texts))


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (3005, Column("n", "number"), "3\u202f005"),
        (np.int64(12), Column("n", "number"), "12"),
        (0.123456, Column("n", "number"), "0.123"),
        (0.123456, Column("n", "number", 5), "0.12346"),
        (5843.000999, Column("n", "number"), "5\u202f843"),
        (np.float32(-2.5), Column("n", "number"), "−2.50"),
        (0.0, Column("n", "number"), "0"),
        (1.5e-7, Column("n", "number"), "1.50e−07"),
        (float("inf"), Column("n", "number"), "∞"),
        (float("nan"), Column("n", "number"), "–"),
        (None, Column("n", "bar"), "–"),
        (pd.NA, Column("n"), "–"),
        (0.3448, Column("n", "percent"), "34.5\u202f%"),
        (True, Column("n"), "yes"),
        ("3005", Column("n", "number"), "3005"),
    ],
)
def test_numbers_read_well(value: object, column: Column, text: str) -> None:
    assert shown(value, column) == text


@settings(deadline=None, max_examples=60)
@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_keep_their_digits(value: float) -> None:
    back = float(number(value, 4).replace("\u202f", "").replace("−", "-"))
    assert back == pytest.approx(value, rel=6e-4)
    assert sorting(value, Column("n", "number")) == repr(value)


def test_blocks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="1 cells in a row of 2"):
        Table((Column("a"), Column("b")), ((1,),))
    with pytest.raises(ValueError, match="id of a section"):
        Section("<b>", "x", ())
    with pytest.raises(ValueError, match="kind 'svg'"):
        Picture(b"", 1, 1, "x", kind="svg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of the kind"):
        Column("x", "html")  # type: ignore[arg-type]


def test_plots_keep_texts_as_texts() -> None:
    svg = plot().svg
    assert "日本 $x" in svg
    assert "&lt;script&gt;" in svg
    assert "<script" not in svg
    plot.cache_clear()
    assert svg == plot().svg, "the same each time"
    assert "<metadata" not in svg


def test_a_plot_draws_and_does_nothing_else() -> None:
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" onload="x()">'
    inside = (
        '<script>x()</script><style>*{fill:red}</style><foreignObject><b/></foreignObject><g onclick="x()"><path d="M 0 0"/></g>'
        '<image xlink:href="https://example.org/a.png"/><image xlink:href="data:image/png;base64,AA=="/><use xlink:href="#a"/>'
        '<rect style="fill: url(https://example.org/b)"/><rect style="fill: url(#c)"/>'
    )
    cleaned = clean_svg(f"{head}{inside}</svg>")
    for gone in ("script", "*{", "foreignObject", "onload", "onclick", "example.org"):
        assert gone not in cleaned
    for kept in ("<path", "data:image/png", '"#a"', "url(#c)"):
        assert kept in cleaned
    for text in ("<svg", "<b/>", '<!DOCTYPE svg [<!ENTITY a "b">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>'):
        with pytest.raises(ValueError, match="SVG"):
            clean_svg(text)


def test_pictures_inside_and_beside(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    page = Page(store)
    one = picture(1, 32)
    sections = [page.section(Section("one", "One", (one, plot())))]
    assert store.count == 2
    whole = page.whole(title="T", subtitle="S", made="M", sections=sections, inside=True)
    with (tmp_path / "page.html").open("wb") as stream:
        store.inside(whole, stream)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = re.findall(r'src="data:image/(webp|svg\+xml);base64,([^"]+)"', text)
    assert [kind for kind, _ in found] == ["webp", "svg+xml"]
    assert b64decode(found[0][1]) == one.data
    with (tmp_path / "index.html").open("wb") as stream:
        store.beside(whole, stream)
    beside = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'src="(pictures/[^"]+)"', beside) == ["pictures/0001.webp", "pictures/0002.svg"]


def test_only_our_own_script_may_run(tmp_path: Path) -> None:
    text = Page(PictureStore(tmp_path)).whole(title="T", subtitle="S", made="M", sections=[], inside=True)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert policy is not None
    assert script is not None
    own = b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src &#39;sha256-{own}&#39;" in policy[1]
    assert policy[1].startswith("default-src &#39;none&#39;; img-src data:;")
    for outside in ("http://", "https://", "url("):
        assert outside not in text
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')


def test_blocks_are_gone_through_once_and_pictures_put_away(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    counts = []

    def blocks():
        for k in range(3):
            counts.append(store.count)
            yield Group(f"image {k}", (picture(k, 16) for _ in range(2)))

    Page(store).section(Section("one", "One", blocks()))
    assert counts == [0, 2, 4]
