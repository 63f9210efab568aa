"""Where trained weights go: looked at before the first step, so that hours of training do not end at a closed door."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mxbridge.errors import OutputError, UsageError
from mxbridge.formats.atomic import make_folder
from mxbridge.models.card import CARD_FORMAT, CARD_LIMIT


def check_target(out: Path, name: str, checkpoint: Path | None = None) -> None:
    """Whether weights that measure as ``name`` may be written to ``out`` and their card beside it; makes the folder.

    Replaced is only what an earlier training of the same name wrote. checkpoint: goes when the weights are there, so it must
    be another file. Raises UsageError for another suffix or the same file, OutputError for anything else that is in the way.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"{out.name} is no name for weights", hint="Give a file that ends in .safetensors")
    card = out.with_suffix(".json")
    if checkpoint is not None and checkpoint.resolve() in (out.resolve(), card.resolve()):
        raise UsageError(
            f"{checkpoint} cannot be both the checkpoint and what is trained", hint="Leave --checkpoint out"
        )
    for folder, option in ((out.parent, "--out"), *([(checkpoint.parent, "--checkpoint")] if checkpoint else [])):
        make_folder(folder)
        if not os.access(folder, os.W_OK):
            raise OutputError(f"{folder}: no permission to write here", hint=f"Give another place with {option}")
    for path, text in ((out, _embedded_card(out)), (card, _card_beside(card))):
        if os.path.lexists(path) and not _is_of(text, name):
            raise OutputError(
                f"{path} is there already and is not of an earlier training", hint="Give another place with --out"
            )


def _is_of(card: str, name: str) -> bool:
    try:
        values = json.loads(card)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("format") == CARD_FORMAT and values.get("name") == name


def _embedded_card(weights: Path) -> str:
    """Text of the card inside a safetensors file, of which only the header is read; empty where there is none."""
    if not weights.is_file():
        return ""
    try:
        with safe_open(weights, framework="np") as opened:
            return str((opened.metadata() or {}).get("card", ""))
    except (SafetensorError, OSError):
        return ""


def _card_beside(card: Path) -> str:
    if not card.is_file() or card.stat().st_size > CARD_LIMIT:
        return ""
    return card.read_text(encoding="utf-8", errors="replace")
