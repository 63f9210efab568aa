"""Synthetic stains that tell of each other, and an any-marker model of them whose weights are set by hand.

Five markers: A, B and C share one structure, D and E another one, and all a faint third. The model imputes each as a weighted
sum of those it sees, so what a bad channel does to the others is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

from mxbridge.image import LocalImage
from mxbridge.metrics.agreement import agreement_record
from mxbridge.metrics.input_range import input_ranges
from mxbridge.models.card import ModelCard
from mxbridge.models.maxim import Maxim, from_card
from mxbridge.models.scaling import Scaling
from mxbridge.networks.maxim_unet import MaximUNet
from mxbridge.stream.engine import Engine
from mxbridge.tasks.judging.one_image import Asked, look
from mxbridge.workspaces.memory import MemoryWorkspace

MARKERS = ("A", "B", "C", "D", "E")
GROUPS = (0, 0, 0, 1, 1)
UM = 0.5


def stains(seed: int, shape: tuple[int, int] = (320, 320), noise: float = 0.5) -> np.ndarray:
    """``(5, y, x)`` uint8."""
    rng = np.random.default_rng(seed)
    structure = [_smooth(rng, shape) for _ in range(3)]
    planes = [structure[group] + 0.3 * structure[2] + noise * _smooth(rng, shape, sigma=1.5) for group in GROUPS]
    return np.stack([np.clip(90 + 40 * plane, 0, 255).round() for plane in planes]).astype(np.uint8)


def _smooth(rng: np.random.Generator, shape: tuple[int, int], sigma: float = 3.0) -> np.ndarray:
    field = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return field / field.std()


def weights_by_hand(mixing: np.ndarray, *, any_marker: bool) -> dict[str, torch.Tensor]:
    """State dict of a network that gives ``sigmoid(4 (mixing @ inputs) - 2)``; inputs must not be negative."""
    outputs, inputs = mixing.shape
    width = max(inputs, outputs)
    network = MaximUNet(2 * inputs if any_marker else inputs, outputs, width)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.zero_()
        network.upconv1.bias.zero_()
        network.encoder1.enc1conv1.weight[range(inputs), range(inputs), 1, 1] = 1.0
        network.encoder1.enc1conv2.weight[range(width), range(width), 1, 1] = 1.0
        skip = torch.zeros(outputs, width)
        skip[:, :inputs] = torch.from_numpy(mixing).float()
        network.decoder1.dec1conv1.weight[:outputs, width:, 1, 1] = skip
        network.decoder1.dec1conv2.weight[range(width), range(width), 1, 1] = 1.0
        network.conv.weight[range(outputs), range(outputs), 0, 0] = 4.0
        network.conv.bias.fill_(-2.0)
    return network.state_dict()


def save_model(
    path: Path,
    mixing: np.ndarray,
    inputs: Sequence[str] = MARKERS,
    outputs: Sequence[str] = MARKERS,
    *,
    any_marker: bool = True,
    validation: Sequence[np.ndarray] | None = None,
) -> Maxim:
    """Write weights with their card; validation: stains ``(5, y, x)`` that the card's ranges come from (None: no ranges)."""
    card = ModelCard(
        name="MAXIM",
        system="maxim",
        um_per_px=UM,
        channels=tuple(inputs),
        outputs=tuple(outputs),
        any_marker=any_marker,
        scaling={m: Scaling("linear", 0.0, 255.0).to_json() for m in {*inputs, *outputs}},
        dtype="uint8",
    )
    save_file(weights_by_hand(mixing, any_marker=any_marker), path)
    if validation is not None:
        card.validation.update(seen_in(from_card(path, card), validation))
    path.with_suffix(".json").write_text(card.to_json(), encoding="utf-8")
    return from_card(path, card)


def seen_in(
    model: Maxim, fields: Sequence[np.ndarray], names: Sequence[str] = MARKERS, um: float = UM
) -> dict[str, object]:
    """What training would write into the card."""
    seen = [
        look(Asked.of(model, image), image, Engine(device="cpu")) for image in (as_image(f, names, um) for f in fields)
    ]
    return {
        "agreement": agreement_record([s.sums for s in seen], seen[0].markers),
        "input_ranges": input_ranges([s.inputs for s in seen]),
    }


def as_image(pixels: np.ndarray, names: Sequence[str] = MARKERS, um: float = UM) -> LocalImage:
    workspace = MemoryWorkspace({"field": (pixels, names, um)})
    return workspace.pull(workspace.list()[0], None).image


def shared_mixing() -> np.ndarray:
    """Each marker from those of its group; a little from all."""
    groups = np.array(GROUPS)
    mixing = (groups[:, None] == groups) * 0.5 + 0.1
    np.fill_diagonal(mixing, 0.0)
    return mixing


def scrambled(plane: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(plane.ravel()).reshape(plane.shape)
