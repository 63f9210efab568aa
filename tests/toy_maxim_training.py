"""Small images with markers that follow from one another, and settings that train in a second."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from mxbridge.training.maxim.images import TrainingImage, gather_images
from mxbridge.training.maxim.settings import MaximSettings, settings_of
from mxbridge.workspaces.memory import MemoryWorkspace

MARKERS = ("DAPI", "CD3", "CD8", "KI67")


def pixels(seed: int, shape: tuple[int, int] = (64, 80), markers: int = 4, dtype: str = "uint16") -> np.ndarray:
    """``(markers, y, x)``: the last marker is the sum of the first two, so that a model can learn it."""
    rng = np.random.default_rng(seed)
    planes = gaussian_filter(rng.random((markers, *shape)), (0, 2, 2))
    planes = (planes - planes.min()) / (planes.max() - planes.min())
    planes[-1] = (planes[0] + planes[1]) / 2
    return (planes * 200 + 1).astype(dtype)


def workspace(
    count: int = 3, names: tuple[str, ...] = MARKERS, um: float | None = 0.5, **options: Any
) -> MemoryWorkspace:
    return MemoryWorkspace({f"slide{k}": (pixels(k, markers=len(names), **options), names, um) for k in range(count)})


def images(count: int = 3, **options: Any) -> list[TrainingImage]:
    return gather_images([workspace(count, **options)])


def tiny(**given: Any) -> MaximSettings:
    """Four steps of a network of width 2."""
    toy: dict[str, Any] = {
        "width": 2,
        "side": 32,
        "batch": 2,
        "steps": 4,
        "validate_every": 2,
        "warmup": 1,
        "guard": 0,
        "most_hidden": 2,
    }
    own: dict[str, Any] = {"any_marker": True} if "markers" not in given else {}
    if not own:
        del toy["most_hidden"]
    return settings_of(given.pop("preset", "house"), **(toy | own | given))
