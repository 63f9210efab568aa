"""What a task yields: one :class:`Results` per image, so that every workspace can publish every task.

``Results`` can be written to a folder and read back (``mxbridge publish RUN`` does), so that nothing needs to be computed
twice because a project was locked or an image open in front of a user.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile
from mxbridge.formats.atomic import make_folder, write_atomically

_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, ArithmeticError, MemoryError,
               RecursionError, BadZipFile, zlib.error)  # fmt: skip
"""What damaged JSON and NumPy files raise."""

RESULTS = "results.json"
"""Written last; a folder without it holds no results."""

ObjectKind = Literal["annotation", "detection", "cell"]


@dataclass(frozen=True)
class ImageRef:
    """One image in a workspace. ``id`` identifies it there (QuPath entry id, path, OMERO id); names repeat and do not."""

    id: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.id})" if self.id != self.name else self.name


@dataclass(frozen=True)
class Measurement:
    """One column on existing cells. values: float32 ``(cells,)`` in the order of ``Results.cell_ids``; NaN is 'no value'."""

    name: str
    values: NDArray[np.float32]
    result_key: str


@dataclass(frozen=True)
class ClassChanges:
    """New full class names (``Tumor: CD3: CD8``), one per cell in the order of ``Results.cell_ids``; None clears the class.

    base_names: the class each cell had when it was read, so that a rerun and ``undo`` start from there.
    """

    names: tuple[str | None, ...]
    base_names: tuple[str | None, ...]
    result_key: str


@dataclass(frozen=True)
class NewObject:
    """An object a task makes. rings: lists of (x, y) in full-resolution pixels, even-odd. key: unique within the result."""

    kind: ObjectKind
    key: str
    rings: list[list[tuple[float, float]]]
    result_key: str
    nucleus_rings: list[list[tuple[float, float]]] | None = None
    class_name: str | None = None
    name: str | None = None
    measurements: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DerivedImage:
    """An image a task made, of the source's extent. file: its name in ``derived/`` of the results' folder until it is
    published, then in the workspace's own folder for derived images (see :func:`mxbridge.tasks.derived.place`)."""

    file: str
    channels: tuple[str, ...]
    result_key: str


@dataclass(frozen=True)
class Results:
    """Everything a task yields for one image.

    fingerprint: of the work that made it, so that results are never taken for those of another request. summary: counts and
    warnings for run.json, kept here so that a run killed before it wrote them finds them again.
    """

    image: ImageRef
    run_id: str
    cell_ids: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    class_changes: ClassChanges | None = None
    objects: tuple[NewObject, ...] = ()
    derived: tuple[DerivedImage, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def result_keys(self) -> tuple[str, ...]:
        """Every key this result would replace, each once, in order."""
        keys = [m.result_key for m in self.measurements]
        keys += [self.class_changes.result_key] if self.class_changes else []
        keys += [o.result_key for o in self.objects] + [d.result_key for d in self.derived]
        return tuple(dict.fromkeys(keys))

    def save(self, folder: Path) -> None:
        """Write ``results.json`` and ``values.npz`` into ``folder``, the JSON last: without it the folder is no result."""
        make_folder(folder)
        values = np.stack([m.values for m in self.measurements]) if self.measurements else np.zeros((0, 0), np.float32)
        with write_atomically(folder / "values.npz") as part, part.open("wb") as stream:
            np.savez_compressed(stream, values=values)
        document = {
            "image": asdict(self.image),
            "run_id": self.run_id,
            "cell_ids": self.cell_ids,
            "measurements": [{"name": m.name, "result_key": m.result_key} for m in self.measurements],
            "class_changes": asdict(self.class_changes) if self.class_changes else None,
            "objects": [asdict(o) for o in self.objects],
            "derived": [asdict(d) for d in self.derived],
            "provenance": self.provenance,
            "fingerprint": self.fingerprint,
            "summary": self.summary,
        }
        with write_atomically(folder / RESULTS) as part:
            part.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8", errors="backslashreplace")

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Read what :meth:`save` wrote. Raises BrokenFile."""
        try:
            document = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
            with (folder / "values.npz").open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                values = stored["values"]
            changes, cells = document["class_changes"], len(document["cell_ids"])
            if values.dtype != np.float32 or values.shape != (
                len(document["measurements"]),
                cells if len(values) else 0,
            ):
                raise ValueError(f"{values.shape} values of type {values.dtype} for {cells} cells")
            return cls(
                image=ImageRef(**document["image"]),
                run_id=document["run_id"],
                cell_ids=tuple(document["cell_ids"]),
                measurements=tuple(
                    Measurement(m["name"], v, m["result_key"])
                    for m, v in zip(document["measurements"], values, strict=True)
                ),
                class_changes=ClassChanges(tuple(changes["names"]), tuple(changes["base_names"]), changes["result_key"])
                if changes
                else None,
                objects=tuple(NewObject(**o) for o in document["objects"]),
                derived=tuple(
                    DerivedImage(Path(d["file"]).name, tuple(d["channels"]), d["result_key"])
                    for d in document["derived"]
                ),
                provenance=dict(document["provenance"]),
                fingerprint=str(document["fingerprint"]),
                summary=dict(document["summary"]),
            )
        except _UNREADABLE as error:
            raise BrokenFile(folder, f"not a saved result of mxbridge ({error})") from error
