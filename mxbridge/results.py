"""What a task yields: one :class:`Results` per image, so that every workspace can publish every task.

``Results`` can be written to a folder and read back (``mxbridge publish RUN`` does), so that nothing needs to be computed
twice because a project was locked or an image open in front of a user.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Rings
from mxbridge.errors import BrokenFile, InputError
from mxbridge.formats.atomic import make_folder, write_atomically

_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, ArithmeticError, MemoryError,
               RecursionError, BadZipFile, zlib.error)  # fmt: skip
"""What damaged JSON and NumPy files raise."""

RESULTS = "results.json"
"""Written last; a folder without it holds no results."""

ObjectKind = Literal["annotation", "detection", "cell"]
KINDS: tuple[ObjectKind, ...] = get_args(ObjectKind)


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


@dataclass(frozen=True, eq=False)
class NewObjects:
    """Objects a task makes under one result key, as arrays: a slide has a million nuclei.

    keys: unique within the result and the same in a rerun; ids are made of them. outlines, nuclei: full-resolution pixels
    (x, y), even-odd; only cells have nuclei, and an object without rings there has none. class_names (full names, ``Tumor:
    Positive``), names: one per object, None for none; empty for none at all. measurements: float32 ``(objects,)`` by
    name; NaN is 'no value'. Raises InputError where these differ in number or do not fit.
    """

    kind: ObjectKind
    result_key: str
    keys: tuple[str, ...]
    outlines: Rings
    nuclei: Rings | None = None
    class_names: tuple[str | None, ...] = ()
    names: tuple[str | None, ...] = ()
    measurements: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, column in (("class_names", self.class_names), ("names", self.names)):
            if not column:
                object.__setattr__(self, what, (None,) * len(self.keys))
        for name, values in self.measurements.items():
            if not isinstance(values, np.ndarray) or values.dtype != np.float32:
                raise InputError(f"{name}: values of objects must be float32 arrays")
        columns: list[Sized] = [self.outlines, self.class_names, self.names, *self.measurements.values()]
        columns += [] if self.nuclei is None else [self.nuclei]
        if any(len(column) != len(self.keys) for column in columns):
            raise InputError(f"{len(self.keys)} objects, but outlines, classes or values of another number")
        if len(set(self.keys)) < len(self.keys):
            raise InputError(f"objects of {self.result_key} share a key")
        if np.any(np.diff(self.outlines.object_starts) < 1):
            raise InputError(f"an object of {self.result_key} has no outline")
        if self.nuclei is not None and self.kind != "cell":
            raise InputError(f"only a cell has a nucleus, not an object of kind {self.kind!r}")

    def __len__(self) -> int:
        return len(self.keys)

    def same_as(self, other: NewObjects) -> bool:
        """Whether both say the same; NaN equals NaN."""
        told = (self.kind, self.result_key, self.keys, self.class_names, self.names, list(self.measurements))
        others = (other.kind, other.result_key, other.keys, other.class_names, other.names, list(other.measurements))
        if told != others or (self.nuclei is None) != (other.nuclei is None):
            return False
        mine, theirs = self._arrays(), other._arrays()
        return all(np.array_equal(mine[name], theirs[name], equal_nan=True) for name in mine)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that is no text, by name."""
        values = np.zeros((len(self.measurements), len(self.keys)), np.float32)
        for row, column in zip(values, self.measurements.values(), strict=True):
            row[:] = column
        rings = {"outlines": self.outlines} | ({"nuclei": self.nuclei} if self.nuclei is not None else {})
        arrays: dict[str, NDArray[Any]] = {"values": values}
        for what, ring in rings.items():
            arrays |= {f"{what}.{part}": getattr(ring, part) for part in ("xy", "ring_starts", "object_starts")}
        return arrays

    def _stored(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """For JSON, and for the arrays' file."""
        classes, class_codes = _coded(self.class_names)
        names, name_codes = _coded(self.names)
        document = {
            "kind": self.kind,
            "result_key": self.result_key,
            "keys": self.keys,
            "classes": classes,
            "names": names,
            "measurements": list(self.measurements),
            "nuclei": self.nuclei is not None,
        }
        return document, {**self._arrays(), "classes": class_codes, "names": name_codes}

    @classmethod
    def _restored(cls, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> NewObjects:
        """Raises ValueError, LookupError, TypeError, InputError on anything that :meth:`_stored` does not give."""
        if document["kind"] not in KINDS:
            raise ValueError(f"objects of kind {document['kind']!r}")
        values = arrays["values"]
        if values.dtype != np.float32 or values.shape != (len(document["measurements"]), len(document["keys"])):
            raise ValueError(f"{values.shape} values of type {values.dtype} for {len(document['keys'])} objects")
        return cls(
            document["kind"],
            document["result_key"],
            tuple(document["keys"]),
            _rings(arrays, "outlines"),
            _rings(arrays, "nuclei") if document["nuclei"] else None,
            _decoded(document["classes"], arrays["classes"]),
            _decoded(document["names"], arrays["names"]),
            dict(zip(document["measurements"], values, strict=True)),
        )


@dataclass(frozen=True)
class ImageValue:
    """A value of the image as a whole, beside those on annotations. NaN is 'no value'."""

    name: str
    value: float
    result_key: str


@dataclass(frozen=True)
class DerivedImage:
    """An image a task made, of the source's extent. file: its name in ``derived/`` of the results' folder until it is
    published, then in the workspace's own folder for derived images (see :func:`mxbridge.tasks.derived.place`).

    show: beside the channels of the source in one image, or apart, as an image of its own called ``<source> (<title>)``
    (where the source is a colour picture). rgb: the channels are red, green and blue of one picture, uint8.
    """

    file: str
    channels: tuple[str, ...]
    result_key: str
    show: Literal["joined", "apart"] = "joined"
    rgb: bool = False
    title: str = ""


@dataclass(frozen=True)
class Results:
    """Everything a task yields for one image.

    cell_ids: any objects that have an id, cells or annotations. fingerprint: of the work that made it, so that results are never taken for those of another request. summary: counts and
    warnings for run.json, kept here so that a run killed before it wrote them finds them again. folder: where these results
    are saved, with their derived images; None for those that are nowhere yet.
    """

    image: ImageRef
    run_id: str
    cell_ids: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    class_changes: ClassChanges | None = None
    objects: tuple[NewObjects, ...] = ()
    derived: tuple[DerivedImage, ...] = ()
    image_values: tuple[ImageValue, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False)

    @property
    def result_keys(self) -> tuple[str, ...]:
        """Every key this result would replace, each once, in order."""
        keys = [m.result_key for m in self.measurements]
        keys += [self.class_changes.result_key] if self.class_changes else []
        keys += [o.result_key for o in self.objects] + [d.result_key for d in self.derived]
        keys += [v.result_key for v in self.image_values]
        return tuple(dict.fromkeys(keys))

    def save(self, folder: Path) -> None:
        """Write ``results.json`` and ``values.npz`` into ``folder``, the JSON last: without it the folder is no result."""
        make_folder(folder)
        values = np.stack([m.values for m in self.measurements]) if self.measurements else np.zeros((0, 0), np.float32)
        objects = [made._stored() for made in self.objects]
        arrays = {f"objects{k}.{name}": array for k, (_, told) in enumerate(objects) for name, array in told.items()}
        with write_atomically(folder / "values.npz") as part, part.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, values=values, **arrays)
        document = {
            "image": asdict(self.image),
            "run_id": self.run_id,
            "cell_ids": self.cell_ids,
            "measurements": [{"name": m.name, "result_key": m.result_key} for m in self.measurements],
            "class_changes": asdict(self.class_changes) if self.class_changes else None,
            "objects": [told for told, _ in objects],
            "derived": [asdict(d) for d in self.derived],
            "image_values": [asdict(v) for v in self.image_values],
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
                arrays = {name: stored[name] for name in stored.files}
            values = arrays.pop("values")
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
                objects=tuple(
                    NewObjects._restored(told, _with_prefix(arrays, f"objects{k}."))
                    for k, told in enumerate(document["objects"])
                ),
                derived=tuple(_derived(told) for told in document["derived"]),
                image_values=tuple(ImageValue(**told) for told in document.get("image_values", ())),
                provenance=dict(document["provenance"]),
                fingerprint=str(document["fingerprint"]),
                summary=dict(document["summary"]),
                folder=folder,
            )
        except (*_UNREADABLE, InputError) as error:
            raise BrokenFile(folder, f"not a saved result of mxbridge ({error})") from error


def _derived(told: dict[str, Any]) -> DerivedImage:
    show = told.get("show", "joined")
    if show not in ("joined", "apart"):
        raise ValueError(f"a derived image shown {show!r}")
    file, channels, rgb = Path(told["file"]).name, tuple(told["channels"]), bool(told.get("rgb", False))
    return DerivedImage(file, channels, told["result_key"], show, rgb, str(told.get("title", "")))


def _coded(texts: Sequence[str | None]) -> tuple[list[str | None], NDArray[np.int32]]:
    """The distinct texts, and which of them each is."""
    code = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return list(code), np.array([code[text] for text in texts], np.int32)


def _decoded(texts: Sequence[str | None], codes: NDArray[Any]) -> tuple[str | None, ...]:
    if codes.dtype.kind != "i" or codes.min(initial=0) < 0:
        raise ValueError("classes or names that are not numbered")
    return tuple(texts[code] for code in codes.tolist())


def _rings(arrays: dict[str, NDArray[Any]], what: str) -> Rings:
    xy, rings, objects = (arrays[f"{what}.{part}"] for part in ("xy", "ring_starts", "object_starts"))
    whole = xy.dtype == np.float64 and xy.ndim == 2 and xy.shape[1] == 2
    for starts, end in ((rings, len(xy)), (objects, len(rings) - 1)):
        whole = whole and starts.dtype == np.int64 and starts.ndim == 1 and len(starts) > 0
        whole = whole and starts[0] == 0 and starts[-1] == end and bool(np.all(np.diff(starts) >= 0))
    if not whole:
        raise ValueError(f"{what} that are not whole")
    return Rings(xy, rings, objects)


def _with_prefix(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
