"""Pictures of a page while it is made: each goes to disk when it is met, so that those of 100 slides are never in memory."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mxbridge.formats.atomic import output_error

PICTURES = "pictures"
"""Folder of the pictures beside a page that would be too large with them inside."""

_TYPES = {"webp": "image/webp", "png": "image/png", "jpeg": "image/jpeg", "svg": "image/svg+xml"}


class PictureStore:
    """Keeps pictures in ``folder`` and gives each a mark that stands in the page until it is known how pictures get into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes = 0
        self.count = 0
        self._secret = secrets.token_hex(12)  # no name in a page can hold it
        self._mark = re.compile(rf"{self._secret}:(\d+\.[a-z]+);")

    def put(self, data: bytes, kind: str) -> str:
        """The mark of a picture of this kind (``webp``, ``png``, ``jpeg``, ``svg``). Raises OutputError."""
        self.count += 1
        self.bytes += len(data)
        name = f"{self.count:04d}.{kind}"
        try:
            (self.folder / name).write_bytes(data)
        except OSError as error:
            raise output_error(self.folder / name, error) from error
        return f"{self._secret}:{name};"

    def inside(self, page: str, stream: BinaryIO) -> None:
        """Write the page with its pictures inside."""
        for text, name in self._pieces(page):
            stream.write(text.encode())
            if name:
                stream.write(f"data:{_TYPES[name.rpartition('.')[2]]};base64,".encode())
                stream.write(base64.b64encode((self.folder / name).read_bytes()))

    def beside(self, page: str, stream: BinaryIO) -> None:
        """Write the page with references to the pictures in the folder :data:`PICTURES` beside it."""
        for text, name in self._pieces(page):
            stream.write(text.encode() + (f"{PICTURES}/{name}".encode() if name else b""))

    def _pieces(self, page: str) -> Iterator[tuple[str, str]]:
        """Texts, and the name of the picture after each; none after the last."""
        at = 0
        for mark in self._mark.finditer(page):
            yield page[at : mark.start()], mark[1]
            at = mark.end()
        yield page[at:], ""
