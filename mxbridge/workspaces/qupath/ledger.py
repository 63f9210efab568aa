"""What mxbridge published on one image of a project, so that it can be replaced, recognised as lost, or taken out again.

``<project>/mxbridge/published/<entry id>.json`` names everything; arrays (ids, what was overwritten) lie in an npz file beside
it whose name the JSON gives. The ledger is written before ``data.qpdata`` with both the old and the new state, and once
more after it: whichever of the two ``data.qpdata`` files a killed run left on disk, the ledger knows which one it is. Results
that were handed over to an open image are written there by QuPath, some time or never: until then the journal stays open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile
from mxbridge.formats.atomic import output_error, write_atomically
from mxbridge.formats.exchange import read_seen

if TYPE_CHECKING:
    from mxbridge.workspaces.qupath.qpdata import ImageDataFile

FORMAT = 1
_SAMPLED = 12
"""About so many cells are looked at where a few will do."""

_LIMIT = 1 << 30


@dataclass(frozen=True)
class Column:
    """A measurement we own on some cells.

    ids: the cells. had, previous: whether a cell had a value of this name before us, and which (float64, exact).
    values_sha: see :func:`values_sha` of what we published.
    """

    key: str
    run_id: str
    ids: tuple[str, ...]
    had: NDArray[np.bool_]
    previous: NDArray[np.float64]
    values_sha: str


@dataclass(frozen=True)
class Reclassed:
    """Cells to which one result key gave the class ``new``, None being 'no class'.

    old: the class before any result of ours, whatever other results lie between. In ``State.reclassed`` the records stand
    in the order of publication, so that the last one that names a cell is the one that shows.
    colors: signed ARGB of the old classes and those above them, which may be nowhere else once no cell has them.
    """

    run_id: str
    ids: tuple[str, ...]
    old: tuple[str | None, ...]
    new: tuple[str | None, ...]
    colors: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MadeObjects:
    """Objects we added under one result key.

    classes: which each was given, none known in a record of an earlier version. columns: measurements they were given.
    """

    run_id: str
    ids: tuple[str, ...]
    classes: tuple[str | None, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageColumn:
    """A value of the image as a whole that we own. previous: the value of this name before us, None where there was none."""

    key: str
    run_id: str
    previous: float | None


@dataclass(frozen=True)
class State:
    """Everything of ours in one image. ``classes_added``: names we put into the project's class list."""

    columns: dict[str, Column] = field(default_factory=dict)
    reclassed: dict[str, Reclassed] = field(default_factory=dict)
    objects: dict[str, MadeObjects] = field(default_factory=dict)
    classes_added: tuple[str, ...] = ()
    image_values: dict[str, ImageColumn] = field(default_factory=dict)

    @property
    def keys(self) -> set[str]:
        values = {c.key for part in (self.columns, self.image_values) for c in part.values()}
        return values | set(self.reclassed) | set(self.objects)

    def keys_of_run(self, run_id: str) -> set[str]:
        """Result keys whose present results a run published."""
        values = {c.key for part in (self.columns, self.image_values) for c in part.values() if c.run_id == run_id}
        return values | {k for part in (self.reclassed, self.objects) for k, r in part.items() if r.run_id == run_id}

    def runs_of(self, keys: Iterable[str]) -> set[str]:
        """The runs that published the present results of these keys."""
        wanted = set(keys)
        runs = {c.run_id for part in (self.columns, self.image_values) for c in part.values() if c.key in wanted}
        return runs | {r.run_id for part in (self.reclassed, self.objects) for k, r in part.items() if k in wanted}

    def original_class(self, cell_id: str, current: str | None) -> str | None:
        """The class a cell had before us, or ``current`` where that is not ours."""
        return self._originals.get((cell_id, current), current)

    def gave_class(self, cell_id: str, current: str | None) -> bool:
        """Whether one of our results gave a cell the class it has now."""
        return (cell_id, current) in self._originals

    @cached_property
    def _originals(self) -> dict[tuple[str, str | None], str | None]:
        return {
            (cell, new): old
            for record in self.reclassed.values()
            for cell, old, new in zip(record.ids, record.old, record.new, strict=True)
        }


