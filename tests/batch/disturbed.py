"""A night against the test server, disturbed: connections cut, sessions expired, restarts, the runner killed; held against an
undisturbed one.

    with RunningServer.start() as server, Prepared() as prepared:
        quiet = undisturbed(server, prepared, folder / "quiet", images=12)
        rough = disturbed(server, prepared, folder / "rough", quiet, seed=1)
        assert rough.wrong == []
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mxbridge.batch.ledger import Ledgers
from tests.batch.toy_job import CHANNELS, IMPUTE, SCORE, pixels_of, toy_job
from tests.cli.prepared import End, Prepared
from tests.omero_server.running import RunningServer

SIZE = 32
BOTH = SCORE.replace('"Ki67"', '"CD8 (MAXIM)"')
LIMITS = "[limits]\nretry-after = 0.2\ntries = 9\ngroup = 10\n"
KINDS = ("drop", "kill-connection-after", "expire")
MOST_NIGHTS = 12
"""Runs after which everything must be done."""

State = dict[str, Any]


@dataclass(frozen=True)
class Quiet:
    """An undisturbed night. states: what may be seen of each image, from untouched to done. seconds: what it took."""

    images: int
    final: str
    states: dict[str, list[str]]
    derived: dict[str, str]
    seconds: float


@dataclass
class Rough:
    """A disturbed one. wrong: what is not as it should be. looks: how often the server was looked at meanwhile."""

    seed: int
    kills: int = 0
    restarts: int = 0
    nights: int = 0
    looks: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def describe(self) -> str:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items())) or "none"
        return (
            f"seed {self.seed}: {self.nights} runs, {self.kills} killed, {self.restarts} restarts, faults: {faults}; "
            f"{self.looks} looks, {self.seconds:.0f} s; wrong: {len(self.wrong)}"
        )


def seed_server(server: RunningServer, images: int) -> None:
    """Images ``slide 0`` ... of two datasets: pixels, and labels of their cells."""
    server.reset()
    for k in range(images):
        pixels, _ = pixels_of(k, SIZE)
        server.add_image(f"slide {k}", pixels, channels=CHANNELS, um_per_px=0.5)
    for k in range(images):
        _, labels = pixels_of(k, SIZE)
        server.add_image(f"slide {k}", labels[None].astype(np.int32), dataset="masks")


def write_job(folder: Path, server: RunningServer, tasks: str = IMPUTE + BOTH) -> Path:
    source = f'[[source]]\nomero = "{server.address("dataset:1")}"\nlabels = "dataset:2"\ncache = "cache"\n'
    return toy_job(folder, source + tasks + LIMITS, names=())


def undisturbed(server: RunningServer, prepared: Prepared, folder: Path, images: int) -> Quiet:
    """Impute first and then score, so that the states between are known."""
    seed_server(server, images)
    states = [seen(server)]
    _fine(_run(prepared, write_job(folder, server, IMPUTE)))
    states.append(seen(server))
    started = time.monotonic()
    _fine(_run(prepared, write_job(folder, server)))
    seconds = 2 * (time.monotonic() - started)
    state = server.state()
    states.append(seen(server, state))
    names = [f"slide {k}" for k in range(images)]
    derived = {name: one for name, one in states[-1].items() if name not in names}
    return Quiet(images, text(state), {name: [s[name] for s in states] for name in names}, derived, seconds)


def disturbed(
    server: RunningServer, prepared: Prepared, folder: Path, quiet: Quiet, seed: int, *, kills: int = 5
) -> Rough:
    """The same with faults, restarts and kills at moments that the seed decides, then nights until all is done."""
    seed_server(server, quiet.images)
    rng, rough = np.random.default_rng(seed), Rough(seed)
    job, began = write_job(folder, server), time.monotonic()
    server.faults_at_random(seed, rate=0.01, kinds=KINDS, at_most=3 * quiet.images)
    for moment in rng.uniform(0.15, 0.45, kills).tolist():
        restart = threading.Timer(float(rng.uniform(0.1, 0.5)) * quiet.seconds, _restart, (server, rough))
        restart.start()
        end = _run(prepared, job, kill_after=moment * quiet.seconds)
        restart.cancel()
        restart.join()
        rough.kills, rough.nights = rough.kills + (end.code == -9), rough.nights + 1
        look(server, quiet, rough)
    done = False
    while not done and rough.nights < MOST_NIGHTS:
        end = _run(prepared, job)
        rough.nights += 1
        look(server, quiet, rough)
        if end.code not in (0, 3, 4):
            rough.wrong.append(f"a run ended with {end.code}: {end.said}")
        done = end.code == 0 and "Nothing to do" in end.said
        if rough.nights == kills + 2:
            rough.faults += _struck(server)
            server.clear_faults()  # it forgets what struck
    rough.faults += _struck(server)
    rough.seconds = time.monotonic() - began
    judge(server, job, quiet, rough)
    return rough


def _struck(server: RunningServer) -> Counter[str]:
    return Counter(one.split()[0] for one in server.struck())


def judge(server: RunningServer, job: Path, quiet: Quiet, rough: Rough) -> None:
    """Every image once, everything as after an undisturbed night, nothing left behind."""
    if text(server.state()) != quiet.final:
        rough.wrong.append("the server's state differs from that of an undisturbed night")
    with Ledgers.looked_at(job.parent / "job.ledger") as ledgers:
        rows = ledgers.rows()
    rough.attempts = Counter(row.state for row in rows)
    done = Counter((row.image, row.task) for row in rows if row.state == "done")
    if len(done) != 2 * quiet.images or set(done.values()) != {1}:
        rough.wrong.append(f"done: {dict(done)}")
    runs = Counter(path.parent.parent.name for path in (job.parent / "runs").glob("*/*/*/run.json"))
    if set(runs.values()) != {1}:
        rough.wrong.append(f"runs by image: {dict(runs)}")
    server.expire_sessions()
    end = time.monotonic() + 3
    while server.leaks(orphans=True) and time.monotonic() < end:
        time.sleep(0.1)  # the server notices killed clients a moment later
    for what, found in (
        ("left open", server.leaks(orphans=True)),
        ("unknown", server.unknown()),
        ("errors", server.errors()),
    ):
        if found:
            rough.wrong.append(f"{what}: {found[:3]}")


def look(server: RunningServer, quiet: Quiet, rough: Rough) -> None:
    """What somebody sees who looks just now: each image untouched or with whole results, whole derived images, each once."""
    rough.looks += 1
    state = server.state()
    now = seen(server, state)
    for name, one in now.items():
        if one not in quiet.states.get(name, [quiet.derived.get(name)]):
            rough.wrong.append(
                f"seen after run {rough.nights}: {name} is in no state of an undisturbed night: {one:.500}"
            )
    shown = Counter(image["name"] for image in state["images"] if "slides (mxbridge)" in image["datasets"])
    if any(count > 1 for count in shown.values()):
        rough.wrong.append(f"seen after run {rough.nights}: derived images twice: {dict(shown)}")


def seen(server: RunningServer, state: State | None = None) -> dict[str, str]:
    """By name, what stands in a dataset that people open."""
    images = (server.state() if state is None else state)["images"]
    return {image["name"]: text(image) for image in images if image["datasets"] and image["datasets"] != ["masks"]}


def text(what: Any) -> str:
    """Comparable between two servers: fingerprints hold the identity of the database."""
    return json.dumps(_without_fingerprints(what), sort_keys=True)


def _without_fingerprints(what: Any) -> Any:
    if isinstance(what, dict):
        return {key: _without_fingerprints(value) for key, value in what.items()}
    if isinstance(what, list):
        return [
            _without_fingerprints(one) for one in what if not (isinstance(one, list) and one[:1] == ["fingerprint"])
        ]
    return what


def _restart(server: RunningServer, rough: Rough) -> None:
    rough.restarts += 1
    server.restart(0.2)


def _run(prepared: Prepared, job: Path, kill_after: float | None = None) -> End:
    words = ["batch", "run", job, "--runner", "night", "--quiet"]
    return prepared.run(words, kill_after=kill_after)


def _fine(end: End) -> None:
    assert end.code == 0, end.said
