"""Which channels are markers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxbridge.errors import BrokenFile, InputError, SourceError, UnknownName
from mxbridge.panel import read_panel, role_of, select_markers

CHANNELS = ("DAPI", "CD3", "Ki67", "AF", "Blank 2")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("DAPI", "counterstain"),
        ("Hoechst 33342", "counterstain"),
        ("DNA1_Ir191", "counterstain"),
        ("80ArAr_ArAr80", "autofluorescence"),
        ("Autofluorescence", "autofluorescence"),
        ("Blank 3", "empty"),
        ("CD3", "marker"),
        ("Affibody", "marker"),
        ("DNAJB1", "marker"),
        ("HH3", "marker"),
        ("Cycle1_DAPI", "counterstain"),
        ("C1 DAPI", "counterstain"),
        ("DAPI_cycle2", "counterstain"),
        ("191Ir_DNA1", "counterstain"),
        ("191Ir", "counterstain"),
        ("Ir193Di", "counterstain"),
        ("R2 DNA", "counterstain"),
        ("Nuclear stain", "counterstain"),
        ("AF", "autofluorescence"),
        ("AF 2", "autofluorescence"),
        ("Sample AF", "autofluorescence"),
        ("Auto Fluorescence", "autofluorescence"),
        ("Cycle 2 blank", "empty"),
        ("AF488", "marker"),
        ("AF-488", "marker"),
        ("AF647-CD8", "marker"),
        ("AF 555 PanCK", "marker"),
        ("AF CD4", "marker"),
        ("Alexa Fluor 488", "marker"),
        ("DNA-PKcs", "marker"),
        ("DNA methyltransferase", "marker"),
        ("CD3 background", "marker"),
        ("", "marker"),
    ],
)
def test_names_that_give_a_role_away(name: str, role: str) -> None:
    assert role_of(name) == role


def test_an_alexa_fluor_channel_is_scored() -> None:
    selection = select_markers(["Cycle1_DAPI", "AF647-CD8", "AF488", "Sample AF"])
    assert selection.names == ("AF647-CD8", "AF488")
    assert selection.left_out == {"Cycle1_DAPI": "counterstain", "Sample AF": "autofluorescence"}


def test_without_a_panel_only_markers_are_taken_and_the_rest_is_named() -> None:
    selection = select_markers(CHANNELS)
    assert selection.names == ("CD3", "Ki67")
    assert selection.left_out == {"DAPI": "counterstain", "AF": "autofluorescence", "Blank 2": "empty"}


def test_named_markers_are_taken_whatever_they_are() -> None:
    assert select_markers(CHANNELS, wanted=["dapi", "CD3", "CD3"]).names == ("DAPI", "CD3")


def test_an_unknown_marker_lists_what_there_is() -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'Ki67'.*DAPI, CD3, Ki67"):
        select_markers(CHANNELS, wanted=["Ki6"])


def test_no_marker_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match="no channel is a marker"):
        select_markers(["DAPI", "AF1"])


def test_a_panel_renames_selects_and_gives_roles(tmp_path: Path) -> None:
    path = tmp_path / "panel.csv"
    path.write_text("Channel,name,role,keep\nCD3,CD3e,,1\nKi67,,marker,no\nAF,,marker,\n", encoding="utf-8-sig")
    panel = read_panel(path)
    selection = select_markers(CHANNELS, panel=panel)
    assert selection.names == ("CD3e", "AF")
    assert selection.left_out["Ki67"] == "keep is no in the panel"
    assert selection.left_out["DAPI"] == "not in the panel"
    assert select_markers(CHANNELS, wanted=["CD3e"], panel=panel).markers[0].index == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\nCD3\n", "no column 'channel'"),
        ("channel,role\nCD3,neon\n", "line 2: role 'neon'"),
        ("channel,keep\nCD3,maybe\n", "line 2: keep 'maybe'"),
        ("channel\nCD3\nCD3\n", "more than once"),
    ],
)
def test_broken_panels_say_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "panel.csv"
    path.write_text(text)
    with pytest.raises(BrokenFile, match=message):
        read_panel(path)


def test_no_panel_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no panel file"):
        read_panel(tmp_path / "nothing.csv")


def test_a_panel_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(SourceError, match=r"panel\.csv: the panel cannot be read \(Permission denied\)"):
        read_panel(tmp_path / "panel.csv")


def test_two_channels_cannot_get_one_name(tmp_path: Path) -> None:
    path = tmp_path / "panel.csv"
    path.write_text("channel,name\nCD3,X\nKi67,X\n")
    with pytest.raises(InputError, match="both be called X"):
        select_markers(CHANNELS, panel=read_panel(path))
