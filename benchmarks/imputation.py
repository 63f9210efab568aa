"""How well markers are imputed on real images, beside the baselines: Markdown tables from ``mxbridge train`` and ``evaluate``.

``python -m benchmarks.imputation spectre|orion [--data FOLDER] [--out FOLDER] [--model FILE ...] [--on FIELD] [-- OPTIONS OF TRAIN MAXIM]``

Without ``--model`` one any-marker network is trained first (into OUT, where a killed training goes on), with early stopping on a region
held back inside the training images, and its CPU seconds are told. The image for the test is opened once, by ``evaluate``. Several
models of single markers are told as one table. DATA is the folder of real data (else ``MXBRIDGE_SHARED``/data, ``../shared/data``).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import machine
from benchmarks.tissue import FIELDS, Fields

MODEL, RIDGE, RIDGE_3X3, MEAN, ZERO = "model", "ridge", "ridge 3x3", "mean of inputs", "zero"
REGION = "0.25"
"""Of every training image, held back for early stopping."""
TRAINING = {"spectre": ("--scaling", "arcsinh:5", "--cap", "0.995"), "orion": ()}
"""Counts are scaled as data/README.md says."""
BEST_OF = 9
CONTROLS = ("DNA1", "DNA3")
"""Two isotopes of one stain: no worse than ridge."""

Scores = Mapping[tuple[str, str], Mapping[str, float]]
"""Values by (marker, method)."""


@dataclass(frozen=True)
class Measure:
    """One column of ``markers.csv``. better: whether more of it is better."""

    column: str
    name: str
    more_is_better: bool

    def ahead(self, one: float, other: float) -> bool:
        """False where one of them is no number."""
        return one > other if self.more_is_better else one < other

    def no_worse(self, one: float, other: float) -> bool:
        return one >= other if self.more_is_better else one <= other


MEASURES = {
    "spectre": (Measure("mae", "MAE", False), Measure("cell_pearson", "Pearson of cells", True)),
    "orion": (Measure("pearson", "Pearson of pixels", True), Measure("smooth_iou", "smoothed IoU", True)),
}
METHODS = (MODEL, RIDGE_3X3, RIDGE, MEAN, ZERO)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(FIELDS))
    shared = Path(os.environ.get("MXBRIDGE_SHARED", "../shared"))
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--out", type=Path, help="else imputation-WHAT in the current folder")
    parser.add_argument("--model", type=Path, action="append", default=[])
    parser.add_argument(
        "--on", help="look at this field instead of the test's, while something is tried", metavar="FIELD"
    )
    words, more = _parted(sys.argv[1:])
    given = parser.parse_args(words)
    out = given.out or Path(f"imputation-{given.what}")
    fields = FIELDS[given.what](given.data, out / "images")
    models = given.model or [trained(fields, out / f"any-{given.what}.safetensors", [*TRAINING[given.what], *more])]
    test = (given.on,) if given.on else fields.test
    rows = evaluated(fields, test, models, out / f"evaluation-{'-'.join(test)}")
    print(f"### Imputation, {given.what}: {', '.join(test)}\n\n{machine()}\n")
    for model in models:
        print(f"- {told(model)}")
    print(f"\n{table(rows, fields.markers, MEASURES[given.what])}")
    print("\n".join(verdict(rows, fields.markers, MEASURES[given.what], given.what)))


def _parted(words: list[str]) -> tuple[list[str], list[str]]:
    """Our own options, and those behind ``--``."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def trained(fields: Fields, weights: Path, options: Sequence[str]) -> Path:
    """Train one network for any missing marker, unless it is there."""
    if not weights.exists():
        command = [
            "train",
            "maxim",
            "--any-marker",
            "--validation-region",
            REGION,
            *fields.options(fields.train, cells=False),
        ]
        _mxbridge(*command, "--out", weights, *options)
        used = os.times()
        _spent(weights).write_text(f"{used.children_user + used.children_system:.0f}", encoding="utf-8")
    return weights


def evaluated(fields: Fields, names: tuple[str, ...], models: Sequence[Path], run: Path) -> Scores:
    """Values of some fields, means over them, by marker and method."""
    named = [word for model in models for word in ("--model", model)]
    _mxbridge("evaluate", *named, *fields.options(names, cells=True), "--out", run, "--restart")
    return read_scores(run / "markers.csv")


