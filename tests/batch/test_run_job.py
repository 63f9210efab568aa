"""Nights: what is done, what is done again, what is not; one image, one runner, once."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from mxbridge.batch import frozen as frozen_module
from mxbridge.batch import runner as runner_module
from mxbridge.batch.job import load_job
from mxbridge.batch.ledger import Ledgers, Row
from mxbridge.errors import InputError, OutputError, SomeImagesFailed, SourceError
from mxbridge.formats.cell_tables import read_cell_table
from mxbridge.models.normalization import Normalization
from mxbridge.tasks.over_images import run_over_images
from mxbridge.workspaces.files import FilesWorkspace
from tests.batch.fake_clock import FakeClock
from tests.batch.toy_job import FILES, IMPUTE, QUICK, SCORE, Heard, night, toy_job, write_image


def rows_of(job: Path) -> list[Row]:
    with Ledgers.looked_at(job.with_suffix(".ledger")) as ledgers:
        return ledgers.rows()


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


def table_of(job: Path, row: Row) -> Any:
    return read_cell_table(next((load_job(job).runs / row.folder / "images").iterdir()))


def test_the_second_night_does_nothing(tmp_path: Path) -> None:
    job = toy_job(tmp_path, FILES + IMPUTE + SCORE.replace('"Ki67"', '"CD8 (MAXIM)"') + QUICK)
    first = night(job)
    assert sorted(first.done) == sorted(
        f"{name}, {task}" for name in ("north", "south") for task in ("impute", "score")
    )
    score = next(row for row in rows_of(job) if row.task == "score")
    assert {"Nimbus: CD3", "Nimbus: CD8 (MAXIM)"} <= set(table_of(job, score).columns)
    before = files_below(tmp_path / "runs")
    heard = Heard()
    second = night(job, heard)
    assert (second.done, second.done_before, heard.images) == ([], 4, [])
    assert files_below(tmp_path / "runs") == before
    second.raise_for_errors()


def test_what_changed_is_done_again_and_nothing_else(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    night(job)
    write_image(tmp_path / "images", "north", 7)
    assert night(job).done == ["north, score"]
    job.write_text(job.read_text().replace("tta = false", "tta = true"), encoding="utf-8")
    assert len(night(job).done) == 2
    job.write_text(job.read_text().replace("tta = true", "tta = false"), encoding="utf-8")
    heard = Heard()
    assert (night(job, heard).done, heard.images) == ([], [])  # that was done before, and is still there
    write_image(tmp_path / "images", "east", 9)
    assert night(job).done == ["east, score"]


def test_an_image_that_vanished_is_told_once(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    night(job)
    kept = [path.rename(tmp_path / path.name) for path in (tmp_path / "images").glob("north*")]
    heard = Heard()
    assert night(job, heard).vanished == ["north, score"]
    assert any("no longer among the images" in text for text in heard.warnings)
    assert len(rows_of(job)) == 3
    heard = Heard()
    night(job, heard)
    assert not any("no longer" in text for text in heard.warnings)
    for path in kept:
        path.rename(tmp_path / "images" / path.name)
    assert night(job).done == []  # it is back as it was


def test_removed_runs_are_done_again(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    night(job)
    shutil.rmtree(next((tmp_path / "runs" / "score").glob("north*")))
    assert night(job).done == ["north, score"]


def test_a_lost_ledger_is_filled_from_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it everything is looked at again, but nothing computed anew."""
    job = toy_job(tmp_path)
    night(job)
    factors = next((tmp_path / "job.ledger").glob("normalization-*.json")).read_text()
    shutil.rmtree(tmp_path / "job.ledger")
    computed: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        finished = run_over_images(*args, **kwargs)
        computed.append(finished.computed)
        return finished

    monkeypatch.setattr(runner_module, "run_over_images", counting)
    assert len(night(job).done) == 2
    assert computed == [0, 0]
    assert next((tmp_path / "job.ledger").glob("normalization-*.json")).read_text() == factors


class Failing:
    """Stands for the loop over images, and fails as often as it is told. calls: names of images."""

    def __init__(self, error: Exception, names: dict[str, int]) -> None:
        self.error, self.left, self.calls = error, dict(names), list[str]()

    def __call__(self, workspace: Any, refs: Any, task: Any, **more: Any) -> Any:
        name = refs[0].name.partition(".")[0]
        self.calls.append(name)
        if self.left.get(name, 0):
            self.left[name] -= 1
            raise self.error
        return run_over_images(workspace, refs, task, **more)


