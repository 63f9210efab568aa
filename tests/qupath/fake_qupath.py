"""A program that stands in for the process with QuPath in it, for tests: our own reader answers, or it misbehaves.

``python fake_qupath.py MODE COUNTER``; COUNTER is a file with how often such a process was started.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mxbridge.workspaces.qupath.frames import HEADER, MAGIC, read_frame, write_frame


def stand_in(monkeypatch: Any, folder: Path, mode: str) -> Path:
    """Let this program answer instead of QuPath. Returns the file that counts its starts."""
    from mxbridge.workspaces.qupath import qupath_process

    counter = folder / f"starts-{mode.replace(':', '-')}"
    command = [sys.executable, "-P", "-X", "utf8", str(Path(__file__).absolute()), mode, str(counter)]
    monkeypatch.setattr(qupath_process, "command", lambda: command)
    monkeypatch.setattr(qupath_process, "why_not", lambda: "")
    return counter


def objects_of(path: Path) -> list[dict[str, Any]]:
    from mxbridge.workspaces.qupath.compare import facts_of
    from mxbridge.workspaces.qupath.qpdata import ImageDataFile

    found = ImageDataFile.read(path).objects() if path.exists() else ()
    return [dataclasses.asdict(facts_of(o)) for o in found]


def image_of(builder: dict[str, Any], uris: dict[str, str]) -> Any:
    from mxbridge.workspaces.qupath.pixels import open_stored
    from mxbridge.workspaces.qupath.uris import path_of

    return open_stored(builder, name="fake", locate=lambda uri: Path(path_of(uris.get(uri, uri))))


def server_of(image: Any) -> dict[str, Any]:
    from mxbridge.workspaces.qupath.builders import shown_channels

    return {
        "shape": image.shape,
        "stack": [1, 1],
        "channels": [[c.name, c.color] for c in shown_channels(image)],
        "dtype": image.dtype.name,
        "rgb": image.rgb,
        "um": image.pixel_size_um,
        "levels": [level.shape[1:] for level in image.levels],
        "tile": [512, 512],
    }


def answer_entry(request: dict[str, Any], out: Any, mode: str) -> None:
    from mxbridge.workspaces.qupath.project import Project
    from mxbridge.workspaces.qupath.qpdata import ImageDataFile

    project = Project.open(request["project"])
    entry, path = project.entry(request["id"]), project.data_path(request["id"])
    kind = ImageDataFile.read(path).image_type if path.exists() else "UNSET"
    server = server_of(image_of(entry.builder, request["uris"]))
    told: dict[str, Any] = {"entry": {"name": entry.name, "type": kind, "server": server}}
    if mode == "no-image":
        told["entry"]["error"] = "made up"
    write_frame(out, told)
    found = objects_of(path)
    if mode == "dies-midway":
        write_frame(out, {"objects": found[:3]})
        print("a complaint of the JVM", file=sys.stderr, flush=True)
        os._exit(7)
    if mode == "nonsense":
        found = [{"id": 3}]
    if mode == "lies" and found:
        found[0]["measurements"]["made up"] = 1.0
        next(o for o in found if o["class_name"])["class_color"] = 12345
    for start in range(0, len(found), 50):
        write_frame(out, {"objects": found[start : start + 50]})
    write_frame(out, {"end": True})


def answer_pixels(request: dict[str, Any], out: Any, mode: str) -> None:
    import numpy as np

    if mode in ("refuses",):
        write_frame(out, {"error": "no such format"})
        return
    inner = {k: v for k, v in request["builder"].items() if k != "builderType"}
    image = image_of({"builderType": "uri", **inner}, {})
    if request["ask"] == "open":
        told = server_of(image)
        told = {**told, "channels": "x"} if mode == "bad-open" else told
        write_frame(out, {"image": told})
        return
    y0, x0, y1, x1 = request["box"]
    block = np.asarray(image.levels[request["level"]][:, y0:y1, x0:x1])
    data = block.tobytes()
    if mode == "short":
        data = data[:-1]
    if mode == "long":
        data += b"0"
    if mode == "other-type":
        block = block.astype(np.int32)
    write_frame(out, {"shape": block.shape, "dtype": block.dtype.name}, data)


def misbehave(mode: str, out: Any) -> None:
    """What ends an answer before it has begun."""
    if mode == "hangs":
        time.sleep(600)
    if mode == "dies":
        print("# A fatal error has been detected by the Java Runtime Environment", file=sys.stderr, flush=True)
        os._exit(134)
    if mode == "garbage":
        out.write(b"log4j: warning\n" * 10)
        out.flush()
    if mode == "huge":
        out.write(HEADER.pack(MAGIC, 2**31, 2**60))
        out.flush()
    if mode == "not-json":
        out.write(HEADER.pack(MAGIC, 5, 0) + b"hello")
        out.flush()


def main() -> None:
    mode, counter = sys.argv[1], Path(sys.argv[2])
    starts = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(starts + 1))
    mode, _, only_first = mode.partition(":")
    mode = "honest" if only_first and starts else mode
    out = sys.stdout.buffer
    if mode == "silent-start":
        time.sleep(600)
    if mode == "no-start":
        write_frame(out, {"error": "no valid qupath installation found"})
        return
    write_frame(out, {"version": "9.9.9 (fake)"})
    while True:
        try:
            request, _ = read_frame(sys.stdin.buffer)
        except EOFError:
            return
        with (counter.parent / "requests.jsonl").open("a") as log:
            log.write(json.dumps(request) + "\n")
        misbehave(mode, out)
        (answer_entry if request["ask"] == "entry" else answer_pixels)(request, out, mode)


if __name__ == "__main__":
    main()
