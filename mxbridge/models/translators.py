"""What the translate task must know of a system that makes other pictures of a slide, and how one is found by its name.

Implemented by :class:`mxbridge.models.deepliif.DeepLIIF` (networks) and :class:`mxbridge.models.deconvolution.Deconvolution`
(stain vectors and thresholds, no weights). A translator says which images it makes; its passes turn windows into them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from mxbridge.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WANTED = ("score", "cells", "channels", "all")
"""Values of ``--outputs``: scores alone, nuclei and scores, the inferred images alone, everything."""

DECONVOLUTION = "deconvolution"
"""``--model``: the baseline that needs no weights."""

WEIGHTINGS: Mapping[str, tuple[float, ...]] = {
    "paper": (0.25, 0.15, 0.25, 0.1, 0.25),
    "test": (0.5, 0.0, 0.0, 0.0, 0.5),
    "uniform": (0.2, 0.2, 0.2, 0.2, 0.2),
}
"""The three weightings that ship with DeepLIIF, in the order IHC, Hematoxylin, DAPI, Lap2, Marker: of its paper and training, of
its command for single tiles, of its commands for whole slides."""
ONE = 1e-3
"""How far from one the weights of one weighting may add up."""


@dataclass(frozen=True)
class Weighting:
    """How the segmentations made from the input and from each inferred image are averaged.

    name: of WEIGHTINGS, ``uniform`` or ``custom``. values: one weight per segmentation network, the one that sees the input
    first, then in the order of the inferred images.
    """

    name: str
    values: tuple[float, ...]

    @classmethod
    def parse(cls, text: str | None, n_segs: int) -> Weighting:
        """From ``--weighting``: a name, or ``n_segs`` numbers separated by commas that add up to one.

        None: ``paper`` where there are five segmentations, ``uniform`` otherwise. Raises UsageError.
        """
        wanted = (text or ("paper" if n_segs == len(WEIGHTINGS["paper"]) else "uniform")).strip()
        if wanted == "uniform" and n_segs:
            return cls("uniform", (1.0 / n_segs,) * n_segs)
        if wanted in WEIGHTINGS:
            if len(WEIGHTINGS[wanted]) != n_segs:
                raise UsageError(
                    f"--weighting {wanted} is for five segmentations, this model has {n_segs}",
                    hint=f"Use uniform, or {n_segs} numbers separated by commas" if n_segs else "Leave --weighting out",
                )
            return cls(wanted, WEIGHTINGS[wanted])
        values = _numbers(wanted)
        if values is None:
            raise UsageError(
                f"--weighting {wanted[:60]!r} is no weighting",
                hint=f"Use {', '.join(WEIGHTINGS)}, or {n_segs} numbers separated by commas",
            )
        if len(values) != n_segs or abs(sum(values) - 1) > ONE:
            raise UsageError(
                f"--weighting {wanted[:60]}: expected {n_segs} numbers that add up to 1, got {len(values)} that add up to {sum(values):g}"
            )
        named = (name for name, preset in WEIGHTINGS.items() if preset == values)
        return cls(next(named, "custom"), values)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "values": list(self.values)}


def _numbers(text: str) -> tuple[float, ...] | None:
    """Comma-separated numbers of at least zero, or None."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        return None
    return values if all(math.isfinite(v) and v >= 0 for v in values) else None


class Passes(Protocol):
    """Networks that are loaded and ready: windows in, images out.

    images: names of what comes out. networks: names of those that run for it, for the provenance.
    """

    @property
    def images(self) -> tuple[str, ...]: ...
    @property
    def networks(self) -> tuple[str, ...]: ...

    def to(self, device: torch.device) -> Self: ...

    def __call__(self, windows: Tensor) -> dict[str, Tensor]:
        """``(n, 3 * input_images, s, s)`` float32 in -1..1 -> per image ``(n, 3, s, s)`` float32 in -1..1.

        Every window is looked at on its own: the result does not depend on what else is in the batch.
        """
        ...

    def frozen(self, sample: Tensor) -> Passes:
        """Passes whose statistics are those of the whole ``sample`` ``(n, 3 * input_images, s, s)``, whatever window follows.

        Networks are changed in place: the passes this was called on are used up.
        """
        ...

    def describe(self) -> dict[str, Any]: ...


class Translator(Protocol):
    """A system that makes other pictures of a slide.

    name: prefix of measurements. um_per_px: the scale at which windows are cut. weights_sha256: empty where there are none.
    window, overlap: side and overlap of the fixed windows, in pixels of that scale. samples_slide: passes must be frozen on a
    sample of the slide before use. segs: names of the segmentation images. marker_image: the one whose brightness is the
    marker. separating_image: images by which touching nuclei can be parted, best first. fluorescence: images shown as channels
    of one fluorescence image, in order. brightfield: images shown as RGB. input_images: RGB pictures side by side in one input.
    n_segs: segmentations that are averaged into one, 0 for none. warnings: what people should know of its files.
    """

    @property
    def name(self) -> str: ...
    @property
    def um_per_px(self) -> float: ...
    @property
    def weights_sha256(self) -> str: ...
    @property
    def window(self) -> int: ...
    @property
    def overlap(self) -> int: ...
    @property
    def samples_slide(self) -> bool: ...
    @property
    def segs(self) -> tuple[str, ...]: ...
    @property
    def marker_image(self) -> str | None: ...
    @property
    def separating_image(self) -> tuple[str, ...]: ...
    @property
    def fluorescence(self) -> tuple[str, ...]: ...
    @property
    def brightfield(self) -> tuple[str, ...]: ...
    @property
    def input_images(self) -> int: ...
    @property
    def n_segs(self) -> int: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...

    def peer_weighting(self) -> Weighting | None:
        """What the published program averages with when it is not told; None where it averages nothing."""
        ...

    def images_for(self, wanted: str, *, separate: bool = False) -> tuple[str, ...]:
        """Images that must be made for a value of WANTED. Raises UsageError for what this translator cannot make."""
        ...

    def fills(self) -> Mapping[str, tuple[int, int, int]]:
        """Colour of each image where a window is blank, 0..255."""
        ...

    def passes(self, images: Sequence[str], weighting: Weighting | None) -> Passes:
        """Load what makes ``images``, and nothing else. Raises ModelError, UnknownName."""
        ...

    def describe(self) -> dict[str, Any]: ...


def open_translator(name_or_path: str | Path) -> Translator:
    """``deconvolution``, a name of the catalogue, or a folder with the files of a published model.

    Raises ModelError where it is not here or no translator.
    """
    if str(name_or_path) == DECONVOLUTION:
        from mxbridge.models.deconvolution import Deconvolution

        return Deconvolution()
    from mxbridge.models.deepliif import open_deepliif

    return open_deepliif(name_or_path)
