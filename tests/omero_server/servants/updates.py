"""IUpdate: every call is one transaction."""

from __future__ import annotations

from typing import Any

import omero
import omero.api

from ..caller import Caller
from ..graph_delete import Refused, delete
from ..graph_save import GraphSave
from ..kinds import kind_of
from ..servant import Servant, service


def save(caller: Caller, objects: list[Any], *, answer: bool = False) -> list[int]:
    """Save graphs, all or nothing; for an answer the objects get their new ids and details."""
    with caller.change() as change:
        work = GraphSave(caller, change)
        rows = work.all(objects)
        if answer:
            work.answer()
    return [row.id for row in rows]


@service(omero.api.IUpdate, omero.api.IUpdatePrx, "getUpdateService")
class UpdateService(Servant, omero.api.IUpdate):
    """Writing objects."""

    def do_saveObject(self, caller: Caller, given: Any) -> None:
        save(caller, [given])

    def do_saveAndReturnObject(self, caller: Caller, given: Any) -> Any:
        save(caller, [given], answer=True)
        return given

    def do_saveArray(self, caller: Caller, given: list[Any]) -> None:
        save(caller, given)

    def do_saveCollection(self, caller: Caller, given: list[Any]) -> None:
        save(caller, given)

    def do_saveAndReturnArray(self, caller: Caller, given: list[Any]) -> list[Any]:
        save(caller, given, answer=True)
        return given

    def do_saveAndReturnIds(self, caller: Caller, given: list[Any]) -> list[int]:
        return save(caller, given)

    def do_deleteObject(self, caller: Caller, given: Any) -> None:
        caller.write_group()
        row = caller.see(kind_of(given).name, given._id.val)
        try:
            delete(caller, [row])
        except Refused as error:
            raise omero.SecurityViolation(message=str(error)) from error
