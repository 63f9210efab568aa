"""``mxbridge batch plan | run | status``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxbridge.cli import console, options

if TYPE_CHECKING:
    from mxbridge.batch.job import Job
    from mxbridge.batch.report import Report
    from mxbridge.batch.status import Status
    from mxbridge.batch.survey import Look

app = typer.Typer(
    name="batch",
    help="Many images, several tasks in a row, every night: what a job file says.",
    no_args_is_help=True,
)

JobFile = Annotated[Path, typer.Argument(help="The job file (TOML); examples/nightly/job.toml is one")]
Shard = Annotated[
    str | None, typer.Option("--shard", help="K/N: only this part of the images (else as the Slurm array says)")
]
TRENDS: tuple[tuple[str, dict[str, str]], ...] = (
    ("Brightness", {"frozen": "factor", "own": "own", "ratio": "ratio", "drifted": "drifted"}),
    ("Positive cells", {"%": "percent", "cells": "cells"}),
    ("Stains judged", {"flagged": "flagged"}),
)
"""Tables of ``status``: title, and what its columns show of a trend; the first one decides which trends are shown."""

MOST_ROWS = 40
"""Of one kind in a table; JSON has all."""


@app.command("plan")
def plan(
    job: JobFile,
    shard: Shard = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also what was given up")] = False,
    json: options.Json = False,
) -> None:
    """Say what would be done, and why; nothing is written."""
    import tempfile

    from mxbridge.batch.claims import parse_shard, shard_of
    from mxbridge.batch.job import load_job
    from mxbridge.batch.runner import only_looking
    from mxbridge.errors import SomeImagesFailed

    part, loaded = parse_shard(shard), load_job(job)
    looks: list[Look] = []
    with (
        tempfile.TemporaryDirectory(prefix="mxbridge-") as scratch,
        only_looking(loaded, Path(scratch), retry=retry_failed) as (survey, places, unreachable),
    ):
        for place in places:
            for ref in place.refs:
                if shard_of(place.image_key(ref), part):
                    looks += survey.image(place, ref)
            place.workspace.rest()
        vanished = survey.vanished(places, [lost.source for lost in unreachable])
    document = {
        "job": loaded.name,
        "ledger": loaded.ledger,
        "runs": loaded.runs,
        "items": [_look_row(look) for look in looks],
        "vanished": [f"{row.name}, {row.task}" for row in vanished],
        "unreachable": {lost.source: str(lost.error) for lost in unreachable},
    }
    if json:
        console.print_json(document)
    else:
        _say_looks(looks)
        for row in vanished:
            console.out.print(f"{row.name}: is no longer among the images of source {row.source}", markup=False)
    for lost in unreachable:
        console.errors.print(f"warning: source {lost.source}: {lost.error}", style="yellow", markup=False)
    if not (looks or unreachable or json):
        console.out.print("Nothing to do: there are no images.")
    if unreachable and not places:
        raise unreachable[0].error
    if unreachable:
        raise SomeImagesFailed(f"{len(unreachable)} sources cannot be reached", hint="They are named above")


@app.command("run")
def run(
    job: JobFile,
    until: Annotated[str | None, typer.Option("--until", help="Begin no image after this time of day: 06:00")] = None,
    images: Annotated[int | None, typer.Option("--images", help="Begin at most this many images", min=1)] = None,
    shard: Shard = None,
    runner: Annotated[
        str | None, typer.Option("--runner", help="Name of this runner's ledger (else machine, or Slurm array task)")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also what was given up")] = False,
    refit_normalization: Annotated[
        bool, typer.Option("--refit-normalization", help="Find frozen factors anew; all their images are scored again")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.ProgressOption = options.ProgressKind.text,
) -> None:
    """Do what is to be done. Killed at any moment, it goes on; two runners never do one image twice."""
    from mxbridge.batch.claims import parse_shard, refit_word, runner_name
    from mxbridge.batch.job import load_job
    from mxbridge.batch.limits import parse_time
    from mxbridge.batch.runner import Request, run_job

    if until is not None:
        parse_time(until)
    request = Request(
        runner=runner or runner_name(),
        shard=parse_shard(shard),
        until=until,
        images=images,
        retry_failed=retry_failed,
        refit=refit_word() if refit_normalization else "",
    )
    loaded = load_job(job)
    report = run_job(loaded, request, progress=console.make_progress(progress.value, quiet=quiet, verbose=verbose))
    _say_report(loaded, report, as_json=json)
    report.raise_for_errors()


@app.command("status")
def status(
    job: JobFile,
    nights: Annotated[int, typer.Option("--nights", help="Show the trends of this many nights", min=1)] = 14,
    json: options.Json = False,
) -> None:
    """What is done, what failed and why, and how brightness, positivity and verdicts go from night to night."""
    from mxbridge.batch.job import load_job
    from mxbridge.batch.ledger import Ledgers
    from mxbridge.batch.status import read_status

    loaded = load_job(job)
    limit = loaded.normalization.drift
    with Ledgers.looked_at(loaded.ledger) as ledgers:
        found = read_status(ledgers, [task.name for task in loaded.tasks], None if limit is False else limit)
    if json:
        console.print_json({"job": loaded.name, "ledger": loaded.ledger, **found.document()})
        return
    _say_status(found, nights)


def _look_row(look: Look) -> dict[str, Any]:
    item = look.item
    return {
        "source": item.place.source,
        "image": item.ref.name,
        "id": item.ref.id,
        "task": item.task.name,
        "verdict": look.verdict,
        "why": look.why,
        "would": list(item.place.workspace.intentions(item.ref, item.task.spec.verb.makes)) if _publishes(look) else [],
    }


def _publishes(look: Look) -> bool:
    return look.item.task.spec.publishes and look.verdict in ("to do", "waits")


def _say_looks(looks: list[Look]) -> None:
    counts: dict[tuple[str, str, str], int] = {}
    for look in looks:
        key = (look.item.place.source, look.item.task.name, look.verdict)
        counts[key] = counts.get(key, 0) + 1
    if counts:
        console.print_table(("source", "task", "", "images"), [(*key, count) for key, count in counts.items()])
    shown = [look for look in looks if look.verdict != "done"]
    for look in shown[:MOST_ROWS]:
        console.out.print(f"{look.item.name}: {look.verdict}: {look.why}", markup=False)
        for line in _look_row(look)["would"]:
            console.out.print(f"  {line}", markup=False)
    if len(shown) > MOST_ROWS:
        console.out.print(f"... and {len(shown) - MOST_ROWS} more; --json has all", markup=False)
    if looks and not shown:
        console.out.print("Nothing to do: all of this is done.")


def _say_report(job: Job, report: Report, *, as_json: bool) -> None:
    if as_json:
        console.print_json({"job": job.name, "ledger": job.ledger, "runs": job.runs, **report.document()})
        return
    counts = [(what, count) for what, count in report.counts.items() if count]
    if counts:
        console.print_table(("images and tasks", ""), counts)
    told = (
        report.done,
        report.failed,
        report.left,
        report.unreachable,
        report.given_up,
        report.waiting,
        report.elsewhere,
    )
    if not any(told):
        why = "all of this was done before" if report.done_before else "there is no image that this is made for"
        console.out.print(f"Nothing to do: {why}.")
    if report.stopped:
        console.out.print(f"No further image was begun: {report.stopped}", markup=False)
    console.out.print(f"Runs: {job.runs}", markup=False)
    console.out.print(f"Ledger: {job.ledger} (mxbridge batch status {job.path})", markup=False)


def _say_status(found: Status, nights: int) -> None:
    rows = [(t.task, t.done, t.failed, t.cut_off, t.vanished) for t in found.tasks]
    console.print_table(("task", "done", "failed", "begun or cut off", "vanished"), rows)
    for row in found.problems[:MOST_ROWS]:
        why = f": {row.error}" if row.error else ""
        console.out.print(f"{row.name}, {row.task}: {row.state}{why}", markup=False)
    if len(found.problems) > MOST_ROWS:
        console.out.print(f"... and {len(found.problems) - MOST_ROWS} more; --json has all", markup=False)
    last = sorted({trend.night for trend in found.trends})[-nights:]
    shown = [trend for trend in found.trends if trend.night in last]
    for title, columns in TRENDS:
        lines = [
            (t.night, f"{t.task}: {t.what}", t.images, *(getattr(t, name) for name in columns.values()))
            for t in shown
            if getattr(t, next(iter(columns.values()))) is not None
        ]
        if lines:
            console.out.print(f"\n{title}")
            console.print_table(("night", "", "images", *columns), [["" if v is None else v for v in x] for x in lines])
