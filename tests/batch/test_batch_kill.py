"""kill -9 at any moment of a night: the same command goes on, and every image is done once and as if nothing had happened."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxbridge.batch.ledger import Ledgers
from mxbridge.formats.open_image import open_image
from mxbridge.image import computed
from mxbridge.models.normalization import Normalization
from mxbridge.workspaces.qupath.new import create_project, open_new_image
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from tests.batch.toy_job import IMPUTE, QUICK, SCORE, toy_job
from tests.cli.prepared import Prepared

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.skipif(sys.platform == "darwin", reason="forking with threads is not safe there"),
]

KILLS, SEED = 2, 20261121
TEXT = '[[source]]\nproject = "slides/project.qpproj"\n' + IMPUTE + SCORE.replace('"Ki67"', '"CD8 (MAXIM)"') + QUICK
NAMES = ("a", "b")


def place(folder: Path) -> Path:
    """A job over a project of two images."""
    job = toy_job(folder, TEXT, NAMES)
    images = folder / "images"
    create_project(
        folder / "slides", [open_new_image(images / f"{n}.ome.tif", images / f"{n}_mask.tif") for n in NAMES]
    )
    return job


def outcome(job: Path) -> dict[str, Any]:
    """All measurements of the images' cells, the channels beside them, and the frozen factors."""
    project = Project.open(job.parent / "slides" / "project.qpproj")
    found: dict[str, Any] = {}
    for entry in project.entries:
        if entry.name.split(".")[0] in NAMES and not entry.made_by_mxbridge:
            objects = ImageDataFile.read(project.data_path(entry.id)).objects()
            # ids of cells are made anew with each project
            found[entry.name] = sorted(repr(dict(o.measurements)) for o in objects)
            derived = job.parent / "slides" / "mxbridge" / "derived" / str(entry.id)
            for path in sorted(derived.glob("*.zarr")):
                found[f"{entry.name} {path.name[:3]}"] = computed(open_image(path).levels[0]).tobytes()
    (factors,) = (job.parent / "job.ledger").glob("normalization-*.json")
    return found | {"factors": Normalization.load(factors).factors}


def test_killed_in_the_middle_of_a_night(tmp_path: Path, prepared: Prepared) -> None:
    expected = place(tmp_path / "undisturbed")
    prepared.run(["batch", "plan", expected])  # imports what the others then find
    end = prepared.run(["batch", "run", expected, "--quiet"])
    assert end.code == 0, end.said
    job, died = place(tmp_path / "killed"), 0
    for share in np.random.default_rng(SEED).uniform(0.1, 0.35, KILLS).round(3).tolist():
        died += prepared.run(["batch", "run", job, "--quiet"], kill_after=share * end.seconds).code == -9
    last = prepared.run(["batch", "run", job, "--quiet"])
    assert last.code == 0, last.said
    again = prepared.run(["batch", "run", job])
    assert "Nothing to do" in again.said
    assert died >= KILLS - 1  # a machine that has become faster may have done it before
    with Ledgers.looked_at(job.parent / "job.ledger") as ledgers:
        rows = ledgers.rows()
        assert len(ledgers.all_frozen()) == 1
    # a kill in the middle of one task's publication leaves what another had published beside it to be put there again: from the
    # same run, of which there is one for each task of each image
    done = {(row.name, row.task, row.fingerprint, row.folder) for row in rows if row.state == "done"}
    assert sum(row.state == "done" for row in rows) <= len(done) + died
    assert Counter((name, task) for name, task, *_ in done) == Counter(
        {(f"{name}.ome.tif", task): 1 for name in NAMES for task in ("impute", "score")}
    )
    assert outcome(job) == outcome(expected)
    assert len(list((job.parent / "runs").glob("*/*/*/run.json"))) == 4
    assert not list((job.parent / "runs").rglob("work"))
