"""``mxbridge report`` and ``--report``: where the page lies, what it replaces, what it says of what is out of reach."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

import mxbridge as package
from mxbridge.cli import evaluate, importance, impute, qc, score, told, translate
from mxbridge.errors import BrokenFile, InputError, Locked, OutputError, SomeImagesFailed, UsageError
from mxbridge.progress import SILENT
from mxbridge.report import build, context
from mxbridge.report.blocks import Group, Note, Picture, Section
from mxbridge.report.build import build_report
from mxbridge.report.context import RunContext
from mxbridge.results import RESULTS, Results
from mxbridge.runs import RECORD, ImageRecord, Run, open_run
from mxbridge.tasks.over_images import Finished, run_over_images
from mxbridge.workspaces import open_workspace
from tests.report.showcase import HOSTILE, make_run
from tests.tasks.test_over_images import Doubling

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, showcase: None) -> Run:
    return make_run(tmp_path / "run", ("tissue A", "b"), "light")


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.name != ".lock"}


def test_a_report_lies_in_the_run_and_goes_with_it(mxbridge: Command, run: Run) -> None:
    before = names(run.path)
    code, out, err = mxbridge("report", run.path)
    assert (code, err) == (0, "")
    assert out == f"Report: {run.path / 'report.html'}\n"
    assert names(run.path) - before == {"report.html"}
    assert Run.load(run.path).made[-1] == "report.html", "a restart removes it"
    record = (run.path / RECORD).read_bytes()
    code, out, _ = mxbridge("report", run.path, "--json")
    assert json.loads(out) == {"report": str(run.path / "report.html")}
    assert (run.path / RECORD).read_bytes() == record, "a second one changes nothing but itself"
    assert names(run.path) - before == {"report.html"}


def test_a_restarted_run_has_no_old_report(run: Run, showcase: None) -> None:
    build_report(run.path, largest=1000)
    assert (run.path / "report" / "index.html").is_file()
    records = [ImageRecord("9", "n", "f", "0001-n")]
    with open_run(run.path.parent, run.path, records, resume=False, task="showcase", address="files:x") as (fresh, _):
        assert not fresh.details
    assert names(run.path) == {RECORD, "images"}


def test_large_reports_become_a_folder_and_small_ones_a_file_again(run: Run) -> None:
    small = build_report(run.path)
    size = small.stat().st_size
    assert small.name == "report.html"
    large = build_report(run.path, largest=size - 1)
    assert large == run.path / "report" / "index.html"
    assert not small.exists()
    assert len(list((large.parent / "pictures").iterdir())) == 24
    build_report(run.path, largest=size + 1000)
    assert not large.parent.exists()
    assert small.exists()
    assert not list(run.path.glob("*mxbridge-part*"))


def test_another_place(mxbridge: Command, run: Run, tmp_path: Path) -> None:
    before = names(run.path)
    code, _, _ = mxbridge("report", run.path, "--out", tmp_path / "for you" / "page.html")
    assert code == 0
    assert names(run.path) == before
    assert names(tmp_path / "for you") == {"page.html"}
    assert mxbridge("report", run.path, "--out", tmp_path / "for you" / "page.html")[0] == 0
    code, _, err = mxbridge("report", run.path, "--out", tmp_path / "page.pdf")
    assert (code, "ends in .html" in err) == (2, True)


def test_what_is_no_report_is_never_replaced(mxbridge: Command, run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<html>my own page</html>")
    code, _, err = mxbridge("report", run.path, "--out", mine)
    assert (code, "is no report of mxbridge" in err) == (2, True)
    assert mine.read_text() == "<html>my own page</html>"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("mine")
    assert build_report(run.path, tmp_path / "x.html") == tmp_path / "x.html", "a small one does not need the folder"
    with pytest.raises(UsageError, match="holds something else"):
        build_report(run.path, tmp_path / "x.html", largest=1000)
    assert names(tmp_path / "x") == {"notes.txt"}


def test_what_somebody_put_into_a_report_stays(run: Run) -> None:
    large = build_report(run.path, largest=1000)
    note = large.parent / "pictures" / "note.txt"
    note.write_text("mine")
    with pytest.raises(UsageError, match="holds something else"):
        build_report(run.path, largest=1000)
    build_report(run.path)
    assert note.read_text() == "mine"
    assert not large.exists()


def test_a_folder_in_use_and_no_folder(run: Run, tmp_path: Path) -> None:
    with run.locked(), pytest.raises(Locked):
        build_report(run.path)
    with run.locked():
        build_report(run.path, tmp_path / "copy.html")  # reading is allowed
    with pytest.raises(package.errors.SourceError, match="no run at"):
        build_report(tmp_path / "nothing")
    (run.path / RECORD).write_text("{}")
    with pytest.raises(BrokenFile):
        build_report(run.path)


def test_two_at_once_leave_each_other_alone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one begins and ends while the first is in the middle of its sections."""
    page = tmp_path / "page.html"
    dead = tmp_path / "page.0123abcd.mxbridge-part"
    within: list[Path] = []

    def sections(about: RunContext) -> Iterator[Section]:
        yield Section("one", "One", (Note("seen"),))
        if not within:
            within.append(page)
            assert build_report(run.path, page) == page
        yield Section("two", "Two", (Picture(b"RIFF", 4, 4, "a picture"),))

    monkeypatch.setattr("tests.report.showcase.sections", sections)
    assert build_report(run.path, page) == page
    assert within and "a picture" in page.read_text(encoding="utf-8")
    dead.mkdir()
    build_report(run.path, page)
    assert names(tmp_path) == {"page.html", "run"}, "what a killed one left is swept"


