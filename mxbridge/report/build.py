"""``mxbridge report``: the page of a run, from its folder and, where they can be reached, its images.

run folder ──► RunContext ──► sections of this kind of run ──► page ──► report.html, or report/ where that is too large
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxbridge.errors import MxbridgeError, OutputError, UsageError
from mxbridge.progress import SILENT, Progress
from mxbridge.report import of_every_run
from mxbridge.report.blocks import Note, Section
from mxbridge.report.context import RunContext
from mxbridge.report.page.rendering import Page, Rendered
from mxbridge.report.page.store import PICTURES, PictureStore
from mxbridge.report.writing import check_file, part_folder, write_file, write_folder
from mxbridge.runs import Run

if TYPE_CHECKING:
    from mxbridge.workspaces.base import Workspace

STEM = "report"
LARGEST_FILE = 25_000_000
"""Bytes; a page that would be larger becomes a folder with its pictures beside it."""

KINDS = {
    task: f"mxbridge.report.of_{task}" for task in ("score", "translate", "impute", "qc", "evaluate", "importance")
}
"""Modules with ``sections(context) -> Iterator[Section]``, by task."""


def build_report(
    run_folder: Path,
    out: Path | None = None,
    project: Path | None = None,
    *,
    workspace: Workspace | None = None,
    path_maps: Sequence[str] = (),
    progress: Progress = SILENT,
    largest: int = LARGEST_FILE,
) -> Path:
    """Write the report of a run and say where it is: ``report.html`` in its folder, or ``report/index.html`` where that would
    pass ``largest`` bytes. A report that is there is replaced.

    out: another file (``.html``; a large report becomes a folder of that name without ``.html``). project: where the project is
    now, if it has moved. workspace: where the images are, if it is open already.

    What cannot be reached or read is left out and named in the report. Raises SourceError, BrokenFile (no run), UsageError
    (something else stands where the report should be), Locked, OutputError.
    """
    run = Run.load(run_folder)
    usual = run.path / f"{STEM}.html"
    out = None if out is not None and out.absolute() == usual.absolute() else out
    file = usual if out is None else out
    if file.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {file}: a report is a file whose name ends in .html")
    why_not = ""
    if workspace is None:
        workspace, why_not = _reached(run, project, path_maps)
    with run.locked() if out is None else nullcontext():
        run = Run.load(run_folder)
        context = RunContext(run, workspace, why_not, progress)
        if out is not None:
            return _write(context, file, largest)
        written = _write(context, file, largest)
        made = {file.name if written == file else file.stem, *run.details.get("made", ())}
        if made != set(run.details.get("made", ())):  # a restart of the run removes it
            run.details["made"] = sorted(made)
            run.save()
        return written


def _write(context: RunContext, file: Path, largest: int) -> Path:
    folder = file.with_suffix("")
    check_file(file)
    with part_folder(folder) as part:
        (part / PICTURES).mkdir()
        store = PictureStore(part / PICTURES)
        page = Page(store)
        sections = _rendered(page, context)

        def whole(*, inside: bool) -> str:
            title, subtitle = of_every_run.title_of(context.run), of_every_run.subtitle_of(context.run)
            made = f"Made by mxbridge {version('mxbridge')} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
            return page.whole(title=title, subtitle=subtitle, made=made, sections=sections, inside=inside)

        text = whole(inside=True)
        if len(text.encode()) + store.bytes * 4 // 3 <= largest:
            return write_file(text, store, file, folder)
        return write_folder(whole(inside=False), store, file, folder, part)


def _rendered(page: Page, context: RunContext) -> list[Rendered]:
    """All sections; those of every run are made after the others, so that they can say what could not be shown."""
    own = list(_of_kind(page, context))
    factors = [page.section(section) for section in of_every_run.normalisation(context)]
    ends = (of_every_run.left_out, of_every_run.warnings, of_every_run.provenance, of_every_run.command)
    first = page.section(of_every_run.overview(context))
    every = [first, *own, *factors, *(page.section(make(context)) for make in ends)]
    if len({section.id for section in every}) < len(every):
        raise ValueError(f"two sections share an id: {[section.id for section in every]}")
    return every


def _of_kind(page: Page, context: RunContext) -> Iterator[Rendered]:
    """The sections of this kind of run. One that fails says so in its place, and the others follow."""
    module = KINDS.get(context.run.task)
    if module is None:
        return
    sections: Iterator[Section] = import_module(module).sections(context)
    while True:
        section = None
        try:
            section = next(sections, None)
            if section is None:
                return
            yield page.section(section)
        except OutputError:
            raise
        except (MxbridgeError, OSError) as error:
            title = section.title if section else f"the rest about {context.run.task}"
            context.problem(f"{title}: {error}")
            if section is None:
                return
            yield page.section(
                Section(section.id, section.title, (Note(f"This could not be shown: {error}", "error"),))
            )


def _reached(run: Run, project: Path | None, path_maps: Sequence[str]) -> tuple[Workspace | None, str]:
    """Where the images of a run are, as it was opened then; None, and why, where that is out of reach."""
    from mxbridge.workspaces import open_workspace

    if project is not None and not run.is_of_project:
        raise UsageError(f"{run.path} is not a run of a project's images", hint="Leave --project out")
    options = {} if project else _opened(run)
    if path_maps:
        if not run.is_of_project:
            raise UsageError("--path-map goes with projects")
        options["path_maps"] = tuple(path_maps)
    try:
        return open_workspace(f"project:{project}" if project else run.place, **options), ""
    except MxbridgeError as error:
        return None, str(error)


def _opened(run: Run) -> dict[str, Any]:
    """What opened the images besides their address, of what a record may say."""
    kept = run.details.get("opened")
    kept = kept if isinstance(kept, dict) else {}
    options: dict[str, Any] = {
        name: tuple(value)
        for name in ("labels", "path_maps")
        if isinstance(value := kept.get(name), list) and all(isinstance(one, str) for one in value)
    }
    if isinstance(scale := kept.get("um_per_px"), int | float) and 0 < scale < 1e6:
        options["um_per_px"] = float(scale)
    if isinstance(plane := kept.get("plane"), list) and len(plane) == 2 and all(isinstance(n, int) for n in plane):
        options["plane"] = tuple(plane)
    if kept.get("stretched_labels") is True:
        options["stretched_labels"] = True
    return options
