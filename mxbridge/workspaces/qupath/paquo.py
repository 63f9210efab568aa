"""The program that runs beside mxbridge with a real QuPath in it: ``python -m mxbridge.workspaces.qupath.paquo``.

It answers requests that come through its standard input (see :mod:`.frames`) until that ends:

``{"ask": "entry", "project", "id", "uris": {stored: present}}``
    ``{"entry": {...}}``, then ``{"objects": [...]}`` as often as needed, then ``{"end": true}``. Nothing is written.
``{"ask": "open", "image", "builder"}``
    Size, type, channels and levels of the image that a server builder (JSON, its URIs as they are here) describes.
``{"ask": "pixels", "image", "level", "box": [y0, x0, y1, x1]}``
    Those pixels, ``(c, y, x)``, behind the answer.

What cannot be answered is ``{"error": text}``. Only this module imports paquo (GPL), and only when it runs as that program.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, BinaryIO

from mxbridge.workspaces.qupath.frames import FrameError, read_frame, write_frame

Answer = tuple[dict[str, Any], bytes]

OBJECTS_AT_ONCE = 500
OPEN_SERVERS = 4
"""Images kept open; each holds file handles and tiles."""

TYPES = {
    "UINT8": "uint8",
    "INT8": "int8",
    "UINT16": "uint16",
    "INT16": "int16",
    "UINT32": "uint32",
    "INT32": "int32",
    "FLOAT32": "float32",
    "FLOAT64": "float64",
}


class QuPath:
    """Starts the JVM, of which a process can have one only."""

    def __init__(self) -> None:
        import paquo
        from paquo import java

        self._java = java
        self.version = f"{java.GeneralTools.getVersion()} (paquo {paquo.__version__})"
        self._projects: dict[str, Any] = {}
        self._servers: OrderedDict[str, Any] = OrderedDict()

    def answer(self, request: dict[str, Any]) -> Iterator[Answer]:
        match request.get("ask"):
            case "entry":
                yield from self._entry(request)
            case "open":
                yield {"image": self._open(request["image"], request["builder"])}, b""
            case "pixels":
                yield self._pixels(request)
            case other:
                yield {"error": f"nobody knows how to answer {other!r}"}, b""

    def project(self, path: str) -> Any:
        if path not in self._projects:
            self._projects[path] = self._java.ProjectIO.loadProject(self._java.File(path), self._java.BufferedImage)
        return self._projects[path]

    def entry(self, path: str, number: int, uris: dict[str, str]) -> Any:
        """uris: in memory only; where the images of a moved project are."""
        for entry in self.project(path).getImageList():
            if str(entry.getID()) == str(number):
                moved = {self._java.URI.create(old): self._java.URI.create(new) for old, new in uris.items()}
                if moved:
                    entry.updateURIs(_java_map(moved))
                return entry
        raise LookupError(f"QuPath finds no image with id {number}")

    def _entry(self, request: dict[str, Any]) -> Iterator[Answer]:
        entry = self.entry(request["project"], request["id"], request["uris"])
        # readImageData, never readHierarchy: the latter does not return on a damaged file.
        data = entry.readImageData()
        facts: dict[str, Any] = {"name": _optional(entry.getImageName()), "type": str(data.getImageType().name())}
        try:
            facts["server"] = _server_facts(data.getServer())
            _try_a_tile(data.getServer())
        except Exception as error:  # Java exceptions share no Python base that exists without a JVM
            facts["error"] = reason(error)
        yield {"entry": facts}, b""
        found = [o for o in data.getHierarchy().getFlattenedObjectList(None) if not o.isRootObject()]
        for start in range(0, len(found), OBJECTS_AT_ONCE):
            yield {"objects": [object_facts(o) for o in found[start : start + OBJECTS_AT_ONCE]]}, b""
        yield {"end": True}, b""

    def _open(self, image: str, builder: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(builder)
        kind = self._java.JClass("qupath.lib.images.servers.ImageServerBuilder$ServerBuilder")
        made = self._java.GsonTools.getInstance().fromJson(text, kind.class_)
        if made is None:
            raise ValueError("the project does not say how to open this image")
        server = made.build()
        self._servers[image] = server
        while len(self._servers) > OPEN_SERVERS:
            self._servers.popitem(last=False)[1].close()
        return _server_facts(server)

    def _pixels(self, request: dict[str, Any]) -> Answer:
        if request["image"] not in self._servers:
            self._open(request["image"], request["builder"])
        self._servers.move_to_end(request["image"])
        pixels = read_box(self._java, self._servers[request["image"]], request["level"], request["box"])
        return {"shape": pixels.shape, "dtype": pixels.dtype.name}, pixels.tobytes()


def object_facts(found: Any) -> dict[str, Any]:
    """What :class:`~mxbridge.workspaces.qupath.compare.ObjectFacts` holds, as QuPath says it."""
    path_class, parent = found.getPathClass(), found.getParent()
    class_name = None if path_class is None else _optional(path_class.toString())
    named = class_name not in (None, "", "Unclassified")
    return {
        "id": str(found.getID()).lower(),
        "kind": _kind(found),
        "name": _optional(found.getName()),
        "class_name": class_name if named else None,
        "class_color": _number(path_class.getColor()) if named else None,
        "measurements": _measurements(found.getMeasurementList()),
        "roi": _roi(found.getROI()),
        "nucleus": _roi(found.getNucleusROI()) if found.isCell() else None,
        "parent": None if parent is None or parent.isRootObject() else str(parent.getID()).lower(),
    }


def _kind(found: Any) -> str:
    """Cells and tiles are detections too, so they come first."""
    for kind, test in (
        ("cell", "isCell"),
        ("tile", "isTile"),
        ("tma core", "isTMACore"),
        ("annotation", "isAnnotation"),
    ):
        if getattr(found, test)():
            return kind
    return "detection" if found.isDetection() else str(found.getClass().getSimpleName())


def _measurements(measured: Any) -> dict[str, float]:
    names = measured.getNames() if hasattr(measured, "getNames") else measured.getMeasurementNames()  # from 0.6; before
    return {str(name): float(value) for name, value in zip(names, measured.values(), strict=True)}


def _roi(roi: Any) -> dict[str, Any] | None:
    if roi is None:
        return None
    x, y = float(roi.getBoundsX()), float(roi.getBoundsY())
    return {
        "bounds": [x, y, x + float(roi.getBoundsWidth()), y + float(roi.getBoundsHeight())],
        "area": float(roi.getArea()),
        "plane": [int(roi.getC()), int(roi.getZ()), int(roi.getT())],
    }


def _server_facts(server: Any) -> dict[str, Any]:
    metadata = server.getMetadata()
    calibration = server.getPixelCalibration()
    size = None
    if calibration.hasPixelSizeMicrons():
        size = [float(calibration.getPixelHeightMicrons()), float(calibration.getPixelWidthMicrons())]
    return {
        "shape": [int(server.getHeight()), int(server.getWidth())],
        "stack": [int(server.nZSlices()), int(server.nTimepoints())],
        "channels": [[str(c.getName()), int(c.getColor()) & 0xFFFFFF] for c in metadata.getChannels()],
        "dtype": TYPES.get(str(server.getPixelType()), str(server.getPixelType())),
        "rgb": bool(server.isRGB()),
        "um": size,
        "levels": [[int(level.getHeight()), int(level.getWidth())] for level in metadata.getLevels()],
        "tile": [int(metadata.getPreferredTileHeight()), int(metadata.getPreferredTileWidth())],
    }


def _try_a_tile(server: Any) -> None:
    level = int(server.nResolutions()) - 1
    tile = server.getTileRequestManager().getTileRequest(level, 0, 0, 0, 0)
    if tile is not None:
        server.readRegion(tile.getRegionRequest())


def read_box(java: Any, server: Any, level: int, box: list[int]) -> Any:
    """Pixels ``(c, y, x)`` of a box of a level, tile by tile, so that nothing is resampled. Where nothing was scanned
    there is white (colour pictures) or zero."""
    import numpy as np

    y0, x0, y1, x1 = box
    rgb, channels = bool(server.isRGB()), int(server.nChannels())
    dtype = np.dtype(TYPES[str(server.getPixelType())])
    out = np.full((channels, y1 - y0, x1 - x0), 255 if rgb else 0, dtype)
    for tile in _tiles(java, server, level, box):
        at_y, at_x = int(tile.getTileY()), int(tile.getTileX())
        height, width = int(tile.getTileHeight()), int(tile.getTileWidth())
        top, left, bottom, right = max(at_y, y0), max(at_x, x0), min(at_y + height, y1), min(at_x + width, x1)
        if bottom <= top or right <= left:
            continue
        picture = server.readRegion(tile.getRegionRequest())
        if picture is None:
            continue
        if (int(picture.getHeight()), int(picture.getWidth())) != (height, width):
            raise ValueError(f"QuPath gave {picture.getWidth()} x {picture.getHeight()} pixels for {width} x {height}")
        raster = picture.getRaster()
        if int(raster.getNumBands()) < channels:
            raise ValueError(f"QuPath gave {raster.getNumBands()} channels, where it said {channels}")
        inner = (left - at_x, top - at_y, right - left, bottom - top)
        for band in range(channels):
            out[band, top - y0 : bottom - y0, left - x0 : right - x0] = _samples(java, raster, inner, band, dtype)
    return out


def _tiles(java: Any, server: Any, level: int, box: list[int]) -> list[Any]:
    """The tiles of a level that may touch a box of it."""
    step = float(server.getDownsampleForResolution(level))
    top, left = max(0, int(box[0] * step) - 1), max(0, int(box[1] * step) - 1)
    bottom = min(int(server.getHeight()), int(box[2] * step) + 2)
    right = min(int(server.getWidth()), int(box[3] * step) + 2)
    make = java.JClass("qupath.lib.regions.RegionRequest").createInstance
    request = make(server.getPath(), step, left, top, max(1, right - left), max(1, bottom - top))
    found = server.getTileRequestManager().getTileRequests(request)
    return [t for t in found if int(t.getLevel()) == level and int(t.getZ()) == 0 and int(t.getT()) == 0]


def _samples(java: Any, raster: Any, box: tuple[int, int, int, int], band: int, dtype: Any) -> Any:
    """One band ``(y, x)``. Java has no unsigned types: what it gives as negative numbers wraps back to what was stored."""
    import jpype
    import numpy as np

    x, y, width, height = box
    kind = {"float32": jpype.JFloat, "float64": jpype.JDouble}.get(dtype.name, jpype.JInt)
    values = raster.getSamples(x, y, width, height, band, jpype.JArray(kind)(width * height))
    return np.asarray(memoryview(values)).reshape(height, width).astype(dtype)


def _java_map(items: dict[Any, Any]) -> Any:
    import jpype

    made = jpype.JClass("java.util.HashMap")()
    for key, value in items.items():
        made.put(key, value)
    return made


def _optional(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def reason(error: BaseException) -> str:
    """One line of a Java or Python exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:500]


def _requests(stream: BinaryIO) -> queue.SimpleQueue[dict[str, Any]]:
    """What is asked, in order. When nobody can ask any more this process ends, whatever Java is doing."""
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                waiting.put(read_frame(stream)[0])
        except (EOFError, FrameError, OSError):
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    return waiting


def main() -> None:
    """Never returns: a thread that waits for requests would keep Python from ending in order."""
    # What QuPath logs goes to standard output, which is for answers here.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def send(message: dict[str, Any], payload: bytes = b"") -> None:
        try:
            write_frame(answers, message, payload)
        except OSError:
            os._exit(0)

    waiting = _requests(sys.stdin.buffer)
    try:
        qupath = QuPath()
    except BaseException as error:  # no QuPath there, or none that paquo knows
        send({"error": reason(error)})
        os._exit(1)
    send({"version": qupath.version})
    while True:
        request = waiting.get()
        try:
            for message, payload in qupath.answer(request):
                send(message, payload)
        except Exception as error:
            send({"error": reason(error)})


if __name__ == "__main__":
    main()
