"""Requests (omero.cmd): deleting, moving, who is logged in."""

from __future__ import annotations

from typing import Any

import omero.cmd

from ..caller import Caller
from ..graph_delete import Refused, delete, deleted_by_kind, error_response, excluded_kinds, move, targets
from ..hydrate import whole
from ..servant import Servant
from ..wire import dispatched
from .admin import event_context


@dispatched
class Handle(Servant, omero.cmd.Handle):
    """A finished request: everything is done at once here."""

    interface = "Handle"
    proxy = omero.cmd.HandlePrx
    request: Any = None
    response: Any = None

    def do_addCallback(self, caller: Caller, callback: Any) -> None:
        """It is finished already: clients ask for the response."""

    def do_removeCallback(self, caller: Caller, callback: Any) -> None:
        """None was kept."""

    def do_getRequest(self, caller: Caller) -> Any:
        return self.request

    def do_getResponse(self, caller: Caller) -> Any:
        return self.response

    def do_getStatus(self, caller: Caller) -> Any:
        status = omero.cmd.Status()
        status.steps = status.currentStep = 1
        failed = isinstance(self.response, omero.cmd.ERR)
        status.flags = [omero.cmd.State.ALL, omero.cmd.State.FAILURE if failed else omero.cmd.State.SUCCESS]
        return status

    def do_cancel(self, caller: Caller) -> bool:
        return False

    def do_close(self, caller: Caller) -> None:
        self.server.remove(self)


def respond(caller: Caller, request: Any) -> Any:
    """Carry a request out; refusals become ERR responses, as clients get them."""
    name = request.ice_id().rsplit("::", 1)[-1]
    caller.world.count(f"cmd.{name}")
    work = {
        "Delete2": _delete,
        "Chgrp2": _chgrp,
        "DoAll": _do_all,
        "CurrentSessionsRequest": _current_sessions,
        "OriginalMetadataRequest": _original_metadata,
    }.get(name)
    if work is None:
        with caller.world.counting:
            caller.world.unknown[f"cmd.{name}"] += 1
        return error_response("unknown", f"test server: the request {name} is not implemented")
    try:
        return work(caller, request)
    except Refused as error:
        return error_response("graph-fail", str(error))


def _delete(caller: Caller, request: Any) -> Any:
    rows = targets(caller, request.targetObjects)
    gone = delete(caller, rows, excluded_kinds(request.childOptions), dry_run=bool(request.dryRun))
    response = omero.cmd.Delete2Response()
    response.deletedObjects = deleted_by_kind(gone)
    return response


def _chgrp(caller: Caller, request: Any) -> Any:
    rows = targets(caller, request.targetObjects)
    move(caller, rows, caller.world.store.need("ExperimenterGroup", request.groupId))
    return omero.cmd.Chgrp2Response({}, {})


def _current_sessions(caller: Caller, request: Any) -> Any:
    """Who is logged in: one's own sessions, all of them for administrators."""
    living = [one for one in caller.world.sessions.living.values() if one.user is caller.user or caller.admin]
    contexts = [event_context(Caller(one.world, one, {})) for one in living]
    return omero.cmd.CurrentSessionsResponse([whole(caller, one.row) for one in living], contexts, [{} for _ in living])


def _original_metadata(caller: Caller, request: Any) -> Any:
    """What Bio-Formats found in the files: nothing here."""
    caller.see("Image", request.imageId)
    response = omero.cmd.OriginalMetadataResponse()
    response.globalMetadata, response.seriesMetadata = {}, {}
    return response


def _do_all(caller: Caller, request: Any) -> Any:
    response = omero.cmd.DoAllRsp()
    with caller.world.store.all_or_nothing():
        response.responses = [respond(caller, one) for one in request.requests]
        for one in response.responses:
            if isinstance(one, omero.cmd.ERR):
                raise Refused(one.parameters.get("message", ""))
    response.status = []
    return response
