"""kill -9 loses nothing, before and after every step and at any moment; the same command then ends with identical results.

See ``prepared.py`` for what a step is and why a copy of the folder stands for a kill. A failure names the step or the moment.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import write_field
from prepared import End, Prepared

from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.workspaces.qupath.new import create_project, open_new_image
from mxbridge.workspaces.qupath.qpdata import ImageDataFile

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.skipif(sys.platform == "darwin", reason="forking with threads is not safe there"),
]

SIZE = 72
MOMENTS, SEED = 16, 20261121
CSV = "nimbus_cell_table.csv"


@dataclass(frozen=True)
class Scenario:
    """options: of the command that is killed. earlier: of one that was finished before. files: that its run must make."""

    options: tuple[str, ...]
    earlier: tuple[str, ...] | None = None
    files: tuple[str, ...] = ("cells.csv", "cells.parquet", "normalization.json")


ONE = ("--maps", "--set-class", "--markers", "CD3", "--image", "north.ome.tif")
SCENARIOS = {
    "two images": Scenario(("--set-class", "--no-tta")),
    "maps in the place of earlier ones": Scenario(ONE, earlier=(*ONE, "--no-tta")),
    "compat": Scenario(("--compat", "nimbus-0.0.5", *ONE), files=("cells.csv", "cells.parquet", CSV)),
}


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepared]:
    with Prepared() as prepared:
        yield prepared


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two small images, and random weights beside it."""
    folder = tmp_path_factory.mktemp("kill")
    for seed, name in enumerate(("north", "south")):
        write_field(folder, name, seed, SIZE)
    images = [open_new_image(folder / f"{n}.ome.tif", folder / f"{n}_mask.tif") for n in ("north", "south")]
    create_project(folder / "pristine", images)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(ResidualUNet(2, 2).state_dict(), folder / "weights.pt")
    return folder / "pristine"


class Place:
    """Where a project is scored, killed and scored again; always the same folder."""

    def __init__(self, pristine: Path, prepared: Prepared, scenario: Scenario) -> None:
        self.pristine, self.prepared, self.scenario = pristine, prepared, scenario
        self.folder = pristine.with_name("project ü")
        self.begin()
        self.old = kept(self.folder)
        end = self.score()
        self.seconds, self.expected, self.new = end.seconds, self.outcome(), kept(self.folder)

    def begin(self, state: Path | None = None) -> None:
        """Put the project there as it was before the command, or as a kill left it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if state is not None:
            state.rename(self.folder)
            return
        ready = self.pristine.with_name("ready")
        if self.scenario.earlier is None:
            shutil.copytree(self.pristine, self.folder)
        elif ready.exists():
            shutil.copytree(ready, self.folder)
        else:
            shutil.copytree(self.pristine, self.folder)
            self.run(self.scenario.earlier)
            shutil.copytree(self.folder, ready)

    def score(self, **how: Any) -> End:
        return self.run(self.scenario.options, **how)

    def run(self, options: tuple[str, ...], **how: Any) -> End:
        project, weights = self.folder / "project.qpproj", self.pristine.with_name("weights.pt")
        words = ["score", "--project", project, "--model", weights, "--tile", 48, "--workers", 1, "--quiet", "--resume"]
        end = self.prepared.run([*words, *options], **how)
        assert end.code == (-9 if how.get("kill_after") and end.code else 0), end.said
        return end

    def outcome(self) -> dict[str, Any]:
        """What must be the same at the end, whatever happened on the way: by file, and what run.json says."""
        runs = [path.parent for path in self.folder.glob("mxbridge-runs/*/run.json")]
        run = max(runs, key=lambda path: path.name)
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        assert record["finished"]
        files = {**kept(self.folder), **below(run, "cells.*", "normalization.json", CSV, "prediction/*")}
        assert all((run / name).is_file() for name in self.scenario.files)
        maps = below(self.folder / "mxbridge" / "derived", "*")
        return {
            **files,
            **{k: drawn(v) if k.endswith(".tif") else v for k, v in maps.items() if not says_nothing(k, v)},
            "runs": len(runs),
            "litter": sorted(str(p) for p in self.folder.rglob("*") if self.is_litter(p)),
            "images": [(i["name"], i["status"], i["counts"], i["warnings"], i["error"]) for i in record["images"]],
        }

    @staticmethod
    def is_litter(path: Path) -> bool:
        """What a killed run may leave while it is under way, and nobody wants to keep; a run that had not begun (without
        run.json) is passed over by all others, and nobody can tell whether it is just beginning."""
        run = path.parent / "run.json"
        left = path.name == "work" or path.suffix in (".mxbridge-part", ".partial")
        return left and (run.exists() or not path.name.startswith("run.json"))

    def killed(self, moment: str) -> list[str]:
        """What is wrong after a kill: right away, and once the same command has gone on to its end."""
        wrong = [
            f"killed {moment}: {name} is neither the old nor the new one"
            for name, content in kept(self.folder).items()
            if content not in (self.old.get(name), self.new[name])
        ]
        end = self.score()
        found = self.outcome()
        for name in sorted({*found, *self.expected}):
            if found.get(name) != self.expected.get(name):
                said = f"{found.get(name)!s:.300} instead of {self.expected.get(name)!s:.300}"
                wrong.append(f"killed {moment}: in the end {name} is {said} ({end.said})")
        return wrong


def says_nothing(name: str, data: bytes) -> bool:
    return name.endswith(".zattrs") and json.loads(data) == {}


def drawn(data: bytes) -> tuple[str, bytes]:
    """What an OME-TIFF says of itself, without the identifier that each has of its own, and the pixels of all its levels."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        said, named = re.subn(r'UUID="urn:uuid:[0-9a-f-]{36}"', "", tiff.ome_metadata or "")
        assert named == 1, said
        pages = [p for series in tiff.series for level in series.levels for p in level.pages]
        return said, b"".join(page.asarray().tobytes() for page in pages)


