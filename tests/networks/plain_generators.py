"""The generators written down plainly: torch's own layers in a row, batch norms in training mode, one window at a time.

What the networks of the package compute is compared with these.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

PADS = {"reflect": nn.ReflectionPad2d, "zero": nn.ZeroPad2d}


def norm_of(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels, track_running_stats=False)
    return nn.InstanceNorm2d(channels) if kind == "instance" else nn.Identity()


class PlainBlock(nn.Module):
    def __init__(self, channels: int, norm: str, padding: str, dropout: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for which in (0, 1):
            layers += [PADS[padding](1)] if padding != "zero" else []
            layers += [nn.Conv2d(channels, channels, 3, padding=int(padding == "zero"), bias=norm == "instance")]
            layers += [norm_of(norm, channels)]
            layers += [nn.ReLU(), *([nn.Dropout(0.5)] if dropout else [])] if which == 0 else []
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Sequence(nn.Module):
    """Layers under the key ``model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def plain_resnet(
    width: int = 4, blocks: int = 2, norm: str = "batch", padding: str = "zero", dropout: bool = True,
    upsample: str = "convtranspose", inputs: int = 3, seed: int = 0,
) -> nn.Module:  # fmt: skip
    spectral, kind, biased = norm == "spectral", norm if norm != "spectral" else "none", norm == "instance"
    layers: list[nn.Module] = [
        PADS[padding](3),
        nn.Conv2d(inputs, width, 7, bias=biased),
        norm_of(kind, width),
        nn.ReLU(),
    ]
    for c in (width, 2 * width):
        layers += [nn.Conv2d(c, 2 * c, 3, 2, 1, bias=biased), norm_of(kind, 2 * c), nn.ReLU()]
    layers += [PlainBlock(4 * width, kind, padding, dropout) for _ in range(blocks)]
    for c in (4 * width, 2 * width):
        if upsample == "resize_conv":
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.ReflectionPad2d(1), nn.Conv2d(c, c // 2, 3)]
        else:
            layers += [nn.ConvTranspose2d(c, c // 2, 3, 2, 1, 1, bias=biased)]
        layers += [norm_of(kind, c // 2), nn.ReLU()]
    layers += [PADS[padding](3), nn.Conv2d(width, 3, 7), nn.Tanh()]
    network = drawn(Sequence(nn.Sequential(*layers)), seed)
    if spectral:
        for part in list(network.modules()):
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                spectral_norm(part)
    return network.eval()


class PlainLevel(nn.Module):
    def __init__(self, outer: int, inner: int, inputs: int, norm: str, sub: nn.Module | None, outermost: bool) -> None:
        super().__init__()
        self.outermost, biased = outermost, norm == "instance"
        down = nn.Conv2d(inputs, inner, 4, 2, 1, bias=biased)
        up = nn.ConvTranspose2d(inner if sub is None else 2 * inner, outer, 4, 2, 1, bias=biased or outermost)
        if outermost:
            layers = [down, sub, nn.ReLU(True), up, nn.Tanh()]
        elif sub is None:
            layers = [nn.LeakyReLU(0.2, True), down, nn.ReLU(True), up, norm_of(norm, outer)]
        else:
            layers = [nn.LeakyReLU(0.2, True), down, norm_of(norm, inner), sub, nn.ReLU(True), up, norm_of(norm, outer)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


def plain_unet(width: int = 2, downs: int = 9, norm: str = "batch", inputs: int = 3, seed: int = 0) -> nn.Module:
    sub: nn.Module | None = None
    for at in reversed(range(1, downs)):
        sub = PlainLevel(
            width * min(8, 1 << (at - 1)), width * min(8, 1 << at), width * min(8, 1 << (at - 1)), norm, sub, False
        )
    return drawn(Sequence(PlainLevel(3, width, inputs, norm, sub, True)), seed).eval()


class PlainAttention(nn.Module):
    """Eight levels; ``unet_512_attention``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        c = [3, *(width * min(8, 1 << at) for at in range(8))]
        for at in range(1, 9):
            after = {1: [nn.LeakyReLU(0.2)], 8: [nn.ReLU()]}.get(at, [norm_of("batch", c[at]), nn.LeakyReLU(0.2)])
            conv = nn.Module()
            conv.conv = nn.Sequential(nn.Conv2d(c[at - 1], c[at], 4, 2, 1), *after)
            setattr(self, f"Conv{at}", conv)
            up = nn.Module()
            stacked = c[at] if at == 8 else 2 * c[at]
            if at == 1:
                up.up = nn.Sequential(nn.ConvTranspose2d(stacked, 3, 4, 2, 1), nn.Tanh())
            else:
                up.up = nn.Sequential(
                    nn.ConvTranspose2d(stacked, c[at - 1], 4, 2, 1, bias=False), norm_of("batch", c[at - 1]), nn.ReLU()
                )
                inner = c[at - 1] if at >= 5 else c[at - 1] // 2
                gate = nn.Module()
                gate.W_g = nn.Sequential(nn.Conv2d(c[at - 1], inner, 1), norm_of("batch", inner))
                gate.W_x = nn.Sequential(nn.Conv2d(c[at - 1], inner, 1), norm_of("batch", inner))
                gate.psi = nn.Sequential(nn.Conv2d(inner, 1, 1), norm_of("batch", 1), nn.Sigmoid())
                setattr(self, f"Att{at}", gate)
            setattr(self, f"Up{at}", up)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for at in range(1, 9):
            x = getattr(self, f"Conv{at}").conv(x)
            skips.append(x)
        for at in range(8, 1, -1):
            x = getattr(self, f"Up{at}").up(x)
            gate, skip = getattr(self, f"Att{at}"), skips[at - 2]
            x = torch.cat([skip * gate.psi(torch.relu(gate.W_g(x) + gate.W_x(skip))), x], 1)
        return self.Up1.up(x)


def plain_attention(width: int = 2, seed: int = 0) -> nn.Module:
    return drawn(PlainAttention(width), seed).eval()


def drawn(network: nn.Module, seed: int) -> nn.Module:
    """Weights large enough for outputs that are not all alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5, generator=generator)
            else:
                parameter.normal_(0.2, 0.3, generator=generator)
    return network


def one_by_one(network: nn.Module, windows: Tensor) -> Tensor:
    """As published: every window on its own, with its own statistics."""
    with torch.inference_mode():
        return torch.cat([network(window[None]) for window in windows])
