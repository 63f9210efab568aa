"""MAXIM: a marker's image imputed from those of other markers.

Source: Shaban et al., "Deep Learning Model Imputes Missing Stains in Multiplex Images" (bioRxiv); layout and key names only. A
model is weights and a card: which markers go in and come out, in which order, and how their numbers become 0..1; the network
means nothing without that. Two kinds: **single** (N markers in, M others out) and **any-marker** (N markers in and out, and
for each a plane that says whether it is there).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxbridge.errors import ModelError
from mxbridge.models.card import ModelCard
from mxbridge.models.linear_start import LinearStart, corrected, network_input
from mxbridge.models.maxim_stream import MaximStream, PredictedTile, Request, hidden_of, listed, targets_of
from mxbridge.models.scaling import PEER, Scaling
from mxbridge.models.weights_files import read_weights
from mxbridge.networks.fused_maxim import FusedMaxim
from mxbridge.networks.maxim_unet import MaximUNet

__all__ = [
    "ALGORITHM",
    "Maxim",
    "MaximStream",
    "PredictedTile",
    "Request",
    "from_card",
    "load_checkpoint",
    "map_stored",
    "targets_of",
]

ALGORITHM = 1
"""Goes up when imputed values change for the same input; part of every fingerprint."""
SYSTEM = "maxim"


@dataclass(frozen=True)
class Maxim:
    """A loaded imputation model.

    name: how its measurements are called. um_per_px: the scale it was trained at. inputs, outputs: markers, in order.
    any_marker: every marker is input and output. scaling: of every input and output. dtype: of the training images, ``""``
    where unknown. network: as it is run. plain: the same weights as published, for gradients. start: the regression that the
    network corrects, where it has one.
    """

    name: str
    um_per_px: float
    weights_sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    any_marker: bool
    scaling: Mapping[str, Scaling]
    dtype: str
    card: ModelCard = field(repr=False)
    network: FusedMaxim = field(repr=False)
    plain: MaximUNet = field(repr=False)
    start: LinearStart | None = field(default=None, repr=False)

    @property
    def planes(self) -> tuple[str, ...]:
        """All markers: the inputs, then outputs that are none."""
        return tuple(dict.fromkeys([*self.inputs, *self.outputs]))

    def predict(self, unit: Tensor, request: Request) -> Tensor:
        """``(n, inputs, y, x)`` 0..1 -> the targets ``(n, target, y, x)``, not clipped, through ``plain`` and with gradients.

        Sides are multiples of the stride. Planes of targets and hidden markers are not looked at.
        """
        hidden = hidden_of(self, request)
        at = [self.outputs.index(target) for target in request.targets]
        inputs, starts = [], []
        for sample in unit:
            start = None
            if self.start is not None:
                unknown = sample.new_zeros((len(self.planes) - len(sample), *sample.shape[1:]))
                start = self.start.estimate(torch.cat([sample, unknown]), hidden)
                starts.append(start[[hidden.index(target) for target in request.targets]])
            places = [self.inputs.index(marker) for marker in hidden if marker in self.inputs]
            inputs.append(network_input(sample, places, start, any_marker=self.any_marker))
        found: Tensor = self.plain(torch.stack(inputs))[:, at]
        return corrected(found, torch.stack(starts) if starts else None)

    @property
    def stride(self) -> int:
        return self.network.stride

    @property
    def halo(self) -> int:
        return self.network.halo

    def describe(self) -> dict[str, Any]:
        """For run.json and fingerprints."""
        kind = "any marker" if self.any_marker else "single"
        return {
            "name": self.name,
            "um_per_px": self.um_per_px,
            "weights_sha256": self.weights_sha256,
            "network": f"MAXIM U-Net, {kind}, width {self.network.width}",
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "scaling": {marker: self.scaling[marker].to_json() for marker in sorted(self.scaling)},
            "linear_start": self.start is not None,
            "halo_px": self.halo,
            "algorithm": ALGORITHM,
        }


def from_card(path: Path, card: ModelCard) -> Maxim:
    """Load weights as their card says; the entry point of this system.

    Raises ModelError: not the weights of this network, a panel that does not fit them, a scaling that is missing.
    """
    path = Path(path)
    _check_panel(path, card)
    scaling = {}
    for marker in dict.fromkeys([*card.channels, *card.outputs]):
        if marker not in card.scaling:
            raise ModelError(f"{path}: its card does not say how {marker} is scaled", hint="Train the model anew")
        scaling[marker] = Scaling.from_mapping(card.scaling[marker], f"{path}, {marker}")
    return _load(path, card, scaling)


def load_checkpoint(
    path: str | Path, inputs: Sequence[str], outputs: Sequence[str], um_per_px: float, scaling: Scaling = PEER
) -> Maxim:
    """Load the bare ``checkpoint.pt`` of the published program, which names neither its markers nor their scaling.

    inputs, outputs: the panel it was trained with, in that order. Raises ModelError.
    """
    path = Path(path)
    markers = dict.fromkeys([*inputs, *outputs])
    card = ModelCard.from_mapping(
        {
            "name": "MAXIM",
            "system": SYSTEM,
            "um_per_px": um_per_px,
            "channels": list(inputs),
            "outputs": list(outputs),
            "scaling": {marker: scaling.to_json() for marker in markers},
            "dtype": "uint8" if scaling == PEER else "",
        },
        str(path),
    )
    _check_panel(path, card)
    return _load(path, card, dict.fromkeys(markers, scaling))


def map_stored(model: Maxim, target: str, unit: NDArray[np.float32], value_scale: float = 1.0) -> NDArray[np.float32]:
    """Imputed 0..1 -> numbers as the image stores them, as float32 before any rounding; any shape.

    value_scale: what stored numbers were multiplied by on the way in.
    """
    stored = model.scaling[target].to_stored(unit)
    return stored if value_scale == 1.0 else (stored / value_scale).astype(np.float32)


def _check_panel(path: Path, card: ModelCard) -> None:
    """Raise ModelError unless inputs and outputs of the card make a panel."""
    inputs, outputs = list(card.channels), list(card.outputs)
    if not inputs or not outputs:
        raise ModelError(
            f"{path}: nothing says which markers go in and come out",
            hint="Keep the card (.json) beside the weights, or name the panel of a bare checkpoint with --inputs",
        )
    for markers in (inputs, outputs):
        folded = [marker.strip().casefold() for marker in markers]
        if "" in folded or len(set(folded)) < len(folded):
            raise ModelError(f"{path}: markers of its panel repeat or have no name: {listed(markers)}")
    if card.any_marker and inputs != outputs:
        raise ModelError(f"{path}: an any-marker model has the same markers as inputs and outputs")
    both = {m.strip().casefold() for m in inputs} & {m.strip().casefold() for m in outputs}
    if not card.any_marker and both:
        raise ModelError(f"{path}: {listed(sorted(both))} cannot be input and output of a single-marker model")


def _load(path: Path, card: ModelCard, scaling: Mapping[str, Scaling]) -> Maxim:
    weights, digest = read_weights(path)
    try:
        network = MaximUNet.from_state_dict(weights)
    except ValueError as error:
        raise ModelError(
            f"{path}: {error}", hint="MAXIM needs weights of `mxbridge train maxim` or its own checkpoint.pt"
        ) from error
    planes = len(card.channels) * (2 if card.any_marker else 1)
    if (network.in_channels, network.out_channels) != (planes, len(card.outputs)):
        raise ModelError(
            f"{path}: the weights take {network.in_channels} planes to {network.out_channels}, but the panel of"
            f" {len(card.channels)} inputs and {len(card.outputs)} outputs needs {planes} to {len(card.outputs)}",
            hint="It is a checkpoint of another panel; give the markers that it was trained with",
        )
    start = LinearStart.from_json(card.linear_start, [*card.channels, *card.outputs], str(path))
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return Maxim(
        name=card.name,
        um_per_px=card.um_per_px,
        weights_sha256=digest,
        inputs=card.channels,
        outputs=card.outputs,
        any_marker=card.any_marker,
        scaling=dict(scaling),
        dtype=card.dtype,
        card=card,
        network=FusedMaxim(network),
        plain=network,
        start=start,
    )
