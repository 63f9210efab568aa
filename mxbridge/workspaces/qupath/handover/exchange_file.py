"""The exchange file: what a script inside QuPath does to the image in front of it, one JSON document a line, gzipped.

    header                      who made it, from which state of the image, columns, classes, entries, how many lines
    {"id", "m", "-", "c"}       an object that is there: values, columns to take away (after the values), class
    {"id", "remove"}            an object to take away
    {"id", "object"}            an object to add
    {"image"}, {"image_remove"} values of the image as a whole
    {"end"}                     number of lines before this one: a file without it is not whole

``m`` has one value for each of the header's columns, null being NaN; what is not named in a line stays as it is. This module
writes lines and reads them back with all checks; what they say of an image is worked out in :mod:`.difference`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxbridge.cells import COORDINATE_LIMIT
from mxbridge.errors import BrokenFile, OutputError, SourceError, Unsupported
from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.workspaces.qupath.qpdata.path_objects import is_uuid

FORMAT, VERSION = "mxbridge-exchange", 1

FILE_NAME = "exchange.jsonl.gz"

LIMIT = 4 << 30
"""Bytes after unpacking; a million cells with outlines take a tenth of it."""

LINE_LIMIT = 64 << 20
"""Bytes of one line; the longest is an annotation with very many corners."""

_AT_ONCE = 2000
"""Lines that are packed together."""

_NONSENSE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Counts:
    """cells: objects that are there and change. removed, objects: to take away, to add. lines: of the file, first and last too."""

    cells: int = 0
    removed: int = 0
    objects: int = 0
    lines: int = 2


@dataclass(frozen=True)
class Header:
    """The first line. image_id: entry id in the project. made: ISO time. data_sha256: of the ``data.qpdata`` that the lines
    change, None where there was none. classes: full names with signed ARGB, those above them first. entries: images to add to
    the project, or to change (``replaces``).
    """

    run: str
    task: str
    model: str
    image_id: str
    image_name: str
    made: str
    mxbridge: str
    data_sha256: str | None = None
    columns: tuple[str, ...] = ()
    classes: tuple[tuple[str, int | None], ...] = ()
    counts: Counts = field(default_factory=Counts)
    entries: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "mxbridge": self.mxbridge,
            "run": self.run,
            "task": self.task,
            "model": self.model,
            "image": {"id": self.image_id, "name": self.image_name},
            "made": self.made,
            "data_sha256": self.data_sha256,
            "columns": list(self.columns),
            "classes": [{"name": name, "color": color} for name, color in self.classes],
            "counts": vars(self.counts),
            "entries": list(self.entries),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Exchange:
    """A whole file. cells, objects: lines by object id, as they are in the file. removed: ids. image_values: NaN is null."""

    header: Header
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    image_values: dict[str, float | None] = field(default_factory=dict)
    image_removed: tuple[str, ...] = ()


def write(path: Path, header: Header, lines: Iterable[str]) -> None:
    """Write header, lines and the last line; what is on the disk is read back before it becomes ``path``.

    lines: JSON documents without line breaks, ``header.counts.lines - 2`` of them. Raises OutputError, and ValueError where
    they are of another number: then there is no such file.
    """
    make_folder(path.parent)
    with write_atomically(path) as part:
        told, written = hashlib.sha256(), 0
        with part.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as stream:
            for text in _packets(header, lines):
                data = text.encode("utf-8", "backslashreplace")
                told.update(data)
                written += data.count(b"\n")
                stream.write(data)
        if written != header.counts.lines:
            raise ValueError(f"{written} lines instead of {header.counts.lines}")
        if told.digest() != _digest_of(part):
            raise OutputError(f"{path}: the disk gave back other bytes than were written", hint="Nothing was changed")


def _packets(header: Header, lines: Iterable[str]) -> Iterator[str]:
    yield dump(header.document()) + "\n"
    packet: list[str] = []
    for line in lines:
        packet.append(line)
        if len(packet) == _AT_ONCE:
            yield "\n".join(packet) + "\n"
            packet = []
    yield "\n".join([*packet, dump({"end": header.counts.lines - 1})]) + "\n"


def _digest_of(path: Path) -> bytes:
    with gzip.open(path) as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def dump(document: object) -> str:
    """JSON in one line; it has no NaN: ValueError."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def read(path: Path) -> Exchange:
    """Read a whole file and check all of it. Memory goes with its length, up to a limit.

    Raises SourceError (not there), Unsupported (another version), BrokenFile (truncated, not such a file, beyond the limits).
    """
    with closing(_documents(path)) as documents:
        first = next(documents, None)
        if first is None:
            raise BrokenFile(path, "is empty")
        try:
            header = _header(first)
        except Unsupported as error:
            raise Unsupported(f"{path}: {error.message}", hint=error.hint) from None
        except _NONSENSE as error:
            raise BrokenFile(path, f"is not an exchange file of mxbridge ({error})") from error
        return _body(path, header, documents)


