"""MAXIM's adversarial variant: a discriminator that sees inputs and outputs together, learning beside the network.

Its loss is half of the cross-entropies of calling the measured real and the imputed not; the network's is ``beta`` times the
mean absolute error plus the cross-entropy of passing for real.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mxbridge.models.linear_start import corrected
from mxbridge.networks.maxim_discriminator import CodedDiscriminator, PaperDiscriminator
from mxbridge.networks.maxim_unet import MaximUNet
from mxbridge.training.loop import Batch, Opponent
from mxbridge.training.losses import masked_loss
from mxbridge.training.maxim.settings import MaximSettings


def prediction(model: nn.Module, drawn: Batch) -> Tensor:
    """``(n, outputs, y, x)``, not clipped: what a batch's inputs make, with its linear start where it has one.

    The sigmoid is taken in float32: near one half, where a correction is small, half precision has steps of 0.004.
    """
    start = drawn[3] if len(drawn) > 3 else None
    logits: Tensor = model.logits(drawn[0])  # type: ignore[operator]
    return corrected(torch.sigmoid(logits.float()), start)


def opponent_of(settings: MaximSettings, network: MaximUNet) -> Opponent | None:
    """The discriminator that the settings name, drawn from their seed; None without one."""
    if not settings.adversarial:
        return None
    kind = CodedDiscriminator if settings.adversarial == "coded" else PaperDiscriminator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        discriminator = kind(network.in_channels, network.out_channels)
    discriminator.initialise(settings.seed)

    def own_loss(judge: nn.Module, drawn: Batch, made: Tensor) -> Tensor:
        inputs, truth, weights = drawn[:3]
        real, false = judge(inputs, truth), judge(inputs, _shown(made, truth, weights))
        return (_cross_entropy(real, 1.0) + _cross_entropy(false, 0.0)) / 2

    def loss(judge: nn.Module, drawn: Batch, made: Tensor) -> Tensor:
        inputs, truth, weights = drawn[:3]
        error = masked_loss(made, truth, weights, 1.0)
        return settings.beta * error + _cross_entropy(judge(inputs, _shown(made, truth, weights)), 1.0)

    return Opponent(discriminator, prediction, own_loss, loss)


def _shown(made: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """What was asked for as it was made, everything else as it is."""
    return made * weights + truth * (1 - weights)


def _cross_entropy(logits: Tensor, wanted: float) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, wanted))
