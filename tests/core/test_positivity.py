"""Derived classes: the base is kept, the order is fixed, markers never overwrite each other."""

from __future__ import annotations

import numpy as np

from mxbridge.tasks.positivity import base_classes, derived_classes

ORDER = ["CD3", "CD8", "Ki67"]


def test_the_base_class_is_kept_and_the_order_is_that_of_the_channels() -> None:
    positive = np.array([[True, True, False, False], [True, False, True, False]])
    named = derived_classes(["Tumor", None, "Stroma: Positive", None], positive, ["CD8", "CD3"], ORDER)
    assert named == ["Tumor: CD3: CD8", "CD8", "Stroma: Positive: CD3", None]


def test_calls_of_other_markers_are_kept() -> None:
    assert derived_classes(["Tumor: Ki67"], np.array([[True]]), ["CD3"], ORDER) == ["Tumor: CD3: Ki67"]


def test_a_rerun_replaces_its_own_calls() -> None:
    once = derived_classes(["Tumor"], np.array([[True], [False]]), ["CD3", "CD8"], ORDER)
    again = derived_classes(once, np.array([[False], [True]]), ["CD3", "CD8"], ORDER)
    assert again == ["Tumor: CD8"]
    assert base_classes(once, ["CD3", "CD8"]) == ["Tumor"]


def test_a_colon_in_a_marker_makes_no_further_level() -> None:
    assert derived_classes(["Tumor"], np.array([[True]]), ["CD3:FITC"], ["CD3:FITC"]) == ["Tumor: CD3-FITC"]
    assert base_classes(["Tumor: CD3-FITC"], ["CD3:FITC"]) == ["Tumor"]
    assert derived_classes([None], np.array([[True]]), ["Ch 1: CD3 "], []) == ["Ch 1- CD3"]