class Ledger:
    """The ledger file of one entry, resolved against the ``data.qpdata`` that is on disk."""

    def __init__(self, folder: Path, entry_id: int) -> None:
        """folder: ``<project>/mxbridge/published``."""
        self.path = folder / f"{entry_id}.json"
        self.state = State()
        self.written_sha: str | None = None
        """sha256 of the data.qpdata we wrote last."""
        self.unfinished = False
        """A killed run left a journal behind: what follows the rename was perhaps not done; or :attr:`waiting`."""
        self.waiting: State | None = None
        """What there will be once QuPath has saved what was handed over to it; None where nothing waits for that."""
        self.samples: dict[str, Any] | None = None
        """See :func:`samples_of`, of the data.qpdata we wrote last; None where they are not known."""

    @classmethod
    def open(cls, folder: Path, entry_id: int, data_sha: str | None, tree: Callable[[], ImageDataFile]) -> Ledger:
        """data_sha: sha256 of data.qpdata now, None where there is none. tree: its objects, asked for where results were handed
        over to QuPath and something was saved since, which may or may not be these results.

        Raises BrokenFile, and as ``tree`` does; never forgets silently.
        """
        ledger = cls(folder, entry_id)
        if not ledger.path.exists():
            return ledger
        data, _ = read_seen(ledger.path, _LIMIT)
        try:
            document = json.loads(data.decode("utf-8"))
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']!r} is of another version of mxbridge")
            journal = document["journal"]
            arrays = _load_arrays(folder, document["arrays"])
            ledger.unfinished = journal is not None
            # Unless the old file is still there, the rename happened; a user may have saved on top of it since.
            use_journal = journal is not None and journal["before"] != data_sha
            states = [_read_state(told["state"], arrays) for told in (document, journal) if told is not None]
            handed_over = journal is not None and journal["after"] is None
            if use_journal and handed_over:
                use_journal = data_sha is not None and was_applied(tree(), *states)
            ledger.written_sha = journal["after"] if use_journal else document["written"]
            ledger.state = states[1] if use_journal else states[0]
            ledger.waiting = states[1] if handed_over and not use_journal else None
            ledger.samples = None if use_journal else document.get("samples")
            if journal is not None:  # the class list is extended before the rename
                classes = dict.fromkeys([*ledger.state.classes_added, *journal["state"]["classes_added"]])
                ledger.state = replace(ledger.state, classes_added=tuple(classes))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError, RecursionError) as error:
            raise BrokenFile(
                ledger.path,
                f"mxbridge's own record of what it published is damaged ({error})",
                hint="Restore it from a backup, or delete it: earlier results then stay in the image as if they were yours",
            ) from error
        return ledger

    def begin(
        self, new: State, *, before: str | None, after: str | None, samples: Mapping[str, Any] | None = None
    ) -> None:
        """Write the journal: data.qpdata is about to change from ``before`` to ``after``, None where QuPath will write it.
        samples: of what QuPath will show then."""
        self._save(new, before=before, after=after, samples=samples)

    def finish(
        self,
        new: State,
        written_sha: str | None,
        samples: dict[str, Any] | None = None,
        *,
        waiting: State | None = None,
    ) -> None:
        """The change is done: forget the journal.

        waiting: what QuPath was handed over earlier and may still save over this; then the file will tell which it was.
        """
        if waiting is not None:
            waiting = None if same_result(waiting, new) else _on_top(waiting, new)
        self.state, self.written_sha, self.samples = new, written_sha, samples
        self.unfinished, self.waiting = waiting is not None, waiting
        self._save(waiting, before=None if waiting is None else written_sha, after=None)
        self.sweep()

    def sweep(self) -> None:
        """Remove arrays of earlier states."""
        keep = json.loads(self.path.read_text(encoding="utf-8"))["arrays"]["file"] if self.path.exists() else None
        for old in self.path.parent.glob(f"{self.path.stem}-*.npz"):
            if old.name != keep:
                with suppress(OSError):  # held open on Windows; the next publication tries again
                    old.unlink(missing_ok=True)

    def _save(
        self, new: State | None, *, before: str | None, after: str | None, samples: Mapping[str, Any] | None = None
    ) -> None:
        try:
            if new is None and not self.state.keys and not self.state.classes_added:
                self.path.unlink(missing_ok=True)
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(self.path, error) from error
        arrays: dict[str, NDArray[Any]] = {}
        document = {
            "format": FORMAT,
            "written": self.written_sha,
            "state": _write_state(self.state, arrays),
            "samples": self.samples,
            "journal": None,
        }
        if new is not None:
            told = _write_state(new, arrays)
            document["journal"] = {"before": before, "after": after, "state": told, "samples": samples}
        digest = hashlib.sha256()
        for name, array in arrays.items():
            digest.update(name.encode() + array.tobytes())
        file = self.path.parent / f"{self.path.stem}-{digest.hexdigest()[:16]}.npz"
        with write_atomically(file) as part, part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        document["arrays"] = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        with write_atomically(self.path) as part:
            part.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class ToldClasses:
    """What one ledger says about the project's class list. in_use: whether anything of ours is in its image.

    names: classes given to cells and new objects. added: those that were not listed before.
    """

    path: Path
    in_use: bool
    names: frozenset[str]
    added: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> ToldClasses:
        """From the JSON alone, which is quick however many cells there are. Raises BrokenFile."""
        data, _ = read_seen(path, _LIMIT)
        try:
            document = json.loads(data)
            states = [state for state in (document["state"], (document["journal"] or {}).get("state")) if state]
            return cls(
                path,
                any(s["measurements"] or s["classes"] or s["objects"] or s.get("image_values") for s in states),
                frozenset(
                    name
                    for s in states
                    for record in (*s["classes"].values(), *s["objects"].values())
                    for name in record.get("names", ())
                    if name is not None
                ),
                frozenset(name for s in states for name in s["classes_added"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BrokenFile(path, f"mxbridge's own record of what it published is damaged ({error})") from error


def samples_of(tree: ImageDataFile, state: State) -> dict[str, Any]:
    """A few of our values by name and id, classes by id, and ids of objects we made: by these a script in QuPath finds out
    whether an image that is open there is older than its file."""
    table = tree.table
    row = {identity: k for k, identity in enumerate(table.ids) if identity is not None}

    def some(ids: Sequence[str]) -> list[str]:
        return [i for i in ids[:: max(len(ids) // _SAMPLED, 1)] if i in row]

    values: dict[str, dict[str, float | None]] = {}
    for name, column in state.columns.items():
        ids = some(column.ids)
        had, now = table.columns(np.array([row[i] for i in ids], np.int64), [name])[name]
        found = zip(ids, had.tolist(), now.astype(np.float32).tolist(), strict=True)
        values[name] = {i: None if np.isnan(value) else value for i, has, value in found if has and not np.isinf(value)}
    classes: dict[str, str | None] = {}
    for record in state.reclassed.values():
        given = [(i, new) for i, old, new in zip(record.ids, record.old, record.new, strict=True) if old != new]
        ids = some([i for i, _ in given])
        shown = table.class_names(np.array([row[i] for i in ids], np.int64))
        meant = dict(given)
        classes |= {i: name for i, name in zip(ids, shown, strict=True) if name == meant[i]}
    made = [i for record in state.objects.values() for i in some(record.ids)]
    return {"values": values, "classes": classes, "objects": made}


def values_sha(ids: Sequence[str], values: NDArray[np.floating]) -> str:
    """Hash of one column as float32, every NaN being the same NaN, in the order of the ids."""
    column = np.ascontiguousarray(values, np.float32).copy()
    column[np.isnan(column)] = np.nan
    return hashlib.sha256("\n".join(ids).encode() + b"\0" + column.tobytes()).hexdigest()


def was_applied(tree: ImageDataFile, old: State, new: State) -> bool:
    """Whether a file that QuPath saved has the results that were handed over to it: ``new`` rather than ``old``.

    A user may have edited some of them since, so the first kind of result that tells the two apart decides. Where nothing
    tells them apart it does not matter which is taken.
    """
    row = {identity: k for k, identity in enumerate(tree.table.ids) if identity is not None}
    before, after = ({i for made in state.objects.values() for i in made.ids} for state in (old, new))
    for more, answer in ((after - before, True), (before - after, False)):
        if more:
            return answer == any(i in row for i in more)
    for name, column in new.columns.items():
        cells = [i for i in column.ids if i in row]
        had, values = tree.table.columns(np.array([row[i] for i in cells], np.int64), [name])[name]
        if name not in old.columns and not column.had.any() and cells:
            return bool(had.any())
        earlier = old.columns[name].values_sha if name in old.columns else None
        told = values_sha(cells, values.astype(np.float32))
        if earlier != column.values_sha and told in (earlier, column.values_sha):
            return told != earlier
    for key, record in new.reclassed.items():
        before_it = old.reclassed.get(key)
        was = dict(zip(before_it.ids, before_it.new, strict=True)) if before_it else {}
        differ = [
            (i, was.get(i, first), now)
            for i, first, now in zip(record.ids, record.old, record.new, strict=True)
            if i in row and was.get(i, first) != now
        ]
        names = tree.table.class_names(np.array([row[i] for i, _, _ in differ], np.int64))
        votes = [name == now for (_, once, now), name in zip(differ, names, strict=True) if name in (once, now)]
        if votes:
            return 2 * sum(votes) > len(votes)
    for value in new.image_values.keys() - old.image_values.keys():
        return value in tree.image_values
    return True


def same_result(a: State, b: State) -> bool:
    """Whether two states say the same but for the run that brought it about."""
    return bool(_without_run(_write_state(a, {})) == _without_run(_write_state(b, {})))


def _on_top(waiting: State, new: State) -> State:
    """What there is after ``waiting`` was saved over ``new``: of this, too, it must be known that it was there."""
    return State(
        new.columns | waiting.columns,
        new.reclassed | waiting.reclassed,
        new.objects | waiting.objects,
        tuple(dict.fromkeys([*new.classes_added, *waiting.classes_added])),
        new.image_values | waiting.image_values,
    )


def _without_run(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _without_run(value) for key, value in document.items() if key != "run"}
    return document


def _write_state(state: State, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    kept: dict[tuple[str, ...], str] = {}

    def keep_ids(ids: tuple[str, ...]) -> str:
        if ids not in kept:  # columns of one run share their cells
            kept[ids] = _keep(arrays, "ids", np.array([i.encode() for i in ids], dtype="S"))
        return kept[ids]

    return {
        "measurements": {
            name: {
                "key": c.key,
                "run": c.run_id,
                "sha256": c.values_sha,
                "ids": keep_ids(c.ids),
                "had": _keep(arrays, "had", c.had),
                "previous": _keep(arrays, "previous", c.previous),
            }
            for name, c in state.columns.items()
        },
        "classes": {key: _write_reclassed(r, arrays) for key, r in state.reclassed.items()},
        "objects": {key: _write_made(o, arrays) for key, o in state.objects.items()},
        "classes_added": list(state.classes_added),
        "image_values": {
            name: {"key": v.key, "run": v.run_id, "previous": None if v.previous is None else repr(v.previous)}
            for name, v in state.image_values.items()
        },
    }


def _write_made(made: MadeObjects, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    code = {name: k for k, name in enumerate(dict.fromkeys(made.classes))}
    return {
        "run": made.run_id,
        "ids": _keep(arrays, "ids", np.array([i.encode() for i in made.ids], dtype="S")),
        "names": list(code),
        "classes": _keep(arrays, "codes", np.array([code[n] for n in made.classes], np.int32)),
        "columns": list(made.columns),
    }


def _write_reclassed(record: Reclassed, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys([*record.old, *record.new]))
    code = {name: k for k, name in enumerate(names)}
    return {
        "run": record.run_id,
        "names": names,
        "colors": record.colors,
        "ids": _keep(arrays, "ids", np.array([i.encode() for i in record.ids], dtype="S")),
        "old": _keep(arrays, "codes", np.array([code[n] for n in record.old], np.int32)),
        "new": _keep(arrays, "codes", np.array([code[n] for n in record.new], np.int32)),
    }


def _keep(arrays: dict[str, NDArray[Any]], kind: str, array: NDArray[Any]) -> str:
    """Store an array once, however many columns share it."""
    name = f"{kind}_{hashlib.sha256(array.tobytes()).hexdigest()[:16]}_{len(array)}"
    arrays[name] = array
    return name


def _load_arrays(folder: Path, reference: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    path = folder / Path(reference["file"]).name
    if hashlib.sha256(path.read_bytes()).hexdigest() != reference["sha256"]:
        raise ValueError(f"{path.name} is not the file it was written with")
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _read_state(document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> State:
    texts: dict[str, tuple[str, ...]] = {}

    def ids(name: str) -> tuple[str, ...]:
        if name not in texts:
            texts[name] = tuple(i.decode() for i in arrays[name].tolist())
        return texts[name]

    def names(all_names: Sequence[str | None], codes: Iterable[int]) -> tuple[str | None, ...]:
        return tuple(all_names[k] for k in codes)

    columns = {
        name: Column(c["key"], c["run"], ids(c["ids"]), arrays[c["had"]], arrays[c["previous"]], c["sha256"])
        for name, c in document["measurements"].items()
    }
    if any(not len(c.ids) == len(c.had) == len(c.previous) for c in columns.values()):
        raise ValueError("columns and cells differ in number")
    reclassed = {
        key: Reclassed(
            r["run"],
            ids(r["ids"]),
            names(r["names"], arrays[r["old"]]),
            names(r["names"], arrays[r["new"]]),
            {str(name): int(color) for name, color in r["colors"].items()},
        )
        for key, r in document["classes"].items()
    }
    objects = {
        key: MadeObjects(o["run"], ids(o["ids"]), names(o["names"], arrays[o["classes"]]), tuple(o["columns"]))
        if "classes" in o
        else MadeObjects(o["run"], tuple(o["ids"]))  # as version 0.1 wrote it
        for key, o in document["objects"].items()
    }
    image_values = {
        name: ImageColumn(v["key"], v["run"], None if v["previous"] is None else float(v["previous"]))
        for name, v in document.get("image_values", {}).items()  # version 0.1 wrote none
    }
    return State(columns, reclassed, objects, tuple(document["classes_added"]), image_values)
