"""Translators without networks: a colour rule of single pixels, and one that looks at the statistics of its window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import dask.array as da
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxbridge.image import Channel, LocalImage
from mxbridge.models.translators import Weighting

FILLS = {"Hematoxylin": (201, 211, 208), "Marker": (10, 10, 10), "Seg": (0, 0, 0)}


class Stopped(Exception):
    """What stands for a killed run."""


def rule(rgb: NDArray[Any]) -> dict[str, NDArray[np.uint8]]:
    """What the toy makes of colours 0..255 ``(3, y, x)``."""
    red, green, blue = rgb.astype(np.int64)
    seg = np.stack([(red > blue + 20) * 255, 0 * green, (blue > red + 20) * 255])
    return {
        "Hematoxylin": rgb.astype(np.uint8),
        "Marker": np.stack([255 - red, 255 - red, 0 * red]).astype(np.uint8),
        "Seg": seg.astype(np.uint8),
    }


def signed(values: NDArray[np.uint8]) -> Tensor:
    """-1..1 as networks give it, which is stored as ``values`` whatever rounding does."""
    return (torch.from_numpy(values).to(torch.float32) + 0.25) / 255 * 2 - 1


@dataclass
class ToyPasses:
    """stop_after: windows after which it raises Stopped. seen: windows it was shown, one entry per batch."""

    images: tuple[str, ...]
    stop_after: int | None = None
    statistics: bool = False
    fits: int = 1000
    seen: list[int] = field(default_factory=list)
    mean: float | None = None
    networks: tuple[str, ...] = ("rule",)

    def to(self, device: torch.device) -> Self:
        return self

    def __call__(self, windows: Tensor) -> dict[str, Tensor]:
        if len(windows) > self.fits:
            raise torch.OutOfMemoryError("not enough memory")
        self.seen.append(len(windows))
        if self.stop_after is not None and sum(self.seen) > self.stop_after:
            raise Stopped
        found: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in self.images}
        for window in windows.numpy():
            if self.statistics:
                mean = window.mean(dtype=np.float64) if self.mean is None else self.mean
                window = np.tanh((window - mean) * 2)
            made = rule(np.rint((window + 1) / 2 * 255).astype(np.uint8))
            for name in self.images:
                found[name].append(made[name])
        return {name: signed(np.stack(images)) for name, images in found.items()}

    def frozen(self, sample: Tensor) -> ToyPasses:
        self.mean = float(sample.numpy().mean(dtype=np.float64))
        return self

    def describe(self) -> dict[str, Any]:
        return {"mean": self.mean}


@dataclass
class ToyTranslator:
    """window, overlap: small, so that small images have many. loaded: every set of passes that was asked for."""

    window: int = 64
    overlap: int = 16
    statistics: bool = False
    samples_slide: bool = False
    stop_after: int | None = None
    fits: int = 1000
    name: str = "Toy"
    um_per_px: float = 0.25
    weights_sha256: str = "toy"
    segs: tuple[str, ...] = ("Seg",)
    marker_image: str | None = "Marker"
    separating_image: tuple[str, ...] = ()
    fluorescence: tuple[str, ...] = ("Marker",)
    brightfield: tuple[str, ...] = ("Hematoxylin",)
    input_images: int = 1
    n_segs: int = 0
    warnings: tuple[str, ...] = ()
    loaded: list[ToyPasses] = field(default_factory=list)

    def peer_weighting(self) -> None:
        return None

    def images_for(self, wanted: str, *, separate: bool = False) -> tuple[str, ...]:
        return ("Seg", "Marker") if wanted in ("score", "cells") else ("Hematoxylin", "Marker", "Seg")

    def fills(self) -> Mapping[str, tuple[int, int, int]]:
        return FILLS

    def passes(self, images: Sequence[str], weighting: Weighting | None) -> ToyPasses:
        self.loaded.append(ToyPasses(tuple(images), self.stop_after, self.statistics, self.fits))
        return self.loaded[-1]

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "statistics": self.statistics}


def picture(
    pixels: NDArray[Any], um: float | None = 0.25, *, levels: int = 1, files: tuple[Path, ...] = ()
) -> LocalImage:
    """A brightfield image of ``(3, y, x)``; coarser levels are means of 4 x 4 pixels of the one before."""
    arrays = [pixels]
    for _ in range(levels - 1):
        last = arrays[-1]
        height, width = last.shape[1] // 4 * 4, last.shape[2] // 4 * 4
        blocks = last[:, :height, :width].reshape(3, height // 4, 4, width // 4, 4)
        arrays.append(blocks.mean(axis=(2, 4)).round().astype(last.dtype))
    return LocalImage(
        "slide",
        tuple(da.from_array(a, chunks=(3, 128, 128)) for a in arrays),
        tuple(Channel(name) for name in ("Red", "Green", "Blue")),
        None if um is None else (um, um),
        f"slide-{pixels.shape}-{int(pixels.astype(np.int64).sum())}",
        files=files,
        rgb=True,
    )


def tissue(shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Colours ``(3, y, x)`` that differ from pixel to pixel and from place to place."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = 128 + 60 * np.sin(y / 23 + seed) * np.cos(x / 31)
    noise = rng.normal(0, 12, (3, *shape))
    shade = np.array([1.1, 0.9, 1.0])[:, None, None]
    return np.clip(wave * shade + noise, 1, 254).astype(np.uint8)


def glass(shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Empty glass: bright, with the noise of a camera."""
    noise = np.random.default_rng(seed).normal(0, 1, (3, *shape))
    return np.clip(np.rint(240 + noise), 0, 254).astype(np.uint8)


def quiet(what: str) -> Any:
    return lambda done, total: None
