"""Which input pixels an imputed marker came from: attributions of its mean intensity to the markers it was imputed from.

Methods are entries of METHODS: each takes a function of a batch of inputs and says how much every pixel of the inputs adds to
its value. A method is named here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mxbridge.errors import InputError, UnknownName, UsageError
from mxbridge.models.maxim import Maxim, Request
from mxbridge.stream.engine import is_out_of_memory
from mxbridge.stream.resample import reflect_index

Forward = Callable[[Tensor], Tensor]
"""``(n, inputs, y, x)`` -> ``(n,)``."""
Method = Callable[[Forward, Tensor, int, int], Tensor]
"""Of a function, inputs, steps and passes at once, maps of the inputs' shape."""

PASS_BYTES = 512 * 1024**2
"""What the passes that are under way together may take, where no batch is given."""
LAYERS_KEPT = 30
"""Activations of full size that one pass keeps for its gradient (measured: 28 to 29)."""


@dataclass(frozen=True)
class AttributionSettings:
    """method: of METHODS. steps: points on the way from an empty image. batch: passes at once (None: as memory allows)."""

    method: str = "integrated-gradients"
    steps: int = 50
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownName("method", self.method, METHODS)
        if self.steps < 2 or (self.batch is not None and self.batch < 1):
            raise UsageError(f"--steps {self.steps} --batch {self.batch} is not possible", hint="At least 2 and 1")

    def passes(self, model: Maxim, pixels: int) -> int:
        """Passes at once over images of so many pixels."""
        return self.batch or max(1, PASS_BYTES // (LAYERS_KEPT * 4 * model.plain.width * pixels))


class Attributions(NamedTuple):
    """maps: ``(n, inputs, y, x)``. change: ``(n,)`` value minus that of the empty image, which the maps should add up to.
    delta: ``(n,)`` sum of the maps minus ``change``."""

    maps: NDArray[np.float32]
    change: NDArray[np.float64]
    delta: NDArray[np.float64]


def attribute(
    model: Maxim,
    unit: NDArray[np.float32],
    request: Request,
    settings: AttributionSettings,
    device: torch.device,
    *,
    zero_pad: int | None = None,
    reduced: Callable[[str], None] = lambda what: None,
) -> Attributions:
    """Attribute the mean of the request's one target over each image of ``unit`` ``(n, inputs, y, x)`` to its pixels.

    Images are compared with empty ones (zeros); of any-marker models the planes that say which markers are there stay as they
    are. Sides are filled up to the network's stride by reflection, which is part of the function; zero_pad: with zeros at the
    right and bottom up to this side instead, and the mean taken over all of it, as the published program does.
    reduced: is told when fewer passes go together for lack of memory.
    Raises UsageError where what a method needs is not installed, InputError when one pass does not fit the memory.
    """
    size = int(unit.shape[-2]), int(unit.shape[-1])
    model.plain.to(device)

    def mean_of_target(inputs: Tensor) -> Tensor:
        if zero_pad is not None:
            padded = functional.pad(inputs, (0, zero_pad - size[1], 0, zero_pad - size[0]))
            return model.predict(padded, request)[:, 0].mean(dim=(-2, -1))
        padded = _reflected(inputs, model.stride)
        return model.predict(padded, request)[:, 0, : size[0], : size[1]].mean(dim=(-2, -1))

    inputs = torch.from_numpy(unit).to(device)
    passes = settings.passes(model, (zero_pad or size[0]) * (zero_pad or size[1]))
    maps = _maps(METHODS[settings.method], mean_of_target, inputs, settings.steps, passes, reduced)
    with torch.no_grad():
        change = torch.cat([mean_of_target(one[None]) - mean_of_target(torch.zeros_like(one)[None]) for one in inputs])
    totals = maps.sum(dim=(1, 2, 3), dtype=torch.float64 if device.type != "mps" else torch.float32)
    found = change.double().cpu().numpy()
    return Attributions(maps.float().cpu().numpy(), found, totals.double().cpu().numpy() - found)


def _maps(
    method: Method, forward: Forward, inputs: Tensor, steps: int, passes: int, reduced: Callable[[str], None]
) -> Tensor:
    """By ``method``, with half as many passes at once each time the memory ends. Raises InputError."""
    while True:
        try:
            return method(forward, inputs, steps, passes)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if passes == 1:
                height, width = (int(n) for n in inputs.shape[-2:])
                raise InputError(
                    f"the gradient of {width} x {height} px does not fit into the memory",
                    hint="Look at smaller squares with --crop, or use another --device",
                ) from error
        passes //= 2
        reduced(f"passes at once {2 * passes} -> {passes}")


def _reflected(inputs: Tensor, stride: int) -> Tensor:
    """Sides filled up to multiples of ``stride`` by reflection, however small the image is."""
    height, width = (int(n) for n in inputs.shape[-2:])
    rows = torch.from_numpy(reflect_index(0, -(-height // stride) * stride, height)).to(inputs.device)
    columns = torch.from_numpy(reflect_index(0, -(-width // stride) * stride, width)).to(inputs.device)
    return inputs.index_select(-2, rows).index_select(-1, columns)


def integrated_gradients(forward: Forward, inputs: Tensor, steps: int, passes: int) -> Tensor:
    """Gradients averaged on the straight way from zeros (Gauss-Legendre), times the inputs; by captum.

    passes: at once. Raises UsageError where captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise UsageError(
            "integrated gradients need captum, which is not installed", hint="pip install 'mxbridge[train]'"
        ) from error
    found = []
    for first in range(0, len(inputs), passes):
        part = inputs[first : first + passes]
        method = IntegratedGradients(forward)
        found.append(method.attribute(part, baselines=0.0, n_steps=steps, internal_batch_size=max(passes, len(part))))
    return torch.cat(found)


METHODS: dict[str, Method] = {
    "integrated-gradients": integrated_gradients,
}
