"""Options that mean the same in every command, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mxbridge.errors import UsageError


class CellChoice(StrEnum):
    cells = "cells"
    detections = "detections"
    annotations = "annotations"


class ProgressKind(StrEnum):
    text = "text"
    json = "json"


class RoiKind(StrEnum):
    masks = "masks"
    polygons = "polygons"


class LargeImage(StrEnum):
    auto = "auto"
    tiles = "tiles"
    upload = "import"
    zarr = "zarr"


IMAGES = "Images"
OMERO = "OMERO"
MODEL = "Model"
OUTPUT = "Output"

Project = Annotated[Path | None, typer.Option("--project", help="QuPath project (.qpproj)", rich_help_panel=IMAGES)]
Projects = Annotated[
    list[Path] | None,
    typer.Option("--project", help="QuPath project (.qpproj); repeatable", rich_help_panel=IMAGES),
]
Omero = Annotated[
    str | None,
    typer.Option(
        "--omero",
        metavar="KIND:IDS",
        help="Images of an OMERO server: image:1,2, dataset:5, project:3, plate:4 or screen:6",
        rich_help_panel=IMAGES,
    ),
]
Image = Annotated[
    list[str] | None, typer.Option("--image", help="Only this image, by name or id; repeatable", rich_help_panel=IMAGES)
]
Files = Annotated[
    list[str] | None,
    typer.Option("--files", help="Image file, folder or quoted glob; repeatable", rich_help_panel=IMAGES),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        help="Label image, folder or GeoJSON of the --files; repeatable. With --omero: rois, attachment[:NAME], image:ID or dataset:ID",
        rich_help_panel=IMAGES,
    ),
]
StretchedLabels = Annotated[
    bool,
    typer.Option("--stretched-labels", help="Labels were stretched to 16 bit by CellProfiler", rich_help_panel=IMAGES),
]
Plane = Annotated[
    str | None,
    typer.Option(
        "--plane", help="Z,T plane of stacks, from 0 (else the first, with a warning)", rich_help_panel=IMAGES
    ),
]
UmPerPx = Annotated[
    float | None,
    typer.Option("--um-per-px", help="µm per pixel, for images that do not say", min=1e-4, rich_help_panel=IMAGES),
]
PathMap = Annotated[
    list[str] | None,
    typer.Option(
        "--path-map", metavar="OLD=NEW", help="Where moved images are now; repeatable", rich_help_panel=IMAGES
    ),
]
OmeroServer = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST[:PORT]",
        help="Or wss://HOST/omero-wss (else OMERO_HOST, or as `omero login` was told)",
        rich_help_panel=OMERO,
    ),
]
OmeroUser = Annotated[
    str | None,
    typer.Option(
        "--user",
        help="Who logs in (else OMERO_USER, or as `omero login` was told). The password comes from OMERO_PASSWORD, the "
        "keyring, that login or a prompt",
        rich_help_panel=OMERO,
    ),
]
OmeroGroup = Annotated[
    str | None, typer.Option("--group", help="Only images of this group (else of all)", rich_help_panel=OMERO)
]
VerifyServer = Annotated[
    bool, typer.Option("--verify-server", help="Refuse a server whose certificate is not signed", rich_help_panel=OMERO)
]
CaFile = Annotated[
    Path | None,
    typer.Option("--ca-file", help="PEM with who may have signed it (else the system's)", rich_help_panel=OMERO),
]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder for pixels that were fetched", rich_help_panel=OMERO)
]
CacheSize = Annotated[
    str | None, typer.Option("--cache-size", metavar="SIZE", help="Its limit (else 50GB)", rich_help_panel=OMERO)
]
Repository = Annotated[
    Path | None,
    typer.Option("--repository", help="Where the server's managed repository is mounted here", rich_help_panel=OMERO),
]
Beside = Annotated[
    bool,
    typer.Option(
        "--beside",
        help="New images into the source's dataset, not into one beside; those that are there stay",
        rich_help_panel=OMERO,
    ),
]
Rois = Annotated[
    int | None,
    typer.Option(
        "--rois", metavar="N", help="Also nuclei as ROIs where an image has at most N", min=1, rich_help_panel=OMERO
    ),
]
RoisAs = Annotated[
    RoiKind, typer.Option("--rois-as", help="Exact masks, or simplified polygons", rich_help_panel=OMERO)
]
LargeImages = Annotated[
    LargeImage, typer.Option("--large-images", help="How new images of slides get there", rich_help_panel=OMERO)
]
AsOwner = Annotated[
    bool,
    typer.Option(
        "--as-owner", help="Write in the name of the images' owners (accounts with sudo)", rich_help_panel=OMERO
    ),
]
Inside = Annotated[
    list[str] | None,
    typer.Option(
        "--inside",
        metavar="CLASS|ID",
        help="Only inside annotations of this class, or the one with this id; repeatable",
        rich_help_panel=IMAGES,
    ),
]
Panel = Annotated[
    Path | None,
    typer.Option("--panel", help="CSV: channel, name, role, keep", rich_help_panel=IMAGES),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps", rich_help_panel=MODEL)]
Precision = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16", rich_help_panel=MODEL)]
Tile = Annotated[
    int | None, typer.Option("--tile", help="Tile side in pixels at the model's scale", min=16, rich_help_panel=MODEL)
]
Workers = Annotated[int | None, typer.Option("--workers", help="Threads that read ahead", min=1, rich_help_panel=MODEL)]
Out = Annotated[
    Path | None, typer.Option("--out", help="Run folder (else mxbridge-runs/<run id>)", rich_help_panel=OUTPUT)
]
Publish = Annotated[
    bool, typer.Option("--publish/--no-publish", help="Write results back where the images are", rich_help_panel=OUTPUT)
]
Report = Annotated[
    bool,
    typer.Option(
        "--report/--no-report", help="Also a page with pictures and tables (report.html)", rich_help_panel=OUTPUT
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume/--restart", help="Go on with what is done already, or redo all", rich_help_panel=OUTPUT),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop", rich_help_panel=OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and the result", rich_help_panel=OUTPUT)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Every step", rich_help_panel=OUTPUT)]
ProgressOption = Annotated[
    ProgressKind, typer.Option("--progress", help="Progress on stderr as text or JSON lines", rich_help_panel=OUTPUT)
]


def names(option: str, text: str | None, *, none: str = "no marker") -> tuple[str, ...]:
    """Comma-separated names; none where the option was not given. Raises UsageError where it names nothing."""
    found = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not found:
        raise UsageError(f"{option} {text!r} names {none}")
    return found
