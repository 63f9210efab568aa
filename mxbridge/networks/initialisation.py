"""The initialisation that image translation networks are published with: narrow normal weights."""

from __future__ import annotations

import torch
from torch import nn

SPREAD = 0.02


def draw_normal(network: nn.Module, seed: int) -> None:
    """Draw all weights anew: convolutions N(0, 0.02) with torch's own biases, batch norms N(1, 0.02) with bias 0.

    The same seed gives the same weights; the random numbers of the rest of the program are left alone.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.reset_parameters()  # for the bias
                nn.init.normal_(module.weight, 0.0, SPREAD)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
                nn.init.normal_(module.weight, 1.0, SPREAD)
