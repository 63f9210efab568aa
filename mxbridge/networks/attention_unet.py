"""The attention U-Net that DeepLIIF offers as ``unet_512_attention``: eight downsamplings, gated skips; published keys.

Source: Oktay et al., "Attention U-Net" (MIDL 2018); layout and key names only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mxbridge.networks.resnet_generator import LARGEST
from mxbridge.networks.state_dicts import load_strictly, strip_wrappers
from mxbridge.networks.unet_generator import SLOPE
from mxbridge.networks.window_norm import (
    Convolution,
    Due,
    Steps,
    WindowNorm,
    apply_,
    run,
    without_running,
)

KIND = "attention U-Net"
DOWNS = 8


class AttentionUnet(nn.Module):
    """``(n, in_channels, y, x)`` in -1..1 -> ``(n, out_channels, y, x)`` in -1..1; sides are multiples of 256."""

    stride = 1 << DOWNS

    def __init__(self, in_channels: int = 3, out_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        filters = [in_channels, *(width * min(8, 1 << at) for at in range(DOWNS))]
        for at in range(1, DOWNS + 1):
            layers: list[nn.Module] = [nn.Conv2d(filters[at - 1], filters[at], 4, 2, 1)]
            if 1 < at < DOWNS:
                layers.append(WindowNorm(filters[at]))
            setattr(self, f"Conv{at}", _holder("conv", layers))
            stacked = filters[at] if at == DOWNS else 2 * filters[at]
            if at == 1:
                self.Up1 = _holder("up", [nn.ConvTranspose2d(stacked, out_channels, 4, 2, 1)])
                continue
            up = nn.ConvTranspose2d(stacked, filters[at - 1], 4, 2, 1, bias=False)
            setattr(self, f"Up{at}", _holder("up", [up, WindowNorm(filters[at - 1])]))
            inner = filters[at - 1] if at > 4 else filters[at - 1] // 2
            setattr(self, f"Att{at}", AttentionGate(filters[at - 1], inner))

    def forward(self, x: Tensor) -> Tensor:
        return run(self, x)

    def steps(self, x: Tensor) -> Steps:
        skips: list[Tensor] = []
        for at in range(1, DOWNS + 1):
            x = yield from _layer(getattr(self, f"Conv{at}").conv, x)
            x = torch.relu_(x) if at == DOWNS else functional.leaky_relu_(x, SLOPE)
            skips.append(x)
        skips.pop()
        for at in range(DOWNS, 1, -1):
            x = yield from _layer(getattr(self, f"Up{at}").up, x)
            x = torch.relu_(x)
            gated = yield from getattr(self, f"Att{at}").steps(x, skips.pop())
            x = torch.cat([gated, x], dim=1)
        return torch.tanh_(self.Up1.up[0](x))

    def pairs(self) -> list[tuple[WindowNorm, Convolution]]:
        """Every norm and the convolution before it."""
        lists = [part for part in self.modules() if isinstance(part, nn.Sequential)]
        return [(part[1], part[0]) for part in lists if len(part) > 1]

    def drop_norms(self) -> None:
        for part in [part for part in self.modules() if isinstance(part, nn.Sequential)]:
            if len(part) > 1:
                del part[1]

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, Tensor]) -> AttentionUnet:
        """The network that ``weights`` belong to, in float32 on the CPU; raises ValueError that says what does not fit."""
        weights = without_running(strip_wrappers(weights))
        first, last = weights.get("Conv1.conv.0.weight"), weights.get("Up1.up.0.weight")
        if first is None or last is None or first.ndim != 4 or last.ndim != 4 or 0 in (*first.shape, *last.shape):
            known = ", ".join(list(weights)[:3])
            raise ValueError(f"these are not the weights of an {KIND} (their first keys: {known[:200]})")
        if max(*first.shape, *last.shape) > LARGEST or first.shape[0] % 2:
            raise ValueError(f"not an {KIND}: {tuple(first.shape)} to {tuple(last.shape)} are no sizes of its layers")
        with torch.device("meta"):
            network = cls(int(first.shape[1]), int(last.shape[1]), int(first.shape[0]))
        return load_strictly(network, weights, KIND)


class AttentionGate(nn.Module):
    """The skip times a map 0..1 that is made of it and of what comes up."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.W_g = nn.Sequential(nn.Conv2d(channels, inner, 1), WindowNorm(inner))
        self.W_x = nn.Sequential(nn.Conv2d(channels, inner, 1), WindowNorm(inner))
        self.psi = nn.Sequential(nn.Conv2d(inner, 1, 1), WindowNorm(1))

    def steps(self, coming: Tensor, skip: Tensor) -> Steps:
        both = yield from _layer(self.W_g, coming)
        x = yield from _layer(self.W_x, skip)
        gate = yield from _layer(self.psi, torch.relu_(both.add_(x)))
        return skip.mul_(torch.sigmoid_(gate))


def _holder(name: str, layers: list[nn.Module]) -> nn.Module:
    holder = nn.Module()
    holder.add_module(name, nn.Sequential(*layers))
    return holder


def _layer(layers: nn.Sequential, x: Tensor) -> Steps:
    """Convolution, and its norm where there is one."""
    if len(layers) == 1:
        raw: Tensor = layers[0](x)
        return raw
    due = Due(layers[0], x)
    del x
    raw, factors = yield due, layers[1]
    return apply_(raw, factors)
