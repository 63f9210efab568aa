"""The stain vectors of a brightfield image, from the text in which QuPath keeps them."""

from __future__ import annotations

import json
from typing import Any

from mxbridge.errors import InputError
from mxbridge.stains import StainVectors, Triple

_TITLE = "Color deconvolution stains:"
"""Before the text in scripts, and in what some programs write."""

_HINT = "Set them anew in QuPath (Analyze > Estimate stain vectors) and save"
_RESIDUAL = "residual"


def stains_of(text: str | None) -> StainVectors | None:
    """``{"Name": .., "Stain 1": .., "Values 1": "r g b", "Stain 2": .., ..., "Background": "255 255 255"}``, with a third stain
    where it is not what is left over; None where there is no text or no hematoxylin. Raises InputError."""
    if text is None:
        return None
    try:
        told = json.loads(text.strip().removeprefix(_TITLE))
        stains = {str(told[f"Stain {k}"]): _triple(told[f"Values {k}"]) for k in (1, 2, 3) if f"Stain {k}" in told}
        background = _triple(told["Background"]) if "Background" in told else None
        name = str(told.get("Name", ""))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"stain vectors that cannot be read ({error})", hint=_HINT) from error
    first = next((name for name in stains if name.strip().casefold().startswith(("hematoxylin", "haematoxylin"))), None)
    others = [name for name in stains if name != first and not name.strip().casefold().startswith(_RESIDUAL)]
    if first is None or not others:
        return None
    third = [name for name in stains if name not in (first, others[0])]
    residual = stains[third[0]] if third else None
    return StainVectors(name, stains[first], stains[others[0]], others[0], residual, background)


def _triple(text: Any) -> Triple:
    red, green, blue = (float(part) for part in str(text).replace(",", " ").split())
    return red, green, blue