def read_scores(markers: Path) -> Scores:
    """From ``markers.csv`` of an evaluation. Raises RuntimeError where two models speak of one marker."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    with markers.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            key = row["marker"], row["method"]
            if key in found:
                raise RuntimeError(f"two models impute {key[0]}; give one of them")
            numbers = {m.column: row[m.column] for measures in MEASURES.values() for m in measures}
            found[key] = {name: float(text) if text else math.nan for name, text in numbers.items()}
    return found


def told(model: Path) -> str:
    """What a model's card says of how it came about, and what its training took where that was measured here."""
    card = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
    took = f"; {_spent(model).read_text(encoding='utf-8')} CPU s" if _spent(model).is_file() else ""
    return f"`{model.name}`: {card['description']}; {card['training_data']}; {card['split']}{took}"


def _spent(weights: Path) -> Path:
    """CPU seconds of the process that ended the training; one that was killed before is not counted."""
    return weights.with_suffix(".cpu-seconds")


def table(scores: Scores, markers: Sequence[str], measures: Sequence[Measure]) -> str:
    """Markdown: a row for each marker that was imputed, a column for each measure and method; the better is bold."""
    done = [marker for marker in markers if (marker, MODEL) in scores]
    columns = [(measure, _methods(scores, done, measure)) for measure in measures]
    heads = [f"{measure.name}: {method}" for measure, methods in columns for method in methods]
    lines = ["| marker | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for marker in done:
        cells = []
        for measure, methods in columns:
            values = [scores[marker, method][measure.column] for method in methods]
            best = [not any(measure.ahead(other, value) for other in values) for value in values]
            cells += [_shown(value, is_best) for value, is_best in zip(values, best, strict=True)]
        lines.append(f"| {marker} | " + " | ".join(cells) + " |")
    means = [
        _mean([scores[marker, method][m.column] for marker in done]) for m, methods in columns for method in methods
    ]
    lines.append("| **mean** | " + " | ".join(_shown(value, False) for value in means) + " |")
    return "\n".join(lines) + "\n"


def _methods(scores: Scores, markers: Sequence[str], measure: Measure) -> list[str]:
    """Those that were measured for all markers and say something: a constant correlates with nothing."""
    there = [method for method in METHODS if all((marker, method) in scores for marker in markers)]
    return [t for t in there if not all(math.isnan(scores[marker, t][measure.column]) for marker in markers)]


def verdict(scores: Scores, markers: Sequence[str], measures: Sequence[Measure], what: str) -> list[str]:
    """How often the model is ahead of ridge with 3x3 means, in each measure and in all of them; the bars of spectre."""
    done = [m for m in markers if (m, MODEL) in scores and (m, RIDGE_3X3) in scores]
    ahead = {m.name: [marker for marker in done if _ahead(scores, marker, RIDGE_3X3, m)] for m in measures}
    lines = [f"- ahead of {RIDGE_3X3} in {name}: {len(names)} of {len(done)} markers" for name, names in ahead.items()]
    both = [marker for marker in done if all(marker in names for names in ahead.values())]
    bar = f" (bar {BEST_OF}: {'kept' if len(both) >= BEST_OF else '**missed**'})" if what == "spectre" else ""
    others = ", ".join(marker for marker in done if marker not in both)
    lines.append(f"- in all of them: {len(both)} of {len(done)}{bar}" + (f"; not: {others}" if others else ""))
    for marker in (m for m in CONTROLS if m in done):
        worse = [
            m.name for m in measures if not m.no_worse(scores[marker, MODEL][m.column], scores[marker, RIDGE][m.column])
        ]
        lines.append(f"- {marker} no worse than ridge: {'**missed** in ' + ', '.join(worse) if worse else 'kept'}")
    return lines


def _ahead(scores: Scores, marker: str, rival: str, measure: Measure) -> bool:
    return measure.ahead(scores[marker, MODEL][measure.column], scores[marker, rival][measure.column])


def _shown(value: float, best: bool) -> str:
    if math.isnan(value):
        return "-"
    return f"**{value:.4f}**" if best else f"{value:.4f}"


def _mean(values: Sequence[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


def _mxbridge(*words: object) -> None:
    """What a command says goes to the screen, its table with it; only the tables of this benchmark go to stdout."""
    subprocess.run([sys.executable, "-m", "mxbridge", *map(str, words)], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
