"""Everything that mxbridge can write into a QuPath project, one plain function each.

Every scene writes a project below ``root`` and returns it. They run in ordinary tests with our own reader as the judge, and
in tests marked ``qupath`` with a real QuPath; so the latter are known to work up to the call of the JVM.
"""

from __future__ import annotations

import json
import math
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import tifffile
from PIL import Image

from mxbridge.cells import OutlineCells, Rings
from mxbridge.formats.labels import scan_labels
from mxbridge.formats.ome_tiff import write_ome_tiff
from mxbridge.formats.ome_zarr_writer import OmeZarrWriter
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.results import ClassChanges, DerivedImage, ImageValue, Measurement, Results
from mxbridge.workspaces.qupath.builders import shown_channels, uri_builder
from mxbridge.workspaces.qupath.joined import DerivedFile, add_joined_entry, remove_joined_channels
from mxbridge.workspaces.qupath.new import NewImage, create_project, open_new_image
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, NewPathObject, NewROI, new_image_data
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import data_file, drawn, fl, new_objects, reclassed, scores, square

UNICODE = "Prüfung µ 𝄞"


def golden(root: Path, data: Path, version: str = "v0.6.0") -> Path:
    """A project that QuPath wrote, in another place than it was written."""
    folder = root / "Projekt µ" / version
    shutil.copytree(data / "qupath" / version, folder)
    images = folder / "images" if version == "v0.6.0" else folder.parent / "images"
    shutil.copytree(data / "qupath" / "images", images, dirs_exist_ok=True)
    return folder


def arrays(shape: tuple[int, int, int] = (3, 700, 1100), dtype: str = "uint16", um: float | None = 0.325) -> LocalImage:
    """An image in memory; values up to 5000 (up to 200 in 8 bits), so that a wrap shows."""
    values = np.random.default_rng(7).random(shape) * (200 if np.dtype(dtype).itemsize == 1 else 5000)
    channels = tuple(Channel(n, c) for n, c in zip(("DAPI", UNICODE, "CD3"), (0x0000FF, 0xFF8000, None), strict=True))
    return LocalImage(
        UNICODE, (da.from_array(values.astype(dtype), chunks=(1, 512, 512)),), channels[: shape[0]],
        None if um is None else (um, um), "identity",
    )  # fmt: skip


def new_fluorescence(root: Path, data: Path) -> Path:
    """A pyramid, colours, unicode names, cells with and without nucleus and hole, classes."""
    image = arrays()
    cells, nuclei = np.zeros(image.shape, np.int32), np.zeros(image.shape, np.int32)
    cells[10:40, 10:40], nuclei[20:30, 20:30] = 1, 5
    cells[100:140, 10:40] = 2
    cells[110:120, 20:30] = 0
    cells[695:700, 1090:1100] = 3
    labels = [scan_labels(da.from_array(a, chunks=256), a.shape, where="made up") for a in (cells, nuclei)]
    outlined = OutlineCells(
        (str(uuid.UUID(int=5)), "b"), (f"Tumor: {UNICODE}", None), image.shape,
        Rings.of([[np.array(square(10, 10))], [np.array(square(30, 30)), np.array(square(33, 33, 2))]]),
    )  # fmt: skip
    create_project(
        root / "neu ü",
        [
            NewImage(image, cells=labels[0], nuclei=labels[1], metadata=(("Patient", UNICODE),)),
            NewImage(replace(arrays(dtype="uint8"), name="8 bit"), cells=outlined),
            NewImage(replace(arrays(dtype="float32"), name="float")),
            NewImage(replace(arrays((2, 90, 120), "uint32"), name="32 bit")),
        ],
    )
    return root / "neu ü"


