"""Draw the pictures of the walk-throughs from a scored project: stains, cells called positive, scores, cells near the threshold.

    mxbridge demo demo && mxbridge score --project demo/project.qpproj --image id:1 --markers CD3,PanCK --no-tta
    python -m examples.pictures demo/project.qpproj examples

It shows how a script draws with the parts that reports are made of: pixels of the pyramid level that fits, cells at any scale.
Where Chromium is there, it also takes a picture of the report of that run (``report.png``); else that one is left out.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

import mxbridge
from mxbridge.image import Box
from mxbridge.report.cell_pictures import NEGATIVE, POSITIVE, Drawable, composite, grey_picture, score_colours
from mxbridge.report.crops import card_side, centred, enlarged
from mxbridge.report.gallery import nearest
from mxbridge.report.pixels import read_reduced
from mxbridge.report.plotting import INK, MUTED, STYLE, new_figure
from mxbridge.runs import Run
from mxbridge.workspaces.base import Pulled, Workspace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = {"DAPI": ("blue", (60, 90, 255)), "CD3": ("green", (60, 255, 90)), "PanCK": ("magenta", (255, 70, 220))}
"""Channels of the first panel, and their colours."""

SCALE_UM = 50

MARKER, THRESHOLD = "CD3", 0.5
FIELD = Box(560, 600, 1080, 1120)
"""Full-resolution pixels that the panels show."""

CARDS = 12
PAGE = Box(640, 272, 1880, 1264)
"""Of the page, at a width of 1280 pixels: the first image, without dates and folders above it."""

CHROMIUM = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--window-size=1280,{PAGE.y1}",
    ),
)
COLOURS = 256
"""Of a stored picture: a palette makes it a third as large."""


def main(project: str, folder: str) -> None:
    workspace = mxbridge.open_workspace(project)
    run = newest_run(workspace)
    pulled = workspace.pull(workspace.list()[0])
    table = pd.read_parquet(run / "cells.parquet").set_index("cell").loc[list(pulled.cells.ids)]
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    draw_results(pulled, table, target / "scores.png")
    report = run / "report.html"
    picture_of_report(report if report.is_file() else mxbridge.make_report(run), target / "report.png")
    for path in (target / "scores.png", target / "report.png"):
        print(f"drew {path}" if path.exists() else f"no {path.name}: Chromium is not there")


def newest_run(workspace: Workspace) -> Path:
    runs = [folder for folder in workspace.runs_home.iterdir() if (folder / "run.json").is_file()]
    return max((folder for folder in runs if Run.load(folder).task == "score"), key=lambda folder: folder.name)


def draw_results(pulled: Pulled, table: pd.DataFrame, path: Path) -> None:
    """Three panels over a row of cells whose score is nearest the threshold."""
    import matplotlib

    column = next(name for name in table.columns if name.endswith(f": {MARKER}"))
    scores = table[column].to_numpy()
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10.4, 4.72)
        figure.set_layout_engine("none")
        panels = figure.subplot_mosaic(
            [[0, 1, 2]], gridspec_kw={"left": 0.01, "right": 0.99, "top": 0.945, "bottom": 0.25, "wspace": 0.03}
        )
        pictures = panels_of(pulled, scores)
        titles = (
            ", ".join(f"{name} {colour}" for name, (colour, _) in SHOWN.items()),
            f"{MARKER}, cells called positive outlined",
            f"{column}, 0 dark to 1 yellow",
        )
        for k, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
            panels[k].imshow(picture, interpolation="nearest")
            panels[k].set_title(title, fontsize=9.5, color=INK, loc="left")
        draw_scale(panels[0], pulled)
        strip = cards(pulled, table, scores)
        width = 0.98 / len(strip)
        said = f"The {len(strip)} cells whose score is nearest the threshold {THRESHOLD:g}: orange called positive, blue not"
        figure.text(0.01, 0.207, said, fontsize=9.5, color=INK)
        for k, (picture, score) in enumerate(strip):
            axis = figure.add_axes((0.01 + k * width, 0.045, width * 0.94, 0.15))
            axis.imshow(picture, interpolation="nearest")
            axis.set_xlabel(f"{score:.3f}", fontsize=8.5, color=MUTED, labelpad=2)
            panels[f"card {k}"] = axis
        for axis in panels.values():
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=120, facecolor="white")
    save(Image.open(drawn), path)


def draw_scale(panel: Axes, pulled: Pulled) -> None:
    """A white bar in the lower left corner of a panel that shows :data:`FIELD`."""
    long = SCALE_UM / pulled.image.require_pixel_size()[1]
    left, low = 0.04 * FIELD.shape[1], 0.95 * FIELD.shape[0]
    panel.plot([left, left + long], [low, low], color="white", linewidth=3, solid_capstyle="butt")
    panel.text(left + long / 2, low - 8, f"{SCALE_UM} µm", color="white", fontsize=8.5, ha="center", va="bottom")


def panels_of(pulled: Pulled, scores: NDArray[np.floating]) -> list[NDArray[np.uint8]]:
    side = max(FIELD.shape)
    planes = read_reduced(pulled.image, [pulled.image.find_channel(name) for name in SHOWN], side, FIELD)
    whites = np.quantile(planes, 0.995, axis=(1, 2))
    stain = grey_picture(planes[list(SHOWN).index(MARKER)], float(whites[list(SHOWN).index(MARKER)]))
    painting = Drawable.of(pulled.cells).painting(FIELD, planes.shape[1:])
    return [
        composite(planes, whites, [colour for _, colour in SHOWN.values()]),
        painting.outlined(stain, scores >= THRESHOLD, POSITIVE),
        painting.filled(score_colours(scores)),
    ]


def cards(pulled: Pulled, table: pd.DataFrame, scores: NDArray[np.floating]) -> list[tuple[NDArray[np.uint8], float]]:
    """Pictures of single cells and their scores, the nearest to the threshold first."""
    drawable, channel = Drawable.of(pulled.cells), [pulled.image.find_channel(MARKER)]
    white = float(np.quantile(read_reduced(pulled.image, channel, 600)[0], 0.995))
    middle = table[["y_um", "x_um"]].to_numpy() / pulled.image.require_pixel_size()
    out = []
    for cell in nearest(0, list(table.index), scores, table[f"{MARKER} mean"].to_numpy(), THRESHOLD)[:CARDS]:
        side = card_side(drawable.boxes, cell.row)
        box = centred((float(middle[cell.row, 0]), float(middle[cell.row, 1])), side, pulled.image.shape)
        stain = enlarged(grey_picture(read_reduced(pulled.image, channel, side, box)[0], white), 96)
        painting = drawable.painting(box, stain.shape[:2])
        only = np.zeros(len(scores), bool)
        only[cell.row] = True
        colour = POSITIVE if cell.score >= THRESHOLD else NEGATIVE
        out.append((painting.outlined(stain, only, colour, thick=2), cell.score))
    return out


def picture_of_report(report: Path, path: Path) -> None:
    """The images of a report, as a browser shows them."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        path.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        shot, page = Path(folder) / "shot.png", report.absolute().as_uri()
        words = [browser, *CHROMIUM, f"--user-data-dir={folder}/profile", f"--screenshot={shot}", page]
        subprocess.run(words, check=True, capture_output=True, timeout=120)  # noqa: S603 - a browser, on our own page
        save(Image.open(shot).crop((PAGE.x0, PAGE.y0, PAGE.x1, PAGE.y1)), path)


def save(picture: Image.Image, path: Path) -> None:
    """As a PNG with a palette, which is found on every third pixel."""
    full = picture.convert("RGB")
    part = Image.fromarray(np.ascontiguousarray(np.asarray(full)[::3, ::3]))
    palette = part.quantize(COLOURS, kmeans=1)
    colours = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    colours[(colours >= 249).all(axis=1)] = 255  # paper stays white
    palette.putpalette(colours.tobytes())
    full.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
