"""3x3 convolutions on CPUs with a quarter of the multiplications (Winograd, F(4x4, 3x3)), on channels that lie last.

A square of 6x6 pixels is turned into 36 numbers per channel, in which the convolution is a product of matrices; 4x4 output
pixels come back. The points of interpolation are 0, 2/3, -2/3, 3/2, -3/2 and infinity: with them the result is some six times
further from the exact one than a direct convolution (1e-5 of the largest value at most); the usual 1 and 2 are ten times worse.
An image is worked on in bands of rows that stay in the caches.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks" (CVPR 2016); formulas only.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)
OUT, SIDE = 4, 6
"""Pixels of a square along one axis: that come out, and that go in."""
SQUARES = 128
"""Per band: their planes and the products fit into the second cache or nearly so (measured: 64 to 160 are alike)."""
FEWEST_CHANNELS = 64
"""With fewer the transformations cost more than the multiplications that they save."""

Factors = tuple[Tensor, Tensor]


def lay_out(conv: nn.Conv2d) -> None:
    """Keep the weights of a 3x3 convolution so that they need not be turned before every use; their shape stays."""
    with torch.no_grad():
        conv.weight.data = conv.weight.data.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def pays(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether ``x`` ``(n, c, y, x)`` can be convolved this way, and faster."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and min(conv.in_channels, conv.out_channels) >= FEWEST_CHANNELS
        and x.shape[2] % OUT == 0
        and x.shape[3] % OUT == 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def convolve(conv: nn.Conv2d, x: Tensor, factors: Factors | None, *, rectified: bool, mirrored: bool) -> Tensor:
    """What ``conv`` makes of ``x`` ``(n, c, y, x)`` continued by one pixel; sides are multiples of 4, the output is of the same size.

    factors: ``(n or 1, c)`` each; the input is first multiplied by one and the other added. rectified: then cut off below zero.
    mirrored: continued by a mirror about the outermost pixels, else by zeros.
    """
    n, channels, height, width = x.shape
    planes = _planes(conv.weight)
    out = torch.empty((n, conv.out_channels, height, width), memory_format=torch.channels_last)
    rows = OUT * max(1, min(height, SQUARES * OUT * OUT // width) // OUT)
    band = torch.zeros((rows + 2, width + 2, channels))
    for sample in range(n):
        source, target = x[sample].permute(1, 2, 0), out[sample].permute(1, 2, 0)
        own = None if factors is None else tuple(part[sample % len(part)] for part in factors)
        for top in range(0, height, rows):
            part = band[: min(rows, height - top) + 2]
            _fill(part, source, top, own, rectified)
            _continue(part, top == 0, top + rows >= height, mirrored)
            _band(part, planes, target[top : top + rows], conv.bias)
    return out


def _fill(part: Tensor, source: Tensor, top: int, factors: tuple[Tensor, ...] | None, rectified: bool) -> None:
    """Rows ``top - 1`` and on of ``source`` ``(y, x, c)`` into the inner columns of ``part``, as far as there are any."""
    first, last = max(top - 1, 0), min(top - 1 + part.shape[0], source.shape[0])
    inside = part[first - top + 1 : last - top + 1, 1:-1]
    if factors is None:
        inside.copy_(source[first:last])
    else:
        torch.addcmul(factors[1], source[first:last], factors[0], out=inside)
    if rectified:
        inside.clamp_min_(0)


def _continue(part: Tensor, at_top: bool, at_bottom: bool, mirrored: bool) -> None:
    """Fill the rim of a band: beside the image, and above or below it where the band ends there."""
    for wanted, row, inner in ((at_top, 0, 2), (at_bottom, -1, -3)):
        if wanted:
            part[row] = part[inner] if mirrored else 0
    if mirrored:
        part[:, 0] = part[:, 2]
        part[:, -1] = part[:, -3]


def _band(part: Tensor, planes: Tensor, target: Tensor, bias: Tensor | None) -> None:
    """The convolution of a band ``(y + 2, x + 2, c)`` into ``target`` ``(y, x, out)``."""
    down, across = target.shape[0] // OUT, target.shape[1] // OUT
    into, back, _ = _transforms()
    squares = part.unfold(0, SIDE, OUT).unfold(1, SIDE, OUT).permute(3, 4, 0, 1, 2).reshape(SIDE * SIDE, -1)
    turned = torch.mm(into, squares).view(SIDE * SIDE, down * across, -1)
    del squares
    product = torch.bmm(turned, planes).view(SIDE * SIDE, -1)
    del turned
    found = torch.mm(back, product).view(OUT, OUT, down, across, -1).permute(2, 0, 3, 1, 4)
    view = target.view(down, OUT, across, OUT, -1)
    if bias is None:
        view.copy_(found)
    else:
        torch.add(found, bias, out=view)


def _planes(weight: Tensor) -> Tensor:
    """``(out, in, 3, 3)`` -> ``(36, in, out)``; made anew at every use, because they would take four times the memory."""
    taps = weight.permute(2, 3, 1, 0)
    return torch.mm(_transforms()[2], taps.reshape(9, -1)).view(SIDE * SIDE, *taps.shape[2:])


@cache
def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Of a square of pixels ``(36, 36)``, of the products back to pixels ``(16, 36)``, of the weights ``(36, 9)``."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    back = torch.zeros(OUT, SIDE, dtype=torch.float64)
    back[:, :-1] = points[None, :] ** torch.arange(OUT)[:, None]
    back[-1, -1] = 1
    taps, into = torch.zeros(SIDE, 3, dtype=torch.float64), torch.zeros(SIDE, SIDE, dtype=torch.float64)
    taps[-1, -1] = 1
    for at, point in enumerate(points):
        others = torch.cat([points[:at], points[at + 1 :]])
        taps[at] = point ** torch.arange(3) / torch.prod(point - others)
        into[at, :-1] = _polynomial(others)
    into[-1] = _polynomial(points)
    return tuple(torch.kron(one, one).float() for one in (into, back, taps))  # type: ignore[return-value]


def _polynomial(roots: Tensor) -> Tensor:
    """Coefficients of the product of ``(x - root)``, that of the constant first."""
    out = torch.ones(1, dtype=torch.float64)
    for root in roots:
        out = torch.cat([out.new_zeros(1), out]) - root * torch.cat([out, out.new_zeros(1)])
    return out
