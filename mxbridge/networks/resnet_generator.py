"""The ResNet generator of pix2pix and DeepLIIF: two downsamplings, residual blocks, two upsamplings; published keys.

Sources: Johnson et al., "Perceptual losses for real-time style transfer" (ECCV 2016); layout and key names only.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mxbridge.networks import winograd
from mxbridge.networks.spectral import divided
from mxbridge.networks.state_dicts import load_strictly, strip_wrappers
from mxbridge.networks.window_norm import (
    Convolution,
    Due,
    Factors,
    Steps,
    WindowNorm,
    apply_,
    layout_for,
    run,
    without_running,
)

KIND = "ResNet generator"
LARGEST = 4096
MOST_BLOCKS = 64
FIRST_BLOCK = 10
"""Index of the first residual block in the published keys."""

Norm = Literal["batch", "instance", "none"]
_INSIDE = re.compile(r"model\.(\d+)\.conv_block\.(\d+)\.")


@dataclass(frozen=True)
class ResnetOptions:
    """What the weights say. norm: none also after spectral norms. padding: of all convolutions that keep the size.
    dropout: whether the blocks were trained with it, which shifts their keys and does nothing else here."""

    in_channels: int = 3
    out_channels: int = 3
    width: int = 64
    blocks: int = 9
    norm: Norm = "batch"
    padding: Literal["zero", "reflect"] = "zero"
    dropout: bool = True
    upsample: Literal["convtranspose", "resize_conv"] = "convtranspose"

    @property
    def inside(self) -> tuple[int, int]:
        """Indices of the two convolutions within a block."""
        pad = int(self.padding != "zero")
        return pad, pad + 3 + int(self.dropout) + pad

    @property
    def ups(self) -> tuple[int, int]:
        """Indices of the two upsampling convolutions."""
        first, resize = FIRST_BLOCK + self.blocks, 2 * int(self.upsample == "resize_conv")
        return first + resize, first + 3 + 2 * resize

    @property
    def last(self) -> int:
        """Index of the last convolution."""
        return self.ups[1] + 4


class ResnetGenerator(nn.Module):
    """``(n, in_channels, y, x)`` in -1..1 -> ``(n, out_channels, y, x)`` in -1..1; sides are multiples of 4."""

    stride = 4

    def __init__(self, options: ResnetOptions) -> None:
        super().__init__()
        self.options, self.in_channels, self.out_channels = options, options.in_channels, options.out_channels
        self.model = nn.ModuleDict()
        width, biased = options.width, options.norm == "instance"
        self._put("1", nn.Conv2d(options.in_channels, width, 7, bias=biased))
        self._put("4", nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=biased))
        self._put("7", nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1, bias=biased))
        for block in range(FIRST_BLOCK, FIRST_BLOCK + options.blocks):
            holder = nn.Module()
            holder.conv_block = nn.ModuleDict()
            for at in options.inside:
                holder.conv_block[str(at)] = nn.Conv2d(4 * width, 4 * width, 3, bias=biased)
                if options.norm != "none":
                    holder.conv_block[str(at + 1)] = WindowNorm(4 * width, options.norm == "batch")
            self.model[str(block)] = holder
        for at, before in zip(options.ups, (4 * width, 2 * width), strict=True):
            if options.upsample == "convtranspose":
                up: Convolution = nn.ConvTranspose2d(before, before // 2, 3, 2, 1, output_padding=1, bias=biased)
            else:
                up = nn.Conv2d(before, before // 2, 3)
            self._put(str(at), up)
        self.model[str(options.last)] = nn.Conv2d(width, options.out_channels, 7)

    def _put(self, at: str, conv: Convolution) -> None:
        self.model[at] = conv
        if self.options.norm != "none":
            self.model[str(int(at) + 1)] = WindowNorm(conv.out_channels, self.options.norm == "batch")

    def forward(self, x: Tensor) -> Tensor:
        return run(self, x)

    def steps(self, x: Tensor) -> Steps:
        options = self.options
        due = Due(self.model["1"], self._padded(x.contiguous(memory_format=layout_for(x)), 3))
        for at in ("1", "4", "7"):
            due = due if at == "1" else Due(self.model[at], x)
            del x  # what is due knows it, and drops it
            x = yield from self._layer(at, due)
        for number in range(FIRST_BLOCK, FIRST_BLOCK + options.blocks):
            x = yield from self._block(self.model[str(number)].conv_block, x)
        for up in options.ups:
            due = Due(partial(self._up, self.model[str(up)]), x)
            del x
            x = yield from self._layer(str(up), due)
        return torch.tanh_(narrow(self.model[str(options.last)], self._padded(x, 3)))

    def _up(self, conv: Convolution, x: Tensor) -> Tensor:
        if self.options.upsample == "resize_conv":
            x = functional.pad(functional.interpolate(x, scale_factor=2.0), (1, 1, 1, 1), mode="reflect")
        out: Tensor = conv(x)
        return out

    def _layer(self, at: str, due: Due) -> Steps:
        """Convolution, norm where there is one, ReLU."""
        raw, factors = yield from _normed(self.model, at, due)
        return torch.relu_(raw if factors is None else apply_(raw, factors))

    def _block(self, layers: nn.ModuleDict, x: Tensor) -> Steps:
        first, second = (str(at) for at in self.options.inside)
        same = partial(self._same, layers[first], factors=None, rectified=False)
        raw, factors = yield from _normed(layers, first, Due(same, x))
        same = partial(self._same, layers[second], factors=factors, rectified=True)
        due = Due(same, raw)
        del raw
        raw, factors = yield from _normed(layers, second, due)
        if factors is None:
            return x.add_(raw)
        if x.dtype != raw.dtype or x.dtype != factors[0].dtype:  # autocast
            return x.add_(apply_(raw, factors))
        scale, shift = (part[:, :, None, None] for part in factors)
        return x.add_(shift).addcmul_(raw, scale)

    def _same(self, conv: nn.Conv2d, x: Tensor, *, factors: Factors | None, rectified: bool) -> Tensor:
        """3x3 convolution of ``x`` after its norm (factors) and ReLU (rectified), the size kept; may change ``x``."""
        if winograd.pays(conv, x):
            return winograd.convolve(conv, x, factors, rectified=rectified, mirrored=self.options.padding == "reflect")
        x = x if factors is None else apply_(x, factors)
        out: Tensor = conv(self._padded(torch.relu_(x) if rectified else x, 1))
        return out

    def _padded(self, x: Tensor, by: int) -> Tensor:
        return functional.pad(x, (by,) * 4, mode="constant" if self.options.padding == "zero" else "reflect")

    def pairs(self) -> list[tuple[WindowNorm, Convolution]]:
        """Every norm and the convolution before it."""
        lists = [self.model, *(part.conv_block for part in self.model.values() if hasattr(part, "conv_block"))]
        return [
            (layer, layers[str(int(at) - 1)])
            for layers in lists
            for at, layer in layers.items()
            if isinstance(layer, WindowNorm)
        ]

    def drop_norms(self) -> None:
        lists = [self.model, *(part.conv_block for part in self.model.values() if hasattr(part, "conv_block"))]
        for layers in lists:
            for at in [at for at, layer in layers.items() if isinstance(layer, WindowNorm)]:
                del layers[at]

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, Tensor]) -> ResnetGenerator:
        """The network that ``weights`` belong to, in float32 on the CPU, its options read from them.

        Weights that are float32 already are shared, not copied. Raises ValueError that says what does not fit.
        """
        weights = without_running(strip_wrappers(weights))
        transposed = {key.rsplit(".parametrizations", 1)[0] for key in weights if _is_up(key, weights)}
        weights = divided(weights, frozenset(transposed))
        options = read_options(weights)
        with torch.device("meta"):  # nothing is allocated for weights that turn out not to fit
            network = cls(options)
        loaded = load_strictly(network, weights, KIND).requires_grad_(False)
        for part in loaded.modules():
            if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3) and part.stride == (1, 1):
                winograd.lay_out(part)
        return loaded


def narrow(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution with few outputs. On CPUs, where it would waste most of every vector: all rows of its kernel at once as
    outputs of their own, then added up, row by row further down."""
    rows, height = conv.kernel_size[0], x.shape[2] - conv.kernel_size[0] + 1
    if x.device.type != "cpu" or torch.is_grad_enabled():
        out: Tensor = conv(x)
        return out
    weight = conv.weight.permute(2, 0, 1, 3).flatten(0, 1)[:, :, None]
    each = functional.conv2d(x, weight).unflatten(1, (rows, conv.out_channels))
    out = each[:, 0, :, :height] + (0 if conv.bias is None else conv.bias[:, None, None])
    for row in range(1, rows):
        out += each[:, row, :, row : row + height]
    return out


