"""What a trained MAXIM model is like on held-back regions: the figures that its card and its tables hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box
from mxbridge.metrics.agreement import BlockSums, agreement_record
from mxbridge.metrics.baselines import RIDGE, RIDGE_3X3, Baselines, with_margin
from mxbridge.metrics.input_range import InputSums, input_ranges
from mxbridge.metrics.moments import MomentSums
from mxbridge.metrics.spread import SpreadTable
from mxbridge.models.familiarity import Familiarity
from mxbridge.models.linear_start import LinearStart
from mxbridge.models.scaling import Scaling
from mxbridge.networks.maxim_unet import MaximUNet
from mxbridge.stream.views import SIX_VIEWS
from mxbridge.training.maxim.fields import ErrorSums, Fields, FieldTile, cores
from mxbridge.training.maxim.images import Panel
from mxbridge.training.maxim.patches import PixelStore, RegionSource
from mxbridge.training.maxim.split import Region, Split

SPREAD_SOURCE = "six views"
MOST_PIXELS = 16_000_000
"""Read to learn what channels are like; of more, a seeded choice of blocks."""
BLOCK, SMALL_BLOCK = 512, 256
"""Sides. Of whole slides few blocks are read: the mean of an image is better known from many small ones."""
EXAMPLES = 4
"""Held-back patches that are shown."""
EXAMPLE_SIDE = 128
JUDGED_IN_VIEWS = 4_000_000
"""Pixel passes (pixels x markers) that six views are made of, the dearest part by far: enough for the error by spread."""
FIELDS_WANTED = 10
"""Regions are cut in four where there are fewer, so that their scatter can be told."""


@dataclass(frozen=True)
class Example:
    """A patch for the picture: measured and imputed ``(output, y, x)`` in units."""

    where: str
    measured: NDArray[np.float32]
    imputed: NDArray[np.float32]


@dataclass
class Findings:
    """validation: for the card. rows: one per output, for validation.csv. examples: for the picture."""

    validation: dict[str, Any]
    rows: list[dict[str, Any]]
    examples: list[Example] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, Any]:
        """For the card: means over the markers, then each marker's."""
        numbers = [k for k in self.rows[0] if k != "marker"]
        means = {f"validation_{k}": _mean([row[k] for row in self.rows]) for k in numbers}
        return means | {row["marker"]: {k: row[k] for k in numbers} for row in self.rows}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return round(float(np.mean(known)), 5) if known else None


def fit_start(store: PixelStore, regions: Sequence[Region], panel: Panel, seed: int) -> LinearStart:
    """The regression between all markers of the training regions."""
    sums = MomentSums(len(panel.planes))
    for region, box in _blocks(store, regions, seed):
        sums.add(with_margin(RegionSource(store, region), box))
    return LinearStart(panel.planes, sums.mean, sums.products / max(1, sums.n))


def fit_baselines(
    store: PixelStore, regions: Sequence[Region], panel: Panel, scalings: Mapping[str, Scaling], seed: int
) -> Baselines:
    """The regressions that a model is compared with, from the training regions."""
    sources = [RegionSource(store, region) for region in regions]
    scaling = {m: s.to_json() for m, s in scalings.items()}
    if panel.any_marker:
        return Baselines.fit(sources, panel.planes, scaling=scaling, seed=seed)
    return Baselines.fit(sources, panel.planes, inputs=panel.inputs, targets=panel.outputs, scaling=scaling, seed=seed)


def _blocks(store: PixelStore, regions: Sequence[Region], seed: int, side: int = BLOCK) -> Iterator[tuple[Region, Box]]:
    """Blocks of regions, counted from their first pixel: all, or a seeded choice of MOST_PIXELS."""
    every = [(r, core) for r in regions for core in cores(Box(0, 0, *r.box.shape), side)]
    chosen: list[int] = []
    pixels = 0
    for k in np.random.default_rng([seed, 35]).permutation(len(every)):
        if pixels >= MOST_PIXELS:
            break
        chosen.append(int(k))
        pixels += every[k][1].shape[0] * every[k][1].shape[1]
    for k in sorted(chosen):
        yield every[k]


