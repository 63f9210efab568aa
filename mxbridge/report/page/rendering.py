"""From sections to the text of a page. Every text from outside is escaped; only what the templates here say is markup."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mxbridge.report.blocks import Block, Picture, Plot, Section, is_missing
from mxbridge.report.page.store import PictureStore
from mxbridge.report.texts import harmless, shown, sorting, tone, width

HOME = Path(__file__).parent
GENERATOR = "mxbridge report"
"""How a page says in its head that it is one of ours, and may be replaced by the next."""


@dataclass(frozen=True)
class Rendered:
    """A section that is markup already."""

    id: str
    title: str
    markup: Markup


class Page:
    """One page in the making. store: where its pictures are kept meanwhile."""

    def __init__(self, store: PictureStore) -> None:
        self.store = store
        self._numbers = 0
        self._environment = Environment(
            loader=FileSystemLoader(HOME),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_seen,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(
            kind=lambda block: type(block).__name__,
            source=self._source,
            size=_size,
            number=self._next,
            shown=shown,
            sorting=sorting,
            is_missing=is_missing,
            tone=tone,
            width=width,
        )
        self._section: Any = self._environment.get_template("blocks.html.j2").module

    def section(self, section: Section) -> Rendered:
        """Go through a section's blocks once. Raises what its generator raises."""
        return Rendered(section.id, section.title, Markup(self._section.section(section)))  # noqa: S704 - our template

    def whole(self, *, title: str, subtitle: str, made: str, sections: list[Rendered], inside: bool) -> str:
        """The page with marks for its pictures. inside: whether they are to be put into it."""
        script = _own("page.js")
        pictures = "data:" if inside else "'self' file: data:"
        policy = (
            f"default-src 'none'; img-src {pictures}; style-src 'unsafe-inline'; script-src '{_hash(script)}'; "
            "base-uri 'none'; form-action 'none'"
        )
        return self._environment.get_template("page.html.j2").render(
            title=title,
            subtitle=subtitle,
            made=made,
            sections=sections,
            policy=policy,
            generator=GENERATOR,
            style=_own("style.css"),
            script=script,
        )

    def _source(self, block: Block) -> str:
        if isinstance(block, Plot):
            return self.store.put(block.svg.encode(), "svg")
        assert isinstance(block, Picture)  # noqa: S101 - the templates ask for nothing else
        return self.store.put(block.data, block.kind)

    def _next(self) -> int:
        """A number that no other element of this page has."""
        self._numbers += 1
        return self._numbers


def _seen(value: Any) -> Any:
    """What a template prints: markup as it is, texts without characters that nobody sees."""
    return harmless(value) if type(value) is str else value


def _size(block: Picture | Plot) -> tuple[int, int]:
    """(width, height) in CSS pixels."""
    if isinstance(block, Picture):
        return block.width, block.height
    view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', block.svg[:2000])
    return (round(float(view[1]) * 96 / 72), round(float(view[2]) * 96 / 72)) if view else (690, 300)


def _own(name: str) -> Markup:
    return Markup((HOME / name).read_text(encoding="utf-8"))  # noqa: S704 - our own file


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
