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

CARD_LIMIT = 1_000_000
"""Bytes; a longer JSON file is no card."""


@dataclass(frozen=True)
class ModelCard:
    """Facts about one weights file.

    name: prefix of the measurements, as in ``Nimbus: CD3``; printable, without a colon.
    system: entry point in the group ``mxbridge.models`` that loads the file.
    um_per_px: side in µm of a pixel as the network sees it.
    channels: what the network's input planes are.
    normalization_quantile: foreground quantile by which a marker is divided.
    training_data: one line on what it was trained with; ``settings_hash``, ``seed`` and ``steps`` make it repeatable.
    metrics: figures of its own evaluation, by name.
    sha256: of the weights file, where known.
    """

    name: str = "Nimbus"
    system: str = "nimbus"
    um_per_px: float = 1.0
    channels: tuple[str, ...] = ("marker", "binary cell mask")
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
        for key in ("name", "system", "description", "training_data", "settings_hash", "licence", "sha256"):
            if not isinstance(known.get(key, ""), str):
                raise ModelError(f"{where}: {key} of the model card is not text")
        name = known.get("name", cls.name)
        if not (0 < len(name) <= 60 and name.isprintable() and ":" not in name and name == name.strip()):
            raise ModelError(f"{where}: {name[:60]!r} cannot be the name of measurements")
        for key, low, high in (("um_per_px", 0.0, 1000.0), ("normalization_quantile", 0.0, 1.0)):
            value = known.get(key, 1.0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
                raise ModelError(f"{where}: {key} of the model card is {value!r}, expected {low:g} < value <= {high:g}")
            if key in known:
                known[key] = float(value)
        for key in ("seed", "steps"):
            if key in known and not isinstance(known[key], int):
                raise ModelError(f"{where}: {key} of the model card is not a whole number")
        if not isinstance(known.get("metrics", {}), dict):
            raise ModelError(f"{where}: metrics of the model card are not a table")
        if "channels" in known:
            if not isinstance(known["channels"], list) or not all(isinstance(c, str) for c in known["channels"]):
                raise ModelError(f"{where}: channels of the model card are not a list of names")
            known["channels"] = tuple(known["channels"])
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
        return _parse(text.encode(), str(weights)) if text else None
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
