"""What stands in the scripts, without running them."""

from __future__ import annotations

from .conftest import ALL, SCRIPTS, SHARED

FIRST = "// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts"


def test_there_is_a_button_for_each_task_with_the_settings_on_top() -> None:
    names = {path.stem.removeprefix("mxbridge_") for path in SCRIPTS.glob("mxbridge_*.groovy")}
    assert names == {"Score_cells", "Impute_a_stain", "Translate_IHC", "Check_stains", "Apply_results"}
    for path in SCRIPTS.glob("mxbridge_*.groovy"):
        lines = path.read_text(encoding="ascii").splitlines()
        assert lines[0] == FIRST
        assert lines[1] == "// --- settings ---"
        end = lines.index("// --- end of settings ---")
        assert all(line.startswith("def ") and "  // " in line for line in lines[2:end])
        assert len(lines) < 50
    for path in ALL:
        assert path.read_bytes().isascii(), "QuPath may read it in any encoding"
        assert path.read_text().startswith(FIRST + "\n")


def test_parts_of_the_shared_logic_are_those_that_buttons_load() -> None:
    names = sorted(path.stem for path in SHARED.parent.glob("*.groovy"))
    for path in SCRIPTS.glob("mxbridge_*.groovy"):
        line = next(line for line in path.read_text().splitlines() if line.startswith("def parts = "))
        assert sorted([*line.split("[")[1].split("]")[0].replace("'", "").split(", "), SHARED.stem]) == names


def test_files_stay_small() -> None:
    assert all(len(path.read_text().splitlines()) < 500 for path in ALL)
