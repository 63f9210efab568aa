"""Results for the image in front of a user: what publishing would do, written down for QuPath to do it.

``data.qpdata`` and ``project.qpproj`` are only read. Steps: (1) edit in memory and compare, (2) describe the entries that show
derived images, (3) write the exchange file, (4) open the ledger's journal, (5) mark the copies of the objects in other entries,
which do not follow. The journal stays open: QuPath saves the results with everything else, or never does, and the ledger finds
out from the file which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mxbridge.errors import ChangedMeanwhile
from mxbridge.formats.exchange import sweep
from mxbridge.results import Results
from mxbridge.runs import now, versions
from mxbridge.workspaces.qupath import edit
from mxbridge.workspaces.qupath.handover.difference import Before, columns_touched, difference
from mxbridge.workspaces.qupath.handover.exchange_file import FILE_NAME, Header, write
from mxbridge.workspaces.qupath.ledger import same_result, samples_of
from mxbridge.workspaces.qupath.project import Entry, Project
from mxbridge.workspaces.qupath.publication import Publication
from mxbridge.workspaces.qupath.views import View, as_document, outdate

NOTHING_NEW = "all of this is in the project already: if QuPath does not show it, choose File > Reload data"


@dataclass(frozen=True)
class HandedOver:
    """file: the exchange file. cells_gone: how many cells of the results are not in the project any more."""

    file: Path
    cells_gone: int
    notes: tuple[str, ...]


def hand_over(
    project: Project,
    entry: Entry,
    publication: Publication,
    results: Results,
    views: Sequence[View],
    *,
    folder: Path,
    task: str,
    model: str,
    notes: Sequence[str] = (),
) -> HandedOver:
    """Write the exchange file of one image into ``folder``; the caller holds the project's lock.

    views: the entries of derived images, as they have to be. notes: on them. Raises ChangedMeanwhile when no cell of the
    results is left, InputError, OutputError; then nothing is handed over.
    """
    sweep(folder)
    tree = publication.tree()
    meant, gone = edit.without_gone(tree, results)
    if gone and not meant.cell_ids and not results.objects:
        raise ChangedMeanwhile(
            f"none of the {len(gone)} cells of {results.image} is in the project any more",
            hint="The image was segmented again since the run read it; run again",
        )
    ledger, identity = publication.ledger, str(entry.id)
    before = Before.of(tree, columns_touched(ledger.state, meant))
    edited = edit.put(tree, ledger.state, meant, entry_id=identity, known_colors=publication.classes().colors)
    found = difference(before, tree, edited)
    entries = [told for view in views if (told := as_document(project, view)) is not None]
    lines = [*edited.notes, *notes, *(note for view in views for note in view.notes)]
    lines += [f"{len(gone)} of {len(results.cell_ids)} cells are not in the project any more"] if gone else []
    lines += [NOTHING_NEW] if found.is_empty and not entries else []
    newer = max(ledger.state.runs_of(results.result_keys), default="")
    if _second(newer) > _second(results.run_id):
        lines.append(f"these results are older than those they replace, which are of {newer}")
    header = Header(
        run=results.run_id,
        task=task,
        model=model,
        image_id=identity,
        image_name=entry.name,
        made=now(),
        mxbridge=versions()["mxbridge"],
        data_sha256=publication.data_sha,
        columns=found.columns,
        classes=found.classes,
        counts=found.counts,
        entries=tuple(entries),
        notes=tuple(lines),
    )
    write(folder / FILE_NAME, header, found.lines(tree, meant))
    if not same_result(edited.state, ledger.state):
        samples = samples_of(tree, edited.state)
        ledger.begin(edited.state, before=publication.data_sha, after=None, samples=samples)
        ledger.sweep()
        outdate(project, entry.id, {str(told["replaces"]) for told in entries})
    return HandedOver(folder / FILE_NAME, len(gone), tuple(lines))


def _second(run_id: str) -> str:
    """When a run began: its id without the random part."""
    return run_id.rpartition("-")[0]
