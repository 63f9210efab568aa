"""How good the embedded weights are: ``python -m benchmarks.weights [--model demo|FILE] [--seeds N]``.

Simulated settings that no training has seen, each with new numbers, beside the simplest rival: the best threshold on a marker's
mean intensity, chosen with the truth in hand. Then one real field, 270 cells: an anecdote, no evidence.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mxbridge.cells import LabelCells
from mxbridge.image import Channel, LocalImage
from mxbridge.models import catalogue
from mxbridge.models.nimbus import Nimbus
from mxbridge.models.normalization import fit
from mxbridge.stream.engine import Engine
from mxbridge.training.judge import auroc, best_f1, f1, judge
from mxbridge.training.panels import demo_slide, scenarios
from mxbridge.training.simulator import simulate

FIRST_SEED = 9_300_001
"""Above every number of training, validation and the card's own figures."""
FIELD = "vectra_phenoptr/FIHC4__0929309_HP_IM3_2"
CHANNELS = ("Alexa594", "Cy3", "Cy5", "DAPI", "FITC")
PHENOTYPES = {"Cy5": "B", "FITC": "Helper T", "Alexa594": "Cytotoxic T"}
"""Which channel each phenotype of the field's own table is called by (seen from the channels' means)."""
UM_PER_PX = 0.497
"""From the resolution tag of the field's component TIFF."""
MEMBRANE_PX = 6
"""A pixel of the membrane map belongs to the nearest cell within this distance."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Anecdote:
    """One marker against the phenotype called by it. interval: 95 % of AUROC over resampled cells, per class."""

    marker: str
    phenotype: str
    positive: int
    cells: int
    auroc: float
    interval: tuple[float, float]
    auroc_intensity: float
    called: float
    f1: float
    f1_intensity: float


def simulated(model: Nimbus, seeds: int) -> list[tuple[str, float, float, float]]:
    """Per setting: macro-F1 at 0.5, macro-F1 of the best intensity thresholds, AUROC; means over ``seeds`` fields."""
    rows = []
    for name, settings in [*scenarios().items(), ("demo slide", None)]:
        numbers = range(FIRST_SEED, FIRST_SEED + (seeds if settings else 1))
        tissues = (simulate(settings, n) if settings else demo_slide(n) for n in numbers)
        figures = [judge(model.network, tissue, model.um_per_px, model.stride).macro for tissue in tissues]
        ours, rival, area = np.mean(figures, axis=0)
        rows.append((name, float(ours), float(rival), float(area)))
    return rows


def anecdotes(model: Nimbus, data: Path) -> list[Anecdote]:
    """The field of phenoptr's sample data, scored as ``mxbridge score --no-tta`` does. data: the folder of data sets."""
    import pandas as pd

    image, labels = _vectra(data / FIELD)
    table = pd.read_csv(f"{data / FIELD}_cell_seg_data.txt", sep="\t").set_index("Cell ID").sort_index()
    cells = _cells(labels)
    columns = {name: index for index, name in enumerate(CHANNELS)}
    wanted = [columns[m] for m in PHENOTYPES]
    factors = fit([(image.identity, image, columns)]).for_image(image.identity, list(PHENOTYPES))
    scores = model.score(image, cells, wanted, factors, Engine(device="cpu")).score
    pixels = np.asarray(image.levels[0])
    area = np.bincount(labels.ravel())[1:]
    out = []
    for row, (marker, phenotype) in enumerate(PHENOTYPES.items()):
        truth = (table["Phenotype"] == phenotype).to_numpy()
        score, mean = scores[row], np.bincount(labels.ravel(), pixels[wanted[row]].ravel())[1:] / area
        out.append(
            Anecdote(
                marker,
                phenotype,
                int(truth.sum()),
                len(truth),
                auroc(truth, score),
                bootstrap(truth, score),
                auroc(truth, mean),
                float((score >= 0.5).mean()),
                f1(truth, score >= 0.5),
                best_f1(truth, mean),
            )
        )
    return out


