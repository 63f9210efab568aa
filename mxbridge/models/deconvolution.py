"""Colour deconvolution: nuclei and stained nuclei of a brightfield slide without any weights. The baseline of every table.

How it works, at 0.5 µm per pixel:

1. Optical densities against the brightness of glass; amounts of hematoxylin and of the other dye by the inverse of their
   colours (Ruifrok and Johnston 2001; their colours, or those of the slide's project).
2. Nuclear density: hematoxylin plus DAB, smoothed. Where DAB covers much of the tissue it is no stain of nuclei, and
   hematoxylin alone is taken; so for H&E.
3. A pixel is nucleus where the density is above a threshold: Otsu's, of the tissue of the sample that is not stained by DAB,
   found on square roots (so that few very dark pixels do not move it), once per slide.
4. Touching nuclei part where the density is lower than around, or has a valley: such pixels are border.
5. A nuclear pixel is positive where the smoothed DAB is at least 0.2 (``positive_od``): QuPath's default for "1+".
6. What a scanner puts where it saw nothing is no tissue and no glass: black areas have no density, and pure white does not
   say how bright glass is.

The picture ``Seg`` has the colours of DeepLIIF's, so that everything behind it works unchanged: red + blue is
120 x density / threshold (at most 255), red's part of it grows from 0 to 1 between 0.5 and 1.5 of ``positive_od``, green is
above 80 on borders. This is a baseline: simple rules, the same for every slide, tuned by eye on four pictures (the ``ihc.png``
of scikit-image); it knows nothing of membranes, pigments or folds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mxbridge.errors import UsageError
from mxbridge.models.translators import DECONVOLUTION, Weighting
from mxbridge.stains import H_DAB, StainVectors

RULES = 1
"""Raised when pictures of an unchanged slide would change: maps of earlier rules are not taken over then."""
UM_PER_PX = 0.5
POSITIVE_OD = 0.2
SEG, HEMATOXYLIN = "Seg", "Hematoxylin"
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}")
"""Of a stain, so that it can name a picture."""
OD_PER_LEVEL = 0.01
"""Optical density that one grey level of the pictures ``DAB`` and ``Eosin`` stands for."""

SMOOTH_PX, AROUND_PX = 1.5, 4.0
"""Sigmas of the Gaussians for the density, and for what is around a pixel."""
VALLEY = -0.002
"""A pixel whose density is below that of its surroundings by more than this is border."""
CURVE_PX, CURVED = 2.0, 0.02
"""Sigma of the Gaussian for curvatures; and a pixel whose density curves upwards, across a valley, by more than this part of the
density per squared pixel is border. A part, because dark nuclei are as coarse inside as pale ones, only darker."""
TISSUE_OD = 0.1
"""Summed optical density (smoothed) from which a pixel is tissue."""
LOWEST, WITHOUT_TISSUE = 0.05, 0.2
"""Thresholds: the smallest that is believed, and the one used where there is no tissue to find one on."""
FEW_PIXELS = 500
"""Fewer pixels of tissue are none."""
DARKEST = 0.5
"""Densities above are taken as this when a threshold is looked for."""
BINS = 256
NOT_NUCLEAR = 0.5
"""Part of the tissue that is stained by DAB from which it is no stain of nuclei alone."""
GLASS_PERCENT, DARKEST_GLASS = 99, 180
"""Glass is as bright as this percentile of each colour, and never darker than this level."""
DIM_GLASS, TINT = 200, 14
"""What is brightest beside pure white is glass if all its colours are at least so bright and no farther apart, which no visible
amount of a dye is; else the white itself was glass."""
BLACK, BLACK_SIDE, BLACK_AROUND = 12, 7, 2
"""Squares of this side whose colours are all at most so bright were not scanned; nor were this many pixels around them."""

CELL, BORDER = 120, 80
"""Levels of ``Seg``: red + blue above the first is nucleus, unless green is above the second."""
BORDER_GAIN = 8000.0
"""Green levels per density below ``VALLEY`` (or curvature above ``CURVED``): borders are nearly all or nothing."""


@dataclass(frozen=True)
class Levels:
    """What is found on a sample of a slide. background: brightness of glass (red, green, blue). nuclei: threshold of density.

    hematoxylin_only: density without DAB. stained: part of the tissue that is stained by DAB. tissue: its pixels in the sample.
    """

    background: tuple[float, float, float]
    nuclei: float
    hematoxylin_only: bool
    stained: float
    tissue: int


@dataclass(frozen=True)
class Deconvolution:
    """Translator without weights. stains: colours of the dyes. positive_od: amount of the second dye from which a nucleus is
    positive; None: 0.2, and no positive class for eosin. Raises UsageError for a ``positive_od`` that is not above 0.
    """

    stains: StainVectors = H_DAB
    positive_od: float | None = None
    name: str = field(default="Deconvolution", init=False)
    um_per_px: float = field(default=UM_PER_PX, init=False)
    weights_sha256: str = field(default="", init=False)
    window: int = field(default=512, init=False)
    overlap: int = field(default=64, init=False)
    samples_slide: bool = field(default=True, init=False)
    segs: tuple[str, ...] = field(default=(SEG,), init=False)
    separating_image: tuple[str, ...] = field(default=(), init=False)
    brightfield: tuple[str, ...] = field(default=(HEMATOXYLIN,), init=False)
    input_images: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        if self.positive_od is not None and not 0 < self.positive_od < 10:
            raise UsageError(
                f"a positive threshold of {self.positive_od} is not possible", hint="Give an optical density, e.g. 0.2"
            )

    @property
    def marker_image(self) -> str:
        """The picture of the second dye: ``DAB``, ``Eosin``, or as the project calls it where that is a plain name."""
        name = self.stains.second_name.strip()
        return name if PLAIN_NAME.fullmatch(name) and name not in (SEG, HEMATOXYLIN) else "Stain 2"

    @property
    def is_eosin(self) -> bool:
        """Whether the second dye stains everything, so that it says nothing of nuclei."""
        return self.stains.second_name.strip().casefold().startswith("eosin")

    @property
    def fluorescence(self) -> tuple[str, ...]:
        return (self.marker_image,)

    @property
    def threshold(self) -> float | None:
        """From which amount of the second dye a pixel is positive; None: never."""
        if self.positive_od is None:
            return None if self.is_eosin else POSITIVE_OD
        return self.positive_od

    def with_stains(self, stains: StainVectors) -> Deconvolution:
        return replace(self, stains=stains)

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    @property
    def n_segs(self) -> int:
        return 0

    def peer_weighting(self) -> None:
        """No published program averages here."""

    def images_for(self, wanted: str, *, separate: bool = False) -> tuple[str, ...]:
        """Which images ``--outputs`` needs; ``separate`` needs none besides (the shape of nuclei parts them)."""
        if wanted in ("score", "cells"):
            return (SEG, self.marker_image)
        return (SEG, self.marker_image, HEMATOXYLIN)

    def fills(self) -> Mapping[str, tuple[int, int, int]]:
        """What glass looks like in each image."""
        return {SEG: (0, 0, 0), self.marker_image: (0, 0, 0), HEMATOXYLIN: (255, 255, 255)}

    def passes(self, images: Sequence[str], weighting: Weighting | None = None) -> ColourPasses:
        """Raises UsageError for a weighting (there is one segmentation) and for images that it does not make."""
        if weighting is not None:
            raise UsageError(f"--model {DECONVOLUTION} has one segmentation: nothing to weigh", hint="No --weighting")
        unknown = [image for image in images if image not in self.fills()]
        if unknown:
            raise UsageError(
                f"--model {DECONVOLUTION} makes no {', '.join(unknown)}", hint=f"It makes {', '.join(self.fills())}"
            )
        return ColourPasses(self, tuple(images))

    def describe(self) -> dict[str, Any]:
        """For provenance and fingerprints."""
        return {
            "system": DECONVOLUTION,
            "rules": RULES,
            "stains": self.stains.name,
            "second": self.stains.second_name,
            "vectors": np.round(self.stains.matrix, 6).tolist(),
            "background": self.stains.glass,
            "positive_od": self.threshold,
        }


class ColourPasses(nn.Module):
    """The rules at work. Without ``levels`` they are found for each window on its own; ``frozen`` finds them once."""

    networks: tuple[str, ...] = ()
    inverse: Tensor
    vector: Tensor

    def __init__(self, translator: Deconvolution, images: tuple[str, ...], levels: Levels | None = None) -> None:
        super().__init__()
        self.translator, self.images, self.levels = translator, images, levels
        self.register_buffer("inverse", torch.from_numpy(translator.stains.inverse).float())
        self.register_buffer("vector", torch.from_numpy(translator.stains.matrix[0]).float())

    def forward(self, windows: Tensor) -> dict[str, Tensor]:
        """``(n, 3, s, s)`` in [-1, 1] -> each image ``(n, 3, s, s)`` float32 in [-1, 1]."""
        with torch.autocast(windows.device.type, enabled=False):  # densities and thresholds need all their digits
            # one by one: sums of a batch may round otherwise than those of a window
            made = [
                self._pictures(one, self.levels or self._levels_of(one)) for one in torch.split(_brightness(windows), 1)
            ]
        return {image: torch.cat([of_one[image] for of_one in made]) for image in self.images}

    def frozen(self, sample: Tensor) -> ColourPasses:
        """Glass, threshold and the part of DAB from all windows ``(n, 3, s, s)`` of the sample together."""
        with torch.no_grad(), torch.autocast(sample.device.type, enabled=False):
            levels = self._levels_of(_brightness(sample))
        return ColourPasses(self.translator, self.images, levels).to(self.inverse.device)

    def describe(self) -> dict[str, Any]:
        found = self.levels
        if found is None:
            return {"levels": "of each window"}
        return {
            "background": [round(value, 1) for value in found.background],
            "nuclei_density": round(found.nuclei, 4),
            "nuclei_by": "hematoxylin" if found.hematoxylin_only else f"hematoxylin + {self.translator.marker_image}",
            "stained_part_of_tissue": round(found.stained, 4),
            "tissue_pixels": found.tissue,
        }

    def _pictures(self, brightness: Tensor, levels: Levels) -> dict[str, Tensor]:
        amounts, _ = self._amounts(brightness, levels.background)
        makers = {
            SEG: lambda: self._seg(amounts, levels),
            self.translator.marker_image: lambda: _grey(amounts[:, 1:2] / OD_PER_LEVEL),
            HEMATOXYLIN: lambda: 255 * 10 ** (-amounts[:, :1] * self.vector.view(1, 3, 1, 1)),
        }
        return {image: makers[image]() / 127.5 - 1 for image in self.images}

    def _amounts(self, brightness: Tensor, background: Sequence[float]) -> tuple[Tensor, Tensor]:
        """``(n, 2, s, s)``: hematoxylin and the second dye, not below 0; and the summed optical density ``(n, 1, s, s)``."""
        glass = brightness.new_tensor(background).view(1, 3, 1, 1)
        density = torch.log10(glass / brightness.clamp(min=1)).masked_fill(_unscanned(brightness), 0)
        amounts = torch.einsum("nchw,ck->nkhw", density, self.inverse[:, :2])
        return amounts.clamp(min=0), density.sum(1, keepdim=True)

    def _seg(self, amounts: Tensor, levels: Levels) -> Tensor:
        nuclear = _nuclear(amounts, levels.hematoxylin_only)
        density = _smooth(nuclear, SMOOTH_PX)
        below = VALLEY - (density - _smooth(nuclear, AROUND_PX))
        curved = _curvature(_smooth(nuclear, CURVE_PX)) - CURVED * density
        strength = (density * (CELL / levels.nuclei)).clamp(max=255)
        green = (BORDER + torch.maximum(below, curved) * BORDER_GAIN).clamp(0, 255) * (strength > CELL)
        cut = self.translator.threshold
        if cut is None:
            return torch.cat([torch.zeros_like(strength), green, strength], 1)
        positive = (_smooth(amounts[:, 1:], SMOOTH_PX) / cut - 0.5).clamp(0, 1)
        return torch.cat([strength * positive, green, strength * (1 - positive)], 1)

    def _levels_of(self, brightness: Tensor) -> Levels:
        """Of all windows given, together."""
        stains = self.translator.stains
        background = stains.glass or _glass(brightness)
        amounts, summed = self._amounts(brightness, background)
        tissue = _smooth(summed, SMOOTH_PX) > TISSUE_OD
        pixels = int(tissue.sum())
        second = _smooth(amounts[:, 1:], SMOOTH_PX)
        cut = self.translator.threshold or POSITIVE_OD
        stained = float((second[tissue] >= cut).float().mean()) if pixels >= FEW_PIXELS else 0.0
        only = self.translator.is_eosin or stained > NOT_NUCLEAR
        found = tissue if only else tissue & (second < cut)
        density = _smooth(_nuclear(amounts, only), SMOOTH_PX)[found]
        nuclei = max(LOWEST, _otsu(density)) if len(density) >= FEW_PIXELS else WITHOUT_TISSUE
        return Levels(background, nuclei, only, stained, pixels)


def _brightness(windows: Tensor) -> Tensor:
    """Grey levels 0 to 255 of windows in [-1, 1]."""
    return (windows.float() + 1) * 127.5


def _nuclear(amounts: Tensor, hematoxylin_only: bool) -> Tensor:
    return amounts[:, :1] if hematoxylin_only else amounts.sum(1, keepdim=True)


def _grey(levels: Tensor) -> Tensor:
    return levels.clamp(0, 255).expand(-1, 3, -1, -1)


def _smooth(planes: Tensor, sigma: float) -> Tensor:
    """Gaussian, cut at 3 sigma; pixels outside are like the nearest inside."""
    reach = round(3 * sigma)
    at = torch.arange(-reach, reach + 1, device=planes.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    padded = functional.pad(planes, (reach, reach, 0, 0), mode="replicate")
    across = functional.conv2d(padded, kernel)
    padded = functional.pad(across, (0, 0, reach, reach), mode="replicate")
    return functional.conv2d(padded, kernel.transpose(2, 3))


def _curvature(planes: Tensor) -> Tensor:
    """The larger of the two principal second derivatives, per squared pixel: positive across valleys."""
    wide = functional.pad(planes, (1, 1, 1, 1), mode="replicate")
    middle = 2 * planes
    across = wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:] - middle
    down = wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1] - middle
    mixed = (wide[..., 2:, 2:] + wide[..., :-2, :-2] - wide[..., 2:, :-2] - wide[..., :-2, 2:]) / 4
    return (across + down) / 2 + torch.hypot((across - down) / 2, mixed)


def _unscanned(brightness: Tensor) -> Tensor:
    """Where a scanner left black ``(n, 1, s, s)``: areas, not single pixels, which may be pigment or dye."""
    dark = brightness.amax(1, keepdim=True) <= BLACK
    if not bool(dark.any()):
        return dark
    reach = BLACK_SIDE // 2
    eroded = 1 - functional.max_pool2d(1 - dark.float(), BLACK_SIDE, 1, reach)
    return functional.max_pool2d(eroded, 2 * (reach + BLACK_AROUND) + 1, 1, reach + BLACK_AROUND) > 0


def _glass(brightness: Tensor) -> tuple[float, float, float]:
    """The brightest that is common, per colour."""
    seen = brightness.transpose(0, 1).flatten(1)[:, ~_unscanned(brightness).flatten()]
    seen = seen.round().clamp(0, 255).long()
    within = _common(seen[:, (seen < 255).any(0)])
    is_glass = min(within) >= DIM_GLASS and max(within) - min(within) <= TINT
    return within if is_glass else _common(seen)


def _common(colours: Tensor) -> tuple[float, float, float]:
    """Of ``(3, pixels)`` grey levels."""
    found = []
    for colour in colours:
        counts = torch.bincount(colour, minlength=256).cumsum(0)
        level = int((counts * 100 < counts[-1] * GLASS_PERCENT).sum())
        found.append(float(max(DARKEST_GLASS, level)))
    return (found[0], found[1], found[2])


def _otsu(values: Tensor) -> float:
    """Otsu's threshold of the square roots, squared again; the middle between the two groups' bins."""
    top = DARKEST**0.5
    roots = values.clamp(0, DARKEST).sqrt()
    counts = torch.bincount((roots * (BINS / top)).long().clamp(max=BINS - 1), minlength=BINS).double().cpu().numpy()
    centres = (np.arange(BINS) + 0.5) * (top / BINS)
    below, sums = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    best = int(np.argmax(np.nan_to_num(between[:-1])))
    return float(((best + 1) * (top / BINS)) ** 2)
