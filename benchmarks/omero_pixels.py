"""Pixels of an OMERO server: small tiles beside the published client's own call, and a slide over a slow link beside a bare loop.

The server is the one of the tests (``tests/omero_server``), over loopback TLS: figures say what the client's side costs, not how
fast a real server is. ``python -m benchmarks.omero_pixels CASE ADDRESS IMAGE CACHE`` runs one case.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import ONE_THREAD, Bar, Case

if TYPE_CHECKING:
    from mxbridge.image import Box
    from mxbridge.workspaces.omero.sessions.address import Server
    from mxbridge.workspaces.omero.sessions.connection import Session
    from mxbridge.workspaces.omero.sessions.session import Sessions

TITLE = "OMERO: reading pixels"
SIDE, CHANNELS = 8192, 6
TILE = 256
TILES = 2048
THREADS = 4
LATENCY_MS = 20
GATEWAY, GATEWAYS = "256² tiles: gateway's getTile per call", "256² tiles: 4 gateways in 4 threads"
OURS = "256² tiles: mxbridge, 4 threads"
BARE, PULL = "8192² x 6, 20 ms: bare loop over getTile, 4 threads", "8192² x 6, 20 ms: pulled into the cache, 4 threads"


def cases(folder: Path) -> list[Case]:
    """Two servers, so that only one is slow; both end with this process."""
    fast, image = _server(folder / "fast", 0, 2)
    slow, slide = _server(folder / "slow", LATENCY_MS, CHANNELS)
    cache = folder / "cache"

    def case(name: str, what: str, address: str, number: int, **more: Any) -> Case:
        command = [sys.executable, "-m", "benchmarks.omero_pixels", what, address, str(number), str(cache)]
        return Case(name, command, environment={**ONE_THREAD, "OMERO_PASSWORD": "secret"}, **more)

    clear = [sys.executable, "-c", f"import shutil; shutil.rmtree({str(cache)!r}, ignore_errors=True)"]
    return [
        case(GATEWAY, "gateway", fast, image),
        case(GATEWAYS, "gateways", fast, image, rival=GATEWAY),
        case(OURS, "tiles", fast, image, rival=GATEWAY, bars=(Bar("wall", 1 / 3, GATEWAY),)),
        case(BARE, "bare", slow, slide),
        case(PULL, "pull", slow, slide, rival=BARE, bars=(Bar("wall", 1 / 0.6, BARE),), before=clear),
    ]


def _server(folder: Path, latency_ms: int, channels: int) -> tuple[str, int]:
    """A server in a process of its own (what this one holds in memory would count as its children's): address, image's id."""
    command = [sys.executable, "-m", "benchmarks.omero_pixels", "serve", str(folder), str(latency_ms), str(channels)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)
    line = process.stdout.readline().split() if process.stdout else []
    if len(line) != 2:
        raise RuntimeError("the test server did not start")
    return line[0], int(line[1])


def serve(folder: Path, latency_ms: int, channels: int) -> None:
    """A server with one image of noise that no compression makes smaller, until standard input ends."""
    import numpy as np

    from tests.omero_server.running import RunningServer

    with RunningServer.start(folder) as server:
        plane = np.random.default_rng(1).integers(0, 4096, (SIDE, SIDE), dtype=np.uint16)
        pixels = np.stack([np.roll(plane, c, axis=1) for c in range(channels)])
        image = server.add_image("slide", pixels, channels=[f"m{c}" for c in range(channels)], um_per_px=0.5)
        server.latency(latency_ms)
        print(f"alice@{server.host}:{server.port} {image}", flush=True)
        sys.stdin.read()


def small_boxes() -> list[tuple[int, Box]]:
    """(channel, box) of the small tiles, row by row."""
    from mxbridge.workspaces.omero.pixels.tiles import tiles_of

    boxes = list(tiles_of((SIDE, SIDE), (TILE, TILE)))
    return [(c, box) for c in range(-(-TILES // len(boxes))) for box in boxes][:TILES]


def by_gateway(sessions: Sessions, image: int, folder: Path) -> None:
    """What scripts do: one call of the gateway for each tile (several threads on one gateway take each other's stores away)."""
    with sessions.use() as session:
        pixels = session.conn.getObject("Image", image).getPrimaryPixels()
        for channel, box in small_boxes():
            pixels.getTile(0, channel, 0, (box.x0, box.y0, box.shape[1], box.shape[0]))


def by_gateways(sessions: Sessions, image: int, folder: Path) -> None:
    """The same with a gateway, and a login, for each thread."""

    def read(jobs: Callable[[], Any]) -> None:
        own = log_in(sessions.server)
        with own.use() as session:
            pixels = session.conn.getObject("Image", image).getPrimaryPixels()
            while (job := jobs()) is not None:
                channel, box = job
                pixels.getTile(0, channel, 0, (box.x0, box.y0, box.shape[1], box.shape[0]))
        own.close()

    _in_threads(read, small_boxes())


def by_tiles(sessions: Sessions, image: int, folder: Path) -> None:
    """What the cache does, without the cache."""
    from mxbridge.workspaces.omero.image_info import image_info
    from mxbridge.workspaces.omero.pixels.tiles import Tile, open_pixels, read_tiles

    with sessions.use() as session:
        info = image_info(session, image)

        def attempt(work: Callable[[Any], None]) -> None:
            def with_session(session: Session) -> None:
                with open_pixels(session, info.pixels_id, info.dtype, group_id=info.group_id) as source:
                    work(source)

            sessions.attempt("reading tiles", with_session)

        tiles = [Tile(0, channel, 0, box) for channel, box in small_boxes()]
        read_tiles(attempt, tiles, lambda tile, data: None, dtype=info.dtype, where="", readers=THREADS)


def bare(sessions: Sessions, image: int, folder: Path) -> None:
    """The calls that a pull makes for its tiles, and nothing else: each thread keeps one store, bytes are thrown away."""
    from mxbridge.workspaces.omero.image_info import image_info
    from mxbridge.workspaces.omero.pixels.tiles import read_layout, tiles_of

    with sessions.use() as session:
        info = image_info(session, image)
        layout = read_layout(session, info)

        def read(jobs: Callable[[], Any]) -> None:
            with session.raw_pixels(info.pixels_id, group_id=info.group_id) as store:
                while (job := jobs()) is not None:
                    channel, box = job
                    store.getTile(0, channel, 0, box.x0, box.y0, box.shape[1], box.shape[0])

        _in_threads(read, [(c, box) for c in range(CHANNELS) for box in tiles_of(layout.shapes[0], layout.tile)])


def pull(sessions: Sessions, image: int, folder: Path) -> None:
    """As a task does: the first pixel that is asked for fetches its plane."""
    from mxbridge.image import computed
    from mxbridge.workspaces.omero.image_info import image_info
    from mxbridge.workspaces.omero.pixels.cache import PixelCache

    with sessions.use() as session:
        info = image_info(session, image)
    opened = PixelCache(folder).open(info, sessions, readers=THREADS)
    computed(opened.levels[0][:, :8, :8])


def _in_threads(read: Callable[[Callable[[], Any]], None], jobs: list[Any]) -> None:
    left, lock = deque(jobs), threading.Lock()

    def next_job() -> Any:
        with lock:
            return left.popleft() if left else None

    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(read, next_job) for _ in range(THREADS)]:
            future.result()


def log_in(server: Server) -> Sessions:
    from mxbridge.workspaces.omero.sessions.login import Credentials
    from mxbridge.workspaces.omero.sessions.session import Sessions

    return Sessions(server, credentials=lambda: Credentials(server.user, os.environ["OMERO_PASSWORD"]))


def main(what: str, address: str, image: str, folder: str) -> None:
    from mxbridge.workspaces.omero.sessions.address import Server

    sessions = log_in(Server.parse(address))
    ways = {"gateway": by_gateway, "gateways": by_gateways, "tiles": by_tiles, "bare": bare, "pull": pull}
    try:
        ways[what](sessions, int(image), Path(folder))
    finally:
        sessions.close()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(*sys.argv[1:])