def bootstrap(truth: NDArray[np.bool_], values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the AUROC: cells drawn again with replacement within each class, seeded."""
    rng = np.random.default_rng(0)
    kinds = np.flatnonzero(truth), np.flatnonzero(~truth)
    drawn = [np.concatenate([rng.choice(k, len(k)) for k in kinds]) for _ in range(RESAMPLES)]
    low, high = np.quantile([auroc(truth[d], values[d]) for d in drawn], [0.025, 0.975])
    return float(low), float(high)


def _vectra(stem: Path) -> tuple[LocalImage, NDArray[np.int32]]:
    """The five unmixed planes, and whole cells: nucleus and cytoplasm maps, membrane pixels to the nearest cell."""
    import tifffile

    with tifffile.TiffFile(f"{stem}_component_data.tif") as opened:
        planes = np.stack([page.asarray() for page in opened.pages[: len(CHANNELS)]])
    with tifffile.TiffFile(f"{stem}_binary_seg_maps.tif") as opened:
        nucleus, cytoplasm, membrane = (page.asarray().astype(np.int32) for page in opened.pages[1:4])
    labels = np.where(nucleus > 0, nucleus, cytoplasm)
    distance, (y, x) = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    labels = np.where((labels == 0) & (membrane > 0) & (distance <= MEMBRANE_PX), labels[y, x], labels)
    channels = tuple(Channel(name) for name in CHANNELS)
    return LocalImage("vectra", (da.from_array(planes),), channels, (UM_PER_PX, UM_PER_PX), "vectra"), labels


def _cells(labels: NDArray[np.int32]) -> LabelCells:
    count = int(labels.max())
    boxes = np.tile([0, 0, *labels.shape], (count, 1)).astype(np.int64)
    ids = tuple(str(k + 1) for k in range(count))
    return LabelCells(
        ids, (None,) * count, labels.shape, da.from_array(labels), np.arange(1, count + 1), boxes, "vectra"
    )


def _say_simulated(rows: list[tuple[str, float, float, float]]) -> None:
    print("| simulated setting | macro-F1 at 0.5 | best intensity threshold | difference | AUROC |")
    print("|---|---:|---:|---:|---:|")
    for name, ours, rival, area in rows:
        print(f"| {name} | {ours:.3f} | {rival:.3f} | {ours - rival:+.3f} | {area:.3f} |")


def _say_anecdotes(rows: list[Anecdote]) -> None:
    print("\nOne real field (phenoptr's sample, 270 cells, phenotypes of its own program): an anecdote, no evidence.\n")
    print(
        "| channel, phenotype | positive | AUROC (95 %) | AUROC of mean intensity | called at 0.5 | F1 | best F1 of intensity |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for a in rows:
        low, high = a.interval
        print(
            f"| {a.marker}, {a.phenotype} | {a.positive} of {a.cells} ({a.positive / a.cells:.1%}) | {a.auroc:.3f} "
            f"({low:.3f} to {high:.3f}) | {a.auroc_intensity:.3f} | {a.called:.1%} | {a.f1:.3f} | {a.f1_intensity:.3f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="name or file")
    parser.add_argument("--seeds", type=int, default=2, help="fields per setting")
    given = parser.parse_args()
    found = catalogue.resolve(given.model)
    model = catalogue.open_model(found)
    print(f"{found.path.name}, sha256 {found.sha256[:12]}, simulator {found.card.settings_hash[:12]}\n")
    _say_simulated(simulated(model, given.seeds))
    shared = Path(os.environ.get("MXBRIDGE_SHARED", Path(__file__).parents[1] / "../shared")).resolve() / "data"
    if not Path(f"{shared / FIELD}_component_data.tif").exists():
        print("\nThe real field is not here (MXBRIDGE_SHARED names the folder of real data).")
        return
    _say_anecdotes(anecdotes(model, shared))


if __name__ == "__main__":
    main()
