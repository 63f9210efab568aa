"""Modules that stand in for those a peer imports and does not use, and the few steps of torchvision that peers do use.

Run with a peer's own interpreter, from the scripts beside this one.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Any


def put(names: Mapping[str, Mapping[str, Any]]) -> None:
    """Modules of these names with what is in them, each also an attribute of the one it lies in."""
    for name, content in names.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def one_after_the_other(steps: list[Any]) -> Any:
    """torchvision's ``Compose``."""

    def apply(image: Any) -> Any:
        for step in steps:
            image = step(image)
        return image

    return apply