def test_what_may_pass_is_tried_again_with_growing_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = toy_job(tmp_path, FILES + SCORE)
    failing = Failing(OutputError("the disk is full"), {"north": 2})
    monkeypatch.setattr(runner_module, "run_over_images", failing)
    clock = FakeClock("2026-11-21T22:00:00")
    report = night(job, clock=clock)
    report.raise_for_errors()
    assert failing.calls == ["north", "south", "north", "north"]
    assert [round(s) for s in clock.slept] == [60, 120]
    assert [row.state for row in rows_of(job) if row.name.startswith("north")] == ["failed", "failed", "done"]


def test_tries_end_and_are_remembered_over_nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = toy_job(tmp_path)
    failing = Failing(OutputError("the disk is full"), {"north": 99})
    monkeypatch.setattr(runner_module, "run_over_images", failing)
    with pytest.raises(SomeImagesFailed, match="1 failed, the rest is done: the disk is full"):
        night(job).raise_for_errors()
    assert failing.calls.count("north") == 3
    second = night(job)
    assert (failing.calls.count("north"), list(second.given_up)) == (3, ["north, score"])
    with pytest.raises(SomeImagesFailed, match="given up"):
        second.raise_for_errors()
    failing.left.clear()
    assert night(job, retry_failed=True).done == ["north, score"]
    night(job).raise_for_errors()


@pytest.mark.parametrize("error", [InputError("cannot be meant"), ZeroDivisionError("a bug")])
def test_what_will_not_pass_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    job = toy_job(tmp_path)
    failing = Failing(error, {"north": 99})
    monkeypatch.setattr(runner_module, "run_over_images", failing)
    report = night(job)
    assert (failing.calls, report.done) == (["north", "south"], ["south, score"])
    night(job)
    assert failing.calls == ["north", "south"]
    write_image(tmp_path / "images", "north", 12)  # another image: it may be tried
    night(job)
    assert failing.calls[-1] == "north"


def test_whether_results_can_be_published_is_asked_once_and_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = toy_job(tmp_path)
    asked: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(FilesWorkspace, "check_writable", lambda self: asked.append(self.address))
        assert len(night(job).done) == 2
    assert len(asked) == 1

    def refuse(self: FilesWorkspace) -> None:
        raise OutputError("read-only")

    monkeypatch.setattr(FilesWorkspace, "check_writable", refuse)
    write_image(tmp_path / "images", "east", 9)
    assert list(night(job).failed) == ["east, score"]
    assert not list((tmp_path / "runs" / "score").glob("east*"))


def test_on_error_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = toy_job(tmp_path, 'on-error = "stop"\n' + FILES + SCORE + QUICK)
    failing = Failing(InputError("cannot be meant"), {"north": 1})
    monkeypatch.setattr(runner_module, "run_over_images", failing)
    report = night(job)
    assert (failing.calls, report.left) == (["north"], ["south, score"])


def test_a_later_task_waits_for_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = toy_job(tmp_path, FILES + IMPUTE + SCORE + QUICK)
    monkeypatch.setattr(runner_module, "run_over_images", Failing(InputError("no"), {"north": 1}))
    report = night(job)
    assert sorted(report.done) == ["south, impute", "south, score"]
    assert report.waiting == {"north, score": "after impute"}
    report = night(job, retry_failed=True)
    assert (report.done, report.waiting) == (["north, impute", "north, score"], {})


