"""``spread.csv`` and ``spread.png`` of a run: how far off the model was on its validation images, by the spread it showed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mxbridge.formats.atomic import write_atomically
from mxbridge.metrics.spread import SpreadRecord

TABLE, PICTURE = "spread.csv", "spread.png"
SPREAD_FILES = (TABLE, PICTURE)
"""What :func:`write_spread_report` makes."""


def write_spread_report(records: Mapping[str, SpreadRecord], folder: Path) -> None:
    """records: by marker. All numbers are in unit values (0..1 as the model sees them). Raises OutputError."""
    import pandas as pd

    rows = [
        {"marker": marker, "source": record.source, "pixels": row.pixels, "spread": row.spread, "error": row.error}
        for marker, record in records.items()
        for row in record.rows
    ]
    with write_atomically(folder / TABLE) as part:
        pd.DataFrame(rows).to_csv(part, index=False, encoding="utf-8", lineterminator="\n")
    with write_atomically(folder / PICTURE) as part:
        _draw(records, part)


def _draw(records: Mapping[str, SpreadRecord], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    largest = max(row.spread for record in records.values() for row in record.rows)
    axes.plot([0, largest], [0, largest], color="0.8", linewidth=1, label="error = spread")
    for marker, record in records.items():
        label = f"{marker} (Spearman {record.spearman:.2f})"
        axes.plot(
            [r.spread for r in record.rows], [r.error for r in record.rows], marker="o", markersize=3, label=label
        )
    axes.set_xlabel("spread of the predictions (0..1)")
    axes.set_ylabel("mean absolute error on validation images (0..1)")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})
