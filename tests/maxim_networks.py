"""Narrow MAXIM networks with random weights, for the tests of networks and models."""

from __future__ import annotations

import torch

from mxbridge.networks.maxim_unet import MaximUNet


def random_network(in_channels: int = 3, out_channels: int = 1, width: int = 2, seed: int = 0) -> MaximUNet:
    """Uneven batch norms and biases, outputs spread over 0..1."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = MaximUNet(in_channels, out_channels, width).eval()
        for name, values in [*network.named_parameters(), *network.named_buffers()]:
            if values.ndim == 1 and values.is_floating_point():
                torch.nn.init.uniform_(values, 0.3, 1.2)
            elif name.endswith("weight"):
                torch.nn.init.normal_(values, 0, 1.5 / values[0].numel() ** 0.5)
        logits = network.logits(torch.rand(1, in_channels, 96, 96))
        spread = max(float(logits.std()), 1e-3)
        network.conv.bias.sub_(logits.mean((0, 2, 3))).div_(spread)
        network.conv.weight.div_(spread)
    return network