def test_an_image_without_cells_fails_every_night_and_stops_nobody(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    (tmp_path / "images" / "north_mask.tif").unlink()
    for _ in range(2):
        report = night(job)
        assert list(report.failed) == ["north, score"]
        with pytest.raises(SomeImagesFailed, match="no cells"):
            report.raise_for_errors()
    assert [row.state for row in rows_of(job)].count("failed") == 1  # written down once


def test_limits_of_time_and_number(tmp_path: Path) -> None:
    job = toy_job(tmp_path, FILES + SCORE + '[limits]\nwindow = "20:00-06:00"\n', names=("a", "b", "c"))
    noon = night(job, clock=FakeClock("2026-11-21T12:00:00"))
    assert (noon.done, len(noon.left), noon.stopped) == ([], 3, "it is 12:00, outside 20:00-06:00")
    noon.raise_for_errors()
    evening = FakeClock("2026-11-21T22:00:00")
    first = night(job, clock=evening, images=2)
    assert (len(first.done), first.stopped) == (2, "2 images were begun in this run")
    rest = night(job, clock=evening, until="06:00")
    assert rest.done == ["c, score"]
    assert {row.night for row in rows_of(job)} == {"2026-11-21"}


def test_an_image_under_way_is_finished_when_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = toy_job(tmp_path)
    clock = FakeClock("2026-11-22T05:50:00")

    def slow(*args: Any, **kwargs: Any) -> Any:
        clock.move(1200)
        return run_over_images(*args, **kwargs)

    monkeypatch.setattr(runner_module, "run_over_images", slow)
    report = night(job, clock=clock, until="06:00")
    assert (len(report.done), report.left) == (1, ["south, score"])


def test_a_jumping_clock_does_nothing_twice_and_nothing_never(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    night(job, clock=FakeClock("2030-01-01T22:00:00"))  # years ahead
    write_image(tmp_path / "images", "north", 7)
    assert night(job, clock=FakeClock("2026-11-21T22:00:00")).done == ["north, score"]
    assert night(job, clock=FakeClock("2020-01-01T22:00:00")).done == []
    with Ledgers.looked_at(tmp_path / "job.ledger") as ledgers:
        assert sum(row.state == "done" for row in ledgers.rows()) == 3


def test_shards_share_the_images(tmp_path: Path) -> None:
    job = toy_job(tmp_path, names=("a", "b", "c", "d", "e"))
    done = [set(night(job, runner=f"array-{k}", shard=(k, 2)).done) for k in (1, 2)]
    assert not done[0] & done[1]
    assert len(done[0] | done[1]) == 5
    factors = {str(row.counts["factors"]) for row in rows_of(job)}
    assert len(factors) == 1  # one fitted, the other took them


def test_two_runners_at_once_do_every_image_once(tmp_path: Path) -> None:
    job = toy_job(tmp_path, names=("a", "b", "c", "d"))
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda k: night(job, runner=f"r{k}"), (1, 2)))
    done = [row.name for row in rows_of(job) if row.state == "done"]
    assert sorted(done) == ["a", "b", "c", "d"]
    assert len(list((tmp_path / "runs").glob("score/*/*/run.json"))) == 4
    assert not any(report.failed for report in reports)
    with Ledgers.looked_at(tmp_path / "job.ledger") as ledgers:
        assert len(ledgers.all_frozen()) == 1


def test_a_source_that_cannot_be_reached_stops_no_other(tmp_path: Path) -> None:
    job = toy_job(tmp_path, '[[source]]\nname = "gone"\nproject = "none/project.qpproj"\n' + FILES + SCORE + QUICK)
    report = night(job)
    assert (len(report.done), [lost.source for lost in report.unreachable]) == (2, ["gone"])
    with pytest.raises(SomeImagesFailed):
        report.raise_for_errors()
    only = toy_job(tmp_path / "only", '[[source]]\nproject = "none/project.qpproj"\n' + SCORE)
    with pytest.raises(SourceError):
        night(only).raise_for_errors()


def test_a_place_that_stops_answering_costs_no_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = toy_job(tmp_path)
    failing = Failing(SourceError("nobody answers"), {"north": 1})

    def gone(*args: Any, **more: Any) -> Any:
        if failing.left["north"]:
            (tmp_path / "images").rename(tmp_path / "away")
        return failing(*args, **more)

    monkeypatch.setattr(runner_module, "run_over_images", gone)
    report = night(job)
    assert (failing.calls, report.done, len(report.unreachable)) == (["north"], [], 1)
    (tmp_path / "away").rename(tmp_path / "images")
    assert [row.state for row in rows_of(job)] == ["cut off"]
    assert len(night(job).done) == 2


def test_a_glob_that_matches_nothing(tmp_path: Path) -> None:
    job = toy_job(tmp_path, '[[source]]\nfiles = "nowhere/*.tif"\n' + SCORE)
    with pytest.raises(InputError, match="nothing matches"):
        night(job).raise_for_errors()


def test_an_image_that_two_sources_name_is_one_image(tmp_path: Path) -> None:
    more = '[[source]]\nname = "again"\nfiles = "images/north.ome.tif"\nlabels = "images/*_mask.tif"\n'
    assert len(night(toy_job(tmp_path, FILES + more + SCORE)).done) == 2