def new_brightfield(root: Path, data: Path) -> Path:
    """Colour pictures that stay where they are, one copied, and one image with stains and type set."""
    picture = np.moveaxis(np.asarray(arrays(dtype="uint8").levels[0]), 0, -1)
    Image.fromarray(picture[:90, :120]).save(root / "he.png")
    tifffile.imwrite(root / "he &µ.tif", picture, photometric="rgb", tile=(256, 256), compression="zlib")
    tifffile.imwrite(root / "zstd.tif", picture, photometric="rgb", tile=(256, 256), compression="zstd")
    names = ("he.png", "he &µ.tif", "zstd.tif")
    create_project(root / "p", [open_new_image(root / n) for n in names], um_per_px=0.25)
    project = Project.open(root / "p")
    spot = NewPathObject("annotation", str(uuid.UUID(int=9)), NewROI.ellipse(5, 5, 25.5, 17), class_name="Fleck")
    tree = new_image_data(project.entry(1).builder, "0.6.0", "BRIGHTFIELD_H_DAB", [spot], {"µ": 1.5, "text": UNICODE})
    project.data_path(1).write_bytes(tree.to_bytes())
    return root / "p"


def new_entry(root: Path, data: Path) -> Path:
    """An image added to a project of QuPath's own, without any data until objects are published on it."""
    folder = golden(root, data)
    image = arrays()
    path = folder / "images" / f"{UNICODE}.ome.tif"
    write_ome_tiff(path, image.levels[0], shown_channels(image), image.pixel_size_um)
    project = Project.open(folder)
    entry = project.add_entry("added <&'=> µ", uri_builder(path, open_new_image(path).image), metadata={"a": "=b"})
    project.write()
    workspace = QuPathWorkspace(folder)
    (ref,) = workspace.list([str(entry.id)])
    made = new_objects("annotation", "key", {"a": [square(50, 60)]}, class_name="Neu: Entry", measurements={"n": 1.5})
    workspace.publish(Results(ref, "run", objects=(made,)))
    return folder


def derived_tiff(path: Path, base: LocalImage, channels: int = 2, seed: int = 1) -> Path:
    shape = (channels, *base.shape)
    values = (np.random.default_rng(seed).random(shape) * (1 if base.dtype.kind == "f" else 255)).astype(base.dtype)
    pixels = da.from_array(values, chunks=(1, 256, 256))
    write_ome_tiff(path, pixels, [Channel(f"x{k}") for k in range(channels)], base.pixel_size_um)
    return path


def joined_channels(root: Path, data: Path) -> Path:
    """Maps joined to images of every pixel type that QuPath joins, in a moved project and in a new one."""
    folder = new_fluorescence(root, data)
    for entry, name in ((1, None), (2, "8 bit with maps"), (3, "float with maps")):
        workspace = QuPathWorkspace(folder)
        base = workspace.pull(workspace.list([str(entry)])[0]).image
        path = derived_tiff(folder / f"derived {entry}.ome.tif", base)
        shown = (Channel(f"{UNICODE} (Nimbus)", 0x123456), Channel("CD3 (Nimbus)"))
        add_joined_entry(folder / "project.qpproj", entry, [DerivedFile(path, "key-1", shown)], name)
    return folder


def joined_again(root: Path, data: Path) -> Path:
    """Joined to an image of a moved project; then a rerun of one result, one result more, and one taken out."""
    folder = golden(root, data, "v0.7.0")
    workspace = QuPathWorkspace(folder)
    base = workspace.pull(fl(workspace)).image
    files = {
        key: DerivedFile(derived_tiff(folder / f"{key}.ome.tif", base, n, n), key, tuple(Channel(f"{key} {k}") for k in range(n)))
        for key, n in (("a", 1), ("b", 2), ("c", 1))
    }  # fmt: skip
    project = workspace.project.path
    add_joined_entry(project, 2, [files["a"], files["b"]])
    workspace.publish(scores(workspace))
    add_joined_entry(project, 2, [replace(files["a"], channels=(Channel("new name"),)), files["c"]])
    remove_joined_channels(project, 2, ["b"])
    return folder


