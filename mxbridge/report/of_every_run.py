"""Sections that every report has, whatever the run did: what it was, its factors, what went wrong, and how to do it again."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from mxbridge.errors import InputError
from mxbridge.report.blocks import Block, Code, Column, Facts, Note, Numbers, Section, Table
from mxbridge.report.context import MOST_PICTURED, RunContext
from mxbridge.report.texts import number
from mxbridge.runs import ImageRecord, Run

TITLES = {
    "score": "Marker scores",
    "impute": "Imputed stains",
    "translate": "Inferred stains and nuclei",
    "qc": "Check of stains",
    "evaluate": "Evaluation",
    "importance": "What imputed stains are made of",
}
LONGEST_LIST = 40
"""Names of a list that are written out."""
LONGEST_VALUE = 2000
"""Characters of an option that are shown."""

_FILE_OF_FACTORS = "normalization.json"
_STATUS = {"published": "published", "computed": "done", "failed": "failed", "waiting": "not done"}
_DONE = ("published", "computed")


def title_of(run: Run) -> str:
    """What the page is called."""
    return TITLES.get(run.task, run.task.capitalize())


def subtitle_of(run: Run) -> str:
    """Of which images, and when."""
    names = [image.name for image in run.images]
    what = names[0] if len(names) == 1 else f"{len(names)} images"
    return f"{what}, {_when(run.started)}"


def overview(context: RunContext) -> Section:
    """What was done, when, on what, and how many images are done and failed."""
    run = context.run
    blocks: list[Block] = [Numbers(tuple(_numbers(context))), Facts(tuple(_facts(run)))]
    if context.workspace is None and context.why_not:
        text = f"The images were out of reach, so this report shows what the run folder holds. {context.why_not}"
        blocks.insert(0, Note(text, "warning"))
    elif context.unreached:
        text = (
            f"{len(context.unreached)} of {len(run.images)} images could not be opened; of them this report shows what "
        )
        text += f"the run folder holds. {next(iter(context.unreached.values()))}"
        blocks.insert(0, Note(text, "warning"))
    if len(context.done) > MOST_PICTURED:
        text = f"The first {MOST_PICTURED} images are shown as pictures, all {len(context.done)} in tables and counts."
        blocks.insert(0, Note(text))
    rows = tuple((i.name, i.id, _status(run, i), _objects(i)[1], i.seconds, len(i.warnings)) for i in run.images)
    columns = (
        Column("Image"),
        Column("Id"),
        Column("Status", "badge"),
        Column("Nuclei" if any(_objects(i)[0] == "nuclei" for i in run.images) else "Cells", "number"),
        Column("Seconds", "number"),
        Column("Warnings", "number"),
    )
    return Section("overview", "Overview", (*blocks, Table(columns, rows, "Images of this run")))


def normalisation(context: RunContext) -> Iterator[Section]:
    """The stored value that a marker network sees as 1, where the run used such factors."""
    from mxbridge.models.normalization import Normalization

    file = context.run.path / _FILE_OF_FACTORS
    if not file.is_file():
        return
    try:
        found = Normalization.load(file)
    except InputError as error:
        context.problem(str(error))
        return
    lead = "The stored value of each marker that the network sees as 1"
    lead += f": quantile {found.quantile:g} of the foreground" if found.quantile is not None else ""
    lead += ", pooled over all images of the run." if found.mode == "pooled" else ", each image its own."
    flagged = any(found.flags.values())
    columns = (Column("Marker"), Column("Factor", "number", 5), *((Column("Remark"),) if flagged else ()))
    rows = [(m, f, *((found.flags.get(m),) if flagged else ())) for m, f in found.factors.items()]
    blocks: list[Block] = [Table(columns, tuple(rows), "Factors of this run" if found.mode == "pooled" else "Means")]
    if found.details or found.per_image:
        blocks.append(_factors_of_images(context.run, found.details, found.per_image))
    yield Section("normalisation", "Normalisation factors", tuple(blocks), lead)


def left_out(context: RunContext) -> Section:
    """Images that failed or were not reached, and cells and tiles without a value."""
    run = context.run
    failed = [(i.name, i.id, _status(run, i), i.error) for i in run.images if i.error or i.status == "failed"]
    waiting = [(i.name, i.id, _status(run, i), None) for i in run.images if i.status == "waiting" and not i.error]
    blocks: list[Block] = []
    if failed or waiting:
        columns = (Column("Image"), Column("Id"), Column("Status", "badge"), Column("Why"))
        blocks.append(Table(columns, (*failed, *waiting), "Images"))
    else:
        blocks.append(Note(f"{_all(len(run.images))} done."))
    known = {
        "tiles_skipped": "Tiles without cells or tissue",
        "cells_without_area": "Cells without pixels",
        "cells_without_core": "Cells without a core",
    }
    kept = [key for key in known if any(_is_count(i.counts.get(key)) and i.counts[key] for i in run.images)]
    if kept:
        rows = tuple((i.name, *(i.counts.get(key) for key in kept)) for i in run.images)
        numbers = (Column(known[key], "number") for key in kept)
        blocks.append(
            Table(
                (Column("Image"), *numbers),
                rows,
                "Skipped within images",
                "Tiles without cells have nothing to measure.",
            )
        )
    return Section("left-out", "Skipped and failed", tuple(blocks))


def warnings(context: RunContext) -> Section:
    """What the run warned of, and what this report could not show."""
    run = context.run
    told: dict[str, list[str]] = {}
    for text in run.warnings:
        told.setdefault(str(text), []).append("the whole run")
    for image in run.images:
        for text in image.warnings:
            told.setdefault(str(text), []).append(image.name)
    blocks: list[Block] = []
    if told:
        rows = tuple((text, len(names), _listed(names)) for text, names in told.items())
        blocks.append(Table((Column("Warning"), Column("Images", "number"), Column("Which")), rows))
    else:
        blocks.append(Note("There were no warnings."))
    if context.problems:
        blocks.append(Table((Column("Not shown in this report"),), tuple((text,) for text in context.problems)))
    return Section("warnings", "Warnings", tuple(blocks))


def provenance(context: RunContext) -> Section:
    """Model, weights, options and versions."""
    run = context.run
    blocks: list[Block] = []
    for name, pairs in (("Model", run.model), ("Options", run.options), ("Versions", run.versions)):
        rows = tuple((key, _value(value)) for key, value in _flat(pairs))
        if rows:
            blocks.append(Table((Column(name), Column("Value")), rows))
    keys = (("Run id", run.run_id), ("Request", run.request), ("Run folder", str(run.path.resolve())))
    blocks.append(Facts(keys))
    return Section(
        "provenance", "Provenance", tuple(blocks), "What computed these numbers, to be cited and to be done again."
    )


def command(context: RunContext) -> Section:
    """The command line, to be copied."""
    words = [str(word) for word in context.run.command]
    if words and _is_program(words[0]):
        words[0] = "mxbridge"
        text = shlex.join(words)
    else:
        text = shlex.join(words) if words else "not recorded"
    lead = "The command that was run; what is done already is not computed again."
    return Section("command", "Command", (Code(text),), lead)


def _numbers(context: RunContext) -> Iterator[tuple[str, str]]:
    run = context.run
    failed = sum(image.status == "failed" or image.error is not None for image in run.images)
    done = sum(image.status in _DONE for image in run.images)
    yield f"{number(done)} of {number(len(run.images))}", "images done"
    for word in ("cells", "nuclei"):
        if found := sum(count for kind, count in map(_objects, run.images) if kind == word and count):
            yield number(found), word
    markers = [image.counts["markers"] for image in run.images if _is_count(image.counts.get("markers"))]
    if markers:
        yield number(max(markers)), "markers"
    yield number(failed), "failed"


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "Images from", run.address
    yield "Model", ", ".join(_model_names(run.model)) or "none"
    yield "Started", _when(run.started)
    yield "Finished", _when(run.finished) if run.finished else "not finished"
    seconds = [i.seconds for i in run.images if i.seconds is not None and math.isfinite(i.seconds)]
    if seconds:
        yield "Time for all images", _duration(sum(seconds))
    published = any(image.status == "published" for image in run.images)
    if run.is_of_project or run.is_of_server:
        yield "Results", "written back where the images are" if published else "in the run folder only"
    yield "Run", run.run_id


def _status(run: Run, image: ImageRecord) -> str:
    """In a word; results of files lie in the run folder: there is no place where they could be published."""
    kept = "published" if image.status == "published" and (run.is_of_project or run.is_of_server) else None
    return kept or _STATUS["computed" if image.status == "published" else image.status]


def _objects(image: ImageRecord) -> tuple[str, int | None]:
    """What was counted in an image, and how many; None where nothing was."""
    for word in ("cells", "nuclei"):
        if _is_count(image.counts.get(word)):
            return word, image.counts[word]
    return "cells", None


def _model_names(model: Mapping[str, Any]) -> list[str]:
    if isinstance(model.get("name"), str):
        return [model["name"]]
    several = model.get("models", model)
    rows = list(several.values()) if isinstance(several, dict) else several if isinstance(several, list) else []
    return list(dict.fromkeys(str(row["name"]) for row in rows if isinstance(row, dict) and "name" in row))


def _factors_of_images(run: Run, details: Mapping[str, Any], per_image: Mapping[str, Any]) -> Table:
    names = {image.id: image.name for image in run.images}
    rows = []
    for key in details or per_image:
        for marker in details.get(key) or per_image[key]:
            row = details.get(key, {}).get(marker, {})
            own = per_image.get(key, {}).get(marker)
            rows.append((names.get(key, key), marker, row.get("quantile"), row.get("foreground_px"), own))
    columns = (
        Column("Image"),
        Column("Marker"),
        Column("Quantile of this image", "number", 5),
        Column("Foreground pixels", "number"),
        Column("Factor", "number", 5),
    )
    kept = len(columns) if per_image else len(columns) - 1
    return Table(columns[:kept], tuple(row[:kept] for row in rows), "What each image says of its markers")


def _flat(pairs: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as one list, by path; groups of plain values in one line each."""
    for key, value in pairs.items():
        name = before + _words(key)
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            value = {str(k): one for k, one in enumerate(value, 1)} if len(value) > 1 else value[0]
        if not isinstance(value, dict) or not value or len(before) >= LONGEST_VALUE:
            yield name, value
        elif any(isinstance(one, dict | list) for one in value.values()):
            yield from _flat(value, f"{name}: ")
        else:
            yield name, ", ".join(f"{_words(key)} {_value(one)}" for key, one in value.items())


def _words(key: str) -> str:
    """The name of a setting as words; a name of a channel stays as it is."""
    return key.replace("_", " ") if key.islower() else key


def _value(value: Any) -> str:
    if value is None or value in ([], {}, "", ()):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
        text = ", ".join(map(str, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} …"


def _listed(names: list[str]) -> str:
    kept = list(dict.fromkeys(names))
    more = f" and {len(kept) - LONGEST_LIST} more" if len(kept) > LONGEST_LIST else ""
    return ", ".join(kept[:LONGEST_LIST]) + more


def _all(count: int) -> str:
    return "The image was" if count == 1 else f"All {count} images were"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_program(word: str) -> bool:
    name = PureWindowsPath(word).name if "\\" in word else PurePath(word).name
    return Path(name).stem in ("mxbridge", "__main__")


def _when(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"
