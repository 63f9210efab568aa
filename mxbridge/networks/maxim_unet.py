"""MAXIM's U-Net: marker images in, the missing marker out, with the state-dict keys of the published program.

The layout is that of a widely used U-Net for brain images: four poolings, two 3x3 convolutions with batch norm per level,
transposed 2x2 convolutions up, skips stacked behind what comes up, a sigmoid at the end.

Source: Shaban et al., "Deep Learning Model Imputes Missing Stains in Multiplex Images" (bioRxiv); layout and key names only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mxbridge.networks.initialisation import draw_normal
from mxbridge.networks.state_dicts import load_strictly, strip_wrappers

DEPTH = 4
"""Poolings; fixed by the published keys."""
KIND = "MAXIM U-Net"
LARGEST = 4096
"""Filters of the first level, inputs and outputs; more are no network of this kind but a broken file."""


class MaximUNet(nn.Module):
    """``(n, in_channels, y, x)`` scaled markers -> ``(n, out_channels, y, x)`` in 0..1; sides must be multiples of 16.

    width: filters of the first level (``init_features``, 32 as published).
    halo: pixels around a box aligned to the stride that can change what is in it, up to a multiple of the stride.
    """

    stride = 1 << DEPTH
    halo = 96
    minimum = stride
    memory_format = torch.channels_last
    """Layout in which it runs fastest on CPUs; for training as well."""

    def __init__(self, in_channels: int, out_channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.width = in_channels, out_channels, width
        before = in_channels
        for level in range(1, DEPTH + 1):
            filters = width << (level - 1)
            setattr(self, f"encoder{level}", _block(before, filters, f"enc{level}"))
            setattr(self, f"pool{level}", nn.MaxPool2d(2))
            before = filters
        self.bottleneck = _block(before, 2 * before, "bottleneck")
        for level in range(DEPTH, 0, -1):
            filters = width << (level - 1)
            setattr(self, f"upconv{level}", nn.ConvTranspose2d(2 * filters, filters, 2, stride=2))
            setattr(self, f"decoder{level}", _block(2 * filters, filters, f"dec{level}"))
        self.conv = nn.Conv2d(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        """The output before the sigmoid."""
        skips = []
        for level in range(1, DEPTH + 1):
            x = getattr(self, f"encoder{level}")(x)
            skips.append(x)
            x = getattr(self, f"pool{level}")(x)
        x = self.bottleneck(x)
        for level in range(DEPTH, 0, -1):
            x = torch.cat([getattr(self, f"upconv{level}")(x), skips.pop()], dim=1)
            x = getattr(self, f"decoder{level}")(x)
        logits: Tensor = self.conv(x)
        return logits

    def initialise(self, seed: int) -> None:
        """Draw all weights anew, as published."""
        draw_normal(self, seed)

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, Tensor]) -> MaximUNet:
        """The network that ``weights`` belong to, in evaluation mode and float32; channels and width are read from them.

        Weights that are float32 already are shared, not copied. Raises ValueError that says what does not fit.
        """
        weights = strip_wrappers(weights)
        first, last = weights.get("encoder1.enc1conv1.weight"), weights.get("conv.weight")
        if first is None or last is None or first.ndim != 4 or last.ndim != 4 or 0 in (*first.shape, *last.shape):
            known = ", ".join(list(weights)[:3]) or "none"
            raise ValueError(f"these are not the weights of a {KIND} (their first keys: {known[:200]})")
        if max(first.shape[0], first.shape[1], last.shape[0]) > LARGEST:
            raise ValueError(f"not a {KIND}: {tuple(first.shape)} to {tuple(last.shape)} are no sizes of its layers")
        with torch.device("meta"):  # nothing is allocated for weights that turn out not to fit
            network = cls(int(first.shape[1]), int(last.shape[0]), int(first.shape[0]))
        return load_strictly(network, weights, KIND)


def _block(in_channels: int, filters: int, stem: str) -> nn.Sequential:
    """Twice 3x3 convolution without bias, batch norm, ReLU; the stem is part of the published keys."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, before in ((1, in_channels), (2, filters)):
        layers[f"{stem}conv{number}"] = nn.Conv2d(before, filters, 3, padding=1, bias=False)
        layers[f"{stem}norm{number}"] = nn.BatchNorm2d(filters)
        layers[f"{stem}relu{number}"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)