def kept(folder: Path) -> dict[str, bytes]:
    """The user's files."""
    return below(folder, "project.qpproj", "data/*/data.qpdata", "classifiers/classes.json")


def below(folder: Path, *patterns: str) -> dict[str, bytes]:
    found = (path for pattern in patterns for path in folder.rglob(pattern))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


def content(folder: Path) -> Mapping[str, bytes]:
    return below(folder, "*")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_before_and_after_every_step(pristine: Path, prepared: Prepared, tmp_path: Path, name: str) -> None:
    shutil.rmtree(pristine.with_name("ready"), ignore_errors=True)
    place = Place(pristine, prepared, SCENARIOS[name])
    place.begin()
    watched = place.score(watch=place.folder, to=tmp_path)
    assert watched.steps > 60
    assert len(watched.states) > watched.steps / 2
    wrong: list[str] = []
    for number, (state, moment) in enumerate(watched.states):
        place.begin(Path(state))
        wrong += place.killed(moment)
        if number % 20 == 0:
            before = content(place.folder)
            place.score()
            assert content(place.folder) == before, f"scored once more after a kill {moment}"
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", list(SCENARIOS)[:1])
def test_killed_at_any_moment(pristine: Path, prepared: Prepared, name: str) -> None:
    """A real signal, also between the steps and in any thread."""
    place = Place(pristine, prepared, SCENARIOS[name])
    died = 0
    for share in np.random.default_rng(SEED).uniform(0.05, 1.0, MOMENTS).round(3).tolist():
        seconds = share * place.seconds
        for _ in range(4):  # a machine that has become faster has done it before the signal comes
            place.begin()
            dead = place.score(kill_after=seconds).code == -9
            seconds /= 2
            if dead:
                break
        died += dead
        for entry in (1, 2):
            ImageDataFile.read(place.folder / "data" / str(entry) / "data.qpdata")
        wrong = place.killed(f"after {share} of the time (seed {SEED})")
        assert not wrong, "\n".join(wrong)
    assert died > MOMENTS / 2
