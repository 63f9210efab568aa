"""The scripts inside a real QuPath without its window, on copies of a golden project: the result is that of publishing natively."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.uris import uri_of
from tests.qupath.conftest import everything
from tests.toy_maxim import write_model

from .conftest import SHARED, button

FL, BRIGHTFIELD = "fl_5ch.ome.tif", "bf_rgb.tif"
IDS = {BRIGHTFIELD: 1, FL: 2}
OLD_PLACE = "file:/srv/golden/v0.6.0"


def launcher() -> Path | None:
    """QuPath's program for the command line, as its installers for Linux, Windows and macOS lay it."""
    folder = os.environ.get("PAQUO_QUPATH_DIR")
    patterns = ("bin/QuPath", "QuPath-*console*.exe", "QuPath*.exe", "Contents/MacOS/QuPath*")
    return next((p for pattern in patterns for p in sorted(Path(folder).glob(pattern))), None) if folder else None


pytestmark = [
    pytest.mark.qupath,
    pytest.mark.slow,
    pytest.mark.skipif(launcher() is None, reason="no QuPath program below PAQUO_QUPATH_DIR"),
]


@pytest.fixture
def twins(data: Path, tmp_path: Path) -> dict[str, Path]:
    """The same project twice: one for the commands, one for the buttons."""
    made = {}
    for name in ("native", "button"):
        folder = tmp_path / name / "Projekt µ ü"
        shutil.copytree(data / "qupath" / "v0.6.0", folder)
        shutil.copytree(data / "qupath" / "images", folder / "images")
        made[name] = folder / "project.qpproj"
        text = made[name].read_text(encoding="utf-8")
        made[name].write_text(text.replace(OLD_PLACE, uri_of(folder)), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: write_model(folder / f"{name}.safetensors", ("DAPI", "CD3"), (name,)) for name in ("PDL1", "FOXP3")}


