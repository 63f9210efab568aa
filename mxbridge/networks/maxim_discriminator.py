"""The two discriminators of MAXIM's adversarial training: the one its program has, and the one its paper describes.

Both look at the inputs and a (real or imputed) output together and give logits, one per overlapping patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mxbridge.networks.initialisation import draw_normal

SLOPE = 0.2


class CodedDiscriminator(nn.Module):
    """As published in code, with its keys: 256 x 256 -> 56 x 56 logits (n, 1, y, x).

    features: filters of all convolutions but the last. Those with as many filters as the last of them have stride 1,
    which at the published numbers are two: the published program compares by value.
    """

    def __init__(self, in_channels: int, out_channels: int = 1, features: Sequence[int] = (64, 128, 256, 256)) -> None:
        super().__init__()
        before = features[0]
        first = nn.Conv2d(in_channels + out_channels, before, 4, stride=2, padding=1, padding_mode="reflect")
        self.initial = nn.Sequential(first, nn.LeakyReLU(SLOPE))
        layers: list[nn.Module] = []
        for filters in features[1:]:
            layers.append(_Block(before, filters, stride=1 if filters == features[-1] else 2))
            before = filters
        layers.append(nn.Conv2d(before, 1, 4, padding=1, padding_mode="reflect"))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: inputs ``(n, in, y, x)``. y: outputs ``(n, out, y, x)``. Sides of 48 or more."""
        logits: Tensor = self.model(self.initial(torch.cat([x, y], dim=1)))
        return logits

    def initialise(self, seed: int) -> None:
        draw_normal(self, seed)


class PaperDiscriminator(nn.Module):
    """As described in the paper: six 4 x 4 convolutions of stride 2, batch norm on all but the first and the last.

    The paper gives no numbers of filters; they double up to 512 as in pix2pix, to which it refers. Six strides of 2 make
    logits 64 times smaller than the image, where the paper says 32. Sides must be multiples of 64.
    """

    features = (64, 128, 256, 512, 512)

    def __init__(self, in_channels: int, out_channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels + out_channels, self.features[0], 4, stride=2, padding=1)]
        layers.append(nn.LeakyReLU(SLOPE))
        for before, filters in zip(self.features[:-1], self.features[1:], strict=True):
            layers.append(nn.Conv2d(before, filters, 4, stride=2, padding=1, bias=False))
            layers += [nn.BatchNorm2d(filters), nn.LeakyReLU(SLOPE)]
        layers.append(nn.Conv2d(self.features[-1], 1, 4, stride=2, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: inputs ``(n, in, y, x)``. y: outputs ``(n, out, y, x)``."""
        logits: Tensor = self.model(torch.cat([x, y], dim=1))
        return logits

    def initialise(self, seed: int) -> None:
        draw_normal(self, seed)


class _Block(nn.Module):
    """4 x 4 convolution without padding, batch norm, leaky ReLU, under the published keys."""

    def __init__(self, before: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(before, filters, 4, stride=stride, bias=False), nn.BatchNorm2d(filters), nn.LeakyReLU(SLOPE)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out