def objects_of_every_kind(root: Path, data: Path) -> Path:
    """Every kind of object and outline, nested, with names, colours, locks, metadata and measurements."""
    folder = golden(root, data)
    path = folder / "data/2/data.qpdata"
    tree = ImageDataFile.read(path)
    hole = NewROI.of_rings([square(10, 10, 40), square(20, 20, 10), square(100, 100)])
    outlines = {
        "polygon": NewROI.of_rings([[(0, 0), (30.25, 5), (12, 40.5)]]),
        "hole": hole,
        "rectangle": NewROI.rectangle(1.5, 2, 30, 40.25),
        "ellipse": NewROI.ellipse(100, 100, 180.5, 130, c=1),
        "plane": NewROI.of_rings([square(5, 5)], z=0, t=0, c=2),
    }
    number = 0
    for kind in ("annotation", "detection", "tile", "cell"):
        for name, outline in outlines.items():
            number += 1
            child = NewPathObject("detection", str(uuid.UUID(int=1000 + number)), NewROI.of_rings([square(12, 12, 5)]))
            tree.add_object(
                NewPathObject(
                    kind, str(uuid.UUID(int=number)), outline, name=f"{UNICODE} {name}", color=-0x7F0100 + number,
                    nucleus=NewROI.of_rings([square(3, 3, 4)]) if kind == "cell" and name != "hole" else None,
                    class_name=(None, "Tumor", f"Neu: {UNICODE}", "CD3: CD8: Ki67")[number % 4],
                    locked=number % 2 == 0, metadata={"_mxbridge.test": "1", "shown": UNICODE},
                    measurements={"a µ": 1.5 * number, "none": math.nan, "big": 3e38} if number % 3 else {},
                    children=(child,),
                )
            )  # fmt: skip
    path.write_bytes(tree.to_bytes())
    return folder


def replaced_objects(root: Path, data: Path) -> Path:
    """Objects published twice: some stay, some change, some go, some are new."""
    folder = golden(root, data, "v0.5.1")
    workspace = QuPathWorkspace(folder)
    workspace.publish(drawn(workspace, {"a": (5, 5), "b": (50, 50), "c": (90, 90)}))
    workspace.publish(drawn(workspace, {"b": (60, 60), "c": (90, 90), "d": (20, 200)}, run="run-2", name=UNICODE))
    holed = [square(200, 200, 50), square(210, 210, 10)]
    cells = new_objects(
        "cell", "key-cells", {"0": holed, "1": holed[:1]}, nuclei=[square(230, 230, 5)], class_name="Tumor"
    )
    workspace.publish(Results(fl(workspace), "run-3", objects=(cells,)))
    return folder


def measurements_of_every_kind(root: Path, data: Path) -> Path:
    """Columns on cells whose lists are Float, Double, Default or none at all, and on plain detections; some replaced."""
    folder = golden(root, data, "v0.4.4")
    workspace = QuPathWorkspace(folder)
    tree = ImageDataFile.read(data_file(workspace))
    old = next(iter(next(o for o in tree.objects() if o.measurements).measurements))
    found = [o.id for o in tree.objects() if o.kind in ("cell", "detection", "tile", "annotation")]
    workspace.publish(scores(workspace, names=("CD3", UNICODE), cells=found))
    results = scores(workspace, names=("Ki67",), seed=3, run="run-2", cells=found[:150])
    workspace.publish(replace(results, measurements=tuple(replace(m, name=old) for m in results.measurements)))
    return folder


def classes(root: Path, data: Path) -> Path:
    """Cells with derived, unicode, new and no classes; the new ones are in the project's list."""
    folder = golden(root, data, "v0.7.0")
    workspace = QuPathWorkspace(folder)
    cells = workspace.pull(fl(workspace)).cells
    names = ("Tumor: CD3: CD8", f"{UNICODE}: Kind", None, "Stroma", f"{UNICODE}: Kind: Enkel")
    given = dict(zip(cells.ids, [names[k % 5] for k in range(len(cells.ids))], strict=True))
    bases = dict(zip(cells.ids, cells.classes, strict=True))
    changes = ClassChanges(tuple(given.values()), tuple(bases.values()), "key-class")
    workspace.publish(Results(fl(workspace), "run-1", cells.ids, class_changes=changes))
    return folder


