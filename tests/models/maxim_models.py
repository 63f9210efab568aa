"""Small images and imputation models made in memory, for the tests of MAXIM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from maxim_networks import random_network

from mxbridge.image import Channel, LocalImage
from mxbridge.models.card import ModelCard
from mxbridge.models.linear_start import LinearStart
from mxbridge.models.maxim import Maxim, MaximStream, Request, targets_of
from mxbridge.models.scaling import Scaling
from mxbridge.networks.fused_maxim import FusedMaxim
from mxbridge.stream.engine import Engine

MARKERS = ("DAPI", "CD3", "CD8", "KI67")
SCALINGS = {
    "DAPI": Scaling("linear", 100, 3000),
    "CD3": Scaling("arcsinh", 0.1, 5.0, cofactor=20),
    "CD8": Scaling("linear", 0, 2500),
    "KI67": Scaling("arcsinh", 0, 6.0, cofactor=5),
}


def linear_start(names: Sequence[str], seed: int = 0) -> LinearStart:
    n = 2 * len(names)
    rng = np.random.default_rng(seed)
    root = rng.normal(0, 0.2, (n, n))
    return LinearStart(tuple(names), rng.uniform(0.2, 0.6, n), root @ root.T)


def model_of(
    inputs: Sequence[str] = MARKERS[:3],
    outputs: Sequence[str] = ("KI67",),
    *,
    any_marker: bool = False,
    start: bool = False,
    width: int = 2,
    seed: int = 0,
    um_per_px: float = 0.5,
    dtype: str = "",
) -> Maxim:
    """With ``any_marker`` the outputs are the inputs."""
    if any_marker:
        outputs = inputs
    planes = len(inputs) * (2 if any_marker else 1)
    network = random_network(planes, len(outputs), width, seed).requires_grad_(False)
    both = tuple(dict.fromkeys([*inputs, *outputs]))
    return Maxim(
        name="MAXIM",
        um_per_px=um_per_px,
        weights_sha256=f"seed {seed}",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        any_marker=any_marker,
        scaling={marker: SCALINGS[marker] for marker in both},
        dtype=dtype,
        card=ModelCard(),
        network=FusedMaxim(network),
        plain=network,
        start=linear_start(both, seed) if start else None,
    )


def noise(channels: int, height: int, width: int, seed: int, dtype: Any = np.uint16) -> np.ndarray:
    """Structured numbers 0..3000."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((channels, height // 5 + 2, width // 5 + 2)) ** 2
    smooth = coarse.repeat(5, 1).repeat(5, 2)[:, :height, :width]
    return (2000 * smooth + 1000 * rng.random((channels, height, width))).astype(dtype)


def image_of(
    raw: np.ndarray,
    names: Sequence[str] = MARKERS,
    um: tuple[float, float] | None = (0.5, 0.5),
    *,
    levels: tuple[np.ndarray, ...] = (),
    chunk: int = 64,
) -> LocalImage:
    planes = tuple(da.from_array(level, chunks=(1, chunk, chunk)) for level in (raw, *levels))
    return LocalImage("field", planes, tuple(Channel(name) for name in names), um, identity="test")


class Whole:
    """What a stream gives, put together."""

    def __init__(self, stream: MaximStream, **options: Any) -> None:
        targets, views = len(targets_of(stream.requests)), len(stream.views)
        self.unit = np.full((views, targets, *stream.shape), np.nan, np.float32)
        self.measured = np.full((len(stream.measured), *stream.shape), np.nan, np.float32)
        self.hits = np.zeros(stream.shape, int)
        self.sums = np.zeros(len(stream.model.inputs))
        self.tiles = []
        for tile in stream.tiles(**options):
            core = tile.tile.core
            inside = (..., slice(core.y0, core.y1), slice(core.x0, core.x1))
            self.unit[inside], self.measured[inside] = tile.unit, tile.measured
            self.hits[inside[1:]] += 1
            self.sums += tile.inputs_sum
            self.tiles.append(tile)


def predict(model: Maxim, image: LocalImage, *targets: str, **options: Any) -> Whole:
    """The whole image with the given stream options."""
    engine = Engine(device="cpu", **{k: options.pop(k) for k in ("tile", "workers", "batch") if k in options})
    requests = options.pop("requests", None) or [Request(targets or model.outputs[:1])]
    return Whole(MaximStream(model, image, engine, requests, **options))
