"""kill -9 while stains are imputed: nothing of the user's is lost, and the same command ends with identical results.

As in ``test_kill.py``, at fewer of the steps: publishing and moving files are the same for every task and are killed there.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_field
from prepared import End, Prepared
from test_kill import Place, Scenario, content

from mxbridge.workspaces.qupath.new import create_project, open_new_image
from tests.toy_maxim import write_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.skipif(sys.platform == "darwin", reason="forking with threads is not safe there"),
]

SIZE = 300
SHARE, MOMENTS, SEED = 8, 3, 20261121
TABLES = ("cells.csv", "cells.parquet")
SCENARIOS = {
    "a chain at two scales": Scenario(("--chain", "--marker", "PDL1"), earlier=("--marker", "CD8"), files=TABLES),
    "views in the place of one": Scenario(
        ("--marker", "CD8", "--uncertainty"), earlier=("--marker", "CD8"), files=TABLES
    ),
}


class Imputing(Place):
    def run(self, options: tuple[str, ...], **how: Any) -> End:
        models = [word for n in ("cd8", "pdl1") for word in ("--model", self.pristine.with_name(f"{n}.safetensors"))]
        words = ["impute", "--project", self.folder / "project.qpproj", *models, "--tile", 288, "--workers", 1]
        end = self.prepared.run([*words, "--quiet", *options], **how)
        assert end.code == (-9 if how.get("kill_after") and end.code else 0), end.said
        return end


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepared]:
    with Prepared() as prepared:
        yield prepared


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of one image, larger than a tile, and two models beside it."""
    folder = tmp_path_factory.mktemp("kill")
    write_field(folder, "north", 0, SIZE)
    create_project(folder / "pristine", [open_new_image(folder / "north.ome.tif", folder / "north_mask.tif")])
    write_model(folder / "cd8.safetensors", ("DAPI", "CD3"), ("CD8",))
    write_model(folder / "pdl1.safetensors", ("CD3", "CD8"), ("PDL1",), seed=1, um_per_px=0.6)
    return folder / "pristine"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_before_and_after_steps(pristine: Path, prepared: Prepared, tmp_path: Path, name: str) -> None:
    shutil.rmtree(pristine.with_name("ready"), ignore_errors=True)
    place = Imputing(pristine, prepared, SCENARIOS[name])
    place.begin()
    watched = place.score(watch=place.folder, to=tmp_path)
    assert watched.steps > 60
    chosen = np.linspace(0, len(watched.states) - 1, SHARE).round().astype(int).tolist()
    wrong: list[str] = []
    for number, (state, moment) in enumerate(watched.states[k] for k in chosen):
        place.begin(Path(state))
        wrong += place.killed(moment)
        if number % 4 == 0:
            before = content(place.folder)
            place.score()
            assert content(place.folder) == before, f"imputed once more after a kill {moment}"
    assert not wrong, "\n".join(wrong)


def test_killed_at_any_moment(pristine: Path, prepared: Prepared) -> None:
    place = Imputing(pristine, prepared, SCENARIOS["a chain at two scales"])
    died = 0
    for share in np.random.default_rng(SEED).uniform(0.1, 0.9, MOMENTS).round(3).tolist():
        seconds = share * place.seconds
        for _ in range(4):  # a machine that has become faster has done it before the signal comes
            place.begin()
            dead = place.score(kill_after=seconds).code == -9
            seconds /= 2
            if dead:
                break
        died += dead
        wrong = place.killed(f"after {share} of the time (seed {SEED})")
        assert not wrong, "\n".join(wrong)
    assert died > MOMENTS / 2