def find_out(network: MaximUNet, fields: Fields, baselines: Baselines, split: Split, names: Sequence[str]) -> Findings:
    """Judge the trained network on its held-back regions, beside the regressions. names: of the images, by number.

    Of large regions a seeded choice of tiles is judged (``fields.most``), and of these a part in six views.
    """
    panel = fields.panel
    outputs = panel.outputs
    blocks = [BlockSums(len(outputs), region.box.shape) for region in fields.regions]
    spreads = [SpreadTable(SPREAD_SOURCE) for _ in outputs]
    errors = {kind: ErrorSums(len(outputs)) for kind in ("", RIDGE, RIDGE_3X3)}
    examples: list[Example] = []
    judged, turned = 0, 0
    for tile in fields.predict(network, SIX_VIEWS, most_in_views=JUDGED_IN_VIEWS):
        region = fields.regions[tile.field]
        errors[""].add(tile.unit[0], tile.truth)
        blocks[tile.field].add(tile.box, tile.unit[0], tile.truth)
        judged += tile.truth[0].size
        if len(tile.unit) == len(SIX_VIEWS):
            turned += tile.truth[0].size
            middle, scatter = tile.unit.mean(axis=0), tile.unit.std(axis=0)
            for k, table in enumerate(spreads):
                table.add(scatter[k], np.abs(middle[k] - tile.truth[k]))
        source = RegionSource(fields.store, region)
        unit = with_margin(source, tile.box)[[panel.planes.index(name) for name in baselines.inputs]]
        rivals = baselines.predict_many(unit, outputs)
        for kind in (RIDGE, RIDGE_3X3):
            errors[kind].add(rivals[kind], tile.truth)
        if len(examples) < EXAMPLES:
            examples.append(_example(tile, region, names[region.image]))
    return Findings(
        {
            "kind": split.kind,
            "seen_on": {
                "errors and agreement": f"{judged} of {fields.pixels} held-back pixels",
                "spread": f"{turned} of {fields.pixels} held-back pixels",
                "channel means and input ranges": "training and held-back regions",
                "scaling, linear start and baselines": "training regions",
            },
            "agreement": agreement_record(blocks, outputs),
            "spread": {name: table.record() for name, table in zip(outputs, spreads, strict=True)},
            **_channels(fields.store, split, panel, fields.seed),
        },
        [_row(name, k, errors) for k, name in enumerate(outputs)],
        examples,
    )


def _row(name: str, k: int, errors: Mapping[str, ErrorSums]) -> dict[str, Any]:
    """MAE and Pearson of one output, of the network and of the regressions; None for what cannot be told."""
    out: dict[str, Any] = {"marker": name}
    for figure in ("mae", "pearson"):
        for kind, sums in errors.items():
            value = float(getattr(sums, figure)[k])
            out[f"{kind.replace(' ', '_')}_{figure}".lstrip("_")] = round(value, 5) if np.isfinite(value) else None
    return out


def _example(tile: FieldTile, region: Region, name: str) -> Example:
    """The middle of a tile, where it is brightest of four places."""
    height, width = tile.truth.shape[1:]
    side_y, side_x = min(EXAMPLE_SIDE, height), min(EXAMPLE_SIDE, width)
    places = [
        (int(a * (height - side_y)), int(b * (width - side_x)))
        for a, b in ((0.5, 0.5), (0.5, 0.1), (0.5, 0.9), (0.1, 0.5))
    ]
    y, x = max(places, key=lambda p: float(tile.truth[:, p[0] : p[0] + side_y, p[1] : p[1] + side_x].sum()))
    here = (slice(None), slice(y, y + side_y), slice(x, x + side_x))
    y0, x0 = region.box.y0 + tile.box.y0 + y, region.box.x0 + tile.box.x0 + x
    return Example(f"{name}, row {y0}, column {x0}", tile.truth[here], tile.unit[0][here])


def _channels(store: PixelStore, split: Split, panel: Panel, seed: int) -> dict[str, Any]:
    """Means and ranges of the channels on good images, training and validation: what a new image is compared with."""
    regions = [*split.training, *split.validation]
    parts: dict[tuple[int, int], InputSums] = {}
    cut = 1 if len(regions) >= FIELDS_WANTED else 2
    for region, box in _blocks(store, regions, seed, SMALL_BLOCK):
        number = regions.index(region)
        for k, part in enumerate(_cut(box, region.box.shape, cut)):
            if 0 not in part.shape:
                sums = parts.setdefault((number, k), InputSums(panel.planes))
                sums.add(RegionSource(store, region).read(part))
    rows = [[sums.summaries()[name].mean for name in panel.inputs] for sums in parts.values()]
    familiar = Familiarity.fit(panel.inputs, rows)
    out: dict[str, Any] = {"input_ranges": input_ranges(list(parts.values()))}
    return out if familiar is None else out | {"channel_means": familiar.record()}


def _cut(box: Box, shape: tuple[int, int], parts: int) -> list[Box]:
    """The box's share of each of ``parts`` x ``parts`` parts of a region."""
    ys, xs = (np.linspace(0, side, parts + 1).round().astype(int) for side in shape)
    return [
        Box(max(box.y0, int(ys[i])), max(box.x0, int(xs[j])), min(box.y1, int(ys[i + 1])), min(box.x1, int(xs[j + 1])))
        for i in range(parts)
        for j in range(parts)
    ]
