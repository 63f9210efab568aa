"""Which images a MAXIM model learns from, under which names, at which scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mxbridge.errors import InputError, NotApplicable, UnknownName, UsageError
from mxbridge.formats.npy_panels import read_npy_panels
from mxbridge.image import Channel, LocalImage
from mxbridge.models.maxim_input import FARTHEST, SAME_SCALE, find_markers
from mxbridge.panel import PanelRow, panel_rows, sort_channels
from mxbridge.progress import SILENT, Progress
from mxbridge.results import ImageRef
from mxbridge.training.maxim.settings import MaximSettings
from mxbridge.workspaces.base import Workspace

MOST_HIDDEN = 4
"""Markers hidden at a time at most, where nothing is said."""
STAINS = ("marker", "counterstain")
"""Roles of the channels that are inputs: a counterstain says where nuclei are."""


@dataclass(frozen=True)
class TrainingImage:
    """One image to learn from. id: names it once among all. side: ``train``, ``valid`` or ``test`` where a table says so.

    image: its channels called as in the panel. usable: the channels that may be inputs.
    """

    id: str
    image: LocalImage
    usable: tuple[str, ...]
    case: str = ""
    side: str = ""

    @property
    def name(self) -> str:
        return self.image.name


@dataclass(frozen=True)
class Panel:
    """What goes in and comes out. planes: all markers that are read of every image, inputs first, each once."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def any_marker(self) -> bool:
        return self.inputs == self.outputs

    @property
    def planes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.inputs, *self.outputs)))

    @property
    def output_planes(self) -> list[int]:
        """Positions of the outputs among the planes."""
        return [self.planes.index(name) for name in self.outputs]


def gather_images(
    workspaces: Iterable[Workspace],
    *,
    names: Sequence[str] = (),
    panel: Sequence[PanelRow] = (),
    progress: Progress = SILENT,
) -> list[TrainingImage]:
    """All images of some workspaces, or those called ``names``; opened, not read.

    Colour pictures are left out with a note. Raises UnknownName, InputError when the same image comes twice or none is left.
    """
    found: list[TrainingImage] = []
    workspaces, unknown = list(workspaces), dict.fromkeys(names)
    for workspace in workspaces:
        for ref in _listed(workspace, names, unknown):
            image = workspace.pull(ref, None).image
            for warning in image.warnings:
                progress.warning(f"{image.name}: {warning}")
            try:
                found.append(TrainingImage(ref.id, *_renamed(image, panel)))
            except NotApplicable as error:
                progress.note(f"left out: {error.message}")
    if unknown:
        there = [ref.name for workspace in workspaces for ref in workspace.list()]
        raise UnknownName("image", next(iter(unknown)), there)
    if not found:
        raise InputError("there is no image to learn from")
    return check_once(found)


def gather_npy(
    table: Path, panel: Sequence[str], um_per_px: float | None, progress: Progress = SILENT
) -> list[TrainingImage]:
    """Images of the published program's table, every one a case of its own; its valid split is held back.

    Raises UsageError, SourceError, BrokenFile, InputError.
    """
    found, other = [], 0
    for row in read_npy_panels(table, panel, um_per_px):
        other += not row.side
        found.append(TrainingImage(str(row.path), row.image, tuple(panel), str(row.path), row.side or "test"))
    if other:
        progress.note(f"{other} images are of neither train nor valid nor test and are not used")
    return check_once(found)


def check_once(images: list[TrainingImage]) -> list[TrainingImage]:
    """Raises UsageError where an image comes twice: it would be on both sides of a split."""
    for what, values in (("id", [i.id for i in images]), ("identity", [i.image.identity for i in images])):
        twice = [value for value, n in Counter(values).items() if n > 1]
        if twice:
            name = next(i.name for i in images if getattr(i if what == "id" else i.image, what) == twice[0])
            raise UsageError(f"{name} is named twice", hint="Name every image once")
    return images


def _listed(workspace: Workspace, names: Sequence[str], unknown: dict[str, None]) -> list[ImageRef]:
    """References of a workspace; ``unknown`` loses the names that it knows."""
    if not names:
        return workspace.list()
    refs: list[ImageRef] = []
    for name in names:
        try:
            refs += workspace.list([name])
        except UnknownName:
            continue
        unknown.pop(name, None)
    return list(dict.fromkeys(refs))


def _renamed(image: LocalImage, panel: Sequence[PanelRow]) -> tuple[LocalImage, tuple[str, ...]]:
    """The image under the panel's names, and its usable channels."""
    if image.rgb:
        raise NotApplicable(f"{image.name} is a colour picture")
    selection = sort_channels(image.channel_names, panel=panel, where=image.name)
    usable = {m.index: m.name for m in selection.markers}
    if not panel:
        roles = selection.left_out
        usable |= {k: n for k, n in enumerate(image.channel_names) if roles.get(n) in STAINS}
    else:
        rows = panel_rows(image.channel_names, panel, where=image.name)
        usable |= {k: row.name for k, row in rows.items() if row.keep and row.role in STAINS}
    channels = tuple(Channel(usable[k], c.color) if panel and k in usable else c for k, c in enumerate(image.channels))
    return replace(image, channels=channels), tuple(usable[k] for k in sorted(usable))


