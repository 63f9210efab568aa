"""Start the test server in a process of its own and talk to it. Imports nothing of omero."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
START_S = 60


class ServerError(AssertionError):
    """The server refused a command, or died."""


class RunningServer:
    """A server process. `host` and `port` are for TLS; `ca_file` is its certificate."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._log = (folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.omero_server", "--dir", str(folder), "--child", "--port", str(port)],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip
        self._folder = folder
        ready = self._ready()
        self.host = "127.0.0.1"
        self.port: int = ready["port"]
        self.tcp_port: int = ready["tcp_port"]
        self.ws_port: int = ready["ws_port"]
        self.wss_port: int = ready["wss_port"]
        self.ca_file = Path(ready["ca_file"]) if ready["ca_file"] else None
        self.pid: int = ready["pid"]
        self._lock = threading.Lock()
        self._control = socket.create_connection(("127.0.0.1", ready["control"]), timeout=120)
        self._lines = self._control.makefile("rb")

    @classmethod
    def start(cls, folder: Path | None = None, port: int = 0) -> RunningServer:
        """A new server; its files lie in `folder` (a temporary one)."""
        folder = folder or Path(tempfile.mkdtemp(prefix="omero-server-"))
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, port)

    def _ready(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(START_S, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            self._process.wait(10)
            raise ServerError(f"the test server did not start: {(self._folder / 'server.log').read_text()[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def stop(self) -> None:
        """End the process."""
        for held in (self._lines, self._control, self._process.stdin, self._process.stdout):
            if held is not None:
                held.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._log.close()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _ask(self, what: str, **details: Any) -> Any:
        with self._lock:
            self._control.sendall(json.dumps({"command": what, **details}).encode() + b"\n")
            line = self._lines.readline()
        if not line:
            raise ServerError("the test server is gone")
        answer = json.loads(line)
        if "error" in answer:
            raise ServerError(f"{what}: {answer['error']}\n{answer['trace']}")
        return answer["result"]

    # -- contents -------------------------------------------------------------------------------------------------------

    def address(self, images: str, user: str = "alice") -> str:
        """`omero:alice@127.0.0.1:PORT/dataset:1` for `dataset:1`."""
        return f"omero:{user}@{self.host}:{self.port}/{images}"

    def reset(self) -> None:
        """A fresh seeded store; no sessions, no faults, default settings, counters at zero."""
        self._ask("reset")

    def add_dataset(self, name: str, project: str | None = None, group: str = "lab", owner: str = "alice") -> int:
        """An empty dataset; its id."""
        return int(self._ask("add_dataset", name=name, project=project, group=group, owner=owner))

    def add_image(
        self,
        name: str,
        pixels: np.ndarray,
        *,
        dataset: str | None = "slides",
        channels: Sequence[str] = (),
        um_per_px: float | tuple[float, float] | None = None,
        group: str = "lab",
        owner: str = "alice",
        pixel_type: str | None = None,
    ) -> int:
        """An image of pixels (c, y, x) or (t, c, z, y, x); its id. `pixel_type` overrides numpy's (e.g. `bit`)."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            file = Path(folder) / "pixels.npy"
            np.save(file, np.asarray(pixels))
            size = list(um_per_px) if isinstance(um_per_px, tuple) else um_per_px
            return int(
                self._ask(
                    "add_image", name=name, file=str(file), dataset=dataset, channels=list(channels), um_per_px=size, group=group,
                    owner=owner, pixel_type=pixel_type,
                )
            )  # fmt: skip

    def add_plate(
        self,
        name: str,
        wells: Sequence[tuple[int, int, int]],
        *,
        screen: str | None = None,
        group: str = "lab",
        owner: str = "alice",
    ) -> int:
        """A plate of (row, column, image id); its id."""
        return int(
            self._ask(
                "add_plate", name=name, wells=[list(one) for one in wells], screen=screen, group=group, owner=owner
            )
        )

    def add_fileset(self, image_id: int, path: str, series: int = 0) -> int:
        """As if the image had been imported from `path` (below the managed repository)."""
        return int(self._ask("add_fileset", image_id=image_id, path=path, series=series))

    def add_windows(self, image_id: int, windows: Sequence[tuple[float, float]]) -> int:
        """Rendering settings of the owner with these (start, end) per channel."""
        return int(self._ask("add_windows", image_id=image_id, windows=[list(one) for one in windows]))

    # -- trouble --------------------------------------------------------------------------------------------------------

    def fault(
        self,
        operation: str,
        *,
        nth: int = 1,
        do: str = "drop",
        seconds: float = 0.0,
        times: int = 1,
        error: str = "InternalException",
    ) -> None:
        """Spoil the nth matching call from now (and the following, `times` in all).

        `operation` is `Interface.operation` with wildcards. `do`: drop (the connection, before the call takes effect),
        kill-connection-after (it took effect, nobody hears), expire (the session), error (an exception of omero), delay,
        restart (the whole server, `seconds` down).
        """
        self._ask("fault", operation=operation, nth=nth, do=do, seconds=seconds, times=times, error=error)

    def faults_at_random(
        self,
        seed: int,
        rate: float,
        kinds: Sequence[str] = ("drop", "kill-connection-after", "expire"),
        at_most: int = 1_000_000,
    ) -> None:
        """Each call of a session meets one of these faults with this probability."""
        self._ask("faults_at_random", seed=seed, rate=rate, kinds=list(kinds), at_most=at_most)

    def clear_faults(self) -> None:
        """No faults from now on."""
        self._ask("clear_faults")

    def struck(self) -> list[str]:
        """The faults that happened, in order."""
        return list(self._ask("struck"))

    def latency(self, milliseconds: float) -> None:
        """Every call takes this much longer."""
        self.set(latency_ms=milliseconds)

    def set(self, **settings: Any) -> None:
        """tables=False, max_plane=256, disk_full=True, lost="SessionTimeoutException" (or mixed), seed=3, latency_ms=20."""
        self._ask("set", **settings)

    def restart(self, down_s: float = 0.3) -> None:
        """Down and up again: sessions are gone, contents stay. Returns when it is up."""
        self._ask("restart", down_s=down_s)

    def expire_sessions(self) -> None:
        """Every session ends as by its idle time; later calls are told so."""
        self._ask("expire_sessions")

    # -- what it saw ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Contents without ids and times, comparable between two servers."""
        return dict(self._ask("state"))

    def leaks(self, *, orphans: bool = False) -> list[str]:
        """Stateful services nobody closed; with `orphans` also those whose connection was cut under the client's feet."""
        return list(self._ask("leaks", orphans=orphans))

    def unknown(self) -> list[str]:
        """Operations that were called and are not implemented."""
        return sorted(self._ask("unknown"))

    def calls(self) -> Counter[str]:
        """How often each operation was called since the reset."""
        return Counter(self._ask("calls"))

    def errors(self) -> list[str]:
        """Tracebacks of the server's own bugs since the reset."""
        return list(self._ask("errors"))

    def sessions(self) -> int:
        """Living sessions."""
        return int(self._ask("sessions"))
