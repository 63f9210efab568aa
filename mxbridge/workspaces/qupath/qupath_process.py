"""A real QuPath in a process of its own: asked through pipes, with time limits, so that neither a hang of its readers nor
a crash of its JVM takes mxbridge down. PyTorch and a JVM never share a process this way.

The program at the other end is :mod:`mxbridge.workspaces.qupath.paquo`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from mxbridge.errors import SourceError
from mxbridge.workspaces.qupath.frames import FrameError, read_frame, write_frame

QUPATH_DIR = "PAQUO_QUPATH_DIR"

HOW_TO_GET = (
    "To ask a real QuPath: pip install 'mxbridge[paquo]', install QuPath from https://qupath.github.io, and set "
    f"{QUPATH_DIR} to its folder"
)
START_SECONDS = 180.0
"""For the JVM to start; 3 to 6 s on a quiet machine."""

ANSWER_SECONDS = 120.0
"""Between two answers. Whoever asks for more work at once allows more."""

_COMPLAINT_BYTES = 4096
_PROGRAM = "mxbridge.workspaces.qupath.paquo"


def why_not() -> str:
    """Why no real QuPath can be asked here; empty when it can."""
    if find_spec("paquo") is None:
        return "the extra paquo is not installed"
    folder = os.environ.get(QUPATH_DIR, "")
    if not folder:
        return f"{QUPATH_DIR} is not set"
    if not Path(folder).is_dir():
        return f"{QUPATH_DIR} is {folder}, which is no folder"
    return ""


def command() -> list[str]:
    """How the other program is started; -P because modules of the current folder must not stand before the real ones."""
    return [sys.executable, "-P", "-m", _PROGRAM]


class QuPathProcess:
    """Starts QuPath; ``version`` says which one. One thread at a time. A context manager, which ends the process.

    Raises SourceError, here and in every method, when the process ends, is silent for too long or talks nonsense; it is
    killed then.
    """

    def __init__(self, start_seconds: float | None = None) -> None:
        self._closed = threading.Event()
        self._answers: queue.Queue[tuple[dict[str, Any], bytes] | Exception] = queue.Queue(maxsize=4)
        self._payload_limit = 0
        self._complaints = b""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(),
                cwd=Path(__file__).parent,  # paquo reads settings from the current folder, which may be anybody's
                start_new_session=os.name != "nt",  # Ctrl-C is for this process, which then ends that one
            )
        except OSError as error:
            raise SourceError(f"QuPath's process cannot be started ({error.strerror or error})") from error
        self._threads = [
            threading.Thread(target=work, name="mxbridge-qupath", daemon=True)
            for work in (self._listen, self._overhear)
        ]
        for thread in self._threads:
            thread.start()
        message, _ = self.receive(START_SECONDS if start_seconds is None else start_seconds)
        if "version" not in message:
            self.close()
            raise SourceError(f"QuPath cannot be started: {_text(message.get('error'))}", hint=HOW_TO_GET)
        self.version = _text(message["version"])

    def __enter__(self) -> QuPathProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, request: dict[str, Any], *, payload_limit: int = 0) -> None:
        """Ask. payload_limit: the most bytes that may come behind an answer."""
        self._payload_limit = payload_limit
        if self._process.stdin is None or self._closed.is_set():
            raise SourceError("QuPath's process has ended")
        try:
            write_frame(cast(BinaryIO, self._process.stdin), request)
        except (OSError, ValueError):
            raise self._end("QuPath's process has ended") from None

    def receive(self, seconds: float | None = None) -> tuple[dict[str, Any], bytes]:
        """The next answer, within this time. An answer with the key ``error`` is one like any other."""
        seconds = ANSWER_SECONDS if seconds is None else seconds
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise self._end(f"QuPath has not answered for {seconds:g} s and was ended") from None
        if isinstance(answer, EOFError):
            raise self._end("QuPath's process has ended") from None
        if isinstance(answer, Exception):
            raise self._end(f"QuPath's process sent {answer}") from None
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._closed.set()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "nt":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)  # and whatever it has started
        self._process.wait()
        for thread in self._threads:
            thread.join(2.0)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _end(self, what: str) -> SourceError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # a process that ends closes its pipes first
        code = self._process.poll()
        self.close()
        lines = [line for line in self._complaints.decode("utf-8", "replace").splitlines() if line.strip()]
        reason = "" if code is None else f" (exit code {code})"
        return SourceError(f"{what}{reason}{': ' + lines[-1].strip()[:300] if lines else ''}")

    def _listen(self) -> None:
        answer: tuple[dict[str, Any], bytes] | Exception
        with _stream(self._process.stdout) as stream:
            while not self._closed.is_set():
                try:
                    answer = read_frame(stream, lambda: self._payload_limit)
                except (EOFError, FrameError) as error:
                    answer = error
                except OSError as error:
                    answer = EOFError(str(error))
                self._put(answer)
                if isinstance(answer, Exception):
                    return

    def _put(self, answer: tuple[dict[str, Any], bytes] | Exception) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._answers.put(answer, timeout=0.2)
                return

    def _overhear(self) -> None:
        """Keep the end of what QuPath logs, for error messages, and let it never block."""
        with _stream(self._process.stderr) as stream, contextlib.suppress(OSError):
            while said := stream.read1(_COMPLAINT_BYTES):
                self._complaints = (self._complaints + said)[-_COMPLAINT_BYTES:]


def environment() -> dict[str, str]:
    """That of this process, with the same modules to import, and half the memory paquo would give to Java."""
    paths = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)  # noqa: PTH100 - it is text
    here = os.path.abspath(os.curdir)  # noqa: PTH100 - what '' in sys.path means
    return {
        "PAQUO_JAVA_OPTS": "-XX:MaxRAMPercentage=25",
        **os.environ,
        "PYTHONPATH": paths + (os.pathsep + here if "" in sys.path else ""),
        "PYTHONIOENCODING": "utf-8",
    }


def _stream(pipe: IO[bytes] | None) -> BufferedReader:
    return cast(BufferedReader, pipe)


def _text(value: object) -> str:
    return " ".join(str(value).split())[:500]
