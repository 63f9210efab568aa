"""What omero.model says about its classes: fields, collections, which side owns a relation, what may not be empty."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import omero
import omero.model
from omero.model import IObject


@dataclass(frozen=True)
class Kind:
    """One concrete class of omero.model. `collections` maps a name to (kind of its members, their field pointing back)."""

    name: str
    make: type
    root: str
    fields: tuple[str, ...]
    required: tuple[str, ...]
    collections: dict[str, tuple[str, str] | None]
    is_global: bool
    names: tuple[str, ...]
    blank: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def is_link(self) -> bool:
        """Whether it ties a parent to a child."""
        return "parent" in self.fields and "child" in self.fields

    @property
    def is_enumeration(self) -> bool:
        """Whether its rows are words of a fixed vocabulary."""
        return self.is_global and "value" in self.fields


GLOBAL = {
    "Experimenter", "ExperimenterGroup", "GroupExperimenterMap", "Event", "EventType", "Session", "Node", "DBPatch", "Share",
    "AdminPrivilege",
}  # fmt: skip
NOT_FROM_CLIENTS = {"details", "sha1"}
"""Fields the mapping wants filled but the server fills itself."""

KINDS: dict[str, Kind] = {}
ROOTS: dict[str, str] = {}
CONCRETE: dict[str, frozenset[str]] = {}
INVERSE: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {}
"""(kind of a member, its field) -> the (kind of owner, collection) that this field fills."""


class _Recorder:
    """Handed to `addShape` and its like: notes which field of the member they set."""

    def __init__(self) -> None:
        self.fields: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("set"):
            raise AttributeError(name)
        self.fields.append(name[3].lower() + name[4:])
        return lambda *_: None


def _collections(blank: Any, names: list[str]) -> dict[str, tuple[str, str] | None]:
    found: dict[str, tuple[str, str] | None] = dict.fromkeys(names)
    for method in dir(blank):
        if not method.startswith("add") or method.startswith("addAll") or method.endswith("ToBoth"):
            continue
        recorder = _Recorder()
        before = {name: len(getattr(blank, f"_{name}Seq")) for name in names}
        getattr(blank, method)(recorder)
        filled = [name for name in names if len(getattr(blank, f"_{name}Seq")) > before[name]]
        if filled and recorder.fields:
            found[filled[0]] = (method[3:], recorder.fields[0])
    return found


def _kind(name: str, make: type) -> Kind:
    blank = make()
    lineage = [base.__name__ for base in make.__mro__]
    names = tuple(base for base in lineage[1 : lineage.index("IObject")])
    known = make._field_info._asdict()
    collections = [one for one in known if hasattr(blank, f"_{one}Seq")]
    fields = tuple(one for one in known if one not in collections and one != "details")
    required = tuple(one for one in fields if not known[one].nullable and one not in NOT_FROM_CLIENTS)
    return Kind(
        name, make, names[-1], fields, required, _collections(make(), collections),
        bool(blank.isGlobal()) or name in GLOBAL, names, dict(vars(blank)),
    )  # fmt: skip


def _read_model() -> None:
    subs: dict[str, set[str]] = {}
    inverse: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for class_name, make in inspect.getmembers(omero.model, inspect.isclass):
        if not (class_name.endswith("I") and issubclass(make, IObject) and hasattr(make, "_field_info")):
            continue
        kind = _kind(class_name[:-1], make)
        KINDS[kind.name] = kind
        for name in kind.names:
            ROOTS.setdefault(name, kind.root)
            subs.setdefault(name, set()).add(kind.name)
        for collection, member in kind.collections.items():
            if member is not None:
                inverse.setdefault(member, []).append((kind.name, collection))
    CONCRETE.update({name: frozenset(concrete) for name, concrete in subs.items()})
    for name, kind in KINDS.items():
        for one in kind.fields:
            owners = [owner for base in kind.names for owner in inverse.get((base, one), ())]
            if owners:
                INVERSE[name, one] = tuple(dict.fromkeys(owners))


_read_model()


def kind_name(text: str) -> str:
    """The name a client means by `omero.model.ImageI`, `ome.model.core.Image`, `::omero::model::Image` or `Image`."""
    name = text.replace("::", ".").rsplit(".", 1)[-1]
    return name[:-1] if name.endswith("I") and name[:-1] in KINDS else name


def kind_of(thing: Any) -> Kind:
    """The kind of a model object."""
    return KINDS[kind_name(type(thing).__name__)]
