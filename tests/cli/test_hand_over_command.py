"""What a button in QuPath does, from end to end: the commands it calls, and QuPath's part played from Python."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mxbridge.errors import BrokenFile, Unsupported
from mxbridge.workspaces.qupath.handover.exchange_file import read
from mxbridge.workspaces.qupath.new import NewAnnotation, create_project, open_new_image
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.uris import uri_of
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace
from tests.qupath.playing_qupath import COPIED, Applied, OpenImage, OpenProject
from tests.toy_ihc import ihc
from tests.toy_maxim import write_model

Call = Callable[..., tuple[int, str, str]]
FAST = ("--model", "demo", "--no-tta", "--tile", "128")


@pytest.fixture
def twin(project: Path, tmp_path: Path) -> Path:
    """The same project elsewhere, to publish to natively."""
    return shutil.copytree(project.parent, tmp_path / "twin" / "small project ü") / "project.qpproj"


class Button:
    """What a button does with the image that is open: run, hand over, apply."""

    def __init__(self, mxbridge: Call, project: Path, entry: int = 1) -> None:
        self.mxbridge, self.project, self.entry = mxbridge, project, entry
        self.image: OpenImage = OpenProject(project.parent).open(entry)

    def run(self, *command: object) -> Path:
        where = () if "--rescore" in command else ("--project", self.project, "--image", f"id:{self.entry}")
        code, out, err = self.mxbridge(*command, *where, "--no-publish", "--progress", "json", "--json")
        assert code == 0, err
        answer = json.loads(out)
        assert [image["status"] for image in answer["images"]] == ["computed"]
        return Path(answer["folder"])

    def hand_over(self, run: Path) -> dict[str, Any]:
        words = ("--project", self.project, "--image", f"id:{self.entry}", "--format", "1", "--json")
        code, out, err = self.mxbridge("qupath", "hand-over", run, *words)
        assert code == 0, err
        answer = json.loads(out)
        assert answer["run"] == json.loads((run / "run.json").read_text(encoding="utf-8"))["run_id"]
        (image,) = answer["images"]
        assert image["error"] is None
        assert image["id"] == str(self.entry)
        return dict(image)

    def press(self, *command: object, save: bool = True) -> tuple[Path, Applied]:
        run = self.run(*command)
        applied = self.image.apply(Path(self.hand_over(run)["file"]))
        if save:
            self.image.save()
        return run, applied


def objects(project: Path, entry: int = 1) -> dict[str, Any]:
    """Everything but the order of objects and measurements."""
    tree = ImageDataFile.read(project.parent / "data" / str(entry) / "data.qpdata")
    found = {
        str(o.id): (
            o.kind, o.name, o.class_name, o.class_color, o.metadata, values(o.measurements),
            o.roi.points.tobytes(), o.nucleus.points.tobytes() if o.nucleus else None,
        )
        for o in tree.objects()
    }  # fmt: skip
    return found | {"image": values(tree.image_values)}


def values(of: Mapping[str, float]) -> dict[str, str]:
    """Exact; names that say which run they are of say it of no certain one."""
    return {re.sub(r"run \d{8}-\d{6}-\w{6}", "run", name): repr(value) for name, value in sorted(of.items())}


def entries(project: Path) -> list[Any]:
    """What the project says of its images, wherever it lies; which copy of objects they have is another matter."""
    told = []
    for entry in Project.open(project).entries:
        builder = json.dumps(entry.builder).replace(uri_of(project.parent), "here:")
        metadata = {k: v for k, v in entry.metadata.items() if k not in (COPIED, "_mxbridge.copied")}
        told.append((entry.id, entry.name, entry.description, metadata, json.loads(builder)))
    return told


def test_scores_and_classes_and_a_rerun_with_another_threshold(mxbridge: Call, project: Path, twin: Path) -> None:
    pristine = objects(project)
    button = Button(mxbridge, project)
    for threshold in (0.001, 0.999):
        command = ("score", *FAST, "--set-class", "--threshold", threshold)
        run, applied = button.press(*command)
        assert 0 < applied.values <= 64
        assert not applied.gone
        assert mxbridge(*command, "--project", twin, "--image", "id:1")[0] == 0
        assert objects(project) == objects(twin)
        assert objects(project) != pristine
    code, out, _ = mxbridge("publish", run)
    assert code == 0
    assert "is there already" in out
    assert mxbridge("undo", run)[0] == 0
    assert objects(project) == pristine
    assert objects(project, 2) == objects(twin, 2)
    assert mxbridge("qupath", "check", project.parent, "--no-qupath")[0] == 0


def test_an_imputed_stain_becomes_an_image_of_the_project(
    mxbridge: Call, project: Path, twin: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "cd8.safetensors", ("DAPI", "CD3"), ("CD8",))
    pristine, before = objects(project), entries(project)
    command = ("impute", "--model", tmp_path / "cd8.safetensors", "--marker", "CD8")
    button = Button(mxbridge, project)
    run = button.run(*command)
    handed = button.hand_over(run)
    assert entries(project) == before
    button.image.apply(Path(handed["file"]))
    button.image.save()
    assert mxbridge(*command, "--project", twin, "--image", "id:1")[0] == 0
    assert objects(project) == objects(twin)
    assert entries(project) == entries(twin)
    found = [QuPathWorkspace(p) for p in (project, twin)]
    shown = [w.pull(w.list(["north.ome.tif (joined)"])[0]).image for w in found]
    assert list(shown[0].channel_names) == ["DAPI", "CD3", "Ki67", "CD8 (MAXIM)"]
    assert np.array_equal(*(np.asarray(image.levels[0]) for image in shown))

    assert not read(Path(button.hand_over(run)["file"])).header.entries
    code, out, err = mxbridge("publish", run)
    assert "is there already" in out, err
    code, _, err = mxbridge("undo", run)
    assert code == 0, err
    assert objects(project) == pristine
    assert entries(project) == before


def test_copies_of_the_objects_follow_when_the_run_is_published(mxbridge: Call, project: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "cd8.safetensors", ("DAPI", "CD3"), ("CD8",))
    command = ("impute", "--model", tmp_path / "cd8.safetensors", "--marker", "CD8", "--project", project)
    assert mxbridge(*command, "--image", "id:1")[0] == 0
    run, _ = Button(mxbridge, project).press("score", *FAST)
    assert objects(project, 3) != objects(project)
    assert ": published" in mxbridge("publish", run)[1]
    assert objects(project, 3) == objects(project)
    assert "is there already" in mxbridge("publish", run)[1]


def test_a_translation_and_new_nuclei_from_the_same_maps(mxbridge: Call, tmp_path: Path) -> None:
    Image.fromarray(np.moveaxis(ihc((128, 160)), 0, -1)).save(tmp_path / "slide.png")
    region = NewAnnotation("left", "Tumor", (np.array([(0, 0), (80, 0), (80, 128), (0, 128)], float),))
    both = [tmp_path / name / ("Färbung ü" + " sehr lang" * 20) for name in ("one", "two")]
    for folder in both:
        folder.parent.mkdir()
        create_project(folder, [replace(open_new_image(tmp_path / "slide.png"), annotations=(region,))], um_per_px=0.5)
    project, twin = (folder / "project.qpproj" for folder in both)
    pristine = objects(project)
    button = Button(mxbridge, project)
    command = ("translate", "--model", "deconvolution")
    first, _ = button.press(*command)
    code, out, err = mxbridge(*command, "--project", twin, "--json")
    assert code == 0, err
    native = json.loads(out)["folder"]
    assert objects(project) == objects(twin)
    assert entries(project) == entries(twin)

    again = ("--min-area", 50, "--seg-threshold", 150)
    second = button.run("translate", "--rescore", first, *again)
    handed = Path(button.hand_over(second)["file"])
    counts = read(handed).header.counts
    assert counts.removed
    button.image.apply(handed)
    button.image.save()
    assert mxbridge("translate", "--rescore", native, *again)[0] == 0
    assert objects(project) == objects(twin)
    assert mxbridge("undo", second)[0] == 0
    assert objects(project) == pristine


def test_undo_of_what_was_never_saved_and_a_run_that_is_published_all_the_same(mxbridge: Call, project: Path) -> None:
    pristine, data = objects(project), project.parent / "data/1/data.qpdata"
    button = Button(mxbridge, project)
    run, _ = button.press("score", *FAST, save=False)
    assert objects(project) == pristine
    code, out, err = mxbridge("undo", run)
    assert code == 0, err
    assert "not been saved there" in out
    assert objects(project) == pristine
    handed = read(Path(button.hand_over(run)["file"])).cells  # QuPath closed before it was done: taken over later
    assert len(handed) == 64
    bytes_before = data.read_bytes()
    assert mxbridge("publish", run)[0] == 0
    assert data.read_bytes() != bytes_before
    assert "is there already" in mxbridge("publish", run)[1]


def test_what_the_command_answers_when_something_is_wrong(mxbridge: Call, project: Path) -> None:
    button = Button(mxbridge, project)
    run = button.run("score", *FAST)
    code, _, err = mxbridge("qupath", "hand-over", run, "--format", "2")
    assert code == 2
    assert "speak format 2, this mxbridge speaks 1" in err
    assert "install-scripts again" in err
    code, out, err = mxbridge("qupath", "hand-over", run, "--image", "id:1", "--image", "id:2", "--json")
    assert code == 3
    first, second = json.loads(out)["images"]
    assert first["error"] is None
    assert second["file"] is None
    assert "not among the finished images" in second["error"]
    code, _, err = mxbridge("qupath", "hand-over", run, "--image", "id:7")
    assert code == 2
    assert "no image 'id:7'" in err
    assert mxbridge("qupath", "hand-over", run.parent)[0] == 4

    button.image.delete(list(button.image.by_id))
    button.image.save()
    code, out, err = mxbridge("qupath", "hand-over", run, "--image", "id:1", "--json")
    assert code == 7
    assert "none of the 64 cells" in json.loads(out)["images"][0]["error"]
    assert "Traceback" not in err


def test_a_file_that_is_not_whole_or_of_another_version_changes_nothing(mxbridge: Call, project: Path) -> None:
    button = Button(mxbridge, project)
    file = Path(button.hand_over(button.run("score", *FAST))["file"])
    whole = file.read_bytes()
    text = gzip.decompress(whole)
    before = button.image.objects.to_bytes()
    for spoiled, error in (
        (whole[: len(whole) // 2], BrokenFile),
        (gzip.compress(text[: text.rindex(b"\n", 0, -1) + 1]), BrokenFile),
        (gzip.compress(text.replace(b'"version":1', b'"version":2', 1)), Unsupported),
    ):
        file.write_bytes(spoiled)
        with pytest.raises(error):
            button.image.apply(file)
        assert button.image.objects.to_bytes() == before