def test_damaged_results_are_named_and_the_rest_is_shown(run: Run) -> None:
    (run.folder_of(run.images[0]) / "values.npz").write_bytes(b"PK nothing")
    (run.path / "normalization.json").write_text("[]")
    seen = RunContext(run, None, "it has gone")
    assert seen.results(run.images[0]) is None
    assert "its results cannot be read" in seen.problems[0]
    page = build_report(run.path).read_text(encoding="utf-8")
    assert "1 of 2 images could not be opened" in page
    assert "holds no factors by marker" in page


def test_what_is_done_is_what_the_record_says(run: Run) -> None:
    """A task may keep nothing that a context could open; images of files are nowhere published."""
    (run.folder_of(run.images[0]) / RESULTS).unlink()
    run.images[0].status, run.images[0].counts = "published", {"nuclei": 427}
    run.save()
    page = build_report(run.path).read_text(encoding="utf-8")
    assert "1 of 2" in page and "0 of 2" not in page
    assert "published" not in page
    assert re.search(r"nuclei</bdi></dt><dd><bdi>427<", page) and '<th scope="col" class="number">Nuclei</th>' in page


def test_numbers_that_are_none_are_no_error(run: Run) -> None:
    run.images[0].seconds, run.images[0].counts["cells"] = float("inf"), 10**30
    run.save()
    page = build_report(run.path).read_text(encoding="utf-8")
    assert "∞" in page and "Time for all images" not in page


def test_settings_in_groups_are_lines(run: Run) -> None:
    run.model = {
        "models": [{"name": "M", "scaling": {"CD20_Dy161": {"transform": "linear", "clip": True}}, "files": []}]
    }
    run.options = {"thresholds_used": {"CD20_Dy161": 0.5, "CD3": 0.25}}
    run.save()
    page = build_report(run.path).read_text(encoding="utf-8")
    for words in (
        "CD20_Dy161 0.5, CD3 0.25",
        "models: scaling: CD20_Dy161",
        "transform linear, clip yes",
        "models: name",
    ):
        assert f"<bdi>{words}</bdi>" in page


