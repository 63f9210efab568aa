"""``classifiers/classes.json``: the classes QuPath offers in a project, each with a colour.

A broken one keeps QuPath from opening the whole project, so it is never written over, only reported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mxbridge.errors import BrokenFile, OutputError
from mxbridge.formats.atomic import output_error
from mxbridge.formats.exchange import Seen, read_seen, replace_seen
from mxbridge.formats.json_files import parse_json
from mxbridge.workspaces.qupath.project import JSON_LIMIT, dump_json
from mxbridge.workspaces.qupath.qpdata.classes import SEPARATOR, default_class_color


class ClassList:
    """The classes of one project, as they were when read. A missing file is an empty list."""

    def __init__(self, path: Path) -> None:
        """path: ``<project>/classifiers/classes.json``. Raises BrokenFile."""
        self.path = path
        self._seen: Seen | None = None
        self._before: bytes | None = None
        self._document: dict[str, Any] = {"pathClasses": []}
        if path.exists():
            self._before, self._seen = read_seen(path, JSON_LIMIT)
            self._document = parse_json(self._before, path)
            items = self._document.get("pathClasses")
            if not isinstance(items, list) or not all(isinstance(i, dict) for i in items):
                raise BrokenFile(path, "has no list 'pathClasses'", hint="QuPath cannot open a project with this file")
            for item in items:
                color = item.get("color")
                if not isinstance(item.get("name") or "", str) or not isinstance(color or 0, int):
                    raise BrokenFile(path, f"class {item.get('name')!r} has no valid name and colour")

    @classmethod
    def of(cls, project_folder: Path) -> ClassList:
        """The list of a project. Raises BrokenFile."""
        return cls(project_folder / "classifiers" / "classes.json")

    @property
    def exists(self) -> bool:
        return self._seen is not None

    @property
    def colors(self) -> dict[str, int | None]:
        """Full class name -> signed ARGB, or None where the file has no colour."""
        return {i["name"]: i.get("color") for i in self._document["pathClasses"] if i.get("name")}

    def extend(self, names: Iterable[str], colors: Mapping[str, int] | None = None) -> list[str]:
        """Append the classes that are not listed yet, and write; say which these were. colors: of some, else made of the names.

        Raises ChangedMeanwhile, OutputError.
        """
        known = self.colors
        new = [n for n in dict.fromkeys(names) if n not in known]
        if new:
            colors = class_colors(new, {**(colors or {}), **known})
            self._write([*self._document["pathClasses"], *({"name": n, "color": colors[n]} for n in new)])
        return new

    def drop(self, names: Collection[str]) -> None:
        """Take listed classes out again."""
        kept = [i for i in self._document["pathClasses"] if i.get("name") not in names]
        if len(kept) != len(self._document["pathClasses"]):
            self._write(kept)

    def _write(self, items: list[dict[str, Any]]) -> None:
        document = {**self._document, "pathClasses": items}
        data = dump_json(document)
        if self.path.parent.is_symlink():
            raise OutputError(
                f"{self.path.parent} is a symbolic link, perhaps to the classes of another project",
                hint="mxbridge does not write through links inside a project; replace the link by a folder",
            )
        try:
            self.path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise output_error(self.path, error) from error
        self._seen = replace_seen(self.path, data, self._seen, verify=self._verify, backup=self._before)
        self._before, self._document = data, document

    def _verify(self, data: bytes) -> None:
        if dump_json(parse_json(data, self.path)) != data:
            raise OutputError(f"{self.path}: what was written does not read back the same", hint="Nothing was changed")


def class_colors(names: Iterable[str], known: Mapping[str, int | None]) -> dict[str, int]:
    """Signed ARGB for every class in ``names`` and every class it is derived from.

    Colours already known are kept; others follow from the name alone, so that every run and every image agrees.
    """
    out: dict[str, int] = {}
    for name in names:
        for full in lineage(name):
            color = known.get(full)
            out[full] = default_class_color(full) if color is None else color
    return out


def lineage(name: str) -> list[str]:
    """``A: B: C`` -> ``[A, A: B, A: B: C]``."""
    parts = name.split(SEPARATOR)
    return [SEPARATOR.join(parts[: i + 1]) for i in range(len(parts))]