def _documents(path: Path) -> Generator[dict[str, Any], None, None]:
    """The lines, parsed. Raises SourceError, BrokenFile."""
    taken = 0
    try:
        with path.open("rb") as raw, io.BufferedReader(gzip.GzipFile(fileobj=raw)) as stream:
            while line := stream.readline(LINE_LIMIT + 1):
                taken += len(line)
                if len(line) > LINE_LIMIT or taken > LIMIT:
                    raise BrokenFile(
                        path, f"is too large (lines beyond {LINE_LIMIT >> 20} MB, or all beyond {LIMIT >> 30} GB)"
                    )
                document = json.loads(line.decode("utf-8"), parse_constant=_refuse)
                if not isinstance(document, dict):
                    raise ValueError("a line that is no object")
                yield document
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist") from None
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise BrokenFile(path, f"is damaged or not whole ({error})") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _header(line: Mapping[str, Any]) -> Header:
    if line.get("format") != FORMAT:
        raise ValueError(f"its first line does not say {FORMAT}")
    if line.get("version") != VERSION:
        raise Unsupported(
            f"is an exchange file of version {str(line.get('version'))[:20]}; this mxbridge reads {VERSION}",
            hint="Run the button again, after mxbridge qupath install-scripts",
        )
    counts = Counts(**{name: _count(line["counts"][name]) for name in ("cells", "removed", "objects", "lines")})
    entries = line["entries"]
    for entry in entries:
        _text(entry["name"]), dict(entry["serverBuilder"]), dict(entry["metadata"])
    sha = line["data_sha256"]
    return Header(
        run=_text(line["run"]),
        task=_text(line["task"]),
        model=_text(line["model"]),
        image_id=_text(line["image"]["id"]),
        image_name=_text(line["image"]["name"]),
        made=_text(line["made"]),
        mxbridge=_text(line["mxbridge"]),
        data_sha256=None if sha is None else _text(sha),
        columns=_names(line["columns"]),
        classes=tuple((_text(c["name"]), None if c["color"] is None else _color(c["color"])) for c in line["classes"]),
        counts=counts,
        entries=tuple(entries),
        notes=_names(line["notes"]),
    )


def _body(path: Path, header: Header, documents: Iterator[dict[str, Any]]) -> Exchange:
    cells: dict[str, dict[str, Any]] = {}
    objects: dict[str, dict[str, Any]] = {}
    removed: dict[str, None] = {}
    values: dict[str, float | None] = {}
    values_removed: tuple[str, ...] = ()
    number, end = 1, None
    for line in documents:
        try:
            if end is not None:
                raise ValueError("it goes on after its end")
            if "end" in line:
                end = _count(line["end"])
            elif "image" in line:
                values |= {_text(name): _number(value) for name, value in line["image"].items()}
            elif "image_remove" in line:
                values_removed += _names(line["image_remove"])
            else:
                identity = _identity(line["id"])
                kind, known = (removed, {"id", "remove"}) if "remove" in line else (cells, {"id", "m", "-", "c"})
                if "object" in line:
                    kind, known = objects, {"id", "object"}
                    _check_object(line["object"], header)
                elif "remove" not in line:
                    _check_cell(line, header)
                if identity in kind or line.keys() - known:
                    raise ValueError(f"{identity} is there twice, or with more than belongs there")
                kind[identity] = None if kind is removed else line  # type: ignore[assignment]
        except _NONSENSE as error:
            raise BrokenFile(path, f"line {number + 1} makes no sense ({error})") from error
        number += 1
    counts = Counts(len(cells), len(removed), len(objects), number)
    if end != number - 1 or counts != header.counts:
        raise BrokenFile(path, f"is not whole: {number} lines instead of {header.counts.lines}", hint="Make it again")
    return Exchange(header, cells, tuple(removed), objects, values, values_removed)


def _check_cell(line: Mapping[str, Any], header: Header) -> None:
    values = line.get("m")
    if values is not None and len([_number(v) for v in values]) != len(header.columns):
        raise ValueError(f"{len(values)} values for {len(header.columns)} columns")
    _names(line.get("-", []))
    _class_index(line.get("c", -1), header, lowest=-1)


def _check_object(told: Mapping[str, Any], header: Header) -> None:
    if told["kind"] not in ("annotation", "detection", "cell"):
        raise ValueError(f"an object of kind {told['kind']!r}")
    _check_geometry(told["geometry"])
    if told.get("nucleus") is not None:
        _check_geometry(told["nucleus"])
    if "c" in told:
        _class_index(told["c"], header, lowest=0)
    for name, value in told.get("measurements", {}).items():
        _text(name), _number(value)
    for key, value in told.get("metadata", {}).items():
        _text(key), _text(value)


def _check_geometry(geometry: Mapping[str, Any]) -> None:
    polygons = {"Polygon": [geometry["coordinates"]], "MultiPolygon": geometry["coordinates"]}[geometry["type"]]
    if not polygons or any(not polygon for polygon in polygons):
        raise ValueError("an outline without rings")
    for ring in (ring for polygon in polygons for ring in polygon):
        if len(ring) < 4 or ring[0] != ring[-1] or any(len([_pixel(v) for v in point]) != 2 for point in ring):
            raise ValueError("an outline that is no polygon")


def _pixel(value: object) -> float:
    found = _float(value)
    if not abs(found) <= COORDINATE_LIMIT:
        raise ValueError(f"a coordinate of {found}")
    return found


def _identity(value: object) -> str:
    if not isinstance(value, str) or not is_uuid(value):
        raise ValueError(f"{str(value)[:60]!r} is no object id")
    return value


def _class_index(value: object, header: Header, *, lowest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value < len(header.classes):
        raise ValueError(f"there is no class {value!r}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:60]!r} is no text")
    return value


def _names(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise ValueError("no list of names")
    return tuple(_text(value) for value in values)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{str(value)[:60]!r} is no number of things")
    return value


def _color(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"{str(value)[:60]!r} is no colour")
    return value


def _number(value: object) -> float | None:
    return None if value is None else _float(value)


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{str(value)[:60]!r} is no number")
    return float(value)
