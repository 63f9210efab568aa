"""What a weights file says of itself: which system reads it, the name it measures under, the scale it was trained at.

A card lies as ``<stem>.json`` beside the weights, or as text under the key ``card`` in the metadata of a safetensors file.
The one beside wins, because only that one can hold the sha256 of the file. JSON files that are no card are not looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mxbridge.errors import ModelError

CARD_FORMAT = "mxbridge model card 1"
"""Value of the key ``format``; without it a JSON file is something else."""

CARD_LIMIT = 4_000_000
"""Bytes; a longer JSON file is no card."""

_KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(
        ("name", "system", "description", "training_data", "settings_hash", "licence", "sha256", "dtype", "split"),
        (str, "text"),
    ),
    **dict.fromkeys(("seed", "steps"), (int, "a whole number")),
    **dict.fromkeys(("scaling", "linear_start", "validation", "metrics"), (dict, "a table")),
    "any_marker": (bool, "true or false"),
}


@dataclass(frozen=True)
class ModelCard:
    """Facts about one weights file.

    name: prefix of the measurements, as in ``Nimbus: CD3``; printable, without a colon.
    system: entry point in the group ``mxbridge.models`` that loads the file.
    um_per_px: side in µm of a pixel as the network sees it.
    channels: what the network's input planes are; for imputation the markers, in their order.
    outputs: markers that the network predicts (imputation), in order.
    any_marker: every marker is input and output, a second set of planes says which are there.
    scaling: per marker how stored numbers become 0..1 (:class:`~mxbridge.models.scaling.Scaling`), as plain tables.
    linear_start: what :class:`~mxbridge.models.linear_start.LinearStart` keeps, of models that correct a regression.
    dtype: of the training images' pixels, ``uint8``, ``uint16``, ``float32``.
    split: one line on what was held back to choose the weights by.
    validation: what was seen there: errors, agreement, spread, channel means.
    normalization_quantile: foreground quantile by which a marker is divided.
    training_data: one line on what it was trained with; ``settings_hash``, ``seed`` and ``steps`` make it repeatable.
    metrics: figures of its own evaluation, by name.
    sha256: of the weights file, where known.
    """

    name: str = "Nimbus"
    system: str = "nimbus"
    um_per_px: float = 1.0
    channels: tuple[str, ...] = ("marker", "binary cell mask")
    outputs: tuple[str, ...] = ()
    any_marker: bool = False
    scaling: dict[str, Any] = field(default_factory=dict)
    linear_start: dict[str, Any] = field(default_factory=dict)
    dtype: str = ""
    split: str = ""
    validation: dict[str, Any] = field(default_factory=dict)
    normalization_quantile: float = 0.999
    description: str = ""
    training_data: str = ""
    settings_hash: str = ""
    seed: int | None = None
    steps: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    sha256: str | None = None

    def to_json(self) -> str:
        return json.dumps({"format": CARD_FORMAT} | asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> ModelCard:
        """From parsed JSON; unknown keys are ignored. Raises ModelError naming the key that makes no sense."""
        known = {f.name: values[f.name] for f in fields(cls) if values.get(f.name) is not None}
        for key, (kind, what) in _KINDS.items():
            if not isinstance(known.get(key, kind()), kind):
                raise ModelError(f"{where}: {key} of the model card is not {what}")
        name = known.get("name", cls.name)
        if not (0 < len(name) <= 60 and name.isprintable() and ":" not in name and name == name.strip()):
            raise ModelError(f"{where}: {name[:60]!r} cannot be the name of measurements")
        for key, low, high in (("um_per_px", 0.0, 1000.0), ("normalization_quantile", 0.0, 1.0)):
            value = known.get(key, 1.0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
                raise ModelError(f"{where}: {key} of the model card is {value!r}, expected {low:g} < value <= {high:g}")
            if key in known:
                known[key] = float(value)
        for key in ("channels", "outputs"):
            if key in known:
                if not isinstance(known[key], list) or not all(isinstance(c, str) for c in known[key]):
                    raise ModelError(f"{where}: {key} of the model card is not a list of names")
                known[key] = tuple(known[key])
        return cls(**known)


def read_card(weights: Path) -> ModelCard | None:
    """The card of a weights file, or None where it has none. Raises ModelError for a card that is broken."""
    beside = weights.with_suffix(".json")
    if beside.is_file() and beside.stat().st_size <= CARD_LIMIT:
        card = _parse(beside.read_bytes(), str(beside))
        if card is not None:
            return card
    if weights.suffix == ".safetensors":
        text = _metadata(weights).get("card", "")
        return _parse(text.encode(), str(weights)) if 0 < len(text) <= CARD_LIMIT else None
    return None


def _parse(raw: bytes, where: str) -> ModelCard | None:
    try:
        values = json.loads(raw, parse_constant=lambda _: math.nan)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.get("format") != CARD_FORMAT:
        return None
    return ModelCard.from_mapping(values, where)


def _metadata(weights: Path) -> dict[str, str]:
    """Metadata of a safetensors file; only its header is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="np") as opened:
            return opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{weights} is no whole safetensors file ({error})", hint="Copy or download it again"
        ) from error
