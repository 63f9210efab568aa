"""The U-Net generator of pix2pix and DeepLIIF: 4x4 convolutions of stride 2, five to nine of them; published keys.

Source: Isola et al., "Image-to-image translation with conditional adversarial networks" (CVPR 2017); layout and key names only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from mxbridge.networks.resnet_generator import LARGEST, Norm
from mxbridge.networks.state_dicts import load_strictly, strip_wrappers
from mxbridge.networks.window_norm import (
    Convolution,
    Due,
    Steps,
    WindowNorm,
    apply_,
    layout_for,
    run,
    without_running,
)

KIND = "U-Net generator"
DOWNS = range(5, 10)
FEW_PIXELS, FEW_PLANES = 16 * 16, 4
"""Up to so many input pixels a convolution down is a product of matrices on CPUs, and up to so many output planes one up."""
LARGE_LEVELS = 5
"""Levels whose weights lie channels last: those that windows of 512 pixels reach with more than FEW_PIXELS."""
SLOPE = 0.2
"""Of the leaky rectifiers on the way down."""


@dataclass(frozen=True)
class UnetOptions:
    """What the weights say. downs: stride-2 convolutions; sides of the input are multiples of 2**downs."""

    in_channels: int = 3
    out_channels: int = 3
    width: int = 64
    downs: int = 9
    norm: Norm = "batch"


class UnetLevel(nn.Module):
    """One convolution down and one up with what belongs to them, under the published keys; ``inner`` is the next level."""

    def __init__(self, options: UnetOptions, at: int, inner: UnetLevel | None) -> None:
        super().__init__()
        outermost, innermost = at == 0, inner is None
        biased = options.norm == "instance"
        outer = options.width * min(8, 1 << max(0, at - 1))
        filters = options.width * min(8, 1 << at)
        self.model = nn.ModuleDict()
        down = nn.Conv2d(options.in_channels if outermost else outer, filters, 4, 2, 1, bias=biased)
        up = nn.ConvTranspose2d(
            filters if innermost else 2 * filters,
            options.out_channels if outermost else outer,
            *(4, 2, 1),
            bias=biased or outermost,
        )
        self.down_at, self.up_at = ("0", "3") if outermost else ("1", "3") if innermost else ("1", "5")
        self.model[self.down_at] = down
        if options.norm != "none" and not (outermost or innermost):
            self.model["2"] = WindowNorm(filters, options.norm == "batch")
        if inner is not None:
            self.model["1" if outermost else "3"] = inner
        self.model[self.up_at] = up
        if options.norm != "none" and not outermost:
            self.model[str(int(self.up_at) + 1)] = WindowNorm(outer, options.norm == "batch")

    @property
    def down(self) -> nn.Conv2d:
        return self.model[self.down_at]  # type: ignore[return-value]

    @property
    def up(self) -> nn.ConvTranspose2d:
        return self.model[self.up_at]  # type: ignore[return-value]

    @property
    def down_norm(self) -> WindowNorm | None:
        return _norm_at(self.model, "2")

    @property
    def up_norm(self) -> WindowNorm | None:
        return _norm_at(self.model, str(int(self.up_at) + 1))

    def drop_norms(self) -> None:
        for key in [key for key, layer in self.model.items() if isinstance(layer, WindowNorm)]:
            del self.model[key]


def _norm_at(layers: nn.ModuleDict, key: str) -> WindowNorm | None:
    found = dict(layers.items()).get(key)
    return found if isinstance(found, WindowNorm) else None


class UnetGenerator(nn.Module):
    """``(n, in_channels, y, x)`` in -1..1 -> ``(n, out_channels, y, x)`` in -1..1; sides are multiples of 2**downs."""

    def __init__(self, options: UnetOptions) -> None:
        super().__init__()
        self.options, self.in_channels, self.out_channels = options, options.in_channels, options.out_channels
        self.stride = 1 << options.downs
        level: UnetLevel | None = None
        levels = []
        for at in reversed(range(options.downs)):
            level = UnetLevel(options, at, level)
            levels.append(level)
        self.model = levels[-1]
        self._levels = tuple(reversed(levels))  # outermost first; a tuple, so that keys are not given twice

    def forward(self, x: Tensor) -> Tensor:
        return run(self, x)

    def steps(self, x: Tensor) -> Steps:
        x = x.contiguous(memory_format=layout_for(x))
        skips: list[Tensor] = []
        for level in self._levels:
            due = Due(partial(down, level.down), functional.leaky_relu(skips[-1], SLOPE) if skips else x)
            skips.append((yield from _normed(due, level.down_norm)))
        del x
        due = Due(partial(up, self._levels[-1].up), torch.relu_(skips.pop()))
        for level, outer in zip(self._levels[:0:-1], self._levels[-2::-1], strict=True):
            coming = yield from _normed(due, level.up_norm)
            due = Due(partial(up, outer.up), _stacked(skips.pop(), coming))
            del coming
        return torch.tanh_(due.make())

    def pairs(self) -> list[tuple[WindowNorm, Convolution]]:
        """Every norm and the convolution before it."""
        both = [(level.down_norm, level.down) for level in self._levels] + [
            (level.up_norm, level.up) for level in self._levels
        ]
        return [(norm, conv) for norm, conv in both if norm is not None]

    def drop_norms(self) -> None:
        for level in self._levels:
            level.drop_norms()

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, Tensor]) -> UnetGenerator:
        """The network that ``weights`` belong to, in float32 on the CPU, its options read from them.

        Weights that are float32 already are shared, not copied. Raises ValueError that says what does not fit.
        """
        weights = without_running(strip_wrappers(weights))
        options = read_options(weights)
        with torch.device("meta"):  # nothing is allocated for weights that turn out not to fit
            network = cls(options)
        loaded = load_strictly(network, weights, KIND).requires_grad_(False)
        for level in loaded._levels[:LARGE_LEVELS]:
            for conv in (level.down, level.up)[: 1 if level is loaded._levels[0] else 2]:
                conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
        return loaded


def down(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """4x4 convolution of stride 2. To a few pixels it is one product of matrices, without weights being turned around first."""
    n, _, height, width = x.shape
    if x.device.type != "cpu" or n * height * width > FEW_PIXELS:
        out: Tensor = conv(x)
        return out
    columns = functional.unfold(x, 4, padding=1, stride=2).transpose(0, 1).flatten(1)
    out = torch.mm(conv.weight.flatten(1), columns)
    if conv.bias is not None:
        out += conv.bias[:, None]
    return out.view(-1, n, height // 2, width // 2).transpose(0, 1)


def up(conv: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """4x4 transposed convolution of stride 2; as a product of matrices from few pixels or to few planes."""
    n, channels, height, width = x.shape
    if x.device.type != "cpu" or (n * height * width > FEW_PIXELS // 4 and conv.out_channels > FEW_PLANES):
        out: Tensor = conv(x)
        return out
    each = torch.mm(conv.weight.flatten(1).T, x.transpose(0, 1).reshape(channels, -1))
    columns = each.view(-1, n, height * width).transpose(0, 1)
    out = functional.fold(columns, (2 * height, 2 * width), 4, padding=1, stride=2)
    return out if conv.bias is None else out.add_(conv.bias[:, None, None])


def _normed(due: Due, norm: WindowNorm | None) -> Steps:
    """What is due, and its norm where there is one."""
    if norm is None:
        raw = due.make()
        due.drop()
        return raw
    raw, factors = yield due, norm
    return apply_(raw, factors)


def _stacked(skip: Tensor, coming: Tensor) -> Tensor:
    """Both rectified, one behind the other. What is passed on below goes through a leaky rectifier first: rectified, it is the same."""
    shape = (len(skip), skip.shape[1] + coming.shape[1], *skip.shape[2:])
    out = torch.empty(shape, dtype=skip.dtype, device=skip.device, memory_format=layout_for(skip))
    for part, half in zip((skip, coming), out.split((skip.shape[1], coming.shape[1]), dim=1), strict=True):
        torch.clamp_min(part, 0, out=half) if part.dtype == half.dtype else half.copy_(torch.relu(part))
    return out


def read_options(weights: Mapping[str, Tensor]) -> UnetOptions:
    """Width and depth as keys and shapes tell them. Raises ValueError."""
    first, last = weights.get("model.model.0.weight"), weights.get("model.model.3.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4 or 0 in (*first.shape, *last.shape):
        raise ValueError(
            f"these are not the weights of a {KIND} (their first keys: {', '.join(list(weights)[:3])[:200]})"
        )
    downs, stem = 1, "model.model.1"
    while f"{stem}.model.1.weight" in weights and downs <= DOWNS.stop:
        downs, stem = downs + 1, f"{stem}.model.3"
    if downs not in DOWNS:
        raise ValueError(f"not a {KIND}: it has {downs} downsamplings, expected {DOWNS.start} to {DOWNS.stop - 1}")
    if max(*first.shape, *last.shape) > LARGEST:
        raise ValueError(f"not a {KIND}: {tuple(first.shape)} to {tuple(last.shape)} are no sizes of its layers")
    norm: Norm = "batch" if "model.model.1.model.2.weight" in weights else "none"
    if "model.model.0.bias" in weights:
        norm = "instance"
    return UnetOptions(int(first.shape[1]), int(last.shape[1]), int(first.shape[0]), downs, norm)
