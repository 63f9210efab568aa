"""What errors of Ice and OMERO are taken for; classes of the same names stand in for the real ones."""

from __future__ import annotations

import pytest

from mxbridge.errors import ChangedMeanwhile, MxbridgeError, OutputError, SourceError, Unsupported
from mxbridge.workspaces.omero.sessions.faults import (
    SessionLost,
    as_people_say,
    is_busy,
    is_lost,
    is_unreachable,
    login_failed,
    said,
)


def made(*names: str, message: str = "", module: str = "omero") -> Exception:
    """An exception whose class is called names[0] and comes from names[1:]."""
    kind: type = Exception
    for name in reversed(names):
        kind = type(name, (kind,), {"__module__": module, "message": message})
    return kind(message)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "names",
    [
        ("ConnectionLostException", "SocketException", "SyscallException"),
        ("ConnectionRefusedException", "ConnectFailedException", "SocketException"),
        ("ConnectTimeoutException", "TimeoutException"),
        ("ConnectionTimeoutException", "TimeoutException"),
        ("ObjectNotExistException", "RequestFailedException"),
        ("SessionTimeoutException", "SessionException", "ServerError"),
        ("RemovedSessionException", "SessionException", "ServerError"),
        ("ShutdownInProgress", "SessionException", "ServerError"),
        ("SessionNotExistException",),
        ("CommunicatorDestroyedException",),
        ("CloseConnectionException", "ProtocolException"),
        ("DNSException",),
    ],
)
def test_a_lost_session(names: tuple[str, ...]) -> None:
    error = made(*names, message="gone", module="Ice")
    assert is_lost(error) and not is_busy(error)
    told = as_people_say(error, "reading image 5")
    assert isinstance(told, SessionLost) and is_lost(told) and told.exit_code == 4
    assert str(told).startswith("reading image 5: the OMERO server went away (gone)")


def test_a_connection_cut_under_the_encryption_is_a_lost_session() -> None:
    words = "SSL protocol error during read:\nunexpected eof while reading"
    error = made("ProtocolException", "LocalException", message=words, module="Ice")
    assert is_lost(error) and isinstance(as_people_say(error, "fetching"), SessionLost)


@pytest.mark.parametrize(
    "names, kind, text",
    [
        (("SecurityViolation", "ServerError"), OutputError, "does not permit it"),
        (("ReadOnlyGroupSecurityViolation", "SecurityViolation", "ServerError"), OutputError, "does not permit it"),
        (("TryAgain", "ConcurrencyException", "ServerError"), SourceError, "is busy"),
        (("MissingPyramidException", "ConcurrencyException", "ServerError"), SourceError, "still preparing"),
        (("OptimisticLockException", "ConcurrencyException"), ChangedMeanwhile, "somebody else changed"),
        (("MemoryLimitException", "MarshalException", "ProtocolException"), Unsupported, "one message"),
        (("ValidationException", "ApiUsageException", "ServerError"), SourceError, "answers with ValidationException"),
        (("ProtocolException", "LocalException"), SourceError, "answers with ProtocolException"),
    ],
)
def test_other_errors(names: tuple[str, ...], kind: type, text: str) -> None:
    error = made(*names, message="why\n\tat ome.services.Query(Query.java:1)")
    told = as_people_say(error, "saving")
    assert not is_lost(error) and type(told) is kind and text in str(told)
    assert "java" not in str(told) and "\n" not in str(told)


def test_our_own_errors_stay_what_they_are() -> None:
    error = OutputError("full")
    assert as_people_say(error, "saving") is error and not is_lost(error)


def test_what_is_said_is_one_line_without_traces() -> None:
    assert said(made("X", message="a\nb\n\tat java.lang\nCaused by: c")) == "a b"
    assert said(made("X", message="Ice.ConnectionRefusedException: Connection refused")) == "Connection refused"
    assert said(made("X", message="x" * 10_000)) == "x" * 240
    assert said(made("Nameless")) == "Nameless"


@pytest.mark.parametrize(
    "names, message, text",
    [
        (("PermissionDeniedException",), "Password check failed", "does not accept the password of alice"),
        (("CannotCreateSessionException",), "full", "opens no session for alice"),
        (("DNSException",), "", "no host h:1 is known here"),
        (("ConnectTimeoutException", "TimeoutException"), "", "does not answer"),
        (("ClientError",), "Obtained null object prox", "does not answer"),
        (("ConnectionRefusedException", "ConnectFailedException"), "Connection refused", "no OMERO server answers"),
        (("ProtocolException",), "sslv3 alert handshake failure", "agree on no encryption.*omero certificates"),
        (("SecurityException",), "certificate verification failed: self-signed", "cannot be verified.*--ca-file"),
        (("SecurityException",), "wrong version number", "does not speak as an OMERO server"),
        (("ConnectionLostException", "SocketException"), "reset by peer", "does not speak as an OMERO server"),
        (("Strange",), "odd", r"failed: Strange \(odd\)"),
    ],
)
def test_why_nobody_could_log_in(names: tuple[str, ...], message: str, text: str) -> None:
    told = login_failed(made(*names, message=message), "h:1", user="alice", source="OMERO_PASSWORD", with_key=False)
    assert isinstance(told, MxbridgeError) and told.exit_code == 4 and "\n" not in str(told)
    with pytest.raises(MxbridgeError, match=text):
        raise told


def test_a_key_that_has_run_out() -> None:
    for name in ("PermissionDeniedException", "CannotCreateSessionException"):
        told = login_failed(made(name), "h:1", user=None, source="OMERO_SESSION_KEY", with_key=True)
        assert "session key from OMERO_SESSION_KEY is not valid" in str(told) and "omero login" in told.hint


def test_a_silent_host_is_unreachable() -> None:
    assert is_unreachable(made("ClientError", message="Obtained null object prox"))
    assert not is_unreachable(made("ConnectionLostException", "SocketException"))
