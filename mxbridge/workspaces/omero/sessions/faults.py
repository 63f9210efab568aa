"""What errors of Ice and OMERO mean: lost connections, busy servers, and what people are told.

Exceptions are known by the names of their classes, so that nothing here needs the client to be installed.
"""

from __future__ import annotations

import re

from mxbridge.errors import ChangedMeanwhile, MxbridgeError, OutputError, SourceError, Unsupported

LOST = frozenset(
    (
        "SocketException",  # refused, failed and lost connections
        "DNSException",
        "TimeoutException",
        "CloseConnectionException",
        "ForcedCloseConnectionException",
        "ConnectionNotValidatedException",
        "CommunicatorDestroyedException",
        "ObjectAdapterDeactivatedException",
        "ObjectNotExistException",  # what a server that was restarted says of everything it gave out before
        "SessionNotExistException",
        "SessionException",  # timed out, removed, shutting down
        "SessionLost",
    )
)
"""After one of these, nothing works on that session any more; a new one may."""

CUT = "SSL protocol error during"
"""What OpenSSL 3 says of a connection that ended without a farewell (of a server that was killed); Ice takes it for a broken
protocol."""

UNREACHABLE = frozenset(
    ("ConnectFailedException", "ConnectionRefusedException", "DNSException", "ConnectTimeoutException")
)
"""There is no server, or none that answers."""

BUSY = frozenset(("TryAgain", "LockTimeout", "DatabaseBusyException", "TooManyUsersException"))
"""The session is well; the same call may do later."""

NEVER_ANSWERED = "null object prox"
"""The client's words after it has waited several times for a connection."""

REFUSED = frozenset(("PermissionDeniedException", "CannotCreateSessionException"))
_CLASS = re.compile(r"^(Ice|Glacier2|omero)\.[\w.]+:? *|remote address = <not available> ")
LONGEST = 240
"""Characters of a server's message that people see."""

TELLS_ADMINISTRATOR = (
    "An administrator runs `omero certificates` on the server and restarts it; mxbridge does not weaken encryption"
)


class SessionLost(SourceError):
    """A session, or the connection to its server, that is no more."""


def kinds(error: BaseException) -> set[str]:
    """Names of the error's class and of those it comes from."""
    return {kind.__name__ for kind in type(error).__mro__}


def is_lost(error: BaseException) -> bool:
    """Whether the session is gone: work on it can only begin anew, on another one."""
    found = kinds(error)
    return bool(found & LOST) or ("ProtocolException" in found and CUT in said(error))


def is_busy(error: BaseException) -> bool:
    """Whether the server asks to come again."""
    return bool(kinds(error) & BUSY)


def is_unreachable(error: BaseException) -> bool:
    """Whether nothing answers at the address."""
    return bool(kinds(error) & UNREACHABLE) or NEVER_ANSWERED in said(error)


def is_foreign(error: BaseException) -> bool:
    """Whether it is one of Ice's or OMERO's, which people must not see."""
    return any(
        kind.__module__.split(".")[0] in ("Ice", "IcePy", "Glacier2", "omero", "IceGrid")
        for kind in type(error).__mro__
    )


def said(error: BaseException) -> str:
    """What the server or Ice says, in one line and without the Java trace that may follow."""
    texts = [getattr(error, name, None) for name in ("message", "reason", "error")]
    text = next((t for t in texts if isinstance(t, str) and t.strip()), str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("at ", "Caused by", "exception ::", "... "))][:3]
    return _CLASS.sub("", " ".join(told)).rstrip(":")[:LONGEST] or type(error).__name__


def as_people_say(error: BaseException, where: str) -> MxbridgeError:
    """An error of Ice or OMERO as one of ours. where: what was being done, e.g. ``reading image 5``."""
    if isinstance(error, MxbridgeError):
        return error
    found, text = kinds(error), said(error)
    told: MxbridgeError
    if is_lost(error):
        told = SessionLost(f"{where}: the OMERO server went away ({text})", hint="Run the same command again to go on")
    elif "SecurityViolation" in found:
        told = OutputError(
            f"{where}: the OMERO server does not permit it ({text})",
            hint="Ask the owner of the data or of the group for the right to annotate",
        )
    elif "MissingPyramidException" in found:
        told = SourceError(f"{where}: the OMERO server is still preparing this image", hint="Try again in some minutes")
    elif found & BUSY:
        told = SourceError(f"{where}: the OMERO server is busy ({text})", hint="Try again later")
    elif "MemoryLimitException" in found:
        told = Unsupported(f"{where}: more than one message to an OMERO server may hold ({text})")
    elif "OptimisticLockException" in found:
        told = ChangedMeanwhile(f"{where}: somebody else changed it meanwhile", hint="Run the same command again")
    elif "CmdError" in found:
        told = OutputError(f"{where}: the OMERO server refuses ({said_of_command(error)})")
    else:
        told = SourceError(f"{where}: the OMERO server answers with {type(error).__name__} ({text})")
    return told


def said_of_command(error: BaseException) -> str:
    """What a failed command (deleting, moving) says of itself."""
    answer = getattr(error, "err", error)
    told = getattr(answer, "parameters", None) or {}
    return str(told.get("message") or getattr(answer, "name", "") or said(error)).strip().splitlines()[0][:LONGEST]


def login_failed(error: BaseException, server: str, *, user: str | None, source: str, with_key: bool) -> MxbridgeError:
    """Why nobody could log in to ``server``, and what to do about it."""
    found, text = kinds(error), said(error)
    told: MxbridgeError
    if isinstance(error, MxbridgeError):
        told = error
    elif found & REFUSED and with_key:
        told = SourceError(
            f"the session key from {source} is not valid at {server}: it has expired or belongs to another server",
            hint="Log in again with `omero login`, or set OMERO_PASSWORD",
        )
    elif "PermissionDeniedException" in found:
        told = SourceError(
            f"{server} does not accept the password of {user} ({text})",
            hint=f"It came from {source}; nothing was retried",
        )
    elif "CannotCreateSessionException" in found:
        told = SourceError(f"{server} opens no session for {user} ({text})")
    elif "DNSException" in found:
        told = SourceError(f"no host {server} is known here", hint="Look at the name in --server, and at the network")
    elif "ConnectTimeoutException" in found or NEVER_ANSWERED in text:
        told = SourceError(
            f"{server} does not answer", hint="Look at host and port in --server (4064 is usual), and at firewalls"
        )
    elif found & UNREACHABLE:
        told = SourceError(
            f"no OMERO server answers at {server} ({text})", hint="Look at host and port in --server (4064 is usual)"
        )
    elif found & {"SecurityException", "ProtocolException", "ConnectionLostException"}:
        told = _handshake_failed(text, server)
    else:
        told = SourceError(f"logging in to {server} failed: {type(error).__name__} ({text})")
    return told


def _handshake_failed(text: str, server: str) -> SourceError:
    told = text.lower()
    if "certificate verif" in told or "verify failed" in told or "does not match" in told or "peer certificate" in told:
        return SourceError(
            f"{server} has a certificate that cannot be verified ({text})",
            hint="Give the authority that signed it, or the server's own certificate, with --ca-file",
        )
    if "handshake" in told or "no shared cipher" in told or "no suitable" in told or "unsupported protocol" in told:
        return SourceError(
            f"{server} and this computer agree on no encryption: the server probably has no certificate ({text})",
            hint=TELLS_ADMINISTRATOR,
        )
    return SourceError(
        f"what answers at {server} does not speak as an OMERO server does ({text})",
        hint="Look at the port in --server: 4064 is usual, 443 with wss://HOST/omero-wss",
    )
