"""What sections show, laid flat: for tests of what a report says."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from mxbridge.report.blocks import Block, Gallery, Group, Picture, Pictures, Section, Table
from mxbridge.report.context import RunContext
from mxbridge.report.run_tables import TEXTS
from mxbridge.runs import Run

B = TypeVar("B")


def context_of(run: Path | Run, workspace: Any = None) -> RunContext:
    return RunContext(Run.load(run) if isinstance(run, Path) else Run.load(run.path), workspace)


def flat(blocks: Iterable[Block]) -> Iterator[Block]:
    """Blocks, and those inside groups and galleries, each section and each group once."""
    for block in blocks:
        yield block
        if isinstance(block, Group):
            yield from flat(block.blocks)
        elif isinstance(block, Gallery):
            yield from (card.picture for card in block.items)
        elif isinstance(block, Pictures):
            yield from (picture for _, pictures in block.choices for picture in pictures)


def leaves(blocks: Iterable[Block]) -> Iterator[Block]:
    """Blocks, those of groups in the place of the group."""
    for block in blocks:
        if isinstance(block, Group):
            yield from leaves(block.blocks)
        else:
            yield block


def shown(sections: Iterable[Section], *only: str) -> dict[str, list[Block]]:
    """By id of the section, in order; one after another, as a page does it. only: nothing is made of other sections."""
    return {s.id: list(flat(s.blocks)) if s.id in only or not only else [] for s in sections}


def of_kind(blocks: Iterable[Block], kind: type[B]) -> list[B]:
    return [block for block in blocks if isinstance(block, kind)]


def column(table: Table, name: str) -> list[Any]:
    at = [c.name for c in table.columns].index(name)
    return [row[at] for row in table.rows]


def pixels(picture: Picture) -> np.ndarray:
    """``(y, x, 3)``; fails where the data is no picture of the size that is said."""
    with Image.open(io.BytesIO(picture.data)) as opened:
        assert opened.format is not None and opened.format.lower() == picture.kind
        assert opened.size == (picture.width, picture.height)
        return np.asarray(opened.convert("RGB")).astype(int)


def read_csv(path: Path) -> pd.DataFrame:
    kinds = dict.fromkeys(TEXTS, str)
    return pd.read_csv(path, dtype=kinds, float_precision="round_trip", keep_default_na=False, na_values=[""])


def assert_says_the_same(table: Table, frame: pd.DataFrame, names: dict[str, Any]) -> int:
    """Every column of ``frame`` that is shown (names: its columns) says, row by row, what the frame says. How many there were."""
    assert len(table.rows) == len(frame)
    heads = [c.name for c in table.columns]
    compared = 0
    expected = [(name, c) for name, c in names.items() if name in frame.columns and c.name in heads]
    at = 0
    for name, head in expected:
        at = heads.index(head.name, at) if head.name in heads[at:] else heads.index(head.name)
        values = [row[at] for row in table.rows]
        if name in TEXTS:
            assert [value or "" for value in values] == frame[name].fillna("").tolist(), name
        else:
            found = np.array([np.nan if value is None else value for value in values], float)
            np.testing.assert_array_equal(found, frame[name].to_numpy(float), err_msg=name)
        compared += 1
    return compared