def everything_undone(root: Path, data: Path) -> Path:
    """Scores, classes, objects and a joined entry, all taken out again."""
    folder = golden(root, data)
    workspace = QuPathWorkspace(folder)
    cells = workspace.pull(fl(workspace)).cells
    for results in (
        scores(workspace),
        reclassed(workspace, cells.ids, "Tumor: CD3"),
        drawn(workspace, {"a": (5, 5)}),
    ):
        workspace.publish(results)
    path = derived_tiff(folder / "derived.ome.tif", workspace.pull(fl(workspace)).image)
    add_joined_entry(workspace.project.path, 2, [DerivedFile(path, "key-1")])
    remove_joined_channels(workspace.project.path, 2, ["key-1"])
    workspace.retract(fl(workspace), workspace.published_keys(fl(workspace)))
    return folder


def nuclei_and_images_apart(root: Path, data: Path) -> Path:
    """On the colour picture: nuclei with derived classes, values on annotations and on the image, and two images apart.

    Nuclei lie within a new annotation, 40 of 100 positive; a rerun changed the classes of some and took others away.
    """
    folder = golden(root, data, "v0.5.1")
    workspace = QuPathWorkspace(folder)
    (ref,) = workspace.list(["1"])
    base = workspace.pull(ref).image
    field = NewPathObject("annotation", FIELD, NewROI.rectangle(0, 0, 512, 512), class_name="Tumor", name="Field")
    path = folder / "data/1/data.qpdata"
    tree = ImageDataFile.read(path)
    tree.remove_objects([o for o in tree.objects() if o.kind in ("cell", "detection", "tile")])
    tree.add_object(field)
    path.write_bytes(tree.to_bytes())
    derived = []
    for file, names, rgb, title in (
        ("fl", ("DAPI (DeepLIIF)", "Lap2 (DeepLIIF)", "Ki67 (DeepLIIF)"), False, "DeepLIIF"),
        ("h", ("Red", "Green", "Blue"), True, "Hematoxylin, DeepLIIF"),
    ):
        values = np.random.default_rng(len(file)).integers(0, 256, (3, *base.shape), np.uint8)
        channels = [Channel(n, c) for n, c in zip(names, (0x0000FF, 0x00FFFF, 0xFFFF00), strict=True)]
        at = workspace.derived_folder(ref) / f"{file}.ome.zarr"
        writer = OmeZarrWriter(at, values.shape, np.uint8, channels, base.require_pixel_size(), version="0.4")
        for k, plane in enumerate(values):
            writer.write(k, Box(0, 0, *base.shape), plane)
        writer.finish()
        derived.append(DerivedImage(at.name, names, f"key-{file}", "apart", rgb, title))
    for run, (count, positive) in enumerate(((130, 10), (100, 40))):
        places = {str(k): [square(k % 20 * 25 + 3, k // 20 * 25 + 3, 9)] for k in range(count)}
        values = {"DeepLIIF: Area µm^2": 5.5, "DeepLIIF: Ki67 mean": math.nan}
        nuclei = new_objects("detection", "key-nuclei", places, measurements=values)
        names = tuple(f"Tumor: {'Positive' if k < positive else 'Negative'}" for k in range(count))
        column = Measurement("DeepLIIF: Num detections", np.array([count], np.float32), "key-score")
        value = ImageValue(f"DeepLIIF: Positive % (run {run})", 100 * positive / count, "key-score")
        made = replace(nuclei, class_names=names)
        results = Results(ref, f"run {run}", (FIELD,), (column,), None, (made,), tuple(derived), image_values=(value,))
        workspace.publish(results)
    return folder


FIELD = str(uuid.UUID(int=77))
"""Id of the annotation in :func:`nuclei_and_images_apart`."""

SCENES: tuple[Callable[[Path, Path], Path], ...] = (
    new_fluorescence, new_brightfield, new_entry, joined_channels, joined_again, objects_of_every_kind, replaced_objects,
    measurements_of_every_kind, classes, everything_undone, nuclei_and_images_apart,
)  # fmt: skip


def objects_in(project: Path) -> tuple[int, ...]:
    """Objects of each image, in order, for tests that count independently of the check."""
    document = json.loads((project / "project.qpproj").read_text(encoding="utf-8"))
    paths = [project / "data" / str(entry["entryID"]) / "data.qpdata" for entry in document["images"]]
    return tuple(sum(1 for _ in ImageDataFile.read(p).objects()) if p.exists() else 0 for p in paths)
