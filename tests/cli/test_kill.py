"""kill -9 at any moment loses nothing, and the same command ends with identical tables."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mxbridge.workspaces.qupath.qpdata import ImageDataFile

MOMENTS = 10
SEED = 20261121
"""Of the moments; a failure names the moment, so that it can be repeated."""


def command(project: Path) -> list[str]:
    options = ["--model", "demo", "--tile", "128", "--workers", "1", "--quiet", "--resume"]
    return [sys.executable, "-m", "mxbridge", "score", "--project", str(project), *options]


def run_to_the_end(project: Path) -> float:
    started = time.monotonic()
    subprocess.run(command(project), check=True, capture_output=True, timeout=200)
    return time.monotonic() - started


def outcome(project: Path) -> tuple[bytes, list[bytes]]:
    """The table of the finished run, and both ``data.qpdata``."""
    finished = [r for r in (project.parent / "mxbridge-runs").iterdir() if (r / "cells.csv").exists()]
    assert len(finished) == 1
    assert not list(project.parent.rglob("*.mxbridge-part"))
    assert not list(finished[0].rglob("work"))
    data = [(project.parent / f"data/{entry}/data.qpdata").read_bytes() for entry in (1, 2)]
    return (finished[0] / "cells.csv").read_bytes(), data


@pytest.fixture(scope="module")
def reference(
    pristine_project: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[bytes, list[bytes]], float]:
    project = Path(shutil.copytree(pristine_project, tmp_path_factory.mktemp("whole") / "p")) / "project.qpproj"
    seconds = run_to_the_end(project)
    return outcome(project), seconds


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")
@pytest.mark.parametrize("moment", np.random.default_rng(SEED).uniform(0.3, 1.0, MOMENTS).round(3).tolist())
def test_killed_at_any_moment(reference: tuple, pristine_project: Path, tmp_path: Path, moment: float) -> None:
    expected, seconds = reference
    project = Path(shutil.copytree(pristine_project, tmp_path / "p")) / "project.qpproj"
    with subprocess.Popen(command(project), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(moment * seconds)
        process.send_signal(signal.SIGKILL)
    for entry in (1, 2):
        ImageDataFile.read(project.parent / f"data/{entry}/data.qpdata")
    run_to_the_end(project)
    assert outcome(project) == expected
