"""From scores to classes and back: which markers a cell is positive for, and what it is then called in QuPath.

A class is its base (``Tumor``) followed by the positive markers in the order of the image's channels
(``Tumor: CD3: CD8``). One cell gets one class for all markers of a run together, so markers never overwrite each other.
Parts of a class that name other markers of the image (a user's own calls) are kept. The other way round,
:class:`HandCalls` reads what people mean by the classes they give cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

SEPARATOR = ": "
"""Between the parts of a derived class, as QuPath writes it."""


def class_part(marker: str) -> str:
    """A marker as a part of a class name: QuPath keeps the colon for itself, so ``CD3:FITC`` becomes ``CD3-FITC``."""
    return " ".join(marker.replace(":", "-").split()) or "?"


def derived_classes(
    current: Sequence[str | None],
    positive: NDArray[np.bool_],
    markers: Sequence[str],
    order: Sequence[str],
) -> list[str | None]:
    """New class names of cells.

    current: class of each cell now, or None. positive: ``(markers, cells)``. markers: the names scored in this run.
    order: all marker names of the image in channel order; parts of a class that are among them count as marker calls.
    """
    markers = [class_part(m) for m in markers]
    known = list(dict.fromkeys([*(class_part(m) for m in order), *markers]))
    out: list[str | None] = []
    for cell, name in enumerate(current):
        parts = name.split(SEPARATOR) if name else []
        base = [p for p in parts if p not in known]
        calls = {p for p in parts if p in known and p not in markers}
        calls |= {m for m, is_positive in zip(markers, positive[:, cell], strict=True) if is_positive}
        out.append(SEPARATOR.join([*base, *(m for m in known if m in calls)]) or None)
    return out


def base_classes(current: Sequence[str | None], markers: Sequence[str]) -> list[str | None]:
    """Classes without the calls of ``markers``: what a run of these markers starts from."""
    nobody = np.zeros((len(markers), len(current)), bool)
    return derived_classes(current, nobody, markers, markers)


_WORDS = {"positive": True, "negative": False}
_SIGNS = {"+": True, "-": False, "\N{MINUS SIGN}": False, " positive": True, " negative": False}


@dataclass(frozen=True)
class HandCalls:
    """Reads classes that people give as calls of markers, whatever the case they are written in.

    ``CD3``, ``CD3+``, ``Tumor: CD3``, ``CD3: Positive`` call CD3 positive; ``CD3-``, ``CD3: Negative`` negative. A bare
    ``Positive`` or ``Negative`` (``Tumor: Positive``) counts where only one marker is asked about and no other is named.

    known: the markers with scores. wanted: those asked about. positive, negative: classes that mean this for every wanted
    marker, in place of such names; a class matches when its parts contain those of the given one in a row. others: further
    channels of the images, of which classes may speak as well.
    """

    known: tuple[str, ...]
    wanted: tuple[str, ...]
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def read(self, class_name: str | None) -> Mapping[str, bool | None]:
        """What a class says of the wanted markers: True, False, or None where it contradicts itself; else not there."""
        if not class_name:
            return {}
        if class_name not in self._read:
            self._read[class_name] = self._calls(_parts(class_name))
        return self._read[class_name]

    def _calls(self, parts: Sequence[str]) -> dict[str, bool | None]:
        found: list[tuple[str, bool]] = []
        for value, classes in ((True, self.positive), (False, self.negative)):
            if classes:
                said = any(_holds(parts, _parts(name)) for name in classes)
                found += [(marker, value) for marker in self.wanted if said]
            else:
                found += [call for call in self._by_name(parts) if call[1] is value]
        calls: dict[str, bool | None] = {}
        for marker, value in found:
            if marker in self.wanted:
                calls[marker] = value if calls.get(marker, value) is value else None
        return calls

    def _by_name(self, parts: Sequence[str]) -> list[tuple[str, bool]]:
        """Calls by the names of markers; ``Positive`` and ``Negative`` belong to the part before them."""
        calls: list[tuple[str, bool]] = []
        subject = None
        for part in parts:
            word = _WORDS.get(part)
            if word is None:
                marker, value = self._marker(part)
                subject = marker
                calls += [(marker, value)] if marker else []
            elif subject is not None:
                calls[-1] = (subject, word)
            elif len(self.wanted) == 1 and not calls:
                calls.append((self.wanted[0], word))
        return calls

    def _marker(self, part: str) -> tuple[str | None, bool]:
        """The marker a part names, and whether as positive. ``HLA-`` is a marker before it is a negative ``HLA``."""
        if part in self._names:
            return self._names[part], True
        for sign, value in _SIGNS.items():
            bare = part.removesuffix(sign).rstrip()
            if part.endswith(sign) and bare in self._names:
                return self._names[bare], value
        return None, True

    @cached_property
    def _names(self) -> dict[str, str | None]:
        """Markers by their part of a class, in any case; None where two differ in case only."""
        names: dict[str, str | None] = {}
        for marker in self.known:
            part = class_part(marker).casefold()
            names[part] = marker if names.get(part, marker) == marker else None
        for other in self.others:
            names.setdefault(class_part(other).casefold(), other)
        return names

    @cached_property
    def _read(self) -> dict[str, Mapping[str, bool | None]]:
        return {}


def _parts(class_name: str) -> list[str]:
    return [" ".join(part.split()).casefold() for part in class_name.split(":")]


def _holds(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(list(parts[k : k + len(wanted)]) == list(wanted) for k in range(len(parts) - len(wanted) + 1))
