"""``mxbridge translate``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxbridge.cli import console, options, told
from mxbridge.cli.places import Places, takes_places
from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.progress import Progress
    from mxbridge.tasks.over_images import Finished
    from mxbridge.tasks.translate import TranslateTask
    from mxbridge.tasks.translating.map_sources import MapSource
    from mxbridge.workspaces.base import Workspace

NUCLEI = "Nuclei and scores"
EARLIER = "Without networks"


class Outputs(StrEnum):
    score = "score"
    cells = "cells"
    channels = "channels"
    all = "all"


class Statistics(StrEnum):
    tile = "tile"
    slide = "slide"


class Objects(StrEnum):
    detections = "detections"
    cells = "cells"


class Resolution(StrEnum):
    x40 = "40x"
    x20 = "20x"
    x10 = "10x"


def _model(option: str, text: str) -> Any:
    return typer.Option(option, help=text, rich_help_panel=options.MODEL)


def _nuclei(option: str, text: str, **more: Any) -> Any:
    return typer.Option(option, help=text, rich_help_panel=NUCLEI, **more)


def _earlier(option: str, text: str) -> Any:
    return typer.Option(option, help=text, rich_help_panel=EARLIER)


@takes_places(labels=True, publishes=True, makes_objects=True)
def translate(
    places: Places,
    model: Annotated[
        str | None,
        _model("--model", "deepliif, deconvolution (no weights), a name you added, or a folder of official files"),
    ] = None,
    outputs: Annotated[
        Outputs | None, _model("--outputs", "What is made: score, cells (default), channels or all")
    ] = None,
    weighting: Annotated[
        str | None,
        _model("--weighting", "Of the segmentations: paper (default), test, uniform, or numbers such as .5,0,0,0,.5"),
    ] = None,
    statistics: Annotated[
        Statistics | None,
        _model(
            "--statistics",
            "tile (default): each window by itself, as published; slide: one setting for the whole slide, no seams",
        ),
    ] = None,
    compat: Annotated[str | None, _model("--compat", "Reproduce a published program: deepliif")] = None,
    tile_size: Annotated[
        int | None,
        _model("--tile-size", "Its tiles, in pixels: 512 at 40x, 256 at 20x, 128 at 10x (else by pixel size)"),
    ] = None,
    stains: Annotated[
        str | None, _model("--stains", "For deconvolution: H-DAB or H&E (else those of the project)")
    ] = None,
    positive_od: Annotated[
        float | None, _model("--positive-od", "For deconvolution: optical density from which a pixel is positive")
    ] = None,
    seg_threshold: Annotated[
        int | None, _nuclei("--seg-threshold", "Red and blue together above which a pixel is nucleus (else 120)")
    ] = None,
    noise_threshold: Annotated[
        int | None, _nuclei("--noise-threshold", "Pixels up to which a nucleus is noise (else 4)")
    ] = None,
    large_noise_threshold: Annotated[
        str | None,
        _nuclei("--large-noise-threshold", "Pixels from which a nucleus is noise: a number, auto or none (default)"),
    ] = None,
    size_threshold: Annotated[
        str | None,
        _nuclei(
            "--size-threshold", "Smallest nucleus, in pixels of the model's scale: auto (default), a number or none"
        ),
    ] = None,
    size_upper: Annotated[float | None, _nuclei("--size-upper", "Largest nucleus, in those pixels")] = None,
    min_area: Annotated[
        float | None, _nuclei("--min-area", "Smallest nucleus in µm² (instead of --size-threshold)")
    ] = None,
    max_area: Annotated[float | None, _nuclei("--max-area", "Largest nucleus in µm² (instead of --size-upper)")] = None,
    marker_threshold: Annotated[
        str | None,
        _nuclei("--marker-threshold", "Marker from which a nucleus is positive: a number, auto or none (default)"),
    ] = None,
    od_lower: Annotated[
        float | None, _nuclei("--od-lower", "Nuclei with a smaller mean optical density (x 100) are negative")
    ] = None,
    od_upper: Annotated[
        float | None, _nuclei("--od-upper", "Nuclei with a larger mean optical density (x 100) are negative")
    ] = None,
    separate: Annotated[
        bool | None,
        _nuclei("--separate/--no-separate", "Part touching nuclei, by the inferred Lap2 or DAPI where there is one"),
    ] = None,
    objects: Annotated[Objects | None, _nuclei("--objects", "Nuclei as detections (default), or in cells")] = None,
    expand: Annotated[float | None, _nuclei("--expand", "µm by which nuclei grow to cells (else 5)")] = None,
    inside: Annotated[
        list[str] | None,
        _nuclei(
            "--inside", "Only inside annotations of this class, or the one with this id; repeatable", metavar="CLASS|ID"
        ),
    ] = None,
    base_class: Annotated[
        str | None, _nuclei("--base-class", "Base of the classes, as in Tumor: Positive (else that of --inside)")
    ] = None,
    marker: Annotated[
        str | None, _nuclei("--marker", "What the stain shows, for names such as DeepLIIF: Ki67 mean")
    ] = None,
    rescore: Annotated[
        Path | None,
        _earlier("--rescore", "A run of translate: its nuclei again, with other thresholds; the rest as there"),
    ] = None,
    from_seg: Annotated[
        list[str] | None, _earlier("--from-seg", "A segmentation picture made elsewhere; repeatable")
    ] = None,
    marker_image: Annotated[
        list[str] | None, _earlier("--marker-image", "Its picture of the marker; repeatable, in the same order")
    ] = None,
    resolution: Annotated[Resolution | None, _earlier("--resolution", "Of --from-seg: 40x, 20x or 10x")] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    workers: options.Workers = None,
    out: options.Out = None,
    publish: options.Publish = True,
    report: options.Report = False,
    resume: options.Resume = True,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.ProgressOption = options.ProgressKind.text,
) -> None:
    """Brightfield slides (IHC, H&E) to inferred fluorescence, nuclei with classes, and scores."""
    from mxbridge.stream.engine import Engine
    from mxbridge.tasks.over_images import run_over_images
    from mxbridge.tasks.translate import TranslateTask
    from mxbridge.tasks.translating import opening
    from mxbridge.tasks.translating.options import TranslateOptions, cut

    chosen = {
        "outputs": outputs and outputs.value,
        "weighting": weighting,
        "statistics": statistics and {"tile": "window", "slide": "slide"}[statistics.value],
        "compat": compat,
        "tile_size": tile_size,
        "stains": stains,
        "positive_od": positive_od,
        "seg_threshold": seg_threshold,
        "noise": noise_threshold,
        "large_noise": cut("--large-noise-threshold", large_noise_threshold),
        "size": cut("--size-threshold", size_threshold),
        "size_upper": size_upper,
        "min_area": min_area,
        "max_area": max_area,
        "marker_threshold": cut("--marker-threshold", marker_threshold),
        "od_lower": od_lower,
        "od_upper": od_upper,
        "separate": separate,
        "objects": objects and objects.value,
        "expand": expand,
        "inside": tuple(inside) if inside else None,
        "base_class": base_class,
        "marker": marker,
    }
    of_networks = bool(model or workers or device != "auto" or precision != "auto")
    _check_together(rescore, from_seg, places.given, of_networks, bool(marker_image or resolution))
    teller = console.make_progress(progress.value, quiet=quiet, verbose=verbose)
    names: Sequence[str] = places.names
    workspace: Workspace
    source: MapSource
    if from_seg:
        beside, scale, um = marker_image or (), resolution and resolution.value, places.um_per_px
        source, workspace, found = opening.pictures(from_seg, beside, chosen, resolution=scale, um_per_px=um)
    elif rescore is not None:
        source, found = opening.rescored(rescore, chosen)
        workspace = opening.place_of(source.run, places.project, places.path_maps)
        names = names or source.images
    else:
        workspace = places.open()
        engine, found = Engine(device, precision, workers=workers), TranslateOptions.given(chosen)
        source = opening.networks(workspace, model, engine, found, reuse=resume)
    refs = workspace.list(names)
    task = TranslateTask(source, found)
    if dry_run:
        _say_plan(workspace, task, refs, teller, all_named=places.all_named, publish=publish, as_json=json)
        return
    finished = run_over_images(
        workspace, refs, task, all_named=places.all_named, out=out, publish=publish, resume=resume, progress=teller
    )
    page = told.report(finished, workspace, teller, wanted=report)
    _say_result(finished, publish, json, page)
    page.raise_for_errors(finished)


def _check_together(
    rescore: Path | None,
    from_seg: list[str] | None,
    given: frozenset[str],
    of_networks: bool,
    of_pictures: bool,
) -> None:
    """Raise UsageError where options say different things about where images come from."""
    if from_seg and rescore is not None:
        raise UsageError("give either --rescore or --from-seg")
    if (from_seg or rescore is not None) and of_networks:
        raise UsageError("--rescore and --from-seg run no networks", hint="Leave --model, --device and the like out")
    if of_pictures and not from_seg:
        raise UsageError("--marker-image and --resolution go with --from-seg")
    if from_seg and given - {"image", "um_per_px"}:
        raise UsageError("--from-seg names its own pictures", hint="Leave --project and --files out")
    if rescore is not None and given - {"image", "project", "path_map"}:
        raise UsageError("--rescore takes the images of its run", hint="Only --project, for a project that has moved")


def _say_plan(
    workspace: Workspace,
    task: TranslateTask,
    refs: list[Any],
    teller: Progress,
    *,
    all_named: bool,
    publish: bool,
    as_json: bool,
) -> None:
    described = task.describe()
    told.say_plans(
        workspace,
        task,
        refs,
        teller,
        all_named=all_named,
        publish=publish,
        document=described if as_json else None,
        row=lambda plan: {
            "images": list(plan.basis["images"]),
            "targets": plan.basis["targets"],
            "notes": [*plan.warnings, *plan.notes],
        },
        what=lambda row: (
            f"{', '.join(row['images'])} by {described['model']['name']}, then {', '.join(row['targets'])}"
        ),
        makes=("channels", "objects"),
    )


def _say_result(finished: Finished, publish: bool, as_json: bool, page: told.Reported) -> None:
    from mxbridge.tasks.translate import summary

    if as_json:
        console.print_json(told.run_document(finished) | page.document)
        return
    rows = summary(finished.run)
    if rows:
        several = len({row["model"] for row in rows}) > 1
        lines = [
            (
                f"{row['image']} ({row['model']})" if several else row["image"],
                _called(row),
                row["class"] or "",
                row["num_total"],
                row["num_pos"],
                row["num_neg"],
                _percent(row),
            )
            for row in rows
        ]
        console.print_table(("image", "annotation", "class", "nuclei", "positive", "negative", "positive %"), lines)
    told.say_where(finished, publish, files="Tables, pictures and settings", results="The results are")
    page.say()


def _called(row: dict[str, Any]) -> str:
    """The name of an annotation, or the beginning of its id."""
    name = row["annotation"] or ""
    return name[:8] if name == row["annotation_id"] else name  # type: ignore[no-any-return]


def _percent(row: dict[str, Any]) -> str:
    return "no cells" if row["percent_pos"] is None else f"{row['percent_pos']:.1f}"