def test_factors_are_frozen_and_drift_is_told(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    night(job)
    (frozen,) = (tmp_path / "job.ledger").glob("normalization-score-*.json")
    factors = Normalization.load(frozen).factors
    write_image(tmp_path / "images", "bright", 3, bright=5)
    heard = Heard()
    report = night(job, heard)
    assert report.done == ["bright, score"]
    assert Normalization.load(frozen).factors == factors
    row = next(row for row in rows_of(job) if row.name.startswith("bright"))
    assert row.counts["factors"] == pytest.approx(factors)
    assert row.counts["drift"]["CD3"] == pytest.approx(row.counts["own"]["CD3"] / factors["CD3"], abs=1e-3)
    assert row.counts["drift"]["CD3"] > 2 > row.counts["drift"]["Ki67"]
    assert [text for text in heard.warnings if "times as bright" in text] == report.warnings
    assert len(report.warnings) == 1
    again = night(job, refit="found anew, for this test")
    assert len(again.done) == 3
    assert Normalization.load(frozen).factors["CD3"] > 1.5 * factors["CD3"]
    assert night(job, refit="found anew, for this test").done == []  # another runner of the same request


def test_a_new_marker_is_added_and_the_others_stay(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    text = job.read_text()
    job.write_text(text.replace('["CD3", "Ki67"]', '["CD3"]'), encoding="utf-8")
    night(job)
    (frozen,) = (tmp_path / "job.ledger").glob("normalization-score-*.json")
    one = Normalization.load(frozen).factors
    write_image(tmp_path / "images", "bright", 3, bright=5)
    job.write_text(text, encoding="utf-8")
    heard = Heard()
    night(job, heard)
    two = Normalization.load(frozen).factors
    assert (list(one), sorted(two), two["CD3"]) == (["CD3"], ["CD3", "Ki67"], one["CD3"])
    assert any("factors frozen" in text for text in heard.notes)


def test_one_broken_image_does_not_keep_the_others_from_their_factors(tmp_path: Path) -> None:
    job = toy_job(tmp_path, names=("a", "b"))
    path = tmp_path / "images" / "a.ome.tif"
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[1].dataoffsets[0]
    content = path.read_bytes()
    path.write_bytes(content[: at + 10])
    report = night(job)
    assert report.done == ["b, score"]
    assert list(report.failed) == ["a, score"]


def test_factors_do_not_hang_on_what_failed_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that fails at first is done again before factors are found on its group."""
    job = toy_job(tmp_path, FILES + IMPUTE + SCORE + QUICK)
    failing = Failing(OutputError("the disk is full"), {"north": 1})
    monkeypatch.setattr(runner_module, "run_over_images", failing)
    assert len(night(job).done) == 4
    assert failing.calls == ["north", "south", "north", "north", "south"]
    with Ledgers.looked_at(tmp_path / "job.ledger") as ledgers:
        assert [row.why for row in ledgers.all_frozen()] == ["fitted on 2 images"]


def test_no_factors_are_found_while_a_place_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = toy_job(tmp_path)
    with monkeypatch.context() as patch:

        def unreadable(*args: object, **more: object) -> None:
            raise SourceError("nobody answers")

        patch.setattr(frozen_module, "fit", unreadable)
        report = night(job)
        assert (report.done, list(report.failed)) == ([], ["factors, score"])
        assert set(report.waiting.values()) == {"for the frozen factors"}
        with pytest.raises(SourceError):
            report.raise_for_errors()
    assert rows_of(job) == []
    assert len(night(job).done) == 2


def test_only_so_many_images_are_fitted(tmp_path: Path) -> None:
    job = toy_job(tmp_path, FILES + SCORE + QUICK + "[normalization]\nimages = 1\ndrift = false\n", names=("a", "b"))
    night(job)
    with Ledgers.looked_at(tmp_path / "job.ledger") as ledgers:
        (row,) = ledgers.all_frozen()
    assert row.why == "fitted on 1 images"
    assert len(row.document["details"]) == 1
    assert not any("drift" in row.counts for row in rows_of(job))


def test_scores_do_not_depend_on_what_came_with_them(tmp_path: Path) -> None:
    """An image of the second night is scored as if it had been there from the start with the frozen factors."""
    job = toy_job(tmp_path, names=("a", "b"))
    night(job)
    write_image(tmp_path / "images", "c", 2)
    night(job)
    late = table_of(job, next(row for row in rows_of(job) if row.name.startswith("c")))
    (frozen,) = (tmp_path / "job.ledger").glob("normalization-score-*.json")
    text = FILES + SCORE.replace("tta", 'normalization = "frozen.json"\ntta') + QUICK
    other = toy_job(tmp_path / "other", text, names=())
    for path in (tmp_path / "images").iterdir():
        (tmp_path / "other" / "images").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "other" / "images" / path.name)
    shutil.copy(frozen, tmp_path / "other" / "frozen.json")
    night(other)
    alone = table_of(other, next(row for row in rows_of(other) if row.name.startswith("c")))
    assert np.array_equal(alone["Nimbus: CD3"], late["Nimbus: CD3"], equal_nan=True)