def choose_panel(
    images: Sequence[TrainingImage], settings: MaximSettings, progress: Progress = SILENT
) -> tuple[Panel, list[TrainingImage]]:
    """What goes in and comes out, and the images that have all of it; the others are left out with a note.

    Without ``inputs`` those are the stains that more than half of the images have. Raises UnknownName, InputError.
    """
    inputs = settings.inputs or _usual(images, settings.markers, progress)
    inputs = _spelled(inputs, images)
    outputs = inputs if settings.any_marker else _spelled(settings.markers, images)
    hidden = most_hidden(settings, len(inputs)) if settings.any_marker else 0
    if len(inputs) <= hidden:
        what = f"to predict {hidden} of them at a time" if hidden else "to predict anything from"
        raise InputError(
            f"{len(inputs)} markers are too few {what}", hint="Name more --inputs, or hide fewer with --most-hidden"
        )
    panel = Panel(inputs, outputs)
    kept = []
    for image in images:
        there = find_markers(image.image, panel.planes)
        missing = [m for m in panel.planes if m not in there]
        if missing:
            progress.note(f"{image.name} is left out: it has no {', '.join(missing)}")
        else:
            kept.append(image)
    if not kept:
        raise InputError(
            f"no image has all of {', '.join(panel.planes)}", hint="Name the --inputs that the images share"
        )
    return panel, kept


def most_hidden(settings: MaximSettings, markers: int) -> int:
    """How many of an any-marker model's markers are hidden at most: as said, else a third of them, up to four."""
    return settings.most_hidden or max(1, min(MOST_HIDDEN, markers // 3))


def _usual(images: Sequence[TrainingImage], targets: Sequence[str], progress: Progress) -> tuple[str, ...]:
    """Stains that more than half of the images have, in the order of the first image that has each; no targets."""
    spelled: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for image in images:
        for name in image.usable:
            spelled.setdefault(name.casefold(), name)
        counts.update({name.casefold() for name in image.usable})
    out: list[str] = []
    rare: list[str] = []
    for key, name in spelled.items():
        if key in {t.casefold() for t in targets}:
            continue
        (out if 2 * counts[key] > len(images) else rare).append(name)
    if rare:
        progress.note(f"not used, because most images lack them: {', '.join(rare)}")
    return tuple(out)


def _spelled(names: Sequence[str], images: Sequence[TrainingImage]) -> tuple[str, ...]:
    """Names as the first image spells them. Raises UnknownName for one that no image has."""
    out = []
    for wanted in names:
        for image in images:
            there = find_markers(image.image, [wanted])
            if there:
                out.append(image.image.channels[there[wanted]].name.strip())
                break
        else:
            every = dict.fromkeys(c.name for i in images for c in i.image.channels)
            raise UnknownName("marker", wanted, every, where="the images")
    return tuple(out)


def choose_scale(images: Sequence[TrainingImage], wanted: float | None, progress: Progress = SILENT) -> float:
    """µm per pixel of the model: ``wanted``, else the images' own where they agree within 1 %, else the coarsest.

    Raises NoPixelSize, and InputError for images beyond a factor of 4 of it.
    """
    sizes = [max(i.image.require_pixel_size()) for i in images]
    chosen = wanted
    if chosen is None:
        chosen = sizes[0]
        if any(abs(s / chosen - 1) > SAME_SCALE for i in images for s in i.image.require_pixel_size()):
            chosen = max(sizes)
            progress.note(f"the images differ in scale; the model's is that of the coarsest, {chosen:g} µm per pixel")
    for image in images:
        if any(not 1 / FARTHEST <= s / chosen <= FARTHEST for s in image.image.require_pixel_size()):
            raise InputError(
                f"{image.name}: its pixels are more than {FARTHEST:g} times larger or smaller than the model's {chosen:g} µm",
                hint="Leave it out, or give another --model-um-per-px",
            )
    return chosen


def choose_dtype(images: Sequence[TrainingImage]) -> str:
    """Type of the images' pixels for the card; empty where wide types are mixed. Raises InputError for 8 bit among others."""
    types = {i.image.dtype.name: i.name for i in images}
    if len(types) == 1:
        return next(iter(types))
    if "uint8" in types:
        other = next(name for t, name in types.items() if t != "uint8")
        raise InputError(
            f"{types['uint8']} has 8 bits, {other} has more: their numbers do not mean the same",
            hint="Train on one kind of images",
        )
    return ""


def marker_channels(image: TrainingImage, panel: Panel) -> list[int]:
    """Channels of the panel's planes. Raises InputError."""
    there = find_markers(image.image, panel.planes)
    return [there[m] for m in panel.planes]
