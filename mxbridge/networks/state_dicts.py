"""State dicts from outside: wrappers taken off, compared key by key with the network they should belong to, then loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

WRAPPER_PREFIXES = ("_orig_mod.", "module.")
"""Prefixes that torch.compile and DataParallel put in front of every key."""
COUNTER = "num_batches_tracked"
"""Of batch norms; has no effect on the output, and some files leave it out."""

Network = TypeVar("Network", bound=nn.Module)


def strip_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the prefixes that compiled or parallel models save."""
    out = {}
    for key, value in weights.items():
        while key.startswith(WRAPPER_PREFIXES):
            key = key.split(".", 1)[1]
        out[key] = value
    return out


def load_strictly(network: Network, weights: Mapping[str, Tensor], kind: str) -> Network:
    """``network`` (made on the device ``meta``) with ``weights``, in evaluation mode and float32, on the CPU.

    Weights that are float32 already are shared, not copied. kind: what the network is called, for people.
    Raises ValueError that says what does not fit, or which weights are not finite.
    """
    expected = network.state_dict()
    _compare(expected, weights, kind)
    loaded = {}
    for key, template in expected.items():
        if key.endswith(COUNTER):
            loaded[key] = torch.zeros((), dtype=template.dtype)
            continue
        loaded[key] = weights[key].detach().to("cpu", torch.float32).contiguous()
        if not all(torch.isfinite(end) for end in torch.aminmax(loaded[key])):  # either end is NaN where any value is
            raise ValueError(f"{key} holds values that are not finite")
        if key.endswith("running_var") and bool((loaded[key] < 0).any()):
            raise ValueError(f"{key} holds variances below zero")
    network.load_state_dict(loaded, assign=True)
    return network.eval()


def _compare(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], kind: str) -> None:
    """Raise ValueError that names the first key that is missing, too many or of another shape."""
    missing = [k for k in expected if k not in weights and not k.endswith(COUNTER)]
    extra = [k for k in weights if k not in expected]
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has {extra[0]} on top"
        more = len(missing) + len(extra) - 1
        raise ValueError(f"not a {kind}: it {what}" + (f" and {more} more keys differ" if more else ""))
    for key, template in expected.items():
        if key in weights and weights[key].shape != template.shape:
            raise ValueError(f"not a {kind}: {key} is {tuple(weights[key].shape)}, expected {tuple(template.shape)}")
        if key in weights and not key.endswith(COUNTER):
            _check_numbers(key, weights[key])


def _check_numbers(key: str, values: Tensor) -> None:
    """Raise ValueError unless ``values`` are plain floating point numbers that are all there."""
    if not values.is_floating_point() or values.layout is not torch.strided:
        raise ValueError(f"{key} holds {values.dtype} ({values.layout}), not floating point numbers")
    if values.untyped_storage().nbytes() < values.numel() * values.element_size():  # views that repeat one number
        raise ValueError(f"{key} holds fewer numbers than its shape {tuple(values.shape)} says")
