"""The tables that a run left, read again and shown: what a report says is what the run's own files say, number by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mxbridge.report.blocks import Column, Table

if TYPE_CHECKING:
    from mxbridge.report.context import RunContext

LARGEST = 64 << 20
"""Bytes of a table that is read for a report; those of a thousand images of forty markers are a tenth of it."""

MOST_ROWS = 1000
"""Rows of a table that are shown; the run's own file has all."""

TEXTS = frozenset(
    ("image", "image_id", "case", "marker", "model", "method", "target", "input", "first", "second", "class", "channel",
     "baseline", "of", "metric", "source", "views", "verdict", "reason", "why_not", "intervals", "p_from", "threshold_from")
)  # fmt: skip
"""Columns of words in the tables of runs; all others hold numbers."""


def read_run_table(context: RunContext, name: str, needed: Sequence[str]) -> pd.DataFrame | None:
    """A CSV file of the run folder; None where there is none. One that cannot be read, or lacks a column of ``needed``, is noted
    among the context's problems. Names are text, whatever they look like; what should be a number and is none is NaN."""
    path = context.run.path / name
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > LARGEST:
            context.problem(f"{name} is longer than {LARGEST >> 20} MB and is not shown")
            return None
        kinds = dict.fromkeys(TEXTS, str)
        table = pd.read_csv(
            path, encoding="utf-8", dtype=kinds, float_precision="round_trip", keep_default_na=False, na_values=[""]
        )
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        first = (str(error).splitlines() or ["?"])[0]
        context.problem(f"{name} cannot be read ({first[:120]})")
        return None
    if missing := [column for column in needed if column not in table.columns]:
        context.problem(f"{name} has no column {missing[0]}")
        return None
    for column in table.columns:
        if column in TEXTS:
            table[column] = table[column].fillna("")
        elif not pd.api.types.is_numeric_dtype(table[column]) or pd.api.types.is_bool_dtype(table[column]):
            table[column] = pd.to_numeric(table[column].astype(str), errors="coerce")
    return table


def numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    """A column as float64; what is no number is NaN."""
    return np.asarray(pd.to_numeric(table[column], errors="coerce"), np.float64)


def shown(
    table: pd.DataFrame, columns: Mapping[str, Column], *, caption: str = "", note: str = "", file: str = ""
) -> Table:
    """The columns of a table that it has, in the order given, the first :data:`MOST_ROWS` rows.

    columns: how each is shown, by its name in ``table``. file: where all rows are, for the note below a table that was cut
    or that is too wide for paper.
    """
    there = {name: column for name, column in columns.items() if name in table.columns}
    cut = table.iloc[:MOST_ROWS]
    cells = [_cells(cut, name, column) for name, column in there.items()]
    if len(table) > MOST_ROWS:
        more = f"The first {MOST_ROWS} of {len(table)} rows" + (f"; all are in {file}." if file else ".")
        note = f"{note} {more}".strip()
    return Table(tuple(there.values()), tuple(zip(*cells, strict=True)), caption=caption, note=note, file=file)


def several(table: pd.DataFrame, name: str) -> bool:
    """Whether a column says different things in different rows, so that it is worth its place."""
    return name in table.columns and table[name].nunique(dropna=False) > 1


def counted(count: int, word: str) -> tuple[str, str]:
    """A number and what it counts."""
    return str(count), word if count == 1 else f"{word}s"


def capital(words: str) -> str:
    """With a capital letter in front, as titles of columns have."""
    return words[:1].upper() + words[1:]


def _cells(table: pd.DataFrame, name: str, column: Column) -> list[Any]:
    if column.kind in ("text", "badge"):
        return ["" if pd.isna(value) else str(value) for value in table[name]]
    values = numbers(table, name)
    whole = np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < 1e15)
    wholes = pd.api.types.is_integer_dtype(table[name]) or bool(whole[~np.isnan(values)].all())
    return [int(v) if wholes and w else None if np.isnan(v) else float(v) for v, w in zip(values, whole, strict=True)]
