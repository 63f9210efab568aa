"""``mxbridge qupath export-objects`` and ``import-objects``: objects of images as GeoJSON, out of a project and into one."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxbridge.cli import console, options
from mxbridge.errors import InputError, MxbridgeError, NoCells, SomeImagesFailed, UsageError

if TYPE_CHECKING:
    from mxbridge.results import ImageRef
    from mxbridge.workspaces.qupath.objects.export import Exported
    from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

Project = Annotated[Path, typer.Option("--project", help="QuPath project (.qpproj, or its folder)")]

_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz")


class ObjectKind(StrEnum):
    cells = "cells"
    detections = "detections"
    annotations = "annotations"
    all = "all"


def export_objects(
    project: Project,
    out: Annotated[Path, typer.Option("--out", help="File (.geojson or .geojson.gz) for one image, else a folder")],
    image: options.Image = None,
    kind: Annotated[
        ObjectKind, typer.Option("--kind", help="Which objects; detections are all of cells, detections and tiles")
    ] = ObjectKind.all,
    json: options.Json = False,
) -> None:
    """Write objects as GeoJSON that QuPath imports: ids, classes, names, measurements, nuclei, metadata.

    Which object lies in which is not in it, as in QuPath's own export: Objects > Annotations > Resolve hierarchy finds it again.
    """
    from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

    workspace = QuPathWorkspace(project)
    refs = workspace.list(image or ())
    files = _files(out, refs)
    rows: list[dict[str, Any]] = []
    failed: list[MxbridgeError] = []
    for ref, file in files.items():
        try:
            done = _export(workspace, ref, file, kind)
        except NoCells as error:
            if len(refs) == 1:
                raise
            rows.append({"image": ref.name, "id": ref.id, "file": None, "notes": [str(error)]})
        except MxbridgeError as error:
            if len(refs) == 1:
                raise
            failed.append(error)
            rows.append({"image": ref.name, "id": ref.id, "file": None, "error": str(error)})
        else:
            notes = [f"left out: {count} objects: {why}" for why, count in done.left_out.items()]
            found = {"file": file.resolve(), "objects": done.objects, "notes": notes}
            rows.append({"image": ref.name, "id": ref.id, **found})
    if json:
        console.print_json({"project": workspace.address, "images": rows})
    for row in [] if json else rows:
        told = ", ".join(f"{count} {name.replace('tma', 'TMA')}s" for name, count in (row.get("objects") or {}).items())
        console.out.print(_line(row, told), markup=False)
        for note in row.get("notes", ()):
            console.out.print(f"  {note}", markup=False)
    if failed:
        if len(failed) == len(refs):
            raise failed[0]
        raise SomeImagesFailed(
            f"{len(failed)} of {len(refs)} images could not be exported", hint="They are named above"
        )


def import_objects(
    file: Annotated[Path, typer.Argument(help="GeoJSON (.geojson or .geojson.gz), e.g. of export-objects or QuPath")],
    project: Project,
    image: Annotated[str, typer.Option("--image", help="The image to put them into, by name or id")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Objects that are there already become those of the file")
    ] = False,
    json: options.Json = False,
) -> None:
    """Put the objects of a GeoJSON file into an image; they are yours, and no run of mxbridge takes them out again."""
    from mxbridge.workspaces.qupath.objects.importing import import_objects as put
    from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

    workspace = QuPathWorkspace(project)
    refs = workspace.list([image])
    if len(refs) > 1:
        named = ", ".join(f"id:{ref.id}" for ref in refs)
        raise UsageError(f"{len(refs)} images are called {image!r}", hint=f"Name one by its id: {named}")
    done = put(workspace, refs[0], file, replace=replace)
    if json:
        document = {"image": refs[0].name, "id": refs[0].id, "file": file.resolve(), "changed": done.changed}
        counts = {"added": done.added, "same": done.same, "replaced": done.replaced}
        more = {"differ": list(done.differ), "refused": [{"why": w, "count": n} for w, n in done.refused]}
        console.print_json({**document, **counts, **more, "notes": list(done.notes)})
        return
    console.out.print(
        f"{refs[0].name}: {done.added} objects added, {done.same} were there already"
        + (f", {done.replaced} replaced" if replace else ""),
        markup=False,
    )
    for note in done.notes:
        console.out.print(f"  {note}", markup=False)


def _export(workspace: QuPathWorkspace, ref: ImageRef, file: Path, kind: ObjectKind) -> Exported:
    from mxbridge.workspaces.qupath.objects.export import export_objects as write
    from mxbridge.workspaces.qupath.qpdata import ImageDataFile

    path = workspace.project.data_path(int(ref.id))
    if not path.exists():
        raise NoCells(f"{ref.name} has no objects: nothing was saved for it yet")
    try:
        return write(ImageDataFile.read(path), file, kind.value, entry_id=int(ref.id), name=ref.name)
    except InputError as error:
        if not isinstance(error, NoCells):
            error.message = f"{ref.name}: {error.message}"
        raise


def _files(out: Path, refs: list[ImageRef]) -> dict[ImageRef, Path]:
    """Where each image goes. Raises UsageError, OutputError."""
    from mxbridge.formats.atomic import make_folder

    out = out.expanduser()
    if out.name.lower().endswith(_SUFFIXES):
        if len(refs) != 1:
            raise UsageError(
                f"{out} is one file, and there are {len(refs)} images",
                hint="Name one with --image, or give a folder with --out",
            )
        return {refs[0]: out}
    make_folder(out)
    return {ref: out / f"{_stem(ref.name)} (id {ref.id}).geojson" for ref in refs}


def _stem(name: str) -> str:
    """A name that every system takes for a file."""
    return re.sub(r'[\x00-\x1f<>:"/\\|?*\ud800-\udfff]', "_", name).strip(" .")[:100] or "image"


def _line(row: dict[str, Any], told: str) -> str:
    if "error" in row:
        return f"{row['image']}: {row['error']}"
    return f"{row['image']}: {told} in {row['file']}" if told else f"{row['image']}: nothing written"
