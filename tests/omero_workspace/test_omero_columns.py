"""Names of table columns: identifiers that queries take, all different, and readable descriptions in ASCII."""

from __future__ import annotations

import keyword

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.workspaces.omero.attachments.column_names import LONGEST, identifiers, in_ascii


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Nimbus: CD3", "Nimbus_CD3"),
        ("MAXIM: KI67 mean", "MAXIM_KI67_mean"),
        ("Nimbus: KI67 (MAXIM)", "Nimbus_KI67_MAXIM"),
        ("Area µm²", "Area_um2"),
        ("Nimbus: TGF-β", "Nimbus_TGF_beta"),
        ("Größe", "Grosse"),
        ("4-1BB", "n4_1BB"),
        ("where", "where_"),
        ("lambda", "lambda_"),
        ("__version", "version"),
        ("细胞", "column"),
        ("", "column"),
    ],
)
def test_labels_become_identifiers(label: str, name: str) -> None:
    assert identifiers([label]) == (name,)


def test_the_first_of_equal_names_keeps_it() -> None:
    assert identifiers(["Image", "A b", "A-b", "a_b_2", "A_b", "image"]) == (
        "Image",
        "A_b",
        "A_b_2",
        "a_b_2_2",
        "A_b_3",
        "image_2",
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=90), max_size=30))
def test_any_labels_get_different_identifiers_and_ascii_descriptions(labels: list[str]) -> None:
    names = identifiers(labels)
    assert len(names) == len(labels) == len({name.casefold() for name in names})
    for name in names:
        assert name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
        assert not name.startswith("_") and len(name) <= LONGEST + 8
    for label in labels:
        described = in_ascii(label)
        assert all(" " <= c <= "~" for c in described)
        assert in_ascii(described) == described
    assert identifiers(labels) == names


def test_queries_take_every_name() -> None:
    """The names that look like functions or words of the query language, tried on the program that answers queries."""
    tables = pytest.importorskip("tables", reason="PyTables is what an OMERO server keeps its tables in")
    labels = [
        "sin",
        "where",
        "abs",
        "True",
        "None",
        "int",
        "is",
        "in",
        "nan",
        "contains",
        "match",
        "Nimbus: CD3",
        "real",
        "sum",
    ]
    names = identifiers(labels)
    file = tables.open_file("names.h5", "w", driver="H5FD_CORE", driver_core_backing_store=0)
    try:
        rows = np.zeros(3, [(name, np.float64) for name in names])
        for k, name in enumerate(names):
            rows[name] = [k, k + 1, k + 2]
        table = file.create_table("/", "cells", obj=rows)
        for k, name in enumerate(names):
            assert table.get_where_list(f"({name} > {k}) & ({name} < {k + 2})").tolist() == [1]
    finally:
        file.close()
