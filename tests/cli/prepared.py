"""An interpreter that has everything imported and forks a child for each command: a command then costs its own work only.

    with Prepared() as prepared:
        prepared.run(["score", ...])                           # to its end
        prepared.run(["score", ...], kill_after=0.3)           # kill -9 after so many seconds
        prepared.run(["score", ...], watch=folder, to=states)  # copies of ``folder`` before and after every step

A step is a call of ``os`` that makes something durable or lets a file take or give up its place. What a kill leaves behind is
what lies on the disk at that moment (the system keeps what was written, and locks end with their holder), so a copy of the
folder at a step is what a kill at that step would leave. Copies that equal one taken before are not kept.

This file is also what runs in that interpreter.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = ("fsync", "replace", "rename", "link", "truncate", "ftruncate", "unlink", "remove", "rmdir")
"""Functions of ``os``."""


@dataclass(frozen=True)
class End:
    """How a command ended. code: its exit code, -9 for one that was killed. steps: how many there were. said: its output.

    states: folder with the copy, and the moment it was taken, of every distinct state seen.
    """

    code: int
    steps: int
    seconds: float
    said: str
    states: list[tuple[str, str]]


class Prepared:
    """The interpreter; use it in a ``with`` block. One command at a time."""

    def __enter__(self) -> Prepared:
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **single},
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            pass  # the end of its input ends it

    def run(
        self,
        words: Sequence[object],
        *,
        kill_after: float | None = None,
        watch: Path | None = None,
        to: Path | None = None,
    ) -> End:
        """Run ``mxbridge WORDS`` in a fresh child."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"words": [str(word) for word in words], "kill_after": kill_after, "watch": str(watch or "")}
        self._process.stdin.write(json.dumps({**request, "to": str(to or "")}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the prepared interpreter has died"
        return End(**json.loads(answer))


def serve() -> None:
    """One child per line of input. No thread is started here: children of a process with threads may hang."""
    import torch

    from mxbridge.stream import records

    torch.set_num_threads(1)
    records.SYNC_SECONDS = 0.0  # every record is a step
    for line in sys.stdin:
        answer, imported = _fork(json.loads(line))
        for module in imported:  # what the first command had to import, the next ones find
            __import__(module)
        print(json.dumps(answer), flush=True)


def _fork(request: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Run one command in a child and wait for it."""
    log_read, log_write = os.pipe()
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(log_read)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            os._exit(_child(request, log_write))
        os.close(log_write)
        kill_after = request["kill_after"]
        if kill_after is not None:
            time.sleep(max(0.0, started + kill_after - time.monotonic()))
            os.kill(child, signal.SIGKILL)
        with os.fdopen(log_read, "rb") as log:
            lines = [json.loads(line) for line in log.read().splitlines() if line.endswith(b"]")]
        _, status = os.waitpid(child, 0)
        said.seek(0)
        text = said.read().decode(errors="replace")[-3000:]
    answer = {
        "code": os.waitstatus_to_exitcode(status),
        "steps": sum(kind == "step" for kind, *_ in lines),
        "seconds": time.monotonic() - started,
        "said": text,
        "states": [state for kind, *state in lines if kind == "state"],
    }
    return answer, [module for kind, *modules in lines if kind == "imported" for module in modules]


def _child(request: dict[str, Any], log: int) -> int:
    """The exit code of the command."""
    before = set(sys.modules)

    def tell(*words: str) -> None:
        os.write(log, json.dumps(words).encode() + b"\n")

    watcher = Watcher(Path(request["watch"]), Path(request["to"]), tell) if request["watch"] else None
    from mxbridge.cli.app import run

    if watcher is not None:
        for name in STEPS:
            setattr(os, name, watcher.hooked(name, getattr(os, name)))
    try:
        code = run(request["words"])
    finally:
        if watcher is not None:
            watcher.active = False
    tell("imported", *sorted(name for name in set(sys.modules) - before if _can_be_imported(name)))
    return code


def _can_be_imported(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and spec.name == name and name != "__main__"


def _place(what: Any) -> str:
    """A path, also of an open file where the system tells it."""
    try:
        return str(Path(f"/proc/self/fd/{what}").readlink()) if isinstance(what, int) else str(what)
    except OSError:
        return f"file {what}"


class Watcher:
    """Copies ``folder`` to numbered folders under ``to`` around every step, while no other step is under way."""

    def __init__(self, folder: Path, to: Path, tell: Callable[..., None]) -> None:
        self.folder, self.to, self.tell = folder, to, tell
        self.active, self._steps, self._seen = True, 0, set[str]()
        self._lock, self._looks = threading.Lock(), threading.local()

    def hooked(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if not self.active or getattr(self._looks, "now", False):  # what copying does is no step
                return real(*args, **kwargs)
            with self._lock:
                self._steps += 1
                what = f"step {self._steps}, {name} {_place(args[0])}".replace(str(self.folder), "")
                self.tell("step")
                self._look(f"before {what}")
                try:
                    return real(*args, **kwargs)
                finally:
                    self._look(f"after {what}")

        return step

    def _look(self, moment: str) -> None:
        self._looks.now = True
        try:
            state = self._read()
            digest = hashlib.sha256(repr(sorted(state.items())).encode()).hexdigest()
            if digest not in self._seen:
                self._seen.add(digest)
                target = self.to / f"{len(self._seen):04d}"
                shutil.copytree(self.folder, target)
                self.tell("state", str(target), moment)
        finally:
            self._looks.now = False

    def _read(self) -> dict[str, bytes | None]:
        """Content by path, None for folders."""
        found = sorted(self.folder.rglob("*"))
        return {str(path): None if path.is_dir() else path.read_bytes() for path in found}


if __name__ == "__main__":
    serve()
