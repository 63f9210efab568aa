"""kill -9 while a slide is translated: nothing of the user's is lost, and the same command ends with identical results.

As in ``test_kill.py``, at fewer of the steps. Names of values say the run, so run ids are taken out before files are compared.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prepared import End, Prepared
from test_kill import Place, below, drawn

from mxbridge.workspaces.qupath.new import create_project, open_new_image
from tests.toy_ihc import ihc

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.skipif(sys.platform == "darwin", reason="forking with threads is not safe there"),
]

SHAPE = (560, 300)
"""Two windows."""

SHARE = 3
OF_A_RUN = re.compile(rb'\d{8}-\d{6}-[0-9a-f]{6}|"(?:randomizedName|_mxbridge\.\w+)": "[^"]*"')
"""Run ids, and what differs with them or by chance in project files."""

TABLES = ("nuclei.csv", "nuclei.parquet", "scores.csv")


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepared]:
    with Prepared() as prepared:
        yield prepared


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    Image.fromarray(np.moveaxis(ihc(SHAPE), 0, -1)).save(folder / "slide.png")
    create_project(folder / "pristine", [open_new_image(folder / "slide.png")], um_per_px=0.5)
    return folder / "pristine"


def kept(folder: Path) -> dict[str, bytes]:
    """The user's files, whatever run wrote them."""
    files = below(folder, "project.qpproj", "data/*/data.qpdata", "classifiers/classes.json")
    return {name: OF_A_RUN.sub(b"RUN", data) for name, data in files.items()}


def translate(prepared: Prepared, folder: Path, **how: Any) -> End:
    words = ["translate", "--project", folder / "project.qpproj", "--model", "deconvolution", "--outputs", "all"]
    end = prepared.run([*words, "--workers", 1, "--quiet"], **how)
    assert end.code == 0, end.said
    return end


def outcome(folder: Path) -> dict[str, Any]:
    runs = [path.parent for path in folder.glob("mxbridge-runs/*/run.json")]
    run = max(runs, key=lambda path: path.name)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["finished"]
    pixels = below(run, "images/*/maps.zarr/*")
    shown = below(folder / "mxbridge" / "derived", "*.tif")
    return {
        **kept(folder),
        **below(run, *TABLES),
        **{name: data for name, data in pixels.items() if "/c/" in name},
        **{name: drawn(data) for name, data in shown.items()},
        "runs": len(runs),
        "litter": sorted(str(p) for p in folder.rglob("*") if Place.is_litter(p)),
        "images": [(i["name"], i["status"], i["warnings"], i["error"], i["counts"]["score"]) for i in record["images"]],
    }


@pytest.mark.timeout(600)
def test_killed_before_and_after_steps(pristine: Path, prepared: Prepared, tmp_path: Path) -> None:
    folder = pristine.with_name("project ü")
    shutil.copytree(pristine, folder)
    old = kept(folder)
    translate(prepared, folder)
    expected, new = outcome(folder), kept(folder)
    assert set(TABLES) <= set(expected)
    shutil.rmtree(folder)
    shutil.copytree(pristine, folder)
    watched = translate(prepared, folder, watch=folder, to=tmp_path)
    assert watched.steps > 40
    chosen = np.linspace(0, len(watched.states) - 1, SHARE).round().astype(int).tolist()
    for state, moment in (watched.states[k] for k in chosen):
        shutil.rmtree(folder)
        Path(state).rename(folder)
        for name, data in kept(folder).items():
            assert data in (old.get(name), new[name]), f"killed {moment}: {name} is neither the old nor the new one"
        end = translate(prepared, folder)
        found = outcome(folder)
        for name in sorted({*found, *expected}):
            assert found.get(name) == expected.get(name), f"killed {moment}: in the end {name} differs ({end.said})"
