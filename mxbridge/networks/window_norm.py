"""Batch norms that always use the statistics of what they see, as DeepLIIF runs them, written so that windows can share a batch.

A network is a generator function ``steps(x)``: at every norm it yields the convolution that is due and the norm, and gets back
the convolution's output and what to multiply and to add. That leaves open whose statistics they are: those of each window
(:func:`run`), or those of many windows together (:func:`freeze`), which are then folded into the convolutions for good.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

EPS = 1e-5
PIVOT_ROWS, MOMENT_NUMBERS = 1024, 1 << 17
"""Rows whose mean stands for the mean, and numbers looked at together."""
RUNNING = (".running_mean", ".running_var", ".num_batches_tracked")
"""Keys of statistics that files carry and nobody uses."""

Factors = tuple[Tensor, Tensor]
"""What to multiply and what to add, ``(n or 1, channels)`` each."""
Steps = Generator[tuple["Due", "WindowNorm"], tuple[Tensor, Factors], Tensor]
Convolution = nn.Conv2d | nn.ConvTranspose2d


class Due:
    """A convolution that is due, with its input, until that is dropped (the network waits meanwhile, and still knows this object)."""

    def __init__(self, convolve: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._convolve = convolve
        self._x: Tensor | None = x

    def make(self) -> Tensor:
        """The output; can be asked for again unless the convolution changes its input, which those that grow never do."""
        if self._x is None:
            raise RuntimeError("the input of this convolution has been dropped")
        return self._convolve(self._x)

    def grows(self, raw: Tensor) -> bool:
        """Whether its output is larger than its input."""
        return self._x is not None and raw.numel() > self._x.numel()

    def drop(self) -> None:
        self._x = None


class WindowNorm(nn.Module):
    """Scale and shift of a channel by the mean and variance of what is there; keys ``weight`` and ``bias`` where affine."""

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.channels, self.affine = channels, affine
        if affine:
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def factors(self, mean: Tensor, variance: Tensor) -> Factors:
        """What to multiply and to add, of the shape of ``mean`` ``(..., channels)``."""
        scale = torch.rsqrt(variance + EPS)
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale
        return scale, shift + self.bias if self.affine else shift


class StepNetwork(Protocol):
    """A network that stops at its norms. pairs: every norm with the convolution before it; ``drop_norms`` forgets the norms."""

    def steps(self, x: Tensor) -> Steps: ...
    def pairs(self) -> list[tuple[WindowNorm, Convolution]]: ...
    def drop_norms(self) -> None: ...


def without_running(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the running statistics, which TorchScript files lack as well."""
    return {key: value for key, value in weights.items() if not key.endswith(RUNNING)}


def run(network: StepNetwork, x: Tensor) -> Tensor:
    """The output for a batch, every sample with its own statistics."""
    steps = network.steps(x)
    del x
    try:
        due, norm = next(steps)
        while True:
            raw = due.make()
            due.drop()
            answer = raw, norm.factors(*moments(raw))
            del raw
            due, norm = steps.send(answer)
            del answer
    except StopIteration as done:
        out: Tensor = done.value
        return out


def freeze(network: StepNetwork, windows: Sequence[Tensor]) -> list[Tensor]:
    """Fold the statistics of all ``windows`` together into ``network``, which is changed; returns its outputs for them.

    windows: each ``(1, c, y, x)``, of one size. All of them go through the network side by side, from norm to norm. Between
    two norms each keeps the smaller of a convolution's input and output (and makes the output again): at the size that was
    published about 35 MB per window of 512 pixels.
    """
    under_way = [network.steps(window) for window in windows]
    before = {id(norm): conv for norm, conv in network.pairs()}
    folded: list[tuple[Convolution, Factors]] = []
    waiting: list[Due | Tensor] = []
    factors: Factors | None = None
    while True:
        means, variances, found = [], [], []
        for at, steps in enumerate(under_way):
            try:
                if factors is None:
                    due, norm = next(steps)
                    waiting.append(due)
                else:
                    due, norm = steps.send((_taken(waiting, at), factors))
            except StopIteration as done:
                found.append(done.value)
                continue
            raw = due.make()
            mean, variance = moments(raw)
            means.append(mean)
            variances.append(variance)
            if due.grows(raw):
                waiting[at] = due
            else:
                due.drop()
                waiting[at] = raw
            del raw
        if found:
            break
        factors = norm.factors(*_pooled(torch.cat(means), torch.cat(variances)))
        folded.append((before[id(norm)], factors))
    for conv, (scale, shift) in folded:
        fold(conv, scale[0], shift[0])
    network.drop_norms()
    return found


def _taken(waiting: list[Due | Tensor], at: int) -> Tensor:
    """The output that was kept, or is made again from the input that was; neither is kept any longer."""
    kept, waiting[at] = waiting[at], torch.empty(0)
    if isinstance(kept, Tensor):
        return kept
    raw = kept.make()
    kept.drop()
    return raw


def _pooled(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(1, c)`` of all pixels, from those of windows of one size ``(n, c)``."""
    each, within = means.to("cpu", torch.float64), variances.to("cpu", torch.float64)
    mean = each.mean(0, keepdim=True)
    variance = (within + (each - mean) ** 2).mean(0, keepdim=True)
    return mean.to(means.device, torch.float32), variance.to(means.device, torch.float32)


def moments(raw: Tensor) -> tuple[Tensor, Tensor]:
    """``(n, c, y, x)`` -> mean and variance ``(n, c)`` of every sample's channels, float32."""
    if raw.device.type == "cpu" and raw.dtype == torch.float32 and raw.is_contiguous(memory_format=torch.channels_last):
        each = [_moments_of_rows(sample.permute(1, 2, 0).flatten(0, 1)) for sample in raw]
        return torch.stack([mean for mean, _ in each]), torch.stack([variance for _, variance in each])
    variance, mean = torch.var_mean(raw.float(), dim=(2, 3), correction=0)
    return mean, variance


def _moments_of_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``(pixels, c)`` -> mean and variance ``(c,)``, in parts that stay in the caches: torch's own way takes ten times as long."""
    pivot = rows[:PIVOT_ROWS].mean(0)
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in rows.split(max(1, MOMENT_NUMBERS // rows.shape[1])):
        beside = part - pivot  # keeps the difference below free of cancellation
        total += beside.sum(0)
        squares += beside.square_().sum(0)
    mean = total / len(rows)
    variance = (squares / len(rows) - mean.square()).clamp_min_(0)
    return (mean + pivot).float(), variance.float()


def fold(conv: Convolution, scale: Tensor, shift: Tensor) -> None:
    """Make ``conv`` compute ``scale * conv(x) + shift``; its weights are changed in place, without a second copy."""
    with torch.no_grad():
        shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
        conv.weight.mul_(scale.view(shape))
        bias = shift if conv.bias is None else conv.bias * scale + shift
        conv.bias = nn.Parameter(bias.clone(), requires_grad=False)


def apply_(raw: Tensor, factors: Factors, out: Tensor | None = None) -> Tensor:
    """``scale * raw + shift`` in place, or into ``out``; factors: ``(n or 1, c)``."""
    scale, shift = (part[:, :, None, None] for part in factors)
    out = raw if out is None else out
    if raw.dtype == shift.dtype:
        return torch.addcmul(shift, raw, scale, out=out)
    return out.copy_(raw * scale + shift)  # autocast


def layout_for(x: Tensor) -> torch.memory_format:
    """The layout in which these networks run fastest: channels last on CPUs."""
    return torch.channels_last if x.device.type == "cpu" else torch.contiguous_format