def test_a_project_that_has_gone(run: Run) -> None:
    run.address = "/nowhere/at/all/project.qpproj"
    run.save()
    page = build_report(run.path).read_text(encoding="utf-8")
    assert "The images were out of reach" in page
    assert "/nowhere/at/all/project.qpproj" in page


def test_a_section_that_fails_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def sections(about: RunContext) -> Iterator[Section]:
        def blocks() -> Iterator[Group]:
            yield Group("first", (Note("seen"),))
            raise InputError("a tile is broken")

        yield Section("images", "Images", blocks())
        yield Section("counts", "Counts", (Note("after it"),))
        raise OSError("gone")

    monkeypatch.setattr("tests.report.showcase.sections", sections)
    page = build_report(run.path).read_text(encoding="utf-8")
    assert "This could not be shown: a tile is broken" in page
    assert "after it" in page
    assert "the rest about light: gone" in page


def test_the_pictures_of_a_full_disk_are_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        build_report(run.path)
    monkeypatch.undo()
    assert not list(run.path.glob("*mxbridge-part*"))
    assert not (run.path / "report.html").exists()


def test_the_same_request_is_named_in_every_report(run: Run) -> None:
    page = build_report(run.path).read_text(encoding="utf-8")
    for word in (
        "tissue A",
        "no such file",
        "FOXP3: no signal",
        "stacks: first plane taken",
        "812.5",
        "0" * 64,
        "files:/nowhere",
    ):
        assert word in page, word
    assert "mxbridge score --files &#39;a b.tif&#39;" in page
    assert "Made by mxbridge" in page
    assert HOSTILE not in page


def test_only_the_first_hundred_get_pictures(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "MOST_PICTURED", 1)
    monkeypatch.setattr("mxbridge.report.of_every_run.MOST_PICTURED", 1)
    three = make_run(run.path.parent / "three", ("a", "b", "c"), "light")
    seen = RunContext(three, None)
    assert [image.name for image in seen.done] == ["a", "b"]
    assert [seen.pictured(image) for image in three.images] == [True, False, False]
    assert "The first 1 images are shown as pictures, all 2" in build_report(three.path).read_text(encoding="utf-8")


def test_results_of_one_image_are_kept_at_hand(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    three = make_run(run.path.parent / "three", ("a", "b", "c"))
    loads = []
    load = Results.load
    monkeypatch.setattr(Results, "load", lambda folder: loads.append(folder.name) or load(folder))
    seen = RunContext(three, None)
    first, second, _ = three.images
    for image in (first, first, second, first):
        assert seen.results(image) is not None
    assert [name[:4] for name in loads] == ["0001", "0002", "0001"]
    assert seen.pulled(first) is None
    assert seen.table(first) is None
    assert seen.problems == []


def test_an_image_that_has_gone_is_a_problem_not_an_error(tmp_path: Path) -> None:
    image = tmp_path / "a.tif"
    tifffile.imwrite(image, np.zeros((8, 8), np.uint8))
    workspace = open_workspace(f"files:{image}")
    made = make_run(tmp_path / "run", (str(image),))
    made.images[0].id = str(image)
    seen = RunContext(made, workspace)
    pulled = seen.pulled(made.images[0], None)
    assert pulled is not None
    assert seen.attempt(made.images[0], lambda: 1 / 1, "a picture") == 1
    image.unlink()
    assert RunContext(made, open_workspace(f"files:{image}")).pulled(made.images[0]) is None


def test_files_are_opened_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8))
    tifffile.imwrite(tmp_path / "a_mask.tif", np.ones((8, 8), np.uint16))
    monkeypatch.chdir(tmp_path)
    first = open_workspace("files:a.tif", labels=["a_mask.tif"], um_per_px=0.5, plane=(0, 0))
    run_over_images(first, first.list(), Doubling(), out=tmp_path / "run", publish=False)
    made = Run.load(tmp_path / "run")
    monkeypatch.chdir("/")
    again, why_not = build._reached(made, None, ())
    assert why_not == ""
    assert again is not None
    pulled = again.pull(again.list()[0])
    assert pulled.cells is not None
    assert len(pulled.cells) == 1
    assert pulled.image.pixel_size_um == (0.5, 0.5)
    made.details["opened"] = {"labels": [1], "um_per_px": "x", "plane": [1], "stretched_labels": 1, "runs_home": "/etc"}
    assert build._opened(made) == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of this process")
