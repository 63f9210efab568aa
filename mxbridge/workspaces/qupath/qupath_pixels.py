"""Pixels through QuPath's own image server, for what no reader of mxbridge opens: other makers' formats, rotated images,
images that QuPath computes. A process beside this one reads them (:mod:`.qupath_process`); it is shared by all images."""

from __future__ import annotations

import atexit
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mxbridge.errors import InputError, MxbridgeError, SourceError
from mxbridge.formats.pixels import CHANNEL_LIMIT, Level, coarser_levels, file_identity
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.workspaces.qupath import qupath_process
from mxbridge.workspaces.qupath.builders import files_of, with_files
from mxbridge.workspaces.qupath.uris import uri_of

GRAIN = 512
"""Side of the blocks asked for where QuPath's own tiles are smaller, or far larger."""

PIXELS_SECONDS = 300.0
"""For one block; QuPath may compute it from a whole slide."""


def open_through_qupath(builder: Mapping[str, Any], *, name: str, locate: Callable[[str], Path]) -> LocalImage:
    """The image of any server builder QuPath knows, with all channels and levels of its first plane (z = 0, t = 0).

    locate: from a stored URI to an existing path. Raises SourceError (no file, QuPath ended or was silent), InputError
    (QuPath cannot open it either).
    """
    places = {uri: locate(uri) for uri in files_of(builder)}
    here = with_files(builder, {uri: uri_of(path) for uri, path in places.items()})
    files = tuple(dict.fromkeys(places.values()))
    identity = file_identity([f for f in files if f.is_file()], "qupath", json.dumps(here, sort_keys=True))
    told = _SERVER.ask(name, {"ask": "open", "image": identity, "builder": here})
    return image_of_answer(name, told.get("image"), files, identity, here)


def image_of_answer(
    name: str, told: Any, files: tuple[Path, ...], identity: str, builder: Mapping[str, Any]
) -> LocalImage:
    """From what the process says about an image it has opened. Raises SourceError, InputError."""
    try:
        return _image(name, told, files, identity, builder)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise SourceError(f"{name}: QuPath's process sent an answer nobody understands ({error})") from error


def _image(
    name: str, told: Mapping[str, Any], files: tuple[Path, ...], identity: str, builder: Mapping[str, Any]
) -> LocalImage:
    channels = tuple(Channel(str(label), int(color) & 0xFFFFFF) for label, color in told["channels"])
    if not 0 < len(channels) <= CHANNEL_LIMIT:
        raise ValueError(f"{len(channels)} channels")
    height, width = (int(side) for side in told["tile"])
    y, x = (side if GRAIN // 2 <= side <= 4 * GRAIN else GRAIN for side in (height, width))
    grain = len(channels), y, x
    where = files[0] if files else Path(name)
    levels = [
        ServerLevel(
            where, (len(channels), int(y), int(x)), np.dtype(told["dtype"]), grain, (identity, k, builder, name)
        )
        for k, (y, x) in enumerate(told["levels"])
    ]
    keep, warnings = coarser_levels(where, [level.shape for level in levels])
    stacks = [f"{n} {what}" for n, what in zip(told["stack"], ("z-planes", "time points"), strict=True) if n > 1]
    if stacks:
        warnings.append(f"{name} has {' and '.join(stacks)}; only the first was read")
    um = told["um"]
    return LocalImage(
        name=name,
        levels=tuple(levels[k].array(f"qupath-{identity[:24]}-{k}") for k in keep),
        channels=channels,
        pixel_size_um=None if um is None else (float(um[0]), float(um[1])),
        identity=identity,
        files=files,
        rgb=told["rgb"] is True,
        warnings=(*warnings, "read through QuPath, which is slower than reading the file"),
    )


class ServerLevel(Level):
    """One level of an image server of QuPath."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype,
        grain: tuple[int, int, int],
        server: tuple[str, int, Mapping[str, Any], str],
    ) -> None:
        """server: identity of the image, level, builder, and the name for messages."""
        super().__init__(path, shape, dtype, grain)
        self._server = server

    def read(self, channels: range, box: Box) -> np.ndarray:
        image, level, builder, name = self._server
        size = self.shape[0] * box.shape[0] * box.shape[1] * self.dtype.itemsize
        request = {"ask": "pixels", "image": image, "level": level, "builder": builder, "box": list(box)}
        told, data = _SERVER.ask_pixels(name, request, size)
        if len(data) != size or told.get("dtype") != self.dtype.name:
            raise SourceError(
                f"{name}: QuPath gave {len(data):,} bytes of {told.get('dtype')} pixels instead of {size:,} of {self.dtype}"
            )
        return np.frombuffer(data, self.dtype).reshape(self.shape[0], *box.shape)[channels.start : channels.stop]


class _Server:
    """The one process with QuPath: started when it is needed, and again after it has failed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: qupath_process.QuPathProcess | None = None
        self._owner = 0

    def ask(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        return self.ask_pixels(name, request, 0)[0]

    def ask_pixels(self, name: str, request: dict[str, Any], size: int) -> tuple[dict[str, Any], bytes]:
        """The answer and at most ``size`` bytes. Raises SourceError, and InputError with what QuPath says against it."""
        with self._lock:
            try:
                if self._process is None or self._owner != os.getpid():  # a forked process has the pipes of another
                    self._process, self._owner = qupath_process.QuPathProcess(), os.getpid()
                self._process.send(request, payload_limit=size)
                told, data = self._process.receive(PIXELS_SECONDS)
            except MxbridgeError as error:
                self._process = None
                raise SourceError(f"{name}: {error.message}", hint=error.hint) from error
            except BaseException:  # Ctrl-C: what is answered now would be taken for the next answer
                self._end()
                raise
        if "error" in told:
            raise InputError(f"{name}: QuPath cannot open it: {told['error']}")
        return told, data

    def close(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.close()
        self._process = None


_SERVER = _Server()
atexit.register(_SERVER.close)