def mxbridge(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mxbridge", *map(str, words)], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def in_qupath(project: Path, script: str, image: str | None = None, *, fails: bool = False) -> str:
    """``QuPath script -p ... -i ... --save``; what it says."""
    words = [str(launcher()), "script", "-p", str(project), *(["-i", image] if image else []), "--save", script]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", timeout=280, check=False)
    said = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, said[-3000:]
    return said


def objects(project: Path, image: str) -> dict[str, dict[str, Any]]:
    """Whatever a file says of its objects, but for the kind of list QuPath keeps values in, and the order of children."""
    found = everything(Project.open(project).data_path(IDS[image]))
    for one in found.values():
        one["measurements"] = without_run(one["measurements"])
    return {i: {k: v for k, v in one.items() if k not in ("list", "children")} for i, one in found.items()}


def without_run(values: dict[str, Any]) -> dict[str, Any]:
    """Names of values that say which run they are of."""
    return {re.sub(r" \(run [0-9a-f-]+\)", "", name): value for name, value in values.items()}


def differing(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is not the same in two projects, by object."""
    return {
        i: {k: (a.get(i, {}).get(k), b.get(i, {}).get(k)) for k in {*a.get(i, {}), *b.get(i, {})} if a.get(i, {}).get(k) != b.get(i, {}).get(k)}
        for i in {*a, *b}
        if a.get(i) != b.get(i)
    }  # fmt: skip


def image_values(project: Path, image: str) -> dict[str, float]:
    return without_run(ImageDataFile.read(Project.open(project).data_path(IDS[image])).image_values)


def same(twins: dict[str, Path], image: str) -> None:
    native, pressed = (objects(twins[name], image) for name in ("native", "button"))
    assert differing(native, pressed) == {}
    assert image_values(twins["native"], image) == pytest.approx(image_values(twins["button"], image))


def entries(project: Path) -> list[tuple[Any, ...]]:
    return [
        (e.id, e.name, {k: v for k, v in e.metadata.items() if k != "_mxbridge.objects"}, e.builder.get("builderType"))
        for e in Project.open(project).entries
    ]


def test_scores_and_classes(twins, tmp_path) -> None:
    mxbridge(
        "score", "--project", twins["native"], "--image", "id:2", "--model", "demo", "--set-class", "--threshold", "0.2"
    )
    script = button(
        tmp_path,
        "Score_cells",
        python=sys.executable,
        shared=str(SHARED),
        model="demo",
        setClass=True,
        more=["--threshold", "0.2"],
    )
    in_qupath(twins["button"], script, FL)
    same(twins, FL)
    assert "NimbusDemo: CD3" in next(
        o["measurements"] for o in objects(twins["button"], FL).values() if o["kind"] == "cell"
    )
    classes = [(twins[n].parent / "classifiers/classes.json").read_text(encoding="utf-8") for n in ("native", "button")]
    assert "CD3" in classes[1]
    mxbridge("undo", newest(twins["button"]))
    mxbridge("undo", newest(twins["native"]))
    same(twins, FL)


def newest(project: Path) -> Path:
    return max((project.parent / "mxbridge-runs").iterdir(), key=lambda path: path.name)


def test_nuclei_and_values_of_the_image(twins, tmp_path) -> None:
    words = ("--model", "deconvolution", "--stains", "H-DAB", "--outputs", "cells", "--objects", "cells")
    mxbridge("translate", "--project", twins["native"], "--image", "id:1", *words)
    script = button(
        tmp_path,
        "Translate_IHC",
        python=sys.executable,
        shared=str(SHARED),
        model="deconvolution",
        objects="cells",
        more=["--stains", "H-DAB"],
    )
    in_qupath(twins["button"], script, BRIGHTFIELD)
    same(twins, BRIGHTFIELD)
    assert sum("_mxbridge.key" in o["metadata"] for o in objects(twins["button"], BRIGHTFIELD).values()) >= 5
    in_qupath(twins["button"], script, BRIGHTFIELD)  # again: its own results are there and stay
    same(twins, BRIGHTFIELD)
    mxbridge("undo", newest(twins["button"]))
    mxbridge("undo", newest(twins["native"]))
    same(twins, BRIGHTFIELD)


def test_stains_as_an_entry_beside_the_others(twins, models, tmp_path) -> None:
    for shown, (marker, model) in enumerate(models.items(), 1):  # the second goes into the entry of the first
        mxbridge("impute", "--project", twins["native"], "--image", "id:2", "--model", model, "--marker", marker)
        settings = {"python": sys.executable, "shared": str(SHARED), "model": str(model), "markers": [marker]}
        in_qupath(twins["button"], button(tmp_path, "Impute_a_stain", **settings), FL)
        same(twins, FL)
        assert entries(twins["native"]) == entries(twins["button"])
        native, pressed = (Project.open(twins[name]).entries[-1] for name in ("native", "button"))
        copies = [everything(Project.open(twins[name]).data_path(3)) for name in ("native", "button")]
        assert values_of(copies[0]) == values_of(copies[1])
        channels = [[c["name"] for c in e.builder["metadata"]["channels"]] for e in (native, pressed)]
        assert channels[0] == channels[1]
        assert len(channels[0]) == 5 + shown
    mxbridge("undo", newest(twins["button"]))
    assert len(Project.open(twins["button"]).entries) == 3
    first = min((twins["button"].parent / "mxbridge-runs").iterdir(), key=lambda path: path.name)
    mxbridge("undo", first)
    assert len(Project.open(twins["button"]).entries) == 2, "the copy is known as ours and goes with its channels"


def values_of(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {i: (o["kind"], o["class"], o["measurements"]) for i, o in objects.items()}


def test_results_of_a_run_that_is_there_for_every_image_of_the_project(twins, tmp_path) -> None:
    mxbridge("score", "--project", twins["native"], "--model", "demo", "--image", "id:2")
    mxbridge("score", "--project", twins["button"], "--model", "demo", "--image", "id:2", "--no-publish")
    before = objects(twins["button"], BRIGHTFIELD)
    said = in_qupath(
        twins["button"], button(tmp_path, "Apply_results", python=sys.executable, shared=str(SHARED)), fails=True
    )
    assert f"no results waiting for {BRIGHTFIELD}" in said
    same(twins, FL)
    assert differing(before, objects(twins["button"], BRIGHTFIELD)) == {}


def test_an_older_state_is_not_saved_over_what_mxbridge_wrote(twins, tmp_path) -> None:
    """The image is opened, then a command publishes, then the button is pressed: here the command is part of the script."""
    project = twins["button"]
    words = [sys.executable, "-m", "mxbridge", "score", "--project", str(project), "--image", "id:2", "--model", "demo"]
    script = Path(button(tmp_path, "Score_cells", python=sys.executable, shared=str(SHARED), model="demo"))
    first = f"{words!r}.execute().waitFor()\n"
    script.write_text(first + script.read_text(encoding="utf-8"), encoding="utf-8")
    said = in_qupath(project, str(script), FL, fails=True)
    assert "mxbridge has written to this image since you opened it" in said
    mxbridge("score", "--project", twins["native"], "--image", "id:2", "--model", "demo")
    same(twins, FL)
