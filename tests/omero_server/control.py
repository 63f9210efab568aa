"""What tests ask of the server beside its wire: one JSON line each way over a loopback socket."""

from __future__ import annotations

import json
import random
import socketserver
import threading
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np

from . import images
from .faults import Fault
from .ice_server import LOST
from .state import state

if TYPE_CHECKING:
    from .ice_server import IceServer


class Control:
    """Every public method is a command; its arguments are the line's other entries."""

    def __init__(self, server: IceServer) -> None:
        self._server = server

    def reset(self) -> None:
        self._server.reset()

    def add_dataset(self, name: str, project: str | None, group: str, owner: str) -> int:
        return images.add_dataset(self._server.world, name, project, group, owner)

    def add_image(self, name: str, file: str, **how: Any) -> int:
        return images.add_image(self._server.world, name, np.load(file, mmap_mode="r", allow_pickle=False), **how)

    def add_plate(self, name: str, wells: list[list[int]], screen: str | None, group: str, owner: str) -> int:
        return images.add_plate(self._server.world, name, wells, screen, group, owner)

    def add_fileset(self, image_id: int, path: str, series: int) -> int:
        return images.add_fileset(self._server.world, image_id, path, series)

    def add_windows(self, image_id: int, windows: list[list[float]]) -> int:
        return images.add_windows(self._server.world, image_id, windows)

    def fault(self, **fault: Any) -> None:
        self._server.world.faults.plan(Fault(**fault))

    def faults_at_random(self, seed: int, rate: float, kinds: list[str], at_most: int) -> None:
        self._server.world.faults.at_random(seed, rate, tuple(kinds), at_most)

    def clear_faults(self) -> None:
        self._server.world.faults.clear()

    def struck(self) -> list[str]:
        return list(self._server.world.faults.struck)

    def set(self, **settings: Any) -> None:
        held = self._server.world.settings
        for name, value in settings.items():
            if not hasattr(held, name):
                raise ValueError(f"no setting '{name}'")
            if name == "lost" and value not in (*LOST, "mixed"):
                raise ValueError(f"lost is one of {', '.join(LOST)}, mixed")
            setattr(held, name, value)
        if "seed" in settings:
            held.chance = random.Random(held.seed)
        if "max_plane" in settings:
            for data in self._server.world.pixels.values():
                data.max_plane = held.max_plane
                data.changed()

    def restart(self, down_s: float) -> None:
        self._server.restart(down_s)

    def expire_sessions(self) -> None:
        self._server.expire_all()

    def state(self) -> dict[str, Any]:
        return state(self._server.world)

    def leaks(self, orphans: bool) -> list[str]:
        return self._server.world.sessions.leaks(orphans)

    def unknown(self) -> dict[str, int]:
        return dict(self._server.world.unknown)

    def calls(self) -> dict[str, int]:
        return dict(self._server.world.calls)

    def errors(self) -> list[str]:
        return list(self._server.world.errors)

    def sessions(self) -> int:
        return len(self._server.world.sessions.living)


def serve(server: IceServer) -> int:
    """Listen on a free loopback port; the port."""
    control = Control(server)

    class Line(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(json.dumps(_answer(control, json.loads(line))).encode() + b"\n")

    listener = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Line)
    listener.daemon_threads = True
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    return int(listener.server_address[1])


def _answer(control: Control, request: dict[str, Any]) -> dict[str, Any]:
    try:
        name = request.pop("command")
        if name.startswith("_"):
            raise ValueError(f"no command '{name}'")
        return {"result": getattr(control, name)(**request)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
