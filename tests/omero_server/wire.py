"""Operations of the Slice interfaces as the server dispatches them. Must be imported before anything of omero.

IcePy keeps what it knows of an operation to itself, so its constructor is listened to while the slices load: whether an
operation is answered asynchronously, whether it returns something, and what it may throw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import IcePy


@dataclass(frozen=True)
class Facts:
    """What the slices say about one operation."""

    name: str
    asynchronous: bool
    results: int
    throws: tuple[Any, ...]


OPERATIONS: dict[int, Facts] = {}
_KEPT: list[Any] = []
_original = IcePy.Operation


def _listening(name: str, *rest: Any) -> Any:
    made = _original(name, *rest)
    _, _, asynchronous, _, _, _, out, returned, throws = rest
    OPERATIONS[id(made)] = Facts(name, bool(asynchronous), (returned is not None) + len(out), tuple(throws))
    _KEPT.append(made)  # or its id could be given to another
    return made


IcePy.Operation = _listening
import Glacier2  # noqa: E402, F401
import Ice  # noqa: E402
import omero  # noqa: E402
import omero.all  # noqa: E402
import omero.api  # noqa: E402
import omero.cmd  # noqa: E402
import omero.grid  # noqa: E402
import omero.model  # noqa: E402
import omero.sys  # noqa: E402

IcePy.Operation = _original

SessionNotExist = next(
    one
    for one in Ice.UserException.__subclasses__()
    if getattr(one, "_ice_name", "") == "Glacier2::SessionNotExistException"
)
"""The exception as the slices know it: `Glacier2.SessionNotExistException` is hidden by another class of that name."""


def declares_server_error(facts: Facts) -> bool:
    """Whether a client can receive an omero.ServerError from it."""
    return omero._t_ServerError in facts.throws


def operations(interface: type) -> dict[str, Facts]:
    """All operations of an interface and of those it extends, without Ice's own."""
    return {
        name[4:]: OPERATIONS[id(operation)]
        for base in interface.__mro__
        for name, operation in vars(base).items()
        if name.startswith("_op_") and not name.startswith("_op_ice_") and id(operation) in OPERATIONS
    }


def dispatched(cls: type) -> type:
    """Class decorator of servants: every operation of their interfaces goes through `server.dispatch`."""
    for name, facts in operations(cls).items():
        if facts.asynchronous:
            setattr(cls, name + "_async", _asynchronous(facts))
        else:
            setattr(cls, name, _plain(facts))
    return cls


def _plain(facts: Facts) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any) -> Any:
        return self.server.dispatch(self, facts, arguments[:-1], arguments[-1])

    return call


def _asynchronous(facts: Facts) -> Callable[..., None]:
    def call(self: Any, answer: Any, *arguments: Any) -> None:
        try:
            result = self.server.dispatch(self, facts, arguments[:-1], arguments[-1])
        except Exception as error:
            answer.ice_exception(error)
            return
        if facts.results == 0:
            answer.ice_response()
        elif facts.results == 1:
            answer.ice_response(result)
        else:
            answer.ice_response(*result)

    return call
