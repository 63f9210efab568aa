"""Sessions on an OMERO server: opened when somebody needs one, shared, closed soon after, opened anew when they were lost.

Nobody holds a session while nothing is asked of the server: ``with sessions.use() as session`` lasts as long as the calls do,
and :class:`Sessions` keeps the connection a moment longer, so that a thousand images do not log in a thousand times.
A gateway that has lost its session cannot be mended (``connect()`` says yes and the next call fails): it is thrown away, and
the work begins anew with another one.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from mxbridge.errors import MxbridgeError, SourceError, UnknownName
from mxbridge.workspaces.omero.sessions.address import Server
from mxbridge.workspaces.omero.sessions.connection import Session, log_in, require_client
from mxbridge.workspaces.omero.sessions.faults import (
    SessionLost,
    as_people_say,
    is_busy,
    is_foreign,
    is_lost,
    is_unreachable,
    said,
)
from mxbridge.workspaces.omero.sessions.login import Credentials

T = TypeVar("T")
LONGEST_WAIT = 30.0
"""Seconds between two attempts at most."""

FIRST_LOGINS = 2
"""Times that a connection may break while the first session is opened; later ones are attempted as often as other work."""


class Sessions:
    """All sessions of a process on one server, one at a time; safe to use from several threads.

    credentials: who logs in, asked before each login (else found once, see :mod:`mxbridge.workspaces.omero.sessions.login`).
    attempts: how often ``attempt`` begins anew. linger: seconds for which an unused session is kept. wait: seconds before the
    second attempt, about doubled before each further one. tell: where to say that something was lost.
    """

    def __init__(
        self,
        server: Server,
        *,
        credentials: Callable[[], Credentials] | None = None,
        attempts: int = 6,
        linger: float = 2.0,
        wait: float = 0.5,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.server = server
        self.attempts, self.linger, self.wait = attempts, linger, wait
        self._tell = tell or (lambda text: None)
        self._credentials = credentials
        self._known: Credentials | None = None
        self._lock = threading.RLock()
        self._current: Session | None = None
        self._left_open: list[str] = []
        self._broken_logins = 0
        self._was_open = False
        self._idle_since = 0.0
        self._timer: threading.Timer | None = None
        self._mine = threading.local()
        _ALL.add(self)

    @contextmanager
    def use(self) -> Iterator[Session]:
        """A session while the block lasts; within it, the same thread gets the same one again.

        Raises SourceError (nobody answers, nobody may log in), SessionLost, and what :func:`as_people_say` makes of others.
        """
        try:
            with self._taken() as session:
                yield session
        except Exception as error:
            if is_foreign(error):
                raise as_people_say(error, self.server.name) from error
            raise

    def attempt(self, what: str, work: Callable[[Session], T]) -> T:
        """``work(session)``, from its start on another session when that was lost, and again when the server was busy.

        what: what is being done, for people. Raises MxbridgeError: those of ``work``, and SourceError when no attempt held.
        """
        require_client()
        from tenacity import (
            RetryCallState,
            Retrying,
            retry_if_exception,
            stop_after_attempt,
            wait_exponential,
            wait_random,
        )

        def say(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            seconds = state.next_action.sleep if state.next_action else 0.0
            why = error.message if isinstance(error, MxbridgeError) else said(error) if error else ""
            self._tell(f"{what}: {why}; attempt {state.attempt_number + 1} of {self.attempts} in {seconds:.1f} s")

        attempts = Retrying(
            retry=retry_if_exception(lambda error: is_lost(error) or is_busy(error)),
            stop=stop_after_attempt(self.attempts),
            wait=wait_exponential(multiplier=self.wait, max=LONGEST_WAIT) + wait_random(0, self.wait),
            before_sleep=say,
            reraise=True,
        )
        try:
            found: T = attempts(self._once, work)
            return found
        except Exception as error:
            told = as_people_say(error, what) if is_foreign(error) or isinstance(error, SessionLost) else error
            if isinstance(told, SessionLost):  # another kind: whoever called must not attempt it as often once more
                hint = f"{self.attempts} attempts did not help; run the same command again later"
                raise SourceError(
                    told.message if told is not error else f"{what}: {told.message}", hint=hint
                ) from error
            if told is not error:
                raise told from error
            raise

    def rest(self) -> None:
        """Close the session now, where nobody uses it: a long computation begins."""
        with self._lock:
            session = self._current
            if session is None or session.users:
                return
            self._current = None
        session.close()

    def close(self) -> None:
        """Rest, and forget who logged in."""
        self.rest()
        self._known = None

    def _forget_parents(self) -> None:
        """In a forked process: nothing is open, nobody holds the lock."""
        if self._current is not None:
            _OF_PARENTS.append(self._current)
        self._lock, self._mine = threading.RLock(), threading.local()
        self._current, self._timer = None, None
        self._left_open.clear()

    def as_owner(self, user_name: str) -> Sessions:
        """Sessions in the name of another user, for accounts that may do so (administrators with the privilege Sudo).

        Raises OutputError where this account may not, UnknownName where there is no such user.
        """

        def sudo(session: Session) -> Credentials:
            if user_name == session.user_name:
                raise UnknownName("other user", user_name, ())
            return Credentials(user_name, key=session.sudo_key(user_name), source=f"{session.user_name} (sudo)")

        def credentials() -> Credentials:
            return self.attempt(f"logging in as {user_name}", sudo)

        others = Sessions(
            self.server,
            credentials=credentials,
            attempts=self.attempts,
            linger=self.linger,
            wait=self.wait,
            tell=self._tell,
        )
        with others.use():  # says now whether it may
            return others

    def _once(self, work: Callable[[Session], T]) -> T:
        with self._taken() as session:
            return work(session)

    @contextmanager
    def _taken(self) -> Iterator[Session]:
        """A session while the block lasts, thrown away where the block finds it lost. Errors are those of the client."""
        session = self._take()
        try:
            yield session
        except Exception as error:
            if is_lost(error):
                self._throw_away(session)
            raise
        finally:
            self._leave(session)

    def _take(self) -> Session:
        """The session of this thread's outer block, where it is still well, else the one that is open, else a new one."""
        with self._lock:
            held: list[Session] = self._mine.__dict__.setdefault("held", [])
            session = held[-1] if held and not held[-1].lost else self._current
            if session is None:
                session = self._current = self._open()
            session.users += 1
            held.append(session)
            return session

    def _leave(self, session: Session) -> None:
        with self._lock:
            self._mine.held.remove(session)
            session.users -= 1
            self._idle_since = time.monotonic()
            done = session.users == 0 and session.lost
            if session.users == 0 and not session.lost and self._timer is None:
                self._wait_for_more(self.linger)
        if done:
            session.close()

    def _throw_away(self, session: Session) -> None:
        with self._lock:
            if not session.lost:
                session.lost = True
                if session.ours:
                    self._left_open.append(session.key)
            if self._current is session:
                self._current = None

    def _wait_for_more(self, seconds: float) -> None:
        self._timer = threading.Timer(max(seconds, 0.01), self._close_idle)
        self._timer.daemon = True
        self._timer.start()

    def _close_idle(self) -> None:
        with self._lock:
            self._timer = None
            left = self.linger - (time.monotonic() - self._idle_since)
            idle = self._current is not None and not self._current.users
            if idle and left > 0:
                self._wait_for_more(left)
        if idle and left <= 0:
            self.rest()

    def _open(self) -> Session:
        """A new session. Raises SourceError, and SessionLost where another attempt may succeed."""
        require_client()
        try:
            session = self._logged_in()
        except Exception as error:
            cause = error.__cause__ or error
            again = self._was_open or not is_unreachable(cause)
            if is_lost(cause) and again and (self._was_open or self._broken_logins < FIRST_LOGINS):
                self._broken_logins += 1
                raise SessionLost(getattr(error, "message", said(error))) from cause
            raise
        if not (self._was_open or self.server.is_encrypted):
            scheme = self.server.scheme
            self._tell(
                f"the connection to {self.server.name} is not encrypted ({scheme}://): who is in between can read it"
            )
        self._was_open = True
        for key in self._left_open:  # of broken connections: the server still has them, and all that they hold
            with suppress(Exception):
                session.end_session(key)
        self._left_open.clear()
        return session

    def _logged_in(self) -> Session:
        if self._credentials is not None:
            return log_in(self.server, self._credentials())
        from mxbridge.workspaces.omero.sessions.login import COMMAND_STORE, all_credentials, no_credentials

        if self._known is not None:
            return log_in(self.server, self._known)
        failed: MxbridgeError = no_credentials(self.server)
        for found in all_credentials(self.server):
            try:
                session = log_in(self.server, found)
            except MxbridgeError as error:
                if found.source != COMMAND_STORE or is_lost(error.__cause__ or error):
                    raise
                failed = error  # a key of some days ago; whoever can type a password is asked for it
                continue
            self._known = found
            return session
        raise failed


_ALL: weakref.WeakSet[Sessions] = weakref.WeakSet()
_OF_PARENTS: list[Session] = []
"""Never let go of: a client that is thrown away ends its session, which is the parent's."""


def _after_fork() -> None:
    """A forked process shares no connection with its parent: it opens its own, and leaves the parent's alone."""
    for sessions in list(_ALL):
        sessions._forget_parents()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _rest_all() -> None:
    """A program that ends does not leave its sessions to time out."""
    for sessions in list(_ALL):
        with suppress(Exception):
            sessions.rest()
