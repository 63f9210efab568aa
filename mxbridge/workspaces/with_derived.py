"""A workspace whose images carry channels that an earlier task made of them, without anything being copied or published.

What is read of an image is the original with the derived channels behind its own; cells, regions and everything that is published
are those of the original, so that a score of an imputed stain stands on the original's cells as ``Nimbus: KI67 (MAXIM)``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np

from mxbridge.errors import MxbridgeError, SourceError
from mxbridge.formats.open_image import open_image
from mxbridge.image import Channel, LocalImage
from mxbridge.results import ImageRef, Results
from mxbridge.runs import digest
from mxbridge.stains import StainVectors
from mxbridge.workspaces.base import MADE, CellKind, Published, Pulled, Workspace

SPREAD = re.compile(r" (uncertainty|spread) \(")
"""In the names of channels that say how sure another one is; they are no markers."""


@dataclass(frozen=True)
class MadeImage:
    """A derived image on local storage. made_by: fingerprint of the work that made it: the same work makes the same pixels."""

    path: Path
    channels: tuple[str, ...]
    made_by: str


def made_images(results: Results, folder: Path, home: Path | None) -> list[MadeImage]:
    """The derived images of results that have pixels as the original has. folder: of the saved results; home: where the
    workspace keeps derived images, if it does. Raises SourceError for one that is in neither place."""
    found = []
    for one in results.derived:
        if one.rgb or one.show == "apart":
            continue
        places = [*([home / one.file] if home is not None else []), folder / "derived" / one.file]
        there = next((place for place in places if place.is_dir()), None)
        if there is None:
            raise SourceError(
                f"{results.image}: its derived image {one.file} is gone",
                hint="Run the task that made it again (batch run does so by itself)",
            )
        found.append(MadeImage(there, one.channels, results.fingerprint))
    return found


def with_made(image: LocalImage, made: Sequence[MadeImage]) -> LocalImage:
    """``image`` with the channels of derived images behind its own: those that are no spread, in the order given.

    Levels are those that all have in the same size; numbers keep their values (the type is one that holds all of them). A colour
    picture, and derived images of another size, stay as they are. The identity is that of the image and of the works that made
    the rest. Raises SourceError, InputError.
    """
    if image.rgb:
        return image
    levels, channels, identities = list(image.levels), list(image.channels), [image.identity]
    warnings = list(image.warnings)
    for one in made:
        opened = open_image(one.path)
        if opened.shape != image.shape:
            warnings.append(f"{', '.join(one.channels)}: of {opened.shape} pixels, not of the image's; left out")
            continue
        kept = [k for k, name in enumerate(one.channels) if not SPREAD.search(name)]
        by_size = {level.shape[1:]: level for level in opened.levels}
        levels = [_joined(level, by_size[level.shape[1:]][kept]) for level in levels if level.shape[1:] in by_size]
        channels += [Channel(one.channels[k]) for k in kept]
        identities += [one.made_by, one.path.name]
    if len(identities) == 1:
        return replace(image, warnings=tuple(warnings))
    return replace(
        image,
        levels=tuple(levels),
        channels=tuple(channels),
        identity=digest(["with derived", *identities]),
        warnings=tuple(warnings),
    )


def _joined(first: da.Array, second: da.Array) -> da.Array:
    kind = np.promote_types(first.dtype, second.dtype)
    beside = second.rechunk({1: first.chunks[1], 2: first.chunks[2]})  # type: ignore[no-untyped-call]
    joined: da.Array = da.concatenate([first.astype(kind), beside.astype(kind)], axis=0)  # type: ignore[no-untyped-call]
    return joined


@dataclass
class WithDerived(Workspace):
    """``inner`` with derived channels. made: by image id. home: where run folders go, if not where ``inner`` wants them.

    checked: somebody has seen already that ``inner`` can be written.
    """

    inner: Workspace
    made: dict[str, list[MadeImage]] = field(default_factory=dict)
    home: Path | None = None
    checked: bool = False

    def __post_init__(self) -> None:
        self.address = self.inner.address

    @property
    def default_model(self) -> str | None:
        return self.inner.default_model

    @property
    def class_colors(self) -> Mapping[str, int | None]:
        return self.inner.class_colors

    @property
    def opened(self) -> dict[str, Any]:
        return self.inner.opened

    @property
    def runs_home(self) -> Path:
        return self.inner.runs_home if self.home is None else self.home

    def derived_folder(self, ref: ImageRef) -> Path | None:
        return self.inner.derived_folder(ref)

    def list(self, names: Sequence[str] = ()) -> list[ImageRef]:
        return self.inner.list(names)

    def pull(self, ref: ImageRef, cells: CellKind | None = "cells") -> Pulled:
        pulled = self.inner.pull(ref, cells)
        made = self.made.get(ref.id)
        if not made:
            return pulled
        try:
            return replace(pulled, image=with_made(pulled.image, made))
        except MxbridgeError as error:
            error.message = f"{ref}: what an earlier task made of it: {error.message}"
            raise

    def object_ids(self, ref: ImageRef, result_key: str, keys: Sequence[str]) -> Sequence[str]:
        return self.inner.object_ids(ref, result_key, keys)

    def stain_vectors(self, ref: ImageRef) -> StainVectors | None:
        return self.inner.stain_vectors(ref)

    def publish(self, results: Results) -> Published:
        """On the original."""
        return self.inner.publish(results)

    def holds(self, results: Results) -> bool:
        return self.inner.holds(results)

    def retract(self, ref: ImageRef, result_keys: Sequence[str], *, run_id: str | None = None) -> Published:
        return self.inner.retract(ref, result_keys, run_id=run_id)

    def check_writable(self) -> None:
        if not self.checked:
            self.inner.check_writable()

    def intentions(self, ref: ImageRef, makes: Collection[str] = MADE) -> tuple[str, ...]:
        return self.inner.intentions(ref, makes)

    def rest(self) -> None:
        self.inner.rest()
