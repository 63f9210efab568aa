"""What is compared when segmentations are evaluated: nuclei by class as label images, from pictures or from runs of translate.

A picture is a class image (red positive, blue negative, green border, as ``_SegRefined.png`` and ground truth are), or the raw
segmentation image of a network (``_Seg.png``), which is told by its mixed colours and read by the published program's rule.
GeoJSON with areas classed ``Positive`` and ``Negative`` (as QuPath exports them; also ``Tumor: Positive``) is read as well.
A truth is found by its name: that of the prediction, or its beginning up to a ``_`` (``6_2`` for ``6_2_SegRefined``).
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Rings, rasterise
from mxbridge.errors import InputError, SourceError, UsageError
from mxbridge.formats.open_image import open_image
from mxbridge.image import Box
from mxbridge.metrics.segmentation import Labels, classes_of_picture, classes_of_raw, components, is_class_image
from mxbridge.results import Results
from mxbridge.runs import RECORD, ImageRecord, Run, digest
from mxbridge.tasks.translating.objects import NEGATIVE, POSITIVE
from mxbridge.workspaces.geojson import read_geojson

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
OUTLINES = (".geojson",)
OTHER_PICTURES = re.compile(
    r"mod\d+.*|Hema|DAPI|Lap2|Marker|Seg\d*_?Overlaid|overlay|real_A|fake_B_[1-4]", re.IGNORECASE
)
"""What follows the name in pictures that DeepLIIF and translate write beside segmentations: they are passed over."""
LARGEST = 100_000_000
"""Pixels of the largest picture; truth is drawn for regions, not for slides."""


@dataclass(frozen=True)
class Classes:
    """Nuclei of one image, by class. positive, negative: labels ``(y, x)``, 0 is background."""

    positive: Labels
    negative: Labels

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.positive.shape[0]), int(self.positive.shape[1])

    @property
    def together(self) -> Labels:
        """All nuclei, whatever their class."""
        shifted = np.where(self.negative > 0, self.negative + self.positive.max(initial=0), 0)
        return np.where(self.positive > 0, self.positive, shifted).astype(np.int32)

    @property
    def counts(self) -> tuple[int, int]:
        """How many are positive, negative."""
        positive, negative = (int(np.count_nonzero(np.bincount(x.ravel())[1:])) for x in (self.positive, self.negative))
        return positive, negative


@dataclass(frozen=True)
class Prediction:
    """One image as one method saw it. image: name of its truth. read: gives the nuclei for an image of this shape (y, x), None
    where only the prediction can know it."""

    method: str
    image: str
    identity: str
    read: Callable[[tuple[int, int] | None], Classes]


def picture_files(given: Sequence[str], what: str, endings: Sequence[str] = (*PICTURES, *OUTLINES)) -> list[Path]:
    """Files that are named, those of a folder with one of the endings, or that a pattern finds, in order. Raises SourceError."""
    found: list[Path] = []
    for text in given:
        path = Path(text).expanduser()
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in endings)
        elif path.is_file():
            found.append(path)
        elif there := sorted(Path(p) for p in glob.glob(str(path))):  # noqa: PTH207 - the pattern may begin anywhere
            found += [p for p in there if p.is_file()]
        else:
            raise SourceError(f"{what} {text} is not there")
    return found


def by_stem(files: Sequence[Path], what: str) -> dict[str, Path]:
    """Raises UsageError for two files of one name, InputError for none."""
    named: dict[str, Path] = {}
    for path in files:
        other = named.setdefault(path.stem, path)
        if other != path:
            raise UsageError(f"{what} {other} and {path} have the same name", hint="Name one of them")
    if not named:
        raise InputError(f"{what}: no pictures there", hint=f"Known endings: {', '.join((*PICTURES, *OUTLINES))}")
    return named


def truth_of(stem: str, truths: Sequence[str]) -> str | None:
    """The truth that a prediction of this name belongs to; None where there is none."""
    fitting = [truth for truth in truths if stem == truth or stem.startswith(f"{truth}_")]
    return max(fitting, key=len, default=None)


def find_predictions(given: Sequence[str], truths: Sequence[str]) -> tuple[list[Prediction], list[str]]:
    """Of pictures and run folders; and the names of those that no truth belongs to.

    Raises SourceError, BrokenFile, UsageError for two predictions of one image by one method.
    """
    found: list[Prediction] = []
    strange: list[str] = []
    for text in given:
        folder = Path(text).expanduser()
        if (folder / RECORD).is_file():
            mine, foreign = _of_run(folder, truths)
        else:
            mine, foreign = _of_pictures(picture_files([text], "prediction"), truths)
        found += mine
        strange += foreign
    seen: set[tuple[str, str]] = set()
    for one in found:
        if (one.method, one.image) in seen:
            raise UsageError(f"{one.method} has two predictions of {one.image}", hint="Evaluate them one by one")
        seen.add((one.method, one.image))
    return found, strange


def _of_pictures(files: Sequence[Path], truths: Sequence[str]) -> tuple[list[Prediction], list[str]]:
    found, strange = [], []
    for path in files:
        truth = truth_of(path.stem, truths)
        if truth is None:
            strange.append(path.name)
            continue
        suffix = path.stem[len(truth) + 1 :]
        if OTHER_PICTURES.fullmatch(suffix):
            continue
        method = suffix or path.absolute().parent.name or "prediction"
        found.append(Prediction(method, truth, file_digest(path), partial(read_classes, path)))
    return found, strange


def _of_run(folder: Path, truths: Sequence[str]) -> tuple[list[Prediction], list[str]]:
    run = Run.load(folder)
    if run.task != "translate":
        raise UsageError(f"{folder} is a run of {run.task}, not of translate")
    method = str(run.model.get("name") or "translate")
    found, strange = [], []
    for image in run.images:
        if image.status not in ("computed", "published"):
            continue
        truth = next((t for t in (truth_of(stem, truths) for stem in _stems(image)) if t is not None), None)
        if truth is None:
            strange.append(image.name)
            continue
        home = run.folder_of(image)
        identity = digest([run.run_id, image.fingerprint])
        found.append(Prediction(method, truth, identity, partial(_read_objects, home)))
    return found, strange


def _stems(image: ImageRecord) -> tuple[str, ...]:
    return (image.name, Path(image.name).stem, Path(image.id).stem)


def read_classes(path: Path, shape: tuple[int, int] | None = None) -> Classes:
    """Nuclei of a class image, of a raw segmentation image, or of GeoJSON. shape: of the image (y, x), where it is known.

    Raises InputError for other pictures, another size, and GeoJSON alone where nothing says how large the image is.
    """
    if path.suffix.lower() in OUTLINES:
        return _read_outlines(path, shape)
    picture = read_colours(path)
    if shape is not None and picture.shape[:2] != shape:
        y, x = picture.shape[:2]
        raise InputError(f"{path} has {x} x {y} pixels, its truth {shape[1]} x {shape[0]}")
    masks = classes_of_picture(picture) if is_class_image(picture) else classes_of_raw(picture)
    return Classes(*map(components, masks))


def _read_outlines(path: Path, shape: tuple[int, int] | None) -> Classes:
    """Areas of the two classes; others (regions, say) are passed over. A cell is its nucleus, where it has one."""
    classed = [(one, str(one.class_name).rpartition(": ")[2]) for one in read_geojson(path)]
    nuclei = [(one.nucleus or one.geometry, name) for one, name in classed if name in (POSITIVE, NEGATIVE)]
    if not nuclei:
        raise InputError(f"{path} has no areas of class {POSITIVE} or {NEGATIVE}", hint="Class the nuclei in QuPath")
    rings = Rings.of([place.rings for place, _ in nuclei])
    return _drawn(rings, np.array([name == POSITIVE for _, name in nuclei]), shape, str(path))


def _drawn(rings: Rings, positive: NDArray[np.bool_], shape: tuple[int, int] | None, what: str) -> Classes:
    """Labels of outlines. Raises InputError where they cannot lie in an image of this shape, or it is not known."""
    if shape is None:
        raise InputError(f"{what}: nothing says how large its image is", hint="Let truth or prediction be a picture")
    if len(rings.xy) and (rings.xy.max(axis=0) > np.array(shape[::-1]) + 1).any():
        raise InputError(f"{what}: it has nuclei outside an image of {shape[1]} x {shape[0]} pixels")
    drawn = (rasterise(rings, np.flatnonzero(kind), Box(0, 0, *shape), shape) for kind in (positive, ~positive))
    return Classes(*drawn)


def read_colours(path: Path) -> NDArray[np.uint8]:
    """``(y, x, 3)`` uint8. Raises InputError for other pictures, and what ``open_image`` raises."""
    image = open_image(path)
    if not image.rgb or len(image.channels) != 3 or image.dtype != np.uint8:
        raise InputError(
            f"{path} is no colour picture of 8 bits",
            hint="Class images are RGB: red positive, blue negative, green border",
        )
    if image.shape[0] * image.shape[1] > LARGEST:
        raise InputError(f"{path} is too large to be compared whole", hint="Evaluate regions of at most 10000 x 10000")
    return np.moveaxis(np.asarray(image.levels[0]), 0, -1)


def _read_objects(folder: Path, shape: tuple[int, int] | None) -> Classes:
    """Nuclei that a run found, in full-resolution pixels; those of cells by their nuclei. Raises BrokenFile, InputError."""
    results = Results.load(folder)
    if not results.objects:
        raise InputError(f"{results.image}: this run kept no nuclei", hint="Run translate with --outputs cells")
    if len(results.objects) > 1:
        raise InputError(
            f"{results.image}: this run has several segmentations", hint="Evaluate pictures of each instead"
        )
    (made,) = results.objects
    positive = np.array([str(name).rpartition(": ")[2] == POSITIVE for name in made.class_names], bool)
    return _drawn(made.nuclei or made.outlines, positive, shape, str(results.image))


def file_digest(path: Path) -> str:
    """Of a file's bytes. Raises SourceError."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error})") from error
