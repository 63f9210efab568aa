"""What the ledger keeps of a finished run of one image: the numbers that people compare from night to night."""

from __future__ import annotations

from typing import Any

from mxbridge.runs import Run
from mxbridge.tasks.over_images import ImageTask
from mxbridge.tasks.qc import QcTask
from mxbridge.tasks.score import ScoreTask
from mxbridge.tasks.translate import TranslateTask, summary


def outcome(task: ImageTask, run: Run) -> dict[str, Any]:
    """Of a run with one image. positive: ``[positive, all]`` cells by measurement; verdicts: by marker; factors: by marker."""
    counts = dict(run.images[0].counts) if run.images else {}
    told: dict[str, Any] = {key: counts[key] for key in ("cells", "markers", "nuclei") if key in counts}
    if isinstance(task, ScoreTask):
        told["factors"] = counts.get("factors", {})
        told["positive"] = {c.measurement: [c.positive, c.cells] for c in task.positives(run)}
    elif isinstance(task, QcTask):
        told["verdicts"] = {f"{row.marker} ({row.model})": row.verdict for row in task.rows(run)}
        told["flagged"] = sum(row.is_flag for row in task.rows(run))
    elif isinstance(task, TranslateTask):
        whole = [row for row in summary(run) if not row["annotation"]]
        told["positive"] = {
            f"{row['model']}: positive": [row["num_pos"], row["num_total"]] for row in whole if row["num_total"]
        }
    elif counts.get("unfamiliar"):
        told["unfamiliar"] = counts["unfamiliar"]
    if run.images and run.images[0].warnings:
        told["warnings"] = list(run.images[0].warnings)
    return told
