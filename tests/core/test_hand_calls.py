"""What people mean by the classes they give cells."""

from __future__ import annotations

import pytest

from mxbridge.tasks.positivity import HandCalls

KNOWN = ("CD3", "CD8", "HLA-DR", "Ch 1: CD4")
ALL = HandCalls(KNOWN, KNOWN)


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("CD3", {"CD3": True}),
        ("cd3", {"CD3": True}),
        ("CD3+", {"CD3": True}),
        ("CD3 positive", {"CD3": True}),
        ("Tumor: CD3", {"CD3": True}),
        ("CD3: CD8", {"CD3": True, "CD8": True}),
        ("CD3: Positive", {"CD3": True}),
        ("CD3: 2+", {"CD3": True}),
        ("CD3-", {"CD3": False}),
        ("CD3\N{MINUS SIGN}", {"CD3": False}),
        ("CD3: Negative", {"CD3": False}),
        ("Tumor: CD3: Negative", {"CD3": False}),
        ("CD3: CD8: Negative", {"CD3": True, "CD8": False}),
        ("CD3+: CD8-", {"CD3": True, "CD8": False}),
        ("CD3: CD3-", {"CD3": None}),
        ("HLA-DR", {"HLA-DR": True}),
        ("HLA-DR-", {"HLA-DR": False}),
        ("Ch 1- CD4", {"Ch 1: CD4": True}),
        ("Tumor", {}),
        ("Tumor: Positive", {}),
        ("Negative", {}),
        ("CD30", {}),
        ("CD3: Tumor: Negative", {"CD3": True}),
        ("", {}),
        (None, {}),
    ],
)
def test_names_of_markers(name: str | None, calls: dict) -> None:
    assert dict(ALL.read(name)) == calls


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("Positive", {"CD3": True}),
        ("Tumor: Negative", {"CD3": False}),
        ("CD8: Negative", {}),
        ("CD8", {}),
        ("CD3: Negative", {"CD3": False}),
    ],
)
def test_a_bare_word_belongs_to_the_only_marker(name: str, calls: dict) -> None:
    assert dict(HandCalls(KNOWN, ("CD3",)).read(name)) == calls


def test_named_classes_stand_in_place_of_the_names() -> None:
    calls = HandCalls(KNOWN, ("CD3",), positive=("T cell",), negative=("Stroma: Other", "B cell"))
    assert calls.read("Immune: T Cell") == {"CD3": True}
    assert calls.read("Stroma: Other: X") == {"CD3": False}
    assert calls.read("Other") == {}
    assert calls.read("CD3") == {}
    assert calls.read("T cell: B cell") == {"CD3": None}
    one_side = HandCalls(KNOWN, ("CD3",), positive=("T cell",))
    assert one_side.read("CD3-") == {"CD3": False}
    assert one_side.read("CD3") == {}


def test_markers_that_differ_in_case_only_are_not_guessed() -> None:
    assert HandCalls(("Abc", "aBC"), ("Abc", "aBC")).read("abc") == {}


def test_a_bare_word_after_a_channel_without_scores_says_nothing_of_the_scored_one() -> None:
    calls = HandCalls(("CD3",), ("CD3",), others=("PD-L1", "cd3"))
    assert calls.read("PD-L1: Positive") == {}
    assert calls.read("Tumor: PD-L1: Negative") == {}
    assert calls.read("Tumor: Positive") == {"CD3": True}
    assert calls.read("CD3: Negative") == {"CD3": False}
    assert calls.read("PD-L1: CD3-") == {"CD3": False}
