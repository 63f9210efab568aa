"""Each kind of task in a job; what the ledger keeps of it, and how its numbers stand in the trends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mxbridge.batch import runner as runner_module
from mxbridge.batch.job import load_job
from mxbridge.batch.ledger import Ledgers
from mxbridge.batch.status import Status, read_status
from mxbridge.models.card import read_card
from mxbridge.tasks.publish import undo_run
from mxbridge.workspaces.qupath.new import create_project, open_new_image
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from tests.batch.fake_clock import FakeClock
from tests.batch.toy_job import FILES, IMPUTE, QUICK, SCORE, Heard, night, toy_job, write_image

QC = '[[task]]\ndo = "qc"\nmodel = "cd3.safetensors"\ndevice = "cpu"\n'


def status_of(job: Path) -> Status:
    loaded = load_job(job)
    with Ledgers.looked_at(loaded.ledger) as ledgers:
        return read_status(ledgers, [task.name for task in loaded.tasks], 2.0)


def test_numbers_go_from_night_to_night(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    night(job, clock=FakeClock("2026-11-21T22:00:00"))
    write_image(tmp_path / "images", "bright", 3, bright=5)
    night(job, clock=FakeClock("2026-11-23T03:00:00"))  # still the night of the 22nd
    found = status_of(job)
    assert [(t.task, t.done, t.failed) for t in found.tasks] == [("score", 3, 0)]
    brightness = [(t.night, t.images, t.drifted) for t in found.trends if t.what == "CD3"]
    assert brightness == [("2026-11-21", 2, 0), ("2026-11-22", 1, 1)]
    factors = {t.factor for t in found.trends if t.what == "CD3"}
    assert len(factors) == 1
    positive = [t for t in found.trends if t.what == "Nimbus: CD3"]
    assert [t.cells for t in positive] == [18, 9]
    assert all(t.percent is not None and 0 <= t.percent <= 100 for t in positive)
    assert [run["night"] for run in found.runs] == ["2026-11-21", "2026-11-22"]
    assert found.frozen[0]["why"] == "fitted on 2 images"
    assert not found.problems
    json.dumps(found.document())


def test_translating_and_judging_in_one_job(tmp_path: Path) -> None:
    from tests.toy_maxim import write_model

    text = (
        '[[source]]\nname = "slides"\nfiles = "slides/*.tif"\num-per-px = 0.5\n'
        '[[source]]\nname = "panels"\nfiles = "images/*.ome.tif"\nlabels = "images/*_mask.tif"\n'
        '[[task]]\ndo = "translate"\nmodel = "deconvolution"\nstains = "H-DAB"\nsize-threshold = "none"\n' + QC
    )
    job = toy_job(tmp_path, text)
    write_model(tmp_path / "cd3.safetensors", ("DAPI", "Ki67"), ("CD3",))
    assert read_card(tmp_path / "cd3.safetensors") is not None
    (tmp_path / "slides").mkdir()
    rng = np.random.default_rng(0)
    slide = np.full((96, 96, 3), 240, np.uint8) - rng.integers(0, 20, (96, 96, 3)).astype(np.uint8)
    slide[20:40, 20:40] = (70, 60, 140)
    tifffile.imwrite(tmp_path / "slides" / "ihc.tif", slide, photometric="rgb")
    report = night(job)
    assert sorted(report.done) == ["ihc, translate", "north, qc", "south, qc"]
    assert sorted(report.left_out) == ["ihc, qc", "north, translate", "south, translate"]
    found = status_of(job)
    (judged,) = [t for t in found.trends if t.task == "qc" and t.what.startswith("CD3")]
    assert (judged.images, judged.flagged is not None) == (2, True)
    assert night(job).done == []


def test_what_was_undone_stays_out(tmp_path: Path) -> None:
    job = toy_job(tmp_path, '[[source]]\nproject = "slides"\n' + SCORE + QUICK, names=("a",))
    images = tmp_path / "images"
    create_project(tmp_path / "slides", [open_new_image(images / "a.ome.tif", images / "a_mask.tif")])

    def measured() -> set[str]:
        project = Project.open(tmp_path / "slides" / "project.qpproj")
        objects = ImageDataFile.read(project.data_path(project.entries[0].id)).objects()
        return {name for o in objects for name in o.measurements}

    assert len(night(job).done) == 1
    assert "Nimbus: CD3" in measured()
    (run,) = (tmp_path / "runs" / "score").glob("*/*/run.json")
    undo_run(run.parent)
    assert "Nimbus: CD3" not in measured()
    assert night(job).done == []
    assert "Nimbus: CD3" not in measured()
    job.write_text(job.read_text().replace("tta = false", "tta = true"), encoding="utf-8")
    assert len(night(job).done) == 1  # until something changes
    assert "Nimbus: CD3" in measured()


def test_what_was_computed_without_publishing_can_be_published(tmp_path: Path) -> None:
    text = '[[source]]\nproject = "slides"\n' + SCORE + QUICK
    job = toy_job(tmp_path, "publish = false\n" + text, names=("a",))
    images = tmp_path / "images"
    create_project(tmp_path / "slides", [open_new_image(images / "a.ome.tif", images / "a_mask.tif")])
    data = tmp_path / "slides" / "data" / "1" / "data.qpdata"
    untouched = data.read_bytes()
    assert len(night(job).done) == 1
    assert (night(job).done, data.read_bytes()) == ([], untouched)
    job.write_text(text, encoding="utf-8")
    heard = Heard()
    night(job, heard)
    assert heard.images == ["a.ome.tif, score (is not published yet)"]
    assert data.read_bytes() != untouched
    assert night(job).done == []


def test_what_was_lost_is_put_back(tmp_path: Path) -> None:
    job = toy_job(tmp_path, '[[source]]\nproject = "slides/project.qpproj"\n' + SCORE + QUICK, names=("a",))
    images = tmp_path / "images"
    create_project(tmp_path / "slides", [open_new_image(images / "a.ome.tif", images / "a_mask.tif")])
    data = tmp_path / "slides" / "data" / "1" / "data.qpdata"
    untouched = data.read_bytes()
    night(job)
    published = data.read_bytes()
    data.write_bytes(untouched)  # an open QuPath has saved over it
    heard = Heard()
    assert night(job, heard).done == ["a.ome.tif, score"]
    assert heard.images == ["a.ome.tif, score (is no longer there)"]
    assert len(data.read_bytes()) == len(published)


def test_interrupted_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = toy_job(tmp_path, FILES + IMPUTE + SCORE + QUICK)

    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner_module, "run_over_images", interrupted)
        with pytest.raises(KeyboardInterrupt):
            night(job)
    assert [task.cut_off for task in status_of(job).tasks] == [1, 0]
    heard = Heard()
    assert len(night(job, heard).done) == 4
    assert "north, impute (was cut off)" in heard.images


def test_what_kills_the_runner_comes_last_and_is_left_alone_in_the_end(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    night(job)
    write_image(tmp_path / "images", "north", 7)
    (look,) = [look for look in _looks(job) if look.item.name.startswith("north")]
    with Ledgers.opened(tmp_path / "job.ledger", "test") as ledgers:
        item = {"item": look.item.key, "source": "files", "image": look.item.ref.id, "name": "north", "task": "score"}
        for _ in range(6):
            ledgers.writer.begin(
                **item, fingerprint=look.fingerprint, started="2026-11-21T20:00:00+00:00", night="2026-11-21", run="r"
            )
    report = night(job)
    assert (report.done, list(report.given_up)) == ([], ["north, score"])
    assert "ended 6 times" in report.given_up["north, score"]
    assert night(job, retry_failed=True).done == ["north, score"]


def _looks(job: Path) -> list[runner_module.Look]:
    with runner_module.only_looking(load_job(job), job.parent) as (survey, places, _):
        return [look for place in places for ref in place.refs for look in survey.image(place, ref)]
