"""MAXIM's U-Net as it is run: the same function with fewer multiplications, fewer copies, and no more of it than is asked for.

Batch norms are folded into their convolutions. Nothing is concatenated: a convolution of two stacked tensors is the sum of one
of each, and where one of them comes up from the level below, the transposed convolution that brings it up and the convolution
that follows are composed into one (20 % fewer multiplications there). On the way up, where most of the work is, each level is
computed only around the part of the output that is wanted. The two finest levels, which are the largest, are worked through in
pieces that stay in a CPU's caches and are never whole in memory. Beyond the borders of its input every level is continued
with zeros, as published.

With pieces a tile of 1280 px takes about four fifths of the CPU time, and two thirds of the memory, that it takes without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy, deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mxbridge.networks.maxim_unet import DEPTH, MaximUNet

Rectangle = tuple[int, int, int, int]
"""y0, x0, y1, x1 in pixels, half open."""
REACH = 2
"""Pixels that the two convolutions of a block look around each pixel."""
PIECES = {1: 128, 2: 112}
"""Sides of the pieces in which the finest levels are worked through on a CPU: of 64 to 160 these were the fastest, and a layer of
a piece at the published width stays below 4 MB, which the allocator can reuse. On coarser levels pieces cost more than they save."""


class FusedMaxim(nn.Module):
    """What ``network`` computes in evaluation mode, equal to 1e-5; ``network`` is left as it is. For inference only."""

    memory_format = MaximUNet.memory_format
    takes_core = True
    """``forward`` can be told which part of its output is wanted."""

    def __init__(self, network: MaximUNet) -> None:
        super().__init__()
        self.width, self.in_channels, self.out_channels = network.width, network.in_channels, network.out_channels
        self.stride, self.halo, self.minimum = network.stride, network.halo, network.minimum
        self.levels = nn.ModuleList(_Level(network, level) for level in range(1, DEPTH + 1))
        self.deepest = _Block(network.bottleneck)
        self.conv = deepcopy(network.conv)  # moved to another device, it must leave ``network`` where it is
        self.outputs: tuple[int, ...] | None = None

    def giving(self, outputs: Sequence[int]) -> FusedMaxim:
        """The same network, sharing its weights, with only these of its output channels, in this order."""
        other = copy(self)
        other.outputs = tuple(outputs)
        return other

    def forward(self, x: Tensor, needed: Rectangle | None = None) -> Tensor:
        """``(n, in, y, x)`` -> ``(n, out, y, x)`` of the whole or of ``needed`` alone (pixels of x), sides multiples of 16."""
        height, width = int(x.shape[-2]), int(x.shape[-1])
        parts: list[Rectangle] = [needed or (0, 0, height, width)]  # what is wanted of each level, from the finest
        seen: list[Rectangle] = []  # what its block has to see for that
        for level in range(DEPTH):
            seen.append(_grown(parts[level], REACH, (0, 0, height >> level, width >> level)))
            parts.append(_halved(seen[level]))
        levels = [module for module in self.levels if isinstance(module, _Level)]
        skips: list[Tensor] = []
        for level in range(DEPTH):
            x, skipped = levels[level].descend(x, seen[level])
            skips.append(skipped)
        del skipped
        x = _cut(self.deepest(x), parts[DEPTH])
        for level in reversed(range(DEPTH)):
            last = self._last if level == 0 else None
            x = levels[level].ascend(x, skips.pop(), parts[level], seen[level], parts[level + 1], last)
        return x

    def _last(self, x: Tensor) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        if self.outputs is not None:
            chosen = list(self.outputs)
            weight, bias = weight[chosen], None if bias is None else bias[chosen]
        logits = functional.conv2d(x, weight, bias)
        return torch.sigmoid_(logits.float())  # near one half, half precision has steps of 0.004


class _Block(nn.Module):
    """Twice 3x3 convolution and ReLU, batch norms folded."""

    def __init__(self, block: nn.Sequential) -> None:
        super().__init__()
        self.first, self.second = _folded(block)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.first(x))
        return functional.relu_(self.second(x))


class _Level(nn.Module):
    """One level on the way down and on the way up.

    down: its two convolutions on the way down. rise: the transposed 2x2 convolution from the level below and its part of the
    first convolution on the way up, as one transposed 4x4 convolution. skip: what was seen on the way down, its part of that
    convolution, with all biases. second: the second convolution on the way up.
    missing: ``(c, 3, 3)``, what each tap of the first convolution adds for the bias of the transposed one; at a border of
    the image taps that lie outside add nothing.
    """

    missing: Tensor

    def __init__(self, network: MaximUNet, level: int) -> None:
        super().__init__()
        self.down = _Block(getattr(network, f"encoder{level}"))
        rising: nn.ConvTranspose2d = getattr(network, f"upconv{level}")
        first, self.second = _folded(getattr(network, f"decoder{level}"))
        self.filters = filters = rising.out_channels
        self.pieces = PIECES.get(level)
        with torch.no_grad():
            of_risen, of_skip = first.weight.double().chunk(2, dim=1)
            kernel = torch.zeros(rising.in_channels, filters, 4, 4, dtype=torch.float64)
            for y in range(3):
                for x in range(3):
                    both = torch.einsum("imab,om->ioab", rising.weight.double(), of_risen[:, :, y, x])
                    kernel[:, :, 2 - y : 4 - y, 2 - x : 4 - x] += both
            missing = torch.einsum("omyx,m->oyx", of_risen, _bias_of(rising))
            self.rise = nn.ConvTranspose2d(rising.in_channels, filters, 4, stride=2, padding=1, bias=False)
            self.rise.weight.copy_(kernel)
            self.skip = nn.Conv2d(filters, filters, 3, padding=1)
            self.skip.weight.copy_(of_skip)
            self.skip.bias = nn.Parameter((_bias_of(first) + missing.sum((1, 2))).float())
            self.register_buffer("missing", missing.float(), persistent=False)

    def descend(self, x: Tensor, seen: Rectangle) -> tuple[Tensor, Tensor]:
        """What the level below gets, and what the way up gets of ``seen``: the first convolution's sum as far as it is known."""
        frame = (0, 0, int(x.shape[-2]), int(x.shape[-1]))
        pooled, skipped = None, None
        for piece in self._pieces(frame, x):
            around = _grown(piece, REACH + 1, frame)
            inside = self.down(_cut(x, around))
            part = functional.max_pool2d(_cut(inside, _within(piece, around)), 2)
            pooled = _put(pooled, part, _halved(piece), _halved(frame))
            del part
            wanted = _common(piece, seen)
            if wanted is None:
                continue
            shown = _grown(wanted, 1, around)
            part = _cut(self.skip(_cut(inside, _within(shown, around))), _within(wanted, shown))
            skipped = _put(skipped, part, _within(wanted, seen), _within(seen, seen))
        assert pooled is not None and skipped is not None  # noqa: S101 - ``seen`` is a part of the frame
        return pooled, self._at_borders(skipped)

    def _at_borders(self, skipped: Tensor) -> Tensor:
        missing = self.missing.to(skipped.dtype)
        for end, row in ((0, missing[:, 0]), (-1, missing[:, 2])):
            skipped[..., end, :] -= row.sum(-1)[:, None]
            skipped[..., end, 0] += row[:, 0]  # the corner is taken off by its column
            skipped[..., end, -1] += row[:, 2]
        for end, column in ((0, missing[:, :, 0]), (-1, missing[:, :, 2])):
            skipped[..., end] -= column.sum(-1)[:, None]
        return skipped

    def ascend(
        self,
        below: Tensor,
        skipped: Tensor,
        part: Rectangle,
        seen: Rectangle,
        of_below: Rectangle,
        last: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        """``part`` of this level, from ``of_below`` of the level below and what :meth:`descend` kept of ``seen``.

        last: what becomes of every pixel at once (the end of the network).
        """
        out = None
        for piece in self._pieces(part, skipped):
            around = _grown(piece, REACH, seen)
            source = _grown(_halved(around), 1, of_below)
            risen = self.rise(_cut(below, _within(source, of_below)))
            origin = (2 * source[0], 2 * source[1])
            x = _cut(risen, _within(around, origin)).add(_cut(skipped, _within(around, seen)))
            del risen
            x = _cut(functional.relu_(self.second(functional.relu_(x))), _within(piece, around))
            out = _put(out, x if last is None else last(x), _within(piece, part), _within(part, part))
        assert out is not None  # noqa: S101 - ``part`` is not empty
        return out

    def _pieces(self, frame: Rectangle, like: Tensor) -> Iterator[Rectangle]:
        """Pieces that stay in a CPU's caches; the whole where that costs more than it saves."""
        side = self.pieces
        if side is None or like.device.type != "cpu":
            yield frame
            return
        for y in range(frame[0], frame[2], side):
            for x in range(frame[1], frame[3], side):
                yield y, x, min(y + side, frame[2]), min(x + side, frame[3])


def _folded(block: nn.Sequential) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The two convolutions of a block with their batch norms in evaluation mode."""
    folded = []
    for conv, norm in ((block[0], block[1]), (block[3], block[4])):
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)  # noqa: S101 - as MaximUNet makes it
        folded.append(fuse_conv_bn_eval(conv, norm))
    return folded[0], folded[1]


def _bias_of(conv: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    assert conv.bias is not None  # noqa: S101 - folded, and the published transposed convolutions have one
    return conv.bias.double()


def _grown(part: Rectangle, margin: int, frame: Rectangle) -> Rectangle:
    """``part`` and what is around it, inside ``frame``."""
    y0, x0, y1, x1 = part
    return (
        max(frame[0], y0 - margin),
        max(frame[1], x0 - margin),
        min(frame[2], y1 + margin),
        min(frame[3], x1 + margin),
    )


def _common(part: Rectangle, other: Rectangle) -> Rectangle | None:
    y0, x0, y1, x1 = max(part[0], other[0]), max(part[1], other[1]), min(part[2], other[2]), min(part[3], other[3])
    return (y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None


def _halved(part: Rectangle) -> Rectangle:
    """The pixels of the level below that lie under ``part``."""
    return part[0] // 2, part[1] // 2, -(-part[2] // 2), -(-part[3] // 2)


def _within(part: Rectangle, origin: Sequence[int]) -> Rectangle:
    """``part`` counted from the pixel at ``origin`` (y, x)."""
    return part[0] - origin[0], part[1] - origin[1], part[2] - origin[0], part[3] - origin[1]


def _cut(x: Tensor, part: Rectangle) -> Tensor:
    return x[..., part[0] : part[2], part[1] : part[3]]


def _put(whole: Tensor | None, piece: Tensor, part: Rectangle, frame: Rectangle) -> Tensor:
    """``piece`` in its place in ``whole``, made with the first piece; the piece itself where it is all there is."""
    if part == frame:
        return piece
    if whole is None:
        size = (*piece.shape[:2], frame[2], frame[3])
        whole = torch.empty(size, dtype=piece.dtype, device=piece.device, memory_format=torch.channels_last)
    _cut(whole, part).copy_(piece)
    return whole
