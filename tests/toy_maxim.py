"""Tiny imputation models with random weights: enough for whole commands, not for science."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mxbridge.models.card import ModelCard
from mxbridge.networks.maxim_unet import MaximUNet

LINEAR = {"transform": "linear", "low": 0.0, "high": 1000.0}


def toy_network(inputs: int, outputs: int, seed: int = 0, width: int = 2) -> MaximUNet:
    """Random weights whose output follows the input."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        network = MaximUNet(inputs, outputs, width)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the statistics of the one batch below
        network.train()
        network(torch.nn.functional.interpolate(torch.rand(2, inputs, 16, 16), scale_factor=4) ** 2)
        network.conv.weight *= 6
    return network.eval()


def write_model(
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str] = (),
    *,
    seed: int = 0,
    width: int = 2,
    scaling: dict[str, Any] = LINEAR,
    um_per_px: float = 0.5,
    dtype: str = "uint16",
    **more: Any,
) -> Path:
    """Weights and card of a single model, or of an any-marker model where no ``outputs`` are given. Returns the file."""
    every = not outputs
    made = list(inputs) if every else list(outputs)
    network = toy_network(len(inputs) * (2 if every else 1), len(made), seed, width)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    card = ModelCard(
        name=more.pop("name", "MAXIM"),
        system="maxim",
        um_per_px=um_per_px,
        channels=tuple(inputs),
        outputs=tuple(made),
        any_marker=every,
        scaling={marker: dict(scaling) for marker in (*inputs, *made)},
        dtype=dtype,
        **more,
    )
    path.with_suffix(".json").write_text(card.to_json(), encoding="utf-8")
    return path