@pytest.mark.parametrize("large", [False, True])
def test_a_kill_leaves_the_old_report_or_none(run: Run, large: bool) -> None:
    """Killed before each rename there is: whatever lies there afterwards is whole, and the next run sweeps the rest."""
    page = run.path / "report" / "index.html" if large else run.path / "report.html"
    limit = 1000 if large else build.LARGEST_FILE
    deaths = 0
    for nth in (1, 2, 3, 4, 5, 1, 2, 3):  # until it is there, and once more over the one that is there
        status = killed_before_rename(nth, run.path, limit)
        deaths += status != 0
        if page.exists():
            assert page.read_bytes().rstrip().endswith(b"</html>")
            assert not large or len(list((page.parent / "pictures").iterdir())) == 24
        elif not large:
            assert not (run.path / "report").exists()
    assert deaths == (7 if large else 3), "each of its renames was a place to die"
    build_report(run.path, largest=limit)
    assert page.exists()
    assert not list(run.path.glob("report*mxbridge-part*")), "what the killed ones left is swept"


def killed_before_rename(nth: int, folder: Path, largest: int) -> int:
    """Make the report in a copy of this process that dies before its nth rename; 0 where there are fewer."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    done = 0

    def dying(rename: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            nonlocal done
            done += 1
            if done == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(*arguments)

        return call

    os.rename, os.replace = dying(os.rename), dying(os.replace)  # type: ignore[assignment]
    try:
        build_report(folder, largest=largest)
    finally:
        os._exit(0)
    return 0


def test_a_task_makes_its_report_when_asked(mxbridge: Command, scored: Path) -> None:
    """The same request again: nothing is computed, and the page is there, as JSON says."""
    project = scored.parents[2] / "project.qpproj"
    scored.unlink()
    command = ("score", "--project", project, "--model", "demo", "--no-tta", "--json")
    code, out, _ = mxbridge(*command)
    assert (code, "report" in json.loads(out), scored.exists()) == (0, False, False)
    code, out, _ = mxbridge(*command, "--report")
    answer = json.loads(out)
    assert (code, answer["computed"]) == (0, 0)
    assert Path(answer["report"]) == scored.resolve()
    assert "report.html" in Run.load(scored.parent).made


def test_what_prevents_a_report_is_told_last(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (run.path / "report.html").write_text("<p>mine</p>")
    finished = Finished(run, 2, 0, ())
    made = told.report(finished, None, SILENT, wanted=True)
    made.say()
    assert capsys.readouterr().out == ""
    assert made.document == {"report": None}
    with pytest.raises(UsageError, match="is no report of mxbridge"):
        made.raise_for_errors(finished)
    failed = Finished(run, 1, 0, (InputError("a broken image"),))
    with pytest.raises(SomeImagesFailed, match="a broken image"):
        made.raise_for_errors(failed)
    assert told.report(finished, None, SILENT, wanted=False).document == {}


@pytest.mark.parametrize(
    "command", [score.score, impute.impute, translate.translate, qc.qc, evaluate.evaluate, importance.importance]
)
def test_every_task_offers_a_report(command: Callable[..., None]) -> None:
    assert inspect.signature(command).parameters["report"].default is False
    assert f"mxbridge.report.of_{command.__name__}" in build.KINDS.values()


def test_from_a_script(run: Run, tmp_path: Path) -> None:
    assert package.make_report(str(run.path)) == run.path / "report.html"
    assert package.make_report(run.path, tmp_path / "a.html").exists()