def _normed(
    layers: nn.ModuleDict, at: str, due: Due
) -> Generator[tuple[Due, WindowNorm], tuple[Tensor, Factors], tuple[Tensor, Factors | None]]:
    """What the convolution ``at`` makes, and what the norm behind it makes of that, None where there is no norm."""
    norm = str(int(at) + 1)
    if norm not in layers:
        raw = due.make()
        due.drop()
        return raw, None
    raw, factors = yield due, layers[norm]
    return raw, factors


def read_options(weights: Mapping[str, Tensor]) -> ResnetOptions:
    """Width, depth and kinds of layers as the keys and shapes tell them. Raises ValueError."""
    first = weights.get("model.1.weight")
    if first is None or first.ndim != 4 or 0 in first.shape:
        raise ValueError(
            f"these are not the weights of a {KIND} (their first keys: {', '.join(list(weights)[:3])[:200]})"
        )
    found = {(int(m[1]), int(m[2])) for key in weights if (m := _INSIDE.match(key)) and len(m[1]) < 4 and len(m[2]) < 4}
    numbers = {number for number, _ in found}
    layout = _INSIDES.get(tuple(sorted({at for _, at in found if _is_conv(weights, FIRST_BLOCK, at)})))
    if layout is None or numbers != set(range(FIRST_BLOCK, FIRST_BLOCK + len(numbers))) or len(numbers) > MOST_BLOCKS:
        raise ValueError(f"not a {KIND}: its residual blocks are none that are known")
    plain = next((key for key in weights if key == f"model.{FIRST_BLOCK + len(numbers)}.weight"), None)
    norm: Norm = "batch" if "model.2.weight" in weights else "instance" if "model.1.bias" in weights else "none"
    resized = ResnetOptions(blocks=len(numbers), upsample="resize_conv")
    upsample: Literal["convtranspose", "resize_conv"] = "convtranspose" if plain else "resize_conv"
    last_at = resized.last if upsample == "resize_conv" else ResnetOptions(blocks=len(numbers)).last
    last = weights.get(f"model.{last_at}.weight")
    if last is None or last.ndim != 4 or max(*first.shape, *last.shape) > LARGEST:
        raise ValueError(
            f"not a {KIND}: its last convolution is not where it should be, or its layers have no possible size"
        )
    return ResnetOptions(
        int(first.shape[1]), int(last.shape[0]), int(first.shape[0]), len(numbers), norm, *layout, upsample
    )


_INSIDES: dict[tuple[int, ...], tuple[Literal["zero", "reflect"], bool]] = {
    ResnetOptions(padding=padding, dropout=dropout).inside: (padding, dropout)
    for padding in ("zero", "reflect")
    for dropout in (True, False)
}


def _is_conv(weights: Mapping[str, Tensor], block: int, at: int) -> bool:
    weight = weights.get(f"model.{block}.conv_block.{at}.weight")
    return weight is not None and weight.ndim == 4


def _is_up(key: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether a weight under a spectral norm is that of a transposed convolution: behind the blocks, twice as many inputs."""
    match = re.fullmatch(r"model\.(\d{1,3})\.parametrizations\.weight\.original", key)
    shape = weights[key].shape
    return match is not None and int(match[1]) > FIRST_BLOCK and len(shape) == 4 and shape[0] == 2 * shape[1]
