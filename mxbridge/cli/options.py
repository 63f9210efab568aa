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


IMAGES = "Images"
MODEL = "Model"
OUTPUT = "Output"

Project = Annotated[Path | None, typer.Option("--project", help="QuPath project (.qpproj)", rich_help_panel=IMAGES)]
Image = Annotated[
    list[str] | None, typer.Option("--image", help="Only this image, by name or id; repeatable", rich_help_panel=IMAGES)
]
Files = Annotated[
    list[str] | None,
    typer.Option("--files", help="Image file, folder or quoted glob; repeatable", rich_help_panel=IMAGES),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--labels", help="Label image, folder or GeoJSON of the --files; repeatable", rich_help_panel=IMAGES),
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
